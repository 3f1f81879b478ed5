"""Logs go to stderr: journald adds time and unit, a terminal gets the time from us."""

from __future__ import annotations

import logging
import os
import sys

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _JournalFormatter(logging.Formatter):
    """`<priority>` in front, so that journald knows the level (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        return f"<{_PRIORITY.get(record.levelno, 6)}>{super().format(record)}"


def set_up_logging(level: str) -> None:
    """One handler on the root; the libraries are heard from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for library in ("amqtt", "transitions", "pymodbus", "grpc", "asyncio", "uvicorn", "uvicorn.error"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True
    # gRPC's core writes past us, a line for each connection that the cloud ends; read when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
