"""Pruning methods: one file each, entered in `METHODS`."""

from pie_jax.prune.methods import (
    acdc,
    activation_magnitude,
    factp,
    fap,
    fap_synergy,
    random_active,
    relp,
    staged,
)
from pie_jax.prune.methods.base import Method, Selection, run_method

METHODS: dict[str, Method] = {
    module.METHOD.name: module.METHOD
    for module in (
        fap,
        fap_synergy,
        relp,
        activation_magnitude,
        factp,
        acdc,
        staged,
        random_active,
    )
}

__all__ = ["METHODS", "Method", "Selection", "run_method"]
