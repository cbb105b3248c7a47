"""The one frozen description that drives the transformer, and its presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True)
class Llama3Rope:
    """Llama-3's frequency scaling: wavelengths beyond the original context are stretched."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class LinearRope:
    """Every frequency divided by one factor."""

    factor: float


RopeScaling = Llama3Rope | LinearRope


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a decoder-only transformer.

    Letters: L `num_layers`, D `d_model`, M `d_mlp`, H `num_heads`, G `num_kv_heads`,
    K `head_dim`, V `vocab_size`.
    """

    family: str
    vocab_size: int
    num_layers: int
    d_model: int
    d_mlp: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    # None: positions are not rotated but learned, a table [max_positions, D] added to embeddings.
    rope_theta: float | None
    max_positions: int
    rope_scaling: RopeScaling | None = None
    # Gemma-3's sliding layers have a base of their own, which is not scaled.
    local_rope_theta: float | None = None
    tie_embeddings: bool = True
    activation: Activation = "silu"
    # GPT-2's LayerNorm: the mean is taken away first, and a bias added last.
    centred_norms: bool = False
    # Gemma's RMSNorm multiplies by (1 + weight).
    norm_offset: float = 0.0
    # Biases of queries, keys and values.
    qkv_bias: bool = False
    # Biases of what attention writes, and of both matrices of an MLP without a gate.
    output_bias: bool = False
    # Without a gate an MLP is down(act(up(x))).
    gated: bool = True
    # An RMSNorm over each head of queries and keys, before they are rotated.
    qk_norm: bool = False
    # Gemma-2 normalises each block's output as well as its input.
    post_norms: bool = False
    # Gemma multiplies embeddings by sqrt(D), rounded to the embedding's dtype.
    scale_embeddings: bool = False
    query_scale: float | None = None
    attention_softcap: float | None = None
    final_softcap: float | None = None
    sliding_window: int | None = None
    # One flag per layer: does it attend within `sliding_window` only?
    sliding_layers: tuple[bool, ...] = field(default=())

    @property
    def scale(self) -> float:
        """Factor on attention scores; head_dim^-0.5 unless the model sets its own."""
        return self.head_dim**-0.5 if self.query_scale is None else self.query_scale


def rope_frequencies(config: ModelConfig, *, local: bool = False) -> np.ndarray:
    """Return the rotary angle per position, [K / 2] in radians, scaling applied; `local` of the
    sliding layers, where theirs differ."""
    assert config.rope_theta is not None
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    if local and config.local_rope_theta is not None:
        return (1.0 / config.local_rope_theta**exponent).astype(np.float32)
    frequencies = 1.0 / config.rope_theta**exponent
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies.astype(np.float32)
    if isinstance(scaling, LinearRope):
        return (frequencies / scaling.factor).astype(np.float32)
    wavelength = 2 * math.pi / frequencies
    context = scaling.original_max_position_embeddings
    # 1 keeps a frequency as it is (short waves), 0 divides it by the factor (long waves).
    smooth = (context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = np.clip(smooth, 0.0, 1.0)
    return (frequencies * (smooth + (1 - smooth) / scaling.factor)).astype(np.float32)


def _gpt_2(layers: int, d_model: int) -> ModelConfig:
    return ModelConfig(
        family="gpt2",
        vocab_size=50257,
        num_layers=layers,
        d_model=d_model,
        d_mlp=4 * d_model,
        num_heads=d_model // 64,
        num_kv_heads=d_model // 64,
        head_dim=64,
        norm_eps=1e-5,
        rope_theta=None,
        max_positions=1024,
        activation="gelu_tanh",
        centred_norms=True,
        qkv_bias=True,
        output_bias=True,
        gated=False,
    )


_LLAMA_3_ROPE = Llama3Rope(32.0, 1.0, 4.0, 8192)

_LLAMA_3_2_1B = ModelConfig(
    family="llama",
    vocab_size=128256,
    num_layers=16,
    d_model=2048,
    d_mlp=8192,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    norm_eps=1e-5,
    rope_theta=500000.0,
    max_positions=131072,
    rope_scaling=_LLAMA_3_ROPE,
)


def _gemma_2(num_layers: int, d_model: int, d_mlp: int, heads: int, kv_heads: int) -> ModelConfig:
    return ModelConfig(
        family="gemma2",
        vocab_size=256000,
        num_layers=num_layers,
        d_model=d_model,
        d_mlp=d_mlp,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=256,
        norm_eps=1e-6,
        rope_theta=10000.0,
        max_positions=8192,
        activation="gelu_tanh",
        norm_offset=1.0,
        post_norms=True,
        scale_embeddings=True,
        query_scale=256**-0.5,
        attention_softcap=50.0,
        final_softcap=30.0,
        sliding_window=4096,
        sliding_layers=tuple(layer % 2 == 0 for layer in range(num_layers)),
    )


def _gemma_3(
    layers: int,
    d_model: int,
    d_mlp: int,
    heads: int,
    kv_heads: int,
    head_dim: int = 256,
    query_scalar: int = 256,
    *,
    small: bool = False,
) -> ModelConfig:
    return ModelConfig(
        family="gemma3_text",
        vocab_size=262144 if small else 262208,
        num_layers=layers,
        d_model=d_model,
        d_mlp=d_mlp,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=1e-6,
        rope_theta=1e6,
        rope_scaling=None if small else LinearRope(8.0),
        local_rope_theta=1e4,
        max_positions=32768 if small else 131072,
        activation="gelu_tanh",
        norm_offset=1.0,
        qk_norm=True,
        post_norms=True,
        scale_embeddings=True,
        query_scale=query_scalar**-0.5,
        sliding_window=512 if small else 1024,
        sliding_layers=tuple((layer + 1) % 6 != 0 for layer in range(layers)),
    )


def _qwen_3(layers: int, d_model: int, d_mlp: int, heads: int, *, tied: bool) -> ModelConfig:
    return ModelConfig(
        family="qwen3",
        vocab_size=151936,
        num_layers=layers,
        d_model=d_model,
        d_mlp=d_mlp,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=128,
        norm_eps=1e-6,
        rope_theta=1e6,
        max_positions=40960,
        tie_embeddings=tied,
        qk_norm=True,
    )


def _qwen_2_5(layers: int, d_model: int, d_mlp: int, heads: int, kv_heads: int) -> ModelConfig:
    return ModelConfig(
        family="qwen2",
        vocab_size=151936,
        num_layers=layers,
        d_model=d_model,
        d_mlp=d_mlp,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=d_model // heads,
        norm_eps=1e-6,
        rope_theta=1e6,
        max_positions=32768,
        qkv_bias=True,
    )


_MISTRAL_7B = ModelConfig(
    family="mistral",
    vocab_size=32000,
    num_layers=32,
    d_model=4096,
    d_mlp=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    norm_eps=1e-5,
    rope_theta=10000.0,
    max_positions=32768,
    tie_embeddings=False,
    sliding_window=4096,
    sliding_layers=(True,) * 32,
)


PRESETS: dict[str, ModelConfig] = {
    "llama-3.2-1b": _LLAMA_3_2_1B,
    "llama-3.2-3b": replace(_LLAMA_3_2_1B, num_layers=28, d_model=3072, num_heads=24, head_dim=128),
    "gemma-2-2b": _gemma_2(26, 2304, 9216, 8, 4),
    "gemma-2-9b": _gemma_2(42, 3584, 14336, 16, 8),
    "gemma-3-270m": _gemma_3(18, 640, 2048, 4, 1, small=True),
    "gemma-3-1b": _gemma_3(26, 1152, 6912, 4, 1, small=True),
    "gemma-3-4b": _gemma_3(34, 2560, 10240, 8, 4),
    "gemma-3-12b": _gemma_3(48, 3840, 15360, 16, 8),
    "gemma-3-27b": _gemma_3(62, 5376, 21504, 32, 16, 128, 168),
    "gpt2": _gpt_2(12, 768),
    "gpt2-medium": _gpt_2(24, 1024),
    "gpt2-large": _gpt_2(36, 1280),
    "gpt2-xl": _gpt_2(48, 1600),
    "mistral-7b": _MISTRAL_7B,
    "qwen2.5-0.5b": _qwen_2_5(24, 896, 4864, 14, 2),
    "qwen2.5-1.5b": _qwen_2_5(28, 1536, 8960, 12, 2),
    "qwen2.5-3b": _qwen_2_5(36, 2048, 11008, 16, 2),
    "qwen3-0.6b": _qwen_3(28, 1024, 3072, 16, tied=True),
    "qwen3-1.7b": _qwen_3(28, 2048, 6144, 16, tied=True),
    "qwen3-4b": _qwen_3(36, 2560, 9728, 32, tied=True),
    "qwen3-8b": _qwen_3(36, 4096, 12288, 32, tied=False),
    "qwen3-14b": _qwen_3(40, 5120, 17408, 40, tied=False),
}
