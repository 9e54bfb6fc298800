// The trace explorer: views, search, keys, and what they do to the chart, the table and the details.

import { fill, focusIn, h } from "../shared/dom";
import { count, duration, plural } from "../shared/format";
import { type Theme, watchTheme } from "../shared/theme";
import { foundText, type Cost, costs, criticalPath, type Matches, nextMatch, search, type Segment } from "./analysis";
import { Chart } from "./chart";
import { DARK, LIGHT, type Palette } from "./colors";
import { DetailsPane } from "./details";
import { helpPanel } from "./help";
import { type Host } from "./host";
import { layoutFlame, layoutTimeline, type Work } from "./layout";
import { heaviest, layoutDiff, layoutNodes, layoutSandwich, mergeTrace, type Nodes } from "./merged";
import { NOTES, type Colouring, COLOURINGS, showDiff, showMerged, showSandwich, showTimes, type Shown } from "./modes";
import { type Arrow } from "./paint";
import { arrows, pathSummary, showTip, stretches } from "./parts";
import { type Box } from "./samples";
import { CostTable } from "./table";
import { type Trace } from "./trace";
import { type Viewport } from "./viewport";

const MODES = [
  ["timeline", "Timeline"], ["flame", "Flame"], ["merged", "Merged"], ["sandwich", "Sandwich"], ["table", "Table"],
  ["critical", "Critical path"], ["diff", "Diff"],
] as const; // prettier-ignore
type Mode = (typeof MODES)[number][0];

/** Milliseconds of one slice of layout work, between two frames. */
const SLICE_MS = 7;
/** Milliseconds between two layouts of a trace that grows, at least; and how many times what one costs. */
const PAUSE_MS = 100;
const PAUSE_FACTOR = 4;
const PAUSE_MAX_MS = 2000;

export class Explorer {
  readonly element: HTMLElement;
  readonly chart: Chart;
  #trace: Trace | null = null;
  #mode: Mode = "timeline";
  #shown: Shown | null = null;
  /** What `#shown` shows: an earlier run, for a moment. */
  #shownTrace: Trace | null = null;
  #nodes: { version: number; nodes: Nodes } | null = null;
  #sampleBoxes: { version: number; boxes: Box[] } | null = null;
  #costs: { version: number; costs: Cost[] } | null = null;
  #path: { version: number; path: Segment[] } | null = null;
  #focus: number | null = null;
  #matches: Matches | null = null;
  #colouring: Colouring = "name";
  /** The span that is selected, in every view, and its id. */
  #row = -1;
  #id: string | null = null;
  readonly #views = new Map<Mode, Viewport>();
  #work: { mode: Mode; version: number; work: Work; cost: number } | null = null;
  #timer = 0;
  readonly #theme: Theme;
  readonly #table: CostTable;
  readonly #details: DetailsPane;
  readonly #title = h("strong", { class: "znb-title" });
  readonly #facts = h("span", { class: "znb-facts" });
  readonly #notes = h("ul", { class: "znb-notes" });
  readonly #found = h("span", { class: "znb-found", role: "status" });
  readonly #said = h("div", { class: "znb-said", role: "status", "aria-live": "polite" });
  readonly #tip = h("div", { class: "znb-tip", role: "tooltip", hidden: true });
  readonly #problem = h("p", { class: "znb-problem", role: "alert", hidden: true });
  readonly #field: HTMLInputElement;
  readonly #tabs = new Map<Mode, HTMLButtonElement>();
  readonly #others = h("div", { class: "znb-others", hidden: true });
  readonly #body: HTMLElement;
  readonly #help: HTMLElement;

