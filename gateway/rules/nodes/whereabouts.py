"""Where an originator is, and whether it is there at all: geofencing events and device state.

Source: reference rule-engine §4.4, §4.7.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from gateway.domain.message import Message, MessageType
from gateway.domain.rates import Limits, RateLimitedError, Rates, Sender
from gateway.errors import RejectedError
from gateway.ports import Outcome, StateNotice
from gateway.rules.geofence import GeofenceConfig, geofence
from gateway.rules.node import SUCCESS, Answer, NodeConfig, NodeEnv, Routed, Run, node

ENTERED: Final = "entered"
LEFT: Final = "left"
INSIDE: Final = "inside"
OUTSIDE: Final = "outside"
RATE_LIMITED: Final = "rate limited"
STATE_LIMIT: Final = "1:1,30:60,60:3600"
"""Reports of one device: one a second, thirty a minute, sixty an hour."""

MAX_ORIGINATORS: Final = 100_000
_UNITS_MS: Final = {
    "MILLISECONDS": 1,
    "SECONDS": 1000,
    "MINUTES": 60_000,
    "HOURS": 3_600_000,
    "DAYS": 86_400_000,
}


class GeofencingEventsConfig(GeofenceConfig):
    """How long it takes until an originator counts as staying inside, or outside."""

    min_inside_duration: int = Field(1, ge=0)
    min_inside_duration_time_unit: str = "MINUTES"
    min_outside_duration: int = Field(1, ge=0)
    min_outside_duration_time_unit: str = "MINUTES"
    report_presence_status_on_each_message: bool = Field(
        False, description="`Inside` or `Outside` with each message, not only once after the duration."
    )


@node("geo.TbGpsGeofencingActionNode", "gps geofencing events", GeofencingEventsConfig)
def geofencing_events(config: GeofencingEventsConfig, env: NodeEnv) -> Run:
    """`Entered` and `Left` when it changes, the first message included. What is known is durable with the message."""
    is_inside = geofence(config)
    stays_ms = {
        True: _duration_ms(config.min_inside_duration, config.min_inside_duration_time_unit),
        False: _duration_ms(config.min_outside_duration, config.min_outside_duration_time_unit),
    }
    kept, clock = env.kept, env.clock

    def run(msg: Message, out: Outcome) -> Answer:
        now_ms, inside = clock.now_ms(), is_inside(msg)
        name = f"{msg.originator.type}:{msg.originator.id}"
        held: Any = kept.get(name)
        if held is None or held["inside"] != inside:
            if held is None and len(kept) >= MAX_ORIGINATORS:
                raise RejectedError(f"it looks after {MAX_ORIGINATORS} originators already")
            kept.put(out, name, {"inside": inside, "since": now_ms, "stayed": False})
            return ENTERED if inside else LEFT
        if config.report_presence_status_on_each_message:
            return INSIDE if inside else OUTSIDE
        if held["stayed"] or now_ms - held["since"] < stays_ms[inside]:
            return SUCCESS
        kept.put(out, name, {**held, "stayed": True})
        return INSIDE if inside else OUTSIDE

    return run


def _duration_ms(count: int, unit: str) -> int:
    if unit not in _UNITS_MS:
        raise RejectedError(f"{unit!r} is no unit of time; there are {', '.join(_UNITS_MS)}")
    return count * _UNITS_MS[unit]


class DeviceStateConfig(NodeConfig):
    """What is to be said of the device."""

    event: Literal["ACTIVITY_EVENT", "CONNECT_EVENT", "DISCONNECT_EVENT", "INACTIVITY_EVENT"] = "ACTIVITY_EVENT"


@node("action.TbDeviceStateNode", "device state", DeviceStateConfig)
def device_state(config: DeviceStateConfig, env: NodeEnv) -> Run:
    """Reports the event for the device, at the time of the data, after the commit; too many take `Rate limited`."""
    rates = Rates({Sender.DEVICE: Limits(messages=STATE_LIMIT)})
    state, clock, event = env.state, env.clock, MessageType(config.event)

    def run(msg: Message, out: Outcome) -> Answer:
        device = state.device(msg.originator.id) if msg.originator.type == "DEVICE" else None
        if device is None:
            raise RejectedError("the originator is no device that is known here")
        try:
            rates.take(device.id, 0, clock.monotonic_s(), is_gateway=False)
        except RateLimitedError:
            return Routed((RATE_LIMITED,), (msg,))
        out.notices.append(StateNotice(device.id, event, msg.data_ts_ms))
        return SUCCESS

    return run
