"""A serial port on which we are a slave among others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from drivers.modbus.lines import SerialSettings
from drivers.modbus.listening import SlavePort
from drivers.modbus.protocol.slave import RtuRequests
from drivers.modbus.server_tcp import Answer, rtu_frame
from drivers.modbus.wire_line import ByteLine
from drivers.modbus.wire_master import Closed, Unreachable
from gateway.domain.entity import Json
from gateway.errors import TransientError
from gateway.ports import Clock, Tally

SILENCE_S: Final = 0.05
"""What is incomplete for so long stays so. Longer than the standard's 3.5 characters: an adapter delivers in pieces."""

_LOOK_S: Final = 1.0


class PortMaster:
    """The one master of a serial line. Answers for `units`; unit 0 is all of them, and nobody answers."""

    def __init__(
        self,
        name: str,
        port: SlavePort,
        line: ByteLine,
        units: Collection[int],
        answer: Answer,
        clock: Clock,
        tally: Tally,
    ) -> None:
        self._name, self._port, self._line, self._units = name, port, line, frozenset(units)
        self._answer, self._clock, self._tally = answer, clock, tally
        self._gap_s = settings_of(port).gap_s

    async def serve(self) -> None:
        """Until cancelled.

        Raises:
            TransientError: The port is not there, or was lost.
        """
        line, frames = self._line, RtuRequests()
        try:
            await line.open()
        except Unreachable as error:
            raise TransientError(f"{self._name}: {error}") from error
        skipped = echo_bytes = 0
        try:
            while True:
                data = await line.read(SILENCE_S if frames.is_partial else _LOOK_S)
                if data and echo_bytes:
                    own = min(echo_bytes, len(data))
                    data, echo_bytes = data[own:], echo_bytes - own
                    if not data:
                        continue
                found = frames.feed(data) if data else frames.end()
                if frames.skipped_bytes != skipped:
                    skipped = frames.skipped_bytes
                    self._tally("noise")
                for unit, pdu in found:
                    if unit not in self._units and unit != 0:
                        continue
                    self._tally("requests")
                    answer = await self._answer(unit, pdu)
                    if answer is not None and unit != 0:
                        await self._clock.sleep(self._gap_s)
                        frame = rtu_frame(unit, answer)
                        line.write(frame)
                        echo_bytes = len(frame) if self._port.local_echo else 0
        except Closed as error:
            raise TransientError(f"{self._name}: {error}") from error
        finally:
            line.close()

    def status(self) -> Mapping[str, Json]:
        """For a person."""
        return {"device": self._port.device, "is_open": self._line.is_open}


def settings_of(port: SlavePort) -> SerialSettings:
    """As a serial port is opened."""
    return SerialSettings(
        kind="rtu",
        device=port.device,
        baud=port.baud,
        parity=port.parity,
        stop_bits=port.stop_bits,
        gap_ms=port.gap_ms,
    )
