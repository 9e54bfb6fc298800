// A log: follows its end unless the reader has scrolled away from it.

import type { Bundle } from "../shared/document";
import { fill, h } from "../shared/dom";
import { count, plural, timeOfDay } from "../shared/format";
import type { Frame } from "./frames";
import { type Level, LEVELS, levelOf, LogLines } from "./loglines";
import type { View } from "./shell";

/** Lines in the page, the latest; the search finds the others. */
const SHOWN = 400;
/** Lines in a notebook's document. */
const KEPT = 100;

export class LogView implements View {
  readonly element: HTMLElement;
  readonly tools: HTMLElement[];
  private readonly log = new LogLines();
  private readonly level = h("select", { "aria-label": "least level", onchange: () => this.redraw() });
  private readonly search = h("input", { type: "search", placeholder: "search", "aria-label": "search lines", oninput: () => this.redraw() });
  private readonly found = h("span", { class: "znb-found", role: "status" });
  private readonly follow = h("button", { class: "znb-tool", text: "follow", "aria-pressed": "true", title: "stay at the end (f)" });
  private readonly list = h("div", { class: "znb-lines" });

  constructor(private readonly redraw: () => void) {
    for (const level of LEVELS) this.level.append(h("option", { value: level, text: level === "debug" ? "all levels" : level }));
    this.follow.addEventListener("click", () => this.setFollow(!this.follows));
    this.tools = [this.level, this.search, this.found, this.follow];
    this.element = h("div", { class: "znb-scroll", tabindex: "0", role: "log", "aria-label": "log", "aria-live": "off" }, this.list);
    this.element.addEventListener("scroll", () => {
      const below = this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight;
      if (this.follows && below > 40) this.setFollow(false);
      else if (!this.follows && below < 4) this.setFollow(true);
    });
  }

  add(frame: Frame, _buffers: unknown, full: boolean): void {
    this.log.add(frame, full);
  }

  draw(): void {
    const lines = this.log.select(this.level.value as Level, this.search.value);
    const sources = new Set(lines.map((line) => line[1])).size > 1;
    fill(
      this.list,
      ...lines.slice(-SHOWN).map(([time, source, , level, text]) =>
        h(
          "div",
          { class: `znb-line ${levelOf(level)}` },
          h("time", { text: timeOfDay(time) }),
          h("b", { text: level }),
          sources ? h("i", { text: source }) : null,
          h("span", { text }),
        ),
      ),
    );
    const skipped = this.log.skipped ? `, ${count(this.log.skipped)} came too fast to be shown` : "";
    this.found.textContent = plural(lines.length, "line") + skipped;
    if (this.follows) this.element.scrollTop = this.element.scrollHeight;
  }

  themed(): void {}

  still(caption: string): Bundle | null {
    const lines = this.log.select(this.level.value as Level, this.search.value).slice(-KEPT);
    if (!lines.length) return null;
    const text = lines.map(([time, source, , level, line]) => `${timeOfDay(time)} ${source} ${level.padEnd(7)} ${line}`).join("\n");
    return { "text/html": h("p", { text: caption }).outerHTML + h("pre", { text }).outerHTML };
  }

  stop(): void {}

  key(name: string): boolean {
    if (name !== "f") return false;
    this.setFollow(!this.follows);
    return true;
  }

  private get follows(): boolean {
    return this.follow.getAttribute("aria-pressed") === "true";
  }

  private setFollow(on: boolean): void {
    this.follow.setAttribute("aria-pressed", String(on));
    if (on) this.element.scrollTop = this.element.scrollHeight;
  }
}
