"""``notebooks/tour.ipynb``, executed as it is."""

from __future__ import annotations

import re

import pytest

from executed import cells_of, failed, text, value
from znb.sourcestats import standard_library

pytestmark = pytest.mark.timeout(300)
tour = cells_of("tour")


def test_only_the_cell_that_is_meant_to_fails(tour):
    assert failed(tour) == ["error"]


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
