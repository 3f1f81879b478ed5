"""What local publish/subscribe keeps over the end of a connection and of the gateway."""

from typing import Any

import pytest

from gateway.broker import encode
from gateway.broker.packets import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    Ack,
    Connack,
    Connect,
    Publish,
    Suback,
)
from gateway.domain.changes import DropLocal, SaveLocal
from tests.fakes.committer import FakeCommitter
from tests.fakes.inlet import FakeInlet
from tests.integration.broker_peer import Peer, Site, site


class Disk(FakeCommitter):
    """A committer that remembers what would be read at the next start."""

    def kept(self) -> list[tuple[str, str, bytes]]:
        found: dict[tuple[str, str], bytes] = {}
        for change in self.changes():
            if isinstance(change, SaveLocal):
                found[change.kind, change.key] = change.body
            elif isinstance(change, DropLocal):
                found.pop((change.kind, change.key), None)
        return [(*key, body) for key, body in found.items()]

    def count(self, kind: str) -> int:
        return sum(one[0] == kind for one in self.kept())


def plant() -> FakeInlet:
    inlet = FakeInlet()
    inlet.add_device("pump", "tok")
    inlet.add_device("fan", "tok2")
    return inlet


async def arrive(here: Site, token: str = "tok2", version: int = 4, **fields: Any) -> tuple[Peer, bool]:
    """A client that asks for its session; whether there was one."""
    peer = await here.open(version)
    fields = {"client_id": "c1", "is_clean": False, "session_expiry_s": 3600 if version == 5 else 0} | fields
    peer.send(encode.connect(Connect(version=version, user_name=token, **fields)))
    answer = await peer.receive()
    assert isinstance(answer, Connack)
    assert answer.code == 0
    return peer, answer.is_session_present


async def leave(peer: Peer) -> None:
    peer.writer.transport.abort()


async def says(here: Site, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False) -> Peer:
    peer, _ = await here.connect(4, "tok")
    peer.send(encode.publish(4, topic, payload, qos, 1, is_retained=retain))
    if qos:
        assert await peer.receive() == Ack(PUBACK if qos == 1 else PUBREC, 1)
    if qos == 2:
        peer.send(encode.ack(PUBREL, 1))
        assert await peer.receive() == Ack(PUBCOMP, 1)
    return peer


@pytest.mark.parametrize("version", [4, 5])
async def test_what_came_while_away_follows_after_a_restart(version):
    disk, inlet = Disk(), plant()
    async with site(committer=disk, inlet=inlet) as here:
        hears, was_there = await arrive(here, version=version)
        assert not was_there
        hears.send(encode.subscribe(version, 1, [("a/#", 2)]))
        assert await hears.receive() == Suback(1, [2])
        await leave(hears)
        await here.until(lambda: not here.broker.connections())
        for number in range(3):
            await says(here, "a/x", b"%d" % number, 1)
        await says(here, "a/q0", b"not kept", 0)
    async with site(committer=disk, inlet=inlet, kept=disk.kept()) as here:
        hears, was_there = await arrive(here, version=version)
        assert was_there
        got = [await hears.receive() for _ in range(3)]
        assert [(one.payload, one.qos, one.is_dup) for one in got] == [(b"%d" % n, 1, False) for n in range(3)]
        for one in got:
            hears.send(encode.ack(PUBACK, one.packet_id))
        assert await hears.ping() == []
        assert disk.count("queued") == 0
        await says(here, "a/y", b"live", 1)
        assert (await hears.receive()).payload == b"live"


async def test_the_publisher_hears_so_only_when_the_copy_is_durable():
    disk = Disk()
    async with site(committer=disk) as here:
        hears, _ = await arrive(here)
        hears.send(encode.subscribe(4, 1, [("a", 1)]))
        await hears.receive()
        peer, _ = await here.connect(4, "tok")
        disk.hold()
        peer.publish("a", b"1", 1, 7)
        assert await peer.ping() == []
        hears.send(encode.ack(PUBACK, 40_000))  # of nothing: the sender looks whether there is room
        assert await hears.ping() == []
        disk.release()
        assert await peer.receive() == Ack(PUBACK, 7)
        assert (await hears.receive()).payload == b"1"


