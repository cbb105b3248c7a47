"""What a model family has to say: how to read its config and where its tensors go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pie_jax.errors import InputError
from pie_jax.models.config import LinearRope, Llama3Rope, ModelConfig, RopeScaling

# Attributes that say nothing about the forward pass: bookkeeping, generation, dropout, training.
IGNORED = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash
    _flash_attn_2_enabled _model_name_or_path _name_or_path architectures attn_implementation
    auto_map chunk_size_feed_forward dtype finetuning_task gradient_checkpointing id2label
    initializer_range is_decoder is_encoder_decoder is_llama_config keys_to_ignore_at_inference
    label2id model_max_length model_type name_or_path num_labels output_attentions
    output_hidden_states prefix pretraining_tp problem_type return_dict task_specific_params
    tf_legacy_loss tokenizer_class torch_dtype torchscript transformers_version
    transformers.js_config unsloth_fixed unsloth_version use_bfloat16 use_cache use_return_dict

    bos_token_id decoder_start_token_id eos_token_id pad_token_id sep_token_id unk_token_id

    bad_words_ids begin_suppress_tokens cache_implementation diversity_penalty do_sample
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
    forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores
    remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens temperature
    top_k top_p typical_p

    attention_dropout attn_pdrop embd_pdrop hidden_dropout mlp_dropout resid_pdrop
    """.split()
)
# Attributes that would change it, and the value with which they do not.
OFF: dict[str, Any] = {
    "add_cross_attention": False,
    "partial_rotary_factor": 1.0,
    "pruned_heads": {},
    "rope_interleaved": False,
    "tie_encoder_decoder": False,
    "use_bidirectional_attention": False,
    "use_sliding_window": False,
}


@dataclass(frozen=True)
class Tensor:
    """Where a leaf of the transformer comes from.

    `name` is the checkpoint's name, with `{}` for the layer where the leaf is stacked. `shape`
    is the tensor's shape on disk, as a function of the config; `transpose` swaps its two axes
    before it is reshaped to the leaf's own shape.
    """

    name: str
    shape: Callable[[ModelConfig], tuple[int, ...]]
    transpose: bool = False


@dataclass(frozen=True)
class Wrapper:
    """A model with more than text around a family: `text_config` holds the family's settings.

    `idle` are the attributes beside it that say nothing about text.
    """

    model_type: str
    architecture: str
    idle: frozenset[str]


@dataclass(frozen=True)
class Family:
    """A model family: `parse` and `unparse` its config, `tensors` maps leaf paths to the file's.

    `rename` turns the names that some files use into those of `tensors`, None for a tensor that
    text does not need.
    """

    model_type: str
    architecture: str
    parse: Callable[[Fields], ModelConfig]
    unparse: Callable[[ModelConfig], dict[str, Any]]
    tensors: Mapping[str, Tensor]
    rename: Callable[[str], str | None] = str
    wrapper: Wrapper | None = None


class Fields:
    """A config.json read strictly: what nobody asked for is an error in the end."""

    def __init__(self, raw: Mapping[str, Any], source: str):
        self.raw, self.source = raw, source
        # A null says nothing: the class's default, which is to be without.
        said = {key for key, value in raw.items() if value is not None}
        self._left = {key for key in said - IGNORED if key not in OFF or raw[key] != OFF[key]}

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or the default where it is absent or null."""
        self._left.discard(key)
        value = self.raw.get(key)
        return default if value is None else value

    def need(self, key: str, kind: type, default: Any = None) -> Any:
        """Return a positive number, which must be there unless there is a default."""
        value = self.get(key, default)
        if not is_positive(value) or (kind is int and not isinstance(value, int)):
            raise InputError(
                f"{self.source}: `{key}` must be a positive {kind.__name__}, but it is {value!r}; "
                "is this the config.json of the model?"
            )
        return kind(value)

    def number_or_none(self, key: str) -> float | None:
        """Return a positive number, or None where it is absent or null."""
        return None if self.get(key) is None else self.need(key, float)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise InputError(f"{self.source}: `{key}` must be true or false, but it is {value!r}.")
        return value

    def expect(self, key: str, allowed: tuple[Any, ...]) -> Any:
        """Return a value that must be one of `allowed`, or absent."""
        value = self.get(key)
        if value is not None and value not in allowed:
            known = ", ".join(repr(a) for a in allowed)
            raise InputError(
                f"{self.source}: `{key}` is {value!r}, but this model family is only handled with "
                f"{known}; use another checkpoint or add it to pie_jax/models."
            )
        return value

    def finish(self) -> None:
        """Refuse attributes that no one has read."""
        if self._left:
            names = ", ".join(f"`{key}`" for key in sorted(self._left))
            raise InputError(
                f"{self.source}: config attributes that are not handled: {names}; remove them if "
                "they do not change the forward pass, or add them to pie_jax/models/families."
            )


_LAYER_TYPES = {"sliding_attention": True, "full_attention": False}


def parse_layer_types(
    fields: Fields, layers: int, otherwise: Callable[[int], bool]
) -> tuple[bool, ...]:
    """Read from `layer_types` which layers slide; files without it mean `otherwise(layer)`."""
    kinds = fields.get("layer_types")
    if kinds is None:
        return tuple(otherwise(layer) for layer in range(layers))
    known = isinstance(kinds, list) and all(str(kind) in _LAYER_TYPES for kind in kinds)
    if not known or len(kinds) != layers:
        raise InputError(
            f"{fields.source}: `layer_types` must name {layers} layers out of "
            f"{sorted(_LAYER_TYPES)}, but it is {kinds!r}."
        )
    return tuple(_LAYER_TYPES[kind] for kind in kinds)


def unparse_layer_types(config: ModelConfig) -> list[str]:
    """Write `layer_types`."""
    slides = config.sliding_layers or (False,) * config.num_layers
    return ["sliding_attention" if one else "full_attention" for one in slides]


def parse_late_window(fields: Fields, layers: int) -> dict[str, Any]:
    """Read Qwen's window, which counts only if `use_sliding_window` is true, and which layers have
    it: those from `max_window_layers` on unless `layer_types` says otherwise."""
    used = fields.flag("use_sliding_window", False)
    window, first = fields.get("sliding_window", 4096), fields.get("max_window_layers", 28)
    if used and type(first) is not int:
        raise InputError(
            f"{fields.source}: `max_window_layers` must be a number of layers, but it is {first!r}."
        )
    slides = parse_layer_types(fields, layers, lambda layer: used and layer >= first)
    if not any(slides):
        return {}
    if not used:
        raise InputError(
            f"{fields.source}: `layer_types` names layers that slide, but `use_sliding_window` is "
            "false; keep the one that the model was trained with."
        )
    return {
        "sliding_window": fields.need("sliding_window", int, window),
        "sliding_layers": slides,
    }


def unparse_late_window(config: ModelConfig) -> dict[str, Any]:
    """Write Qwen's window, for loaders that read `layer_types` and for older ones."""
    return {
        "use_sliding_window": config.sliding_window is not None,
        "sliding_window": config.sliding_window,
        "max_window_layers": config.num_layers - sum(config.sliding_layers),
        "layer_types": unparse_layer_types(config),
    }


