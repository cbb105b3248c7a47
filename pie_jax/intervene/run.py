"""`intervene`: what a model does when features have other activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from pie_jax.errors import InputError, whole_number
from pie_jax.features.activations import check_keys
from pie_jax.features.records import FeatureKey
from pie_jax.intervene.activations import ActivationReader, Columns
from pie_jax.intervene.changes import Change, as_lists
from pie_jax.intervene.features import Features, load_features
from pie_jax.intervene.passes import FREEZES, Runs, run_changes
from pie_jax.intervene.prompts import Batch, batches, encode_prompts, features_class, keys_of
from pie_jax.intervene.results import Intervened
from pie_jax.models.loader import LanguageModel
from pie_jax.models.tokenizer import Tokenizer
from pie_jax.transcoders.loader import require_match
from pie_jax.transcoders.store import Transcoder

Changes = Sequence[Change] | Sequence[Sequence[Change]]


def intervene(
    model: LanguageModel,
    transcoder: Transcoder,
    prompts: str | Sequence[str | Sequence[int]],
    changes: Changes,
    *,
    freeze: str = "nothing",
    logits: str = "last",
    targets: Sequence[str | int] = (),
    activations: str | Sequence[tuple[int, int]] | None = None,
    pre_activations: bool = False,
    batch_size: int = 16,
) -> Intervened:
    """Run prompts with features set to other activations, and return the logits beside the model's
    own.

    `prompts` is a text, or several texts or lists of ids that begin with BOS.

    `changes` is a list of changes that are made at once, or several such lists, each of which is
    run with each prompt. A change gives a feature's new activation; what its decoder writes for the
    difference from the *baseline*, at the position and in every layer that the feature writes to,
    is added to the MLP outputs. A changed feature in a later layer may read what an earlier change
    has done: what it is changed from then depends on `freeze`.

    - `"direct"`: attention patterns, the scales of all norms (the final one too) and the outputs of
      MLPs are those of the unchanged run, and so is the baseline. An affine skip of the transcoder
      passes on what moves at its input, without a constant. The change of every pre-activation and
      of every logit (but for a final softcap) is then linear in the changes: several at once are
      the sum of each alone, and `scale=2` gives the feature's column of an attribution graph.
    - `"attention"`: attention patterns alone are those of the unchanged run. Values, norms and MLPs
      are computed again, and the baseline is what the feature's encoder makes of the changed run.
    - `"nothing"`: all is computed again, the baseline as above. This is what `generate` does.

    `scale` always counts from the activation in the unchanged run. MLPs themselves are never
    replaced by the transcoder. BOS (position 0) has no features and cannot be changed.

    `logits` at the last position or at `all`; `targets` tokens whose change is computed, as text of
    one token or ids; `activations` of all features that are `"active"` in either run, or of some,
    (layer, feature) each, at all positions; `batch_size` runs are computed side by side.

    Raises `InputError` for a feature or a position that is not there, and for changes that
    contradict each other.
    """
    _check_options(freeze, logits, batch_size)
    require_match(transcoder, model.config, model.name)
    lists, one_list = as_lists(changes)
    if not all(lists):
        raise InputError("no change is given; name at least one in every list.")
    keys = keys_of(lists)
    check_keys(transcoder, keys)
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    encoded = encode_prompts(model, texts, 0)
    ids = _target_ids(model.tokenizer, model.config.vocab_size, targets)
    reader = _reader(transcoder, activations, pre_activations)
    # Before anything runs, so that a bad position is named at once.
    work = list(batches(encoded, lists, 0, batch_size))
    features = load_features(transcoder, keys, features_class(len(keys)))
    skips = _skips(transcoder) if freeze == "direct" else None
    lengths = [len(one.ids) if logits == "all" else 1 for one in encoded]
    out = _Collected(lengths, (len(lists), model.config.vocab_size, len(ids)))
    changed, active = list[Columns](), list[Columns]()
    for batch in work:
        fixed = (freeze, transcoder.config.input_site, logits == "all", reader is not None)
        found = _run(model, features, skips, batch, ids, fixed)
        out.add(batch, found)
        changed.append(_changed(keys, batch, found))
        if reader is not None:
            active.append(_active(reader, batch, found.read))
    prompt: int | slice = 0 if isinstance(prompts, str) else slice(None)
    place = (prompt, 0 if one_list else slice(None))
    at = 0 if logits == "last" else slice(None)
    return Intervened(
        freeze=freeze,
        tokens=tuple(one.ids for one in encoded),
        before=out.before[prompt, at],
        after=out.after[(*place, at)],
        target_ids=tuple(ids),
        target_changes=out.targets[place],
        changed=_table(changed),
        activations=None if reader is None else _table(active),
    )


def _check_options(freeze: str, logits: str, batch_size: int) -> None:
    if freeze not in FREEZES:
        raise InputError(f"--freeze: `{freeze}` is not one of {', '.join(FREEZES)}.")
    if logits not in ("last", "all"):
        raise InputError(f"logits: `{logits}` is neither last nor all.")
    if batch_size < 1:
        raise InputError(f"batch_size: {batch_size} must be at least 1.")


def _target_ids(tokenizer: Tokenizer, size: int, targets: Sequence[str | int]) -> list[int]:
    found = []
    for target in targets:
        index = (
            tokenizer.answer_id(target)
            if isinstance(target, str)
            else whole_number(target, "targets")
        )
        if index is None:
            pieces = ", ".join(map(repr, tokenizer.answer_pieces(str(target))))
            raise InputError(f"target {target!r} is not one token but {pieces}; name one token.")
        if not 0 <= index < size:
            raise InputError(f"target {index} is no token; the model has {size}.")
        found.append(index)
    return found


def _reader(
    transcoder: Transcoder, activations: Any, pre_activations: bool
) -> ActivationReader | None:
    if activations is None:
        if pre_activations:
            raise InputError("pre_activations: of which features? Give activations as well.")
        return None
    if isinstance(activations, str):
        if activations != "active":
            raise InputError(f"activations: `{activations}` is neither active nor features.")
        return ActivationReader(transcoder, None, pre_activations)
    keys = [
        FeatureKey(*(whole_number(number, "activations") for number in key)) for key in activations
    ]
    check_keys(transcoder, keys)
    return ActivationReader(transcoder, keys, pre_activations)


def _skips(transcoder: Transcoder) -> Any:
    if not transcoder.config.has_skip:
        return None
    return jnp.stack([transcoder.skip(layer) for layer in range(transcoder.config.num_layers)])


def _run(
    model: LanguageModel,
    features: Features,
    skips: Any,
    batch: Batch,
    ids: list[int],
    fixed: tuple[str, str, bool, bool],
) -> Runs:
    arrays = (batch.index, *batch.placed, np.array(ids, np.int32))
    prompts = (jnp.asarray(batch.tokens), jnp.asarray(batch.length))
    given = (*prompts, features, skips, *map(jnp.asarray, arrays))
    freeze, site, whole, reads = fixed
    return run_changes(
        model.transformer, *given, freeze=freeze, site=site, whole=whole, reads=reads
    )


class _Collected:
    """Results of batches, put where their prompts and lists stand in the input."""

    def __init__(self, lengths: list[int], sizes: tuple[int, int, int]):
        (lists, vocabulary, targets), prompts = sizes, len(lengths)
        self._lengths = lengths
        nothing, positions = np.float32(np.nan), max(lengths)
        self.before = np.full((prompts, positions, vocabulary), nothing)
        self.after = np.full((prompts, lists, positions, vocabulary), nothing)
        self.targets = np.full((prompts, lists, targets), nothing)

    def add(self, batch: Batch, found: Runs) -> None:
        """Put one batch's results in their places."""
        before, after, changes = (np.asarray(x) for x in found[:3])
        some = len(batch.lists)
        for b, row in enumerate(batch.rows):
            kept = self._lengths[row]
            self.before[row, :kept] = before[b, :kept]
            self.after[row, batch.lists, :kept] = after[b, :some, :kept]
            self.targets[row, batch.lists] = changes[b, :some]


