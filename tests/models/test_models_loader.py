"""Checkpoints to models and back; every kind of broken folder is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from refusals import refuses
from safetensors.numpy import load_file, save_file

from pie_jax.devices.mesh import make_mesh
from pie_jax.devices.placement import leaf_name
from pie_jax.models import orbax_folder
from pie_jax.models.abstract import abstract_transformer
from pie_jax.models.families import FAMILIES
from pie_jax.models.loader import load_model, load_transformer, read_config, save_model
from pie_jax.models.tokenizer import FirstToken, load_tokenizer
from pie_jax.models.transformer import Transformer

TIED = "models/llama-mha-tied"
SHARDED = "models/llama-gqa-untied-llama3"
CASES = [
    *(TIED, SHARDED, "models/gemma2-gqa-tied", "models/gemma2-mha-untied"),
    *("models/qwen3-gqa-tied", "models/qwen3-untied-late-window", "models/gemma3-gqa-tied"),
    *("models/qwen2-gqa-tied", "models/mistral-gqa-untied-window"),
    *("models/gpt2-tied", "models/gpt2-untied-inner"),
]
MULTIMODAL = "models/gemma3-mqa-multimodal"
QUERY = "model.layers.1.self_attn.q_proj.weight"
FLOAT32 = jnp.dtype("float32")


def load(folder: Path, dtype: str = "float32") -> Transformer:
    return load_transformer(folder, read_config(folder / "config.json"), jnp.dtype(dtype))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change a safetensors file's tensors in place."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def edit_json(path: Path, **changes: object) -> None:
    """Change a JSON file's values in place."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def tied(copied: Callable[[str], Path]) -> Path:
    return copied(TIED)


@pytest.fixture
def sharded(copied: Callable[[str], Path]) -> Path:
    return copied(SHARDED)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_key_map_names_every_leaf_once(family: str, golden: Path):
    """The map holds the model's leaves, and `unembedding` besides where they are tied."""
    names: set[str] = set()
    for case in CASES:
        config = read_config(golden / case / "config.json")
        if config.family == family:
            for tied in (True, False):
                model = abstract_transformer(replace(config, tie_embeddings=tied))
                names |= {leaf_name(path) for path, _ in nnx.to_flat_state(nnx.state(model))}
    entries = FAMILIES[family].tensors
    assert names == set(entries)
    assert len({(entry.name, entry.part) for entry in entries.values()}) == len(entries)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_save_and_load(case: str, dtype: str, golden: Path, tmp_path: Path):
    model = load(golden / case, dtype)
    save_model(model, tmp_path / "saved", dtype)
    again = load(tmp_path / "saved", dtype)
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again, model)
    assert jax.tree.structure(again) == jax.tree.structure(model)
    # The file holds the names, shapes and values of the one that it came from.
    stored, back = {}, load_file(tmp_path / "saved" / "model.safetensors")
    for path in (golden / case).glob("*.safetensors"):
        stored.update(load_file(path))
    if model.config.tie_embeddings:
        stored.pop("lm_head.weight", None)  # the embedding a second time
    assert stored.keys() == back.keys()
    for name, value in stored.items():
        np.testing.assert_array_equal(back[name], value.astype(dtype).astype(back[name].dtype))


@pytest.mark.parametrize("case", ["models/gemma3-gqa-tied", "models/qwen2-gqa-tied"])
def test_meshes_and_conversion(case: str, golden: Path, tmp_path: Path):
    """Every leaf on several devices, and as an orbax folder, is what the file holds."""
    expected, mesh = load(golden / case), make_mesh("data=4,model=2")
    spread = load_transformer(golden / case, expected.config, FLOAT32, mesh)
    jax.tree.map(np.testing.assert_array_equal, spread, expected)
    orbax_folder.save(spread, golden / case, tmp_path / "converted")
    again = orbax_folder.load(tmp_path / "converted", expected.config, FLOAT32, mesh)
    jax.tree.map(np.testing.assert_array_equal, again, expected)


def test_leaves_keep_the_asked_dtype(golden: Path):
    for case in CASES:
        for dtype in ("float32", "bfloat16"):
            leaves = jax.tree.leaves(load(golden / case, dtype))
            assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}


def test_unknown_dtype(reference: Callable):
    folder = reference("llama").folder / "model"
    refuses(lambda: load_model(folder, dtype="int8"), "`int8`", "float32 or bfloat16")


def test_missing_tensor(tied: Path):
    edit(tied / "model.safetensors", lambda tensors: tensors.pop(QUERY))
    refuses(lambda: load(tied), tied, f"`{QUERY}`")


def test_extra_tensor(tied: Path):
    name = "model.layers.1.self_attn.q_proj.bias"
    edit(tied / "model.safetensors", lambda t: t.update({name: np.zeros(32, np.float32)}))
    refuses(lambda: load(tied), tied, f"`{name}`")


