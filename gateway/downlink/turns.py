"""Which downlinks may be worked on at once: those about different devices. The others wait for their turn.

A full sync brings thousands of devices, and each has to be on the disk before it is acknowledged; one after the
other, most of the time goes into waiting for the disk. Order is kept where it can be seen: nothing passes
what stands before it in the line, and two downlinks with a subject in common follow each other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable
from typing import Final

from gateway.domain.downlink import (
    AttributesReceived,
    AttributesRemoved,
    Command,
    CredentialsRequested,
    CredentialsUpdated,
    Downlink,
    EntityUpdated,
    Ignored,
    RpcAnswered,
    RpcCalled,
    UpdateKind,
)
from gateway.downlink.keeping import NAMES_ONLY
from gateway.ports import StateReader

Subjects = frozenset[Hashable]

_NOTHING: Final[Subjects] = frozenset()


def subjects(downlink: Downlink, state: StateReader) -> Subjects | None:
    """What a downlink is about, names included; None: it may touch anything, so it must be alone."""
    found: set[Hashable] = set()
    for command in downlink.commands:
        part = _subjects(command, state)
        if part is None:
            return None
        found |= part
    return frozenset(found)


def _subjects(command: Command, state: StateReader) -> Subjects | None:
    match command:
        case EntityUpdated(type="DEVICE", kind=UpdateKind.CREATED | UpdateKind.UPDATED):
            return _device(command, state)
        case EntityUpdated(type="DEVICE_PROFILE", kind=UpdateKind.CREATED | UpdateKind.UPDATED, id=id_, json=json):
            known = state.profile(id_) if id_ is not None else None
            return _NOTHING if known is not None and known.json == json else None  # a new one moves devices
        case EntityUpdated(type=kind, id=id_) if kind in (*NAMES_ONLY, "OTA_PACKAGE") and id_ is not None:
            return frozenset((id_,))
        case CredentialsUpdated(device_id) | CredentialsRequested(device_id) | RpcAnswered(device_id):
            return frozenset((device_id,))
        case RpcCalled(request):
            return frozenset((request.device_id,))
        case AttributesReceived(entity, is_post=False) | AttributesRemoved(entity) if entity.type == "DEVICE":
            return frozenset((entity.id,))
        case Ignored():
            return _NOTHING
    return None


def _device(update: EntityUpdated, state: StateReader) -> Subjects | None:
    json = update.json
    if update.id is None or not isinstance(json, dict) or not isinstance(json.get("deviceProfileId"), dict):
        return None  # broken, or its profile is looked for by name
    known = state.device(update.id)
    names = {str(json.get("name"))} if known is None else {str(json.get("name")), known.name}
    return frozenset((update.id, *names))


class Turns:
    """The line, and who is being worked on. First come, first served."""

    def __init__(self, state: StateReader) -> None:
        self._state = state
        self._door = asyncio.Lock()  # who holds it stands first in the line
        self._busy: set[Hashable] = set()
        self._working = 0
        self._left = asyncio.Event()

    @contextlib.asynccontextmanager
    async def turn(self, downlink: Downlink) -> AsyncIterator[None]:
        """The block is entered in the order of the calls, once nothing of what is going on is in its way."""
        async with self._door:
            about = subjects(downlink, self._state)
            while self._working and (about is None or not self._busy.isdisjoint(about)):
                self._left.clear()
                await self._left.wait()
                about = subjects(downlink, self._state)
            if about is None:
                yield
                return
            self._busy |= about
            self._working += 1
        try:
            yield
        finally:
            self._busy -= about
            self._working -= 1
            self._left.set()
