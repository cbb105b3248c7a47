"""Settings, weights and pairs that do not fit are refused in one sentence that names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prune_helpers import tiny_model, tiny_pairs, tiny_transcoder
from refusals import refuses
from safetensors.numpy import load_file, save_file

import pie_jax
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.checks import check_options
from pie_jax.prune.options import AcdcOptions, PruneOptions, SynergyOptions
from pie_jax.tasks import Pair
from pie_jax.transcoders.store import Transcoder

PAIRS = tiny_pairs([12, 9])
SMALL = {"methods": ("fap",), "budgets": (4,), "batch_size": 2}


@dataclass(eq=False)
class Tiny:
    model: LanguageModel
    transcoder: Transcoder

    def prune(self, pairs: list[Pair] = PAIRS, **settings: Any) -> pie_jax.PruneResult:
        return pie_jax.prune(self.model, self.transcoder, pairs, **{**SMALL, **settings})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    model = tiny_model(tmp_path_factory.mktemp("tiny"))
    return Tiny(model, tiny_transcoder(model))


# Settings

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"methods": ("fap", "magic")}, "--method", "magic"),
    ({"methods": ()}, "--method", "fap-synergy"),
    ({"methods": ("fap", "fap")}, "--method", "twice"),
    ({"metric": "accuracy"}, "--metric", "accuracy"),
    ({"budgets": (10, 0)}, "--budget", "at least 1"),
    ({"budgets": (-5,)}, "--budget", "at least 1"),
    ({"budgets": ()}, "--budget", "at least 1"),
    ({"budgets": (5, 10, 5)}, "--budget", "twice"),
    ({"batch_size": 0}, "--batch-size", "0"),
    ({"batch_size": -1}, "--batch-size", "-1"),
    ({"seed": -1}, "--seed", "-1"),
    ({"synergy": SynergyOptions(weight=float("nan"))}, "--synergy-lambda", "finite"),
    ({"synergy": SynergyOptions(weight=float("inf"))}, "--synergy-lambda", "finite"),
    ({"synergy": SynergyOptions(weight=-1.0)}, "--synergy-lambda", "at least 0"),
    ({"synergy": SynergyOptions(boundary_percent=0.0)}, "--synergy-boundary-percent", "above 0"),
    ({"synergy": SynergyOptions(boundary_percent=101.0)}, "--synergy-boundary-percent", "100"),
    (
        {"synergy": SynergyOptions(boundary_percent=float("nan"))},
        "--synergy-boundary-percent",
        "above 0",
    ),
    ({"synergy": SynergyOptions(boundary_cap=0)}, "--synergy-boundary-cap", "0"),
    ({"synergy": SynergyOptions(partners=0)}, "--synergy-partners", "0"),
    (
        {"synergy": SynergyOptions(partners_per_candidate=-2)},
        "--synergy-partners-per-candidate",
        "-2",
    ),
    ({"acdc": AcdcOptions(block=0)}, "acdc.block", "0"),
    ({"acdc": AcdcOptions(bisections=0)}, "acdc.bisections", "0"),
    ({"budget": (5,)}, "`budget` is not a setting", "budgets"),
]


@pytest.mark.parametrize(("settings", "option", "item"), REFUSED, ids=str)
def test_settings_that_mean_nothing(tiny: Tiny, settings: dict, option: str, item: str):
    refuses(lambda: tiny.prune(**settings), option, item)


# Types that a caller without a type checker can still pass; the suite's own checker would stop
# them at the constructor.
UNTYPED = [
    ("corruption", "zero", "--corruption"),
    ("gradient", "half", "--gradient"),
    ("scope_layers", "each", "--scope-layers"),
    ("on_bad_pair", "ignore", "--on-bad-pair"),
    ("budgets", (2.5,), "--budget"),
    ("batch_size", 1.5, "--batch-size"),
    ("seed", 0.5, "--seed"),
]


@pytest.mark.parametrize(("field", "value", "option"), UNTYPED)
def test_settings_of_another_type(field: str, value: Any, option: str):
    options = PruneOptions()
    object.__setattr__(options, field, value)
    refuses(lambda: check_options(options), option)


def test_the_defaults_are_the_papers():
    options = PruneOptions()
    check_options(options)
    assert options.budgets == (50, 100, 200, 400, 800)
    assert options.synergy == SynergyOptions(3.0, 25.0, 32, 32, 8)
    assert options.metric == "logit-diff"
    assert options.corruption == "corrupted-prompt"
    assert options.gradient == "frozen"


def test_lists_of_settings_are_taken(tiny: Tiny):
    """As options or one by one, and one by one over options."""
    given = tiny.prune(methods=["random"], budgets=[4, 2])
    options = PruneOptions(methods=("random",), budgets=(7,), batch_size=2)
    both = pie_jax.prune(tiny.model, tiny.transcoder, PAIRS, options, budgets=[4, 2])
    assert given.selections.equals(both.selections)
    assert given.record["config"] == both.record["config"]
    assert set(given.record["config"]) >= {field.name for field in fields(PruneOptions)}


# Weights


def test_a_transcoder_of_another_model(tiny: Tiny, tmp_path: Path):
    other = tiny_model(tmp_path, layers=2)
    message = refuses(
        lambda: pie_jax.prune(other, tiny.transcoder, PAIRS, **SMALL), "transcoder tiny"
    )
    assert "3 layers of width 16" in message
    assert "2 of width 16" in message


def test_a_transcoder_that_writes_before_the_post_norm(tiny: Tiny, tmp_path: Path):
    model = tiny_model(tmp_path, gemma=True)
    config = replace(tiny.transcoder.config, output_site="before_post_norm")
    transcoder = replace(tiny.transcoder, config=config)
    refuses(lambda: pie_jax.prune(model, transcoder, PAIRS, **SMALL), "post-norm", "tiny")
    # Without a post-norm the two places are one.
    pie_jax.prune(tiny.model, transcoder, PAIRS, **SMALL)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_decoder_row(
    reference: Callable, copied: Callable[[str], Path], tmp_path: Path, value: float
):
    """Rows are read when they are needed: the run names the file and leaves no result."""
    loaded = reference("llama")
    folder = copied("reference/llama/clt")
    path = folder / "W_dec_1.safetensors"
    tensors = {name: array.copy() for name, array in load_file(path).items()}
    tensors["W_dec_1"][:, 1, 3] = value
    path.unlink()
    save_file(tensors, path)
    transcoder = pie_jax.load_transcoder(folder)
    pairs = pie_jax.load_pairs(loaded.folder / "prompts.jsonl")[:1]
    out = tmp_path / "out"
    message = refuses(
        lambda: pie_jax.prune(loaded.model, transcoder, pairs, out=out, **SMALL), folder
    )
    assert "decoder of layer 1" in message
    assert "NaN" in message
    refuses(lambda: pie_jax.load_result(out), out, kind=pie_jax.PieError)


# Pairs


def refuses_pairs(call: Callable[[], Any], *named: str) -> None:
    """Check that `call` fails with one sentence that names the rows; those have no full stop."""
    with pytest.raises(pie_jax.InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(name in message for name in named)


def bad_pairs() -> dict[str, Pair]:
    """Return one pair for every reason to refuse it."""
    good = PAIRS[0]
    shorter = " ".join(good.clean.split()[:-1])
    return {
        "length-mismatch": replace(good, corrupted=(shorter,)),
        "same-prompt": replace(good, corrupted=(good.clean,)),
        "too-short": replace(good, clean="w3 w4", corrupted=("w4 w3",)),
        "missing-target": replace(good, target=None),
        "target-not-one-token": replace(good, target="w3 w4"),
        "distractor-not-one-token": replace(good, distractor="w3 w4"),
        "target-equals-distractor": replace(good, distractor=good.target),
    }


@pytest.mark.parametrize("reason", bad_pairs())
def test_a_bad_pair_names_its_row(tiny: Tiny, reason: str):
    refuses_pairs(
        lambda: tiny.prune([*PAIRS, bad_pairs()[reason]], source="my.jsonl"), "my.jsonl", "row 2"
    )


def test_bad_pairs_can_be_skipped_and_are_counted(tiny: Tiny):
    """The rows that stay keep their numbers in the input."""
    bad = bad_pairs()
    pairs = [PAIRS[0], *bad.values(), bad["same-prompt"], PAIRS[1]]
    result = tiny.prune(pairs, on_bad_pair="skip")
    record = result.record
    assert record["pairs"] == 2
    assert record["skipped"] == {reason: 1 + (reason == "same-prompt") for reason in bad}
    skipped = [(pair["index"], pair["reason"]) for pair in record["skipped_pairs"]]
    assert skipped == [*enumerate(bad, start=1), (len(bad) + 1, "same-prompt")]
    assert all(f"row {pair['index']} " in pair["message"] for pair in record["skipped_pairs"])
    for table in (result.scores, result.selections, result.behaviour):
        assert set(table["prompt"].to_pylist()) == {0, len(pairs) - 1}
    alone = tiny.prune()
    assert alone.selections["feature"].equals(result.selections["feature"])


def test_answers_are_not_needed_by_logsumexp(tiny: Tiny):
    pairs = [replace(pair, target=None, distractor=None) for pair in PAIRS]
    result = tiny.prune(pairs, metric="logsumexp")
    assert result.record["skipped"] == {}
    refuses_pairs(lambda: tiny.prune(pairs), "row 0", "target")


def test_nothing_left(tiny: Tiny):
    pairs = list(bad_pairs().values())
    refuses_pairs(lambda: tiny.prune(pairs, on_bad_pair="skip"), "all 7 rows")
    refuses_pairs(lambda: tiny.prune([]), "no pairs")


def test_every_pair_has_as_many_corrupted_versions(tiny: Tiny):
    pair = replace(PAIRS[0], corrupted=(PAIRS[0].corrupted[0], PAIRS[0].corrupted[0]))
    refuses(lambda: tiny.prune([PAIRS[1], pair]), "row 1", "2 corrupted")
