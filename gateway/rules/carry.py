"""What of a message a script can see, and so has to be carried over the border to it and back.

Carrying costs more than most scripts do: body and metadata as JSON text, twice each. So what the text of a script does
not mention stays here; of what it mentions only as `msg.key`, plain values go over one by one, and come back only
when they are others then. This rests on the text alone, and on the safe side: any other mention, and the whole goes
over. Where it cannot be seen from the text, the runner finds out, throws `WHOLE`, and the script runs once more.
"""

from __future__ import annotations

import json
import re
from typing import Final, Literal, NamedTuple

Kind = Literal["filter", "switch", "transform", "log", "details", "generator", "field"]

WHOLE: Final = "@whole"
MAX_KEYS: Final = 12
_ODD: Final = re.compile(r"(?<![\w$])(?:arguments|eval|Function|with|this|caller)(?![\w$])|\\u|\\x")
_OWN: Final = frozenset(
    [
        "constructor",
        "toString",
        "valueOf",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "__proto__",
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
    ]
)


class Seen(NamedTuple):
    """What a script sees of one of its arguments: these keys; None: all of it.

    `first` is a key that it writes; `is_passed`: it also hands the argument on, once, as `{msg: msg}`.
    """

    keys: tuple[str, ...] | None
    first: str = ""
    is_passed: bool = False


def seen(body: str, name: str) -> Seen:
    """What this text mentions of the argument."""
    word = rf"(?<![\w$]){name}(?![\w$])"
    if _ODD.search(body):
        return Seen(None)
    passed = re.findall(rf"[{{,]\s*{word}\s*:\s*{word}(?=\s*[,}}])", body)
    rest = re.sub(rf"[{{,]\s*{word}\s*:\s*{word}(?=\s*[,}}])", ", ", body)
    rest = re.sub(rf"(?<=[{{,])\s*{word}\s*:", " ", rest)
    member = rf"(?<!\.){word}\s*(?:\?\.|\.\??)\s*([A-Za-z_]\w*)(?![\w$])(?!\s*[(`])"
    keys = tuple(dict.fromkeys(re.findall(member, rest)))
    if len(re.findall(word, rest)) != len(re.findall(member, rest)) or len(keys) > MAX_KEYS or _OWN & set(keys):
        return Seen(None)
    if keys and len(passed) > 1:
        return Seen(None)
    written = re.search(rf"{word}\s*\.\s*([A-Za-z_]\w*)\s*(?:[-+*/%]?=(?!=))", rest)
    return Seen(keys, written[1] if written else "", bool(passed))


# The runners are kept apart from the script's text, so that its lines count from 1 after one is taken off.
_BY_TEXT: Final[dict[Kind, str]] = {
    "filter": "return r;",
    "log": "return typeof r === 'string' || !isTbel ? r : toText(r);",
    "details": "return r === undefined ? 'null' : toText(r);",
    "field": "return r === undefined ? 'null' : toText(r);",
    "switch": """
        const l = r instanceof Set ? [...r] : r;
        if (typeof l === 'string') { return stringify([l]); }
        return isArray(l) && l.every(x => typeof x === 'string') ? stringify(l) : 'a text or a list of texts';""",
    "transform": "return isArray(r) ? all(r) : one(r, undefined, undefined, t);",
}
_TOOLS: Final = """
    const toText = isTbel
        ? v => { const s = stringify(v); return s !== undefined && s.includes('null') ? stringify(v, plain) : s; }
        : stringify;
    const isMap = x => x !== null && typeof x === 'object' && !isArray(x);
    function texts(metadata) {
        const m = {};
        for (const k of keysOf(metadata)) {
            const v = metadata[k];
            if (v === null || v === undefined) { continue; }
            if (!isTbel && (typeof v === 'object' || typeof v === 'function')) { return null; }
            if (k === '__proto__') { define(m, k, {__proto__: null, value: asText(v), enumerable: true}); }
            else { m[k] = asText(v); }
        }
        return m;
    }
    function result(x, t) {
        if (!isMap(x)) { return 'an object with msg, metadata, msgType'; }
        const one = {};
        if (x.msg !== undefined) { one.d = x.msg; }
        if (x.metadata !== undefined && x.metadata !== null) {
            if (!isMap(x.metadata)) { return 'metadata that is an object'; }
            one.m = texts(x.metadata);
            if (one.m === null) { return 'metadata of plain values'; }
        }
        if (x.msgType) { one.t = asText(x.msgType); }
        return one;
    }
    function all(list) {
        const out = [];
        for (const x of isArray(list) ? list : [list]) {
            const one = result(x);
            if (typeof one === 'string') { return one; }
            out.push(one);
        }
        return toText(out);
    }
"""


