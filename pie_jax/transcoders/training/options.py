"""What a training is asked for, and what follows from that for each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np

from pie_jax.errors import InputError
from pie_jax.transcoders.training.state import Form, TrainedActivation

_KINDS = ("cross-layer", "per-layer")

# Held-out L0 differs a little from the training batches'; steer below what was asked for.
_L0_MARGIN = 0.98
_FIRST_L0 = 4.0  # times the L0 asked for
_L0_SHARE = 0.5  # of the steps, over which the L0 falls
_WARMUP = 20  # steps
_DECAY_SHARE = 0.3  # of the steps, over which the learning rate falls to 0
_REVIVE_EVERY = 50  # steps
_REVIVE_SHARE = 0.8  # of the steps; a feature needs the rest to settle


@dataclass(frozen=True)
class TrainOptions:
    """`features` a layer, `l0` active ones per token, one number or one a layer; a batch is `batch`
    windows.

    `kind`: a feature writes to its own layer and all after it, or to its own alone. `activation`
    `topk` keeps exactly `l0`, and is for per-layer ones, as is `skip`, an affine map from what a
    layer reads to what it writes: the cross-layer format has neither.

    `heldout` windows are kept for the report. A feature that fired on none of the last
    `dead_after` steps' tokens is revived. After the last step decoders of per-layer ones are fitted
    by least squares to `refit` batches.
    """

    features: int
    l0: float | Sequence[float]
    steps: int = 1500
    batch: int = 14
    window: int = 72
    learning_rate: float = 2e-3
    seed: int = 0
    checkpoint_every: int = 100
    heldout: int = 3000
    dead_after: int = 100
    kind: str = "cross-layer"
    activation: str = "jumprelu"
    skip: bool = False
    refit: int = 0

    def __post_init__(self) -> None:
        whole = ("features", "steps", "batch", "checkpoint_every", "heldout", "dead_after")
        for name in whole:
            require(getattr(self, name) >= 1, name, "at least 1")
        require(self.window >= 2, "window", "at least 2, for BOS and a token")
        wanted = np.asarray(self.l0)
        within = bool(np.all((wanted > 0) & (wanted <= self.features / 2)))
        require(within, "l0", "above 0 and at most half of the features")
        require(self.learning_rate > 0, "learning_rate", "above 0")
        require(self.seed >= 0, "seed", "at least 0")
        _require_one_of("kind", self.kind, _KINDS)
        _require_one_of("activation", self.activation, get_args(TrainedActivation))
        per_layer = self.kind == "per-layer"
        top = self.activation == "topk"
        require(per_layer or not self.skip, "skip", "left out, or `kind` per-layer")
        require(per_layer or not top, "activation", "jumprelu or relu, or `kind` per-layer")
        require(self.refit >= 0, "refit", "at least 0")
        require(per_layer or not self.refit, "refit", "0, or `kind` per-layer")
        whole_l0 = wanted.ndim == 0 and float(wanted).is_integer()
        require(not top or whole_l0, "l0", "a whole number, the k of a TopK")

    @property
    def form(self) -> Form:
        """Return what is trained."""
        k = int(np.asarray(self.l0)) if self.activation == "topk" else None
        activation = cast(TrainedActivation, self.activation)
        return Form(activation, self.kind == "cross-layer", self.skip, k)

    def require_layers(self, layers: int) -> None:
        """Raise `InputError` where there is not one `l0`, nor one for each of a model's layers."""
        given = np.shape(self.l0)
        expected = f"one number, or one for each of the model's {layers} layers"
        require(given in ((), (layers,)), "l0", f"{expected}, not {sum(given)}")

    def target_l0(self, step: int) -> np.ndarray:
        """Return the L0 that a step steers to, [] or [L]: high first, when features have yet to
        differ; a TopK has its own from the start."""
        asked = np.asarray(self.l0, np.float64)
        if self.activation == "topk":
            return asked.astype(np.float32)
        first = np.minimum(_FIRST_L0 * asked, self.features / 2)
        goal = _L0_MARGIN * asked
        fallen = first * (goal / first) ** min(1.0, step / (_L0_SHARE * self.steps))
        return np.asarray(fallen, np.float32)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: a short rise, a plateau, a fall to 0."""
        rise = (step + 1) / _WARMUP
        fall = (self.steps - step) / (_DECAY_SHARE * self.steps)
        return self.learning_rate * min(1.0, rise, fall)

    def revives(self, step: int) -> bool:
        """Tell whether dead features are revived before a step."""
        return step > 0 and step % _REVIVE_EVERY == 0 and step < _REVIVE_SHARE * self.steps


def require(holds: bool, name: str, expected: str) -> None:
    """Raise `InputError` where an option is not as expected."""
    if not holds:
        raise InputError(f"`{name}` must be {expected}.")


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    require(value in known, name, f"one of {', '.join(known)}")
