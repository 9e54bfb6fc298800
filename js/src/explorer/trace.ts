// One trace as columns that grow: spans, their order and tree, marks and samples.
//
// Invariants: a span has one row from the first time it is heard of, also while it is open; times are nanoseconds since the
// trace's base; an open span's end is Infinity.

import { type Chunk, type Head, type Process, type Thread } from "./chunk";
import { IdTable, room } from "./columns";
import { Samples } from "./samples";

export const OK = 0, ERROR = 1, CANCELLED = 2, OPEN = 3, LOST = 4; // prettier-ignore

/** Children of each row, by start: those of row `r` are `order[first[r]]` to `order[first[r + 1] - 1]`. */
export interface Tree {
  order: Uint32Array;
  first: Uint32Array;
  roots: number[];
}

export class Trace {
  readonly ids = new IdTable();
  readonly samples = new Samples();
  readonly names: string[] = [];
  readonly processes: Process[] = [];
  readonly threads: Thread[] = [];
  readonly marks = new Map<number, [key: number, ns: number][]>();
  notes: string[] = [];
  size = 0;
  /** How long it is so far. */
  length = 1;
  live = true;
  /** Counts what has come. */
  version = 0;
  start = new Float64Array(0);
  end = new Float64Array(0);
  parent = new Int32Array(0);
  name = new Uint32Array(0);
  kind = new Uint8Array(0);
  status = new Uint8Array(0);
  thread = new Uint32Array(0);
  #bad = 0;

  readonly #base: readonly [low: number, high: number];
  /** Spans whose parent has not come, and its id. */
  #orphans: number[] = [];
  #upLow = new Uint32Array(0);
  #upHigh = new Uint32Array(0);
  #sorted = new Uint32Array(0);
  #tree: { version: number; tree: Tree } | null = null;
  #own: { version: number; own: Float64Array } | null = null;

  constructor(readonly head: Head) {
    const base = BigInt(head.base);
    this.#base = [Number(base & 0xffffffffn), Number(BigInt.asIntN(32, base >> 32n))];
  }

  /** Takes the next chunk of the run. */
  append(chunk: Chunk): void {
    for (const name of chunk.names) this.names.push(name);
    for (const process of chunk.processes) this.processes.push(process);
    for (const thread of chunk.threads) this.threads.push(thread);
    this.notes = chunk.notes;
    this.live = chunk.live;
    this.length = Math.max(1, chunk.length);
    if (chunk.rows) this.#appendRows(chunk);
    const since = (columns: Uint32Array, at: number, thread: number) => this.#time(columns, at, thread);
    this.samples.append(chunk, this.ids, since);
    this.version++;
  }

  /** When a span ended; for one that has not, when the trace did. */
  endOf(row: number): number {
    return Math.min(this.end[row]!, this.length);
  }

  /** How long a span took. */
  took(row: number): number {
    return Math.max(0, this.endOf(row) - this.start[row]!);
  }

  nameOf(row: number): string {
    return this.names[this.name[row]!]!;
  }

  kindOf(row: number): string {
    return this.head.kinds[this.kind[row]!] ?? "span";
  }

  statusOf(row: number): string {
    return this.head.statuses[this.status[row]!] ?? "ok";
  }

  processOf(row: number): number {
    return this.threads[this.thread[row]!]![0];
  }

  bad(row: number): boolean {
    const status = this.status[row];
    return status === ERROR || status === LOST;
  }