def test_too_few_layers_in_the_config(tied: Path):
    edit_json(tied / "config.json", num_hidden_layers=1)
    refuses(lambda: load(tied), tied, "`model.layers.1.")


def test_wrong_shape(tied: Path):
    edit(tied / "model.safetensors", lambda t: t.update({QUERY: t[QUERY][:16].copy()}))
    refuses(lambda: load(tied), tied / "model.safetensors", f"`{QUERY}`", "[16, 32]", "[32, 32]")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_weights(tied: Path, bad: float):
    def spoil(tensors: dict) -> None:
        tensors[QUERY][3, 4] = bad

    edit(tied / "model.safetensors", spoil)
    refuses(lambda: load(tied), tied / "model.safetensors", f"`{QUERY}`", "NaN")


def test_int8_weights(tied: Path):
    edit(tied / "model.safetensors", lambda t: t.update({QUERY: t[QUERY].astype(np.int8)}))
    refuses(lambda: load(tied), tied / "model.safetensors", f"`{QUERY}`", "I8")


def test_truncated_file(tied: Path):
    path = tied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refuses(lambda: load(tied), path, "truncated")


def test_missing_weights(tied: Path):
    (tied / "model.safetensors").unlink()
    refuses(lambda: load(tied), tied / "model.safetensors", "missing")


def test_old_exports_of_rotary_frequencies_are_let_through(tied: Path):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(tied / "model.safetensors", lambda t: t.update({name: np.zeros(4, np.float32)}))
    load(tied)


def test_a_tied_model_may_store_its_embedding_twice(tied: Path):
    def add(tensors: dict) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()

    edit(tied / "model.safetensors", add)
    load(tied)

    def change(tensors: dict) -> None:
        tensors["lm_head.weight"][0, 0] += 1

    edit(tied / "model.safetensors", change)
    refuses(lambda: load(tied), tied, "`lm_head.weight`", "`tie_word_embeddings`")


def test_the_text_of_a_multimodal_model(copied: Callable[[str], Path], tmp_path: Path):
    """Under the hub's names and transformers' newer ones, or alone; images are not read."""
    folder = copied(MULTIMODAL)
    path = folder / "model.safetensors"
    expected = load(folder)
    tensors = load_file(path)
    assert any(name.startswith("vision_tower.") for name in tensors)
    newer = {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    }
    for old, new in newer.items():
        tensors = {name.replace(old, new, 1): value for name, value in tensors.items()}
    save_file(tensors, path)
    jax.tree.map(np.testing.assert_array_equal, load(folder), expected)
    save_model(expected, tmp_path / "alone")
    alone = load(tmp_path / "alone")
    assert alone.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, alone, expected)
    name = "model.language_model.norm.weight"
    edit(path, lambda t: t.update({"model.norm.weight": t[name].copy()}))
    refuses(lambda: load(folder), folder, "`model.norm.weight`", f"`{name}`", "twice")


def test_broken_tensors_of_a_multimodal_model(copied: Callable[[str], Path]):
    """Named as the file names them."""
    folder = copied(MULTIMODAL)
    name = "language_model.model.norm.weight"
    bad = np.full(32, np.nan, np.float32)
    edit(folder / "model.safetensors", lambda t: t.update({name: bad}))
    refuses(lambda: load(folder), f"`{name}`", "NaN")
    edit(folder / "model.safetensors", lambda t: t.update({name: bad[:8].copy()}))
    refuses(lambda: load(folder), f"`{name}`", "[8]")
    extra = "language_model.model.extra.weight"
    good = np.ones(32, np.float32)
    edit(folder / "model.safetensors", lambda t: t.update({name: good, extra: good}))
    refuses(lambda: load(folder), f"`{extra}`", "belong to nothing")


def test_untied_model_without_its_head(tied: Path):
    edit_json(tied / "config.json", tie_word_embeddings=False)
    refuses(lambda: load(tied), tied, "`lm_head.weight`")


def test_the_index_says_which_of_two_copies_counts(sharded: Path):
    expected = jax.tree.leaves(load(sharded))
    first, second = sorted(sharded.glob("*.safetensors"))
    name = next(iter(load_file(first)))
    stale = np.zeros_like(load_file(first)[name])
    edit(second, lambda tensors: tensors.update({name: stale}))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(load(sharded)), expected)


def test_a_tensor_that_the_index_promises(sharded: Path):
    first = min(sharded.glob("*.safetensors"))
    name = next(iter(load_file(first)))
    edit(first, lambda tensors: tensors.pop(name))
    refuses(lambda: load(sharded), first, f"`{name}`", "index")


