"""Rule nodes, by kind. Importing this package fills the registry of `gateway.rules.node`."""

from gateway.rules.nodes import (
    action,
    edge,
    enrichment,
    filter,
    flow,
    rpc,
    telemetry,
    timed,
    transformation,
    unsupported,
)

__all__ = [
    "action",
    "edge",
    "enrichment",
    "filter",
    "flow",
    "rpc",
    "telemetry",
    "timed",
    "transformation",
    "unsupported",
]
