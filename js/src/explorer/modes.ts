// The views that a chart draws: what each shows, and what its boxes stand for.

import { duration, percent, plural } from "../shared/format";
import { type Matches, pieces, type Segment } from "./analysis";
import { hash, type Palette, serviceOf } from "./colors";
import { type Diff, type Nodes, type Sandwich } from "./merged";
import { type Look } from "./paint";
import { type Box } from "./samples";
import { type Scene } from "./scene";
import { LOST, type Trace } from "./trace";

export const COLOURINGS = ["name", "worker", "service", "kind", "error"] as const;
export type Colouring = (typeof COLOURINGS)[number];

/** What has to be said of a view. */
export const NOTES: Partial<Record<string, string>> = {
  merged: "Call paths added up over all workers: work, which is more than the time it took where it ran at once.",
  sandwich: "Callers above, callees below of one name: choose another here, or in the table.",
};

/** What decides how boxes look. */
export interface Style {
  palette: Palette;
  colouring: Colouring;
  matches: Matches | null;
}

/** A scene, and what its items mean. */
export interface Shown {
  scene: Scene;
  look(style: Style): Look;
  /** The span of an item, or one that stands for it; -1 if there is none. */
  row(item: number): number;
  /** The sampled function of an item, or -1. */
  function(item: number): number;
  /** First line and further ones, for the tooltip and for those who cannot see the chart. */
  describe(item: number): string[];
  /** The name of an item as a key of nodes: see `Nodes.key`. */
  key(item: number): number | null;
}

const PIECE_HUES: Record<string, number> = { encode: 3, send: 3, transfer: 4, queue: 0, decode: 3, run: 2, reply: 4, take: 0, wait: 0 };

export function pieceColor(palette: Palette, name: string): string {
  return palette.hues[PIECE_HUES[name] ?? 7]!;
}

function hue(trace: Trace, row: number, colouring: Colouring, count: number): number {
  if (colouring === "worker") return trace.processOf(row) % count;
  if (colouring === "kind") return trace.kind[row]! % count;
  if (colouring === "service") {
    const service = serviceOf(trace.nameOf(row));
    return service ? hash(service) % count : -1;
  }
  if (colouring === "error") return -1;
  return trace.name[row]! % count;
}

/** The timeline, the flame graph and the critical path: items are rows, or `~index` of a box. */
export function showTimes(trace: Trace, scene: Scene, boxes: readonly Box[], path: readonly Segment[] | null): Shown {
  const critical = path && new Set(path.map((segment) => segment.row));
  const isDim = (row: number, style: Style) =>
    style.matches ? !style.matches.rows[row] : critical !== null && !critical.has(row);
  return {
    scene,
    look(style) {
      const { palette, matches } = style;
      const boxMatches = matches && functionMatches(trace, matches);
      const dim = (item: number) => (item >= 0 ? isDim(item, style) : boxMatches ? !boxMatches(boxes[~item]!.function) : critical !== null);
      return {
        fill(item) {
          if (dim(item)) return palette.dim;
          if (item < 0) return palette.sampled;
          if (trace.bad(item)) return palette.failed;
          const found = hue(trace, item, style.colouring, palette.hues.length);
          return found < 0 ? palette.dim : palette.hues[found]!;
        },
        text(item) {
          if (dim(item)) return palette.dimText;
          if (item < 0) return palette.sampledText;
          return trace.bad(item) ? palette.failedText : palette.text;
        },
        label: (item) => (item < 0 ? trace.samples.functions[boxes[~item]!.function]![0] : trace.labelOf(item)),
        sampled: (item) => item < 0,
        parts(item) {
          if (item < 0 || dim(item)) return [];
          const found = pieces(trace, item);
          return found.length > 1 ? found.filter((piece) => piece.name !== "run").map((piece) => ({ ...piece, fill: shade(pieceColor(palette, piece.name), palette) })) : [];
        },
      };
    },
    row: (item) => (item < 0 ? boxes[~item]!.row : item),
    function: (item) => (item < 0 ? boxes[~item]!.function : -1),
    key: (item) => (item < 0 ? ~boxes[~item]!.function : trace.name[item]!),
    describe(item) {
      if (item >= 0) return describeSpan(trace, item);
      const box = boxes[~item]!;
      const [name, file, line] = trace.samples.functions[box.function]!;
      const took = box.end - box.start;
      return [name, `sampled in ${trace.nameOf(box.row)}`, `${duration(took)}, running ${percent(Math.min(1, box.cpu / took))}`, `${file}:${line}`];
    },
  };
}

/** Pieces lie on a box of some hue: they are darker, or lighter on a dark page. */
function shade(color: string, palette: Palette): string {
  const part = (at: number) => {
    const value = parseInt(color.slice(at, at + 2), 16);
    return Math.round(palette.text === "#ffffff" ? value + (255 - value) * 0.45 : value * 0.62)
      .toString(16)
      .padStart(2, "0");
  };
  return `#${part(1)}${part(3)}${part(5)}`;
}

function functionMatches(trace: Trace, matches: Matches): (number: number) => boolean {
  const test = matches.test;
  return (number) => test(trace.samples.functions[number]![0]);
}

