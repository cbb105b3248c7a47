"""Compiled programs are let go of before the system refuses to map more."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from prune_helpers import tiny_model, tiny_pairs, tiny_transcoder

import pie_jax
from pie_jax.devices import programs


def test_programs_stay_until_they_are_too_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    traced = []

    @jax.jit
    def one(x: jax.Array) -> jax.Array:
        traced.append(x)
        return x + 1

    def traces() -> int:
        one(jnp.zeros(3))
        return len(traced)

    assert traces() == 1
    most, mappings = tmp_path / "most", tmp_path / "mappings"
    monkeypatch.setattr(programs, "_MOST_MAPPINGS", most)
    monkeypatch.setattr(programs, "_MAPPINGS", mappings)
    programs.make_room()  # no Linux
    assert traces() == 1
    most.write_text("100\n")
    mappings.write_text("a\n" * 60)
    programs.make_room()
    assert traces() == 1
    mappings.write_text("a\n" * 61)
    programs.make_room()
    assert traces() == 2


def test_a_run_that_lets_go_of_programs_gives_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path):
    model = tiny_model(tmp_path / "model")
    transcoder = tiny_transcoder(model, bias=0.0)
    pairs = tiny_pairs([9, 9, 9, 9], seed=1)
    settings = {"methods": ("fap", "random"), "budgets": (4,), "batch_size": 2}
    whole = pie_jax.prune(model, transcoder, pairs, **settings)
    cleared = []
    clear = jax.clear_caches
    monkeypatch.setattr(programs, "SHARE", 0.0)
    monkeypatch.setattr(programs.jax, "clear_caches", lambda: (cleared.append(1), clear()))
    again = pie_jax.prune(model, transcoder, pairs, **settings)
    assert len(cleared) == 2
    for name, table in whole.tables().items():
        assert table.equals(again.tables()[name])


def test_only_programs_of_small_arguments_compile_fast(monkeypatch: pytest.MonkeyPatch):
    """Large ones run longer than they compile: they keep XLA's defaults."""
    monkeypatch.setattr(programs, "_SMALL_BYTES", 40)
    add = programs.Program(lambda x, y: x + y, ())
    few, many = jnp.ones(5), jnp.ones(6)
    assert add._for((few, few), {}) is add._small
    assert add._for((few,), {"y": many}) is add._large
    assert add(many, many).tolist() == [2.0] * 6
