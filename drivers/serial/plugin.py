"""The declaration that the gateway finds by entry point."""

from drivers.serial.config import SerialConfig
from drivers.serial.driver import known_devices, open_serial
from gateway.ports import DriverPlugin

plugin = DriverPlugin(kind="serial", config=SerialConfig, open=open_serial, devices=known_devices)
