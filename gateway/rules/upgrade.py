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
        _default(config, "updateAttributesOnlyOnValueChange", False)
    if version < 2:
        _default(config, "notifyDevice", True)
        _default(config, "sendAttributesUpdatedNotification", False)
        _default(config, "updateAttributesOnlyOnValueChange", True)
    if version < 3:
        config["processingSettings"] = {"type": "ON_EVERY_MESSAGE"}


def _get_attributes(config: Config, version: int) -> None:
    if version < 1:
        config["fetchTo"] = "DATA" if _is_true(config.pop("fetchToData", None)) else "METADATA"


def _get_telemetry(config: Config, version: int) -> None:
    if version < 1:
        match config.get("fetchMode"):
            case "FIRST":
                config.update(orderBy="ASC", aggregation="NONE")
            case "LAST":
                config.update(orderBy="DESC", aggregation="NONE")
            case "ALL":
                config["orderBy"] = config.get("orderBy") or "ASC"
                config["aggregation"] = config.get("aggregation") or "NONE"
            case _:
                config.update(fetchMode="LAST", orderBy="DESC", aggregation="NONE")
    if version < 2:
        _default(config, "limit", 1000)
        if config.get("fetchMode") == "ALL":
            _default(config, "aggregation", "NONE")
            _default(config, "orderBy", "ASC")


def _mapped(config: Config, version: int) -> None:
    if version < 1:
        if "attrMapping" in config:
            config["dataMapping"] = config.pop("attrMapping")
        if "telemetry" in config:
            config["dataToFetch"] = "LATEST_TELEMETRY" if _is_true(config.pop("telemetry")) else "ATTRIBUTES"
        config["fetchTo"] = "METADATA"


def _fetch_to(old: str) -> Callable[[Config, int], None]:
    def upgrade(config: Config, version: int) -> None:
        if version < 1 and old in config:
            config["fetchTo"] = "METADATA" if _is_true(config.pop(old)) else "DATA"

    return upgrade


def _calculate_delta(config: Config, version: int) -> None:
    if version < 1:
        _default(config, "excludeZeroDeltas", False)


def _swap_direction(config: Config, version: int) -> None:
    if version < 1:
        config["direction"] = "FROM" if config.get("direction") == "TO" else "TO"


def _device_profile(config: Config, version: int) -> None:
    if version < 1 and not _is_true(config.get("persistAlarmRulesState")):
        config["fetchAlarmRulesStateOnStart"] = False


def _without_queue(config: Config, version: int) -> None:
    if version < 1:
        config.pop("queueName", None)


def _default(config: Config, key: str, value: Any) -> None:
    """Null is absent."""
    if config.get(key) is None:
        config[key] = value


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
    "metadata.TbGetDeviceAttrNode": _get_attributes,
    "metadata.TbGetTelemetryNode": _get_telemetry,
    "metadata.TbGetOriginatorFieldsNode": _originator_fields,
    "metadata.TbGetCustomerAttributeNode": _mapped,
    "metadata.TbGetTenantAttributeNode": _mapped,
    "metadata.TbGetRelatedAttributeNode": _mapped,
    "metadata.TbGetCustomerDetailsNode": _fetch_to("addToMetadata"),
    "metadata.TbGetTenantDetailsNode": _fetch_to("addToMetadata"),
    "metadata.TbFetchDeviceCredentialsNode": _fetch_to("fetchToMetadata"),
    "metadata.CalculateDeltaNode": _calculate_delta,
    "filter.TbCheckRelationNode": _swap_direction,
    "transform.TbCopyKeysNode": _keys("copyFrom", "fromMetadata"),
    "transform.TbRenameKeysNode": _keys("renameIn", "fromMetadata"),
    "transform.TbDeleteKeysNode": _keys("deleteFrom", "dataToFetch"),
    "flow.TbRuleChainInputNode": _input,
    "deduplication.TbMsgDeduplicationNode": _without_queue,
    "flow.TbCheckpointNode": _without_queue,
    "profile.TbDeviceProfileNode": _device_profile,
    "debug.TbMsgGeneratorNode": _generator,
    "action.TbCreateRelationNode": _swapped_relation,
    "action.TbDeleteRelationNode": _swapped_relation,
    "geo.TbGpsGeofencingActionNode": _geofencing_events,
}
