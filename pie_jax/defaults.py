"""What is pruned with unless asked otherwise; without jax, for a command line that starts fast."""

DEFAULT_METHODS = ("auto", "fap", "fap-synergy", "relp", "activation-magnitude", "random")
PAPER_BUDGETS = (50, 100, 200, 400, 800)
