"""Changes as they are written, what they mean on a prompt, and how bad ones are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jaxtyping
import numpy as np
import pytest
from intervene_helpers import Case, make_case
from refusals import refuses

import pie_jax
from pie_jax.intervene.changes import Change, parse_change, placed

ALL = slice(None)


@pytest.fixture(name="unchecked")
def unchecked_types() -> Iterator[None]:
    """No check of types, as a user has it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("model"), "llama")


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("2:17@5=3.5", Change(2, 17, 5, value=3.5)),
        ("0:0@-1=-2", Change(0, 0, -1, value=-2.0)),
        ("2:17@3:=x2", Change(2, 17, slice(3, None), scale=2.0)),
        ("2:17@-4:-1=x-0.5", Change(2, 17, slice(-4, -1), scale=-0.5)),
        ("2:17@:4=1e-3", Change(2, 17, slice(None, 4), value=1e-3)),
        ("1:9@all=off", Change(1, 9, ALL, remove=True)),
        (" 1:9 @ all = off", Change(1, 9, ALL, remove=True)),
    ],
)
def test_written_changes(text: str, change: Change):
    assert parse_change(text) == change
    assert parse_change(str(change)) == change


@pytest.mark.parametrize(
    "text",
    ["", "2:17", "2:17@5", "2@5=1", "-1:3@5=1", "2:17@x=1", "2:17@1:2:3=1", "2:17@5=", "2:17@5=on",
     "2:17@5=xoff", "2:17@5=1=2", "2:17@5=nan", "2:17@5=1e", "2:17@5=x", "2:17@5=--1"],
)  # fmt: skip
def test_malformed_changes(text: str):
    refuses(lambda: parse_change(text), "--change", text)


@pytest.mark.parametrize(
    "amounts",
    [{}, {"value": 1.0, "scale": 2.0}, {"value": 0.0, "remove": True}, {"value": float("inf")},
     {"scale": float("nan")}],
)  # fmt: skip
def test_a_change_is_one_finite_amount(amounts: dict[str, Any]):
    refuses(lambda: Change(0, 1, 2, **amounts), "change 0:1@2")


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ((1.5, 2, 3), "layer: 1.5 is not a whole number"),
        ((1, 3.7, 3), "feature: 3.7 is not a whole number"),
        ((1, 2, 3.7), "position: 3.7 is not a whole number"),
        ((1, 2, slice(2, 4.5)), "position: 4.5 is not a whole number"),
        ((1, "2", 3), "feature: '2' is not a whole number"),
        ((True, 2, 3), "layer: True is not a whole number"),
        ((1, float("nan"), 3), "feature: nan is not a whole number"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_places_are_whole_numbers(place: Any, named: str):
    refuses(lambda: Change(*place, value=1.0), "change ", named)


@pytest.mark.usefixtures("unchecked")
def test_whole_floats_of_a_json_are_taken():
    found = Change(2.0, 17.0, 5.0, value=3.5)  # type: ignore[arg-type]
    assert (found, str(found)) == (Change(2, 17, 5, value=3.5), "2:17@5=3.5")
    found = Change(np.int64(2), 17, slice(3.0, None), value=1)  # type: ignore[arg-type]
    assert found == Change(2, 17, slice(3, None), value=1)


def test_a_slice_has_no_step():
    refuses(lambda: Change(0, 1, slice(1, 9, 2), value=1.0), "step")
    assert Change(0, 1, slice(1, 9, 1), value=1.0)


@pytest.mark.parametrize(
    ("position", "total", "on"),
    [
        (ALL, 6, [1, 2, 3, 4, 5]),
        (ALL, 8, [1, 2, 3, 4, 5, 6, 7]),
        (slice(0, 3), 6, [1, 2]),
        (slice(-2, None), 8, [4, 5, 6, 7]),
        (slice(-2, -1), 8, [4]),
        (slice(4, 99), 8, [4, 5, 6, 7]),
        (-1, 8, [5]),
        (-5, 6, [1]),
        (7, 8, [7]),
    ],
)
def test_positions_on_a_prompt_of_six_tokens(position: int | slice, total: int, on: list[int]):
    found = placed([Change(0, 1, position, scale=3.0)], 6, total, (2, 9), "the prompt")
    assert np.flatnonzero(found.on[0]).tolist() == on
    assert (found.scale[0, on] == 3.0).all()
    assert not found.on[1].any()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ([Change(3, 1, 2, value=1.0)], ["no feature 1 in layer 3", "3 layers of 24"]),
        ([Change(0, 24, 2, value=1.0)], ["no feature 24 in layer 0"]),
        ([Change(0, 1, 4, value=1.0)], ["0:1@4=1.0", "no position 4", "4 tokens", "1 to 3"]),
        ([Change(0, 1, -5, value=1.0)], ["no position -5"]),
        ([Change(0, 1, 0, value=1.0)], ["position 0 is BOS"]),
        ([Change(0, 1, -4, value=1.0)], ["position -4 is BOS"]),
        ([Change(0, 1, slice(4, None), value=1.0)], ["0:1@4:=1.0", "no position"]),
        ([Change(0, 1, slice(0, 1), value=1.0)], ["no position", "BOS"]),
        ([Change(0, 1, ALL, value=1.0), Change(0, 1, 2, remove=True)], ["0:1@2=off", "position 2"]),
        ([], ["no change"]),
        ([[Change(0, 1, 2, value=1.0)], []], ["no change"]),
        ([[Change(0, 1, 2, value=1.0)], Change(0, 1, 2, value=1.0)], ["not both"]),
    ],
)
def test_changes_that_cannot_be_made(case: Case, changes: Any, named: list[str]):
    prompt = "w5 w9 w13"
    refuses(lambda: pie_jax.intervene(case.model, case.transcoder, prompt, changes), *named)


