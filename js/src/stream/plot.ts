// Lines, drawn by uPlot, which the kernel sends as text when it is needed.

import type uPlot from "uplot";
import type { Bundle } from "../shared/document";
import { h } from "../shared/dom";
import { timeOfDay } from "../shared/format";
import { doubles, type Frame } from "./frames";
import { align, labels, Lines, visible } from "./lines";
import { figure, type View } from "./shell";

type Plot = typeof uPlot;

const HEIGHT = 260;
/** Pixels of one entry of the legend in the picture that a document keeps. */
const LEGEND_WIDTH = 180;
const LEGEND_HEIGHT = 20;
/** Windows of time to choose from, in seconds; 0 for all. */
const WINDOWS: [string, number][] = [["all", 0], ["last 10 s", 10], ["last minute", 60], ["last 10 min", 600]];
/** Stretches of x that are drawn; each holds four points of each line at most. */
const STRETCHES = 600;
/** Points of all lines together, so that many lines are still fast. */
const DRAWN = 24_000;

const LIGHT = ["#0b57d0", "#b3530a", "#137333", "#8430ce", "#b3261e", "#00696d", "#8a6100", "#a8306f"];
const DARK = ["#8ab4f8", "#fcad70", "#81c995", "#d7aefb", "#ff8a80", "#78d9df", "#fdd663", "#ff8bcb"];
const DASHES = [undefined, [6, 3], [2, 3], [8, 3, 2, 3]];

export class PlotView implements View {
  readonly element: HTMLElement;
  readonly tools: HTMLElement[];
  private readonly lines = new Lines();
  private readonly area = h("div", { class: "znb-plot" });
  private readonly note = h("p", { class: "znb-note", role: "note" });
  private readonly window = h("select", { "aria-label": "stretch of time", onchange: () => this.redraw() });
  private readonly log = h("button", { class: "znb-tool", "aria-pressed": "false", text: "log", title: "logarithmic scale (l)" });
  private readonly back = h("button", { class: "znb-tool", text: "fit", title: "show everything again (0)" });
  private plot: uPlot | null = null;
  private made = "";
  private zoomed: [number, number] | null = null;
  private dark = false;
  private stopped = false;
  private readonly resized = new ResizeObserver(() => this.redraw());

  constructor(
    private readonly library: () => Promise<Plot | null>,
    private readonly redraw: () => void,
  ) {
    for (const [name, seconds] of WINDOWS) this.window.append(h("option", { value: seconds, text: name }));
    this.log.addEventListener("click", () => this.toggleLog());
    this.back.addEventListener("click", () => this.fit());
    this.tools = [this.window, this.log, this.back];
    this.element = h("div", {}, this.area, this.note);
    this.element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.resized.observe(this.element);
    void library().then(() => redraw());
  }

  add(frame: Frame, buffers: (DataView | ArrayBuffer)[], full: boolean): void {
    this.lines.add(frame, doubles(buffers[0]), doubles(buffers[1]), full);
    const hidden = frame.hidden ?? 0;
    this.note.textContent = hidden ? `${hidden} more lines are not shown: choose fewer topics` : "";
    this.window.hidden = this.lines.axis !== "time";
  }

  draw(): void {
    const extent = this.lines.extent();
    const width = this.element.clientWidth;
    if (!extent || width < 50 || this.stopped) return;
    void this.library().then((Plot) => {
      if (!Plot || this.stopped) return;
      const lines = this.lines.sorted();
      const key = `${lines.map((line) => line.id).join()} ${this.dark} ${this.isLog} ${this.lines.axis}`;
      if (key !== this.made) this.make(Plot, key, width);
      if (this.plot!.width !== width) this.plot!.setSize({ width, height: HEIGHT });
      const [from, to] = this.range(extent);
      const stretches = Math.max(50, Math.min(STRETCHES, width, Math.floor(DRAWN / 4 / lines.length)));
      const data = align(lines.map((line) => visible(line, from, to, stretches)));
      if (this.isLog) for (const column of data.slice(1)) column.forEach((y, i) => y !== null && y <= 0 && (column[i] = null));
      this.plot!.batch(() => {
        this.plot!.setData(data as uPlot.AlignedData, false);
        this.plot!.setScale("x", { min: from, max: to });
      });
      if ((this.plot!.cursor.left ?? -1) < 0) this.plot!.setLegend({ idxs: data.map(last) }, false);
    });
  }

  themed(dark: boolean): void {
    this.dark = dark;
  }

  /** The plot, with its caption above and its legend below. */
  still(caption: string): Bundle | null {
    const plot = this.plot;
    if (!plot) return null;
    const drawn = plot.ctx.canvas;
    const scale = drawn.width / plot.width;
    const style = getComputedStyle(this.element);
    const names = labels(this.lines.sorted());
    const columns = Math.max(1, Math.floor(plot.width / LEGEND_WIDTH));
    const rows = Math.ceil(names.length / columns);
    const canvas = h("canvas", { width: drawn.width, height: drawn.height + (rows + 1) * LEGEND_HEIGHT * scale + 8 * scale });
    const context = canvas.getContext("2d")!;
    context.fillStyle = style.getPropertyValue("--back") || "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(drawn, 0, LEGEND_HEIGHT * scale);
    context.scale(scale, scale);
    context.font = "12px system-ui, sans-serif";
    const write = (text: string, x: number, y: number, most: number) => {
      context.fillStyle = style.color;
      context.fillText(text, x, y, most);
    };
    write(caption, 8, 15, plot.width - 16);
    names.forEach((name, i) => {
      const x = 8 + (i % columns) * LEGEND_WIDTH;
      const y = LEGEND_HEIGHT + plot.height + Math.floor(i / columns) * LEGEND_HEIGHT;
      context.fillStyle = this.colors[i % this.colors.length]!;
      context.fillRect(x, y + 3, 10, 10);
      write(name, x + 16, y + 12, LEGEND_WIDTH - 24);
    });
    return { "image/png": canvas.toDataURL("image/png").split(",")[1] };
  }

