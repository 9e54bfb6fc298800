// Samples: what spans were doing inside. Stacks are a tree of lines; here they become a tree of functions, without znb's own
// frames, since a flame graph has a box for each function.

import { type Chunk, type Frame } from "./chunk";
import { IdTable, room } from "./columns";

/** Samples of one span on one thread, one after the other, that share functions: a box below the span. */
export interface Box {
  row: number;
  /** 1 for the outermost. */
  depth: number;
  start: number;
  end: number;
  function: number;
  /** Nanoseconds of `end - start` in which the thread was running. */
  cpu: number;
}

const GAP_NS = 30e6;
/** Files of what runs a notebook's cells: as little the user's as znb's own. */
const SHELL = /\/(IPython|ipykernel)\//;

export class Samples {
  size = 0;
  readonly frames: Frame[] = [];
  /** Functions: a frame of each. */
  readonly functions: Frame[] = [];
  span = new Int32Array(0);
  time = new Float64Array(0);
  wall = new Float64Array(0);
  cpu = new Float64Array(0);
  thread = new Uint32Array(0);
  /** Node of the tree of functions; -1: nothing to show. */
  node = new Int32Array(0);
  readonly nodeUp: number[] = [];
  readonly nodeFunction: number[] = [];
  readonly nodeDepth: number[] = [];

  readonly #stackNode: number[] = [];
  /** By node of the stacks as they came: whether it is znb's own, or what that called. */
  readonly #inside: boolean[] = [];
  readonly #frameFunction: number[] = [];
  readonly #functionOf = new Map<string, number>();
  readonly #nodeOf = new Map<string, number>();
  #waiting: [sample: number, low: number, high: number][] = [];

  append(chunk: Chunk, ids: IdTable, time: (columns: Uint32Array, at: number, thread: number) => number): void {
    for (const frame of chunk.frames) this.#addFrame(frame);
    if (chunk.node) {
      for (let i = 0; i < chunk.node.up.length; i++) this.#addNode(chunk.node.up[i]!, chunk.node.frame[i]!);
    }
    const found = chunk.sample;
    if (found) {
      const size = this.size + found.wall.length;
      this.span = room(this.span, size);
      this.time = room(this.time, size);
      this.wall = room(this.wall, size);
      this.cpu = room(this.cpu, size);
      this.thread = room(this.thread, size);
      this.node = room(this.node, size);
      for (let i = 0; i < found.wall.length; i++) {
        const at = this.size++;
        this.time[at] = time(found.time, i, found.thread[i]!);
        this.wall[at] = found.wall[i]!;
        this.cpu[at] = found.cpu[i]!;
        this.thread[at] = found.thread[i]!;
        this.node[at] = this.#stackNode[found.stack[i]!] ?? -1;
        this.span[at] = -1;
        this.#waiting.push([at, found.span[2 * i]!, found.span[2 * i + 1]!]);
      }
    }
    this.#waiting = this.#waiting.filter(([at, low, high]) => (this.span[at] = ids.find(low, high)) < 0);
  }

  /** For each name of spans, the function up to which all its stacks agree: what is above it is left out. */
  trunks(name: Uint32Array): Map<number, number> {
    const found = new Map<number, number>();
    for (let at = 0; at < this.size; at++) {
      const row = this.span[at]!, node = this.node[at]!; // prettier-ignore
      if (row < 0 || node < 0) continue;
      const key = name[row]!;
      const known = found.get(key);
      found.set(key, known === undefined ? node : this.#common(known, node));
    }
    return found;
  }

  /**
   * Functions of a stack below a trunk, outermost first. The trunk is the first of them, unless it is what the span is named
   * after.
   */
  below(node: number, trunk: number, name: string): number[] {
    const found = [];
    for (; node >= 0; node = this.nodeUp[node]!) {
      const number = this.nodeFunction[node]!;
      if (node !== trunk || !found.length || this.functions[number]![0] !== name) found.push(number);
      if (node === trunk) break;
    }
    return found.reverse();
  }

  /** The boxes below spans, by start. */
  boxes(names: readonly string[], name: Uint32Array, start: Float64Array, end: (row: number) => number): Box[] {
    const trunks = this.trunks(name);
    const bySpan = new Map<string, number[]>();
    for (let at = 0; at < this.size; at++) {
      const row = this.span[at]!;
      if (row < 0 || this.node[at]! < 0) continue;
      const key = `${row}/${this.thread[at]}`;
      const list = bySpan.get(key);
      if (list) list.push(at);
      else bySpan.set(key, [at]);
    }
    const found: Box[] = [];
    for (const list of bySpan.values()) {
      list.sort((a, b) => this.time[a]! - this.time[b]!);
      const row = this.span[list[0]!]!;
      let open: Box[] = [];
      let until = start[row]!;
      for (const at of list) {
        const stack = this.below(this.node[at]!, trunks.get(name[row]!)!, names[name[row]!]!);
        const from = Math.max(this.time[at]! - this.wall[at]!, until);
        const to = Math.min(this.time[at]!, end(row));
        if (to <= from) continue;
        let same = 0;
        if (from - until < GAP_NS) while (same < open.length && open[same]!.function === stack[same]) same++;
        open = open.slice(0, same);
        for (const box of open) {
          box.end = to;
          box.cpu += this.cpu[at]!;
        }
        for (let depth = same; depth < stack.length; depth++) {
          const box = { row, depth: depth + 1, start: from, end: to, function: stack[depth]!, cpu: this.cpu[at]! };
          open.push(box);
          found.push(box);
        }
        until = to;
      }
    }
    return found.sort((a, b) => a.start - b.start || a.depth - b.depth);
  }

  #common(a: number, b: number): number {
    while (a !== b) {
      if (a < 0 || b < 0) return -1;
      if (this.nodeDepth[a]! >= this.nodeDepth[b]!) a = this.nodeUp[a]!;
      else b = this.nodeUp[b]!;
    }
    return a;
  }

  #addFrame(frame: Frame): void {
    this.frames.push(frame);
    if (frame[4] === "znb" || SHELL.test(frame[1])) {
      this.#frameFunction.push(-1);
      return;
    }
    const key = `${frame[0]}\n${frame[1]}\n${frame[3]}`;
    let number = this.#functionOf.get(key);
    if (number === undefined) {
      number = this.functions.push(frame) - 1;
      this.#functionOf.set(key, number);
    }
    this.#frameFunction.push(number);
  }

  #addNode(up: number, frame: number): void {
    const above = up >= 0 ? this.#stackNode[up]! : -1;
    const number = this.#frameFunction[frame]!;
    // What znb calls for itself is its own business: the stack ends where the user's code has called znb.
    const inside = number < 0 || (up >= 0 && above >= 0 && this.#inside[up]! && this.frames[frame]![4] !== "user");
    this.#inside.push(inside);
    if (inside) {
      this.#stackNode.push(above);
      return;
    }
    const key = `${above}/${number}`;
    let node = this.#nodeOf.get(key);
    if (node === undefined) {
      node = this.nodeUp.push(above) - 1;
      this.nodeFunction.push(number);
      this.nodeDepth.push(above >= 0 ? this.nodeDepth[above]! + 1 : 0);
      this.#nodeOf.set(key, node);
    }
    this.#stackNode.push(node);
  }
}