async def test_an_empty_client_id_collects_nothing():
    disk = Disk()
    async with site(committer=disk) as here:
        for _ in range(2):
            hears, was_there = await arrive(here, client_id="")
            assert was_there  # as ThingsBoard says it
            hears.send(encode.subscribe(4, 1, [("a", 1)]))
            assert await hears.receive() == Suback(1, [1])
            await says(here, "a", b"live", 1)
            assert (await hears.receive()).payload == b"live"
            await leave(hears)
            await here.until(lambda: here.broker.connections() <= 2)
            await says(here, "a", b"unheard", 1)
        assert disk.kept() == []


async def test_the_same_client_id_of_another_device_is_another_session():
    async with site(committer=Disk()) as here:
        hears, _ = await arrive(here)
        hears.send(encode.subscribe(4, 1, [("a", 1)]))
        await hears.receive()
        _, was_there = await arrive(here, token="tok")
        assert not was_there


async def test_unconfirmed_deliveries_come_again_with_dup_and_their_number():
    disk = Disk()
    async with site(committer=disk) as here:
        hears, _ = await arrive(here)
        hears.send(encode.subscribe(4, 1, [("a", 2)]))
        await hears.receive()
        await says(here, "a", b"one", 1)
        await says(here, "a", b"two", 2)
        first, second = await hears.receive(), await hears.receive()
        assert (first.qos, second.qos, first.is_dup) == (1, 2, False)
        await leave(hears)
        hears, was_there = await arrive(here)
        assert was_there
        again = [await hears.receive(), await hears.receive()]
        assert [(one.packet_id, one.is_dup) for one in again] == [(first.packet_id, True), (second.packet_id, True)]


async def test_a_killed_gateway_repeats_no_qos_2_delivery_that_was_received():
    disk, inlet = Disk(), plant()
    async with site(committer=disk, inlet=inlet) as here:
        hears, _ = await arrive(here)
        hears.send(encode.subscribe(4, 1, [("a", 2)]))
        await hears.receive()
        await says(here, "a", b"once", 2)
        push = await hears.receive()
        hears.send(encode.ack(PUBREC, push.packet_id))
        assert await hears.receive() == Ack(PUBREL, push.packet_id)
    async with site(committer=disk, inlet=inlet, kept=disk.kept()) as here:
        hears, _ = await arrive(here)
        assert await hears.receive() == Ack(PUBREL, push.packet_id)
        hears.send(encode.ack(PUBCOMP, push.packet_id))
        assert await hears.ping() == []
        assert disk.count("queued") == 0


async def test_release_waits_for_the_disk():
    disk = Disk()
    async with site(committer=disk) as here:
        hears, _ = await arrive(here)
        hears.send(encode.subscribe(4, 1, [("a", 2)]))
        await hears.receive()
        await says(here, "a", b"once", 2)
        push = await hears.receive()
        disk.hold()
        hears.send(encode.ack(PUBREC, push.packet_id))
        assert await hears.ping() == []
        hears, _ = await arrive(here)
        assert await hears.ping() == []
        disk.release()
        assert await hears.receive() == Ack(PUBREL, push.packet_id)


async def test_a_qos_2_publish_that_is_sent_again_after_a_kill_is_heard_once():
    disk, inlet = Disk(), plant()
    async with site(committer=disk, inlet=inlet) as here:
        hears, _ = await arrive(here)
        hears.send(encode.subscribe(4, 1, [("a", 1)]))
        await hears.receive()
        peer, _ = await arrive(here, token="tok")
        peer.publish("a", b"once", 2, 5)
        assert await peer.receive() == Ack(PUBREC, 5)
        push = await hears.receive()
        hears.send(encode.ack(PUBACK, push.packet_id))
        assert await hears.ping() == []
    async with site(committer=disk, inlet=inlet, kept=disk.kept()) as here:
        hears, _ = await arrive(here)
        peer, was_there = await arrive(here, token="tok")
        assert was_there
        peer.send(encode.publish(4, "a", b"once", 2, 5, is_dup=True))
        assert await peer.receive() == Ack(PUBREC, 5)
        disk.hold()
        peer.send(encode.ack(PUBREL, 5))
        assert await peer.ping() == []
        disk.release()
        assert await peer.receive() == Ack(PUBCOMP, 5)
        assert await hears.ping() == []
        peer.publish("a", b"another", 2, 5)
        assert await peer.receive() == Ack(PUBREC, 5)
        assert (await hears.receive()).payload == b"another"


