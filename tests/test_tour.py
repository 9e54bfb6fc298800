"""``notebooks/tour.ipynb``, executed as it is."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from znb.sourcestats import standard_library

TOUR = Path(__file__).resolve().parent.parent / "notebooks" / "tour.ipynb"


@pytest.fixture(scope="module")
def tour(module_world) -> dict[str, nbformat.NotebookNode]:
    """The executed cells, by id."""
    notebook = nbformat.read(TOUR, as_version=4)
    config = Config(KernelManager={"transport": "ipc", "ip": str(module_world.home / "k")})
    folder = {"metadata": {"path": str(module_world.home)}}
    NotebookClient(notebook, timeout=240, resources=folder, config=config).execute()
    return {cell.id: cell for cell in notebook.cells}


def text(cell: nbformat.NotebookNode) -> str:
    """All text under a cell, without colours: streams, values and displays' text form."""
    outputs = cell.outputs
    parts = [o.text if o.output_type == "stream" else o.get("data", {}).get("text/plain", "") for o in outputs]
    return re.sub(r"\x1b\[[0-9;]*m", "", "".join(parts))


def value(cell: nbformat.NotebookNode) -> str:
    (result,) = (o for o in cell.outputs if o.output_type == "execute_result")
    return result.data["text/plain"]


pytestmark = pytest.mark.timeout(300)


def test_the_notebook_is_committed_clean():
    cells = [cell for cell in nbformat.read(TOUR, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert {cell.execution_count for cell in cells} == {None}


def test_only_the_cell_that_is_meant_to_fails(tour):
    failed = [name for name, c in tour.items() if any(o.output_type == "error" for o in c.get("outputs", ()))]
    assert failed == ["error"]


def test_a_remote_cell_prints_and_has_a_value_on_each_worker(tour):
    said = text(tour["remote"])
    pids = {int(pid) for pid in re.findall(r"hello from process (\d+)", said)}
    assert len(pids) == 2
    assert "w0" in said
    assert "w1" in said
    values = re.fullmatch(r"\{'w0': (\d), 'w1': (\d)\}", value(tour["remote"]))
    assert sorted(map(int, values.groups())) == sorted(pid % 2 for pid in pids)


def test_rich_output_is_displayed(tour):
    shown = [o.data for o in tour["display"].outputs if o.output_type == "display_data"]
    assert any("<b>bold</b>, from a worker" in data.get("text/html", "") for data in shown)


def test_variables_go_there_and_back(tour):
    assert value(tour["pulled"]) == "{'w0': 'zmq', 'w1': 'zmq'}"
    assert value(tour["pull"]) == "['zero', 'message', 'queue']"


def test_a_function_sees_its_globals_as_they_were_at_the_call(tour):
    assert value(tour["define"]) == "42"


def test_the_standard_library_is_measured_as_in_a_serial_run(tour):
    said = text(tour["map"])
    count = len(standard_library())
    assert f"{count:,} files: " in said
    assert len(re.findall(r"^ *\d+ \S+, .+\.py:\d+$", said, flags=re.MULTILINE)) == 10
    assert "measuring" in said, "the progress bar"
    assert "equal, item by item" in text(tour["serial"])


def test_an_error_names_the_worker_and_shows_the_cells_line(tour):
    (error,) = (o for o in tour["error"].outputs if o.output_type == "error")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    assert error.ename == "ZeroDivisionError"
    assert "[8 / number for number in numbers]" in shown
    assert "w0" in shown
    assert value(tour["after"]) == "[4, 2, 0]"


def test_the_status_lists_the_workers(tour):
    said = text(tour["status"])
    assert "w0" in said
    assert "w1" in said
