"""Nodes that look beyond their message: order, durability, secrets."""

import asyncio
import json
from dataclasses import replace
from uuid import UUID

import pytest

from gateway.config import RulesConfig
from gateway.domain.changes import AppendEvent
from gateway.domain.entity import Credentials
from gateway.rules.nodes import delta
from gateway.rules.nodes.filter import SWITCH_LABELS
from gateway.trial import Trial
from tests.unit.rules.kit import DEVICE_ID, PUSH, Rules, metadata

DELTA = ("metadata.CalculateDeltaNode", "delta", {"inputValueKey": "p", "outputValueKey": "d", "useCache": False})
SAVE = ("telemetry.TbMsgTimeseriesNode", "save", {"processingSettings": {"type": "ON_EVERY_MESSAGE"}})
TABLE = """
POST_ATTRIBUTES_REQUEST Post attributes|POST_TELEMETRY_REQUEST Post telemetry|ALARM Alarm|ALARM_CREATED Alarm Created
TO_SERVER_RPC_REQUEST RPC Request from Device|RPC_CALL_FROM_SERVER_TO_DEVICE RPC Request to Device
ACTIVITY_EVENT Activity Event|INACTIVITY_EVENT Inactivity Event|CONNECT_EVENT Connect Event
DISCONNECT_EVENT Disconnect Event|ENTITY_CREATED Entity Created|ENTITY_UPDATED Entity Updated
ENTITY_DELETED Entity Deleted|ENTITY_ASSIGNED Entity Assigned|ENTITY_UNASSIGNED Entity Unassigned
ATTRIBUTES_UPDATED Attributes Updated|ATTRIBUTES_DELETED Attributes Deleted|TIMESERIES_UPDATED Timeseries Updated
TIMESERIES_DELETED Timeseries Deleted|ENTITY_ASSIGNED_FROM_TENANT Entity Assigned From Tenant
ENTITY_ASSIGNED_TO_TENANT Entity Assigned To Tenant|ALARM_UPDATED Alarm Updated|ALARM_ACK Alarm Acknowledged
ALARM_SEVERITY_UPDATED Alarm Severity Updated|ALARM_CLEAR Alarm Cleared|ALARM_ASSIGNED Alarm Assigned
ALARM_UNASSIGNED Alarm Unassigned|COMMENT_CREATED Comment Created|COMMENT_UPDATED Comment Updated
RPC_QUEUED RPC Queued|RPC_SENT RPC Sent|RPC_DELIVERED RPC Delivered|RPC_SUCCESSFUL RPC Successful
RPC_TIMEOUT RPC Timeout|RPC_EXPIRED RPC Expired|RPC_FAILED RPC Failed|RPC_DELETED RPC Deleted
RELATION_ADD_OR_UPDATE Relation Added or Updated|RELATION_DELETED Relation Deleted
RELATIONS_DELETED All Relations Deleted|REST_API_REQUEST REST API request
"""


def test_labels_of_the_type_switch_are_those_of_the_reference():
    rows = [row.split(" ", 1) for line in TABLE.split("\n") for row in line.split("|") if row]
    assert {type_: label.lower() for type_, label in rows} == SWITCH_LABELS


def trial(tmp_path, *nodes_and_links):
    path = tmp_path / "chain.json"
    path.write_text(json.dumps(metadata(*nodes_and_links)))
    return Trial(RulesConfig(root_chain=path))


async def test_a_reading_sees_what_the_one_before_it_has_saved(tmp_path):
    async with trial(tmp_path, [DELTA, SAVE, PUSH], (0, 1, "Success"), (1, 2, "Success")) as house:
        await house.set_up({"device": "Device"})
        commit = house.store.commit

        async def slow(units):
            for _ in range(20):  # turns of the loop: the next message is walked long before
                await asyncio.sleep(0)
            await commit(units)

        house.store.commit = slow
        sent = [house.message({"msg": {"p": p}, "ts": n + 1}) for n, p in enumerate([5, 7, 12, 12, 9])]
        other = house.message({"msg": {"p": 1}, "ts": 1, "originator": "Other"})
        await asyncio.gather(*(house.pipeline.run([message]) for message in [*sent, other]))
        events = [change.event for unit in house._committer.units for change in unit if isinstance(change, AppendEvent)]
        bodies = [json.loads(event.body)["data"] for event in events if event.entity_id == sent[0].originator.id]
    assert [(body["p"], body["d"]) for body in bodies] == [(5, 0), (7, 2), (12, 5), (12, 0), (9, -3)]


