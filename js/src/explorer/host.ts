// What the explorer asks of whoever holds the trace: a kernel, or the page itself.

import { type Change } from "./merged";

export interface Details {
  attributes: Record<string, unknown>;
  /** Nanoseconds since the trace's base. */
  events: [time: number, name: string, attributes: Record<string, unknown>][];
}

export interface Source {
  file: string;
  /** Number of the first of the lines; 0 lines if the file is not there. */
  first: number;
  lines: string[];
}

export interface Other {
  id: string;
  title: string;
  /** Whether it is an earlier run of the same. */
  same: boolean;
}

export interface Host {
  details(id: string): Promise<Details>;
  source(file: string, line: number): Promise<Source>;
  /** Earlier traces to compare with, the latest first. */
  others(): Promise<Other[]>;
  diff(id: string): Promise<Change[]>;
  selected(id: string | null): void;
  /** Where the calling cell is, as the `href` of a link; null if that is not known. */
  readonly cell: string | null;
}
