"""What a gateway is told of the devices that were behind it: `gateway_device_renamed`, `gateway_device_deleted`.

A notice becomes durable with the rename or the deletion itself, waits for its gateway up to 24 hours, and goes when
the gateway has it. It is a one-way call on the gateway's own topic, one after the other, so that a gateway which is
away keeps no place among the calls under way.

Source: ThingsBoard 4.3, notices to the last gateway of a device: methods, params, 24 h, 3 retries.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

from gateway.domain.changes import Change, SaveSetting
from gateway.domain.entity import Json
from gateway.domain.rpc import RpcError, RpcRequest, RpcResponse
from gateway.ports import Clock, Outcome, RuleCall
from gateway.supervise import Counters

if TYPE_CHECKING:
    from gateway.devices.pipeline import Pipeline
    from gateway.devices.state import State

log = logging.getLogger(__name__)

NOTICES: Final = "gateway_notices:"
"""Setting, with the gateway's id: what it was not told yet, oldest first: `{"method", "params", "until_ms", "tries"}`
each."""
KEPT_MS: Final = 24 * 3600 * 1000
MAX_TRIES: Final = 4  # three times again
MAX_WAITING: Final = 1000  # of one gateway; then the oldest go
HAND_OVER_MS: Final = 30_000  # the gateway is there: PUBACK in this time


class Notices:
    """Those of all gateways, in memory as the settings will be when all commits are done."""

    def __init__(self, state: State, pipeline: Pipeline, clock: Clock, counters: Counters) -> None:
        self._pipeline, self._clock, self._counters = pipeline, clock, counters
        self._waiting: dict[UUID, list[dict[str, Json]]] = {
            UUID(name[len(NOTICES) :]): [dict(notice) for notice in kept]
            for name, kept in state.settings(NOTICES).items()
        }
        self._telling: set[UUID] = set()

    def add(self, gateway_id: UUID, method: str, params: Json) -> list[Change]:
        """What to write with the change that it tells of; `tell` is to follow."""
        waiting = self._waiting.setdefault(gateway_id, [])
        waiting.append({"method": method, "params": params, "until_ms": self._clock.now_ms() + KEPT_MS, "tries": 0})
        if len(waiting) > MAX_WAITING:
            del waiting[0]
            self._counters.add("devices.notices_dropped")
        return [self._save(gateway_id)]

    def forget(self, gateway_id: UUID) -> Sequence[Change]:
        """The gateway itself is gone."""
        return [SaveSetting(f"{NOTICES}{gateway_id}", None)] if self._waiting.pop(gateway_id, None) else ()

    def forget_gone(self, state: State) -> Sequence[Change]:
        """Those of gateways that are not here any more, after all devices got other ids."""
        gone = [gateway_id for gateway_id in self._waiting if state.device(gateway_id) is None]
        return [change for gateway_id in gone for change in self.forget(gateway_id)]

    def tell(self, gateway_id: UUID) -> None:
        """The gateway listens, or there is something new: hand over what waits."""
        waiting = self._waiting.get(gateway_id)
        if not waiting or gateway_id in self._telling:
            return
        now_ms = self._clock.now_ms()
        fresh = [notice for notice in waiting if notice["until_ms"] > now_ms]
        if len(fresh) < len(waiting):
            self._counters.add("devices.notices_dropped", len(waiting) - len(fresh))
            waiting[:] = fresh
            self._pipeline.commit([self._save(gateway_id)])
            if not fresh:
                return
        notice = waiting[0]
        request = RpcRequest(
            device_id=gateway_id,
            method=notice["method"],
            params=notice["params"],
            request_id=0,
            expires_ms=now_ms + HAND_OVER_MS,
            is_oneway=True,
            is_from_cloud=False,
        )
        self._telling.add(gateway_id)
        self._pipeline.on_call(RuleCall(request, lambda response: self._told(gateway_id, notice, response)))

    def _told(self, gateway_id: UUID, notice: dict[str, Json], response: RpcResponse) -> Outcome:
        self._telling.discard(gateway_id)
        if response.error in (RpcError.NO_ACTIVE_CONNECTION, RpcError.INTERNAL):
            return Outcome()  # it was never sent: at the next subscription
        waiting = self._waiting.get(gateway_id, [])
        notice["tries"] += 1
        is_over = response.error is None or notice["tries"] >= MAX_TRIES
        if is_over and notice in waiting:
            waiting.remove(notice)
        if response.error is None:
            self._counters.add("devices.notices_told")
        elif is_over:
            self._counters.add("devices.notices_dropped")
            log.warning("a gateway did not take the notice %s in %d tries", notice["method"], MAX_TRIES)
        saved = self._save(gateway_id)
        self._pipeline.commit([saved]).add_done_callback(lambda _: self.tell(gateway_id))
        return Outcome()

    def _save(self, gateway_id: UUID) -> SaveSetting:
        waiting = self._waiting.get(gateway_id)
        if not waiting:
            self._waiting.pop(gateway_id, None)
        return SaveSetting(f"{NOTICES}{gateway_id}", [dict(notice) for notice in waiting] if waiting else None)
