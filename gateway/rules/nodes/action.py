"""Actions that are neither saving nor RPC. Source: reference rule-engine §4.4."""

from __future__ import annotations

import logging
from typing import Final

import orjson

from gateway.domain.message import Message
from gateway.ports import Outcome
from gateway.rules.node import SUCCESS, Answer, NoConfig, NodeEnv, Run, node
from gateway.rules.nodes.filter import ScriptConfig
from gateway.rules.script import Script

log = logging.getLogger(__name__)

MAX_LINE_CHARS: Final = 2000
MAX_LINES_A_SECOND: Final = 10


@node("action.TbLogNode", "log", ScriptConfig)
def log_message(config: ScriptConfig, env: NodeEnv) -> Run:
    """Writes the script's text at INFO, at most ten lines a second; the rest is counted."""
    script = Script("log", config.body, config.is_tbel, env.shared) if config.body else None
    shared, chain, name = env.shared, env.chain_name, env.name
    second, lines = -1, 0

    def run(msg: Message, out: Outcome) -> Answer:
        nonlocal second, lines
        if not log.isEnabledFor(logging.INFO):
            return SUCCESS
        now = int(shared.clock.monotonic_s())
        if now != second:
            second, lines = now, 0
        lines += 1
        if lines > MAX_LINES_A_SECOND:
            shared.counters.add("rules.log_lines_left_out")
            return SUCCESS
        text = script.text(msg) if script else orjson.dumps([msg.type, msg.data, msg.metadata]).decode()
        log.info("%s / %s: %s", chain, name, _one_line(text))
        return SUCCESS

    return run


def _one_line(text: str) -> str:
    """What devices send must not be able to forge a line of the log."""
    line = "".join(char if char.isprintable() else " " for char in text[: MAX_LINE_CHARS + 1])
    return line if len(line) <= MAX_LINE_CHARS else line[:MAX_LINE_CHARS] + "…"


def _pass_through(config: NoConfig, env: NodeEnv) -> Run:
    """Nothing to do here."""
    return lambda msg, out: SUCCESS


node("transaction.TbSynchronizationBeginNode", "synchronization start", NoConfig)(_pass_through)
node("transaction.TbSynchronizationEndNode", "synchronization end", NoConfig)(_pass_through)
