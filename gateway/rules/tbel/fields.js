// What a calculated field's expression sees: ctx, then its arguments by name. A single argument is its plain value
// (ctx.args.<name> has ts and value), a rolling one a list of points with functions of its own.
// Source: reference rule-engine, 6.3.
(function () {
'use strict';
const list = Array.prototype[_METHODS], Rolling = Object.create(Array.prototype), Merged = Object.create(Array.prototype);
const numbers = (o, skips) => {
  if (o.length === 0) { _fail('the rolling argument has no values'); }
  const all = o.map(p => p.value);
  return skips === false ? all : all.filter(x => x === x);
};
const some = all => all.length === 0 ? _fail('the rolling argument has no numbers') : all;
const sum = all => { let s = 0; for (const x of all) { s += x; } return s; };
const mean = all => sum(all) / all.length;
const least = (all, sign) => all.reduce((a, b) => a !== a || b !== b ? NaN : sign * (b - a) < 0 ? b : a);
function spread(all) { const m = mean(all); return Math.sqrt(mean(all.map(x => (x - m) * (x - m)))); }
function middle(all) {
  if (all.some(x => x !== x)) { return NaN; }
  const s = [...all].sort((a, b) => a - b), h = s.length >> 1;
  return s.length % 2 ? s[h] : (s[h - 1] + s[h]) / 2;
}
const hidden = (o, k, value) => Object.defineProperty(o, k, {__proto__: null, value});
function dressed(points, prototype, startTs, endTs) {
  Object.setPrototypeOf(points, prototype);
  hidden(points, 'values', points);
  hidden(points, 'timeWindow', {startTs, endTs});
  return points;
}
function merged(o, others, settings) {
  const all = [o, ...others], given = settings?.timeWindow, skips = settings?.ignoreNaN !== false;
  for (const x of all) { if (x == null || Object.getPrototypeOf(x) !== Rolling) { _fail('only rolling arguments can be merged'); } }
  const startTs = given ? given.startTs : Math.min(...all.map(x => x.timeWindow.startTs));
  const endTs = given ? given.endTs : Math.max(...all.map(x => x.timeWindow.endTs));
  const times = [...new Set(all.flatMap(x => x.map(p => p.ts)))].sort((a, b) => a - b);
  const at = all.map(() => 0), last = all.map(() => NaN), rows = [];
  for (const ts of times) {
    all.forEach((x, i) => { while (at[i] < x.length && x[at[i]].ts <= ts) { last[i] = x[at[i]].value; at[i]++; } });
    if (given && (ts < startTs || ts > endTs)) { continue; }
    if (skips && last.some(v => v !== v)) { continue; }
    const row = {ts, values: [...last]};
    last.forEach((v, i) => hidden(row, 'v' + (i + 1), v));
    rows.push(row);
  }
  return dressed(rows, Merged, startTs, endTs);
}
const common = {...list, getValues: o => o, getValue: o => o, getSize: o => o.length, getTimeWindow: o => o.timeWindow};
_table(Rolling, 'a rolling argument', {
  ...common,
  max: (o, s) => least(some(numbers(o, s)), -1), min: (o, s) => least(some(numbers(o, s)), 1),
  sum: (o, s) => sum(numbers(o, s)), mean: (o, s) => mean(numbers(o, s)), avg: (o, s) => mean(numbers(o, s)),
  std: (o, s) => spread(numbers(o, s)), median: (o, s) => middle(some(numbers(o, s))),
  count: (o, s) => s === false ? o.length : o.filter(p => p.value === p.value).length,
  first: (o, s) => some(numbers(o, s))[0], last: (o, s) => some(numbers(o, s)).at(-1),
  merge: (o, other, settings) => merged(o, [other], settings), mergeAll: (o, others, settings) => merged(o, others, settings),
});
_table(Merged, 'merged rolling arguments', common);
globalThis._field = ([latestTs, names, given]) => {
  const args = {}, values = [];
  given.forEach((one, i) => {
    if (one.length === 2) {
      args[names[i]] = {ts: one[0], value: one[1]};
      values.push(one[1]);
    } else {
      const [startTs, endTs, times, points] = one;
      const rolling = dressed(times.map((ts, j) => ({ts, value: points[j] ?? NaN})), Rolling, startTs, endTs);
      args[names[i]] = rolling;
      values.push(rolling);
    }
  });
  return [{latestTs, args}, ...values];
};
})();
