"""`attribute`: an attribution graph of one prompt.

Shapes: T positions, L layers, D model, S feature nodes, K targets, N nodes, A active features.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pie_jax.charts.text import count
from pie_jax.devices.mesh import mesh_of
from pie_jax.devices.shapes import bucket, length_class
from pie_jax.errors import InputError
from pie_jax.graph.frozen import Effects, Injected, Point, effects, point
from pie_jax.graph.influence import influence, normalised
from pie_jax.graph.sources import Active, encoder_rows, in_chunks, read_active
from pie_jax.graph.targets import Targets, find_targets
from pie_jax.graph.types import Corrupted, Graph
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.batch.occurrences import OccurrenceFinder
from pie_jax.transcoders.loader import require_match
from pie_jax.transcoders.store import Transcoder

# Positions of a batch's targets that go through the layers side by side, and the fewest and most
# targets: on a CPU their streams stay in its caches.
_POSITIONS = {"cpu": 2048}
_FASTER = 32768
_BATCH = (16, 512)
# Rows after which the best features are looked for again: circuit-tracer's 4 batches of 512.
UPDATE = 2048

Place = tuple[int, int, int]
Key = tuple[int, int]


def attribute(
    model: LanguageModel,
    transcoder: Transcoder,
    prompt: str | Sequence[int],
    *,
    corrupted: str | Sequence[int] | None = None,
    targets: Targets = None,
    max_logits: int = 10,
    probability: float = 0.95,
    features: int | Sequence[Place] | Sequence[Key] | None = None,
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
    require_match(transcoder, model.config, model.name)
    if transcoder.mesh is not None or mesh_of(model.transformer.embedding.get_value()) is not None:
        raise InputError("attribution graphs run on one device: open the model without a mesh")
    tokens = _token_ids(model, prompt)
    length, padded = len(tokens), length_class(len(tokens))
    at = _point(model, tokens, padded, transcoder.config.input_site)
    found, vectors = find_targets(
        model, np.asarray(at.probability), targets, max_logits, probability
    )
    others = None if corrupted is None else _other_ids(model, corrupted, length)
    other = None if others is None else _point(model, others, padded, transcoder.config.input_site)
    active = read_active(transcoder, OccurrenceFinder(transcoder), at, length, other)
    if other is not None:
        at = at._replace(embedded=at.embedded - other.embedded)
    work = _Work(model, transcoder, at, active, length, _batch(batch, padded))
    weights = np.array([one.probability for one in found], np.float32)
    selected, rows = _grow(work, vectors, weights, features, update)
    return Graph(
        tokens=tuple(model.tokenizer.token(index) for index in tokens),
        token_ids=np.array(tokens, np.int64),
        layers=model.config.num_layers,
        layer=active.layer[selected],
        position=active.position[selected],
        feature=active.feature[selected],
        activation=active.activation[selected],
        targets=found,
        # Nothing reads a target.
        rows=np.pad(rows, ((0, 0), (0, len(found)))),
        corrupted=None
        if others is None
        else Corrupted(
            tuple(model.tokenizer.token(index) for index in others), active.corrupted[selected]
        ),
    )


def _point(model: LanguageModel, tokens: Sequence[int], size: int, site: str) -> Point:
    padded = np.zeros(size, np.int32)
    padded[: len(tokens)] = tokens
    return point(model.transformer, padded, np.int32(len(tokens)), site)


def _other_ids(model: LanguageModel, corrupted: str | Sequence[int], length: int) -> list[int]:
    ids = _token_ids(model, corrupted, "corrupted")
    if len(ids) != length:
        raise InputError(
            f"corrupted: {count(len(ids), 'token')} with BOS, and the prompt has {length}; a graph "
            "of changes needs two prompts that line up token by token"
        )
    return ids


def _token_ids(
    model: LanguageModel, prompt: str | Sequence[int], name: str = "prompt"
) -> list[int]:
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


def _batch(asked: int | None, length: int) -> int:
    if asked is None:
        positions = _POSITIONS.get(jax.default_backend(), _FASTER)
        return bucket(min(max(positions // length, _BATCH[0]), _BATCH[1]))
    if asked < 1:
        raise InputError(f"batch {asked}: at least 1")
    return asked


@dataclass(frozen=True)
class _Work:
    model: LanguageModel
    transcoder: Transcoder
    at: Point
    active: Active
    length: int
    batch: int

    def feature_rows(
        self, wanted: Int[np.ndarray, " S"], columns: Int[np.ndarray, " C"]
    ) -> Float[np.ndarray, "S C+L*T+T"]:
        """Return the effects on some features, in their order."""
        layer, position = self.active.layer[wanted], self.active.position[wanted]
        vectors = encoder_rows(self.transcoder, layer, self.active.feature[wanted])
        return self._rows(layer, position, vectors, columns, self.batch)

    def target_rows(
        self, vectors: Float[np.ndarray, "K D"], columns: Int[np.ndarray, " C"]
    ) -> Float[np.ndarray, "K C+L*T+T"]:
        """Return the effects on directions at the output of the final norm."""
        count = len(vectors)
        layer = np.full(count, self.model.config.num_layers, np.int32)
        position = np.full(count, self.length - 1, np.int32)
        return self._rows(layer, position, vectors, columns, min(self.batch, bucket(count)))

    def _rows(
        self,
        layer: np.ndarray,
        position: np.ndarray,
        vectors: np.ndarray,
        columns: np.ndarray,
        batch: int,
    ) -> np.ndarray:
        layers, padded = self.at.resid_mid.shape[:2]
        sources, slot = in_chunks(self.active, columns, padded)
        end = len(columns)
        rows = np.empty((len(layer), end + (layers + 1) * self.length), np.float32)
        # A batch goes down from its highest layer.
        order = np.lexsort((position, layer))
        for here, result in self._computed(layer, position, vectors, order, sources, batch):
            part = [np.asarray(array)[: len(here)] for array in result]
            rows[here, :end] = part[0][:, slot]
            rows[here, end : -self.length] = part[1][:, :, : self.length].reshape(len(here), -1)
            rows[here, -self.length :] = part[2][:, : self.length]
        return rows

    def _computed(
        self, layer: np.ndarray, position: np.ndarray, vectors: np.ndarray, order: np.ndarray,
        sources: object, batch: int,
    ) -> Iterator[tuple[np.ndarray, Effects]]:  # fmt: skip
        """Yield which targets a batch holds and its effects, the next one being computed."""
        waiting: tuple[np.ndarray, Effects] | None = None
        for begin in range(0, len(order), batch):
            here = order[begin : begin + batch]

            def filled(values: np.ndarray, empty: int, here: np.ndarray = here) -> jax.Array:
                out = np.full((batch, *values.shape[1:]), empty, values.dtype)
                out[: len(here)] = values[here]
                return jnp.asarray(out)

            injected = Injected(filled(layer, -1), filled(position, 0), filled(vectors, 0))
            active = self.active
            result = effects(
                self.model.transformer, self.at, injected, active.table, sources, active.error,
                active.skip, self.transcoder.config.input_site,
            )  # fmt: skip
            if waiting is not None:
                yield waiting
            waiting = (here, result)
        if waiting is not None:
            yield waiting


def _grow(
    work: _Work,
    vectors: Float[np.ndarray, "K D"],
    weights: Float[np.ndarray, " K"],
    features: int | Sequence[Place] | Sequence[Key] | None,
    update: int,
) -> tuple[Int[np.ndarray, " S"], Float[np.ndarray, "S+K S+L*T+T"]]:
    """Return which active features are nodes, and the effects on them and on the targets."""
    count = work.active.count
    every = np.arange(count)
    if update < 1:
        raise InputError(f"update {update}: at least 1")
    if features is None or isinstance(features, Iterable):
        wanted = count
    elif (wanted := operator.index(features)) < 0:
        raise InputError(f"features {features}: at least 0")
    if wanted >= count:
        chosen = _places(work.active, features) if isinstance(features, Iterable) else every
        parts = (work.feature_rows(chosen, chosen), work.target_rows(vectors, chosen))
        return chosen, np.concatenate(parts)
    # By influence: rows of what is known so far, with all active features as columns.
    rows = work.target_rows(vectors, every)
    visited = np.empty(0, np.int64)
    while True:
        best = _best(rows, weights, visited, count)[: min(update, wanted - len(visited))]
        last = len(visited) + len(best) == wanted
        selected = np.sort(np.concatenate([visited, best])) if last else every
        new = work.feature_rows(best, selected)
        if last:
            rest = np.arange(count, rows.shape[1])
            known = np.concatenate([rows[:, np.concatenate([selected, rest])], new])
            by_place = np.argsort(np.concatenate([visited, best]), kind="stable")
            targets = len(vectors)
            return selected, np.concatenate([known[targets:][by_place], known[:targets]])
        rows, visited = np.concatenate([rows, new]), np.concatenate([visited, best])


def _best(
    rows: Float[np.ndarray, "Q C"],
    weights: Float[np.ndarray, " K"],
    visited: Int[np.ndarray, " V"],
    count: int,
) -> Int[np.ndarray, " A-V"]:
    """Return the features without rows, those of most influence first."""
    node = np.concatenate([np.full(len(weights), -1), visited])
    start = np.zeros(len(rows), np.float32)
    start[: len(weights)] = weights
    found = influence(normalised(rows, 1e-8), start, node)[:count]
    order = np.argsort(-found, kind="stable")
    return order[~np.isin(order, visited)]


def _places(active: Active, places: Iterable[Place | Key]) -> Int[np.ndarray, " S"]:
    given = [tuple(int(number) for number in place) for place in places]
    keys = {place for place in given if len(place) == 2}
    if keys:
        every = zip(active.layer.tolist(), active.feature.tolist(), strict=True)
        return np.array([index for index, key in enumerate(every) if key in keys], np.int64)
    there = {
        place: index
        for index, place in enumerate(
            zip(
                active.layer.tolist(), active.position.tolist(), active.feature.tolist(),
                strict=True,
            )
        )
    }  # fmt: skip
    found = set()
    for layer, position, feature in given:
        if (layer, position, feature) not in there:
            raise InputError(
                f"features: feature {feature} of layer {layer} is not active at position "
                f"{position}; a graph holds active ones, and none at position 0"
            )
        found.add(there[layer, position, feature])
    return np.array(sorted(found), np.int64)
