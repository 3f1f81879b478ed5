"""Rules for local topics: who may publish and hear what."""

import pytest

from gateway.app import check
from gateway.broker.acl import Acl, load_acl, read_acl_file
from gateway.config import AclRule, BrokerConfig, GatewayConfig
from gateway.domain.entity import Device, time_uuid
from gateway.errors import ConfigError


def device(name="pump-1", profile="pump"):
    return Device(id=time_uuid(), name=name, local_name=name, type=profile)


def view(*rules, **who):
    return Acl([AclRule(**rule) for rule in rules]).of(device(**who))


def test_without_rules_everything_is_allowed():
    free = view()
    assert free.may_write("a/b")
    assert free.may_read("a/b")
    assert free.may_subscribe("#")


def test_with_rules_only_what_they_allow():
    mine = view(
        {"topic": "devices/%d/#"},
        {"topic": "profiles/%p/+", "access": "read"},
        {"device": "boss*", "topic": "#"},
        {"topic": "devices/pump-1/secret", "access": "deny"},
    )
    assert mine.may_write("devices/pump-1/a/b")
    assert not mine.may_write("devices/pump-2/a")
    assert mine.may_read("profiles/pump/x")
    assert not mine.may_write("profiles/pump/x")
    assert not mine.may_read("profiles/pump/x/y")
    assert not mine.may_read("devices/pump-1/secret")
    assert view({"device": "boss*", "topic": "#"}, name="boss-7").may_write("any/thing")


@pytest.mark.parametrize("name", ["#", "+", "pump/#", "%p"])
def test_a_name_with_a_wildcard_opens_nothing(name):
    mine = view({"topic": "devices/%d"}, {"topic": "%d/x"}, name=name)
    for topic in ("devices/pump-1", "devices/pump/x", "pump-1/x", "devices/pump"):
        assert not mine.may_read(topic)
    assert not mine.may_subscribe("devices/pump-1")


@pytest.mark.parametrize(
    ("topic_filter", "is_granted"),
    [
        ("a/b/c", True), ("a/#", True), ("#", True), ("+/b/c", True), ("a/secret", False), ("b/#", False),
        ("a/secret/#", True), ("a", True), ("c/d", False), ("c/+", True), ("+", True),
    ],
)  # fmt: skip
def test_a_subscription_needs_something_to_hear(topic_filter, is_granted):
    mine = view(
        {"topic": "a/#", "access": "read"},
        {"topic": "c/+", "access": "readwrite"},
        {"topic": "b/#", "access": "write"},
        {"topic": "a/secret", "access": "deny"},
        {"topic": "c/d", "access": "deny"},
    )
    assert mine.may_subscribe(topic_filter) is is_granted


def test_a_file_as_mosquitto_reads_it(tmp_path):
    path = tmp_path / "acl"
    path.write_text(
        "# all\ntopic read announcements/#\n\nuser pump-*\ntopic pumps/all\ntopic deny pumps/secret\n"
        "profile meter\ntopic write meters/in\npattern readwrite devices/%u/#\n"
    )
    acl = load_acl(BrokerConfig(acl_file=path))
    pump, meter = acl.of(device()), acl.of(device("m1", "meter"))
    assert pump.may_read("announcements/x")
    assert not pump.may_write("announcements/x")
    assert pump.may_write("pumps/all")
    assert not pump.may_read("pumps/secret")
    assert pump.may_write("devices/pump-1/x")
    assert not pump.may_write("meters/in")
    assert meter.may_write("meters/in")
    assert not meter.may_read("meters/in")
    assert meter.may_read("devices/m1/x")
    path.write_text("# nothing\n")
    assert not load_acl(BrokerConfig(acl_file=path)).of(device()).may_read("a")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("topic read a/b\nuser", ":2: needs a name"),
        ("topik a", ":1: begins with 'topik'; known here: user"),
        ("topic read a/#/b", "# stands at the end"),
        ("topic a/b+", "stand alone between slashes"),
        ("pattern %c/x", "use %d"),
    ],
)
def test_a_bad_file_says_where_and_what_would_be_right(tmp_path, text, problem):
    path = tmp_path / "acl"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_acl_file(path)
    assert problem in str(caught.value)
    assert str(path) in str(caught.value)


def test_check_config_reads_the_file_of_the_rules(tmp_path):
    path = tmp_path / "acl"
    path.write_text("topik a")
    with pytest.raises(ConfigError, match="begins with 'topik'"):
        check(GatewayConfig(broker=BrokerConfig(acl_file=path)))
