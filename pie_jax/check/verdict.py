"""What the figures of a check say: the wrong hook, the wrong order of layers, the wrong model.

Shapes: L layers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pie_jax.check.fit import Fit
from pie_jax.transcoders.config import InputSite, OutputSite

INPUT_NAMES: dict[InputSite, str] = {
    "resid_mid": "hook_resid_mid",
    "mlp_in": "mlp.hook_in",
    "ln2_normalized": "ln2.hook_normalized",
}
OUTPUT_NAMES: dict[OutputSite, str] = {
    "after_post_norm": "hook_mlp_out",
    "before_post_norm": "mlp.hook_out",
}
# A share of unexplained variance from which on a transcoder explains nothing to speak of.
_NOTHING = 0.9
# By how much another hook must explain more of the variance, and of what is unexplained.
_BETTER, _BETTER_SHARE = 0.02, 0.05
# A layer is another's where it is so alike, and this many times as much as to its own.
_ALIKE, _MORE_ALIKE = 0.1, 2.0


class Misplaced(NamedTuple):
    """A layer whose features are more like layer `fits`: squared cosines with both outputs."""

    layer: int
    fits: int
    own: float
    other: float


def misplaced_layers(alike: np.ndarray) -> tuple[Misplaced, ...]:
    """Return the layers of a matrix [L, L] of squared cosines that are another layer's."""
    found = []
    for layer, row in enumerate(alike):
        best = int(np.argmax(row))
        if row[best] >= _ALIKE and row[best] > _MORE_ALIKE * row[layer]:
            found.append(Misplaced(layer, best, float(row[layer]), float(row[best])))
    return tuple(found)


def mistakes(
    named: Fit,
    neighbours: tuple[Fit, ...],
    misplaced: tuple[Misplaced, ...],
    trained_on: str,
    model_name: str,
) -> tuple[str, ...]:
    """Return a sentence for each mistake, none where the transcoder explains the model's MLPs."""
    best = min(neighbours, key=lambda one: one.typical_fvu)
    here, there = named.typical_fvu, best.typical_fvu
    if misplaced:
        pairs = ", ".join(f"{one.layer} fits layer {one.fits}" for one in misplaced[:8])
        more = f" and {len(misplaced) - 8} more" if len(misplaced) > 8 else ""
        return (f"order of layers: the file of layer {pairs}{more}; put the files in order.",)
    if there < min(_NOTHING, here - _BETTER, (1 - _BETTER_SHARE) * here):
        return (
            f"hook: the features fit {hooks(best)} (FVU {there:.2f}), but the files name "
            f"{hooks(named)} (FVU {here:.2f}); correct the hook.",
        )
    if here >= _NOTHING:
        said = f", which the files call `{trained_on}`" if trained_on else ""
        return (
            f"model: at no hook do the features explain {model_name} (FVU {here:.2f} at "
            f"{hooks(named)}, {there:.2f} at best elsewhere); give the model that they were "
            f"trained on{said}.",
        )
    return ()


def hooks(one: Fit) -> str:
    """Return the hooks of a fit, as config.yaml calls them."""
    return f"{INPUT_NAMES[one.input_site]} -> {OUTPUT_NAMES[one.output_site]}"
