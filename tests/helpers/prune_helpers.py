"""Tables as columns, slow versions of the kernels, and tiny random models with transcoders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pyarrow as pa
from flax import nnx

from pie_jax.kernels import Writes
from pie_jax.models.config import ModelConfig
from pie_jax.models.loader import LanguageModel
from pie_jax.models.tokenizer import Tokenizer
from pie_jax.models.transformer import Transformer
from pie_jax.prune.batch.pairs import batches
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.step import Pruner
from pie_jax.tasks import Pair, encode_pairs
from pie_jax.transcoders.config import InputSite, TopK, TranscoderConfig
from pie_jax.transcoders.store import EncoderArrays, Transcoder

Columns = dict[str, np.ndarray]


# Tables


def columns(table: pa.Table) -> Columns:
    """Return a table's columns as NumPy arrays."""
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.schema.names}


def rows_where(table: Columns, **wanted: Any) -> Columns:
    """Return the rows whose columns have the given values."""
    use = np.ones(len(next(iter(table.values()))), bool)
    for name, value in wanted.items():
        use &= table[name] == value
    return {name: column[use] for name, column in table.items()}


def place(layer: Any, position: Any, feature: Any) -> np.ndarray:
    """Return one sortable number for each (layer, position, feature) of small models."""
    return (np.asarray(layer, np.int64) * 1000 + position) * 100_000 + feature


def places(table: Columns) -> np.ndarray:
    """Return `place` of each row."""
    return place(table["layer"], table["position"], table["feature"])


# Slow versions: float64, one number at a time


def random_writes(
    seed: int, count: int, *, layers: int, length: int, d_model: int, cross_layer: bool = True
) -> tuple[np.ndarray, Writes]:
    """Return a table and `count` occurrences that share its rows; nobody owns its first row
    and its last three."""
    rng = np.random.default_rng(seed)
    layer = rng.integers(0, layers, count)
    width = layers - layer if cross_layer else np.ones_like(layer)
    table = rng.standard_normal((1 + count * layers + 3, d_model)).astype(np.float32)
    # Every second occurrence has the rows of the one before it, if that is of its layer.
    start = 1 + np.arange(count) * layers
    for n in range(1, count, 2):
        if layer[n] == layer[n - 1]:
            start[n] = start[n - 1]
    position = rng.integers(0, length, count)
    arrays = (start, layer, layer + width - 1, position)
    return table, Writes(*(jnp.asarray(array, jnp.int32) for array in arrays))


def slow_write(
    table: np.ndarray, writes: Writes, weight: Iterable[float], layers: int, length: int
) -> np.ndarray:
    """Sum weight x row over occurrences, [L, T, D]."""
    out = np.zeros((layers, length, table.shape[1]))
    arrays = (np.asarray(array).tolist() for array in writes[:4])
    for start, first, last, position, w in zip(*arrays, weight, strict=True):
        for layer in range(first, last + 1):
            row = table[start + layer - first].astype(np.float64)
            out[layer, position] += float(w) * row
    return out


def slow_product(table: np.ndarray, writes: Writes, gradient: np.ndarray) -> np.ndarray:
    """Return sum over target layers of <row, gradient>, [N]."""
    out = []
    for start, first, last, position in zip(
        *(np.asarray(array).tolist() for array in writes[:4]), strict=True
    ):
        total = 0.0
        for layer in range(first, last + 1):
            row = table[start + layer - first].astype(np.float64)
            total += float(row @ gradient[layer, position].astype(np.float64))
        out.append(total)
    return np.array(out)


# Tiny models

# All that a model may compute, in as few models as hold it.
ARITHMETIC: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma": {"gemma": True, "qk_norm": True, "local_rope_theta": 30.0, "qkv_bias": True},
    "gpt2": {
        "family": "gpt2",
        "rope_theta": None,
        "num_kv_heads": 2,
        "activation": "gelu_tanh",
        "tie_embeddings": True,
        "centred_norms": True,
        "qkv_bias": True,
        "output_bias": True,
        "gated": False,
    },
}
WORDS = [f"w{index}" for index in range(3, 40)]


