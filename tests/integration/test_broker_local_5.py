"""What MQTT 5.0 adds to local topics: options of subscriptions, properties of messages, shared subscriptions, wills
that wait; and what becomes of it all when a device is renamed or deleted.
"""

from dataclasses import replace

import pytest

from gateway.broker import encode
from gateway.broker.packets import PUBACK, PUBREC, Ack, Connack, Connect, Disconnect, Properties, Publish, Suback
from gateway.broker.wire import Decoder
from gateway.config import AclRule
from gateway.domain.entity import time_uuid
from tests.integration.broker_peer import Peer, Site, site
from tests.integration.test_broker_kept import Disk, arrive, leave, plant, says

PASSED = (  # in this order and unaltered: format, type, answer topic, correlation, two user properties of one name
    b"\x01\x01" + b"\x03\x00\x04text" + b"\x08\x00\x01r" + b"\x09\x00\x02\x00\xff" + b"\x26\x00\x01k\x00\x011" * 2
)
KEPT, BOUND = {"client_id": "c1", "is_clean": False, "session_expiry_s": 3600}, {}


async def subscribed(peer: Peer, filters: list[tuple[str, int]], identifier: int = 0) -> Peer:
    peer.send(encode.subscribe(peer.version, 1, filters, identifier))
    assert await peer.receive() == Suback(1, [options & 3 for _, options in filters])
    return peer


async def listener(here: Site, filters: list[tuple[str, int]], identifier: int = 0, **fields: object) -> Peer:
    peer, _ = await here.connect(5, "tok2", **fields)
    return await subscribed(peer, filters, identifier)


def publish(
    peer: Peer, topic: str, payload: bytes = b"x", properties: bytes = b"", *, qos: int = 1, retain: bool = False
) -> None:
    peer.send(encode.publish(5, topic, payload, qos, 1, is_retained=retain, properties=properties))


def more_plants(names: str):
    inlet = plant()
    for name in names:
        inlet.add_device(name, name)
    return inlet


@pytest.mark.parametrize("fields", [KEPT, BOUND], ids=["kept", "bound"])
@pytest.mark.parametrize("qos", [0, 1])
async def test_properties_pass_unaltered_with_the_identifiers_of_all_filters(fields, qos):
    async with site(committer=Disk()) as here:
        hears = await listener(here, [("a/+", 0), ("a/b", 1)], 7, **fields)
        await subscribed(hears, [("#", 1)], 268_435_455)
        await subscribed(hears, [("a/#", 1)])
        teller, _ = await here.connect(5)
        publish(teller, "a/b", b"x", PASSED, qos=qos)
        push = await hears.receive()
        assert (push.topic, push.payload, push.qos) == ("a/b", b"x", qos)
        assert push.more.passed == PASSED
        assert sorted(push.more.identifiers) == [7, 7, 268_435_455]
        assert push.more.expiry_s is None
        await subscribed(hears, [("#", 1), ("a/b", 1), ("a/+", 1)])  # replaced: without identifiers
        publish(teller, "a/b", b"y", qos=qos)
        assert (await hears.receive()).more is None
        assert await hears.ping() == []


@pytest.mark.parametrize("fields", [KEPT, BOUND], ids=["kept", "bound"])
async def test_no_local_and_retain_as_published(fields):
    async with site(committer=Disk()) as here:
        both = await listener(here, [("own", 1 | 4), ("all", 1), ("as", 1 | 8), ("asnot", 1)], **fields)
        for topic in ("own", "all"):
            both.publish(topic, b"mine", 1, 1)
        seen = [await both.receive() for _ in range(3)]
        assert [one.topic for one in seen if isinstance(one, Publish)] == ["all"]
        teller, _ = await here.connect(5)
        for topic in ("own", "as", "asnot"):
            publish(teller, topic, retain=True)
        got = [await both.receive() for _ in range(3)]
        assert [(one.topic, one.is_retained) for one in got] == [("own", False), ("as", True), ("asnot", False)]
        assert await both.ping() == []


