// A log's lines: the latest few thousand, by level and search.

import type { Frame, LogLine } from "./frames";

export const LEVELS = ["debug", "info", "warning", "error"] as const;
export type Level = (typeof LEVELS)[number];

/** Lines that are kept. */
export const KEPT = 5_000;

/** The level that a line counts as. */
export function levelOf(name: string): Level {
  if (/^(crit|fatal|err|exception)/.test(name)) return "error";
  if (name.startsWith("warn")) return "warning";
  return name.startsWith("debug") || name === "trace" ? "debug" : "info";
}

export class LogLines {
  lines: LogLine[] = [];
  /** Lines that came faster than they are sent. */
  skipped = 0;

  /** Takes what a frame holds; a full one replaces everything. */
  add(frame: Frame, full: boolean): void {
    const lines = frame.lines ?? [];
    this.lines = full ? lines : [...this.lines, ...lines];
    if (this.lines.length > KEPT) this.lines = this.lines.slice(-KEPT);
    this.skipped = full ? 0 : this.skipped + (frame.skipped ?? 0);
  }

  /** Lines of a level and above that hold the text that is searched. */
  select(least: Level, search: string): LogLine[] {
    const rank = LEVELS.indexOf(least);
    const wanted = search.toLowerCase();
    return this.lines.filter(
      ([, source, topic, level, text]) =>
        LEVELS.indexOf(levelOf(level)) >= rank &&
        (!wanted || `${source} ${topic} ${text}`.toLowerCase().includes(wanted)),
    );
  }
}
