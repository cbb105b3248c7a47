"""RelP: FAP's product with LRP coefficients in place of gradients (arXiv 2508.21258)."""

from pie_jax.prune.methods.base import Method

METHOD = Method(
    "relp",
    "Relevance Patching: LRP coefficients x write",
    scores=lambda inputs: inputs.attribution("relp"),
)
