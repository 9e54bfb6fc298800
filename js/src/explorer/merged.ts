// Spans of one call path added up: the merged flame graph, the callers and callees of one name, and the difference of two
// traces. A node is a name below a path; its weight is the time that it and those below it took by themselves, so that
// children never exceed their parent.

import { type Scene, SceneMaker } from "./scene";
import { type Trace } from "./trace";

export class Nodes {
  readonly parent: number[] = [];
  /** Index of the name, or `~index` of a sampled function. */
  readonly key: number[] = [];
  readonly own: number[] = [];
  readonly total: number[] = [];
  readonly calls: number[] = [];
  readonly bad: number[] = [];
  /** A span of it, the longest; -1 for functions. */
  readonly row: number[] = [];
  readonly #found = new Map<string, number>();

  get size(): number {
    return this.parent.length;
  }

  node(parent: number, key: number): number {
    const text = `${parent}/${key}`;
    let node = this.#found.get(text);
    if (node === undefined) {
      node = this.parent.push(parent) - 1;
      this.key.push(key);
      this.own.push(0);
      this.total.push(0);
      this.calls.push(0);
      this.bad.push(0);
      this.row.push(-1);
      this.#found.set(text, node);
    }
    return node;
  }

  /** Adds up weights; parents come before their children. */
  sum(): void {
    for (let node = 0; node < this.size; node++) this.total[node] = this.own[node]!;
    for (let node = this.size - 1; node >= 0; node--) {
      if (this.parent[node]! >= 0) this.total[this.parent[node]!]! += this.total[node]!;
    }
  }

  /** Children of each node (those of -1 last), the heaviest first. */
  children(): number[][] {
    const found: number[][] = Array.from({ length: this.size + 1 }, () => []);
    for (let node = 0; node < this.size; node++) {
      found[this.parent[node]! < 0 ? this.size : this.parent[node]!]!.push(node);
    }
    for (const list of found) list.sort((a, b) => this.total[b]! - this.total[a]!);
    return found;
  }

  path(node: number): number[] {
    const found = [];
    for (; node >= 0; node = this.parent[node]!) found.push(node);
    return found.reverse();
  }
}

/** The nodes of a trace, sampled functions below the spans that they ran in. */
export function mergeTrace(trace: Trace, withSamples: boolean): Nodes {
  const nodes = new Nodes();
  const own = trace.selfTimes();
  const { order, first, roots } = trace.children();
  const nodeOf = new Int32Array(trace.size);
  const pending = [...roots].reverse();
  while (pending.length) {
    const row = pending.pop()!;
    const parent = trace.parent[row]!;
    const node = nodes.node(parent >= 0 ? nodeOf[parent]! : -1, trace.name[row]!);
    nodeOf[row] = node;
    nodes.own[node]! += own[row]!;
    nodes.calls[node]!++;
    if (trace.bad(row)) nodes.bad[node]!++;
    if (nodes.row[node]! < 0 || trace.took(row) > trace.took(nodes.row[node]!)) nodes.row[node] = row;
    for (let at = first[row + 1]!; at-- > first[row]!; ) pending.push(order[at]!);
  }
  if (withSamples) addSamples(trace, nodes, nodeOf, own);
  nodes.sum();
  return nodes;
}

function addSamples(trace: Trace, nodes: Nodes, nodeOf: Int32Array, own: Float64Array): void {
  const { samples } = trace;
  const trunks = samples.trunks(trace.name);
  const sampled = new Float64Array(trace.size);
  for (let at = 0; at < samples.size; at++) {
    if (samples.span[at]! >= 0 && samples.node[at]! >= 0) sampled[samples.span[at]!]! += samples.wall[at]!;
  }
  for (let at = 0; at < samples.size; at++) {
    const row = samples.span[at]!;
    if (row < 0 || samples.node[at]! < 0) continue;
    // Samples say which part of a span's own time was where; they never add time to it.
    const weight = samples.wall[at]! * Math.min(1, own[row]! / Math.max(1, sampled[row]!));
    if (weight <= 0) continue;
    let node = nodeOf[row]!;
    nodes.own[node]! -= weight;
    for (const number of samples.below(samples.node[at]!, trunks.get(trace.name[row]!)!, trace.nameOf(row))) {
      node = nodes.node(node, ~number);
      nodes.calls[node]!++;
    }
    nodes.own[node]! += weight;
  }
  for (let node = 0; node < nodes.size; node++) nodes.own[node] = Math.max(0, nodes.own[node]!);
}

/** The key of the node that takes most by itself. */
export function heaviest(nodes: Nodes): number {
  let best = 0;
  for (let node = 1; node < nodes.size; node++) if (nodes.own[node]! > nodes.own[best]! && nodes.key[node]! >= 0) best = node;
  return nodes.key[best] ?? 0;
}

