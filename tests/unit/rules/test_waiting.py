"""Messages that wait in a chain: tried again, and the chain replaced meanwhile."""

import pytest

from gateway.domain.rpc import RpcResponse
from gateway.errors import TransientError
from gateway.ports import Outcome
from gateway.rules.node import REGISTRY, SUCCESS, Later, NoConfig, NodeKind
from tests.unit.rules.kit import CHAIN_ID, PASS, PUSH, P, Rules, bodies, js, message, metadata

ASKS = (f"{P}test.Asks", "asks", {})
DEDUPLICATES = ("deduplication.TbMsgDeduplicationNode", "one", {"interval": 10, "strategy": "ALL", "outMsgType": "X"})


@pytest.fixture
def answers(monkeypatch):
    """What the node `asks` says, one after the other."""
    said = []

    async def ask(out: Outcome):
        answer = said.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    kind = NodeKind("test.Asks", "asks", NoConfig, lambda config, env: lambda msg, out: Later(ask))
    monkeypatch.setitem(REGISTRY, "test.Asks", kind)
    return said


async def finished(outcome: Outcome) -> Outcome:
    (wait,) = outcome.waits
    return await wait()


class _Impatient:
    """A clock whose sleeps are noted and do not last."""

    def __init__(self, clock) -> None:
        self._clock, self.slept = clock, []
        self.now_ms, self.monotonic_s = clock.now_ms, clock.monotonic_s

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)


async def test_another_message_may_be_what_a_question_gives(answers):
    answers.append(message({"humidity": 1}))
    outcome = await finished(Rules([ASKS, PUSH], (0, 1, "Success")).run({"temperature": 1}))
    assert [body["data"] for body in bodies(outcome)] == [{"humidity": 1}]


async def test_a_question_that_fails_for_a_moment_is_failure_at_once_unless_told(answers):
    answers += [TransientError("away"), SUCCESS]
    outcome = await finished(Rules([ASKS, PUSH], (0, 1, "Success")).run())
    assert outcome.errors == ["Root / asks: away"]


async def test_with_retry_it_is_asked_again_after_growing_pauses_and_then_goes_on(answers):
    rules = Rules([ASKS, PUSH], (0, 1, "Success"), retry={"times": 4, "pause_s": 2, "max_pause_s": 5})
    clock = rules.engine._shared.clock = _Impatient(rules.clock)
    answers += [TransientError("away")] * 3 + [SUCCESS]
    outcome = await finished(rules.run())
    assert (outcome.errors, len(outcome.changes)) == ([], 1)
    assert clock.slept == [2, 4, 5]
    assert rules.counters.get("rules.retries") == 3


async def test_retry_is_bounded_and_a_bad_answer_is_not_tried_again(answers):
    rules = Rules([ASKS], retry={"times": 2})
    clock = rules.engine._shared.clock = _Impatient(rules.clock)
    answers += [TransientError("away")] * 3
    assert (await finished(rules.run())).errors == ["Root / asks: away"]
    assert len(clock.slept) == 2
    answers.append(ValueError("wrong"))
    assert (await finished(rules.run())).errors == ["Root / asks: ValueError: wrong"]
    assert len(clock.slept) == 2


async def test_a_message_that_waits_while_its_chain_is_replaced_goes_on_in_the_new_one(answers):
    answers.append(SUCCESS)
    rules = Rules([ASKS, PUSH], (0, 1, "Success"))
    waiting = rules.run()
    mark = js("mark", "return {msg: {v: 'new'}};", "transform.TbTransformMsgNode")
    rules.put(CHAIN_ID, "Root", metadata([mark, ASKS, PUSH], (1, 0, "Success"), (0, 2, "Success"), first=1), True)
    assert [body["data"] for body in bodies(await finished(waiting))] == [{"v": "new"}]


async def test_what_it_meets_there_keeps_both(answers):
    """The node of the new chain numbers what it holds; one of the old chain would write over it."""
    answers += [SUCCESS]
    rules = Rules([ASKS, DEDUPLICATES, PUSH], (0, 1, "Success"), (1, 2, "Success"))
    waiting = rules.run({"n": 1})
    again = metadata([DEDUPLICATES, ASKS, PUSH], (1, 0, "Success"), (0, 2, "Success"))
    rules.put(CHAIN_ID, "Root", again, True)
    rules.run({"n": 2})
    rules.commit(await finished(waiting))
    assert len(rules.local) == 2
    rules.restart()
    assert len(rules.local) == 2


async def test_its_node_is_gone_the_message_ends_and_says_so(answers):
    answers += [SUCCESS, SUCCESS]
    rules = Rules([ASKS, PUSH], (0, 1, "Success"))
    waiting = rules.run(), rules.run()
    rules.put(CHAIN_ID, "Root", metadata([PUSH]), True)
    outcome = await finished(waiting[0])
    assert outcome.changes == []
    assert outcome.errors[0].startswith("Root / asks: the chain was changed while a message waited here")
    rules.engine.remove_chain(CHAIN_ID)
    assert len((await finished(waiting[1])).errors) == 1


async def test_an_rpc_reply_goes_on_in_the_new_chain_and_back_out_of_a_nested_one(answers):
    call = ("rpc.TbSendRPCRequestNode", "call", {"timeoutInSeconds": 5})
    rules = Rules([call, PASS], (0, 1, "Success"))
    (asked,) = rules.run({"method": "m", "params": {}}, "RPC_CALL_FROM_SERVER_TO_DEVICE").calls
    rules.put(CHAIN_ID, "Root", metadata([call, js("both", "return false;")], (0, 1, "Success")), True)
    asked.resume(RpcResponse(response="{}"))
    assert rules.passed("both") == 1
    answers.append(SUCCESS)
    inner = metadata([ASKS, ("flow.TbRuleChainOutputNode", "Done", {})], (0, 1, "Success"))
    other = CHAIN_ID.int ^ 1
    rules.put(type(CHAIN_ID)(int=other), "Inner", inner)
    enter = ("flow.TbRuleChainInputNode", "Inner", {"ruleChainId": str(type(CHAIN_ID)(int=other))})
    rules.put(CHAIN_ID, "Root", metadata([enter, PASS], (0, 1, "Done")), True)
    waiting = rules.run()
    rules.put(CHAIN_ID, "Root", metadata([enter, PUSH], (0, 1, "Done")), True)
    assert len((await finished(waiting)).changes) == 1
