"""Relations between entities, as nodes ask for them. Source: reference rule-engine §4, shared structures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from pydantic import Field

from gateway.domain.entity import EntityId, Json
from gateway.errors import RejectedError
from gateway.ports import StateReader
from gateway.rules.entities import reference
from gateway.rules.node import NodeConfig

Direction = Literal["FROM", "TO"]
MAX_VISITS: Final = 10_000
"""Relations and alarms that one question may look at: it is asked on the event loop."""


class RelationFilter(NodeConfig):
    """No types: any."""

    relation_type: str = ""
    entity_types: tuple[str, ...] = ()
    negate: bool = False

    def fits(self, type_: str, other: EntityId) -> bool:
        """By the relation's type and the entity at its end."""
        if self.relation_type and (self.relation_type == type_) == self.negate:
            return False
        return not self.entity_types or other.type in self.entity_types


class RelationsQuery(NodeConfig):
    """`maxLevel` 0 is without end."""

    direction: Direction = "FROM"
    max_level: int = 1
    fetch_last_level_only: bool = False
    filters: tuple[RelationFilter, ...] = Field(
        default_factory=lambda: (RelationFilter(relation_type="Contains"),)  # a query that names none
    )


def relations(state: StateReader, entity: EntityId, direction: Direction) -> Iterator[tuple[str, EntityId]]:
    """Type and other end of each common relation: FROM goes from this entity to the other, TO the reverse."""
    near, far = ("from", "to") if direction == "FROM" else ("to", "from")
    for kind, key in state.belongings(entity):
        json: Json = state.entity_json(kind, key) if kind == "RELATION" else None
        if not isinstance(json, dict) or (json.get("typeGroup") or "COMMON") != "COMMON":
            continue
        other = reference(json.get(far))
        if other is not None and reference(json.get(near)) == entity and isinstance(json.get("type"), str):
            yield json["type"], other


def related(state: StateReader, root: EntityId, query: RelationsQuery) -> Iterator[EntityId]:
    """Level by level, in the order in which the relations were made. The filters choose among what is found; the way
    leads through all relations.

    Raises:
        RejectedError: There are too many.
    """
    seen, level, depth, visits = {root}, [root], 0, 0
    while level and (query.max_level <= 0 or depth < query.max_level):
        depth += 1
        below: list[EntityId] = []
        for entity in level:
            for type_, other in relations(state, entity, query.direction):
                visits += 1
                if visits > MAX_VISITS:
                    raise RejectedError(f"it has more than {MAX_VISITS} relations")
                if other not in seen:
                    seen.add(other)
                    below.append(other)
                is_wanted = not query.filters or any(one.fits(type_, other) for one in query.filters)
                if is_wanted and (not query.fetch_last_level_only or _is_last(state, other, query, depth)):
                    yield other
        level = below


def _is_last(state: StateReader, entity: EntityId, query: RelationsQuery, depth: int) -> bool:
    return depth == query.max_level or next(relations(state, entity, query.direction), None) is None
