// Under a translated TBEL script: its operators and methods. Names begin with _, the script's with $.
// No prototype gets a member that a name could reach: methods are in tables behind a symbol, so that data never
// meets them. Source: reference rule-engine, 6.2.
(function () {
'use strict';
const METHODS = Symbol('methods'), isList = Array.isArray, own = Object.hasOwn, keysOf = Object.keys;
const define = (o, k, v) => Object.defineProperty(o, k, {__proto__: null, value: v, writable: true, enumerable: true,
                                                        configurable: true});
const empty = {toJSON() { return null; }};
class Entry {
  constructor(key, value, map) { this.key = key; this.value = value; Object.defineProperty(this, 'map', {value: map}); }
  toJSON() { return {[this.key]: this.value}; }
}
const fail = text => { throw new Error(text); };
const what = o => o == null ? 'null' : o[METHODS].kind;
const isDate = o => o[METHODS].kind === 'a date';

function doubleText(x) {
  if (typeof x !== 'number') { return text(x); }
  if (!Number.isFinite(x)) { return String(x); }
  const a = Math.abs(x);
  if (a === 0 || (a >= 1e-3 && a < 1e7)) { const s = String(x); return s.includes('.') ? s : s + '.0'; }
  const [m, e] = x.toExponential().split('e');
  return (m.includes('.') ? m : m + '.0') + 'E' + Number(e);
}
function text(x) {
  if (typeof x === 'string') { return x; }
  if (x == null) { return 'null'; }
  if (typeof x === 'number') { return Number.isInteger(x) ? (Math.abs(x) < 1e21 ? String(BigInt(x)) : doubleText(x)) : doubleText(x); }
  if (typeof x === 'boolean') { return String(x); }
  if (isList(x)) { return '[' + x.map(text).join(', ') + ']'; }
  if (x instanceof Set) { return '[' + [...x].map(text).join(', ') + ']'; }
  if (x instanceof Entry) { return text(x.key) + '=' + text(x.value); }
  if (x === empty) { return ''; }
  if (isDate(x)) { return x[METHODS].toString(x); }
  return '{' + keysOf(x).map(k => k + '=' + text(x[k])).join(', ') + '}';
}
const NUMERIC = /^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$/;
function num(x) {
  if (typeof x === 'number') { return x; }
  if (typeof x === 'string' && NUMERIC.test(x)) {
    const n = Number(x);
    return /[.eE]/.test(x) ? n : Math.max(-2147483648, Math.min(2147483647, n));
  }
  return fail('a number was expected, not ' + (typeof x === 'string' ? '"' + x.slice(0, 40) + '"' : what(x)));
}
function relation(a, b) {
  if (a == null || b == null) { return NaN; }
  if (typeof a === 'string' && typeof b === 'string') { return a < b ? -1 : a > b ? 1 : 0; }
  if (typeof a === 'object' && typeof b === 'object' && isDate(a) && isDate(b)) { return a.ms - b.ms; }
  const number = x => typeof x === 'string' && NUMERIC.test(x) ? Number(x) : num(x);
  return number(a) - number(b);
}
function equal(a, b) {
  if (a === b) { return true; }
  if (a === empty || b === empty) { return isEmpty(a === empty ? b : a); }
  if (a == null || b == null) { return a == null && b == null; }
  const ta = typeof a, tb = typeof b;
  if (ta !== tb) {
    if (ta === 'string' || tb === 'string') {
      const s = ta === 'string' ? a : b, o = ta === 'string' ? b : a;
      if (typeof o === 'number') { return NUMERIC.test(s) && Number(s) === o; }
      return typeof o === 'boolean' && s === String(o);
    }
    return false;
  }
  if (ta !== 'object') { return false; }
  if (isList(a)) { return isList(b) && a.length === b.length && a.every((x, i) => equal(x, b[i])); }
  if (a instanceof Set) { return b instanceof Set && a.size === b.size && [...a].every(x => holds(b, x)); }
  if (isList(b) || b instanceof Set) { return false; }
  if (isDate(a) || isDate(b)) { return isDate(a) && isDate(b) && a.ms === b.ms; }
  const keys = keysOf(a);
  return keys.length === keysOf(b).length && keys.every(k => own(b, k) && equal(a[k], b[k]));
}
function isEmpty(x) {
  if (x == null || x === 0 || x === false) { return true; }
  if (typeof x === 'string') { return x.trim() === ''; }
  if (typeof x !== 'object') { return false; }
  return isList(x) ? x.length === 0 : x instanceof Set ? x.size === 0 : !isDate(x) && keysOf(x).length === 0;
}
function holds(o, x) {
  if (o == null) { return false; }
  if (typeof o === 'string') { return o.includes(text(x)); }
  if (isList(o)) { return o.some(y => equal(x, y)); }
  if (o instanceof Set) { return o.has(x) || [...o].some(y => equal(x, y)); }
  return own(o, text(x));
}
function range(o, i) {
  if (typeof i === 'string' && /^\d+$/.test(i)) { i = Number(i); }
  if (!Number.isInteger(i) || i < 0 || i >= o.length) {
    fail('index ' + text(i) + ' is outside of the ' + what(o).slice(2) + ' of ' + o.length);
  }
  return i;
}
function at(o, i) {
  if (isList(o)) { return o[range(o, i)] ?? null; }
  if (typeof o === 'string') { return o[range(o, i)]; }
  return get(o, text(i));
}
function get(o, k) {
  if (o == null) { fail('cannot read ' + JSON.stringify(k) + ' of null'); }
  if (k === 'length' && (isList(o) || typeof o === 'string')) { return o.length; }
  if (typeof o !== 'object') { fail('no member ' + JSON.stringify(k) + ' in ' + what(o)); }
  return own(o, k) ? o[k] ?? null : null;
}
function set(o, k, v) {
  if (o == null) { fail('cannot write ' + JSON.stringify(k) + ' of null'); }
  if (isList(o)) { return o[range(o, k)] = v; }
  if (typeof o !== 'object' || o instanceof Set || isDate(o)) { fail('cannot write ' + JSON.stringify(k) + ' of ' + what(o)); }
  if (k === '__proto__') { define(o, k, v); } else { o[k] = v; }
  return v;
}
const whole = x => Number.isInteger(x) ? x : fail('a whole number was expected, not ' + text(x));
const fits = x => (x | 0) === x;
function bits(op, a, b) {
  a = num(a); b = num(b);
  if (fits(a) && fits(b)) { return op(a, b); }
  const n = BigInt.asIntN(64, op(BigInt(whole(a)), BigInt(whole(b))));
  return Number(n);
}
const wide = x => BigInt.asUintN(64, BigInt(whole(x)));
const cut = (a, b) => b === 0 ? fail('division by zero') : Math.trunc(a / b);
function call(o, name, args) {
  if (o == null) { fail('cannot call ' + name + '() of null'); }
  const table = o[METHODS];
  if (!own(table, name) || name === 'kind') { fail('there is no method ' + name + '() of ' + table.kind); }
  const r = table[name](o, ...args);
  return r === undefined ? null : r;
}
function is(o, kind) {
  if (o == null) { return false; }
  const t = typeof o;
  switch (kind) {
    case 'Object': return true;
    case 'String': case 'CharSequence': return t === 'string';
    case 'Boolean': return t === 'boolean';
    case 'Number': return t === 'number';
    case 'Integer': return t === 'number' && fits(o);
    case 'Long': return t === 'number' && Number.isInteger(o) && !fits(o);
    case 'Double': case 'Float': return t === 'number' && !Number.isInteger(o);
    case 'List': case 'ArrayList': return isList(o);
    case 'Collection': return isList(o) || o instanceof Set;
    case 'Set': case 'HashSet': return o instanceof Set;
    case 'Date': return t === 'object' && isDate(o);
    case 'Map': case 'HashMap': case 'LinkedHashMap': return what(o) === 'a map';
    default: return fail('there is no class ' + kind);
  }
}
function cast(x, kind) {
  if (kind === 'String' || kind === 'char') { return text(x); }
  if (kind === 'boolean' || kind === 'Boolean') { return typeof x === 'boolean' ? x : text(x) === 'true'; }
  if (x == null && /^[A-Z]/.test(kind)) { return null; }
  const n = () => typeof x === 'string' && NUMERIC.test(x) ? Number(x) : num(x);
  switch (kind) {
    case 'int': case 'Integer': { const v = n(); return Math.max(-2147483648, Math.min(2147483647, Math.trunc(v))); }
    case 'long': case 'Long': return Math.trunc(n());
    case 'short': case 'Short': return (n() << 16) >> 16;
    case 'byte': case 'Byte': return (n() << 24) >> 24;
    case 'double': case 'Double': case 'float': case 'Float': case 'BigDecimal': return n();
    default: return x;
  }
}
function make(kind, args) {
  switch (kind) {
    case 'ArrayList': case 'LinkedList': return args.length && typeof args[0] !== 'number' ? [...iter(args[0])] : [];
    case 'HashMap': case 'LinkedHashMap': case 'TreeMap': {
      const map = {};
      if (args.length && typeof args[0] === 'object') { for (const k of keysOf(args[0])) { set(map, k, args[0][k]); } }
      return map;
    }
    case 'HashSet': case 'LinkedHashSet': return new Set(args.length && typeof args[0] !== 'number' ? iter(args[0]) : []);
    case 'Date': return _f.newDate(args);
    case 'String': return args.length ? text(args[0]) : '';
    case 'Random': return {};
    default: return fail('new ' + kind + '() is not possible');
  }
}
function entries(o) { return keysOf(o).map(k => new Entry(k, o[k], o)); }
function iter(o) {
  if (o == null) { fail('cannot walk through null'); }
  if (isList(o)) { return o; }
  if (o instanceof Set) { return [...o]; }
  if (typeof o === 'string') { return [...o]; }
  if (what(o) === 'a map') { return entries(o); }
  return fail('cannot walk through ' + what(o));
}
const order = (a, b) => typeof a === 'number' && typeof b === 'number' ? a - b : text(a) < text(b) ? -1 : text(a) > text(b) ? 1 : 0;
const sorted = (list, up) => list.sort(up === false ? (a, b) => order(b, a) : order);
const pattern = p => { try { return new RegExp(p, 'g'); } catch (e) { return fail('no regular expression: ' + p); } };
const matches = (s, p) => { try { return new RegExp('^(?:' + p + ')$', 's').test(s); } catch (e) { return fail('no regular expression: ' + p); } };
const common = {
  toString: text, equals: (o, x) => typeof o === typeof x && equal(o, x),
  hashCode(o) { let h = 0; for (const c of text(o)) { h = (31 * h + c.charCodeAt(0)) | 0; } return typeof o === 'number' && fits(o) ? o : h; },
};
function table(prototype, kind, methods) {
  Object.defineProperty(prototype, METHODS, {value: Object.freeze({__proto__: null, kind, ...common, ...methods})});
}
table(Array.prototype, 'a list', {
  size: o => o.length, length: o => o.length, isEmpty: o => o.length === 0, get: at,
  set(o, i, v) { i = range(o, i); const old = o[i]; o[i] = v; return old; },
  add(o, a, b, ...n) { if (b === undefined) { o.push(a); } else { if (a !== o.length) { range(o, a); } o.splice(a, 0, b); } return true; },
  addAll(o, l) { for (const x of iter(l)) { o.push(x); } return true; },
  remove(o, i) { return typeof i === 'number' ? o.splice(range(o, i), 1)[0] : o.splice(o.findIndex(x => equal(x, i)) >>> 0, 1).length > 0; },
  removeAll(o, l) { const n = o.length; const keep = o.filter(x => !holds(l, x)); o.splice(0, n, ...keep); return keep.length !== n; },
  clear(o) { o.length = 0; }, contains: holds, containsAll: (o, l) => iter(l).every(x => holds(o, x)),
  indexOf: (o, x) => o.findIndex(y => equal(x, y)), lastIndexOf: (o, x) => o.findLastIndex(y => equal(x, y)),
  push: (o, ...x) => o.push(...x), pop: o => o.pop(), shift: o => o.shift(), unshift: (o, ...x) => o.unshift(...x),
  slice: (o, a, b) => o.slice(a, b), splice: (o, ...a) => o.splice(...a), toSpliced: (o, ...a) => o.toSpliced(...a),
  subList(o, a, b) { if (a < 0 || b > o.length || a > b) { fail('subList(' + a + ', ' + b + ') of ' + o.length); } return o.slice(a, b); },
  concat: (o, ...l) => o.concat(...l), join: (o, by) => text(o).slice(1, -1).replaceAll(', ', by === undefined ? ',' : by),
  sort: sorted, toSorted: (o, up) => sorted([...o], up), reverse: o => o.reverse(), toReversed: o => o.toReversed(),
  fill: (o, ...a) => o.fill(...a), toArray: o => [...o], equals: equal,
});
table(String.prototype, 'a text', {
  length: o => o.length, isEmpty: o => o.length === 0, isBlank: o => o.trim() === '',
  equalsIgnoreCase: (o, x) => x != null && o.toLowerCase() === text(x).toLowerCase(),
  contains: (o, x) => o.includes(text(x)), matches, replace: (o, a, b) => o.replaceAll(text(a), () => text(b)),
  replaceAll: (o, a, b) => o.replace(pattern(a), b), replaceFirst: (o, a, b) => o.replace(new RegExp(a), b),
  split(o, p, n) {
    let parts = o.split(new RegExp(p));
    if (n > 0 && parts.length > n) { const rest = []; let s = o; const re = new RegExp(p);
      while (rest.length < n - 1) { const m = re.exec(s); rest.push(s.slice(0, m.index)); s = s.slice(m.index + m[0].length); }
      return [...rest, s]; }
    if (n === undefined || n === 0) { while (parts.length > 0 && parts[parts.length - 1] === '' && o !== '') { parts.pop(); } }
    return parts;
  },
  substring(o, a, b) { if (b === undefined) { b = o.length; } if (a < 0 || b > o.length || a > b) { fail('substring(' + a + ', ' + b + ') of a text of ' + o.length); } return o.slice(a, b); },
  charAt: at, indexOf: (o, x, i) => o.indexOf(text(x), i), lastIndexOf: (o, x) => o.lastIndexOf(text(x)),
  startsWith: (o, x, i) => o.startsWith(x, i), endsWith: (o, x) => o.endsWith(x), concat: (o, x) => o + text(x),
  toUpperCase: o => o.toUpperCase(), toLowerCase: o => o.toLowerCase(), trim: o => o.trim(), strip: o => o.trim(),
  repeat: (o, n) => o.repeat(n), compareTo: (o, x) => o < x ? -1 : o > x ? 1 : 0, intern: o => o,
  compareToIgnoreCase(o, x) { o = o.toLowerCase(); x = x.toLowerCase(); return o < x ? -1 : o > x ? 1 : 0; },
  toCharArray: o => o.split(''), chars: o => o.split('').map(c => c.charCodeAt(0)), getBytes: o => _f.stringToBytes(o),
  codePointAt: (o, i) => o.charCodeAt(range(o, i)),
});
table(Object.prototype, 'a map', {
  size: o => keysOf(o).length, isEmpty: o => keysOf(o).length === 0, get: (o, k) => get(o, text(k)),
  put(o, k, v) { k = text(k); const old = own(o, k) ? o[k] : null; set(o, k, v); return old; },
  putIfAbsent(o, k, v) { k = text(k); const old = own(o, k) ? o[k] : null; if (old === null) { set(o, k, v); } return old; },
  putAll(o, m) { for (const k of keysOf(m)) { set(o, k, m[k]); } },
  getOrDefault: (o, k, v) => own(o, text(k)) ? o[text(k)] : v, containsKey: (o, k) => own(o, text(k)),
  containsValue: (o, v) => keysOf(o).some(k => equal(o[k], v)),
  remove(o, k) { k = text(k); const old = own(o, k) ? o[k] : null; delete o[k]; return old; },
  replace(o, k, v) { k = text(k); const old = own(o, k) ? o[k] : null; if (old !== null) { set(o, k, v); } return old; },
  clear(o) { for (const k of keysOf(o)) { delete o[k]; } },
  keys: o => keysOf(o), keySet: o => new Set(keysOf(o)), values: o => keysOf(o).map(k => o[k]), entrySet: entries,
  sortByKey(o) { reorder(o, keysOf(o).sort()); },
  sortByValue(o, up) { const keys = keysOf(o); keys.sort((a, b) => up === false ? order(o[b], o[a]) : order(o[a], o[b])); reorder(o, keys); },
  nextInt: (o, n) => Math.floor(Math.random() * (n ?? 4294967296)), nextDouble: o => Math.random(),
  nextBoolean: o => Math.random() < 0.5, equals: equal,
});
function reorder(o, keys) { const all = keys.map(k => o[k]); for (const k of keys) { delete o[k]; } keys.forEach((k, i) => set(o, k, all[i])); }
table(Set.prototype, 'a set', {
  size: o => o.size, isEmpty: o => o.size === 0, contains: holds, add(o, x) { const is = holds(o, x); o.add(x); return !is; },
  remove: (o, x) => o.delete(x), clear: o => o.clear(), addAll(o, l) { const n = o.size; for (const x of iter(l)) { o.add(x); } return o.size > n; },
  toArray: o => [...o], toList: o => [...o], containsAll: (o, l) => iter(l).every(x => holds(o, x)),
  sort(o, up) { const all = sorted([...o], up); o.clear(); for (const x of all) { o.add(x); } return o; },
  toSorted: (o, up) => new Set(sorted([...o], up)), equals: equal,
});
Object.defineProperty(Set.prototype, 'toJSON', {value() { return [...this]; }});
table(Entry.prototype, 'an entry', {getKey: o => o.key, getValue: o => o.value, setValue(o, v) { o.value = v; return set(o.map, o.key, v); }});
table(Number.prototype, 'a number', {
  intValue: o => Math.trunc(o) | 0, longValue: o => Math.trunc(o), doubleValue: o => o, floatValue: o => o,
  byteValue: o => (o << 24) >> 24, compareTo: (o, x) => Math.sign(o - x), isNaN: o => o !== o,
});
table(Boolean.prototype, 'a boolean', {booleanValue: o => o, compareTo: (o, x) => Number(o) - Number(x)});
Math.signum = Math.sign; Math.toRadians = x => x / 180 * Math.PI; Math.toDegrees = x => x * 180 / Math.PI;
Math.rint = x => { const r = Math.round(x); return Math.abs(x % 1) === 0.5 && r % 2 !== 0 ? r - 1 : r; };
Math.floorDiv = (a, b) => b === 0 ? fail('division by zero') : Math.floor(a / b);
Math.floorMod = (a, b) => b === 0 ? fail('division by zero') : a - Math.floor(a / b) * b;
const parse = JSON.parse, stringify = JSON.stringify;
const plain = (k, v) => typeof v === 'number' && !Number.isFinite(v) ? String(v) : v;
Object.assign(globalThis, {
  _f: {__proto__: null}, _empty: empty, _METHODS: METHODS, _table: table, _fail: fail, _whole: whole, _equal: equal,
  _b: x => x === true || (x !== false && fail('a condition must be true or false, not ' + (x == null ? 'null' : text(x).slice(0, 40)))),
  _lt: (a, b) => typeof a === 'number' && typeof b === 'number' ? a < b : relation(a, b) < 0,
  _gt: (a, b) => typeof a === 'number' && typeof b === 'number' ? a > b : relation(a, b) > 0,
  _le: (a, b) => typeof a === 'number' && typeof b === 'number' ? a <= b : relation(a, b) <= 0,
  _ge: (a, b) => typeof a === 'number' && typeof b === 'number' ? a >= b : relation(a, b) >= 0,
  _eq: (a, b) => a === b || equal(a, b),
  _add(a, b) {
    if (typeof a === 'number' && typeof b === 'number') { return a + b; }
    return a == null || b == null || typeof a === 'string' || typeof b === 'string' || typeof a === 'object' || typeof b === 'object'
      ? text(a) + text(b) : num(a) + num(b);
  },
  _addl: (a, b) => typeof b === 'number' ? a + b : doubleText(a) + text(b),
  _addr: (a, b) => typeof a === 'number' ? a + b : text(a) + doubleText(b),
  _sub(a, b) {
    if (typeof a === 'number' && typeof b === 'number') { return a - b; }
    return a != null && b != null && isDate(a) && isDate(b) ? null : num(a) - num(b);
  },
  _mul: (a, b) => typeof a === 'number' && typeof b === 'number' ? a * b : num(a) * num(b),
  _div(a, b) {
    a = num(a); b = num(b);
    return Number.isInteger(a) && Number.isInteger(b) && !(fits(a) && fits(b)) ? cut(a, b) : a / b;
  },
  _wdiv(a, b) { a = num(a); b = num(b); return Number.isInteger(a) && Number.isInteger(b) ? cut(a, b) : a / b; },
  _ldiv: cut, _fdiv: (a, b) => num(a) / num(b),
  _idiv(a, b) {
    if (!Number.isInteger(a) || !Number.isInteger(b)) { fail('an int was expected, not ' + text(Number.isInteger(a) ? b : a) + ': begin with 0.0'); }
    return cut(a, b);
  },
  _mod(a, b) { a = num(a); b = num(b); return b === 0 && Number.isInteger(a) ? fail('division by zero') : a % b; },
  _pow: (a, b) => Math.pow(num(a), num(b)), _neg: a => -num(a), _n: num,
  _band: (a, b) => typeof a === 'boolean' && typeof b === 'boolean' ? a && b : bits((x, y) => x & y, a, b),
  _bor: (a, b) => typeof a === 'boolean' && typeof b === 'boolean' ? a || b : bits((x, y) => x | y, a, b),
  _bxor: (a, b) => typeof a === 'boolean' && typeof b === 'boolean' ? a !== b : bits((x, y) => x ^ y, a, b),
  _shl: (a, b) => bits((x, y) => x << y, a, b), _shr: (a, b) => bits((x, y) => x >> y, a, b),
  _ushr(a, b) { a = num(a); b = num(b); return fits(a) ? (a >>> b) | 0 : Number(BigInt.asIntN(64, wide(a) >> (BigInt(whole(b)) & 63n))); },
  _bnot(a) { a = num(a); return fits(a) ? ~a : Number(BigInt.asIntN(64, ~BigInt(whole(a)))); },
  _in: holds, _match: (s, p) => s != null && matches(text(s), p), _is: is, _cast: cast, _new: make, _map: () => ({}),
  _t: text, _dt: doubleText, _at: at, _put: (o, k, v) => isList(o) ? o[range(o, k)] = v : set(o, text(k), v), _set: set, _get: get,
  _opt: (o, k) => o == null ? null : get(o, k), _call: call, _maybe: (o, name, args) => o == null ? null : call(o, name, args),
  _iter: iter, _first: a => a, _unknown: name => fail('the name ' + name + ' means nothing here'),
  _array: (n, kind) => new Array(whole(n)).fill(/^[a-z]/.test(kind) ? (kind === 'boolean' ? false : 0) : null), _now: Date.now,
  _parse(t) { if (t == null) { return null; } try { return parse(text(t)); } catch (e) { return fail('no JSON: ' + e.message); } },
  _stringify: x => stringify(x, function (k, v) { return v === null && k !== '' && !isList(this) ? undefined : plain(k, v); }),
  _similar(a, b) {
    a = text(a); b = text(b);
    const n = Math.max(a.length, b.length); let same = 0;
    for (let i = 0; i < Math.min(a.length, b.length); i++) { if (a[i].toLowerCase() === b[i].toLowerCase()) { same++; } }
    return n === 0 ? 1 : same / n;
  },
  _sounds(a, b) {
    const code = t => {
      const c = {}; 'BFPV1 CGJKQSXZ2 DT3 L4 MN5 R6'.split(' ').forEach(g => { for (const l of g.slice(0, -1)) { c[l] = g.at(-1); } });
      t = text(t).toUpperCase().replace(/[^A-Z]/g, '');
      let out = t[0] ?? '', last = c[t[0]];
      for (const l of t.slice(1)) { if (c[l] && c[l] !== last) { out += c[l]; } if (l !== 'H' && l !== 'W') { last = c[l]; } }
      return (out + '000').slice(0, 4);
    };
    return code(a) === code(b);
  },
  _plain: plain,
});
})();
