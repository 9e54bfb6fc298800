// The cluster panel in a notebook.

import type { AnyModel } from "@anywidget/types";
import { fill, focusIn, h } from "../shared/dom";
import { tableHtml } from "../shared/document";
import { clockTime } from "../shared/format";
import { asOf } from "../shared/saved";
import { type KernelWatch, watchKernel } from "../shared/kernel";
import { type Keep, lasting } from "../shared/lasting";
import { watchTheme } from "../shared/theme";
import { figures, History, type Look, sparkline, summary, type Worker } from "./rows";
import "./style.css";

interface State {
  key: string;
  snapshot: Look;
}

const WIDTH = 48;
const HEIGHT = 18;
const SVG = "http://www.w3.org/2000/svg";
/** Milliseconds in which a second click confirms. */
const SURE_MS = 3000;
/** Milliseconds after which a page that sees nothing asks again. */
const ASK_MS = 2000;

type Act = (action: string, worker: string, number: number) => void;

/** A button that acts at once, or at the second click if what it does cannot be undone. */
function button(name: string, title: string, sure: boolean, act: () => void): HTMLButtonElement {
  const made = h("button", { class: "znb-tool", text: name, title, "aria-label": title });
  let timer = 0;
  const calm = () => {
    clearTimeout(timer);
    timer = 0;
    made.textContent = name;
    made.setAttribute("aria-label", title);
    made.classList.remove("sure");
  };
  made.addEventListener("click", () => {
    if (!sure || timer) {
      calm();
      act();
      return;
    }
    made.style.minWidth = `${made.offsetWidth}px`; // so that its neighbours stay where they are
    made.textContent = "sure?";
    made.setAttribute("aria-label", `Sure? Press again: ${title}`);
    made.classList.add("sure");
    timer = window.setTimeout(calm, SURE_MS);
  });
  made.addEventListener("blur", calm);
  return made;
}

/** A button with room for its question. */
function wide(name: string, title: string, act: () => void): HTMLButtonElement {
  const made = button(name, title, true, act);
  made.classList.add("wide");
  return made;
}

/** One worker: made once, changed in place, so that focus stays where it is. */
class Row {
  readonly element: HTMLTableRowElement;
  private readonly cells: Record<string, HTMLTableCellElement> = {};
  private readonly lines: Record<string, SVGPathElement> = {};
  private readonly figures: Record<string, HTMLSpanElement> = {};
  private readonly interrupt: HTMLButtonElement;

  constructor(name: string, act: Act) {
    const cell = (key: string, kind = "") => (this.cells[key] = h("td", { class: kind }));
    const graph = (key: string) => {
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
      svg.setAttribute("width", String(WIDTH));
      svg.setAttribute("height", String(HEIGHT));
      svg.setAttribute("aria-hidden", "true");
      svg.append((this.lines[key] = document.createElementNS(SVG, "path")));
      this.figures[key] = h("span");
      const made = cell(key, "n graph");
      made.append(svg, this.figures[key]);
      return made;
    };
    this.interrupt = button("■", `interrupt what ${name} runs`, false, () => act("interrupt", name, 0));
    this.element = h(
      "tr",
      {},
      h("th", { scope: "row", text: name }),
      cell("state"),
      cell("runs", "runs"),
      cell("queued", "n"),
      cell("done", "n"),
      graph("cpu"),
      graph("memory"),
      h(
        "td",
        { class: "acts" },
        this.interrupt,
        button("≡", `show where ${name} is`, false, () => act("stack", name, 0)),
        wide("↻", `restart ${name}: what it runs is killed, its variables are gone`, () => act("restart", name, 0)),
        wide("✕", `stop ${name} for good: what it runs is killed, its jobs go to others`, () => act("retire", name, 0)),
      ),
    );
  }

