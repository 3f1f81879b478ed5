"""The catalogue of nodes, `docs/rule-nodes.md`: made from the typed configurations, so that it cannot drift.

`make nodes` writes it. What a model does not say (tier, relations, what is different here) stands in the table below.
Tiers: A and B are run, A are those that most chains need; C are recognised and answer Failure.
Source: reference rule-engine §4.
"""

from __future__ import annotations

import inspect
from typing import Any, Final, NamedTuple

import orjson
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import gateway.rules.nodes  # noqa: F401 - fills the registry
from gateway.rules.catalogue_words import MEANINGS
from gateway.rules.node import OWN_PREFIX, REGISTRY, NodeKind

_HEAD: Final = """\
# Catalogue of rule nodes

Made by `make nodes` from the typed configurations. Class names are without `org.thingsboard.rule.engine.`; how chains
are loaded and walked says [rules.md](rules.md). Every node may answer `Failure`. Tier A and B are run here, C is
recognised: the chain loads, and such a node answers `Failure` and says why. An absent boolean is false; an unknown key
is ignored; keys are ThingsBoard's own.
"""


class About(NamedTuple):
    """What no model says of a node."""

    tier: str
    relations: str = "Success"
    differs: str = ""


_TABLE: Final = "see [rules.md](rules.md#nodes)"
_BOOLEAN: Final = "True, False"

ABOUT: Final[dict[str, dict[str, About]]] = {
    "Filter": {
        "filter.TbMsgTypeSwitchNode": About("A", "the type in words, Other"),
        "filter.TbMsgTypeFilterNode": About("A", _BOOLEAN),
        "filter.TbJsFilterNode": About("A", _BOOLEAN),
        "filter.TbJsSwitchNode": About("A", "any"),
        "filter.TbCheckMessageNode": About("A", _BOOLEAN),
        "filter.TbOriginatorTypeFilterNode": About("A", _BOOLEAN),
        "filter.TbOriginatorTypeSwitchNode": About("B", "the originator's type in words"),
        "filter.TbDeviceTypeSwitchNode": About("B", "names of profiles"),
        "filter.TbAssetTypeSwitchNode": About("B", "names of profiles"),
        "filter.TbCheckRelationNode": About("B", _BOOLEAN, _TABLE),
        "filter.TbCheckAlarmStatusNode": About("B", _BOOLEAN),
        "geo.TbGpsGeofencingFilterNode": About("B", _BOOLEAN),
    },
    "Enrichment": {
        "metadata.TbGetAttributesNode": About("A", differs=_TABLE),
        "metadata.TbGetTelemetryNode": About("A", differs=_TABLE),
        "metadata.TbGetOriginatorFieldsNode": About("A"),
        "metadata.CalculateDeltaNode": About("A", "Success, Other", _TABLE),
        "metadata.TbGetDeviceAttrNode": About("B", differs=_TABLE),
        "metadata.TbGetRelatedAttributeNode": About("B", differs=_TABLE),
        "metadata.TbGetCustomerAttributeNode": About("B"),
        "metadata.TbGetTenantAttributeNode": About("B"),
        "metadata.TbGetCustomerDetailsNode": About("B"),
        "metadata.TbGetTenantDetailsNode": About("B"),
        "metadata.TbFetchDeviceCredentialsNode": About("B", differs=_TABLE),
    },
    "Transformation": {
        "transform.TbTransformMsgNode": About("A"),
        "transform.TbJsTransformNode": About("A", differs="the old name of the script node"),
        "transform.TbChangeOriginatorNode": About("A", differs=_TABLE),
        "transform.TbCopyKeysNode": About("A"),
        "transform.TbDeleteKeysNode": About("A"),
        "transform.TbRenameKeysNode": About("A"),
        "transform.TbSplitArrayMsgNode": About("A"),
        "deduplication.TbMsgDeduplicationNode": About("A", differs="what waits survives a restart"),
        "transform.TbJsonPathNode": About("B", differs=_TABLE),
        "mail.TbMsgToEmailNode": About("C"),
    },
    "Action": {
        "telemetry.TbMsgTimeseriesNode": About("A", differs=_TABLE),
        "telemetry.TbMsgAttributesNode": About("A", differs=_TABLE),
        "telemetry.TbMsgDeleteAttributesNode": About("A"),
        "edge.TbMsgPushToCloudNode": About("A", differs="a body that is no object is Failure: the cloud would lose it"),
        "rpc.TbSendRPCRequestNode": About("A"),
        "rpc.TbSendRPCReplyNode": About("A"),
        "action.TbCreateAlarmNode": About("A", "Created, Updated, False", _TABLE),
        "action.TbClearAlarmNode": About("A", "Cleared, False", _TABLE),
        "profile.TbDeviceProfileNode": About(
            "A", "Success, Alarm Created, Alarm Updated, Alarm Severity Updated, Alarm Cleared", _TABLE
        ),
        "action.TbLogNode": About("A", differs=_TABLE),
        "debug.TbMsgGeneratorNode": About(
            "A",
            differs="how many messages there were survives a restart; turns that were missed altogether are not made "
            "up for; an originator that is not known here is Failure at its turn, because it may still arrive",
        ),
        "math.TbMathNode": About(
            "A",
            differs="what it saves it reads again at once; a result that is no number is Failure also for time series; "
            "`addToBody` needs no argument from the body",
        ),
        "delay.TbMsgDelayNode": About("B", differs="what waits survives a restart"),
        "action.TbMsgCountNode": About(
            "B", differs="the count survives a restart; it is told as soon as the tenant is known (first connect)"
        ),
        "action.TbDeviceStateNode": About(
            "B",
            "Success, Rate limited",
            "a time in the future counts as now; what is older than what is known does nothing",
        ),
        "action.TbCreateRelationNode": About(
            "B",
            differs="customers are not made; an asset needs a profile that is known here; at most 50,000 relations, "
            "and 20,000 devices or assets with which another one is made",
        ),
        "action.TbDeleteRelationNode": About("B"),
        "geo.TbGpsGeofencingActionNode": About(
            "B",
            "Success, Entered, Left, Inside, Outside",
            "the state is kept beside the chain and survives a restart; no attribute shows it",
        ),
        "transaction.TbSynchronizationBeginNode": About("B", differs="passes on"),
        "transaction.TbSynchronizationEndNode": About("B", differs="passes on"),
        "telemetry.TbCalculatedFieldsNode": About("B"),
        "action.TbAssignToCustomerNode": About("C"),
        "action.TbUnassignFromCustomerNode": About("C"),
        "action.TbCopyAttributesToEntityViewNode": About("C"),
        "action.TbSaveToCustomCassandraTableNode": About("C"),
        "rest.TbSendRestApiCallReplyNode": About("C"),
        "edge.TbMsgPushToEdgeNode": About("C"),
    },
    "Flow": {
        "flow.TbAckNode": About("A", differs=_TABLE),
        "flow.TbCheckpointNode": About("A", differs=_TABLE),
        "flow.TbRuleChainInputNode": About("A", "those of the output nodes", _TABLE),
        "flow.TbRuleChainOutputNode": About("A", "none of its own"),
    },
    "External": {
        "rest.TbRestApiCallNode": About(
            "B",
            differs="only servers that `rules.allow_rest` names, a proxy included; certificates are always checked; "
            "redirects are not followed; a call ends after 20 s unless `readTimeoutMs` says otherwise; one node has "
            "100 requests under way at most. While it asks, the message's acknowledgement and later messages of its "
            "originator wait; `rules.retry` asks again",
        ),
        "mqtt.TbMqttNode": About(
            "B",
            differs="only brokers that `rules.allow_mqtt` names; while a broker is away messages fail at once, and it "
            "is tried again after 1 to 30 s; `rules.retry` publishes again",
        ),
        **{
            name: About("C")
            for name in (
                "kafka.TbKafkaNode",
                "rabbitmq.TbRabbitMqNode",
                "mqtt.azure.TbAzureIotHubNode",
                "aws.lambda.TbAwsLambdaNode",
                "aws.sns.TbSnsNode",
                "aws.sqs.TbSqsNode",
                "gcp.pubsub.TbPubSubNode",
                "mail.TbSendEmailNode",
                "sms.TbSendSmsNode",
                "notification.TbNotificationNode",
                "notification.TbSlackNode",
                "ai.TbAiNode",
            )
        },
    },
}


