"""Pruning methods: one file each, entered in `METHODS`."""

from pie_jax.prune.engine.selection import Selection
from pie_jax.prune.methods import (
    acdc,
    activation_magnitude,
    auto,
    factp,
    fap,
    fap_full,
    fap_hvp,
    fap_synergy,
    integrated_gradients,
    learned,
    random_active,
    relp,
    staged,
)
from pie_jax.prune.methods.base import Method, run_method

METHODS: dict[str, Method] = {
    module.METHOD.name: module.METHOD
    for module in (
        fap,
        fap_synergy,
        fap_full,
        fap_hvp,
        integrated_gradients,
        relp,
        activation_magnitude,
        factp,
        acdc,
        staged,
        learned,
        auto,
        random_active,
    )
}

__all__ = ["METHODS", "Method", "Selection", "run_method"]
