"""`edge-gateway demo`: the whole path with real parts in one terminal."""

from gateway.demo.script import run_demo

__all__ = ["run_demo"]
