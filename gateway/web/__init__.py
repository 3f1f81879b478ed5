"""What speaks HTTP: the local API over a unix socket, and the device API on ports of its own."""

from gateway.web.api import LocalApi
from gateway.web.device_http import DeviceHttp

__all__ = ["DeviceHttp", "LocalApi"]
