"""`attribute` and `attribute_many`: attribution graphs of one prompt, and of many side by side.

Shapes: M prompts, T positions, L layers, D model, S feature nodes, K targets, N nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pie_jax.charts.text import count
from pie_jax.devices.mesh import mesh_of
from pie_jax.devices.shapes import bucket, length_class
from pie_jax.errors import InputError
from pie_jax.graph.frozen import Point, points
from pie_jax.graph.grow import Features, Grown, Key, Place, Work, check_features, grow, grown
from pie_jax.graph.sources import Active, read_written
from pie_jax.graph.targets import Asked, Targets, find_targets, read_targets
from pie_jax.graph.types import Corrupted, Graph, Target
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.batch.occurrences import OccurrenceFinder
from pie_jax.transcoders.loader import require_match
from pie_jax.transcoders.store import Transcoder

__all__ = ["UPDATE", "Key", "Place", "attribute", "attribute_many"]

# Positions of all targets that go through the layers side by side, and the fewest and most targets
# of a prompt: on a CPU their streams stay in its caches.
_POSITIONS = {"cpu": 2048}
_FASTER = 32768
_BATCH = (16, 512)
# Prompts that go side by side.
_PROMPTS = {"cpu": 4}
_MORE = 16
# Rows after which the best features are looked for again: circuit-tracer's 4 batches of 512.
UPDATE = 2048

Prompt = str | Sequence[int]


def attribute(
    model: LanguageModel,
    transcoder: Transcoder,
    prompt: Prompt,
    *,
    corrupted: Prompt | None = None,
    targets: Targets = None,
    max_logits: int = 10,
    probability: float = 0.95,
    features: Features = None,
    batch: int | None = None,
    update: int = UPDATE,
) -> Graph:
    """Return the direct effects between a prompt's features, errors, tokens and targets.

    `prompt` is text, in front of which BOS is put, or token ids as they are. With a `corrupted`
    prompt of as many tokens it is a graph of changes: attention patterns, norm scales and MLPs are
    those of `prompt`, and what flows through them is what each node writes there minus what it
    writes in the corrupted prompt. All of a target's edges then add up to what the change of all
    that MLPs and embeddings write does to it in the frozen model (without a skip, exactly).

    `targets`: None for
    the likeliest tokens, at most `max_logits`, until they hold `probability`; a pair (target,
    distractor) for the difference of two logits; a list of tokens; or a list of `Direction`s.
    `features`: None for all that are active (in either prompt), a number of them by influence, a
    list of (layer, position, feature), or of (layer, feature), wherever these are active. Influence
    is estimated anew after `update` features. `batch` targets are computed side by side; None
    chooses by the prompt's length and the device.

    Raises `InputError` for a prompt of fewer than two tokens or beyond the model's context, prompts
    of different lengths, tokens or features that are not there, and for weights on a mesh.
    """
    given = _read(model, prompt, corrupted, targets)
    run = _Run(model, transcoder, features, batch, update, max_logits, probability)
    ((_, graph),) = run.graphs([given], 1)
    return graph


def attribute_many(
    model: LanguageModel,
    transcoder: Transcoder,
    prompts: Sequence[Prompt],
    *,
    corrupted: Sequence[Prompt] | None = None,
    targets: Sequence[Targets] | None = None,
    max_logits: int = 10,
    probability: float = 0.95,
    features: Features = None,
    batch: int | None = None,
    update: int = UPDATE,
    progress: Callable[[int, int], None] | None = None,
) -> list[Graph]:
    """Return the graphs that `attribute` returns of each of some prompts, in their order.

    Prompts of about one length go through the model side by side, as many as the device has room
    for. `corrupted` and `targets` hold one entry for each prompt; all else is the same for all, as
    in `attribute`. `progress` is called with finished prompts and all.

    Raises `InputError` as `attribute` does, which names the prompt by its place, from 0, and for
    lists of different lengths.
    """
    lists = {"corrupted": corrupted, "targets": targets}
    if isinstance(prompts, str):
        raise InputError("prompts: a single text; give a list, or use attribution_graph")
    for name, values in lists.items():
        if values is not None and len(values) != len(prompts):
            raise InputError(
                f"{name}: {len(values)} entries for {count(len(prompts), 'prompt')}; give one each"
            )
    given = []
    for number, prompt in enumerate(prompts):
        other = None if corrupted is None else corrupted[number]
        ends = None if targets is None else targets[number]
        with _named(number):
            given.append(_read(model, prompt, other, ends))
    run = _Run(model, transcoder, features, batch, update, max_logits, probability)
    room = _PROMPTS.get(jax.default_backend(), _MORE)
    found: dict[int, Graph] = {}
    for number, graph in run.graphs(given, room):
        found[number] = graph
        if progress is not None:
            progress(len(found), len(given))
    return [found[number] for number in range(len(given))]


class _Given(NamedTuple):
    """A prompt's tokens, those of the prompt that is taken away from it, and what it ends in."""

    tokens: list[int]
    other: list[int] | None
    asked: Asked


