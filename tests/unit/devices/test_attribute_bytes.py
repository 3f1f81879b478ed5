"""What attributes weigh is known at any moment, because devices invent their keys."""

from gateway.devices.state import State
from gateway.domain.changes import DeleteAttributes, DeleteDevice, SaveAttributes
from gateway.domain.entity import EntityId, time_uuid
from gateway.domain.telemetry import Attribute, attribute_bytes
from gateway.ports import Snapshot

SCOPE = "CLIENT_SCOPE"


def test_the_sum_follows_every_change():
    device = EntityId("DEVICE", time_uuid())
    state = State(Snapshot(attributes=[(device, SCOPE, "old", Attribute(1, "abc"))]))
    assert state.attributes_bytes() == attribute_bytes("old", "abc")
    state.apply([SaveAttributes(device, SCOPE, 2, {"old": "x" * 1000, "n": 1, "json": {"a": [1, 2]}})])
    held = {"old": "x" * 1000, "n": 1, "json": {"a": [1, 2]}}
    assert state.attributes_bytes() == sum(attribute_bytes(key, value) for key, value in held.items()) > 1000
    state.apply([DeleteAttributes(device, SCOPE, ["old", "never there"])])
    assert state.attributes_bytes() == attribute_bytes("n", 1) + attribute_bytes("json", {"a": [1, 2]})
    state.apply([DeleteDevice(device.id)])
    assert state.attributes_bytes() == 0
