"""Folders, `demo` and hub ids, against a hub on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from layouts import gemma_scope, gemma_scope_2, sparsify
from refusals import refuses

import pie_jax
from pie_jax.errors import PieError
from pie_jax.files.hub import fetch_file, hash_files, resolve_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "notes.md": b"no"}


def resolve(name: str | Path) -> Path:
    return resolve_folder(name, demo="model", patterns=["*.json", "*.safetensors"], what="model")


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of the hub for one repository, or one answer to everything."""

    files: ClassVar[dict[str, bytes]] = FILES
    status: ClassVar[int] = 200
    error_code: ClassVar[str] = ""
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.asked.append(self.path)
        name = unquote(self.path.split("?")[0]).partition("/resolve/")[2].partition("/")[2]
        if self.status != 200:
            self.send(self.status, b'{"error": "no"}', {"X-Error-Code": self.error_code}, body)
        elif "/resolve/" in self.path and name not in self.files:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        elif "/resolve/" in self.path:
            content = self.files[name]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.send(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT}, body)
        else:
            siblings = [{"rfilename": file} for file in self.files]
            info = {"id": "owner/name", "sha": COMMIT, "siblings": siblings, "tags": []}
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                for file, content in self.files.items()
            ]
            answer = tree if "/tree/" in self.path else info
            self.send(200, json.dumps(answer).encode(), {}, body)

    def send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def point_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], None]:
    """Return what sends huggingface_hub to a port of this machine, with an empty cache."""
    from huggingface_hub import constants, file_download

    def point(port: int) -> None:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        endpoint = f"http://127.0.0.1:{port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        # Older versions of huggingface_hub keep a second copy.
        for module in (constants, file_download):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    return point


@pytest.fixture
def hub(point_at: Callable[[int], None]) -> Iterator[type[Hub]]:
    class Answers(Hub):
        asked: ClassVar[list[str]] = []
        files: ClassVar[dict[str, bytes]] = dict(FILES)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    point_at(server.server_port)
    yield Answers
    server.shutdown()
    thread.join()
    server.server_close()


def test_folders_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path
    # A folder wins over a hub id of the same name.
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/name") == Path("owner/name")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/owner") == tmp_path / "owner"


def test_demo_is_in_the_package():
    assert resolve("demo") == Path(pie_jax.__file__).parent / "demo" / "model"


@pytest.mark.parametrize("name", ["nothing", "./a/b", "/a/b", "a/b/c", "", "https://x/y/z"])
def test_neither_a_folder_nor_a_hub_id(name: str):
    refuses(lambda: resolve(name), f"model `{name}`")


@pytest.mark.parametrize("name", ["../a", "-a/b", "a--b/c", "a/b.git", "a/" + "b" * 97])
def test_ids_that_no_repository_can_have(name: str):
    refuses(lambda: resolve(name), f"model `{name}`", "neither a folder here nor")


def test_hub_cannot_be_reached(point_at: Callable[[int], None]):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    point_at(port)
    refuses(lambda: resolve("owner/name"), "model `owner/name`", "cannot be reached", kind=PieError)


@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_repository_is_fetched_by_pattern(hub: type[Hub], revision: str | None):
    folder = resolve("owner/name" if revision is None else f"owner/name@{revision}")
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {name: FILES[name] for name in ("config.json", "model.safetensors")}
    assert any(f"/revision/{revision or 'main'}" in path for path in hub.asked)


def subfolder(name: str, patterns: list[str]) -> Path:
    return resolve_folder(name, demo="clt", patterns=patterns, what="transcoder", subfolders=True)


def test_of_a_subfolder_only_what_is_asked_for_is_fetched(hub: type[Hub]):
    hub.files |= {
        "sets/a/config.yaml": b"a",
        "sets/a/layer_0.safetensors": b"0",
        "sets/b/config.yaml": b"b",
        "config.yaml": b"root",
    }
    folder = subfolder("owner/name/sets/a@v1", ["config.yaml", "layer_*"])
    assert any("/revision/v1" in path for path in hub.asked)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert found == {"config.yaml", "layer_0.safetensors"}
    assert (folder / "config.yaml").read_bytes() == b"a"
    assert not (folder.parents[1] / "config.yaml").exists()
    refuses(lambda: subfolder("owner/name/sets/c", ["config.yaml"]), "`sets/c`", "owner/name")
    # Of a model's id nothing may follow.
    refuses(lambda: resolve("owner/name/sets/a"), "model `owner/name/sets/a`")


def test_a_pattern_of_folders_is_fetched_and_taken(hub: type[Hub], tmp_path: Path):
    hub.files |= {f"all/layer_{layer}_{kind}/p": b"x" for layer in range(2) for kind in ("a", "b")}
    folder = subfolder("owner/name/all/layer_*_b", ["p"])
    names = sorted(path.name for path in folder.parent.glob("*"))
    assert names == ["layer_0_b", "layer_1_b"]
    (tmp_path / "layer_0_a").mkdir()
    assert subfolder(f"{tmp_path}/layer_*_a", []) == tmp_path / "layer_*_a"
    refuses(lambda: subfolder(f"{tmp_path}/layer_*_c", []), "layer_*_c")


def test_a_single_file_of_the_hub(hub: type[Hub]):
    hub.files["layer_0/params.npz"] = b"numbers"
    path = fetch_file("hf://owner/name/layer_0/params.npz?revision=v1", "config.yaml: lists")
    assert path.read_bytes() == b"numbers"
    assert any("/resolve/v1/" in asked for asked in hub.asked)
    refuses(lambda: fetch_file("hf://owner/name/no.npz", "config.yaml: lists"), "hf://", "no.npz")
    refuses(lambda: fetch_file("hf://owner", "config.yaml: lists"), "config.yaml: lists hf://owner")