/** Draws nodes with the heaviest first; items are nodes. */
export function layoutNodes(nodes: Nodes): Scene {
  const maker = new SceneMaker(nodes.size);
  const whole = place(maker, nodes, (depth) => depth);
  return maker.make("sum", 0, Math.max(whole, 1e-9));
}

function place(maker: SceneMaker, nodes: Nodes, levelOf: (depth: number) => number, offset = 0): number {
  const children = nodes.children();
  let whole = 0;
  const pending: [node: number, depth: number, x: number][] = [];
  for (const node of children[nodes.size]!) {
    pending.push([node, 0, whole]);
    whole += nodes.total[node]!;
  }
  pending.reverse();
  while (pending.length) {
    const [node, depth, from] = pending.pop()!;
    maker.add(levelOf(depth), from, from + nodes.total[node]!, node + offset, nodes.bad[node]! > 0);
    let x = from;
    const below: [number, number, number][] = [];
    for (const child of children[node]!) {
      below.push([child, depth + 1, x]);
      x += nodes.total[child]!;
    }
    for (let at = below.length; at-- > 0; ) pending.push(below[at]!);
  }
  return whole;
}

/** Callers above, callees below, of all that has one key. Items at or above `callees.size` are callers. */
export interface Sandwich {
  scene: Scene;
  callees: Nodes;
  callers: Nodes;
  /** Level of the one looked at. */
  focus: number;
}

export function layoutSandwich(nodes: Nodes, key: number): Sandwich {
  const callees = new Nodes();
  const callers = new Nodes();
  const inside = new Int32Array(nodes.size).fill(-1);
  for (let node = 0; node < nodes.size; node++) {
    const parent = nodes.parent[node]!;
    const above = parent >= 0 ? inside[parent]! : -1;
    if (above < 0 && nodes.key[node] !== key) continue;
    const to = (inside[node] = callees.node(above, nodes.key[node]!));
    copy(nodes, node, callees, to);
    callees.own[to]! += nodes.own[node]!;
    if (above >= 0) continue;
    let up = -1;
    for (let step = nodes.parent[node]!; step >= 0; step = nodes.parent[step]!) {
      up = callers.node(up, nodes.key[step]!);
      copy(nodes, step, callers, up);
    }
    if (up >= 0) callers.own[up]! += nodes.total[node]!;
  }
  callees.sum();
  callers.sum();
  let depth = 0;
  for (let node = 0; node < callers.size; node++) depth = Math.max(depth, callers.path(node).length);
  const maker = new SceneMaker(callees.size + callers.size);
  const whole = place(maker, callees, (below) => depth + below);
  place(maker, callers, (above) => depth - 1 - above, callees.size);
  return { scene: maker.make("sum", 0, Math.max(whole, 1e-9)), callees, callers, focus: depth };
}

function copy(from: Nodes, node: number, to: Nodes, at: number): void {
  to.calls[at]! += from.calls[node]!;
  to.bad[at]! += from.bad[node]!;
  const row = from.row[node]!;
  if (row >= 0 && to.row[at]! < 0) to.row[at] = row;
}

/** A call path in two traces, in nanoseconds of self time; `null` where it is not there. */
export interface Change {
  path: string[];
  before: { calls: number; total: number; own: number } | null;
  after: { calls: number; total: number; own: number } | null;
}

export interface Diff {
  scene: Scene;
  nodes: Nodes;
  names: string[];
  before: number[];
  after: number[];
}

/** Each path as wide as in the trace where it took longer. */
export function layoutDiff(changes: readonly Change[]): Diff {
  const nodes = new Nodes();
  const names: string[] = [];
  const numbers = new Map<string, number>();
  const before: number[] = [];
  const after: number[] = [];
  for (const change of changes) {
    let node = -1;
    for (const name of change.path) {
      let number = numbers.get(name);
      if (number === undefined) numbers.set(name, (number = names.push(name) - 1));
      node = nodes.node(node, number);
      before[node] ??= 0;
      after[node] ??= 0;
    }
    if (node < 0) continue;
    before[node]! += change.before?.own ?? 0;
    after[node]! += change.after?.own ?? 0;
    nodes.calls[node]! += change.after?.calls ?? 0;
  }
  for (let node = 0; node < nodes.size; node++) nodes.own[node] = Math.max(before[node]!, after[node]!);
  nodes.sum();
  for (let node = nodes.size - 1; node >= 0; node--) {
    const parent = nodes.parent[node]!;
    if (parent < 0) continue;
    before[parent]! += before[node]!;
    after[parent]! += after[node]!;
  }
  return { scene: layoutNodes(nodes), nodes, names, before, after };
}
