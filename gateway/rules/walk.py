"""Walks one message through its chain, without recursion. Source: reference rule-engine §1.7, §3.2, §3.3.

By how many connections an answer leaves its node:
- none: the message is done; by `Failure` it fails, with the names of chain and node;
- one: the next node has it, same id;
- more: each target has a copy with a new id.

What nodes have changed before a failure stays: each node's work is done when it answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import orjson

from gateway.domain.entity import EntityId
from gateway.domain.message import Message
from gateway.domain.rpc import RpcResponse
from gateway.errors import RejectedError, TransientError
from gateway.ports import Outcome, RuleCall
from gateway.rules.compiled import CompiledChain, CompiledNode
from gateway.rules.node import FAILURE, SUCCESS, Answer, Call, Enter, Later, Leave, Routed, Shared, Unreachable, copied
from gateway.rules.timers import Timer
from gateway.rules.watch import seen

MAX_EXECUTIONS: Final = 10_000
"""Nodes that one message, its copies included, may pass: a chain that leads in a circle ends here."""

MAX_ERROR_CHARS: Final = 300

GONE: Final = "the chain was changed while a message waited here, and has no such node any more; the message ends"


class Frame(NamedTuple):
    """An input node that was passed, and those before it."""

    node: CompiledNode
    parent: Frame | None


Step = tuple[CompiledNode, Message, Frame | None]


class Walker:
    """`find_chain` knows the chains: by id, by name, by the originator's profile."""

    def __init__(self, shared: Shared, find_chain: Callable[[Enter, EntityId], CompiledChain | None]) -> None:
        self._shared, self._find_chain = shared, find_chain

    def walk(self, node: CompiledNode, msg: Message, out: Outcome) -> None:
        """From this node to the end of every branch."""
        self._run(node, msg, None, [], out)

    def _run_all(self, waiting: list[Step], out: Outcome) -> None:
        if waiting:
            node, msg, frame = waiting.pop()
            self._run(node, msg, frame, waiting, out)

    def _run(self, node: CompiledNode, msg: Message, frame: Frame | None, waiting: list[Step], out: Outcome) -> None:
        """From here, then from all that `waiting` holds."""
        self._shared.script_s = 0.0
        left = MAX_EXECUTIONS
        while True:
            left -= 1
            if left < 0 or len(waiting) > MAX_EXECUTIONS:
                self._shared.counters.add("rules.loops")
                out.errors.append(_failure(node, f"the message passed more than {MAX_EXECUTIONS} nodes"))
                return
            node.messages += 1
            answer: Answer
            try:
                answer = node.run(msg, out)
            except Exception as error:  # §3.1: whatever a handler throws is its Failure
                answer = self._failed(msg, error)
            if type(answer) is str:
                targets = node.edges.get(answer)
                if targets is not None:
                    if len(targets) == 1:
                        node = targets[0]
                        continue
                    waiting += [(target, copied(msg), frame) for target in reversed(targets)]
                elif answer == FAILURE:
                    self._deliver(node, Routed((FAILURE,), (msg,)), frame, waiting, out)
            elif type(answer) is Message:
                targets = node.edges.get(SUCCESS)
                if targets is not None:
                    msg = answer
                    if len(targets) == 1:
                        node = targets[0]
                        continue
                    waiting += [(target, copied(msg), frame) for target in reversed(targets)]
            elif answer is not None:
                self._route(node, answer, msg, frame, waiting, out)
            if not waiting:
                return
            node, msg, frame = waiting.pop()

    def fire(self, timer: Timer, out: Outcome) -> None:
        """A node acts by itself; from it to the end of every branch."""
        node = cast("CompiledNode", timer.owner)
        self._shared.script_s = 0.0
        try:
            answer = timer.fire(out)
        except Exception as error:
            self._shared.counters.add("rules.node_bugs")
            out.errors.append(_failure(node, f"{type(error).__name__}: {error}"))
            return
        if answer is not None:
            if node.observer is not None:
                node.observer(seen(node, None, answer))
            waiting: list[Step] = []
            self._deliver(node, answer, None, waiting, out)
            self._run_all(waiting, out)

    async def _ask(self, node: CompiledNode, later: Later, msg: Message, frame: Frame | None) -> Outcome:
        """The node's answer, awaited, and the way on from there. A `TransientError` is tried again, `rules.retry`."""
        retry = self._shared.config.retry
        tries, pause_s = retry.times, retry.pause_s
        answer: Answer
        while True:
            out = Outcome()
            try:
                answer = await later.ask(out)
                break
            except Exception as error:
                if not isinstance(error, TransientError) or tries <= 0:
                    answer = self._failed(msg, error)
                    break
            tries -= 1
            self._shared.counters.add("rules.retries")
            await self._shared.clock.sleep(pause_s)
            pause_s = min(2 * pause_s, retry.max_pause_s)
        waiting: list[Step] = []
        if type(answer) is str:
            answer = Routed((answer,), (msg,))
        here = _now(node)
        if here is None:
            out.errors.append(_failure(node, GONE))
        elif answer is not None:
            self._route(here, answer, msg, frame, waiting, out)
        self._run_all(waiting, out)
        return out

    def _failed(self, msg: Message, error: Exception) -> Routed:
        if isinstance(error, Unreachable):
            return Routed((FAILURE,), (error.message,), str(error))
        if isinstance(error, RejectedError | TransientError):
            return Routed((FAILURE,), (msg,), str(error))
        self._shared.counters.add("rules.node_bugs")
        return Routed((FAILURE,), (msg,), f"{type(error).__name__}: {error}")

    def _route(
        self, node: CompiledNode, answer: Answer, msg: Message, frame: Frame | None, waiting: list[Step], out: Outcome
    ) -> None:
        """Everything but an unchanged message by one relation: the next steps go onto `waiting`."""
        if isinstance(answer, Routed):
            self._deliver(node, answer, frame, waiting, out)
        elif isinstance(answer, Message):
            self._deliver(node, Routed((SUCCESS,), (answer,)), frame, waiting, out)
        elif isinstance(answer, Enter):
            self._enter(node, answer, msg, frame, waiting, out)
        elif isinstance(answer, Leave):
            if frame is None:
                return
            entered = _now(frame.node)
            if entered is None:
                out.errors.append(_failure(frame.node, GONE))
                return
            text = f"failed in the chain {node.chain.name!r}"
            self._deliver(entered, Routed((answer.label,), (msg,), text), frame.parent, waiting, out)
        elif isinstance(answer, Call):
            out.calls.append(RuleCall(answer.request, lambda response: self._resume(node, msg, response)))
        elif isinstance(answer, Later):
            out.waits.append(lambda: self._ask(node, answer, msg, frame))

    def _deliver(
        self, node: CompiledNode, answer: Routed, frame: Frame | None, waiting: list[Step], out: Outcome
    ) -> None:
        targets = [target for label in answer.labels for target in node.edges.get(label, ())]
        if FAILURE in answer.labels:
            node.failures += 1
            if not targets:
                out.errors.append(_failure(node, answer.error))
        if len(answer.messages) == 1 and len(targets) == 1:
            waiting.append((targets[0], answer.messages[0], frame))
        else:
            # The last in is the first out: branches are walked in the order of the connections.
            for msg in reversed(answer.messages):
                waiting += [(target, copied(msg), frame) for target in reversed(targets)]
        for more in reversed(answer.also):
            self._deliver(node, more, frame, waiting, out)

    def _enter(
        self, node: CompiledNode, wish: Enter, msg: Message, frame: Frame | None, waiting: list[Step], out: Outcome
    ) -> None:
        chain = self._find_chain(wish, msg.originator)
        text = ""
        at = frame
        while at is not None and at.node is not node:
            at = at.parent
        if chain is None:
            text = f"the rule chain {wish.name!r} ({wish.chain_id}) is not known here"
        elif chain is node.chain:
            text = "the rule chain leads into itself"
        elif at is not None:
            text = "processing loop: the message has come through this node already"
        elif chain.first is not None:
            waiting.append((chain.first, msg, Frame(node, frame)))
        if text:
            self._deliver(node, Routed((FAILURE,), (msg,), text), frame, waiting, out)

    def _resume(self, node: CompiledNode, msg: Message, response: RpcResponse) -> Outcome:
        """The device's reply is a new message behind the node that made the call."""
        out = Outcome()
        error = response.error.value if response.error is not None else ""
        body = {"error": error} if error else _parsed(response.response)
        reply = Message(
            type=msg.type,
            originator=msg.originator,
            data=body,
            metadata=msg.metadata,
            ts_ms=self._shared.clock.now_ms(),
        )
        waiting: list[Step] = []
        here = _now(node)
        if here is None:
            out.errors.append(_failure(node, GONE))
            return out
        self._deliver(here, Routed((FAILURE if error else SUCCESS,), (reply,), error), None, waiting, out)
        self._run_all(waiting, out)
        return out


def _now(node: CompiledNode) -> CompiledNode | None:
    """The node that has this one's place, after its chain was sent anew while a message waited in it."""
    at: CompiledNode | None = node
    while at is not None and at.chain.is_ended:
        at = None if at.chain.successor is None else at.chain.successor.counterpart(at)
    return at


def _parsed(text: str | None) -> Any:
    try:
        return orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        return text  # a device may answer with plain text; a chain sees it as such


def _failure(node: CompiledNode, text: str) -> str:
    line = f"{node.chain.name} / {node.name}: {text or 'failed'}"
    if not line.isprintable():  # it may quote what a device has sent, and it ends in a log
        line = "".join(char if char.isprintable() else " " for char in line)
    return line if len(line) <= MAX_ERROR_CHARS else line[:MAX_ERROR_CHARS] + "…"
