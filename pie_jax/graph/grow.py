"""Which active features become a graph's nodes: all, named ones, or the best by influence; and the
effects that are needed to know, those of several prompts side by side.

Shapes: M prompts, R rows, T positions, L layers, D model, S features, K targets, C columns, A
active features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pie_jax.devices.shapes import bucket
from pie_jax.errors import InputError, whole_number
from pie_jax.features.activations import check_keys
from pie_jax.features.records import FeatureKey
from pie_jax.graph.frozen import Injected, Point, effects
from pie_jax.graph.prune import influence, normalised
from pie_jax.graph.sources import Active, Written, encoder_rows, in_chunks
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.store import Transcoder

# Batches of targets that are computed at once.
_MOST_THREADS = 8

Place = tuple[int, int, int]
Key = tuple[int, int]
Features = int | Sequence[Place] | Sequence[Key] | None


class Wanted(NamedTuple):
    """Effects that are asked for: on some `features` [S], then on `targets` [K, D] at the output of
    the final norm, of the features in `columns` [C] and of all errors and tokens."""

    features: Int[np.ndarray, " S"]
    targets: Float[np.ndarray, "K D"]
    columns: Int[np.ndarray, " C"]


class Grown(NamedTuple):
    """Which active features are nodes, and the effects on them and on the targets."""

    selected: Int[np.ndarray, " S"]
    rows: Float[np.ndarray, "S+K S+L*T+T"]


def check_features(transcoder: Transcoder, features: Features, update: int) -> None:
    """Raise `InputError` for a negative number of features, no update, and for named features that
    the transcoder does not have."""
    if update < 1:
        raise InputError(f"update {update}: at least 1")
    if features is None:
        return
    if not isinstance(features, Iterable):
        if whole_number(features, "features") < 0:
            raise InputError(f"features {features}: at least 0")
        return
    if any(len(place) not in (2, 3) for place in features):
        raise InputError("features: each is (layer, position, feature) or (layer, feature)")
    named = (FeatureKey(place[0], place[-1]) for place in features)
    if keys := list(dict.fromkeys(named)):
        check_keys(transcoder, keys)


def grow(
    active: Active,
    vectors: Float[np.ndarray, "K D"],
    weights: Float[np.ndarray, " K"],
    features: Features,
    update: int,
) -> Generator[Wanted, np.ndarray, Grown]:
    """Ask for effects until a prompt's graph is known, each time being sent what was asked for."""
    every, visited = np.arange(active.count), np.empty(0, np.int64)
    if features is None or isinstance(features, Iterable):
        wanted = active.count
    else:
        wanted = whole_number(features, "features")
    if wanted >= active.count:
        chosen = _places(active, features) if isinstance(features, Iterable) else every
        return Grown(chosen, (yield Wanted(chosen, vectors, chosen)))
    # By influence: rows of what is known so far, with all active features as columns.
    rows = yield Wanted(visited, vectors, every)
    while True:
        best = _best(rows, weights, visited, active.count)
        best = best[: min(update, wanted - len(visited))]
        last = len(visited) + len(best) == wanted
        selected = np.sort(np.concatenate([visited, best])) if last else every
        new = yield Wanted(best, vectors[:0], selected)
        if last:
            rest = np.arange(active.count, rows.shape[1])
            known = np.concatenate([rows[:, np.concatenate([selected, rest])], new])
            by_place = np.argsort(np.concatenate([visited, best]), kind="stable")
            targets = len(vectors)
            return Grown(selected, np.concatenate([known[targets:][by_place], known[:targets]]))
        rows, visited = np.concatenate([rows, new]), np.concatenate([visited, best])


class _Reads(NamedTuple):
    """What one prompt's targets read, as `Injected` has it, in the `order` in which they go down:
    a batch starts from its highest layer."""

    layer: Int[np.ndarray, " R"]
    position: Int[np.ndarray, " R"]
    vector: Float[np.ndarray, "R D"]
    order: Int[np.ndarray, " R"]


