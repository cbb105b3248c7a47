"""The weights and pairs that `benchmarks.prune` measures on: given or random ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.parts.random_weights import Shape, make_pairs, make_weights
from pie_jax.errors import InputError
from pie_jax.models.loader import load_model_tokenizer
from pie_jax.tasks import Pair, read_pairs


def require_weights(sizes: Shape, folder: Path) -> None:
    """Make both folders of weights in a folder that is new or empty; any other is not written to.

    Raises `InputError` where it has other things, or only one of them.
    """
    paths = [folder / name for name in ("model", "transcoder")]
    missing = [path for path in paths if not path.exists()]
    if len(missing) == 1:
        raise InputError(
            f"--weights {folder}: has no `{missing[0].name}`; put it there, or name a new folder, "
            "in which both are made."
        )
    if missing and folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"--weights {folder}: has no `model` and `transcoder`, but other files; name a folder "
            "that has both, or a new one, in which they are made."
        )
    if missing:
        make_weights(sizes, folder)


def given_pairs(path: Path | None, sizes: Shape, count: int) -> list[Pair]:
    """Return the first `count` pairs of a file, which must hold so many, or made ones."""
    if path is None:
        return make_pairs(sizes, count)
    found = read_pairs(path)
    if len(found) < count:
        raise InputError(
            f"--pairs {path}: holds {len(found)} pairs, but --prompts and --batch-size take "
            f"{count}; lower them."
        )
    return found[:count]


def require_words(folder: Path, pairs: Sequence[Pair]) -> None:
    """Raise `InputError` where made words are no words of the model's tokenizer."""
    tokenizer = load_model_tokenizer(folder / "model")
    ids = [tokenizer.answer_id(pair.target or "") for pair in pairs]
    if None in ids or tokenizer.special_ids().intersection(ids):
        raise InputError(
            f"--weights {folder}: the made pairs are no words of its tokenizer; give others with "
            "--pairs."
        )
