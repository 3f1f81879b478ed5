"""Calculated fields: which there are, what they hear, and what becomes of their results.

They are no nodes: a save node (or the node that feeds them) tells here what it lets through, and each field of the
originator, or of its profile, that has an argument among it is computed. What a field needs of the store is read once,
when its entity is first heard of (the message waits for that, `Later`), and kept up to date by what is heard; memory is
bounded, and whoever is forgotten is read again. A field that fails stops nothing: it is counted, and shows why.

Who has no field pays a look at `Shared.fields`, which is None then. Source: reference rule-engine §7.4.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from gateway.domain.changes import (
    Change,
    DeleteAttributes,
    DeleteDevice,
    DeleteEntity,
    SaveDevice,
    SaveEntity,
)
from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError, TransientError
from gateway.ports import Outcome
from gateway.rules.alarm_state import Update
from gateway.rules.chain import entity_uuid
from gateway.rules.field_compute import Arguments, Field, Held, interest_of
from gateway.rules.field_results import hand_out
from gateway.rules.field_spec import ATTRIBUTE, ROLLING, Argument
from gateway.rules.field_values import Interest, Known, Memory, Place, Rolling, Window
from gateway.rules.field_watch import FieldWatch
from gateway.rules.node import SUCCESS, Answer, Later, NodeProblem, Shared
from gateway.rules.timers import Timer

log = logging.getLogger(__name__)

KIND: Final = "CALCULATED_FIELD"
PLACE: Final = (UUID(int=0), "calculated fields", "", 0)
"""Where they keep things, beside the nodes (`Keeping`)."""
SWEEP_S: Final = 1.0
"""After a change of fields or entities: what was counted for those that are gone goes."""
_FAR_MS: Final = 1 << 52
_MOST_SAID: Final = 200


class _Plan(NamedTuple):
    """Of one entity: its fields, and what of it is of use to these or to those of others."""

    fields: tuple[Field, ...]
    interest: Interest


_NOTHING: Final = _Plan((), Interest())


class Fields:
    """All fields of one engine. All calls come from the event loop's thread."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._all: dict[str, Field] = {}
        self._by_owner: dict[EntityId, list[Field]] = {}
        self._referred: dict[EntityId, Interest] = {}
        self._of_owners = Interest()
        self._plans: dict[EntityId, _Plan] = {}
        self._memory = Memory()
        self._kept = shared.keeping.of(*PLACE)
        self._watch = FieldWatch(shared, self._kept, self._look_again)
        self._sweeper = Timer(shared.timers, self, self._sweep)
        self._said: set[str] = set()
        self._is_stale = False

    # ── which there are ──

    def load(self) -> None:
        """At a start: those that are kept, and what their rules had counted."""
        for key, json in self._shared.state.entities(KIND).items():
            self._put(key, json)
        self._outdate()

    def settled(self, changes: Iterable[Change]) -> None:
        """Follow what has become durable: fields, and the entities that have them."""
        is_other = are_plans_old = False
        for change in changes:
            if isinstance(change, SaveEntity | DeleteEntity):
                if change.type == KIND:
                    self._put(change.key, self._shared.state.entity_json(KIND, change.key))
                    is_other = True
                elif change.type == "ASSET":
                    are_plans_old = True
            elif isinstance(change, SaveDevice | DeleteDevice):
                are_plans_old = True
            elif isinstance(change, DeleteAttributes):
                self._drop_attributes(change)
        if is_other:
            self._outdate()
        elif are_plans_old and self._all:
            self._plans.clear()
            self._sweep_soon()

    def _outdate(self) -> None:
        """Many may come at once, in a sync: the index is made when somebody asks."""
        self._is_stale = True
        self._shared.fields = self if self._all else None
        self._sweep_soon()

    def _put(self, key: str, json: Json | None) -> None:
        if json is None:
            self._all.pop(key, None)
            return
        held = self._all.get(key)
        if held is not None and held.json == json:
            return
        field = self._all[key] = Field(UUID(key), json, self._shared)
        if field.problem:
            log.warning("rules: calculated field %r: %s", field.name, field.problem)

    def _index(self) -> None:
        """Who has which fields. What is known of entities is read anew: other keys may be of use now."""
        self._by_owner, self._referred, self._of_owners = {}, {}, Interest()
        for field in self._all.values():
            if field.spec is None:
                continue
            self._by_owner.setdefault(field.spec.owner, []).append(field)
            for argument in field.spec.arguments:
                if argument.entity is not None:
                    self._referred.setdefault(argument.entity, Interest()).add(interest_of(argument))
                elif argument.source:
                    self._of_owners.add(interest_of(argument))
        self._plans.clear()
        self._memory.clear()
        self._is_stale = False

    def _sweep_soon(self) -> None:
        if not self._sweeper.is_armed:
            self._sweeper.arm(self._shared.clock.monotonic_s() + SWEEP_S)

    def _sweep(self, out: Outcome) -> None:
        """What was counted for fields or entities that are gone, goes; the rest is looked at after a start."""
        for place in self._watch.places():
            field_id, entity = place
            field = self._all.get(str(field_id))
            if field is None or field.alarm is None or field not in self._plan(entity).fields:
                self._watch.forget(place, out)
            else:
                self._watch.restore(place)

    def _plan(self, entity: EntityId) -> _Plan:
        if self._is_stale:
            self._index()
        plan = self._plans.get(entity)
        if plan is None:
            plan = self._plans[entity] = self._planned(entity)
        return plan

    def _planned(self, entity: EntityId) -> _Plan:
        owners = [entity, *self._profile(entity)]
        fields = tuple(field for owner in owners for field in self._by_owner.get(owner, ()))
        interest = Interest()
        for field in fields:
            interest.add(field.own)
        if entity in self._referred:
            interest.add(self._referred[entity])
        if entity.type in ("CUSTOMER", "TENANT"):
            interest.add(self._of_owners)
        return _Plan(fields, interest) if fields or interest else _NOTHING

    def _profile(self, entity: EntityId) -> list[EntityId]:
        """None for an entity that is not here: fields of a device that is gone are not computed."""
        if entity.type == "DEVICE":
            device = self._shared.state.device(entity.id)
            return [EntityId("DEVICE_PROFILE", device.profile_id)] if device is not None and device.profile_id else []
        if entity.type == "ASSET":
            json = self._shared.state.entity_json("ASSET", str(entity.id))
            profile_id = entity_uuid(json.get("assetProfileId")) if isinstance(json, dict) else None
            return [EntityId("ASSET_PROFILE", profile_id)] if profile_id else []
        return []

    def _is_here(self, entity: EntityId) -> bool:
        if entity.type == "DEVICE":
            return self._shared.state.device(entity.id) is not None
        return self._shared.state.entity_json(entity.type, str(entity.id)) is not None

    def _drop_attributes(self, change: DeleteAttributes) -> None:
        known = self._memory.get(change.entity)
        if known is not None:
            for key in change.keys:
                known.attributes.pop(Place(change.scope, key), None)

    # ── for a person ──

    def problems(self) -> list[NodeProblem]:
        """Fields that are kept and not evaluated."""
        return [
            NodeProblem("calculated fields", field.name, field.kind, f"not evaluated: {field.problem}")
            for field in self._all.values()
            if field.problem
        ]

    def summaries(self) -> list[dict[str, Any]]:
        """One a field: id, name, type, whose it is, evaluations, failures, and what is wrong."""
        return [field.summary() for field in self._all.values()]

    # ── what is heard ──

    def concerns(self, entity: EntityId) -> bool:
        """Is there any field to which this entity matters?"""
        return self._plan(entity) is not _NOTHING

    def hear(self, msg: Message, updates: Sequence[Update], out: Outcome) -> Answer:
        """What a node lets through, of the message's originator, in ascending order of time; `success`, perhaps later:
        when the store has to be read first.
        """
        entity = msg.originator
        plan = self._plan(entity)
        if plan is _NOTHING or not any(map(plan.interest.touches, updates)):
            return SUCCESS
        if self._is_ready(entity, plan):
            self._take(entity, plan, updates, msg.fields, out)
            return SUCCESS

        async def ask(later: Outcome) -> Answer:
            if await self._read(entity):
                self._take(entity, self._plan(entity), updates, msg.fields, later)
            return SUCCESS

        return Later(ask)

    def overhear(self, msg: Message, out: Outcome) -> None:
        """Attributes that the cloud has written: they are stored without a node."""
        if isinstance(msg.data, dict):
            update = Update(msg.ts_ms, msg.metadata.get("scope", ""), msg.data)
            answer = self.hear(msg, [update], out) if update.scope else SUCCESS
            if isinstance(answer, Later):
                out.waits.append(lambda: _alone(answer))

    def _is_ready(self, entity: EntityId, plan: _Plan) -> bool:
        """Is all that the fields of this entity need in memory?"""
        for needed in self._needed(entity, plan):
            known = self._memory.get(needed)
            if known is None or not known.is_loaded:
                return False
        return True

    def _needed(self, entity: EntityId, plan: _Plan) -> list[EntityId]:
        """Whose telemetry and windows the fields need; attributes are in memory anyway."""
        found = {entity: None} if plan.fields else {}
        for field in plan.fields:
            for argument in field.spec.arguments if field.spec is not None else ():
                if argument.kind != ATTRIBUTE and (source := self._source(argument, entity)) is not None:
                    found[source] = None
        return list(found)

    async def _read(self, entity: EntityId) -> bool:
        """From the store, what is not in memory. False: it cannot be read now (counted), so nothing is computed."""
        series, now_ms = self._shared.series, self._shared.clock.now_ms()
        for needed in self._needed(entity, self._plan(entity)):
            known, interest = self._memory.make(needed), self._plan(needed).interest
            if known.is_loaded:
                continue
            if series is not None:
                try:
                    if interest.series:
                        known.take_latest(interest, await series.latest(needed))
                    for window in interest.windows:
                        start_ms = now_ms - window.span_ms
                        points = await series.history(
                            needed, window.key, start_ms, _FAR_MS, window.limit, newest_first=True
                        )
                        known.take_points(window, points)
                except TransientError:
                    self._shared.counters.add("rules.field_values_unread")
                    return False
            known.is_loaded, known.since_ms = True, now_ms
        return True

    def _take(
        self, entity: EntityId, plan: _Plan, updates: Sequence[Update], fields: tuple[UUID, ...], out: Outcome
    ) -> None:
        known = self._memory.get(entity)
        if known is None:
            if plan.fields:
                known = self._memory.make(entity)
            else:
                return
        for update in updates:
            touched = known.merge(plan.interest, update)
            self._memory.used(entity)
            if not touched:
                continue
            for field in plan.fields:
                if field.id not in fields and not field.places.isdisjoint(touched):
                    self._compute(field, entity, fields, out)

    # ── what is computed ──

    def _compute(self, field: Field, entity: EntityId, fields: tuple[UUID, ...], out: Outcome) -> None:
        """One field of one entity; whatever goes wrong stays here."""
        try:
            arguments = self._arguments(field, entity)
            if arguments is None:
                return
            field.evaluations += 1
            if field.alarm is not None:
                self._watch.evaluate(field, arguments, is_news=True, out=out)
            else:
                led_by = (*fields, field.id)
                fed = hand_out(self._shared, field, entity, field.compute(arguments), led_by, out)
                if fed:
                    self._take(entity, self._plan(entity), fed, led_by, out)
        except Exception as error:
            self._failed(field, entity, error)

    def _look_again(self, field_id: UUID, entity: EntityId, out: Outcome) -> None:
        """A duration is over, or a minute."""
        if self._all.get(str(field_id)) is None:
            return
        if self._is_ready(entity, self._plan(entity)):
            self._look(field_id, entity, out)
            return

        async def ask() -> Outcome:
            later = Outcome()
            if await self._read(entity):
                self._look(field_id, entity, later)
            else:
                self._watch.postpone((field_id, entity))
            return later

        out.waits.append(ask)

    def _look(self, field_id: UUID, entity: EntityId, out: Outcome) -> None:
        field = self._all.get(str(field_id))
        if field is None or not self._is_here(entity):
            return
        try:
            arguments = self._arguments(field, entity)
            if arguments is not None:
                self._watch.evaluate(field, arguments, is_news=None, out=out)
        except Exception as error:
            self._failed(field, entity, error)

    def _failed(self, field: Field, entity: EntityId, error: Exception) -> None:
        is_bug = not isinstance(error, RejectedError)
        text = f"{type(error).__name__}: {error}" if is_bug else str(error)
        text = "".join(char if char.isprintable() else " " for char in text[:300])
        field.failures += 1
        field.error = f"{entity.type} {entity.id}: {text}"
        self._shared.counters.add("rules.field_failures")
        if is_bug:
            self._shared.counters.add("rules.node_bugs")
        line = f"calculated field {field.name!r}: {text}"
        if line not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(line)
            log.warning("rules: %s (said once; counted in rules.field_failures)", line)

    def _arguments(self, field: Field, entity: EntityId) -> Arguments | None:
        """None: one is missing and has no default."""
        held: dict[str, Held | Rolling] = {}
        now_ms = self._shared.clock.now_ms()
        for argument in field.spec.arguments if field.spec is not None else ():
            source = self._source(argument, entity)
            known = None if source is None else self._memory.get(source)
            if argument.kind == ROLLING:
                window = Window(argument.key, argument.limit, argument.window_ms)
                rolling = None if known is None else known.windows.get(window)
                if rolling is not None:
                    rolling.trim(now_ms)
                if rolling is None or not rolling.times:
                    return None
                held[argument.name] = rolling
                continue
            found = None if source is None else self._single(argument, source, known)
            if found is not None:
                held[argument.name] = Held(*found)
            elif argument.default is None:
                return None
            else:
                since_ms = known.since_ms if known is not None and known.since_ms else now_ms
                held[argument.name] = Held(since_ms, argument.default, is_default=True)
        return Arguments(entity, held, now_ms)

    def _single(self, argument: Argument, source: EntityId, known: Known | None) -> tuple[int, Value] | None:
        if argument.kind != ATTRIBUTE:
            return None if known is None else known.series.get(argument.key)
        durable = self._shared.state.attribute(source, argument.scope, argument.key)
        heard = None if known is None else known.attributes.get(Place(argument.scope, argument.key))
        return heard if durable is None or (heard is not None and heard[0] >= durable.ts_ms) else durable

    def _source(self, argument: Argument, entity: EntityId) -> EntityId | None:
        """Whose value it is; None: nobody's that is known here."""
        if argument.entity is not None:
            return argument.entity
        if not argument.source:
            return entity
        identity = self._shared.state.identity()
        tenant = EntityId("TENANT", identity.tenant_id) if identity is not None else None
        if argument.source == "CURRENT_TENANT":
            return tenant
        json: Mapping[str, Json] | None
        if entity.type == "DEVICE":
            device = self._shared.state.device(entity.id)
            json = device.json if device is not None else None
        else:
            json = self._shared.state.entity_json(entity.type, str(entity.id))
        customer_id = entity_uuid(json.get("customerId")) if json else None
        if customer_id is None:
            return tenant if argument.source == "CURRENT_OWNER" else None
        return EntityId("CUSTOMER", customer_id)


async def _alone(later: Later) -> Outcome:
    out = Outcome()
    await later.ask(out)
    return out
