// Whether a widget's kernel is still there.

import type { AnyModel } from "@anywidget/types";
import { whenGone } from "./gone";

type Events = (name: string, call: () => void) => void;

/** Seconds without a word after which a kernel that speaks every few seconds is taken for gone. */
const PATIENCE = 15;

export interface KernelWatch {
  /** Say that the kernel has spoken. */
  heard(): void;
  /** Say whether it is expected to: nobody speaks to a view that cannot be seen. */
  expect(on: boolean): void;
  stop(): void;
}

/** Calls `changedTo(gone)` when the kernel goes, or has said nothing for too long, and when it is back. */
export function watchKernel(model: AnyModel, element: HTMLElement, changedTo: (gone: boolean) => void): KernelWatch {
  let gone = false;
  let last = performance.now();
  let expected = true;
  let ended = false;
  const tell = (now: boolean) => {
    if (now !== gone && !ended) changedTo((gone = now));
  };
  // It does not come back: after a restart it is another one.
  const closed = () => {
    tell(true);
    ended = true;
  };
  // Jupyter marks the view; the mark is set by another listener of the same event.
  const changed = () => setTimeout(() => tell(element.closest(".jupyter-widgets-disconnected") !== null));
  // Where nobody tells of the kernel, its silence has to; a busy one may be silent for long.
  const told = () => Boolean((model.widget_manager as { kernel?: unknown } | undefined)?.kernel);
  const timer = setInterval(() => expected && performance.now() - last > PATIENCE * 1000 && !told() && tell(true), 1000);
  const forget = whenGone(model.widget_manager, closed);
  // One that came from a saved document, as there was no kernel, or another one by then.
  const manager = model.widget_manager as unknown as { get_model?(id: string): Promise<{ comm_live?: boolean }> } | undefined;
  const key = model.get("key") as string | undefined;
  if (key) manager?.get_model?.(key).then((found) => void (found.comm_live === false && closed()), () => {});
  (model.on as Events)("comm:close", closed);
  (model.on as Events)("comm_live_update", changed);
  return {
    heard() {
      last = performance.now();
      tell(false);
    },
    expect(on) {
      expected = on;
      last = performance.now();
    },
    stop() {
      clearInterval(timer);
      forget();
      (model.off as Events)("comm:close", closed);
      (model.off as Events)("comm_live_update", changed);
    },
  };
}
