"""Activations of chosen features, against the occurrences that pruning finds on the same text."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prune_helpers import WORDS, tiny_model, tiny_transcoder
from refusals import refuses

from pie_jax.features.activations import FeatureReader, _read, max_activations
from pie_jax.features.records import FeatureKey
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.batch.occurrences import OccurrenceFinder
from pie_jax.prune.engine.passes import transcoder_inputs
from pie_jax.transcoders.config import TopK
from pie_jax.transcoders.store import Transcoder, load_encoder

TOLERANCE = 1e-5
KEYS = [FeatureKey(*key) for key in ((2, 5), (0, 3), (2, 0), (0, 23), (2, 11), (0, 7))]
LENGTHS = (12, 9, 2, 1)

KINDS: dict[str, dict[str, Any]] = {
    "relu": {},
    "jumprelu": {"jump": True},
    "mlp_in": {"input_site": "mlp_in"},
    "ln2_normalized": {"input_site": "ln2_normalized"},
    "topk": {"top": TopK(12, relu=True)},
}


@cache
def _model(gemma: bool = False) -> LanguageModel:
    import tempfile

    return tiny_model(Path(tempfile.mkdtemp()), gemma=gemma)


def _tokens() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    tokens = rng.integers(3, 40, (len(LENGTHS), 12)).astype(np.int32)
    tokens[:, 0] = 1
    length = np.array(LENGTHS, np.int32)
    tokens[np.arange(12) >= length[:, None]] = 0
    return tokens, length


def _by_pruning(model: LanguageModel, transcoder: Transcoder) -> np.ndarray:
    """Return [B, T, n] of KEYS from the occurrences."""
    tokens, length = _tokens()
    inputs = transcoder_inputs(model.transformer, tokens, transcoder.config.input_site)
    found = OccurrenceFinder(transcoder).find(inputs, None, length)
    out = np.zeros((*tokens.shape, len(KEYS)), np.float32)
    for row, real in enumerate(found.valid):
        for n in np.flatnonzero(real):
            key = FeatureKey(int(found.layer[row, n]), int(found.feature[row, n]))
            if key in KEYS:
                out[row, found.position[row, n], KEYS.index(key)] = found.clean[row, n]
    return out


@pytest.mark.parametrize(
    ("kind", "gemma"),
    [
        ("relu", False),
        ("jumprelu", False),
        ("mlp_in", False),
        ("ln2_normalized", True),
        ("topk", False),
        ("jumprelu", True),
    ],
)
def test_equal_what_pruning_sees(kind: str, gemma: bool) -> None:
    model = _model(gemma)
    transcoder = tiny_transcoder(model, bias=0.0, **KINDS[kind])
    expected = _by_pruning(model, transcoder)
    assert (expected > 0).any(axis=(0, 1)).sum() >= 3
    on_disk = FeatureReader(model, transcoder, KEYS).read(*_tokens())
    np.testing.assert_allclose(on_disk, expected, atol=TOLERANCE)
    assert on_disk.dtype == np.float32
    # A JumpReLU's threshold decides alike, to the last occurrence.
    assert np.array_equal(on_disk > 0, expected > 0)
    top = transcoder.config.top
    resident = tuple(load_encoder(arrays, "e", top=top) for arrays in transcoder.encoder_arrays)
    again = FeatureReader(model, replace(transcoder, resident=resident), KEYS)
    np.testing.assert_array_equal(again.read(*_tokens()), on_disk)


def test_bos_and_padding_never_count() -> None:
    model = _model()
    # A bias so large that every feature fires everywhere.
    transcoder = tiny_transcoder(model, bias=50.0)
    tokens, length = _tokens()
    tokens[0, 4] = 1
    values = FeatureReader(model, transcoder, KEYS).read(tokens, length)
    real = (np.arange(12) < length[:, None]) & (tokens != 1)
    assert np.array_equal(values > 0, np.repeat(real[:, :, None], len(KEYS), 2))


def test_texts_have_their_largest_activation() -> None:
    model = _model()
    transcoder = tiny_transcoder(model, bias=0.0)
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, size)) for size in (3, 40, 1, 17, 3)] + [""]
    reader = FeatureReader(model, transcoder, KEYS)
    found = reader.max_activations(texts, batch_size=2)
    for text, row in zip(texts, found, strict=True):
        ids = np.array([model.tokenizer.encode(text)], np.int32)
        alone = reader.read(ids, np.array([ids.shape[1]], np.int32))
        np.testing.assert_allclose(row, alone[0].max(axis=0), atol=TOLERANCE)
    assert found[-1].max() == 0
    assert np.array_equal(found, max_activations(model, transcoder, texts, KEYS, batch_size=2))
    cut = reader.max_activations([texts[1]], most_tokens=9)
    np.testing.assert_allclose(
        cut, reader.max_activations([" ".join(texts[1].split()[:8])]), atol=TOLERANCE
    )


def test_other_features_and_texts_compile_nothing_new() -> None:
    model = _model()
    transcoder = tiny_transcoder(model)
    FeatureReader(model, transcoder, KEYS[:3]).max_activations(["w3 w4"])
    before = _read.count()
    other = [FeatureKey(0, 9), FeatureKey(2, 1), FeatureKey(2, 2), FeatureKey(0, 1)]
    FeatureReader(model, transcoder, other).max_activations(["w9", "w7 w8 w9"])
    assert _read.count() == before


def test_features_that_do_not_exist_are_named() -> None:
    model = _model()
    transcoder = tiny_transcoder(model)
    for key in (FeatureKey(3, 0), FeatureKey(0, 24), FeatureKey(-1, 0)):
        refuses(lambda key=key: FeatureReader(model, transcoder, [key]), key.layer, key.feature)
    refuses(lambda: FeatureReader(model, transcoder, []), "feature")
    refuses(lambda: FeatureReader(model, transcoder, [KEYS[0]] * 2), "twice")
