// Where spans stand when the horizontal axis is time. Generators, so that a large trace is laid out between two frames of the
// page: they yield every few thousand spans and return the scene.
//
// Spans below one stand right below it. Those that overlap stand below each other, each with all that is below it: as a block
// of as many levels as it needs, from its start to its last end. So what belongs together stays together.
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

/** One picture of all: callers above what they called, wherever that ran. */
export function* layoutFlame(trace: Trace, boxes: readonly Box[]): Work {
  const packed = yield* pack(trace, boxes, (row) => trace.parent[row]!, () => 0, 1);
  return yield* place(trace, boxes, packed, [], new Int32Array(1));
}

/** A lane for each thread of each process. */
export function* layoutTimeline(trace: Trace, boxes: readonly Box[]): Work {
  const { thread, parent } = trace;
  const above = (row: number) => (parent[row]! >= 0 && thread[parent[row]!] === thread[row] ? parent[row]! : -1);
  const packed = yield* pack(trace, boxes, above, (row) => thread[row]!, trace.threads.length);
  // The process that began it first, then by name; within one, threads as they come.
  const first = trace.size ? trace.processOf(trace.children().roots[0] ?? 0) : 0;
  const used = trace.threads.map((_, lane) => lane).filter((lane) => packed.height[lane]! > 0);
  const labels = trace.threads.map(([process]) => trace.processes[process]![3]);
  const rank = (lane: number) => (trace.threads[lane]![0] === first ? 0 : 1);
  const main = (lane: number) => (trace.threads[lane]![1] === "MainThread" ? 0 : 1);
  const natural = new Intl.Collator(undefined, { numeric: true });
  used.sort((a, b) => rank(a) - rank(b) || natural.compare(labels[a]!, labels[b]!) || main(a) - main(b) || a - b);
  const perProcess = new Map<number, number>();
  for (const lane of used) perProcess.set(trace.threads[lane]![0], (perProcess.get(trace.threads[lane]![0]) ?? 0) + 1);
  const lanes: Lane[] = [];
  const base = new Int32Array(trace.threads.length);
  let level = 0;
  for (const lane of used) {
    const [process, name] = trace.threads[lane]!;
    const levels = packed.height[lane]!;
    lanes.push({ label: labels[lane]! + (perProcess.get(process)! > 1 ? ` · ${name}` : ""), process, level, levels });
    base[lane] = level;
    level += levels;
  }
  return yield* place(trace, boxes, packed, lanes, base);
}

interface Packed {
  /** Level of each row within its lane; -1: hidden. */
  level: Int32Array;
  /** The same of boxes. */
  boxLevel: Int32Array;
  lane: Int32Array;
  /** Levels of each lane. */
  height: Int32Array;
}

