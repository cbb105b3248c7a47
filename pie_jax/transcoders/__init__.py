"""Transcoders: files, encoders, rows of decoders."""
