"""One file a layer, under the names and in the orientation of whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pie_jax.errors import InputError
from pie_jax.files.npz import NpzFile
from pie_jax.files.tensor_reader import TensorFile, require_finite
from pie_jax.transcoders.config import FeatureActivation, InputSite, OutputSite, TranscoderConfig
from pie_jax.transcoders.store import EncoderArrays, LazyLayers, Transcoder


@dataclass(frozen=True)
class Names:
    """What a layout calls its tensors; `transposed` if encoders are [D, F] and skips (in, out)."""

    weight: str
    bias: str
    decoder: str
    out_bias: str
    threshold: str | None
    skip: str | None
    transposed: bool = False
    k: str | None = None

    def known(self) -> set[str]:
        """Return all names."""
        every = (self.weight, self.bias, self.decoder, self.out_bias, self.threshold, self.skip)
        return {name for name in (*every, self.k) if name is not None}


CIRCUIT_TRACER = Names(
    *("W_enc", "b_enc", "W_dec", "b_dec", "activation_function.threshold", "W_skip"), k="k"
)
GEMMA_SCOPE = Names("W_enc", "b_enc", "W_dec", "b_dec", "threshold", None, transposed=True)
GEMMA_SCOPE_2 = Names(
    *("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "affine_skip_connection"), transposed=True
)
SPARSIFY = Names("encoder.weight", "encoder.bias", "W_dec", "b_dec", None, "W_skip")


@dataclass(frozen=True)
class Site:
    """Where features read and write, which model they belong to, and their activation as config
    says it: TopK, or None where thresholds in the files decide; `k` of a TopK where it is known."""

    input_site: InputSite
    output_site: OutputSite
    model_name: str = ""
    activation: FeatureActivation | None = None
    k: int | None = None


class LayerFile:
    """A layer's tensors in one orientation: encoder [F, D], decoder [F, D] or [F, L, D]."""

    def __init__(self, path: Path, names: Names | None = None):
        self.path = path
        self.file = NpzFile(path) if path.suffix == ".npz" else TensorFile(path)
        self.names = names or _names_of(self.file)
        unknown = sorted(set(self.file.names()) - self.names.known())
        if unknown:
            raise InputError(
                f"{path}: tensor `{unknown[0]}` is not handled; known are "
                f"{', '.join(sorted(self.names.known()))}."
            )

    @property
    def packed(self) -> bool:
        """Tell whether reading a row means reading the whole layer."""
        return isinstance(self.file, NpzFile) and self.file.packed

    def sizes(self) -> tuple[int, int]:
        """Return features and width."""
        shape = self.file.shape(self.names.weight)
        if len(shape) != 2:
            axes = "[D, F]" if self.names.transposed else "[F, D]"
            raise InputError(
                f"{self.path}: `{self.names.weight}` must be {axes}, but it is {list(shape)}."
            )
        return (shape[1], shape[0]) if self.names.transposed else (shape[0], shape[1])

    def has(self, name: str | None) -> bool:
        """Tell whether the file holds a tensor."""
        return name is not None and name in self.file

    def encoder(self, config: TranscoderConfig) -> EncoderArrays:
        """Return the encoder, with thresholds of shape [F]."""
        names, shape = self.names, (config.features, config.d_model)
        weight = self.file.tensor(names.weight, shape[::-1] if names.transposed else shape)
        weight = weight.T if names.transposed else weight
        bias = self.file.tensor(names.bias, (config.features,))
        return EncoderArrays(weight, bias, self._threshold(config))

    def decoder(self, config: TranscoderConfig, layer: int) -> np.ndarray:
        """Return the decoder [F, W, D] of the layers from its own on."""
        if not config.cross_layer:
            rows = self.file.tensor(self.names.decoder, (config.features, config.d_model))
            return rows.reshape(config.features, 1, config.d_model)
        shape = (config.features, config.num_layers, config.d_model)
        # What would be written to the layers before is stored, but means nothing.
        return self.file.tensor(self.names.decoder, shape)[:, layer:]

    def out_bias(self, config: TranscoderConfig) -> np.ndarray:
        """Return the decoder's bias [D] in float32."""
        return np.asarray(self.file.tensor(self.names.out_bias, (config.d_model,)), np.float32)

    def skip(self, config: TranscoderConfig) -> np.ndarray:
        """Return the affine skip [D, D], (out, in)."""
        assert self.names.skip is not None
        found = self.file.tensor(self.names.skip, (config.d_model, config.d_model))
        return found.T if self.names.transposed else found

    def _threshold(self, config: TranscoderConfig) -> np.ndarray | None:
        if config.activation != "jumprelu":
            return None
        assert self.names.threshold is not None
        # Stored as one number a feature, with or without leading axes of size one.
        stored = self.file.tensor(self.names.threshold)
        if stored.size not in (1, config.features):
            raise InputError(f"{self.path}: `{self.names.threshold}` must hold 1 or F numbers.")
        return np.broadcast_to(stored.reshape(-1), (config.features,))


