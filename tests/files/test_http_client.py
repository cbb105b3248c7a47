"""What of the environment keeps an HTTP client from being made is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from refusals import refuses

from pie_jax.features.store.reader import read_store
from pie_jax.files.http import environment_fault, make_client
from pie_jax.llm import LLMConfig
from pie_jax.llm.sending.transport import Transport

NAMES = ("all_proxy", "http_proxy", "https_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")
FAULTS = [
    ("ALL_PROXY", "socks5://user:secret@127.0.0.1:1080", "SOCKS"),
    ("https_proxy", "socks5h://127.0.0.1:1080", "SOCKS"),
    ("HTTPS_PROXY", "ftp://127.0.0.1", "proxy"),
    ("NO_PROXY", "localhost,fd00::/8", "IPv6"),
    ("SSL_CERT_FILE", "/nowhere.pem", "/nowhere.pem"),
]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower() in NAMES:
            monkeypatch.delenv(name)


@pytest.mark.parametrize(("name", "value", "what"), FAULTS)
def test_the_variable_is_named(
    name: str, value: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    message = refuses(make_client, name, what)
    assert "secret" not in message
    config = LLMConfig("http://llm.example/v1", "m", api_key_env="")
    refuses(lambda: Transport(config), name)
    refuses(lambda: read_store("http://store.example", []), name)


def test_a_file_that_holds_no_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "empty.pem"
    path.write_text("nothing")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    refuses(make_client, "SSL_CERT_FILE", path)


def test_a_connection_that_fails_later_is_no_fault_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    assert environment_fault(ConnectionRefusedError(111, "Connection refused")) is None
