"""Notebooks with a cluster, for end-to-end tests.

    notebook = with_cluster(kernel(), workers=2)
    cell = notebook.start(remote("print('begun'); wait_for('go')"))
    cell.wait_until(lambda cell: "begun" in plain(cell))
    open_gate(notebook, "go")
    cell.wait().ok()

A *gate* is a file in the kernel's working directory, which is the workers' too. Remote cells wait for it with
``wait_for``; the test opens it when it has seen what it wanted to see.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from ast import literal_eval
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import World
    from kernels import Cell, Kernel

#: Seconds that a script may take; generous, for busy machines.
TIMEOUT = 60.0

_ANSI = re.compile(r"\x1b\[[0-9;]*m")

#: Sent to each worker at the start.
_WAIT_FOR = """
def wait_for(*gates):
    import os, time
    while not all(map(os.path.exists, gates)):
        time.sleep(0.005)
"""


def with_cluster(kernel: Kernel, workers: int = 2, options: str = "") -> Kernel:
    """Load the extension and start a cluster; ``wait_for`` is defined on the workers."""
    kernel.run(f"%load_ext znb\n%znb cluster start {workers} {options}").ok()
    define_wait_for(kernel)
    return kernel


def define_wait_for(kernel: Kernel) -> None:
    kernel.run(remote(_WAIT_FOR)).ok()


def connect_to(kernel: Kernel, other: Kernel) -> Kernel:
    """Load the extension, and connect to the cluster of another notebook."""
    file = other.run("print(cluster.connection_file)").ok().stdout.strip()
    kernel.run(f"%load_ext znb\n%znb cluster connect {file}").ok()
    return kernel


def remote(source: str, options: str = "") -> str:
    """Return a remote cell."""
    return f"%%znb remote {options}\n" + textwrap.dedent(source).strip("\n")


def open_gate(kernel: Kernel, name: str) -> None:
    """Let the cells go on that wait for it."""
    (kernel.cwd / name).touch()


def without_colours(text: str) -> str:
    return _ANSI.sub("", text)


def plain(cell: Cell) -> str:
    """Return what a cell has printed, both streams as they came, without colours."""
    return without_colours("".join(m.content["text"] for m in cell.messages if m.kind == "stream"))


def notices(cell: Cell) -> str:
    """Return every text that a cell has displayed or updated so far, without colours: live lines and notices."""
    shown = [m.content["data"].get("text/plain", "") for m in cell.outputs if "data" in m.content]
    return without_colours("\n".join(shown))


def lines_of(cell: Cell, worker: str) -> list[str]:
    """Return the lines that a worker has printed, folded ones included."""
    found = re.findall(r"^(\S+) +│ (.*)$", plain(cell), flags=re.MULTILINE)
    return [line for label, line in found if label == "all" or worker in label.split(",")]


def pids(kernel: Kernel) -> dict[str, int]:
    """Return the workers' process ids by name."""
    return literal_eval(kernel.run("{w.name: w.pid for w in cluster.workers}").ok().value)


def family(kernel: Kernel) -> list[psutil.Process]:
    """Return the processes of the kernel's cluster: the zygote, the workers and what they have started."""
    first = psutil.Process(next(iter(pids(kernel).values())))
    zygote = first.parent()
    return [zygote, *zygote.children(recursive=True)]


def wait_gone(processes: list[psutil.Process], timeout: float = 30.0) -> list[psutil.Process]:
    """Wait until processes have ended, be they waited for by their parents or not; return those that have not."""
    deadline = time.monotonic() + timeout
    while (alive := [p for p in processes if _runs(p)]) and time.monotonic() < deadline:
        psutil.wait_procs(alive, timeout=0.02)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Frozen:
    """A process that is stopped by SIGSTOP for as long as the block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        try:
            os.kill(self._pid, signal.SIGCONT)
        except ProcessLookupError:
            return


@contextlib.contextmanager
def script(source: str, world: World, **options: object) -> Iterator[subprocess.Popen[str]]:
    """Run a Python script in a process of its own, in the world's home; it is killed if it outlives the block."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", textwrap.dedent(source)]
    settings = {"stdin": pipe, "stdout": pipe, "stderr": subprocess.STDOUT, "text": True, "cwd": world.home}
    with subprocess.Popen(command, **{**settings, **options}) as running:
        try:
            yield running
            running.wait(TIMEOUT)
        finally:
            running.kill()


def run_script(source: str, world: World) -> str:
    """Run a Python script to its end; return what it printed, errors included."""
    with script(source, world) as running:
        return running.communicate(timeout=TIMEOUT)[0]
