"""The demo that ships does its tasks, and its CLT describes it."""

import pytest

from pie_jax.demo.evaluate import demo_figures
from pie_jax.models.loader import load_model
from pie_jax.transcoders.loader import load_transcoder


@pytest.mark.slow
def test_the_shipped_demo_meets_its_figures():
    # Other draws than those of `demo.evaluate`, and fewer.
    figures = demo_figures(load_model("demo"), load_transcoder("demo"), pairs=256, seed=3)
    assert len(figures) == 30
    missed = [f"{figure.name}: {figure.value}" for figure in figures if not figure.met]
    assert not missed


def test_the_demo_is_small():
    folders = [load_model("demo").folder, load_transcoder("demo").folder]
    size = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    assert size < 16_000_000
