"""Generation with changes and a cache equals whole uncached runs; draws can be repeated."""

from __future__ import annotations

import numpy as np
import pytest
from intervene_helpers import Case, make_case, near, slow_generate

import pie_jax
from pie_jax.intervene.changes import Change
from pie_jax.models.tokenizer import Tokenizer

NEW = 4
PROMPTS = ["w5 w9 w13 w22 w7 w30", "w31 w8 w4"]
LISTS = [
    [Change(0, 3, slice(2, None), value=3.0), Change(1, 5, slice(None), scale=-2.0)],
    # Up to the second new token of the shorter prompt, and only there in the longer one.
    [Change(0, 1, slice(-2, 6), scale=3.0), Change(2, 4, -1, value=-4.0)],
]


@pytest.fixture(scope="module", params=["llama", "gemma", "topk"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("plain"), "llama")


def sampled(case: Case, prompts: list[str], **options: float) -> list[list[int]]:
    settings = {"temperature": 2.0, "new_tokens": NEW, **options}
    return pie_jax.generate(case.model, case.transcoder, prompts, LISTS[0], **settings).ids


def test_generation_equals_whole_runs(case: Case):
    found = pie_jax.generate(case.model, case.transcoder, PROMPTS, LISTS, NEW)
    for b, prompt in enumerate(PROMPTS):
        tokens = case.model.tokenizer.encode(prompt)
        for s, changes in enumerate(LISTS):
            ids, logits = slow_generate(case.slow, case.transcoder, tokens, changes, NEW)
            special = [i for i, token in enumerate(ids) if token < 3]
            end = special[0] if special else NEW
            assert found.ids[b][s] == ids[:end]
            assert found.texts[b][s] == "".join(f" w{token}" for token in ids[:end])
            near(found.logits[b, s, : end + 1], logits[: end + 1])
            assert np.isnan(found.logits[b, s, end + 1 :]).all()


def test_the_first_logits_are_those_of_an_intervention(case: Case):
    found = pie_jax.generate(case.model, case.transcoder, PROMPTS, LISTS, 1)
    run = pie_jax.intervene(case.model, case.transcoder, PROMPTS, LISTS)
    near(found.logits[:, :, 0], run.after)
    plain = pie_jax.generate(case.model, case.transcoder, PROMPTS, new_tokens=1)
    near(plain.logits[:, 0], run.before)


def test_shapes_follow_what_is_given(plain: Case):
    found = pie_jax.generate(plain.model, plain.transcoder, PROMPTS[0], LISTS[0], NEW)
    assert isinstance(found.texts, str)
    assert found.logits.shape == (NEW, 40)
    several = pie_jax.generate(plain.model, plain.transcoder, PROMPTS[0], LISTS, NEW)
    assert several.ids[0] == found.ids
    assert several.logits.shape == (2, NEW, 40)


def test_draws_depend_on_the_seed_and_the_prompts_place_alone(plain: Case):
    several = sampled(plain, PROMPTS)
    assert several == sampled(plain, PROMPTS, batch_size=1)
    assert several[0] == sampled(plain, PROMPTS[:1])[0]
    assert any(sampled(plain, PROMPTS, seed=seed) != several for seed in (1, 2, 3))
    likeliest = sampled(plain, PROMPTS, temperature=0.0)
    assert sampled(plain, PROMPTS, temperature=1e-6) == likeliest


def test_draws_follow_the_probabilities(plain: Case):
    count, temperature = 300, 4.0
    found = pie_jax.generate(
        plain.model, plain.transcoder, PROMPTS[:1] * count, LISTS[0], 1, temperature, batch_size=300
    )
    logits = found.logits[0, 0].astype(np.float64) / temperature
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    drawn = [one[0] for one in found.ids if one]
    share = np.bincount(drawn, minlength=40) / count
    # Special tokens end a text before they are counted.
    assert np.abs(share - probability)[3:].sum() < 0.25
    assert probability.max() < 0.7


def test_a_text_ends_before_a_special_token(plain: Case, monkeypatch):
    whole = pie_jax.generate(plain.model, plain.transcoder, PROMPTS[0], LISTS[0], NEW)
    end = whole.ids[2]
    monkeypatch.setattr(Tokenizer, "special_ids", lambda self: frozenset([end]))
    found = pie_jax.generate(plain.model, plain.transcoder, PROMPTS[0], LISTS[0], NEW)
    kept = whole.ids.index(end)
    assert found.ids == whole.ids[:kept]
    np.testing.assert_array_equal(found.logits[: kept + 1], whole.logits[: kept + 1])
    assert np.isnan(found.logits[kept + 1 :]).all()
