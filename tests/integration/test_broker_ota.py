"""The chunk protocol byte by byte, over real sockets and real files."""

import asyncio
import base64
import hashlib
import os
import socket
from contextlib import asynccontextmanager

import pytest

from gateway.broker import encode
from gateway.broker.packets import PUBACK, Ack, Connect, Disconnect
from gateway.domain.ota import OtaStatus, Package, PackageKind, PackageUnavailable
from gateway.store import PackageFiles
from tests.integration.broker_peer import Peer, site

CLOSED = None
FW = PackageKind.FIRMWARE
DATA = os.urandom(150_000)
ASKED = 120


class Shelf:
    """`Packages` with one firmware for everybody."""

    def __init__(self, folder):
        self.files = PackageFiles(folder, 1 << 30)
        self.package = None
        self.opened = []

    async def put(self, data, key="a"):
        checksum = hashlib.sha256(data).hexdigest()
        await self.files.save(key, base64.b64encode(data).decode(), "SHA256", checksum, len(data))
        self.package = Package(
            key=key, kind=FW, title="T", version="1", size_bytes=len(data), checksum=checksum, algorithm="SHA256"
        )

    def assigned(self, device, kind):
        return self.package if kind is FW else None

    async def open(self, device, kind):
        package = self.assigned(device, kind)
        if package is None:
            raise PackageUnavailable(OtaStatus.NOT_FOUND, "none")
        if package.url:
            raise PackageUnavailable(OtaStatus.FAILURE, "a URL")
        file = await self.files.open(self.files.path_of(package.key), package.algorithm, package.checksum)
        self.opened.append(file)
        return package, file


@asynccontextmanager
async def shop(tmp_path, data=DATA, **settings):
    shelf = Shelf(tmp_path / "ota")
    await shelf.put(data)
    async with site(packages=shelf, **settings) as here:
        yield here, shelf
    await shelf.files.close()
    assert [file.holders for file in shelf.opened] == [0] * len(shelf.opened)


class Standing:
    """How the connection of `pump` stands."""

    def __init__(self, here):
        connection = next(one for one in here.broker._members if one.device.name == "pump")
        self.buffered = connection._transport.get_write_buffer_size()
        self.is_stuck = connection._is_streaming and self.buffered > 0


def ask(peer, number, payload=b"", rid=1, qos=1, packet_id=7, kind="fw"):
    peer.publish(f"v2/{kind}/request/{rid}/chunk/{number}", payload, qos, packet_id)


async def chunk(peer, number, payload=b"", **more):
    """The bytes of one chunk; its request is acknowledged first."""
    ask(peer, number, payload, **more)
    assert await peer.receive() == Ack(PUBACK, 7)
    got = await peer.receive()
    assert got.topic == f"v2/fw/response/{more.get('rid', 1)}/chunk/{number}"
    assert got.qos == 1  # not subscribed: answered all the same
    return got.payload


@pytest.mark.parametrize("version", [4, 5])
async def test_chunks_the_short_last_one_and_what_is_behind_the_end(tmp_path, version):
    async with shop(tmp_path) as (here, _):
        peer, _ = await here.connect(version)
        assert await chunk(peer, 0, b"65536") == DATA[:65_536]
        assert await chunk(peer, 1) == DATA[65_536:131_072]  # the size used last
        assert await chunk(peer, 2) == DATA[131_072:]
        assert await chunk(peer, 3) == b""
        assert await chunk(peer, 1, b"10") == DATA[10:20]
        assert here.counters.get("broker.package_chunks") == 5


async def test_a_negative_size_is_as_none_and_qos_0_and_a_subscription_are_kept_to(tmp_path):
    async with shop(tmp_path, b"short") as (here, _):
        peer, _ = await here.connect()
        assert await chunk(peer, 0, b"-5") == b"short"
        ask(peer, 0, b"2", qos=0)
        assert (await peer.receive()).payload == b"sh"
        assert await chunk(peer, 9, rid=2) == b"short"  # no size: the whole, whatever the number


@pytest.mark.parametrize("version", [4, 5])
async def test_the_whole_file_in_one_message_leaves_in_parts_with_nothing_between_them(tmp_path, version):
    data = os.urandom(12_000_000)  # more than the sockets hold
    async with shop(tmp_path, data) as (here, _):
        peer, session = await here.connect(version)
        ask(peer, 0)
        assert await peer.receive() == Ack(PUBACK, 7)
        await here.until(lambda: Standing(here).is_stuck)
        assert Standing(here).buffered <= 3 * 65_536
        session.channel.send_attributes({"k": 1})
        assert (await peer.receive()).payload == data
        assert (await peer.receive()).payload == b'{"k":1}'
        assert await peer.ping() == []


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    ("payload", "kind", "status"),
    [(b"65537", "fw", b"PAYLOAD_TOO_LARGE"), (b"100", "sw", b"NOT_FOUND"), (b"100", "url", b"FAILURE")],
)
async def test_errors_are_told_on_the_firmware_topic_and_end_the_connection(tmp_path, version, payload, kind, status):
    async with shop(tmp_path) as (here, shelf):
        if kind == "url":
            shelf.package, kind = Package(key="u", kind=FW, title="T", version="1", url="http://x"), "fw"
        peer, _ = await here.connect(version)
        ask(peer, 0, payload, kind=kind)
        got = await peer.receive()
        assert (got.topic, got.payload) == ("v2/fw/error", status)
        if version == 5:
            assert await peer.receive() == Disconnect(0x83)
        assert await peer.receive() is CLOSED
        assert here.counters.get("broker.package_errors") == 1


