"""A pass over a corpus in a process of its own, for tests that kill it."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
from prune_helpers import WORDS, tiny_model, tiny_transcoder

from pie_jax.features.examples.options import ExampleOptions
from pie_jax.features.examples.run import collect_examples
from pie_jax.features.records import FeatureExamples, FeatureKey

KEYS = [FeatureKey(*key) for key in ((2, 5), (0, 3), (1, 0), (0, 23))]
OPTIONS = ExampleOptions(window=12, top=5, per_decile=3, inactive=6, batch_size=8)


def write_corpus(path: Path, documents: int = 400) -> Path:
    """Write random documents of known words, a few of them alike."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, documents)
    texts = [" ".join(rng.choice(WORDS, size)) for size in lengths]
    texts[20::50] = [texts[1]] * len(texts[20::50])
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


def collect(folder: Path, corpus: Path, **settings: object) -> list[FeatureExamples]:
    """Collect with a tiny model whose first feature never fires."""
    model = tiny_model(folder / "model", layers=3)
    transcoder = tiny_transcoder(model, bias=0.0)
    weight, bias, _ = transcoder.encoder_arrays[2]
    weight[5], bias[5] = 0, -1
    settings = {"out": folder / "out", "save_every": 1, **settings}
    return collect_examples(model, transcoder, KEYS, [corpus], OPTIONS, **settings)  # type: ignore[arg-type]


if __name__ == "__main__":
    jax.config.update("jax_compilation_cache_dir", sys.argv[2])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    collect(Path(sys.argv[1]), Path(sys.argv[1]) / "corpus.txt")
