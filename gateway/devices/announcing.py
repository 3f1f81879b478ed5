"""Devices made here that a completed sync did not bring: the cloud confirmed them and did not make them.

A server that has reached its quota of devices answers success all the same, and what the device says afterwards is
confirmed and thrown away. So such a device is announced again, at most once for each sync.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from gateway.domain.cloud_event import Action, Lane, ParkedChoice
from gateway.ports import CloudEvents

_PAGE: Final = 50
_MOST_PAGES: Final = 20


async def untaken(announced_ms: Mapping[UUID, int], events: CloudEvents) -> Sequence[UUID]:
    """Those whose announcement the cloud has confirmed: it waits no more and is not parked.

    `announced_ms` is when each was announced last. While anything older waits, its announcement may wait too.
    """
    oldest_ms = (await events.depth()).oldest_ms
    confirmed = [id_ for id_, ms in announced_ms.items() if oldest_ms is None or ms < oldest_ms]
    if not confirmed:
        return ()
    parked = await _parked(frozenset(confirmed), events)
    return [id_ for id_ in confirmed if id_ not in parked]


async def _parked(ids: frozenset[UUID], events: CloudEvents) -> set[UUID]:
    """Those whose announcement a person has to decide about."""
    found: set[UUID] = set()
    for lane in Lane:
        after = 0
        for _ in range(_MOST_PAGES):
            page = await events.choose_parked(lane, after, _PAGE, ParkedChoice(entity_ids=ids))
            found.update(
                one.event.entity_id for one in page if one.event.action == Action.ADDED and one.event.entity_id
            )
            if len(page) < _PAGE:
                break
            after = page[-1].event.seq_id
    return found
