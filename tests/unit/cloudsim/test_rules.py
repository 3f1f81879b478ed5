"""The pure parts: values, credentials, the event queue, faults, options."""

import uuid
from pathlib import Path

import click
import orjson
import pytest
from click.testing import CliRunner

from gateway.cloud.pb import edge_pb2, queue_pb2
from gateway.cloudsim import CloudSimOptions, Flavour, RpcResult, entities
from gateway.cloudsim.command import cloud_sim, parse_device, parse_fault
from gateway.cloudsim.core import Cloud
from gateway.cloudsim.events import EdgeEvent, EventQueue, filter_page
from gateway.cloudsim.faults import Faults
from gateway.cloudsim.sync import sync_pages
from gateway.cloudsim.values import key_of, read_values, uuid_of, write_values
from gateway.cloudsim.view import greeting, page, status_line
from gateway.errors import ConfigError, RejectedError

DEVICE = uuid.UUID("0a1b2c30-4d5e-11ef-8a9b-0c1d2e3f4a5b")


def test_ids_travel_as_two_signed_halves():
    assert key_of(DEVICE) == (728224350718530031, -8459154155615860133)
    assert uuid_of(728224350718530031, -8459154155615860133) == DEVICE


@pytest.mark.parametrize(
    ("given", "kind", "read"),
    [
        (True, "BOOLEAN_V", True),
        (17, "LONG_V", 17),
        ("17", "LONG_V", 17),
        ("-3.5", "DOUBLE_V", -3.5),
        ("1e3", "LONG_V", 1000),
        (5.0, "DOUBLE_V", 5.0),
        (2**63, "STRING_V", str(2**63)),
        ("off", "STRING_V", "off"),
        ({"a": [1]}, "JSON_V", {"a": [1]}),
    ],
)
def test_a_value_keeps_its_kind(given, kind, read):
    (kv,) = write_values({"k": given})
    assert queue_pb2.KeyValueType.Name(kv.type) == kind
    assert read_values([kv]) == {"k": read}


def test_null_is_left_out_and_bad_json_is_refused():
    assert list(write_values({"k": None})) == []
    with pytest.raises(RejectedError, match="not JSON"):
        read_values([queue_pb2.KeyValueProto(key="k", type=4, json_v="{")])


def test_credentials_ids_are_computed_again():
    # The digests: `printf 'c7|u7' | openssl dgst -sha3-256`, and the same of 'ABCD'
    basic = '{"clientId":"c7","userName":"u7","password":"p7"}'
    digest = "d98329e5c4bd5eb46f8a19211595ec0aa39825c9b1bec20c7dcc444a40195aba"
    assert entities.computed_credentials_id("MQTT_BASIC", "", basic) == digest
    assert entities.computed_credentials_id("MQTT_BASIC", "", '{"userName":"u7","password":"p"}') == "u7"
    assert entities.computed_credentials_id("ACCESS_TOKEN", "tok", None) == "tok"
    marked = "-----BEGIN CERTIFICATE-----\nAB\nCD\n-----END CERTIFICATE-----\n"
    digest = "34bbdf1adad011d1feeb7c17864589b07af0cbc2759b0d402e248f55abc5bad9"
    assert entities.computed_credentials_id("X509_CERTIFICATE", "", marked) == digest
    for wrong in ("{}", '{"clientId":"c","password":"p"}'):
        with pytest.raises(ValueError, match="user name"):
            entities.computed_credentials_id("MQTT_BASIC", "", wrong)


def test_what_is_stored_while_the_edge_is_away():
    queue = EventQueue((4, 3))
    updated = EdgeEvent("DEVICE", "UPDATED", DEVICE)
    assert not queue.push(EdgeEvent("ALARM", "ADDED", DEVICE), is_active=False, was_connected=False)
    assert not queue.push(updated, is_active=False, was_connected=True)
    for kept in (
        EdgeEvent("DEVICE", "DELETED", DEVICE),
        EdgeEvent("DEVICE", "TIMESERIES_UPDATED", DEVICE),
        EdgeEvent("RELATION", "ADDED", None),
        EdgeEvent("NOTIFICATION_RULE", "ADDED", DEVICE),
    ):
        assert queue.push(kept, is_active=False, was_connected=True)
    assert queue.push(updated, is_active=True, was_connected=True)
    assert (len(queue), queue.lost) == (5, 2)
    assert not EventQueue((3, 8)).push(EdgeEvent("DEVICE", "DELETED", DEVICE), is_active=False, was_connected=True)


def test_a_page_says_nothing_twice_and_keeps_the_newest_attribute():
    def updated(ts: int, **kv: int) -> EdgeEvent:
        return EdgeEvent("DEVICE", "ATTRIBUTES_UPDATED", DEVICE, {"kv": kv, "scope": "SHARED_SCOPE"}, ts)

    same = EdgeEvent("DEVICE", "UPDATED", DEVICE)
    events = [same, updated(1, a=1, b=1), same, updated(2, a=2), updated(3, b=1, a=3)]
    kept = filter_page(events, (4, 3))
    assert [event.body and event.body["kv"] for event in kept] == [None, {"b": 1, "a": 3}]
    assert len(filter_page(events, (4, 2))) == 4


def test_faults_refuse_what_they_do_not_know_and_change_nothing_then():
    faults = Faults()
    for wrong in ({"slow_ms": -1}, {"rate_limit": True}, {"fail_once": ""}, {"no_such": 1}):
        with pytest.raises(RejectedError):
            faults.update({"sync_never_completes": True} | wrong)
    assert faults.settings.sync_never_completes is False


def test_the_rate_limit_counts_messages_a_second():
    faults = Faults()
    faults.update({"rate_limit": 2})
    assert [faults.is_over_rate(now) for now in (0.0, 0.1, 0.2, 1.05, 1.08)] == [False, False, True, False, True]


