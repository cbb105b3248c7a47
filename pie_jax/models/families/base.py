"""What a model family has to say: how to read its config and where its tensors go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pie_jax.errors import InputError
from pie_jax.models.config import ModelConfig

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
    "use_mrope": False,
    "use_sliding_window": False,
}

_MOST_LAYERS = 10_000


@dataclass(frozen=True)
class Tensor:
    """Where a leaf of the transformer comes from.

    `name` is the checkpoint's name, with `{}` for the layer where the leaf is stacked. `shape`
    is the tensor's shape on disk, as a function of the config; `transpose` swaps its two axes
    before it is reshaped to the leaf's own shape. A tensor that holds several leaves side by side
    along its last axis is cut into equal parts: `part` (number, of so many) is the leaf's.
    """

    name: str
    shape: Callable[[ModelConfig], tuple[int, ...]]
    transpose: bool = False
    part: tuple[int, int] = (0, 1)


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

    def layers(self, key: str, default: int | None = None) -> int:
        """Return the number of layers; for so many, things are listed one by one."""
        count = self.need(key, int, default)
        if count > _MOST_LAYERS:
            raise InputError(
                f"{self.source}: `{key}` is {count}, but models have at most {_MOST_LAYERS} "
                "layers; is this the config.json of the model?"
            )
        return count

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


def is_positive(value: Any) -> bool:
    """Tell whether a JSON value is a positive number of a size that a config can hold."""
    return type(value) in (int, float) and 0 < value < 1e18
