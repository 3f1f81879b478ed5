"""The local API, over a unix socket."""

from gateway.web.api import LocalApi

__all__ = ["LocalApi"]
