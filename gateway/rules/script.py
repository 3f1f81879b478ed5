"""Sandboxed scripts. The only door to the script engine (QuickJS).

A script is the body of a sloppy-mode function of `msg`, `metadata` and `msgType`. Each script node has a
context of its own, with a limit of memory and of CPU time. Data crosses the border as JSON text, which costs
a fraction of what handing over objects does. A context that met a limit is thrown away and made anew.

A script blocks the event loop while it runs, so one that meets its limits again and again is put aside for a
minute, as ThingsBoard does it: its messages fail at once instead of taking half a second each. Unlike there
this holds for the messages of the device that causes it, as long as the script stands those of the others.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final, Literal

import orjson
import quickjs

from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.rules.node import Shared, changed
from gateway.rules.prelude import PRELUDE

Kind = Literal["filter", "switch", "transform", "log", "details", "generator"]

MAX_SCRIPT_CHARS: Final = 50_000
MAX_RESULT_CHARS: Final = 300_000
MAX_STRIKES: Final = 3
BLOCKED_S: Final = 60.0
MESSAGE_SHARE: Final = 4
"""All scripts together may take this many times the limit of one of them, per message."""

# Kept apart from the script's text, so that its lines count from 1 after one is taken off.
_RUNNERS: Final[dict[Kind, str]] = {
    "filter": "(d, m, t) => user(parse(d), parse(m), t)",
    "log": "(d, m, t) => { const r = user(parse(d), parse(m), t);"
    " return typeof r === 'string' || !isTbel ? r : stringify(r); }",
    "details": "(d, m, t) => { const r = user(parse(d), parse(m), t);"
    " return r === undefined ? 'null' : stringify(r); }",
    "switch": """(d, m, t) => {
        let r = user(parse(d), parse(m), t);
        if (r instanceof Set) { r = [...r]; }
        if (typeof r === 'string') { return stringify([r]); }
        return isArray(r) && r.every(x => typeof x === 'string') ? stringify(r) : 'a text or a list of texts';
    }""",
    "transform": """(d, m, t) => {
        const r = user(parse(d), parse(m), t), out = [];
        for (const x of isArray(r) ? r : [r]) {
            if (x === null || typeof x !== 'object' || isArray(x)) { return 'an object with msg, metadata, msgType'; }
            const one = {};
            if (x.msg !== undefined) { one.d = x.msg; }
            if (x.metadata !== undefined && x.metadata !== null) {
                if (typeof x.metadata !== 'object' || isArray(x.metadata)) { return 'metadata that is an object'; }
                one.m = {};
                for (const k of keysOf(x.metadata)) {
                    const v = x.metadata[k];
                    if (v === null || v === undefined) { continue; }
                    if (typeof v === 'object' || typeof v === 'function') { return 'metadata of plain values'; }
                    one.m[k] = asText(v);
                }
            }
            if (x.msgType) { one.t = asText(x.msgType); }
            out.push(one);
        }
        return stringify(out);
    }""",
}
_RUNNERS["generator"] = _RUNNERS["transform"]
_PARAMETERS: Final = "msg, metadata, msgType"
_OF_GENERATOR: Final = "prevMsg, prevMetadata, prevMsgType"
_TRACE_LINE: Final = re.compile(r"<input>:(\d+)")


class Script:
    """One compiled script. Called from one thread only.

    Raises (constructor):
        RejectedError: It does not parse, or is too long; the text names the line.
    """

    def __init__(self, kind: Kind, body: str, is_tbel: bool, shared: Shared) -> None:
        if len(body) > MAX_SCRIPT_CHARS:
            raise RejectedError(f"the script is longer than {MAX_SCRIPT_CHARS} characters")
        self._kind, self._body, self._is_tbel, self._shared = kind, body, is_tbel, shared
        self._limit_s = shared.config.script_timeout_ms / 1000
        self._strikes: dict[EntityId, int] = {}  # by whose messages
        self._struck_s = 0.0
        self._context: Any = None
        self._run: Any = None
        self._open()

    def is_true(self, msg: Message) -> bool:
        """A filter's verdict. RejectedError: the script failed, or gave no boolean."""
        result = self._call(msg)
        if type(result) is not bool:
            raise RejectedError(f"the script must give true or false, not {_described(result)}")
        return result

    def labels(self, msg: Message) -> list[str]:
        """A switch's relations. RejectedError: the script failed, or gave something else."""
        return list(self._json(msg))

    def transformed(self, msg: Message) -> list[Message]:
        """A transformation's messages, with the id of `msg`. RejectedError: as above, or an empty list."""
        results: list[dict[str, Json]] = self._json(msg)
        if not results:
            raise RejectedError("the script gave an empty list")
        return [changed(msg, data=one.get("d", ...), metadata=one.get("m"), type_=one.get("t")) for one in results]

    def text(self, msg: Message) -> str:
        """A log line. RejectedError: the script failed, or gave no text."""
        result = self._call(msg)
        if type(result) is not str:
            raise RejectedError(f"the script must give a text, not {_described(result)}")
        return result

    def details(self, msg: Message) -> Json:
        """An alarm's details: any JSON. RejectedError: the script failed, or gave a function."""
        result = self._call(msg)
        if type(result) is not str:
            raise RejectedError("the script must give details that are JSON")
        return self._loaded(result)

    def _json(self, msg: Message) -> Any:
        result = self._call(msg)
        if type(result) is not str:
            raise RejectedError(f"the script gave {_described(result)}")
        if not result.startswith("["):
            raise RejectedError(f"the script must give {result}")
        return self._loaded(result)

    def _loaded(self, result: str) -> Any:
        if len(result) > MAX_RESULT_CHARS:
            raise RejectedError(f"the script's result is longer than {MAX_RESULT_CHARS} characters")
        try:
            return orjson.loads(result)
        except orjson.JSONDecodeError as error:
            raise RejectedError(f"the script's result is no valid JSON: {error}") from None

    def _call(self, msg: Message) -> Any:
        if self._strikes and self._is_blocked(msg.originator):
            raise RejectedError(f"the script is put aside for {BLOCKED_S:.0f} s: it met its limits {MAX_STRIKES} times")
        shared = self._shared
        if shared.script_s > self._limit_s * MESSAGE_SHARE:
            raise RejectedError("the scripts of this message took too long together")
        try:
            data, metadata = orjson.dumps(msg.data).decode(), orjson.dumps(msg.metadata).decode()
        except TypeError as error:
            raise RejectedError(f"the message is no valid JSON: {error}") from None
        if self._run is None:
            self._open()
        started_s = time.perf_counter()
        try:
            return self._run(data, metadata, msg.type)
        except quickjs.JSException as error:
            raise self._failure(str(error), msg.originator) from None
        except (SystemError, MemoryError, UnicodeError):
            self._strike(msg.originator)
            raise RejectedError("the script's result cannot be carried over") from None
        finally:
            shared.script_s += time.perf_counter() - started_s

    def _failure(self, text: str, originator: EntityId) -> RejectedError:
        message, _, trace = text.partition("\n")
        if "interrupted" in message:
            self._strike(originator)
            return RejectedError(f"the script ran longer than {self._limit_s * 1000:.0f} ms")
        if "out of memory" in message:
            self._strike(originator)
            return RejectedError(f"the script needs more than {self._shared.config.script_memory_bytes >> 20} MB")
        return RejectedError(f"the script failed: {message}{_line(trace)}")

    def _strike(self, originator: EntityId) -> None:
        self._context = self._run = None
        now_s = self._shared.clock.monotonic_s()
        if now_s - self._struck_s > BLOCKED_S:
            self._strikes.clear()
        self._strikes[originator] = self._strikes.get(originator, 0) + 1
        self._struck_s = now_s
        self._shared.counters.add("rules.script_limits")

    def _is_blocked(self, originator: EntityId) -> bool:
        """For the one device whose messages it does not stand; for all when those of others are too much as well."""
        if self._shared.clock.monotonic_s() - self._struck_s > BLOCKED_S:
            self._strikes.clear()
            return False
        counts = self._strikes.values()
        return self._strikes.get(originator, 0) >= MAX_STRIKES or sum(counts) - max(counts) >= MAX_STRIKES

    def _open(self) -> None:
        context = quickjs.Context()
        context.set_memory_limit(self._shared.config.script_memory_bytes)
        context.set_time_limit(self._limit_s)
        try:
            if self._is_tbel:
                context.eval(PRELUDE)
            # Captured before the script can replace them; `user` is the only name that it shares.
            make = context.eval(
                "((parse, stringify, isArray, keysOf, asText, isTbel) => user => " + _RUNNERS[self._kind] + ")"
                f"(JSON.parse, JSON.stringify, Array.isArray, Object.keys, String, {str(self._is_tbel).lower()})"
            )
            parameters = _OF_GENERATOR if self._kind == "generator" else _PARAMETERS
            user = context.eval(f"(function ({parameters}) {{\n{self._body}\n}})")
            self._run = make(user)
        except quickjs.JSException as error:
            message, _, trace = str(error).partition("\n")
            language = "as JavaScript (TBEL is run where it is also JavaScript)" if self._is_tbel else "as JavaScript"
            raise RejectedError(f"the script cannot be read {language}: {message}{_line(trace)}") from None
        except (SystemError, MemoryError, UnicodeError) as error:
            raise RejectedError(f"the script cannot be read: {error}") from None
        if not isinstance(self._run, quickjs.Object):
            raise RejectedError("the script cannot be read: it is not the body of a function")
        self._context = context


def _line(trace: str) -> str:
    found = _TRACE_LINE.search(trace)
    return f" (line {max(1, int(found[1]) - 1)})" if found else ""


def _described(result: Any) -> str:
    if result is None:
        return "nothing"
    if isinstance(result, quickjs.Object):
        return "an object"
    text = repr(result)
    return text if len(text) <= 40 else text[:40] + "…"
