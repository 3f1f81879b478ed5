"""Topics: what belongs to the API, in which spelling, and what may never be local."""

import pytest

from gateway.broker.topics import (
    V1,
    V2,
    V2_JSON,
    V2_PROTOBUF,
    FilterKind,
    Intent,
    filter_kind,
    is_local,
    parse_id,
    publish_topic,
)


@pytest.mark.parametrize(
    ("topic", "intent", "family", "id_text"),
    [
        ("v1/devices/me/telemetry", Intent.TELEMETRY, V1, ""),
        ("v2/t", Intent.TELEMETRY, V2, ""),
        ("v2/t/j", Intent.TELEMETRY, V2_JSON, ""),
        ("v2/t/p", Intent.TELEMETRY, V2_PROTOBUF, ""),
        ("v1/devices/me/attributes", Intent.ATTRIBUTES, V1, ""),
        ("v2/a/j", Intent.ATTRIBUTES, V2_JSON, ""),
        ("v1/devices/me/attributes/request/7", Intent.ATTRIBUTE_REQUEST, V1, "7"),
        ("v2/a/req/7", Intent.ATTRIBUTE_REQUEST, V2, "7"),
        ("v2/a/req/j/7", Intent.ATTRIBUTE_REQUEST, V2_JSON, "7"),
        ("v2/a/req/p/7", Intent.ATTRIBUTE_REQUEST, V2_PROTOBUF, "7"),
        ("v1/devices/me/rpc/response/7", Intent.RPC_ANSWER, V1, "7"),
        ("v2/r/res/j/7", Intent.RPC_ANSWER, V2_JSON, "7"),
        ("v1/devices/me/rpc/request/x", Intent.RPC_REQUEST, V1, "x"),
        ("v2/r/req/p/7", Intent.RPC_REQUEST, V2_PROTOBUF, "7"),
        ("v1/devices/me/claim", Intent.CLAIM, V1, ""),
        ("v1/gateway/telemetry", Intent.GATEWAY, V1, ""),
        ("v1/x", Intent.UNKNOWN, V1, ""),
        ("$SYS/x", Intent.UNKNOWN, V1, ""),
        ("/provision/request", Intent.UNKNOWN, V1, ""),
        ("plant/line", Intent.LOCAL, V1, ""),
        ("/plant", Intent.LOCAL, V1, ""),
    ],
)
def test_publish_topics(topic, intent, family, id_text):
    assert publish_topic(topic) == (intent, family, id_text)


@pytest.mark.parametrize(
    ("topic_filter", "kind"),
    [
        ("v1/devices/me/attributes", FilterKind.ATTRIBUTES),
        ("v2/a/j", FilterKind.ATTRIBUTES),
        ("v1/devices/me/rpc/request/+", FilterKind.RPC),
        ("v1/devices/me/attributes/response/+", FilterKind.GRANTED),
        ("v1/gateway/rpc", FilterKind.GRANTED),
        ("v2/fw/response/+/chunk/+", FilterKind.GRANTED),
        ("v2/fw/response/+", FilterKind.REFUSED),
        ("v1/devices/me/+", FilterKind.REFUSED),
        ("v1/devices/me/telemetry", FilterKind.REFUSED),
        ("v1/devices/me/attributes/response/1", FilterKind.REFUSED),
        ("v1/#", FilterKind.REFUSED),
        ("v2/a/p", FilterKind.ATTRIBUTES),
        ("$share/g/plant", FilterKind.LOCAL),
        ("$share/g/v1/devices/me/telemetry", FilterKind.REFUSED),
        ("$share/g/v1/devices/me/attributes", FilterKind.REFUSED),
        ("$share/g/$SYS/x", FilterKind.REFUSED),
        ("$share/g/", FilterKind.REFUSED),
        ("$share/+/plant", FilterKind.REFUSED),
        ("$share/g", FilterKind.REFUSED),
        ("#", FilterKind.LOCAL),
        ("+/line", FilterKind.LOCAL),
    ],
)
def test_filters_are_matched_by_their_text(topic_filter, kind):
    assert filter_kind(topic_filter)[0] is kind


def test_reserved_names_are_never_local():
    assert not any(is_local(t) for t in ("v1", "v2", "v1/", "v2/t", "$SYS", "/provision", "v1/gateway/x"))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("-1", -1),
        ("2147483647", 2**31 - 1),
        ("2147483648", None),
        ("", None),
        ("x", None),
        ("1_0", None),
        ("٧", None),
    ],
)
def test_request_ids_are_32_bit(text, number):
    assert parse_id(text) == number
