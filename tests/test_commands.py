"""Child processes of cells: what they say comes at once, and none outlives an interrupt."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from znb import commands


def streamed(command):
    pieces = []
    status = commands.stream(command, pieces.append)
    return "".join(pieces), status


@pytest.fixture(params=["stream", "collect", "background"])
def run(request):
    """The three ways to run a command."""
    if request.param == "collect":
        return commands.collect
    return lambda command: streamed(command + (" &" if request.param == "background" else ""))


def test_output_of_both_streams_comes_in_order():
    assert streamed("echo a; echo b >&2; echo c") == ("a\nb\nc\n", 0)
    assert commands.collect("echo a; echo b >&2; echo c") == ("a\nb\nc\n", 0)


@pytest.mark.parametrize(("command", "status"), [("exit 3", 3), ("kill -KILL $$", -9), ("true", 0), ("exit 130", -2)])
def test_the_status_is_ipythons(command, status):
    assert streamed(command)[1] == status
    assert commands.collect(command)[1] == status


def test_the_command_believes_to_write_to_a_terminal_of_usual_size():
    assert streamed("test -t 1 && test -t 2 && ! test -t 0 && stty size <&1") == ("24 80\n", 0)


def test_a_child_that_keeps_the_terminal_open_does_not_hold_the_cell():
    pid, status = streamed("sleep 100 & echo $!")
    assert status == 0
    with contextlib.suppress(ProcessLookupError):  # closing the terminal ends it, unless it ignores SIGHUP (nohup)
        os.kill(int(pid), signal.SIGKILL)


def test_characters_may_be_split_between_reads():
    assert streamed(r"printf '\303'; sleep 0.05; printf '\251'")[0] == "é"


def test_it_runs_on_any_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(streamed("echo x")))
    thread.start()
    thread.join()
    assert found == [("x\n", 0)]


def test_an_error_of_the_reader_ends_the_command(tmp_path):
    def broken(text):
        if text:
            raise ValueError(text)

    with pytest.raises(ValueError, match="begun"):
        commands.stream(f"echo $$ > {tmp_path}/pid; echo begun; sleep 100", broken)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_interrupt_while_the_command_starts_leaves_no_process(run, monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(commands.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("sleep 100")
    assert started[0].returncode is not None
    assert signal.getsignal(signal.SIGINT) is handler


def test_descriptors_do_not_leak():
    streamed("true")
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(3):
        streamed("echo x")
        commands.collect("echo x")
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_children_of_our_group_can_be_interrupted_and_others_are_left_alone():
    ours = subprocess.Popen(["sleep", "100"])
    other = subprocess.Popen(["sleep", "100"], start_new_session=True)
    commands.interrupt_children()
    assert ours.wait() == -signal.SIGINT
    assert other.poll() is None
    other.kill()
    other.wait()
