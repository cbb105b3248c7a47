"""Task-level circuits: unique features, found on half of the pairs, judged on both halves."""

from __future__ import annotations

import numpy as np
import pytest
from prune_helpers import prepare, tiny_model, tiny_pairs, tiny_transcoder

from pie_jax.errors import InputError
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.task_scope import feature_keys, task_circuits, task_kl

OPTIONS = PruneOptions(methods=("fap", "random"), budgets=(5,), batch_size=2)
PAIRS = tiny_pairs([12, 10, 12, 11], seed=4)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory):
    model = tiny_model(tmp_path_factory.mktemp("tiny"))
    return model, tiny_transcoder(model)


def test_a_task_circuit_is_the_largest_summed_scores_of_the_seen_half(case):
    fap, drawn = task_circuits(*case, PAIRS, OPTIONS)
    inputs = prepare(*case, PAIRS[0::2], OPTIONS)
    sums: dict[int, float] = {}
    scores, keys = inputs.attribution("frozen"), feature_keys(inputs)
    for b, count in enumerate(inputs.occurrences.count):
        for n in range(count):
            key = int(keys[b, n])
            sums[key] = sums.get(key, 0.0) + abs(float(scores[b, n]))
    best = sorted(sums, key=lambda key: -sums[key])[:5]
    assert fap.features == [divmod(key, 1 << 32) for key in best]
    assert fap.seen is not None
    assert fap.unseen is not None
    for half, mean in ((PAIRS[0::2], fap.seen), (PAIRS[1::2], fap.unseen)):
        kl = task_kl(prepare(*case, half, OPTIONS), np.array(best))
        assert mean.mean == pytest.approx(float(kl.mean()), abs=1e-4)
        assert mean.n == 2
    # Two prompts of five occurrences each.
    assert 5 <= drawn.union <= 10


def test_all_features_kept_are_the_clean_model(case):
    inputs = prepare(*case, PAIRS[:2], OPTIONS)
    np.testing.assert_allclose(task_kl(inputs, feature_keys(inputs)), 0, atol=1e-5)


def test_one_pair_is_refused(case):
    with pytest.raises(InputError, match="at least 2 pairs"):
        task_circuits(*case, PAIRS[:1], OPTIONS)
