"""From the cloud to the device: every command is applied durably, then acknowledged."""

from gateway.downlink.dispatch import Dispatcher

__all__ = ["Dispatcher"]
