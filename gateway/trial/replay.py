"""Recorded messages through other chains, offline: what they would cause, counted.

Time passes between the lines as it did; devices are made as they appear. Answers of devices to calls are not part of a
recording: such a call stays open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config import RulesConfig
from gateway.domain.entity import Json
from gateway.errors import ConfigError
from gateway.trial.cases import MISUSE, iterate_lines, misuse_text
from gateway.trial.house import Result, Trial


@dataclass(slots=True)
class Summary:
    """What a recording caused. `nodes`: messages of each, by `chain / node`."""

    messages: int = 0
    seconds: float = 0.0
    caused: Counter[str] = field(default_factory=Counter)
    """Cloud events pushed, time series saved, attributes, calls …, by the words of a result"""
    errors: Counter[str] = field(default_factory=Counter)
    nodes: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Json]:
        """The same."""
        return {
            "messages": self.messages,
            "seconds": self.seconds,
            "caused": dict(self.caused),
            "errors": dict(self.errors.most_common()),
            "nodes": self.nodes,
            "failures": self.failures,
            "problems": self.problems,
        }


def recorded(paths: Iterable[Path]) -> list[Path]:
    """The files; those of a folder in the order in which they were written. Raises `ConfigError`: there is none."""
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not found:
            raise ConfigError(str(path), "holds no recording: files that end in .jsonl")
        files += found
    return files


async def replay(
    config: RulesConfig, paths: Sequence[Path], setup: Sequence[Json] = (), wait_s: float = 0.0
) -> tuple[Summary, list[Result]]:
    """`wait_s` passes after the last line, for windows that are open then. Results: of lines that caused an error.

    Raises:
        ConfigError: A chain or a line cannot be used; with file and line.
    """
    summary, failed = Summary(), list[Result]()
    lines = _lines(paths)
    first = next(lines, None)
    start_ms = None if first is None else first[1].get("at")
    async with Trial(config, now_ms=start_ms if isinstance(start_ms, int) else None) as trial:
        summary.problems = [str(problem) for problem in trial.engine.problems()]
        known: set[str] = set()
        for number, thing in enumerate(setup, 1):
            try:
                await trial.set_up(thing)
            except MISUSE as error:
                raise ConfigError(f"set-up, line {number}", misuse_text(error)) from None
            if "device" in thing:
                known.add(thing["device"])
        begun_ms = trial.clock.now_ms()
        for place, line in () if first is None else (first, *lines):
            try:
                for result in await _one(trial, line, known):
                    _count(result, summary)
                    if "errors" in result and len(failed) < 100:
                        failed.append({"line": place, **result})
            except MISUSE as error:
                raise ConfigError(place, misuse_text(error)) from None
            summary.messages += 1
        if wait_s > 0:
            _count(await trial.send({"wait_s": wait_s}), summary)
        summary.seconds = (trial.clock.now_ms() - begun_ms) / 1000
        for chain in trial.engine.chains():
            for node in chain["nodes"]:
                place = f"{chain['name']} / {node['name']}"
                summary.nodes[place] = summary.nodes.get(place, 0) + node["messages"]
                if node["failures"]:
                    summary.failures[place] = summary.failures.get(place, 0) + node["failures"]
    return summary, failed


async def _one(trial: Trial, line: Json, known: set[str]) -> list[Result]:
    results = []
    late_s = (line["at"] - trial.clock.now_ms()) / 1000 if isinstance(line.get("at"), int) else 0.0
    if late_s > 0:
        results.append(await trial.send({"wait_s": late_s}))
    device = line.get("device")
    if isinstance(device, dict) and device["name"] not in known:
        known.add(device["name"])
        await trial.set_up({"device": device["name"], "profile": device.get("profile", "default")})
    results.append(await trial.send(line))
    return results


def _count(result: Result, summary: Summary) -> None:
    for key, items in result.items():
        if key == "errors":
            summary.errors.update(items)
        elif key != "path":
            summary.caused[key] += len(items)


def _lines(paths: Sequence[Path]) -> Iterator[tuple[str, Json]]:
    for path in paths:
        for number, line in iterate_lines(path):
            yield f"{path}, line {number}", line
