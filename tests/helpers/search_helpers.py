"""A small search space beside the slow prompts that say what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import SlowPrompt, prepare, tiny_model, tiny_pairs, tiny_transcoder

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.search.space import (
    Space,
    change_of,
    circuit_kl,
    loss_and_gain,
    loss_at,
    search_space,
)
from pie_jax.transcoders.store import Transcoder

# The largest circuit of a test.
MOST = 16


@jax.jit
def _kls(space: Space, members: jax.Array) -> jax.Array:
    return jax.lax.map(partial(circuit_kl, space), members)


@jax.jit
def _loss_of_shares(space: Space, members: jax.Array, share: jax.Array) -> jax.Array:
    return loss_at(space, change_of(space, members, share))[0]


_loss_and_gain = jax.jit(loss_and_gain)


@dataclass(eq=False)
class Case:
    """Two prompts, their candidates, and how to measure one circuit of one of them."""

    inputs: BatchEvaluator
    transcoder: Transcoder
    space: Space

    @property
    def prompts(self) -> int:
        return len(self.inputs.rows)

    def of(self, prompt: int) -> Space:
        return Space(self.space.model, *jax.tree.map(lambda x: x[prompt], tuple(self.space[1:])))

    def real(self, prompt: int) -> np.ndarray:
        """Return the places of candidates that are no padding."""
        return np.flatnonzero(np.asarray(self.space.occurrence[prompt]) >= 0)

    def kl(self, prompt: int, members: Sequence[int]) -> float:
        return float(self.kls(prompt, [members])[0])

    def kls(self, prompt: int, circuits: Sequence[Sequence[int]]) -> np.ndarray:
        return np.asarray(_kls(self.of(prompt), jnp.asarray(padded(circuits))))

    def loss_with_share(
        self, prompt: int, members: Sequence[int], index: int, share: float
    ) -> float:
        """Return the loss where one more candidate is kept to a share of its change, or a member to
        that much more."""
        wide = padded([[*members, index]])[0]
        shares = np.where(np.arange(MOST) == len(members), share, 1.0)
        return float(_loss_of_shares(self.of(prompt), jnp.asarray(wide), jnp.asarray(shares)))

    def loss_and_gain(self, prompt: int, members: Sequence[int]) -> tuple[float, np.ndarray]:
        """Return the loss, which is KL where the complement has no weight, and all gains."""
        loss, _, gain = _loss_and_gain(self.of(prompt), jnp.asarray(padded([members])))
        return float(loss[0]), np.asarray(gain[0])

    def kl_beside_loss(self, prompt: int, members: Sequence[int]) -> float:
        """Return the KL that is measured together with the loss."""
        return float(_loss_and_gain(self.of(prompt), jnp.asarray(padded([members])))[1][0])

    def slow_kl(self, prompt: int, members: Sequence[int]) -> float:
        """Return the KL with only these candidates, one slow pass of the whole prompt."""
        slow = SlowPrompt(self.inputs, self.transcoder, prompt)
        kept = set(np.asarray(self.space.occurrence[prompt])[list(members)].tolist())
        return slow.kl([n for n in range(slow.count) if n not in kept])


def padded(circuits: Sequence[Sequence[int]]) -> np.ndarray:
    """Return members [S, MOST] of circuits of candidates, -1 for none."""
    out = np.full((len(circuits), MOST), -1, np.int32)
    for row, members in zip(out, circuits, strict=True):
        row[: len(members)] = members
    return out


def listed(members: jax.Array) -> list[list[int]]:
    """Return circuits as sorted lists."""
    return [sorted(row[row >= 0].tolist()) for row in np.asarray(members)]


@pytest.fixture(scope="module", params=["llama", "gemma"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A model without post-norms and sliding windows, and one with them."""
    gemma = request.param == "gemma"
    model = tiny_model(tmp_path_factory.mktemp("tiny"), gemma=gemma)
    transcoder = tiny_transcoder(model, bias=0.0)
    inputs = prepare(model, transcoder, tiny_pairs([12, 10], seed=4), PruneOptions())
    return Case(inputs, transcoder, search_space(inputs, 4096))
