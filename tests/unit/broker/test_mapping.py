"""Mapping rules as pure functions: the sets that come along, every option, and complaints that say where.

The payloads are written after the public documentation that each set names as its source.
"""

import orjson
import pytest

from gateway.broker.external_api import native_rules
from gateway.broker.mapped import to_json
from gateway.broker.mapping import MisfitError, Rules, answer_of, publish_of, render, select, topic_of
from gateway.broker.mapping_rules import (
    READY,
    Answer,
    DownRule,
    MappingFile,
    RuleSet,
    load_file,
    load_sets,
    ready_names,
)
from gateway.config import MappingsConfig, parse_config
from gateway.errors import ConfigError, RejectedError

NOW = 1_700_000_000_000


def rules(*up, down=(), **more):
    return Rules([RuleSet("own", parse_config(MappingFile, {"up": up, "down": down, **more}, ""))])


def read(mapping, topic, body, **more):
    payload = body.encode() if isinstance(body, str) else orjson.dumps(body)
    return mapping.read(topic, payload, NOW, **more)


def said(heard):
    """Device, telemetry of its only time stamp, attributes, presence."""
    telemetry = dict(heard.telemetry[0].values) if heard.telemetry else {}
    return heard.device, telemetry, dict(heard.attributes), heard.is_online


@pytest.mark.parametrize(
    ("name", "topic", "payload", "expected"),
    [
        ("tasmota", "tele/plug/LWT", "Online", ("plug", {}, {}, True)),
        ("tasmota", "tele/plug/LWT", "Offline", ("plug", {}, {}, False)),
        (
            "tasmota",
            "tele/plug/SENSOR",
            {
                "Time": "2024-05-01T12:00:00",
                "ENERGY": {"TotalStartTime": "2024-01-01T00:00:00", "Total": 3.185, "Power": [12, 7]},
                "AM2301": {"Temperature": 21.4, "Humidity": 50.1},
                "TempUnit": "C",
            },
            (
                "plug",
                {
                    "ENERGY_Total": 3.185,
                    "ENERGY_Power_1": 12,
                    "ENERGY_Power_2": 7,
                    "AM2301_Temperature": 21.4,
                    "AM2301_Humidity": 50.1,
                },
                {},
                None,
            ),
        ),
        (
            "tasmota",
            "tele/plug/STATE",
            {"Uptime": "0T00:05:12", "UptimeSec": 312, "POWER1": "ON", "POWER2": "OFF", "Wifi": {"SSId": "w", "RSSI": 70}},
            ("plug", {"POWER1": True, "POWER2": False, "UptimeSec": 312, "wifi_rssi": 70}, {"wifi_ssid": "w"}, None),
        ),
        ("tasmota", "stat/plug/RESULT", {"POWER": "OFF"}, ("plug", {"POWER": False}, {}, None)),
        ("tasmota", "stat/plug/RESULT", {"TelePeriod": 300}, None),
        ("tasmota", "tele/plug/INFO1", {"Info1": {"Module": "Basic", "Version": "13.1b"}}, ("plug", {}, {"fw_version": "13.1b", "module": "Basic"}, None)),
        ("zigbee2mqtt", "zigbee2mqtt/bridge/state", {"state": "online"}, None),
        ("zigbee2mqtt", "zigbee2mqtt/lamp/availability", {"state": "offline"}, ("lamp", {}, {}, False)),
        ("zigbee2mqtt", "zigbee2mqtt/lamp/availability", "online", ("lamp", {}, {}, True)),
        ("zigbee2mqtt", "zigbee2mqtt/lamp/set", {"state": "ON"}, None),
        (
            "zigbee2mqtt",
            "zigbee2mqtt/lamp",
            {"state": "ON", "brightness": 120, "color": {"x": 0.3, "y": 0.4}, "linkquality": 70, "update": {"state": "idle"}, "contact": None},
            ("lamp", {"state": True, "brightness": 120, "color_x": 0.3, "color_y": 0.4, "linkquality": 70}, {}, None),
        ),
        ("shelly", "shellies/shelly1pm-B929CC/relay/0", "on", ("shelly1pm-B929CC", {"relay_0": True}, {}, None)),
        ("shelly", "shellies/shelly1pm-B929CC/relay/0/power", "12.50", ("shelly1pm-B929CC", {"relay_0_power": 12.5}, {}, None)),
        ("shelly", "shellies/shelly1pm-B929CC/relay/0/command", "on", None),
        ("shelly", "shellies/shelly1pm-B929CC/temperature", "41.2", ("shelly1pm-B929CC", {"temperature": 41.2}, {}, None)),
        ("shelly", "shellies/shelly1pm-B929CC/online", "false", ("shelly1pm-B929CC", {}, {}, False)),
        ("shelly", "shellies/announce", {"id": "shelly1pm-B929CC"}, None),
        ("shelly", "shellyplus1pm-a8/online", "true", ("shellyplus1pm-a8", {}, {}, True)),
        ("shelly", "pump/online", "true", None),
        (
            "shelly",
            "shellyplus1pm-a8/status/switch:0",
            {"id": 0, "source": "init", "output": True, "apower": 8.9, "aenergy": {"total": 11.7, "by_minute": [1, 2], "minute_ts": 5}},
            (
                "shellyplus1pm-a8",
                {"switch:0_source": "init", "switch:0_output": True, "switch:0_apower": 8.9, "switch:0_aenergy_total": 11.7},
                {},
                None,
            ),
        ),
        (
            "shelly",
            "shellyplus1pm-a8/events/rpc",
            {"src": "shellyplus1pm-a8", "method": "NotifyStatus", "params": {"ts": 1631186545.04, "switch:0": {"id": 0, "output": False}}},
            ("shellyplus1pm-a8", {"switch:0_output": False}, {}, None),
        ),
        (
            "shelly",
            "shellyplus1pm-a8/events/rpc",
            {"method": "NotifyEvent", "params": {"ts": 1.0, "events": [{"component": "input:0", "event": "single_push"}]}},
            ("shellyplus1pm-a8", {"events": [{"component": "input:0", "event": "single_push"}]}, {}, None),
        ),
    ],
)  # fmt: skip
def test_sets_that_come_along(name, topic, payload, expected):
    heard = read(Rules([load_file(name)]), topic, payload)
    assert (None if heard is None else said(heard)) == expected


