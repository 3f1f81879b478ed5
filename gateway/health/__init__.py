"""Beside the flow: is it well, and who is told."""

from gateway.health.forecast import Forecast
from gateway.health.logs import set_up_logging
from gateway.health.storage import written_bytes
from gateway.health.watchdog import Watchdog

__all__ = ["Forecast", "Watchdog", "set_up_logging", "written_bytes"]
