// When a trace has ended, its display in the notebook becomes a static picture, so that the saved document has one. The page
// that showed the explorer goes on showing it, in the picture's place: an element of the page that no document knows of.

const PATIENCE_MS = 5000;
const PICTURE = ".jp-RenderedSVG, .jp-RenderedImage";

/**
 * Puts something in the place of a picture that is about to appear in an output area; if none does, nothing happens.
 *
 * @param area The output area.
 * @param index Which of its outputs.
 * @param open Fills the element that it is given.
 */
export function standIn(area: Element, index: number, open: (host: HTMLElement) => void): void {
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
}
