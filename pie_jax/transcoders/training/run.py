"""Training of a transcoder, cross-layer or per layer, on a text corpus: `train_clt`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pie_jax.files.corpus.documents import FileCorpus
from pie_jax.files.hub import hash_files
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.config import TranscoderConfig
from pie_jax.transcoders.training.data import make_windows
from pie_jax.transcoders.training.loop import Progress, Trainer
from pie_jax.transcoders.training.options import TrainOptions, require
from pie_jax.transcoders.training.refit import refit
from pie_jax.transcoders.training.report import TrainReport, measure
from pie_jax.transcoders.training.state import export
from pie_jax.transcoders.training.store import TrainStore


def train_clt(
    model: LanguageModel,
    corpus: Sequence[str | Path],
    out: Path,
    options: TrainOptions,
    *,
    progress: Progress | None = None,
) -> TrainReport:
    """Train a transcoder on the activations of `model` over text files and write it to `out`.

    The state is kept in `out` every `checkpoint_every` steps; called again after a crash, the
    training goes on from there, to the same weights. Where it is finished, the stored report is
    returned. Raises `InputError` for a corpus that cannot be used, and for an `out` that holds
    anything but this very training.
    """
    require(options.window <= model.config.max_positions, "window", "within the model's context")
    options.require_layers(model.config.num_layers)
    files = FileCorpus(corpus)
    store = TrainStore(out, _identify(model, files, options))
    finished = store.finished()
    if finished is not None:
        return finished
    windows = make_windows(
        model.tokenizer,
        files.documents(),
        window=options.window,
        slots=options.batch * options.window,
        steps=options.steps,
        heldout=options.heldout,
        seed=options.seed,
    )
    with store.checkpoints() as checkpoints:
        reached = Trainer(model.transformer, windows, options).run(checkpoints, progress)
    clt = export(reached.state, reached.scales, _clt_config(model, options))
    if options.refit:
        clt = refit(model.transformer, clt, windows, options.refit)
    quality = measure(model.transformer, clt, windows)
    report = TrainReport(quality, options.steps, reached.tokens, reached.seconds, store.run)
    store.publish(clt, report)
    return report


def _identify(model: LanguageModel, corpus: FileCorpus, options: TrainOptions) -> dict[str, Any]:
    return {
        "options": asdict(options),
        "model": hash_files(model.files()),
        "corpus": corpus.fingerprint(),
    }


def _clt_config(model: LanguageModel, options: TrainOptions) -> TranscoderConfig:
    sizes = model.config.num_layers, model.config.d_model, options.features
    form = options.form
    return TranscoderConfig(
        *sizes,
        activation=form.activation,
        cross_layer=form.cross_layer,
        has_skip=form.skip,
        model_name=model.name,
        k=form.k,
    )


__all__ = ["TrainOptions", "TrainReport", "train_clt"]
