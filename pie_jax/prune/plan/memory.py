"""Memory of a pruning run, from shapes alone.

Shapes: B prompts of a batch, M corruptions, T positions of a prompt (padded), W of its window,
L layers, D model, G key/value heads, K head size, V vocabulary, F features a layer,
N occurrences of a prompt, R decoder rows of a batch, S circuits (methods x budgets).
All results are bytes unless they say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pie_jax.devices.shapes import coarse
from pie_jax.kernels import TILE
from pie_jax.kernels.writes import _CHUNK
from pie_jax.models.abstract import parameter_count
from pie_jax.models.config import ModelConfig
from pie_jax.prune.batch.occurrences import _LEAST_BLOCKS, _LEAST_TILES, occurrences_class
from pie_jax.prune.engine.evaluator import _STREAM_BYTES
from pie_jax.prune.options import PruneOptions
from pie_jax.transcoders.config import TranscoderConfig

Encoders = Literal["device", "disk"]
# Float32 and int32, which everything but weights and rows is.
_WORD = 4
# Of a device's memory: jax takes three quarters of a GPU's unless told otherwise.
USABLE = 0.75
# The largest batch that is looked for.
MOST_PROMPTS = 1024
# By how much the fullest prompt of a batch exceeds the mean.
_FULLEST = 1.25
# What the process takes beside arrays: Python, jax, compiled programs.
PROCESS = 600 << 20


@dataclass(frozen=True)
class Shapes:
    """A model and a transcoder; bytes of a model weight, an encoder's and a decoder's number."""

    model: ModelConfig
    transcoder: TranscoderConfig
    weight: int
    encoder: int
    decoder: int


@dataclass(frozen=True)
class Load:
    """What a batch holds: B prompts of T positions, of which `real` are tokens, M corruptions that
    change the last W, and so many features active per token and layer on either run."""

    batch: int
    versions: int
    tokens: int
    real: int
    window: int
    active: float


def block_parameters(config: ModelConfig) -> int:
    """Return how many weights the layers multiply by, norms left out."""
    heads = 2 * config.num_heads + 2 * config.num_kv_heads
    matrices = 3 if config.gated else 2
    one = config.d_model * (heads * config.head_dim + matrices * config.d_mlp)
    return config.num_layers * one


def model_bytes(shapes: Shapes) -> int:
    """Return the size of the model's weights on the device."""
    return shapes.weight * parameter_count(shapes.model)


def encoder_bytes(shapes: Shapes) -> int:
    """Return the size of one layer's encoder."""
    config = shapes.transcoder
    vectors = 2 if config.activation == "jumprelu" else 1
    return shapes.encoder * config.features * (config.d_model + vectors)


def decoder_bytes(shapes: Shapes) -> int:
    """Return the size of all decoders on disk."""
    config = shapes.transcoder
    targets = sum(config.targets(layer) for layer in range(config.num_layers))
    return shapes.decoder * config.features * targets * config.d_model


def occurrences(shapes: Shapes, load: Load) -> int:
    """Return N, that of the fullest prompt, rounded up to its class; BOS has none."""
    expected = _FULLEST * shapes.transcoder.num_layers * (load.real - 1) * load.active
    return occurrences_class(round(expected), load.tokens)


def rows(shapes: Shapes, load: Load) -> int:
    """Return R, in tiles rounded up to their class, as if every token drew its features at random.

    Real prompts of one task share more features than that.
    """
    config, each = shapes.transcoder, blocks(shapes, load)
    tiles = sum(each * config.targets(layer) for layer in range(config.num_layers))
    return coarse(tiles, _LEAST_TILES, 2) * TILE


