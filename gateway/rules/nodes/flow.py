"""The way through chains. Source: reference rule-engine §1.7, §4.5."""

from __future__ import annotations

from typing import Any

from gateway.rules.chain import entity_uuid
from gateway.rules.node import SUCCESS, Enter, Leave, NoConfig, NodeConfig, NodeEnv, Run, node


@node("flow.TbAckNode", "acknowledge", NoConfig)
def acknowledge(config: NoConfig, env: NodeEnv) -> Run:
    """Goes on. A message has one receipt, which its whole walk shares, so there is nothing to give early."""
    return lambda msg, out: SUCCESS


@node("flow.TbCheckpointNode", "checkpoint", NoConfig)
def checkpoint(config: NoConfig, env: NodeEnv) -> Run:
    """Goes on: there are no queues between nodes, the whole walk becomes durable at once."""
    return lambda msg, out: SUCCESS


class InputConfig(NodeConfig):
    """An exported file keeps the id that the chain had where it was made."""

    rule_chain_id: Any = None
    forward_msg_to_default_rule_chain: bool = False


@node("flow.TbRuleChainInputNode", "rule chain", InputConfig)
def rule_chain_input(config: InputConfig, env: NodeEnv) -> Run:
    """Enters another chain. It is looked up when a message comes, because it may arrive later than this one."""
    enter = Enter(entity_uuid(config.rule_chain_id), env.name, config.forward_msg_to_default_rule_chain)
    return lambda msg, out: enter


@node("flow.TbRuleChainOutputNode", "output", NoConfig)
def rule_chain_output(config: NoConfig, env: NodeEnv) -> Run:
    """Goes back by the relation that is this node's name."""
    leave = Leave(env.name.lower())
    return lambda msg, out: leave