async def test_a_full_queue_loses_its_oldest_and_says_so():
    disk = Disk()
    async with site(committer=disk, local_queue=3) as here:
        hears, _ = await arrive(here)
        hears.send(encode.subscribe(4, 1, [("a", 1)]))
        await hears.receive()
        await leave(hears)
        await here.until(lambda: not here.broker.connections())
        peer, _ = await here.connect(4, "tok")
        for number in range(10):
            peer.publish("a", b"%d" % number, 1, number + 1)
        assert [await peer.receive() for _ in range(10)] == [Ack(PUBACK, n + 1) for n in range(10)]
        assert here.counters.get("broker.local_dropped_oldest") == 7
        assert disk.count("queued") == 3
        assert here.broker.status()["local"]["queued"] == 3
        hears, _ = await arrive(here)
        assert [(await hears.receive()).payload for _ in range(3)] == [b"7", b"8", b"9"]


async def test_bytes_of_one_session_and_of_all_are_bounded():
    async with site(committer=Disk(), local_queue_bytes=5_000, local_total_bytes=7_000) as here:
        for client_id, token in (("c1", "tok2"), ("c2", "tok2")):
            hears, _ = await arrive(here, client_id=client_id, token=token)
            hears.send(encode.subscribe(4, 1, [("a", 1)]))
            await hears.receive()
            await leave(hears)
        peer, _ = await here.connect(4, "tok")
        for number in range(50):
            peer.publish("a", bytes(900), 1, number + 1)
            await peer.receive()
        status = here.broker.status()["local"]
        assert 5_000 < status["queued_bytes"] <= 7_000
        assert here.counters.get("broker.local_dropped_oldest") == 100 - status["queued"]


async def test_a_clean_start_and_the_time_end_a_session():
    disk = Disk()
    async with site(committer=disk, local_session_s=100) as here:
        hears, _ = await arrive(here)
        hears.send(encode.subscribe(4, 1, [("a", 1)]))
        await hears.receive()
        _, was_there = await arrive(here, is_clean=True)
        assert not was_there
        await here.until(lambda: disk.kept() == [])
        hears, was_there = await arrive(here)
        assert not was_there
        hears.send(encode.subscribe(4, 1, [("a", 1)]))
        await hears.receive()
        await leave(hears)
        await here.until(lambda: not here.broker.connections())
        for _ in range(14):
            await here.clock.advance(10)
        await here.until(lambda: disk.kept() == [])
        assert here.counters.get("broker.local_sessions_expired") == 1


async def test_a_shorter_life_than_asked_is_told():
    async with site(committer=Disk(), local_session_s=60) as here:
        peer = await here.open(5)
        peer.send(encode.connect(Connect(version=5, user_name="tok", client_id="c", session_expiry_s=3600)))
        answer = await peer.receive()
        assert isinstance(answer, Connack)
        assert answer.properties[0x11] == 60


async def test_subscriptions_of_the_api_belong_to_the_session():
    disk, inlet = Disk(), plant()
    async with site(committer=disk, inlet=inlet) as here:
        hears, _ = await arrive(here)
        hears.send(
            encode.subscribe(4, 1, [("v1/devices/me/attributes", 1), ("a", 1), ("v1/devices/me/rpc/request/+", 0)])
        )
        assert await hears.receive() == Suback(1, [1, 1, 0])
    async with site(committer=disk, inlet=inlet, kept=disk.kept()) as here:
        _, was_there = await arrive(here)
        assert was_there
        await here.until(lambda: here.inlet.opened[-1].has_rpc)
        assert here.inlet.opened[-1].has_attributes


