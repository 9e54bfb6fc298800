// Which part of a scene is seen: pure arithmetic of zooming and panning.

export interface Viewport {
  readonly x0: number;
  readonly x1: number;
}

/** Keeps a viewport within a scene; it is never narrower than `min`. */
export function clamp(view: Viewport, whole: Viewport, min: number): Viewport {
  const width = Math.min(Math.max(view.x1 - view.x0, min), whole.x1 - whole.x0);
  const x0 = Math.min(Math.max(view.x0, whole.x0), whole.x1 - width);
  return { x0, x1: x0 + width };
}

/** Zooms so that the point at `share` of the width stays where it is; a factor below 1 shows less. */
export function zoom(view: Viewport, factor: number, share: number): Viewport {
  const width = view.x1 - view.x0;
  const fixed = view.x0 + width * share;
  return { x0: fixed - width * factor * share, x1: fixed + width * factor * (1 - share) };
}

export function pan(view: Viewport, share: number): Viewport {
  const by = (view.x1 - view.x0) * share;
  return { x0: view.x0 + by, x1: view.x1 + by };
}

/** A box with some room around it. */
export function around(start: number, end: number): Viewport {
  const room = Math.max((end - start) * 0.08, 1e-6);
  return { x0: start - room, x1: end + room };
}

/** Where to put marks on an axis: about `wanted` of them at round numbers. */
export function ticks(x0: number, x1: number, wanted: number): number[] {
  const rough = (x1 - x0) / Math.max(1, wanted);
  if (!(rough > 0)) return [];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough)!;
  const found = [];
  for (let n = Math.ceil(x0 / step); n * step <= x1; n++) found.push(n * step);
  return found;
}
