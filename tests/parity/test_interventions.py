"""circuit-tracer's interventions on the same weights move logits and activations alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `parity`: pip install 'pie-jax[parity]'")
pytest.importorskip("circuit_tracer", reason="needs the extra `parity`")

import torch

import pie_jax
from benchmarks.parts.random_weights import SHAPES, input_scale, make_model, make_transcoder
from benchmarks.peers.circuit_tracer import CircuitTracer
from pie_jax.intervene.changes import Change

pytestmark = pytest.mark.parity
# Float32 on both sides, in units of the largest value.
TOLERANCE = 1e-5
NEW = 5


class Both:
    """The two packages on one folder of weights, and a prompt with what is active on it."""

    def __init__(self, folder: Path):
        self.theirs = CircuitTracer(folder).model
        self.model = pie_jax.load_model(folder / "model")
        self.transcoder = pie_jax.load_transcoder(folder / "transcoder")
        words = np.random.default_rng(0).choice(range(10, 60), 12)
        self.prompt = self.model.tokenizer.decode(words.tolist())
        self.ids = torch.tensor(self.model.tokenizer.encode(self.prompt))
        found = pie_jax.intervene(
            self.model, self.transcoder, self.prompt, [Change(0, 0, 1, value=1.0)],
            activations="active",
        )  # fmt: skip
        rows = found.activations.to_pylist()
        some = np.random.default_rng(1).choice(
            [i for i, row in enumerate(rows) if row["before"]], 6
        )
        self.active = [rows[i] for i in some]

    def changes(self, times: float) -> tuple[list[Change], list[Any]]:
        """Return changes of active features, for us and for them."""
        places = [(row["layer"], row["position"], row["feature"]) for row in self.active]
        ours = [Change(layer, feature, at, scale=times) for layer, at, feature in places]
        values = [times * row["before"] for row in self.active]
        return ours, [(*place, value) for place, value in zip(places, values, strict=True)]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder, shape = tmp_path_factory.mktemp("made"), SHAPES["tiny"]
    make_model(shape, folder / "model")
    make_transcoder(shape, folder / "transcoder", input_scale(folder / "model", shape))
    return Both(folder)


def near(found: np.ndarray, expected: torch.Tensor) -> None:
    theirs = expected.detach().numpy()
    np.testing.assert_allclose(found, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


@pytest.mark.parametrize("times", [0.0, 20.0, -40.0])
@pytest.mark.parametrize("freeze", ["direct", "attention", "nothing"])
def test_interventions(both: Both, freeze: str, times: float):
    ours, theirs = both.changes(times)
    found = pie_jax.intervene(
        both.model, both.transcoder, both.prompt, ours, freeze=freeze, logits="all",
        activations="active", pre_activations=True,
    )  # fmt: skip
    layers = range(both.model.config.num_layers)
    logits, pre = both.theirs.feature_intervention(
        both.ids,
        theirs,
        constrained_layers=layers if freeze == "direct" else None,
        freeze_attention=freeze != "nothing",
        apply_activation_function=False,
    )
    near(found.after, logits[0])
    assert np.abs(found.after - found.before).max() > 500 * TOLERANCE * np.abs(found.after).max()
    at = [torch.tensor(found.activations[name].to_numpy())
          for name in ("layer", "position", "feature")]  # fmt: skip
    near(found.activations["pre_after"].to_numpy(), pre[tuple(at)])


def test_generation(both: Both):
    """Beside whole runs of theirs on the longer and longer text."""
    row, value = both.active[0], 50.0
    where = slice(row["position"], None)
    changes = [Change(row["layer"], row["feature"], where, value=value)]
    found = pie_jax.generate(both.model, both.transcoder, both.prompt, changes, NEW)
    assert len(found.ids) == NEW
    for step in range(NEW):
        logits, _ = both.theirs.feature_intervention(
            torch.cat([both.ids, torch.tensor(found.ids[:step], dtype=torch.int64)]),
            [(row["layer"], where, row["feature"], value)],
            freeze_attention=False,
            return_activations=False,
        )
        near(found.logits[step], logits[0, -1])
