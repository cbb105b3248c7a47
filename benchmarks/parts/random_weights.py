"""Random weights of a given shape: a model, and a transcoder with a given L0.

    python -m benchmarks.parts.random_weights weights --shape llama-3.2-1b

writes folders `model` and `transcoder`, which `benchmarks.prune --weights` reads.
"""

from __future__ import annotations

import json
import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
import yaml
from flax import nnx
from safetensors.numpy import save_file

from pie_jax.models.config import PRESETS, ModelConfig
from pie_jax.models.loader import save_model
from pie_jax.models.transformer import Transformer
from pie_jax.tasks import Pair


@dataclass(frozen=True)
class Shape:
    """Sizes of a made model and transcoder; `l0` active features per layer and token.

    `alive` features of a layer may be active, the others never are; without it all may.
    `preset` names a real model's config; without one it is a Llama without grouped heads.
    """

    layers: int
    d_model: int
    d_mlp: int
    heads: int
    features: int
    l0: int
    tokens: int = 18
    vocabulary: int = 512
    preset: str | None = None
    dtype: str = "float32"  # on disk
    alive: int | None = None

    def config(self) -> ModelConfig:
        """Return the model's config."""
        if self.preset is not None:
            return PRESETS[self.preset]
        return ModelConfig(
            family="llama",
            vocab_size=self.vocabulary,
            num_layers=self.layers,
            d_model=self.d_model,
            d_mlp=self.d_mlp,
            num_heads=self.heads,
            num_kv_heads=self.heads,
            head_dim=self.d_model // self.heads,
            norm_eps=1e-5,
            rope_theta=10000.0,
            max_positions=2048,
        )


# A threshold that no feature reaches, in RMS of a layer's input.
_NEVER = 1e3
# Numbers drawn at once for a decoder.
_BLOCK = 1 << 25


def _real(preset: str, features: int) -> Shape:
    config = PRESETS[preset]
    return Shape(
        layers=config.num_layers,
        d_model=config.d_model,
        d_mlp=config.d_mlp,
        heads=config.num_heads,
        features=features,
        l0=48,
        vocabulary=config.vocab_size,
        preset=preset,
        dtype="bfloat16",
    )


SHAPES = {
    "tiny": Shape(layers=4, d_model=64, d_mlp=128, heads=4, features=192, l0=16),
    "small": Shape(layers=8, d_model=512, d_mlp=2048, heads=8, features=4096, l0=48),
    "wide": Shape(layers=8, d_model=512, d_mlp=2048, heads=8, features=16384, l0=48),
    "llama-3.2-1b": _real("llama-3.2-1b", features=32768),
    "gemma-2-2b": _real("gemma-2-2b", features=16384),
}


def make_weights(shape: Shape, folder: Path, *, keep_model: bool = False) -> dict[str, float]:
    """Write model and transcoder, whose config.yaml comes last; return the seconds of each.

    With `keep_model` the model that is there stays.
    """
    start = time.perf_counter()
    if not keep_model:
        make_model(shape, folder / "model")
    between = time.perf_counter()
    make_transcoder(shape, folder / "transcoder", input_scale(folder / "model", shape))
    return {"model": between - start, "transcoder": time.perf_counter() - between}


