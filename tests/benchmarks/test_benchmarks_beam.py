"""The beam search that small circuits are compared with."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from search_helpers import Case, case

from benchmarks.studies.beam_search import beam
from pie_jax.prune.search.space import search_space

__all__ = ["case"]


@pytest.mark.slow
def test_a_beam_of_everything_finds_the_best_circuit(case: Case):
    """Against all circuits of one and two candidates; a narrow one is never better."""
    case = replace(case, space=search_space(case.inputs, 12))
    for prompt in range(case.prompts):
        real = case.real(prompt).tolist()
        every = [
            case.kls(prompt, list(itertools.combinations(real, size))).min() for size in (1, 2)
        ]
        found = list(beam(case.of(prompt), 2, len(real), len(real)))
        assert found == pytest.approx(every, abs=1e-5)
        narrow = list(beam(case.of(prompt), 2, 1, 2))
        assert all(one >= best - 1e-5 for one, best in zip(narrow, every, strict=True))
