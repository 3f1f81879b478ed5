import asyncio
from typing import Any
from uuid import uuid4

import pytest

from gateway.devices.load import Load
from gateway.devices.rpc import MAX_OPEN_OF_DEVICE
from gateway.domain.changes import AppendEvent, SaveRpc
from gateway.domain.cloud_event import Lane
from gateway.domain.rpc import RpcError, RpcRequest, RpcResponse, RpcState
from gateway.errors import RejectedError, TransientError
from gateway.ports import RuleCall, Snapshot
from tests.fakes.house import FakeChannel, House, settle


def states(house: House) -> list[RpcState]:
    return [change.state for change in house.committer.changes() if isinstance(change, SaveRpc)]


async def test_two_way_call_reaches_the_device_and_its_answer_becomes_an_express_event():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        session = house.inlet.open_session(device, channel)
        session.subscribe_rpc(True)
        request = house.call(device)
        await house.commands.call_device(request)
        await settle()
        ((rpc_id, sent),) = channel.calls
        assert (sent.method, sent.params) == ("set", {"on": True})
        assert house.answers() == []
        await session.answer_rpc(rpc_id, '{"ok":true}')
        await settle()
        assert house.answers() == [
            {
                "requestUUID": str(request.request_uuid),
                "expirationTime": request.expires_ms,
                "oneway": False,
                "requestId": 7,
                "response": '{"ok":true}',
            }
        ]
        assert house.committer.events()[-1].lane is Lane.EXPRESS
        assert states(house) == [RpcState.QUEUED, RpcState.SENT, RpcState.DONE]
        assert house.rules.resumed == [RpcResponse(response='{"ok":true}')]
        assert house.rpc.open_calls() == 0


async def test_call_is_durable_before_it_is_sent():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        house.committer.hold()
        receipt = house.rpc.call_device(house.call(device))
        await settle()
        assert channel.calls == []
        assert receipt is not None
        assert not receipt.done()
        house.committer.release()
        await settle()
        assert len(channel.calls) == 1


async def test_the_devices_receipt_waits_for_its_answers_event():
    async with House() as house:
        device = house.add_device()
        channel = FakeChannel()
        session = house.inlet.open_session(device, channel)
        session.subscribe_rpc(True)
        await house.commands.call_device(house.call(device))
        await settle()
        rpc_id, _ = channel.calls[0]
        house.committer.hold()
        receipt = session.answer_rpc(rpc_id, '{"ok":true}')
        await settle()
        held = house.committer._held
        answers = [done for done, unit in held if any(isinstance(change, AppendEvent) for change in unit)]
        assert answers
        for done, _ in held:
            if done not in answers:
                done.set_result(None)
        await settle()
        assert not receipt.done()
        house.committer.release()
        await settle()
        assert receipt.done()


async def test_one_way_call_is_answered_with_an_empty_object_when_handed_over():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await house.commands.call_device(house.call(device, is_oneway=True))
        await settle()
        assert [answer["response"] for answer in house.answers()] == ["{}"]


async def test_one_way_call_without_a_session_is_refused_at_once():
    async with House() as house:
        device = house.add_device()
        await house.commands.call_device(house.call(device, is_oneway=True))
        await settle()
        assert [answer["error"] for answer in house.answers()] == ["NO_ACTIVE_CONNECTION"]


async def test_two_way_call_waits_for_the_device_until_its_deadline():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        await house.commands.call_device(house.call(device))
        await settle()
        assert house.answers() == []
        channel.answer = RpcResponse(response="1")
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await settle()
        assert [answer["response"] for answer in house.answers()] == ["1"]


async def test_repeated_downlink_calls_the_device_once():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        channel.answer = RpcResponse(response="1")
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        request = house.call(device)
        await house.commands.call_device(request)
        await house.commands.call_device(request)
        await settle()
        await house.commands.call_device(request)
        await settle()
        assert len(channel.calls) == 1
        assert len(house.answers()) == 1
        assert house.counters.get("rpc.repeated") == 2


async def test_expired_call_is_answered_and_never_executed():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await house.commands.call_device(house.call(device, expires_ms=house.clock.now_ms() - 1))
        await settle()
        assert channel.calls == []
        assert [answer["error"] for answer in house.answers()] == ["TIMEOUT"]


async def test_call_for_an_unknown_device_is_not_found():
    async with House() as house:
        device = house.add_device()
        await house.commands.call_device(house.call(device, device_id=uuid4()))
        assert [answer["error"] for answer in house.answers()] == ["NOT_FOUND"]