async def test_retained_messages_survive_and_are_cleared():
    disk, inlet = Disk(), plant()
    async with site(committer=disk, inlet=inlet) as here:
        await says(here, "a/1", b"old", retain=True)
        await says(here, "a/1", b"\x00\xff", 1, retain=True)
        await says(here, "a/2", b"gone", retain=True)
        await says(here, "a/2", b"", retain=True)
    async with site(committer=disk, inlet=inlet, kept=disk.kept()) as here:
        hears, _ = await here.connect(4, "tok2")
        hears.send(encode.subscribe(4, 1, [("a/+", 0)]))
        assert await hears.receive() == Suback(1, [0])
        assert await hears.receive() == Publish("a/1", b"\x00\xff", is_retained=True)
        assert await hears.ping() == []
        await says(here, "a/1", b"live", retain=True)
        assert not (await hears.receive()).is_retained


@pytest.mark.parametrize(("version", "reason"), [(4, 0), (5, 0x97)])
async def test_more_retained_messages_than_there_is_room_are_refused_whole(version, reason):
    async with site(committer=Disk(), local_retained=2) as here:
        peer, _ = await here.connect(version, "tok")
        hears, _ = await here.connect(4, "tok2")
        hears.send(encode.subscribe(4, 1, [("#", 1)]))
        await hears.receive()
        for number in (1, 2, 3):
            peer.send(encode.publish(version, f"a/{number}", b"x", 1, number, is_retained=True))
        assert [await peer.receive() for _ in range(3)] == [Ack(PUBACK, 1), Ack(PUBACK, 2), Ack(PUBACK, 3, reason)]
        assert [(await hears.receive()).topic for _ in range(2)] == ["a/1", "a/2"]
        assert here.counters.get("broker.local_retained_refused") == 1


async def test_many_retained_messages_reach_a_client_with_a_small_window():
    async with site(committer=Disk()) as here:
        peer, _ = await here.connect(4, "tok")
        for number in range(200):
            peer.send(encode.publish(4, f"a/{number}", bytes(10_000), 1, number + 1, is_retained=True))
        assert [await peer.receive() for _ in range(200)] == [Ack(PUBACK, n + 1) for n in range(200)]
        hears, _ = await here.connect(5, "tok2", receive_maximum=5)
        hears.send(encode.subscribe(5, 1, [("#", 1)]))
        await hears.receive()
        got = set()
        for _ in range(200):
            push = await hears.receive()
            got.add(push.topic)
            hears.send(encode.ack(PUBACK, push.packet_id))
        assert len(got) == 200


async def test_the_will_of_a_connection_that_a_kill_has_ended_is_published_at_the_start():
    disk, inlet = Disk(), plant()
    async with site(committer=disk, inlet=inlet) as here:
        hears, _ = await arrive(here)
        hears.send(encode.subscribe(4, 1, [("state/+", 1)]))
        await hears.receive()
        peer = await here.open()
        will = Publish("state/pump", b"gone", 1, is_retained=True)
        peer.send(encode.connect(Connect(version=4, user_name="tok", will=will)))
        await peer.receive()
        killed = disk.kept()
    disk.units = [[SaveLocal(*one) for one in killed]]
    async with site(committer=disk, inlet=inlet, kept=killed) as here:
        hears, _ = await arrive(here)
        assert (await hears.receive()).payload == b"gone"
        assert disk.count("will") == 0
        assert disk.count("retained") == 1


async def test_the_acl_is_kept_on_every_way():
    rules = [
        {"topic": "open/#"},
        {"device": "pump", "topic": "closed/#", "access": "write"},
        {"topic": "open/secret", "access": "deny"},
    ]
    async with site(committer=Disk(), acl=rules) as here:
        kept, _ = await arrive(here)
        for peer in (kept,):
            peer.send(
                encode.subscribe(
                    4, 1, [("#", 1), ("closed/#", 1), ("$share/g/v1/devices/me/telemetry", 1), ("v1/#", 1)]
                )
            )
            assert await peer.receive() == Suback(1, [1, 0x80, 0x80, 0x80])
        says_, _ = await here.connect(5, "tok")
        says_.send(encode.subscribe(5, 1, [("closed/x", 1)]))
        assert await says_.receive() == Suback(1, [0x87])
        for number, topic in enumerate(("closed/x", "open/secret", "other", "open/x"), 1):
            says_.send(encode.publish(5, topic, b"1", 1, number, is_retained=True))
        answers = [await says_.receive() for _ in range(4)]
        assert answers == [Ack(PUBACK, 1), Ack(PUBACK, 2, 0x87), Ack(PUBACK, 3, 0x87), Ack(PUBACK, 4)]
        assert (await kept.receive()).topic == "open/x"
        assert await kept.ping() == []
        fresh, _ = await here.connect(4, "tok2")
        fresh.send(encode.subscribe(4, 1, [("#", 1)]))
        assert await fresh.receive() == Suback(1, [1])
        assert await fresh.receive() == Publish("open/x", b"1", 1, 1, is_retained=True)
        says_.publish("closed/y", b"2", 1, 9)
        says_.publish("open/y", b"2", 1, 10)
        assert (await fresh.receive()).topic == "open/y"
        assert here.counters.get("broker.local_denied_publishes") == 2


