"""Expected results beside recorded messages: a test of a rule chain without code.

A folder holds `chain.json` (any form of an export), `messages.jsonl` (a line a step, see `Trial.send`),
`expected.jsonl` (a line for each of them) and, where needed, `setup.jsonl`. Of each expected line only the keys that
it names are compared; an error that is not expected is always a mismatch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from gateway.config import RulesConfig
from gateway.domain.entity import Json
from gateway.errors import ConfigError, RejectedError
from gateway.trial.house import Result, Trial

KEYS: Final = frozenset(
    {"path", "saved", "attributes", "deleted", "pushed", "entities", "calls", "replies", "errors", "problems"}
)


MISUSE: Final = (RejectedError, ValueError, KeyError, TypeError, AttributeError)
"""What a line of another shape than it should be raises."""


@dataclass(frozen=True, slots=True)
class Case:
    """One test of one chain."""

    name: str
    chain: Path
    setup: list[Json]
    messages: list[Json]
    expected: list[Json]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """`line` counts from 1, in the messages."""

    line: int
    key: str
    expected: Json
    found: Json

    def __str__(self) -> str:
        """For a person."""
        wanted, got = (orjson.dumps(value).decode() for value in (self.expected, self.found))
        return f"line {self.line}, {self.key}: expected {wanted}, got {got}"


def read_case(folder: Path) -> Case:
    """Raises `ConfigError` with the file and the line."""
    chain = folder / "chain.json"
    if not chain.exists():
        raise ConfigError(str(chain), "is missing")
    setup = read_lines(folder / "setup.jsonl") if (folder / "setup.jsonl").exists() else []
    messages, expected = read_lines(folder / "messages.jsonl"), read_lines(folder / "expected.jsonl")
    check_expected(expected, messages, folder / "expected.jsonl")
    return Case(folder.name, chain, setup, messages, expected)


def check_expected(expected: Sequence[Json], messages: Sequence[Json], path: Path) -> None:
    """Raises `ConfigError`: not a line for each message, or a key that does not exist."""
    if len(messages) != len(expected):
        raise ConfigError(str(path), f"has {len(expected)} lines, and the messages have {len(messages)}")
    for number, line in enumerate(expected, 1):
        if unknown := sorted(line.keys() - KEYS):
            raise ConfigError(
                f"{path}, line {number}", f"{unknown[0]!r} is not known; there are {', '.join(sorted(KEYS))}"
            )


def find_cases(folder: Path) -> list[Path]:
    """The folder itself, or the folders in it that hold a `chain.json`; none: it is no folder of cases."""
    if (folder / "chain.json").exists():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/chain.json"))


def read_lines(path: Path) -> list[Json]:
    """All of `iterate_lines`, without their numbers."""
    return [item for _, item in iterate_lines(path)]


def iterate_lines(path: Path) -> Iterator[tuple[int, Json]]:
    """JSON objects, one a line, with their number; empty lines and lines that begin with `#` are left out.

    Raises:
        ConfigError: With the line.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip() or line.lstrip().startswith(b"#"):
                    continue
                try:
                    item = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise ConfigError(f"{path}, line {number}", f"is no JSON: {error}") from None
                if not isinstance(item, dict):
                    raise ConfigError(f"{path}, line {number}", "must be an object")
                yield number, item
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None


async def run_case(case: Case) -> tuple[list[Result], list[Mismatch]]:
    """Each line's result, and what is not as expected."""
    results = await walk(case)
    return results, compare(case.expected, results)


async def walk(case: Case) -> list[Result]:
    """Each line's result. Raises `ConfigError`: the chain, or a line, cannot be used."""
    async with Trial(RulesConfig(root_chain=case.chain)) as trial:
        problems = [str(problem) for problem in trial.engine.problems()]
        if not any("device" in thing for thing in case.setup):
            await trial.set_up({"device": "Device"})
        for number, thing in enumerate(case.setup, 1):
            try:
                await trial.set_up(thing)
            except MISUSE as error:
                raise ConfigError(f"{case.name}, set-up, line {number}", misuse_text(error)) from None
        results: list[Result] = []
        for number, line in enumerate(case.messages, 1):
            try:
                result = await trial.send(line)
            except MISUSE as error:
                raise ConfigError(f"{case.name}, messages, line {number}", misuse_text(error)) from None
            if number == 1 and problems:
                result["problems"] = problems
            results.append(result)
        return results


def compare(expected: Sequence[Json], results: Sequence[Result]) -> list[Mismatch]:
    """What is not as expected. An error that nobody expects always is a mismatch, and so is a problem of the chain."""
    mismatches: list[Mismatch] = []
    for number, (wish, result) in enumerate(zip(expected, results, strict=True), 1):
        for key in sorted({*wish, "errors"} | ({"problems"} if number == 1 else set())):
            wanted, got = wish.get(key, []), result.get(key, [])
            if not fits(wanted, got):
                mismatches.append(Mismatch(number, key, wanted, got))
    return mismatches


def agreed(one: Json, other: Json) -> Json:
    """What two walks have in common; `"*"` where they differ (an id that is made anew each time)."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return {key: agreed(value, other[key]) for key, value in one.items()}
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [agreed(value, twin) for value, twin in zip(one, other, strict=True)]
    return one if one == other else "*"


def misuse_text(error: Exception) -> str:
    """One of `MISUSE`, for a person."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def fits(wanted: Json, got: Json) -> bool:
    """Equal; of objects only what is named is looked at, and `"*"` is anything."""
    if wanted == "*":
        return True
    if isinstance(wanted, dict) and isinstance(got, dict):
        return all(key in got and fits(value, got[key]) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(got, list):
        return len(wanted) == len(got) and all(map(fits, wanted, got))
    if isinstance(wanted, str) and isinstance(got, str) and wanted.endswith("…"):
        return got.startswith(wanted[:-1])
    return bool(wanted == got) and isinstance(wanted, bool) == isinstance(got, bool)
