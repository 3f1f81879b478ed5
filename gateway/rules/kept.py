"""What nodes hold between messages: in memory, and durable with the changes of the message that caused it.

A receipt says that a message is safe. So a node that keeps one back for later (a window, a delay) keeps it here, never
in memory alone. ThingsBoard's own nodes lose theirs with a restart (reference rule-engine §0.9).

Ids of nodes change with every update of a chain (§9, 18). What is kept belongs to the chain's id, the node's class and
its name, and to the place among nodes of one name: a chain that is sent again finds what it had.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final
from uuid import UUID

import orjson

from gateway.domain.changes import RULE_ITEM, Change, DropLocal, SaveLocal
from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome

log = logging.getLogger(__name__)

KIND: Final = RULE_ITEM
MARK: Final = "\x1f"
"""Between the parts of a key: not to be in the name of an item."""


MAX_HELD_BYTES: Final = 32 << 20
"""Messages that all nodes hold back weigh no more than this, as JSON; in memory it is a few times as much."""


class Weights:
    """What is held weighs, altogether."""

    def __init__(self) -> None:
        self.bytes = 0


class Kept:
    """Small items of one node, by name. Values are JSON and treated as values: `put` a new one to change it."""

    def __init__(
        self, place: str, items: dict[str, Json], sizes: dict[str, int] | None = None, weights: Weights | None = None
    ) -> None:
        self._place, self._items = place, items
        self._sizes: dict[str, int] = {} if sizes is None else sizes
        self._weights = weights or Weights()

    @property
    def items(self) -> Mapping[str, Json]:
        """All, in the order in which they were first put; after a restart in no order."""
        return MappingProxyType(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def get(self, name: str) -> Json:
        """None when there is none."""
        return self._items.get(name)

    def put(self, out: Outcome, name: str, value: Json) -> None:
        """Upsert; durable with the rest of `out`."""
        self._items[name] = value
        out.changes.append(SaveLocal(KIND, f"{self._place}{name}", orjson.dumps(value)))

    def hold(self, out: Outcome, name: str, value: Json) -> None:
        """`put` for whole messages under a new name. RejectedError: those of all nodes weigh `MAX_HELD_BYTES`."""
        body = orjson.dumps(value)
        if self._weights.bytes + len(body) > MAX_HELD_BYTES:
            raise RejectedError(f"the messages that rules hold back weigh {MAX_HELD_BYTES >> 20} MB already")
        self._sizes[name] = len(body)
        self._weights.bytes += len(body)
        self._items[name] = value
        out.changes.append(SaveLocal(KIND, f"{self._place}{name}", body))

    def drop(self, out: Outcome, name: str) -> None:
        """Unknown is no error."""
        if self._items.pop(name, None) is not None:
            self._weights.bytes -= self._sizes.pop(name, 0)
            out.changes.append(DropLocal(KIND, f"{self._place}{name}"))


class Keeping:
    """What all nodes hold. `load` is called once, before chains are made."""

    def __init__(self) -> None:
        self._places: dict[str, dict[str, Json]] = {}
        self._sizes: dict[str, dict[str, int]] = {}
        self._weights = Weights()

    def load(self, local: Iterable[tuple[str, str, bytes]]) -> None:
        """`Snapshot.local`: kind, key, body. What cannot be read is left alone and ignored."""
        for kind, key, body in local:
            place, mark, name = key.rpartition("\x1f")
            if kind == KIND and mark:
                try:
                    item = orjson.loads(body)
                except orjson.JSONDecodeError:
                    log.warning("rules: an item that a node has kept cannot be read and is left alone: %r", name)
                    continue
                self._places.setdefault(place + mark, {})[name] = item
                self._sizes.setdefault(place + mark, {})[name] = len(body)
                self._weights.bytes += len(body)

    def of(self, chain_id: UUID, type_: str, name: str, number: int) -> Kept:
        """Of one node; who asks again gets the same items. `number`: the how-manieth of this class and name."""
        place = f"{chain_id}\x1f{type_}\x1f{name}\x1f{number}\x1f"
        return Kept(place, self._places.setdefault(place, {}), self._sizes.setdefault(place, {}), self._weights)

    def forget(self, alive: Iterable[tuple[UUID, str, str, int]]) -> tuple[list[Change], int]:
        """Drop what belongs to no living node; the changes, and how many items went."""
        places = {f"{chain_id}\x1f{type_}\x1f{name}\x1f{number}\x1f" for chain_id, type_, name, number in alive}
        changes: list[Change] = []
        for place in [place for place in self._places if place not in places]:
            changes += [DropLocal(KIND, f"{place}{name}") for name in self._places.pop(place)]
            self._weights.bytes -= sum(self._sizes.pop(place, {}).values())
        return changes, len(changes)


def frozen(msg: Message) -> dict[str, Json]:
    """A message as JSON."""
    led_by: dict[str, Json] = {"fields": [str(field) for field in msg.fields]} if msg.fields else {}
    return {
        **led_by,
        "type": msg.type,
        "originator": [msg.originator.type, str(msg.originator.id)],
        "data": msg.data,
        "metadata": msg.metadata,
        "ts": msg.ts_ms,
    }


def thawed(json: Json) -> Message:
    """The message again, with a new id, as a node emits it later."""
    kind, id_ = json["originator"]
    return Message(
        type=json["type"],
        originator=EntityId(kind, UUID(id_)),
        data=json["data"],
        metadata=json["metadata"],
        ts_ms=json["ts"],
        fields=tuple(UUID(field) for field in json.get("fields", ())),
    )
