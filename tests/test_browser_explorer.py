"""The trace explorer in a real browser: JupyterLab and Notebook 7, with a real kernel."""

import json
import re

import pytest

import browser as web
from explorer_traces import pipeline
from znb.export import save

WORK = """
import time
from pathlib import Path
from znb.spans import span, traced
from znb.tracing import trace
from znb.widgets.explorer import show

def busy(seconds):
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        sum(range(100))

@traced
def work(number):
    with span("load", rows=number):
        busy(0.01)
    busy(0.02)
    if number == 2:
        raise ValueError("bad row")
"""
LIVE = """
with trace("epoch", lr=0.1) as t:
    explorer = show(t)
    number = 0
    while not Path("enough").exists():
        try:
            work(number)
        except ValueError:
            pass
        number += 1
"""
AGAIN = """
with trace("epoch") as second:
    work(0)
    busy(0.05)
%load_ext znb
second
"""
MADE = """
from explorer_traces import pipeline
from znb.tracing import Trace
from znb.widgets.explorer import show
data = pipeline()
explorer = show(Trace("score the documents", data.trace_id, lambda version: (0, data)))
"""
#: Shortcuts of JupyterLab that would do harm: restart the kernel, delete a cell.
HARMFUL = ["0", "0", "d", "d", "x", "b"]
SPANS = "Number((document.querySelector('.znb-facts')?.textContent.match(/([\\d\\u202f]+) span/)?.[1] ?? '0').replace(/\\D/g, ''))"


@pytest.fixture(scope="module")
def lab(module_world):
    with web.server(module_world.home / "lab") as jupyter:
        yield jupyter


@pytest.fixture(scope="module")
def chromium(module_world):
    with web.browser(module_world.home / "browser") as browser:
        yield browser


def ours(notebook):
    """Return errors of the page but those that Jupyter itself has now and then: of its settings, of a busy machine."""
    foreign = ("schema", "ERR_NETWORK_CHANGED", "Failed to fetch")
    return [error for error in notebook.errors if not any(text in error for text in foreign)]


def run(notebook, index):
    """Begin to run a cell."""
    notebook.wait_kernel()
    notebook.page.evaluate(
        "index => { const n = window.jupyterapp.shell.currentWidget.content; n.activeCellIndex = index; n.deselectAll(); }",
        index,
    )
    notebook.command("notebook:run-cell")


def wait_ran(notebook, index, before=None):
    notebook.page.wait_for_function(
        """([index, before]) => { const c = window.jupyterapp.shell.currentWidget.content.widgets[index].model.executionCount;
        return c !== null && c !== before; }""",
        arg=[index, before],
    )


def result(notebook, index):
    """Run a cell and return what it shows as text."""
    run(notebook, index)
    wait_ran(notebook, index)
    outputs = "window.jupyterapp.shell.currentWidget.content.widgets[{}].model.outputs.toJSON()"
    notebook.page.wait_for_function(f"{outputs.format(index)}.length > 0")
    return json.dumps(notebook.page.evaluate(outputs.format(index)))


def explorer_of(notebook):
    """Wait until a trace that has ended stands in its picture's place; return the explorer."""
    found = notebook.page.locator(".znb-stand-in .znb-explorer").first
    found.wait_for()
    return found


