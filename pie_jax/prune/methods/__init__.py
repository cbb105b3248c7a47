"""Pruning methods: one file each, entered in `METHODS`; those of one gradient share a file."""

from pie_jax.extensions import Registry
from pie_jax.prune.engine.selection import Selection
from pie_jax.prune.methods import (
    acdc,
    auto,
    factp,
    fap_hvp,
    fap_synergy,
    integrated_gradients,
    learned,
    random_active,
    staged,
)
from pie_jax.prune.methods.base import Method, run_method
from pie_jax.prune.methods.fap import ACTIVATION_MAGNITUDE, FAP, FAP_FULL, RELP

METHODS: Registry[Method] = Registry(
    "pie_jax.methods",
    {
        method.name: method
        for method in (
            FAP,
            fap_synergy.METHOD,
            FAP_FULL,
            fap_hvp.METHOD,
            integrated_gradients.METHOD,
            RELP,
            ACTIVATION_MAGNITUDE,
            factp.METHOD,
            acdc.METHOD,
            staged.METHOD,
            learned.METHOD,
            auto.METHOD,
            random_active.METHOD,
        )
    },
)

__all__ = ["METHODS", "Method", "Selection", "run_method"]