/** Packs blocks into blocks, from the leaves up, then says where each has come to stand. */
function* pack(
  trace: Trace,
  boxes: readonly Box[],
  parentOf: (row: number) => number,
  laneOf: (row: number) => number,
  lanes: number,
): Generator<void, Packed, void> {
  // Nodes: rows, then outermost boxes with all that is in them, then lanes.
  const { size, start } = trace;
  const outer: number[] = [];
  const boxNode = new Int32Array(boxes.length);
  const tall: number[] = [];
  const until: number[] = [];
  const last = new Map<number, number>();
  boxes.forEach((box, index) => {
    if (box.depth === 1) {
      last.set(box.row, outer.length);
      outer.push(index);
      tall.push(1);
      until.push(box.end);
    }
    const block = last.get(box.row)!;
    boxNode[index] = block;
    tall[block] = Math.max(tall[block]!, box.depth);
    until[block] = Math.max(until[block]!, box.end);
  });
  yield;
  const nodes = size + outer.length;
  const parent = new Int32Array(nodes);
  const lane = new Int32Array(size);
  for (let row = 0; row < size; row++) {
    lane[row] = laneOf(row);
    const up = parentOf(row);
    parent[row] = up >= 0 ? up : nodes + lane[row]!;
  }
  outer.forEach((index, block) => (parent[size + block] = boxes[index]!.row));
  yield;
  // Children of each node, by start: everything by start, dealt out to the parents.
  const total = nodes + lanes;
  const first = new Uint32Array(total + 1);
  for (let node = 0; node < nodes; node++) first[parent[node]! + 1]!++;
  for (let node = 0; node < total; node++) first[node + 1]! += first[node]!;
  const fill = first.slice(0, total);
  const children = new Uint32Array(nodes);
  let block = 0;
  for (const row of trace.byStart()) {
    while (block < outer.length && boxes[outer[block]!]!.start < start[row]!) children[fill[parent[size + block]!]!++] = size + block++;
    children[fill[parent[row]!]!++] = row;
  }
  while (block < outer.length) children[fill[parent[size + block]!]!++] = size + block++;
  yield;
  // Parents before children.
  const order = new Uint32Array(nodes);
  let known = 0;
  for (let node = nodes; node < total; node++) for (let at = first[node]!; at < first[node + 1]!; at++) order[known++] = children[at]!;
  for (let at = 0; at < known; at++) {
    const node = order[at]!;
    for (let child = first[node]!; child < first[node + 1]!; child++) order[known++] = children[child]!;
    if (at % SLICE === SLICE - 1) yield;
  }
  const height = new Int32Array(total);
  const end = new Float64Array(total);
  const offset = new Int32Array(nodes);
  const close = (node: number) => {
    const taken: number[] = [];
    for (let at = first[node]!; at < first[node + 1]!; at++) {
      const child = children[at]!;
      const from = child < size ? start[child]! : boxes[outer[child - size]!]!.start;
      const need = height[child]!;
      let base = 0;
      for (let level = 0; level < base + need && base <= LEVELS_MAX; level++) {
        if (level < taken.length && taken[level]! > from) base = level + 1;
        else if (level >= taken.length) break;
      }
      offset[child] = base;
      for (let level = base; level < base + need; level++) taken[level] = end[child]!;
      if (end[child]! > end[node]!) end[node] = end[child]!;
    }
    height[node]! += taken.length;
  };
  for (let at = known; at-- > 0; ) {
    const node = order[at]!;
    if (node >= size) {
      height[node] = tall[node - size]!;
      end[node] = until[node - size]!;
    } else {
      height[node] = 1;
      end[node] = trace.end[node]!;
      if (first[node]! < first[node + 1]!) close(node);
    }
    if (at % SLICE === 0) yield;
  }
  for (let node = nodes; node < total; node++) close(node);
  const level = new Int32Array(nodes);
  for (let at = 0; at < known; at++) {
    const node = order[at]!;
    const up = parent[node]!;
    level[node] = up >= nodes ? offset[node]! : level[up]! < 0 ? -1 : level[up]! + 1 + offset[node]!;
    if (level[node]! > LEVELS_MAX) level[node] = -1;
  }
  const boxLevel = new Int32Array(boxes.length);
  boxes.forEach((box, index) => {
    const top = level[size + boxNode[index]!]!;
    boxLevel[index] = top < 0 ? -1 : top + box.depth - 1;
  });
  return { level, boxLevel, lane, height: height.slice(nodes).map((levels) => Math.min(levels, LEVELS_MAX + 1)) };
}

function* place(trace: Trace, boxes: readonly Box[], packed: Packed, lanes: Lane[], base: Int32Array): Work {
  const maker = new SceneMaker(trace.size + boxes.length);
  let next = 0;
  const add = (level: number, lane: number, start: number, end: number, item: number, bad: boolean) => {
    if (level < 0 || level > LEVELS_MAX) maker.hidden++;
    else maker.add(base[lane]! + level, start, end, item, bad);
  };
  const addBox = (index: number) => {
    const box = boxes[index]!;
    add(packed.boxLevel[index]!, packed.lane[box.row]!, box.start, box.end, ~index, false);
  };
  const order = trace.byStart();
  for (let at = 0; at < order.length; at++) {
    const row = order[at]!;
    while (next < boxes.length && boxes[next]!.start < trace.start[row]!) addBox(next++);
    add(packed.level[row]!, packed.lane[row]!, trace.start[row]!, trace.end[row]!, row, trace.bad(row));
    if (at % SLICE === SLICE - 1) yield;
  }
  while (next < boxes.length) addBox(next++);
  const levels = lanes.reduce((sum, lane) => sum + lane.levels, 0);
  return maker.make("time", 0, trace.length, lanes, levels);
}