def _changed(keys: Sequence[FeatureKey], batch: Batch, found: Runs) -> Columns:
    """Return the changes that a batch's runs made."""
    b, s, c, position = np.nonzero(batch.placed.on)
    own, moved = (np.asarray(x)[b, s, c, position] for x in (found.own, found.moved))
    layer, feature = np.array(keys, np.int32)[batch.index[s, c]].T
    places = {"layer": layer, "position": position.astype(np.int32), "feature": feature}
    return {**_runs(batch, b, s), **places, "baseline": own, "value": own + moved}


def _active(reader: ActivationReader, batch: Batch, read: Any) -> Columns:
    """Return the activations of a batch's runs."""
    prompts, lists = read.shape[0], read.shape[1] - 1
    clean = jnp.broadcast_to(read[:, :1], (prompts, lists, *read.shape[2:]))
    both = jnp.stack([clean, read[:, 1:]], axis=2).reshape(prompts * lists, 2, *read.shape[2:])
    real = np.zeros((prompts, lists), np.int32)
    real[: len(batch.rows), : len(batch.lists)] = batch.length[: len(batch.rows), None]
    columns = reader.read(both, real.reshape(-1))
    return {**_runs(batch, *np.divmod(columns.pop("run"), lists)), **columns}


def _runs(batch: Batch, prompt: np.ndarray, number: np.ndarray) -> Columns:
    """Return the numbers in the input of a batch's prompts and lists."""
    return {
        "prompt": np.array(batch.rows, np.int32)[prompt],
        "list": np.array(batch.lists, np.int32)[number],
    }


def _table(rows: list[Columns]) -> pa.Table:
    columns = {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}
    order = [("prompt", "ascending"), ("list", "ascending"), ("layer", "ascending"),
             ("position", "ascending"), ("feature", "ascending")]  # fmt: skip
    return pa.table(columns).sort_by(order)
