"""A message's way: rules decide, the committer makes it durable, then what depends on it happens.

`run` is the hot path of the whole gateway. It never awaits and makes no task: it walks the rule chain,
hands the changes to the committer as one unit of work and returns its receipt. Only a message whose rules have to
ask somebody becomes a task (`held`), and what its originator says meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gateway.devices.held import Held
from gateway.devices.state import STATEFUL, State
from gateway.domain.changes import Change, DeleteAttributes, SaveAttributes
from gateway.domain.entity import EntityId
from gateway.domain.message import Message
from gateway.domain.telemetry import Attribute
from gateway.ports import (
    AttributeNotice,
    Committer,
    Outcome,
    Receipt,
    RuleCall,
    RuleProcessor,
    RuleReply,
    StateNotice,
)
from gateway.supervise import Counters, follow

log = logging.getLogger(__name__)

MAX_EMITTED: Final = 1000
"""Messages that one message may cause (a save node that notifies, a chain that feeds itself)."""


class Pipeline:
    """From messages to receipts. `on_notice`, `on_state`, `on_call` and `on_reply` are run after the commit."""

    def __init__(self, rules: RuleProcessor, committer: Committer, state: State, counters: Counters) -> None:
        self._rules, self._committer, self._state, self._counters = rules, committer, state, counters
        self.on_notice: Callable[[AttributeNotice], None] = _nobody
        self.on_state: Callable[[StateNotice], None] = _nobody
        self.on_call: Callable[[RuleCall], None] = _nobody
        self.on_reply: Callable[[RuleReply], None] = _nobody
        self.on_error: Callable[[str], None] = _nobody  # a message has failed
        self.on_settled: Callable[[Sequence[Change]], None] = _nobody  # a unit that changes state is durable, or lost
        self.intake: Callable[[Message], Outcome] = rules.process
        """What a message from outside goes through; who records it stands before the rules."""
        self._complained: set[str] = set()
        self.held = Held()
        self.on_submit: Callable[[Receipt, Sequence[Change]], None] | None = None
        self.watched: dict[EntityId, dict[tuple[str, str], Attribute | None]] = {}
        """Scope and key of the attributes of these entities that are written from here on, and what was held before;
        see `questions`."""

    def run(self, messages: Iterable[Message], first: Sequence[Change] = (), *, overtakes: bool = False) -> Receipt:
        """Walk the messages through the rules; `first` becomes durable in front of what they cause.

        `overtakes`: what the cloud wants of a device does not wait for what the rules still ask about its data, else
        the cloud would wait for the acknowledgement, and so would all that it has to say to others.
        """
        changes: list[Change] = list(first)
        later: Outcome | None = None
        if self.held.last and not overtakes:
            messages = list(messages)
            if behind := self.held.behind(message.originator for message in messages):
                return self._hold(changes, None, messages, behind, _originators(messages))
        process = self.intake
        rest = iter(messages)
        for message in rest:
            outcome = process(message)
            changes += outcome.changes
            if outcome.has_more:
                later = self._gather(outcome, changes, later)
                if later.waits:
                    left = [*rest]
                    names = () if overtakes else (message.originator, *_originators(left))
                    return self._hold(changes, later, left, (), names)
        return self._submit(changes, later)

    def resume(self, outcome: Outcome, first: Sequence[Change] = ()) -> Receipt:
        """Go on with what a node returned later (the reply to an RPC)."""
        changes: list[Change] = [*first, *outcome.changes]
        later = self._gather(outcome, changes, None)
        return self._hold(changes, later, (), (), ()) if later.waits else self._submit(changes, later)

    def commit(self, changes: Sequence[Change]) -> Receipt:
        """Changes that no rule has a say in."""
        return self._submit(changes, None)

    async def close(self) -> None:
        """Messages that still wait for somebody get no receipt."""
        await self.held.close()

    def _hold(
        self,
        changes: list[Change],
        later: Outcome | None,
        rest: Sequence[Message],
        behind: Sequence[Receipt],
        originators: Iterable[EntityId],
    ) -> Receipt:
        """A unit of work whose rules have to wait, and behind it what these say; see `held`."""
        receipt: Receipt = asyncio.get_running_loop().create_future()
        self._counters.add("rules.waits")
        self.held.hold(originators, receipt, self._carry(changes, later, rest, behind, receipt))
        return receipt

    async def _carry(
        self,
        changes: list[Change],
        later: Outcome | None,
        rest: Sequence[Message],
        behind: Sequence[Receipt],
        receipt: Receipt,
    ) -> None:
        if behind:
            await asyncio.wait(behind)
        waiting = deque(rest)
        while True:
            while later is not None and later.waits:
                outcome = await later.waits.pop(0)()
                changes += outcome.changes
                later = self._gather(outcome, changes, later)
            if not waiting:
                break
            outcome = self.intake(waiting.popleft())
            changes += outcome.changes
            later = self._gather(outcome, changes, later)
        follow(self._submit(changes, later), receipt)

    def _submit(self, changes: Sequence[Change], later: Outcome | None) -> Receipt:
        if self.watched:
            self._watch(changes)
        receipt = self._committer.submit(changes)
        if self.on_submit is not None:
            self.on_submit(receipt, changes)
        for change in changes:
            if type(change) in STATEFUL:
                receipt.add_done_callback(lambda done: self._follow(done, changes))
                break
        if later is not None:
            receipt.add_done_callback(lambda done: self._afterwards(done, later))
        return receipt

    def _watch(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if not isinstance(change, SaveAttributes | DeleteAttributes):
                continue
            if (written := self.watched.get(change.entity)) is None:
                continue
            for key in change.values if isinstance(change, SaveAttributes) else change.keys:
                written.setdefault((change.scope, key), self._state.attribute(change.entity, change.scope, key))

    def _gather(self, outcome: Outcome, changes: list[Change], into: Outcome | None) -> Outcome:
        """Collect what is to happen after the commit; walk messages that nodes emitted."""
        gathered = into or Outcome()
        waiting = [outcome]
        walked = 0
        while waiting:
            step = waiting.pop()
            gathered.calls += step.calls
            gathered.replies += step.replies
            gathered.notices += step.notices
            gathered.waits += step.waits
            for text in step.errors:
                self._complain(text)
            for message in step.emitted:
                walked += 1
                if walked > MAX_EMITTED:
                    self._complain(f"rules: one message caused more than {MAX_EMITTED} others; the rest is left out")
                    return gathered
                following = self._rules.process(message)
                changes += following.changes
                waiting.append(following)
        return gathered

    def _complain(self, text: str) -> None:
        self._counters.add("rules.failures")
        self.on_error(text)
        if text not in self._complained and len(self._complained) < 1000:
            self._complained.add(text)
            log.warning("rules: %s (said once; counted in rules.failures)", text)

    def _follow(self, done: Receipt, changes: Sequence[Change]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._state.apply(changes)
        self.on_settled(changes)

    def _afterwards(self, done: Receipt, later: Outcome) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        for notice in later.notices:
            if isinstance(notice, StateNotice):
                self.on_state(notice)
            else:
                self.on_notice(notice)
        for call in later.calls:
            self.on_call(call)
        for reply in later.replies:
            self.on_reply(reply)


def _originators(messages: Iterable[Message]) -> tuple[EntityId, ...]:
    return tuple(message.originator for message in messages)


def _nobody(_: object) -> None:
    """Nothing is connected yet."""