export function describeSpan(trace: Trace, row: number): string[] {
  const status = trace.statusOf(row);
  const own = trace.selfTimes()[row]!;
  const ended = trace.end[row] !== Infinity;
  const lines = [
    trace.nameOf(row),
    [trace.kindOf(row), trace.processes[trace.processOf(row)]![3], status === "ok" ? "" : status].filter(Boolean).join(" · "),
    `${duration(trace.took(row))}${ended ? "" : trace.status[row] === LOST ? " until it was lost" : " so far"}, self ${duration(own)}, ${percent(trace.took(row) / trace.length)} of the trace`,
    `starts at ${duration(trace.start[row]!)}`,
  ];
  const found = pieces(trace, row);
  if (found.length > 1) lines.push(found.map((piece) => `${piece.name} ${duration(piece.end - piece.start)}`).join(" · "));
  return lines;
}

function nodeLook(trace: Trace, nodes: (item: number) => [Nodes, number], style: Style): Look {
  const { palette, matches } = style;
  const key = (item: number) => {
    const [all, node] = nodes(item);
    return all.key[node]!;
  };
  const name = (item: number) => keyName(trace, key(item));
  const dim = (item: number) => matches !== null && !(key(item) >= 0 ? nodeMatches(trace, matches, nodes(item)) : matches.test(name(item)));
  return {
    fill(item) {
      if (dim(item)) return palette.dim;
      if (key(item) < 0) return palette.sampled;
      const [all, node] = nodes(item);
      if (style.colouring === "error") return all.bad[node]! > 0 ? palette.failed : palette.dim;
      const found = all.row[node]! < 0 ? 0 : hue(trace, all.row[node]!, style.colouring, palette.hues.length);
      return found < 0 ? palette.dim : palette.hues[found]!;
    },
    text(item) {
      if (dim(item)) return palette.dimText;
      if (key(item) < 0) return palette.sampledText;
      const [all, node] = nodes(item);
      return style.colouring === "error" && all.bad[node]! > 0 ? palette.failedText : palette.text;
    },
    label: name,
    sampled: (item) => key(item) < 0,
    parts: () => [],
  };
}

function nodeMatches(trace: Trace, matches: Matches, [all, node]: [Nodes, number]): boolean {
  const row = all.row[node]!;
  return row >= 0 ? matches.rows[row] === 1 : matches.test(keyName(trace, all.key[node]!));
}

export function keyName(trace: Trace, key: number): string {
  return key >= 0 ? trace.names[key]! : trace.samples.functions[~key]![0];
}

function describeNode(trace: Trace, nodes: Nodes, node: number, whole: number): string[] {
  const [total, own, calls, bad] = [nodes.total[node]!, nodes.own[node]!, nodes.calls[node]!, nodes.bad[node]!];
  const key = nodes.key[node]!;
  return [
    keyName(trace, key),
    key >= 0 ? plural(calls, "span") + (bad ? `, ${bad} failed` : "") : plural(calls, "sample"),
    `${duration(total)} together, self ${duration(own)}, ${percent(total / whole)} of all`,
  ];
}

export function showMerged(trace: Trace, nodes: Nodes, scene: Scene): Shown {
  return {
    scene,
    look: (style) => nodeLook(trace, (item) => [nodes, item], style),
    row: (item) => nodes.row[item]!,
    function: (item) => (nodes.key[item]! < 0 ? ~nodes.key[item]! : -1),
    key: (item) => nodes.key[item]!,
    describe: (item) => describeNode(trace, nodes, item, scene.x1),
  };
}

export function showSandwich(trace: Trace, { scene, callees, callers }: Sandwich): Shown {
  const side = (item: number): [Nodes, number] => (item < callees.size ? [callees, item] : [callers, item - callees.size]);
  return {
    scene,
    look: (style) => nodeLook(trace, side, style),
    row: (item) => side(item)[0].row[side(item)[1]]!,
    function: (item) => (side(item)[0].key[side(item)[1]]! < 0 ? ~side(item)[0].key[side(item)[1]]! : -1),
    key: (item) => side(item)[0].key[side(item)[1]]!,
    describe(item) {
      const lines = describeNode(trace, ...side(item), scene.x1);
      if (item >= callees.size) lines.push("calls what is below it");
      return lines;
    },
  };
}

export function showDiff({ scene, nodes, names, before, after }: Diff): Shown {
  const change = (node: number) => after[node]! - before[node]!;
  return {
    scene,
    look({ palette, matches }) {
      const dim = (node: number) => matches !== null && !matches.test(names[nodes.key[node]!]!);
      return {
        fill(node) {
          if (dim(node)) return palette.dim;
          const share = change(node) / Math.max(before[node]!, after[node]!, 1);
          if (Math.abs(share) < 0.02) return palette.dim;
          const step = Math.abs(share) < 0.15 ? 0 : Math.abs(share) < 0.5 ? 1 : 2;
          return (share > 0 ? palette.slower : palette.faster)[step]!;
        },
        text: (node) => (dim(node) ? palette.dimText : palette.text),
        label: (node) => `${names[nodes.key[node]!]!} ${signed(change(node))}`,
        sampled: () => false,
        parts: () => [],
      };
    },
    row: () => -1,
    function: () => -1,
    key: () => null,
    describe: (node) => [
      names[nodes.key[node]!]!,
      `${duration(before[node]!)} before, ${duration(after[node]!)} now: ${signed(change(node))}`,
      before[node] ? `${percent(Math.abs(change(node)) / before[node]!)} ${change(node) > 0 ? "more" : "less"}` : "not there before",
    ],
  };
}

export function signed(ns: number): string {
  return `${ns > 0 ? "+" : ns < 0 ? "−" : "±"}${duration(Math.abs(ns))}`;
}