def _names_of(file: TensorFile | NpzFile) -> Names:
    if isinstance(file, NpzFile):
        return GEMMA_SCOPE
    return GEMMA_SCOPE_2 if "w_enc" in file else CIRCUIT_TRACER


def assemble(
    folder: Path,
    layers: Sequence[LayerFile],
    site: Site,
    beside: Sequence[Path],
    *,
    cross_layer: bool = False,
) -> Transcoder:
    """Return the transcoder of one file a layer; `beside` are the other files that decide it.

    Raises `InputError` where a layer is unlike the first.
    """
    features, d_model = layers[0].sizes()
    kind = _activation(layers, site)
    config = TranscoderConfig(
        num_layers=len(layers),
        d_model=d_model,
        features=features,
        activation=kind,
        cross_layer=cross_layer,
        input_site=site.input_site,
        output_site=site.output_site,
        has_skip=_all_or_none(layers, [layer.has(layer.names.skip) for layer in layers], "skip"),
        model_name=site.model_name,
        k=_k(layers, site, features) if kind in ("topk", "relu_topk") else None,
    )
    bias = np.stack([layer.out_bias(config) for layer in layers])
    require_finite(bias, f"{folder}: decoder bias")
    packed = next((layer.path for layer in layers if layer.packed), None)
    for layer in layers if packed is None else ():
        # What has another shape is refused now.
        layer.encoder(config)
    return Transcoder(
        config,
        str(folder),
        folder,
        (*beside, *(layer.path for layer in layers)),
        LazyLayers(len(layers), lambda i: layers[i].encoder(config)),
        LazyLayers(len(layers), lambda i: layers[i].decoder(config, i))
        if packed
        else [layer.decoder(config, index) for index, layer in enumerate(layers)],
        bias,
        skips=[layer.skip(config) for layer in layers] if config.has_skip else [],
        packed=packed,
    )


def _activation(layers: Sequence[LayerFile], site: Site) -> FeatureActivation:
    """Return JumpReLU where the files hold thresholds, else what config says, TopK where the files
    hold `k` and it says nothing, else ReLU."""
    has = [layer.has(layer.names.threshold) for layer in layers]
    thresholds = _all_or_none(layers, has, f"`{layers[0].names.threshold}`")
    with_k = next((layer for layer in layers if layer.has(layer.names.k)), None)
    said, first = site.activation, layers[0]
    if thresholds and said in ("topk", "relu_topk"):
        raise InputError(
            f"{first.path}: holds thresholds, but `activation` is {said!r}; both together are not "
            "handled."
        )
    if said == "jumprelu" and not thresholds:
        raise InputError(
            f"{first.path}: has no thresholds, but `activation` is 'jumprelu'; fetch the set again."
        )
    if with_k is not None and (thresholds or said == "relu"):
        raise InputError(
            f"{with_k.path}: holds `k`, as TopK does, but its activation is "
            f"{'jumprelu' if thresholds else said}; say `activation: topk` or remove `k`."
        )
    if thresholds:
        return "jumprelu"
    return said or ("relu" if with_k is None else "topk")


def _all_or_none(layers: Sequence[LayerFile], has: list[bool], what: str) -> bool:
    for layer, one in zip(layers, has, strict=True):
        if one != has[0]:
            raise InputError(
                f"{layer.path}: every layer must have {what} or none; fetch the folder again."
            )
    return has[0]


def _k(layers: Sequence[LayerFile], site: Site, features: int) -> int:
    """Return how many features stay, as config or all the files say it."""
    said = {} if site.k is None else {layers[0].path.parent: float(site.k)}
    said |= {layer.path: layer.file.number("k") for layer in layers if layer.has(layer.names.k)}
    if not said:
        raise InputError(
            f"{layers[0].path.parent}: `activation` is {site.activation!r}, but neither "
            "config.yaml nor the files say how many features stay; add `k: 128` or what the set "
            "was trained with to config.yaml."
        )
    path, k = next(iter(said.items()))
    for other, value in said.items():
        if value != k:
            raise InputError(f"{other}: `k` is {value:g}, but {k:g} in {path}; they must agree.")
    if k != int(k) or not 1 <= k <= features:
        raise InputError(f"{path}: `k` is {k:g}, but must be a whole number from 1 to {features}.")
    return int(k)
