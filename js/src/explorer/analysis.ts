// What a trace tells: costs by name, matches of a search, the critical path, the pieces of a call.

import { percent, plural } from "../shared/format";
import { MARKS } from "./chunk";
import { type Trace } from "./trace";

/** What the spans of one name and kind cost together; times in nanoseconds. */
export interface Cost {
  name: number;
  kind: number;
  calls: number;
  total: number;
  own: number;
  p50: number;
  p99: number;
  max: number;
  errors: number;
  /** The longest. */
  row: number;
}

export function costs(trace: Trace): Cost[] {
  const own = trace.selfTimes();
  const kinds = trace.head.kinds.length;
  const found = new Map<number, Cost & { times: number[] }>();
  for (let row = 0; row < trace.size; row++) {
    const key = trace.name[row]! * kinds + trace.kind[row]!;
    let cost = found.get(key);
    if (!cost) {
      cost = { name: trace.name[row]!, kind: trace.kind[row]!, calls: 0, total: 0, own: 0, p50: 0, p99: 0, max: -1, errors: 0, row, times: [] }; // prettier-ignore
      found.set(key, cost);
    }
    const took = trace.took(row);
    cost.calls++;
    cost.total += took;
    cost.own += own[row]!;
    cost.times.push(took);
    if (trace.bad(row)) cost.errors++;
    if (took > cost.max) {
      cost.max = took;
      cost.row = row;
    }
  }
  return [...found.values()].map(({ times, ...cost }) => {
    const sorted = Float64Array.from(times).sort();
    return { ...cost, p50: quantile(sorted, 0.5), p99: quantile(sorted, 0.99) };
  });
}

/** The smallest value that at least a part `q` of the values do not exceed (nearest rank). */
export function quantile(sorted: Float64Array, q: number): number {
  return sorted.length ? sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)]! : 0;
}

export interface Matches {
  /** By row. */
  rows: Uint8Array;
  /** Whether a name by itself matches: of sampled functions, which are no spans. */
  test(name: string): boolean;
  count: number;
  /** Part of all time taken that they and what is below them took. */
  share: number;
  /** A word that looks like a regular expression and is none; empty for none. */
  wrong: string;
}

/**
 * Finds spans. Words must all match: part of a name (case aside), `/regular expression/`, or `worker:`, `kind:`, `status:`
 * followed by the beginning of one.
 */
export function search(trace: Trace, query: string): Matches | null {
  const words = query.trim().match(/\/(?:[^/\\]|\\.)+\/|\S+/g) ?? [];
  if (!words.length) return null;
  const names = new Uint8Array(trace.names.length).fill(1);
  const filters: ((row: number) => boolean)[] = [];
  const tests: ((name: string) => boolean)[] = [];
  for (const word of words) {
    const [, field, rest] = /^(worker|kind|status):(.+)$/i.exec(word) ?? [];
    if (field && rest) {
      const wanted = rest.toLowerCase();
      const begins = (text: string) => text.toLowerCase().startsWith(wanted);
      if (field.toLowerCase() === "kind") filters.push((row) => begins(trace.kindOf(row)));
      else if (field.toLowerCase() === "status") filters.push((row) => begins(trace.statusOf(row)));
      else filters.push((row) => begins(trace.processes[trace.processOf(row)]![3]));
      continue;
    }
    const matches = nameTest(word);
    tests.push(matches);
    for (let name = 0; name < names.length; name++) if (!matches(trace.names[name]!)) names[name] = 0;
  }
  const rows = new Uint8Array(trace.size);
  let count = 0;
  for (let row = 0; row < trace.size; row++) {
    if (!names[trace.name[row]!] || !filters.every((filter) => filter(row))) continue;
    rows[row] = 1;
    count++;
  }
  const test = (name: string) => tests.length > 0 && tests.every((matches) => matches(name));
  return { rows, test, count, share: shareOf(trace, rows), wrong: words.find((word) => isExpression(word) && !compile(word)) ?? "" };
}

/** What is said of matches. */
export function foundText({ count, share, wrong }: Matches): string {
  return `${wrong && `${wrong} is no regular expression: `}${plural(count, "match")}, ${percent(share)}`;
}

/** The match after (or before) a span, by start, round and round; -1 if there is none. */
export function nextMatch(trace: Trace, matches: Matches, row: number, step: 1 | -1): number {
  const order = trace.byStart();
  let at = row >= 0 ? order.indexOf(row) : step > 0 ? -1 : order.length;
  for (let tried = 0; tried < order.length && matches.count; tried++) {
    at = (at + step + order.length) % order.length;
    if (matches.rows[order[at]!]) return order[at]!;
  }
  return -1;
}

function isExpression(word: string): boolean {
  return word.length > 2 && word.startsWith("/") && word.endsWith("/");
}

/** The regular expression of a word; null if it is wrong, not finished yet say: the word is then taken as it stands. */
function compile(word: string): RegExp | null {
  try {
    return new RegExp(word.slice(1, -1), "i");
  } catch {
    return null;
  }
}

