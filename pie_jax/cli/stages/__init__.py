"""Commands of the three stages."""
