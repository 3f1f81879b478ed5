"""Values survive the wire with their types, and no bytes from the cloud are a bug of ours."""

import contextlib
import math
from uuid import UUID

import orjson
from hypothesis import given
from hypothesis import strategies as st

from gateway.cloud.codec import halves, uuid_of
from gateway.cloud.decode import decode_response
from gateway.cloud.encode import encode_uplink
from gateway.cloud.pb import edge_pb2
from gateway.cloud.session import DownlinkReceived
from gateway.domain.downlink import TelemetryReceived
from gateway.domain.entity import EntityId
from gateway.errors import RejectedError, TransientError
from tests.unit.cloud.build import DEVICE_ID, TS, State, event

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
values = st.one_of(plain, st.lists(plain, max_size=3), st.dictionaries(texts, plain, max_size=3))


@given(st.uuids(allow_nil=True))
def test_an_id_survives_its_halves(id_: UUID):
    high, low = halves(id_)
    assert -(1 << 63) <= high < 1 << 63
    assert -(1 << 63) <= low < 1 << 63
    assert uuid_of(high, low) == id_


@given(st.dictionaries(texts, values, min_size=1, max_size=6), st.integers(1, 1 << 50))
def test_values_survive_the_wire_with_their_types(data, ts_ms):
    sent = encode_uplink(1, [event("TIMESERIES_UPDATED", {"ts": ts_ms, "data": data})], State())
    assert sent is not None
    (entity_data,) = edge_pb2.RequestMsg.FromString(sent).uplinkMsg.entityData
    back = decode_response(
        edge_pb2.ResponseMsg(downlinkMsg=edge_pb2.DownlinkMsg(entityData=[entity_data])).SerializeToString()
    )
    assert isinstance(back, DownlinkReceived)
    (command,) = back.downlink.commands
    assert isinstance(command, TelemetryReceived)
    assert command.entity == EntityId("DEVICE", DEVICE_ID)
    (series,) = command.series
    assert series.ts_ms == ts_ms
    assert _typed(series.values) == _typed(data)


def _typed(value):
    """Equal only when types are equal too: 1 is not True, 5.0 is not 5."""
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    sign = math.copysign(1, value) if isinstance(value, float) else 0
    return type(value).__name__, sign, value


@given(st.binary(max_size=200))
def test_no_bytes_from_the_cloud_are_a_bug_of_ours(data):
    with contextlib.suppress(TransientError):
        decode_response(data)


jsons = st.recursive(
    st.one_of(st.none(), plain), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
keys = ("ts", "data", "kv", "scope", "keys", "requestId", "requestUUID", "response", "method", "params", "oneway")
bodies = st.one_of(
    st.binary(max_size=30),
    jsons.map(orjson.dumps),
    st.dictionaries(st.sampled_from(keys), jsons, max_size=5).map(orjson.dumps),
)
actions = (
    "TIMESERIES_UPDATED",
    "ATTRIBUTES_UPDATED",
    "ATTRIBUTES_DELETED",
    "RPC_CALL",
    "ALARM_ACK",
    "RELATION_DELETED",
)


@given(st.sampled_from(actions), st.sampled_from(("DEVICE", "ALARM", "RELATION")), bodies)
def test_no_stored_body_is_a_bug_of_ours(action, type_, body):
    try:
        sent = encode_uplink(1, [event(action, body, type_=type_)], State())
    except RejectedError:
        return
    if sent is not None:
        message = edge_pb2.RequestMsg.FromString(sent).uplinkMsg
        assert all(len(item.kv) for data in message.entityData for item in data.postTelemetryMsg.tsKvList)


def test_what_a_message_of_several_events_holds_is_the_sum_of_its_events():
    one = event("TIMESERIES_UPDATED", {"ts": TS, "data": {"t": 1}})
    sent = encode_uplink(1, [one] * 3, State())
    assert sent is not None
    assert len(edge_pb2.RequestMsg.FromString(sent).uplinkMsg.entityData) == 3
