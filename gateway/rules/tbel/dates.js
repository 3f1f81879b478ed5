// Date of TBEL: months from 1, Monday is 1, in the zone of this machine. Source: reference rule-engine, 6.2.
(function () {
'use strict';
const fail = _fail, two = n => String(n).padStart(2, '0'), Native = Date;
class Moment { constructor(ms) { this.ms = Number.isFinite(ms) ? ms : fail('no date'); } toJSON() { return iso(this); } }
const d = o => new Native(o.ms);
const iso = o => d(o).toISOString().replace('.000Z', 'Z');
const zone = o => { const m = -d(o).getTimezoneOffset(); return m === 0 ? 'Z' : (m < 0 ? '-' : '+') + two(Math.floor(Math.abs(m) / 60)) + ':' + two(Math.abs(m) % 60); };
const day = x => x.getFullYear() + '-' + two(x.getMonth() + 1) + '-' + two(x.getDate());
const time = x => two(x.getHours()) + ':' + two(x.getMinutes()) + ':' + two(x.getSeconds());
const MONTHS = 'Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split(' ');
const LONG = 'January February March April May June July August September October November December'.split(' ');
const DAYS = 'Sunday Monday Tuesday Wednesday Thursday Friday Saturday'.split(' ');
const clock = x => (x.getHours() % 12 || 12) + ':' + two(x.getMinutes()) + ':' + two(x.getSeconds()) + ' ' + (x.getHours() < 12 ? 'AM' : 'PM');
function plainLocale(args) { if (args.some(a => a != null && a !== 'en-US' && a !== 'en_US')) { fail('dates are written in the locale en-US and the zone of this machine only'); } }
function offset(name) {
  if (name === 'UTC' || name === 'GMT' || name === 'Z') { return 0; }
  const m = /^(?:UTC|GMT)?([-+])(\d\d?):?(\d\d)?$/.exec(name);
  return m ? (m[1] === '-' ? -1 : 1) * (Number(m[2]) * 60 + Number(m[3] ?? 0)) : fail('the time zone ' + name + ' is not here: UTC or an offset as +02:00');
}
function read(t) {
  t = t.trim();
  const ms = Native.parse(/^\d{4}-\d\d-\d\d$/.test(t) ? t + 'T00:00:00' : t.replace(/^(\d{4}-\d\d-\d\d) /, '$1T'));
  return Number.isNaN(ms) ? fail('no date: ' + JSON.stringify(t.slice(0, 40))) : ms;
}
const PARTS = {y: ['\\d+', 0], M: ['\\d\\d?', 1], d: ['\\d\\d?', 2], H: ['\\d\\d?', 3], h: ['\\d\\d?', 3], m: ['\\d\\d?', 4], s: ['\\d\\d?', 5], S: ['\\d+', 6]};
function readBy(t, pattern, zoneName) {
  const places = []; let named = null;
  const re = pattern.replace(/'([^']*)'|([A-Za-z])\2*|[^A-Za-z]/g, (all, quoted, letter) => {
    if (quoted !== undefined) { return quoted.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'); }
    if (letter === 'a') { places.push('a'); return '(AM|PM|am|pm)'; }
    if (letter === 'X' || letter === 'Z' || letter === 'x') { places.push('zone'); return '(Z|[-+]\\d\\d:?\\d\\d|UTC|GMT)'; }
    if (!letter) { return all.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'); }
    if (letter === 'M' && all.length > 2) { places.push('month'); return '([A-Za-z]+)'; }
    if (!PARTS[letter]) { fail('the date pattern ' + all + ' is not here'); }
    places.push(letter); return '(' + (all.length > 1 && letter !== 'S' ? '\\d{' + all.length + '}' : PARTS[letter][0]) + ')';
  });
  const found = new RegExp('^' + re + '$').exec(t);
  if (!found) { fail('no date of the pattern ' + pattern + ': ' + JSON.stringify(t.slice(0, 40))); }
  const v = [1970, 1, 1, 0, 0, 0, 0]; let half = '';
  places.forEach((p, i) => {
    const x = found[i + 1];
    if (p === 'a') { half = x.toUpperCase(); } else if (p === 'zone') { named = x; }
    else if (p === 'month') { v[1] = MONTHS.findIndex(m => m.toLowerCase() === x.slice(0, 3).toLowerCase()) + 1; }
    else { v[PARTS[p][1]] = p === 'y' && x.length === 2 ? 2000 + Number(x) : p === 'S' ? Number(x.padEnd(3, '0').slice(0, 3)) : Number(x); }
  });
  if (half) { v[3] = v[3] % 12 + (half === 'PM' ? 12 : 0); }
  zoneName = named ?? zoneName;
  return zoneName ? Native.UTC(v[0], v[1] - 1, ...v.slice(2)) - offset(zoneName) * 60000 : new Native(v[0], v[1] - 1, ...v.slice(2)).getTime();
}
const methods = {
  getTime: o => o.ms, valueOf: o => o.ms, setTime(o, ms) { o.ms = ms; }, toISOString: iso, toJSON: iso,
  getTimezoneOffset: o => d(o).getTimezoneOffset(), toInstant: iso, compareTo: (o, x) => Math.sign(o.ms - x.ms),
  toString: o => day(d(o)) + ' ' + time(d(o)),
  toDateString: o => { const x = d(o); return DAYS[x.getDay()] + ', ' + LONG[x.getMonth()] + ' ' + x.getDate() + ', ' + x.getFullYear(); },
  toTimeString: o => clock(d(o)) + ' ' + (zone(o) === 'Z' ? 'UTC' : zone(o)), toUTCString: o => iso(o),
  toLocaleDateString(o, ...a) { plainLocale(a); const x = d(o); return (x.getMonth() + 1) + '/' + x.getDate() + '/' + two(x.getFullYear() % 100); },
  toLocaleTimeString(o, ...a) { plainLocale(a); return clock(d(o)); },
  toLocaleString(o, ...a) { return methods.toLocaleDateString(o, ...a) + ', ' + clock(d(o)); },
  before: (o, x) => o.ms < x.ms, after: (o, x) => o.ms > x.ms, equals: (o, x) => x instanceof Moment && x.ms === o.ms,
};
for (const utc of ['', 'UTC']) {
  for (const name of ['FullYear', 'Date', 'Hours', 'Minutes', 'Seconds', 'Milliseconds']) {
    methods['get' + utc + name] = o => d(o)['get' + utc + name]();
    methods['set' + utc + name] = (o, ...v) => { if (name === 'FullYear' && v.length > 1) { v[1] -= 1; } o.ms = d(o)['set' + utc + name](...v); };
  }
  methods['get' + utc + 'Month'] = o => d(o)['get' + utc + 'Month']() + 1;
  methods['set' + utc + 'Month'] = (o, m, ...v) => { o.ms = d(o)['set' + utc + 'Month'](m - 1, ...v); };
  methods['get' + utc + 'Day'] = o => d(o)['get' + utc + 'Day']() || 7;
}
for (const [name, of, by] of [['Years', 'FullYear', 1], ['Months', 'Month', 1], ['Weeks', 'Date', 7], ['Days', 'Date', 1]]) {
  methods['add' + name] = (o, n) => { const x = d(o); o.ms = x['set' + of](x['get' + of]() + n * by); };
}
for (const [name, ms] of [['Hours', 3600000], ['Minutes', 60000], ['Seconds', 1000], ['Nanos', 1e-6], ['Milliseconds', 1]]) {
  methods['add' + name] = (o, n) => { o.ms += Math.trunc(n * ms); };
}
_table(Moment.prototype, 'a date', methods);
Object.assign(_f, {
  newDate(a) {
    if (a.length === 0) { return new Moment(Native.now()); }
    if (a.length === 1) { return new Moment(typeof a[0] === 'number' ? a[0] : a[0] instanceof Moment ? a[0].ms : read(_t(a[0]))); }
    if (typeof a[0] === 'string') {
      const last = a.length > 3 ? a[3] : null;
      return new Moment(readBy(a[0], _t(a[1]), last));
    }
    const [y, m, dd = 1, ...rest] = a;
    return new Moment(new Native(y, m - 1, dd, ...rest).getTime());
  },
  dateUTC: (y, m = 1, dd = 1, ...rest) => Native.UTC(y, m - 1, dd, ...rest),
  dateParse: (t, pattern) => pattern === undefined ? read(_t(t)) : readBy(_t(t), _t(pattern), null),
});
})();
