"""ACDC-style sequential ablation, as PIE's baseline has it (after arXiv 2304.14997).

Occurrences are visited from the last layer to the first; one is removed for good when the
running KL(clean || current) rises by less than tau. Tau is bisected to reach each budget.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.mesh import fetch
from pie_jax.devices.programs import program
from pie_jax.devices.shapes import multiple
from pie_jax.prune.batch.metrics import last_logits
from pie_jax.prune.batch.problem import Problem, over_prompts
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.kl import kl_at_last
from pie_jax.prune.engine.selection import PADDING, Selection, pad, with_scores
from pie_jax.prune.methods.base import Method

# Nats; the budget's tau is looked for between these, on a log scale.
_LOW, _HIGH = 1e-9, 1e2


@program()
def sweep(
    problem: Problem, blocks: Int[Array, "B J block"], tau: Float[Array, "B Q"]
) -> Float[Array, "B Q J block"]:
    """Return by how much KL rose at each candidate's test; below tau it was removed.

    A block's candidates are tested side by side against the same running state; a block of one
    is the exact algorithm. J blocks, Q thresholds.
    """

    def one(problem: Problem, blocks: Array, taus: Array) -> Float[Array, "Q J block"]:
        clean = last_logits(problem.model, problem.clean(), problem.prompt)

        def removed(members: Array) -> Float[Array, "M L W D"]:
            return jax.vmap(lambda delta: problem.removed(delta, members))(problem.delta)

        def kl(mlp_delta: Float[Array, "M L W D"]) -> Array:
            return jax.vmap(lambda each: kl_at_last(problem, clean, each))(mlp_delta).mean()

        def run(tau):
            def visit(state, members):
                # The running state is measured beside the candidates: one pass a block.
                tests = jax.vmap(lambda member: state + removed(member[None]))(members)
                values = jax.vmap(kl)(jnp.concatenate([state[None], tests]))
                rise = jnp.where(members >= 0, values[1:] - values[0], jnp.inf)
                gone = jnp.where(rise < tau, members, PADDING)
                return state + removed(gone), rise

            start = jnp.zeros((problem.delta.shape[0], *problem.no_change().shape), jnp.float32)
            return jax.lax.scan(visit, start, blocks)[1]

        return jax.lax.map(run, taus)

    return over_prompts(one, problem, blocks, tau)


def select(inputs: BatchEvaluator, budgets: tuple[int, ...]) -> list[Selection]:
    """Bisect tau for every budget of every prompt at once; the nearest set from below is kept.

    Where no tau leaves exactly K, those whose test raised KL most fill up, or are all that stays.
    """
    options, counts = inputs.options.acdc, inputs.occurrences.count
    visits = _visiting_order(inputs, options.block)
    low = np.full((len(counts), len(budgets)), np.log(_LOW))
    high = np.full_like(low, np.log(_HIGH))
    size = inputs.occurrences.layer.shape[1]
    best = np.full((*low.shape, size), -np.inf, np.float32)
    nearest = np.full(low.shape, 2 * size)
    wanted = np.array(budgets)
    for _ in range(options.bisections):
        tau = np.exp((low + high) / 2)
        rise = _rises(inputs, visits, tau, size)
        kept = (rise >= tau[..., None]).sum(-1)
        fits = kept <= wanted
        # The largest set within the budget; where every tau leaves more, the smallest of those.
        distance = np.where(fits, wanted - kept, size + kept - wanted)
        better = distance < nearest
        best[better], nearest[better] = rise[better], distance[better]
        high = np.where(fits, (low + high) / 2, high)
        low = np.where(fits, low, (low + high) / 2)
    return [_fill(best[:, j], counts, budget) for j, budget in enumerate(budgets)]


def _visiting_order(inputs: BatchEvaluator, block: int) -> np.ndarray:
    valid = inputs.occurrences.valid
    size = multiple(valid.shape[1], block)
    visits = np.full((len(valid), size), PADDING, np.int32)
    for b, count in enumerate(inputs.occurrences.count):
        visits[b, :count] = np.arange(count)[::-1]
    return visits.reshape(len(valid), -1, block)


def _rises(inputs: BatchEvaluator, visits: np.ndarray, tau: np.ndarray, size: int) -> np.ndarray:
    """Return each occurrence's rise of KL, [B, J, N]; -inf for padding."""
    result = sweep(inputs.problem, inputs.put(visits), inputs.put(tau.astype(np.float32)))
    flat = fetch(result).reshape(*tau.shape, -1)
    rise = np.full((*tau.shape, size), -np.inf, np.float32)
    for b, visited in enumerate(visits.reshape(len(visits), -1)):
        real = visited >= 0
        rise[b][:, visited[real]] = flat[b][:, real]
    return rise


def _fill(rise: np.ndarray, counts: np.ndarray, budget: int) -> Selection:
    kept = [
        pad(np.argsort(-row[:count], kind="stable")[:budget], budget)
        for row, count in zip(rise, counts, strict=True)
    ]
    return with_scores(np.stack(kept), rise)


METHOD = Method("acdc", "Sequential ablation with a bisected threshold", select=select)
