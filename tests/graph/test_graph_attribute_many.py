"""Graphs of many prompts side by side are those of each prompt alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_helpers import tiny

import pie_jax
from pie_jax.errors import InputError
from pie_jax.graph import frozen
from pie_jax.graph.attribute import attribute
from pie_jax.transcoders.config import TopK

PROMPT = "w5 w9 w30 w12 w7 w21 w33"
CASES = {
    "gemma, skip": ("gemma", {"skip": True, "input_site": "mlp_in"}),
    "llama, TopK": ("llama", {"top": TopK(2, False), "skip": True}),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory):
    return tiny(tmp_path_factory.mktemp("llama"), "llama")


def same(one, other):
    """Two graphs are equal but for rounding."""
    for name in ("layer", "position", "feature", "token_ids"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert [(x.label, x.token, x.difference) for x in one.targets] == [
        (x.label, x.token, x.difference) for x in other.targets
    ]
    np.testing.assert_allclose(one.activation, other.activation, atol=1e-5)
    np.testing.assert_allclose(one.rows, other.rows, atol=1e-5)


# Of two classes of lengths, the first of five prompts, which do not fill the places.
MANY = [
    PROMPT,
    "w3 w8 w15 w6",
    "w9 w9 w2 w31 w30 w4 w22 w7",
    " ".join(f"w{3 + index % 30}" for index in range(25)),
    "w6",
    "w12 w13 w14 w15 w16 w17 w18 w19 w20 w21",
]


@pytest.mark.parametrize(
    "features", [20, pytest.param([(0, 3), (1, 5), (2, 7), (2, 8)], marks=pytest.mark.slow)]
)
def test_graphs_of_many_prompts_are_those_of_each(features, llama):
    model, transcoder = llama
    ends = [None, ("w4", "w8"), ["w4", 8], None, ("w9", "w7"), None]
    seen = []
    graphs = pie_jax.attribution_graphs(
        model, transcoder, MANY, targets=ends, max_logits=3, features=features, update=8,
        progress=lambda *done: seen.append(done),
    )  # fmt: skip
    assert seen == [(done, 6) for done in range(1, 7)]
    for prompt, targets, found in zip(MANY, ends, graphs, strict=True):
        alone = attribute(
            model, transcoder, prompt, targets=targets, max_logits=3, features=features, update=8
        )
        same(found, alone)
        # Nothing of what fills up a class of lengths or of prompts is a node.
        assert len(found.tokens) == len(model.tokenizer.encode(prompt))
        assert found.node_count == found.rows.shape[1]
        assert (found.position < len(found.tokens)).all()


@pytest.mark.parametrize(
    "case", ["gemma, skip", pytest.param("llama, TopK", marks=pytest.mark.slow)]
)
def test_changes_of_many_prompts_are_those_of_each(case: str, tmp_path: Path):
    family, options = CASES[case]
    model, transcoder = tiny(tmp_path, family, **options)
    pairs = [(PROMPT, "w5 w9 w30 w8 w7 w22 w33"), ("w6 w9 w4", "w6 w8 w4"), ("w7 w8", "w7 w30")]
    graphs = pie_jax.attribution_graphs(
        model, transcoder, [one for one, _ in pairs], corrupted=[two for _, two in pairs],
        max_logits=2,
    )  # fmt: skip
    for (clean, corrupted), found in zip(pairs, graphs, strict=True):
        alone = attribute(model, transcoder, clean, corrupted=corrupted, max_logits=2)
        same(found, alone)
        assert found.corrupted.tokens == alone.corrupted.tokens
        np.testing.assert_allclose(
            found.corrupted.activation, alone.corrupted.activation, atol=1e-5
        )


def test_other_prompts_of_a_class_compile_nothing(llama):
    model, transcoder = llama
    programs = (frozen.points, frozen.effects, frozen.errors)
    pie_jax.attribution_graphs(model, transcoder, MANY[:3], max_logits=3)
    before = [one.count() for one in programs]
    others = ["w4 w22 w3", "w30 w2 w7 w21 w33 w5", "w8 w9", "w9 w8 w11 w2"]
    pie_jax.attribution_graphs(model, transcoder, others, max_logits=3)
    assert [one.count() for one in programs] == before
    assert pie_jax.attribution_graphs(model, transcoder, []) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": PROMPT}, "prompts: a single text; give a list"),
        ({"prompts": [PROMPT, ""]}, r"prompts\[1\]: prompt: 1 token with BOS; a graph needs 2"),
        ({"targets": [None]}, "targets: 1 entries for 2 prompts; give one each"),
        ({"targets": [None, ["w4 w5"]]}, r"prompts\[1\]: target 'w4 w5' is 2 tokens"),
        ({"corrupted": ["w5 w9", PROMPT]}, r"prompts\[0\]: corrupted: 3 tokens with BOS, and the"),
    ],
)
def test_errors_of_many_prompts(changes: dict, message: str, llama):
    given = {"prompts": [PROMPT, PROMPT], **changes}
    with pytest.raises(InputError, match=message):
        pie_jax.attribution_graphs(*llama, **given)