def test_every_set_names_its_source_and_says_nothing_of_other_sets():
    assert ready_names() == ["shelly", "tasmota", "zigbee2mqtt"]
    for name in ready_names():
        assert "https://" in load_file(name).rules.source
    together = Rules(load_sets(parse_config(MappingsConfig, {"sets": [{"use": name} for name in ready_names()]}, "")))
    assert read(together, "zigbee2mqtt/lamp", {"a": 1}).set.name == "zigbee2mqtt"
    assert read(together, "tele/plug/SENSOR", {"a": 1}).set.name == "tasmota"
    assert READY.is_dir()


def test_time_comes_from_the_payload_in_any_form():
    for time, value, expected in (
        ({"path": "t", "format": "s"}, 1700000000.25, 1_700_000_000_250),
        ({"path": "t", "format": "ms"}, "1700000000250", 1_700_000_000_250),
        ({"path": "t"}, "2023-11-14T22:13:20Z", NOW),
        ({"path": "t", "zone": "Europe/Berlin"}, "2023-11-14T23:13:20", NOW),
        ({"path": "t", "format": "%d.%m.%Y %H:%M:%S"}, "14.11.2023 22:13:20", NOW),
    ):
        mapping = rules({"topic": "a/{device}", "time": time, "telemetry": [{"path": "v"}]})
        assert read(mapping, "a/d", {"t": value, "v": 1}).telemetry[0].ts_ms == expected
    mapping = rules({"topic": "a/{device}", "time": {"path": "t"}, "telemetry": [{"path": "v"}]})
    for bad in ({"v": 1}, {"v": 1, "t": "yesterday"}, {"v": 1, "t": [1]}):
        with pytest.raises(MisfitError, match=r"own: up\[0\]: .*time.* at t"):
            read(mapping, "a/d", bad)


def test_names_come_from_several_parts_or_from_the_payload():
    mapping = rules(
        {"topic": "{site}/+/{unit}", "device": "{site}-{unit}", "telemetry": [{"path": "*.t", "key": "{1}_of_{unit}"}]}
    )
    heard = read(mapping, "east/x/7", {"a": {"t": 1}, "b": {"t": 2}, "c": 3})
    assert said(heard) == ("east-7", {"a_of_7": 1, "b_of_7": 2}, {}, None)
    mapping = rules({"topic": "in/#", "device_path": "id.serial", "attributes": [{"path": "fw"}], "profile": "meter"})
    heard = read(mapping, "in/x/y", {"id": {"serial": 17}, "fw": "1.0b"})
    assert (said(heard), heard.profile) == (("17", {}, {"fw": "1.0b"}, None), "meter")
    with pytest.raises(MisfitError, match=r"no device's name is at id\.serial"):
        read(mapping, "in/x", {"fw": "1"})


