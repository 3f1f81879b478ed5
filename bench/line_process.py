"""A paced line in a process of its own, so that what is measured shares no interpreter with it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fakes.modbus_line import Units
from tests.fakes.paced_line import PacedLine


def gap_s(baud: int, bits: int = 10) -> float:
    """Silence between frames. Modbus over Serial Line V1.02 §2.5.1.1."""
    return 0.00175 if baud > 19200 else 3.5 * bits / baud


def _serve(pipe: Any, link: str, baud: int, silent: tuple[int, ...]) -> None:
    units = Units(1, silent=set(silent), prompt_s=gap_s(baud))
    line = PacedLine(units, baud, gap_s=gap_s(baud) * 0.999, keep=2_000)
    with line.open(Path(link)):
        pipe.send("open")
        while (asked := pipe.recv()) != "end":
            if asked == "reset":
                line.reset()
                line.writes_s.clear()
            names = (
                "requests",
                "answered",
                "registers",
                "registers_of",
                "overlaps",
                "short_gaps",
                "gaps_s",
                "writes_s",
            )
            pipe.send({name: getattr(line, name) for name in names})


class LineProcess:
    """What `open_line` gives: the units' side, to be asked."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def stats(self, *, reset: bool = False) -> dict[str, Any]:
        """Counters of the line since the last reset; `registers_of` by unit, `writes_s` when writes had come."""
        self._pipe.send("reset" if reset else "stats")
        found: dict[str, Any] = self._pipe.recv()
        return found


@contextmanager
def open_line(link: Path, baud: int, silent: tuple[int, ...] = ()) -> Iterator[LineProcess]:
    """Units 1 to 10 at the adapter `link`, no parity; they answer 3.5 characters after the question."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, str(link), baud, silent), daemon=True)
    process.start()
    try:
        assert here.poll(20), "the line does not open"
        here.recv()
        yield LineProcess(here)
        here.send("end")
        process.join(5)
    finally:
        process.terminate()
        process.join()
