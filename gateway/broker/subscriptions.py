"""SUBSCRIBE and UNSUBSCRIBE of one connection: which filters are the device API's, which are local, and how many.

Source: ThingsBoard 4.3 device API: filters that are granted. Reason codes: MQTT 5.0 §3.9.3, §3.11.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Final

from gateway.broker import encode
from gateway.broker.admission import is_topic_too_long
from gateway.broker.desk import Desk
from gateway.broker.device_api import DeviceApi
from gateway.broker.local_member import LocalMember
from gateway.broker.packets import Subscribe, Unsubscribe
from gateway.broker.topics import FilterKind

FAILURE_3: Final = 0x80
"""All that clients before 5.0 are told of a refusal."""

FILTER_INVALID, QUOTA_EXCEEDED, NO_SUBSCRIPTION = 0x8F, 0x97, 0x11


def subscribe(
    packet: Subscribe,
    version: int,
    desk: Desk,
    api: DeviceApi,
    local: LocalMember | None,
    begin_local: Callable[[], LocalMember],
    write: Callable[[bytes], None],
) -> None:
    """SUBACK follows, perhaps later: local filters may have to be durable. `begin_local` where there is no `local`."""
    codes = [FILTER_INVALID if version == 5 else FAILURE_3] * len(packet.filters)
    api.refresh()
    known = [api.filter_kind(name) for name, _ in packet.filters]
    held: Set[str] = frozenset() if local is None else local.names
    local_ones: list[int] = []
    free = desk.config.max_subscriptions - len(held) - len(api.granted)
    for index, ((name, options), (kind, _)) in enumerate(zip(packet.filters, known, strict=True)):
        if name not in api.granted and name not in held:
            if free <= 0 or is_topic_too_long(name):
                codes[index] = (QUOTA_EXCEEDED if free <= 0 else FILTER_INVALID) if version == 5 else FAILURE_3
                desk.counters.add("broker.subscriptions_refused")
                known[index] = FilterKind.REFUSED, known[index][1]
                continue
            free -= 1
        if kind is FilterKind.LOCAL and desk.local is not None:
            local_ones.append(index)
        elif kind not in (FilterKind.LOCAL, FilterKind.REFUSED):
            codes[index] = api.granted[name] = min(options & 3, 1)
    if local_ones and local is None:
        local = begin_local()

    def answer(local_codes: list[int]) -> None:
        for index, code in zip(local_ones, local_codes, strict=True):
            codes[index] = code if code < FAILURE_3 or version == 5 else FAILURE_3
        write(encode.suback(version, packet.packet_id, codes))
        for kind, family in known:
            if kind is FilterKind.ATTRIBUTES:
                api.subscribe_attributes(family)
            elif kind is FilterKind.RPC:
                api.subscribe_rpc(family)
        if local is not None:
            local.note_api_filters(api.granted)

    if local_ones and local is not None:
        local.subscribe([packet.filters[index] for index in local_ones], answer, packet.identifier)
    else:
        answer([])


def unsubscribe(
    packet: Unsubscribe,
    version: int,
    api: DeviceApi,
    local: LocalMember | None,
    write: Callable[[bytes], None],
) -> None:
    """UNSUBACK follows at once."""
    codes: list[int] = []
    had = {api.filter_kind(name)[0] for name in api.granted}
    for name in packet.filters:
        kind, _ = api.filter_kind(name)
        if kind is FilterKind.REFUSED:
            codes.append(FILTER_INVALID)
        elif local is not None and local.unsubscribe(name):
            codes.append(0)
        else:
            codes.append(0 if api.granted.pop(name, None) is not None else NO_SUBSCRIPTION)
    gone = had - {api.filter_kind(name)[0] for name in api.granted}
    if FilterKind.ATTRIBUTES in gone:
        api.session.subscribe_attributes(False)
    if FilterKind.RPC in gone:
        api.session.subscribe_rpc(False)
    if local is not None:
        local.note_api_filters(api.granted)
    write(encode.unsuback(version, packet.packet_id, codes))


def restore(api_filters: Mapping[str, int], api: DeviceApi) -> None:
    """Filters of the device API that a kept session brings along, with their QoS."""
    for name, qos in api_filters.items():
        api.granted[name] = qos
        kind, family = api.filter_kind(name)
        if kind is FilterKind.ATTRIBUTES:
            api.subscribe_attributes(family)
        elif kind is FilterKind.RPC:
            api.subscribe_rpc(family)
