"""Corpora of text: documents, and the files they are read from."""
