"""What this process has written to storage: the wear of an SD card."""

from __future__ import annotations

from pathlib import Path


def written_bytes(io: Path = Path("/proc/self/io")) -> int | None:
    """Since its start, as the kernel counts it (proc(5), write_bytes); None where it does not."""
    try:
        for line in io.read_text().splitlines():
            name, _, count = line.partition(":")
            if name == "write_bytes":
                return int(count)
    except (OSError, ValueError):
        return None
    return None
