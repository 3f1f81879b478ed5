"""The declaration that the gateway finds by entry point."""

from drivers.modbus.config import ModbusConfig
from drivers.modbus.driver import known_devices, open_modbus
from drivers.modbus.server import server_plugin
from drivers.modbus.share import SharedLine
from drivers.modbus.templates import known
from gateway.ports import Clock, DriverPlugin, RawLine, RegisterTool, Server, Tally


def open_share(config: ModbusConfig, line: RawLine, clock: Clock, tally: Tally) -> Server | None:
    """Other masters on this bus; None: it is not shared."""
    return SharedLine(config.name, config.share, line, clock, tally) if config.share is not None else None


def register_tool() -> RegisterTool:
    """Registers by hand; imported when a person asks."""
    from drivers.modbus.tool import tool

    return tool


plugin = DriverPlugin(
    kind="modbus",
    config=ModbusConfig,
    open=open_modbus,
    devices=known_devices,
    templates=known,
    tool=register_tool,
    server=server_plugin,
    share=open_share,
)