def catalogue() -> str:
    """The whole page. Nodes of this gateway alone come last."""
    parts = [_HEAD]
    for category, nodes in ABOUT.items():
        parts.append(f"## {category}\n")
        parts += [_entry(REGISTRY[name], about) for name, about in nodes.items() if REGISTRY[name].is_supported]
        refused = [name for name in nodes if not REGISTRY[name].is_supported]
        if refused:
            named = ", ".join(f"{REGISTRY[name].title} (`{name}`)" for name in refused)
            parts.append(f"Tier C, not run: {named}.\n")
    parts.append("## Of this gateway alone\n\nThingsBoard does not have these; [aggregation.md](aggregation.md).\n")
    own = sorted(name for name in REGISTRY if name.startswith(OWN_PREFIX))
    parts += [_entry(REGISTRY[name], None) for name in own]
    return "\n".join(parts)


def _entry(kind: NodeKind, about: About | None) -> str:
    name = kind.java_class
    facts = [f"`{name}`"]
    if about is not None:
        facts += [f"tier {about.tier}", f"relations: {about.relations}"]
    lines = [f"### {kind.title} ({name.rpartition('.')[2]})", "", " · ".join(facts), "", _said(kind.make)]
    fields = kind.config.model_fields
    if fields:
        said = _said(kind.config)
        lines += ["", *([said, ""] if said else []), "| key | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{field.alias or key}` | {_default(field)} | {_cell(_meaning(kind, field.alias or key, field))} |"
            for key, field in fields.items()
        ]
    if about is not None and about.differs:
        lines += ["", f"Unlike ThingsBoard: {about.differs}."]
    return "\n".join(lines) + "\n"


def _meaning(kind: NodeKind, key: str, field: FieldInfo) -> str:
    if field.description or kind.java_class.startswith(OWN_PREFIX):
        return field.description or ""
    return MEANINGS.get(key, "")


def _said(thing: object) -> str:
    """A docstring as one paragraph."""
    return " ".join((inspect.getdoc(thing) or "").split())


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "needed"
    if isinstance(value, SecretStr) or value is None:
        return ""
    text = orjson.dumps(_plain(value)).decode()
    return _cell(f"`{text}`") if len(text) <= 120 else "…"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {
            field.alias or key: _plain(getattr(value, key))
            for key, field in type(value).model_fields.items()
            if getattr(value, key) != field.get_default() and not isinstance(getattr(value, key), SecretStr)
        }
    if isinstance(value, tuple | list | frozenset | set):
        return [_plain(item) for item in value]
    return value


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(catalogue(), end="")
