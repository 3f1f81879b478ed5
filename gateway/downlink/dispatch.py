"""One command, one handler, one answer. Implements `DownlinkHandler`.

A downlink is acknowledged when `handle` returns, so every handler awaits its receipt. All are idempotent:
the cloud may send each message up to three times.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

from gateway.domain.changes import Change, DeleteEntity, SaveEntity, SaveSetting
from gateway.domain.cloud_event import Action
from gateway.domain.downlink import (
    SYNC_MS,
    AttributesReceived,
    AttributesRemoved,
    Command,
    CredentialsRequested,
    CredentialsUpdated,
    Downlink,
    EdgeConfigured,
    EntityUpdated,
    Ignored,
    RpcAnswered,
    RpcCalled,
    SyncCompleted,
    TelemetryReceived,
    UpdateKind,
)
from gateway.domain.entity import EdgeIdentity, Json
from gateway.domain.message import Message, MessageType
from gateway.downlink.alarms import DurableAlarms
from gateway.downlink.keeping import Full, keep, keep_alarm, needs_id, needs_json
from gateway.downlink.sync_log import SYNC_REPORT, SyncLog
from gateway.downlink.turns import Turns
from gateway.errors import RejectedError
from gateway.ports import AlarmBook, Clock, DeviceCommands, PackageKeeper, Receipt, RuleChains, StateReader
from gateway.supervise import Counters

log = logging.getLogger(__name__)

_BUGS: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class Dispatcher:
    """Implements `DownlinkHandler`."""

    def __init__(
        self,
        devices: DeviceCommands,
        chains: RuleChains,
        commit: Callable[[Sequence[Change]], Receipt],
        state: StateReader,
        clock: Clock,
        counters: Counters,
        packages: PackageKeeper | None = None,
        alarms: AlarmBook | None = None,
    ) -> None:
        self._alarms: AlarmBook = alarms or DurableAlarms(state)
        self._packages = packages
        self._devices, self._chains, self._commit, self._state = devices, chains, commit, state
        self._clock, self._counters = clock, counters
        self._turns = Turns(state)
        self.sync = SyncLog(state, clock)
        self._full: set[str] = set()  # kinds of which there are too many: said once

    async def connected(self, identity: EdgeIdentity) -> bool:
        """Remember who we are; True when a full sync is needed. A sync begins now."""
        await self._identified(identity)
        is_full = self._state.setting("sync_done") is not True
        self.sync.begin(is_full=is_full)
        return is_full

    async def _identified(self, identity: EdgeIdentity) -> None:
        known = self._state.identity()
        is_new = known is None or known.edge_id != identity.edge_id
        if known is not None and is_new:
            log.warning(
                "cloud: this gateway now is the edge %r (%s); it was %r (%s) before. Its own devices are announced"
                " anew; what still waits for the old edge is parked",
                identity.name,
                identity.edge_id,
                known.name,
                known.edge_id,
            )
            await self._devices.change_identity(identity)
        elif identity != known:
            await self._commit([SaveSetting("edge_identity", identity.to_json())])
        if is_new:
            await self._commit([SaveSetting("sync_done", False)])
            await self._devices.append_event("EDGE", Action.ATTRIBUTES_REQUEST, identity.edge_id)
            await self._devices.append_event("EDGE", Action.RELATION_REQUEST, identity.edge_id)

    async def handle(self, downlink: Downlink) -> None:
        """Apply the commands in order; one that is rejected does not keep its neighbours from it.

        May be called again before it returns: see `turns`.

        Raises:
            RejectedError: Names what could not be applied, after all the rest was.
        """
        async with self._turns.turn(downlink):
            await self._handle(downlink)

    async def _handle(self, downlink: Downlink) -> None:
        self._counters.add("downlink.messages")
        self.sync.heard(downlink)
        rejected: list[str] = []
        for command in downlink.commands:
            try:
                await self._apply(command, downlink)
            except (RejectedError, *_BUGS) as error:
                reason = str(error) if isinstance(error, RejectedError) else self._bug(command, error)
                rejected.append(reason)
                self.sync.rejected(_subject(command), reason)
            else:
                self._note(command)
        await self._ask_for_the_rest(downlink)
        if rejected:
            raise RejectedError("; ".join(rejected))

    def _note(self, command: Command) -> None:
        """For the reconcile report."""
        if isinstance(command, EntityUpdated):
            self.sync.named(command)
        elif isinstance(command, CredentialsUpdated):
            self.sync.credentials(command.device_id, command.json)

    def _bug(self, command: Command, error: Exception) -> str:
        """Ours; but the cloud would send it again after every start, and nothing else would get through.

        Told without the error's own text: it may repeat a secret.
        """
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(command).__name__}: {type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
        self._counters.add("downlink.bugs")
        log.error("downlink: a bug of the gateway: %s", text)
        return text

    async def _apply(self, command: Command, downlink: Downlink) -> None:
        match command:
            case SyncCompleted():
                await self._sync_completed()
            case EdgeConfigured(identity):
                await self._identified(identity)
            case TelemetryReceived(entity, series):
                for item in series:
                    await self._devices.post_from_cloud(
                        Message(
                            type=MessageType.POST_TELEMETRY_REQUEST.value,
                            originator=entity,
                            data=dict(item.values),
                            metadata={"ts": str(item.ts_ms)},
                            ts_ms=item.ts_ms,
                        )
                    )
            case AttributesReceived(entity, scope, values, ts_ms, is_post) if is_post:
                await self._devices.post_from_cloud(
                    Message(
                        type=MessageType.POST_ATTRIBUTES_REQUEST.value,
                        originator=entity,
                        data=dict(values),
                        metadata={"scope": scope},
                        ts_ms=ts_ms or self._clock.now_ms(),
                    )
                )
            case AttributesReceived(entity, scope, values, ts_ms, _):
                await self._devices.update_attributes(entity, scope, values, ts_ms)
            case AttributesRemoved(entity, scope, keys):
                await self._devices.delete_attributes(entity, scope, keys)
            case RpcCalled(request):
                await self._devices.call_device(request)
            case RpcAnswered(device_id, request_id, session_id, response, error):
                await self._devices.answer_device(device_id, request_id, session_id, response or error)
            case CredentialsRequested(device_id):
                if self._state.device(device_id) is not None:
                    await self._devices.append_event("DEVICE", Action.CREDENTIALS_UPDATED, device_id)
            case CredentialsUpdated(device_id, json):
                await self._devices.put_credentials(device_id, json)
            case EntityUpdated():
                await self._entity(command, downlink)
            case Ignored(name):
                self._counters.add("downlink.ignored")
                log.debug("downlink: %s is acknowledged and not kept", name)

    async def _sync_completed(self) -> None:
        if not self.sync.is_running and self._state.setting(SYNC_MS):  # repeated: our acknowledgement came late
            self._counters.add("downlink.without_effect")
            return
        if self._state.setting("sync_done") is not True:
            await self._forget_chains(self.sync.unnamed_chains())
        before = self.sync.unnamed_before()
        unnamed = await self._devices.announce_again(self.sync.ours_unnamed(), before)
        report = self.sync.finish([id_ for id_ in unnamed if id_ in before], unnamed)
        await self._commit([SaveSetting(SYNC_MS, self._clock.now_ms()), SaveSetting(SYNC_REPORT, report)])
        if names := self.sync.untaken():
            log.warning(
                "cloud: two syncs did not bring %d devices that were made here and announced, such as %s: is the"
                " tenant's quota of devices used up? They are announced again",
                len(names),
                ", ".join(map(repr, names[:3])),
            )
        if self._state.setting("sync_done") is not True:
            await self._commit([SaveSetting("sync_done", True)])
            identity = self._state.identity()
            if identity is not None:
                await self._devices.append_event("TENANT", Action.ATTRIBUTES_REQUEST, identity.tenant_id)

    async def _entity(self, update: EntityUpdated, downlink: Downlink) -> None:
        is_deleted = update.kind is UpdateKind.DELETED
        match update.type:
            case "DEVICE":
                device_id = needs_id(update)
                if is_deleted:
                    await self._devices.delete_device(device_id)
                else:
                    await self._devices.put_device(device_id, needs_json(update), _credentials(downlink, device_id))
            case "DEVICE_PROFILE":
                profile_id = needs_id(update)
                if is_deleted:
                    await self._devices.delete_profile(profile_id)
                else:
                    await self._devices.put_profile(profile_id, needs_json(update))
            case "RULE_CHAIN":
                await self._chain(update, is_deleted)
            case "RULE_CHAIN_METADATA":
                json = needs_json(update)
                chain_id = update.id or _chain_id(json)
                if json.get("nodes"):
                    await self._keep(SaveEntity("RULE_CHAIN_METADATA", str(chain_id), json))
                    self._chains.put_metadata(chain_id, json)
            case "OTA_PACKAGE" if self._packages is not None:
                if is_deleted:
                    await self._packages.delete_package(needs_id(update))
                elif not await self._packages.put_package(needs_id(update), needs_json(update)):
                    self._counters.add("downlink.without_effect")
            case "ALARM":
                await self._alarm(update)
            case kind:
                await self._other(kind, update)

    async def _alarm(self, update: EntityUpdated) -> None:
        applied = keep_alarm(update, self._state, self._alarms, self._clock.now_ms())
        self._alarms.note(applied.changes)
        if applied.message is not None:
            await self._devices.post_from_cloud(applied.message, applied.changes)
        elif applied.changes:
            await self._keep(*applied.changes)
        else:
            self._counters.add("downlink.without_effect")

    async def _other(self, kind: str, update: EntityUpdated) -> None:
        try:
            changes = keep(update, self._state)
        except Full:
            self._counters.add("downlink.no_room")
            if kind not in self._full:
                self._full.add(kind)
                log.warning("downlink: no more %s are kept (said once; counted in downlink.no_room)", kind)
            return
        if changes is None:
            self._counters.add("downlink.ignored")
            log.debug("downlink: %s is acknowledged and not kept", kind)
        elif changes:
            await self._keep(*changes)
        else:
            self._counters.add("downlink.without_effect")

    async def _chain(self, update: EntityUpdated, is_deleted: bool) -> None:
        chain_id = needs_id(update)
        if is_deleted:
            await self._keep(
                DeleteEntity("RULE_CHAIN", str(chain_id)), DeleteEntity("RULE_CHAIN_METADATA", str(chain_id))
            )
            self._chains.remove_chain(chain_id)
        else:
            json = needs_json(update)
            # A server does not send the former root again when another takes its place: the setting decides.
            was_root = self._state.setting("root_chain") == str(chain_id)
            changes: list[Change] = [SaveEntity("RULE_CHAIN", str(chain_id), json)]
            if json.get("root") is True:
                changes.append(SaveSetting("root_chain", str(chain_id)))
            elif was_root:
                changes.append(SaveSetting("root_chain", None))
            await self._keep(*changes)
            self._chains.put_chain(chain_id, json)

    async def _forget_chains(self, gone: Sequence[UUID]) -> None:
        """Those of the edge that we were before; they were at work until the new ones were here."""
        if not gone:
            return
        changes: list[Change] = []
        for chain_id in gone:
            changes += [DeleteEntity(kind, str(chain_id)) for kind in ("RULE_CHAIN", "RULE_CHAIN_METADATA")]
            if self._state.setting("root_chain") == str(chain_id):
                changes.append(SaveSetting("root_chain", None))
        await self._keep(*changes)
        for chain_id in gone:
            self._chains.remove_chain(chain_id)

    async def _ask_for_the_rest(self, downlink: Downlink) -> None:
        """A 3.7 server sends chains without metadata and devices without credentials: they are asked for."""
        kinds = {(c.type, c.id) for c in downlink.commands if isinstance(c, EntityUpdated)}
        with_credentials = {c.device_id for c in downlink.commands if isinstance(c, CredentialsUpdated)}
        has_metadata = any(type_ == "RULE_CHAIN_METADATA" for type_, _ in kinds)
        for command in downlink.commands:
            if not isinstance(command, EntityUpdated) or command.kind is UpdateKind.DELETED or command.id is None:
                continue
            if command.type == "RULE_CHAIN" and not has_metadata:
                await self._devices.append_event("RULE_CHAIN", Action.RULE_CHAIN_METADATA_REQUEST, command.id)
            elif command.type == "DEVICE" and command.id not in with_credentials:
                device = self._state.device(command.id)
                if device is not None and device.credentials is None:
                    await self._devices.append_event("DEVICE", Action.CREDENTIALS_REQUEST, command.id)

    async def _keep(self, *changes: Change) -> None:
        await self._commit(changes)


def _subject(command: Command) -> str:
    return f"{command.type} {command.id}" if isinstance(command, EntityUpdated) else type(command).__name__


def _credentials(downlink: Downlink, device_id: UUID) -> Mapping[str, Json] | None:
    """Those that come in the same message, so that a device and its credentials are one unit of work."""
    for command in downlink.commands:
        if isinstance(command, CredentialsUpdated) and command.device_id == device_id:
            return command.json
    return None


def _chain_id(json: Mapping[str, Json]) -> UUID:
    try:
        return UUID(json["ruleChainId"]["id"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RejectedError("RULE_CHAIN_METADATA without a ruleChainId") from None
