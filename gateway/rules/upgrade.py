"""Older node configurations, brought up to date when a chain is loaded, as ThingsBoard does it.

A missing `configurationVersion` means 0. One function per node, which applies all steps from the given
version. Source: reference rule-engine §4.9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Config = dict[str, Any]


def upgraded(short_type: str, version: int, config: Mapping[str, Any]) -> Config:
    """A copy of `config` in its present form; `short_type` is the class without its package prefix."""
    fresh = dict(config)
    step = _UPGRADES.get(short_type)
    if step is not None:
        step(fresh, version)
    return fresh


def _is_true(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _save_telemetry(config: Config, version: int) -> None:
    if version < 1:
        on = {"type": "ON_EVERY_MESSAGE"}
        if _is_true(config.pop("skipLatestPersistence", None)):
            skip = {"type": "SKIP"}
            config["processingSettings"] = {"type": "ADVANCED", "timeseries": on, "latest": skip, "webSockets": on}
        else:
            config["processingSettings"] = on


def _save_attributes(config: Config, version: int) -> None:
    if version < 1:
        config.setdefault("updateAttributesOnlyOnValueChange", False)
    if version < 2:
        config.setdefault("notifyDevice", True)
        config.setdefault("sendAttributesUpdatedNotification", False)
        config.setdefault("updateAttributesOnlyOnValueChange", True)
    if version < 3:
        config["processingSettings"] = {"type": "ON_EVERY_MESSAGE"}


def _get_attributes(config: Config, version: int) -> None:
    if version < 1:
        config["fetchTo"] = "DATA" if _is_true(config.pop("fetchToData", None)) else "METADATA"


def _originator_fields(config: Config, version: int) -> None:
    if version < 1:
        if "fieldsMapping" in config:
            config["dataMapping"] = config.pop("fieldsMapping")
        config["fetchTo"] = "METADATA"


def _keys(place: str, second_name: str) -> Callable[[Config, int], None]:
    def upgrade(config: Config, version: int) -> None:
        old = config.get("fromMetadata")
        if version < 1 and (isinstance(old, bool) or (isinstance(old, str) and old.lower() in ("true", "false"))):
            config[place] = "METADATA" if _is_true(config.pop("fromMetadata")) else "DATA"
        if version < 2 and place not in config and config.get(second_name) in ("METADATA", "DATA"):
            config[place] = config.pop(second_name)

    return upgrade


def _generator(config: Config, version: int) -> None:
    if version < 2 and not (config.get("originatorType") and config.get("originatorId")):
        config["originatorType"] = "RULE_NODE"


def _swapped_relation(config: Config, version: int) -> None:
    if version < 1 and "entityCacheExpiration" in config:
        del config["entityCacheExpiration"]
        config["direction"] = "TO" if config.get("direction", "FROM") == "FROM" else "FROM"


def _geofencing_events(config: Config, version: int) -> None:
    if version < 1:
        config["reportPresenceStatusOnEachMessage"] = False


def _input(config: Config, version: int) -> None:
    if version < 1:
        config["forwardMsgToDefaultRuleChain"] = False


_UPGRADES: Final[Mapping[str, Callable[[Config, int], None]]] = {
    "telemetry.TbMsgTimeseriesNode": _save_telemetry,
    "telemetry.TbMsgAttributesNode": _save_attributes,
    "metadata.TbGetAttributesNode": _get_attributes,
    "metadata.TbGetOriginatorFieldsNode": _originator_fields,
    "transform.TbCopyKeysNode": _keys("copyFrom", "fromMetadata"),
    "transform.TbRenameKeysNode": _keys("renameIn", "fromMetadata"),
    "transform.TbDeleteKeysNode": _keys("deleteFrom", "dataToFetch"),
    "flow.TbRuleChainInputNode": _input,
    "debug.TbMsgGeneratorNode": _generator,
    "action.TbCreateRelationNode": _swapped_relation,
    "action.TbDeleteRelationNode": _swapped_relation,
    "geo.TbGpsGeofencingActionNode": _geofencing_events,
}
