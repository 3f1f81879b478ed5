"""Alarms: their JSON, which is what the store keeps and the cloud reads. Pure functions; an alarm is a value.

Source: reference rule-engine §7.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gateway.domain.entity import EdgeIdentity, EntityId, Json

SEVERITIES: Final = ("CRITICAL", "MAJOR", "MINOR", "WARNING", "INDETERMINATE")
"""The highest first."""

MAX_ALARMS: Final = 10_000
"""So many are kept; for one more the oldest that is cleared goes."""

_WHAT_COUNTS: Final = (
    "severity", "startTs", "endTs", "details",
    "propagate", "propagateToOwner", "propagateToTenant", "propagateRelationTypes",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Propagation:
    """Who else sees an alarm, in the cloud."""

    relations: bool = False
    owner: bool = False
    tenant: bool = False
    relation_types: Sequence[str] | None = None

    def to_json(self) -> dict[str, Json]:
        """As it stands in the alarm."""
        types = None if self.relation_types is None else list(self.relation_types)
        return {
            "propagate": self.relations,
            "propagateToOwner": self.owner,
            "propagateToTenant": self.tenant,
            "propagateRelationTypes": types,
        }


def status_of(alarm: Mapping[str, Json]) -> str:
    """ACTIVE_UNACK, ACTIVE_ACK, CLEARED_UNACK or CLEARED_ACK."""
    return f"{'CLEARED' if alarm.get('cleared') else 'ACTIVE'}_{'ACK' if alarm.get('acknowledged') else 'UNACK'}"


def with_status(alarm: Mapping[str, Json], **fresh: Json) -> dict[str, Json]:
    """The alarm with these members, and the status that they make."""
    changed = {**alarm, **fresh}
    changed["status"] = status_of(changed)
    return changed


def new_alarm(
    id_: UUID,
    originator: EntityId,
    type_: str,
    severity: str,
    *,
    created_ms: int,
    start_ms: int,
    details: Json,
    propagation: Propagation,
    identity: EdgeIdentity | None,
) -> dict[str, Json]:
    """Active, not acknowledged. Without a customer: the cloud refuses one that is not (any more) the originator's."""
    tenant = None if identity is None else {"entityType": "TENANT", "id": str(identity.tenant_id)}
    return with_status(
        {
            "id": {"entityType": "ALARM", "id": str(id_)},
            "createdTime": created_ms,
            "tenantId": tenant,
            "customerId": None,
            "type": type_,
            "name": type_,
            "originator": {"entityType": originator.type, "id": str(originator.id)},
            "severity": severity,
            "acknowledged": False,
            "cleared": False,
            "assigneeId": None,
            "startTs": start_ms,
            "endTs": start_ms,
            "ackTs": 0,
            "clearTs": 0,
            "assignTs": 0,
            "details": details,
            **propagation.to_json(),
        }
    )


def is_modified(old: Mapping[str, Json], new: Mapping[str, Json]) -> bool:
    """Does an update differ in anything that counts?"""
    return any(old.get(name) != new.get(name) for name in _WHAT_COUNTS)
