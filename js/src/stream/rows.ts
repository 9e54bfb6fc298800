// A table's rows: the latest of each key, filtered and sorted.

import type { Cell, Frame } from "./frames";

/** Time, source, topic, then the columns. */
export interface Row {
  key: string;
  cells: Cell[];
}

export interface Sorting {
  column: number;
  down: boolean;
}

export class Rows {
  columns: string[] = [];
  readonly #rows = new Map<string, Row>();

  get size(): number {
    return this.#rows.size;
  }

  /** Takes what a frame holds; a full one replaces everything. */
  add(frame: Frame, full: boolean): void {
    if (full) this.#rows.clear();
    if (frame.columns) this.columns = ["time", "source", "topic", ...frame.columns];
    for (const key of frame.gone ?? []) this.#rows.delete(key);
    for (const [key, ...cells] of frame.rows ?? []) this.#rows.set(String(key), { key: String(key), cells });
  }

  /** Rows that hold every word of the filter, sorted. */
  select(filter: string, sorting: Sorting | null): Row[] {
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...this.#rows.values()].filter((row) => {
      const text = row.cells.slice(1).join("\u0000").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    if (!sorting) return rows;
    const { column, down } = sorting;
    const sign = down ? -1 : 1;
    return rows.sort((a, b) => compare(a.cells[column], b.cells[column], sign) || (a.key < b.key ? -1 : 1));
  }
}

/** Numbers by size, text by the alphabet, nothing last in both directions. */
function compare(a: Cell | undefined, b: Cell | undefined, sign: number): number {
  if (a == null || b == null) return a == null ? (b == null ? 0 : 1) : -1;
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
}