class WordTokenizer:
    """Words between spaces as a tokenizer of transformers: ids 0 to 2 are special."""

    all_special_ids = (0, 1, 2)
    bos_token_id = 1
    added_tokens_decoder = ()

    def __len__(self) -> int:
        return 40

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = [int(number) for number in re.findall(r"w(\d+)", text)]
        return [self.bos_token_id, *ids] if add_special_tokens else ids

    def decode(self, ids: Sequence[int], clean_up_tokenization_spaces: bool = True) -> str:
        return " ".join(f"w{index}" for index in ids)

    def get_vocab(self) -> dict[str, int]:
        return {f"w{index}": index for index in range(40)}


def tiny_config(layers: int = 3, *, gemma: bool = False) -> ModelConfig:
    """Return the config of a model of width 16: a Llama, or a Gemma-2 with all it adds."""
    llama = ModelConfig(
        family="llama",
        vocab_size=40,
        num_layers=layers,
        d_model=16,
        d_mlp=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        norm_eps=1e-5,
        rope_theta=1e4,
        max_positions=64,
        tie_embeddings=False,
    )
    if not gemma:
        return llama
    return replace(
        llama,
        family="gemma2",
        tie_embeddings=True,
        norm_offset=1.0,
        post_norms=True,
        activation="gelu_tanh",
        scale_embeddings=True,
        query_scale=8**-0.5,
        attention_softcap=50.0,
        final_softcap=30.0,
        sliding_window=5,
        sliding_layers=tuple(layer % 2 == 0 for layer in range(layers)),
    )


def tiny_transformer(config: ModelConfig, seed: int = 0) -> Transformer:
    """Return a transformer with random weights that are large enough to be far from linear."""
    graph, state = nnx.split(Transformer(config, nnx.Rngs(seed)))
    rng = np.random.default_rng(seed)
    leaves = []
    for path, leaf in nnx.to_flat_state(state):
        if "norm" in str(path):
            value = 1 - config.norm_offset + 0.2 * rng.standard_normal(leaf.shape)
        else:
            value = 0.5 * rng.standard_normal(leaf.shape)
        leaves.append((path, leaf.replace(jnp.asarray(value, jnp.float32))))
    return nnx.merge(graph, nnx.from_flat_state(leaves))


def tiny_model(
    folder: Path, layers: int = 3, *, gemma: bool = False, seed: int = 0, **changes: Any
):
    """Return a language model whose prompts are words w3 to w39; `folder` holds a stand-in.

    `changes` are made to the config, such as those of `ARITHMETIC`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(f"stand-in {layers} {gemma} {seed} {changes}")
    config = replace(tiny_config(layers, gemma=gemma), **changes)
    transformer = tiny_transformer(config, seed)
    return LanguageModel(transformer, Tokenizer(WordTokenizer(), "words", 40), "tiny", folder)


def tiny_transcoder(
    model: LanguageModel,
    features: int = 24,
    *,
    seed: int = 0,
    bias: float = -0.5,
    jump: bool = False,
    cross_layer: bool = True,
    input_site: InputSite = "resid_mid",
    scale: float = 0.5,
    dtype: Any = np.float32,
    top: TopK | None = None,
) -> Transcoder:
    """Return a random transcoder in memory; a lower `bias` leaves fewer features active."""
    rng = np.random.default_rng(seed)
    config = TranscoderConfig(
        num_layers=model.config.num_layers,
        d_model=model.config.d_model,
        features=features,
        activation="jumprelu" if jump else "relu",
        cross_layer=cross_layer,
        input_site=input_site,
    )
    if top is not None:
        config = replace(config, activation="relu_topk" if top.relu else "topk", k=top.k)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    encoders = [
        EncoderArrays(
            # A tenth, as the streams are of length ten: activations of about one.
            draw(features, config.d_model) * np.asarray(0.1, dtype),
            draw(features) + np.asarray(bias, dtype),
            np.abs(draw(features)) if jump else None,
        )
        for _ in range(config.num_layers)
    ]
    decoders = [
        draw(features, config.targets(layer), config.d_model) * np.asarray(scale, dtype)
        for layer in range(config.num_layers)
    ]
    no_bias = np.zeros((config.num_layers, config.d_model), np.float32)
    return Transcoder(config, "tiny", model.folder, (), encoders, decoders, no_bias)


def tiny_pairs(lengths: Sequence[int], seed: int = 0) -> list[Pair]:
    """Return pairs of random prompts of so many tokens, BOS counted, that differ in three."""
    rng = np.random.default_rng(seed)
    pairs = []
    for length in lengths:
        clean = rng.choice(WORDS, length - 1)
        corrupted = clean.copy()
        for at in rng.choice(length - 1, 3, replace=False):
            corrupted[at] = rng.choice([word for word in WORDS if word != clean[at]])
        target, distractor = rng.choice(WORDS, 2, replace=False)
        texts = (" ".join(clean), (" ".join(corrupted),), str(target), str(distractor))
        pairs.append(Pair(*texts))
    return pairs


def prepare(
    model: LanguageModel, transcoder: Transcoder, pairs: Sequence[Pair], options: PruneOptions
) -> BatchEvaluator:
    """Return the inputs of the pairs' only batch."""
    encoded, _ = encode_pairs(pairs, model.tokenizer, needs_target=True)
    (batch,) = batches(encoded, len(pairs))
    return Pruner(model, transcoder, options).prepare(batch)


