"""The table in docs/downlinks.md is complete and true: every field of the generated message, applied twice."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.cloud.codec import halves
from gateway.cloud.decode import decode_response
from gateway.cloud.pb import edge_pb2
from gateway.devices import Ota
from gateway.domain.changes import SaveEntity
from gateway.domain.downlink import Ignored
from gateway.domain.entity import EdgeIdentity, time_uuid
from gateway.downlink import Dispatcher
from gateway.store import PackageFiles
from tests.fakes.house import House, settle
from tests.unit.downlink.test_dispatch import FakeChains

PAGE = Path(__file__).parents[3] / "docs" / "downlinks.md"
TABLE = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE))
FIELDS = [field for field in edge_pb2.DownlinkMsg.DESCRIPTOR.fields if field.name != "downlinkMsgId"]
SECRET = "hunter2"


def test_the_table_names_every_field_and_no_other():
    assert set(TABLE) == {field.name for field in FIELDS}


def fill(field: Any, device: Any) -> Any:
    """A part that has an effect."""
    message = edge_pb2.DownlinkMsg(downlinkMsgId=1)
    parts = getattr(message, field.name)
    if not field.is_repeated:
        parts.SetInParent()
        if field.name == "edgeConfiguration":
            parts.edgeIdMSB, parts.edgeIdLSB = halves(time_uuid())
            parts.tenantIdMSB, parts.tenantIdLSB = halves(time_uuid())
        return message
    part = parts.add()
    names = {one.name for one in part.DESCRIPTOR.fields}
    id_ = time_uuid()
    for prefix, own in (("id", id_), ("deviceId", device.id), ("entityId", device.id), ("requestUuid", id_)):
        if f"{prefix}MSB" in names:
            high, low = halves(own)
            setattr(part, f"{prefix}MSB", high)
            setattr(part, f"{prefix}LSB", low)
    here = {"entityType": "DEVICE", "id": str(device.id)}
    if "entity" in names:
        part.entity = orjson.dumps(
            {
                "id": {"entityType": "X", "id": str(id_)}, "name": "N", "title": "T", "type": "FIRMWARE", "secret": SECRET,
                "version": "1",
                "originator": here, "from": here, "to": here, "typeGroup": "COMMON", "deviceId": here,
                "credentialsType": "ACCESS_TOKEN", "credentialsId": "new", "nodes": [{}],
                "ruleChainId": {"entityType": "RULE_CHAIN", "id": str(id_)},
            }
        ).decode()  # fmt: skip
    if field.name == "entityData":
        part.entityType, part.postAttributeScope = "DEVICE", "SHARED_SCOPE"
        part.attributesUpdatedMsg.kv.add(key="k", type=1, long_v=0)
    if field.name == "deviceRpcCallMsg":
        part.requestMsg.method, part.requestMsg.params = "m", "0"
        part.expirationTime = 1 << 50
        part.oneway = True
    return message


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
async def test_every_field_does_what_the_table_says(field, tmp_path):
    async with House() as house:
        house.add_device()
        device = next(house.state.devices())
        chains = FakeChains()
        files = PackageFiles(tmp_path, 1000)
        ota = Ota(files, None, house.state, house.pipeline, house.inlet, house.clock, house.counters)
        dispatcher = Dispatcher(
            house.commands, chains, house.pipeline.commit, house.state, house.clock, house.counters, ota
        )
        await dispatcher.connected(EdgeIdentity(edge_id=time_uuid(), tenant_id=time_uuid()))
        house.committer.units.clear()
        data = edge_pb2.ResponseMsg(downlinkMsg=fill(field, device)).SerializeToString()
        event = decode_response(data)
        assert event.broken == ""
        await dispatcher.handle(event.downlink)
        await settle()
        written = house.committer.changes()
        saved = [change for change in written if isinstance(change, SaveEntity)]
        match TABLE[field.name]:
            case "left":
                assert written == []
                assert [type(command) for command in event.downlink.commands] == [Ignored]
            case "name":
                assert [change.json.get("name") for change in saved] == ["N"]
                assert SECRET not in repr(saved)
            case "kept":
                assert [change.json.get("name") for change in saved] == ["N"]
            case _:
                assert written
        before = snapshot_of(house)
        await dispatcher.handle(decode_response(data).downlink)
        await settle()
        assert snapshot_of(house) == before
        await files.close()


def snapshot_of(house: House) -> Any:
    state = house.state
    return (
        sorted(map(repr, state.devices())),
        {kind: dict(state.entities(kind)) for kind in ("ALARM", "ASSET", "CUSTOMER", "RELATION", "ASSET_PROFILE")},
        dict(state.attributes(next(state.devices()).entity_id, "SHARED_SCOPE")),
        state.documents_bytes(),
        house.answers(),
        state.identity(),
    )


async def test_fields_of_a_newer_server_are_acknowledged():
    event = decode_response(bytes.fromhex("1a07" + "0807" + "ca3e02" + "0801"))  # field 1001, 2 bytes
    assert event.downlink.id == 7
    assert event.downlink.commands == []
    assert event.broken == ""
