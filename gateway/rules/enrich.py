"""What enrichment nodes have in common: where to, and how values become text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from gateway.domain.entity import Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import SeriesReader
from gateway.rules.node import NodeEnv, as_text, changed

Target = Literal["DATA", "METADATA"]


def enriched(msg: Message, found: Mapping[str, Json], fetch_to: Target) -> Message:
    """Values keep their type in the body, and become text in metadata.

    Raises:
        RejectedError: The body is no object.
    """
    if fetch_to == "METADATA":
        return changed(msg, metadata={**msg.metadata, **{key: as_text(value) for key, value in found.items()}})
    if not isinstance(msg.data, dict):
        raise RejectedError("the body is no object")
    return changed(msg, data={**msg.data, **found})


def series_of(env: NodeEnv) -> SeriesReader:
    """Kept telemetry; RejectedError where chains are only looked at."""
    if env.shared.series is None:
        raise RejectedError("there is no store here whose telemetry could be read")
    return env.shared.series
