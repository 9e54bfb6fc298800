"""One worker process, from both sides of its making: how its parent makes, watches and buries it, and how it wakes up.

========== ================== ==========================================================================
descriptor  direction          content
========== ================== ==========================================================================
parent_fd   zygote → worker    nothing; end-of-file says that the zygote is gone
ready_fd    worker → zygote    one byte and its addresses when the worker serves; elsewhere its signs (``znb.signs``)
crash_fd    file of both       faulthandler's stacks; without a name, so that it cannot be left behind
1 and 2     worker → zygote    what is written before the shell redirects them, or when it cannot any more
========== ================== ==========================================================================

Invariants: after a fork the child holds none of its parent's descriptors but these. Each worker leads a process
group, so that what it has started ends with it. A worker never outlives its zygote: the kernel sends it SIGTERM,
and it reads end-of-file. Runs on the zygote's one thread. Sources: fork(2), prctl(2), setpgid(2).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from znb.connection import WorkerSpec
from znb.control import FrameDecoder, bootstrap_command, bootstrap_input, read_frame
from znb.errors import ProtocolError
from znb.journal import read_journal
from znb.lifecycle import DeathCertificate
from znb.postmortem import explain_exit
from znb.signs import Sign

__all__ = ["Child", "Entry", "fork_child", "load_function", "name_process", "spawn_child", "spawned_main"]

#: What a worker process runs.
Entry = Callable[[WorkerSpec], object]

#: Bytes with which a worker says that it is ready: its three addresses, and less than a pipe takes at once.
READY_BYTES = 4096
#: Bytes of a worker's last output that are kept for its death certificate.
TAIL_BYTES = 8192
#: Bytes of faulthandler's stacks that are: a hundred frames in each of a few threads.
DUMP_BYTES = 32768
#: Reads from a dead worker's pipe, of 64 kB; a process that escaped with it might write for ever.
DRAIN_READS = 16
#: Signals that the zygote handles or ignores, and a worker does not.
HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
#: prctl(2): the signal to get when the parent is gone; the process's name.
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15


class SpawnOrder(msgspec.Struct, frozen=True):
    """What a fresh interpreter reads from its stdin: who it is, and what to run."""

    spec: WorkerSpec
    entry: str


class Child:
    """A worker process, as its parent sees it.

    Attributes:
        spec: What it was told.
        pid: Its process id, which is its group's as well.
        host: Empty: it is on this machine.
        ready_fd: Becomes readable when it serves, or ends before, or has a sign; -1 if no more is to be known.
        output_fd: Its original stdout and stderr; -1 when they are closed.
        ready: Whether it serves.
        intent: What it was told to end for: ``"stop"``, ``"restart"``, ``"kill"``, or nothing.
        kill_at: Monotonic time at which its patience with SIGTERM ends; ``None`` for never.
        born: Unix time of its start.
    """

    def __init__(self, spec: WorkerSpec, pid: int, ready_fd: int, output_fd: int) -> None:
        self.spec = spec
        self.pid = pid
        self.host = ""
        self.ready_fd = ready_fd
        self.output_fd = output_fd
        self.ready = False
        self.intent = ""
        self.kill_at: float | None = None
        self.born = time.time()
        self._started = time.monotonic()
        self._crash_fd = spec.crash_fd
        self._tail = bytearray()
        self._signs = FrameDecoder()

    def read_ready(self) -> list[Sign]:
        """Learn from ``ready_fd``; return the signs that have come. It is closed when there will be none."""
        data = b""
        with contextlib.suppress(BlockingIOError):  # a dead worker's child may hold the other end
            data = os.read(self.ready_fd, READY_BYTES)
        ended = not data
        if data and not self.ready:
            self.ready = True
            if len(data) > 1:
                calls, jobs, events, data = data[1:].split(b"\n", 3)
                urls = {"calls": calls.decode(), "jobs": jobs.decode(), "events": events.decode()}
                self.spec = msgspec.structs.replace(self.spec, **urls)
            ended = not self.spec.events.startswith("tcp://")  # one on this machine is found by files
        if ended:
            os.close(self.ready_fd)
            self.ready_fd = -1
            return []
        try:
            return [msgspec.msgpack.decode(frame, type=Sign) for frame in self._signs.feed(data)]
        except (ProtocolError, msgspec.DecodeError) as error:  # the worker's own code has written there
            print(f"{self.spec.name} has told nonsense: {error}", file=sys.stderr, flush=True)
            return []

    def read_output(self) -> int:
        """Take what has come through ``output_fd``, and return how many bytes; close it at its end."""
        try:
            data = os.read(self.output_fd, 1 << 16)
        except BlockingIOError:
            return 0
        if not data:
            os.close(self.output_fd)
            self.output_fd = -1
        self._tail += data
        del self._tail[:-TAIL_BYTES]
        return len(data)

    def signal(self, signum: int, *, group: bool = False) -> None:
        """Send it a signal; to its whole group if asked. Nothing happens if it is gone."""
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(self.pid, signum)
            else:
                os.kill(self.pid, signum)

    def end(self, intent: str, patience: float) -> None:
        """Tell it to end; it is killed at ``kill_at`` if it has not by then."""
        self.intent = intent
        self.kill_at = time.monotonic() + patience
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # a stopped process cannot obey

    def bury(self, code: int, peak_rss_bytes: int, *, oom: bool | None) -> DeathCertificate:
        """Kill what the dead process has started, close its descriptors, and return its certificate.

        Args:
            code: Its exit status, or the negative number of the signal that ended it.
            peak_rss_bytes: The most memory it held.
            oom: Whether the out-of-memory killer seems to have done it; ``None`` if that is not known.
        """
        self.signal(signal.SIGKILL, group=True)
        if self.ready_fd >= 0:
            self.read_ready()
        for _ in range(DRAIN_READS):
            if self.output_fd < 0 or not self.read_output():
                break
        dump = os.pread(self._crash_fd, DUMP_BYTES, 0).rstrip(b"\0")
        words = read_journal(self._crash_fd)
        self.close()
        return DeathCertificate(
            name=self.spec.name,
            generation=self.spec.generation,
            pid=self.pid,
            exit_status=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            meaning=explain_exit(code, oom=oom, peak_rss_bytes=peak_rss_bytes),
            oom=oom,
            peak_rss_bytes=peak_rss_bytes,
            dump=dump.decode(errors="replace"),
            tail=words + self._tail.decode(errors="replace"),
            time=time.time(),
            uptime=time.monotonic() - self._started,
            was_ready=self.ready,
            intentional=bool(self.intent),
        )

    def close(self) -> None:
        """Close the parent's descriptors."""
        for descriptor in (self.ready_fd, self.output_fd, self._crash_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self.ready_fd = self.output_fd = self._crash_fd = -1


# -- making one ----------------------------------------------------------------------------------------------


def fork_child(spec: WorkerSpec, entry: Entry, abandon: Callable[[], object]) -> Child:
    """Fork a worker from this process, which must have a single thread.

    Args:
        spec: What to tell it; ``ready_fd`` and ``crash_fd`` are filled in here.
        entry: What it runs. The process ends when this returns.
        abandon: Called in the child to close what belongs to its parent.

    Raises:
        OSError: There is no more room for processes, descriptors or memory.
    """
    spec, ready, output, output_write = _open_channels(spec)
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal that comes before the child has put back its handlers must wait, or the parent's would swallow it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        pid = os.fork()
        if pid == 0:
            _wake_up(spec, entry, abandon, (ready, output), output_write, mask)
    except OSError:
        for descriptor in (ready, spec.ready_fd, output, output_write, spec.crash_fd):
            os.close(descriptor)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return _adopt(spec, pid, ready, output, output_write)


def spawn_child(spec: WorkerSpec, entry: str) -> Child:
    """Start a worker in a fresh interpreter; otherwise like ``fork_child``.

    Args:
        spec: As for ``fork_child``.
        entry: What it runs, as ``module:function``.

    Raises:
        OSError: There is no more room for processes, descriptors or memory.
    """
    spec, ready, output, output_write = _open_channels(spec)
    orders = _unnamed_file("orders")
    try:
        os.write(orders, bootstrap_input(sys.path, SpawnOrder(spec, entry)))
        os.lseek(orders, 0, os.SEEK_SET)
        for descriptor in (spec.parent_fd, spec.ready_fd, spec.crash_fd):
            os.set_inheritable(descriptor, True)  # harmless here: nothing else is started by this process
        actions = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in
                   ((orders, 0), (output_write, 1), (output_write, 2))]  # fmt: skip
        command = bootstrap_command(sys.executable, "znb.child:spawned_main", f"znb-{spec.name}", spec.cluster)
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions, setpgroup=0,
                             setsigdef=(signal.SIGHUP, signal.SIGINT))  # fmt: skip
    except OSError:
        for descriptor in (ready, spec.ready_fd, output, output_write, spec.crash_fd):
            os.close(descriptor)
        raise
    finally:
        os.close(orders)
    os.set_inheritable(spec.parent_fd, False)
    os.set_inheritable(spec.crash_fd, False)
    return _adopt(spec, pid, ready, output, output_write)


