"""FAP with full gradients: also through attention patterns, norm scales and MLPs."""

from pie_jax.prune.methods.base import Method

METHOD = Method(
    "fap-full",
    "FAP with full gradients instead of frozen ones",
    scores=lambda inputs: inputs.attribution("full"),
)
