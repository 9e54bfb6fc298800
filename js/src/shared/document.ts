// The document that a page shows, as JupyterLab and Notebook hold it: an output that is a widget can become a picture there,
// which is what a saved notebook shows without a kernel. Elsewhere there is no way to the document, and nothing happens.

import { h } from "./dom";

/** A MIME bundle. */
export type Bundle = Record<string, unknown>;

interface Output {
  toJSON(): { data?: Bundle; metadata?: Record<string, unknown> };
}

interface Outputs {
  readonly length: number;
  get(index: number): Output;
  set(index: number, value: unknown): void;
}

interface Cells {
  readonly length: number;
  get(index: number): { outputs?: Outputs };
}

const VIEW = "application/vnd.jupyter.widget-view+json";
/** Marks, in an output's metadata, the picture of a widget. */
const MARK = "znb";

/**
 * Replaces a widget's outputs, or the pictures that stand for them, by a bundle; `null` for the other forms that they have.
 * `before` is called when there is one that is about to be replaced.
 */
export function keep(manager: unknown, key: string, bundle: Bundle | null, before: () => void = () => {}): void {
  const cells = (manager as { context?: { model?: { cells?: Cells } } } | undefined)?.context?.model?.cells;
  if (!cells) return;
  for (let i = 0; i < cells.length; i++) {
    const outputs = cells.get(i).outputs;
    for (let j = 0; j < (outputs?.length ?? 0); j++) {
      const output = outputs!.get(j).toJSON();
      const { [VIEW]: view, ...others } = output.data ?? {};
      const is = view ? (view as { model_id?: string }).model_id === key : output.metadata?.[MARK] === key;
      const data = bundle ?? others;
      if (!is || !Object.keys(data).some((type) => type !== "text/plain")) continue;
      if (JSON.stringify(output.data) === JSON.stringify(data)) continue;
      before();
      outputs!.set(j, { ...output, data, metadata: { ...output.metadata, [MARK]: key } });
    }
  }
}

/** A table as a document holds it: rows of text below a head. */
export function tableHtml(caption: string, names: readonly string[], rows: readonly (readonly string[])[]): string {
  const head = h("tr", {}, ...names.map((text) => h("th", { text })));
  const body = rows.map((row) => h("tr", {}, ...row.map((text) => h("td", { text }))));
  return h("table", {}, h("caption", { text: caption }), h("thead", {}, head), h("tbody", {}, ...body)).outerHTML;
}