@jax.jit
def forward(model: Transformer, tokens: jax.Array, mlp_delta: jax.Array) -> jax.Array:
    """Return one prompt's logits [T, V] with something added to its MLP outputs."""
    return model(tokens, mlp_delta).logits


class SlowPrompt:
    """One prompt of a batch, measured one forward pass at a time, from the decoder's own rows."""

    def __init__(self, inputs: BatchEvaluator, transcoder: Transcoder, index: int):
        found = inputs.occurrences
        self.model, self.decoders = inputs.problem.model, transcoder.decoder_maps
        self.tokens = inputs.prompts.tokens[index]
        self.last = int(inputs.prompts.length[index]) - 1
        self.target = int(inputs.prompts.target[index])
        self.distractor = int(inputs.prompts.distractor[index])
        self.count = int(found.count[index])
        real = slice(0, self.count)
        self.layer = found.layer[index, real].tolist()
        self.position = found.position[index, real].tolist()
        self.feature = found.feature[index, real].tolist()
        self.delta = found.delta[index, 0, real].tolist()
        self.clean_logits = self.logits([])

    def removal(self, removed: Iterable[int], scale: float = 1.0) -> np.ndarray:
        """Return what has to be added to the MLP outputs, [L, T, D]."""
        config = self.model.config
        out = np.zeros((config.num_layers, len(self.tokens), config.d_model))
        for n in removed:
            rows = self.decoders[self.layer[n]][self.feature[n]].astype(np.float64)
            for step, row in enumerate(rows):
                out[self.layer[n] + step, self.position[n]] -= scale * self.delta[n] * row
        return out

    def logits(self, removed: Iterable[int]) -> np.ndarray:
        """Return the logits at the last position without some occurrences, in float64."""
        added = jnp.asarray(self.removal(removed), jnp.float32)
        return np.asarray(forward(self.model, self.tokens, added)[self.last], np.float64)

    def metric(self, removed: Iterable[int]) -> float:
        """Return target minus distractor without some occurrences."""
        logits = self.logits(removed)
        return float(logits[self.target] - logits[self.distractor])

    def effect(self, removed: Iterable[int]) -> float:
        """Return by how much removing some occurrences lowers the metric."""
        clean = self.clean_logits[self.target] - self.clean_logits[self.distractor]
        return float(clean) - self.metric(removed)

    def kl(self, removed: Iterable[int]) -> float:
        """Return KL(clean || changed) at the last position, in nats."""
        p, q = softmax(self.clean_logits), softmax(self.logits(removed))
        return float(np.sum(p * (np.log(p) - np.log(q))))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities."""
    e = np.exp(logits - logits.max())
    return e / e.sum()


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """Round to bfloat16."""
    return array.astype(ml_dtypes.bfloat16)
