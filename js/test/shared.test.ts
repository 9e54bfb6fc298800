import { describe, expect, it } from "vitest";
import { keep } from "../src/shared/document";
import { timeOfDay } from "../src/shared/format";
import { entryOf, remember } from "../src/shared/saved";

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

describe("what a saved document has of a live widget", () => {
  const STATE = "application/vnd.jupyter.widget-state+json";
  const attributes = { _model_name: "AnyModel", _model_module: "anywidget", _anywidget_id: "znb.widgets.x.X", layout: {}, kind: "line" };

  it("is its state, buffers apart", () => {
    const buffer = new DataView(new Uint8Array([0, 104, 105]).buffer, 1);
    const entry = entryOf({ ...attributes, frame: { n: 1, buffers: [buffer] } });
    expect(entry["model_name"]).toBe("AnyModel");
    expect(entry["state"]).toEqual({ ...attributes, layout: undefined, frame: { n: 1, buffers: [null] } });
    expect(entry["buffers"]).toEqual([{ encoding: "base64", path: ["frame", "buffers", 0], data: btoa("hi") }]);
  });

  it("goes when no output shows it, and others' stay", () => {
    const outputs: Output[] = [{ data: { [VIEW]: { model_id: "a" } } }, { data: { [VIEW]: { model_id: "b" } } }];
    let widgets: Record<string, { state?: Record<string, unknown> }> | undefined = { [STATE]: { state: { theirs: { state: {} } } } };
    const notebook = {
      cells: documentOf(...outputs).context.model.cells as never,
      getMetadata: () => widgets as never,
      setMetadata: (_: string, value: unknown) => void (widgets = value as typeof widgets),
      deleteMetadata: () => void (widgets = undefined),
    };
    const ids = () => Object.keys(widgets![STATE]!.state!).sort();
    remember(notebook, "a", attributes);
    remember(notebook, "b", attributes);
    remember(notebook, "elsewhere", attributes);
    expect(ids()).toEqual(["a", "b", "theirs"]);
    outputs.splice(0);
    notebook.cells = documentOf().context.model.cells as never;
    remember(notebook, "a", attributes);
    expect(ids()).toEqual(["theirs"]);
    widgets = undefined;
    remember(notebook, "a", attributes);
    expect(widgets).toBe(undefined);
  });
});
