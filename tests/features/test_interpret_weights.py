"""Later stages find a run's weights from anywhere, and take no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from refusals import refuses

from pie_jax.features.weights import load_tokenizer_of, load_weights
from pie_jax.files import hub
from pie_jax.models.loader import load_model
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.results.tables import TABLES, PruneResult
from pie_jax.prune.setup import Run, run_config, run_record
from pie_jax.transcoders.loader import load_transcoder


@pytest.fixture
def result(copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> PruneResult:
    """A run that was made beside its weights, by relative paths."""
    monkeypatch.chdir(copied("reference/llama"))
    model, clt = load_model("model"), load_transcoder("clt", encoders_on_disk=True)
    run = Run(model, clt, PruneOptions(), [], [])
    config = run_config(run, [], stored=True)
    record = json.loads(json.dumps({"config": config, **run_record(run, 1)}))
    return PruneResult(**dict.fromkeys(TABLES, pa.table({})), record=record)


@pytest.fixture
def elsewhere(result: PruneResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the weights, after another one became the current one."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    return tmp_path / "llama"


def test_relative_paths_are_found_from_elsewhere(result: PruneResult, elsewhere: Path) -> None:
    model, clt = load_weights(result)
    assert (model.folder, clt.folder) == (elsewhere / "model", elsewhere / "clt")
    # Examples that were collected beside the weights belong to the same run.
    assert (model.name, clt.name) == ("model", "clt")
    assert load_tokenizer_of(result).source == str(elsewhere / "model")


def test_weights_that_have_moved_are_named(result: PruneResult, elsewhere: Path) -> None:
    moved = elsewhere.rename(elsewhere.with_name("moved"))
    refuses(lambda: load_weights(result), elsewhere / "model", "--model")
    refuses(lambda: load_tokenizer_of(result), elsewhere / "model", "--model")
    model = str(moved / "model")
    refuses(lambda: load_weights(result, model), elsewhere / "clt", "--transcoder")
    assert load_weights(result, model, str(moved / "clt"))[0].folder == moved / "model"
    assert load_tokenizer_of(result, model).source == model


def test_what_left_the_hubs_cache_is_asked_for_again(
    result: PruneResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result.record["config"]["model"] = "owner/name"
    result.record["folders"]["model"] = str(tmp_path / "models--owner--name" / "0123")
    fetched = []

    def fetch(repo: str, *_: object) -> Path:
        fetched.append(repo)
        return tmp_path / "llama" / "model"

    monkeypatch.setattr(hub, "_fetch", fetch)
    assert load_weights(result)[0].name == "owner/name"
    assert fetched == ["owner/name"]


def test_the_demo_goes_by_its_name(result: PruneResult) -> None:
    result.record["config"] |= {"model": "demo", "transcoder": "demo"}
    del result.record["folders"]
    refuses(lambda: load_weights(result), "SHA-256", "run.json")


@pytest.mark.parametrize(
    ("changed", "option"),
    [("model/model.safetensors", "--model"), ("clt/W_dec_1.safetensors", "--transcoder")],
)
def test_changed_weights_are_refused(
    changed: str, option: str, result: PruneResult, elsewhere: Path
) -> None:
    path = elsewhere / changed
    data = bytearray(path.read_bytes())
    data[-4:] = b"\0\0\0\0"
    path.write_bytes(data)
    refuses(lambda: load_weights(result), path, "SHA-256", "run.json", option)


def test_weights_that_are_given_are_checked_too(result: PruneResult, golden: Path) -> None:
    other = load_model(golden / "reference" / "gemma2" / "model")
    refuses(lambda: load_weights(result, other), other.folder, "SHA-256", "--model")


def test_another_tokenizer_is_refused(result: PruneResult, elsewhere: Path) -> None:
    path = elsewhere / "model" / "tokenizer.json"
    path.write_text(path.read_text().replace("▁w36", "▁w99"))
    refuses(lambda: load_tokenizer_of(result), path, "SHA-256", "--model")
