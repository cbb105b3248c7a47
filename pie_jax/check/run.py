"""`check_transcoder`: measures a transcoder on text, and names what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pie_jax.check.fit import Fit, Written, fit, likeness, site_inputs, written
from pie_jax.check.reading import Streams, Texts, read_streams, read_texts
from pie_jax.check.replaced import Replaced, replaced
from pie_jax.check.verdict import Misplaced, misplaced_layers, mistakes
from pie_jax.errors import InputError
from pie_jax.files.corpus.documents import Corpus, FileCorpus
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.config import InputSite
from pie_jax.transcoders.loader import require_match
from pie_jax.transcoders.store import Transcoder

SITES: tuple[InputSite, ...] = ("resid_mid", "mlp_in", "ln2_normalized")
# Of so many tokens neighbouring hooks, the order of layers, and the replaced model are measured.
_NEAR, _ORDER, _REPLACED = 1024, 256, 512
# Positions that are shown by themselves; later ones are typical.
_FIRST, _TYPICAL = 6, 8

# done, total, what is being done
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Position:
    """How far a position near the start is from typical ones: the norm of what features read, and
    the number of active features, each over its mean at later positions; None where that is 0.
    BOS, position 0, has no active features by definition."""

    position: int
    norm: float | None
    l0: float | None


@dataclass(frozen=True)
class CheckReport:
    """What a transcoder does on text.

    `named` at the hooks that its files name, `neighbours` at the others, on fewer tokens, as is
    `near`, the named ones again; `silent` the share of each layer's features that fired on none of
    the tokens; `misplaced` layers that are more like another layer; `mistakes` sentences, none
    where all is well.
    """

    named: Fit
    near: Fit
    neighbours: tuple[Fit, ...]
    silent: tuple[float, ...]
    first: tuple[Position, ...]
    misplaced: tuple[Misplaced, ...]
    replaced: Replaced
    mistakes: tuple[str, ...]


def check_transcoder(
    model: LanguageModel,
    transcoder: Transcoder,
    corpus: Corpus | Sequence[str | Path],
    *,
    tokens: int = 4096,
    window: int = 128,
    progress: Progress | None = None,
) -> CheckReport:
    """Measure a transcoder on so many tokens of a corpus, at the hooks that its files name and at
    the neighbouring ones, and say whether hook, order of layers or model are wrong.

    Raises `InputError` where model and transcoder have other sizes, or the corpus is too short.
    """
    require_match(transcoder, model.config, model.name)
    if tokens < 1 or not 16 <= window <= model.config.max_positions:
        raise InputError(
            f"--tokens {tokens}, --window {window}: at least 1, and 16 to the model's context of "
            f"{model.config.max_positions}."
        )
    corpus = corpus if isinstance(corpus, Corpus) else FileCorpus(corpus)
    tell = progress or (lambda done, total, what: None)
    config, steps = transcoder.config, 7
    tell(0, steps, "reading")
    texts = read_texts(model, corpus, tokens, window)
    streams = read_streams(model, texts)
    tell(1, steps, f"at {config.input_site}")
    found = written(model, transcoder, streams, config.input_site)
    named = fit(found, streams, config.input_site, config.output_site)
    near = streams.first(_NEAR)
    own = _first(found, _NEAR)
    at_hook = fit(own, near, config.input_site, config.output_site)
    neighbours = []
    others = [site for site in SITES if site != config.input_site]
    for step, site in enumerate(others, start=2):
        tell(step, steps, f"at {site}")
        there = written(model, transcoder, near, site)
        neighbours.append(fit(there, near, site, config.output_site))
    if streams.mlp_own is not None and config.output_site == "after_post_norm":
        neighbours.append(fit(own, near, config.input_site, "before_post_norm"))
    tell(4, steps, "order of layers")
    alike = likeness(model, transcoder, streams.first(_ORDER), config.input_site)
    misplaced = misplaced_layers(alike)
    tell(5, steps, "replaced MLPs")
    result = replaced(model, transcoder, _some(texts, _REPLACED))
    tell(steps, steps, "done")
    report = CheckReport(
        named=named,
        near=at_hook,
        neighbours=tuple(neighbours),
        silent=tuple(float(share) for share in (found.fired == 0).mean(axis=1)),
        first=_first_positions(model, streams, found, config.input_site),
        misplaced=misplaced,
        replaced=result,
        mistakes=(),
    )
    said = mistakes(at_hook, tuple(neighbours), misplaced, config.model_name, model.name)
    return replace(report, mistakes=said)


def _first(found: Written, tokens: int) -> Written:
    return Written(found.writes[:, :tokens], found.active[:, :tokens], found.fired)


def _some(texts: Texts, tokens: int) -> Texts:
    """Return the first windows with so many tokens together, at least one."""
    total = np.cumsum(texts.length)
    count = min(int(np.searchsorted(total, tokens)) + 1, len(texts.tokens))
    return Texts(texts.tokens[:count], texts.length[:count])


def _first_positions(
    model: LanguageModel, streams: Streams, found: Written, site: InputSite
) -> tuple[Position, ...]:
    inputs = np.asarray(site_inputs(model.transformer, streams.resid_mid, site))
    norms = np.linalg.norm(inputs, axis=-1)
    later = streams.position >= _TYPICAL

    def over(values: np.ndarray, at: np.ndarray) -> float | None:
        typical = values[:, later].mean(axis=1)
        if not later.any() or not at.any() or (typical == 0).any():
            return None
        return float((values[:, at].mean(axis=1) / typical).max())

    rows = []
    for position in range(_FIRST):
        at = streams.position == position
        l0 = None if position == 0 else over(found.active, at)
        rows.append(Position(position, over(norms, at), l0))
    return tuple(rows)
