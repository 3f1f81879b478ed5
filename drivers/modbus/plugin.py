"""The declaration that the gateway finds by entry point."""

from drivers.modbus.config import ModbusConfig
from drivers.modbus.driver import known_devices, open_modbus
from drivers.modbus.templates import known
from gateway.ports import DriverPlugin

plugin = DriverPlugin(kind="modbus", config=ModbusConfig, open=open_modbus, devices=known_devices, templates=known)
