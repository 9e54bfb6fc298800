// A stream in a notebook: head, controls, and the view of its kind.

import type { AnyModel } from "@anywidget/types";
import type uPlot from "uplot";
import { fill, h } from "../shared/dom";
import { count, plural, clockTime } from "../shared/format";
import { asOf } from "../shared/saved";
import { type KernelWatch, watchKernel } from "../shared/kernel";
import { type Keep, lasting } from "../shared/lasting";
import { watchTheme } from "../shared/theme";
import { type Frame, Sync } from "./frames";
import { ImageView } from "./images";
import { LogView } from "./logview";
import { PlotView } from "./plot";
import type { View } from "./shell";
import { TableView } from "./tableview";
import "./style.css";

interface State {
  kind: string;
  key: string;
  topics: string[];
  library: string;
  keyframe: Frame & { buffers?: DataView[] };
}

type Buffers = (DataView | ArrayBuffer)[];

/** Seconds over which the rate is taken. */
const RATE_SECONDS = 2;
/** Milliseconds without a message after which the document gets a picture. */
const QUIET_MS = 10_000;

class StreamWidget {
  readonly element: HTMLElement;
  private readonly id = Math.random().toString(36).slice(2);
  private readonly sync = new Sync();
  private readonly facts = h("span", { class: "znb-facts", role: "status" });
  private readonly problem = h("p", { class: "znb-problem", role: "alert" });
  private readonly tools = h("div", { class: "znb-tools" });
  private readonly pause = h("button", { class: "znb-tool", text: "pause", "aria-pressed": "false", title: "hold the picture (p); what comes is kept" });
  private readonly place = h("div", {}, h("p", { class: "znb-note", text: "Waiting for the first message …" }));
  private readonly theme;
  private readonly seen = new IntersectionObserver((entries) => this.look(entries[entries.length - 1]!.isIntersecting));
  private readonly history: [number, number][] = [];
  private view: View | null = null;
  private kind = "";
  private scheduled = false;
  private quiet = 0;
  private stilled = 0;
  private readonly kernel: KernelWatch;
  private library: Promise<typeof uPlot | null> | null = null;

  constructor(
    private readonly model: AnyModel<State>,
    private readonly keep: Keep,
  ) {
    const topics = model.get("topics");
    this.pause.addEventListener("click", () => this.setPause(!this.paused));
    this.element = h(
      "div",
      { class: "znb-stream", tabindex: "-1", role: "region", "aria-label": `stream of ${topics.join(", ") || "all topics"}` },
      h("div", { class: "znb-head" }, h("strong", { class: "znb-title", text: topics.join(", ") || "all topics" }), this.facts, this.tools),
      this.problem,
      this.place,
    );
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.theme = watchTheme(this.element, () => {
      this.view?.themed(this.theme.dark);
      this.schedule();
    });
    model.on("msg:custom", this.receive);
    model.on("change:keyframe", this.receiveFull);
    model.on("change:kind", this.receiveFull);
    this.kernel = watchKernel(model as unknown as AnyModel, this.element, (gone) => {
      this.problem.textContent = gone ? "The kernel is gone: nothing more will come. Run the cell again." : "";
      if (gone) this.still();
    });
    this.receiveFull();
    this.seen.observe(this.element);
  }

  stop(): void {
    this.seen.disconnect();
    clearTimeout(this.quiet);
    clearTimeout(this.stilled);
    this.theme.stop();
    this.view?.stop();
    this.model.off("msg:custom", this.receive);
    this.model.off("change:keyframe", this.receiveFull);
    this.model.off("change:kind", this.receiveFull);
    this.kernel.stop();
    this.send({ type: "view", view: this.id, visible: false, gone: true });
  }

  private readonly receive = (content: unknown, buffers: DataView[]): void => {
    const frame = content as Frame & { type?: string };
    this.kernel.heard();
    if (frame.type !== "frame" || !this.prepare()) return;
    const step = this.sync.take(frame.number);
    if (step === "add") this.show(frame, buffers, false);
    else if (step === "resync") this.send({ type: "resync", view: this.id });
  };

