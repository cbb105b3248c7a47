"""GPT-2: LayerNorm, learned positions, biases everywhere, an MLP without a gate.

Its files store [in, out] matrices, and those of queries, keys and values side by side in one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pie_jax.errors import InputError
from pie_jax.models.config import ModelConfig
from pie_jax.models.families.base import Family, Fields, Tensor

# The same function under the names that files use for it.
_GELU_TANH = ("gelu_new", "gelu_pytorch_tanh")
# Of heads on top of the model that do not make logits, and of how attention is computed.
_IDLE = """
    n_ctx predict_special_tokens reorder_and_upcast_attn summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj
    """.split()


def parse(fields: Fields) -> ModelConfig:
    """Read a GPT-2 config.json; what is left out has transformers' GPT2Config default."""
    fields.expect("activation_function", _GELU_TANH)
    fields.expect("scale_attn_by_inverse_layer_idx", (False,))
    for key in _IDLE:
        fields.get(key)
    d_model, heads = fields.need("n_embd", int, 768), fields.need("n_head", int, 12)
    if d_model % heads:
        raise InputError(
            f"{fields.source}: `n_embd` {d_model} must be a multiple of `n_head` {heads}."
        )
    return ModelConfig(
        family="gpt2",
        vocab_size=fields.need("vocab_size", int, 50257),
        num_layers=fields.layers("n_layer", 12),
        d_model=d_model,
        d_mlp=fields.need("n_inner", int, 4 * d_model),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=d_model // heads,
        norm_eps=fields.need("layer_norm_epsilon", float, 1e-5),
        rope_theta=None,
        max_positions=fields.need("n_positions", int, 1024),
        tie_embeddings=fields.flag("tie_word_embeddings", True),
        activation="gelu_tanh",
        centred_norms=True,
        qkv_bias=True,
        output_bias=True,
        gated=False,
        query_scale=None if fields.flag("scale_attn_weights", True) else 1.0,
    )


def unparse(config: ModelConfig) -> dict[str, Any]:
    """Write a GPT-2 config.json."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": _GELU_TANH[0],
        "n_embd": config.d_model,
        "n_inner": config.d_mlp,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_positions": config.max_positions,
        "vocab_size": config.vocab_size,
        "layer_norm_epsilon": config.norm_eps,
        "scale_attn_weights": config.query_scale is None,
        "tie_word_embeddings": config.tie_embeddings,
    }


_MODEL = "transformer."
# Masks that older files hold beside the weights.
_MASKS = (".attn.bias", ".attn.masked_bias")


def rename(name: str) -> str | None:
    """Return a tensor's name in a file of the whole model, None for a mask."""
    if name.endswith(_MASKS):
        return None
    return name if name.startswith((_MODEL, "lm_head.")) else _MODEL + name


def _tensors() -> dict[str, Tensor]:
    layer = _MODEL + "h.{}."
    attention, mlp = layer + "attn.", layer + "mlp."

    def width(c: ModelConfig) -> tuple[int, ...]:
        return (c.d_model,)

    def vocabulary(c: ModelConfig) -> tuple[int, ...]:
        return (c.vocab_size, c.d_model)

    def fused(shape: Callable[[ModelConfig], tuple[int, ...]], name: str, bias: str) -> Any:
        parts = (f"blocks.attention.{one}{bias}" for one in ("query", "key", "value"))
        return {leaf: Tensor(name, shape, part=(i, 3)) for i, leaf in enumerate(parts)}

    def norm(leaf: str, name: str) -> dict[str, Tensor]:
        return {f"{leaf}.{what}": Tensor(f"{name}.{what}", width) for what in ("weight", "bias")}

    return {
        "embedding": Tensor(_MODEL + "wte.weight", vocabulary),
        "positions": Tensor(_MODEL + "wpe.weight", lambda c: (c.max_positions, c.d_model)),
        "unembedding": Tensor("lm_head.weight", vocabulary),
        **norm("final_norm", _MODEL + "ln_f"),
        **norm("blocks.attention_norm", layer + "ln_1"),
        **norm("blocks.mlp_norm", layer + "ln_2"),
        **fused(lambda c: (c.d_model, 3 * c.d_model), attention + "c_attn.weight", ""),
        **fused(lambda c: (3 * c.d_model,), attention + "c_attn.bias", "_bias"),
        "blocks.attention.output": Tensor(
            attention + "c_proj.weight", lambda c: (c.d_model, c.d_model)
        ),
        "blocks.attention.output_bias": Tensor(attention + "c_proj.bias", width),
        "blocks.mlp.up": Tensor(mlp + "c_fc.weight", lambda c: (c.d_model, c.d_mlp)),
        "blocks.mlp.up_bias": Tensor(mlp + "c_fc.bias", lambda c: (c.d_mlp,)),
        "blocks.mlp.down": Tensor(mlp + "c_proj.weight", lambda c: (c.d_mlp, c.d_model)),
        "blocks.mlp.down_bias": Tensor(mlp + "c_proj.bias", width),
    }


FAMILY = Family("gpt2", "GPT2LMHeadModel", parse, unparse, _tensors(), rename)
