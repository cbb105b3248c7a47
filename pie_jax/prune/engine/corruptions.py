"""The corruptions that a circuit is found on, and those that it is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.options import PruneOptions
from pie_jax.tasks.encode import EncodedPair
from pie_jax.tasks.more_corruptions import with_more_corruptions


def seen_count(corruptions: int) -> int:
    """Return how many of the corruptions are found on where the rest is kept aside: half, rounded
    up."""
    return (corruptions + 1) // 2


def seen_and_held_out(inputs: BatchEvaluator) -> tuple[BatchEvaluator, BatchEvaluator]:
    """Return what the methods see and what judges them, over the same occurrences.

    Both the corrupted versions that are given for `--judge-corruptions same`; for `unseen` the
    first half of them, and the others. Versions that were made come in between, and judge nothing.
    """
    options, versions = inputs.options, inputs.occurrences.corrupted.shape[1]
    more = options.more_corruptions
    if options.judge_corruptions == "same":
        return inputs, inputs if more == 0 else only(inputs, slice(0, versions - more))
    seen = seen_count(versions - more) + more
    return only(inputs, slice(0, seen)), only(inputs, slice(seen, versions))


def extended(pairs: Sequence[EncodedPair], options: PruneOptions, source: str) -> list[EncodedPair]:
    """Return pairs with the corrupted versions that `more_corruptions` asks for. Raises
    `InputError` where they cannot be made."""
    if options.more_corruptions == 0:
        return list(pairs)
    given = len(pairs[0].corrupted)
    of = given if options.judge_corruptions == "same" else seen_count(given)
    return with_more_corruptions(
        pairs, options.more_corruptions, of=of, seed=options.seed, source=source
    )


def only(inputs: BatchEvaluator, use: slice) -> BatchEvaluator:
    """Return a batch with some of its corruptions, over the same occurrences."""
    problem = inputs.problem._replace(delta=inputs.problem.delta[:, use])
    occurrences = replace(inputs.occurrences, corrupted=inputs.occurrences.corrupted[:, use])
    return BatchEvaluator(problem, inputs.prompts, occurrences, inputs.rows, inputs.options)


def rest_at_zero(inputs: BatchEvaluator) -> BatchEvaluator:
    """Return what judges where removing an occurrence takes it to zero instead of to its corrupted
    activation.

    What is active before the window, where no corruption changes anything, is removed too: prompts
    are run whole.
    """
    found, problem = inputs.occurrences, inputs.problem
    clean = found.clean[:, None]
    whole = problem._replace(
        prompt=inputs.prompts,
        writes=problem.writes._replace(position=inputs.put(found.position)),
        delta=inputs.put(clean),
        before=jnp.zeros_like(problem.before),
        window=None,
    )
    at_zero = replace(found, corrupted=np.zeros_like(clean))
    return BatchEvaluator(whole, inputs.prompts, at_zero, inputs.rows, inputs.options)
