"""Examples of features, collected in one pass over a corpus."""