@contextmanager
def _named(number: int) -> Iterator[None]:
    """Name the prompt in what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"prompts[{number}]: {error}") from error


def _read(
    model: LanguageModel, prompt: Prompt, corrupted: Prompt | None, targets: Targets
) -> _Given:
    tokens = _token_ids(model, prompt)
    other = None if corrupted is None else _token_ids(model, corrupted, "corrupted")
    if other is not None and len(other) != len(tokens):
        raise InputError(
            f"corrupted: {count(len(other), 'token')} with BOS, and the prompt has {len(tokens)}; "
            "a graph of changes needs two prompts that line up token by token"
        )
    return _Given(tokens, other, read_targets(model, targets))


def _token_ids(model: LanguageModel, prompt: Prompt, name: str = "prompt") -> list[int]:
    if isinstance(prompt, str):
        ids = model.tokenizer.encode(prompt)
    else:
        beyond = [
            index
            for index in prompt
            if not (isinstance(index, int | np.integer) and 0 <= index < model.config.vocab_size)
        ]
        if beyond:
            raise InputError(
                f"{name}: token {beyond[0]} is not one of the model's, 0 to "
                f"{model.config.vocab_size - 1}"
            )
        ids = [int(index) for index in prompt]
    if not 2 <= len(ids) <= model.config.max_positions:
        raise InputError(
            f"{name}: {count(len(ids), 'token')} with BOS; a graph needs 2 to the model's "
            f"{model.config.max_positions}"
        )
    return ids


@dataclass(frozen=True)
class _Run:
    """What all prompts of a call have in common."""

    model: LanguageModel
    transcoder: Transcoder
    features: Features
    batch: int | None
    update: int
    max_logits: int
    probability: float

    def __post_init__(self) -> None:
        require_match(self.transcoder, self.model.config, self.model.name)
        embedding = self.model.transformer.embedding.get_value()
        if self.transcoder.mesh is not None or mesh_of(embedding) is not None:
            raise InputError("attribution graphs run on one device: open the model without a mesh")
        check_features(self.transcoder, self.features, self.update)
        if self.batch is not None and self.batch < 1:
            raise InputError(f"batch {self.batch}: at least 1")

    def graphs(self, given: Sequence[_Given], most: int) -> Iterator[tuple[int, Graph]]:
        """Yield each prompt's number and graph, at most so many prompts side by side."""
        finder, skip = OccurrenceFinder(self.transcoder), _skip(self.transcoder)
        for numbers, beside, length in _side_by_side(given, most):
            here = [given[number] for number in numbers]
            yield from zip(numbers, self._together(here, beside, length, finder, skip), strict=True)

    def _together(
        self,
        given: Sequence[_Given],
        beside: int,
        padded: int,
        finder: OccurrenceFinder,
        skip: Array | None,
    ) -> list[Graph]:
        """Return the graphs of up to `beside` prompts, each padded to one length."""
        # Places that are left over hold prompts of no tokens, in which nothing is active.
        empty = [_Given([], None, given[0].asked)] * (beside - len(given))
        lengths = np.array([len(one.tokens) for one in (*given, *empty)], np.int32)
        at = self._points([one.tokens for one in (*given, *empty)], padded)
        second = [one.other for one in given if one.other is not None]
        other = self._points([*second, *([] for _ in empty)], padded) if second else None
        ends = find_targets(
            self.model, np.asarray(at.probability)[: len(given)], [one.asked for one in given],
            self.max_logits, self.probability,
        )  # fmt: skip
        written = read_written(self.transcoder, finder, at, lengths, other, skip)
        if other is not None:
            at = at._replace(embedded=at.embedded - other.embedded)
        work = Work(self.model, self.transcoder, at, written, lengths, self._targets(at))
        growing = [
            grow(active, vectors, np.array([one.probability for one in found], np.float32),
                 self.features, self.update)
            for (found, vectors), active in zip(ends, written.active, strict=False)
        ]  # fmt: skip
        return [
            self._graph(one, found, active, rows)
            for one, (found, _), active, rows in zip(
                given, ends, written.active, grown(work, growing), strict=False
            )
        ]

    def _points(self, tokens: Sequence[Sequence[int]], size: int) -> Point:
        padded = np.zeros((len(tokens), size), np.int32)
        for row, one in zip(padded, tokens, strict=True):
            row[: len(one)] = one
        lengths = np.array([len(one) for one in tokens], np.int32)
        return points(self.model.transformer, padded, lengths, self.transcoder.config.input_site)

    def _targets(self, at: Point) -> int:
        """Return how many targets of a prompt go side by side."""
        if self.batch is not None:
            return self.batch
        prompts, length, _ = at.embedded.shape
        positions = _POSITIONS.get(jax.default_backend(), _FASTER)
        return bucket(min(max(positions // (length * prompts), _BATCH[0]), _BATCH[1]))

    def _graph(
        self, given: _Given, found: tuple[Target, ...], active: Active, grown: Grown
    ) -> Graph:
        token, selected = self.model.tokenizer.token, grown.selected
        corrupted = None
        if given.other is not None:
            shown = tuple(token(index) for index in given.other)
            corrupted = Corrupted(shown, active.corrupted[selected])
        return Graph(
            tokens=tuple(token(index) for index in given.tokens),
            token_ids=np.array(given.tokens, np.int64),
            layers=self.model.config.num_layers,
            layer=active.layer[selected],
            position=active.position[selected],
            feature=active.feature[selected],
            activation=active.activation[selected],
            targets=found,
            # Nothing reads a target.
            rows=np.pad(grown.rows, ((0, 0), (0, len(found)))),
            corrupted=corrupted,
        )


def _skip(transcoder: Transcoder) -> Array | None:
    if not transcoder.config.has_skip:
        return None
    return jnp.stack([transcoder.skip(i) for i in range(len(transcoder.skips))])


def _side_by_side(given: Sequence[_Given], most: int) -> Iterator[tuple[list[int], int, int]]:
    """Yield the numbers of prompts that go together, how many places there are, and their T."""
    by_class: dict[int, list[int]] = {}
    for number in sorted(range(len(given)), key=lambda number: len(given[number].tokens)):
        by_class.setdefault(length_class(len(given[number].tokens)), []).append(number)
    positions = _POSITIONS.get(jax.default_backend(), _FASTER)
    for length, numbers in by_class.items():
        room = max(1, min(most, positions // (length * _BATCH[0])))
        # A power of two: few sizes, few programs.
        beside = min(1 << (room.bit_length() - 1), 1 << (len(numbers) - 1).bit_length())
        for begin in range(0, len(numbers), beside):
            yield numbers[begin : begin + beside], beside, length
