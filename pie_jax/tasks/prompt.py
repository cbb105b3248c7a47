"""One prompt by itself: what the model would say next is its target."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.devices.shapes import length_class
from pie_jax.errors import InputError
from pie_jax.models.loader import LanguageModel
from pie_jax.models.transformer import Transformer
from pie_jax.tasks.encode import MAX_TOKENS
from pie_jax.tasks.records import Pair


def prompt_pair(
    model: LanguageModel,
    prompt: str,
    *,
    target: str | None = None,
    distractor: str | None = None,
    corrupted: str | None = None,
) -> Pair:
    """Return the pair of one prompt; its target is by default the model's likeliest next token.

    Without a corrupted prompt, prune it with `corruption="zero-features"`, without a distractor
    with `metric="logit-above-mean"`. Raises `InputError` for a prompt that is empty or longer than
    what is read, and where no text is the likeliest token.
    """
    if not prompt:
        raise InputError("the prompt is empty; give its text")
    ids = model.tokenizer.encode(prompt)
    if len(ids) > MAX_TOKENS:
        raise InputError(
            f"the prompt has {len(ids)} tokens, but {MAX_TOKENS} are read, BOS counted; leave out "
            "its beginning"
        )
    if target is None:
        target = _next_text(model, ids)
    return Pair(prompt, () if corrupted is None else (corrupted,), target, distractor)


def next_probabilities(model: LanguageModel, ids: list[int]) -> Float[Array, " V"]:
    """Return the probability of every token after a prompt's ids."""
    padded = jnp.zeros(length_class(len(ids)), jnp.int32).at[: len(ids)].set(jnp.array(ids))
    return _next(model.transformer, padded, jnp.int32(len(ids)))


@program()
def _next(
    model: Transformer, tokens: Int[Array, " T"], length: Int[Array, ""]
) -> Float[Array, " V"]:
    residual = model.streams(tokens).residual
    last = jax.lax.dynamic_slice_in_dim(residual, length - 1, 1)
    return jax.nn.softmax(model.unembed(last)[0])


def _next_text(model: LanguageModel, ids: list[int]) -> str:
    best = int(jnp.argmax(next_probabilities(model, ids)))
    text = model.tokenizer.token(best)
    if not text or model.tokenizer.answer_id(text) != best:
        raise InputError(
            f"the model's likeliest next token is {text!r} (number {best}), which no text is by "
            "itself; give a target"
        )
    return text
