"""Hugging Face folders as one stacked transformer."""
