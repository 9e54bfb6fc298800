// What the views of all kinds share.

import type { Bundle } from "../shared/document";
import type { Frame } from "./frames";

/** One kind of view. */
export interface View {
  /** What is shown below the head. */
  readonly element: HTMLElement;
  /** Controls of this kind, for the bar. */
  readonly tools: HTMLElement[];
  /** Takes a frame; called often. */
  add(frame: Frame, buffers: (DataView | ArrayBuffer)[], full: boolean): void;
  /** Draws what has come; called once a frame of the screen at most. */
  draw(): void;
  themed(dark: boolean): void;
  /** Returns what is shown as a picture or as HTML; `null` for nothing. */
  still(caption: string): Bundle | null;
  stop(): void;
}

/** A number in a table. */
export function figure(value: number): string {
  if (Number.isInteger(value)) return Math.abs(value) < 1e15 ? String(value) : value.toExponential(4);
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-4 ? value.toExponential(3) : String(+value.toPrecision(6));
}
