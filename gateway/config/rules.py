"""The rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from gateway.config.base import Settings
from gateway.domain.short_rules import ShortRule


class RuleRetryConfig(Settings):
    """A node whose question fails for a moment asks again before it answers Failure."""

    times: NonNegativeInt = Field(
        0,
        le=100,
        description="0: Failure at once, as the queue Main of ThingsBoard. Its message, the later ones of that device"
        " and their acknowledgements wait meanwhile.",
    )
    pause_s: PositiveFloat = Field(1.0, description="Doubles with each further try.")
    max_pause_s: PositiveFloat = 30.0


class RuleRecordConfig(Settings):
    """Messages as they come to the rules, into files for `edge-gateway rules replay`."""

    dir: Path | None = Field(None, description="Default: recordings in data_dir.")
    max_bytes: int = Field(64 << 20, ge=1 << 16, description="Of all files; then the oldest file goes.")
    devices: tuple[str, ...] = Field((), description="Only these, by name; with `profiles` too: one or the other.")
    profiles: tuple[str, ...] = ()


class RulesConfig(Settings):
    """Local rule chains."""

    root_chain: Path | None = Field(
        None,
        description="ThingsBoard JSON (export form). Default: the built-in edge root chain, until the cloud sends one.",
    )
    chains: tuple[Path, ...] = Field((), description="More chains, for nesting.")
    short: tuple[ShortRule, ...] = Field(
        (), description="Short forms that make a root chain: docs/rules-short.md, `edge-gateway rules build`."
    )
    prefer_cloud: bool = Field(
        True, description="A root chain from the cloud takes the place of the local one. With `short`: false."
    )
    allow_credentials: bool = Field(
        False, description="Lets 'fetch device credentials' nodes read the secrets of devices into messages."
    )
    allow_rest: tuple[str, ...] = Field(
        (),
        description="Whom 'rest api call' nodes may call: https://host[:port][/path], the host may begin with '*.';"
        " '*' is anybody. A chain of the cloud could reach all of the plant's network else.",
    )
    allow_mqtt: tuple[str, ...] = Field(
        (), description="To which brokers 'mqtt' nodes may publish: host or host:port, '*.plant.local', '*'."
    )
    script_memory_bytes: PositiveInt = 16 << 20
    script_timeout_ms: PositiveInt = 500
    retry: RuleRetryConfig = Field(
        RuleRetryConfig(),
        description="When a node asks for something that is away for a moment (the store, another server): times 0 is"
        " Failure at once, as in ThingsBoard's queue Main.",
    )
    record: RuleRecordConfig | None = Field(
        None, description="{dir, max_bytes, devices, profiles}: record messages for `edge-gateway rules replay`."
    )

    @model_validator(mode="before")
    @classmethod
    def _short_forms_stay(cls, tree: Any) -> Any:
        return {"prefer_cloud": False, **tree} if isinstance(tree, dict) and tree.get("short") else tree

    @field_validator("allow_rest")
    @classmethod
    def _has_scheme(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            if entry != "*" and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", entry):
                raise ValueError(f"{entry!r} must be as https://host[:port][/path], or '*'")
        return entries

    @model_validator(mode="after")
    def _one_root(self) -> RulesConfig:
        if self.short and self.root_chain is not None:
            raise ValueError("root_chain and short both make the root chain: leave one of them out")
        for number, rule in enumerate(self.short[:-1]):
            if not rule.profiles and not rule.devices:
                raise ValueError(f"short[{number}] is for all devices: give it profiles or devices, or put it last")
        return self
