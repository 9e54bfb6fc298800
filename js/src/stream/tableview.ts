// A table of the latest values.

import { type Bundle, tableHtml } from "../shared/document";
import { fill, h } from "../shared/dom";
import { plural, timeOfDay } from "../shared/format";
import type { Cell, Frame } from "./frames";
import { Rows, type Sorting } from "./rows";
import { figure, type View } from "./shell";

/** Rows in the page; filters find the others. */
const SHOWN = 300;
/** Rows in a notebook's document. */
const KEPT = 50;

export class TableView implements View {
  readonly element: HTMLElement;
  readonly tools: HTMLElement[];
  private readonly rows = new Rows();
  private readonly filter = h("input", { type: "search", placeholder: "filter", "aria-label": "filter rows", oninput: () => this.redraw() });
  private readonly found = h("span", { class: "znb-found", role: "status" });
  private readonly head = h("tr");
  private readonly body = h("tbody");
  private sorting: Sorting | null = null;
  private shown = "";
  private hidden = 0;

  constructor(private readonly redraw: () => void) {
    this.tools = [this.filter, this.found];
    this.element = h("div", { class: "znb-scroll", tabindex: "0", role: "region", "aria-label": "rows" }, h("table", {}, h("thead", {}, this.head), this.body));
  }

  add(frame: Frame, _buffers: unknown, full: boolean): void {
    this.rows.add(frame, full);
    this.hidden = frame.hidden ?? 0;
  }

  draw(): void {
    this.drawHead();
    const rows = this.rows.select(this.filter.value, this.sorting);
    fill(
      this.body,
      ...rows.slice(0, SHOWN).map((row) => h("tr", {}, ...row.cells.map((cell, i) => h("td", { class: typeof cell === "number" ? "n" : null, text: i ? cellText(cell) : timeOfDay(Number(cell)) })))),
    );
    const more = this.hidden ? `, ${plural(this.hidden, "more column")} not shown` : "";
    this.found.textContent = (rows.length > SHOWN ? `${SHOWN} of ${plural(rows.length, "row")}` : plural(rows.length, "row")) + more;
  }

  themed(): void {}

  still(caption: string): Bundle | null {
    const rows = this.rows.select(this.filter.value, this.sorting).slice(0, KEPT);
    const texts = rows.map((row) => row.cells.map((cell, i) => (i ? cellText(cell) : timeOfDay(Number(cell)))));
    return texts.length ? { "text/html": tableHtml(caption, this.rows.columns, texts) } : null;
  }

  stop(): void {}

  private drawHead(): void {
    const shown = JSON.stringify([this.rows.columns, this.sorting]);
    if (shown === this.shown) return;
    this.shown = shown;
    const focused = [...this.head.querySelectorAll("button")].indexOf(document.activeElement as HTMLButtonElement);
    fill(
      this.head,
      ...this.rows.columns.map((name, column) => {
        const mine = this.sorting?.column === column ? this.sorting : null;
        const arrow = mine ? (mine.down ? " ▾" : " ▴") : "";
        return h(
          "th",
          { scope: "col", "aria-sort": mine ? (mine.down ? "descending" : "ascending") : "none" },
          h("button", { text: `${name || "index"}${arrow}`, title: "sort", onclick: () => this.sort(column) }),
        );
      }),
    );
    if (focused >= 0) this.head.querySelectorAll("button")[focused]?.focus();
  }

  /** Down, up, as it comes. */
  private sort(column: number): void {
    if (this.sorting?.column !== column) this.sorting = { column, down: true };
    else this.sorting = this.sorting.down ? { column, down: false } : null;
    this.redraw();
  }
}

function cellText(cell: Cell | undefined): string {
  if (cell == null) return "";
  return typeof cell === "number" ? figure(cell) : String(cell);
}
