"""Configuration → the master that speaks on that wire."""

from __future__ import annotations

import ssl

from drivers.modbus.config import ModbusConfig
from drivers.modbus.lines import OverTcpLine, SerialSettings, TlsLine, UdpLine
from drivers.modbus.protocol.ascii import AsciiFramer
from drivers.modbus.protocol.framing import LineFramer
from drivers.modbus.protocol.rtu import RtuFramer
from drivers.modbus.wire import ModbusWire
from drivers.modbus.wire_inbox import SocketLine
from drivers.modbus.wire_line import ByteLine, LineMaster, LineTiming
from drivers.modbus.wire_master import Master
from drivers.modbus.wire_tcp import TcpMaster
from gateway.errors import RefusedError
from gateway.ports import Clock

RENEW_AFTER = 3
"""Questions in a row without a byte from a device server, before its connection is made anew."""


def open_wire(config: ModbusConfig, clock: Clock) -> ModbusWire:
    """Needs no network and no adapter: the first question opens the connection.

    Raises:
        RefusedError: A certificate or key that cannot be used; a person must act.
    """
    return ModbusWire(config.name, config.wire.place, _master(config, clock))


def _master(config: ModbusConfig, clock: Clock) -> Master:
    line, timeout_s = config.wire, config.timeout_s
    if isinstance(line, SerialSettings | OverTcpLine):
        framer: LineFramer = RtuFramer() if line.kind.startswith("rtu") else AsciiFramer()
        timing = LineTiming(
            timeout_s=timeout_s,
            late_s=2 * timeout_s if line.late_ms is None else line.late_ms / 1000,
            gap_s=line.gap_s if isinstance(line, SerialSettings) else (line.gap_ms or 0) / 1000,
            turnaround_s=line.turnaround_ms / 1000,
            connect_pause_s=line.connect_pause_ms / 1000,
            byte_s=line.byte_s if isinstance(line, SerialSettings) else 0.0,
            is_echoed=isinstance(line, SerialSettings) and line.echo,
        )
        if isinstance(line, OverTcpLine):
            bytes_: ByteLine = SocketLine(line.host, line.port, timeout_s, clock)
            return LineMaster(bytes_, framer, timing, clock, renew_after=RENEW_AFTER)
        from drivers.modbus.wire_port import PortLine  # who has no serial port needs no pyserial in memory

        return LineMaster(PortLine(line, clock), framer, timing, clock)
    return TcpMaster(
        line.host,
        line.port,
        timeout_s,
        clock,
        in_flight=1 if isinstance(line, UdpLine) else line.in_flight,
        connect_pause_s=line.connect_pause_ms / 1000,
        gap_s=(line.gap_ms or 0) / 1000,
        tls=_context(config.name, line) if isinstance(line, TlsLine) else None,
        server_name=line.server_name if isinstance(line, TlsLine) else None,
        is_udp=isinstance(line, UdpLine),
        has_own_ids=line.transaction_ids == "ignore",
        close_after_cycle=line.close_after_cycle,
        late_s=(line.late_ms or 0) / 1000,
    )


def _context(bus: str, line: TlsLine) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(line.ca_file) if line.ca_file else None)
    except OSError as error:
        raise RefusedError(f"{bus}: ca_file {line.ca_file}: {error.strerror or error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if line.cert_file and line.key_file:
        try:
            context.load_cert_chain(line.cert_file, line.key_file, password=lambda: "")
        except OSError as error:
            raise RefusedError(
                f"{bus}: cert_file {line.cert_file} with key_file {line.key_file}: {error.strerror or error}"
            ) from error
    return context
