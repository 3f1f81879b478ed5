"""What local topics keep for a device, when the cloud deletes it and makes another one of its name."""

import pytest

from gateway.broker import encode
from gateway.broker.packets import PUBACK, Ack, Connack, Connect, Disconnect, Suback
from tests.e2e.parts import until
from tests.integration.broker_peer import Peer
from tests.integration.test_device_orders import living

pytestmark = pytest.mark.server


async def arrive(port: int, token: str) -> tuple[Peer, bool]:
    """A client with its session, as soon as its device is known here."""
    found: list[tuple[Peer, bool]] = []

    async def is_let_in() -> bool:
        peer = await Peer.open(port, 5)
        hello = Connect(version=5, user_name=token, client_id="c1", is_clean=False, session_expiry_s=3600)
        peer.send(encode.connect(hello))
        answer = await peer.receive()
        assert isinstance(answer, Connack)
        if answer.code:
            peer.writer.close()
            return False
        found.append((peer, answer.is_session_present))
        return True

    await until(is_let_in, 10, f"{token} is not let in")
    return found[0]


async def test_a_new_device_of_the_same_name_inherits_nothing(tmp_path):
    async with living(tmp_path) as house:
        port = house.gateway.port

        async def kept() -> list[int]:
            local = (await house.ask("/status"))["mqtt"]["local"]
            return [local["sessions"], local["queued"]]

        async def is_kept(*wanted: int) -> bool:
            return await kept() == list(wanted)

        for name in ("L", "P"):
            await house.sim.create_device(name, token=name.lower())
        hears, was_there = await arrive(port, "l")
        assert not was_there
        hears.send(encode.subscribe(5, 1, [("q", 1)]))
        assert await hears.receive() == Suback(1, [1])
        hears.writer.close()
        teller, _ = await arrive(port, "p")
        teller.publish("q", b"1", 1, 1)
        assert await teller.receive() == Ack(PUBACK, 1)
        await until(lambda: is_kept(1, 1), 5, "it is not kept")

        await house.sim.delete_device("L")
        await until(lambda: is_kept(0, 0), 10, "what was kept is still there")
        await house.sim.create_device("L", token="l")
        hears, was_there = await arrive(port, "l")
        assert not was_there
        assert await hears.ping() == []

        hears.send(encode.subscribe(5, 1, [("q", 1)]))
        assert await hears.receive() == Suback(1, [1])
        await house.sim.delete_device("L")
        assert await hears.receive() == Disconnect(0x98)
        await until(lambda: is_kept(0, 0), 5, "its session stays")
        for peer in (hears, teller):
            peer.writer.close()
