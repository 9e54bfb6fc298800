// Numbers as people read them.

/** A duration: `1.23 s`, `45.6 ms`, `789 µs`, `12 ns`. */
export function duration(ns: number): string {
  for (const [limit, unit] of [[1e3, "ns"], [1e6, "µs"], [1e9, "ms"]] as const) {
    if (Math.abs(ns) < limit * 0.9995) return `${+((ns / limit) * 1e3).toPrecision(3)} ${unit}`;
  }
  return Math.abs(ns) < 999.5e9 ? `${+(ns / 1e9).toPrecision(3)} s` : `${Math.round(ns / 1e9)} s`;
}

/** A number with thin groups of thousands: `12 345`. */
export function count(n: number): string {
  return Math.round(n).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** A share of one: `12.3 %`, `<0.1 %`. */
export function percent(share: number): string {
  if (share > 0 && share < 0.001) return "<0.1 %";
  return `${(share * 100).toFixed(share < 0.1 && share > 0 ? 1 : 0)} %`;
}

/** `1 span`, `2 spans`, `3 matches`. */
export function plural(n: number, noun: string): string {
  return `${count(n)} ${noun}${n === 1 ? "" : /(ch|ss)$/.test(noun) ? "es" : "s"}`;
}

/** Local time of day with milliseconds: `23:59:59.999`. */
export function timeOfDay(seconds: number): string {
  const date = new Date(seconds * 1000);
  const two = (n: number, width = 2) => String(n).padStart(width, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${two(date.getMilliseconds(), 3)}`;
}

/** Local time of day in seconds, now unless told: `23:59:59`. */
export function clockTime(seconds = Date.now() / 1000): string {
  return timeOfDay(seconds).slice(0, 8);
}
