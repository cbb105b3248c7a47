"""The union of two runs' active features, lists that grow, and the table of decoder rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from prune_helpers import place, tiny_model, tiny_transcoder

from pie_jax.devices.mesh import make_mesh, put
from pie_jax.kernels import TILE
from pie_jax.prune.batch import occurrences
from pie_jax.prune.batch.occurrences import OccurrenceFinder, Occurrences, read_rows
from pie_jax.transcoders.config import TopK, TranscoderConfig
from pie_jax.transcoders.store import EncoderArrays, Transcoder

BATCH, LAYERS, LENGTH, WIDTH = 2, 2, 6, 4
STREAMS = (BATCH, LAYERS, LENGTH, WIDTH)


def mirror(*, jump: bool = False) -> Transcoder:
    """Return a transcoder whose feature f reads coordinate f: activations are the streams."""
    eye, zero = np.eye(WIDTH, dtype=np.float32), np.zeros(WIDTH, np.float32)
    threshold = np.full(WIDTH, 1.0, np.float32) if jump else None
    activation = "jumprelu" if jump else "relu"
    return Transcoder(
        TranscoderConfig(LAYERS, WIDTH, WIDTH, activation),
        "mirror",
        # Nothing is read from it.
        folder=Path(),
        files=(),
        encoder_arrays=[EncoderArrays(eye, zero, threshold)] * LAYERS,
        decoder_maps=[],
        bias=np.zeros((LAYERS, WIDTH), np.float32),
    )


MIRRORS = {jump: mirror(jump=jump) for jump in (False, True)}
STEP = {False: lambda x: x * (x > 0), True: lambda x: x * (x > 1.0)}


def slow_union(clean: np.ndarray, corrupted: np.ndarray, length: int) -> dict:
    """Return (layer, position, feature) -> (clean, corrupted) of one prompt's activations."""
    found = {}
    for layer in range(clean.shape[0]):
        for position in range(1, length):
            for feature in range(clean.shape[2]):
                at = (layer, position, feature)
                if clean[at] > 0 or corrupted[at] > 0:
                    found[at] = (float(clean[at]), float(corrupted[at]))
    return found


def as_dict(found: Occurrences, prompt: int) -> dict:
    count = found.count[prompt]
    columns = (found.layer, found.position, found.feature, found.clean, found.corrupted[:, 0])
    rows = zip(*(column[prompt, :count].tolist() for column in columns), strict=True)
    return {row[:3]: row[3:] for row in rows}


def check(found: Occurrences, clean: np.ndarray, corrupted: np.ndarray, lengths: Any) -> None:
    """Compare with the slow union; sorted, nothing twice, zero beyond the count."""
    for prompt, length in enumerate(lengths):
        count = int(found.count[prompt])
        assert as_dict(found, prompt) == slow_union(clean[prompt], corrupted[prompt], length)
        order = place(found.layer[prompt], found.position[prompt], found.feature[prompt])
        assert (np.diff(order[:count]) > 0).all()
        for column in (
            found.layer,
            found.position,
            found.feature,
            found.clean,
            found.corrupted[:, 0],
        ):
            assert not column[prompt, count:].any()
        np.testing.assert_array_equal(found.valid[prompt], np.arange(order.size) < count)
    np.testing.assert_array_equal(found.delta, found.clean[:, None] - found.corrupted)


streams = arrays(np.float32, STREAMS, elements=st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0]))
lengths_ = st.tuples(*[st.integers(1, LENGTH)] * BATCH)


@given(clean=streams, corrupted=streams, lengths=lengths_, jump=st.booleans())
def test_is_the_union_of_both_runs(clean: Any, corrupted: Any, lengths: Any, jump: bool):
    """Without BOS and without what stands in padding; shapes are fixed, nothing recompiles."""
    finder = OccurrenceFinder(MIRRORS[jump])
    found = finder.find(
        jnp.asarray(clean), jnp.asarray(corrupted)[:, None], np.array(lengths, np.int32)
    )
    check(found, STEP[jump](clean), STEP[jump](corrupted), lengths)


@given(clean=streams, lengths=lengths_)
def test_none_stands_for_no_activations(clean: Any, lengths: Any):
    finder = OccurrenceFinder(MIRRORS[False])
    found = finder.find(jnp.asarray(clean), None, np.array(lengths, np.int32))
    check(found, STEP[False](clean), np.zeros_like(clean), lengths)


def busy(density: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 2.0, STREAMS) * np.where(rng.random(STREAMS) < density, 1, -1)
    return x.astype(np.float32)


@pytest.mark.parametrize("least", [1, 2, 5, 64])
def test_an_overflow_drops_nothing(monkeypatch: pytest.MonkeyPatch, least: int):
    """A list too short for a layer grows; the result is that of one long enough."""
    clean, corrupted = busy(0.9), busy(0.8, 1)
    monkeypatch.setattr(occurrences, "_LEAST_CAPACITY", least)
    finder = OccurrenceFinder(MIRRORS[False])
    lengths = np.array([LENGTH, 4], np.int32)
    for _ in range(2):  # with the lists that overflowed, and with the grown ones
        found = finder.find(jnp.asarray(clean), jnp.asarray(corrupted)[:, None], lengths)
        check(found, STEP[False](clean), STEP[False](corrupted), lengths)
    assert found.count.max() > 5


