"""Transcoder file formats: one file each, entered in `FORMATS`, tried in this order."""

from pie_jax.extensions import Registry
from pie_jax.transcoders.formats import (
    circuit_tracer,
    gemma_scope,
    orbax,
    sparsify,
    transcoder_set,
)
from pie_jax.transcoders.formats.base import Format

FORMATS: Registry[Format] = Registry(
    "pie_jax.transcoder_formats",
    {
        "circuit-tracer-clt": circuit_tracer.FORMAT,
        "circuit-tracer-transcoder-set": transcoder_set.FORMAT,
        "orbax": orbax.FORMAT,
        "sparsify": sparsify.FORMAT,
        "gemma-scope-2": gemma_scope.FORMAT,
    },
)

__all__ = ["FORMATS", "Format"]
