"""Topic ⇄ intent: which topics are the device API, in which family, and what belongs to local publish/subscribe.

Source: ThingsBoard 4.3 device API: topics of v1, v2, and v2 with forced JSON or protobuf.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final, NamedTuple


class Intent(Enum):
    """What a publish asks for."""

    TELEMETRY = auto()
    ATTRIBUTES = auto()
    ATTRIBUTE_REQUEST = auto()  #: with an id in the topic
    RPC_ANSWER = auto()  #: answer to a call by the server, with its id
    RPC_REQUEST = auto()  #: call by the device, with its id
    CLAIM = auto()  #: the device may have an owner
    PACKAGE_CHUNK = auto()  #: `v2/fw/request/{rid}/chunk/{n}`; `id_text` is what follows `v2/`
    GATEWAY = auto()  #: `v1/gateway/…`
    LOCAL = auto()  #: ordinary publish/subscribe
    UNKNOWN = auto()


class Family(NamedTuple):
    """One way to spell the API's topics; what goes down follows the spelling that the device used last."""

    is_v1: bool
    telemetry: str
    attributes: str
    attribute_request: str  # prefix, the id follows
    attribute_response: str
    rpc_request: str
    rpc_response: str
    form: str = ""  # of payloads: "json", "protobuf", or as the device's profile says


V1: Final = Family(
    True,
    "v1/devices/me/telemetry",
    "v1/devices/me/attributes",
    "v1/devices/me/attributes/request/",
    "v1/devices/me/attributes/response/",
    "v1/devices/me/rpc/request/",
    "v1/devices/me/rpc/response/",
)
V2: Final = Family(False, "v2/t", "v2/a", "v2/a/req/", "v2/a/res/", "v2/r/req/", "v2/r/res/")
V2_JSON: Final = Family(False, "v2/t/j", "v2/a/j", "v2/a/req/j/", "v2/a/res/j/", "v2/r/req/j/", "v2/r/res/j/", "json")
V2_PROTOBUF: Final = Family(
    False, "v2/t/p", "v2/a/p", "v2/a/req/p/", "v2/a/res/p/", "v2/r/req/p/", "v2/r/res/p/", "protobuf"
)
_FAMILIES: Final = (V1, V2_JSON, V2_PROTOBUF, V2)  # `v2/r/req/j/7` is not the id `j/7` of `v2/r/req/`


class PublishTopic(NamedTuple):
    """A topic understood. `id_text` is what stands for the request id, not yet checked to be a number; of telemetry
    and attributes it is the topic itself where that is one of the device profile's own.
    """

    intent: Intent
    family: Family = V1
    id_text: str = ""


_EXACT: Final[dict[str, PublishTopic]] = {
    topic: PublishTopic(intent, family)
    for family in _FAMILIES
    for topic, intent in ((family.telemetry, Intent.TELEMETRY), (family.attributes, Intent.ATTRIBUTES))
}
_EXACT["v1/devices/me/claim"] = PublishTopic(Intent.CLAIM)
_PREFIXES: Final = tuple(
    (prefix, intent, family)
    for family in _FAMILIES
    for prefix, intent in (
        (family.attribute_request, Intent.ATTRIBUTE_REQUEST),
        (family.rpc_response, Intent.RPC_ANSWER),
        (family.rpc_request, Intent.RPC_REQUEST),
    )
)
_UNKNOWN: Final = PublishTopic(Intent.UNKNOWN)
_LOCAL: Final = PublishTopic(Intent.LOCAL)
_GATEWAY: Final = PublishTopic(Intent.GATEWAY)
_RESERVED: Final = ("v1/", "v2/", "$", "/provision")


def publish_topic(topic: str) -> PublishTopic:
    """What a publish to this topic means. Never fails: what is not known is `UNKNOWN` or `LOCAL`."""
    known = _EXACT.get(topic)
    if known is not None:
        return known
    if not topic.startswith(_RESERVED) and topic not in ("v1", "v2"):
        return _LOCAL
    if topic.startswith("v1/gateway/"):
        return _GATEWAY
    for prefix, intent, family in _PREFIXES:
        if topic.startswith(prefix):
            return PublishTopic(intent, family, topic[len(prefix) :])
    if topic.startswith(("v2/fw/", "v2/sw/")):
        return PublishTopic(Intent.PACKAGE_CHUNK, V2, topic[3:])
    return _UNKNOWN


class FilterKind(Enum):
    """What a subscription is good for."""

    ATTRIBUTES = auto()  #: pushes of shared attributes
    RPC = auto()  #: calls by the server
    GRANTED = auto()  #: known to the API; answers come with or without it
    LOCAL = auto()
    REFUSED = auto()


_SHARED: Final = re.compile(r"\$share/[^/+#]+/")
_ANSWERED_ANYWAY: Final = (
    "v2/fw/response/+/chunk/+",
    "v2/fw/error",
    "v2/sw/response/+/chunk/+",
    "v2/sw/error",
    "/provision/response",
    "v1/gateway/attributes",
    "v1/gateway/rpc",
    "v1/gateway/attributes/response",
)
_FILTERS: Final[dict[str, tuple[FilterKind, Family]]] = dict.fromkeys(_ANSWERED_ANYWAY, (FilterKind.GRANTED, V1)) | {
    topic_filter: (kind, family)
    for family in _FAMILIES
    for topic_filter, kind in (
        (family.attributes, FilterKind.ATTRIBUTES),
        (family.rpc_request + "+", FilterKind.RPC),
        (family.attribute_response + "+", FilterKind.GRANTED),
        (family.rpc_response + "+", FilterKind.GRANTED),
    )
}


def filter_kind(topic_filter: str) -> tuple[FilterKind, Family]:
    """API filters are matched by their exact text, without any wildcard logic, as ThingsBoard does it."""
    known = _FILTERS.get(topic_filter)
    if known is not None:
        return known
    shared = _SHARED.match(topic_filter)
    asked = topic_filter if shared is None else topic_filter[shared.end() :]
    return (FilterKind.LOCAL if asked and is_local(asked) else FilterKind.REFUSED), V1


def is_local(topic: str) -> bool:
    """True when a device may use this topic or filter for publish/subscribe beside the API."""
    return not topic.startswith(_RESERVED) and topic not in ("v1", "v2")


def parse_id(text: str) -> int | None:
    """A request id (int32, as ThingsBoard reads it), or None."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (0 < len(digits) <= 10 and digits.isascii() and digits.isdigit()):
        return None
    number = int(text)
    return number if -(2**31) <= number < 2**31 else None
