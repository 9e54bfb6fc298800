// Whether the page is dark, from Jupyter's own mark, the page's background or the system, and a call when that changes.

export interface Theme {
  readonly dark: boolean;
  stop(): void;
}

/** Tells whether a CSS colour such as `rgb(17, 17, 17)` is dark; `null` if it is transparent or not understood. */
export function isDark(color: string): boolean | null {
  const parts = color.match(/[\d.]+/g)?.map(Number);
  if (!parts || parts.length < 3 || (parts.length > 3 && parts[3]! < 0.5)) return null;
  return 0.299 * parts[0]! + 0.587 * parts[1]! + 0.114 * parts[2]! < 128;
}

function look(): boolean {
  const mark = document.body.dataset["jpThemeLight"];
  if (mark !== undefined) return mark === "false";
  const classes = document.body.classList;
  if (classes.contains("vscode-dark") || classes.contains("vscode-high-contrast")) return true;
  if (classes.contains("vscode-light")) return false;
  for (const element of [document.body, document.documentElement]) {
    const dark = isDark(getComputedStyle(element).backgroundColor);
    if (dark !== null) return dark;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Marks an element `data-theme="dark"` or `"light"` for as long as it is watched. */
export function watchTheme(element: HTMLElement, changed: () => void): Theme {
  let dark = look();
  element.dataset["theme"] = dark ? "dark" : "light";
  const again = () => {
    const now = look();
    if (now === dark) return;
    dark = now;
    element.dataset["theme"] = dark ? "dark" : "light";
    changed();
  };
  const observer = new MutationObserver(again);
  for (const target of [document.body, document.documentElement]) {
    observer.observe(target, { attributes: true, attributeFilter: ["data-jp-theme-light", "class", "style"] });
  }
  const query = matchMedia("(prefers-color-scheme: dark)");
  query.addEventListener("change", again);
  return {
    get dark() {
      return dark;
    },
    stop() {
      observer.disconnect();
      query.removeEventListener("change", again);
    },
  };
}
