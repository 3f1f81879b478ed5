"""What nodes hold open outside of the gateway, and whom they may call at all.

A chain comes from the cloud: without a list it could call every machine of the plant's network. So nobody is called
that `rules.allow_rest` or `rules.allow_mqtt` does not name; a chain of a file is no exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Final
from urllib.parse import SplitResult, urlsplit

from gateway.errors import RejectedError

ANYBODY: Final = "*"
_PORTS: Final = {"http": 80, "https": 443}
CLOSE_S: Final = 5.0

Close = Callable[[], Awaitable[None]]


class Outside:
    """Connections by their node. A chain that ends lets go of its own; what is closed is awaited by `close`."""

    def __init__(self) -> None:
        self._held: list[tuple[object, Close]] = []
        self._closing: set[asyncio.Task[None]] = set()

    def hold(self, owner: object, close: Close) -> None:
        """Of this node; from within the event loop."""
        self._held.append((owner, close))

    def let_go(self, owners: Container[object]) -> None:
        """These nodes are gone."""
        gone = [close for owner, close in self._held if owner in owners]
        self._held = [held for held in self._held if held[0] not in owners]
        for close in gone:
            task = asyncio.ensure_future(_closed(close))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Of all nodes."""
        self.let_go({owner for owner, _ in self._held})
        if self._closing:
            await asyncio.wait(set(self._closing))


async def _closed(close: Close) -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await close()
    except TimeoutError:
        return  # its sockets end with the process


def check_url(url: str, allowed: Sequence[str]) -> None:
    """`allowed`: `https://host[:port][/path]`, where the host may begin with `*.`; `*` alone is anybody.

    Raises:
        RejectedError: It is no address, or nobody allows it; says which entry would.
    """
    try:
        wanted = urlsplit(url)
        port = wanted.port or _PORTS.get(wanted.scheme)
    except ValueError:
        raise RejectedError(f"{_shown(url)} is no URL") from None
    if wanted.scheme not in _PORTS or not wanted.hostname:
        raise RejectedError(f"{_shown(url)} is no URL: it needs http:// or https:// and a host")
    if wanted.username is not None or wanted.password is not None:
        raise RejectedError("a URL with a user in it is refused: give the node credentials")
    if any(ord(char) < 32 or char == "\\" for char in url):
        raise RejectedError(f"{_shown(url)} is no URL: it has backslashes, or characters that cannot be printed")
    if any(entry == ANYBODY or _fits(wanted, port, entry) for entry in allowed):
        return
    base = f"{wanted.scheme}://{wanted.netloc}"
    raise RejectedError(f"{base} is not called: rules.allow_rest does not name it (add {base!r} there if it may be)")


def _fits(wanted: SplitResult, port: int | None, entry: str) -> bool:
    given = urlsplit(entry)
    if (given.scheme, given.port or _PORTS.get(given.scheme)) != (wanted.scheme, port):
        return False
    if not _is_host(wanted.hostname or "", (given.hostname or "").lower()):
        return False
    path = given.path.rstrip("/")
    if not path:
        return True
    lowered = wanted.path.lower()
    if ".." in lowered or "%2e" in lowered or "%2f" in lowered:  # a server may take that for another folder
        return False
    return wanted.path == path or wanted.path.startswith(path + "/")


def check_host(host: str, port: int, allowed: Sequence[str]) -> None:
    """`allowed`: `host` or `host:port`, where the host may begin with `*.`; `*` alone is anybody.

    Raises:
        RejectedError: Nobody allows it.
    """
    for entry in allowed:
        name, colon, number = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
        if entry == ANYBODY or (_is_host(host.lower(), name.lower()) and (not colon or number == str(port))):
            return
    raise RejectedError(f"{host}:{port} is not called: rules.allow_mqtt does not name it (add it there if it may be)")


def _is_host(host: str, given: str) -> bool:
    return host.endswith(given[1:]) and len(host) >= len(given) if given.startswith("*.") else host == given


def _shown(url: str) -> str:
    """What stands behind a question mark may be a secret."""
    text = url.partition("?")[0]
    return repr(text if len(text) <= 100 else text[:100] + "…")
