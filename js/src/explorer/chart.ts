// The canvas with its minimap: shows a scene, zooms, pans, tells what is pointed at. Knows nothing of spans.

import { h } from "../shared/dom";
import { type Palette } from "./colors";
import { type Arrow, AXIS, FONT, levelAt, levelOf, levelTops, type Look, paint, ROW } from "./paint";
import { boxAt, density, type Scene } from "./scene";
import { around, clamp, pan, type Viewport, zoom } from "./viewport";

const MINIMAP = 30;
const HEIGHT_MIN = 110;
const HEIGHT_MAX = 420;
/** Nanoseconds that fill the width at the closest look. */
const CLOSEST = 20;
const DRAG_PIXELS = 4;

export interface ChartEvents {
  /** Pointed at a box, by its index; -1 for none. Page coordinates. */
  hovered(index: number, x: number, y: number): void;
  selected(index: number): void;
  moved(): void;
}

export class Chart {
  readonly element: HTMLElement;
  readonly canvas: HTMLCanvasElement;
  scene: Scene | null = null;
  view: Viewport = { x0: 0, x1: 1 };
  selected = -1;
  hovered = -1;
  arrows: readonly Arrow[] = [];
  stretches: readonly { index: number; start: number; end: number }[] = [];
  /** Milliseconds that frames took to draw; the latest ones. */
  readonly frames: number[] = [];
  readonly #map: HTMLCanvasElement;
  #look: Look | null = null;
  #tops: Float64Array = new Float64Array(1);
  #now = 0;
  #scroll = 0;
  #width = 0;
  #height = HEIGHT_MIN;
  #letter = 6.2;
  #frame = 0;
  #mapScene: Scene | null = null;
  #mapPicture: ImageData | null = null;
  readonly #observer: ResizeObserver;
  #drag: { x: number; y: number; view: Viewport; scroll: number; moved: boolean } | null = null;

