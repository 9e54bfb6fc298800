"""Streams in a real browser: JupyterLab and Notebook 7, with a real kernel and real workers."""

import os
import re
import signal

import nbconvert
import pytest

import browser as web

PUBLISH = """
def publish(number, rate, seconds):
    import math, time, znb
    began, done = time.time(), 0
    while time.time() - began < seconds:
        while done < (time.time() - began) * rate:
            loss = math.exp(-done / 3000) + 0.05 * math.sin(done / 50 + number)
            znb.publish("load", {"loss": loss, "accuracy": 1 - math.exp(-done / 2000) + 0.02 * number})
            done += 1
        time.sleep(0.002)
    return done
"""
KINDS = """
import io, math, struct, zlib
def png(width, height):
    rows = b"".join(b"\\0" + bytes((x * y) % 256 for x in range(width)) for y in range(height))
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
notes = ["started", "WARNING: slow disk", "error: cannot read x.py", {"level": "debug", "message": "cache hit", "n": 1}]
for i in range(40):
    znb.publish("train", {"epoch": i, "loss": math.exp(-i / 10), "accuracy": 1 - math.exp(-i / 8)})
    znb.publish(f"files/{i % 5}", {"file": f"mod{i}.py", "lines": i * 37, "ratio": i / 7, "ok": i % 3 == 0})
    znb.publish("note", notes[i % 4])
znb.publish("picture", png(200, 80))
"""
VIEWS = ["%load_ext znb\nimport znb\n%znb stream files", "%znb stream note", "%znb stream picture", "%znb stream train"]


@pytest.fixture(scope="module")
def chromium(module_world):
    with web.browser(module_world.home / "chromium", height=1500) as context:
        yield context


@pytest.fixture(scope="module")
def lab(module_world):
    with web.server(module_world.home / "lab") as jupyter:
        yield jupyter


def number_in(text):
    return int("".join(c for c in text.partition("messages")[0] if c.isdigit()))


def test_a_stream_under_load_keeps_the_page_smooth_and_the_kernel_idle(lab, chromium):
    cells = [
        f"import time, znb\n{PUBLISH}\ncluster = znb.Cluster.start(4, name='streams')",
        "znb.stream('load')",
        "jobs = [cluster.submit(publish, number, 1250, 6) for number in range(4)]\nbegan = time.process_time()",
        "time.sleep(5)\nused = (time.process_time() - began) / 5",
        "print('sent', sum(job.result() for job in jobs), 'used', used)",
    ]
    notebook = lab.open(chromium, cells, "load.ipynb")
    page = notebook.page
    notebook.run_all()
    page.wait_for_selector(".znb-stream canvas")  # while the kernel is busy
    notebook.count_frames()
    page.wait_for_timeout(3000)
    frames = notebook.frames()
    notebook.picture("stream-load")
    assert len(frames) > 60, f"the page stood still: {frames[-5:]}"
    page.wait_for_selector("text=/sent \\d+ used/")
    sent = int(page.inner_text("text=/sent \\d+ used/").split()[1])
    page.wait_for_function(
        "sent => document.querySelector('.znb-facts').textContent.replace(/\\D+messages.*/, '').replace(/\\D/g, '') == sent",
        arg=str(sent),
    )
    assert "dropped" not in page.inner_text(".znb-facts")
    assert {row.inner_text() for row in page.query_selector_all(".u-legend .u-label")} == {
        "time", *(f"{key} · w{number}" for key in ("loss", "accuracy") for number in range(4))
    }  # fmt: skip
    assert notebook.errors == []
    page.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_kinds(lab, chromium, dark):
    notebook = lab.open(chromium, [*VIEWS, KINDS], f"kinds-{dark}.ipynb", dark=dark)
    page = notebook.page
    notebook.run_all()
    page.wait_for_selector(".znb-stream img")
    page.wait_for_selector(".znb-stream canvas")
    page.wait_for_function("document.querySelectorAll('.znb-line').length === 40")
    page.wait_for_function("document.querySelectorAll('.znb-scroll tbody tr').length === 5")
    page.wait_for_timeout(300)
    notebook.picture(f"stream-kinds-{'dark' if dark else 'light'}")
    assert page.get_attribute(".znb-stream", "data-theme") == ("dark" if dark else "light")
    if dark:
        page.close()
        return

    # the table: sort and filter
    table, log = page.locator(".znb-stream").nth(0), page.locator(".znb-stream").nth(1)
    table.get_by_role("button", name="lines").click()
    assert table.locator("tbody tr").first.inner_text().split()[3] == "mod39.py"
    assert table.locator("th[aria-sort=descending]").count() == 1
    table.get_by_role("searchbox").fill("mod36")
    page.wait_for_function("document.querySelectorAll('.znb-scroll tbody tr').length === 1")

    # the log: levels, search, follow
    log.get_by_role("combobox").select_option("warning")
    page.wait_for_function("document.querySelectorAll('.znb-line').length === 20")
    log.get_by_role("searchbox").fill("disk")
    page.wait_for_function("document.querySelectorAll('.znb-line').length === 10")
    log.get_by_role("button", name="follow").click()
    assert log.get_by_role("button", name="follow").get_attribute("aria-pressed") == "false"

    # the plot: keys zoom, and stay here (0 0 would restart the kernel)
    plot = page.locator(".znb-stream").nth(3)
    plot.get_by_role("button", name="log").click()
    plot.get_by_role("button", name="pause").click()
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    notebook.picture("stream-zoomed", ".znb-stream:has(canvas)")
    page.keyboard.press("0")
    page.keyboard.press("0")
    page.keyboard.press("d")
    page.keyboard.press("d")
    page.wait_for_timeout(200)
    assert page.query_selector(".jp-Dialog") is None
    assert page.locator(".jp-CodeCell").count() == 5
    assert plot.get_by_role("button", name="go on").count() == 1
    assert notebook.errors == []

    # the kernel goes
    notebook.command("kernelmenu:shutdown")
    page.wait_for_function(
        "[...document.querySelectorAll('.znb-problem')].every(p => p.textContent.includes('kernel is gone'))"
    )

    # the page goes on showing the views; the document has pictures of them, with what was chosen in each
    page.wait_for_function("document.querySelectorAll('.znb-stand-in .znb-stream').length === 4")
    notebook.picture("stream-gone")
    saved = notebook.save()
    outputs = [cell.outputs[0].data for cell in saved.cells[:4]]
    assert [sorted(data) for data in outputs] == [["text/html", "text/plain"]] * 3 + [["image/png", "text/plain"]]
    assert "mod36.py" in outputs[0]["text/html"]
    assert outputs[1]["text/html"].count("slow disk") == 10
    assert "data:image/png;base64," in outputs[2]["text/html"]
    assert re.match(r"stream of train · 40 messages (· \d+/s )?· as of ", outputs[3]["text/plain"])
    shown, _ = nbconvert.HTMLExporter().from_notebook_node(saved)
    (notebook.path.parent / "streams.html").write_text(shown)
    page.reload()
    page.locator(".jp-RenderedImage img").wait_for()
    assert "model not found" not in page.locator(".jp-Notebook").inner_text()
    notebook.picture("stream-reopened")
    page.goto((notebook.path.parent / "streams.html").as_uri())
    assert page.locator(".jp-OutputArea img").count() == 2
    assert page.locator(".jp-OutputArea table").count() == 1
    notebook.picture("stream-nbconvert")
    page.close()


