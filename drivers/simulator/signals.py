"""What a simulated point shows. Pure, but for reading the file of a recording once."""

from __future__ import annotations

import csv
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, assert_never

from drivers.simulator.config import Constant, Ramp, RandomWalk, Replay, Signal, Sine, Square
from gateway.domain.telemetry import Value
from gateway.errors import RefusedError, RejectedError

MAX_ROWS: Final = 1_000_000

Source = Callable[[float], Value]
"""Seconds since the bus was opened → the value now. RejectedError: there is none."""


def source_of(signal: Signal, seed: str) -> Source:
    """A signal of the configuration, ready for use.

    Raises:
        RefusedError: The file of a recording cannot be used.
    """
    match signal:
        case Sine():
            return lambda now_s: signal.mean + signal.amplitude * math.sin(math.tau * now_s / signal.period_s)
        case Ramp():
            rise = signal.high - signal.low
            return lambda now_s: signal.low + rise * (now_s % signal.period_s) / signal.period_s
        case Square():
            return lambda now_s: signal.high if now_s % signal.period_s >= signal.period_s / 2 else signal.low
        case RandomWalk():
            return _walk(signal, random.Random(seed))
        case Constant():
            return lambda now_s: signal.value
        case Replay():
            return _replay(signal, read_column(signal.file, signal.column))
    assert_never(signal)


def _walk(signal: RandomWalk, rng: random.Random) -> Source:
    place = signal.start

    def walk(now_s: float) -> Value:
        nonlocal place
        here = place
        place = min(signal.high, max(signal.low, place + rng.choice((-signal.step, signal.step))))
        return here

    return walk


def _replay(signal: Replay, rows: Sequence[tuple[float, Value]]) -> Source:
    times = [time_s for time_s, _ in rows]
    first_s = times[0]
    # The last line stays for as long as the one before it did.
    length_s = times[-1] - first_s + (times[-1] - times[-2] if len(times) > 1 else 1.0)

    def replay(now_s: float) -> Value:
        if now_s >= length_s:
            if not signal.loop:
                raise RejectedError(f"the recording {signal.file.name} has ended")
            now_s %= length_s
        return rows[bisect_right(times, first_s + now_s) - 1][1]

    return replay


def read_column(path: Path, column: str) -> list[tuple[float, Value]]:
    """(seconds, value) of each line that has one.

    Raises:
        RefusedError: With the file, the line, and what would be right.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            head = list(reader.fieldnames or ())
            if column not in head[1:]:
                raise RefusedError(f"{path}: no column {column!r}; after the time there are {', '.join(head[1:])}")
            rows: list[tuple[float, Value]] = []
            for row in reader:
                text = (row[column] or "").strip()
                if not text:
                    continue
                time_s = _number(row[head[0]] or "")
                if time_s is None or (rows and time_s <= rows[-1][0]):
                    raise RefusedError(f"{path}:{reader.line_num}: the time {row[head[0]]!r} must be seconds that rise")
                if len(rows) == MAX_ROWS:
                    raise RefusedError(f"{path}: more than {MAX_ROWS} lines")
                number = _number(text)
                rows.append(
                    (time_s, text if number is None else int(number) if text.lstrip("+-").isdigit() else number)
                )
    except OSError as error:
        raise RefusedError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RefusedError(f"{path} is no CSV in UTF-8: {error}") from None
    if not rows:
        raise RefusedError(f"{path}: the column {column!r} is empty")
    return rows


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
