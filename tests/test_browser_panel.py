"""The cluster panel in a real browser, with real workers, while a cell runs."""

import pytest

import browser as web


@pytest.fixture(scope="module")
def chromium(module_world):
    with web.browser(module_world.home / "chromium") as context:
        yield context


@pytest.fixture(scope="module")
def lab(module_world):
    with web.server(module_world.home / "lab") as jupyter:
        yield jupyter


def row(page, number):
    return page.locator(".znb-panel tbody tr").nth(number)


def wait_state(page, number, state):
    page.wait_for_selector(f".znb-panel tbody tr:nth-child({number + 1})[data-state={state}]")


def test_buttons_work_while_a_cell_runs(lab, chromium):
    cells = [
        "%load_ext znb\n%znb cluster start 2 --name panel",
        "%%znb remote --on 1 --bg\nimport time\ndef outer():\n    time.sleep(1000)\nouter()",
        "%%znb remote --on 0\nimport time\ntime.sleep(1000)",
        "cluster",
    ]
    notebook = lab.open(chromium, cells, "panel.ipynb")
    page = notebook.page
    notebook.run_all()
    wait_state(page, 0, "busy")
    wait_state(page, 1, "busy")
    assert row(page, 0).inner_text().split("\t")[2].startswith("In[3] ·")

    row(page, 1).get_by_role("button", name="show where w1 is").click()
    page.wait_for_selector(".znb-stack pre")
    stack = page.inner_text(".znb-stack pre")
    assert "in outer" in stack
    assert "znb/worker.py" not in stack
    notebook.picture("panel-busy")
    page.get_by_role("button", name="close the stack").click()

    row(page, 1).get_by_role("button", name="interrupt").click()
    wait_state(page, 1, "idle")

    page.get_by_role("button", name="one worker more").click()
    page.wait_for_function("document.querySelectorAll('.znb-panel tbody tr').length === 3")

    restart = row(page, 2).get_by_role("button", name="restart w2")
    restart.click()
    assert restart.inner_text() == "sure?"
    restart.click()
    page.wait_for_function("document.querySelectorAll('.znb-panel tbody tr')[2].cells[1].textContent === 'idle ↻1'")

    stop = row(page, 2).get_by_role("button", name="stop w2")
    stop.focus()
    page.keyboard.press("Enter")
    assert stop.get_attribute("aria-label").startswith("Sure? Press again: stop w2 for good")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.znb-panel tbody tr').length === 2")
    # the keys that follow go to the panel, not to the notebook
    assert page.evaluate("document.activeElement.classList.contains('znb-panel')")

    # the cell that was waited for all the time
    row(page, 0).get_by_role("button", name="interrupt").click()
    page.wait_for_selector(".jp-OutputArea-output:has-text('KeyboardInterrupt')")
    page.keyboard.press("d")  # no command of the notebook's
    page.keyboard.press("d")
    assert page.locator(".jp-CodeCell").count() == 4
    assert notebook.errors == []

    stop = page.get_by_role("button", name="stop the cluster")
    stop.click()
    stop.click()
    page.wait_for_selector(".znb-stand-in .znb-panel .znb-facts:has-text('has ended')")
    (output,) = notebook.save().cells[0].outputs
    assert sorted(output.data) == ["text/html", "text/plain"]
    assert "cluster panel on local: has ended; as seen last" in output.data["text/html"]
    assert "<td>w1</td>" in output.data["text/html"]
    page.close()


def test_a_panel_whose_kernel_was_restarted_says_so_and_leaves_a_table_in_the_document(lab, chromium):
    notebook = lab.open(
        chromium, ["import znb\ncluster = znb.Cluster.start(2, name='gone', grace=1)\ncluster"], "gone.ipynb"
    )
    page = notebook.page
    notebook.run_all()
    wait_state(page, 1, "idle")
    notebook.command("kernelmenu:restart")
    page.locator(".jp-Dialog button.jp-mod-accept").click()
    page.wait_for_selector(".znb-stand-in .znb-problem:has-text('kernel is gone')")
    notebook.wait_kernel()
    page.wait_for_timeout(1500)  # what else is told of the restart changes nothing
    assert "kernel is gone" in page.inner_text(".znb-problem")
    (output,) = notebook.save().cells[0].outputs
    assert sorted(output.data) == ["text/html", "text/plain"]
    page.reload()
    page.wait_for_selector(".jp-RenderedHTML td:has-text('w1')")
    assert "model not found" not in page.locator(".jp-Notebook").inner_text()
    notebook.picture("panel-reopened")
    page.close()


def test_a_dark_theme(lab, chromium):
    notebook = lab.open(
        chromium, ["import znb\ncluster = znb.Cluster.start(2, name='dark')\ncluster"], "dark.ipynb", dark=True
    )
    notebook.run_all()
    wait_state(notebook.page, 1, "idle")
    notebook.page.wait_for_timeout(2000)
    notebook.picture("panel-dark", ".znb-panel")
    assert notebook.page.get_attribute(".znb-panel", "data-theme") == "dark"
    notebook.page.close()


def test_notebook_7(module_world, chromium):
    with web.server(module_world.home / "notebook", "notebook") as jupyter:
        notebook = jupyter.open(chromium, ["import znb\ncluster = znb.Cluster.start(2, name='seven')\ncluster"])
        notebook.run_all()
        wait_state(notebook.page, 1, "idle")
        notebook.page.get_by_role("button", name="one worker more").click()
        notebook.page.wait_for_function("document.querySelectorAll('.znb-panel tbody tr').length === 3")
        notebook.picture("panel-notebook7")
        assert notebook.errors == []
        notebook.page.close()
