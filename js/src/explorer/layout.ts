// Where spans stand when the horizontal axis is time. Generators, so that a large trace is laid out between two frames of the
// page: they yield every few thousand spans and return the scene.
//
// An item is the row of a span, or `~index` of a box of samples.

import { type Box } from "./samples";
import { type Lane, type Scene, SceneMaker } from "./scene";
import { type Trace } from "./trace";

export type Work = Generator<void, Scene, void>;

const SLICE = 8192;
/** Spans that overlap without end (thousands of jobs handed over at once) are hidden below so many levels. */
export const LEVELS_MAX = 400;

/** Runs a generator to its end. */
export function finish<T>(work: Generator<void, T, void>): T {
  for (;;) {
    const step = work.next();
    if (step.done) return step.value;
  }
}

/** Spans and boxes of samples in the order in which they begin; calls `each` with a row or `~index`. */
function* inOrder(trace: Trace, boxes: readonly Box[], each: (item: number) => void): Generator<void, void, void> {
  const order = trace.byStart();
  let next = 0;
  for (let at = 0; at < order.length; at++) {
    const row = order[at]!;
    while (next < boxes.length && boxes[next]!.start < trace.start[row]!) each(~next++);
    each(row);
    if (at % SLICE === SLICE - 1) yield;
  }
  while (next < boxes.length) each(~next++);
}

/** Finds free levels: each span below its parent, on the first level that nobody stands on. */
class Levels {
  readonly taken: number[] = [];

  find(from: number, start: number): number {
    let level = from;
    while (level < this.taken.length && this.taken[level]! > start) level++;
    return level;
  }

  take(level: number, end: number): void {
    while (this.taken.length <= level) this.taken.push(-Infinity);
    this.taken[level] = end;
  }
}

/** One picture of all: callers above what they called, wherever that ran. */
export function* layoutFlame(trace: Trace, boxes: readonly Box[]): Work {
  const maker = new SceneMaker(trace.size + boxes.length);
  const levels = new Levels();
  const levelOf = new Int32Array(trace.size).fill(-1);
  yield* inOrder(trace, boxes, (item) => {
    const box = item < 0 ? boxes[~item]! : null;
    const above = box ? levelOf[box.row]! + box.depth - 1 : trace.parent[item]! >= 0 ? levelOf[trace.parent[item]!]! : -1;
    const start = box ? box.start : trace.start[item]!;
    const end = box ? box.end : trace.end[item]!;
    const level = levels.find(above + 1, start);
    if (level >= LEVELS_MAX) {
      maker.hidden++;
      return;
    }
    levels.take(level, end);
    if (!box) levelOf[item] = level;
    maker.add(level, start, end, item, !box && trace.bad(item));
  });
  return maker.make("time", 0, trace.length);
}

/** A lane for each thread of each process. */
export function* layoutTimeline(trace: Trace, boxes: readonly Box[]): Work {
  const maker = new SceneMaker(trace.size + boxes.length);
  const laneOf = new Map<number, number>();
  const laneLevels: Levels[] = [];
  const threads: number[] = [];
  const boxLane: number[] = [];
  const levelOf = new Int32Array(trace.size).fill(-1);
  yield* inOrder(trace, boxes, (item) => {
    const box = item < 0 ? boxes[~item]! : null;
    const row = box ? box.row : item;
    const thread = trace.thread[row]!;
    let lane = laneOf.get(thread);
    if (lane === undefined) {
      lane = laneLevels.push(new Levels()) - 1;
      laneOf.set(thread, lane);
      threads.push(thread);
    }
    const parent = trace.parent[row]!;
    const above = box
      ? levelOf[row]! + box.depth - 1
      : parent >= 0 && trace.thread[parent] === thread ? levelOf[parent]! : -1; // prettier-ignore
    const start = box ? box.start : trace.start[row]!;
    const end = box ? box.end : trace.end[row]!;
    const level = laneLevels[lane]!.find(above + 1, start);
    if (level >= LEVELS_MAX) {
      maker.hidden++;
      return;
    }
    laneLevels[lane]!.take(level, end);
    if (!box) levelOf[row] = level;
    boxLane.push(lane);
    maker.add(level, start, end, item, !box && trace.bad(row));
  });
  // Lanes by process in order of appearance, the main thread first.
  const rank = (lane: number) => trace.threads[threads[lane]!]!;
  const order = threads.map((_, lane) => lane).sort((a, b) => rank(a)[0] - rank(b)[0] || a - b);
  const perProcess = new Map<number, number>();
  for (const lane of order) perProcess.set(rank(lane)[0], (perProcess.get(rank(lane)[0]) ?? 0) + 1);
  const lanes: Lane[] = [];
  const base: number[] = [];
  let level = 0;
  for (const lane of order) {
    const [process, name] = rank(lane);
    const label = trace.processes[process]![3] + (perProcess.get(process)! > 1 ? ` · ${name}` : "");
    const levels = laneLevels[lane]!.taken.length;
    lanes.push({ label, process, level, levels });
    base[lane] = level;
    level += levels;
  }
  return maker.make("time", 0, trace.length, lanes, (index) => base[boxLane[index]!]!);
}
