"""Tiny weights that circuit-tracer opens too."""

from __future__ import annotations

from pathlib import Path

import pytest

import pie_jax
from benchmarks.parts.random_weights import (
    SHAPES,
    input_scale,
    make_model,
    make_pairs,
    make_transcoder,
)
from benchmarks.peers.circuit_tracer import CircuitTracer
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.store import Transcoder

PROMPTS = [pair.clean for pair in make_pairs(SHAPES["tiny"], 3)]

Both = tuple[LanguageModel, Transcoder, CircuitTracer]


@pytest.fixture(scope="module", name="folder")
def made_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model and a transcoder."""
    folder, shape = tmp_path_factory.mktemp("made"), SHAPES["tiny"]
    make_model(shape, folder / "model")
    make_transcoder(shape, folder / "transcoder", input_scale(folder / "model", shape))
    return folder


@pytest.fixture(scope="module", name="across")
def across_layers(folder: Path) -> Both:
    """Both programs with the weights of `folder`."""
    model = pie_jax.load_model(folder / "model")
    return model, pie_jax.load_transcoder(folder / "transcoder"), CircuitTracer(folder)
