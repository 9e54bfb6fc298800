// What each name costs, as a table: the picture's twin for those who read rather than look.

import { fill, h } from "../shared/dom";
import { count, duration, plural } from "../shared/format";
import { type Cost } from "./analysis";
import { type Trace } from "./trace";

const SHOWN = 200;

type Column = [title: string, key: keyof Cost, text: (cost: Cost) => string];

const COLUMNS: readonly Column[] = [
  ["Self", "own", (cost) => duration(cost.own)],
  ["Total", "total", (cost) => duration(cost.total)],
  ["Count", "calls", (cost) => count(cost.calls)],
  ["p50", "p50", (cost) => duration(cost.p50)],
  ["p99", "p99", (cost) => duration(cost.p99)],
  ["Max", "max", (cost) => duration(cost.max)],
  ["Errors", "errors", (cost) => (cost.errors ? count(cost.errors) : "")],
];

export class CostTable {
  readonly element = h("div", { class: "znb-table", role: "region", "aria-label": "Costs by name", tabindex: -1 });
  #by: keyof Cost = "own";
  #falling = true;

  /** @param chosen Called with a name's cost: its longest span is to be selected. */
  constructor(private readonly chosen: (cost: Cost) => void) {}

  show(trace: Trace, costs: readonly Cost[], matches: ((cost: Cost) => boolean) | null): void {
    const value = (cost: Cost) => (this.#by === "name" ? trace.names[cost.name]! : cost[this.#by]);
    const sorted = costs
      .filter((cost) => !matches || matches(cost))
      .sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (this.#falling ? -1 : 1));
    const heading = (title: string, key: keyof Cost, numeric: boolean) => {
      const active = this.#by === key;
      const sort = () => {
        this.#falling = active ? !this.#falling : numeric;
        this.#by = key;
        this.show(trace, costs, matches);
        this.element.querySelector<HTMLElement>(`button[data-key=${key}]`)?.focus();
      };
      const arrow = active ? (this.#falling ? " ▾" : " ▴") : "";
      return h(
        "th",
        { scope: "col", class: numeric ? "n" : "", "aria-sort": active ? (this.#falling ? "descending" : "ascending") : "none" },
        h("button", { type: "button", "data-key": key, text: title + arrow, onclick: sort }),
      );
    };
    const whole = Math.max(1, costs.reduce((sum, cost) => sum + cost.own, 0));
    const rows = sorted.slice(0, SHOWN).map((cost) =>
      h(
        "tr",
        { style: `--part: ${((100 * cost.own) / whole).toFixed(1)}%` },
        h("th", { scope: "row" }, h("button", { type: "button", title: trace.names[cost.name]!, text: trace.names[cost.name]!, onclick: () => this.chosen(cost) })),
        h("td", { text: trace.head.kinds[cost.kind] ?? "" }),
        ...COLUMNS.map(([, key, text]) => h("td", { class: `n${key === "errors" && cost.errors ? " bad" : ""}`, text: text(cost) })),
      ),
    );
    fill(
      this.element,
      h(
        "table",
        {},
        h("caption", { text: `${plural(sorted.length, "name")}${sorted.length > SHOWN ? `, the first ${SHOWN} shown` : ""}` }),
        h("thead", {}, h("tr", {}, heading("Name", "name", false), heading("Kind", "kind", false), ...COLUMNS.map(([title, key]) => heading(title, key, true)))),
        h("tbody", {}, ...rows),
      ),
    );
  }
}
