"""A message's way: rules decide, the committer makes it durable, then what depends on it happens.

`run` is the hot path of the whole gateway. It never awaits and makes no task: it walks the rule chain,
hands the changes to the committer as one unit of work and returns its receipt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gateway.devices.state import STATEFUL, State
from gateway.domain.changes import Change, DeleteAttributes, SaveAttributes
from gateway.domain.entity import EntityId
from gateway.domain.message import Message
from gateway.domain.telemetry import Attribute
from gateway.ports import AttributeNotice, Committer, Outcome, Receipt, RuleCall, RuleProcessor, RuleReply
from gateway.supervise import Counters

log = logging.getLogger(__name__)

MAX_EMITTED: Final = 1000
"""Messages that one message may cause (a save node that notifies, a chain that feeds itself)."""


class Pipeline:
    """From messages to receipts. `on_notice`, `on_call` and `on_reply` are run after the commit."""

    def __init__(self, rules: RuleProcessor, committer: Committer, state: State, counters: Counters) -> None:
        self._rules, self._committer, self._state, self._counters = rules, committer, state, counters
        self.on_notice: Callable[[AttributeNotice], None] = _nobody
        self.on_call: Callable[[RuleCall], None] = _nobody
        self.on_reply: Callable[[RuleReply], None] = _nobody
        self._complained: set[str] = set()
        self.watched: dict[EntityId, dict[tuple[str, str], Attribute | None]] = {}
        """Scope and key of the attributes of these entities that are written from here on, and what was held before;
        see `questions`."""

    def run(self, messages: Iterable[Message], first: Sequence[Change] = ()) -> Receipt:
        """Walk the messages through the rules; `first` becomes durable in front of what they cause."""
        changes: list[Change] = list(first)
        later: Outcome | None = None
        process = self._rules.process
        for message in messages:
            outcome = process(message)
            changes += outcome.changes
            if outcome.errors or outcome.calls or outcome.replies or outcome.notices or outcome.emitted:
                later = self._gather(outcome, changes, later)
        return self._submit(changes, later)

    def resume(self, outcome: Outcome, first: Sequence[Change] = ()) -> Receipt:
        """Go on with what a node returned later (the reply to an RPC)."""
        changes: list[Change] = [*first, *outcome.changes]
        return self._submit(changes, self._gather(outcome, changes, None))

    def commit(self, changes: Sequence[Change]) -> Receipt:
        """Changes that no rule has a say in."""
        return self._submit(changes, None)

    def _submit(self, changes: Sequence[Change], later: Outcome | None) -> Receipt:
        if self.watched:
            self._watch(changes)
        receipt = self._committer.submit(changes)
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
        if text not in self._complained and len(self._complained) < 1000:
            self._complained.add(text)
            log.warning("rules: %s (said once; counted in rules.failures)", text)

    def _follow(self, done: Receipt, changes: Sequence[Change]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._state.apply(changes)

    def _afterwards(self, done: Receipt, later: Outcome) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        for notice in later.notices:
            self.on_notice(notice)
        for call in later.calls:
            self.on_call(call)
        for reply in later.replies:
            self.on_reply(reply)


def _nobody(_: object) -> None:
    """Nothing is connected yet."""
