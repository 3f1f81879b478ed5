"""Transformations: another body, other metadata, several messages. Source: reference rule-engine §4.3."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, Literal

from pydantic import Field

from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.node import SUCCESS, Answer, NoConfig, NodeConfig, NodeEnv, Routed, Run, as_text, changed, node
from gateway.rules.nodes.filter import ScriptConfig
from gateway.rules.script import Script

Place = Literal["DATA", "METADATA"]
MAX_MESSAGES: Final = 10_000
"""Messages out of one."""


@node("transform.TbTransformMsgNode", "script", ScriptConfig)
def script_transform(config: ScriptConfig, env: NodeEnv) -> Run:
    """What the script makes of the message: one, or several."""
    body = config.body or "return {msg: msg, metadata: metadata, msgType: msgType};"
    transformed = Script("transform", body, config.is_tbel, env.shared).transformed
    labels = (SUCCESS,)

    def run(msg: Message, out: Outcome) -> Answer:
        made = transformed(msg)
        return made[0] if len(made) == 1 else Routed(labels, _bounded(made))

    return run


node("transform.TbJsTransformNode", "script", ScriptConfig)(script_transform)  # its name in very old files


@node("transform.TbSplitArrayMsgNode", "split array msg", NoConfig)
def split_array(config: NoConfig, env: NodeEnv) -> Run:
    """One message for each element; none for an empty array."""

    def run(msg: Message, out: Outcome) -> Answer:
        if not isinstance(msg.data, list):
            raise RejectedError("the body is no array")
        if not msg.data:
            return None
        _bounded(msg.data)
        return Routed((SUCCESS,), [changed(msg, data=element) for element in msg.data])

    return run


def _bounded(messages: list[Message]) -> list[Message]:
    if len(messages) > MAX_MESSAGES:
        raise RejectedError(f"{len(messages)} messages out of one; {MAX_MESSAGES} are the limit")
    return messages


class CopyKeysConfig(NodeConfig):
    """Each key is a regular expression for the whole name."""

    copy_from: Place = "DATA"
    keys: tuple[str, ...] = ()


@node("transform.TbCopyKeysNode", "copy key-value pairs", CopyKeysConfig)
def copy_keys(config: CopyKeysConfig, env: NodeEnv) -> Run:
    """From the body to metadata (as text), or the other way."""
    matches, from_data = _key_matcher(config.keys), config.copy_from == "DATA"

    def run(msg: Message, out: Outcome) -> Answer:
        data = msg.data
        if not isinstance(data, dict):
            return SUCCESS
        if from_data:
            found = {key: as_text(value) for key, value in data.items() if matches(key)}
            return changed(msg, metadata={**msg.metadata, **found}) if found else SUCCESS
        copies = {key: value for key, value in msg.metadata.items() if matches(key)}
        return changed(msg, data={**data, **copies}) if copies else SUCCESS

    return run


class DeleteKeysConfig(NodeConfig):
    """Each key is a regular expression for the whole name."""

    delete_from: Place = "DATA"
    keys: tuple[str, ...] = ()


@node("transform.TbDeleteKeysNode", "delete key-value pairs", DeleteKeysConfig)
def delete_keys(config: DeleteKeysConfig, env: NodeEnv) -> Run:
    """Of the top level only."""
    matches, from_data = _key_matcher(config.keys), config.delete_from == "DATA"

    def run(msg: Message, out: Outcome) -> Answer:
        if not from_data:
            return changed(msg, metadata={k: v for k, v in msg.metadata.items() if not matches(k)})
        if not isinstance(msg.data, dict):
            return SUCCESS
        return changed(msg, data={k: v for k, v in msg.data.items() if not matches(k)})

    return run


class RenameKeysConfig(NodeConfig):
    """Old name to new name."""

    rename_in: Place = "DATA"
    rename_keys_mapping: dict[str, str] = Field(default_factory=lambda: {"temperatureCelsius": "temperature"})


@node("transform.TbRenameKeysNode", "rename keys", RenameKeysConfig)
def rename_keys(config: RenameKeysConfig, env: NodeEnv) -> Run:
    """Entry by entry; a renamed key moves to the end and replaces one of that name."""
    mapping = config.rename_keys_mapping
    if not mapping:
        raise RejectedError("its mapping of names is empty")
    in_data = config.rename_in == "DATA"

    def run(msg: Message, out: Outcome) -> Answer:
        source = msg.data if in_data else msg.metadata
        if not isinstance(source, dict) or not any(key in source for key in mapping):
            return SUCCESS
        renamed = dict(source)
        for old, new in mapping.items():
            if old in renamed:
                value = renamed.pop(old)
                renamed.pop(new, None)
                renamed[new] = value
        return changed(msg, data=renamed) if in_data else changed(msg, metadata=renamed)

    return run


def _key_matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Plain names are looked up; only true patterns are tried one by one."""
    names = {pattern for pattern in patterns if re.escape(pattern) == pattern or pattern.isidentifier()}
    try:
        expressions = [re.compile(pattern) for pattern in patterns if pattern not in names]
    except re.error as error:
        raise RejectedError(f"{error.pattern!r} is no regular expression: {error}") from None
    return lambda key: key in names or any(expression.fullmatch(key) for expression in expressions)
