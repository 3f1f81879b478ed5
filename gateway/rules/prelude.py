"""JavaScript that stands in for what TBEL scripts use and JavaScript lacks.

TBEL text that also parses as JavaScript runs unchanged on top of this. Methods are put on prototypes as
non-enumerable properties with null-prototype descriptors: once `Object.prototype` has a `get`, an ordinary
descriptor would inherit it. A data key of the same name shadows the method, as it does in TBEL.
Source of names and meanings: reference rule-engine §6.3, §6.7.
"""

from typing import Final

PRELUDE: Final = r"""
(function () {
  const define = Object.defineProperty, bare = Object.create, keysOf = Object.keys, NumberOf = Number;
  function methods(prototype, table) {
    for (const name of keysOf(table)) {
      const descriptor = bare(null);
      descriptor.value = table[name]; descriptor.writable = true; descriptor.configurable = true;
      define(prototype, name, descriptor);
    }
  }
  methods(Array.prototype, {
    size() { return this.length; }, get(i) { return this[i]; }, isEmpty() { return this.length === 0; },
    add(a, b) { if (arguments.length > 1) { this.splice(a, 0, b); } else { this.push(a); } return true; },
    contains(v) { return this.includes(v); }, remove(i) { return this.splice(i, 1)[0]; },
  });
  methods(String.prototype, {
    equals(o) { return this == o; }, contains(o) { return this.includes(o); },
    equalsIgnoreCase(o) { return o != null && this.toLowerCase() === String(o).toLowerCase(); },
    isEmpty() { return this.length === 0; }, matches(p) { return new RegExp("^(?:" + p + ")$").test(this); },
  });
  const replace = String.prototype.replaceAll;
  methods(String.prototype, { replace(a, b) { return replace.call(this, a, b); } });
  methods(Set.prototype, {
    contains(v) { return this.has(v); }, isEmpty() { return this.size === 0; }, remove(v) { return this.delete(v); },
  });
  methods(Object.prototype, {
    size() { return keysOf(this).length; }, get(k) { return this[k]; },
    put(k, v) { const old = this[k]; this[k] = v; return old === undefined ? null : old; },
    containsKey(k) { return Object.hasOwn(this, k); },
    remove(k) { const old = this[k]; delete this[k]; return old === undefined ? null : old; },
    keys() { return keysOf(this); }, keySet() { return keysOf(this); },
    values() { return keysOf(this).map(k => this[k]); }, isEmpty() { return keysOf(this).length === 0; },
    entrySet() { return keysOf(this).map(k => ({ key: k, value: this[k], getKey() { return k; },
                                                getValue: () => this[k] })); },
  });

  function number(text, pattern, what) {
    if (!pattern.test(String(text).trim())) { throw new Error("not " + what + ": " + text); }
    return NumberOf(text);
  }
  const utf8 = text => Array.from(unescape(encodeURIComponent(text)), c => (c.charCodeAt(0) << 24) >> 24);
  const fromUtf8 = bytes => decodeURIComponent(escape(String.fromCharCode(...bytes.map(b => b & 255))));
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  function flat(map, out, excluded, path, prefix) {
    for (const key of keysOf(map)) {
      if (excluded.includes(key)) { continue; }
      const value = map[key], name = path && prefix ? prefix + "." + key : key;
      if (value !== null && typeof value === "object") { flat(value, out, excluded, path, name); }
      else { out[name] = value; }
    }
    return out;
  }
  Object.assign(globalThis, {
    toFixed(x, n) { const f = Math.pow(10, n); return Math.round((x + NumberOf.EPSILON) * f) / f; },
    toInt(x) { return x < 0 ? -Math.round(-x) : Math.round(x); },
    parseDouble(t) { return number(t, /^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$/, "a number"); },
    parseLong(t, radix) {
      if (radix !== undefined && radix !== 10) { return parseInt(t, radix); }
      return number(t, /^[-+]?\d+$/, "a whole number");
    },
    raiseError(text) { throw new Error(text); },
    isMap(v) { return v !== null && typeof v === "object" && !Array.isArray(v) && !(v instanceof Set); },
    isList(v) { return Array.isArray(v); }, isArray(v) { return Array.isArray(v); },
    isSet(v) { return v instanceof Set; }, newSet() { return new Set(); }, toSet(list) { return new Set(list); },
    padStart(t, n, c) { return String(t).padStart(n, c); }, padEnd(t, n, c) { return String(t).padEnd(n, c); },
    stringToBytes(text) { return utf8(text); }, bytesToString(bytes) { return fromUtf8(bytes); },
    decodeToString(bytes) { return fromUtf8(bytes); },
    decodeToJson(v) { return JSON.parse(typeof v === "string" ? v : fromUtf8(v)); },
    toFlatMap(map, a, b) {
      const excluded = Array.isArray(a) ? a : [], path = typeof a === "boolean" ? a : b !== false;
      return flat(map, {}, excluded, path, "");
    },
    btoa(text) {
      let out = "";
      for (let i = 0; i < text.length; i += 3) {
        const left = text.length - i, at = k => (k < left ? text.charCodeAt(i + k) & 255 : 0);
        const n = at(0) << 16 | at(1) << 8 | at(2);
        out += letters[n >> 18] + letters[n >> 12 & 63]
             + (left > 1 ? letters[n >> 6 & 63] : "=") + (left > 2 ? letters[n & 63] : "=");
      }
      return out;
    },
    atob(text) {
      let out = "", bits = 0, held = 0;
      for (const c of text) {
        const six = letters.indexOf(c);
        if (six < 0) { continue; }
        held = (held << 6 | six) & 0xFFFFFF; bits += 6;
        if (bits >= 8) { bits -= 8; out += String.fromCharCode(held >> bits & 255); }
      }
      return out;
    },
  });
})();
"""
