// Lines as data: points of each, and the few of them that a plot of a given width can show.

import type { Frame } from "./frames";

/** Points of one line that are kept. */
export const POINTS = 20_000;

export interface Line {
  id: number;
  name: string;
  source: string;
  x: Float64Array;
  y: Float64Array;
  length: number;
}

/** Lines that grow at their end and forget their beginning. */
export class Lines {
  readonly lines = new Map<number, Line>();
  axis = "time";

  /** Adds what a frame holds; a full one replaces everything. */
  add(frame: Frame, xs: Float64Array, ys: Float64Array, full: boolean): void {
    if (full) this.lines.clear();
    if (frame.x) this.axis = frame.x;
    for (const [id, name, source] of frame.series ?? []) {
      this.lines.set(id, { id, name, source, x: new Float64Array(256), y: new Float64Array(256), length: 0 });
    }
    let position = 0;
    for (const [id, count] of frame.counts ?? []) {
      const line = this.lines.get(id);
      if (line) append(line, xs.subarray(position, position + count), ys.subarray(position, position + count));
      position += count;
    }
  }

  /** The lines by name and source. */
  sorted(): Line[] {
    const compare = (a: string, b: string) => a.localeCompare(b, undefined, { numeric: true });
    return [...this.lines.values()].sort((a, b) => compare(a.name, b.name) || compare(a.source, b.source));
  }

  /** First and last x of all lines; null if there is no point. */
  extent(): [number, number] | null {
    let low = Infinity;
    let high = -Infinity;
    for (const line of this.lines.values()) {
      if (!line.length) continue;
      low = Math.min(low, line.x[0]!);
      high = Math.max(high, line.x[line.length - 1]!);
    }
    return low <= high ? [low, high] : null;
  }
}

function append(line: Line, x: Float64Array, y: Float64Array): void {
  const wanted = line.length + x.length;
  if (wanted > line.x.length) {
    const kept = Math.min(line.length, Math.max(0, POINTS - x.length));
    const size = Math.max(256, Math.min(2 * wanted, 2 * POINTS), kept + x.length);
    for (const name of ["x", "y"] as const) {
      const larger = new Float64Array(size);
      larger.set(line[name].subarray(line.length - kept, line.length));
      line[name] = larger;
    }
    line.length = kept;
  }
  const sorted = (!line.length || x[0]! >= line.x[line.length - 1]!) && isSorted(x);
  line.x.set(x, line.length);
  line.y.set(y, line.length);
  line.length += x.length;
  if (!sorted) sort(line);
}

function isSorted(x: Float64Array): boolean {
  for (let i = 1; i < x.length; i++) if (x[i]! < x[i - 1]!) return false;
  return true;
}

function sort(line: Line): void {
  const order = [...line.x.subarray(0, line.length).keys()].sort((a, b) => line.x[a]! - line.x[b]! || a - b);
  line.x.set(order.map((i) => line.x[i]!));
  line.y.set(order.map((i) => line.y[i]!));
}

/** Index of the first x that is not less than a value. */
export function bisect(x: Float64Array, length: number, value: number): number {
  let low = 0;
  let high = length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * The points of a line between two x that a plot shows: all of them, or of each of `stretches` the first, lowest, highest
 * and last one, so that no peak is lost. One more on each side, for the line that leaves the plot.
 */
export function visible(line: Line, from: number, to: number, stretches: number): [number[], number[]] {
  const start = Math.max(0, bisect(line.x, line.length, from) - 1);
  const end = Math.min(line.length, bisect(line.x, line.length, to) + 1);
  const xs: number[] = [];
  const ys: number[] = [];
  const put = (i: number) => {
    xs.push(line.x[i]!);
    ys.push(line.y[i]!);
  };
  if (end - start <= 4 * stretches) {
    for (let i = start; i < end; i++) put(i);
    return [xs, ys];
  }
  const width = (to - from) / stretches || 1;
  for (let first = start; first < end; ) {
    const limit = from + (Math.floor((line.x[first]! - from) / width) + 1) * width;
    let last = first;
    let low = first;
    let high = first;
    while (last + 1 < end && line.x[last + 1]! < limit) {
      last += 1;
      if (line.y[last]! < line.y[low]!) low = last;
      if (line.y[last]! > line.y[high]!) high = last;
    }
    let before = -1;
    for (const i of [first, Math.min(low, high), Math.max(low, high), last]) {
      if (i > before) put(i);
      before = i;
    }
    first = last + 1;
  }
  return [xs, ys];
}

/** Points of all lines over one common x, as uPlot wants them; null where a line has no point. */
export function align(parts: [number[], number[]][]): [number[], ...(number | null)[][]] {
  const x = [...new Set(parts.flatMap(([xs]) => xs))].sort((a, b) => a - b);
  const columns = parts.map(([xs, ys]) => {
    const column = new Array<number | null>(x.length).fill(null);
    let at = 0;
    for (let i = 0; i < xs.length; i++) {
      while (x[at]! < xs[i]!) at += 1;
      column[at] = ys[i]!; // of two at one x the later one
    }
    return column;
  });
  return [x, ...columns];
}

/** Names that tell lines apart and say no more than that. */
export function labels(lines: Iterable<Line>): string[] {
  const all = [...lines];
  const prefix = commonBeginning(all.map((line) => line.name));
  const several = (pick: (line: Line) => string) => new Set(all.map(pick)).size > 1;
  const names = several((line) => line.name);
  const sources = several((line) => line.source);
  return all.map((line) => {
    if (!sources) return names ? line.name.slice(prefix) : line.name;
    return names ? `${line.name.slice(prefix)} · ${line.source}` : line.source;
  });
}

/** Length of what all names begin with, whole words (`load.`, `train/`) alone. */
function commonBeginning(names: string[]): number {
  const first = names[0] ?? "";
  let length = 0;
  for (let i = 0; i < first.length && names.every((name) => name[i] === first[i]); i++) {
    if (first[i] === "." || first[i] === "/") length = i + 1;
  }
  return length;
}
