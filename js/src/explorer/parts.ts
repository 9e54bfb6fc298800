// Parts of views: the stretches of a critical path and their sum, the arrows of calls, the tooltip.

import { fill, h } from "../shared/dom";
import { duration, percent } from "../shared/format";
import { type Segment } from "./analysis";
import { type Shown } from "./modes";
import { type Arrow, levelOf } from "./paint";
import { type Trace } from "./trace";

const ARROWS_MAX = 60;

/** Where the stretches of a critical path are marked. */
export function stretches(shown: Shown, path: readonly Segment[]): { index: number; start: number; end: number }[] {
  const index = new Map<number, number>();
  shown.scene.item.forEach((item, at) => item >= 0 && index.set(item, at));
  return path.map(({ row, start, end }) => ({ index: index.get(row) ?? -1, start, end })).filter((one) => one.index >= 0);
}

/** What each name has of a critical path. */
export function pathSummary(trace: Trace, path: readonly Segment[], select: (row: number) => void): HTMLElement {
  const sums = new Map<number, [ns: number, row: number]>();
  for (const { row, start, end } of path) {
    const sum = sums.get(trace.name[row]!) ?? [0, row];
    sum[0] += end - start;
    sums.set(trace.name[row]!, sum);
  }
  const whole = path.reduce((sum, segment) => sum + segment.end - segment.start, 0) || 1;
  const rows = [...sums].sort((a, b) => b[1][0] - a[1][0]).slice(0, 12);
  return h("div", {},
    h("p", { text: "What the whole took its time for: during each stretch, everybody waited for this work." }),
    h("table", { class: "znb-attributes" }, h("tbody", {}, ...rows.map(([name, [ns, row]]) =>
      h("tr", {}, h("th", { scope: "row" }, h("button", { type: "button", text: trace.names[name]!, onclick: () => select(row) })),
        h("td", { class: "n", text: duration(ns) }), h("td", { class: "n", text: percent(ns / whole) })))))); // prettier-ignore
}

/** From a call to where it was answered, and from an answer back. */
export function arrows(trace: Trace, shown: Shown, row: number, indexOf: (row: number) => number): Arrow[] {
  if (row < 0 || shown.scene.axis !== "time") return [];
  const found: Arrow[] = [];
  const { order, first } = trace.children();
  const link = (from: number, to: number) => {
    if (trace.thread[from] === trace.thread[to]) return;
    const a = indexOf(from), b = indexOf(to); // prettier-ignore
    if (a >= 0 && b >= 0) found.push({ x0: Math.max(trace.start[from]!, Math.min(trace.start[to]!, trace.endOf(from))), level0: levelOf(shown.scene, a), x1: trace.start[to]!, level1: levelOf(shown.scene, b) }); // prettier-ignore
  };
  if (trace.parent[row]! >= 0) link(trace.parent[row]!, row);
  for (let at = first[row]!; at < first[row + 1]! && found.length < ARROWS_MAX; at++) link(row, order[at]!);
  return found;
}


/** Shows the tooltip at a point of the page, within a frame. */
export function showTip(tip: HTMLElement, lines: readonly string[], frame: DOMRect, x: number, y: number): void {
  fill(tip, h("strong", { text: lines[0]! }), ...lines.slice(1).map((line) => h("div", { text: line })));
  tip.hidden = false;
  const left = Math.min(x - frame.left + 14, frame.width - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${y - frame.top + 18}px`;
}
