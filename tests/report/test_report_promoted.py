"""Tokens that features promote, against a slow loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import Reference

from pie_jax.features.promoted import direct_effects, promoted_tokens

TOLERANCE = 1e-5


def _slow_effects(reference: Reference, direction: np.ndarray) -> np.ndarray:
    """Return the logit that a direction [D] adds to every token, in float64."""
    model = reference.model.transformer
    table = np.asarray((model.unembedding or model.embedding)[...], np.float64)
    weight = np.asarray(model.final_norm.weight[...], np.float64)
    effects = np.zeros(len(table))
    for token, row in enumerate(table):
        for d, unembed in enumerate(row):
            effects[token] += direction[d] * (weight[d] + model.final_norm.offset) * unembed
    return effects


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("per_target", [False, True])
def test_equals_a_slow_loop(
    reference: Callable[[str], Reference], family: str, per_target: bool
) -> None:
    tiny = reference(family)
    features = [(1, 5), (0, 3), (tiny.model.config.num_layers - 1, 7)]
    found = promoted_tokens(tiny.model, tiny.transcoder, features, top=4, per_target=per_target)
    expected = []
    for layer, feature in features:
        rows = np.asarray(tiny.transcoder.decoder_maps[layer][feature], np.float64)
        targets = list(enumerate(rows, layer)) if per_target else [(None, rows.sum(axis=0))]
        expected += [(layer, feature, target, row) for target, row in targets]
    assert [entry[:3] for entry in found] == [entry[:3] for entry in expected]
    for entry, (*_, direction) in zip(found, expected, strict=True):
        effects = _slow_effects(tiny, direction)
        order = np.argsort(effects)
        assert [t.token for t in entry.promoted] == list(order[::-1][:4])
        assert [t.token for t in entry.suppressed] == list(order[:4])
        for token in (*entry.promoted, *entry.suppressed):
            assert token.effect == pytest.approx(effects[token.token], abs=TOLERANCE)
            assert token.text == tiny.model.tokenizer.token(token.token)


def test_any_number_of_features_compiles_once(reference: Callable[[str], Reference]) -> None:
    tiny = reference("llama")
    features = [(0, i) for i in range(150)]
    many = promoted_tokens(tiny.model, tiny.transcoder, features, top=3)
    before = direct_effects.count()
    alone = [promoted_tokens(tiny.model, tiny.transcoder, [f], top=3)[0] for f in features[::50]]
    assert direct_effects.count() == before
    assert [one.promoted for one in many[::50]] == [one.promoted for one in alone]


def test_more_tokens_than_the_vocabulary_holds(reference: Callable[[str], Reference]) -> None:
    tiny = reference("llama")
    found = promoted_tokens(tiny.model, tiny.transcoder, [(0, 0)], top=10**6)[0]
    assert len(found.promoted) == tiny.model.config.vocab_size
    assert promoted_tokens(tiny.model, tiny.transcoder, []) == []
