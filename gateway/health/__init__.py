"""Beside the flow: is it well, and who is told."""

from gateway.health.logs import set_up_logging
from gateway.health.watchdog import Watchdog

__all__ = ["Watchdog", "set_up_logging"]