def test_the_first_rule_that_fits_decides():
    mapping = rules(
        {"topic": "m/secret", "ignore": True},
        {"topic": "m/{device}", "when": {"kind": "a"}, "telemetry": [{"path": "v", "key": "a"}]},
        {"topic": "m/{device}", "when": {"kind": ["b"]}, "telemetry": [{"path": "v", "key": "b"}]},
        {"topic": "#", "device_path": "kind", "telemetry": [{"path": "v", "key": "rest"}]},
        devices="[a-z]+",
    )
    assert read(mapping, "m/secret", {"kind": "a", "v": 1}) is None
    assert read(mapping, "m/d", {"kind": "a", "v": 1}).telemetry[0].values == {"a": 1}
    assert read(mapping, "m/d", {"kind": ["b"], "v": 1}).telemetry[0].values == {"b": 1}
    assert read(mapping, "m/d", {"kind": "c", "v": 1}).telemetry[0].values == {"rest": 1}
    assert read(mapping, "m/d", {"kind": "NOT", "v": 1}) is None


def test_what_does_not_fit_says_where_and_shows_no_value():
    mapping = rules(
        {"topic": "m/{device}", "telemetry": [{"path": "secret"}]},
        {"topic": "t/{device}", "payload": "text", "telemetry": [{"key": "v"}]},
    )
    for topic, body in (("m/d", "hush!"), ("m/d", {"other": "hush!"}), ("m/d", "[1,2"), ("m/d", "")):
        with pytest.raises(MisfitError) as caught:
            read(mapping, topic, body)
        assert "own: up[0]: " in str(caught.value)
        assert "hush" not in str(caught.value)
    with pytest.raises(MisfitError, match="UTF-8"):
        mapping.read("t/d", b"\xff\xfe", NOW)
    many = {str(number): number for number in range(1001)}
    with pytest.raises(MisfitError, match="more than 1000"):
        read(rules({"topic": "m/{device}", "telemetry": [{"path": "*"}]}), "m/d", many)


def test_numbers_of_plain_payloads_are_numbers_whatever_is_cast():
    mapping = rules({"topic": "t/{device}", "payload": "text", "telemetry": [{"key": "v"}]})
    assert read(mapping, "t/d", "12.5", cast=False).telemetry[0].values == {"v": 12.5}
    assert read(mapping, "t/d", "on").telemetry[0].values == {"v": "on"}


@pytest.mark.parametrize(
    ("tree", "where", "text"),
    [
        ({"up": [{"topic": "a/{device}"}]}, "up[0]", "takes nothing"),
        ({"up": [{"topic": "a/{device}", "telemtry": []}]}, "up[0].telemtry", "did you mean 'telemetry'"),
        ({"up": [{"topic": "a/x{device}", "telemetry": [{}]}]}, "up[0].topic", "no level of a topic"),
        ({"up": [{"topic": "a/#/b", "telemetry": [{}]}]}, "up[0].topic", "no topic filter"),
        ({"up": [{"topic": "v1/devices/me/telemetry", "telemetry": [{}]}]}, "up[0].topic", "device API"),
        ({"up": [{"topic": "a/+", "telemetry": [{}]}]}, "up[0]", "no part of the topic"),
        ({"up": [{"topic": "a/{device}", "payload": "text", "telemetry": [{}]}]}, "up[0]", "give key"),
        ({"up": [{"topic": "a/{device}", "telemetry": [{"path": "x", "map": {True: 1}}]}]}, "up[0].telemetry[0].map", 'write "ON"'),
        ({"up": [{"topic": "a/{device}", "telemetry": [{}], "time": {"path": "t", "zone": "Mars"}}]}, "up[0].time", "zone 'Mars'"),
        ({"up": [{"topic": "a/{device}", "telemetry": [{"path": "x", "key": "{2}"}]}]}, "up[0]", "telemetry[0].key: there is no {2} here; known: 1, device"),
        ({"up": [{"topic": "a/{device}", "attributes": [{"path": "a.*.b", "key": "{unit}_{2}"}]}]}, "up[0]", "attributes[0].key: there is no {unit} here; known: 1, 2, device"),
        ({"down": [{"topic": "a"}]}, "down[0]", "exactly one of"),
        ({"down": [{"rpc": "x", "attributes": "y", "topic": "a"}]}, "down[0]", "exactly one of"),
        ({"down": [{"rpc": "x", "topic": "a/+"}]}, "down[0]", "topic to publish to"),
        ({"up": [{"topic": "a/{device}", "telemetry": [{}]}], "down": [{"rpc": "x", "topic": "a/{unit}"}]}, "", "down[0]: {unit} is unknown"),
    ],
)  # fmt: skip
def test_mistakes_in_rules_name_file_rule_and_path(tree, where, text, tmp_path):
    import yaml

    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as caught:
        load_sets(parse_config(MappingsConfig, {"sets": [{"file": str(path)}]}, ""))
    assert str(caught.value).startswith(f"{path}: {where}")
    assert text in str(caught.value)


