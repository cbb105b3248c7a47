"""Defaults of pruning, without an import of jax, so that the command line starts fast."""

DEFAULT_METHODS = ("auto", "fap", "fap-synergy", "relp", "activation-magnitude", "random")
# Of a prompt, BOS counted; as published.
MIN_TOKENS = 8
PAPER_BUDGETS = (50, 100, 200, 400, 800)
