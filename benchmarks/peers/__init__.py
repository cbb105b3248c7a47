"""Other implementations, measured beside this package."""
