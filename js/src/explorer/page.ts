// The explorer in a saved page: the trace is in the page itself, as JSON (`znb.export.document`).

import { type Chunk, type Frame, MARKS, type Process } from "./chunk";
import { Explorer } from "./explorer";
import { type Details, type Host, type Other, type Source } from "./host";
import { type Change } from "./merged";
import "./style.css";
import "./page.css";
import { Trace } from "./trace";

export interface TraceDocument {
  title: string;
  trace_id: string;
  length_ns: number;
  notes: string[];
  processes: [key: string, worker: string, host: string, pid: number, ...unknown[]][];
  kinds: string[];
  statuses: string[];
  strings: string[];
  threads: [process: number, ident: number, name: string][];
  spans: {
    id: string[]; parent: string[]; start: number[]; end: number[]; name: number[]; kind: number[]; status: number[]; thread: number[];
    attributes: Record<string, Record<string, unknown>>;
    events: Record<string, [time: number, name: string, attributes: Record<string, unknown>][]>;
  }; // prettier-ignore
  frames: Frame[];
  stacks: { parent: number[]; frame: number[] };
  sample_threads: [process: number, ident: number, name: string][];
  samples: { span: string[]; time: number[]; wall: number[]; cpu: number[]; thread: number[]; stack: number[] };
  sources?: Record<string, [first: number, lines: string[]]>;
  unseen?: Record<string, string>;
}

/** Ids as low and high halves in turn. */
function halves(ids: readonly string[]): Uint32Array {
  const found = new Uint32Array(2 * ids.length);
  ids.forEach((id, at) => {
    found[2 * at] = parseInt(id.slice(8) || "0", 16);
    found[2 * at + 1] = parseInt(id.slice(0, 8) || "0", 16);
  });
  return found;
}

/** Times as 64-bit integers, one later, since 0 says that a span is open. */
function times(values: readonly number[]): Uint32Array {
  const found = new Uint32Array(2 * values.length);
  values.forEach((value, at) => {
    const time = value < 0 ? 0 : value + 1;
    found[2 * at] = time % 4294967296;
    found[2 * at + 1] = Math.floor(time / 4294967296);
  });
  return found;
}

/** A document as the one chunk of a run. */
export function chunkOf(found: TraceDocument): Chunk {
  const { spans, samples, stacks } = found;
  const marks: [number, number, number][] = [];
  for (const [row, attributes] of Object.entries(spans.attributes)) {
    MARKS.forEach((name, key) => {
      const value = attributes[name];
      if (typeof value === "number") marks.push([Number(row), key, value]);
    });
  }
  const own = found.threads.length;
  return {
    run: 1, seq: 0, live: false, more: false, length: found.length_ns, notes: found.notes, names: found.strings,
    head: { title: found.title, trace_id: found.trace_id, base: "1", kinds: found.kinds, statuses: found.statuses },
    processes: found.processes.map(([, worker, host, pid]): Process => [worker, host, pid, worker || `pid ${pid}`]),
    threads: [...found.threads, ...found.sample_threads].map(([process, , name]) => [process, name, 0]),
    frames: found.frames,
    spans: spans.id.length, open: 0, marks: marks.length, samples: samples.span.length, nodes: stacks.parent.length,
    rows: {
      id: halves(spans.id), parent: halves(spans.parent), start: times(spans.start), end: times(spans.end),
      name: Uint32Array.from(spans.name), kind: Uint8Array.from(spans.kind), status: Uint8Array.from(spans.status),
      thread: Uint32Array.from(spans.thread),
    },
    mark: { row: Uint32Array.from(marks, (mark) => mark[0]), key: Uint8Array.from(marks, (mark) => mark[1]), ns: Float64Array.from(marks, (mark) => mark[2]) },
    sample: {
      span: halves(samples.span), time: times(samples.time), wall: Uint32Array.from(samples.wall), cpu: Uint32Array.from(samples.cpu),
      thread: Uint32Array.from(samples.thread, (thread) => own + thread), stack: Uint32Array.from(samples.stack),
    },
    node: { up: Int32Array.from(stacks.parent), frame: Uint32Array.from(stacks.frame) },
  }; // prettier-ignore
}

const CONTEXT_LINES = 8;

export class PageHost implements Host {
  readonly cell = null;

  constructor(private readonly found: TraceDocument) {}

  async details(id: string): Promise<Details> {
    const row = this.found.spans.id.indexOf(id);
    const unseen = this.found.unseen?.[row];
    const note = unseen ? { "not sampled": unseen } : {};
    return { attributes: { ...note, ...this.found.spans.attributes[row] }, events: this.found.spans.events[row] ?? [] };
  }

  async source(file: string, line: number): Promise<Source> {
    const [first, lines] = this.found.sources?.[file] ?? [1, []];
    const from = Math.max(0, line - first - CONTEXT_LINES);
    return { file, first: first + from, lines: lines.slice(from, line - first + CONTEXT_LINES + 1) };
  }

  async others(): Promise<Other[]> {
    throw new Error("A saved page holds one trace: compare traces in the notebook, with trace.diff(other).");
  }

  async diff(): Promise<Change[]> {
    return [];
  }

  selected(): void {
    // Nobody is there to be told.
  }
}

const holder = typeof document === "undefined" ? null : document.getElementById("znb-trace");
if (holder) {
  const found = JSON.parse(holder.textContent!) as TraceDocument;
  const chunk = chunkOf(found);
  const trace = new Trace(chunk.head!);
  trace.append(chunk);
  const explorer = new Explorer(new PageHost(found));
  document.getElementById("znb-explorer")!.replaceChildren(explorer.element);
  explorer.show(trace);
}
