"""A calculated field as the cloud sends it, read and checked. Pure.

Source: reference rule-engine §7.4, device-api §4.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from gateway.domain.entity import EntityId, Json
from gateway.domain.telemetry import AttributeScope, Value
from gateway.errors import RejectedError

SERIES: Final = "TS_LATEST"
ROLLING: Final = "TS_ROLLING"
ATTRIBUTE: Final = "ATTRIBUTE"
OWNERS: Final = ("DEVICE", "ASSET", "DEVICE_PROFILE", "ASSET_PROFILE")
MOST_POINTS: Final = 1_000
"""Of one rolling argument, whatever it asks for."""

_KINDS: Final = ("SIMPLE", "SCRIPT", "ALARM")
_SOURCES: Final = ("CURRENT_OWNER", "CURRENT_CUSTOMER", "CURRENT_TENANT")
_REFERRED: Final = (*OWNERS, "CUSTOMER", "TENANT")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One named value. `entity` None: of the entity itself, unless `source` says of whom."""

    name: str
    kind: str
    key: str
    scope: str = ""  # of attributes
    entity: EntityId | None = None
    source: str = ""  # one of `_SOURCES`
    default: Value | None = None
    limit: int = MOST_POINTS
    window_ms: int = 0

    @property
    def is_own(self) -> bool:
        """It is the entity's own value: news of it lead to a calculation."""
        return self.entity is None and not self.source


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What becomes of the result. `is_immediate`: saved at once; else it enters the entity's rule chain."""

    is_series: bool
    name: str
    scope: str
    decimals: int | None
    is_immediate: bool
    keeps_history: bool
    keeps_latest: bool  # of attributes: whether they are kept
    feeds_others: bool
    only_changes: bool
    tells_rules: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSpec:
    """`expression` is empty for ALARM, `output` None."""

    id: UUID
    name: str
    kind: str
    owner: EntityId
    arguments: tuple[Argument, ...]
    expression: str
    uses_latest_ts: bool
    output: Output | None
    configuration: Mapping[str, Json]


def parse_field(id_: UUID, json: Json) -> FieldSpec:
    """CalculatedField JSON.

    Raises:
        RejectedError: It cannot be evaluated here; says where and why.
    """
    if not isinstance(json, dict) or not isinstance(json.get("configuration"), dict):
        raise RejectedError("configuration must be an object")
    kind, tree = json.get("type"), json["configuration"]
    if kind not in _KINDS:
        raise RejectedError(f"fields of type {str(kind)[:50]} are not evaluated here, only {', '.join(_KINDS)}")
    owner = _entity(json.get("entityId"), "entityId", OWNERS)
    arguments = tree.get("arguments")
    if not isinstance(arguments, dict) or not arguments:
        raise RejectedError("configuration.arguments must be an object with at least one argument")
    parsed = tuple(_argument(name, given, kind) for name, given in arguments.items())
    expression = ""
    if kind != "ALARM":
        if not isinstance(tree.get("expression"), str) or not tree["expression"].strip():
            raise RejectedError("configuration.expression must be a text")
        expression = tree["expression"]
    name = json.get("name")
    if not isinstance(name, str) or not name:
        raise RejectedError("name must be a text")
    return FieldSpec(
        id=id_,
        name=name,
        kind=kind,
        owner=owner,
        arguments=parsed,
        expression=expression,
        uses_latest_ts=tree.get("useLatestTs") is True or tree.get("preserveMsgTs") is True,
        output=None if kind == "ALARM" else _output(tree.get("output"), is_named=kind == "SIMPLE"),
        configuration=tree,
    )


def _entity(tree: Json, where: str, kinds: tuple[str, ...]) -> EntityId:
    kind = tree.get("entityType") if isinstance(tree, dict) else None
    if kind not in kinds:
        raise RejectedError(f"{where} must be of one of these: {', '.join(kinds)}")
    try:
        return EntityId(kind, UUID(str(tree.get("id"))))
    except ValueError:
        raise RejectedError(f"{where}.id must be an id") from None


