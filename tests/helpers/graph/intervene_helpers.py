"""Interventions once more: NumPy in float64, one run after another, everything from the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from prune_helpers import tiny_model, tiny_transcoder
from slow_transformer import SlowOutputs, SlowTransformer

from pie_jax.intervene.changes import Change
from pie_jax.models.loader import LanguageModel, save_model
from pie_jax.transcoders.config import TopK
from pie_jax.transcoders.store import Transcoder

# Float32 against float64, over the largest number.
TOLERANCE = 1e-5


class FrozenTransformer(SlowTransformer):
    """A slow transformer that writes down its patterns, norms and MLPs, and can take them back.

    They come in the same order in each run, so no place needs a name.
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.log: dict[str, list[Any]] = {}
        self.replayed: dict[str, list[Any]] = {}
        self._inside_mlp = False

    def clean(self, tokens: list[int]) -> SlowOutputs:
        self.log, self.replayed = {"pattern": [], "size": [], "mlp": []}, {}
        return self(tokens)

    def changed(self, tokens: list[int], delta: np.ndarray, freeze: str) -> SlowOutputs:
        kinds = {"nothing": (), "attention": ("pattern",), "direct": ("pattern", "size", "mlp")}
        self.replayed = {kind: list(self.log[kind]) for kind in kinds[freeze]}
        kept, self.log = self.log, {"pattern": [], "size": [], "mlp": []}
        out = self(tokens, delta)
        assert not any(self.replayed.values())
        self.log, self.replayed = kept, {}
        return out

    def _again(self, kind: str, compute: Callable[[], Any]) -> Any:
        if kind in self.replayed:
            return self.replayed[kind].pop(0)
        self.log[kind].append(compute())
        return self.log[kind][-1]

    def pattern(self, scores: np.ndarray) -> np.ndarray:
        return self._again("pattern", lambda: super(FrozenTransformer, self).pattern(scores))

    def size(self, x: np.ndarray) -> float:
        if self._inside_mlp:
            return super().size(x)
        return self._again("size", lambda: super(FrozenTransformer, self).size(x))

    def mlp(self, x: np.ndarray, layer: int) -> np.ndarray:
        def compute() -> np.ndarray:
            self._inside_mlp = True
            out = super(FrozenTransformer, self).mlp(x, layer)
            self._inside_mlp = False
            return out

        return self._again("mlp", compute)


class SlowRun(NamedTuple):
    """Logits [T, V] and pre-activations [L, T, F], unchanged and changed."""

    before: np.ndarray
    after: np.ndarray
    pre_before: np.ndarray
    pre_after: np.ndarray
    act_before: np.ndarray
    act_after: np.ndarray


def slow_intervene(
    model: FrozenTransformer,
    transcoder: Transcoder,
    tokens: Sequence[int],
    changes: Sequence[Change],
    freeze: str,
    prompt: int | None = None,
) -> SlowRun:
    """Run a prompt again for each layer: what a feature reads does not depend on later writes.

    What comes after the first `prompt` tokens was generated: no unchanged run counts there.
    """
    tokens, config = list(tokens), transcoder.config
    prompt = len(tokens) if prompt is None else prompt
    clean = model.clean(tokens)
    layers, shape = range(config.num_layers), clean.resid_mid.shape
    pre_before = np.stack(
        [preactivations(model, transcoder, i, clean.resid_mid[i], None) for i in layers]
    )
    delta = np.zeros(shape)
    for layer in layers:
        run = model.changed(tokens, delta, freeze)
        if freeze == "direct" and config.has_skip:
            moved = [
                read(model, transcoder, layer, x[layer], clean.resid_mid[layer])
                for x in (run.resid_mid, clean.resid_mid)
            ]
            delta[layer] += (moved[0] - moved[1]) @ transcoder.skips[layer].astype(np.float64).T
        scales = clean.resid_mid[layer] if freeze == "direct" else None
        own = preactivations(model, transcoder, layer, run.resid_mid[layer], scales)
        base = pre_before[layer] if freeze == "direct" else own
        for change in changes:
            if change.layer != layer:
                continue
            for t in positions(change, prompt, len(tokens)):
                of = pre_before[layer] if t < prompt else own
                unchanged = activations(transcoder, layer, of)[t, change.feature]
                target = (change.value or 0.0) + (change.scale or 0.0) * unchanged
                moved_by = target - activations(transcoder, layer, base)[t, change.feature]
                for w, row in enumerate(transcoder.decoder_maps[layer][change.feature]):
                    delta[layer + w, t] += moved_by * row.astype(np.float64)
    run = model.changed(tokens, delta, freeze)
    pre_after = np.stack(
        [
            preactivations(
                model, transcoder, i, run.resid_mid[i],
                clean.resid_mid[i] if freeze == "direct" else None,
            )
            for i in layers
        ]
    )  # fmt: skip
    acts = [
        np.stack([activations(transcoder, i, pre[i]) for i in layers])
        for pre in (pre_before, pre_after)
    ]
    return SlowRun(clean.logits, run.logits, pre_before, pre_after, *acts)


