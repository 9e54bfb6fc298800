import { describe, expect, it } from "vitest";
import { keep } from "../src/shared/document";
import { timeOfDay } from "../src/shared/format";

const VIEW = "application/vnd.jupyter.widget-view+json";

interface Output {
  data: Record<string, unknown>;
  metadata?: Record<string, unknown>;
}

/** A document as JupyterLab holds it, of one code cell, below a text. */
function documentOf(...outputs: Output[]) {
  const list = {
    length: outputs.length,
    get: (i: number) => ({ toJSON: () => structuredClone(outputs[i]!) }),
    set: (i: number, value: Output) => void (outputs[i] = value),
  };
  const cells = [{}, { outputs: list }];
  return { context: { model: { cells: { length: cells.length, get: (i: number) => cells[i] } } } };
}

describe("keep", () => {
  const view = (id: string): Output => ({ data: { [VIEW]: { model_id: id }, "text/plain": "…", "text/html": "<b>old</b>" } });

  it("replaces the outputs of one widget, and later its pictures", () => {
    const outputs = [view("a"), view("b"), view("a")];
    const manager = documentOf(...outputs);
    const told: string[] = [];
    const now = () => [0, 1, 2].map((i) => Object.keys(manager.context.model.cells.get(1)!.outputs!.get(i).toJSON().data));
    keep(manager, "a", { "image/png": "one", "text/plain": "as of 1" }, () => told.push("before"));
    expect(now()).toEqual([["image/png", "text/plain"], [VIEW, "text/plain", "text/html"], ["image/png", "text/plain"]]);
    expect(told).toEqual(["before", "before"]);
    keep(manager, "a", { "image/png": "two" });
    expect(now()).toEqual([["image/png"], [VIEW, "text/plain", "text/html"], ["image/png"]]);
    keep(manager, "a", { "image/png": "two" }, () => told.push("again"));
    expect(told).toEqual(["before", "before"]);
  });

  it("leaves the other forms if there is no picture, and the widget if there is none but text", () => {
    const manager = documentOf(view("a"), { data: { [VIEW]: { model_id: "c" }, "text/plain": "…" } });
    keep(manager, "a", null);
    keep(manager, "c", null);
    const outputs = manager.context.model.cells.get(1)!.outputs!;
    expect(outputs.get(0).toJSON().data).toEqual({ "text/plain": "…", "text/html": "<b>old</b>" });
    expect(VIEW in outputs.get(1).toJSON().data).toBe(true);
  });

  it("does nothing where there is no way to the document", () => {
    for (const manager of [undefined, null, {}, { context: {} }]) keep(manager, "a", null);
  });
});

it("tells the time by 24 hours", () => {
  expect(timeOfDay(new Date(2026, 1, 3, 23, 4, 5, 6).getTime() / 1000)).toBe("23:04:05.006");
});
