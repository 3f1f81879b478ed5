"""Rule nodes, by kind. Importing this package fills the registry of `gateway.rules.node`."""

from gateway.rules.nodes import (
    action,
    aggregate,
    alarm,
    edge,
    enrichment,
    filter,
    flow,
    math,
    periodic,
    rpc,
    telemetry,
    timed,
    transformation,
    unsupported,
)

__all__ = [
    "action",
    "aggregate",
    "alarm",
    "edge",
    "enrichment",
    "filter",
    "flow",
    "math",
    "periodic",
    "rpc",
    "telemetry",
    "timed",
    "transformation",
    "unsupported",
]
