"""How well a transcoder's writes are the MLPs' outputs, reading at one hook or another.

Shapes: L layers, N tokens, D model, F features, n tokens at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pie_jax.check.reading import Streams
from pie_jax.devices.programs import program
from pie_jax.models.loader import LanguageModel
from pie_jax.models.transformer import Transformer
from pie_jax.transcoders.config import InputSite, OutputSite
from pie_jax.transcoders.modules import Encoder, skip_write
from pie_jax.transcoders.store import Transcoder

# Activations that are in memory at once.
_DENSE = 1 << 27


@dataclass(frozen=True)
class Fit:
    """A transcoder that reads `input_site` and is compared with the MLPs at `output_site`.

    One number a layer: `fvu`, the squared error over the variance of the MLP's output (0 is
    perfect, 1 as good as its mean), and `l0`, the mean number of active features of a token.
    `tokens` that were read, BOS not counted.
    """

    input_site: InputSite
    output_site: OutputSite
    fvu: tuple[float, ...]
    l0: tuple[float, ...]
    tokens: int

    @property
    def typical_fvu(self) -> float:
        """Return the median over layers."""
        return float(np.median(self.fvu))


@dataclass(frozen=True)
class Written:
    """What features write [L, N, D], how many are active [L, N], and on how many tokens each one
    was, [L, F]; features do not fire at BOS."""

    writes: np.ndarray
    active: np.ndarray
    fired: np.ndarray


@program("site")
def site_inputs(
    model: Transformer, resid_mid: Float[Array, "L N D"], site: str
) -> Float[Array, "L N D"]:
    """Return what features read at a site in every layer."""
    return model.transcoder_inputs(resid_mid, site)


def written(
    model: LanguageModel, transcoder: Transcoder, streams: Streams, site: InputSite
) -> Written:
    """Encode and decode every token, layer by layer, with biases and skips."""
    config = transcoder.config
    inputs = np.asarray(site_inputs(model.transformer, jnp.asarray(streams.resid_mid), site))
    total = np.zeros(inputs.shape, np.float32) + transcoder.bias[:, None]
    active = np.zeros(inputs.shape[:2], np.int64)
    fired = np.zeros((config.num_layers, config.features), np.int64)
    for layer in range(config.num_layers):
        encoder = transcoder.encoder(layer)
        for here, part, counts in chunks(inputs[layer], streams.position > 0, config.features):
            features = encode(encoder, part, counts)
            number = here.stop - here.start
            active[layer, here] = np.asarray((features != 0).sum(1))[:number]
            fired[layer] += np.asarray((features != 0).sum(0))
            for step in range(config.targets(layer)):
                total[layer + step, here] += np.asarray(
                    decode(features, target_rows(transcoder, layer, step))
                )[:number]
        if config.has_skip:
            total[layer] += np.asarray(
                skip_write(transcoder.skip(layer), jnp.asarray(inputs[layer]))
            )
    return Written(total, active, fired)


def target_rows(transcoder: Transcoder, layer: int, step: int) -> Float[Array, "F D"]:
    """Read what all features of a layer write to the one `step` layers further."""
    return jnp.asarray(np.ascontiguousarray(transcoder.decoder_maps[layer][:, step]))


def chunks(
    x: np.ndarray, counts: np.ndarray, features: int
) -> Iterator[tuple[slice, Array, Array]]:
    """Yield tokens of [N, D] in equal parts that keep activations small: where they stand, what
    they read, and whether they count; the last part is padded with tokens that do not."""
    size = min(len(x), max(1, _DENSE // features))
    for first in range(0, len(x), size):
        here = slice(first, min(first + size, len(x)))
        lacking = size - (here.stop - first)
        yield (
            here,
            jnp.asarray(np.pad(x[here], ((0, lacking), (0, 0)))),
            jnp.asarray(np.pad(counts[here], (0, lacking))),
        )


@program()
def encode(
    encoder: Encoder, x: Float[Array, "n D"], counts: Bool[Array, " n"]
) -> Float[Array, "n F"]:
    """Return activations, 0 of tokens that do not count."""
    return jnp.where(counts[:, None], encoder(x), 0.0)


@program()
def decode(features: Float[Array, "n F"], rows: Float[Array, "F D"]) -> Float[Array, "n D"]:
    """Return what features write, in float32."""
    return jnp.matmul(features.astype(rows.dtype), rows, preferred_element_type=jnp.float32)


def fit(found: Written, streams: Streams, site: InputSite, output: OutputSite) -> Fit:
    """Return how well writes are the MLPs' outputs, BOS not counted.

    `output` before the post-norm is what the MLP itself returns, where there is such a norm.
    """
    own = output == "before_post_norm" and streams.mlp_own is not None
    counts = streams.position > 0
    target = streams.mlp_own if own and streams.mlp_own is not None else streams.mlp_out
    shares = []
    for writes, outputs in zip(found.writes, target, strict=True):
        y = outputs[counts].astype(np.float64)
        error = np.sum((y - writes[counts]) ** 2)
        shares.append(float(error / np.sum((y - y.mean(axis=0)) ** 2)))
    l0 = tuple(float(value) for value in found.active[:, counts].mean(axis=1))
    return Fit(site, output, tuple(shares), l0, int(counts.sum()))


def likeness(
    model: LanguageModel, transcoder: Transcoder, streams: Streams, site: InputSite
) -> np.ndarray:
    """Return how alike what features of one layer write to it and another layer's output are, where
    they read that other layer's stream: the squared cosine about the means, [L, L]."""
    config, counts = transcoder.config, streams.position > 0
    inputs = np.asarray(site_inputs(model.transformer, jnp.asarray(streams.resid_mid), site))
    out = np.zeros((config.num_layers, config.num_layers))
    for layer in range(config.num_layers):
        encoder, rows = transcoder.encoder(layer), target_rows(transcoder, layer, 0)
        skip = transcoder.skip(layer) if config.has_skip else None
        for other in range(config.num_layers):
            parts = [
                np.asarray(decode(encode(encoder, part, real), rows))[: here.stop - here.start]
                for here, part, real in chunks(inputs[other], counts, config.features)
            ]
            write = np.concatenate(parts)
            if skip is not None:
                write += np.asarray(skip_write(skip, jnp.asarray(inputs[other])))
            out[layer, other] = _cosine(write[counts], streams.mlp_out[other][counts]) ** 2
    return out


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (a.astype(np.float64) - a.mean(axis=0, dtype=np.float64) for a in (x, y))
    size = np.sqrt(np.sum(x * x) * np.sum(y * y))
    # Where nothing varies, nothing is alike.
    return float(np.sum(x * y) / size) if size > 0 else 0.0
