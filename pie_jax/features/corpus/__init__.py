"""Windows of a corpus."""
