"""Where tensors lie in files of Llama and the families that follow it."""

from __future__ import annotations

from collections.abc import Callable

from pie_jax.models.config import ModelConfig
from pie_jax.models.families.base import Tensor


def common_tensors() -> dict[str, Tensor]:
    """Return the map that all of them share: Hugging Face stores [out, in] matrices."""

    def heads(kv: bool) -> Callable[[ModelConfig], tuple[int, ...]]:
        return lambda c: ((c.num_kv_heads if kv else c.num_heads) * c.head_dim, c.d_model)

    layer = "model.layers.{}."
    attention, mlp = layer + "self_attn.", layer + "mlp."
    return {
        "embedding": Tensor("model.embed_tokens.weight", lambda c: (c.vocab_size, c.d_model)),
        "unembedding": Tensor("lm_head.weight", lambda c: (c.vocab_size, c.d_model)),
        "final_norm.weight": Tensor("model.norm.weight", lambda c: (c.d_model,)),
        "blocks.attention_norm.weight": norm(layer + "input_layernorm.weight"),
        "blocks.attention.query": Tensor(attention + "q_proj.weight", heads(False), True),
        "blocks.attention.key": Tensor(attention + "k_proj.weight", heads(True), True),
        "blocks.attention.value": Tensor(attention + "v_proj.weight", heads(True), True),
        "blocks.attention.output": Tensor(
            attention + "o_proj.weight", lambda c: (c.d_model, c.num_heads * c.head_dim), True
        ),
        "blocks.mlp.gate": Tensor(mlp + "gate_proj.weight", lambda c: (c.d_mlp, c.d_model), True),
        "blocks.mlp.up": Tensor(mlp + "up_proj.weight", lambda c: (c.d_mlp, c.d_model), True),
        "blocks.mlp.down": Tensor(mlp + "down_proj.weight", lambda c: (c.d_model, c.d_mlp), True),
    }


def post_norms() -> dict[str, Tensor]:
    """Return the map of the norms that Gemma puts behind attention and around the MLP."""
    layer = "model.layers.{}."
    return {
        "blocks.attention_post_norm.weight": norm(layer + "post_attention_layernorm.weight"),
        "blocks.mlp_norm.weight": norm(layer + "pre_feedforward_layernorm.weight"),
        "blocks.mlp_post_norm.weight": norm(layer + "post_feedforward_layernorm.weight"),
    }


def norm(name: str) -> Tensor:
    """Return the entry of a norm's weight."""
    return Tensor(name, lambda c: (c.d_model,))


def head_biases() -> dict[str, Tensor]:
    """Return the map of the biases of queries, keys and values."""
    layer = "model.layers.{}.self_attn."

    def kv(c: ModelConfig) -> tuple[int, ...]:
        return (c.num_kv_heads * c.head_dim,)

    return {
        "blocks.attention.query_bias": Tensor(
            layer + "q_proj.bias", lambda c: (c.num_heads * c.head_dim,)
        ),
        "blocks.attention.key_bias": Tensor(layer + "k_proj.bias", kv),
        "blocks.attention.value_bias": Tensor(layer + "v_proj.bias", kv),
    }


def head_norms() -> dict[str, Tensor]:
    """Return the map of the norms over each head of queries and keys."""
    layer = "model.layers.{}.self_attn."
    return {
        "blocks.attention.query_norm.weight": Tensor(
            layer + "q_norm.weight", lambda c: (c.head_dim,)
        ),
        "blocks.attention.key_norm.weight": Tensor(
            layer + "k_norm.weight", lambda c: (c.head_dim,)
        ),
    }