async def test_deadline_ends_a_call_that_the_device_does_not_answer():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await house.commands.call_device(house.call(device, expires_ms=house.clock.now_ms() + 30))
        await settle()
        assert len(channel.calls) == 1
        await house.clock.advance(0.029)
        assert house.answers() == []
        await house.clock.advance(0.001)
        assert [answer["error"] for answer in house.answers()] == ["TIMEOUT"]


async def test_call_is_handed_over_again_after_a_lost_connection():
    async with House() as house:
        device, broken, fresh = house.add_device(), FakeChannel(), FakeChannel()
        broken.loses_connection = True
        house.inlet.open_session(device, broken).subscribe_rpc(True)
        await house.commands.call_device(house.call(device))
        await settle()
        assert len(broken.calls) == 1
        fresh.answer = RpcResponse(response="2")
        house.inlet.open_session(device, fresh).subscribe_rpc(True)
        await settle()
        assert [answer["response"] for answer in house.answers()] == ["2"]


async def test_chain_without_a_route_for_rpc_answers_instead_of_silence():
    async with House() as house:
        device = house.add_device()
        house.rules.routes_rpc = False
        await house.commands.call_device(house.call(device))
        await settle()
        assert [answer["error"] for answer in house.answers()] == ["INTERNAL"]


async def test_persisted_call_is_answered_with_its_id_at_once_and_not_again():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        request = house.call(device, is_persisted=True)
        await house.commands.call_device(request)
        await settle()
        assert [answer["response"] for answer in house.answers()] == [f'{{"rpcId":"{request.request_uuid}"}}']
        channel.answer = RpcResponse(response="3")
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await settle()
        assert len(channel.calls) == 1
        assert len(house.answers()) == 1


async def test_after_a_restart_a_sent_call_is_answered_and_a_queued_one_is_executed():
    first = House()
    device = first.add_device()
    sent, queued = first.call(device), first.call(device)
    kept = {
        "device_id": str(device.id),
        "method": "set",
        "params": 1,
        "request_id": 7,
        "expires_ms": sent.expires_ms,
        "is_oneway": False,
        "is_persisted": False,
    }
    snapshot = Snapshot(
        devices=[device],
        open_rpcs=[
            (sent.request_uuid, device.id, "SENT", sent.expires_ms, kept),
            (queued.request_uuid, device.id, "QUEUED", queued.expires_ms, kept),
        ],
    )
    async with House(snapshot) as house:
        channel = FakeChannel()
        channel.answer = RpcResponse(response="9")
        house.rpc.recover(snapshot)
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await settle()
        assert [request.request_uuid for _, request in channel.calls] == [queued.request_uuid]
        answers = {answer["requestUUID"]: answer for answer in house.answers()}
        assert answers[str(sent.request_uuid)]["error"] == "TIMEOUT"
        assert answers[str(queued.request_uuid)]["response"] == "9"


async def test_a_call_moves_to_the_connection_that_took_over_before_the_old_one_was_given_up():
    class Stuck(FakeChannel):
        lost: asyncio.Future[RpcResponse | None]

        async def send_rpc(self, rpc_id: int, request: RpcRequest) -> RpcResponse | None:
            self.lost = asyncio.get_running_loop().create_future()
            return await self.lost

    async with House() as house:
        device, old, new = house.add_device(), Stuck(), FakeChannel()
        house.inlet.open_session(device, old).subscribe_rpc(True)
        await house.commands.call_device(house.call(device))
        await settle()
        new.answer = RpcResponse(response="2")
        house.inlet.open_session(device, new).subscribe_rpc(True)
        await settle()
        old.lost.set_exception(TransientError("the connection ended before the device confirmed"))
        await settle()
        assert [answer["response"] for answer in house.answers()] == ["2"]


@pytest.mark.parametrize("params", ["5", "null", "true", '{"a":1}', "", "abc", 0, False, None])
async def test_text_params_stay_text_and_falsy_ones_stay_what_they_are(params):
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await house.commands.call_device(house.call(device, params=params))
        await settle()
        ((_, sent),) = channel.calls
        assert (type(sent.params), sent.params) == (type(params), params)


async def test_params_that_cannot_be_carried_end_their_call_and_no_other():
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        channel.answer = RpcResponse(response="1")
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await house.commands.call_device(house.call(device, params=deep))
        await house.commands.call_device(house.call(device))
        await settle()
        assert [answer.get("error", answer.get("response")) for answer in house.answers()] == ["INTERNAL", "1"]


