"""The notebooks of ``notebooks/``, executed as they are, and what their cells have shown.

cells = cells_of("tour")

def test_what_is_pulled(cells):
    assert value(cells["pulled"]) == "…"
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
#: Seconds that a cell may take; generous, for busy machines.
TIMEOUT = 240


def read(name: str) -> nbformat.NotebookNode:
    """Return a notebook as it is committed."""
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def execute(name: str, home: Path) -> dict[str, nbformat.NotebookNode]:
    """Run a notebook in a folder; return its cells by id."""
    notebook = read(name)
    config = Config(KernelManager={"transport": "ipc", "ip": str(home / "k")})
    NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(home)}}, config=config).execute()
    return {cell.id: cell for cell in notebook.cells}


def cells_of(name: str) -> Any:
    """Return a fixture for a module: the cells of a notebook by id, run once."""

    @pytest.fixture(scope="module")
    def cells(module_world: Any) -> dict[str, nbformat.NotebookNode]:
        return execute(name, module_world.home)

    return cells


def is_clean(name: str) -> bool:
    """Whether a notebook is committed without anything that a run has left in it."""
    code = [cell for cell in read(name).cells if cell.cell_type == "code"]
    return all(cell.outputs == [] and cell.execution_count is None for cell in code)


def text(cell: nbformat.NotebookNode) -> str:
    """All text under a cell, without colours: streams, values and displays' text form."""
    parts = [o.text if o.output_type == "stream" else o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return re.sub(r"\x1b\[[0-9;]*m", "", "".join(parts))


def value(cell: nbformat.NotebookNode) -> str:
    """The text form of a cell's value."""
    return result(cell)["text/plain"]


def result(cell: nbformat.NotebookNode) -> dict[str, Any]:
    """A cell's value in all its forms."""
    (found,) = (o for o in cell.outputs if o.output_type == "execute_result")
    return found.data


def error(cell: nbformat.NotebookNode) -> str:
    """The name and traceback of what a cell has raised."""
    (found,) = (o for o in cell.outputs if o.output_type == "error")
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join([found.ename, *found.traceback]))


def failed(cells: dict[str, nbformat.NotebookNode]) -> list[str]:
    """The ids of the cells that have raised."""
    return [name for name, cell in cells.items() if any(o.output_type == "error" for o in cell.get("outputs", ()))]