def test_sets_of_the_configuration():
    with pytest.raises(ConfigError, match=r"mappings.sets\[0\].use: 'tasmoto' does not come along; there are shelly"):
        load_sets(MappingsConfig(sets=({"use": "tasmoto"},)))
    with pytest.raises(ConfigError, match=r"exactly one of use"):
        parse_config(MappingsConfig, {"sets": [{"use": "tasmota", "file": "x"}]}, "mappings")
    with pytest.raises(ConfigError, match=r"mappings.sets\[1\].up\[0\].topic"):
        load_sets(MappingsConfig(sets=({"use": "tasmota"}, {"up": [{"topic": "a/x{d}"}]})))
    sets = load_sets(MappingsConfig(sets=({"use": "tasmota", "profile": "plug", "devices": "plug-.*"},)))
    assert read(Rules(sets), "tele/plug-1/SENSOR", {"a": 1}).profile == "plug"
    assert read(Rules(sets), "tele/other/SENSOR", {"a": 1}) is None


def test_downlinks_are_written_from_templates():
    names = {"device": "d", "params": {"on": True, "level": 5, "list": [1]}, "rpc_id": 7, "method": "m"}
    rule = DownRule(
        rpc="*", topic="x/{device}/{params.level}", payload={"id": "{rpc_id}", "p": "{params}", "t": "no {method}"}
    )
    topic, payload = publish_of(rule, names)
    assert (topic, orjson.loads(payload)) == ("x/d/5", {"id": 7, "p": names["params"], "t": "no m"})
    assert publish_of(DownRule(rpc="p", topic="a", map="on_off"), {"params": True}) == ("a", b"ON")
    assert publish_of(DownRule(rpc="p", topic="a", map="on_off"), {"params": "TOGGLE"}) == ("a", b"TOGGLE")
    assert publish_of(DownRule(attributes="*", topic="a/{key}"), {"key": "k", "value": 2.5}) == ("a/k", b"2.5")
    assert publish_of(DownRule(rpc="p", topic="a", payload=""), {"params": None}) == ("a", b"")
    assert render("{params.list.0}", names) == 1
    for bad in ("{nothing}", "{params.off}"):
        with pytest.raises(RejectedError, match="there is no"):
            render(bad, names)
    with pytest.raises(RejectedError, match="wildcard"):
        topic_of("x/{p}", {"p": "#"})


def test_an_answer_is_known_by_its_mark_or_by_what_it_has():
    by_id = Answer(topic="t", correlation="id", path="result")
    assert answer_of(by_id, b'{"id":8,"result":{"x":1}}', 7) is None
    assert answer_of(by_id, b'{"id":7,"result":{"x":1}}', 7) == '{"x":1}'
    has = Answer(topic="t", has="POWER*")
    assert answer_of(has, b'{"Dimmer":1}', 7) is None
    assert answer_of(has, b'{"POWER1":"ON"}', 7) == '{"POWER1":"ON"}'
    assert answer_of(Answer(topic="t"), b"plain", 7) == '"plain"'


def test_paths():
    tree = {"a": {"b": [{"c": 1}, {"c": 2}]}, "POWER1": "x", "POWER2": "y"}
    assert list(select(tree, "a.b.1.c")) == [(["c"], 2)]
    assert list(select(tree, "a.b.*.c")) == [(["0", "c"], 1), (["1", "c"], 2)]
    assert list(select(tree, "POWER*")) == [(["POWER1"], "x"), (["POWER2"], "y")]
    assert list(select(tree, "a.x.c")) == []


def test_the_own_topics_behind_a_foreign_broker():
    own = Rules([RuleSet("edge", parse_config(MappingFile, native_rules("edge"), ""))])
    assert said(read(own, "edge/d/telemetry", {"t": 1})) == ("d", {"t": 1}, {}, None)
    assert [item.ts_ms for item in read(own, "edge/d/telemetry", [{"ts": 5, "values": {"t": 1}}]).telemetry] == [5]
    assert said(read(own, "edge/d/attributes", {"fw": "x"})) == ("d", {}, {"fw": "x"}, None)
    assert read(own, "edge/d/attributes/request/3", {"sharedKeys": "a,b"}).question == (3, None, ["a", "b"])
    assert said(read(own, "edge/d/status", "offline")) == ("d", {}, {}, False)
    assert read(own, "edge/d/rpc/response/1", {}) is None
    assert set(own.filters) == {
        "edge/+/telemetry", "edge/+/attributes", "edge/+/attributes/request/+", "edge/+/status", "edge/+/rpc/response/+"
    }  # fmt: skip
    assert b'"device": "d"' in to_json(read(own, "edge/d/telemetry", {"t": 1}))
