"""How good a trained transcoder is on windows that it was not trained on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pie_jax.devices.programs import program
from pie_jax.models.transformer import Transformer
from pie_jax.transcoders.modules import CrossLayerTranscoder
from pie_jax.transcoders.training.data import Feed, Windows
from pie_jax.transcoders.training.stream import stream


@dataclass(frozen=True)
class Quality:
    """One number per layer, measured on `tokens` held-out tokens.

    `explained_variance`: 1 - sum |y - estimate|^2 / sum |y - mean y|^2. `l0`: mean number of
    active features. `dead_share`: share of features that fired on none of the tokens.
    """

    explained_variance: tuple[float, ...]
    l0: tuple[float, ...]
    dead_share: tuple[float, ...]
    tokens: int


@dataclass(frozen=True)
class TrainReport:
    """What a training ended in; `tokens` and `seconds` are those trained on and spent.

    `run` says what the result depends on: options, hashes of the model's and the corpus's files.
    """

    heldout: Quality
    steps: int
    tokens: int
    seconds: float
    run: dict[str, Any]

    @property
    def mean_l0(self) -> float:
        """Return the mean number of active features per layer and token."""
        return float(np.mean(self.heldout.l0))

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_report(path: Path) -> TrainReport:
    """Read a report that `TrainReport.write` wrote."""
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    heldout: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in raw["heldout"].items()
    }
    raw["heldout"] = Quality(**heldout)
    return TrainReport(**raw)


def measure(transformer: Transformer, clt: CrossLayerTranscoder, windows: Windows) -> Quality:
    """Measure a transcoder on the held-out windows."""
    total: dict[str, np.ndarray] = {}
    for feed in windows.heldout_batches():
        for name, value in _sums(transformer, clt, feed).items():
            # Sums over a whole corpus need more than float32.
            total[name] = total.get(name, 0) + np.asarray(value, np.float64)
    tokens = total["tokens"]
    variance = total["squares"] - np.sum(total["sum"] ** 2, axis=-1) / tokens
    return Quality(
        explained_variance=_floats(1 - total["errors"] / variance),
        l0=_floats(total["fired"].sum(axis=1) / tokens),
        dead_share=_floats((total["fired"] == 0).mean(axis=1)),
        tokens=int(tokens),
    )


@program()
def _sums(transformer: Transformer, clt: CrossLayerTranscoder, feed: Feed) -> dict[str, Array]:
    inputs, targets, counted = stream(transformer, feed)
    counts = counted[:, None]
    activations = clt.encode(inputs)
    errors = (targets - clt.decode(activations) - clt.skipped(inputs)) * counts
    # Far from zero, squares would lose the variance to rounding; the bias is about the mean.
    outputs = (targets - clt.bias[...][:, None]) * counts
    return {
        "errors": jnp.sum(errors**2, axis=(1, 2)),
        "squares": jnp.sum(outputs**2, axis=(1, 2)),
        "sum": jnp.sum(outputs, axis=1),
        "fired": jnp.sum((activations != 0) & counts, axis=1),
        "tokens": counts.sum(),
    }


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