def _open_channels(spec: WorkerSpec) -> tuple[WorkerSpec, int, int, int]:
    """Return the spec with its descriptors, and the parent's end of ready, and both ends of the output."""
    opened: list[int] = []
    try:
        opened += os.pipe()
        opened += os.pipe()
        opened.append(_unnamed_file("crash"))
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    ready, ready_write, output, output_write, crash = opened
    os.set_blocking(ready, False)
    os.set_blocking(output, False)
    spec = msgspec.structs.replace(spec, ready_fd=ready_write, crash_fd=crash)
    return spec, ready, output, output_write


def _adopt(spec: WorkerSpec, pid: int, ready: int, output: int, output_write: int) -> Child:
    os.close(spec.ready_fd)
    os.close(output_write)
    with contextlib.suppress(OSError):  # it may have done so itself, and more
        os.setpgid(pid, pid)
    return Child(spec, pid, ready, output)


def _unnamed_file(purpose: str) -> int:
    """Return the descriptor of a new file that has no name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(f"znb-{purpose}", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


# -- being one -----------------------------------------------------------------------------------------------


def _wake_up(
    spec: WorkerSpec,
    entry: Entry,
    abandon: Callable[[], object],
    parents: tuple[int, ...],
    output: int,
    mask: set[int | signal.Signals],
) -> NoReturn:
    """Turn a fresh fork into a worker, run it, and end the process."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for signum in HANDLED:
            signal.signal(signum, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        abandon()
        for descriptor in parents:
            os.close(descriptor)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        status = _run(spec, entry)
    except BaseException:  # noqa: BLE001 - the process ends; this is its last word
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def spawned_main() -> None:
    """Be the worker that standard input describes; main of a fresh interpreter."""
    gc.enable()
    order = msgspec.msgpack.decode(read_frame(sys.stdin.buffer), type=SpawnOrder)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - as in all of the standard library
        os.dup2(nothing.fileno(), 0)
    os._exit(_run(order.spec, load_function(order.entry)))


def _run(spec: WorkerSpec, entry: Entry) -> int:
    """Run a worker's main, then what is registered with ``atexit``, and return the exit status."""
    _follow_parent()
    name_process(f"znb:{spec.name}")
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    status = 0
    try:
        entry(spec)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # noqa: BLE001 - the process ends; this is its last word
        traceback.print_exc()
        status = 1
    # What an interpreter does at its end, as multiprocessing's children do it; the rest of it, tearing down
    # hundreds of modules, would only take time.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status & 0xFF


def _follow_parent() -> None:
    """Have the kernel send SIGTERM when the parent ends; parent_fd tells it where there is no prctl."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it ended just before


def name_process(name: str) -> None:
    """Set the name that ``ps`` and ``top`` show, as far as its 15 bytes go."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def load_function(target: str) -> Callable[..., object]:
    """Import what ``module:function`` names.

    Raises:
        ImportError: There is no such module, or no such function in it.
    """
    module, _, name = target.partition(":")
    loaded = importlib.import_module(module)
    try:
        found: Callable[..., object] = getattr(loaded, name)
    except AttributeError:
        raise ImportError(f"the module {module} has no function {name!r}", name=module) from None
    return found


def is_single_threaded() -> bool:
    """Whether this process has one thread, those of C libraries included."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) == 1 if tasks.exists() else threading.active_count() == 1
