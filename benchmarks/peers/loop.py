"""The published procedure as a straightforward PyTorch loop: one prompt, one candidate at a time.

Shapes: T positions, L layers, D model, F features, N occurrences, K budget.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.llama import Llama, Run, read_transcoder
from pie_jax.prune.options import SynergyOptions
from pie_jax.tasks.encode import EncodedPair


class Found(NamedTuple):
    """The occurrences of a pair: `key` [N, 3] layer, position, feature; activations [N]."""

    key: Tensor
    clean: Tensor
    corrupted: Tensor

    @property
    def delta(self) -> Tensor:
        """Return the change of activation that removal undoes, [N]."""
        return self.clean - self.corrupted


class Attributed(NamedTuple):
    """A pair's occurrences with their decoder rows [N, L, D] and scores [N]."""

    found: Found
    rows: Tensor
    score: Tensor


class Loop:
    """Model and transcoder in memory, and each step for one pair; metric: the logit difference."""

    def __init__(self, folder: Path):
        self.model = Llama(folder / "model")
        self.layers = self.model.config.num_layers
        self.encoders, self.decoders = read_transcoder(folder / "transcoder", self.layers)
        self.forwards = 0

    def attribute(self, pair: EncodedPair, rows: Callable[[Loop, Tensor], Tensor]) -> Attributed:
        """Encode both prompts, twice each as published, and score every occurrence."""
        tokens = [torch.tensor(ids) for ids in (pair.clean, pair.corrupted[0])]
        for ids in tokens:
            self.activations(ids)
        found = self._union(*(self.activations(ids) for ids in tokens))
        aligned = rows(self, found.key)
        gradient = self.gradient(pair).transpose(0, 1)[found.key[:, 1]]
        score = found.delta * torch.einsum("nld,nld->n", aligned, gradient)
        return Attributed(found, aligned, score)

    def activations(self, tokens: Tensor) -> Tensor:
        """Return the features' activations, [L, T, F]; BOS has none."""
        read = self._run(tokens).resid_mid
        layers = []
        for x, encoder in zip(read, self.encoders, strict=True):
            before = torch.addmm(encoder.bias, x, encoder.weight.T)
            layers.append(torch.where(before > encoder.threshold, before, 0.0))
        activations = torch.stack(layers)
        activations[:, 0] = 0.0
        return activations

    def gradient(self, pair: EncodedPair) -> Tensor:
        """Return the metric's frozen gradient by the MLP outputs of the clean run, [L, T, D]."""
        shape = (self.layers, len(pair.clean), self.model.config.d_model)
        change = torch.zeros(shape, requires_grad=True)
        run = self.model(torch.tensor(pair.clean), change, freeze=True)
        return torch.autograd.grad(_metric(run, pair), change)[0]

    def removed(self, pair: EncodedPair, of: Attributed, members: list[int]) -> float:
        """Return the metric of the clean prompt with some occurrences removed: one forward pass."""
        run = self._run(torch.tensor(pair.clean), self._change(pair, of, torch.tensor(members)))
        return float(_metric(run, pair))

    def kls(self, pair: EncodedPair, of: Attributed, budgets: tuple[int, ...]) -> list[float]:
        """Return KL(clean || circuit) in nats at the last position, the K largest scores kept."""
        tokens = torch.tensor(pair.clean)
        clean = self._run(tokens).logits[-1].log_softmax(-1)
        order, kls = _order(of.score), []
        for budget in budgets:
            run = self._run(tokens, self._change(pair, of, order[budget:]))
            changed = run.logits[-1].log_softmax(-1)
            kls.append(float((clean.exp() * (clean - changed)).sum()))
        return kls

    def synergy(
        self,
        pair: EncodedPair,
        of: Attributed,
        budget: int,
        options: SynergyOptions,
        draws: np.random.Generator,
    ) -> list[int]:
        """Return the kept set: a forward pass for each candidate, partner and pair of the two."""
        order = _order(of.score).tolist()
        half = round(options.boundary_percent / 100 * budget * 0.5)
        core, partners = order[: budget - half], order[: budget - half][: options.partners]
        boundary = order[budget - half : budget + half][: options.boundary_cap]
        usual = of.score[order[:budget]].abs().median()
        metric = float(_metric(self._run(torch.tensor(pair.clean)), pair))
        effect = {p: metric - self.removed(pair, of, [p]) for p in partners}
        usual_effect = float(np.median(np.abs(list(effect.values()))))
        boost = {}
        for candidate in boundary:
            alone = metric - self.removed(pair, of, [candidate])
            met = draws.permutation(len(partners))[: options.partners_per_candidate]
            synergies = []
            for partner in (partners[i] for i in met):
                if alone > 0 and effect[partner] > 0:
                    both = metric - self.removed(pair, of, [candidate, partner])
                    synergies.append(both - alone - effect[partner])
            together = max(0.0, float(np.median(synergies))) if synergies else 0.0
            own = float(of.score[candidate].abs() / usual)
            boost[candidate] = own + options.weight * together / usual_effect
        best = sorted(boundary, key=lambda candidate: -boost[candidate])
        kept = core + best[: budget - len(core)]
        rest = [n for n in order if n not in set(kept)]
        return kept + rest[: budget - len(kept)]

    @torch.no_grad()
    def _run(self, tokens: Tensor, change: Tensor | None = None) -> Run:
        self.forwards += 1
        return self.model(tokens, change)

    def _change(self, pair: EncodedPair, of: Attributed, members: Tensor) -> Tensor:
        """Return the `mlp_delta` [L, T, D] that removes some occurrences."""
        change = torch.zeros(len(pair.clean), self.layers, self.model.config.d_model)
        written = of.found.delta[members, None, None] * of.rows[members]
        change.index_add_(0, of.found.key[members, 1], written, alpha=-1)
        return change.transpose(0, 1)

    def _union(self, clean: Tensor, corrupted: Tensor) -> Found:
        key = ((clean > 0) | (corrupted > 0)).nonzero()
        return Found(key, clean[tuple(key.T)], corrupted[tuple(key.T)])


def rows_one_by_one(loop: Loop, key: Tensor) -> Tensor:
    """Align decoder rows to [N, L, D] through a dictionary, a row at a time, as published."""
    rows = {}
    for layer, position, feature in key.tolist():
        for target in range(layer, loop.layers):
            row = loop.decoders[layer][feature, target - layer]
            rows[layer, position, feature, target] = row
    aligned = torch.zeros(len(key), loop.layers, loop.model.config.d_model)
    for n, (layer, position, feature) in enumerate(key.tolist()):
        for target in range(layer, loop.layers):
            aligned[n, target] = rows[layer, position, feature, target]
    return aligned


def rows_by_layer(loop: Loop, key: Tensor) -> Tensor:
    """Align decoder rows to [N, L, D] with one gather a layer: what a careful loop would do."""
    aligned = torch.zeros(len(key), loop.layers, loop.model.config.d_model)
    for layer, decoder in enumerate(loop.decoders):
        here = key[:, 0] == layer
        aligned[here, layer:] = decoder[key[here, 2]]
    return aligned


def _metric(run: Run, pair: EncodedPair) -> Tensor:
    return run.logits[-1, pair.target_id] - run.logits[-1, pair.distractor_id]


def _order(score: Tensor) -> Tensor:
    return score.abs().argsort(descending=True, stable=True)