# What transformers takes where a config has no `rope_theta`.
_DEFAULT_THETA = 10000.0
_Rope = tuple[float, RopeScaling | None]


def parse_rope(fields: Fields, default: float = _DEFAULT_THETA) -> _Rope:
    """Read RoPE's base and scaling in the old spelling (`rope_theta`, `rope_scaling`), the new one
    (`rope_parameters`), or both where they agree."""
    theta = fields.get("rope_theta")
    found: dict[str, _Rope] = {}
    for key in ("rope_parameters", "rope_scaling"):
        value = fields.get(key)
        if value is not None and not isinstance(value, dict):
            raise InputError(f"{fields.source}: `{key}` must be an object, but it is {value!r}.")
        if value:
            found[key] = _rope(dict(value), theta, default, fields.source)
    new = found.get("rope_parameters")
    if new is not None and theta is not None and new[0] != theta:
        own = fields.get("rope_parameters")["rope_theta"]
        raise InputError(
            f"{fields.source}: `rope_theta` is {theta!r} and `rope_parameters` has {own!r}; keep "
            "the one that the model was trained with."
        )
    if len(set(found.values())) > 1:
        both = " and ".join(f"`{key}` {fields.get(key)}" for key in found)
        raise InputError(
            f"{fields.source}: {both} say different things; keep the one that the model was "
            "trained with."
        )
    return next(iter(found.values()), None) or _rope({}, theta, default, fields.source)


def _rope(scaling: dict[str, Any], theta: Any, default: float, source: str) -> _Rope:
    base = scaling.pop("rope_theta", None)
    base = theta if base is None else base
    base = default if base is None else base
    if not is_positive(base):
        raise InputError(f"{source}: `rope_theta` must be a positive number, but it is {base!r}.")
    # Older files say `type`.
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    scaling.pop("type", None)
    scaling = {key: v for key, v in scaling.items() if key not in OFF or v != OFF[key]}
    if kind == "default" and not scaling:
        return float(base), None
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    if kind == "linear" and list(scaling) == ["factor"] and is_positive(scaling["factor"]):
        return float(base), LinearRope(float(scaling["factor"]))
    if kind != "llama3" or sorted(scaling) != sorted(names):
        raise InputError(
            f"{source}: RoPE scaling {kind!r} with {sorted(scaling)} is not handled; known are "
            f"'default', 'linear' with a positive factor, and 'llama3' with {sorted(names)}."
        )
    values = [scaling[name] for name in names]
    if not all(is_positive(value) for value in values) or not values[1] < values[2]:
        raise InputError(
            f"{source}: RoPE scaling must be positive numbers, low_freq_factor below "
            f"high_freq_factor, but it is {scaling}."
        )
    return float(base), Llama3Rope(*values)


def unparse_rope(config: ModelConfig) -> dict[str, Any]:
    """Write RoPE in the old spelling, which every loader of these families reads."""
    scaling = config.rope_scaling
    kind = "linear" if isinstance(scaling, LinearRope) else "llama3"
    spelled = None if scaling is None else {"rope_type": kind, **asdict(scaling)}
    return {"rope_theta": config.rope_theta, "rope_scaling": spelled}


def is_positive(value: Any) -> bool:
    """Tell whether a JSON value is a positive number of a size that a config can hold."""
    return type(value) in (int, float) and 0 < value < 1e18


def common_tensors() -> dict[str, Tensor]:
    """Return the map that Llama and Gemma share: Hugging Face stores [out, in] matrices."""

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
