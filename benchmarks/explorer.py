"""The trace explorer in a browser: how soon it shows a large trace, and how smoothly it zooms.

The widget itself, in a page whose model hands it the chunks that a kernel would send. Headless Chromium draws in
software.
"""

import http.server
import json
import shutil
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

#: Frames of one measurement of zooming.
FRAMES = 240
PAGE = """<!doctype html><body style="margin:0"><div id="here" style="width:1200px"></div><script type="module">
import widget from "./explorer.js";
const listeners = [];
const model = { get: (name) => (name === "key" ? "k" : ""), send() {}, off() {},
  on: (name, call) => name === "msg:custom" && listeners.push(call) };
const headers = await (await fetch("headers.json")).json();
const buffers = await (await fetch("buffers.bin")).arrayBuffer();
let at = 0;
const view = (size) => new DataView(buffers, (at += size) - size, size);
const chunks = headers.map(({ header, sizes }) => [header, sizes.map(view)]);
widget.initialize({ model });
widget.render({ model, el: document.getElementById("here") });
const frame = () => new Promise((done) => requestAnimationFrame(done));
window.show = async () => {
  const began = performance.now();
  let longest = 0;
  for (const [header, views] of chunks) {
    const start = performance.now();
    listeners.forEach((call) => call(header, views));
    longest = Math.max(longest, performance.now() - start);
    await new Promise((done) => setTimeout(done, 0));
  }
  while (!document.querySelector(".znb-facts").textContent) await frame();
  const canvas = document.querySelector(".znb-canvas");
  const pixel = () => canvas.getContext("2d").getImageData(canvas.width / 2, 45, 1, 1).data[3];
  while (!pixel()) await frame();
  return { picture: (performance.now() - began) / 1000, chunk: longest };
};
window.zoom = async (frames) => {
  const canvas = document.querySelector(".znb-canvas");
  const times = [];
  let last = await frame();
  for (let n = 0; n < frames; n++) {
    const deltaY = n % 80 < 40 ? -60 : 60;
    canvas.dispatchEvent(new WheelEvent("wheel", { deltaY, ctrlKey: true, bubbles: true, cancelable: true }));
    const now = await frame();
    times.push(now - last);
    last = now;
  }
  return times;
};
window.ready = true;
</script>"""


def measure_large() -> dict[str, float]:
    return measure_trace(500_000)


def measure_small() -> dict[str, float]:
    return measure_trace(20_000)


def measure_trace(spans: int) -> dict[str, float]:
    from harness import frame_times
    from playwright.sync_api import sync_playwright

    from explorer_traces import large
    from znb.widgets.columns import Encoder, source_of

    data = large(spans)
    began = time.perf_counter()
    encoder = Encoder(1, "large", data.trace_id, data.start_ns)
    chunks = list(encoder.chunks([source_of(data)], live=False, length_ns=data.end_ns - data.start_ns))
    found = {"encode": time.perf_counter() - began}
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), chunks) as url, sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 700})
        page.goto(url)
        page.wait_for_function("window.ready")
        found.update(page.evaluate("window.show()"))
        page.wait_for_timeout(500)
        found.update(frame_times(page.evaluate("window.zoom", FRAMES)))
        browser.close()
    return found


class serving:
    """A web server on this machine for the page, the widget and the chunks."""

    def __init__(self, folder: Path, chunks) -> None:
        static = Path(__file__).resolve().parent.parent / "znb" / "widgets" / "static"
        (folder / "explorer.js").write_bytes((static / "explorer.js").read_bytes())
        (folder / "index.html").write_text(PAGE)
        headers = [{"header": chunk.header, "sizes": [len(part) for part in chunk.buffers]} for chunk in chunks]
        (folder / "headers.json").write_text(json.dumps(headers))
        (folder / "buffers.bin").write_bytes(b"".join(part for chunk in chunks for part in chunk.buffers))
        handler = partial(Quiet, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}/index.html"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    from harness import answer

    answer(globals())
else:
    from harness import Column, Topic, frame_columns, page_time, seconds

    TOPICS = [
        Topic(
            title="The trace explorer",
            text="The widget in headless Chromium, which draws in software. From the arrival of the data to the first "
            "picture; the longest that one message holds up the page; then frames while it zooms in and out.",
            script=Path(__file__),
            contenders={"large": "500,000 spans", "small": "20,000 spans"},
            columns={
                "encode": Column("kernel encodes", seconds),
                "picture": Column("first picture", seconds),
                "chunk": Column("longest message", page_time),
                **frame_columns(),
            },
        )
    ]
