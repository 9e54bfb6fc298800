// Colours of boxes. Each hue has a light and a dark form, for black and for white text, that keep a contrast of 4.5 to it.

export interface Palette {
  readonly hues: readonly string[];
  readonly text: string;
  /** Failed and lost spans. */
  readonly failed: string;
  readonly failedText: string;
  /** What was sampled, beside what was recorded. */
  readonly sampled: string;
  readonly sampledText: string;
  readonly dim: string;
  readonly dimText: string;
  readonly back: string;
  readonly lane: string;
  readonly line: string;
  readonly axis: string;
  readonly mark: string;
  /** A trace that takes longer, and one that takes less. */
  readonly slower: readonly string[];
  readonly faster: readonly string[];
}

export const LIGHT: Palette = {
  hues: ["#f5c27a", "#8fd0da", "#bfe09d", "#ddb6e8", "#a9c6f5", "#a4dcc8", "#d8d492", "#d9c0a3"],
  text: "#1b1b1f",
  failed: "#c92a22",
  failedText: "#ffffff",
  sampled: "#eae7e0",
  sampledText: "#3f3c36",
  dim: "#ececee",
  dimText: "#5c5c64",
  back: "#ffffff",
  lane: "#f4f4f6",
  line: "#dcdce0",
  axis: "#5c5c64",
  mark: "#0b57d0",
  slower: ["#fbe3e0", "#f5b5ae", "#ee857b"],
  faster: ["#dfeafb", "#afcbf5", "#7fabee"],
};

export const DARK: Palette = {
  hues: ["#8a5a1a", "#1f6875", "#456d24", "#764a86", "#3a5ea3", "#1f6b57", "#66621c", "#735536"],
  text: "#ffffff",
  failed: "#d0342b",
  failedText: "#ffffff",
  sampled: "#34353b",
  sampledText: "#d6d6dc",
  dim: "#2a2b30",
  dimText: "#a0a0aa",
  back: "#17181b",
  lane: "#1f2024",
  line: "#3a3b42",
  axis: "#a8a8b2",
  mark: "#8ab4f8",
  slower: ["#4a2b2b", "#7a3532", "#a63e38"],
  faster: ["#26344a", "#2d4a7a", "#3560a6"],
};

/** Contrast of two colours `#rrggbb`, from 1 to 21, as WCAG 2 has it. */
export function contrast(a: string, b: string): number {
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x) as [number, number];
  return (light + 0.05) / (dark + 0.05);
}

function luminance(color: string): number {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const part = parseInt(color.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** A number for a text, always the same. */
export function hash(text: string): number {
  let found = 2166136261;
  for (let at = 0; at < text.length; at++) found = Math.imul(found ^ text.charCodeAt(at), 16777619);
  return (found ^ (found >>> 15)) >>> 0;
}

/** The service of a call: what stands before the last dot of its name. */
export function serviceOf(name: string): string {
  const bare = name.replace(/^call /, "");
  const dot = bare.lastIndexOf(".");
  return dot > 0 ? bare.slice(0, dot) : "";
}
