"""What the benchmarks do on a machine that is lent for minutes: nothing measured is lost."""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import kernels
from benchmarks.parts import random_weights as made
from benchmarks.parts.timing import Timing
from pie_jax.files.tensor_reader import TensorFile
from pie_jax.prune.setup import package_versions

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
# Stands for python: does nothing but what the case asks for.
PYTHON = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
  *.random_weights*) mkdir -p "$3/transcoder" && touch "$3/transcoder/config.yaml" ;;
  *benchmarks.kernels*) exit 3 ;;
esac
"""


def test_a_package_that_is_not_installed_has_no_version():
    """Used from its folder, this package has none."""
    found = package_versions(("numpy", "not-a-package"))
    assert found == {"numpy": np.__version__, "not-a-package": None}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_of_a_decoder_are_one_block_turned(dtype: str, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(made, "_BLOCK", 1200)
    shape, kind, path = (40, 3, 64), jnp.dtype(dtype), tmp_path / "W_dec_0.safetensors"
    made._write_decoder(path, "W_dec_0", shape, kind, np.random.default_rng(0))
    written = np.asarray(TensorFile(path).tensor("W_dec_0", shape)).reshape(-1)
    drawn = np.random.default_rng(0).standard_normal(1200, np.float32) * np.float32(0.1 / 8)
    turned = [np.roll(drawn.astype(kind), 977 * index) for index in range(7)]
    np.testing.assert_array_equal(written, np.concatenate(turned)[: written.size])


def once(function: Any, *arguments: Any) -> tuple[Timing, Any]:
    """Stands for the timing of a compiled function."""
    return Timing(1.0, 1.0, 1.0, 1.0, 1, 0.0), function(*arguments)


def test_every_product_is_compared_with_float64(monkeypatch: pytest.MonkeyPatch):
    sizes = kernels.SIZES["tiny"]
    decoder = jax.random.normal(jax.random.key(0), (sizes.features, sizes.width, sizes.d_model))
    measure = partial(kernels._one_attribution, sizes, once, 1.0, decoder, 296)
    rows = list(measure())
    assert [row["kernel"] for row in rows] == ["gathered", "tiled", "streamed"]
    assert all(row["relative_error"] < 1e-5 for row in rows)

    monkeypatch.setattr(kernels, "_tiled", lambda *arguments: jnp.full((8, 37), jnp.nan))
    gathered, tiled, streamed = measure()
    assert "error" not in gathered | streamed
    assert "off by nan" in tiled["error"]


@pytest.mark.parametrize("limit", ["570", "0"])
def test_a_stage_that_fails_keeps_none_from_starting(limit: str, tmp_path: Path):
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    calls, out = tmp_path / "calls", tmp_path / "out"
    env = {**os.environ, "PYTHON": str(python), "CALLS": str(calls), "LIMIT": limit}
    env["TMPDIR"] = str(tmp_path)
    done = subprocess.run(
        ["bash", str(SCRIPT), str(out), "quick"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    stages = [json.loads(line) for line in (out / "stages.jsonl").read_text().splitlines()]
    codes = {stage["stage"]: stage["exit"] for stage in stages}
    if limit == "0":
        assert set(codes.values()) == {None}
        assert "not started" in done.stdout
        return
    assert [name for name, code in codes.items() if code] == ["kernels"]
    assert list(codes)[-2:] == ["small", "latency"]
    assert "kernels: FAILED, exit code 3" in (out / "gpu.log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calls", "out", "python"]
