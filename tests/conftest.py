"""Fixtures of the whole suite; while it runs, the shapes in signatures are checked."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jaxtyping import install_import_hook

# The packages whose signatures carry shapes; before they are first imported.
install_import_hook(
    [
        "pie_jax.models",
        "pie_jax.transcoders",
        "pie_jax.prune",
        "pie_jax.kernels",
        "pie_jax.devices",
        "pie_jax.intervene",
    ],
    "beartype.beartype",
)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from pie_jax.models.config import ModelConfig  # noqa: E402
from pie_jax.models.loader import LanguageModel, load_model, read_config  # noqa: E402
from pie_jax.prune.engine.removals import plan  # noqa: E402
from pie_jax.transcoders.loader import load_transcoder  # noqa: E402
from pie_jax.transcoders.store import Transcoder  # noqa: E402

# Tiny programs run once or twice: not optimised, they compile in an eighth of the time. Of the
# package's own programs, too, as it leaves alone what XLA_FLAGS sets; so do child processes.
_QUICK = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):  # later ones have no such flag
    _QUICK += [
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
os.environ["XLA_FLAGS"] = " ".join([*_QUICK, os.environ.get("XLA_FLAGS", "")]).strip()

# Several devices, so that code which shards is tested on any machine.
jax.config.update("jax_num_cpu_devices", 8)

# The first example compiles; time says nothing.
settings.register_profile("pie_jax", deadline=None)
settings.load_profile("pie_jax")

GOLDEN = Path(__file__).parent / "golden"

# `benchmarks` stands beside `tests`, and is never installed.
sys.path.append(str(Path(__file__).parents[1]))


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled programs beside pytest's own cache: a second run takes a quarter of the time.

    JAX_COMPILATION_CACHE_DIR wins; `pytest --cache-clear` empties it.
    """
    if jax.config.jax_compilation_cache_dir is None and hasattr(config, "cache"):
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_file() -> Iterator[None]:
    """Drop compiled programs after each file: thousands of them exhaust a process's mappings."""
    yield
    jax.clear_caches()


# Where removals themselves are tested, or published results.
_EVERY_WIDTH = ("test_prune_cones", "test_prune_golden", "test_prune_passes", "test_prune_lowering")


@pytest.fixture(autouse=True)
def few_widths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chunks of removals have two widths instead of four: each is a program to compile."""
    if request.module.__name__ not in _EVERY_WIDTH:
        monkeypatch.setattr(plan, "widths", lambda window: sorted({-(-window // 2), window}))


@dataclass(frozen=True, eq=False)
class Reference:
    """A tiny checkpoint and what the published PyTorch code computes with it.

    `arrays` is golden.npz, `json` golden.json, `prompts` prompts.jsonl's rows;
    tests/golden/reference/README.md explains the keys.
    """

    family: str
    folder: Path
    model: LanguageModel
    transcoder: Transcoder
    arrays: dict[str, np.ndarray]
    json: dict
    prompts: list[dict[str, str]]

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]


@cache
def _reference(family: str) -> Reference:
    folder = GOLDEN / "reference" / family
    with np.load(folder / "golden.npz") as file:
        arrays = dict(file)
    lines = (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return Reference(
        family,
        folder,
        load_model(folder / "model"),
        load_transcoder(folder / "clt"),
        arrays,
        json.loads((folder / "golden.json").read_text(encoding="utf-8")),
        [json.loads(line) for line in lines],
    )


@pytest.fixture(scope="session")
def reference() -> Callable[[str], Reference]:
    """Return the loader of a family's reference, `llama` or `gemma2`; loaded once."""
    return _reference


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of golden data."""
    return GOLDEN


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies a folder of golden data, for tests that damage it."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(GOLDEN / name, tmp_path / Path(name).name))

    return copy


@pytest.fixture
def config_json(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


@pytest.fixture
def read_raw(config_json: Path) -> Callable[[Any], ModelConfig]:
    """Return what reads a config.json with any content."""

    def read(raw: Any) -> ModelConfig:
        config_json.write_text(json.dumps(raw))
        return read_config(config_json)

    return read