  show(worker: Worker, history: History): void {
    const set = (key: string, text: string, title = "") => {
      const cell = this.cells[key]!;
      if (cell.textContent !== text) cell.textContent = text;
      cell.title = title;
    };
    this.element.dataset["state"] = worker.state;
    const [, state, runs, queued, done, cpu, memory] = figures(worker);
    set("state", state, `process ${worker.pid} on ${worker.host}, ${worker.restarts === 1 ? "restarted once" : `restarted ${worker.restarts} times`}`);
    set("runs", runs, worker.runs);
    set("queued", queued);
    set("done", done);
    const sizes = history.memory(worker.name);
    this.lines["cpu"]!.setAttribute("d", sparkline(history.cpu(worker.name), 1, WIDTH, HEIGHT));
    this.lines["memory"]!.setAttribute("d", sparkline(sizes, 1.1 * Math.max(...sizes, 1), WIDTH, HEIGHT));
    this.figures["cpu"]!.textContent = cpu;
    this.figures["memory"]!.textContent = memory;
    this.interrupt.disabled = worker.state !== "busy";
  }
}

const COLUMNS = ["worker", "state", "runs", "queue", "done", "CPU", "memory", "actions"];

class Panel {
  readonly element: HTMLElement;
  private readonly id = Math.random().toString(36).slice(2);
  private readonly history = new History();
  private readonly rows = new Map<string, Row>();
  private readonly waiting = new Map<number, { what: string; stack: string }>();
  private readonly title = h("strong", { class: "znb-title" });
  private readonly facts = h("span", { class: "znb-facts", role: "status" });
  private readonly problem = h("p", { class: "znb-problem", role: "alert" });
  private readonly doing = h("span", { class: "znb-doing", role: "status" });
  private readonly body = h("tbody");
  private readonly table = h("div", { class: "znb-scroll" });
  private readonly stack = h("div", { class: "znb-stack", hidden: true });
  private readonly tools = h("div", { class: "znb-tools" });
  private readonly theme;
  private readonly kernel: KernelWatch;
  private readonly seen = new IntersectionObserver((entries) => this.look(entries[entries.length - 1]!.isIntersecting));
  private asked = 0;
  private asking = 0;
  private count = 0;
  private stackOf = "";
  private ended = false;
  private latest: Look | null = null;

  constructor(
    private readonly model: AnyModel<State>,
    private readonly keep: Keep,
  ) {
    const head = h("tr", {}, ...COLUMNS.map((name) => h("th", { scope: "col", text: name })));
    this.table.append(h("table", {}, h("thead", {}, head), this.body));
    const act: Act = (action, worker, number) => this.act(action, worker, number);
    fill(
      this.tools,
      this.doing,
      wide("−", "one worker less: the last one goes", () => act("scale", "", Math.max(0, this.count - 1))),
      button("+", "one worker more", false, () => act("scale", "", this.count + 1)),
      button("restart all", "restart all workers: what they run is killed, their variables are gone", true, () => act("restart", "", 0)),
      button("stop", "stop the cluster", true, () => act("stop", "", 0)),
    );
    this.element = h(
      "div",
      { class: "znb-panel", tabindex: "-1", role: "region", "aria-label": "cluster" },
      h("div", { class: "znb-head" }, this.title, this.facts, this.tools),
      this.problem,
      this.table,
      this.stack,
    );
    this.element.addEventListener("keydown", (event) => event.stopPropagation());
    this.theme = watchTheme(this.element, () => {});
    this.kernel = watchKernel(model as unknown as AnyModel, this.element, (gone) => {
      this.problem.textContent = gone && !this.ended ? "The kernel is gone: this is what was seen last." : "";
      this.element.classList.toggle("gone", gone || this.ended);
      if (gone && !this.ended) this.still("as seen last");
    });
    model.on("msg:custom", this.receive);
    this.show(model.get("snapshot"));
    this.seen.observe(this.element);
  }

  stop(): void {
    this.seen.disconnect();
    clearInterval(this.asking);
    this.theme.stop();
    this.kernel.stop();
    this.model.off("msg:custom", this.receive);
    this.model.send({ type: "view", view: this.id, visible: false });
  }

  /** Only what can be seen is kept up to date. */
  private look(visible: boolean): void {
    this.kernel.expect(visible && !this.ended);
    this.model.send({ type: "view", view: this.id, visible });
    clearInterval(this.asking);
    if (!visible) return;
    // What is sent while a cell runs may wait for its end, or, a moment later, have a shell of its own.
    this.asking = window.setInterval(() => this.model.send({ type: "view", view: this.id, visible }), ASK_MS);
  }