  /** Handles a key; returns whether it did. */
  key(name: string): boolean {
    const extent = this.lines.extent();
    if (!extent) return false;
    const [from, to] = this.range(extent);
    const width = to - from;
    if (name === "l") this.toggleLog();
    else if (name === "0" || name === "Home") this.fit();
    else if (name === "ArrowLeft") this.zoom(from - width / 4, to - width / 4);
    else if (name === "ArrowRight") this.zoom(from + width / 4, to + width / 4);
    else if (name === "+" || name === "=") this.zoom(from + width / 4, to - width / 4);
    else if (name === "-") this.zoom(from - width / 2, to + width / 2);
    else return false;
    return true;
  }

  stop(): void {
    this.stopped = true;
    this.resized.disconnect();
    this.plot?.destroy();
  }

  private get isLog(): boolean {
    return this.log.getAttribute("aria-pressed") === "true";
  }

  private get colors(): string[] {
    return this.dark ? DARK : LIGHT;
  }

  private toggleLog(): void {
    this.log.setAttribute("aria-pressed", String(!this.isLog));
    this.redraw();
  }

  private fit(): void {
    this.zoomed = null;
    this.window.value = "0";
    this.redraw();
  }

  private zoom(from: number, to: number): void {
    this.zoomed = [from, to];
    this.redraw();
  }

  private range([low, high]: [number, number]): [number, number] {
    if (this.zoomed) return this.zoomed;
    const seconds = this.lines.axis === "time" ? Number(this.window.value) : 0;
    const from = seconds ? Math.max(low, high - seconds) : low;
    return from < high ? [from, high] : [from - 0.5, high + 0.5];
  }

  private wheel(event: WheelEvent): void {
    const extent = this.lines.extent();
    if (!event.ctrlKey || !this.plot || !extent) return; // the page scrolls
    event.preventDefault();
    event.stopPropagation();
    const over = this.plot.over.getBoundingClientRect();
    const [from, to] = this.range(extent);
    const at = from + ((event.clientX - over.left) / over.width) * (to - from);
    const factor = Math.exp(event.deltaY / 400);
    this.zoom(at - (at - from) * factor, at + (to - at) * factor);
  }

  private make(Plot: Plot, key: string, width: number): void {
    this.made = key;
    this.plot?.destroy();
    const lines = this.lines.sorted();
    const names = labels(lines);
    const colors = this.colors;
    const style = getComputedStyle(this.element);
    const dim = style.getPropertyValue("--dim");
    const grid = { stroke: style.getPropertyValue("--line"), width: 1 };
    const axis: uPlot.Axis = { stroke: dim, grid, ticks: grid, font: "11px system-ui, sans-serif" };
    const time = this.lines.axis === "time";
    const options: uPlot.Options = {
      width,
      height: HEIGHT,
      scales: { x: { time, auto: false }, y: { distr: this.isLog ? 3 : 1 } },
      axes: [
        time ? { ...axis, values: (_plot, ticks, _axis, _space, step) => ticks.map((tick) => clock(tick, step)), space: 80 } : { ...axis, label: this.lines.axis, labelSize: 16, labelFont: "11px system-ui, sans-serif" },
        { ...axis, size: 60, values: (_plot, ticks) => ticks.map((tick) => (tick === null ? "" : figure(tick))) },
      ],
      series: [
        time ? { label: "time", value: (_plot, x) => (x == null ? "–" : timeOfDay(x)) } : { label: this.lines.axis, value: (_plot, x) => (x == null ? "–" : figure(x)) },
        ...lines.map((_line, i): uPlot.Series => ({
          label: names[i]!,
          stroke: colors[i % colors.length]!,
          ...(DASHES[Math.floor(i / colors.length) % DASHES.length] && { dash: DASHES[Math.floor(i / colors.length) % DASHES.length]! }),
          width: 1.5,
          points: { fill: colors[i % colors.length]!, size: 4 },
          spanGaps: true,
          value: (_plot, y) => (y == null ? "–" : figure(y)),
        })),
      ],
      legend: { markers: { fill: (_plot, i) => colors[(i - 1) % colors.length]! } },
      cursor: { drag: { x: true, y: false, setScale: false }, dataIdx: nearest },
      hooks: {
        setSelect: [
          (plot) => {
            const { left, width: selected } = plot.select;
            if (selected > 3) this.zoom(plot.posToVal(left, "x"), plot.posToVal(left + selected, "x"));
            plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          },
        ],
      },
    };
    this.plot = new Plot(options, [[], ...lines.map(() => [])] as unknown as uPlot.AlignedData, this.area);
    this.plot.over.addEventListener("dblclick", () => this.fit());
  }
}

/** A time at an axis whose ticks are so many seconds apart. */
function clock(seconds: number, step: number): string {
  const text = timeOfDay(seconds);
  return step >= 60 ? text.slice(0, 5) : step >= 1 ? text.slice(0, 8) : text;
}

/** The index of the last point that a line really has. */
function last(column: (number | null)[]): number {
  let index = column.length - 1;
  while (index > 0 && column[index] === null) index -= 1;
  return index;
}

/** The index of the nearest point that a line really has. */
function nearest(plot: uPlot, series: number, index: number): number {
  const ys = plot.data[series];
  if (series === 0 || !ys || ys[index] != null) return index;
  for (let step = 1; step < 2000; step++) {
    if (ys[index - step] != null) return index - step;
    if (ys[index + step] != null) return index + step;
    if (index - step < 0 && index + step >= ys.length) break;
  }
  return index;
}
