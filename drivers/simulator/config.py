"""What a simulated bus looks like in the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator, model_validator

from gateway.config import Settings
from gateway.domain.telemetry import Value
from gateway.ports import Report

Number = Annotated[float, Field(allow_inf_nan=False)]


class Sine(Settings):
    """Goes up and down around `mean`."""

    kind: Literal["sine"]
    mean: Number = 0.0
    amplitude: Number = 1.0
    period_s: PositiveFloat = 60.0


class Ramp(Settings):
    """Rises from `low` to `high` within the period, then begins again."""

    kind: Literal["ramp"]
    low: Number = 0.0
    high: Number = 100.0
    period_s: PositiveFloat = 60.0


class Square(Settings):
    """`low` for the first half of the period, `high` for the second."""

    kind: Literal["square"]
    low: bool | Number = False
    high: bool | Number = True
    period_s: PositiveFloat = 60.0


class RandomWalk(Settings):
    """A step up or down at each reading, within the limits; the same steps for the same `seed` of the bus."""

    kind: Literal["random_walk"]
    start: Number = 0.0
    step: PositiveFloat = 1.0
    low: Number = -1e9
    high: Number = 1e9

    @model_validator(mode="after")
    def _has_room(self) -> RandomWalk:
        if not self.low <= self.start <= self.high:
            raise ValueError(f"start {self.start:g} must lie between low {self.low:g} and high {self.high:g}")
        return self


class Constant(Settings):
    """What was written last, at first `value`."""

    kind: Literal["constant"]
    value: bool | int | Number | str = 0


class Replay(Settings):
    """A column of a CSV file with a head line; its first column is the time in seconds, rising."""

    kind: Literal["replay"]
    file: Path
    column: Annotated[str, Field(min_length=1)]
    loop: bool = Field(True, description="false: no reading after the last line.")

    @field_validator("file")
    @classmethod
    def _beside_the_configuration(cls, file: Path, info: ValidationInfo) -> Path:
        folder = (info.context or {}).get("folder")
        return folder / file if isinstance(folder, Path) else file


Signal = Annotated[Sine | Ramp | Square | RandomWalk | Constant | Replay, Field(discriminator="kind")]


class Point(Settings):
    """One value of a simulated device."""

    key: Annotated[str, Field(min_length=1, max_length=255)]
    signal: Signal
    round: Annotated[int, Field(ge=0, le=15)] | None = Field(None, description="Decimals kept.")
    writable: bool = Field(False, description="A constant that RPC calls and shared attributes may change.")
    every_ms: PositiveInt | None = Field(None, description="Instead of the device's.")
    report: Report | None = None

    @model_validator(mode="after")
    def _fits(self) -> Point:
        if self.writable and not isinstance(self.signal, Constant):
            raise ValueError(f"{self.key!r}: only signal constant can be written, not {self.signal.kind}")
        return self

    @property
    def start(self) -> Value | None:
        """What a constant is before it is written."""
        return self.signal.value if isinstance(self.signal, Constant) else None


class SimulatedDevice(Settings):
    """One device, and the faults that it can show."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    profile: Annotated[str, Field(min_length=1)] = "default"
    label: str | None = None
    every_ms: PositiveInt = 1000
    report: Report | None = None
    telemetry: tuple[Point, ...] = ()
    attributes: tuple[Point, ...] = ()
    fault: Literal["none", "silent", "slow"] = Field("none", description="silent: no answer; slow: each takes slow_s.")
    slow_s: PositiveFloat = 0.5
    fault_key: str | None = Field(
        None, description="A key that calls may set to none, silent or slow while the gateway runs."
    )

    @model_validator(mode="after")
    def _fits(self) -> SimulatedDevice:
        keys = [point.key for point in (*self.telemetry, *self.attributes)]
        if not keys:
            raise ValueError(f"{self.name!r} has no points; give it telemetry or attributes")
        keys += [self.fault_key] if self.fault_key is not None else []
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"{self.name!r} has the key {key!r} twice; keys are unique in a device")
        return self


class SimulatorConfig(Settings):
    """A bus without a wire."""

    kind: Literal["simulator"] = "simulator"
    name: Annotated[str, Field(min_length=1, max_length=64)] = "simulator"
    seed: int = Field(0, description="Another seed, other random walks.")
    timeout_s: PositiveFloat = Field(1.0, description="How long a silent device is waited for.")
    devices: Annotated[tuple[SimulatedDevice, ...], Field(min_length=1)]

    @field_validator("devices")
    @classmethod
    def _unique_names(cls, devices: tuple[SimulatedDevice, ...]) -> tuple[SimulatedDevice, ...]:
        names = [device.name for device in devices]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two devices are named {name!r}; names are unique on a gateway")
        return devices
