"""Calls that are not acknowledged, and the order of the calls of one device (device API, server-side RPC)."""

import asyncio
from collections.abc import Awaitable
from uuid import UUID

import pytest

from gateway.broker.outbox import Outbox
from gateway.domain.changes import SaveRpc
from gateway.domain.entity import Device
from gateway.domain.rpc import RpcRequest, RpcResponse, RpcState, RpcStrategy
from gateway.errors import TransientError
from gateway.ports import Snapshot
from tests.fakes.house import FakeChannel, House, settle

BURST = RpcStrategy.BURST
ON_ACK = RpcStrategy.SEQUENTIAL_ON_ACK_FROM_DEVICE
ON_RESPONSE = RpcStrategy.SEQUENTIAL_ON_RESPONSE_FROM_DEVICE


class AckChannel(FakeChannel):
    """An MQTT connection: the device has a call when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.acks: list[asyncio.Future[RpcResponse | None]] = []

    def send_rpc(self, rpc_id: int, request: RpcRequest) -> Awaitable[RpcResponse | None]:
        self.calls.append((rpc_id, request))
        self.acks.append(asyncio.get_running_loop().create_future())
        return self.acks[-1]

    async def ack(self) -> None:
        self.acks[-1].set_result(None)
        await settle()

    async def lose(self) -> None:
        self.acks[-1].set_exception(TransientError("connection lost"))
        await settle()

    def methods(self) -> list[str]:
        return [request.method for _, request in self.calls]


def listen(house: House, device: Device, channel: FakeChannel | None = None):
    channel = channel or AckChannel()
    session = house.inlet.open_session(device, channel)
    session.subscribe_rpc(True, confirms=True)
    return session, channel


async def call(house: House, device: Device, **changes) -> RpcRequest:
    left_s = changes.pop("left_s", 3600)
    request = house.call(device, **{"expires_ms": house.clock.now_ms() + left_s * 1000, **changes})
    await house.commands.call_device(request)
    await settle()
    return request


def states(house: House, uuid: UUID | None = None) -> list[RpcState]:
    saved = [change for change in house.committer.changes() if isinstance(change, SaveRpc)]
    return [change.state for change in saved if uuid in (None, change.request_uuid)]


def kept(house: House) -> Snapshot:
    """What the next start finds."""
    open_ = {}
    for change in house.committer.changes():
        if isinstance(change, SaveRpc):
            open_[change.request_uuid] = change
    devices = [house.state.device(change.device_id) for change in open_.values()]
    return Snapshot(
        devices=[device for device in dict.fromkeys(devices) if device is not None],
        open_rpcs=[
            (c.request_uuid, c.device_id, c.state.value, c.expires_ms, c.request)
            for c in sorted(open_.values(), key=lambda change: change.expires_ms)
            if c.state is not RpcState.DONE
        ],
    )


# ── acknowledgements ──


async def test_a_persisted_call_without_acknowledgement_is_sent_again_at_the_next_subscription_only():
    async with House() as house:
        device = house.add_device()
        session, channel = listen(house, device)
        await call(house, device, is_persisted=True)
        await house.clock.advance(9.999)
        assert states(house) == [RpcState.QUEUED, RpcState.SENT]
        await house.clock.advance(0.001)
        assert states(house) == [RpcState.QUEUED, RpcState.SENT, RpcState.TIMEOUT]
        await house.clock.advance(60)
        assert len(channel.calls) == 1
        session.subscribe_rpc(True, confirms=True)
        await settle()
        assert [rpc_id for rpc_id, _ in channel.calls] == [0, 0]
        await channel.ack()
        assert states(house)[-1] is RpcState.DELIVERED
        session.subscribe_rpc(True, confirms=True)
        await settle()
        assert len(channel.calls) == 2
        await session.answer_rpc(0, "1")
        await settle()
        assert states(house)[-1] is RpcState.DONE
        assert house.rules.resumed == [RpcResponse(response="1")]
        assert len(house.answers()) == 1  # its id, as soon as it was taken


async def test_a_persisted_call_has_failed_after_five_retries(caplog):
    async with House() as house:
        device = house.add_device()
        session, channel = listen(house, device)
        await call(house, device, is_persisted=True)
        for _ in range(5):
            await house.clock.advance(10)
            session.subscribe_rpc(True, confirms=True)
            await settle()
        assert len(channel.calls) == 6
        assert house.rpc.open_calls() == 1
        await house.clock.advance(10)
        assert house.rpc.open_calls() == 0
        assert states(house)[-1] is RpcState.DONE
        assert [response.error for response in house.rules.resumed] == ["TIMEOUT"]
        assert house.counters.get("rpc.given_up") == 1
        assert "did not acknowledge the persisted call 'set', which was sent 6 times" in caplog.text
        session.subscribe_rpc(True, confirms=True)
        await settle()
        assert len(channel.calls) == 6


@pytest.mark.parametrize(("wanted", "sent"), [(1, 2), (2, 3), (0, 6), (9, 6), (-1, 6)])
async def test_a_caller_may_want_fewer_retries(wanted, sent):
    """Platform API body, `retries`; 0 on the wire is a caller that has not said."""
    async with House() as house:
        device = house.add_device()
        session, channel = listen(house, device)
        await call(house, device, is_persisted=True, retries=wanted)
        for _ in range(sent + 2):
            await house.clock.advance(10)
            session.subscribe_rpc(True, confirms=True)
            await settle()
        assert len(channel.calls) == sent
        assert house.rpc.open_calls() == 0


@pytest.mark.parametrize(("wanted", "sent"), [(1, 2), (2, 3), (0, 6)])
async def test_fewer_retries_are_remembered_over_a_restart(wanted, sent):
    async with House() as house:
        device = house.add_device()
        session, _ = listen(house, device)
        await call(house, device, is_persisted=True, retries=wanted)
        await house.clock.advance(10)
        session.subscribe_rpc(True, confirms=True)
        await settle()
        snapshot = kept(house)
    async with House(snapshot) as house:
        house.rpc.recover(snapshot)
        for more in range(sent - 2):
            session, channel = listen(house, device)
            await settle()
            assert len(channel.calls) == 1, more
            await house.clock.advance(10)
        _, channel = listen(house, device)
        await settle()
        assert not channel.calls
        assert house.rpc.open_calls() == 0


async def test_a_connection_that_is_lost_before_the_acknowledgement_counts_as_a_try():
    async with House() as house:
        device = house.add_device()
        await call(house, device, is_persisted=True)
        for _ in range(6):
            _, channel = listen(house, device)
            await settle()
            assert len(channel.calls) == 1
            await channel.lose()
        assert house.rpc.open_calls() == 0
        assert states(house)[-1] is RpcState.DONE


async def test_a_deadline_that_is_nearer_than_the_ack_wait_ends_a_persisted_call():
    async with House() as house:
        device = house.add_device()
        session, channel = listen(house, device)
        await call(house, device, is_persisted=True, left_s=4)
        await house.clock.advance(4)
        assert states(house) == [RpcState.QUEUED, RpcState.SENT, RpcState.DONE]
        session.subscribe_rpc(True, confirms=True)
        await settle()
        assert len(channel.calls) == 1


async def test_a_call_that_waits_to_be_sent_again_ends_at_its_deadline_and_is_not_executed_late():
    async with House() as house:
        device = house.add_device()
        session, channel = listen(house, device)
        await call(house, device, is_persisted=True, left_s=30)
        await house.clock.advance(30)
        assert states(house)[-1] is RpcState.DONE
        session.subscribe_rpc(True, confirms=True)
        await settle()
        assert len(channel.calls) == 1


@pytest.mark.parametrize("strategy", [BURST, ON_ACK])
async def test_a_call_that_is_not_persisted_is_sent_once_and_ends_at_its_deadline(strategy):
    async with House(strategy=strategy) as house:
        device = house.add_device()
        session, channel = listen(house, device)
        await call(house, device, left_s=30)
        await house.clock.advance(10)
        session.subscribe_rpc(True, confirms=True)
        await house.clock.advance(19.9)
        assert (len(channel.calls), house.answers()) == (1, [])
        await house.clock.advance(0.1)
        assert [answer["error"] for answer in house.answers()] == ["TIMEOUT"]


@pytest.mark.parametrize("after_s", [1, 11])
async def test_an_answer_says_that_the_device_has_the_call(after_s):
    async with House() as house:
        device = house.add_device()
        session, channel = listen(house, device)
        await call(house, device, is_persisted=True)
        await house.clock.advance(after_s)
        await session.answer_rpc(0, "2")
        await settle()
        assert house.rules.resumed == [RpcResponse(response="2")]
        assert (len(channel.calls), house.rpc.open_calls()) == (1, 0)


async def test_a_one_way_call_ends_with_its_acknowledgement_and_an_answer_is_ignored():
    async with House() as house:
        device = house.add_device()
        session, channel = listen(house, device)
        await call(house, device, is_oneway=True)
        await session.answer_rpc(0, "3")
        await settle()
        assert (house.answers(), house.counters.get("rpc.stale_answers")) == ([], 1)
        await channel.ack()
        assert [answer["response"] for answer in house.answers()] == ["{}"]


async def test_a_bus_is_called_once_however_long_it_takes():
    async with House() as house:
        device, channel = house.add_device(), AckChannel()
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await call(house, device, is_persisted=True)
        await house.clock.advance(100)
        assert states(house) == [RpcState.QUEUED, RpcState.DELIVERED]
        channel.acks[-1].set_result(RpcResponse(response="4"))
        await settle()
        assert house.rules.resumed == [RpcResponse(response="4")]
        assert len(channel.calls) == 1


async def test_a_call_that_nobody_waits_for_does_not_leave_when_the_device_has_room_again():
    written: list[bytes] = []
    outbox = Outbox(4, written.append, lambda: None, receive_maximum=1, max_packet_bytes=None, max_waiting_bytes=1000)
    loop = asyncio.get_running_loop()
    late, next_ = loop.create_future(), loop.create_future()
    outbox.publish("first", b"", 1)
    outbox.publish("late", b"", 1, done=late)
    outbox.publish("next", b"", 1, done=next_)
    late.cancel()
    outbox.acknowledged(1, 0)
    assert [b"late" in packet for packet in written] == [False, False]
    assert b"next" in written[-1]
    outbox.acknowledged(2, 0)
    assert next_.done()


# ── restarts ──


@pytest.mark.parametrize("waited_s", [1, 11])
async def test_a_persisted_call_without_acknowledgement_is_sent_again_after_a_restart(waited_s):
    async with House() as house:
        device = house.add_device()
        listen(house, device)
        request = await call(house, device, is_persisted=True)
        await house.clock.advance(waited_s)
        snapshot = kept(house)
    async with House(snapshot) as house:
        house.rpc.recover(snapshot)
        session, channel = listen(house, device)
        await settle()
        assert [sent.request_uuid for _, sent in channel.calls] == [request.request_uuid]
        assert house.answers() == []  # its caller has the id
        for _ in range(4):
            await house.clock.advance(10)
            session.subscribe_rpc(True, confirms=True)
            await settle()
        assert len(channel.calls) == 5  # with the one of the first life: six
        await house.clock.advance(10)
        assert house.rpc.open_calls() == 0


@pytest.mark.parametrize("confirms", [True, False])
async def test_a_call_that_was_delivered_is_not_executed_again_after_a_restart(confirms):
    async with House() as house:
        device, channel = house.add_device(), AckChannel()
        house.inlet.open_session(device, channel).subscribe_rpc(True, confirms=confirms)
        await call(house, device, is_persisted=True)
        if confirms:
            await channel.ack()
        snapshot = kept(house)
    assert [state for _, _, state, _, _ in snapshot.open_rpcs] == ["DELIVERED"]
    async with House(snapshot) as house:
        house.rpc.recover(snapshot)
        _, channel = listen(house, device)
        await settle()
        assert channel.calls == []
        assert states(house) == [RpcState.DONE]


async def test_the_order_of_calls_survives_a_restart():
    async with House(strategy=ON_ACK) as house:
        device = house.add_device()
        await call(house, device, method="first", is_persisted=True, left_s=900)
        await call(house, device, method="second", is_persisted=True, left_s=600)
        snapshot = kept(house)
    async with House(snapshot, strategy=ON_ACK) as house:
        house.rpc.recover(snapshot)
        await call(house, device, method="third", is_persisted=True, left_s=300)
        _, channel = listen(house, device)
        for _ in range(3):
            await settle()
            await channel.ack()
        assert channel.methods() == ["first", "second", "third"]


# ── strategies ──


async def test_burst_sends_everything_at_once():
    async with House() as house:
        device = house.add_device()
        await call(house, device, method="first")
        await call(house, device, method="second")
        _, channel = listen(house, device)
        await settle()
        assert channel.methods() == ["first", "second"]


async def test_on_ack_the_next_call_waits_for_the_acknowledgement_and_other_devices_do_not():
    async with House(strategy=ON_ACK) as house:
        device, other = house.add_device(), house.add_device("Pump", "other")
        (session, channel), (_, others) = listen(house, device), listen(house, other)
        await call(house, device, method="first")
        await call(house, device, method="second", is_oneway=True)
        await call(house, device, method="third")
        await call(house, other, method="fourth")
        assert (channel.methods(), others.methods()) == (["first"], ["fourth"])
        await channel.ack()
        assert channel.methods() == ["first", "second"]
        await channel.ack()
        assert channel.methods() == ["first", "second", "third"]
        await session.answer_rpc(0, '"late"')
        await settle()
        assert [answer["response"] for answer in house.answers()] == ["{}", '"late"']


@pytest.mark.parametrize("strategy", [ON_ACK, ON_RESPONSE])
async def test_in_sequence_a_persisted_call_is_sent_again_at_once_and_the_next_one_waits(strategy):
    async with House(strategy=strategy) as house:
        device = house.add_device()
        _, channel = listen(house, device)
        await call(house, device, method="first", is_persisted=True)
        await call(house, device, method="second", is_oneway=True)
        await house.clock.advance(10)
        assert channel.methods() == ["first", "first"]
        for _ in range(5):
            await house.clock.advance(10)
        assert channel.methods() == ["first"] * 6 + ["second"]
        await channel.ack()
        assert house.rpc.open_calls() == 0


async def test_in_sequence_a_call_that_is_not_persisted_holds_its_line_for_the_ack_wait_only():
    async with House(strategy=ON_ACK) as house:
        device = house.add_device()
        _, channel = listen(house, device)
        await call(house, device, method="first")
        await call(house, device, method="second")
        await house.clock.advance(9.9)
        assert channel.methods() == ["first"]
        await house.clock.advance(0.1)
        assert channel.methods() == ["first", "second"]


async def test_on_response_the_next_call_waits_for_the_answer():
    async with House(strategy=ON_RESPONSE) as house:
        device = house.add_device()
        session, channel = listen(house, device)
        await call(house, device, method="first")
        await call(house, device, method="second")
        await channel.ack()
        assert channel.methods() == ["first"]
        await session.answer_rpc(0, "1")
        await settle()
        assert channel.methods() == ["first", "second"]


async def test_on_response_the_line_moves_on_after_30_s_and_the_late_answer_counts():
    async with House(strategy=ON_RESPONSE) as house:
        device = house.add_device()
        session, channel = listen(house, device)
        await call(house, device, method="first")
        await call(house, device, method="second")
        await channel.ack()
        await house.clock.advance(29.9)
        assert channel.methods() == ["first"]
        await house.clock.advance(0.1)
        assert channel.methods() == ["first", "second"]
        await session.answer_rpc(0, '"late"')
        await settle()
        assert [answer["response"] for answer in house.answers()] == ['"late"']


async def test_in_sequence_a_call_whose_deadline_passes_leaves_the_line():
    async with House(strategy=ON_RESPONSE) as house:
        device = house.add_device()
        await call(house, device, method="first", left_s=5)
        await call(house, device, method="second", left_s=5)
        await call(house, device, method="third")
        await house.clock.advance(5)
        _, channel = listen(house, device)
        await settle()
        assert channel.methods() == ["third"]
        assert [answer["error"] for answer in house.answers()] == ["NO_ACTIVE_CONNECTION"] * 2
