"""``notebooks/jobs.ipynb``, executed as it is."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from test_tour import text, value

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "jobs.ipynb"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cells(module_world) -> dict[str, nbformat.NotebookNode]:
    """The executed cells, by id."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    config = Config(KernelManager={"transport": "ipc", "ip": str(module_world.home / "k")})
    folder = {"metadata": {"path": str(module_world.home)}}
    NotebookClient(notebook, timeout=240, resources=folder, config=config).execute()
    return {cell.id: cell for cell in notebook.cells}


def error(cell: nbformat.NotebookNode) -> str:
    """The name and traceback of what a cell has raised."""
    (found,) = (o for o in cell.outputs if o.output_type == "error")
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join([found.ename, *found.traceback]))


def test_the_notebook_is_committed_clean():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert {cell.execution_count for cell in cells} == {None}


def test_only_the_cells_that_are_meant_to_fail(cells):
    failed = [name for name, c in cells.items() if any(o.output_type == "error" for o in c.get("outputs", ()))]
    assert failed == ["raise", "interrupt"]


def test_progress(cells):
    assert value(cells["map"]) == "'300 estimates, 3.14 on average'"
    assert "throwing" in text(cells["map"])


def test_a_failure_is_raised_with_its_line_or_returned_in_its_place(cells):
    shown = error(cells["raise"])
    assert shown.startswith("ZeroDivisionError")
    assert "return 1 / x" in shown
    assert value(cells["return"]) == "[1.0, 0.5, 'ZeroDivisionError', 0.25]"


def test_a_worker_that_dies_costs_nothing_but_a_retry(cells):
    assert value(cells["retry"]) == "(True, '1 run again')"
    assert "fragile[7] (run again: attempt 2) │ working on 7" in text(cells["retry"])


def test_limits(cells):
    lines = text(cells["limits"]).splitlines()
    assert [line.split(" · ")[0] for line in lines[:4]] == ["float", "CallTimeout", "float", "WorkerLost"]
    assert "SIGKILL" in lines[3]
    assert "  this will not end well" in lines


def test_an_interrupt_and_a_resume(cells):
    assert error(cells["interrupt"]).startswith("KeyboardInterrupt")
    right, before, after = re.fullmatch(
        r"\((\w+), '(\d+) runs before .*, (\d+) after it'\)", value(cells["resume"])
    ).groups()
    assert right == "True"
    assert 30 <= int(before) < 60
    assert int(after) < 60
    assert 60 <= int(before) + int(after) <= 64, "those that the interrupt hit ran twice"


def test_shared_data_futures_and_counts(cells):
    assert value(cells["shared"]).endswith("True") or value(cells["shared"]) == "np.True_"
    assert value(cells["futures"]) == "([1, 2, 4, 8, 16, 32, 64, 128, 256, 512], 5)"
    assert value(cells["cancel"]) == "(True, True)"
    assert re.search(r"\d+ done, 4 failed, \d+ cancelled, [34] retried; ", text(cells["stats"]))
    assert "w1" in text(cells["status"])