@pytest.mark.parametrize("payload", [b"abc", b"1e3", b"99999999999", b"\xff"])
async def test_a_payload_that_is_no_number_closes(tmp_path, payload):
    async with shop(tmp_path) as (here, _):
        peer, _ = await here.connect(5)
        ask(peer, 0, payload)
        assert await peer.receive() == Disconnect(0x8B)
        assert await peer.receive() is CLOSED


async def test_what_only_looks_like_a_request_is_an_unknown_topic(tmp_path):
    async with shop(tmp_path) as (here, _):
        peer, _ = await here.connect(5)
        for topic in ("v2/fw/request/x/chunk/0", "v2/fw/request/1/chunk/", "v2/fw/error", "v2/fw/request/1/chunk/0/0"):
            peer.publish(topic, b"", 1, 7)
            assert await peer.receive() == Ack(PUBACK, 7, 0x90)


async def test_a_download_ends_with_the_package_it_began_with(tmp_path):
    old, new = b"o" * 1000, b"n" * 2000
    async with shop(tmp_path, old) as (here, shelf):
        peer, _ = await here.connect()
        assert await chunk(peer, 0, b"600") == old[:600]
        await shelf.put(new)
        assert await chunk(peer, 1) == old[600:]
        assert await chunk(peer, 0, b"600", rid=2) == new[:600]


async def test_a_file_that_changes_under_a_download_is_not_mixed(tmp_path):
    async with shop(tmp_path) as (here, shelf):
        peer, _ = await here.connect()
        await chunk(peer, 0, b"600")
        shelf.files.path_of("a").write_bytes(b"x" * len(DATA))
        ask(peer, 1)
        assert (await peer.receive()).payload == b"FAILURE"
        assert await peer.receive() is CLOSED


async def test_only_so_many_downloads_are_remembered_and_their_files_are_let_go(tmp_path):
    async with shop(tmp_path, b"abc") as (here, shelf):
        peer, _ = await here.connect()
        for rid in range(20):
            await chunk(peer, 0, b"1", rid=rid)
        assert sum(file.holders for file in set(shelf.opened)) == 4


async def test_a_slow_reader_holds_its_own_chunk_and_nobody_else(tmp_path):
    async with shop(tmp_path, os.urandom(1_000_000)) as (here, _):
        door = socket.socket()
        door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        door.connect(("127.0.0.1", here.broker.port))
        slow = Peer(*await asyncio.open_connection(sock=door), 4)
        here.peers.append(slow)
        slow.send(encode.connect(Connect(version=4, user_name="tok")))
        await slow.receive()
        for number in range(ASKED):
            ask(slow, number % 15, b"65536", packet_id=number + 1)
        other, session = await here.connect(token="tok2")
        await here.until(lambda: here.counters.get("broker.package_chunks") > 0)
        for _ in range(3):
            await chunk(other, 3, b"65536")
            other.publish("v1/devices/me/telemetry", b'{"a":1}', 1, 9)
            assert await other.receive() == Ack(PUBACK, 9)
        assert len(session.posted) == 3
        await asyncio.sleep(0.05)
        sent = here.counters.get("broker.package_chunks") - 3
        assert sent < ASKED
        assert Standing(here).buffered <= 3 * 65_536
        for _ in range(2 * ASKED):  # it reads again: it gets all of it
            assert await slow.receive() is not CLOSED


@pytest.mark.server
async def test_a_hundred_devices_download_a_megabyte_each(tmp_path):
    data = os.urandom(1_000_000)
    async with shop(tmp_path, data, max_connections=200) as (here, _):
        for number in range(100):
            here.inlet.add_device(f"d{number}", f"t{number}")
        peers = [(await here.connect(token=f"t{number}"))[0] for number in range(100)]
        meter, session = await here.connect()

        async def download(peer):
            return b"".join([await chunk(peer, number, b"65536") for number in range(16)])

        async def telemetry():
            worst_s, clock = 0.0, asyncio.get_running_loop().time
            while True:
                start_s = clock()
                meter.publish("v1/devices/me/telemetry", b'{"a":1}', 1, 9)
                assert await meter.receive() == Ack(PUBACK, 9)
                worst_s = max(worst_s, clock() - start_s)
                if all(task.done() for task in tasks):
                    return worst_s

        tasks = [asyncio.create_task(download(peer)) for peer in peers]
        worst_s = await telemetry()
        assert [task.result() == data for task in tasks] == [True] * 100
        assert len(session.posted) > 20
        assert worst_s < 2.0
