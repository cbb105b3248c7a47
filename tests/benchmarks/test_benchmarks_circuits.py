"""The benchmark of circuits: its cases, figures and tables, on a few pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from prune_helpers import tiny_pairs
from refusals import refuses

from benchmarks import circuits
from benchmarks.parts.circuit_cases import Case, Sizes, cases
from benchmarks.parts.circuit_tables import markdown

SIZES = Sizes(2, ("fap-synergy", "fap", "random"), (4, 8, 16), 1, 0)


def test_a_case_that_is_none_is_refused():
    refuses(lambda: next(cases(SIZES, "acdc")), "--only: `acdc`", "ioi-acdc")


def test_halves_are_swapped():
    (pair,) = tiny_pairs([8])
    case = Case("", "", None, None, [replace(pair, corrupted=("a", "b", "c", "d"))])
    assert case.swapped().pairs[0].corrupted == ("c", "d", "a", "b")


@pytest.mark.slow
def test_a_case_from_pairs_to_tables(tmp_path: Path):
    (case,) = cases(SIZES, "ioi-unseen")
    found = circuits.measure(case, tmp_path)
    # What is written to JSON is what the tables show, but for budgets, which JSON makes strings.
    assert json.loads(json.dumps(found))["pairs"] == 2
    for method in SIZES.methods:
        assert found["seconds_per_prompt"][method] >= 0
        assert found["stability"]["seed"][method][8]["n"] == 2
    # Only random draws.
    assert found["stability"]["seed"]["fap"][8]["mean"] == 1
    assert found["stability"]["seed"]["random"][8]["mean"] < 0.5
    assert found["stability"]["corruptions"]["random"][8]["mean"] == 1
    assert found["kl_ratio"]["fap-synergy"][16]["mean"] == 1
    assert found["overlap"]["fap-synergy"][16]["mean"] == 1
    assert found["overlap"]["random"][16]["mean"] < 0.5
    assert found["compression"]["fap"][4]["value"] > 4
    tables = [table for table in markdown(found).split("\n\n") if table.startswith("| method")]
    assert [len(table.splitlines()) for table in tables] == [2 + len(SIZES.methods)] * 3
    assert "Jaccard" in tables[2]
    # A second call reads what the first one wrote.
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert circuits.measure(case, tmp_path) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == written
