// The list of keys.

import { h } from "../shared/dom";

const KEYS: readonly [keys: string, does: string][] = [
  ["1 … 7", "timeline, flame, merged, sandwich, table, critical path, diff"],
  ["← → ↑ ↓", "the span beside, above, below"],
  ["Enter, z", "zoom to the selected span"],
  ["w s, + −", "zoom in and out"],
  ["a d", "move left and right"],
  ["0", "show all"],
  ["/", "search; Enter: next match"],
  ["n N", "next match, match before"],
  ["c", "copy the details as text"],
  ["Esc", "close, clear, let go"],
  ["wheel", "with Ctrl: zoom; after a click into the picture: scroll, with Shift: move"],
  ["drag, double click", "move; zoom to a span"],
];

export function helpPanel(close: () => void): HTMLElement {
  return h(
    "div",
    { class: "znb-help", role: "dialog", "aria-label": "Keys", tabindex: -1, hidden: true },
    h("button", { type: "button", class: "znb-tool", text: "Close", onclick: close }),
    h("dl", {}, ...KEYS.flatMap(([keys, does]) => [h("dt", { text: keys }), h("dd", { text: does })])),
  );
}