def blocks(shapes: Shapes, load: Load) -> int:
    """Return how many blocks of features a layer's rows make."""
    config = shapes.transcoder
    draws = load.batch * (load.real - 1)
    missed = (1 - min(load.active / config.features, 1)) ** draws
    return -(-round(config.features * (1 - missed)) // TILE)


def batch_arrays(shapes: Shapes, load: Load) -> dict[str, int]:
    """Return what a prepared batch keeps on the device until it is done."""
    config, transcoder = shapes.model, shapes.transcoder
    b, m, t, w = load.batch, load.versions, load.tokens, load.window
    layers, d = config.num_layers, config.d_model
    keys = 2 * layers * t * config.num_kv_heads * config.head_dim
    return {
        "prompts' records": _WORD * b * ((layers + 1) * w * d + keys),
        "decoder rows": shapes.decoder * rows(shapes, load) * transcoder.d_model,
        "occurrences": _WORD * b * occurrences(shapes, load) * (5 + m),
    }


def total_writes_bytes(shapes: Shapes, load: Load) -> int:
    """Return what all occurrences of a batch write together, [B, M, L, W, D]."""
    config = shapes.model
    size = config.num_layers * load.window * config.d_model
    return _WORD * load.batch * load.versions * size


def reading_bytes(shapes: Shapes, load: Load) -> int:
    """Return what preparing a batch takes while it lasts: every layer's inputs on both runs, the
    record of the clean one, one layer of the model, and one layer's activations with what finds the
    active ones."""
    config = shapes.model
    positions, versions = load.batch * load.tokens, load.versions + 1
    inputs = (versions + 2) * config.num_layers * config.d_model
    layer = versions * (4 * config.d_model + 3 * config.d_mlp)
    # Activations of every version before and after the cut, their running count and places.
    features = (2 * versions + 2) * shapes.transcoder.features
    return _WORD * positions * (inputs + layer + features)


def gradient_bytes(shapes: Shapes, load: Load, options: PruneOptions) -> int:
    """Return what gradients and scores take: what the backward pass reads again, [B, L, W, ...],
    and the scores of every feature of the table at every position; `staged` for each version."""
    config = shapes.model
    versions = load.versions if "staged" in options.methods else 1
    heads = config.num_heads * (load.tokens + load.window + 2 * config.head_dim)
    each = 6 * config.d_model + 4 * config.d_mlp + heads
    kept = load.batch * config.num_layers * load.window * each
    slots = coarse(config.num_layers * blocks(shapes, load), _LEAST_BLOCKS, 2) * TILE
    scores = 2 * load.batch * slots * load.window
    return _WORD * versions * (kept + scores)


def synergy_sets(options: PruneOptions) -> int:
    """Return how many removals of a prompt FAP-Synergy measures at one budget."""
    synergy = options.synergy
    pairs = synergy.boundary_cap * synergy.partners_per_candidate
    return synergy.boundary_cap + synergy.partners + pairs


def removal_bytes(shapes: Shapes, load: Load, options: PruneOptions) -> int:
    """Return the streams of removals that wait for their next layer, and what is in flight.

    Places for streams are up to twice as many as removals, as chunks need not be full.
    """
    measured = "fap-synergy" in options.methods
    synergy = len(options.budgets) * synergy_sets(options) if measured else 0
    alone = occurrences(shapes, load) if "factp" in options.methods else 0
    sets, config = max(synergy, alone), shapes.model
    one = _WORD * load.batch * load.versions * load.window * config.d_model
    flight = _WORD * load.window * (4 * config.d_model + 3 * config.d_mlp)
    streams = min(sets * one, max(_STREAM_BYTES, one))
    return 2 * streams + min(sets * flight, options.bytes_at_once())


def sweep_bytes(shapes: Shapes, load: Load, options: PruneOptions) -> int:
    """Return what a step of `acdc` takes: each test's writes, one layer's MLP and last logits."""
    if "acdc" not in options.methods:
        return 0
    config = shapes.model
    layer = load.window * (4 * config.d_model + 3 * config.d_mlp)
    one = config.num_layers * load.window * config.d_model + layer + 4 * config.vocab_size
    return _WORD * load.batch * load.versions * (options.acdc.block + 1) * one


def circuits_at_once(shapes: Shapes, load: Load, options: PruneOptions, *, runs: int) -> int:
    """Return how many circuits of a prompt run side by side: with 2 `runs` each, its complement's
    too, the empty one is among them."""
    config = shapes.model
    position = max(config.num_layers * config.d_model, config.vocab_size)
    one = _WORD * load.batch * load.versions * load.window * position
    count = len(options.methods) * len(options.budgets) + runs - 1
    parts = -(-count * runs // max(1, options.bytes_at_once() // one))
    return -(-count // parts)


def circuit_bytes(shapes: Shapes, load: Load, options: PruneOptions) -> int:
    """Return what judging circuits takes: for each of those side by side its writes, its members'
    rows and its logits, of which the divergence needs three more; and the clean logits."""
    config = shapes.model
    chunk = circuits_at_once(shapes, load, options, runs=2)
    logits = load.window * config.vocab_size
    members = max(options.budgets) * config.d_model
    writes = 5 * config.num_layers * load.window * config.d_model
    one = writes + members + 4 * logits
    return _WORD * load.batch * (chunk * load.versions * one + 2 * logits)


def judge_bytes(shapes: Shapes, load: Load, options: PruneOptions) -> int:
    """Return what judging with the rest at zero takes, on whole prompts: what all occurrences
    write, and the larger of the rows and positions gathered for it and of each circuit's writes,
    members' rows, one layer and last logits."""
    if not options.judge_zero_features or options.corruption == "zero-features":
        return 0
    whole, config = replace(load, versions=1, window=load.tokens), shapes.model
    gathered = min(occurrences(shapes, load), _CHUNK) * (config.d_model + 2 * load.tokens)
    layer = load.tokens * (4 * config.d_model + 3 * config.d_mlp)
    writes = 2 * config.num_layers * load.tokens * config.d_model
    one = writes + max(options.budgets) * config.d_model + layer + 4 * config.vocab_size
    circuits = circuits_at_once(shapes, whole, options, runs=1) * one
    return total_writes_bytes(shapes, whole) + _WORD * load.batch * max(gathered, circuits)


def working_bytes(shapes: Shapes, load: Load, options: PruneOptions) -> dict[str, int]:
    """Return what each stage takes while it lasts, beside the batch's arrays."""
    return {
        "gradients and scores": gradient_bytes(shapes, load, options),
        "streams of removals": removal_bytes(shapes, load, options),
        "acdc's tests": sweep_bytes(shapes, load, options),
        "circuits and logits": circuit_bytes(shapes, load, options),
        "judging at zero": judge_bytes(shapes, load, options),
    }


def resident_bytes(shapes: Shapes, encoders: Encoders) -> int:
    """Return what stays on the device for the whole run; from disk, one encoder at a time."""
    layers = shapes.transcoder.num_layers if encoders == "device" else 1
    return model_bytes(shapes) + layers * encoder_bytes(shapes)


def batch_bytes(shapes: Shapes, load: Load, options: PruneOptions) -> int:
    """Return the peak of a batch while the one after it is prepared."""
    arrays = sum(batch_arrays(shapes, load).values())
    stage = max(working_bytes(shapes, load, options).values())
    total = total_writes_bytes(shapes, load)
    return 2 * arrays + total + stage + reading_bytes(shapes, load)


def host_bytes(shapes: Shapes, load: Load) -> int:
    """Return the peak of the host's own memory: the process, and the larger of a stacked weight on
    its way to the device and a batch's rows and occurrences."""
    config = shapes.model
    leaf = max(config.num_layers * config.d_mlp, config.vocab_size) * config.d_model
    found = load.batch * occurrences(shapes, load) * (5 + load.versions) * _WORD
    table = batch_arrays(shapes, load)["decoder rows"]
    return PROCESS + max(shapes.weight * leaf, 2 * table + 2 * found)


def fits(
    shapes: Shapes, load: Load, options: PruneOptions, encoders: Encoders, memory: int
) -> bool:
    """Tell whether a batch fits three quarters of a device's memory."""
    needed = resident_bytes(shapes, encoders) + batch_bytes(shapes, load, options)
    return needed <= USABLE * memory


def largest_batch(
    shapes: Shapes, load: Load, options: PruneOptions, encoders: Encoders, memory: int
) -> int | None:
    """Return the most prompts that fit, up to 1,024, or None where not one does."""
    for batch in range(MOST_PROMPTS, 0, -1):
        if fits(shapes, replace(load, batch=batch), options, encoders, memory):
            return batch
    return None


def choose_encoders(shapes: Shapes, load: Load, options: PruneOptions, memory: int) -> Encoders:
    """Return `device` where the batch fits beside all encoders, or nothing is gained otherwise."""
    if fits(shapes, load, options, "device", memory):
        return "device"
    on_disk = largest_batch(shapes, load, options, "disk", memory) or 0
    on_device = largest_batch(shapes, load, options, "device", memory) or 0
    return "disk" if on_disk > on_device else "device"
