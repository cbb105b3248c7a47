"""The benchmark's peers are refused where they cannot run on equal terms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refuses

from benchmarks.parts.prune_measure import Work
from benchmarks.peers import prune as prune_peers

WORK = Work(Path("made"), [], ("fap", "fap-synergy"), (50, 100), 4, "float32", "device")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_peers, "find_spec", lambda name: name)


@pytest.mark.parametrize("missing", ["torch", "circuit_tracer"])
def test_a_missing_package_is_named(missing: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prune_peers, "find_spec", lambda name: None if name == missing else name)
    refuses(lambda: prune_peers.require(WORK), "--peers", missing, "pip install 'pie-jax[bench]'")


@pytest.mark.usefixtures("installed")
def test_what_cannot_be_compared_is_refused():
    prune_peers.require(WORK)
    for change, option in (
        ({"dtype": "bfloat16"}, "--dtype float32"),
        ({"budgets": (50,)}, "--budgets"),
        ({"methods": ("fap",)}, "--methods"),
    ):
        other = replace(WORK, **change)
        refuses(lambda other=other: prune_peers.require(other), "--peers", option)