async def test_an_answer_to_a_call_of_an_earlier_connection_is_not_taken_for_the_new_one():
    async with House() as house:
        device = house.add_device()
        first = house.inlet.open_session(device, FakeChannel())
        early = asyncio.ensure_future(first.call_server(1, "getTime", None))
        await settle()
        second = house.inlet.open_session(device, FakeChannel())
        await settle()
        assert early.result() is None
        call = asyncio.ensure_future(second.call_server(1, "getTime", None))
        await settle()
        await house.commands.answer_device(device.id, 1, str(first.id), '"old"')
        await house.commands.answer_device(device.id, 1, str(second.id), '"new"')
        assert await call == '"new"'


async def test_when_too_many_calls_to_the_server_wait_the_caller_is_told_and_calls_of_gone_devices_are_forgotten():
    async with House() as house:
        noisy = house.inlet.open_session(house.add_device("Noisy", "n"), FakeChannel())
        calls = [asyncio.ensure_future(noisy.call_server(number, "m", None)) for number in range(MAX_OPEN_OF_DEVICE)]
        await settle()
        assert "too many" in (await asyncio.wait_for(noisy.call_server(1000, "m", None), 1) or "")
        other = house.inlet.open_session(house.add_device("Other", "o"), FakeChannel())
        first = asyncio.ensure_future(other.call_server(1, "m", None))
        await settle()
        assert not first.done()  # one noisy device takes nothing from it
        house.rpc.server_answered(other.device.id, 1, None, "3")
        assert await first == "3"
        noisy.close()
        await settle()
        assert all(call.done() for call in calls)
        call = asyncio.ensure_future(other.call_server(2, "m", None))
        await settle()
        house.rpc.server_answered(other.device.id, 2, None, "4")
        assert await call == "4"


async def test_a_call_that_waits_for_its_device_ends_at_its_deadline():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        await house.commands.call_device(house.call(device))
        await house.clock.advance(10)
        assert [answer["error"] for answer in house.answers()] == ["NO_ACTIVE_CONNECTION"]
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await settle()
        assert channel.calls == []


async def test_a_call_whose_deadline_passes_while_the_disk_is_busy_is_never_executed():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        house.committer.hold()
        house.rpc.call_device(house.call(device))
        await settle()
        await house.clock.advance(11)
        house.committer.release()
        await settle()
        assert channel.calls == []
        assert [answer["error"] for answer in house.answers()] == ["TIMEOUT"]


@pytest.mark.parametrize("params", [0, False, "", None, 0.0, [], {}, "0", "null"])
async def test_params_reach_the_device_as_they_are(params):
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await house.commands.call_device(house.call(device, params=params))
        await settle()
        ((_, request),) = channel.calls
        assert request.params == params
        assert type(request.params) is type(params)


@pytest.mark.parametrize("answer", ["0", "false", '""', "null", ""])
async def test_answers_reach_the_cloud_as_they_are(answer):
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        channel.answer = RpcResponse(response=answer)
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await house.commands.call_device(house.call(device))
        await settle()
        assert [answer["response"] for answer in house.answers()] == [answer]


async def test_after_a_restart_a_finished_call_is_still_recognised():
    async with House() as first:
        device = first.add_device()
        request = first.call(device)
    async with House(Snapshot(devices=[device], finished_rpcs=[request.request_uuid])) as house:
        channel = FakeChannel()
        house.rpc.recover(Snapshot(finished_rpcs=[request.request_uuid]))
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await house.commands.call_device(request)
        await settle()
        assert channel.calls == []
        assert house.counters.get("rpc.repeated") == 1


async def test_after_a_restart_a_call_to_a_device_that_is_gone_is_not_found():
    first = House()
    device = first.add_device()
    request = first.call(device)
    kept = {
        "device_id": str(device.id),
        "method": "set",
        "params": 1,
        "request_id": 7,
        "expires_ms": request.expires_ms,
        "is_oneway": False,
        "is_persisted": False,
    }
    snapshot = Snapshot(open_rpcs=[(request.request_uuid, device.id, "QUEUED", request.expires_ms, kept)])
    async with House(snapshot) as house:
        house.rpc.recover(snapshot)
        await settle()
        assert [answer["error"] for answer in house.answers()] == ["NOT_FOUND"]


async def test_a_call_that_could_not_be_stored_is_new_when_it_comes_again():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        channel.answer = RpcResponse(response="1")
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        request = house.call(device)
        house.committer.refuse_next = RejectedError("too large")
        with pytest.raises(RejectedError):
            await house.commands.call_device(request)
        await house.commands.call_device(request)
        await settle()
        assert len(channel.calls) == 1


