"""Sandboxed scripts. The only door to the script engine (QuickJS).

A script is the body of a sloppy-mode function of `msg`, `metadata` and `msgType`; TBEL is translated into one. Each
script node has a context of its own, with a limit of memory and of CPU time. Plain values that a script names cross
the border one by one, everything else as JSON text (`carry.py`). A context that met a limit is thrown away and made
anew; what a script does to the objects of the language stays without effect.

A script blocks the event loop while it runs, so one that meets its limits again and again is put aside for a
minute, as ThingsBoard does it: its messages fail at once instead of taking half a second each. Unlike there
this holds for the messages of the device that causes it, as long as the script stands those of the others.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final

import orjson
import quickjs

from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.rules.carry import HARDENED, WHOLE, Kind, runners
from gateway.rules.node import Shared, changed
from gateway.rules.tbel import Translated, translated
from gateway.rules.tbel.runtime import PARTS

MAX_SCRIPT_CHARS: Final = 50_000
MAX_ARGUMENT_CHARS: Final = 100_000
MAX_RESULT_CHARS: Final = 300_000
MAX_STRIKES: Final = 3
BLOCKED_S: Final = 60.0
MESSAGE_SHARE: Final = 4
"""All scripts together may take this many times the limit of one of them, per message."""

_PARAMETERS: Final = ("msg", "metadata", "msgType")
_OF_GENERATOR: Final = ("prevMsg", "prevMetadata", "prevMsgType")
_TRACE_LINE: Final = re.compile(r"<input>:(\d+)(?::(\d+))?")
_TBEL_LINE: Final = 10_000
"""Far behind those of the runtime, so that a trace tells the one from the other."""
_MAX_EXACT: Final = 1 << 53
_PLAIN: Final = frozenset({float, str, bool, type(None), quickjs.Object})
"""Types of what goes over as it is; the object stands for what is absent."""


class Script:
    """One compiled script. Called from one thread only.

    Raises (constructor):
        RejectedError: It does not parse, or is too long; the text names the line, of TBEL the column as well.
    """

    def __init__(self, kind: Kind, body: str, is_tbel: bool, shared: Shared, arguments: tuple[str, ...] = ()) -> None:
        """`arguments` are those of a calculated field, behind its ctx."""
        if len(body) > MAX_SCRIPT_CHARS:
            raise RejectedError(f"the script is longer than {MAX_SCRIPT_CHARS} characters")
        self._kind, self._body, self._is_tbel, self._shared = kind, body, is_tbel, shared
        self._limit_s = shared.config.script_timeout_ms / 1000
        self._strikes: dict[EntityId, int] = {}  # by whose messages
        self._struck_s = 0.0
        self._context: Any = None
        self._run: Any = None
        self._direct: Any = None
        self._absent: Any = None
        parameters: tuple[str, ...] = _OF_GENERATOR if kind == "generator" else _PARAMETERS
        if kind == "field":
            parameters = ("ctx", *arguments)
        self._tbel: Translated | None = translated(body, parameters) if is_tbel else None
        names = [("$" if is_tbel else "") + name for name in parameters]
        self._head = f"(function ({', '.join(names)}) {{"
        self._runners, self._keys, self._more, self._first = runners(kind, body, is_tbel)
        self._names_type = "msgType" in body
        self._is_direct = True
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
        result = self._call(msg)
        if result is None:
            return [msg]
        if type(result) is not str:
            if type(result) is float and result.is_integer():
                result = _number(result)
            data = {**msg.data, self._first: result}
            return [Message(msg.type, msg.originator, data, msg.metadata, msg.ts_ms, msg.id)]
        if result.startswith("{"):
            return [self._patched(msg, self._loaded(result))]
        results: list[dict[str, Json]] = self._listed(result)
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

    def computed(self, originator: EntityId, arguments: Json) -> Json:
        """What a calculated field's expression gives: any JSON. RejectedError: it failed, or gave a function.

        `arguments`: `[latest ts, names, values]`, of a value `[ts, value]`, of a window `[start, end, times, values]`.
        """
        return self.details(Message("", originator, arguments, {}, 0))

    def _patched(self, msg: Message, patch: dict[str, Any]) -> Message:
        data, metadata = patch.get("d", ...), patch.get("m")
        if "u" in patch:
            data = {**msg.data, **patch["u"]}
        if "n" in patch:
            metadata = {**msg.metadata, **patch["n"]}
        return changed(msg, data=data, metadata=metadata, type_=patch.get("t"))

    def _json(self, msg: Message) -> Any:
        result = self._call(msg)
        if type(result) is not str:
            raise RejectedError(f"the script gave {_described(result)}")
        return self._listed(result)

    def _listed(self, result: str) -> Any:
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
        if shared.script_s > self._limit_s * MESSAGE_SHARE and self._is_spent():
            raise RejectedError("the scripts of this message took too long together")
        if self._run is None or (self._is_tbel and self._context is not shared.tbel_context):
            self._open()
        arguments = self._plain(msg) if self._is_direct and self._direct is not None else None
        run = self._direct
        if arguments is None:
            arguments, run = _as_json(msg), self._run
        started_s = time.perf_counter()
        try:
            return run(*arguments)
        except quickjs.JSException as error:
            if str(error).partition("\n")[0] != WHOLE:
                raise self._failure(str(error), msg.originator) from None
        except (SystemError, MemoryError, UnicodeError):
            if run is self._run:
                self._strike(msg.originator)
                raise RejectedError("the script's result cannot be carried over") from None
        finally:
            spent_s = shared.script_s + time.perf_counter() - started_s
            if spent_s > self._limit_s > shared.script_s:  # asking for it each time would cost as much as a script
                shared.script_cpu_s = time.thread_time()
            shared.script_s = spent_s
        self._is_direct = False
        return self._call(msg)

    def _is_spent(self) -> bool:
        """By CPU time: that the machine is overloaded is no message's fault."""
        return time.thread_time() - self._shared.script_cpu_s > self._limit_s * (MESSAGE_SHARE - 1)

    def _plain(self, msg: Message) -> list[Any] | None:
        """The values that the script names; None: one of them is not plain, so the whole goes over."""
        absent = self._absent
        arguments: list[Any] = []
        if self._keys:
            data = msg.data
            if type(data) is not dict:
                return None
            for key in self._keys:
                value = data.get(key, absent)
                if type(value) not in _PLAIN and not (type(value) is int and -_MAX_EXACT <= value <= _MAX_EXACT):
                    return None
                arguments.append(value)
        for key in self._more:
            value = msg.metadata.get(key, absent)
            if type(value) not in _PLAIN:
                return None
            arguments.append(value)
        if self._names_type:
            arguments.append(msg.type)
        return arguments

    def _failure(self, text: str, originator: EntityId) -> RejectedError:
        message, _, trace = text.partition("\n")
        if "interrupted" in message:
            self._strike(originator)
            return RejectedError(f"the script ran longer than {self._limit_s * 1000:.0f} ms")
        # With no memory left for an error either, null is thrown.
        if "out of memory" in message or (message == "null" and "throw" not in self._body):
            self._strike(originator)
            return RejectedError(f"the script needs more than {self._shared.config.script_memory_bytes >> 20} MB")
        if self._tbel is not None:
            message = message.removeprefix("Error: ")
        return RejectedError(f"the script failed: {message}{self._place(trace)}")

    def _place(self, trace: str) -> str:
        if self._tbel is None:
            return _line(trace)
        for found in _TRACE_LINE.finditer(trace):
            if int(found[1]) >= _TBEL_LINE:
                place = self._tbel.place(int(found[2] or 0) - 1 - len(self._head))
                return f" ({place})" if place else ""
        return ""

    def _strike(self, originator: EntityId) -> None:
        self._context = self._run = self._direct = None
        if self._is_tbel:
            self._shared.tbel_context = None
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

    def _house(self) -> Any:
        """A context with its limits. That of TBEL serves all scripts of the engine: no name in it reaches outside of
        its own call, and what is there under all of them is too large to have it for each.
        """
        context = quickjs.Context()
        for part in PARTS if self._is_tbel else (HARDENED,):
            context.eval(part)
        context.set_memory_limit(self._shared.config.script_memory_bytes)
        context.set_time_limit(self._limit_s)
        return context

    def _open(self) -> None:
        try:
            if self._tbel is not None:
                context = self._shared.tbel_context or self._house()
                self._shared.tbel_context = context
                body = "\n" * (_TBEL_LINE - 1) + self._head + self._tbel.code + "})"
            else:
                context = self._house()
                body = f"{self._head}\n{self._body}\n}})"
            # Captured before the script can replace them; `user` is the only name that it shares.
            names = "JSON.parse, JSON.stringify, Array.isArray, Object.keys, "
            names += f"{'_t' if self._is_tbel else 'String'}, Object.defineProperty, Number.isFinite"
            make = context.eval(f"(user, absent) => ({self._runners})({names}, globalThis._plain, user, absent)")
            user = context.eval(body)
            self._absent = context.eval("({})")
            made = make(user, self._absent)
            if not isinstance(made, quickjs.Object):
                raise RejectedError("the script cannot be read: it is not the body of a function")
            pick = context.eval("(list, index) => list[index]")
            self._run, self._direct = pick(made, 0), pick(made, 1)
        except quickjs.JSException as error:
            message, _, trace = str(error).partition("\n")
            raise RejectedError(f"the script cannot be read as JavaScript: {message}{_line(trace)}") from None
        except (SystemError, MemoryError, UnicodeError) as error:
            raise RejectedError(f"the script cannot be read: {error}") from None
        self._context = context


def _as_json(msg: Message) -> list[Any]:
    """Body, metadata and type. RejectedError: no JSON, or too much of it."""
    try:
        data, metadata = orjson.dumps(msg.data).decode(), orjson.dumps(msg.metadata).decode()
    except TypeError as error:
        raise RejectedError(f"the message is no valid JSON: {error}") from None
    if len(data) + len(metadata) > MAX_ARGUMENT_CHARS:
        raise RejectedError(f"the message is longer than the {MAX_ARGUMENT_CHARS} characters that a script may get")
    return [data, metadata, msg.type]


def _number(value: Any) -> Any:
    """As JSON would bring it: 2.0 is 2."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) < 1e21 else value


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
