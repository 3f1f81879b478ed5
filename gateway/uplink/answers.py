"""What an answer does to its events: confirmed, tried again later, sent again apart, cut, or parked.

A refused event is tried again after `retry_interval_ms`, `max_retries` times, then parked. A rate limit does not
count as a try. An event that is larger than the cloud takes is cut between its keys, and confirmed when all parts
are. What cannot be encoded, and a single value that is too large, is parked at once: it would be refused for ever.
"""

from __future__ import annotations

import logging
from typing import Final

from gateway.config import CloudConfig
from gateway.domain.changes import ParkEvent
from gateway.domain.cloud_event import StoredEvent
from gateway.errors import RejectedError
from gateway.ports import Clock, CloudLink, StateReader, UplinkAnswer
from gateway.supervise import Counters, FewLines
from gateway.uplink.backlog import Backlog
from gateway.uplink.batch import MAX_SHARED_BYTES, Batch, cut, join, only_key
from gateway.uplink.cursor import Cursor
from gateway.uplink.overtaking import Overtaking

log = logging.getLogger(__name__)

_RATE_LIMIT_TEXT: Final = "Rate limit reached"  # ThingsBoard's own words
_REASON_CHARS: Final = 500  # the cloud appends a stack trace


class Answers:
    """The judge of one lane."""

    def __init__(
        self,
        config: CloudConfig,
        link: CloudLink,
        clock: Clock,
        counters: Counters,
        state: StateReader | None,
        overtaking: Overtaking,
        cursor: Cursor,
    ) -> None:
        """`state` gives the names of devices to the reasons of parked events."""
        self._config, self._link, self._clock, self._counters = config, link, clock, counters
        self._state, self._overtaking, self._cursor = state, overtaking, cursor
        self._parked_parts: dict[int, tuple[StoredEvent, str]] = {}
        self._log = FewLines(log, clock)
        self.paused_until_s = 0.0  # by a rate limit

    def answered(self, stream: Backlog, batch: Batch, answer: UplinkAnswer) -> None:
        """The cloud's answer to a message."""
        if answer.is_success:
            self._counters.add("uplink.acked", self._confirmed(stream, batch))
        elif _RATE_LIMIT_TEXT in answer.error:
            self._counters.add("uplink.rate_limited")
            self._counters.add("uplink.resent", len(batch))
            self.paused_until_s = self._clock.monotonic_s() + self._config.rate_limit_pause_s
            stream.postponed(batch)
        elif len(batch) > 1:
            self._counters.add("uplink.resent", len(batch))
            stream.divide(batch)
        else:
            self._counters.add("uplink.failed")
            if stream.tries(batch[0]) + 1 >= self._config.max_retries:
                self._park(stream, batch[0], answer.error, self._config.max_retries)
            else:
                self._counters.add("uplink.resent")
                due_s = self._clock.monotonic_s() + self._config.retry_interval_ms / 1000
                stream.refused(batch[0], due_s)

    def rejected(self, stream: Backlog, batch: Batch, reason: str) -> None:
        """The link cannot make a message of it; whose fault it is shows when each event is alone."""
        if len(batch) > 1:
            stream.divide(batch)
            return
        event, limit = batch[0], self._link.max_message_bytes
        size = self._size_bytes(event)
        if size > limit:
            parts = cut(event, min(limit, MAX_SHARED_BYTES))
            if parts:
                self._counters.add("uplink.cut")
                stream.replace(event, parts)
                return
            key = only_key(event)
            what = f"{event.action} has" if key is None else f"the value of {key!r} alone makes a message of"
            reason = f"{self._name(event)}: {what} {size} bytes, the cloud takes {limit}"
        self._park(stream, event, reason, stream.tries(event) + 1)

    def _confirmed(self, stream: Backlog, batch: Batch) -> int:
        """The cloud has it, or it is parked; how many events are done by it."""
        done = stream.confirmed(batch)
        for event in done if self._parked_parts else ():
            self._parked_parts.pop(event.seq_id, None)
        self._overtaking.confirmed(stream, batch, done)
        return len(done)

    def _size_bytes(self, event: StoredEvent) -> int:
        try:
            return self._link.size_bytes([event])
        except RejectedError:
            return 0

    def _name(self, event: StoredEvent) -> str:
        device = None
        if self._state is not None and event.type == "DEVICE" and event.entity_id is not None:
            device = self._state.device(event.entity_id)
        return f"{event.type} {event.entity_id}" if device is None else f"{event.type} {device.name!r}"

    def _park(self, stream: Backlog, event: StoredEvent, reason: str, tries: int) -> None:
        self._log.warning(
            "event %d (%s %s) is parked after %d tries: %s",
            event.seq_id,
            event.type,
            event.action,
            tries,
            reason.partition("\n")[0][:_REASON_CHARS],
        )
        self._counters.add("uplink.parked")
        copy, text = event, reason[:_REASON_CHARS]
        if stream.is_part(event):  # all parts of one event that are parked make one copy
            earlier = self._parked_parts.get(event.seq_id)
            if earlier is not None:
                copy, text = join(earlier[0], event), f"{earlier[1]}; {text}"[: 2 * _REASON_CHARS]
            self._parked_parts[event.seq_id] = copy, text
        self._cursor.submit([ParkEvent(copy, text, tries, self._clock.now_ms())])  # before any cursor beyond it
        self._confirmed(stream, [event])