def _object(name: str, keys: tuple[str, ...], base: int) -> str:
    """JavaScript that builds an argument of its values; what is absent in the message is absent in it."""
    parts = [f"if (a{base + i} !== absent) {{ {name}.{key} = a{base + i}; }}" for i, key in enumerate(keys)]
    return f"const {name} = {{}}; " + " ".join(parts)


def _changes(name: str, keys: tuple[str, ...], base: int, into: str) -> str:
    """JavaScript that collects what is another value than before. What is gone needs the whole."""
    parts = [
        f"if ({name}.{key} !== a{base + i}) {{ if ({name}.{key} === undefined) {{ if (a{base + i} !== absent)"
        f" {{ throw whole; }} }} else {{ ({into} ??= {{}}).{key} = {name}.{key}; }} }}"
        for i, key in enumerate(keys)
    ]
    return " ".join(parts)


def runners(kind: Kind, body: str, is_tbel: bool) -> tuple[str, tuple[str, ...], tuple[str, ...], str]:
    """JavaScript of `[whole, direct]`, the keys of body and metadata for the direct one, and what it writes first.

    The direct one is null where the whole has to be carried over. Its result of a transformation is null (nothing
    changed), a number or boolean (the new value of what it writes first), or JSON of what is to be put over the old.
    """
    last = _BY_TEXT["transform" if kind == "generator" else kind]
    arguments = "...globalThis._field(parse(d))" if kind == "field" else "parse(d), parse(m), t"
    whole = f"(d, m, t) => {{ const r = user({arguments}); " + last.replace(
        "isArray(r) ? all(r) : one(r, undefined, undefined, t)", "all(r)"
    )
    msg, metadata = seen(body, "msg"), seen(body, "metadata")
    is_whole = kind in ("generator", "details", "field") or (
        kind != "transform" and any(argument.keys and argument.is_passed for argument in (msg, metadata))
    )
    if is_whole or msg.keys is None or metadata.keys is None:
        return _assembled(whole + " }", "null", is_tbel), (), (), ""
    keys, more = msg.keys, metadata.keys
    names = [f"a{i}" for i in range(len(keys) + len(more))]
    build = (_object("M", keys, 0) if keys else "const M = keep;") + (
        _object("D", more, len(keys)) if more else "const D = keep;"
    )
    first = msg.first if msg.first in keys else ""
    # What is handed on has to arrive where it belongs; anywhere else its other keys would be missing.
    astray = "".join(
        f"if (r.{member} !== {name}) {{ throw whole; }} "
        for argument, member, name in ((msg, "msg", "M"), (metadata, "metadata", "D"))
        if argument.keys and argument.is_passed
    )
    if kind == "transform":
        at = f"a{keys.index(first)}" if first else ""
        value = f"M.{first}" if first else ""
        alone = (
            f"if ({value} !== {at} && n === undefined && c === 1 && (typeof {value} === 'boolean' || (typeof {value}"
            f" === 'number' && isFinite({value})))) {{ return {value}; }}"
            if first
            else ""
        )
        others = " + ".join(f"(M.{key} !== a{i})" for i, key in enumerate(keys)) or "0"
        last = f"""
        {_shortcut(keys, more, first)}
        if (!isMap(r)) {{ if (isArray(r)) {{ throw whole; }} return 'an object with msg, metadata, msgType'; }}
        if (r === M || r === D) {{ throw whole; }}
        {astray}
        let u, n; const out = {{}};
        const isType = !r.msgType || r.msgType === t;
        if (r.metadata === D) {{ {_changes("D", more, len(keys), "n")} }}
        else if (r.metadata !== undefined && r.metadata !== null) {{
            if (!isMap(r.metadata)) {{ return 'metadata that is an object'; }}
            out.m = texts(r.metadata);
            if (out.m === null) {{ return 'metadata of plain values'; }}
        }}
        if (r.msg === M) {{
            if (isType && out.m === undefined) {{ const c = {others}; {alone} }}
            {_changes("M", keys, 0, "u")}
        }} else if (r.msg !== undefined) {{ out.d = r.msg; }}
        if (!isType) {{ out.t = asText(r.msgType); }}
        if (n !== undefined) {{
            for (const k of keysOf(n)) {{ if (n[k] === null) {{ throw whole; }} }}
            n = texts(n); if (n === null) {{ return 'metadata of plain values'; }} out.n = n;
        }}
        if (u !== undefined) {{ out.u = u; }}
        return keysOf(out).length === 0 ? null : toText(out);"""
    direct = f"({', '.join([*names, 't'])}) => {{ {build} const r = user(M, D, t); {last} }}"
    return _assembled(whole + " }", direct, is_tbel), keys, more, first