def test_streams_of_nothing():
    found = OccurrenceFinder(MIRRORS[False]).find(
        -jnp.ones(STREAMS), None, np.full(BATCH, LENGTH, np.int32)
    )
    assert found.count.tolist() == [0, 0]
    assert not found.valid.any()


@pytest.mark.parametrize("top", [None, TopK(7, relu=True)], ids=["jumprelu", "topk"])
def test_activations_are_the_encoders(tmp_path: Path, top: TopK | None):
    """With random weights, thresholds and streams, against float64."""
    model = tiny_model(tmp_path)
    transcoder = tiny_transcoder(model, jump=top is None, top=top)
    config = transcoder.config
    shape = (BATCH, config.num_layers, LENGTH, config.d_model)
    x, y = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)

    def encode(streams: np.ndarray) -> np.ndarray:
        out = []
        for layer, (weight, bias, threshold) in enumerate(transcoder.encoder_arrays):
            pre = streams[:, layer].astype(np.float64) @ weight.T.astype(np.float64) + bias
            if top is not None:
                threshold = np.maximum(np.sort(pre, axis=-1)[..., -top.k - 1 : -top.k], 0.0)
            out.append(np.where(pre > threshold, pre, 0.0))
        return np.stack(out, axis=1)

    lengths = np.array([LENGTH, 4], np.int32)
    found = OccurrenceFinder(transcoder).find(jnp.asarray(x), jnp.asarray(y)[:, None], lengths)
    clean, corrupted = encode(x), encode(y)
    for prompt, length in enumerate(lengths):
        theirs = slow_union(clean[prompt], corrupted[prompt], int(length))
        ours = as_dict(found, prompt)
        assert list(ours) == list(theirs)
        # Sixteen products in float32.
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cross_layer", [True, False])
def test_every_occurrence_finds_its_rows(tmp_path: Path, cross_layer: bool, dtype: str):
    kind = jnp.dtype(dtype)
    transcoder = tiny_transcoder(tiny_model(tmp_path), 7, cross_layer=cross_layer, dtype=kind)
    config = transcoder.config
    rng = np.random.default_rng(0)
    count = np.array([40, 25], np.int32)
    shape = (2, 50)
    layer = np.sort(rng.integers(0, config.num_layers, shape), axis=1).astype(np.int32)
    feature = rng.integers(0, config.features, shape).astype(np.int32)
    position = rng.integers(1, 9, shape).astype(np.int32)
    for array in (layer, feature, position):
        array[np.arange(50) >= count[:, None]] = 0
    activation = np.ones(shape, np.float32)
    found = Occurrences(layer, position, feature, activation, activation[:, None], count)
    decoder = read_rows(transcoder, found)
    table, at = np.asarray(decoder.table), decoder.writes
    assert table.dtype == kind
    np.testing.assert_array_equal(at.position, position)
    distinct = set()
    for b, n in zip(*np.nonzero(found.valid), strict=True):
        start, first, last = (int(x[b, n]) for x in (at.start, at.first, at.last))
        assert first == layer[b, n]
        assert last == (config.num_layers - 1 if cross_layer else first)
        rows = table[start + TILE * np.arange(last - first + 1)]
        tiles = start // TILE + np.arange(last - first + 1)
        np.testing.assert_array_equal(decoder.tiles.target[tiles], np.arange(first, last + 1))
        assert len(set(np.asarray(decoder.tiles.block)[tiles].tolist())) == 1
        np.testing.assert_array_equal(rows, transcoder.decoder_maps[first][feature[b, n]])
        distinct.add((first, int(feature[b, n]), last - first + 1))
    # Each feature is read once, whatever the number of its occurrences, and the rest is zero.
    used = sum(width for _, _, width in distinct)
    assert np.count_nonzero(np.abs(table.astype(np.float32)).max(axis=1)) == used
    assert not table[TILE * int(decoder.tiles.width.sum()) :].any()


def test_no_occurrences_no_rows(tmp_path: Path):
    transcoder = tiny_transcoder(tiny_model(tmp_path), 7)
    zero = np.zeros((1, 64), np.int32)
    none = np.zeros((1, 64), np.float32)
    decoder = read_rows(
        transcoder, Occurrences(zero, zero, zero, none, none[:, None], np.zeros(1, np.int32))
    )
    assert decoder.table.shape == (64 * TILE, 16)
    assert not decoder.tiles.width.any()
    assert not decoder.table.any()


@pytest.mark.parametrize("axes", ["data=2,model=4", "model=8"])
def test_top_k_on_a_mesh(tmp_path: Path, axes: str):
    """Encoders in parts on several devices find what one device finds."""
    model = tiny_model(tmp_path)
    transcoder = tiny_transcoder(model, top=TopK(5, relu=True))
    shape = (BATCH, model.config.num_layers, LENGTH, model.config.d_model)
    x, y = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    lengths = np.array([LENGTH, 4], np.int32)
    alone = OccurrenceFinder(transcoder).find(jnp.asarray(x), jnp.asarray(y)[:, None], lengths)
    spread = replace(transcoder, mesh=make_mesh(axes))
    clean, corrupted = put(spread.mesh, x), put(spread.mesh, y[:, None])
    found = OccurrenceFinder(spread).find(clean, corrupted, lengths)
    for name in ("layer", "position", "feature", "count"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
    np.testing.assert_allclose(found.clean, alone.clean, atol=1e-6)
