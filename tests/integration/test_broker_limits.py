"""What a peer may hold: places, half packets, topics, subscriptions, time; and that the others do not notice."""

import asyncio
import logging
import socket

from gateway.broker import encode
from gateway.broker.packets import PUBACK, Ack, Connack, Connect, Disconnect, Suback
from tests.integration.broker_peer import Peer, site

TELEMETRY = "v1/devices/me/telemetry"


async def test_one_address_takes_no_more_than_its_places():
    async with site(max_connections_per_address=2) as here:
        first, _ = await here.connect()
        second = await here.open()
        third = await here.open()
        assert await third.receive() is None
        assert here.counters.get("broker.connections_over_address_limit") == 1
        assert await first.ping() == []
        second.writer.close()  # its place is free again
        await here.until(lambda: here.broker.connections() == 1)
        await here.connect(token="tok2")


async def test_the_oldest_half_packets_go_when_all_together_are_too_much():
    async with site(max_partial_bytes=100_000) as here:
        quiet, _ = await here.connect()
        lorises = [await here.open() for _ in range(3)]
        half = b"\x10\xe0\xd4\x03" + b"\0" * 39_996  # CONNECT of 60,000 bytes, announced and never sent
        for number, loris in enumerate(lorises):
            loris.send(half)
            if number < 2:
                await here.until(lambda n=number: here.broker.partial_bytes() == 40_000 * (n + 1))
        assert await lorises[0].receive() is None
        assert await quiet.ping() == []
        await here.until(lambda: here.broker.partial_bytes() < 100_000)


async def test_a_busy_device_is_not_the_oldest_half_packet():
    async with site(max_partial_bytes=50_000) as here:
        busy, _ = await here.connect()
        packet = encode.publish(4, TELEMETRY, b'{"k":"' + b"x" * 9_000 + b'"}', 1, 7)
        busy.send(packet[:5000])
        await here.until(lambda: here.broker.partial_bytes() == 5000)
        loris, _ = await here.connect(token="tok2")
        loris.send(packet[:9000])
        await here.until(lambda: here.broker.partial_bytes() == 14_000)
        busy.send(packet[5000:] + packet[:5000])  # another packet than before
        assert await busy.receive() == Ack(PUBACK, 7)
        third = await here.open()
        third.send(b"\x10\xe0\xd4\x03" + b"\0" * 39_996)  # a CONNECT that does not end
        assert await loris.receive() is None
        assert here.counters.get("broker.unfinished_packets_closed") == 1
        busy.send(packet[5000:])
        assert await busy.receive() == Ack(PUBACK, 7)


async def test_half_a_packet_is_forgotten_with_its_connection():
    async with site() as here:
        peer, _ = await here.connect()
        peer.send(encode.publish(4, TELEMETRY, b"x" * 60_000)[:40_000])
        await here.until(lambda: here.broker.partial_bytes() == 40_000)
        peer.writer.transport.abort()
        await here.until(lambda: here.broker.partial_bytes() == 0)


async def test_subscriptions_are_bounded_and_the_rest_stands():
    for version, refused in ((4, 0x80), (5, 0x97)):
        async with site(max_subscriptions=3) as here:
            peer, session = await here.connect(version)
            filters = [
                ("v1/devices/me/attributes", 1),
                ("v1/devices/me/rpc/request/+", 1),
                ("v1/devices/me/rpc/response/+", 1),
            ]
            peer.send(encode.subscribe(version, 1, [*filters, ("v1/devices/me/attributes/response/+", 1)]))
            assert await peer.receive() == Suback(1, [1, 1, 1, refused])
            peer.send(encode.subscribe(version, 2, filters[:1]))  # again the same one takes no place
            assert await peer.receive() == Suback(2, [1])
            peer.send(encode.unsubscribe(version, 3, ["v1/devices/me/rpc/response/+"]))
            await peer.receive()
            peer.send(encode.subscribe(version, 4, [("v1/devices/me/attributes/response/+", 1)]))
            assert await peer.receive() == Suback(4, [1])
            assert here.counters.get("broker.subscriptions_refused") == 1
            assert session.has_attributes
            assert session.has_rpc


async def test_filters_beyond_reason_are_refused():
    async with site() as here:
        peer, _ = await here.connect(5)
        peer.send(encode.subscribe(5, 1, [("a/" * 64, 0), ("x" * 1025, 0)]))
        assert await peer.receive() == Suback(1, [0x8F, 0x8F])


async def test_topics_beyond_reason_end_the_connection():
    for topic in ("x" * 1025, "a/" * 64):
        async with site() as here:
            peer, _ = await here.connect(5)
            peer.publish(topic, b"x")
            assert await peer.receive() == Disconnect(0x90)


async def test_a_device_that_never_reads_again_is_closed():
    async with site(slow_reader_timeout_s=30) as here:
        peer, session = await here.connect()
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.writer.transport.pause_reading()
        channel = session.channel
        for _ in range(80):  # far more than sockets hold, less than the front does
            channel.send_attributes({"k": "x" * 60_000})
            await asyncio.sleep(0)
            if here.broker.stuck():
                break
        assert here.broker.stuck() == 1
        await here.clock.advance(29)
        assert here.broker.connections() == 1
        await here.clock.advance(3)
        await here.until(lambda: here.broker.connections() == 0)
        assert here.counters.get("broker.slow_readers_closed") == 1


async def test_what_nobody_has_time_for_waits_in_the_sockets():
    """While the disk is behind, nothing more is taken from any connection, and nobody is dropped."""
    async with site() as here:
        peers = [await here.connect(token=token) for token in ("tok", "tok2")]
        here.inlet.calm.clear()
        for peer, _ in peers:
            for packet_id in range(1, 51):
                peer.publish(TELEMETRY, b'{"a":1}', 1, packet_id)
        await asyncio.sleep(0.05)
        assert [len(session.posted) for _, session in peers] == [0, 0]
        here.inlet.calm.set()
        for peer, _ in peers:
            assert [await peer.receive() for _ in range(50)] == [Ack(PUBACK, number) for number in range(1, 51)]


async def test_a_log_tells_of_a_flood_only_by_counters(caplog):
    with caplog.at_level(logging.INFO):
        async with site() as here:
            for _ in range(30):
                peer = await here.open()
                peer.send(b"GET / HTTP/1.1\r\n\r\n")
                assert await peer.receive() is None
            assert here.counters.get("broker.protocol_errors") == 30
            peer: Peer = await here.open()
            peer.send(encode.connect(Connect(version=4, user_name="tok")))
            assert isinstance(await peer.receive(), Connack)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