def _shortcut(keys: tuple[str, ...], more: tuple[str, ...], first: str) -> str:
    """JavaScript for what most transformations do: all is handed on as it came, with another number in one key."""
    if not first:
        return ""
    same = [f"M.{key} === a{i}" for i, key in enumerate(keys) if key != first]
    same += [f"D.{key} === a{len(keys) + i}" for i, key in enumerate(more)]
    handed_on = ["r", "r !== M", "r.msg === M", "r.metadata === D", "r.msgType === t", "r.length === undefined", *same]
    value, before = f"M.{first}", f"a{keys.index(first)}"
    return (
        f"if ({' && '.join(handed_on)}) {{ const v = {value};"
        f" if (v !== {before} && typeof v === 'number' && isFinite(v)) {{ return v; }} }}"
    )


def _assembled(whole: str, direct: str, is_tbel: bool) -> str:
    keep = "get has set deleteProperty ownKeys getOwnPropertyDescriptor defineProperty getPrototypeOf".split()  # noqa: SIM905
    traps = ", ".join(f"{trap}() {{ throw whole; }}" for trap in keep)
    return f"""(function (parse, stringify, isArray, keysOf, asText, define, isFinite, plain, user, absent) {{
        const isTbel = {str(is_tbel).lower()}, whole = {json.dumps(WHOLE)};
        {_TOOLS}
        const keep = new Proxy({{}}, {{ {traps} }});
        return [{whole}, {direct}];
    }})"""


HARDENED: Final = """
(function () {
  'use strict';
  const define = Object.defineProperty, names = Object.getOwnPropertyNames;
  // A frozen Object.prototype alone would make `msg.constructor = 1` do nothing: these write into the object itself.
  function soft(prototype) {
    for (const name of names(prototype)) {
      const held = Object.getOwnPropertyDescriptor(prototype, name);
      if (!('value' in held) || name === 'length') { continue; }
      define(prototype, name, { __proto__: null, get() { return held.value; }, configurable: false, enumerable: false,
        set(v) {
          if (this === prototype) { return; }
          define(this, name, { __proto__: null, value: v, writable: true, enumerable: true, configurable: true });
        } });
    }
  }
  soft(Object.prototype); soft(Error.prototype);
  for (const value of [Object, Array, String, Number, Boolean, Function, Date, RegExp, Error, Set, Map]) {
    Object.freeze(value.prototype);
  }
  for (const value of [JSON, Object, Array]) { Object.freeze(value); }
  for (const name of ['JSON', 'Object', 'Array', 'Math', 'String', 'Number', 'Boolean', 'Date', 'RegExp', 'Error',
                      'Set', 'Map', 'parseInt', 'parseFloat', 'isNaN', 'isFinite']) {
    define(globalThis, name, { __proto__: null, writable: false, configurable: false });
  }
})();
"""
