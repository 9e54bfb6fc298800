// The latest pictures, side by side.

import type { Bundle } from "../shared/document";
import { fill, h } from "../shared/dom";
import { timeOfDay } from "../shared/format";
import { bytes, type Frame } from "./frames";
import type { View } from "./shell";

export class ImageView implements View {
  readonly element = h("div", { class: "znb-images" });
  readonly tools: HTMLElement[] = [];
  private readonly shown = new Map<string, { url: string; data: () => string; name: string; time: number }>();

  add(frame: Frame, buffers: (DataView | ArrayBuffer)[], full: boolean): void {
    if (full) this.stop();
    (frame.images ?? []).forEach(([topic, source, time, type], i) => {
      const key = `${topic} ${source}`;
      const old = this.shown.get(key);
      if (old) URL.revokeObjectURL(old.url);
      const content = bytes(buffers[i]!);
      const url = URL.createObjectURL(new Blob([content], { type }));
      this.shown.set(key, { url, data: () => dataUrl(content, type), name: `${topic} · ${source}`, time });
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

  still(caption: string): Bundle | null {
    const images = [...this.shown.values()].map(({ data, name }) => h("img", { src: data(), alt: name, title: name }).outerHTML);
    return images.length ? { "text/html": h("p", { text: caption }).outerHTML + images.join("\n") } : null;
  }

  stop(): void {
    for (const { url } of this.shown.values()) URL.revokeObjectURL(url);
    this.shown.clear();
  }
}

function dataUrl(content: Uint8Array, type: string): string {
  let text = "";
  for (const byte of content) text += String.fromCharCode(byte);
  return `data:${type};base64,${btoa(text)}`;
}