def served(folder: Path, where: str) -> dict[str, bytes]:
    """Return a folder's files as a repository holds them below `where`."""
    return {
        f"{where}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def fetched(hub: type[Hub]) -> set[str]:
    """Return the files whose content was asked for."""
    files = (path.partition("/resolve/")[2].partition("/")[2] for path in hub.asked)
    return {unquote(name) for name in files if name}


def test_a_set_whose_files_lie_elsewhere_on_the_hub(hub: type[Hub], tmp_path: Path):
    local = gemma_scope(tmp_path / "set")
    config = yaml.safe_load((local / "config.yaml").read_text())
    names = config["transcoders"]
    config["transcoders"] = [f"hf://google/scope/{name}?revision=v2" for name in names]
    hub.files |= {name: (local / name).read_bytes() for name in names}
    hub.files |= {
        "sets/lowest/config.yaml": yaml.safe_dump(config).encode(),
        "sets/lowest/layer_0.safetensors": b"not needed",
        "sets/other/config.yaml": b"not needed",
    }
    ours = pie_jax.load_transcoder("owner/name/sets/lowest@v1", encoders_on_disk=True)
    assert ours.name == "owner/name/sets/lowest@v1"
    assert fetched(hub) == {"sets/lowest/config.yaml", *names}
    assert any("/resolve/v2/" in path for path in hub.asked)
    here = pie_jax.load_transcoder(local)
    for layer in range(here.config.num_layers):
        np.testing.assert_array_equal(ours.decoder_maps[layer], here.decoder_maps[layer])
    # Files of one name, each under its own.
    assert len(hash_files(ours.files)) == len(ours.files)


def test_one_of_googles_sets_is_fetched_alone(hub: type[Hub], tmp_path: Path):
    local = gemma_scope_2(tmp_path / "all", "width_16k_l0_small", skip=True)
    gemma_scope_2(local, "width_16k_l0_big", skip=False)
    hub.files |= served(local, "transcoder_all")
    ours = pie_jax.load_transcoder("owner/name/transcoder_all/layer_*_width_16k_l0_small")
    assert ours.config.has_skip
    assert all("_l0_small/" in name for name in fetched(hub))


@pytest.mark.parametrize("subset", ["", "/sets/a"])
def test_sparsify_on_the_hub(hub: type[Hub], tmp_path: Path, subset: str):
    hub.files.clear()
    hub.files |= served(sparsify(tmp_path / "set"), "sets/a") if subset else {}
    if not subset:
        whole = served(sparsify(tmp_path / "set"), "x")
        hub.files |= {name.removeprefix("x/"): content for name, content in whole.items()}
    hub.files["optimizer.safetensors"] = b"not needed"
    ours = pie_jax.load_transcoder(f"owner/name{subset}")
    assert ours.config.k == 2
    assert "optimizer.safetensors" not in fetched(hub)


def test_the_cache_serves_without_the_hub(hub: type[Hub], point_at: Callable[[int], None]):
    folder = resolve("owner/name")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    point_at(port)
    assert resolve("owner/name") == folder


def test_offline_mode_is_named_with_what_is_cached(hub: type[Hub], monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    folder = resolve("owner/name")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve("owner/name") == folder
    refuses(lambda: resolve("other/name"), "`other/name`", "HF_HUB_OFFLINE", ": owner/name.")
    refuses(lambda: resolve("owner/name@v2"), "HF_HUB_OFFLINE", "owner/name@main", COMMIT)


@pytest.mark.parametrize(
    ("status", "code", "named"),
    [
        (404, "RepoNotFound", "neither a folder here nor a repository"),
        (404, "RevisionNotFound", "neither a folder here nor a repository"),
        (401, "RepoNotFound", "neither a folder here nor a repository"),
        (403, "GatedRepo", "gated"),
    ],
)
def test_refusals_of_the_hub(hub: type[Hub], status: int, code: str, named: str):
    hub.status, hub.error_code = status, code
    refuses(lambda: resolve("owner/name"), "model `owner/name`", named)


def test_failure_of_the_hub(hub: type[Hub]):
    hub.status = 400
    refuses(lambda: resolve("owner/name"), "model `owner/name`", kind=PieError)


def test_files_of_one_name_are_hashed_under_their_folders(tmp_path: Path):
    paths = [tmp_path / folder / "p" for folder in ("b", "a")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(path.parent.name)
    digests = {f"{name}/p": hashlib.sha256(name.encode()).hexdigest() for name in "ab"}
    assert hash_files(paths) == digests


def test_hash_files(tmp_path: Path):
    paths = [tmp_path / name for name in ("b", "a")]
    for path in paths:
        path.write_text(path.name)
    hashes = hash_files(paths)
    assert list(hashes) == ["a", "b"]
    assert hashes["a"] == hashlib.sha256(b"a").hexdigest()
    # A link into the hub's cache carries its hash in its name: nothing is read.
    name = hashlib.sha256(b"large").hexdigest()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / name).write_text("not what the name says")
    (tmp_path / "link").symlink_to(tmp_path / "blobs" / name)
    assert hash_files([tmp_path / "link"]) == {"link": name}
    # Small files are stored under a git hash, which says something else.
    (tmp_path / "blobs" / ("a" * 40)).write_text("small")
    (tmp_path / "small").symlink_to(tmp_path / "blobs" / ("a" * 40))
    assert hash_files([tmp_path / "small"]) == {"small": hashlib.sha256(b"small").hexdigest()}
