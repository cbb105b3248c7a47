"""One HTTP exchange: the only place that touches the network, or the key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from dataclasses import replace

import httpx

from pie_jax.files.http import make_client
from pie_jax.llm.config import LLMConfig
from pie_jax.llm.errors import ConnectionLost, RequestRefused, TimedOut, Unreachable
from pie_jax.llm.parsing.replies import Completion, Failure, classify
from pie_jax.llm.sending.keys import ApiKey

_CONNECT_SECONDS = 15.0


class _Authorization(httpx.Auth):
    """Puts the key on a request as it leaves."""

    def __init__(self, key: ApiKey):
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._key.is_set:
            request.headers["Authorization"] = self._key.authorization() or ""
        yield request


class Transport:
    """A pool of connections to one server; posts bodies and says what came of it."""

    def __init__(self, config: LLMConfig, wall: Callable[[], float] = time.time):
        self.key = ApiKey(config.api_key_env)
        self._url, self._timeout, self._wall = config.url, config.timeout, wall
        connect = min(config.timeout, _CONNECT_SECONDS)
        self._http = make_client(
            auth=_Authorization(self.key),
            headers={"Content-Type": "application/json", "User-Agent": "pie-jax"},
            timeout=httpx.Timeout(config.timeout, connect=connect, pool=None),
            # The sender bounds concurrency. A bound here as well could be used up by connections
            # that a cancelled request leaves behind (httpcore issue 1093).
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=config.concurrency),
            follow_redirects=False,
            # A proxy of the environment cannot reach this machine's own servers.
            trust_env=not config.is_loopback,
        )

    async def post(self, body: bytes) -> Completion | Failure:
        """POST a body; every failure of the exchange is returned, with the key taken out."""
        response = await self._exchange(body)
        if isinstance(response, Failure):
            return self._hidden(response)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return self._hidden(classify(response.status_code, headers, response.content, self._wall()))

    async def _exchange(self, body: bytes) -> httpx.Response | Failure:
        # Failures are returned, not raised from httpx's: frames of its exceptions hold the
        # headers, and a traceback with local variables would print the key.
        cancelled = False
        try:
            # httpx's time-outs are per read; a reply that drips needs one for the whole.
            async with asyncio.timeout(self._timeout):
                return await self._http.post(self._url, content=body)
        except asyncio.CancelledError:
            cancelled = True
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = Failure(Unreachable, str(error) or type(error).__name__)
        except (TimeoutError, httpx.TimeoutException):
            failure = Failure(TimedOut)
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
            failure = Failure(RequestRefused, type(error).__name__)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failure = Failure(ConnectionLost, type(error).__name__)
        if cancelled:
            raise asyncio.CancelledError
        return failure

    def _hidden(self, result: Completion | Failure) -> Completion | Failure:
        hide = self.key.hide
        if isinstance(result, Completion):
            return replace(result, text=hide(result.text), model=hide(result.model))
        return replace(
            result,
            said=hide(result.said),
            code=hide(result.code),
            parameter=hide(result.parameter),
        )

    async def close(self) -> None:
        """Close the pool."""
        await self._http.aclose()