  constructor(
    private palette: Palette,
    private readonly events: ChartEvents,
  ) {
    this.canvas = h("canvas", { class: "znb-canvas", tabindex: 0, role: "application", "aria-roledescription": "chart" });
    this.#map = h("canvas", { class: "znb-minimap", "aria-hidden": "true" });
    this.element = h("div", { class: "znb-chart" }, this.#map, this.canvas);
    this.#observer = new ResizeObserver(() => this.#resize());
    this.#observer.observe(this.element);
    this.#listen();
  }

  close(): void {
    this.#observer.disconnect();
    cancelAnimationFrame(this.#frame);
  }

  /** Shows a scene. @param keep Whether the part that is seen stays; where all was seen, all is seen again. */
  show(scene: Scene, look: Look, now: number, keep: boolean): void {
    const all = !this.scene || (this.view.x0 <= this.scene.x0 && this.view.x1 >= this.scene.x1);
    this.scene = scene;
    this.#look = look;
    this.#now = now;
    this.hovered = -1;
    this.#tops = levelTops(scene);
    this.view = keep && !all ? this.#clamped(this.view) : { x0: scene.x0, x1: scene.x1 };
    if (!keep) this.#scroll = 0;
    this.#resize();
  }

  restyle(look: Look, palette: Palette): void {
    this.#look = look;
    this.palette = palette;
    this.#mapScene = null;
    this.redraw();
  }

  redraw(): void {
    if (!this.#frame) this.#frame = requestAnimationFrame(() => this.#draw());
  }

  move(view: Viewport): void {
    this.view = this.#clamped(view);
    this.events.moved();
    this.redraw();
  }

  zoomBy(factor: number, share = 0.5): void {
    this.move(zoom(this.view, factor, share));
  }

  panBy(share: number): void {
    this.move(pan(this.view, share));
  }

  all(): void {
    if (this.scene) this.move(this.scene);
  }

  zoomTo(index: number): void {
    if (this.scene) this.move(around(this.scene.start[index]!, Math.min(this.scene.end[index]!, this.#now)));
    this.reveal(index);
  }

  select(index: number): void {
    this.selected = index;
    if (index >= 0) this.reveal(index);
    this.redraw();
  }

  /** Brings a box into sight. */
  reveal(index: number): void {
    const { scene } = this;
    if (!scene) return;
    const start = scene.start[index]!, end = Math.min(scene.end[index]!, this.#now); // prettier-ignore
    const width = this.view.x1 - this.view.x0;
    if (end < this.view.x0 || start > this.view.x1) this.move({ x0: (start + end) / 2 - width / 2, x1: (start + end) / 2 + width / 2 });
    const y = this.#tops[levelOf(scene, index)]!;
    if (y < this.#scroll) this.#scrollTo(y - ROW);
    else if (y + ROW > this.#scroll + this.#height - AXIS) this.#scrollTo(y + 2 * ROW - this.#height + AXIS);
    this.redraw();
  }

  /** The box beside, above or below one; -1 if there is none. */
  neighbour(index: number, key: "ArrowLeft" | "ArrowRight" | "ArrowUp" | "ArrowDown"): number {
    const { scene } = this;
    if (!scene || !scene.start.length) return -1;
    if (index < 0) return 0;
    const level = levelOf(scene, index);
    if (key === "ArrowLeft") return index > scene.first[level]! ? index - 1 : index;
    if (key === "ArrowRight") return index + 1 < scene.first[level + 1]! ? index + 1 : index;
    const step = key === "ArrowUp" ? -1 : 1;
    const start = scene.start[index]!, end = Math.min(scene.end[index]!, this.#now); // prettier-ignore
    for (let to = level + step; to >= 0 && to < scene.first.length - 1; to += step) {
      // The first one below it, or the one above its middle.
      const found = boxAt(scene, to, step > 0 ? start : (start + end) / 2, 0);
      if (found >= 0) return found;
      if (step > 0) {
        const next = boxAt(scene, to, (start + end) / 2, (end - start) / 2);
        if (next >= 0) return next;
      }
    }
    return index;
  }

  #clamped(view: Viewport): Viewport {
    return this.scene ? clamp(view, this.scene, Math.min(CLOSEST, this.scene.x1 - this.scene.x0)) : view;
  }

  get #content(): number {
    return this.#tops[this.#tops.length - 1]!;
  }

  #scrollTo(y: number): void {
    this.#scroll = Math.max(0, Math.min(y, this.#content + AXIS - this.#height));
    this.redraw();
  }

  #resize(): void {
    const width = this.element.clientWidth;
    if (!width) return;
    const ratio = devicePixelRatio || 1;
    const height = Math.min(HEIGHT_MAX, Math.max(HEIGHT_MIN, this.#content + AXIS));
    if (width !== this.#width || height !== this.#height || this.canvas.width !== Math.round(width * ratio)) {
      this.#width = width;
      this.#height = height;
      for (const [canvas, tall] of [[this.canvas, height], [this.#map, MINIMAP]] as const) { // prettier-ignore
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(tall * ratio);
        canvas.style.height = `${tall}px`;
      }
      this.#mapScene = null;
    }
    this.#scrollTo(this.#scroll);
  }

  #draw(): void {
    this.#frame = 0;
    const { scene } = this;
    const look = this.#look;
    const context = this.canvas.getContext("2d");
    if (!scene || !look || !context || !this.#width) return;
    const began = performance.now();
    const ratio = this.canvas.width / this.#width;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = FONT;
    this.#letter = context.measureText("abcdefghijklmnopqrstuvwxyz_.0123456789").width / 38;
    const { palette, view, selected, hovered, arrows, stretches } = this;
    const scroll = this.#scroll, width = this.#width, height = this.#height, now = this.#now; // prettier-ignore
    paint(context, { scene, look, palette, view, scroll, width, height, selected, hovered, arrows, stretches, now }, this.#tops, this.#letter);
    this.#drawScrollbar(context);
    this.#drawMap(ratio);
    this.frames.push(performance.now() - began);
    if (this.frames.length > 600) this.frames.splice(0, 300);
  }

  #drawScrollbar(context: CanvasRenderingContext2D): void {
    const seen = this.#height - AXIS;
    if (this.#content <= seen) return;
    const tall = Math.max(16, (seen * seen) / this.#content);
    const y = AXIS + (this.#scroll / (this.#content - seen)) * (seen - tall);
    context.fillStyle = this.palette.axis;
    context.globalAlpha = 0.5;
    context.fillRect(this.#width - 5, y, 4, tall);
    context.globalAlpha = 1;
  }

  #drawMap(ratio: number): void {
    const { scene, palette } = this;
    const width = this.#width;
    const context = this.#map.getContext("2d", { willReadFrequently: true });
    if (!scene || !context) return;
    if (this.#mapScene !== scene || !this.#mapPicture) {
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.fillStyle = palette.lane;
      context.fillRect(0, 0, width, MINIMAP);
      const bins = Math.max(1, Math.floor(width / 2));
      const { busy, bad } = density(scene, bins);
      const top = Math.max(1, ...busy);
      for (let bin = 0; bin < bins; bin++) {
        const tall = Math.sqrt(Math.max(0, busy[bin]!) / top) * (MINIMAP - 5);
        context.fillStyle = palette.hues[4]!;
        context.fillRect((bin * width) / bins, MINIMAP - tall, width / bins, tall);
        if (!bad[bin]) continue;
        context.fillStyle = palette.failed;
        context.fillRect((bin * width) / bins, 0, 2, 5);
      }
      this.#mapPicture = context.getImageData(0, 0, this.#map.width, this.#map.height);
      this.#mapScene = scene;
    }
    context.putImageData(this.#mapPicture, 0, 0);
    const scale = width / (scene.x1 - scene.x0);
    const x0 = (this.view.x0 - scene.x0) * scale;
    const x1 = (this.view.x1 - scene.x0) * scale;
    context.fillStyle = palette.back;
    context.globalAlpha = 0.6;
    context.fillRect(0, 0, x0, MINIMAP);
    context.fillRect(x1, 0, width - x1, MINIMAP);
    context.globalAlpha = 1;
    context.strokeStyle = palette.mark;
    context.strokeRect(x0 + 0.5, 0.5, Math.max(2, x1 - x0 - 1), MINIMAP - 1);
  }

  // -- mouse

  #listen(): void {
    const { canvas } = this;
    const map = this.#map;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.#drag = { x: event.offsetX, y: event.offsetY, view: this.view, scroll: this.#scroll, moved: false };
    });
    canvas.addEventListener("pointermove", (event) => this.#pointed(event));
    canvas.addEventListener("pointerup", (event) => {
      const clicked = this.#drag && !this.#drag.moved;
      this.#drag = null;
      canvas.style.cursor = "";
      if (clicked) this.events.selected(this.#indexAt(event.offsetX, event.offsetY));
    });
    canvas.addEventListener("pointerleave", () => {
      this.hovered = -1;
      this.events.hovered(-1, 0, 0);
      this.redraw();
    });
    canvas.addEventListener("dblclick", (event) => {
      const index = this.#indexAt(event.offsetX, event.offsetY);
      if (index >= 0) this.zoomTo(index);
      else this.all();
    });
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    const jump = (event: PointerEvent) => {
      if (!this.scene || !(event.buttons & 1)) return;
      const x = this.scene.x0 + (event.offsetX / this.#width) * (this.scene.x1 - this.scene.x0);
      const half = (this.view.x1 - this.view.x0) / 2;
      this.move({ x0: x - half, x1: x + half });
    };
    map.addEventListener("pointerdown", (event) => {
      map.setPointerCapture(event.pointerId);
      jump(event);
    });
    map.addEventListener("pointermove", jump);
  }

  #pointed(event: PointerEvent): void {
    const drag = this.#drag;
    if (drag && event.buttons & 1) {
      const dx = event.offsetX - drag.x, dy = event.offsetY - drag.y; // prettier-ignore
      if (!drag.moved && Math.hypot(dx, dy) < DRAG_PIXELS) return;
      drag.moved = true;
      this.canvas.style.cursor = "grabbing";
      this.events.hovered(-1, 0, 0);
      this.#scrollTo(drag.scroll - dy);
      this.move(pan(drag.view, -dx / this.#width));
      return;
    }
    const index = this.#indexAt(event.offsetX, event.offsetY);
    if (index !== this.hovered) {
      this.hovered = index;
      this.redraw();
    }
    this.events.hovered(index, event.clientX, event.clientY);
  }

  #wheel(event: WheelEvent): void {
    // The page keeps the wheel until the chart is asked for: by Ctrl, or by a click into it.
    const asked = document.activeElement === this.canvas || (this.canvas.getRootNode() as ShadowRoot).activeElement === this.canvas;
    const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
    if (event.ctrlKey || event.metaKey || (asked && event.altKey)) {
      this.zoomBy(Math.exp(event.deltaY * unit * 0.0025), event.offsetX / this.#width);
    } else if (asked && (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))) {
      this.panBy(((event.deltaX || event.deltaY) * unit) / this.#width);
    } else if (asked && this.#content > this.#height - AXIS) {
      this.#scrollTo(this.#scroll + event.deltaY * unit);
    } else if (asked) {
      this.zoomBy(Math.exp(event.deltaY * unit * 0.0025), event.offsetX / this.#width);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #indexAt(x: number, y: number): number {
    if (!this.scene || y < AXIS) return -1;
    const pixel = (this.view.x1 - this.view.x0) / this.#width;
    return boxAt(this.scene, levelAt(this.#tops, y - AXIS + this.#scroll), this.view.x0 + x * pixel, 2 * pixel);
  }
}
