"""config.json: published files, both spellings, round trips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from config_files import GEMMA_2_2B, LLAMA_3_2_1B, NO_ROPE, PUBLISHED, ROPE, Read
from refusals import refuses

from pie_jax.errors import InputError
from pie_jax.models.config import PRESETS, Llama3Rope, rope_frequencies
from pie_jax.models.families import FAMILIES
from pie_jax.models.loader import read_config


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_files_are_the_presets(preset: str, read_raw: Read):
    assert read_raw(PUBLISHED[preset]) == PRESETS[preset]


def test_new_spelling_is_the_same_config(read_raw: Read):
    new = {**NO_ROPE, "rope_parameters": {**ROPE, "rope_theta": 500000.0}}
    assert read_raw(new) == PRESETS["llama-3.2-1b"]
    kinds = ["sliding_attention", "full_attention"] * 13
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    new = {**GEMMA_2_2B, "rope_theta": None, "rope_parameters": rope, "layer_types": kinds}
    assert read_raw(new) == PRESETS["gemma-2-2b"]


def test_spellings_that_agree_may_stand_beside_each_other(read_raw: Read):
    both = {**LLAMA_3_2_1B, "rope_parameters": {**ROPE, "rope_theta": 500000.0}}
    assert read_raw(both) == PRESETS["llama-3.2-1b"]
    assert read_raw({**both, "rope_theta": None, "rope_scaling": {}}) == PRESETS["llama-3.2-1b"]


def test_without_a_base_rope_has_the_default(read_raw: Read):
    without = {key: value for key, value in LLAMA_3_2_1B.items() if key != "rope_theta"}
    assert read_raw(without) == replace(PRESETS["llama-3.2-1b"], rope_theta=10000.0)
    assert read_raw({**without, "rope_theta": None}).rope_theta == 10000.0


def test_attributes_that_change_nothing_are_let_through(read_raw: Read):
    idle = {
        "_attn_implementation_autoset": True,
        "_model_name_or_path": "x",
        "max_length": 20,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
        "quantization_config": None,
        "rope_interleaved": False,
        "sep_token_id": None,
        "some_new_flag": None,
        "temperature": 0.7,
        "tokenizer_class": "LlamaTokenizer",
        "transformers.js_config": {"dtype": "q4"},
        "unk_token_id": 0,
        "unsloth_version": "2025.3",
    }
    assert read_raw({**LLAMA_3_2_1B, **idle}) == PRESETS["llama-3.2-1b"]
    assert read_raw({**GEMMA_2_2B, **idle}) == PRESETS["gemma-2-2b"]


def test_older_spelling_of_the_rope_type(read_raw: Read):
    scaling = {("type" if key == "rope_type" else key): value for key, value in ROPE.items()}
    assert read_raw({**LLAMA_3_2_1B, "rope_scaling": scaling}) == PRESETS["llama-3.2-1b"]


@pytest.mark.parametrize("preset", PRESETS)
def test_unparse_and_parse(preset: str, read_raw: Read):
    config = PRESETS[preset]
    assert read_raw(FAMILIES[config.family].unparse(config)) == config


def test_unparse_and_parse_of_what_presets_lack(read_raw: Read):
    llama = replace(PRESETS["llama-3.2-1b"], rope_scaling=None, tie_embeddings=False)
    gemma = replace(
        PRESETS["gemma-2-2b"],
        query_scale=144**-0.5,
        attention_softcap=None,
        sliding_layers=(True,) * 26,
        rope_scaling=Llama3Rope(2.0, 1.0, 4.0, 8192),
    )
    qwen = replace(
        PRESETS["qwen3-4b"], sliding_window=512, sliding_layers=(False,) * 9 + (True,) * 27
    )
    for config in (llama, gemma, qwen):
        assert read_raw(FAMILIES[config.family].unparse(config)) == config


def test_rope_frequencies():
    """Short waves stay, long ones are divided by the factor, in between runs smoothly."""
    config = PRESETS["llama-3.2-1b"]
    plain = rope_frequencies(replace(config, rope_scaling=None))
    scaled = rope_frequencies(config)
    np.testing.assert_allclose(plain, 500000.0 ** -(np.arange(0, 64, 2) / 64), rtol=1e-6)
    waves = 2 * np.pi / plain
    ratio = plain / scaled
    np.testing.assert_allclose(ratio[waves < 8192 / 4], 1)
    np.testing.assert_allclose(ratio[waves > 8192], 32, rtol=1e-6)
    between = (waves > 8192 / 4) & (waves < 8192)
    assert between.any()
    assert np.all((ratio[between] > 1) & (ratio[between] < 32))
    assert np.all(np.diff(ratio) >= -1e-6)


@pytest.mark.parametrize("raw", PUBLISHED.values(), ids=PUBLISHED)
def test_every_attribute_may_hold_nonsense(raw: dict, read_raw: Read):
    """Whatever is put in place of a value, the file is read or refused."""
    for key in raw:
        for value in (None, "x", -1, 0.5, [], {}, [[]], {"rope_type": {}}, True, 10**400):
            try:
                read_raw({**raw, key: value})
            except InputError:
                continue


def test_files_that_are_no_config(tmp_path: Path):
    path = tmp_path / "config.json"
    refuses(lambda: read_config(path), path, "cannot be read")
    for text in (b"", b"{", b"\xff\xfe\xff", b"[" * 100_000):
        path.write_bytes(text)
        refuses(lambda: read_config(path), path, "not valid JSON")
    path.write_text("[]")
    refuses(lambda: read_config(path), path, "one JSON object")
