"""Replies: from bytes to validated values."""
