"""Training of a language model: the same trajectory, bit for bit, however often it is killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from orbax.checkpoint import v1 as ocp
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pie_jax.demo.initialisation import initialise
from pie_jax.models.config import ModelConfig
from pie_jax.models.transformer import Transformer

Batches = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class TrainingSettings:
    """Schedule of a run; a batch holds `rows` windows of `window` tokens.

    The first `list_steps` show nothing but lists that are said again: looking back is learned from
    them in some hundred steps, which takes thousands where one word in thirty shows it. From
    `later_step` on the text is another mix, and the learning rate, which was falling so as to end
    at `first_steps`, rises once more, to `later_rate`.
    """

    steps: int = 10_000
    list_steps: int = 300
    first_steps: int = 6000
    later_step: int = 4000
    later_rate: float = 2.5e-3
    rows: int = 24
    window: int = 72
    learning_rate: float = 3e-3
    warmup: int = 150
    weight_decay: float = 0.1
    clip: float = 1.0
    checkpoint_every: int = 250
    seed: int = 0


def train(
    config: ModelConfig,
    settings: TrainingSettings,
    batches: Batches,
    folder: Path,
    report: Callable[[int, Transformer], str] | None = None,
) -> Transformer:
    """Train from the newest checkpoint in `folder` (or from the start) and return the model.

    `batches(step)` must depend on the step alone, int32 [rows, window]; then a run that was
    killed ends in the same parameters as one that was not. `report` adds a line to the log
    at every checkpoint.
    """
    optimiser = make_optimiser(settings)
    graph, parameters = nnx.split(initialise(config, settings.seed))
    state = {"parameters": parameters, "optimiser": optimiser.init(parameters)}
    update = _make_update(graph, optimiser)
    policy = ocp.training.preservation_policies.LatestN(2)
    with (
        ocp.training.Checkpointer(folder.absolute(), preservation_policy=policy) as checkpoints,
        _progress() as progress,
    ):
        start, state = _restore(checkpoints, state)
        task = progress.add_task("training", total=settings.steps, completed=start, loss="")
        for step in range(start, settings.steps):
            state, loss = update(state, jnp.asarray(batches(step)))
            progress.update(task, completed=step + 1, loss=f"loss {float(loss):.3f}")
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                checkpoints.save(step + 1, state)
                model = nnx.merge(graph, state["parameters"])
                line = "" if report is None else report(step + 1, model)
                line = f"step {step + 1}: loss {float(loss):.4f} {line}"
                progress.console.print(line, soft_wrap=True)
    return nnx.merge(graph, state["parameters"])


def make_optimiser(settings: TrainingSettings) -> optax.GradientTransformation:
    """Return clipped AdamW with a linear warm-up and a cosine to a hundredth of the peak, twice."""
    first = _rise_and_fall(0.0, settings.learning_rate, settings.warmup, settings.first_steps)
    left = settings.steps - settings.later_step
    begin = float(first(settings.later_step))
    later = _rise_and_fall(begin, settings.later_rate, settings.warmup, left)
    schedule = first
    if left > settings.warmup:
        schedule = optax.join_schedules([first, later], [settings.later_step])
    return optax.chain(
        optax.clip_by_global_norm(settings.clip),
        optax.adamw(schedule, b2=0.98, weight_decay=settings.weight_decay),
    )


def _rise_and_fall(start: float, peak: float, warmup: int, steps: int) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(
        init_value=start,
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=peak / 100,
    )


def next_token_loss(model: Transformer, tokens: Int[Array, "R T"]) -> Float[Array, ""]:
    """Return the mean cross-entropy of every token but the first, in nats."""
    logits = jax.vmap(lambda row: model(row).logits)(tokens)[:, :-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return jnp.mean(losses)


def _make_update(graph: Any, optimiser: optax.GradientTransformation) -> Callable:
    @partial(jax.jit, donate_argnums=0)
    def update(state: dict[str, Any], tokens: Int[Array, "R T"]) -> tuple[dict[str, Any], Array]:
        def loss_of(parameters: nnx.State) -> Array:
            return next_token_loss(nnx.merge(graph, parameters), tokens)

        loss, gradients = jax.value_and_grad(loss_of)(state["parameters"])
        changes, moments = optimiser.update(gradients, state["optimiser"], state["parameters"])
        parameters = optax.apply_updates(state["parameters"], changes)
        return {"parameters": parameters, "optimiser": moments}, loss

    return update


def _restore(checkpoints: ocp.training.Checkpointer, state: dict) -> tuple[int, dict]:
    # Orbax writes to a temporary folder and renames it, so whatever is listed is whole.
    newest = checkpoints.latest
    if newest is None:
        return 0, state
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state
    )
    return newest.step, checkpoints.load(newest.step, abstract)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