@dataclass(frozen=True)
class Work:
    """M prompts side by side: where they are linearised, what is written in them, their `lengths`
    [M], and how many targets of each go down together."""

    model: LanguageModel
    transcoder: Transcoder
    at: Point
    written: Written
    lengths: Int[np.ndarray, " M"]
    batch: int

    def rows(self, wanted: Mapping[int, Wanted]) -> dict[int, Float[np.ndarray, "R C+L*T+T"]]:
        """Return the effects that some of the prompts ask for."""
        _, layers, padded, _ = self.at.resid_mid.shape
        columns = {number: one.columns for number, one in wanted.items()}
        none = np.empty(0, np.int64)
        members = [columns.get(number, none) for number in range(len(self.lengths))]
        sources, slots = in_chunks(self.written, members, padded)
        reads = self._reads(wanted)
        out = {
            number: np.empty(
                (len(one.order), len(columns[number]) + (layers + 1) * self.lengths[number]),
                np.float32,
            )
            for number, one in reads.items()
        }
        batch = self.batch
        if not any(len(one.features) for one in wanted.values()):
            batch = min(batch, bucket(max(len(one.targets) for one in wanted.values())))

        def compute(begin: int) -> None:
            parts = {
                number: one.order[begin : begin + batch]
                for number, one in reads.items()
                if begin < len(one.order)
            }
            result = effects(
                self.model.transformer, self.at, self._injected(reads, parts, batch),
                self.written.table, sources, self.written.error, self.written.skip,
                self.transcoder.config.input_site,
            )  # fmt: skip
            by_feature, by_error, by_token = map(np.asarray, result)
            for number, here in parts.items():
                length, end = self.lengths[number], len(columns[number])
                rows, filled = out[number], slice(0, len(here))
                rows[here, :end] = by_feature[number, filled][:, slots[number]]
                found = by_error[number, filled, :, :length]
                rows[here, end:-length] = found.reshape(len(here), -1)
                rows[here, -length:] = by_token[number, filled, :length]

        _in_threads(compute, range(0, max(len(one.order) for one in reads.values()), batch))
        return out

    def _reads(self, wanted: Mapping[int, Wanted]) -> dict[int, _Reads]:
        active = self.written.active
        places = [(active[number], one.features) for number, one in wanted.items()]
        vectors = encoder_rows(
            self.transcoder,
            np.concatenate([of.layer[features] for of, features in places]),
            np.concatenate([of.feature[features] for of, features in places]),
        )
        out, begin = {}, 0
        for number, one in wanted.items():
            of, count, end = active[number], len(one.targets), begin + len(one.features)
            top, last = self.model.config.num_layers, self.lengths[number] - 1
            layer = np.append(of.layer[one.features], np.full(count, top)).astype(np.int32)
            position = np.append(of.position[one.features], np.full(count, last)).astype(np.int32)
            vector = np.concatenate([vectors[begin:end], one.targets])
            out[number] = _Reads(layer, position, vector, np.lexsort((position, layer)))
            begin = end
        return out

    def _injected(
        self, reads: Mapping[int, _Reads], parts: Mapping[int, np.ndarray], batch: int
    ) -> Injected:
        shape = (len(self.lengths), batch)
        layer, position = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
        vector = np.zeros((*shape, self.model.config.d_model), np.float32)
        for number, here in parts.items():
            one, filled = reads[number], slice(0, len(here))
            layer[number, filled] = one.layer[here]
            position[number, filled] = one.position[here]
            vector[number, filled] = one.vector[here]
        return Injected(jnp.asarray(layer), jnp.asarray(position), jnp.asarray(vector))


def _in_threads(run: Callable[[int], None], values: Iterable[int]) -> None:
    """Run something for each value, a few at a time.

    On a CPU, XLA computes what stands in a loop on one core; elsewhere results are fetched while
    the next ones are computed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = min(cores or 1, _MOST_THREADS) if jax.default_backend() == "cpu" else 2
    device = jax.config.jax_default_device  # type: ignore[attr-defined]

    def work(value: int) -> None:
        # jax keeps it for each thread apart.
        with jax.default_device(device):
            run(value)

    with ThreadPoolExecutor(threads, "graph") as pool:
        for _ in pool.map(work, values):
            pass


def grown(work: Work, growing: Sequence[Generator[Wanted, np.ndarray, Grown]]) -> list[Grown]:
    """Return what growing graphs come to: what they ask for is computed side by side."""
    found: dict[int, Grown] = {}
    waiting = {number: next(one) for number, one in enumerate(growing)}
    while waiting:
        for number, rows in work.rows(waiting).items():
            try:
                waiting[number] = growing[number].send(rows)
            except StopIteration as end:
                found[number] = end.value
                del waiting[number]
    return [found[number] for number in range(len(growing))]


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
    given = [tuple(whole_number(number, "features") for number in place) for place in places]
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