def _argument(name: str, tree: Json, field_kind: str) -> Argument:
    where = f"configuration.arguments.{name[:50]}"
    if not _NAME.fullmatch(name) or name == "ctx":
        raise RejectedError(f"{where}: the name must be of letters, digits and _, and not ctx")
    key = tree.get("refEntityKey") if isinstance(tree, dict) else None
    if not isinstance(key, dict) or not isinstance(key.get("key"), str) or not key["key"]:
        raise RejectedError(f"{where}.refEntityKey must be an object with key and type")
    kind = key.get("type")
    if kind not in (SERIES, ROLLING, ATTRIBUTE):
        raise RejectedError(f"{where}.refEntityKey.type must be {SERIES}, {ROLLING} or {ATTRIBUTE}")
    if kind == ROLLING and field_kind != "SCRIPT":
        raise RejectedError(f"{where}: a rolling argument is for fields of type SCRIPT only")
    scope = ""
    if kind == ATTRIBUTE:
        scope = key.get("scope") or AttributeScope.SERVER_SCOPE.value
        if scope not in AttributeScope.__members__:
            raise RejectedError(f"{where}.refEntityKey.scope must be {', '.join(AttributeScope)}")
    limit, window_ms = MOST_POINTS, 0
    if kind == ROLLING:
        window_ms = _count(tree.get("timeWindow"), f"{where}.timeWindow")
        limit = min(MOST_POINTS, _count(tree.get("limit") or MOST_POINTS, f"{where}.limit"))
    source = tree.get("refDynamicSourceConfiguration")
    wanted = source.get("type") if isinstance(source, dict) else tree.get("refDynamicSource")
    if wanted is not None and wanted not in _SOURCES:
        raise RejectedError(f"{where}: the source {str(wanted)[:50]} is not read here, only {', '.join(_SOURCES)}")
    entity = None
    if wanted is None and tree.get("refEntityId") is not None:
        entity = _entity(tree["refEntityId"], f"{where}.refEntityId", _REFERRED)
    return Argument(
        name=name,
        kind=kind,
        key=key["key"],
        scope=scope,
        entity=entity,
        source=wanted or "",
        default=_default(tree.get("defaultValue")),
        limit=limit,
        window_ms=window_ms,
    )


def _count(value: Json, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 53:
        raise RejectedError(f"{where} must be a whole number above 0")
    return value


def _default(text: Json) -> Value | None:
    """A default is a text: a number or a boolean where it reads as one; none when it is empty."""
    if not isinstance(text, str):
        value: Value | None = text
        return value
    if text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text or None


def _output(tree: Json, *, is_named: bool) -> Output:
    where = "configuration.output"
    if not isinstance(tree, dict) or tree.get("type") not in ("TIME_SERIES", "ATTRIBUTES"):
        raise RejectedError(f"{where}.type must be TIME_SERIES or ATTRIBUTES")
    name = tree.get("name")
    if is_named and (not isinstance(name, str) or not name):
        raise RejectedError(f"{where}.name must be a text")
    scope = tree.get("scope") or AttributeScope.SERVER_SCOPE.value
    if scope not in AttributeScope.__members__:
        raise RejectedError(f"{where}.scope must be {', '.join(AttributeScope)}")
    decimals = tree.get("decimalsByDefault")
    if decimals is not None and (type(decimals) is not int or not 0 <= decimals <= 15):
        raise RejectedError(f"{where}.decimalsByDefault must be 0 to 15")
    strategy: Any = tree.get("strategy") or {}
    kind = strategy.get("type", "RULE_CHAIN") if isinstance(strategy, dict) else None
    if kind not in ("IMMEDIATE", "RULE_CHAIN"):
        raise RejectedError(f"{where}.strategy.type must be IMMEDIATE or RULE_CHAIN")

    def says(key: str, absent: bool) -> bool:
        return absent if strategy.get(key) is None else strategy[key] is True

    is_series = tree["type"] == "TIME_SERIES"
    return Output(
        is_series=is_series,
        name=name if isinstance(name, str) else "",
        scope=scope,
        decimals=decimals,
        is_immediate=kind == "IMMEDIATE",
        keeps_history=says("saveTimeSeries", absent=True),
        keeps_latest=says("saveLatest" if is_series else "saveAttribute", absent=True),
        feeds_others=says("processCfs", absent=True),
        only_changes=says("updateAttributesOnlyOnValueChange", absent=False),
        tells_rules=says("sendAttributesUpdatedNotification", absent=False),
    )
