"""An HTTP client, and what of the environment keeps one from being made."""

from __future__ import annotations

import os
import ssl
from typing import Any

import httpx

from pie_jax.errors import InputError

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


def make_client(**settings: Any) -> httpx.AsyncClient:
    """Return an `httpx.AsyncClient`; raises `InputError` naming the variable that prevents it."""
    try:
        return httpx.AsyncClient(**settings)
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        raise InputError(environment_fault(error) or f"no HTTP client: {error}.") from error


def environment_fault(error: BaseException) -> str | None:
    """Return the sentence about the variable behind an error of making a client, if it is one.

    Values are not repeated: a proxy's may hold a password.
    """
    if isinstance(error, ImportError) and "SOCKS" in str(error).upper():
        name = _first(_PROXIES, "socks")
        return name and (
            f"{name} names a SOCKS proxy, which needs one more package; `pip install "
            "'httpx[socks]'`, or unset it."
        )
    if isinstance(error, httpx.InvalidURL):
        name = _first(("NO_PROXY", *_PROXIES))
        return name and (
            f"{name} holds an entry that httpx cannot read ({error}), such as an IPv6 range; "
            "remove the entry, or write single addresses."
        )
    # By type: what a connection fails with later is an OSError as well.
    if type(error) in (FileNotFoundError, PermissionError, IsADirectoryError, ssl.SSLError):
        assert isinstance(error, OSError)
        name = _first(_CERTIFICATES)
        what = error.strerror or type(error).__name__
        return name and (
            f"{name} is {os.environ[name]}, which cannot be read as certificates ({what}); correct "
            "or unset it."
        )
    name = _first(_PROXIES) if "proxy" in str(error).lower() else None
    return name and f"{name} names a proxy of an unknown kind; write http://HOST:PORT, or unset it."


def _first(names: tuple[str, ...], start: str = "") -> str | None:
    """Return the first variable of some names, in either case, whose value starts so."""
    every = [spelled for name in names for spelled in (name, name.lower())]
    found = (name for name in every if os.environ.get(name, "").lower().startswith(start))
    return next((name for name in found if os.environ.get(name)), None)
