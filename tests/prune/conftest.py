"""Fixtures of the tests of pruning."""

from __future__ import annotations

import pytest

from pie_jax.prune.engine.removals import plan

# Where removals themselves are tested, or the published results.
_EVERY_WIDTH = ("test_prune_cones", "test_prune_golden", "test_prune_passes", "test_prune_lowering")


@pytest.fixture(autouse=True)
def few_widths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chunks of removals have two widths instead of four: each is a program to compile."""
    if not request.module.__name__.endswith(_EVERY_WIDTH):
        monkeypatch.setattr(plan, "widths", lambda window: sorted({-(-window // 2), window}))
