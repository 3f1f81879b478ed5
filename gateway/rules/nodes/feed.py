"""The node that feeds calculated fields without saving anything. Source: reference rule-engine §4.4."""

from __future__ import annotations

from gateway.domain.message import Message
from gateway.domain.telemetry import AttributeScope
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.alarm_state import Update
from gateway.rules.node import SUCCESS, Answer, NoConfig, NodeEnv, Run, node
from gateway.rules.nodes.telemetry import storable, value_sets


@node("telemetry.TbCalculatedFieldsNode", "calculated fields and alarm rules", NoConfig)
def feed_fields(config: NoConfig, env: NodeEnv) -> Run:
    """Feeds the calculated fields of the originator with telemetry, or with attributes whose scope metadata names."""
    shared = env.shared

    def run(msg: Message, out: Outcome) -> Answer:
        if msg.type == "POST_TELEMETRY_REQUEST":
            sets = value_sets(msg.data, msg.data_ts_ms)
            updates = [Update(at_ms, "", storable(values)) for at_ms, values in sorted(sets, key=lambda one: one[0])]
        elif msg.type == "POST_ATTRIBUTES_REQUEST":
            scope = msg.metadata.get("scope", "")
            if scope not in AttributeScope.__members__:
                raise RejectedError("metadata has no scope that there is")
            if not isinstance(msg.data, dict):
                raise RejectedError("the body is no object")
            updates = [Update(shared.clock.now_ms(), scope, storable(msg.data))]
        else:
            raise RejectedError(f"messages of type {msg.type!r} are neither telemetry nor attributes")
        return SUCCESS if shared.fields is None else shared.fields.hear(msg, updates, out)

    return run
