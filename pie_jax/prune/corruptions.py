"""Which corrupted versions a circuit is found on, and which it is judged on."""

from __future__ import annotations

from dataclasses import replace

from pie_jax.prune.inputs import PruneInputs


def seen_count(corruptions: int) -> int:
    """Return how many of the corruptions are found on where the rest is kept aside: half, rounded
    up."""
    return (corruptions + 1) // 2


def found_and_judged(inputs: PruneInputs) -> tuple[PruneInputs, PruneInputs]:
    """Return what the methods see and what judges them, over the same occurrences.

    The same for `--judge-corruptions same`; for `unseen` the first half of the corrupted versions
    and the others.
    """
    if inputs.options.judge_corruptions == "same":
        return inputs, inputs
    corruptions = inputs.occurrences.corrupted.shape[1]
    seen = seen_count(corruptions)
    return _only(inputs, slice(0, seen)), _only(inputs, slice(seen, corruptions))


def _only(inputs: PruneInputs, use: slice) -> PruneInputs:
    problem = inputs.problem._replace(delta=inputs.problem.delta[:, use])
    occurrences = replace(inputs.occurrences, corrupted=inputs.occurrences.corrupted[:, use])
    return PruneInputs(problem, inputs.prompts, occurrences, inputs.rows, inputs.options)