  /** How many failed by themselves: one exception counts once, where it was raised. */
  get failed(): number {
    if (!this.#bad) return 0;
    const above = new Set<number>();
    for (let row = 0; row < this.size; row++) if (this.bad(row)) above.add(this.parent[row]!);
    let found = 0;
    for (let row = 0; row < this.size; row++) if (this.bad(row) && !above.has(row)) found++;
    return found;
  }

  /** A span's name, and how it ended if that is not to be seen by its colour. */
  labelOf(row: number): string {
    const status = this.statusOf(row);
    return status === "cancelled" || status === "lost" ? `${this.nameOf(row)} (${status})` : this.nameOf(row);
  }

  /** Rows from the root down to a span. */
  path(row: number): number[] {
    const found = [];
    for (; row >= 0; row = this.parent[row]!) found.push(row);
    return found.reverse();
  }

  /** All rows, by start, the longer one first. */
  byStart(): Uint32Array {
    const known = this.#sorted.length;
    if (known < this.size) {
      const { start, end } = this;
      const before = (a: number, b: number) => start[a]! - start[b]! || (end[a] === end[b] ? a - b : end[b]! > end[a]! ? 1 : -1);
      const fresh = new Uint32Array(this.size - known);
      for (let i = 0; i < fresh.length; i++) fresh[i] = known + i;
      fresh.sort(before);
      const merged = new Uint32Array(this.size);
      for (let i = 0, j = 0, k = 0; k < merged.length; k++) {
        const old = j >= fresh.length || (i < known && before(this.#sorted[i]!, fresh[j]!) <= 0);
        merged[k] = old ? this.#sorted[i++]! : fresh[j++]!;
      }
      this.#sorted = merged;
    }
    return this.#sorted;
  }

  /** The tree, made anew when something has come. */
  children(): Tree {
    if (this.#tree?.version !== this.version) this.#tree = { version: this.version, tree: this.#makeTree() };
    return this.#tree.tree;
  }

  /** For each row, nanoseconds that no child covers. */
  selfTimes(): Float64Array {
    if (this.#own?.version !== this.version) this.#own = { version: this.version, own: this.#makeSelfTimes() };
    return this.#own.own;
  }

  #time(columns: Uint32Array, at: number, thread: number): number {
    const high = (columns[2 * at + 1]! | 0) - this.#base[1];
    return high * 4294967296 + (columns[2 * at]! - this.#base[0]) - this.threads[thread]![2];
  }

  #appendRows(chunk: Chunk): void {
    const rows = chunk.rows!;
    const total = rows.name.length;
    this.#grow(this.size + total);
    const rowOf = new Uint32Array(total);
    for (let i = 0; i < total; i++) {
      const low = rows.id[2 * i]!, high = rows.id[2 * i + 1]!; // prettier-ignore
      let row = this.ids.find(low, high);
      const known = row >= 0;
      if (!known) {
        row = this.size++;
        this.ids.add(low, high);
      }
      rowOf[i] = row;
      const thread = rows.thread[i]!;
      const open = rows.end[2 * i] === 0 && rows.end[2 * i + 1] === 0;
      if (known && this.end[row] !== Infinity) continue; // it came twice: the finished one counts
      if (known && this.bad(row)) this.#bad--;
      this.start[row] = this.#time(rows.start, i, thread);
      this.end[row] = open ? Infinity : this.#time(rows.end, i, thread);
      this.name[row] = rows.name[i]!;
      this.kind[row] = rows.kind[i]!;
      this.status[row] = rows.status[i]!;
      this.thread[row] = thread;
      if (this.bad(row)) this.#bad++;
      if (known) continue;
      this.parent[row] = -1;
      this.#upLow[row] = rows.parent[2 * i]!;
      this.#upHigh[row] = rows.parent[2 * i + 1]!;
      if (this.#upLow[row] || this.#upHigh[row]) this.#orphans.push(row);
    }
    this.#orphans = this.#orphans.filter((row) => {
      const parent = this.ids.find(this.#upLow[row]!, this.#upHigh[row]!);
      if (parent < 0) return true;
      if (!this.#leadsTo(parent, row)) this.parent[row] = parent;
      return false;
    });
    if (chunk.mark) {
      const { row, key, ns } = chunk.mark;
      for (let i = 0; i < row.length; i++) {
        const at = rowOf[row[i]!]!;
        const list = this.marks.get(at);
        if (list) list.push([key[i]!, ns[i]!]);
        else this.marks.set(at, [[key[i]!, ns[i]!]]);
      }
    }
  }

  /** Whether `above` is the row itself or below it: damaged data must not make a circle. */
  #leadsTo(above: number, row: number): boolean {
    if (above === row) return true;
    if (this.start[above]! < this.start[row]! && above < row) return false; // as nearly always
    for (let step = above; step >= 0; step = this.parent[step]!) if (step === row) return true;
    return false;
  }

  #grow(size: number): void {
    this.start = room(this.start, size);
    this.end = room(this.end, size);
    this.parent = room(this.parent, size);
    this.#upLow = room(this.#upLow, size);
    this.#upHigh = room(this.#upHigh, size);
    this.name = room(this.name, size);
    this.kind = room(this.kind, size);
    this.status = room(this.status, size);
    this.thread = room(this.thread, size);
  }

  #makeTree(): Tree {
    const { size, parent } = this;
    const first = new Uint32Array(size + 1);
    const roots: number[] = [];
    for (let row = 0; row < size; row++) if (parent[row]! >= 0) first[parent[row]! + 1]!++;
    for (let row = 0; row < size; row++) first[row + 1]! += first[row]!;
    const place = first.slice(0, size);
    const order = new Uint32Array(first[size]!);
    for (const row of this.byStart()) {
      const up = parent[row]!;
      if (up < 0) roots.push(row);
      else order[place[up]!++] = row;
    }
    return { order, first, roots };
  }

  #makeSelfTimes(): Float64Array {
    const { order, first } = this.children();
    const own = new Float64Array(this.size);
    for (let row = 0; row < this.size; row++) {
      const ends = this.endOf(row);
      let until = this.start[row]!;
      let free = ends - until;
      for (let at = first[row]!; at < first[row + 1]!; at++) {
        const child = order[at]!;
        const begins = Math.max(this.start[child]!, until);
        const stops = Math.min(this.endOf(child), ends);
        if (stops > begins) {
          free -= stops - begins;
          until = stops;
        }
      }
      own[row] = Math.max(0, free);
    }
    for (const [row, marks] of this.marks) {
      for (const [key, ns] of marks) if (key === 8) own[row] = Math.max(0, own[row]! - ns);
    }
    return own;
  }
}