def test_a_page_that_is_reloaded_shows_what_there_was(lab, chromium):
    cells = ["import znb\nview = znb.stream('loss')\nview", "for i in range(100): znb.publish('loss', i % 10)"]
    notebook = lab.open(chromium, cells, "reload.ipynb")
    notebook.run_all()
    notebook.page.wait_for_selector(".znb-stream canvas")
    notebook.save()
    notebook.page.reload()
    notebook.page.wait_for_selector(".znb-stream canvas")
    notebook.page.wait_for_function("document.querySelector('.znb-facts').textContent.startsWith('100 ')")
    notebook.page.close()


LIVE = """
import os, threading, time
from pathlib import Path
Path("pid").write_text(str(os.getpid()))
def publish():
    for i in range(10_000):
        znb.publish("loss", i % 10)
        time.sleep(0.05)
threading.Thread(target=publish, daemon=True).start()
"""


def test_a_page_that_was_closed_while_it_was_live_shows_what_was_seen_last_when_the_kernel_has_died(
    lab, chromium, module_world
):
    cells = ["import znb\ncluster = znb.Cluster.start(1, name='closed', grace=1)\ncluster", "znb.stream('loss')", LIVE]
    notebook = lab.open(chromium, cells, "closed.ipynb")
    notebook.run_all()
    notebook.page.wait_for_selector(".znb-panel tbody tr")
    notebook.page.wait_for_selector(".znb-stream canvas")
    # What latecomers are shown, and so the document, is made every few seconds.
    notebook.page.wait_for_function("parseInt(document.querySelector('.znb-stream .znb-facts').textContent) > 100")
    saved = notebook.save()
    (state,) = (found["state"] for found in saved.metadata["widgets"].values())
    shown = {cell.outputs[0].data["application/vnd.jupyter.widget-view+json"]["model_id"] for cell in saved.cells[:2]}
    assert set(state) == shown
    notebook.page.close()
    killed = int((notebook.path.parent / "pid").read_text())
    os.kill(killed, signal.SIGKILL)

    page = lab.reopen(chromium, "closed.ipynb").page
    page.wait_for_selector(".znb-panel .znb-problem:has-text('kernel is gone')")
    page.wait_for_selector(".znb-stream .znb-problem:has-text('kernel is gone')")
    page.wait_for_selector(".znb-stream canvas")
    assert page.inner_text(".znb-panel tbody th") == "w0"
    assert "model not found" not in page.locator(".jp-Notebook").inner_text()
    page.close()
    for mark in module_world.runtime.glob(f"{killed}.*"):  # whoever looks for streams next would remove it
        mark.unlink(missing_ok=True)


def test_notebook_7(module_world, chromium):
    with web.server(module_world.home / "notebook", "notebook") as jupyter:
        notebook = jupyter.open(chromium, [*VIEWS, KINDS])
        notebook.run_all()
        notebook.page.wait_for_selector(".znb-stream img")
        notebook.page.wait_for_selector(".znb-stream canvas")
        notebook.page.wait_for_function("document.querySelectorAll('.znb-scroll tbody tr').length === 5")
        notebook.picture("stream-notebook7")
        assert notebook.errors == []
        notebook.page.close()
