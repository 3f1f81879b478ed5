"""Short forms of rules, as `rules.short` of the configuration has them. `gateway.rules.short` makes a chain of them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(min_length=1, max_length=255)]
Comparison = Literal[">", ">=", "<", "<=", "==", "!="]
FUNCTIONS: Final = ("min", "max", "avg", "sum", "count", "first", "last", "std", "delta", "p50", "p90", "p95", "p99")
_PERCENT: Final = re.compile(r"(\d+(?:\.\d+)?) ?%")
_OPPOSITE: Final[dict[str, Comparison]] = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "==": "!=", "!=": "=="}


class _Short(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OnChange(_Short):
    """Only what differs enough from what was sent last."""

    keys: tuple[Name, ...] = Field((), description="Names or patterns with * and ?; none: all.")
    by: float | str = Field(0, description="0.5, or 2 % of the value that was sent last.")
    longest_silence_s: Annotated[float, Field(ge=0, le=31_536_000)] = 0
    rest: Literal["save", "drop"] = Field("save", description="What has not changed: kept here, or not at all.")

    @field_validator("by")
    @classmethod
    def _is_amount(cls, by: float | str) -> float | str:
        if isinstance(by, str) and not _PERCENT.fullmatch(by):
            raise ValueError(f"{by!r} is no amount; write a number (0.5), or a share of the last value ('2 %')")
        if not isinstance(by, str) and not 0 <= by < 1e100:
            raise ValueError("must be 0 or more")
        return by

    @property
    def percent(self) -> float | None:
        """The share, when it is one."""
        return float(self.by.rstrip(" %")) if isinstance(self.by, str) else None


class Every(_Short):
    """One result for all readings of a window by the clock."""

    seconds: Annotated[float, Field(ge=1, le=86_400)]
    send: tuple[str, ...] = Field(("min", "max", "avg"), min_length=1)
    keys: tuple[Name, ...] = ()
    raw: Literal["save", "drop"] = Field("save", description="The readings themselves: kept here, or not at all.")
    time_zone: str | None = Field(None, description="Windows are counted from midnight there; default UTC.")
    late: Literal["own_window", "drop"] = "own_window"
    keep_open_s: Annotated[float, Field(ge=0, le=86_400)] = 0
    time: Literal["start", "end"] = "start"

    @field_validator("send")
    @classmethod
    def _known(cls, send: tuple[str, ...]) -> tuple[str, ...]:
        for name in send:
            if name not in FUNCTIONS:
                raise ValueError(f"{name!r} is not known; there are {', '.join(FUNCTIONS)}")
        return send

    @field_validator("time_zone")
    @classmethod
    def _is_zone(cls, zone: str | None) -> str | None:
        if zone is not None and zone != "UTC" and zone not in available_timezones():
            raise ValueError(f"{zone!r} is no time zone that is known here; names are like Europe/Berlin")
        return zone


class AlarmRule(_Short):
    """An alarm while a value is beyond a limit."""

    key: Name
    when: str = Field(description="Operator and value: '> 90'.")
    clear_when: str | None = Field(None, description="Default: the opposite of `when`. '< 85' makes a hysteresis.")
    type: Name | None = Field(None, description="Name of the alarm; default: key and condition.")
    severity: Literal["CRITICAL", "MAJOR", "MINOR", "WARNING", "INDETERMINATE"] = "CRITICAL"
    for_s: Annotated[float, Field(ge=0, le=86_400)] = Field(0, description="The condition has to last so long.")

    @field_validator("when", "clear_when")
    @classmethod
    def _is_condition(cls, text: str | None) -> str | None:
        if text is not None:
            parse_condition(text)
        return text

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> AlarmRule:
        if self.clear_when is not None:
            sign, limit = parse_condition(self.when)
            clear_sign, clear_limit = parse_condition(self.clear_when)
            side, clear_side = sign[0], clear_sign[0]
            if side in "<>" and (clear_side == side or (clear_limit > limit if side == ">" else clear_limit < limit)):
                away = "below" if side == ">" else "above"
                raise ValueError(f"clear_when {self.clear_when!r} must be {away} the limit of when {self.when!r}")
        return self

    @property
    def condition(self) -> tuple[Comparison, float]:
        """Operator and value."""
        return parse_condition(self.when)

    @property
    def clear_condition(self) -> tuple[Comparison, float]:
        """Operator and value."""
        sign, limit = self.condition
        return parse_condition(self.clear_when) if self.clear_when is not None else (_OPPOSITE[sign], limit)


_CONDITION: Final = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d{1,2})?)\s*")


def parse_condition(text: str) -> tuple[Comparison, float]:
    """ValueError: what would be right."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no condition; write an operator (> >= < <= == !=) and a number: '> 90'")
    sign: Any = found[1]
    number = float(found[2])
    return sign, int(number) if number.is_integer() and abs(number) < 2**53 else number


class Step(_Short):
    """One step: `alarm`, `every` or `on_change`."""

    alarm: AlarmRule | None = None
    every: Every | None = None
    on_change: OnChange | None = None

    @model_validator(mode="after")
    def _one(self) -> Step:
        if len(self.model_fields_set) != 1 or not any((self.alarm, self.every, self.on_change)):
            raise ValueError("a step is one of: alarm, every, on_change; begin another one with '- '")
        return self


class ShortRule(_Short):
    """What happens to the telemetry of some devices, step by step; what is left at the end goes to the cloud."""

    profiles: tuple[Name, ...] = Field((), description="Device profiles; none: all.")
    devices: tuple[Name, ...] = Field((), description="Device names, or patterns with * and ?; none: all.")
    steps: tuple[Step, ...] = Field(min_length=1)
