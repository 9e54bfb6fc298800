// A scene: boxes on levels, ready to be drawn at any zoom. Boxes of one level do not overlap and ascend, so what is visible
// is found by bisection and what is narrower than a pixel is skipped by it.

import { firstAbove } from "./columns";

/** A group of levels with a heading. */
export interface Lane {
  label: string;
  process: number;
  level: number;
  levels: number;
}

export interface Scene {
  /** What `x` is: time since the trace began, or time added up. */
  readonly axis: "time" | "sum";
  readonly x0: number;
  readonly x1: number;
  /** Boxes of level `l`: `first[l]` to `first[l + 1] - 1`. */
  readonly first: Uint32Array;
  readonly start: Float64Array;
  readonly end: Float64Array;
  /** What a box stands for; what that means is the view's. */
  readonly item: Int32Array;
  /** How many boxes before this one are bad (failed): bad ones must not vanish in a crowd. */
  readonly bad: Uint32Array;
  readonly lanes: Lane[];
  /** Boxes that found no room. */
  readonly hidden: number;
}

/** Collects boxes in any order of levels; within a level they must come by start. */
export class SceneMaker {
  #start: Float64Array;
  #end: Float64Array;
  #item: Int32Array;
  #level: Int32Array;
  #bad: Uint8Array;
  #size = 0;
  levels = 0;
  hidden = 0;

  constructor(capacity: number) {
    this.#start = new Float64Array(capacity);
    this.#end = new Float64Array(capacity);
    this.#item = new Int32Array(capacity);
    this.#level = new Int32Array(capacity);
    this.#bad = new Uint8Array(capacity);
  }

  add(level: number, start: number, end: number, item: number, bad: boolean): void {
    const at = this.#size++;
    this.#start[at] = start;
    this.#end[at] = end;
    this.#item[at] = item;
    this.#level[at] = level;
    this.#bad[at] = bad ? 1 : 0;
    if (level >= this.levels) this.levels = level + 1;
  }

  make(axis: Scene["axis"], x0: number, x1: number, lanes: Lane[] = [], atLeast = 0): Scene {
    const size = this.#size;
    const levels = Math.max(this.levels, atLeast);
    const first = new Uint32Array(levels + 1);
    for (let at = 0; at < size; at++) first[this.#level[at]! + 1]!++;
    for (let level = 0; level < levels; level++) first[level + 1]! += first[level]!;
    const place = first.slice(0, levels);
    const start = new Float64Array(size);
    const end = new Float64Array(size);
    const item = new Int32Array(size);
    const bad = new Uint32Array(size + 1);
    for (let at = 0; at < size; at++) {
      const to = place[this.#level[at]!]!++;
      start[to] = this.#start[at]!;
      end[to] = this.#end[at]!;
      item[to] = this.#item[at]!;
      bad[to + 1] = this.#bad[at]!;
    }
    for (let at = 0; at < size; at++) bad[at + 1]! += bad[at]!;
    return { axis, x0, x1, first, start, end, item, bad, lanes, hidden: this.hidden };
  }
}

/** What is drawn of a level: boxes `[from, to)`, as one if there are several. */
export type Visit = (from: number, to: number, start: number, end: number) => void;

/**
 * Goes through what is visible of a level.
 *
 * @param pixel What one pixel is in units of `x`: boxes that end within it are drawn as one.
 */
export function visit(scene: Scene, level: number, x0: number, x1: number, pixel: number, each: Visit): void {
  const { start, end } = scene;
  const last = scene.first[level + 1]!;
  let at = firstAbove(end, x0, scene.first[level]!, last);
  while (at < last && start[at]! < x1) {
    const from = at;
    const begins = start[at]!;
    let ends = end[at]!;
    at++;
    if (ends - begins < pixel && at < last && start[at]! < begins + pixel) {
      at = firstAbove(end, begins + pixel, at, last);
      if (at < last && start[at]! < begins + pixel && end[at]! - start[at]! < pixel) at++;
      ends = Math.max(ends, end[at - 1]!);
    }
    each(from, at, begins, ends);
  }
}

/** The box at a point, or -1; `slack` widens narrow ones. */
export function boxAt(scene: Scene, level: number, x: number, slack: number): number {
  if (level < 0 || level >= scene.first.length - 1) return -1;
  const last = scene.first[level + 1]!;
  const at = firstAbove(scene.end, x - slack, scene.first[level]!, last);
  return at < last && scene.start[at]! <= x + slack ? at : -1;
}

/** How many boxes there are at once, in `bins` parts of the whole, and how many bad ones. */
export function density(scene: Scene, bins: number): { busy: Float64Array; bad: Uint8Array } {
  const busy = new Float64Array(bins + 1);
  const bad = new Uint8Array(bins + 1);
  const scale = bins / Math.max(1e-9, scene.x1 - scene.x0);
  for (let at = 0; at < scene.start.length; at++) {
    const from = Math.max(0, (scene.start[at]! - scene.x0) * scale);
    const to = Math.min(bins, (Math.min(scene.end[at]!, scene.x1) - scene.x0) * scale);
    const low = Math.min(bins - 1, from | 0), high = Math.min(bins - 1, to | 0); // prettier-ignore
    // Whole bins by differences, those at the ends by their part.
    if (low === high) {
      busy[low]! += to - from;
      busy[low + 1]! -= to - from;
    } else {
      busy[low]! += low + 1 - from;
      busy[low + 1]! += from - low;
      busy[high]! += to - high - 1;
      busy[high + 1]! -= to - high;
    }
    if (scene.bad[at + 1]! > scene.bad[at]!) bad[low] = 1;
  }
  for (let bin = 1; bin <= bins; bin++) busy[bin]! += busy[bin - 1]!;
  return { busy: busy.subarray(0, bins), bad: bad.subarray(0, bins) };
}
