"""``notebooks/tracing.ipynb``, executed as it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from executed import cells_of, failed, text, value
from znb.sourcestats import standard_library

pytestmark = pytest.mark.timeout(300)
cells = cells_of("tracing")


def test_no_cell_fails(cells):
    assert failed(cells) == []


def test_the_traced_cell_leaves_a_picture_of_its_workers(cells):
    (shown,) = (output.data for output in cells["watch"].outputs if "image/svg+xml" in output.get("data", {}))
    assert "the standard library" in shown["image/svg+xml"]
    assert f"measure [job] ×{len(standard_library())}" in shown["text/plain"]
    assert "parse ×" in shown["text/plain"]


def test_the_trace_is_an_object(cells):
    lines = text(cells["block"]).splitlines()
    assert len(lines) == 4
    assert {line.split()[0] for line in lines} >= {"parse", "walk"}
    assert re.fullmatch(r"'\S+\.py took longest to parse: \d+ ms on w[01]'", value(cells["slowest"]))
    assert "parse" in value(cells["waits"])


def test_the_files_that_do_not_parse_are_its_errors(cells):
    named = [line.split()[0] for line in text(cells["errors"]).splitlines()]
    assert "bad_coding.py" in named
    wrong = [path for path in standard_library() if path.rpartition("/")[2] in named]
    assert len(wrong) >= len(named) == len(set(named))
    for path in wrong:
        with pytest.raises((SyntaxError, ValueError)):
            ast.parse(Path(path).read_bytes())


def test_it_is_saved(cells, module_world):
    page = module_world.home / "standard-library.html"
    assert page.read_text().startswith("<!doctype html>")
    assert page.with_name("standard-library.speedscope.json").exists()
