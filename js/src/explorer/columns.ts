// Typed arrays that grow, and a table from 64-bit ids to rows.

type Typed = Float64Array | Uint32Array | Int32Array | Uint8Array;

/** Returns an array with room for `size` entries: the same one, or a larger one that begins with what it held. */
export function room<T extends Typed>(array: T, size: number): T {
  if (array.length >= size) return array;
  const larger = new (array.constructor as new (n: number) => T)(Math.max(size, array.length * 2, 256));
  larger.set(array as never);
  return larger;
}

/** Finds rows by 64-bit ids: open addressing, at most half full. */
export class IdTable {
  #slots = new Int32Array(512).fill(-1);
  #mask = 511;
  #used = 0;
  #low = new Uint32Array(256);
  #high = new Uint32Array(256);

  /** Returns the row of an id, or -1. */
  find(low: number, high: number): number {
    let at = this.#place(low, high);
    for (;;) {
      const row = this.#slots[at]!;
      if (row < 0 || (this.#low[row] === low && this.#high[row] === high)) return row;
      at = (at + 1) & this.#mask;
    }
  }

  /** Adds the id of the next row; rows are added in turn. */
  add(low: number, high: number): void {
    const row = this.#used++;
    this.#low = room(this.#low, this.#used);
    this.#high = room(this.#high, this.#used);
    this.#low[row] = low;
    this.#high[row] = high;
    if (2 * this.#used > this.#slots.length) this.#grow();
    else this.#put(row);
  }

  /** Returns the row of an id of 16 hexadecimal digits, or -1. */
  row(hex: string): number {
    return this.find(parseInt(hex.slice(8), 16), parseInt(hex.slice(0, 8), 16));
  }

  /** The id of a row as 16 hexadecimal digits. */
  hex(row: number): string {
    const digits = (half: number) => half.toString(16).padStart(8, "0");
    return digits(this.#high[row]!) + digits(this.#low[row]!);
  }

  #place(low: number, high: number): number {
    return (Math.imul(low, 0x9e3779b1) ^ Math.imul(high, 0x85ebca6b) ^ (low >>> 15)) & this.#mask;
  }

  #put(row: number): void {
    let at = this.#place(this.#low[row]!, this.#high[row]!);
    while (this.#slots[at]! >= 0) at = (at + 1) & this.#mask;
    this.#slots[at] = row;
  }

  #grow(): void {
    this.#slots = new Int32Array(this.#slots.length * 4).fill(-1);
    this.#mask = this.#slots.length - 1;
    for (let row = 0; row < this.#used; row++) this.#put(row);
  }
}

/** The first index in `[from, to)` at which `array` is greater than `x`; the array ascends. */
export function firstAbove(array: Float64Array, x: number, from: number, to: number): number {
  while (from < to) {
    const middle = (from + to) >>> 1;
    if (array[middle]! > x) to = middle;
    else from = middle + 1;
  }
  return from;
}