  constructor(private readonly host: Host) {
    this.chart = new Chart(LIGHT, {
      hovered: (index, x, y) => this.#hover(index, x, y),
      selected: (index) => this.#pick(index, true),
      moved: () => this.#views.set(this.#mode, this.chart.view),
    });
    this.#table = new CostTable((cost) => this.#chooseCost(cost));
    this.#details = new DetailsPane(host, (row) => this.#select(row));
    this.#field = h("input", {
      type: "search", placeholder: "Search ( / )", "aria-label": "Search spans", spellcheck: "false",
      title: "Part of a name, /regular expression/, worker:… kind:… status:…",
      oninput: () => this.#search(),
    }); // prettier-ignore
    this.#help = helpPanel(() => this.#toggleHelp(false));
    this.#body = h("div", { class: "znb-body", role: "tabpanel" }, this.chart.element, this.#table.element);
    this.element = h(
      "div",
      { class: "znb-explorer", role: "region", "aria-label": "Trace explorer", "data-lm-suppress-shortcuts": "true", tabindex: -1 },
      h("div", { class: "znb-head" }, this.#title, this.#facts, host.cell ? h("a", { href: host.cell, text: "Go to cell", title: "Scroll to the cell that was traced" }) : null),
      this.#notes,
      this.#problem,
      this.#toolbar(),
      this.#others,
      this.#body,
      this.#details.element,
      this.#help,
      this.#tip,
      this.#said,
    );
    this.#details.clear();
    this.element.addEventListener("keydown", (event) => this.#key(event));
    for (const kind of ["keyup", "keypress"]) this.element.addEventListener(kind, (event) => event.stopPropagation());
    this.#theme = watchTheme(this.element, () => this.#restyle());
    this.setMode("timeline");
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#theme.stop();
    this.chart.close();
    this.element.remove();
  }

  /** Shows a trace; call it again when something has come. */
  show(trace: Trace): void {
    if (this.#trace !== trace) {
      // A new run of the same trace: rows are other ones, what is selected and seen stays.
      if (this.#trace?.head.trace_id !== trace.head.trace_id) {
        this.#id = null;
        this.#views.clear();
      }
      this.#row = -1;
      this.#work = null;
      this.#nodes = this.#sampleBoxes = this.#costs = this.#path = null;
    }
    if (this.#row < 0 && this.#id) this.#row = trace.ids.row(this.#id);
    this.#trace = trace;
    const failed = trace.failed ? `, ${count(trace.failed)} failed` : "";
    this.#title.textContent = trace.head.title;
    fill(
      this.#facts,
      `${duration(trace.length)} · ${plural(trace.size, "span")}${failed} · ${plural(trace.processes.length, "process")}`,
      trace.live ? h("span", { class: "znb-live", text: "live" }) : null,
    );
    fill(this.#notes, ...trace.notes.map((note) => h("li", { text: note })));
    this.#plan();
  }

  /** Says why something is missing, such as a kernel that is gone; empty: nothing is. */
  complain(text: string): void {
    this.#problem.textContent = text;
    this.#problem.hidden = !text;
  }

  get #palette(): Palette {
    return this.#theme?.dark ? DARK : LIGHT;
  }

  #toolbar(): HTMLElement {
    const list = h("div", { class: "znb-tabs", role: "tablist", "aria-label": "Views" });
    MODES.forEach(([mode, label], at) => {
      const tab = h("button", { type: "button", role: "tab", title: `${label} (${at + 1})`, text: label, onclick: () => this.setMode(mode) });
      this.#tabs.set(mode, tab);
      list.append(tab);
    });
    const colours = h("select", { "aria-label": "Colour by", title: "Colour by", onchange: () => void ((this.#colouring = colours.value as Colouring), this.#restyle()) },
      ...COLOURINGS.map((name) => h("option", { value: name, text: `by ${name}` }))); // prettier-ignore
    const button = (text: string, title: string, act: () => void) => h("button", { type: "button", class: "znb-tool", title, "aria-label": title, text, onclick: act });
    return h(
      "div",
      { class: "znb-bar" },
      list,
      h("div", { class: "znb-tools" }, this.#field, this.#found, colours,
        button("−", "Zoom out (−)", () => this.chart.zoomBy(1.6)), button("+", "Zoom in (+)", () => this.chart.zoomBy(1 / 1.6)),
        button("All", "Show all (0)", () => this.chart.all()), button("?", "Keys (?)", () => this.#toggleHelp())),
    ); // prettier-ignore
  }

  #restyle(): void {
    if (this.#shown) this.chart.restyle(this.#shown.look(this.#style()), this.#palette);
    if (this.#row >= 0 && this.#trace && !this.#details.element.hidden) void this.#details.showSpan(this.#trace, this.#row, this.#palette);
  }

  #style() {
    return { palette: this.#palette, colouring: this.#colouring, matches: this.#matches };
  }

  // -- views

  setMode(mode: Mode): void {
    this.#mode = mode;
    for (const [name, tab] of this.#tabs) {
      tab.setAttribute("aria-selected", String(name === mode));
      tab.tabIndex = name === mode ? 0 : -1;
    }
    const isTable = mode === "table";
    const focused = focusIn(this.element);
    this.chart.element.hidden = isTable || mode === "diff"; // until there is a comparison
    if (this.#row < 0) this.#details.clear();
    this.#table.element.hidden = !isTable;
    this.#others.hidden = mode !== "diff" && !NOTES[mode];
    this.#others.textContent = NOTES[mode] ?? "";
    this.#body.setAttribute("aria-label", MODES.find(([name]) => name === mode)![1]);
    this.chart.canvas.setAttribute("aria-label", `${MODES.find(([name]) => name === mode)![1]} of the trace. Arrow keys move between spans, Enter zooms, 5 shows the same as a table.`);
    if (focused) this.#keepFocus();
    this.#shown = null;
    this.#work = null;
    this.chart.arrows = this.chart.stretches = [];
    if (mode === "diff") void this.#offerOthers();
    else this.#plan(true);
  }

  /** Lays the view out, between frames, if there is something new. */
  #plan(now = false): void {
    const trace = this.#trace;
    if (!trace || this.#mode === "diff") return;
    if (this.#work && !now) return;
    clearTimeout(this.#timer);
    const pause = now || !this.#shown ? 0 : Math.min(PAUSE_MAX_MS, Math.max(PAUSE_MS, this.#lastCost * PAUSE_FACTOR));
    this.#timer = window.setTimeout(() => this.#begin(trace), pause);
  }

  #lastCost = 0;

  #begin(trace: Trace): void {
    if (trace !== this.#trace) return;
    const mode = this.#mode;
    const began = performance.now();
    if (mode === "table") {
      this.#showTable();
      this.#lastCost = performance.now() - began;
      return;
    }
    if (mode === "merged" || mode === "sandwich") {
      this.#showNodes(trace);
      this.#lastCost = performance.now() - began;
      return;
    }
    const boxes = this.#boxes(trace);
    const work = mode === "flame" ? layoutFlame(trace, boxes) : layoutTimeline(trace, boxes);
    this.#work = { mode, version: trace.version, work, cost: performance.now() - began };
    this.#step();
  }

  #step(): void {
    const work = this.#work, trace = this.#trace; // prettier-ignore
    if (!work || !trace || work.mode !== this.#mode) return;
    const began = performance.now();
    for (;;) {
      const step = work.work.next();
      const spent = performance.now() - began;
      if (step.done) {
        this.#lastCost = work.cost + spent;
        this.#work = null;
        const path = this.#mode === "critical" ? this.#criticalPath(trace) : null;
        this.#present(showTimes(trace, step.value, this.#boxes(trace), path), path);
        if (trace.version !== work.version) this.#plan();
        return;
      }
      if (spent > SLICE_MS) {
        work.cost += spent;
        break;
      }
    }
    this.#timer = window.setTimeout(() => this.#step(), 0);
  }

  #present(shown: Shown, path: readonly Segment[] | null = null): void {
    const keep = this.#shown !== null;
    this.#shown = shown;
    this.#shownTrace = this.#trace;
    const known = this.#views.get(this.#mode);
    this.chart.selected = this.#row >= 0 ? this.#indexOf(this.#row) : -1;
    this.chart.stretches = path ? stretches(shown, path) : [];
    const now = shown.scene.axis === "time" ? this.#trace!.length : Infinity;
    this.chart.restyle(shown.look(this.#style()), this.#palette);
    this.chart.show(shown.scene, shown.look(this.#style()), now, keep);
    if (!keep && known && shown.scene.axis === "time") this.chart.move(known);
    this.chart.arrows = this.#arrowsOf();
    if (this.#row >= 0) this.#details.refresh(this.#trace!, this.#row, this.#palette);
    if (path && this.#row < 0) this.#details.clear(pathSummary(this.#trace!, path, (row) => this.#select(row)));
    if (shown.scene.hidden) this.#say(`${plural(shown.scene.hidden, "span")} overlap too much to be drawn here`);
  }

  #indexOf(row: number): number {
    const shown = this.#shown;
    if (!shown) return -1;
    const direct = shown.scene.axis === "time" ? shown.scene.item.indexOf(row) : -1;
    return direct >= 0 || shown.scene.axis === "time" ? direct : shown.scene.item.findIndex((item) => shown.row(item) === row);
  }

  #boxes(trace: Trace): Box[] {
    if (this.#sampleBoxes?.version !== trace.version) {
      const boxes = trace.samples.boxes(trace.names, trace.name, trace.start, (row) => trace.endOf(row));
      this.#sampleBoxes = { version: trace.version, boxes };
    }
    return this.#sampleBoxes.boxes;
  }

  #merged(trace: Trace): Nodes {
    if (this.#nodes?.version !== trace.version) this.#nodes = { version: trace.version, nodes: mergeTrace(trace, true) };
    return this.#nodes.nodes;
  }

  #criticalPath(trace: Trace): Segment[] {
    if (this.#path?.version !== trace.version) this.#path = { version: trace.version, path: criticalPath(trace) };
    return this.#path.path;
  }

  #showNodes(trace: Trace): void {
    const nodes = this.#merged(trace);
    if (this.#mode === "merged") {
      this.#present(showMerged(trace, nodes, layoutNodes(nodes)));
      return;
    }
    if (this.#focus === null) this.#focus = this.#row >= 0 ? trace.name[this.#row]! : heaviest(nodes);
    this.#present(showSandwich(trace, layoutSandwich(nodes, this.#focus)));
  }

  #showTable(): void {
    const trace = this.#trace;
    if (!trace) return;
    if (this.#costs?.version !== trace.version) this.#costs = { version: trace.version, costs: costs(trace) };
    const matches = this.#matches;
    const wanted = matches && new Set<number>();
    if (matches && wanted) for (let row = 0; row < trace.size; row++) if (matches.rows[row]) wanted.add(trace.name[row]! * 64 + trace.kind[row]!);
    this.#table.show(trace, this.#costs.costs, wanted && ((cost) => wanted.has(cost.name * 64 + cost.kind)));
    this.#shown = null;
  }

  #chooseCost(cost: Cost): void {
    this.#focus = cost.name;
    this.#row = cost.row;
    this.setMode("sandwich");
    this.#select(cost.row);
  }

  async #offerOthers(): Promise<void> {
    try {
      const others = await this.host.others();
      const choice = h("select", { "aria-label": "Compare with", onchange: () => void this.#compare(choice.value) },
        others[0]?.same ? null : h("option", { text: "choose …", selected: true, disabled: true }),
        ...others.map((other) => h("option", { value: other.id, text: other.title }))); // prettier-ignore
      if (!others.length) fill(this.#others, "There is no other trace to compare with: run it again.");
      else if (others[0]!.same) {
        fill(this.#others, "Compared with ", choice, " — red: slower now; blue: faster now.");
        await this.#compare(others[0]!.id);
      } else fill(this.#others, "There is no earlier run: run it again, or compare with ", choice);
    } catch (error) {
      fill(this.#others, String((error as Error).message ?? error));
    }
  }

  async #compare(id: string): Promise<void> {
    const changes = await this.host.diff(id);
    if (this.#mode !== "diff") return;
    this.chart.element.hidden = false;
    this.#present(showDiff(layoutDiff(changes)));
  }

  // -- selection

  #pick(index: number, told: boolean): void {
    const shown = this.#shown, trace = this.#trace; // prettier-ignore
    if (!shown || !trace) return;
    this.chart.select(index);
    if (index < 0) {
      this.#row = -1;
      this.#id = null;
      this.chart.arrows = [];
      this.#details.clear();
      if (told) this.host.selected(null);
      return;
    }
    const item = shown.scene.item[index]!;
    const lines = shown.describe(item);
    this.#row = shown.row(item);
    if (this.#row >= 0 && this.#shownTrace && this.#shownTrace !== trace) this.#row = trace.ids.row(this.#shownTrace.ids.hex(this.#row));
    this.#focus = shown.key(item) ?? this.#focus;
    this.chart.arrows = this.#arrowsOf();
    if (shown.function(item) >= 0) this.#details.showFunction(trace, shown.function(item), lines);
    else if (this.#row >= 0) void this.#details.showSpan(trace, this.#row, this.#palette);
    else this.#details.showLines(lines);
    this.#say(lines.slice(0, 3).join(", "));
    this.#id = this.#row >= 0 ? trace.ids.hex(this.#row) : null;
    if (told && this.#id) this.host.selected(this.#id);
  }

  /** Takes the focus back when what had it is gone or hidden, so that keys do not go elsewhere. */
  #keepFocus(): void {
    if (focusIn(this.element)?.offsetParent) return;
    const mode = this.#mode;
    (mode === "table" ? this.#table.element : mode === "diff" ? this.#tabs.get(mode)! : this.chart.canvas).focus({ preventScroll: true });
  }

  /** Selects a span wherever it stands in this view. */
  #select(row: number): void {
    const index = this.#indexOf(row);
    const focused = focusIn(this.element);
    if (index >= 0) this.#pick(index, true);
    else {
      this.#row = row;
      this.#id = this.#trace!.ids.hex(row);
      void this.#details.showSpan(this.#trace!, row, this.#palette);
      this.host.selected(this.#id);
    }
    if (focused) this.#keepFocus();
  }

  #arrowsOf(): readonly Arrow[] {
    if (!this.#trace || !this.#shown || this.#mode === "flame") return [];
    return arrows(this.#trace, this.#shown, this.#row, (row) => this.#indexOf(row));
  }

  #hover(index: number, x: number, y: number): void {
    const shown = this.#shown, tip = this.#tip; // prettier-ignore
    if (index < 0 || !shown) {
      tip.hidden = true;
      return;
    }
    showTip(tip, shown.describe(shown.scene.item[index]!), this.element.getBoundingClientRect(), x, y);
  }

  // -- search

  #search(): void {
    const trace = this.#trace;
    if (!trace) return;
    this.#matches = search(trace, this.#field.value);
    this.#found.textContent = this.#matches ? foundText(this.#matches) : "";
    if (this.#mode === "table") this.#showTable();
    else this.#restyle();
  }

  #nextMatch(step: 1 | -1): void {
    const row = this.#trace && this.#matches ? nextMatch(this.#trace, this.#matches, this.#row, step) : -1;
    if (row >= 0) this.#select(row);
  }

  // -- keys

  #toggleHelp(shown = this.#help.hidden): void {
    this.#help.hidden = !shown;
    if (shown) this.#help.focus();
    else this.chart.canvas.focus({ preventScroll: true });
  }

  #key(event: KeyboardEvent): void {
    // Whatever is typed here is meant for here: "0 0" would restart the kernel.
    event.stopPropagation();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.composedPath()[0] as HTMLElement;
    const typing = target === this.#field || target.tagName === "SELECT";
    if (event.key === "Escape") {
      if (!this.#help.hidden) this.#toggleHelp(false);
      else if (typing && this.#field.value) {
        this.#field.value = "";
        this.#search();
      } else if (typing) this.chart.canvas.focus({ preventScroll: true });
      else this.#pick(-1, true);
    } else if (typing && event.key === "Enter") this.#nextMatch(event.shiftKey ? -1 : 1);
    else if (typing) return;
    else if (target.getAttribute("role") === "tab" && event.key.startsWith("Arrow")) this.#nextTab(event.key);
    else if (!this.#act(event.key, target)) return;
    event.preventDefault();
  }

  #nextTab(key: string): void {
    const step = key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1;
    const at = MODES.findIndex(([mode]) => mode === this.#mode);
    const next = MODES[(at + step + MODES.length) % MODES.length]![0];
    this.setMode(next);
    this.#tabs.get(next)!.focus();
  }

  /** Does what a key says; returns whether it says anything. */
  #act(key: string, target: HTMLElement): boolean {
    const { chart } = this;
    const onChart = target === chart.canvas;
    switch (key) {
      case "/": this.#field.focus(); this.#field.select(); return true;
      case "?": this.#toggleHelp(); return true;
      case "+": case "=": case "w": chart.zoomBy(1 / 1.6); return true;
      case "-": case "s": chart.zoomBy(1.6); return true;
      case "a": chart.panBy(-0.2); return true;
      case "d": chart.panBy(0.2); return true;
      case "0": case "Home": chart.all(); return true;
      case "n": this.#nextMatch(1); return true;
      case "N": this.#nextMatch(-1); return true;
      case "c": void this.#details.copy(); return true;
      case "Enter": case "z":
        if (!onChart) return false;
        if (chart.selected >= 0) chart.zoomTo(chart.selected);
        return true;
      case "ArrowLeft": case "ArrowRight": case "ArrowUp": case "ArrowDown":
        if (!onChart) return false;
        if (!this.#shown) setTimeout(() => this.#act(key, target), 9); // it is being laid out
        else this.#pick(chart.neighbour(chart.selected, key), true);
        return true;
      default:
        if (!/^[1-7]$/.test(key)) return false;
        this.setMode(MODES[Number(key) - 1]![0]);
        return true;
    }
  } // prettier-ignore

  #say(text: string): void {
    this.#said.textContent = text;
  }
}
