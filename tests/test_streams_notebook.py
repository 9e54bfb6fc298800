"""``notebooks/streams.ipynb``, executed as it is."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from znb.sourcestats import standard_library

STREAMS = Path(__file__).resolve().parent.parent / "notebooks" / "streams.ipynb"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cells(module_world) -> dict[str, nbformat.NotebookNode]:
    """The executed cells, by id."""
    notebook = nbformat.read(STREAMS, as_version=4)
    config = Config(KernelManager={"transport": "ipc", "ip": str(module_world.home / "k")})
    folder = {"metadata": {"path": str(module_world.home)}}
    NotebookClient(notebook, timeout=240, resources=folder, config=config).execute()
    return {cell.id: cell for cell in notebook.cells}


def value(cell: nbformat.NotebookNode) -> str:
    (result,) = (o for o in cell.outputs if o.output_type == "execute_result")
    return result.data["text/plain"]


def test_the_notebook_is_committed_clean():
    code = [cell for cell in nbformat.read(STREAMS, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert {cell.execution_count for cell in code} == {None}


def test_the_views_are_widgets(cells):
    for name in ("lines", "table", "log"):
        (shown,) = (o.data for o in cells[name].outputs if o.output_type == "execute_result")
        assert "application/vnd.jupyter.widget-view+json" in shown
        assert shown["text/plain"].startswith("stream of")


def test_every_file_was_measured(cells):
    found = re.fullmatch(r"'([\d,]+) files, ([\d,]+) lines'", value(cells["map"]))
    assert int(found[1].replace(",", "")) == len(standard_library())
    assert int(found[2].replace(",", "")) > 100_000


def test_a_late_subscriber_gets_the_last_value_of_each_worker(cells):
    text = "".join(o.text for o in cells["late"].outputs if o.output_type == "stream")
    assert sorted(line.split()[0] for line in text.splitlines()) == ["w0", "w1"]
    assert all(line.endswith("0 dropped") for line in text.splitlines())


def test_values_go_in_every_direction(cells):
    assert value(cells["async"]) == "{'from': 'this notebook', 'to': 'itself', 'value': 42}"
    assert value(cells["settings"]) == "{'w0': {'rate': 0.1}, 'w1': {'rate': 0.1}}"
