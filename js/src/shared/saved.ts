// What a document that is saved while a widget is live has of it: the model's state, from which JupyterLab and Notebook make
// the widget again where there is no kernel to ask. A display's other forms do not help there: a page prefers the widget,
// and says "model not found". Only znb's models are saved, and those are forgotten that no output shows any more.

const STATE = "application/vnd.jupyter.widget-state+json";
const VIEW = "application/vnd.jupyter.widget-view+json";
/** How the ids of znb's classes begin. */
const OURS = "znb.";

interface Entry {
  state?: { _anywidget_id?: string };
}

interface Notebook {
  readonly cells: { readonly length: number; get(at: number): { outputs?: { readonly length: number; get(at: number): { toJSON(): { data?: Record<string, unknown> } } } } };
  getMetadata(key: string): Record<string, { state?: Record<string, Entry> }> | undefined;
  setMetadata(key: string, value: unknown): void;
  deleteMetadata(key: string): void;
}

interface Signal {
  connect(call: (sender: unknown, what: string) => void): unknown;
  disconnect(call: (sender: unknown, what: string) => void): unknown;
}

/** A widget manager, as far as it is JupyterLab's. */
interface Manager {
  context?: { model?: Notebook; saveState?: Signal };
  get_model?(id: string): Promise<{ attributes: Record<string, unknown> }>;
}

/** A model's entry: what it holds as JSON, buffers apart. */
export function entryOf(attributes: Record<string, unknown>): Record<string, unknown> {
  const buffers: { encoding: string; path: (string | number)[]; data: string }[] = [];
  const plain = (value: unknown, path: (string | number)[]): unknown => {
    if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
      buffers.push({ encoding: "base64", path, data: base64(value) });
      return null;
    }
    if (Array.isArray(value)) return value.map((item, at) => plain(item, [...path, at]));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item, [...path, key])]));
    return value;
  };
  // The layout is a model of its own, and nobody's of znb says anything.
  const { layout, ...own } = attributes;
  const state = plain(own, []);
  return { model_name: own["_model_name"], model_module: own["_model_module"], model_module_version: own["_model_module_version"], state, buffers };
}

function base64(value: ArrayBuffer | ArrayBufferView): string {
  const bytes = ArrayBuffer.isView(value) ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength) : new Uint8Array(value);
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

/** Ids of the models that a document shows. */
function shown(notebook: Notebook): Set<string> {
  const found = new Set<string>();
  for (let i = 0; i < notebook.cells.length; i++) {
    const outputs = notebook.cells.get(i).outputs;
    for (let j = 0; j < (outputs?.length ?? 0); j++) {
      const view = outputs!.get(j).toJSON().data?.[VIEW] as { model_id?: string } | undefined;
      if (view?.model_id) found.add(view.model_id);
    }
  }
  return found;
}

/** Puts a model into the document's metadata, or takes it out if no output shows it. */
export function remember(notebook: Notebook, key: string, attributes: Record<string, unknown>): void {
  const ids = shown(notebook);
  const before = notebook.getMetadata("widgets");
  const all = before?.[STATE]?.state ?? {};
  const kept = Object.fromEntries(Object.entries(all).filter(([id, entry]) => ids.has(id) || !entry.state?._anywidget_id?.startsWith(OURS)));
  if (ids.has(key)) kept[key] = entryOf(attributes) as Entry;
  if (Object.keys(kept).length) notebook.setMetadata("widgets", { ...before, [STATE]: { version_major: 2, version_minor: 0, ...before?.[STATE], state: kept } });
  else if (before) notebook.deleteMetadata("widgets");
}

/** When a widget was last as it is: now, or if it came from a saved document, when that was saved; Unix time. */
export function asOf(model: { get(name: never): unknown }): number {
  return (model.get("saved" as never) as number | undefined) ?? Date.now() / 1000;
}

/** Has a model remembered whenever its document is saved. Returns what ends that. */
export function savedWith(manager: unknown, key: string): () => void {
  const { context, get_model } = (manager ?? {}) as Manager;
  if (!context?.saveState || !context.model?.setMetadata || !get_model) return () => {};
  let attributes: Record<string, unknown> | null = null;
  get_model.call(manager, key).then((model) => (attributes = model.attributes), () => {});
  const onSave = (_: unknown, what: string) => {
    if (what === "started" && attributes) remember(context.model!, key, { ...attributes, saved: Date.now() / 1000 });
  };
  context.saveState.connect(onSave);
  return () => void context.saveState!.disconnect(onSave);
}