function nameTest(word: string): (name: string) => boolean {
  const expression = isExpression(word) && compile(word);
  if (expression) return (name) => expression.test(name);
  const part = word.toLowerCase();
  return (name) => name.toLowerCase().includes(part);
}

function shareOf(trace: Trace, rows: Uint8Array): number {
  const own = trace.selfTimes();
  const { order, first, roots } = trace.children();
  const inside = new Uint8Array(trace.size);
  const pending = [...roots];
  let whole = 0, part = 0; // prettier-ignore
  while (pending.length) {
    const row = pending.pop()!;
    const parent = trace.parent[row]!;
    if (rows[row] || (parent >= 0 && inside[parent])) inside[row] = 1;
    whole += own[row]!;
    if (inside[row]) part += own[row]!;
    for (let at = first[row]!; at < first[row + 1]!; at++) pending.push(order[at]!);
  }
  return whole ? part / whole : 0;
}

/** A stretch during which everybody waited for one span's own work. */
export interface Segment {
  row: number;
  start: number;
  end: number;
}

/** What the whole took its time for: going back from the end, always the child that ended last. */
export function criticalPath(trace: Trace): Segment[] {
  const { order, first, roots } = trace.children();
  if (!roots.length) return [];
  const byEnd = (row: number): number[] => {
    const limit = trace.endOf(row);
    return [...order.subarray(first[row]!, first[row + 1]!)]
      .filter((child) => trace.endOf(child) <= limit)
      .sort((a, b) => trace.endOf(a) - trace.endOf(b));
  };
  const root = roots.reduce((best, row) => (trace.took(row) > trace.took(best) ? row : best));
  const found: Segment[] = [];
  const pending = [{ row: root, children: byEnd(root), until: trace.endOf(root), floor: trace.start[root]! }];
  while (pending.length) {
    const at = pending.pop()!;
    let entered = false;
    while (at.children.length) {
      const child = at.children.pop()!;
      const start = trace.start[child]!, end = trace.endOf(child); // prettier-ignore
      if (end > at.until || end <= at.floor || start >= at.until) continue;
      if (at.until > end) found.push({ row: at.row, start: end, end: at.until });
      const begins = Math.max(start, at.floor);
      pending.push({ ...at, until: begins }, { row: child, children: byEnd(child), until: end, floor: begins });
      entered = true;
      break;
    }
    if (!entered && at.until > at.floor) found.push({ row: at.row, start: at.floor, end: at.until });
  }
  return found.reverse();
}

/** A part of a call; see `znb.traces.pieces`, which this follows. */
export interface Piece {
  name: string;
  start: number;
  end: number;
}

export function pieces(trace: Trace, row: number): Piece[] {
  const kind = trace.kindOf(row);
  const start = trace.start[row]!, end = trace.endOf(row); // prettier-ignore
  if (kind === "serve" || kind === "job") return between(arrival(trace, row), end, served(trace, row));
  if (kind !== "call" && kind !== "submit") return [];
  const { order, first } = trace.children();
  let answer = -1;
  for (let at = first[row]!; at < first[row + 1]!; at++) {
    if (["serve", "job"].includes(trace.kindOf(order[at]!))) answer = order[at]!;
  }
  const encoded = mark(trace, row, "encoded_ns", start);
  const found: [string, number][] = [["encode", encoded], ["send", mark(trace, row, "sent_ns", encoded)]]; // prettier-ignore
  if (answer < 0) found.push(["wait", mark(trace, row, "replied_ns", end)]);
  else {
    found.push(["transfer", arrival(trace, answer)], ...served(trace, answer));
    found.push(["reply", mark(trace, row, "replied_ns", end)]);
  }
  found.push(["take", mark(trace, row, "decoding_ns", end)], ["decode", end]);
  return between(start, end, found);
}

function mark(trace: Trace, row: number, name: (typeof MARKS)[number], otherwise: number): number {
  const key = MARKS.indexOf(name);
  const found = trace.marks.get(row)?.find(([number]) => number === key);
  return found ? trace.start[row]! + found[1] : otherwise;
}

function arrival(trace: Trace, row: number): number {
  const start = trace.start[row]!;
  return start - (mark(trace, row, "queued_ns", start) - start);
}

function served(trace: Trace, row: number): [string, number][] {
  const taken = mark(trace, row, "taken_ns", trace.start[row]!);
  const end = trace.endOf(row);
  return [
    ["queue", taken],
    ["decode", mark(trace, row, "decoded_ns", taken)],
    ["run", mark(trace, row, "ran_ns", end)],
    ["encode", end],
  ];
}

function between(start: number, end: number, marks: [string, number][]): Piece[] {
  const found: Piece[] = [];
  let at = start;
  for (const [name, until] of marks) {
    const stops = Math.min(Math.max(until, at), end);
    if (stops > at) found.push({ name, start: at, end: stops });
    at = stops;
  }
  return found;
}
