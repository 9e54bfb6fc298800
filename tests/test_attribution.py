"""Output is shown under what wrote it, all of it, and a death quotes what the dying cell or job wrote, and nothing else."""

import io
import os
import signal
import sys
import threading

import psutil
import pytest

import job_functions as jobs
import znb
from job_functions import Gate, wait_until


@pytest.fixture
def cluster(world):
    cluster = znb.Cluster.start(2, name="attribution")
    yield cluster
    cluster.close()


class Shown:
    """What is shown from now on. (``capfd`` loses what other threads write while it is being read.)"""

    def __init__(self, monkeypatch):
        self._streams = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", self._streams[0])
        monkeypatch.setattr(sys, "stderr", self._streams[1])

    @property
    def out(self):
        return self._streams[0].getvalue()

    @property
    def err(self):
        return self._streams[1].getvalue()

    def wait(self, count):
        """Wait for so many lines; return what follows the worker's name."""
        wait_until(lambda: self.out.count("\n") >= count, f"{count} lines")
        return [line.partition(" ")[2] for line in self.out.splitlines()]


def print_item(i):
    print("item", i)


def print_unfinished(i):
    print(i, end=" ")


def print_some(i):
    if i % 3:
        print("only", i, end="\n" * (i % 2))


def print_by_descriptor(i):
    jobs.sleep(0.003)
    os.write(1, f"descriptor {i}\n".encode())


# -- lines that do not end


def test_a_job_that_ends_without_a_newline_is_shown(cluster, monkeypatch):
    shown = Shown(monkeypatch)
    cluster.submit(print, "no newline", end="").result()
    assert shown.wait(1) == ["print[0] │ no newline"]


def test_jobs_that_end_without_a_newline_have_a_line_each(cluster, monkeypatch):
    shown = Shown(monkeypatch)
    list(cluster.map(print_unfinished, range(50)))
    assert sorted(shown.wait(50)) == sorted(f"print_unfinished[{i}] │ {i} " for i in range(50))


def test_a_line_that_a_killed_worker_left_is_shown(cluster, monkeypatch, tmp_path):
    shown = Shown(monkeypatch)
    gate = Gate(tmp_path)
    future = cluster.submit(print_then_wait, gate)
    pid = gate.wait_running()
    threading.Event().wait(0.2)  # what a process writes may be under way for that long
    os.kill(pid, signal.SIGKILL)
    assert shown.wait(1) == ["print_then_wait[0] │ half a line"]
    gate.open()
    future.result()


def print_then_wait(gate):
    print("half a line", end="", flush=True)
    gate()


def test_a_line_without_a_newline_is_shown_at_shutdown(capfd):
    gate = threading.Event()
    with znb.Cluster.start(1, name="ending") as cluster:
        future = cluster.submit(print, "the end", end="")
        future.add_done_callback(lambda _: gate.set())
        gate.wait(jobs.PATIENCE)
    assert "print[0] │ the end\n" in capfd.readouterr().out


# -- which job


def test_each_line_of_a_chunk_is_shown_under_its_job(cluster, monkeypatch):
    shown = Shown(monkeypatch)
    list(cluster.map(print_item, range(200), chunksize=50))
    assert sorted(shown.wait(200)) == sorted(f"print_item[{i}] │ item {i}" for i in range(200))


def test_lines_with_and_without_a_newline_in_one_chunk(cluster, monkeypatch):
    shown = Shown(monkeypatch)
    list(cluster.map(print_some, range(60), chunksize=60))
    assert sorted(shown.wait(40)) == sorted(f"print_some[{i}] │ only {i}" for i in range(60) if i % 3)


def test_what_jobs_write_to_descriptors_is_shown_under_its_job(cluster, monkeypatch):
    shown = Shown(monkeypatch)
    list(cluster.map(print_by_descriptor, range(30), chunksize=15))
    assert sorted(shown.wait(30)) == sorted(f"print_by_descriptor[{i}] │ descriptor {i}" for i in range(30))


# -- after the end


def late(release):
    return f"""
import os, threading, time
def late():
    while not os.path.exists({str(release)!r}):
        time.sleep(0.005)
    print("late")
    open({str(release)!r} + ".done", "w").close()
threading.Thread(target=late).start()
"""


def test_what_a_thread_writes_after_its_cell_is_shown_by_the_next_one(cluster, monkeypatch, tmp_path):
    shown = Shown(monkeypatch)
    release = tmp_path / "release"
    cluster["w0"].run(late(release))
    release.touch()
    wait_until((tmp_path / "release.done").exists)
    cluster["w0"].run("print('next')")
    assert shown.err == "[written after its cell had ended:]\nlate\n"
    assert shown.out == "next\n"
    cluster["w0"].run("print('once')")
    assert shown.err.count("late") == 1


def test_what_a_call_prints_is_shown(cluster, monkeypatch):
    shown = Shown(monkeypatch)
    cluster["w0"].call(print, "called")
    cluster["w0"].run("print('next')")
    assert shown.out == "called\nnext\n"
    assert shown.err == ""


def test_another_clients_cell_does_not_show_it(cluster, monkeypatch, tmp_path):
    shown = Shown(monkeypatch)
    release = tmp_path / "release"
    cluster["w0"].run(late(release))
    release.touch()
    wait_until((tmp_path / "release.done").exists)
    with znb.Cluster.connect("attribution") as other:
        other["w0"].run("print('mine')")
        assert "late" not in shown.err
    cluster["w0"].run("print('next')")
    assert shown.err.endswith("[written after its cell had ended:]\nlate\n")


# -- last words


def notes(error):
    return "\n".join(getattr(error, "__notes__", []))


def test_a_death_does_not_quote_the_lines_of_an_earlier_cell(cluster):
    cluster["w0"].run("print('an earlier cell')")
    with pytest.raises(znb.WorkerLost) as death:
        cluster["w0"].run("import os; os._exit(3)")
    assert "last output" not in notes(death.value)
    cluster["w0"].run("print('an earlier cell')")
    with pytest.raises(znb.WorkerLost) as death:
        cluster["w0"].run("import os; print('its own'); os._exit(3)")
    assert "its own" in notes(death.value)
    assert "earlier" not in notes(death.value)


def test_a_death_does_not_quote_the_lines_of_an_earlier_job(cluster):
    list(cluster.map(print_item, range(10)))
    with pytest.raises(znb.WorkerLost) as death:
        cluster["w0"].run("import os; os._exit(3)")
    assert "last output" not in notes(death.value)


# -- interrupts and children


@pytest.mark.parametrize("source", ["import os; os.system('sleep 1000')", "%%bash\nsleep 1000"])
def test_an_interrupt_ends_a_child_that_a_cell_waits_for(cluster, source):
    process = psutil.Process({worker.name: worker.pid for worker in cluster.workers}["w0"])
    cell = cluster["w0"].run_nowait(source)
    wait_until(lambda: any("1000" in child.cmdline() for child in process.children(recursive=True)), "the child")
    cluster.interrupt("w0")
    cell.exception(jobs.PATIENCE)
    wait_until(lambda: not process.children(recursive=True), "its end")
    assert cluster["w0"].run("6 * 7") == 42
