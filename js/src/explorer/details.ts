// The pane below the picture: everything about one span or sampled function, its traceback and its source.

import { fill, h } from "../shared/dom";
import { duration, percent } from "../shared/format";
import { pieces } from "./analysis";
import { MARKS } from "./chunk";
import { type Palette } from "./colors";
import { type Details, type Host, type Source } from "./host";
import { describeSpan, pieceColor } from "./modes";
import { type Trace } from "./trace";

const PLACE = /^\s*File "(.+)", line (\d+)/;

export class DetailsPane {
  readonly element = h("section", { class: "znb-details", "aria-label": "Details of the selection", tabindex: -1 });
  #shown = "";
  #text = "";

  constructor(
    private readonly host: Host,
    private readonly go: (row: number) => void,
  ) {}

  clear(content: Node | null = null): void {
    this.#shown = "";
    this.#text = "";
    this.element.hidden = !content;
    fill(this.element, content);
  }

  /** Shows a span. Asks the host for what the columns do not hold. */
  async showSpan(trace: Trace, row: number, palette: Palette): Promise<void> {
    const id = trace.ids.hex(row);
    const key = `${id} ${trace.end[row]} ${palette.text}`;
    if (this.#shown === key) return;
    this.#shown = key;
    this.element.hidden = false;
    const slot = h("div", { "aria-busy": "true" });
    fill(this.element, this.#heading(trace, row), this.#piecesOf(trace, row, palette), slot);
    try {
      const details = await this.host.details(id);
      if (this.#shown === key) this.#fillDetails(slot, details);
      this.#text = asText(trace, row, details);
    } catch (error) {
      if (this.#shown === key) fill(slot, h("p", { class: "znb-note", text: String((error as Error).message ?? error) }));
      this.#text = asText(trace, row, { attributes: {}, events: [] });
    }
    slot.removeAttribute("aria-busy");
  }

  /** Shows a span that is shown as it is now: one that was open grows, and may have ended. */
  refresh(trace: Trace, row: number, palette: Palette): void {
    if (!this.#shown.startsWith(trace.ids.hex(row))) return;
    const facts = this.element.querySelector(".znb-heading > span");
    if (facts) facts.textContent = factsOf(trace, row);
    void this.showSpan(trace, row, palette);
  }

  /** Shows a sampled function. */
  showFunction(trace: Trace, number: number, lines: readonly string[]): void {
    const [name, file, line] = trace.samples.functions[number]!;
    this.#shown = `function ${number}`;
    this.#text = lines.join("\n");
    this.element.hidden = false;
    const slot = h("div");
    fill(
      this.element,
      h("div", { class: "znb-heading" }, h("strong", { text: name }), h("span", { text: lines.slice(1, -1).join(" · ") }), this.#copyButton()),
      slot,
    );
    void this.#showSource(slot, file, line);
  }

  showLines(lines: readonly string[]): void {
    this.#shown = lines[0] ?? "";
    this.#text = lines.join("\n");
    this.element.hidden = false;
    fill(this.element, h("div", { class: "znb-heading" }, h("strong", { text: lines[0] ?? "" }), h("span", { text: lines.slice(1).join(" · ") }), this.#copyButton()));
  }

  async copy(): Promise<void> {
    if (!this.#text) return;
    try {
      await navigator.clipboard.writeText(this.#text);
    } catch {
      // Not a secure page: by way of a field.
      const field = h("textarea", { style: "position:fixed;opacity:0" });
      field.value = this.#text;
      this.element.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    const button = this.element.querySelector(".znb-copy");
    if (button) button.textContent = "Copied";
  }

  #copyButton(): HTMLElement {
    return h("button", { type: "button", class: "znb-copy", text: "Copy as text", onclick: () => void this.copy() });
  }

  #heading(trace: Trace, row: number): HTMLElement {
    const name = trace.nameOf(row);
    const bad = trace.bad(row);
    const path = trace.path(row).slice(0, -1).slice(-4);
    return h(
      "div",
      { class: "znb-heading" },
      h("strong", { class: bad ? "bad" : "", text: name }),
      h("span", { text: factsOf(trace, row) }),
      this.#copyButton(),
      path.length
        ? h("nav", { "aria-label": "Callers" }, ...path.map((up) => h("button", { type: "button", text: `${trace.nameOf(up)} ›`, onclick: () => this.go(up) })))
        : null,
    );
  }

  #piecesOf(trace: Trace, row: number, palette: Palette): HTMLElement | null {
    const found = pieces(trace, row);
    if (found.length < 2) return null;
    const whole = found.at(-1)!.end - found[0]!.start;
    return h(
      "dl",
      { class: "znb-pieces", "aria-label": "Where its time went" },
      ...found.flatMap((piece) => {
        const share = (piece.end - piece.start) / whole;
        return [
          h("dt", {}, h("i", { style: `background:${pieceColor(palette, piece.name)}` }), piece.name),
          h("dd", { text: `${duration(piece.end - piece.start)} (${percent(share)})` }),
        ];
      }),
    );
  }

  #fillDetails(slot: HTMLElement, details: Details): void {
    const names = Object.keys(details.attributes).filter((name) => !(MARKS as readonly string[]).includes(name));
    fill(
      slot,
      names.length
        ? h("table", { class: "znb-attributes" }, h("tbody", {}, ...names.map((name) => h("tr", {}, h("th", { scope: "row", text: name }), h("td", { text: show(details.attributes[name]) })))))
        : null,
      ...details.events.map(([time, name, attributes]) => this.#event(time, name, attributes)),
    );
  }

  #event(time: number, name: string, attributes: Record<string, unknown>): HTMLElement {
    if (name !== "exception") {
      const rest = Object.entries(attributes).map(([key, value]) => `${key}=${show(value)}`);
      return h("p", { text: [`${name} at ${duration(time)}`, ...rest].join(" · ") });
    }
    const type = show(attributes["exception.type"]);
    const lines = show(attributes["exception.stacktrace"]).trimEnd().split("\n");
    const source = h("div");
    const listing = h("pre", { class: "znb-traceback", tabindex: 0, "aria-label": "Traceback" });
    for (const line of lines) {
      const place = PLACE.exec(line);
      const text = `${line}\n`;
      listing.append(
        place
          ? h("button", { type: "button", title: "Show the source around this line", text, onclick: () => void this.#showSource(source, place[1]!, Number(place[2])) })
          : text,
      );
    }
    return h("div", {}, h("p", { class: "bad" }, h("strong", { text: type }), `: ${show(attributes["exception.message"])}`), lines.length > 1 ? listing : null, source);
  }

  async #showSource(slot: HTMLElement, file: string, line: number): Promise<void> {
    fill(slot, h("p", { class: "znb-note", text: `${file}, line ${line}` }));
    let found: Source;
    try {
      found = await this.host.source(file, line);
    } catch (error) {
      slot.append(h("p", { class: "znb-note", text: String((error as Error).message ?? error) }));
      return;
    }
    if (!found.lines.length) {
      slot.append(h("p", { class: "znb-note", text: "The source of this file is not to be had here." }));
      return;
    }
    const listing = h("pre", { class: "znb-source", tabindex: 0, "aria-label": `Source of ${found.file}` });
    found.lines.forEach((text, at) => {
      const number = found.first + at;
      listing.append(h("span", { class: number === line ? "here" : "", text: `${String(number).padStart(5)}  ${text}\n` }));
    });
    fill(slot, h("p", { class: "znb-note", text: `${found.file}, line ${line}` }), listing);
    this.element.scrollTop = slot.offsetTop - this.element.offsetTop - 4;
  }
}

function factsOf(trace: Trace, row: number): string {
  return describeSpan(trace, row).slice(1, 4).join(" · ");
}

/** A value as text; numbers of nanoseconds stay numbers. */
export function show(value: unknown): string {
  if (value === undefined || value === null) return value === null ? "None" : "";
  return typeof value === "string" ? value : JSON.stringify(value);
}

export function asText(trace: Trace, row: number, details: Details): string {
  const lines = describeSpan(trace, row);
  lines.push(`in ${trace.path(row).map((up) => trace.nameOf(up)).join(" › ")}`);
  for (const [name, value] of Object.entries(details.attributes)) lines.push(`${name} = ${show(value)}`);
  for (const [time, name, attributes] of details.events) {
    lines.push(`${name} at ${duration(time)}`);
    const { "exception.stacktrace": stack, ...rest } = attributes;
    for (const [key, value] of Object.entries(rest)) lines.push(`  ${key} = ${show(value)}`);
    if (stack) lines.push(show(stack).trimEnd());
  }
  return lines.join("\n");
}
