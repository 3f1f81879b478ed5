"""When the cloud last told everything, and what it did not name: the reconcile report.

The report of a completed sync is a setting, so that it outlives a restart. What differs is not written down but found
when somebody asks: a device keeps the JSON that the cloud sent beside its own fields. Everything is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final
from uuid import UUID

from gateway.domain.downlink import MOVED_DEVICES, SYNC_MS, Downlink, EntityUpdated, UpdateKind
from gateway.domain.entity import Credentials, Device, Json, Origin
from gateway.ports import Clock, StateReader

SYNC_REPORT: Final = "sync_report"
"""Setting: what `SyncLog.finish` returns."""
MOST_LISTED: Final = 1_000
"""Of each list; what is beyond is counted."""
_MOST_REJECTED: Final = 100
_STALE_MS: Final = 60_000
_REMOVED: Final = "removed_devices"  # settings of the device room
_OWED: Final = "owed_attributes:"


@dataclass(slots=True)
class _Running:
    is_full: bool
    started_ms: int
    heard_ms: int
    attempts: int = 1
    messages: int = 0
    mentioned: set[UUID] = field(default_factory=set)
    rejected: list[dict[str, str]] = field(default_factory=list)
    rejections: int = 0


class SyncLog:
    """Told by the dispatcher what it applies; asked by a person."""

    def __init__(self, state: StateReader, clock: Clock) -> None:
        self._state, self._clock = state, clock
        self._running: _Running | None = None
        self._since: set[UUID] = set()  # named after the last sync, of those that it did not name
        self._other_credentials: dict[UUID, str] = {}  # the cloud's type, where ours were kept

    # ── told by the dispatcher ───────────────────────────────────────────────────────────────

    def begin(self, *, is_full: bool) -> None:
        """The cloud has accepted us and is asked for a sync. One that was cut off goes on: what it named counts."""
        now_ms, cut = self._clock.now_ms(), self._running
        self._running = _Running(is_full, now_ms, now_ms)
        if cut is not None:
            self._running.attempts = cut.attempts + 1
            self._running.mentioned = cut.mentioned

    @property
    def is_running(self) -> bool:
        """A sync has begun and is not completed."""
        return self._running is not None

    def heard(self, downlink: Downlink) -> None:
        """Before a message is applied. The TENANT comes first in a full sync, also in one that began in the cloud."""
        now_ms = self._clock.now_ms()
        if any(isinstance(command, EntityUpdated) and command.type == "TENANT" for command in downlink.commands) and (
            self._running is None or self._running.messages
        ):
            self._running = _Running(True, now_ms, now_ms)
        if self._running is not None:
            self._running.messages += 1
            self._running.heard_ms = now_ms

    def named(self, update: EntityUpdated) -> None:
        """An entity was applied."""
        if update.id is None or update.kind is UpdateKind.DELETED:
            return
        if self._running is not None:
            self._running.mentioned.add(update.id)
        elif update.id in self._unnamed():
            self._since.add(update.id)

    def rejected(self, what: str, reason: str) -> None:
        """A part of a message could not be applied."""
        if self._running is not None:
            self._running.rejections += 1
            if len(self._running.rejected) < _MOST_REJECTED:
                self._running.rejected.append({"what": what, "reason": reason[:500]})

    def credentials(self, device_id: UUID, json: Mapping[str, Json]) -> None:
        """Credentials were applied, or ours were kept in their place."""
        device = self._state.device(device_id)
        if device is None or _is_same(device.credentials, json):
            self._other_credentials.pop(device_id, None)
        elif len(self._other_credentials) < MOST_LISTED:
            self._other_credentials[device_id] = str(json.get("credentialsType"))

    def ours_unnamed(self) -> dict[UUID, int]:
        """Devices made here before this sync that no sync has ever named, with when they were announced last."""
        running, last = self._running, self._report() or {}
        if running is None:
            return {}
        again = set(last.get("announced_again", ()))
        ours = (
            (device.id, last["completed_ms"] if str(device.id) in again else device.created_ms)
            for device in self._state.devices()
            if device.origin == Origin.EDGE and device.json is None and device.id not in running.mentioned
        )
        return dict(islice(((id_, ms) for id_, ms in ours if ms < running.started_ms), MOST_LISTED))

    def unnamed_before(self) -> set[UUID]:
        """Devices made here and announced that the sync before this one did not name.

        One that was deleted in the cloud while the link was down is not named once; then the cloud tells of it.
        """
        last = self._report() or {}
        return {UUID(id_) for id_ in (*last.get("ours_unnamed", ()), *last.get("announced_again", ()))}

    def unnamed_chains(self) -> list[UUID]:
        """Rule chains that are kept and that this sync has not named; only a full one says all of them."""
        running = self._running
        if running is None or not running.is_full:
            return []
        kept = {UUID(key) for kind in ("RULE_CHAIN", "RULE_CHAIN_METADATA") for key in self._state.entity_keys(kind)}
        return sorted(kept - running.mentioned)

    def untaken(self) -> list[str]:
        """Names of devices that were announced again after the last sync; the next one may bring them."""
        report = self._report() or {}
        found = (self._state.device(UUID(id_)) for id_ in report.get("announced_again", ()))
        return [device.name for device in found if device is not None and device.json is None]

    def finish(self, announced_again: Sequence[UUID] = (), ours_unnamed: Iterable[UUID] = ()) -> Json:
        """The sync is complete: its report, to be kept as `SYNC_REPORT`.

        What was made here since the sync before is left out: it is announced after this one.
        """
        now_ms, identity = self._clock.now_ms(), self._state.identity()
        done = self._running or _Running(False, now_ms, now_ms)
        self._running = None
        self._since.clear()
        before_ms = self._state.setting(SYNC_MS) or 0
        unnamed = [
            str(id_) for _, id_ in self._held() if id_ not in done.mentioned and not self._is_new(id_, before_ms)
        ]
        return {
            "edge_id": str(identity.edge_id) if identity else None,
            "kind": "full" if done.is_full else "delta",
            "started_ms": done.started_ms,
            "completed_ms": now_ms,
            "messages": done.messages,
            "attempts": done.attempts,
            "rejections": done.rejections,
            "rejected": done.rejected,
            "announced_again": [str(id_) for id_ in announced_again],
            "ours_unnamed": [str(id_) for id_ in ours_unnamed],
            "unnamed": unnamed[:MOST_LISTED],
            "unnamed_beyond": max(0, len(unnamed) - MOST_LISTED),
        }

    # ── asked by a person ────────────────────────────────────────────────────────────────────

    def view(self, *, with_diff: bool) -> dict[str, Any]:
        """How the last sync went, the one that is running, what is owed to devices; with everything that differs."""
        report = self._report()
        owed = self._state.settings(_OWED)
        view: dict[str, Any] = {
            "running": self._running_view(),
            "last": None
            if report is None
            else {
                "kind": report["kind"],
                "started_ms": report["started_ms"],
                "completed_ms": report["completed_ms"],
                "duration_ms": max(0, report["completed_ms"] - report["started_ms"]),
                "messages": report["messages"],
                "attempts": report["attempts"],
                "result": "complete" if not report["rejections"] else f"{report['rejections']} parts refused here",
            },
            "owed_attributes": {
                self._name(UUID(key.removeprefix(_OWED))): list(keys) for key, keys in islice(owed.items(), MOST_LISTED)
            },
        }
        return view | {"diff": self._diff(report)} if with_diff else view

    def _running_view(self) -> dict[str, Any] | None:
        running = self._running
        if running is None or self._clock.now_ms() - running.heard_ms > _STALE_MS:
            return None  # a change of the tenant or of the edge alone looks like the beginning of a sync
        return {
            "kind": "full" if running.is_full else "delta",
            "started_ms": running.started_ms,
            "messages": running.messages,
            "attempts": running.attempts,
        }

    def _diff(self, report: Mapping[str, Json] | None) -> dict[str, Any]:
        unnamed = self._unnamed() - self._since
        removed: Mapping[str, Json] = self._state.setting(_REMOVED) or {}
        moved: Mapping[str, str] = self._state.setting(MOVED_DEVICES) or {}
        held = {id_: kind for kind, id_ in self._held()}
        names: dict[str, list[str]] = {}
        for device in self._state.devices():
            for name in {device.name, device.local_name or device.name}:
                names.setdefault(name, []).append(str(device.id))
        lists: dict[str, list[dict[str, Any]]] = {
            "only_here": [self._only_here(held[id_], id_) for id_ in sorted(unnamed) if id_ in held],
            "differing": [*self._differing()],
            "refused": list(report["rejected"]) if report else [],
            "removed_by_cloud": [{"name": name, **mark} for name, mark in removed.items()],
            "adopted": [{"id": new, "was": old} for old, new in moved.items()],
            "aliases": [
                {"id": str(device.id), "name": device.name, "local_name": device.local_name}
                for device in self._state.devices()
                if device.local_name not in (None, device.name)
            ],
            "name_conflicts": [{"name": name, "ids": ids} for name, ids in names.items() if len(ids) > 1],
        }
        beyond = sum(max(0, len(one) - MOST_LISTED) for one in lists.values())
        beyond += report["unnamed_beyond"] if report else 0
        return {**{name: one[:MOST_LISTED] for name, one in lists.items()}, "not_listed": beyond}

    def _only_here(self, kind: str, id_: UUID) -> dict[str, Any]:
        device = self._state.device(id_) if kind == "DEVICE" else None
        if device is not None and device.origin == Origin.EDGE and device.json is None:
            note = "made here; the cloud did not take it, deleted it, or no longer assigns it to this edge"
        else:
            note = "the cloud does not name it any more: deleted there, or no longer assigned to this edge"
        return {"type": kind, "id": str(id_), "name": self._name(id_), "note": note}

    def _differing(self) -> Iterator[dict[str, Any]]:
        for device in self._state.devices():
            for name, cloud, here in _fields(device):
                if cloud != here:
                    yield {"type": "DEVICE", "id": str(device.id), "name": device.name, "field": name,
                           "cloud": cloud, "here": here}  # fmt: skip
            other = self._other_credentials.get(device.id)
            if other is not None:
                here = device.credentials.type if device.credentials else None
                same = " (another value)" if other == here else ""
                yield {"type": "DEVICE", "id": str(device.id), "name": device.name, "field": "credentials",
                       "cloud": f"{other}{same}", "here": here}  # fmt: skip

    def _held(self) -> Iterator[tuple[str, UUID]]:
        """What every sync names, when the cloud has it."""
        for device in self._state.devices():
            yield "DEVICE", device.id
        for profile in self._state.profiles():
            if profile.origin == Origin.CLOUD:
                yield "DEVICE_PROFILE", profile.id
        for kind in ("ASSET", "ASSET_PROFILE"):
            for key in self._state.entities(kind):
                yield kind, UUID(key)

    def _is_new(self, id_: UUID, before_ms: int) -> bool:
        device = self._state.device(id_)
        return device is not None and device.json is None and device.created_ms > before_ms

    def _report(self) -> Mapping[str, Json] | None:
        """That of this edge; of another one it says nothing."""
        report, identity = self._state.setting(SYNC_REPORT), self._state.identity()
        if not isinstance(report, dict) or identity is None or report.get("edge_id") != str(identity.edge_id):
            return None
        return report

    def _unnamed(self) -> set[UUID]:
        report = self._report()
        return {UUID(id_) for id_ in report["unnamed"]} if report else set()

    def _name(self, id_: UUID) -> str:
        device, profile = self._state.device(id_), self._state.profile(id_)
        if device is not None:
            return device.name
        if profile is not None:
            return profile.name
        for kind in ("ASSET", "ASSET_PROFILE"):
            json = self._state.entity_json(kind, str(id_))
            if isinstance(json, dict):
                return str(json.get("name", id_))
        return str(id_)


def _fields(device: Device) -> Iterator[tuple[str, Json, Json]]:
    """Name of the field, what the cloud sent last, what is here."""
    json = device.json
    if json is None:
        return
    yield "name", json.get("name"), device.name
    yield "profile", json.get("type"), device.type
    yield "label", json.get("label") or None, device.label or None


def _is_same(held: Credentials | None, json: Mapping[str, Json]) -> bool:
    return (
        held is not None
        and held.type == json.get("credentialsType")
        and held.credentials_id == json.get("credentialsId")
        and held.value == json.get("credentialsValue")
    )
