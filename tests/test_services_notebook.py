"""``notebooks/services.ipynb``, executed as it is: one kernel exposes, another calls."""

from __future__ import annotations

import re

from executed import cells_of, text, value

cells = cells_of("services")


def test_no_cell_fails_or_complains(cells):
    for name, cell in cells.items():
        for output in cell.get("outputs", ()):
            assert output.output_type != "error", name
            assert output.get("name") != "stderr", (name, output.get("text"))


def test_the_cell_s_functions_and_classes_are_a_service(cells):
    assert text(cells["expose"]).startswith("Service 'library': source(module: str) -> str, outline(")
    listed = text(cells["services"])
    assert "  grep(module: str, word: str) -> Iterator[tuple[int, str]] → items\n" in listed.replace(
        "collections.abc.", ""
    )
    assert "Functions and classes of a module, with the number of their lines." in listed


def test_another_kernel_calls_it(cells):
    assert re.fullmatch(r"another kernel, process \d+\n", text(cells["second"]))
    said = text(cells["call"])
    assert said.startswith("<service library at ipc://")
    assert "\n{'insort_right': " in said
    assert "'bisect_left': " in said
    assert "dict_keys(['heappush'" in said


def test_it_streams_and_is_broken_out_of(cells):
    lines = text(cells["stream"]).splitlines()
    assert len(lines) > 3
    assert all(re.fullmatch(r" *\d+ .*def .*", line) for line in lines)
    assert sum(int(line.split()[0]) > 200 for line in lines) == 1


def test_many_calls_are_awaited(cells):
    assert set(re.findall(r"'(\w+)': \d+", text(cells["await"]))) == {"bisect", "heapq", "textwrap", "string"}


def test_errors_are_the_method_s_own(cells):
    first, note, wrong = text(cells["error"]).splitlines()
    assert first == "LookupError - sys has no source in Python"
    assert re.fullmatch(r"raised on library \(host .*, pid \d+\)", note)
    assert wrong.startswith("TypeError - outline(module: str, *, private: bool = False)")
    assert wrong.endswith("got an unexpected keyword argument 'privat'")
    assert text(cells["deadline"]) == "CallTimeout - library.outline took longer than the 1e-06 s allowed\n"


def test_it_is_replaced_under_its_callers(cells):
    assert text(cells["votes"]) == "{'zmq': 1} {'zmq': 2}\n"
    assert re.fullmatch(r"bisect: \d+ lines\n", text(cells["replaced"]))


def test_the_other_way_round(cells):
    assert value(cells["back"]) == "([3.0, 7.0, 14.5], 'Return the sample arithmetic mean of data.')"
    assert value(cells["magic"]) == "3"


def test_a_shell_calls_both(cells):
    said = text(cells["shell"]).replace("\r\n", "\n")  # a terminal is between
    assert said.startswith("2\n")
    assert "Service library\n\noutline(module: str) -> str\n    Just the number of lines.\n" in said
    assert "LookupError: nothing_of_this_name has no source in Python" in said
    assert text(cells["end"]).startswith("No services.")
