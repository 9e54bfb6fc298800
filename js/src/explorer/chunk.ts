// What travels from the kernel to the page: columns as binary buffers, in numbered chunks.
//
// A *run* is a sequence of chunks numbered from 0 that together are one trace: the first one resets, the others append. A
// chunk that does not follow the one before it means that some were lost: everything up to the next run is then ignored, and
// a new run is asked for. The kernel may begin one whenever it likes.
//
//   buffers      type     content
//   id, parent   uint64   ids of spans; parent 0: none                     ┐
//   start, end   int64    nanoseconds of the thread's clock; end 0: open   │ `spans` finished and `open` open ones
//   name         uint32   index into all names so far                      │
//   kind, status uint8                                                     │
//   thread       uint32   index into all threads so far                    ┘
//   mark_row     uint32   row in this chunk                                ┐
//   mark_key     uint8    index into MARKS                                 │ `marks`
//   mark_ns      float64  nanoseconds                                      ┘
//   span, time   uint64, int64   the span sampled, and when                ┐
//   wall, cpu    uint32                                                    │ `samples`
//   thread, stack  uint32 index into all threads, all nodes                ┘
//   up, frame    int32, uint32   nodes of stacks: parent (-1: none), index into all frames   } `nodes`
//
// Little-endian. Groups of which a chunk has none are left out. Pure; `znb/widgets/columns.py` is the other end.

/** Attributes with the times at which a call was handed on; see `znb.traces.pieces`. */
export const MARKS = [
  "encoded_ns", "sent_ns", "replied_ns", "decoding_ns", "taken_ns", "decoded_ns", "ran_ns", "queued_ns", "suspended_ns",
] as const; // prettier-ignore

export type Process = [worker: string, host: string, pid: number, label: string];
/** `offset`: what its clock is ahead of the trace's, in nanoseconds. */
export type Thread = [process: number, name: string, offset: number];
export type Frame = [name: string, file: string, line: number, firstLine: number, origin: string];

/** What is said once, at the start of a run. */
export interface Head {
  title: string;
  trace_id: string;
  /** Nanoseconds that times are shown from, as text since it is more than a number can hold. */
  base: string;
  kinds: string[];
  statuses: string[];
}

export interface ChunkHeader {
  run: number;
  seq: number;
  head?: Head;
  /** Whether the trace goes on. */
  live: boolean;
  /** Whether more chunks of the same moment follow at once. */
  more: boolean;
  /** How long the trace is so far, in nanoseconds. */
  length: number;
  notes: string[];
  names: string[];
  processes: Process[];
  threads: Thread[];
  frames: Frame[];
  spans: number;
  open: number;
  marks: number;
  samples: number;
  nodes: number;
}

export interface SpanColumns {
  /** Low and high half in turn. */
  id: Uint32Array;
  parent: Uint32Array;
  start: Uint32Array;
  end: Uint32Array;
  name: Uint32Array;
  kind: Uint8Array;
  status: Uint8Array;
  thread: Uint32Array;
}

export interface Chunk extends ChunkHeader {
  rows: SpanColumns | null;
  mark: { row: Uint32Array; key: Uint8Array; ns: Float64Array } | null;
  sample: {
    span: Uint32Array;
    time: Uint32Array;
    wall: Uint32Array;
    cpu: Uint32Array;
    thread: Uint32Array;
    stack: Uint32Array;
  } | null;
  node: { up: Int32Array; frame: Uint32Array } | null;
}

export class DamagedChunk extends Error {}

/** Takes a message apart. Throws `DamagedChunk` if its buffers are not those that its header speaks of. */
export function decodeChunk(header: ChunkHeader, buffers: readonly (DataView | ArrayBuffer)[]): Chunk {
  let at = 0;
  const take = (bytes: number): ArrayBuffer => {
    const buffer = buffers[at++];
    if (!buffer || buffer.byteLength !== bytes) {
      throw new DamagedChunk(`buffer ${at - 1}: expected ${bytes} bytes, got ${buffer?.byteLength ?? "none"}`);
    }
    // A copy, since the views that come from a socket need not be aligned.
    return buffer instanceof ArrayBuffer
      ? buffer
      : (buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + bytes) as ArrayBuffer);
  };
  const u32 = (n: number) => new Uint32Array(take(4 * n));
  const u8 = (n: number) => new Uint8Array(take(n));
  const n = header.spans + header.open;
  const { marks, samples, nodes } = header;
  return {
    ...header,
    rows: n
      ? { id: u32(2 * n), parent: u32(2 * n), start: u32(2 * n), end: u32(2 * n), name: u32(n), kind: u8(n), status: u8(n), thread: u32(n) } // prettier-ignore
      : null,
    mark: marks ? { row: u32(marks), key: u8(marks), ns: new Float64Array(take(8 * marks)) } : null,
    sample: samples
      ? { span: u32(2 * samples), time: u32(2 * samples), wall: u32(samples), cpu: u32(samples), thread: u32(samples), stack: u32(samples) } // prettier-ignore
      : null,
    node: nodes ? { up: new Int32Array(take(4 * nodes)), frame: u32(nodes) } : null,
  };
}

/** Puts chunks in order, and tells when some are missing. */
export class Sequence {
  #run = -1;
  #next = 0;
  #asked = false;

  /**
   * @param resync Asks for a new run; called once for each gap.
   */
  constructor(private readonly resync: () => void) {}

  /** Whether a chunk is the one that is due. */
  accepts(header: { run: number; seq: number }): boolean {
    if (header.seq === 0 && header.run > this.#run) {
      this.#run = header.run;
      this.#next = 1;
      this.#asked = false;
      return true;
    }
    if (header.run === this.#run && header.seq === this.#next && !this.#asked) {
      this.#next++;
      return true;
    }
    if (header.run >= this.#run && !this.#asked) {
      this.#asked = true;
      this.resync();
    }
    return false;
  }
}