@pytest.mark.parametrize("fields", [KEPT, BOUND], ids=["kept", "bound"])
async def test_retain_handling(fields):
    async with site(committer=Disk()) as here:
        teller, _ = await here.connect(5)
        publish(teller, "r", b"held", retain=True)
        assert await teller.receive() == Ack(PUBACK, 1)
        hears, _ = await here.connect(5, "tok2", **fields)
        for options, comes in ((0x20, 0), (0x10, 0), (0x00, 1), (0x10, 0)):
            await subscribed(hears, [("r", 1 | options)])
            assert [one.is_retained for one in await hears.ping()] == [True] * comes
        hears.send(encode.unsubscribe(5, 1, ["r"]))
        await hears.receive()
        await subscribed(hears, [("r", 1 | 0x10)], 9)
        assert [one.more.identifiers for one in await hears.ping()] == [(9,)]


async def test_a_message_lives_as_long_as_it_says_and_tells_what_remains():
    disk, inlet = Disk(), plant()
    async with site(committer=disk, inlet=inlet) as here:
        hears, _ = await arrive(here, version=5)
        await subscribed(hears, [("q", 1)], 3)
        await leave(hears)
        await here.until(lambda: here.broker.connections() == 0)
        teller, _ = await here.connect(5)
        for payload, life_s in ((b"short", 10), (b"long", 60)):
            expiry = b"\x02" + life_s.to_bytes(4, "big")
            publish(teller, "q", payload, expiry + PASSED)
            publish(teller, "r/" + payload.decode(), payload, expiry, retain=True)
        await here.until(lambda: disk.count("queued") == 2 and disk.count("retained") == 2)
        now_ms = here.clock.now_ms()
    async with site(committer=disk, inlet=inlet, kept=disk.kept()) as here:
        await here.clock.advance((now_ms - here.clock.now_ms()) / 1000 + 20.5)
        hears, was_there = await arrive(here, version=5)
        assert was_there
        push = await hears.receive()
        assert (push.payload, push.more) == (b"long", Properties(PASSED, 40, (3,)))
        await subscribed(hears, [("r/#", 1)])
        push = await hears.receive()
        assert (push.payload, push.is_retained, push.more) == (b"long", True, Properties(b"", 40))
        assert await hears.ping() == []
        assert here.counters.get("broker.local_expired") >= 1
        await here.clock.advance(31)
        await here.until(lambda: disk.count("retained") == 1)
        assert disk.count("queued") == 1
        await says(here, "q", b"new")
        assert (await hears.receive()).more == Properties(b"", None, (3,))  # the subscription has kept it, too


async def test_a_message_that_waits_for_the_clients_window_ends_there():
    async with site() as here:
        hears = await listener(here, [("q", 1)], receive_maximum=1)
        teller, _ = await here.connect(5)
        publish(teller, "q", b"first")
        publish(teller, "q", b"second", b"\x02\x00\x00\x00\x05")
        publish(teller, "q", b"third")
        assert (await hears.receive()).payload == b"first"
        assert await hears.ping() == []
        await here.clock.advance(6)
        hears.send(encode.ack(PUBACK, 1))
        assert (await hears.receive()).payload == b"third"
        assert here.counters.get("broker.local_expired") == 1