def test_it_opens_while_the_cell_runs_and_grows_then_leaves_a_picture(lab, chromium):
    cells = [
        WORK,
        LIVE,
        "[event.attributes for event in explorer.selected.events]",
        AGAIN,
        "t.errors()[0].span.name, explorer.selected",
    ]
    notebook = lab.open(chromium, cells, "live.ipynb")
    page = notebook.page
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    run(notebook, 0)
    wait_ran(notebook, 0)
    run(notebook, 1)
    page.wait_for_selector(".znb-live")
    page.wait_for_function(f"{SPANS} > 10")
    before = page.evaluate(SPANS)
    page.wait_for_function(f"{SPANS} > {before + 10}")
    assert page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets[1].model.executionCount") is None
    # Details are told while the kernel is busy.
    page.locator(".znb-canvas").press("ArrowDown")
    page.locator(".znb-attributes td", has_text="0.1").wait_for()
    notebook.picture("explorer-live")
    (lab.folder / "enough").touch()
    wait_ran(notebook, 1)

    # It has ended: the document has a picture, the page the explorer.
    explorer = explorer_of(notebook)
    outputs = page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets[1].model.outputs.toJSON()")
    assert [sorted(output["data"]) for output in outputs] == [["image/svg+xml", "text/plain"]]
    assert explorer.locator(".znb-live").count() == 0

    # Search, the error's traceback, the source around its line, and the span as an object.
    canvas = explorer.locator(".znb-canvas")
    canvas.press("/")
    page.keyboard.type("status:error")
    assert "1 match" in explorer.locator(".znb-found").inner_text()
    page.keyboard.press("Enter")
    explorer.locator(".znb-traceback").wait_for()
    assert "ValueError" in explorer.locator(".znb-details").inner_text()
    explorer.locator(".znb-traceback button").last.click()
    explorer.locator(".znb-source .here").wait_for()
    assert 'raise ValueError("bad row")' in explorer.locator(".znb-source .here").inner_text()
    notebook.picture("explorer-error", ".znb-stand-in")
    assert "ValueError" in result(notebook, 2)

    # Keys stay here.
    cell_count = page.locator(".jp-CodeCell").count()
    canvas.focus()
    for key in HARMFUL:
        page.keyboard.press(key)
    canvas.press("?")
    assert explorer.locator(".znb-help").is_visible()
    canvas.press("Escape")
    assert page.query_selector(".jp-Dialog") is None
    assert page.locator(".jp-CodeCell").count() == cell_count

    # The link goes to the cell.
    href = explorer.locator("a").get_attribute("href")
    identity = page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets[1].model.id")
    assert href == f"#cell-id={identity}"
    top = "window.jupyterapp.shell.currentWidget.content.widgets[1].node.getBoundingClientRect().top"
    page.evaluate("document.querySelector('.znb-stand-in').scrollIntoView()")
    page.wait_for_function(f"{top} < 0")
    explorer.locator("a").click()
    page.wait_for_function(f"{top} >= 0")

    # Compared with the earlier run of the same cell.
    run(notebook, 3)
    wait_ran(notebook, 3)
    second = page.locator(".znb-stand-in .znb-explorer").nth(1)
    second.locator(".znb-tabs button", has_text="Diff").click()
    second.locator(".znb-others select").wait_for()
    assert "epoch" in second.locator(".znb-others option").first.inner_text()
    notebook.picture("explorer-diff", ".znb-stand-in >> nth=1")

    # Saved, opened again without a kernel of its own: the picture.
    notebook.save()
    notebook.command("kernelmenu:shutdown")
    explorer.locator(".znb-problem:visible").wait_for()
    assert "kernel is gone" in explorer.locator(".znb-problem").inner_text()
    page.reload()
    page.wait_for_selector(".jp-RenderedSVG img, .jp-RenderedSVG svg")
    assert "model not found" not in page.locator(".jp-Notebook").inner_text()
    notebook.picture("explorer-reopened")
    assert ours(notebook) == []
    assert [url for url in asked if not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:", url)] == []
    page.close()


def test_every_view_by_keyboard_and_in_the_dark(lab, chromium):
    notebook = lab.open(chromium, [MADE, "explorer.selected.name"], "views.ipynb", dark=True)
    page = notebook.page
    run(notebook, 0)
    explorer = explorer_of(notebook)
    assert explorer.get_attribute("data-theme") == "dark"
    canvas = explorer.locator(".znb-canvas")
    canvas.focus()
    said = explorer.locator(".znb-said")
    for key, view in enumerate(["timeline", "flame", "merged", "sandwich", "table", "critical", "diff"], 1):
        page.keyboard.press(str(key))
        tab = explorer.locator(f".znb-tabs button:nth-child({key})")
        assert tab.get_attribute("aria-selected") == "true"
        page.wait_for_timeout(300)  # it is looked at, not asserted
        notebook.picture(f"explorer-dark-{view}", ".znb-stand-in")
    # Arrow keys go from span to span, and say where they are.
    page.keyboard.press("2")
    canvas.press("ArrowDown")
    page.wait_for_function("document.querySelector('.znb-said').textContent.startsWith('score the documents')")
    canvas.press("ArrowDown")
    assert said.inner_text().startswith("load")
    canvas.press("ArrowRight")
    assert said.inner_text().startswith("map score")
    canvas.press("Enter")
    explorer.locator(".znb-attributes td", has_text="40").first.wait_for()
    assert "map score" in result(notebook, 1)
    # The table sorts, and leads to the callers and callees of a name.
    page.keyboard.press("Escape")
    canvas.press("5")
    explorer.locator("th button", has_text="Total").click()
    assert explorer.locator("th[aria-sort=descending]").inner_text().startswith("Total")
    explorer.locator("tbody button", has_text="rank.top").last.click()
    assert explorer.locator(".znb-tabs button:nth-child(4)").get_attribute("aria-selected") == "true"
    assert ours(notebook) == []
    page.close()


def test_notebook_7(module_world, chromium):
    with web.server(module_world.home / "notebook", "notebook") as jupyter:
        notebook = jupyter.open(chromium, [MADE], "seven.ipynb")
        run(notebook, 0)
        explorer = explorer_of(notebook)
        explorer.locator(".znb-canvas").click(position={"x": 200, "y": 60})
        explorer.locator(".znb-attributes").wait_for()
        notebook.picture("explorer-notebook7")
        assert ours(notebook) == []
        notebook.page.close()


def test_the_saved_page_is_the_whole_explorer_and_asks_for_nothing(chromium, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cell.py").write_text("import parquet\n\ndef score(rows):\n    return total / len(rows)\n")
    path = save(pipeline(), tmp_path / "trace.html", "score <b>the</b> documents")
    page = chromium.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    explorer = page.locator(".znb-explorer")
    assert explorer.locator(".znb-title").inner_text() == "score <b>the</b> documents"
    explorer.locator("input").fill("kind:job status:error")
    explorer.locator("input").press("Enter")
    explorer.locator(".znb-traceback button").click()
    assert "total / len(rows)" in explorer.locator(".znb-source .here").inner_text()
    explorer.locator(".znb-tabs button", has_text="Diff").click()
    assert "A saved page holds one trace" in explorer.locator(".znb-others").inner_text()
    assert asked == [path.as_uri()]
    assert errors == []
    page.close()


CLUSTER = """
%load_ext znb
import time, znb
from pathlib import Path
cluster = znb.Cluster.start(2, name="traced")
"""
SCORES = """
%%znb trace scores
def busy(seconds):
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        sum(range(100))

def score(number):
    with znb.span("load", number=number):
        busy(0.02)
    busy(0.03)
    if number == 30:
        raise ValueError("bad row 30")
    while number == 20 and not Path("seen").exists():
        busy(0.02)
    return number

list(cluster.map(score, range(40), retries=0, chunksize=1))
"""


def test_a_traced_cell_shows_its_workers_while_they_work_and_the_error_where_it_was(lab, chromium):
    notebook = lab.open(chromium, [CLUSTER, SCORES, "cluster.stop()"], "scores.ipynb")
    page = notebook.page
    run(notebook, 0)
    wait_ran(notebook, 0)
    run(notebook, 1)
    page.wait_for_selector(".znb-live")
    page.wait_for_function(f"{SPANS} > 10")
    notebook.picture("explorer-workers-live")
    (lab.folder / "seen").touch()
    wait_ran(notebook, 1)
    explorer = explorer_of(notebook)
    assert "3 processes" in explorer.locator(".znb-facts").inner_text()
    canvas = explorer.locator(".znb-canvas")
    canvas.press("/")
    page.keyboard.type("status:error")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    explorer.locator(".znb-traceback").wait_for()
    details = explorer.locator(".znb-details").inner_text()
    assert "bad row 30" in details
    notebook.picture("explorer-workers")
    run(notebook, 2)
    wait_ran(notebook, 2)
    assert ours(notebook) == []
