"""Search for the features of a whole task.

A circuit is a mask over the U features that a corruption changes on any seen prompt. Each step goes
over all seen prompts: one gradient a prompt and circuit.

Shapes: U features, P seen prompts, S budgets, F parts of the prompts, searched side
by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.search.grow import largest, stage_ends
from pie_jax.prune.search.learn import PATIENCE, optimiser, unit, warm_logits
from pie_jax.prune.search.task_wide.gains import TaskBatch, batch_gains, batch_kl

# Parts of the seen prompts that are kept aside in turn.
FOLDS = 4


class _Measured(NamedTuple):
    """Means over the used prompts: `kl` [F, S] in nats, `gain` and `size` [F, S, U]."""

    kl: np.ndarray
    gain: np.ndarray
    size: np.ndarray


class _Path(NamedTuple):
    """The circuits of the budgets on the path from nothing, `grown` [F, S, U]; the means on it of
    gains, `worth` [F, U], and of their magnitudes, `size` [F, U]."""

    grown: np.ndarray
    worth: np.ndarray
    size: np.ndarray


class TaskSearch:
    """The searches over a task's seen prompts, each run once; several methods share them.

    `batches` goes over the P = `prompts` seen ones, as often as asked; `active` [U] says which
    features the clean run has.
    """

    def __init__(
        self, batches: Iterable[TaskBatch], prompts: int, active: np.ndarray, options: PruneOptions
    ):
        self.active, self.budgets, self.seed = active, options.budgets, options.seed
        self._batches, self._options = batches, options.search
        self._every = np.ones((1, prompts), bool)

    def measured(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean KL [S] of masks [S, U], nats, and every feature's mean gain there [S, U]:
        by how much keeping it lowers KL to first order, or dropping a member raises it."""
        found = self._measure(mask[None], self._every)
        return found.kl[0], found.gain[0]

    def grown(self) -> np.ndarray:
        """Return the circuits [S, U] grown from nothing: each stage adds the largest gains."""
        return self._path.grown[0]

    def learned(self, warm: bool) -> np.ndarray:
        """Return learned circuits [S, U], from the grown ones or from what features are worth."""
        return self._learn(self._every, self._path, warm=warm)[0]

    def chosen(self) -> np.ndarray:
        """Return for every budget the better of three circuits, [S, U]: the grown one, one learned
        from what features are worth, and that of the largest magnitudes on the path.

        Each is found four times without a quarter of the prompts, on which its KL is then taken: KL
        on the prompts that a circuit was found on favours what fits them alone.
        """
        found = self._candidates(self._every, self._path)
        folds = np.arange(self._every.shape[1]) % FOLDS
        use = np.stack([folds != fold for fold in np.unique(folds)])
        if len(use) == 1:
            kl = np.stack([self.measured(mask[0])[0] for mask in found])
        else:
            tried = self._candidates(use, self._grow(use))
            kl = np.stack([self._kl(mask, ~use).mean(axis=0) for mask in tried])
        best = np.argmin(kl, axis=0)
        return np.stack([found[one][0, s] for s, one in enumerate(best)])

    def _candidates(self, use: np.ndarray, path: _Path) -> list[np.ndarray]:
        """Return three circuits [F, S, U] of every budget."""
        sizes = np.broadcast_to(path.size[:, None], path.grown.shape)
        return [path.grown, self._learn(use, path, warm=False), self._largest(sizes)]

    @cached_property
    def _path(self) -> _Path:
        return self._grow(self._every)

    def _grow(self, use: np.ndarray) -> _Path:
        """Grow a circuit over the prompts of each part, `use` [F, P]."""
        ends = stage_ends(self.budgets, self._options.stages)
        mask = np.zeros((len(use), len(self.active)), np.float32)
        masks, steps = {}, []
        for end in ends:
            found = self._measure(mask[:, None], use)
            steps.append((found.gain[:, 0], found.size[:, 0]))
            free = np.where(mask > 0, np.inf, found.gain[:, 0])
            mask = np.asarray(_most(free, np.full(len(use), end)))
            masks[end] = mask
        worth, size = np.mean(steps, axis=0)
        return _Path(np.stack([masks[budget] for budget in self.budgets], axis=1), worth, size)

    def _learn(self, use: np.ndarray, path: _Path, *, warm: bool) -> np.ndarray:
        """Return the best circuits [F, S, U] seen on the way, as `learn` does for one prompt."""
        start = path.grown if warm else np.zeros_like(path.grown)
        logits = jnp.asarray(warm_logits(start, path.worth))
        moves = optimiser(self._options.steps)
        state, stale = moves.init(logits), 0
        best, least = np.zeros_like(start), np.full(start.shape[:2], np.inf, np.float32)
        for _ in range(self._options.steps):
            mask = self._largest(np.asarray(logits))
            found = self._measure(mask, use)
            better = found.kl < least
            best, least = np.where(better[..., None], mask, best), np.minimum(found.kl, least)
            stale = 0 if better.any() else stale + 1
            if stale == PATIENCE:
                break
            update, state = moves.update(jax.vmap(unit)(jnp.asarray(found.gain)), state)
            logits = logits + self._options.rate * update
        return best

    def _largest(self, score: np.ndarray) -> np.ndarray:
        """Return the masks of the K largest of scores [F, S, U] for every budget."""
        flat = score.reshape(-1, score.shape[-1])
        return np.asarray(_most(flat, np.tile(self.budgets, len(score)))).reshape(score.shape)

    def _measure(self, mask: np.ndarray, use: np.ndarray) -> _Measured:
        """Measure masks [F, S, U] over the prompts of each part, `use` [F, P]."""
        gain, size = np.zeros(mask.shape), np.zeros(mask.shape)
        kl = np.zeros((*mask.shape[:2], use.shape[1]))
        start = 0
        for batch in self._batches:
            here = slice(start, start + batch.real)
            for part in range(len(mask)):
                found = batch_gains(batch, mask[part], use[part, here])
                gain[part] += found.gain
                size[part] += found.size
                kl[part, :, here] = found.kl.T
            start += batch.real
        count = use.sum(axis=1)[:, None]
        mean = (kl * use[:, None]).sum(axis=2) / count
        sums = (mean, gain / count[..., None], size / count[..., None])
        return _Measured(*(one.astype(np.float32) for one in sums))

    def _kl(self, mask: np.ndarray, use: np.ndarray) -> np.ndarray:
        """Return the mean KL [F, S] of masks [F, S, U] over the prompts of each part."""
        rows = [
            np.stack([batch_kl(batch, part) for part in mask]).swapaxes(1, 2)
            for batch in self._batches
        ]
        kl = np.concatenate(rows, axis=2)
        return (kl * use[:, None]).sum(axis=2) / use.sum(axis=1)[:, None]


@program()
def _most(score: Float[Array, "S U"], sizes: Int[Array, " S"]) -> Float[Array, "S U"]:
    return jax.vmap(largest)(score, sizes)