async def test_a_will_that_is_not_allowed_is_not_published():
    async with site(committer=Disk(), acl=[{"topic": "open/#"}]) as here:
        for topic in ("other/x", "v1/devices/me/telemetry", "$SYS/x", "open/#"):
            peer = await here.open()
            peer.send(
                encode.connect(Connect(version=4, user_name="tok", will=Publish(topic, b"1", 1, is_retained=True)))
            )
            await peer.receive()
            await leave(peer)
        await here.until(lambda: not here.broker.connections())
        assert here.counters.get("broker.local_wills") == 0
        assert here.broker.status()["local"]["retained"] == 0


@pytest.mark.parametrize(("published", "asked", "delivered"), [(0, 2, 0), (1, 2, 1), (2, 2, 2), (2, 1, 1), (2, 0, 0)])
@pytest.mark.parametrize("is_kept", [True, False])
async def test_the_lower_qos_counts(published, asked, delivered, is_kept):
    async with site(committer=Disk()) as here:
        hears, _ = await arrive(here, is_clean=not is_kept)
        hears.send(encode.subscribe(4, 1, [("a", asked)]))
        assert await hears.receive() == Suback(1, [asked])
        await says(here, "a", b"1", published)
        push = await hears.receive()
        assert (push.payload, push.qos) == (b"1", delivered)
        assert here.broker.status()["local"]["queued"] == (1 if is_kept and delivered else 0)
        if delivered == 2:
            hears.send(encode.ack(PUBREC, push.packet_id))
            assert await hears.receive() == Ack(PUBREL, push.packet_id)
            hears.send(encode.ack(PUBCOMP, push.packet_id))
            assert await hears.ping() == []


async def test_a_client_that_reads_nothing_holds_nobody_else():
    async with site(committer=Disk(), local_queue=50, local_queue_bytes=3_000_000) as here:
        lazy, _ = await arrive(here, token="tok2")
        lazy.send(encode.subscribe(4, 1, [("a", 1)]))
        await lazy.receive()
        here.inlet.add_device("third", "tok3")
        hears, _ = await arrive(here, token="tok3")
        hears.send(encode.subscribe(4, 1, [("a", 1)]))
        await hears.receive()
        peer, _ = await here.connect(4, "tok")
        for number in range(300):
            peer.publish("a", bytes(40_000), 1, number + 1)
            push = await hears.receive()
            hears.send(encode.ack(PUBACK, push.packet_id))
            assert await peer.receive() == Ack(PUBACK, number + 1)
        assert here.broker.status()["local"]["queued_bytes"] <= 3_000_000
        assert here.counters.get("broker.local_dropped_oldest") >= 240


async def test_a_stored_will_that_finds_no_room_stops_no_start():
    disk, inlet = Disk(), plant()
    async with site(committer=disk, inlet=inlet) as here:
        peer = await here.open()
        will = Publish("state/pump", b"gone", 1, is_retained=True)
        peer.send(encode.connect(Connect(version=4, user_name="tok", will=will)))
        await peer.receive()
        killed = disk.kept()
    disk.units = [[SaveLocal(*one) for one in killed]]
    async with site(committer=disk, inlet=inlet, kept=killed, local_retained=0) as here:
        await here.connect(4, "tok")
        assert disk.count("will") == 0
        assert here.counters.get("broker.local_retained_refused") == 1
