"""The declaration that the gateway finds by entry point."""

from drivers.simulator.config import SimulatorConfig
from drivers.simulator.driver import known_devices, open_simulator
from gateway.ports import DriverPlugin


def _no_line(config: SimulatorConfig) -> None:
    """There is no wire that two buses could fight for."""


plugin = DriverPlugin(
    kind="simulator", config=SimulatorConfig, open=open_simulator, devices=known_devices, line=_no_line
)