def test_the_prompt_with_a_bad_position_is_named(case: Case):
    changes = [Change(0, 1, 3, value=1.0)]
    prompts = ["w5 w9 w13", "w5 w9"]
    refuses(lambda: pie_jax.intervene(case.model, case.transcoder, prompts, changes), "prompt 1")


GOOD = [Change(0, 1, 1, value=1.0)]


@pytest.mark.parametrize(
    ("prompts", "options", "named"),
    [
        ("", {}, ["the prompt, ''", "1 token"]),
        (["w5", ""], {}, ["prompt 1", "1 token"]),
        ([], {}, ["no prompt"]),
        ("w5 " * 64, {}, ["65 tokens", "64"]),
        ("w5", {"freeze": "everything"}, ["--freeze: `everything`", "attention"]),
        ("w5", {"logits": "first"}, ["`first`"]),
        ("w5", {"targets": ["w5 w6"]}, ["'w5 w6'", "not one token"]),
        ("w5", {"targets": [40]}, ["target 40", "40"]),
        ("w5", {"activations": "all"}, ["`all`"]),
        ("w5", {"activations": [(3, 0)]}, ["layer 3"]),
        ("w5", {"pre_activations": True}, ["activations"]),
        ("w5", {"batch_size": 0}, ["batch_size"]),
    ],
)
def test_bad_options(case: Case, prompts: Any, options: dict[str, Any], named: list[str]):
    def run() -> None:
        pie_jax.intervene(case.model, case.transcoder, prompts, GOOD, **options)

    refuses(run, *named)


@pytest.mark.parametrize(
    ("prompts", "options", "named"),
    [
        ("w5", {"activations": [(0, 3.7)]}, "activations: 3.7 is not a whole number"),
        ("w5", {"targets": [4.5]}, "targets: 4.5 is not a whole number"),
        ([[1, 5.5]], {}, "prompts: 5.5 is not a whole number"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_ids_are_whole_numbers(case: Case, prompts: Any, options: dict[str, Any], named: str):
    refuses(lambda: pie_jax.intervene(case.model, case.transcoder, prompts, GOOD, **options), named)


@pytest.mark.parametrize(
    ("prompt", "options", "named"),
    [
        ("w5", {"new_tokens": 0}, "new_tokens 0"),
        ("w5", {"temperature": -1.0}, "temperature -1.0"),
        ("w5", {"temperature": float("nan")}, "temperature nan"),
        ("w5", {"seed": -1}, "seed -1"),
        ("w5", {"new_tokens": 63}, "63 new ones"),
    ],
)
def test_bad_options_of_generation(case: Case, prompt: str, options: Any, named: str):
    refuses(lambda: pie_jax.generate(case.model, case.transcoder, prompt, GOOD, **options), named)


def test_what_was_changed_is_told(case: Case):
    prompts = ["w5 w9 w13 w22", "w31 w8"]
    lists = [
        [Change(1, 5, slice(-2, None), scale=-2.0), Change(0, 7, 1, value=2.0)],
        [Change(0, 7, 1, remove=True)],
    ]
    found = pie_jax.intervene(case.model, case.transcoder, prompts, lists, activations="active")
    rows = found.changed.to_pylist()
    places = [tuple(row.values())[:5] for row in rows]
    assert places == [
        (0, 0, 0, 1, 7), (0, 0, 1, 3, 5), (0, 0, 1, 4, 5), (0, 1, 0, 1, 7),
        (1, 0, 0, 1, 7), (1, 0, 1, 1, 5), (1, 0, 1, 2, 5), (1, 1, 0, 1, 7),
    ]  # fmt: skip
    table = found.activations.to_pylist()
    # What is not active in either run has no row.
    after = {tuple(row.values())[:5]: (row["before"], row["after"]) for row in table}
    for row, place in zip(rows, places, strict=True):
        before, own = after.get(place, (0.0, 0.0))
        target = {0: 2.0 if place[1] == 0 else 0.0, 1: -2.0 * before}[row["layer"]]
        assert row["baseline"] == pytest.approx(own, abs=1e-5)
        assert row["value"] == pytest.approx(target, abs=1e-5)
