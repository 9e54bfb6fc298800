// Draws a scene on a canvas. Boxes are gathered by colour first, since changing the colour is what costs.

import { duration } from "../shared/format";
import { type Palette } from "./colors";
import { type Scene, visit } from "./scene";
import { ticks, type Viewport } from "./viewport";

export const ROW = 19;
export const AXIS = 20;
export const HEADING = 18;
const PAD = 4;
const LETTERS_MIN = 2;
/** Arrows beyond which they are drawn faintly. */
const ARROWS_CLEAR = 12;
/** Pixels below which neighbours are drawn as one. */
const CROWD = 1.5;

/** What boxes look like; items are those of the scene. */
export interface Look {
  fill(item: number): string;
  text(item: number): string;
  label(item: number): string;
  /** Drawn with a mark of its own: recorded by looking, not by a span. */
  sampled(item: number): boolean;
  /** Shaded parts, drawn along the bottom. */
  parts(item: number): readonly { start: number; end: number; fill: string }[];
}

export interface Arrow {
  x0: number;
  level0: number;
  x1: number;
  level1: number;
}

export interface Picture {
  scene: Scene;
  look: Look;
  palette: Palette;
  view: Viewport;
  scroll: number;
  width: number;
  height: number;
  selected: number;
  hovered: number;
  arrows: readonly Arrow[];
  /** Stretches marked at the bottom of boxes, by the index of the box. */
  stretches: readonly { index: number; start: number; end: number }[];
  now: number;
}

/** Where levels stand: below their lane's heading, if there are lanes. */
export function levelTops(scene: Scene): Float64Array {
  const levels = scene.first.length - 1;
  const tops = new Float64Array(levels + 1);
  let y = 0;
  let lane = 0;
  for (let level = 0; level <= levels; level++) {
    if (scene.lanes[lane]?.level === level && level < levels) {
      y += HEADING;
      lane++;
    }
    tops[level] = y;
    y += ROW;
  }
  tops[levels] = tops[levels]! + PAD;
  return tops;
}

export function levelAt(tops: Float64Array, y: number): number {
  for (let level = 0; level < tops.length - 1; level++) {
    if (y >= tops[level]! && y < tops[level]! + ROW) return level;
  }
  return -1;
}

/** Cuts a label to a width; measures nothing, since that costs more than a letter too few. */
export function fit(label: string, pixels: number, letter: number): string {
  const room = Math.floor((pixels - 2 * PAD) / letter);
  if (label.length <= room) return label;
  return room > LETTERS_MIN ? `${label.slice(0, room - 1)}…` : "";
}

export function paint(context: CanvasRenderingContext2D, picture: Picture, tops: Float64Array, letter: number): void {
  const { scene, look, palette, view, scroll, width, height } = picture;
  const scale = width / (view.x1 - view.x0);
  const px = (x: number) => (x - view.x0) * scale;
  context.fillStyle = palette.back;
  context.fillRect(0, 0, width, height);
  context.textBaseline = "middle";
  const top = AXIS - scroll;
  for (const lane of scene.lanes) {
    const y = tops[lane.level]! + top;
    if (y - HEADING > height || y + lane.levels * ROW < AXIS) continue;
    context.fillStyle = palette.lane;
    context.fillRect(0, y - HEADING, width, HEADING - 1);
  }
  drawAxis(context, picture, scale);

  const fills = new Map<string, number[]>();
  const texts: [text: string, x: number, y: number, color: string, sampled: boolean][] = [];
  const dashed: [number, number, number][] = [];
  const hatched: [number, number, number][] = [];
  const put = (fill: string, x: number, y: number, w: number, h: number) => {
    const list = fills.get(fill);
    if (list) list.push(x, y, w, h);
    else fills.set(fill, [x, y, w, h]);
  };
  const parts: [string, number, number, number][] = [];
  for (let level = 0; level < tops.length - 1; level++) {
    const y = tops[level]! + top;
    if (y + ROW < AXIS || y > height) continue;
    visit(scene, level, view.x0, view.x1, CROWD / scale, (from, to, start, end) => {
      const item = scene.item[from]!;
      const x = Math.max(px(start), -2);
      const right = Math.min(px(Math.min(end, picture.now)), width + 2);
      const w = Math.max(right - x, 1);
      if (to - from > 1) {
        put(scene.bad[to]! > scene.bad[from]! ? palette.failed : look.fill(item), x, y, w, ROW - 1);
        return;
      }
      const gap = w > 3 ? 0.5 : 0;
      put(look.fill(item), x, y, w - gap, ROW - 1);
      if (w > 6 && look.sampled(item)) hatched.push([x, y, w]);
      if (end === Infinity) dashed.push([x, y, w]);
      if (w > 8) for (const part of look.parts(item)) parts.push([part.fill, px(part.start), px(part.end), y]);
      if (w < 3 * letter) return;
      const left = Math.max(x, 0);
      const text = fit(look.label(item), Math.min(right, width) - left, letter);
      if (text) texts.push([text, left + PAD, y + ROW / 2, look.text(item), look.sampled(item)]);
    });
  }
  context.save();
  context.beginPath();
  context.rect(0, AXIS, width, height - AXIS);
  context.clip();
  for (const [fill, list] of fills) {
    context.fillStyle = fill;
    for (let at = 0; at < list.length; at += 4) context.fillRect(list[at]!, list[at + 1]!, list[at + 2]!, list[at + 3]!);
  }
  for (const [fill, x0, x1, y] of parts) {
    context.fillStyle = fill;
    context.fillRect(Math.max(x0, 0), y + ROW - 5, Math.max(1, Math.min(x1, width) - Math.max(x0, 0)), 4);
  }
  drawHatches(context, palette, hatched);
  context.strokeStyle = palette.axis;
  context.setLineDash([3, 2]);
  for (const [x, y, w] of dashed) context.strokeRect(x + 0.5, y + 0.5, Math.max(w - 1, 1), ROW - 2);
  context.setLineDash([]);
  for (const { index, start, end } of picture.stretches) drawStretch(context, picture, tops, px, index, start, end);
  for (const [text, x, y, color, sampled] of texts) {
    context.font = sampled ? FONT_SAMPLED : FONT;
    context.fillStyle = color;
    context.fillText(text, x, y);
  }
  context.font = FONT;
  drawHeadings(context, picture, tops);
  drawArrows(context, picture, tops, px);
  for (const [index, color] of [[picture.hovered, palette.axis], [picture.selected, palette.mark]] as const) { // prettier-ignore
    if (index >= 0) outline(context, picture, tops, px, index, color);
  }
  context.restore();
}