  private readonly receiveFull = (): void => {
    if (!this.prepare()) return;
    const frame = this.model.get("keyframe");
    if (frame?.number && this.sync.takeFull(frame.number) === "replace") this.show(frame, frame.buffers ?? [], true);
  };

  /** Makes the view when the kind is known; returns whether there is one. */
  private prepare(): boolean {
    const kind = this.model.get("kind");
    if (kind && kind !== this.kind) {
      this.kind = kind;
      const redraw = () => this.schedule(true);
      this.view?.stop();
      this.view =
        kind === "line" ? new PlotView(() => this.load(), redraw)
        : kind === "table" ? new TableView(redraw)
        : kind === "image" ? new ImageView()
        : new LogView(redraw);
      this.view.themed(this.theme.dark);
      fill(this.tools, ...this.view.tools, this.pause);
      fill(this.place, this.view.element);
    }
    return this.view !== null;
  }

  private show(frame: Frame, buffers: Buffers, full: boolean): void {
    this.view!.add(frame, buffers, full);
    this.schedule();
    this.tellFacts(frame);
    clearTimeout(this.stilled);
    this.stilled = window.setTimeout(() => this.still(), QUIET_MS);
  }

  /** Gives the document a picture of what there is: for those who read the notebook without its kernel. */
  private still(): void {
    const topics = this.model.get("topics").join(", ") || "all topics";
    const caption = `stream of ${topics} · ${this.facts.textContent} · as of ${clockTime(asOf(this.model))}; run the cell for the live one`;
    const bundle = this.view?.still(caption);
    this.keep(bundle ? { ...bundle, "text/plain": caption } : null);
  }

  private tellFacts(frame: Frame): void {
    const now = performance.now() / 1000;
    this.history.push([now, frame.received]);
    while (this.history.length > 2 && now - this.history[0]![0] > RATE_SECONDS) this.history.shift();
    const [then, before] = this.history[0]!;
    const rate = now > then ? (frame.received - before) / (now - then) : 0;
    const facts = [plural(frame.received, "message")];
    if (rate >= 1) facts.push(`${count(rate)}/s`);
    if (frame.dropped) facts.push(`${count(frame.dropped)} dropped`);
    if (frame.unfit) facts.push(`${count(frame.unfit)} without ${this.kind === "line" ? "a number" : "a picture"}: not shown`);
    if (frame.unreadable) facts.push(`${count(frame.unreadable)} not readable here`);
    this.facts.textContent = facts.join(" · ");
    clearTimeout(this.quiet);
    if (rate >= 1) this.quiet = window.setTimeout(() => this.tellFacts(frame), 1000 * RATE_SECONDS);
  }

  /** Draws with the next frame of the screen; while it is paused only what the reader asked for. */
  private schedule(asked = false): void {
    if (this.scheduled || (this.paused && !asked)) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.view?.draw();
    });
  }

  private load(): Promise<typeof uPlot | null> {
    this.library ??= (async () => {
      const source = this.model.get("library");
      if (!source) return null;
      const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      try {
        return ((await import(/* @vite-ignore */ url)) as { default: typeof uPlot }).default;
      } finally {
        URL.revokeObjectURL(url);
      }
    })();
    return this.library;
  }

  private get paused(): boolean {
    return this.pause.getAttribute("aria-pressed") === "true";
  }

  private setPause(on: boolean): void {
    this.pause.setAttribute("aria-pressed", String(on));
    this.pause.textContent = on ? "go on" : "pause";
    this.schedule();
  }

  /** No key that is pressed in here reaches the notebook, where it might be a command. */
  private key(event: KeyboardEvent): void {
    event.stopPropagation();
    if (event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) return;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const view = this.view as (View & { key?: (name: string) => boolean }) | null;
    if (event.key === "p") this.setPause(!this.paused);
    else if (!view?.key?.(event.key)) return;
    event.preventDefault();
  }

  /** Tells the kernel whether the reader can see this; if not, it sends nothing. */
  private look(visible: boolean): void {
    this.kernel.expect(visible);
    this.send({ type: "view", view: this.id, visible });
  }

  private send(content: Record<string, unknown>): void {
    this.model.send(content); // without a kernel nothing happens
  }
}

export default lasting<State>((model, keep) => new StreamWidget(model, keep));
