// What the kernel sends, and whether it fits to what is here: frames are numbered, a gap waits for a full one.

/** One point in time of a stream, as znb/widgets/kinds.py writes it. */
export interface Frame {
  number: number;
  received: number;
  dropped: number;
  unreadable: number;
  /** Messages that had nothing that this kind shows. */
  unfit: number;
  x?: string;
  series?: [number, string, string][];
  counts?: [number, number][];
  hidden?: number;
  columns?: string[];
  rows?: Cell[][];
  gone?: string[];
  lines?: LogLine[];
  skipped?: number;
  images?: [string, string, number, string][];
}

export type Cell = string | number | boolean | null;
/** Time, source, topic, level, text. */
export type LogLine = [number, string, string, string, string];

/** What to do with a frame: add it, replace everything by it, nothing, or ask for a full one. */
export type Step = "add" | "replace" | "ignore" | "resync";

/** Frames after which a question is asked again: it may wait behind a cell that runs. */
const PATIENCE = 40;

/** Keeps count of frames. */
export class Sync {
  #last = -1;
  #missed = 0;

  /** Takes the number of a frame that holds what is new since the one before. */
  take(number: number): Step {
    if (number <= this.#last) return "ignore";
    if (this.#last >= 0 && number === this.#last + 1) {
      this.#last = number;
      return "add";
    }
    return this.#missed++ % PATIENCE === 0 ? "resync" : "ignore";
  }

  /** Takes the number of a full frame. */
  takeFull(number: number): Step {
    if (number <= this.#last) return "ignore";
    this.#last = number;
    this.#missed = 0;
    return "replace";
  }
}

/** Reads doubles from what Jupyter calls a buffer, which need not begin where doubles may. */
export function doubles(buffer: DataView | ArrayBuffer | undefined): Float64Array {
  if (!buffer) return new Float64Array();
  const view = buffer instanceof DataView ? buffer : new DataView(buffer);
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength - (view.byteLength % 8));
  return new Float64Array(bytes.slice().buffer);
}

/** The bytes of a buffer. */
export function bytes(buffer: DataView | ArrayBuffer): Uint8Array<ArrayBuffer> {
  const view = buffer instanceof DataView ? buffer : new DataView(buffer);
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
}
