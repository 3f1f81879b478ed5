"""Other masters on the line of a bus: their requests travel between our own, through the owner of the bus.

Fair among masters: each connection has one request under way, so what it sends beyond that waits in its own socket;
among connections the inbox of the bus is first in, first out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from drivers.modbus.listening import Place
from drivers.modbus.protocol.pdu import MAX_PDU, READS, Function, refusal
from drivers.modbus.protocol.slave import Code, understand
from drivers.modbus.server_tcp import TcpMasters
from gateway.domain.entity import Json
from gateway.errors import BusLost, FullError, RejectedError, TransientError
from gateway.ports import Clock, RawLine, RawRequest, Tally

_KNOWN = frozenset(int(function) for function in Function)
_HARMLESS = frozenset({*READS, 7, 17})  # exception status, server id: they change nothing
_IDENTIFICATION = b"\x2b\x0e"  # the other half of function 43 (13) writes to a CANopen device

_Unit = Annotated[int, Field(ge=0, le=255)]


class Share(Place):
    """`share` of a bus: where other masters come in, and what they may ask."""

    units: tuple[_Unit, ...] = Field((), description="Units that may be asked; empty: all.")
    writes: bool = Field(False, description="Other masters may write.")


class SharedLine:
    """Implements `Server`."""

    def __init__(self, name: str, share: Share, line: RawLine, clock: Clock, tally: Tally) -> None:
        self._share, self._line, self._tally = share, line, tally
        self._masters = TcpMasters(f"{name}: share", share, self.answer, clock, tally)

    async def serve(self) -> None:
        """See `Server`."""
        await self._masters.serve()

    def status(self) -> Mapping[str, Json]:
        """For a person."""
        return {"units": list(self._share.units), "writes": self._share.writes, **self._masters.status()}

    async def answer(self, unit: int, pdu: bytes) -> bytes | None:
        """The device's answer, or an exception of ours: 1 a write that is not allowed, 10 a unit that is not shared or
        a line that is lost, 11 a silent unit, 6 too many wait; None: it went to all units.
        """
        if not 1 <= len(pdu) <= MAX_PDU:
            return self._refuse(pdu[0] if pdu else 0, Code.ILLEGAL_VALUE)
        if pdu[0] in _KNOWN and isinstance(request := understand(pdu), Code):
            return self._refuse(pdu[0], request)
        if self._share.units and unit not in self._share.units:
            return self._refuse(pdu[0], Code.NO_PATH)
        if not (pdu[0] in _HARMLESS or pdu.startswith(_IDENTIFICATION)) and not self._share.writes:
            return self._refuse(pdu[0], Code.ILLEGAL_FUNCTION)
        try:
            return await self._line.raw(RawRequest(unit=str(unit), pdu=pdu)) or None
        except BusLost:
            return self._refuse(pdu[0], Code.NO_PATH)
        except TransientError:
            return self._refuse(pdu[0], Code.NO_ANSWER)
        except (FullError, RejectedError):
            return self._refuse(pdu[0], Code.BUSY)

    def _refuse(self, function: int, code: Code) -> bytes:
        self._tally("exceptions")
        return refusal(function & 0x7F, code)
