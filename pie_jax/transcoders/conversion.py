"""Models and transcoders to orbax checkpoints, whose shards restore straight to their devices."""

from __future__ import annotations

from pathlib import Path

import jax

from pie_jax.errors import InputError
from pie_jax.files.orbax_checkpoint import whole_folder
from pie_jax.models import orbax_folder
from pie_jax.models.loader import LanguageModel, parse_dtype
from pie_jax.transcoders.formats import orbax
from pie_jax.transcoders.loader import require_match
from pie_jax.transcoders.store import Transcoder


def convert(
    model: LanguageModel, transcoder: Transcoder, out: str | Path, *, dtype: str | None = None
) -> None:
    """Write `out`/model and `out`/transcoder, which `load_model` and `load_transcoder` open.

    The model keeps the dtype that it was loaded in; the transcoder is written as stored, or in
    `dtype`, one layer at a time. `out` appears only when it is complete. Raises `InputError`
    if `out` holds something, the two do not fit, or a weight is NaN.
    """
    require_match(transcoder, model.config, model.name)
    if jax.process_count() > 1:
        raise InputError("convert runs in one process; the result serves any number of them.")
    if model.folder is None:
        raise InputError("convert: the model is only in memory; load it from a folder first.")
    kind = None if dtype is None else parse_dtype(dtype)
    with whole_folder(Path(out).absolute()) as draft:
        orbax_folder.save(model.transformer, model.folder, draft / "model")
        orbax.save(transcoder, draft / "transcoder", kind)
