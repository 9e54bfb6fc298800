"""``notebooks/jobs.ipynb``, executed as it is."""

from __future__ import annotations

import re

import pytest

from executed import cells_of, error, failed, text, value

pytestmark = pytest.mark.timeout(300)
cells = cells_of("jobs")


def test_only_the_cells_that_are_meant_to_fail(cells):
    assert failed(cells) == ["raise", "interrupt"]


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
