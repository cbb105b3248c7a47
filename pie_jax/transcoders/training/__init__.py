"""Training of cross-layer transcoders."""
