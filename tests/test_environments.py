"""A cluster in a notebook, under the other Pythons and the other ipykernel that it has to work with."""

from __future__ import annotations

import pytest

from kernels import interpreter


@pytest.mark.parametrize("name", ["ipykernel6", "py312", "py313"])
def test_a_notebook_starts_workers_runs_cells_and_maps(name, kernel):
    kernel = kernel(python=interpreter(name))
    assert kernel.run("%load_ext znb\n%znb cluster start 2").ok().error is None

    cell = kernel.run("%%znb remote\nimport sys\nprint('here')\nsys.version_info[:2]").ok()
    version = kernel.run("import sys; sys.version_info[:2]").value
    assert cell.value == f"{{'w0': {version}, 'w1': {version}}}"
    assert "here" in cell.stdout

    kernel.run("offset = 1\ndef shifted(number):\n    return number + offset").ok()
    assert kernel.run("list(cluster.map(shifted, range(5)))").ok().value == "[1, 2, 3, 4, 5]"

    failed = kernel.run("%%znb remote --on 0\n1 / 0")
    assert failed.error.name == "ZeroDivisionError"
    assert "1 / 0" in failed.error.plain

    kernel.run("%znb cluster stop").ok()
