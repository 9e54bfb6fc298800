// The latest pictures, side by side.

import { fill, h } from "../shared/dom";
import { timeOfDay } from "../shared/format";
import { bytes, type Frame } from "./frames";
import type { View } from "./shell";

export class ImageView implements View {
  readonly element = h("div", { class: "znb-images" });
  readonly tools: HTMLElement[] = [];
  private readonly shown = new Map<string, { url: string; name: string; time: number }>();

  add(frame: Frame, buffers: (DataView | ArrayBuffer)[], full: boolean): void {
    if (full) this.stop();
    (frame.images ?? []).forEach(([topic, source, time, type], i) => {
      const key = `${topic} ${source}`;
      const old = this.shown.get(key);
      if (old) URL.revokeObjectURL(old.url);
      const url = URL.createObjectURL(new Blob([bytes(buffers[i]!)], { type }));
      this.shown.set(key, { url, name: `${topic} · ${source}`, time });
    });
  }

  draw(): void {
    fill(
      this.element,
      ...[...this.shown.values()].map(({ url, name, time }) =>
        h("figure", {}, h("img", { src: url, alt: name }), h("figcaption", { text: `${name} · ${timeOfDay(time)}` })),
      ),
    );
  }

  themed(): void {}

  stop(): void {
    for (const { url } of this.shown.values()) URL.revokeObjectURL(url);
    this.shown.clear();
  }
}
