"""What a device profile says of MQTT: topics of its own, the form of payloads, how a bad one is answered.

A profile comes from the cloud (`profileData.transportConfiguration`, type MQTT); where it says nothing, one of
the same name in `broker.profiles` of the configuration counts.

Source: ThingsBoard 4.3 device API: MQTT transport of a device profile; topics; acknowledgement matrix.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from gateway.broker.forms import JSON, CompatibleForm, Form, ProtobufForm, Schemas
from gateway.broker.gateway_forms import (
    COMPATIBLE_GATEWAY,
    EVERYTHING_JSON,
    JSON_GATEWAY,
    PROTOBUF_GATEWAY,
    GatewayForms,
)
from gateway.broker.proto_schema import SchemaError
from gateway.broker.protobuf import Codec
from gateway.broker.topic_tree import is_valid_filter
from gateway.broker.topics import V1, Family, FilterKind, Intent, PublishTopic, filter_kind, publish_topic
from gateway.config import ProfileConfig
from gateway.domain.entity import DeviceProfile
from gateway.errors import ConfigError

log = logging.getLogger(__name__)

MAX_KEPT: Final = 256
"""Profiles whose settings (and compiled schemas) are kept for the next connection."""

_UNKNOWN: Final = PublishTopic(Intent.UNKNOWN)


class Transport:
    """The settings of one profile. `has_topics` False: the plain topics, `publish_topic` need not be asked."""

    def __init__(self, settings: Mapping[str, Any], name: str) -> None:
        """`settings` is a `transportConfiguration`; a member that cannot be used counts as absent, and is logged."""
        self._telemetry = _own_topic(settings, "deviceTelemetryTopic", V1.telemetry, name)
        self._attributes = _own_topic(settings, "deviceAttributesTopic", V1.attributes, name)
        self._pushes = _own_topic(settings, "deviceAttributesSubscribeTopic", V1.attributes, name)
        self.has_topics = self._telemetry is not None or self._attributes is not None
        self.acks_bad_payloads = settings.get("sendAckOnValidationException") is True
        payload = settings.get("transportPayloadTypeConfiguration")
        payload = payload if isinstance(payload, Mapping) else {}
        is_protobuf = payload.get("transportPayloadType") == "PROTOBUF"
        is_compatible = is_protobuf and payload.get("enableCompatibilityWithJsonPayloadFormat") is True
        schemas = Schemas({key: text for key, text in payload.items() if isinstance(text, str)})
        forced = ProtobufForm(schemas)
        usual: Form = CompatibleForm(schemas) if is_compatible else forced if is_protobuf else JSON
        self.forms: Mapping[str, Form] = {"": usual, "json": JSON, "protobuf": forced}
        self._is_v1_down_json = is_compatible and payload.get("useJsonPayloadFormatForDefaultDownlinkTopics") is True
        if not is_protobuf:
            self.gateway = EVERYTHING_JSON
        else:
            self.gateway = GatewayForms(
                up=COMPATIBLE_GATEWAY if is_compatible else PROTOBUF_GATEWAY,
                down=JSON_GATEWAY if self._is_v1_down_json else PROTOBUF_GATEWAY,
            )

    def publish_topic(self, topic: str) -> PublishTopic:
        """What a publish to this topic means.

        The gateway's topics cannot be taken by a profile; the v1 names of what it replaces are unknown.
        """
        usual = publish_topic(topic)
        if usual.intent is Intent.GATEWAY:
            return usual
        if self._attributes is not None and matches(self._attributes, topic):
            return PublishTopic(Intent.ATTRIBUTES, V1, topic)
        if self._telemetry is not None and matches(self._telemetry, topic):
            return PublishTopic(Intent.TELEMETRY, V1, topic)
        is_replaced = (self._telemetry is not None and topic == V1.telemetry) or (
            self._attributes is not None and topic == V1.attributes
        )
        return _UNKNOWN if is_replaced else usual

    def filter_kind(self, topic_filter: str) -> tuple[FilterKind, Family]:
        """As `topics.filter_kind`, with the profile's own topic for pushes of shared attributes."""
        if self._pushes is not None and matches(self._pushes, topic_filter):
            pushes = topic_filter if is_topic(topic_filter) else V1.attributes
            return FilterKind.ATTRIBUTES, V1._replace(attributes=pushes)
        return filter_kind(topic_filter)

    def form_down(self, family: Family) -> Form:
        """How what goes to the device on this family's topics is written."""
        return JSON if family.is_v1 and self._is_v1_down_json else self.forms[family.form]


class Transports:
    """The settings by profile: read once for each version of it."""

    def __init__(self, configured: Iterable[ProfileConfig] = ()) -> None:
        self._configured = {item.name: Transport(item.to_json(), item.name) for item in configured}
        self._plain = Transport({}, "")
        self._kept: OrderedDict[UUID, tuple[DeviceProfile, Transport]] = OrderedDict()

    def of(self, profile: DeviceProfile | None, name: str) -> Transport:
        """For a device whose profile this is, and has this name (for one that nobody has told us of)."""
        settings = None if profile is None else _settings(profile)
        if settings is None or profile is None:
            return self._configured.get(name, self._plain)
        known = self._kept.get(profile.id)
        if known is None or known[0] is not profile:
            known = self._kept[profile.id] = (profile, Transport(settings, profile.name))
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(profile.id)
        return known[1]


def check_profiles(configured: Iterable[ProfileConfig]) -> None:
    """What a start would take, and devices would suffer from: a schema that cannot be used, a profile named twice.

    Raises:
        ConfigError: Which schema, and the line in it.
    """
    seen: set[str] = set()
    for index, item in enumerate(configured):
        where = f"broker.profiles[{index}]"
        if item.name in seen:
            raise ConfigError(where, f"the profile {item.name!r} stands twice; put its settings into one")
        seen.add(item.name)
        for member in ("telemetry_schema", "attributes_schema", "rpc_request_schema", "rpc_response_schema"):
            text = getattr(item, member)
            try:
                if text is not None:
                    Codec(text)
            except SchemaError as error:
                raise ConfigError(f"{where}.{member}", str(error)) from None


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT's wildcards. A filter is compared by its text, level for level: `a/+` takes `a/+` as well as `a/b`."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)


def is_topic(text: str) -> bool:
    """Something can be published to it."""
    return "+" not in text and "#" not in text


def _settings(profile: DeviceProfile) -> Mapping[str, Any] | None:
    data = profile.json.get("profileData") if profile.json is not None else None
    settings = data.get("transportConfiguration") if isinstance(data, Mapping) else None
    return settings if isinstance(settings, Mapping) and settings.get("type") == "MQTT" else None


def _own_topic(settings: Mapping[str, Any], member: str, default: str, name: str) -> str | None:
    """None: the usual one."""
    topic = settings.get(member)
    if topic is None or topic == default:
        return None
    if not isinstance(topic, str) or not topic or not is_valid_filter(topic):
        log.warning("device profile %r: %s is no topic filter; the usual topic counts", name, member)
        return None
    return topic