def slow_generate(
    model: FrozenTransformer,
    transcoder: Transcoder,
    tokens: Sequence[int],
    changes: Sequence[Change],
    count: int,
) -> tuple[list[int], np.ndarray]:
    """Run the whole text again for every new token; return them and their logits."""
    ids, logits = list(tokens), []
    for _ in range(count):
        run = slow_intervene(model, transcoder, ids, changes, "nothing", len(tokens))
        logits.append(run.after[-1])
        ids.append(int(run.after[-1].argmax()))
    return ids[len(tokens) :], np.array(logits)


def positions(change: Change, prompt: int, length: int) -> list[int]:
    at = change.position
    if not isinstance(at, slice):
        return [t for t in (at + prompt if at < 0 else at,) if t < length]
    ends = [end if end is None or end >= 0 else end + prompt for end in (at.start, at.stop)]
    return [t for t in range(length)[slice(*ends)] if t > 0]


def read(
    model: FrozenTransformer, transcoder: Transcoder, layer: int, x: np.ndarray, of: Any
) -> np.ndarray:
    """Return what a layer's features read, [T, D]; norms divide by the size of `of`."""
    site = transcoder.config.input_site
    if site == "resid_mid":
        return x
    sizes = [SlowTransformer.size(model, row) for row in (x if of is None else of)]
    x = x / np.array(sizes)[:, None]
    if site == "ln2_normalized":
        return x
    name = "pre_feedforward_layernorm" if model.gemma else "post_attention_layernorm"
    return x * (model.tensors[f"model.layers.{layer}.{name}.weight"] + (1 if model.gemma else 0))


def preactivations(
    model: FrozenTransformer, transcoder: Transcoder, layer: int, x: np.ndarray, of: Any
) -> np.ndarray:
    weight, bias, _ = transcoder.encoder_arrays[layer]
    return read(model, transcoder, layer, x, of) @ weight.astype(np.float64).T + bias


def activations(transcoder: Transcoder, layer: int, pre: np.ndarray) -> np.ndarray:
    threshold, top = transcoder.encoder_arrays[layer].threshold, transcoder.config.top
    if top is None:
        return np.where(pre > (0.0 if threshold is None else threshold), pre, 0.0)
    pre = np.maximum(pre, 0) if top.relu else pre
    least = np.sort(pre, axis=1)[:, -top.k, None]
    return np.where(pre >= least, pre, 0.0)


@dataclass
class Case:
    model: LanguageModel
    slow: FrozenTransformer
    transcoder: Transcoder


def with_skip(transcoder: Transcoder) -> Transcoder:
    config, rng = transcoder.config, np.random.default_rng(9)
    shape = (config.num_layers, config.d_model, config.d_model)
    skips = (0.2 * rng.standard_normal(shape)).astype(np.float32)
    return replace(transcoder, config=replace(config, has_skip=True), skips=list(skips))


def make_case(folder: Any, kind: str) -> Case:
    """A CLT on a Llama, a per-layer set with thresholds and skips on a Gemma-2, a TopK."""
    model = tiny_model(folder, gemma=kind == "gemma")
    save_model(model.transformer, folder)
    if kind == "llama":
        transcoder = tiny_transcoder(model, bias=0.5)
    elif kind == "gemma":
        tiny = tiny_transcoder(model, bias=1.0, jump=True, cross_layer=False, input_site="mlp_in")
        transcoder = with_skip(tiny)
    else:
        transcoder = with_skip(
            tiny_transcoder(model, top=TopK(6, relu=False), input_site="ln2_normalized")
        )
    return Case(model, FrozenTransformer(folder), transcoder)


def near(found: Any, expected: np.ndarray, scale: float | None = None) -> None:
    largest = float(np.abs(expected).max()) if scale is None else scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(largest, 1.0))
