"""The parts of CLT training: windows of a corpus, placing of features, folding of scales."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from refusals import refuses

from pie_jax.models.tokenizer import Tokenizer
from pie_jax.transcoders.config import TranscoderConfig
from pie_jax.transcoders.training.data import Feed, Windows, make_windows, sample_documents
from pie_jax.transcoders.training.placement import first_state, revive
from pie_jax.transcoders.training.state import (
    Batch,
    Scales,
    TrainState,
    activations,
    decode,
    export,
    feature_thresholds,
    measure_scales,
    normalise,
)
from pie_jax.transcoders.training.step import train_step
from pie_jax.transcoders.training.stream import sinks


class Bytes:
    """A tokenizer of bytes, BOS being 0."""

    all_special_ids = (0,)
    bos_token_id = 0
    added_tokens_decoder = ()

    def __len__(self) -> int:
        return 256

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [*([0] if add_special_tokens else []), *text.encode()]

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool = True) -> str:
        return bytes(ids).decode("latin-1")

    def get_vocab(self) -> dict[str, int]:
        return {chr(index): index for index in range(256)}


def _documents() -> list[str]:
    random = np.random.default_rng(0)
    return ["".join(random.choice(list("abcdef"), random.integers(3, 60))) for _ in range(300)]


def _windows(seed: int = 0) -> Windows:
    return make_windows(
        Tokenizer(Bytes(), "bytes"),
        _documents(),
        window=24,
        slots=96,
        steps=60,
        heldout=16,
        seed=seed,
    )


def test_sampled_documents_differ_and_are_the_same_ones_in_any_order():
    texts = [f"document {i % 300}" for i in range(1000)]
    sample = sample_documents(texts, 1000, seed=0)
    assert len(set(sample)) == len(sample)
    assert 1000 <= sum(map(len, sample)) < 1020
    assert sample == sample_documents(texts[::-1], 1000, seed=0)
    assert sample != sample_documents(texts, 1000, seed=1)
    assert set(sample_documents(texts, 10**6, seed=0)) == set(texts)


def test_windows_are_documents_behind_bos_and_heldout_ones_are_not_trained_on():
    windows = _windows()
    rows = np.concatenate([windows.train, windows.heldout])
    assert windows.bos == 0
    assert (rows[:, 0] == 0).all()
    assert (rows[:, 1] != 0).all()
    # Padding is on the right alone.
    assert (np.diff((rows[:, 1:] == 0).astype(int), axis=1) >= 0).all()
    assert len({row.tobytes() for row in rows}) == len(rows)


def test_too_few_windows_to_keep_any_are_no_lack_of_tokens():
    settings = {"window": 24, "slots": 23, "steps": 2, "heldout": 4, "seed": 0}
    refuses(
        lambda: make_windows(Tokenizer(Bytes(), "bytes"), [c * 23 for c in "abc"], **settings),
        "different windows",
        "one in five",
    )


def test_batches_depend_on_seed_and_step_alone_and_visit_every_window():
    first, second = _windows(), _windows()
    steps = -(-len(first.train) // first.rows)
    early = [np.asarray(first.batch(step).tokens) for step in range(steps)]
    for step in (steps - 1, 0, 2):
        np.testing.assert_array_equal(second.batch(step).tokens, early[step])
    assert {row.tobytes() for batch in early for row in batch} == {
        row.tobytes() for row in first.train
    }


def _counted(feed: Feed) -> np.ndarray:
    tokens, places, counts = map(np.asarray, feed)
    return tokens.reshape(-1)[places[counts]]


def test_batches_hold_about_the_tokens_asked_for():
    windows = _windows()
    feeds = [windows.batch(step) for step in range(20)]
    assert {feed.places.shape for feed in feeds} == {(96,)}
    assert np.mean([np.mean(feed.counts) for feed in feeds]) > 0.9
    for feed in feeds:
        assert (_counted(feed) != 0).all()


def test_heldout_batches_hold_every_heldout_token_once():
    windows = _windows()
    found = [_counted(feed) for feed in windows.heldout_batches()]
    np.testing.assert_array_equal(np.concatenate(found), windows.heldout[windows.heldout != 0])


def _batch(tokens: int, counted: int) -> tuple[Scales, Batch, np.ndarray]:
    inputs, targets = np.random.default_rng(0).normal(2, 5, (2, 3, tokens, 8)).astype(np.float32)
    raw, counts = (jnp.asarray(inputs), jnp.asarray(targets)), jnp.arange(tokens) < counted
    scales = jax.jit(measure_scales)(*raw, counts)
    return scales, jax.jit(normalise)(scales, *raw, counts), inputs


@jax.jit
def _start(batch: Batch) -> TrainState:
    return first_state(32, batch, 4.0, jax.random.key(1))


@jax.jit
def _activations(state: TrainState, batch: Batch) -> Array:
    return jnp.stack(activations(state.weights, batch.inputs, feature_thresholds(state)))


def test_features_that_draw_one_token_start_apart():
    """Or they would have the same gradients, and stay one feature for ever."""
    _, batch, _ = _batch(200, 10)
    encoder = np.asarray(_start(batch).weights.encoder)
    for rows, inputs in zip(encoder, np.asarray(batch.inputs), strict=True):
        read, tokens = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, inputs[:10]))
        alike = read @ read.T - 2 * np.eye(len(read))
        assert alike.max() < 0.9999
        # Still each reads about a token.
        assert ((read @ tokens.T).max(axis=1) > 0.8).all()


def test_revived_features_fire_and_the_others_are_left_alone():
    _, batch, _ = _batch(200, 150)
    state, step = _start(batch), jax.jit(train_step)
    for _ in range(5):
        state, _ = step(state, batch, jnp.float32(4.0), jnp.float32(1e-2))
    dead = np.random.default_rng(1).random((3, 32)) < 0.3
    revived = jax.jit(revive)(state, batch, jnp.asarray(dead), jax.random.key(3))
    fired = np.any(np.asarray(_activations(revived, batch))[:, :150] > 0, axis=1)
    assert fired[dead].all()
    state, revived = jax.tree.map(np.asarray, (state, revived))
    for new, old in ((revived.weights, state.weights), (revived.moments.mu, state.moments.mu)):
        np.testing.assert_array_equal(new.encoder[~dead], old.encoder[~dead])
        for n, o, mask in zip(new.decoders, old.decoders, dead, strict=True):
            np.testing.assert_array_equal(n[~mask], o[~mask])
    assert not revived.moments.nu.encoder[dead].any()
    assert not revived.idle[dead].any()


def test_features_that_do_not_fire_are_not_moved_but_lifted():
    _, batch, _ = _batch(200, 150)
    state = _start(batch)
    # Layer 0 cannot fire any more; its features have been silent for long.
    bias = state.weights.encoder_bias.at[0].set(-1e3)
    state = state._replace(
        weights=state.weights._replace(encoder_bias=bias), idle=state.idle.at[0].set(1000)
    )
    new, metrics = jax.jit(train_step)(state, batch, jnp.float32(4.0), jnp.float32(1e-2))
    assert metrics.l0[0] == 0
    np.testing.assert_array_equal(new.weights.encoder[0], state.weights.encoder[0])
    np.testing.assert_array_equal(new.weights.decoders[0], state.weights.decoders[0])
    assert (np.asarray(new.weights.encoder_bias)[0] > np.asarray(bias)[0]).all()
    assert (np.asarray(new.idle)[0] == 1001).all()
    assert new.log_threshold[0] < state.log_threshold[0]
    assert not np.array_equal(new.weights.encoder[1], state.weights.encoder[1])


def test_export_folds_the_scales_into_the_weights():
    scales, batch, inputs = _batch(50, 50)
    state = _start(batch)
    clt = export(state, scales, TranscoderConfig(3, 8, 32, "jumprelu"))
    active = _activations(state, batch)
    np.testing.assert_allclose(clt.encode(jnp.asarray(inputs)), active, atol=1e-4)
    normalised = jax.jit(decode)(state.weights, list(active))
    expected = normalised * scales.output_scale[:, None, None] + scales.output_mean[:, None]
    np.testing.assert_allclose(clt.decode(active), expected, atol=1e-3)


def test_tokens_with_huge_streams_are_sinks():
    """One of 1,000 times the median's length in one layer, and one that does not count."""
    inputs = np.random.default_rng(0).normal(size=(2, 30, 8)).astype(np.float32)
    inputs[1, 3] *= 1000
    inputs[:, 25:] *= 1e6
    found = np.asarray(sinks(jnp.asarray(inputs), jnp.arange(30) < 25))
    assert np.flatnonzero(found[:25]).tolist() == [3]
