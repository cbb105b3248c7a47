"""A feature store over HTTP: pooled ranges, retries, and what was read kept on disk."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from pie_jax.errors import InputError, PieError
from pie_jax.files.http import make_client

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
# A server that asks for more than this is not waited for.
_PATIENCE = 120.0


class Broken(Exception):
    """A part that cannot be had, while others may be."""


class HttpFiles:
    """Files below an address."""

    def __init__(
        self, address: str, cache: Path | None, concurrency: int, retries: int, timeout: float
    ):
        self._address, self._retries = address, retries
        self._slots = asyncio.Semaphore(concurrency)
        self._cache = None if cache is None else cache / _slug(address)
        self._client = make_client(
            timeout=timeout,
            follow_redirects=True,
            limits=httpx.Limits(max_connections=concurrency),
            # The records are gzip of their own; ranges of a re-encoded file mean nothing.
            headers={"Accept-Encoding": "identity"},
        )

    async def whole(self, name: str) -> bytes:
        """Return a whole file; its absence means that there is no store."""
        if (known := self._known(name)) is not None:
            return known
        try:
            response = await self._get(name, {})
        except Broken as error:
            raise PieError(
                f"{self._address}/{name}: {error}; check the connection and repeat the command."
            ) from error
        if response.status_code != httpx.codes.OK:
            raise InputError(
                f"{self._address}/{name}: the server answers {response.status_code}; there is no "
                "feature store at this address."
            )
        self._write(name, response.content)
        return response.content

    async def part(self, name: str, start: int, end: int) -> bytes:
        """Return bytes [start, end) of a file."""
        if (known := self._known(f"{name}-{start}-{end}")) is not None:
            return known
        response = await self._get(name, {"Range": f"bytes={start}-{end - 1}"})
        status = response.status_code
        if status != httpx.codes.PARTIAL_CONTENT:
            raise Broken(f"the server answers {status} to a range of {name}")
        sent = re.fullmatch(r"bytes (\d+)-(\d+)/.*", response.headers.get("Content-Range", ""))
        if sent is None or int(sent[1]) != start or len(response.content) > end - start:
            raise Broken(f"the server sends another range of {name} than was asked for")
        return response.content

    def keep(self, name: str, start: int, end: int, data: bytes) -> None:
        """Write a sound part to the cache."""
        self._write(f"{name}-{start}-{end}", data)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _get(self, name: str, headers: dict[str, str]) -> httpx.Response:
        wait, reason = 0.0, ""
        for attempt in range(self._retries + 1):
            # Outside the slot: others may use it meanwhile.
            await asyncio.sleep(wait)
            async with self._slots:
                try:
                    response = await self._fetch(name, headers)
                except httpx.TransportError as error:
                    reason, asked = f"the connection failed ({type(error).__name__})", None
                else:
                    if response.status_code in (401, 403):
                        raise InputError(
                            f"{self._address}: the server answers {response.status_code}; access "
                            "is refused."
                        )
                    if response.status_code not in _AGAIN:
                        return response
                    reason = f"the server answers {response.status_code}"
                    asked = _retry_after(response)
            if asked is not None and asked > _PATIENCE:
                break
            wait = max(asked or 0.0, _jitter(attempt))
        raise Broken(reason)

    async def _fetch(self, name: str, headers: dict[str, str]) -> httpx.Response:
        request = self._client.build_request("GET", f"{self._address}/{name}", headers=headers)
        response = await self._client.send(request, stream=True)
        try:
            # A server without ranges would send its whole file of gigabytes: only look at it.
            if not headers or response.status_code == httpx.codes.PARTIAL_CONTENT:
                await response.aread()
        finally:
            await response.aclose()
        return response

    def _known(self, name: str) -> bytes | None:
        path = None if self._cache is None else self._cache / name
        try:
            return None if path is None else path.read_bytes()
        except OSError:
            return None

    def _write(self, name: str, data: bytes) -> None:
        if self._cache is None or (self._cache / name).exists():
            return
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            temporary = self._cache / f"{name}.tmp"
            temporary.write_bytes(data)
            temporary.replace(self._cache / name)
        except OSError as error:
            raise InputError(
                f"{self._cache}: cannot be written ({error.strerror}); name another cache folder."
            ) from error


def _jitter(attempt: int) -> float:
    return random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt))


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that the server asks to wait, given as seconds or as a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _slug(address: str) -> str:
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", address.split("://")[-1]).strip("-")[-80:]
    return f"{name}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
