// Widgets whose view outlives its display: when the output in the document becomes a picture, the page goes on showing the view.

import type { AnyModel, RenderProps } from "@anywidget/types";
import { type Bundle, keep } from "./document";
import { savedWith } from "./saved";
import { placeOf } from "./settle";

interface Keyed {
  /** The model's id. Each view has a model object of its own, which forgets its listeners with the view. */
  key: string;
}

export interface Lasting {
  readonly element: HTMLElement;
  stop(): void;
}

/** Puts a picture into the document, in place of the widget. */
export type Keep = (bundle: Bundle | null) => void;

/** Milliseconds between two looks whether the output is still there. */
const LOOK_MS = 5000;

/** Makes what a widget's module exports. */
export function lasting<S extends Keyed>(make: (model: AnyModel<S>, keep: Keep) => Lasting) {
  const models = new Map<string, AnyModel<S>>();
  /** What notes where a view is, for each view: all displays of a widget become pictures at once. */
  const views = new Map<string, Set<() => void>>();
  return {
    initialize({ model }: { model: AnyModel<S> }): () => void {
      const key = model.get("key");
      models.set(key, model);
      views.set(key, new Set());
      const forget = savedWith(model.widget_manager, key);
      return () => {
        forget();
        models.delete(key);
        views.delete(key);
      };
    },
    render({ model: own, el }: RenderProps<S>): () => void {
      const key = own.get("key");
      const model = models.get(key) ?? own;
      let open: ReturnType<typeof placeOf> | null = null;
      const remember = () => {
        open ??= placeOf(el);
      };
      views.get(key)?.add(remember);
      const view = make(model, (bundle) => keep(model.widget_manager, key, bundle, () => views.get(key)?.forEach((each) => each())));
      el.append(view.element);
      return () => {
        views.get(key)?.delete(remember);
        if (!open) return view.stop();
        let placed = false;
        open((host) => {
          placed = true;
          host.append(view.element);
        });
        const timer = setInterval(() => {
          if (placed && view.element.closest(".jp-OutputArea")) return;
          clearInterval(timer); // the cell was run again, or cleared
          view.stop();
        }, LOOK_MS);
      };
    },
  };
}
