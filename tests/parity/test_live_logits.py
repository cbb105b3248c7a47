"""Logits equal transformers' live: the models are made, saved, loaded and run in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `parity`: pip install 'pie-jax[parity]'")

import jax
import jax.numpy as jnp
from golden.hf_models import CASES, Case, build, observe, random_tokens, write
from transformers import AutoModelForCausalLM

from pie_jax.models.loader import load_transformer, read_config, save_model

pytestmark = pytest.mark.parity
# float32 on both sides; logits reach about ten.
TOLERANCE = 1e-4
FLOAT32 = jnp.dtype("float32")


# Other seeds than the stored ones.
@pytest.mark.parametrize("seed", [100, 101])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_and_streams(case: Case, seed: int, tmp_path: Path):
    theirs_model = build(case, seed)
    write(theirs_model, case, tmp_path)
    tokens = random_tokens(seed)
    theirs = observe(theirs_model, tokens)
    ours_model = load_transformer(tmp_path, read_config(tmp_path / "config.json"), FLOAT32)
    ours = jax.jit(jax.vmap(ours_model))(jnp.asarray(tokens))
    for name in ("resid_mid", "mlp_out", "logits"):
        gap = np.abs(np.asarray(getattr(ours, name)) - theirs[name]).max()
        assert gap <= TOLERANCE, name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stored_logits_are_what_transformers_returns(case: Case, golden: Path):
    """The golden files are not out of date: the script would write them again."""
    seed = CASES.index(case)
    seen = observe(build(case, seed), random_tokens(seed))
    with np.load(golden / "logits.npz") as stored:
        np.testing.assert_array_equal(stored[f"{case.name}/tokens"], random_tokens(seed))
        np.testing.assert_allclose(stored[f"{case.name}/logits"], seen["logits"], atol=1e-5)


# transformers 4 reads the old spelling only.
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_transformers_opens_what_save_model_writes(case: Case, golden: Path, tmp_path: Path):
    folder = golden / "models" / case.name
    ours_model = load_transformer(folder, read_config(folder / "config.json"), FLOAT32)
    save_model(ours_model, tmp_path)
    theirs_model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values())
    tokens = random_tokens(7)
    ours = jax.jit(jax.vmap(ours_model))(jnp.asarray(tokens)).logits
    assert np.abs(ours - observe(theirs_model.eval(), tokens)["logits"]).max() <= TOLERANCE


def test_cases_cover_both_spellings():
    assert {(case.family, case.new_spelling) for case in CASES} >= {
        (family, new) for family in ("llama", "gemma2", "qwen3") for new in (True, False)
    }
    gemmas = [case for case in CASES if case.family == "gemma2"]
    assert {case.layer_types for case in gemmas} == {True, False}
