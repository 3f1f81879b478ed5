"""Looking at nodes while they work: what went in, by which relation what came out. Costs nothing where nobody looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.domain.message import Message
from gateway.ports import Outcome
from gateway.rules.node import FAILURE, SUCCESS, Answer, Call, Enter, Later, Leave, Routed, Run

if TYPE_CHECKING:
    from gateway.rules.compiled import CompiledNode


@dataclass(frozen=True, slots=True)
class Step:
    """One answer of one node. `message` is None when it acted by itself; `labels` are empty for a message that ends."""

    chain: str
    node: str
    type: str
    message: Message | None
    labels: Sequence[str]
    messages: Sequence[Message]
    error: str
    took_s: float


Observer = Callable[[Step], None]


def joined(one: Observer | None, other: Observer | None) -> Observer | None:
    """Both are told."""
    if one is None or other is None:
        return one or other

    def tell(step: Step) -> None:
        one(step)
        other(step)

    return tell


def watched(node: CompiledNode, run: Run, observer: Observer) -> Run:
    """`run`, and the observer is told of each answer."""

    def look(msg: Message, out: Outcome) -> Answer:
        started_s = time.perf_counter()
        try:
            answer = run(msg, out)
        except Exception as error:
            observer(_failed(node, msg, error, time.perf_counter() - started_s))
            raise
        if isinstance(answer, Later):
            return _watched_later(node, msg, answer, observer)
        observer(seen(node, msg, answer, time.perf_counter() - started_s))
        return answer

    return look


def _watched_later(node: CompiledNode, msg: Message, later: Later, observer: Observer) -> Later:
    async def ask(out: Outcome) -> Answer:
        started_s = time.perf_counter()
        try:
            answer = await later.ask(out)
        except Exception as error:
            observer(_failed(node, msg, error, time.perf_counter() - started_s))
            raise
        observer(seen(node, msg, answer, time.perf_counter() - started_s))
        return answer

    return Later(ask)


def seen(node: CompiledNode, msg: Message | None, answer: Answer, took_s: float = 0.0) -> Step:
    """An answer as a step."""
    labels: Sequence[str] = ()
    messages: Sequence[Message] = ()
    error = ""
    if isinstance(answer, str):
        labels, messages = (answer,), (msg,) if msg is not None else ()
    elif isinstance(answer, Message):
        labels, messages = (SUCCESS,), (answer,)
    elif isinstance(answer, Routed):
        labels, messages, error = answer.labels, answer.messages, answer.error
        if answer.also:
            labels = [*(label for more in answer.also for label in more.labels), *labels]
            messages = [*(message for more in answer.also for message in more.messages), *messages]
    elif isinstance(answer, Leave):
        labels = (answer.label,)
    elif isinstance(answer, Enter):
        labels = (f"into {answer.name}",)
    elif isinstance(answer, Call):
        labels = ("calls the device",)
    return Step(node.chain.name, node.name, node.type, msg, labels, messages, error, took_s)


def _failed(node: CompiledNode, msg: Message, error: Exception, took_s: float) -> Step:
    return Step(node.chain.name, node.name, node.type, msg, (FAILURE,), (msg,), str(error), took_s)
