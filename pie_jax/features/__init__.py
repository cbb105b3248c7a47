"""Kept features, and the texts on which they fire."""
