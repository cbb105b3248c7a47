"""Time of a batch at best: operations and bytes over measured rates.

Letters as in `prune.memory_plan`.
"""

from __future__ import annotations

from dataclasses import dataclass

from pie_jax.prune.options import PruneOptions
from pie_jax.prune.plan.memory import (
    Encoders,
    Load,
    Shapes,
    block_parameters,
    encoder_bytes,
    model_bytes,
    occurrences,
    rows,
    synergy_sets,
)
from pie_jax.prune.search.grow import stage_ends


@dataclass(frozen=True)
class Rates:
    """FLOP/s of a plain product in the weights' dtype, bytes/s of a plain copy on the device, and
    bytes/s of decoder rows from where they lie; None where there is nothing to measure yet."""

    flops: float
    copy: float
    rows: float | None


@dataclass(frozen=True)
class Seconds:
    """Of one batch: preparing it, and computing it; `reads` whether reading rows is in it."""

    prepare: float
    compute: float
    reads: bool

    def prompts_per_second(self, batch: int) -> float:
        """Return the rate while one batch is prepared beside another."""
        return batch / max(self.prepare, self.compute)


@dataclass(frozen=True)
class Work:
    """Operations of one batch: `prepare` and `compute` FLOP; `passes` how often the model's weights
    are read in `compute`; `row_bytes` the decoder rows' size, and `read_bytes` what scores and sums
    of writes read of them: each row once a gradient, and once for the sum."""

    prepare: int
    compute: float
    passes: int
    row_bytes: int
    read_bytes: int


def gradient_passes(options: PruneOptions) -> int:
    """Return how many forward and backward passes the methods ask for, beside removals."""
    fap = bool({"fap", "fap-synergy", "fap-hvp"} & set(options.methods))
    search, methods = options.search, set(options.methods)
    grown = {"staged", "learned", "auto"} & methods
    stages = len(grown) * len(stage_ends(options.budgets, search.stages))
    # At most: a search stops where nothing gets better.
    steps = len({"learned", "auto"} & methods) * search.steps * len(options.budgets)
    if search.complement:
        # Of the circuit and of its complement.
        stages, steps = stages * (2 if search.grows else 1), 2 * steps
    points = options.integrated.points if "integrated-gradients" in methods else 0
    single = ("relp" in methods) + ("fap-full" in methods)
    products = 2 * options.synergy.partners * ("fap-hvp" in methods)
    return fap + single + stages + steps + points + products


def removals(options: PruneOptions, count: int) -> int:
    """Return how many removals of a prompt with N occurrences the methods measure."""
    synergy = len(options.budgets) * synergy_sets(options)
    found = synergy if "fap-synergy" in options.methods else 0
    alone = options.synergy.boundary_cap + options.synergy.partners
    found += len(options.budgets) * alone * ("fap-hvp" in options.methods)
    return found + (count if "factp" in options.methods else 0)


def sweep_steps(options: PruneOptions, count: int) -> int:
    """Return how many steps `acdc` makes over N occurrences, a block of tests each."""
    if "acdc" not in options.methods:
        return 0
    blocks = -(-count // options.acdc.block)
    return blocks * options.acdc.bisections * len(options.budgets)


def work(shapes: Shapes, load: Load, options: PruneOptions) -> Work:
    """Count multiplications of one batch, two operations each.

    A removal is half a pass: on average it starts in the middle layer.
    """
    config, found = shapes.model, occurrences(shapes, load)
    token = 2 * block_parameters(config)
    changed = load.batch * load.versions * load.window
    positions = load.batch * load.tokens
    encoded = positions * (1 + load.versions)
    features = shapes.transcoder.num_layers * shapes.transcoder.features
    prepare = token * (positions + changed) + 2 * features * config.d_model * encoded
    circuits = len(options.methods) * len(options.budgets)
    sets, steps = removals(options, found), sweep_steps(options, found)
    gradients = gradient_passes(options)
    runs = 3 * gradients + sets / 2 + steps * (options.acdc.block + 1) + 2 * circuits
    logit = 2 * config.vocab_size * config.d_model
    # Of whole prompts, and the last position's logits.
    judged = options.judge_zero_features and options.corruption != "zero-features"
    at_zero = judged * circuits * (token * positions + logit * load.batch)
    row_bytes = shapes.decoder * rows(shapes, load) * config.d_model
    passes = 3 * gradients + steps + (2 + judged) * circuits + (1 if sets else 0)
    read = (gradients + 1 + judged) * row_bytes
    compute = token * changed * runs + logit * changed * circuits + at_zero
    return Work(prepare, compute, passes, row_bytes, read)


def seconds(
    shapes: Shapes, load: Load, options: PruneOptions, encoders: Encoders, rates: Rates
) -> Seconds:
    """Return how long a batch takes if everything ran at the measured rates."""
    done = work(shapes, load, options)
    every = shapes.transcoder.num_layers * encoder_bytes(shapes)
    weights = model_bytes(shapes)
    prepare = max(done.prepare / rates.flops, (2 * weights + every) / rates.copy)
    if rates.rows is not None:
        from_disk = done.row_bytes + (every if encoders == "disk" else 0)
        prepare += from_disk / rates.rows
    moved = done.passes * weights + done.read_bytes
    compute = max(done.compute / rates.flops, moved / rates.copy)
    return Seconds(prepare, compute, rates.rows is not None)