async def test_many_originators_do_not_fill_the_memory_of_a_delta(tmp_path, monkeypatch):
    monkeypatch.setattr(delta, "MAX_ORIGINATORS", 2)
    cached = (DELTA[0], "delta", {**DELTA[2], "useCache": "true"})
    async with trial(tmp_path, [cached, PUSH], (0, 1, "Success")) as house:
        for name in "abca":
            result = await house.send({"msg": {"p": 5}, "originator": name})
        assert result["pushed"][0]["body"]["data"]["d"] == 0  # forgotten, and nothing is saved here
        assert (await house.send({"msg": {"p": 7}, "originator": "a"}))["pushed"][0]["body"]["data"]["d"] == 2
        local = (await house.store.load()).local
        assert len(local) == 2


@pytest.mark.parametrize(
    ("value", "before", "decimals", "expected"),
    [
        (0.3, 0.1, None, 0.2),
        (1.005, 0.0, 2, 1.01),
        (2.5, 0.0, 0, 3),
        (-2.5, 0.0, 0, -3),
        (2**62, 2**62 - 1, None, 1),
        (1e300, 0.0, 2, 1e300),
        ("x", 3, None, -3),
        (True, 3, None, -3),
        ("1_0", 0, None, 0),
    ],
)
async def test_delta_of_numbers(tmp_path, value, before, decimals, expected):
    config = {**DELTA[2], "round": decimals}
    async with trial(tmp_path, [(DELTA[0], "delta", config), PUSH], (0, 1, "Success")) as house:
        await house.set_up({"device": "Device", "telemetry": {"-1": {"p": before}}})
        found = (await house.send({"msg": {"p": value}}))["pushed"][0]["body"]["data"]["d"]
    assert found == pytest.approx(expected, abs=1e-12)
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        (Credentials(type="ACCESS_TOKEN", credentials_id="tok"), "tok"),
        (Credentials(type="X509_CERTIFICATE", credentials_id="hash", value="PEM"), "PEM"),
        (Credentials(type="MQTT_BASIC", credentials_id="h", value='{"userName":"u"}'), {"userName": "u"}),
    ],
)
def test_credentials_where_the_operator_allows_them(credentials, expected):
    node = ("metadata.TbFetchDeviceCredentialsNode", "get", {"fetchTo": "DATA"})
    rules = Rules([node, PUSH], (0, 1, "Success"), allow_credentials=True)
    assert "no device whose credentials are known" in rules.run({}).errors[0]
    rules.state.devices[DEVICE_ID] = replace(rules.state.devices[DEVICE_ID], credentials=credentials)
    (event,) = rules.run({"a": 1}).changes
    found = {"a": 1, "credentialsType": credentials.type, "credentials": expected}
    assert json.loads(event.event.body)["data"] == found


async def test_an_asset_enters_the_chain_of_its_profile(tmp_path):
    chain_id = "22222222-4d5e-11ef-8a9b-0c1d2e3f4a5b"
    forward = ("flow.TbRuleChainInputNode", "elsewhere", {"forwardMsgToDefaultRuleChain": True})
    async with trial(tmp_path, [PUSH]) as house:
        chain = {"entityType": "RULE_CHAIN", "id": chain_id}
        house.engine.put_chain(UUID(chain_id), {"name": "Assets"})
        house.engine.put_metadata(UUID(chain_id), metadata([("flow.TbAckNode", "here", {})]))
        other = UUID(int=5)
        house.engine.put_chain(other, {"name": "Forward"})
        house.engine.put_metadata(other, metadata([forward]))
        await house.set_up({"entity": "ASSET_PROFILE", "name": "line", "json": {"defaultEdgeRuleChainId": chain}})
        await house.set_up({"entity": "ASSET", "name": "Hall", "profile": "line"})
        await house.set_up({"entity": "ASSET", "name": "Shed"})
        said = {"msg": {"a": 1}, "originator": ["ASSET", "Hall"]}
        assert (await house.send(said))["path"] == ["here → success"]
        house.engine.process(house.message(said), other)
        assert [step.node for step in house._steps] == ["elsewhere", "here"]
        house._steps.clear()
        assert (await house.send({**said, "originator": ["ASSET", "Shed"]}))["path"] == ["up → success"]
