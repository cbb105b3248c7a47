"""A task's seen prompts as batches of a search, and the same measured one pass at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from prune_helpers import SlowPrompt, forward, prepare, softmax

from pie_jax.models.loader import LanguageModel
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.search.task_wide.gains import TaskBatch
from pie_jax.prune.search.task_wide.search import TaskSearch
from pie_jax.tasks import Pair
from pie_jax.transcoders.store import Transcoder

Key = tuple[int, int]
# Of a finite difference: float32 logits give a KL to about 1e-6.
STEP = 1e-2


class SlowTask:
    """Prompts whose kept features are kept wherever they occur; KL is the mean over prompts."""

    def __init__(self, prompts: Sequence[SlowPrompt]):
        self.prompts = prompts

    def kls(self, kept: Iterable[Key]) -> list[float]:
        """Return each prompt's KL with some features kept."""
        return [_kl(prompt, set(kept)) for prompt in self.prompts]

    def kl(self, kept: Iterable[Key]) -> float:
        """Return the mean of `kls`."""
        return float(np.mean(self.kls(kept)))

    def gain(self, kept: set[Key], of: Key) -> float:
        """Return by how much keeping more of a feature lowers the mean KL, as a slope."""
        return float(np.mean([_slope(p, kept, _where(p, of)) for p in self.prompts]))

    def size(self, kept: set[Key], of: Key) -> float:
        """Return the mean over prompts of the summed magnitudes of occurrences' slopes."""
        each = [sum(abs(_slope(p, kept, [n])) for n in _where(p, of)) for p in self.prompts]
        return float(np.mean(each))


def _keys(prompt: SlowPrompt) -> list[Key]:
    return list(zip(prompt.layer, prompt.feature, strict=True))


def _where(prompt: SlowPrompt, of: Key) -> list[int]:
    return [n for n, key in enumerate(_keys(prompt)) if key == of]


def _slope(prompt: SlowPrompt, kept: set[Key], some: list[int]) -> float:
    """Return the slope of -KL in the share to which some occurrences, all kept or none, are."""
    if not some:
        return 0.0
    at = 1.0 if _keys(prompt)[some[0]] in kept else 0.0
    down, up = (_kl(prompt, kept, some, at + step) for step in (-STEP, STEP))
    return (down - up) / (2 * STEP)


def _kl(prompt: SlowPrompt, kept: set[Key], some: Sequence[int] = (), share: float = 0.0) -> float:
    gone = [n for n, key in enumerate(_keys(prompt)) if key not in kept and n not in some]
    change = prompt.removal(gone) + prompt.removal(some, 1.0 - share)
    logits = forward(prompt.model, prompt.tokens, jnp.asarray(change, jnp.float32))[prompt.last]
    p, q = softmax(prompt.clean_logits), softmax(np.asarray(logits, np.float64))
    return float(np.sum(p * (np.log(p) - np.log(q))))


@dataclass(eq=False)
class Task:
    """A search over pairs in batches of `size`, its features, and the slow version."""

    search: TaskSearch
    batches: list[TaskBatch]
    keys: list[Key]
    slow: SlowTask

    def features(self, mask: np.ndarray) -> set[Key]:
        """Return the features of one mask [U]."""
        return {self.keys[u] for u in np.flatnonzero(mask)}

    def mask(self, kept: Iterable[Key]) -> np.ndarray:
        """Return the mask [U] of some features."""
        return np.isin(np.arange(len(self.keys)), [self.keys.index(key) for key in kept]) * 1.0


def make_task(
    model: LanguageModel,
    transcoder: Transcoder,
    pairs: Sequence[Pair],
    options: PruneOptions,
    size: int,
    keys: Sequence[Key] | None = None,
) -> Task:
    """Return a search over all features that change, or over those of `keys`."""
    parts = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    inputs = [prepare(model, transcoder, part, options) for part in parts]
    found: dict[Key, bool] = {}
    slots = []
    for one in inputs:
        at, live = one.occurrences, one.occurrences.delta.any(axis=1) & one.occurrences.valid
        for b, n in zip(*np.nonzero(live), strict=True):
            key = (int(at.layer[b, n]), int(at.feature[b, n]))
            found[key] = found.get(key, False) or bool(at.clean[b, n] > 0)
    names = sorted(found if keys is None else keys)
    for one in inputs:
        at = one.occurrences
        rows = zip(at.layer.ravel().tolist(), at.feature.ravel().tolist(), strict=True)
        slot = np.array([names.index(key) if key in names else -1 for key in rows])
        slots.append(np.where(at.valid, slot.reshape(at.layer.shape), -1))
    batches = [
        TaskBatch(one, slot, len(part))
        for one, slot, part in zip(inputs, slots, parts, strict=True)
    ]
    active = np.array([found.get(key, False) for key in names])
    slow = [SlowPrompt(one, transcoder, b) for one in inputs for b in range(len(one.rows))]
    search = TaskSearch(batches, len(pairs), active, options)
    return Task(search, batches, names, SlowTask(slow))
