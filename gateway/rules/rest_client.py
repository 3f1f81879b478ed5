"""Calls of other servers by HTTP, for rule nodes. The only door to httpx.

One client a node: its connections are kept and their number is bounded. Redirects are not followed: where they lead
nobody has allowed. Every call ends by its deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from gateway.errors import RejectedError, TransientError
from gateway.rules.pem import Pem, tls_context

logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes each URL, and a URL may hold a secret

CONNECT_S: Final = 10.0
MAX_REQUESTS: Final = 100
"""Requests of one node that are under way or wait for their turn; one more is refused."""
_IDLE_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a client is to call. `parallel`: requests at a time; `max_bytes`: the longest answer that is taken.

    `proxy` is a URL without user; `user` and `proxy_user` are name and password.
    """

    timeout_s: float
    parallel: int
    max_bytes: int
    pem: Pem | None = None
    user: tuple[str, str] | None = field(default=None, repr=False)
    proxy: str | None = None
    proxy_user: tuple[str, str] | None = field(default=None, repr=False)
    uses_environment: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; a header that came several times has all its values."""

    status: int
    reason: str
    headers: Mapping[str, list[str]]
    body: bytes

    @property
    def text(self) -> str:
        """The body, by the charset that its header names."""
        charset = httpx.Headers({"content-type": ",".join(self.headers.get("content-type", []))})
        name = httpx.Response(self.status, headers=charset).charset_encoding or "utf-8"
        try:
            return self.body.decode(name, "replace")
        except LookupError:
            return self.body.decode(errors="replace")


class RestClient:
    """Opened with its first call."""

    def __init__(self, wish: Wish) -> None:
        """Raises `RejectedError` for certificates that cannot be used."""
        self._wish = wish
        self._context = tls_context(wish.pem)
        self._turns = asyncio.Semaphore(wish.parallel)
        self._client: httpx.AsyncClient | None = None
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def call(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """One request.

        Raises:
            RejectedError: It cannot be asked so, too many are under way, or the answer is too long.
            TransientError: Nobody answers, or not in time.
        """
        if self._calls >= MAX_REQUESTS:
            raise RejectedError(f"{MAX_REQUESTS} requests of this node are under way already")
        self._calls += 1
        self._idle.clear()
        try:
            async with asyncio.timeout(self._wish.timeout_s), self._turns:
                return await self._ask(method, url, headers, body)
        except (TimeoutError, httpx.TimeoutException):
            raise TransientError(f"no answer within {self._wish.timeout_s:g} s") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, ValueError):
            # The library quotes what it refuses, and that may be a secret.
            raise RejectedError("it cannot be asked so: URL, headers or user have characters that cannot be") from None
        except httpx.HTTPError as error:
            raise TransientError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from None
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        request = self._opened().build_request(method, url, headers=dict(headers), content=body)
        answer = await self._opened().send(request, stream=True)
        try:
            parts, size = [], 0
            async for part in answer.aiter_bytes():
                size += len(part)
                if size > self._wish.max_bytes:
                    raise RejectedError(f"the answer is longer than {self._wish.max_bytes >> 10} KB")
                parts.append(part)
        finally:
            await answer.aclose()
        named: dict[str, list[str]] = {}
        for name, value in answer.headers.multi_items():
            named.setdefault(name, []).append(value)
        return Reply(answer.status_code, answer.reason_phrase, named, b"".join(parts))

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            wish = self._wish
            proxy = httpx.Proxy(wish.proxy, auth=wish.proxy_user) if wish.proxy is not None else None
            self._client = httpx.AsyncClient(
                auth=wish.user,
                verify=self._context,
                proxy=proxy,
                trust_env=wish.uses_environment,
                follow_redirects=False,
                timeout=httpx.Timeout(wish.timeout_s, connect=min(CONNECT_S, wish.timeout_s)),
                limits=httpx.Limits(max_connections=wish.parallel, keepalive_expiry=_IDLE_S),
            )
        return self._client

    async def close(self) -> None:
        """What is under way ends first."""
        await self._idle.wait()
        if self._client is not None:
            await self._client.aclose()
