"""What ThingsBoard Edge reports about its way up: telemetry of the EDGE entity, once in an interval.

A report is an ordinary event of the queue. It is made only while the link is ready, so that weeks offline do not
fill the queue with statistics: what happened meanwhile is in the first report afterwards. Nothing is reported
before it is known who we are.
"""

from __future__ import annotations

import logging
from typing import Final

import orjson

from gateway.config import CloudConfig
from gateway.domain.changes import AppendEvent
from gateway.domain.cloud_event import Action, CloudEvent, Lane
from gateway.errors import RejectedError
from gateway.ports import Clock, CloudEvents, CloudLink, Committer, StateReader
from gateway.supervise import Counters

log = logging.getLogger(__name__)

_COUNTED: Final = {
    "uplinkMsgsPushed": "uplink.acked",
    "uplinkMsgsPermanentlyFailed": "uplink.parked",
    "uplinkMsgsTmpFailed": "uplink.resent",
}


class Statistics:
    """The reporter."""

    name = "statistics"

    def __init__(
        self,
        config: CloudConfig,
        events: CloudEvents,
        link: CloudLink,
        committer: Committer,
        state: StateReader,
        clock: Clock,
        counters: Counters,
    ) -> None:
        self._interval_ms = config.stats_interval_s * 1000
        self._events, self._link, self._committer, self._state = events, link, committer, state
        self._clock, self._counters = clock, counters
        self._before = self._totals()

    async def serve(self) -> None:
        """One report at the end of each interval, until cancelled; returns at once when there are to be none."""
        while self._interval_ms:
            left_ms = self._interval_ms - self._clock.now_ms() % self._interval_ms
            await self._clock.sleep(left_ms / 1000)
            await self._report()

    async def _report(self) -> None:
        identity = self._state.identity()
        if identity is None or not self._link.is_ready:
            return
        totals = self._totals()
        data = {key: total - self._before[key] for key, total in totals.items()}
        data["uplinkMsgsLag"] = sum(self._events.last(lane) - self._events.cursor(lane) for lane in Lane)
        now_ms = self._clock.now_ms()
        event = CloudEvent(
            type="EDGE",
            action=Action.TIMESERIES_UPDATED,
            entity_id=identity.edge_id,
            created_ms=now_ms,
            body=orjson.dumps({"ts": now_ms - now_ms % self._interval_ms, "data": data}),
        )
        try:
            await self._committer.submit([AppendEvent(event)])
        except RejectedError as error:
            log.warning("statistics could not be queued: %s", error)
            return
        self._before = totals

    def _totals(self) -> dict[str, int]:
        added = sum(self._events.last(lane) for lane in Lane)
        return {"uplinkMsgsAdded": added, **{key: self._counters.get(name) for key, name in _COUNTED.items()}}
