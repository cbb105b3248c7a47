"""Published feature stores of a test's own, and a server of them that can fail."""

from __future__ import annotations

import gzip
import json
import re
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from pie_jax.features.records import FeatureKey, Window
from pie_jax.features.texts import ShowsTokens


def packed(value: Any) -> bytes:
    """Return a record as a store holds it."""
    data = gzip.compress(json.dumps(value).encode(), mtime=0)
    return struct.pack("<I", len(data)) + data


def write_index(root: Path, index: Any) -> None:
    """Write a store's index."""
    (root / "features").mkdir(exist_ok=True, parents=True)
    data = gzip.compress(json.dumps(index).encode(), mtime=0)
    (root / "features" / "index.json.gz").write_bytes(data)


def write_store(root: Path, records: Mapping[tuple[int, int], bytes], features: int) -> Path:
    """Write packed records as a store of layers of so many features."""
    index = {}
    for layer in {layer for layer, _ in records}:
        parts = [records.get((layer, feature), b"") for feature in range(features)]
        offsets = np.cumsum([0, *map(len, parts)]).tolist()
        index[str(layer)] = {"filename": f"layer_{layer}.bin", "offsets": offsets}
        (root / "features").mkdir(exist_ok=True, parents=True)
        (root / "features" / f"layer_{layer}.bin").write_bytes(b"".join(parts))
    write_index(root, index)
    return root


def store_records(
    windows: Mapping[FeatureKey, Sequence[Window]], tokenizer: ShowsTokens
) -> dict[tuple[int, int], bytes]:
    """Return what a store would hold of features with these windows."""

    def example(window: Window) -> dict[str, Any]:
        tokens = [tokenizer.token(int(index)) for index in window.tokens[1:]]
        values = [9.0, *map(float, window.activations[1:])]
        return {"tokens": ["<bos>", *tokens], "tokens_acts_list": values}

    return {
        tuple(key): packed(
            {"examples_quantiles": [{"quantile_name": "all", "examples": list(map(example, some))}]}
        )
        for key, some in windows.items()
    }


@contextmanager
def serving(folder: Path) -> Iterator[StoreServer]:
    """Serve a folder."""
    with StoreServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class StoreServer(ThreadingHTTPServer):
    """Serves a folder with ranges; `faults` are the answers that a path gives first."""

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: dict[str, list[int]] = {}
        self.ranges = True
        self.log: Counter[str] = Counter()
        self.connections = 0
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StoreServer

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            server.log[f"{self.path} {self.headers.get('Range', '')}".strip()] += 1
            fault = server.faults.get(self.path, [])
            status = fault.pop(0) if fault else 0
        try:
            self._reply(status)
        finally:
            with server.lock:
                server.busy -= 1

    def _reply(self, status: int) -> None:
        if status == -1:  # a dropped connection
            self.close_connection = True
            return
        path = self.server.folder / self.path.lstrip("/")
        if status or not path.exists():
            self._send(status or 404, b"sorry", {"Retry-After": "0"} if status == 429 else {})
            return
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None or not self.server.ranges:
            self._send(200, data, {})
            return
        start, end = int(wanted[1]), int(wanted[2]) + 1
        span = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        self._send(206, data[start:end], span)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Be quiet."""
