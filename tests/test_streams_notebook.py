"""``notebooks/streams.ipynb``, executed as it is."""

from __future__ import annotations

import re

import pytest

from executed import cells_of, result, text, value
from znb.sourcestats import standard_library

pytestmark = pytest.mark.timeout(300)
cells = cells_of("streams")


def test_the_views_are_widgets(cells):
    for name in ("lines", "table", "log"):
        assert "application/vnd.jupyter.widget-view+json" in result(cells[name])
        assert value(cells[name]).startswith("stream of")


def test_every_file_was_measured(cells):
    found = re.fullmatch(r"'([\d,]+) files, ([\d,]+) lines'", value(cells["map"]))
    assert int(found[1].replace(",", "")) == len(standard_library())
    assert int(found[2].replace(",", "")) > 100_000


def test_a_late_subscriber_gets_the_last_value_of_each_worker(cells):
    lines = text(cells["late"]).splitlines()
    assert sorted(line.split()[0] for line in lines) == ["w0", "w1"]
    assert all(line.endswith("0 dropped") for line in lines)


def test_values_go_in_every_direction(cells):
    assert value(cells["async"]) == "{'from': 'this notebook', 'to': 'itself', 'value': 42}"
    assert value(cells["settings"]) == "{'w0': {'rate': 0.1}, 'w1': {'rate': 0.1}}"
