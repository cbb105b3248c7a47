"""Random texts of the corpus with every feature's activation on them: what is normal."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pie_jax.errors import InputError
from pie_jax.features.corpus.windows import window_batches
from pie_jax.features.records import FeatureKey
from pie_jax.features.texts import ShowsTokens, TokenText, split_text, token_strings
from pie_jax.files.atomic import replacing
from pie_jax.files.corpus.documents import Corpus
from pie_jax.models.tokenizer import Tokenizer as ModelTokenizer

# Each text's activation [n_texts, n]: its largest over real tokens, as pruning reads it.
Activations = Callable[[Sequence[str], Sequence[FeatureKey]], np.ndarray]

SAMPLE_FILE = "sample.jsonl"
_BATCH = 256


@dataclass(frozen=True)
class NaturalTexts:
    """Texts of the corpus and their activations [n_texts, n] for `keys`."""

    texts: tuple[TokenText, ...]
    activations: np.ndarray
    keys: tuple[FeatureKey, ...]

    def of(self, key: FeatureKey) -> np.ndarray:
        """Return one feature's activations [n_texts]."""
        return self.activations[:, self.keys.index(key)]


def read_natural(
    texts: Sequence[str],
    keys: Sequence[FeatureKey],
    tokenizer: ShowsTokens,
    activations: Activations,
) -> NaturalTexts:
    """Compute the activations of all features on different texts, once for all."""
    different = list(dict.fromkeys(text for text in texts if text))
    keys = tuple(dict.fromkeys(keys))
    values = (
        np.asarray(activations(different, keys))
        if different and keys
        else np.zeros((len(different), len(keys)))
    )
    return NaturalTexts(tuple(split_text(tokenizer, text) for text in different), values, keys)


def sample_windows(
    corpus: Corpus,
    tokenizer: ModelTokenizer,
    count: int,
    *,
    window: int = 32,
    seed: int = 0,
    most: int | None = None,
) -> list[str]:
    """Draw `count` windows of a corpus (of its first `most`), each as likely as any other; all if
    there are fewer."""
    random = np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    seen = 0
    for batch in window_batches(corpus, tokenizer, window=window, size=_BATCH, most=most):
        for tokens, length in zip(batch.tokens, batch.length.tolist(), strict=True):
            if length < 2:
                continue
            place = seen if seen < count else int(random.integers(seen + 1))
            seen += 1
            if place < count:
                kept[place : place + 1] = [tokens[1:length].copy()]
    return ["".join(token_strings(tokenizer, ids.tolist())) for ids in kept]


def save_sample(folder: str | Path, texts: Sequence[str]) -> None:
    """Write sample.jsonl: a text a line, whole or not at all."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    with replacing(Path(folder) / SAMPLE_FILE) as temporary:
        temporary.write_text(lines, encoding="utf-8")


def load_sample(folder: str | Path) -> list[str]:
    """Read sample.jsonl; raises `InputError` where there is none."""
    path = Path(folder) / SAMPLE_FILE
    try:
        return [
            json.loads(line)["text"] for line in path.read_text(encoding="utf-8").split("\n")[:-1]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no corpus texts; run `pie-jax examples` first.") from error