def make_model(shape: Shape, folder: Path, seed: int = 0) -> None:
    """Write a random model with a word-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    model = Transformer(shape.config(), nnx.Rngs(seed), jnp.dtype(shape.dtype))
    save_model(model, folder, shape.dtype)
    words = ["<unk>", "<s>", *(f"w{i}" for i in range(shape.vocabulary - 2))]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def make_transcoder(shape: Shape, folder: Path, scale: np.ndarray, seed: int = 0) -> None:
    """Write a random ReLU transcoder, a layer in memory for every core.

    `scale` [L] is the RMS of each layer's input, from which the bias that leads to `l0` follows.
    Features that two sizes of dictionary both have are the same in both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    layers = range(shape.layers)
    with ThreadPoolExecutor(min(shape.layers, os.cpu_count() or 1)) as threads:
        list(
            threads.map(
                lambda layer: _write_layer(shape, folder, scale[layer], seed, layer), layers
            )
        )
    config = {
        "model_name": "made",
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def _write_layer(shape: Shape, folder: Path, scale: float, seed: int, layer: int) -> None:
    """Write a layer's encoder and decoder; `scale` is the RMS of the layer's input."""
    alive = shape.features if shape.alive is None else shape.alive
    cut = NormalDist().inv_cdf(1 - shape.l0 / alive)
    f, d = shape.features, shape.d_model
    kind = jnp.dtype(shape.dtype)
    random = np.random.default_rng((seed, layer))
    encoder = random.standard_normal((f, d), np.float32)
    encoder /= np.float32(np.sqrt(d))
    bias = np.full(f, -cut * scale, np.float32)
    bias[alive:] = -_NEVER * scale
    zero = np.zeros(d, np.float32)
    tensors = {f"W_enc_{layer}": encoder, f"b_enc_{layer}": bias, f"b_dec_{layer}": zero}
    save_file(
        {name: array.astype(kind) for name, array in tensors.items()},
        folder / f"W_enc_{layer}.safetensors",
    )
    path = folder / f"W_dec_{layer}.safetensors"
    random = np.random.default_rng((seed, layer, 1))
    _write_decoder(path, f"W_dec_{layer}", (f, shape.layers - layer, d), kind, random)


def _write_decoder(
    path: Path, name: str, shape: tuple[int, ...], kind: np.dtype, random: np.random.Generator
) -> None:
    """Write random rows a block at a time; a block is drawn once and repeated, shifted."""
    size = int(np.prod(shape))
    block = min(size, _BLOCK)
    values = random.standard_normal(block, np.float32) * np.float32(0.1 / np.sqrt(shape[-1]))
    values = values.astype(kind)
    bytes_ = size * kind.itemsize
    label = {2: "BF16", 4: "F32"}[kind.itemsize]
    entry = {name: {"dtype": label, "shape": list(shape), "data_offsets": [0, bytes_]}}
    header = json.dumps(entry).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for index, start in enumerate(range(0, size, block)):
            turn, left = 977 * index % block, min(block, size - start)
            # What np.roll would give, without a copy.
            for part in (
                values[block - turn :][:left],
                values[: max(left - turn, 0)][: block - turn],
            ):
                file.write(part.view(np.uint8))


def make_pairs(shape: Shape, count: int, seed: int = 0) -> list[Pair]:
    """Draw pairs that differ in one token; the answers are random words."""
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        words = [f"w{i}" for i in random.integers(0, shape.vocabulary - 2, shape.tokens + 2)]
        clean, target, other = words[: shape.tokens - 1], words[-2], words[-1]
        corrupted = list(clean)
        corrupted[len(clean) // 2] = other if other != clean[len(clean) // 2] else target
        if target == other:
            other = "w0" if target != "w0" else "w1"
        pairs.append(Pair(" ".join(clean), (" ".join(corrupted),), target, other))
    return pairs


def input_scale(folder: Path, shape: Shape, seed: int = 0) -> np.ndarray:
    """Return the RMS of each layer's resid_mid on random tokens, [L]."""
    from pie_jax.models.loader import load_model

    model = load_model(folder, shape.dtype).transformer
    tokens = np.random.default_rng(seed).integers(2, shape.vocabulary, shape.tokens)
    resid_mid = jax.jit(lambda m, t: m.streams(t).resid_mid)(model, tokens.astype(np.int32))
    return np.sqrt(np.mean(np.asarray(resid_mid) ** 2, axis=(1, 2)))


def main(
    out: Path,
    shape: str = "small",
    features: Annotated[int, typer.Option(help="A layer; 0: as many as the shape has.")] = 0,
    keep_model: Annotated[bool, typer.Option("--keep-model", help="Only the transcoder.")] = False,
) -> None:
    """Write weights and say how long it took."""
    sizes = SHAPES[shape]
    sizes = replace(sizes, features=features or sizes.features)
    seconds = make_weights(sizes, out, keep_model=keep_model)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    took = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    print(f"{out}: {size / 2**30:.1f} GiB; {took}")


if __name__ == "__main__":
    typer.run(main)
