"""Pruning as functions on arrays: any model, any metric, no files and no tokenizer.

Each is for one prompt, without side effects, and works under `jit`, `vmap` and `grad`; arrays may
lie on any mesh. `docs/arrays.md` shows them with a model of one's own.

Shapes: T positions, L layers, D model, F features a layer, R decoder rows, N occurrences, S sets,
K members of a set, V vocabulary.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike

from pie_jax.arrays.circuits import behaviour, circuit_kl, kept_change, removal_effects
from pie_jax.arrays.dictionary import Dictionary, dictionary, dictionary_of
from pie_jax.arrays.models import Model, Run, as_model
from pie_jax.arrays.occurrences import Occurrences, occurrences
from pie_jax.arrays.scores import Metric, attribute, logit_difference
from pie_jax.prune.batch.metrics import Prompt
from pie_jax.prune.engine.kl import Behaviour

__all__ = [
    "Behaviour",
    "Dictionary",
    "Metric",
    "Model",
    "Occurrences",
    "Prompt",
    "Run",
    "as_model",
    "attribute",
    "behaviour",
    "circuit_kl",
    "dictionary",
    "dictionary_of",
    "kept_change",
    "logit_difference",
    "occurrences",
    "prompt",
    "removal_effects",
]


def prompt(
    tokens: ArrayLike, target: int = 0, distractor: int = 0, length: int | None = None
) -> Prompt:
    """Return a prompt of token ids [T], of which the first `length` (all) count, and its answers'
    ids."""
    ids = jnp.asarray(tokens, jnp.int32)
    end = ids.shape[-1] if length is None else length
    return Prompt(ids, jnp.int32(end), jnp.int32(target), jnp.int32(distractor))
