"""A batch of pairs: tokens, occurrences, decoder rows and the metric."""
