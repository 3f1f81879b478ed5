"""What a request costs on the wire, so that a gap is read along exactly when that is cheaper than a second request.

A request costs its frames, the silence around them and the time that its unit takes to answer; a register of a gap
costs its characters. The unit's time is measured.

Source of the frames: Modbus over Serial Line V1.02 §2.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drivers.modbus.grouping import MAX_BITS, MAX_REGISTERS
from drivers.modbus.lines import OverTcpLine, SerialSettings, TcpLine, TlsLine, UdpLine

_SAMPLES: Final = 8
"""So many answers of a unit are needed before its measured time counts."""

_WEIGHT: Final = 0.1
_CHANGE: Final = 1.5
"""By this factor a unit's time must change before its points are grouped anew."""

_NETWORK_REGISTER_S: Final = 10e-6
"""What one more register costs on a network: next to nothing on the wire, a little in the device."""

_SERVER_BYTE_S: Final = 11 / 19200
"""The line behind a device server is not known: 19200 baud is assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineCost:
    """Seconds. `frames_s`: of a question and an answer without content, with the silence around them."""

    frames_s: float
    register_s: float
    assumed_s: float  # a unit's time before it is measured
    least_s: float
    most_s: float  # no unit counts as slower: its time is not the line's

    def gap(self, unit_s: float, *, is_bits: bool) -> int:
        """The longest run of registers (or bits) worth reading along."""
        registers = (self.frames_s + min(self.most_s, max(self.least_s, unit_s))) / self.register_s
        return min(int(registers * 16), MAX_BITS - 1) if is_bits else min(int(registers), MAX_REGISTERS - 1)

    @property
    def widest_s(self) -> float:
        """A unit's time for which the widest gaps are worth it."""
        return self.most_s


def cost_of(line: TcpLine | UdpLine | TlsLine | OverTcpLine | SerialSettings) -> LineCost:
    """The model of a wire."""
    if not isinstance(line, SerialSettings | OverTcpLine):
        return LineCost(
            frames_s=(line.gap_ms or 0) / 1000,
            register_s=_NETWORK_REGISTER_S,
            assumed_s=0.001,
            least_s=0.0002,
            most_s=0.005,
        )
    byte_s = line.byte_s if isinstance(line, SerialSettings) else _SERVER_BYTE_S
    gap_s = line.gap_s if isinstance(line, SerialSettings) else (line.gap_ms or 0) / 1000
    frames, register = (13, 2) if line.kind.startswith("rtu") else (28, 4)
    return LineCost(
        frames_s=frames * byte_s + 2 * gap_s,
        register_s=register * byte_s,
        assumed_s=0.005,
        least_s=0.001,
        most_s=0.02,
    )


class UnitTimes:
    """How long each unit takes to answer, beyond what is on the wire."""

    def __init__(self, line: LineCost) -> None:
        self._line = line
        self._samples: dict[int, tuple[int, float]] = {}
        self._used_s: dict[int, float] = {}

    def answered(self, unit_id: int, took_s: float, registers: float) -> None:
        """One exchange that brought so many registers (of bits: a sixteenth)."""
        own_s = max(0.0, took_s - self._line.frames_s - registers * self._line.register_s)
        count, mean_s = self._samples.get(unit_id, (0, own_s))
        mean_s += (min(own_s, 4 * mean_s + 0.001) - mean_s) * max(_WEIGHT, 1 / (count + 1))
        self._samples[unit_id] = min(count + 1, _SAMPLES), mean_s
        if count + 1 >= _SAMPLES:
            used_s = max(self._line.least_s, self._used_s.get(unit_id, self._line.assumed_s))
            if not used_s / _CHANGE <= max(self._line.least_s, mean_s) <= used_s * _CHANGE:
                self._used_s[unit_id] = mean_s

    def gap(self, unit_id: int, *, is_bits: bool) -> int:
        """The longest run of registers (or bits) worth reading along with this unit."""
        return self._line.gap(self._used_s.get(unit_id, self._line.assumed_s), is_bits=is_bits)

    def measured_ms(self) -> dict[str, float]:
        """For a person, by unit."""
        return {str(unit_id): round(mean_s * 1000, 2) for unit_id, (_, mean_s) in self._samples.items()}