def test_shards_without_their_index(sharded: Path):
    (sharded / "model.safetensors.index.json").unlink()
    refuses(lambda: load(sharded), sharded, "-of-", "model.safetensors.index.json")


def test_weights_of_another_kind(tied: Path):
    (tied / "model.safetensors").rename(tied / "pytorch_model.bin")
    refuses(lambda: load(tied), tied, "pytorch_model.bin", "safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_in_place_of_a_file(name: str, copied: Callable[[str], Path]):
    folder = copied("reference/llama/model")
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / name).write_text(text)
    refuses(lambda: load_model(folder), folder / name, "Git LFS")


def test_missing_shard(sharded: Path):
    path = max(sharded.glob("*.safetensors"))
    path.unlink()
    refuses(lambda: load(sharded), path, "cannot be read")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "[" * 100_000]
)
def test_broken_index(sharded: Path, text: str):
    path = sharded / "model.safetensors.index.json"
    path.write_text(text)
    refuses(lambda: load(sharded), path)


def test_empty_index(sharded: Path):
    (sharded / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    refuses(lambda: load(sharded), sharded, "is missing")


class TestFolders:
    """load_model: what must be in a folder besides the weights."""

    @pytest.fixture
    def folder(self, copied: Callable[[str], Path]) -> Path:
        return copied("reference/llama/model")

    def test_good(self, folder: Path):
        model = load_model(folder)
        assert model.folder == folder
        assert model.name == str(folder)
        assert model.config.num_layers == 4

    def test_not_a_folder(self, tmp_path: Path):
        missing = tmp_path / "nothing"
        refuses(lambda: load_model(missing), f"`{missing}`", "not a folder")
        refuses(lambda: load_model("nothing"), "`nothing`", "owner/name")
        file = tmp_path / "file"
        file.touch()
        refuses(lambda: load_model(file), f"`{file}`", "not a folder")

    def test_no_config(self, folder: Path):
        (folder / "config.json").unlink()
        refuses(lambda: load_model(folder), folder / "config.json")

    def test_no_tokenizer(self, folder: Path):
        (folder / "tokenizer.json").unlink()
        refuses(lambda: load_model(folder), folder, "tokenizer.json")

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1.0"}'])
    def test_broken_tokenizer(self, folder: Path, text: str):
        (folder / "tokenizer.json").write_text(text)
        refuses(lambda: load_model(folder), folder, "tokenizer")

    def test_tokenizer_larger_than_the_vocabulary(self, folder: Path):
        size = len(load_tokenizer(folder)._inner)
        load_tokenizer(folder, size)
        refuses(lambda: load_tokenizer(folder, size - 1), folder, str(size), str(size - 1))

    def test_bos_is_put_in_front_once(self, folder: Path):
        """Whether the tokenizer's own template does it or not."""
        with_template = load_tokenizer(folder).encode("When Anna")
        edit_json(folder / "tokenizer.json", post_processor=None)
        without = load_tokenizer(folder)
        assert without._inner.encode("When Anna") == with_template[1:]
        assert without.encode("When Anna") == with_template
        assert with_template[0] == without._inner.bos_token_id

    def test_tokenizer_without_bos(self, folder: Path):
        """What circuit-tracer puts there: padding, else EOS, else another special token."""
        (folder / "special_tokens_map.json").unlink()
        edit_json(folder / "tokenizer.json", post_processor=None)
        changes: dict = {f"{kind}_token": None for kind in ("bos", "pad", "eos", "unk")}
        kinds = {"pad": "pad", "eos": "eos", "unk": "special"}
        spelled = {"pad": "<s>", "eos": "</s>", "unk": "<unk>"}
        for kind, token in spelled.items():
            only = {**changes, f"{kind}_token": token}
            edit_json(folder / "tokenizer_config.json", **only)
            tokenizer = load_tokenizer(folder)
            first, *rest = tokenizer.encode("When Anna")
            assert tokenizer.first_token() == FirstToken(first, token, kinds[kind])
            assert tokenizer.decode(rest).strip() == "When Anna"
            assert tokenizer.encode(f"{token}When Anna") == [first, *rest]
        edit_json(folder / "tokenizer_config.json", **changes)
        refuses(lambda: load_tokenizer(folder).encode("When Anna"), folder, "BOS")


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_tokenizer(family: str, reference: Callable):
    tokenizer = reference(family).model.tokenizer
    ids = tokenizer.encode("When Anna and Peter")
    assert len(ids) == 5
    assert ids[0] in tokenizer.special_ids()
    assert not tokenizer.special_ids().intersection(ids[1:])
    assert [tokenizer.token(i).strip() for i in ids[1:]] == ["When", "Anna", "and", "Peter"]
    assert tokenizer.answer_id(" Anna") == ids[2]
    assert tokenizer.answer_id(" Anna and") is None