async def test_the_time_of_a_devices_own_call_is_the_clock_of_the_house():
    async with House() as house:
        device = house.add_device()
        session = house.inlet.open_session(device, FakeChannel())
        answer = asyncio.ensure_future(session.call_server(1, "time", {}))
        await house.clock.advance(59)
        assert not answer.done()
        await house.clock.advance(1)
        assert await answer is None


def test_a_load_has_a_bound_for_each_device_and_one_for_all():
    load, one, other, third = Load(3, 2), uuid4(), uuid4(), uuid4()
    for device in (one, one, other):
        assert load.has_room(device)
        load.enter(device)
    assert [load.has_room(device) for device in (one, other, third)] == [False, False, False]
    load.leave(one)
    assert [load.has_room(device) for device in (one, other, third)] == [True, True, True]
    assert len(load) == 2


async def test_one_device_with_many_calls_does_not_starve_the_others():
    async with House() as house:
        noisy, quiet, channel = house.add_device("Noisy", "n"), house.add_device("Quiet", "q"), FakeChannel()
        channel.answer = RpcResponse(response="1")
        house.inlet.open_session(quiet, channel).subscribe_rpc(True)
        for number in range(MAX_OPEN_OF_DEVICE + 1):
            await house.commands.call_device(house.call(noisy, request_id=number))
        await house.commands.call_device(house.call(quiet, request_id=5000))
        await settle()
        assert [(answer["requestId"], answer.get("error", answer.get("response"))) for answer in house.answers()] == [
            (MAX_OPEN_OF_DEVICE, "INTERNAL"),
            (5000, "1"),
        ]
        assert house.counters.get("rpc.refused") == 1
        await house.clock.advance(11)  # the device never came: their deadlines end them, and there is room again
        assert house.rpc.open_calls() == 0
        await house.commands.call_device(house.call(noisy))
        await settle()
        assert house.rpc.open_calls() == 1


async def test_calls_that_come_together_are_counted_before_they_are_durable():
    async with House() as house:
        device = house.add_device()
        house.committer.hold()
        for number in range(MAX_OPEN_OF_DEVICE + 3):
            house.rpc.call_device(house.call(device, request_id=number))
        house.committer.release()
        await settle()
        assert house.rpc.open_calls() == MAX_OPEN_OF_DEVICE
        assert [answer["error"] for answer in house.answers()] == ["INTERNAL"] * 3


async def test_calls_of_rules_have_the_same_bound_and_the_chain_goes_on_with_the_error():
    async with House() as house:
        device = house.add_device()
        calls = [
            RuleCall(house.call(device, is_from_cloud=False, request_uuid=None), house.rules._resume)
            for _ in range(MAX_OPEN_OF_DEVICE + 1)
        ]
        for call in calls:
            house.pipeline.on_call(call)
        await settle()
        assert house.rpc.open_calls() == MAX_OPEN_OF_DEVICE
        assert house.rules.resumed == [RpcResponse(error=RpcError.INTERNAL)]
        assert house.answers() == []


@pytest.mark.parametrize("reason", ["TIMEOUT", "NOT_FOUND", "INTERNAL", "unrouted"])
async def test_a_persisted_call_that_is_not_taken_is_answered(reason):
    async with House() as house:
        device = house.add_device()
        request = house.call(device, is_persisted=True)
        if reason == "TIMEOUT":
            request = house.call(device, is_persisted=True, expires_ms=house.clock.now_ms() - 1)
        elif reason == "NOT_FOUND":
            request = house.call(device, is_persisted=True, device_id=uuid4())
        elif reason == "INTERNAL":
            for _ in range(MAX_OPEN_OF_DEVICE):
                await house.commands.call_device(house.call(device))
        else:
            house.rules.routes_rpc = False
        await house.commands.call_device(request)
        await settle()
        error = "INTERNAL" if reason == "unrouted" else reason
        (answer,) = house.answers()
        assert (answer["requestUUID"], answer["error"]) == (str(request.request_uuid), error)
        assert states(house)[-1] is RpcState.DONE


async def test_a_call_that_comes_while_the_room_is_closing_is_durable_and_waits():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_rpc(True)
        await settle()
        house._task.cancel()
        await asyncio.wait([house._task])
        await house.commands.call_device(house.call(device))
        await settle()
        assert states(house) == [RpcState.QUEUED]
        assert channel.calls == []
