"""The gateway as a Modbus slave: masters read what is known here, and write what becomes data of devices."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from drivers.modbus.protocol.pdu import MAX_PDU, Request, answer, refusal
from drivers.modbus.protocol.slave import WRITES, Code, understand
from drivers.modbus.server_config import ModbusServerConfig, ServedPoint
from drivers.modbus.server_map import Entry, UnitMap, keys
from drivers.modbus.server_port import PortMaster, settings_of
from drivers.modbus.server_tcp import TcpMasters
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import BusLost, FullError, RejectedError, TransientError
from gateway.ports import Clock, DriverDevice, Served, Server, ServerPlugin, Tally

_SCOPES = {
    "client_attribute": "CLIENT_SCOPE",
    "shared_attribute": "SHARED_SCOPE",
    "server_attribute": "SERVER_SCOPE",
}


class ModbusServer:
    """Implements `Server`. A write is answered when it is durable (telemetry, attributes) or confirmed (tags)."""

    def __init__(self, config: ModbusServerConfig, house: Served, clock: Clock, tally: Tally) -> None:
        self._config, self._house, self._tally = config, house, tally
        self._units = {unit.unit_id: UnitMap(unit) for unit in config.units}
        self._way: TcpMasters | PortMaster
        if config.tcp is not None:
            self._way = TcpMasters(config.name, config.tcp, self.answer, clock, tally)
        elif config.serial is not None:
            from drivers.modbus.wire_port import PortLine  # who has no serial port needs no pyserial in memory

            line = PortLine(settings_of(config.serial), clock)
            self._way = PortMaster(config.name, config.serial, line, self._units, self.answer, clock, tally)

    async def serve(self) -> None:
        """See `Server`."""
        await self._way.serve()

    def status(self) -> Mapping[str, Json]:
        """For a person."""
        return {"units": sorted(self._units), **self._way.status()}

    async def answer(self, unit: int, pdu: bytes) -> bytes | None:
        """The PDU that answers a request, exceptions included; unit 0 on a serial line is all units."""
        if not 1 <= len(pdu) <= MAX_PDU:
            return refusal(pdu[0] if pdu else 0, Code.ILLEGAL_VALUE)
        request = understand(pdu)
        if isinstance(request, Code):
            return self._refuse(pdu[0], request)
        if unit == 0 and self._config.serial is not None:
            if request.function in WRITES:
                for each in self._units.values():
                    await self._ask(each, request)
            return None
        held = self._units.get(unit)
        if held is None:
            return self._refuse(pdu[0], Code.NO_ANSWER)
        content = await self._ask(held, request)
        return self._refuse(pdu[0], content) if isinstance(content, Code) else answer(request, content)

    def _refuse(self, function: int, code: Code) -> bytes:
        self._tally("exceptions")
        return refusal(function & 0x7F, code)

    async def _ask(self, unit: UnitMap, request: Request) -> Sequence[int] | Code:
        """What was read; the exception, when there is one."""
        if request.function in WRITES:
            if request.count and isinstance(
                missing := unit.read(request.function, request.address, request.count, _anything), Code
            ):
                return missing  # function 23 writes nothing when it cannot be answered
            wanted = unit.understand(request, self._good)
            if isinstance(wanted, Code):
                return wanted
            failed = await self._in_time(self._write(wanted))
            if failed is not None:
                return failed
            self._tally("writes")
        if not request.count:
            return ()
        return unit.read(request.function, request.address, request.count, self._good)

    # ── values ──

    def _good(self, entry: Entry) -> Value | None:
        point = entry.point
        if point.gateway is not None:
            return self._house.gateway(point.gateway)
        if point.device is None or point.key is None:
            return None
        if point.source == "telemetry":
            last = self._house.telemetry(point.device, point.key)
        else:
            last = self._house.attribute(point.device, _SCOPES[point.source], point.key)
        if last is None or last.problem is not None:
            return None
        return None if point.max_age_s is not None and last.age_s > point.max_age_s else last.value

    # ── writing ──

    async def _in_time(self, work: Coroutine[Any, Any, Code | None]) -> Code | None:
        try:
            async with asyncio.timeout(self._config.answer_timeout_s):
                return await work
        except TimeoutError:
            return Code.BUSY

    async def _write(self, wanted: Sequence[tuple[Entry, Value]]) -> Code | None:
        """Tags first: they may refuse. Then what goes into the rules, one message a device."""
        posts: dict[str, tuple[dict[str, Value], dict[str, Value]]] = {}
        for entry, value in wanted:
            point = entry.point
            device, key = str(point.device), str(point.key)
            if point.write_to != "tag":
                telemetry, attributes = posts.setdefault(device, ({}, {}))
                (telemetry if point.write_to == "telemetry" else attributes)[key] = value
            elif (code := await self._write_tag(device, key, value)) is not None:
                return code
        try:
            for device, (telemetry, attributes) in posts.items():
                await self._house.post(device, telemetry, attributes)
        except RejectedError:
            return Code.DEVICE_FAILURE
        except TransientError:
            return Code.BUSY
        return None

    async def _write_tag(self, device: str, key: str, value: Value) -> Code | None:
        try:
            await self._house.write(device, key, value, self._config.answer_timeout_s)
        except BusLost:
            return Code.NO_PATH
        except TransientError:
            return Code.NO_ANSWER
        except FullError:
            return Code.BUSY
        except RejectedError:
            return Code.DEVICE_FAILURE
        return None


def _devices(config: ModbusServerConfig) -> list[DriverDevice]:
    """Those of `devices`, and all others whose telemetry or attributes masters write."""
    found = {each.name: DriverDevice(name=each.name, profile=each.profile, label=each.label) for each in config.devices}
    for point in _points(config):
        if point.device is not None and point.write_to in ("telemetry", "attribute"):
            found.setdefault(point.device, DriverDevice(name=point.device))
    return list(found.values())


def _points(config: ModbusServerConfig) -> list[ServedPoint]:
    return [point for unit in config.units for point in unit.points]


def _anything(entry: Entry) -> Value | None:
    """For the question whether an address exists at all."""
    return entry.value([0] * entry.point.span)


def _open(config: ModbusServerConfig, house: Served, clock: Clock, tally: Tally) -> Server:
    return ModbusServer(config, house, clock, tally)


server_plugin = ServerPlugin(
    config=ModbusServerConfig,
    open=_open,
    devices=_devices,
    keys=lambda config: keys(config.units),
    tags=lambda config: [(str(p.device), str(p.key)) for p in _points(config) if p.write_to == "tag"],
    line=lambda config: config.serial.device if config.serial is not None else None,
)
