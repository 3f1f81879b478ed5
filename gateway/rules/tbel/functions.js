// The functions that TBEL scripts call. Bytes are numbers from -128 to 127 in lists; whole numbers beyond 2^53 lose
// their last digits. Source: reference rule-engine, 6.3.
(function () {
'use strict';
const fail = _fail, isList = Array.isArray, keysOf = Object.keys, text = _t, whole = _whole;
const given = v => typeof v === 'string' && v.trim() !== '' ? v.trim() : null;
const bare = v => v.replace(/0[xX]/g, '').replaceAll(',', '.');
const isBinary = v => typeof v === 'string' && /^[01]+$/.test(v) ? 2 : -1;
const isOctal = v => typeof v === 'string' && /^[0-7]+$/.test(v) ? 8 : -1;
const isDecimal = v => typeof v === 'string' && /^-?\d+(\.\d+)?$/.test(v) ? 10 : -1;
const isHexadecimal = v => typeof v === 'string' && /^-?(0[xX])?[0-9a-fA-F]+$/.test(v) ? 16 : -1;
const isHex = v => /^-?0[xX]/.test(v);
const quoted = v => '"' + text(v).slice(0, 40) + '"';
function even(hex) { return hex.length % 2 === 0 ? hex : fail('a hexadecimal text needs an even number of digits: ' + quoted(hex)); }
function reversed(hex) {
  if (hex.startsWith('-')) { fail('a hexadecimal text without a sign was expected: ' + quoted(hex)); }
  return even(hex).match(/../g).reverse().join('');
}
function integer(value, radix, bits, big) {
  if (value == null || (typeof value === 'string' && value.trim() === '')) { return null; }
  if (typeof value !== 'string') { fail('a text was expected, not ' + text(value)); }
  const v = value.trim();
  if (!radix) { radix = isHex(v) ? 16 : isDecimal(v) > 0 ? 10 : isHexadecimal(v) > 0 ? 16 : 10; }
  let digits = bare(v);
  if (radix === 16) { even(digits.replace('-', '')); }
  const sign = digits.startsWith('-') ? -1n : 1n;
  if (!big) { digits = reversed(digits); }
  if (sign < 0n || digits.startsWith('+')) { digits = digits.slice(1); }
  const allowed = '0123456789abcdefghijklmnopqrstuvwxyz'.slice(0, radix);
  if (digits === '' || [...digits.toLowerCase()].some(c => !allowed.includes(c))) {
    fail('no whole number' + (radix === 10 ? '' : ' in base ' + radix) + ': ' + quoted(value));
  }
  let n = 0n; const base = BigInt(radix);
  for (const c of digits.toLowerCase()) { n = n * base + BigInt(allowed.indexOf(c)); }
  if ((radix === 16 || radix === 2) && sign > 0n && n < 1n << BigInt(bits)) {
    if (radix === 16 || digits.length === bits) { n = BigInt.asIntN(bits, n); }
  }
  n *= sign;
  if (BigInt.asIntN(bits, n) !== n) { fail('more than ' + (bits === 32 ? 'an int' : 'a long') + ' can hold: ' + quoted(value)); }
  return Number(n);
}
const view = new DataView(new ArrayBuffer(8));
const short32 = x => { // the shortest decimal that is this float
  if (!Number.isFinite(x)) { return x; }
  const f = Math.fround(x);
  for (let p = 1; p < 10; p++) { const d = Number(f.toPrecision(p)); if (Math.fround(d) === f) { return d; } }
  return f;
};
function decimal(value, what) {
  if (value == null || (typeof value === 'string' && value.trim() === '')) { return null; }
  const v = text(value).trim();
  return /^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?[dDfF]?$/.test(v) ? Number(v.replace(/[dDfF]$/, '')) : fail('no number: ' + quoted(value));
}
function bitsOf(value, big, length) {
  const v = given(value);
  if (v === null) { return fail('a hexadecimal text was expected'); }
  let hex = even(bare(v));
  if (isHexadecimal(hex) < 0 || hex.startsWith('-') || hex.length > length * 2) { fail('no hexadecimal number of ' + length + ' bytes: ' + quoted(value)); }
  if (!big) { hex = reversed(hex); }
  hex = hex.padStart(length * 2, '0');
  for (let i = 0; i < length; i++) { view.setUint8(i, parseInt(hex.slice(2 * i, 2 * i + 2), 16)); }
}
const hexFloat = (v, big = true) => { bitsOf(v, big, 4); return short32(view.getFloat32(0)); };
const hexDouble = (v, big = true) => { bitsOf(v, big, 8); return view.getFloat64(0); };
const hexInt = (v, big = true) => integer(v, 16, 32, big);
const hexLong = (v, big = true) => integer(v, 16, 64, big);
function bytesOf(list) { return isList(list) ? list.map(b => { const n = typeof b === 'string' ? Number(b) : b;
  return Number.isInteger(n) && n >= -128 && n <= 255 ? n & 255 : fail('a byte was expected, not ' + text(b)); }) : fail('a list of bytes was expected, not ' + text(list).slice(0, 40)); }
const signed = b => (b << 24) >> 24;
function piece(data, offset, length, big, max) {
  const all = bytesOf(data);
  if (length === undefined) { length = Math.min(max, all.length - offset); }
  if (offset < 0 || offset >= all.length) { fail('the offset ' + offset + ' is outside of ' + all.length + ' bytes'); }
  if (length < 1 || length > max || offset + length > all.length) { fail('a length of ' + length + ' bytes from ' + offset + ' on does not fit (at most ' + max + ' of ' + all.length + ')'); }
  const part = all.slice(offset, offset + length);
  return big ? part : part.reverse();
}
const magnitude = part => part.reduce((n, b) => n * 256n + BigInt(b), 0n);
const bytesInt = (d, o = 0, l, big = true) => Number(BigInt.asIntN(32, magnitude(piece(d, o, l, big, 4))));
const bytesLong = (d, o = 0, l, big = true) => Number(BigInt.asIntN(64, magnitude(piece(d, o, l, big, 8))));
function real(d, o, l, big, size) {
  // little-endian bytes that are too few stand at the beginning, that is: at the low end
  const part = piece(d, o, l, big, size), all = new Array(size - part.length).fill(0).concat(part);
  all.forEach((b, i) => view.setUint8(i, b));
  const x = size === 4 ? short32(view.getFloat32(0)) : view.getFloat64(0);
  return Number.isNaN(x) ? fail('these bytes are not a number (NaN)') : x;
}
const hexOf = bytes => bytesOf(bytes).map(b => b.toString(16).padStart(2, '0')).join('').toUpperCase();
function toBytes(value) {
  const v = given(value);
  if (v === null) { return fail('a hexadecimal text was expected'); }
  const hex = even(bare(v));
  if (isHexadecimal(hex) < 0 || hex.startsWith('-')) { fail('no hexadecimal text: ' + quoted(value)); }
  return (hex.match(/../g) ?? []).map(b => signed(parseInt(b, 16)));
}
function numberHex(n, big, prefix, length, max) {
  n = BigInt(whole(n));
  let hex = (n < 0n ? BigInt.asUintN(64, n) : n).toString(16).toUpperCase();
  if (hex.length % 2) { hex = '0' + hex; }
  if (n < 0n) {
    hex = hex.replace(/^F+(?!$)/, '');
    if (hex.length % 2) { hex = 'F' + hex; }
    hex = hex.length > max ? hex.slice(-max) : hex.length === max ? hex : 'FF' + hex;
  }
  if (!big) { hex = reversed(hex); }
  if (length > hex.length) { hex = hex.padStart(length, n < 0n ? 'F' : '0'); }
  return (prefix ? '0x' : '') + (length > 0 ? hex.slice(-length) : hex);
}
function realHex(x, big, size) {
  if (size === 4) { view.setFloat32(0, x); } else { view.setFloat64(0, x); }
  let hex = ''; for (let i = 0; i < size; i++) { hex += view.getUint8(i).toString(16).padStart(2, '0').toUpperCase(); }
  return '0x' + (big ? hex : reversed(hex));
}
const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
function base64(bytes) {
  let out = '';
  for (let i = 0; i < bytes.length; i += 3) {
    const left = bytes.length - i, n = bytes[i] << 16 | (bytes[i + 1] ?? 0) << 8 | (bytes[i + 2] ?? 0);
    out += letters[n >> 18] + letters[n >> 12 & 63] + (left > 1 ? letters[n >> 6 & 63] : '=') + (left > 2 ? letters[n & 63] : '=');
  }
  return out;
}
function unbase64(t) {
  if (typeof t !== 'string' || !/^[A-Za-z0-9+/]*={0,2}$/.test(t) || t.replace(/=/g, '').length % 4 === 1) { fail('no Base64: ' + quoted(t)); }
  const out = []; let bits = 0, held = 0;
  for (const c of t) {
    if (c === '=') { break; }
    held = (held << 6 | letters.indexOf(c)) & 0xFFFFFF; bits += 6;
    if (bits >= 8) { bits -= 8; out.push(held >> bits & 255); }
  }
  return out;
}
const charset = c => c === undefined || c === null ? 'UTF-8' : text(c).toUpperCase();
function encode(t, c) {
  t = text(t);
  switch (charset(c)) {
    case 'UTF-8': case 'UTF8': return Array.from(unescape(encodeURIComponent(t)), x => x.charCodeAt(0));
    case 'ISO-8859-1': case 'LATIN1': case 'US-ASCII': case 'ASCII': {
      const top = charset(c).includes('ASCII') ? 127 : 255;
      return Array.from(t, x => { const n = x.charCodeAt(0); return n > top ? 63 : n; });
    }
    case 'UTF-16BE': case 'UTF-16': case 'UTF-16LE': {
      const out = charset(c) === 'UTF-16' ? [254, 255] : [];
      for (let i = 0; i < t.length; i++) { const n = t.charCodeAt(i); out.push(...(charset(c) === 'UTF-16LE' ? [n & 255, n >> 8] : [n >> 8, n & 255])); }
      return out;
    }
    default: return fail('the character set ' + c + ' is not here');
  }
}
function utf8(bytes) {
  let out = '';
  for (let i = 0; i < bytes.length;) {
    const b = bytes[i], n = b < 128 ? 1 : b >> 5 === 6 && b > 193 ? 2 : b >> 4 === 14 ? 3 : b >> 3 === 30 && b < 245 ? 4 : 0;
    let point = n === 1 ? b : b & (255 >> (n + 1)), ok = n > 0 && i + n <= bytes.length;
    for (let k = 1; ok && k < n; k++) { ok = bytes[i + k] >> 6 === 2; point = point << 6 | bytes[i + k] & 63; }
    if (ok && (point > 0x10FFFF || (point >= 0xD800 && point < 0xE000))) { ok = false; }
    out += ok ? String.fromCodePoint(point) : '\uFFFD';
    i += ok ? n : 1;
  }
  return out;
}
function decode(list, c) {
  const bytes = bytesOf(list), name = charset(c);
  if (name === 'UTF-8' || name === 'UTF8') { return utf8(bytes); }
  if (/^(ISO-8859-1|LATIN1|US-ASCII|ASCII)$/.test(name)) { return bytes.map(b => name.includes('ASCII') && b > 127 ? '\uFFFD' : String.fromCharCode(b)).join(''); }
  if (/^UTF-16(BE|LE)?$/.test(name)) {
    let out = ''; for (let i = 0; i + 1 < bytes.length; i += 2) { out += String.fromCharCode(name === 'UTF-16LE' ? bytes[i] | bytes[i + 1] << 8 : bytes[i] << 8 | bytes[i + 1]); }
    return name === 'UTF-16' ? out.replace(/^\uFEFF/, '') : out;
  }
  return fail('the character set ' + c + ' is not here');
}
function binaryArray(n, count, big) {
  const out = []; let v = BigInt.asUintN(64, BigInt(whole(n)));
  for (let i = 0; i < count; i++) { out.unshift(Number(v & 1n)); v >>= 1n; }
  return big ? out : out.reverse();
}
function flat(v, out, excluded, path, named) {
  if (isList(v) || v instanceof Set) { [...v].forEach((x, i) => flat(x, out, excluded, path + '.' + i, named)); return; }
  if (v !== null && typeof v === 'object') {
    for (const k of keysOf(v)) { if (!excluded.includes(k)) { flat(v[k], out, excluded, path === '' ? k : path + '.' + k, named); } }
    return;
  }
  const parts = path.split('.');
  _set(out, named ? path : parts.slice(/^\d+$/.test(parts.at(-1)) ? -2 : -1).join('.'), v);
}
function half(x, n) {
  if (!Number.isFinite(x)) { return fail('no number to round: ' + x); }
  let [m, e] = _dt(Math.abs(x)).split('E'), [i, f = ''] = m.split('.');
  e = Number(e ?? 0);
  if (e > 0) { f = f.padEnd(e, '0'); i += f.slice(0, e); f = f.slice(e); }
  if (e < 0) { i = i.padStart(1 - e, '0'); f = i.slice(e) + f; i = i.slice(0, e); }
  if (f.length <= n) { return x; }
  let digits = BigInt(i + f.slice(0, Math.max(0, n)) || '0');
  if (f[n] >= '5') { digits += 1n; }
  const out = digits.toString().padStart(n + 1, '0');
  return Number((x < 0 ? '-' : '') + out.slice(0, out.length - n) + (n ? '.' + out.slice(-n) : ''));
}
function perimeter(t) { const p = typeof t === 'string' ? _parse(t) : t; return p == null ? fail('a perimeter is missing') : p; }
function inside(x, y, ring) {
  let is = false;
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
    const [a, b] = ring[i], [c, d] = ring[j];
    if ((b > y) !== (d > y) && x < (c - a) * (y - b) / (d - b) + a) { is = !is; }
  }
  return is;
}
const METRE = {METER: 1, KILOMETER: 1000, FOOT: 0.3048, MILE: 1609.344, NAUTICAL_MILE: 1852};
const wantsText = (v, name) => typeof v === 'string' ? v : fail(name + '() needs a text, not ' + text(v).slice(0, 40));
Object.assign(_f, {
  toFixed(x, n) { return half(_n(x), _n(n)); },
  toInt(x) { x = _n(x); return Math.sign(x) * Math.round(half(Math.abs(x), 0)); },
  isNaN(x) { return Number.isNaN(typeof x === 'string' ? decimal(x) : _n(x)); },
  parseInt: (v, radix) => integer(v, radix, 32, true), parseLong: (v, radix) => integer(v, radix, 64, true),
  parseFloat(v, radix) {
    if (typeof v === 'string' && (radix === 16 || (radix === undefined && isHex(v.trim())))) { return hexFloat(v); }
    const n = decimal(v); return n === null ? null : short32(n);
  },
  parseDouble(v, radix) { return typeof v === 'string' && (radix === 16 || isHex(v.trim())) ? hexDouble(v) : decimal(v); },
  parseBoolean: v => text(v).toLowerCase() === 'true',
  hexString: n => (n < 0 ? BigInt.asUintN(n < -2147483648 ? 64 : 32, BigInt(n)) : BigInt(n)).toString(16),
  binaryString: n => (n < 0 ? BigInt.asUintN(32, BigInt(n)) : BigInt(n)).toString(2),
  joined: (by, ...l) => (l.length === 1 && isList(l[0]) ? l[0] : l).map(text).join(by), listOf: (...l) => l,
  raiseError(t, v) { fail(text(t) + (v == null ? '' : ' for value ' + text(v))); },
  isMap: v => v != null && v[_METHODS].kind === 'a map', isList: v => isList(v), isArray: v => isList(v), isSet: v => v instanceof Set,
  newSet: () => new Set(), toSet: l => new Set(_iter(l)),
  padStart: (t, n, c) => text(t).padStart(n, text(c)), padEnd: (t, n, c) => text(t).padEnd(n, text(c)),
  btoa: t => base64(encode(t, 'ISO-8859-1')), atob: t => decode(unbase64(t), 'ISO-8859-1'),
  stringToBytes: (t, c) => encode(wantsText(t, 'stringToBytes'), c).map(signed), bytesToString: decode, decodeToString: l => decode(l),
  decodeToJson: v => _parse(typeof v === 'string' ? v : decode(v)),
  encodeURI(t) { return encodeURI(wantsText(t, 'encodeURI')); }, decodeURI(t) { return decodeURI(wantsText(t, 'decodeURI')); },
  toFlatMap(map, a, b) {
    const out = {}; flat(map, out, isList(a) ? a : [], '', typeof a === 'boolean' ? a : b !== false); return out;
  },
  isInsidePolygon(lat, lon, t) {
    let p = perimeter(t);
    if (!isList(p) || p.length === 0) { fail('a perimeter is a list of points'); }
    if (!isList(p[0][0])) { p = [p]; }
    return inside(lat, lon, p[0]) && !p.slice(1).some(hole => inside(lat, lon, hole));
  },
  isInsideCircle(lat, lon, t) {
    const p = perimeter(t), rad = Math.PI / 180, unit = METRE[p.radiusUnit ?? p.perimeterUnit ?? 'METER'];
    if (typeof p.latitude !== 'number' || typeof p.longitude !== 'number' || typeof p.radius !== 'number' || !unit) {
      fail('a circle has latitude, longitude, radius and radiusUnit');
    }
    const s = Math.sin((lat - p.latitude) * rad / 2) ** 2
            + Math.cos(lat * rad) * Math.cos(p.latitude * rad) * Math.sin((lon - p.longitude) * rad / 2) ** 2;
    return 2 * 6371008.8 * Math.asin(Math.sqrt(s)) <= p.radius * unit;
  },
  hexToBytes: toBytes, hexToBytesArray: toBytes, bytesToHex: hexOf, base64ToHex: t => hexOf(unbase64(t)),
  hexToBase64: t => base64(bytesOf(toBytes(t))), base64ToBytes: t => unbase64(t).map(signed),
  base64ToBytesList: t => unbase64(t).map(signed), bytesToBase64: b => base64(bytesOf(b)),
  bytesToExecutionArrayList: b => bytesOf(b).map(signed), printUnsignedBytes: b => bytesOf(b),
  intToHex: (n, big = true, prefix = false, length = 0) => numberHex(n, big, prefix, length, 8),
  longToHex: (n, big = true, prefix = false, length = 0) => numberHex(n, big, prefix, length, 16),
  floatToHex: (x, big = true) => realHex(x, big, 4), doubleToHex: (x, big = true) => realHex(x, big, 8),
  intLongToRadixString(n, radix = 10, big = true, prefix = false) {
    const v = BigInt(whole(n));
    if (radix === 16) { return numberHex(n, big, prefix, 0, 16); }
    if (radix === 10 || (radix >= 25 && radix <= 36)) { return v.toString(radix); }
    if (radix !== 2 && radix !== 8) { return fail('the base ' + radix + ' is not here: 2, 8, 10, 16, 25 to 36'); }
    const t = (v < 0n ? BigInt.asUintN(64, v) : v).toString(radix);
    if (radix === 8) { return t; }
    const size = [8, 16, 32, 64].find(s => v < 0n ? -v <= 1n << BigInt(s - 1) : t.length <= s);
    return v < 0n ? t.slice(-size) : t.padStart(size, '0');
  },
  parseHexToInt: hexInt, parseBigEndianHexToInt: v => hexInt(v), parseLittleEndianHexToInt: v => hexInt(v, false),
  parseHexToLong: hexLong, parseBigEndianHexToLong: v => hexLong(v), parseLittleEndianHexToLong: v => hexLong(v, false),
  parseHexToFloat: hexFloat, parseBigEndianHexToFloat: v => hexFloat(v), parseLittleEndianHexToFloat: v => hexFloat(v, false),
  parseHexToDouble: hexDouble, parseBigEndianHexToDouble: v => hexDouble(v), parseLittleEndianHexToDouble: v => hexDouble(v, false),
  parseHexIntLongToFloat(v, big = true) { const n = hexLong(v, big); return n === null ? null : short32(n); },
  parseBytesToInt: bytesInt, parseBytesToLong: bytesLong,
  parseBytesToFloat: (d, o = 0, l, big = true) => real(d, o, l, big, 4),
  parseBytesToDouble: (d, o = 0, l, big = true) => real(d, o, l, big, 8),
  parseBytesIntToFloat(d, o = 0, l, big = true) { return short32(Number(magnitude(piece(d, o, l, big, 4)))); },
  parseBytesLongToDouble(d, o = 0, l, big = true) { return Number(magnitude(piece(d, o, l, big, 8))); },
  parseByteToBinaryArray: (b, count = 8, big = true) => binaryArray(b, count, big),
  parseBytesToBinaryArray(list, count) {
    const all = bytesOf(list).flatMap(b => binaryArray(b, 8, true)); return count === undefined ? all : all.slice(-count);
  },
  parseLongToBinaryArray: (n, count = 64, big = true) => binaryArray(n, count, big),
  parseBinaryArrayToInt(list, offset = 0, length = list.length - offset) {
    const bits = list.slice(offset, offset + length);
    if (bits.some(b => b !== 0 && b !== 1)) { fail('a list of 0 and 1 was expected, not ' + text(list).slice(0, 40)); }
    return Number(bits.reduce((n, b) => n * 2n + BigInt(b), 0n));
  },
  isBinary, isOctal, isDecimal, isHexadecimal,
});
})();
