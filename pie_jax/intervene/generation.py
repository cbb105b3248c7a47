"""`generate`: what a model writes while features have other activations.

Shapes: B prompts, S lists of changes, C features of a list, T positions of prompts, P of prompts
and what follows, N new tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pie_jax.devices.programs import program
from pie_jax.errors import InputError
from pie_jax.features.activations import check_keys
from pie_jax.intervene.changes import Change, Placed, as_lists
from pie_jax.intervene.features import Features, Held, load_features, some_of
from pie_jax.intervene.passes import unchanged_activations
from pie_jax.intervene.prompts import Batch, batches, encode_prompts, features_class, keys_of
from pie_jax.intervene.results import Generated
from pie_jax.models.generate import continued
from pie_jax.models.loader import LanguageModel
from pie_jax.models.transformer import Transformer
from pie_jax.transcoders.loader import require_match
from pie_jax.transcoders.store import Transcoder


def generate(
    model: LanguageModel,
    transcoder: Transcoder,
    prompts: str | Sequence[str],
    changes: Sequence[Change] | Sequence[Sequence[Change]] = (),
    new_tokens: int = 20,
    temperature: float = 0.0,
    seed: int = 0,
    *,
    batch_size: int = 16,
) -> Generated:
    """Continue prompts by `new_tokens` tokens each with features set to other activations.

    Changes are those of `intervene` with `freeze="nothing"`, and the first token's logits are its
    logits at the last position. A slice without end goes on through the tokens that are generated;
    there is no unchanged run beside these, so `scale` counts from the activation that the feature
    has there. No change, `()`, is the model by itself.

    The likeliest token is taken at `temperature` 0. Else tokens are drawn from logits divided by
    it; draws depend on `seed` and the prompt's place in the input, and are the same for each list
    of changes. Raises `InputError` as `intervene` does, and where the model's context is too short.
    """
    _check_options(new_tokens, temperature, seed, batch_size)
    require_match(transcoder, model.config, model.name)
    lists, one_list = as_lists(changes)
    keys = keys_of(lists)
    if keys:
        check_keys(transcoder, keys)
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    encoded = encode_prompts(model, texts, new_tokens)
    work = list(batches(encoded, lists, new_tokens, batch_size))
    features = load_features(transcoder, keys, features_class(len(keys))) if keys else None
    ids: list[list[Any]] = [[None] * len(lists) for _ in texts]
    size = (len(texts), len(lists), new_tokens, model.config.vocab_size)
    logits = np.full(size, np.float32(np.nan))
    for batch in work:
        found = _run(model, features, transcoder.config.input_site, batch, temperature, seed)
        for b, row in enumerate(batch.rows):
            for s, number in enumerate(batch.lists):
                kept = _until_special(model, found[0][b, s].tolist())
                ids[row][number] = kept
                # What follows the special token itself is not the text's.
                logits[row, number, : len(kept) + 1] = found[1][b, s, : len(kept) + 1]
    written = [[model.tokenizer.decode(one) for one in each] for each in ids]
    prompt: int | slice = 0 if isinstance(prompts, str) else slice(None)

    def shaped(rows: list[list[Any]]) -> Any:
        inner = [row[0] for row in rows] if one_list else rows
        return inner[0] if prompt == 0 else inner

    place = (prompt, 0 if one_list else slice(None))
    return Generated(shaped(written), shaped(ids), logits[place])


def _check_options(new_tokens: int, temperature: float, seed: int, batch_size: int) -> None:
    if new_tokens < 1 or batch_size < 1:
        raise InputError(
            f"new_tokens {new_tokens}, batch_size {batch_size}: each must be at least 1."
        )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InputError(f"temperature {temperature}: give 0 for the likeliest token, or more.")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed}: must be a whole number from 0 to {2**32 - 1}.")


def _until_special(model: LanguageModel, ids: list[int]) -> list[int]:
    special = model.tokenizer.special_ids()
    return list(takewhile(lambda index: index not in special, ids))


def _run(
    model: LanguageModel,
    features: Features | None,
    site: str,
    batch: Batch,
    temperature: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    tokens, index = jnp.asarray(batch.tokens), jnp.asarray(batch.index)
    placed, rows = batch.placed, np.zeros(len(batch.tokens), np.int32)
    rows[: len(batch.rows)] = batch.rows
    if features is not None and placed.scale.any():
        unchanged = np.asarray(unchanged_activations(model.transformer, tokens, features, site))
        placed = _from_unchanged(placed, unchanged[:, batch.index], batch.length)
    ids, logits = _continue(
        model.transformer,
        tokens,
        jnp.asarray(batch.length),
        features,
        index,
        *map(jnp.asarray, placed),
        jnp.asarray(rows),
        jnp.float32(temperature),
        jnp.uint32(seed),
        new_tokens=placed.on.shape[-1] - tokens.shape[1],
        site=site,
    )
    return np.asarray(ids), np.asarray(logits)


def _from_unchanged(placed: Placed, unchanged: np.ndarray, length: np.ndarray) -> Placed:
    """Return changes whose scales of unchanged activations [B, S, C, T] are values in prompts."""
    here = unchanged.shape[-1]
    inside = (np.arange(placed.on.shape[-1]) < length[:, None])[:, None, None]
    times = np.where(inside, placed.scale, 0.0)
    value = placed.value.copy()
    value[..., :here] += times[..., :here] * unchanged
    return Placed(placed.on, value, np.where(inside, np.float32(0), placed.scale))


@program("new_tokens", "site")
def _continue(
    model: Transformer,
    tokens: Int[Array, "B T"],
    length: Int[Array, " B"],
    features: Features | None,
    index: Int[Array, "S C"],
    on: Bool[Array, "B S C P"],
    value: Float[Array, "B S C P"],
    scale: Float[Array, "B S C P"],
    rows: Int[Array, " B"],
    temperature: Float[Array, ""],
    seed: Array,
    new_tokens: int,
    site: str,
) -> tuple[Int[Array, "B S N"], Float[Array, "B S N V"]]:
    """Return new tokens and the logits that each was chosen from; `rows` number the prompts."""

    def one(tokens: Array, length: Array, row: Array, *places: Array) -> Any:
        key = jax.random.fold_in(jax.random.key(seed), row)

        def choose(logits: Array, step: Array) -> Array:
            noise = jax.random.gumbel(jax.random.fold_in(key, step), logits.shape)
            # A draw from softmax(logits / temperature), and the likeliest token at 0.
            return jnp.argmax(logits + temperature * noise)

        def changed(index: Array, *places: Array) -> Any:
            held = None if features is None else Held(some_of(features, index), *places)
            return continued(model, tokens, length, held, choose, new_tokens, site)

        return jax.vmap(changed)(index, *places)

    return jax.vmap(one)(tokens, length, rows, on, value, scale)
