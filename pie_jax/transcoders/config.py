"""The sizes and switches of a transcoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# TopK keeps the k largest of a layer at each position: of the pre-activations as they are, or of
# what ReLU leaves of them. Of equal ones the first.
FeatureActivation = Literal["relu", "jumprelu", "topk", "relu_topk"]
# What a feature reads: the stream before the MLP's norm, the MLP's normalised input, or that before
# the norm's weight.
InputSite = Literal["resid_mid", "mlp_in", "ln2_normalized"]
# Where it writes: the MLP's output after its post-norm, or before one.
OutputSite = Literal["after_post_norm", "before_post_norm"]


@dataclass(frozen=True)
class TopK:
    """How many features of a layer may be active at a position, after ReLU or without it."""

    k: int
    relu: bool


@dataclass(frozen=True)
class TranscoderConfig:
    """L `num_layers`, D `d_model`, F `features` a layer, and where a feature writes.

    `cross_layer`: feature f of layer l writes to layers l..L-1; otherwise to its own only.
    """

    num_layers: int
    d_model: int
    features: int
    activation: FeatureActivation
    cross_layer: bool = True
    input_site: InputSite = "resid_mid"
    output_site: OutputSite = "after_post_norm"
    # An affine skip adds to the reconstruction, but is no feature's write.
    has_skip: bool = False
    model_name: str = ""
    # Of TopK alone.
    k: int | None = None

    @property
    def top(self) -> TopK | None:
        """Return how many features stay of a layer, None where each is by itself."""
        return None if self.k is None else TopK(self.k, self.activation == "relu_topk")

    def targets(self, layer: int) -> int:
        """Return how many layers, from its own on, a feature of `layer` writes to."""
        return self.num_layers - layer if self.cross_layer else 1
