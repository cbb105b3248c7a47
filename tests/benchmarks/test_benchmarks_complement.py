"""What is left without a circuit, against slow passes of whole prompts."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import SlowPrompt, softmax
from search_helpers import Case, case, padded

from benchmarks.studies.complement import complement_kl
from pie_jax.prune.search.space import with_complement

__all__ = ["case"]


@pytest.mark.slow
def test_what_is_left_is_compared_with_nothing_kept(case: Case):
    space = with_complement(case.inputs, case.space)
    some = np.stack([padded([[], case.real(prompt)[:3]]) for prompt in range(case.prompts)])
    found = np.asarray(complement_kl(space, jnp.asarray(some)))
    for prompt in range(case.prompts):
        slow = SlowPrompt(case.inputs, case.transcoder, prompt)
        null = softmax(slow.logits(range(slow.count)))
        for at, members in enumerate(([], case.real(prompt)[:3])):
            kept = np.asarray(case.space.occurrence[prompt])[np.asarray(members, int)].tolist()
            left = softmax(slow.logits(kept))
            expected = np.sum(null * (np.log(null) - np.log(left)))
            assert found[prompt, at] == pytest.approx(expected, abs=1e-3)