export const FONT = "11px system-ui, sans-serif";
const FONT_SAMPLED = "italic 11px system-ui, sans-serif";

function drawAxis(context: CanvasRenderingContext2D, picture: Picture, scale: number): void {
  const { palette, view, width, height } = picture;
  context.font = FONT;
  const places = ticks(view.x0, view.x1, width / 110);
  for (const tick of places) {
    const x = Math.round((tick - view.x0) * scale) + 0.5;
    context.fillStyle = palette.line;
    context.fillRect(x - 0.5, AXIS - 4, 1, height);
    const text = duration(tick);
    const wide = context.measureText(text).width;
    context.fillStyle = palette.axis;
    if (x + wide + 4 < width) context.fillText(text, x + 3, AXIS / 2 - 1);
  }
  context.fillStyle = palette.line;
  context.fillRect(0, AXIS - 1, width, 1);
}

function drawHatches(context: CanvasRenderingContext2D, palette: Palette, boxes: readonly [number, number, number][]): void {
  context.strokeStyle = palette.line;
  context.beginPath();
  for (const [x, y, w] of boxes) {
    context.moveTo(x, y + ROW - 1.5);
    context.lineTo(x + w - 1, y + ROW - 1.5);
    context.moveTo(x + 0.5, y);
    context.lineTo(x + 0.5, y + ROW - 1);
  }
  context.stroke();
}

function drawHeadings(context: CanvasRenderingContext2D, picture: Picture, tops: Float64Array): void {
  const { scene, palette, scroll, height } = picture;
  for (const lane of scene.lanes) {
    const y = tops[lane.level]! + AXIS - scroll - HEADING;
    if (y > height || y < AXIS - HEADING) continue;
    context.fillStyle = palette.hues[lane.process % palette.hues.length]!;
    context.fillRect(4, y + 4, 9, 9);
    context.fillStyle = palette.axis;
    context.fillText(lane.label, 18, y + HEADING / 2);
  }
}

function drawStretch(context: CanvasRenderingContext2D, picture: Picture, tops: Float64Array, px: (x: number) => number, index: number, start: number, end: number): void { // prettier-ignore
  const y = tops[levelOf(picture.scene, index)]! + AXIS - picture.scroll;
  context.fillStyle = picture.palette.mark;
  context.fillRect(px(start), y + ROW - 4, Math.max(1, px(end) - px(start)), 3);
}

/** The level of a box, by its index. */
export function levelOf(scene: Scene, index: number): number {
  let low = 0, high = scene.first.length - 2; // prettier-ignore
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if (scene.first[middle]! <= index) low = middle;
    else high = middle - 1;
  }
  return low;
}

function outline(context: CanvasRenderingContext2D, picture: Picture, tops: Float64Array, px: (x: number) => number, index: number, color: string): void { // prettier-ignore
  const { scene, scroll, width } = picture;
  const y = tops[levelOf(scene, index)]! + AXIS - scroll;
  const x = Math.max(px(scene.start[index]!), -3);
  const right = Math.min(px(Math.min(scene.end[index]!, picture.now)), width + 3);
  context.strokeStyle = color;
  context.lineWidth = 2;
  context.strokeRect(x, y, Math.max(right - x, 2), ROW - 1);
  context.lineWidth = 1;
}

function drawArrows(context: CanvasRenderingContext2D, picture: Picture, tops: Float64Array, px: (x: number) => number): void { // prettier-ignore
  context.strokeStyle = context.fillStyle = picture.palette.axis;
  context.globalAlpha = picture.arrows.length > ARROWS_CLEAR ? 0.3 : 0.8;
  const y = (level: number) => tops[level]! + AXIS - picture.scroll;
  for (const arrow of picture.arrows) {
    const [x0, x1] = [px(arrow.x0), px(arrow.x1)];
    const down = arrow.level1 > arrow.level0;
    const y0 = y(arrow.level0) + (down ? ROW - 1 : 0);
    const y1 = y(arrow.level1) + (down ? 0 : ROW - 1);
    const bend = Math.min(24, Math.abs(y1 - y0) / 2) * (down ? 1 : -1);
    context.beginPath();
    context.moveTo(x0, y0);
    context.bezierCurveTo(x0, y0 + bend, x1, y1 - bend, x1, y1);
    context.stroke();
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(x1 - 3, y1 - (down ? 5 : -5));
    context.lineTo(x1 + 3, y1 - (down ? 5 : -5));
    context.fill();
  }
  context.globalAlpha = 1;
}
