from __future__ import annotations

import re
import subprocess
import sys

import pytest

import znb
from znb.demo import Outcome, compare, render
from znb.errors import WorkerLost
from znb.sourcestats import FileStats, Function, measure_file, standard_library, summarize

FOUND = [
    FileStats("/lib/a.py", 1200, (Function("A.f", "/lib/a.py", 7, 12), Function("g", "/lib/a.py", 100, 3))),
    FileStats("/lib/bad.py", error="line 2: no"),
]


def outcome(**changes) -> Outcome:
    fields = {"workers": 2, "start": 0.1, "parallel": 2.0, "serial": 3.0, "summary": summarize(FOUND)}
    return Outcome(**{**fields, "differences": (), **changes})


def test_the_report_names_times_ratio_totals_places_and_bad_files():
    text = render(outcome(), "/lib")
    assert "on 2 workers     2.00 s   after 0.10 s" in text
    assert "serially         3.00 s   1.50 times as long" in text
    assert "files 1 · lines 1,200 · functions 2" in text
    assert "    12  a.py:7    A.f\n     3  a.py:100  g\n" in text
    assert "do not parse, and are no part of these figures (1):" in text
    assert "  bad.py: line 2: no\n" in text
    assert text.endswith("Both runs gave the same result for every file.")


def test_the_report_names_what_differs():
    lost = WorkerLost("w0", "was killed")
    text = render(outcome(differences=(("/lib/a.py", lost),)), "/elsewhere")
    assert "THE RUNS DIFFER, in 1 of the files" in text
    assert f"/lib/a.py: {lost!r}" in text


def test_a_cluster_finds_what_a_serial_run_finds(capsys):
    files = standard_library()[:40]
    result = compare(files, workers=2)
    assert (result.workers, result.differences) == (2, ())
    assert result.summary == summarize(map(measure_file, files))
    assert "on 2 workers" in capsys.readouterr().err, "the progress bar"


@pytest.mark.timeout(300)
@pytest.mark.leaves_files
def test_the_command_measures_the_standard_library():
    files = standard_library()
    done = subprocess.run([sys.executable, "-m", "znb", "demo"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert int(re.search(r"([\d,]+) files of Python", said)[1].replace(",", "")) == len(files)
    assert re.search(r"serially +[\d.]+ s +[\d.]+ times as long", said)
    assert "re/_parser.py:" in said, "the most complex function of the standard library since Python 3.11"
    has_tests = any(path.endswith("bad_coding.py") for path in files)  # some distributions leave the tests out
    assert ("bad_coding.py: unknown encoding" in said) is has_tests
    assert "measure_file" in znb.Trace.load(re.search(r"job by job: (\S+)", said)[1]).text()
    assert said.endswith("Both runs gave the same result for every file.\n")