@pytest.mark.parametrize("wrong", [{"version": "2.9"}, {"tls_cert": Path("x")}, {"rtt_ms": -1}, {"routing_key": ""}])
def test_options_that_cannot_be_simulated(wrong):
    with pytest.raises(ConfigError):
        CloudSimOptions(**wrong)


def test_the_secret_is_not_shown_by_repr():
    assert "demo-secret" not in repr(CloudSimOptions())


def test_devices_on_the_command_line():
    device = parse_device("Pump 1:pump=tok=en")
    assert (device.name, device.profile, device.token) == ("Pump 1", "pump", "tok=en")
    assert (parse_device("Pump").profile, parse_device("Pump").token) == ("default", "")


@pytest.mark.parametrize("version", ["3.7", "4.0", "4.2", "4.3"])
def test_the_order_of_a_sync_by_release(version):
    cloud = Cloud(CloudSimOptions(version=version))
    types = [page[0].type for page in sync_pages(cloud.world, cloud.options.release, is_full=True)]
    assert (types.index("WIDGET_TYPE") < types.index("DEVICE")) is (version == "4.3")
    assert types.count("ADMIN_SETTINGS") == (1 if version == "4.0" else 2)
    assert types.count("DEVICE_PROFILE") == (2 if version == "3.7" else 3)
    metadata = cloud.world.metadata[cloud.world.root_chain_id]
    assert metadata["firstNodeIndex"] == (2 if version == "4.3" else 0)
    names = [node["name"] for node in metadata["nodes"]]
    first = names[metadata["firstNodeIndex"]]
    assert first == ("Message Type Switch" if version == "4.3" else "Device Profile Node")
    links = {(names[c["fromIndex"]], c["type"], names[c["toIndex"]]) for c in metadata["connections"]}
    assert ("Save Timeseries", "Success", "Push to cloud") in links


def test_old_edges_get_no_processing_settings():
    cloud = Cloud(CloudSimOptions())
    event = EdgeEvent("RULE_CHAIN", "ADDED", cloud.world.root_chain_id)

    def text() -> str:
        msg = cloud.converter.convert(event)
        assert msg is not None
        return msg.ruleChainMetadataUpdateMsg[0].entity

    assert "processingSettings" in text()
    cloud.converter.announced = edge_pb2.V_3_7_0
    assert "processingSettings" not in text()


def test_a_profile_from_the_edge_keeps_what_belongs_to_the_cloud():
    cloud = Cloud(CloudSimOptions())
    profile = cloud.world.named("DEVICE_PROFILE", "default")
    assert profile is not None
    profile.json["defaultRuleChainId"] = {"entityType": "RULE_CHAIN", "id": str(DEVICE)}
    msb, lsb = key_of(profile.id)
    text = entities.device_profile(profile.id, 5, cloud.world.tenant_id, "default", is_default=False)
    msg = edge_pb2.DeviceProfileUpdateMsg(msgType=1, idMSB=msb, idLSB=lsb, entity=_text(text))
    assert cloud.uplink.apply(edge_pb2.UplinkMsg(deviceProfileUpdateMsg=[msg]))
    assert profile.json["default"] is True
    assert profile.json["defaultRuleChainId"]["id"] == str(DEVICE)
    assert profile.json["defaultEdgeRuleChainId"] is None
    msg.msgType = edge_pb2.ENTITY_DELETED_RPC_MESSAGE
    with pytest.raises(RejectedError, match="unsupported"):
        cloud.uplink.apply(edge_pb2.UplinkMsg(deviceProfileUpdateMsg=[msg]))


def test_an_answer_that_is_not_json_has_its_own_status():
    assert [RpcResult(response=text).status for text in ("{}", "", "nonsense")] == [200, 200, 406]


def test_the_view_shows_where_to_connect_and_what_came():
    cloud = Cloud(CloudSimOptions())
    text = greeting(cloud, 7070, 7080)
    assert "development tool" in text
    assert "CLOUD_RPC_PORT=7070" in text
    assert "http://127.0.0.1:7080" in text
    assert "not connected" in status_line(cloud, 0.0)
    assert len(page(cloud, 1.0).renderables) == 4


def _text(json: object) -> str:
    return orjson.dumps(json).decode()


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("silent", ("silent", True)),
        ("slow_ms=2.5", ("slow_ms", 2.5)),
        ("fail_once=Valve B", ("fail_once", "Valve B")),
        ("device_quota=null", ("device_quota", None)),
    ],
)
def test_a_fault_on_the_command_line(text, read):
    assert parse_fault(text) == read


@pytest.mark.parametrize("text", ["typo", "slow_ms=much", "silent=3"])
def test_a_fault_that_is_none(text):
    with pytest.raises(click.BadParameter, match=text.partition("=")[0]):
        parse_fault(text)


def test_every_option_of_the_command_line_reaches_the_simulator(monkeypatch):
    got = []
    monkeypatch.setattr("gateway.cloudsim.command.run_cloud_sim", got.append)
    arguments = ["--flavour", "winstar", "--cloud-type", "PE", "--widgets", "50", "--fault", "silent"]
    done = CliRunner().invoke(cloud_sim, [*arguments, "--ack-within-s", "3"])
    assert done.exit_code == 0, done.output
    (options,) = got
    assert (options.version, options.flavour, options.cloud_type) == ("3.7", Flavour.WINSTAR, "PE")
    assert (options.widgets, options.faults, options.ack_within_s) == (50, (("silent", True),), 3.0)
    done = CliRunner().invoke(cloud_sim, ["--flavour", "winstar", "--version", "4.3"])
    assert done.exit_code == 78
    assert "3.7 only" in done.output