  private readonly receive = (content: unknown): void => {
    const message = content as { type: string };
    this.kernel.heard();
    clearInterval(this.asking);
    if (message.type === "look") this.show(content as Look);
    else if (message.type === "done") this.done(content as { id: number; text: string; problem: string });
  };

  private show(look: Look): void {
    const where = look.where ?? this.latest?.where;
    this.title.textContent = `cluster ${look.name}${where ? ` on ${where}` : ""}`;
    if (look.ended) {
      this.ended = true;
      this.kernel.expect(false);
      this.facts.textContent = "has ended";
      this.element.classList.add("gone");
      this.tools.hidden = true;
      this.table.hidden = true;
      this.stack.hidden = true;
      this.still("has ended; as seen last");
      return;
    }
    this.latest = look;
    this.model.set("snapshot", look); // here alone: what a document that is saved has of it
    this.history.add(look);
    this.count = look.workers.length;
    this.facts.textContent = [summary(look.workers), look.jobs ? `jobs: ${look.jobs}` : ""].filter(Boolean).join(" · ");
    const names = look.workers.map((worker) => worker.name);
    for (const name of this.rows.keys()) if (!names.includes(name)) this.rows.delete(name);
    for (const worker of look.workers) {
      if (!this.rows.has(worker.name)) this.rows.set(worker.name, new Row(worker.name, (...what) => this.act(...what)));
      this.rows.get(worker.name)!.show(worker, this.history);
    }
    const wanted = names.map((name) => this.rows.get(name)!.element);
    if (wanted.length === this.body.children.length && wanted.every((row, i) => row === this.body.children[i])) return;
    const focused = focusIn(this.body);
    fill(this.body, ...wanted);
    if (focused) (focused.isConnected ? focused : this.element).focus(); // or keys would go to the notebook
  }

  /** Gives the document a table of what there was: for those who read the notebook without its kernel. */
  private still(how: string): void {
    if (!this.latest) return this.keep(null);
    const caption = `${this.title.textContent}: ${how}, ${clockTime(asOf(this.model))}`;
    const names = COLUMNS.slice(0, -1);
    const rows = this.latest.workers.map((worker) => figures(worker));
    const text = [caption, names, ...rows].map((row) => (typeof row === "string" ? row : row.join("  "))).join("\n");
    this.keep({ "text/html": tableHtml(caption, names, rows), "text/plain": text });
  }

  private act(action: string, worker: string, number: number): void {
    if (action !== "stack" && (!worker || worker === this.stackOf)) this.stack.hidden = true; // it is an old one now
    const id = ++this.asked;
    const what = action === "scale" ? `scale to ${number}` : [action === "retire" ? "stop" : action, worker].filter(Boolean).join(" ");
    this.waiting.set(id, { what, stack: action === "stack" ? worker : "" });
    this.problem.textContent = "";
    this.model.send({ type: "do", id, action, worker, number });
    this.tellDoing();
  }

  private done({ id, text, problem }: { id: number; text: string; problem: string }): void {
    const asked = this.waiting.get(id);
    if (!asked) return; // another view of this panel did
    this.waiting.delete(id);
    this.tellDoing();
    if (problem) this.problem.textContent = `${asked.what}: ${problem}`;
    else if (asked.stack) this.showStack(asked.stack, text);
  }

  private tellDoing(): void {
    const doing = [...this.waiting.values()].map(({ what }) => what);
    this.doing.textContent = doing.length ? `${doing.join(", ")} …` : "";
  }

  private showStack(worker: string, text: string): void {
    const close = button("close", "close the stack", false, () => {
      this.stack.hidden = true;
      this.rows.get(worker)?.element.querySelector("button")?.focus();
    });
    const again = button("again", `where ${worker} is now`, false, () => this.act("stack", worker, 0));
    fill(this.stack, h("div", { class: "znb-head" }, h("strong", { text: `${worker} at ${clockTime()}` }), h("div", { class: "znb-tools" }, again, close)), h("pre", { tabindex: "0", text }));
    this.stack.hidden = false;
    this.stackOf = worker;
  }
}

export default lasting<State>((model, keep) => new Panel(model, keep));
