"""Second-order interactions against finite differences of removals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import forward, prepare, tiny_model, tiny_pairs, tiny_transcoder

from pie_jax.prune.methods.fap_hvp import interactions
from pie_jax.prune.options import PruneOptions


def test_interactions_equal_finite_differences(tmp_path):
    model = tiny_model(tmp_path / "model")
    transcoder, pairs = tiny_transcoder(model), tiny_pairs([12, 10], seed=4)
    inputs = prepare(model, transcoder, pairs, PruneOptions())
    problem = prepare(model, transcoder, pairs, PruneOptions(plain=True)).problem
    size = np.abs(inputs.occurrences.delta[:, 0])
    partners = np.argsort(-size, axis=1)[:, :3].astype(np.int32)
    partners[0, 2] = -1
    found = np.asarray(interactions(inputs.problem, jnp.asarray(partners), inputs.metric))
    assert not found[0, 2].any()
    step = 0.05
    largest = 0.0
    for b in range(2):
        one = problem._replace(
            prompt=jax.tree.map(lambda x: x[b], problem.prompt),  # noqa: B023
            writes=jax.tree.map(lambda x: x[b], problem.writes),  # noqa: B023
        )
        delta = problem.delta[b, 0]
        last = int(problem.prompt.length[b]) - 1
        answers = [int(problem.prompt.target[b]), int(problem.prompt.distractor[b])]

        def metric(first, second, one=one, delta=delta, b=b, last=last, answers=answers):
            """Return the metric with shares of two occurrences removed."""
            change = sum(share * one.removed(delta, jnp.array([n])) for n, share in (first, second))
            logits = forward(model.transformer, problem.prompt.tokens[b], change)[last]
            return float(logits[answers[0]] - logits[answers[1]])

        for row, p in enumerate(partners[b]):
            if p < 0:
                continue
            strongest = np.argsort(-np.abs(found[b, row]))[:3]
            for n in strongest:
                signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
                each = [s * t * metric((p, s * step), (n, t * step)) for s, t in signs]
                # eff falls where the metric rises.
                slope = -sum(each) / (4 * step**2)
                assert found[b, row, n] == pytest.approx(slope, rel=0.05, abs=5e-3)
                largest = max(largest, abs(slope))
    assert largest > 0.02