@pytest.mark.parametrize("fields", [KEPT, BOUND], ids=["kept", "bound"])
async def test_what_is_larger_than_the_client_takes_is_left_out_and_counted(fields):
    async with site(committer=Disk()) as here:
        hears = await listener(here, [("q", 1)], max_packet_bytes=60, **fields)
        teller, _ = await here.connect(5)
        publish(teller, "q", b"x" * 20, b"\x03\x00\x20" + b"t" * 32)
        publish(teller, "q", b"fits")
        assert (await hears.receive()).payload == b"fits"
        name = "broker.local_dropped_oldest" if fields else "broker.too_large_for_device"
        assert here.counters.get(name) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode.publish(5, "q", b"", properties=b"\x23\x00\x01"), 0x94),
        (encode.publish(5, "q", b"", properties=b"\x0b\x01"), 0x82),
        (encode.publish(5, "q", b"", properties=b"\x01\x02"), 0x82),
        (encode.publish(5, "q", b"", properties=b"\x08\x00\x01#"), 0x82),
        (encode.publish(5, "q", b"", properties=b"\x11\x00\x00\x00\x01"), 0x82),
        (encode.subscribe(5, 1, [("$share/g/q", 1 | 4)]), 0x82),
        (encode.subscribe(5, 1, [("q", 0x31)]), 0x82),
        (encode.subscribe(5, 1, [("q", 0x41)]), 0x82),
        (b"\x82\x09\x00\x01\x02\x0b\x00\x00\x01q\x01", 0x82),
        (b"\xe0\x07\x00\x05\x11\x00\x00\x00\x01", 0x82),
    ],
    ids=[
        "topic alias",
        "identifier of a client",
        "format",
        "answer topic with a wildcard",
        "not of a publish",
        "no local, shared",
        "retain handling 3",
        "reserved bits",
        "identifier 0",
        "a session at the goodbye only",
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection_with_its_reason(data, reason):
    async with site() as here:
        peer, _ = await here.connect(5)
        peer.send(data)
        assert await peer.receive() == Disconnect(reason)
        assert await peer.receive() is None


@pytest.mark.parametrize("local", [True, False])
async def test_the_server_says_what_it_has(local):
    async with site(local_topics=local, max_packet_bytes=5_000) as here:
        peer = await here.open(5)
        peer.send(encode.connect(Connect(version=5, user_name="tok", session_expiry_s=9, is_clean=False)))
        answer = await peer.receive()
        assert answer == Connack(False, 0)
        said = {0x21: 1_000, 0x27: 5_000, 0x11: 0, 0x12: 0}  # no session without an id; 0x12: the id it may use
        assert answer.properties == said if local else said | {0x25: 0, 0x29: 0, 0x2A: 0}
        peer.send(encode.subscribe(5, 1, [("$share/g/q", 1)]))
        assert await peer.receive() == Suback(1, [1 if local else 0x8F])


async def test_a_publish_that_nobody_hears_is_told_so():
    async with site(committer=Disk()) as here:
        teller, _ = await here.connect(5)
        publish(teller, "q")
        assert await teller.receive() == Ack(PUBACK, 1, 0x10)
        publish(teller, "q", qos=2)
        assert await teller.receive() == Ack(PUBREC, 1, 0x10)
        teller.send(encode.ack(6, 1, 5))
        assert await teller.receive() == Ack(7, 1)
        await listener(here, [("q", 1)])
        publish(teller, "q")
        assert await teller.receive() == Ack(PUBACK, 1)


# ── shared subscriptions ──


async def group(here: Site, names: str, qos: int = 1, **fields: object) -> list[Peer]:
    members = []
    for name in names:
        peer, _ = await here.connect(5, name, **fields)
        members.append(await subscribed(peer, [("$share/g/jobs/+", qos)], ord(name)))
    return members


@pytest.mark.parametrize("fields", [KEPT, BOUND], ids=["kept", "bound"])
async def test_each_message_goes_to_one_of_the_group_in_turn(fields):
    async with site(committer=Disk(), inlet=more_plants("abc")) as here:
        teller = await says(here, "jobs/0", b"held", retain=True)
        members = await group(here, "abc", **fields)
        alone = await listener(here, [("$share/other/#", 1), ("jobs/#", 1 | 0x20)])
        for number in range(9):
            teller.publish("jobs/1", b"%d" % number, 1, number + 1)
            assert await teller.receive() == Ack(PUBACK, number + 1)
        got = []
        for member in members:
            mine = await member.ping()
            assert len(mine) == 3  # and none that was retained before
            assert {one.more.identifiers for one in mine} == {(ord("abc"[members.index(member)]),)}
            got += [one.payload for one in mine]
        assert sorted(got) == [b"%d" % number for number in range(9)]
        await here.until(lambda: here.broker.status()["local"]["shared_groups"] == 2)
        assert len([await alone.receive() for _ in range(18)]) == 18
        members[0].send(encode.unsubscribe(5, 2, ["$share/g/jobs/+"]))
        await members[0].receive()
        for number in range(4):
            teller.publish("jobs/1", b"later", 1, number + 1)
            assert await teller.receive() == Ack(PUBACK, number + 1)
        assert [len(await member.ping()) for member in members] == [0, 2, 2]


@pytest.mark.parametrize("fields", [KEPT, BOUND], ids=["kept", "bound"])
async def test_what_a_member_has_not_confirmed_goes_to_another(fields):
    disk = Disk()
    async with site(committer=disk, inlet=more_plants("ab")) as here:
        (first,) = await group(here, "a", receive_maximum=2, **fields)
        teller, _ = await here.connect(4, "tok")
        for number in range(4):
            teller.publish("jobs/1", b"%d" % number, 1, number + 1)
        assert [(await first.receive()).payload for _ in range(2)] == [b"0", b"1"]
        first.send(encode.ack(PUBACK, 1 if not fields else 32_768))
        assert (await first.receive()).payload == b"2"
        (second,) = await group(here, "b")
        await leave(first)
        got = [await second.receive() for _ in range(3)]
        assert [(one.payload, one.is_dup) for one in got] == [(b"1", False), (b"2", False), (b"3", False)]
        await here.until(lambda: disk.count("queued") == 0)
        assert here.counters.get("broker.local_shared_dropped") == 0


async def test_with_qos_2_what_may_have_arrived_is_nobody_elses():
    async with site(inlet=more_plants("ab")) as here:
        (first,) = await group(here, "a", 2, receive_maximum=1)
        teller, _ = await here.connect(4, "tok")
        for number in (1, 2):
            teller.publish("jobs/1", b"%d" % number, 2, number)
        assert (await first.receive()).payload == b"1"
        (second,) = await group(here, "b", 2)
        await leave(first)
        assert (await second.receive()).payload == b"2"
        assert await second.ping() == []
        assert here.counters.get("broker.local_shared_dropped") == 1


async def test_who_is_away_gets_shared_messages_only_when_nobody_is_here_and_they_last():
    disk, inlet = Disk(), more_plants("ab")
    async with site(committer=disk, inlet=inlet) as here:
        away, here_too = await group(here, "ab", **KEPT)
        await leave(away)
        await here.until(lambda: here.broker.connections() == 1)
        teller = await says(here, "jobs/1", b"1")
        assert (await here_too.receive()).payload == b"1"
        await leave(here_too)
        await here.until(lambda: here.broker.connections() == 1)
        for number in (2, 3):
            teller.publish("jobs/1", b"%d" % number, 1, number)
            assert await teller.receive() == Ack(PUBACK, number)
    async with site(committer=disk, inlet=inlet, kept=disk.kept()) as here:
        assert here.broker.status()["local"]["shared_groups"] == 1
        peer, was_there = await arrive(here, "a", version=5)
        assert was_there
        mine = await peer.ping()
        other, _ = await arrive(here, "b", version=5)
        assert sorted(one.payload for one in mine + await other.ping()) == [b"1", b"2", b"3"]
        # Who ends its session leaves nothing behind that it has not confirmed.
        await leave(other)
        await here.until(lambda: here.broker.connections() == 1)
        more = await peer.ping()
        assert sorted(one.payload for one in mine + more) == [b"1", b"2", b"3"]


async def test_rights_count_in_a_group():
    rules = [AclRule(topic="#", access="readwrite"), AclRule(device="b", topic="jobs/secret", access="deny")]
    async with site(inlet=more_plants("ab"), acl=rules) as here:
        first, second = await group(here, "ab")
        teller, _ = await here.connect(4, "tok")
        for number in range(4):
            teller.publish("jobs/secret", b"s", 1, number + 1)
        assert len(await first.ping()) == 4
        assert await second.ping() == []
        second.send(encode.subscribe(5, 2, [("$share/g/jobs/secret", 1), ("$share/g/v1/devices/me/telemetry", 1)]))
        assert await second.receive() == Suback(2, [0x87, 0x8F])


# ── wills that wait ──


def will(delay_s: int, **fields: object) -> dict[str, object]:
    message = Publish("will", b"gone", 1, more=Properties(PASSED, 90))
    return {
        "client_id": "w",
        "is_clean": False,
        "session_expiry_s": 600,
        "will": message,
        "will_delay_s": delay_s,
    } | fields


@pytest.mark.parametrize(
    ("back", "heard"),
    [(None, True), ({"is_clean": False}, False), ({"is_clean": True}, True)],
    ids=["away", "back", "new"],
)
async def test_a_will_waits_for_its_delay_unless_the_client_is_back(back, heard):
    disk = Disk()
    async with site(committer=disk) as here:
        hears = await listener(here, [("will", 1)])
        peer, _ = await here.connect(5, **will(30))
        await leave(peer)
        await here.until(lambda: here.broker.connections() == 1)
        assert await hears.ping() == []
        assert disk.count("will") == 1
        if back is not None:
            await here.connect(5, client_id="w", session_expiry_s=600, **back)
            await here.until(lambda: disk.count("will") == 0)
            if heard:
                assert (await hears.receive()).payload == b"gone"
            assert await hears.ping() == []
        else:
            await here.clock.advance(29)
            assert await hears.ping() == []
            await here.clock.advance(2)
            push = await hears.receive()
            assert (push.payload, push.more) == (b"gone", Properties(PASSED, 90))
        await here.until(lambda: disk.count("will") == 0)


async def test_a_will_that_waits_survives_a_kill_and_ends_with_the_session():
    disk, inlet = Disk(), plant()
    async with site(committer=disk, inlet=inlet) as here:
        peer, _ = await here.connect(5, **will(30))
        await here.until(lambda: disk.count("will") == 1)
        kept = disk.kept()
        await leave(peer)
    disk = Disk()
    async with site(committer=disk, inlet=inlet, kept=kept) as here:
        hears = await listener(here, [("will", 1)])
        assert await hears.ping() == []
        await here.clock.advance(31)
        assert (await hears.receive()).more == Properties(PASSED, 90)
        peer, _ = await here.connect(5, **will(3_000, session_expiry_s=0))
        await leave(peer)
        assert (await hears.receive()).payload == b"gone"  # no session outlives the connection: no delay


# ── a device that is deleted or renamed ──


async def test_what_is_kept_for_a_deleted_device_goes_with_it():
    disk, inlet = Disk(), more_plants("ab")
    async with site(committer=disk, inlet=inlet) as here:
        hears, _ = await arrive(here, "a", version=5)
        await subscribed(hears, [("q", 1), ("$share/g/jobs/+", 1)])
        await leave(hears)
        await here.until(lambda: here.broker.connections() == 0)
        teller = await says(here, "q", b"1")
        teller.publish("jobs/1", b"job", 1, 2)
        assert await teller.receive() == Ack(PUBACK, 2)
        (other,) = await group(here, "b")
        assert here.broker.status()["local"]["queued"] == 2
        gone = inlet.devices["a"][1]
        here.broker.device_changed(gone.id, None)
        assert (await other.receive()).payload == b"job"  # another of the group has it
        assert here.counters.get("broker.local_sessions_deleted") == 1
        assert here.counters.get("broker.local_dropped_deleted") == 1
        assert {name: here.broker.status()["local"][name] for name in ("sessions", "queued", "queued_bytes")} == {
            "sessions": 0,
            "queued": 0,
            "queued_bytes": 0,
        }
        await here.until(lambda: disk.count("session") == disk.count("queued") == 0)
        inlet.add_device("a", "a")  # of the same name
        _, was_there = await arrive(here, "a", version=5)
        assert not was_there


async def test_a_will_that_waits_is_published_when_its_device_is_deleted():
    async with site(committer=Disk()) as here:
        hears = await listener(here, [("will", 1)])
        peer, session = await here.connect(5, **will(30))
        await leave(peer)
        await here.until(lambda: here.broker.connections() == 1)
        assert await hears.ping() == []
        here.broker.device_changed(session.device.id, None)
        assert (await hears.receive()).payload == b"gone"


async def test_a_connection_of_a_deleted_device_keeps_nothing():
    disk = Disk()
    async with site(committer=disk) as here:
        hears, _ = await arrive(here, version=5)
        await subscribed(hears, [("q", 1)])
        device = here.inlet.opened[-1].device
        here.inlet.opened[-1].channel.close("not_authorized")
        here.broker.device_changed(device.id, None)
        assert await hears.receive() == Disconnect(0x98)
        assert await hears.receive() is None
        await here.until(lambda: here.broker.connections() == 0)
        assert disk.count("session") == 0


async def test_a_device_that_was_deleted_before_the_start_leaves_nothing():
    disk, inlet = Disk(), plant()
    async with site(committer=disk, inlet=inlet) as here:
        await subscribed((await arrive(here, version=5))[0], [("q", 1)])
    async with site(committer=disk, inlet=inlet, kept=disk.kept()) as here:
        here.broker.keep_only(lambda device_id: True)
        assert here.broker.status()["local"]["sessions"] == 1
        here.broker.keep_only(lambda device_id: False)
        assert here.broker.status()["local"]["sessions"] == 0
        await here.until(lambda: disk.count("session") == 0)


async def test_rights_follow_a_new_name_and_the_session_a_new_id():
    disk = Disk()
    rules = [AclRule(topic="for/%d", access="read"), AclRule(device="pump", topic="#", access="write")]
    async with site(committer=disk, acl=rules) as here:
        hears, _ = await arrive(here, version=5)
        await subscribed(hears, [("for/fan", 1)])
        hears.send(encode.subscribe(5, 2, [("for/vent", 1)]))
        assert await hears.receive() == Suback(2, [0x87])
        session = here.inlet.opened[-1]
        moved = replace(session.device, id=time_uuid(), name="vent", local_name="vent")
        here.broker.device_changed(session.device.id, moved)
        await subscribed(hears, [("for/vent", 1)])
        teller = await says(here, "for/fan", b"old")
        teller.publish("for/vent", b"new", 1, 2)
        assert (await hears.receive()).payload == b"new"
        await leave(hears)
        await here.until(lambda: here.broker.connections() == 1)
        assert [body for kind, _, body in disk.kept() if kind == "session" and str(moved.id).encode() in body]


def test_the_decoder_never_looks_behind_the_properties():
    decoder = Decoder(1_000, 5)
    decoder.receive(b"\x30\x07\x00\x01q\x05\x26\x00\x01")
    with pytest.raises(Exception, match="longer than their packet"):
        decoder.next_packet()


async def test_who_confirms_nothing_gets_no_more_than_may_be_kept_for_it():
    async with site(inlet=more_plants("ab"), local_queue_bytes=10_000) as here:
        await group(here, "a")
        teller, _ = await here.connect(4, "tok")
        for number in range(5):
            teller.publish("jobs/1", b"%d" % number * 5_000, 1, number + 1)
            assert await teller.receive() == Ack(PUBACK, number + 1)
        assert here.counters.get("broker.local_shared_dropped") == 3
        (second,) = await group(here, "b")
        teller.publish("jobs/1", b"last", 1, 9)
        assert (await second.receive()).payload == b"last"
