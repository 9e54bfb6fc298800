// A widget's display in the notebook may become a static picture, so that the saved document has one. The page that showed the
// widget goes on showing it, in the picture's place: an element of the page that no document knows of.

const PATIENCE_MS = 5000;
const OUTPUT = ".jp-OutputArea-child";
const PICTURE = ".jp-RenderedSVG, .jp-RenderedImage, .jp-RenderedHTML";

/**
 * Remembers where an element stands among a cell's outputs. Returns what puts something into the place of the picture that
 * appears there; where there are no such outputs, or no picture comes, it does nothing.
 */
export function placeOf(el: HTMLElement): (open: (host: HTMLElement) => void) => void {
  const output = el.closest(OUTPUT);
  const area = output?.parentElement;
  const index = area ? [...area.children].indexOf(output) : -1;
  return (open) => {
    if (!area) return;
    const look = (): boolean => {
      const picture = area.children[index]?.querySelector<HTMLElement>(PICTURE);
      if (!picture?.parentElement) return false;
      picture.style.display = "none";
      const host = document.createElement("div");
      host.className = "znb-stand-in jp-OutputArea-output";
      picture.after(host);
      open(host);
      return true;
    };
    if (look()) return;
    const observer = new MutationObserver(() => {
      if (look()) observer.disconnect();
    });
    observer.observe(area, { childList: true, subtree: true });
    setTimeout(() => observer.disconnect(), PATIENCE_MS);
  };
}
