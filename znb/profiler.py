"""The sampler: what threads and coroutines do inside watched spans, looked at every 10 ms.

A thread of its own reads ``sys._current_frames()`` while watched spans are open (``Recorder.live``), and ends itself
some time after the last of them. Each sample stands for the time since the one before it; how much of that the thread
was running is read from its CPU clock, where the system has one for each thread, so waiting and running are told
apart by measure. Coroutines that wait are sampled too, with the chain of what they await as their stack.

Invariants: user code is never run, so nothing of it can raise here; stacks, nodes, tasks looked at and samples kept are
bounded, and what is left out is counted; a sampler that is not needed has no thread. The sampler's thread writes, one
reader reads. Sources: CPython's ``sys._current_frames``, ``asyncio.tasks``; clock_getres(2) for the clocks of threads.
"""

from __future__ import annotations

import contextvars
import gc
import itertools
import logging
import os
import sys
import sysconfig
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

import znb
from znb.spans.opened import ACTIVE
from znb.spans.recorder import RECORDER, OpenSpan, Parent, Recorder
from znb.spans.ring import Cursor, Ring
from znb.spans.samples import Frame, SamplePart

__all__ = ["SAMPLER", "Sampler", "SamplerStats"]

logger = logging.getLogger("znb.profiler")

#: Samples that a process keeps for its reader: a minute of ten busy threads.
RING_SIZE = 1 << 16
#: Seconds without watched spans after which the thread ends.
LINGER = 1.0
#: Frames of one stack; further ones, towards the outermost, are left out.
DEPTH_MAX = 256
#: Different stacks that are remembered; beyond that all is forgotten and collected anew.
NODES_MAX = 100_000
#: Tasks looked at in one round, over all event loops.
TASKS_MAX = 500
#: Nanoseconds that one sample may stand for at most; a process that was stopped has not waited in its code.
WALL_MAX_NS = 1_000_000_000


class SamplerStats(NamedTuple):
    """A snapshot of a sampler.

    Attributes:
        running: Whether its thread runs.
        rounds: How often it has looked.
        cost: Seconds of CPU time that this took.
        nodes: Different stacks that it remembers.
    """

    running: bool
    rounds: int
    cost: float
    nodes: int


class Sampler:
    """Samples a process while spans of it are watched.

    Args:
        recorder: Knows which spans are open.
        linger: Seconds without watched spans after which its thread ends.

    Attributes:
        on_round: Called after each look, on the sampler's thread; must not block.
    """

    def __init__(self, recorder: Recorder = RECORDER, *, linger: float = LINGER) -> None:
        self._recorder = recorder
        self.on_round: Callable[[], object] | None = None
        self._linger = linger
        self._lock = threading.Lock()
        self._stop = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ring = Ring(RING_SIZE)
        self._stacks = _Stacks()
        self._clocks: dict[int, tuple[int, int]] = {}
        self._rounds = 0
        self._cost_ns = 0

    def install(self) -> None:
        """Begin to sample whenever watched spans are open."""
        self._recorder.on_live = self._wake
        if self._recorder.live:
            self._wake()

    def close(self) -> None:
        """End the thread, and sample no more. May be called twice."""
        if self._recorder.on_live == self._wake:
            self._recorder.on_live = None
        self._end()

    def rest(self) -> None:
        """End the thread now instead of later, if nothing is watched."""
        if not self._recorder.live:
            self._end()

    def _end(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._stop.release()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def stats(self) -> SamplerStats:
        """Return what it does."""
        return SamplerStats(self._thread is not None, self._rounds, self._cost_ns / 1e9, len(self._stacks))

    def read(self, cursor: Cursor, limit: int) -> tuple[list[SamplePart], Cursor]:
        """Return up to ``limit`` samples that came after ``cursor``, by trace."""
        found = self._ring.read(cursor, limit)
        traces: dict[int, list[tuple[Any, ...]]] = {}
        for entry in found.entries:
            traces.setdefault(entry[1], []).append(entry)
        return [self._pack(trace_id, rows) for trace_id, rows in traces.items()], found.cursor

    def _pack(self, trace_id: int, rows: list[tuple[Any, ...]]) -> SamplePart:
        _, _, span_ids, times, walls, cpus, threads, nodes = zip(*rows, strict=True)
        idents = {ident: number for number, ident in enumerate(dict.fromkeys(threads))}
        numbers: dict[_Node, int] = {}
        frames: dict[Frame, int] = {}
        parents, lines = array("i"), array("I")
        for node in dict.fromkeys(nodes):
            for step in node.path():
                if step not in numbers:
                    numbers[step] = len(parents)
                    parents.append(-1 if step.parent is None else numbers[step.parent])
                    lines.append(frames.setdefault(step.frame, len(frames)))
        columns = [
            array("Q", span_ids),
            array("q", times),
            array("I", walls),
            array("I", cpus),
            array("I", map(idents.__getitem__, threads)),
            array("I", map(numbers.__getitem__, nodes)),
        ]
        if sys.byteorder == "big":
            for column in (*columns, parents, lines):
                column.byteswap()
        name = self._recorder.thread_name
        return SamplePart(
            trace_id.to_bytes(16, "big"),
            [column.tobytes() for column in columns],
            [(ident, name(ident)) for ident in idents],
            parents.tobytes(),
            lines.tobytes(),
            list(frames),
        )

    # -- the sampler's thread ------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Start the thread if there is none. On any thread."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._clocks.clear()
                # Held until the thread is to end: waiting for a lock takes a tenth of what waiting for an event does.
                self._stop = threading.Lock()
                self._stop.acquire()
                self._thread = threading.Thread(target=self._run, args=(self._stop,), name="znb-sampler", daemon=True)
                self._thread.start()

    def _run(self, stop: threading.Lock) -> None:
        recorder = self._recorder
        last = time.perf_counter_ns()
        self._read_clocks()
        idle_since = last
        while True:
            if stop.acquire(timeout=max(1, recorder.interval_ms) / 1000):
                return
            now = time.perf_counter_ns()
            if recorder.live:
                idle_since = now
            elif now - idle_since > self._linger * 1e9 and self._retire():
                return
            began = time.thread_time_ns()
            try:
                if recorder.live:
                    self._look(now, min(now - last, WALL_MAX_NS))
                    if self.on_round is not None:
                        self.on_round()
            except Exception:
                logger.exception("a sample could not be taken")
            self._cost_ns += time.thread_time_ns() - began
            last = now

    def _retire(self) -> bool:
        """End the thread unless something has come up; return whether it ends."""
        with self._lock:
            if self._recorder.live:
                return False
            self._thread = None
            return True

    def _look(self, now: int, wall: int) -> None:
        """Take one sample of each thread and each waiting coroutine that is inside a watched span."""
        self._rounds += 1
        self._stacks.shrink()
        recorder = self._recorder
        active: dict[int, Parent] = {
            ident: parent
            for ident, parent in list(recorder.inherited.items())
            if not isinstance(parent, OpenSpan) or parent.span_id in recorder.open
        }
        for span in list(recorder.open.values()):
            if span.entered:
                active[span.thread] = span
        tasks = sys.modules.get("asyncio.tasks")
        if tasks is not None:
            self._look_at_tasks(tasks, active, now, wall)
        frames = sys._current_frames()
        for ident, parent in active.items():
            frame = frames.get(ident)
            if not parent.live or frame is None:
                continue
            node = self._stacks.of_thread(frame)
            self._add(parent, now, wall, self._ran(ident, wall), ident, node)
        del frames

    def _look_at_tasks(self, tasks: Any, active: dict[int, Parent], now: int, wall: int) -> None:
        """Sample the tasks that wait, and make the running ones what is active on their threads."""
        idle: set[int] = set()
        for task in _all_tasks(tasks):
            if task.done():
                continue
            parent = _context_of(task).get(ACTIVE)
            loop = task.get_loop()
            ident = getattr(loop, "_thread_id", None)
            if tasks.current_task(loop) is task:
                idle.discard(ident or 0)
                if ident is not None and parent is not None:
                    active[ident] = parent
            elif parent is not None and parent.live:
                if ident is not None and tasks.current_task(loop) is None:
                    idle.add(ident)
                chain = _await_chain(task.get_coro())
                self._add(parent, now, wall, 0, ident or 0, self._stacks.of_chain(chain))
        for ident in idle:  # its loop waits for the tasks, which have been sampled themselves
            active.pop(ident, None)

    def _add(self, parent: Parent, now: int, wall: int, cpu: int, ident: int, node: _Node | None) -> None:
        if node is not None:
            self._ring.add(parent.trace_id, parent.span_id, now, wall, cpu, ident, node)

    # -- clocks --------------------------------------------------------------------------------------------

    def _read_clocks(self) -> None:
        for thread in threading.enumerate():
            if thread.ident is not None:
                self._ran(thread.ident, 0)

    def _ran(self, ident: int, wall: int) -> int:
        """Return nanoseconds of CPU time that a thread has taken since the last look, at most ``wall``.

        Where the system has no such clock, a thread counts as running all the time.
        """
        clock, before = self._clocks.get(ident, (0, 0))
        if not clock:
            thread = threading._active.get(ident)  # type: ignore[attr-defined]
            # In a forked process the main thread still has its parent's number; its own is that of the process.
            native = os.getpid() if thread is threading.main_thread() else getattr(thread, "native_id", None)
            self._recorder.thread_name(ident)  # while it is known
            if native is None or not HAS_THREAD_CLOCKS:
                return wall
            # What pthread_getcpuclockid(3) returns, without its undefined behaviour for a thread that has ended.
            clock = (~native << 3) | 6
        try:
            used = time.clock_gettime_ns(clock)
        except OSError:  # it has ended
            self._clocks.pop(ident, None)
            return 0
        self._clocks[ident] = (clock, used)
        return min(used - before, wall)


#: Whether the clock of a thread can be read by its number.
HAS_THREAD_CLOCKS: Final = sys.platform == "linux"


class _Node:
    """A line below another: one stack, as the chain of its parents."""

    __slots__ = ("children", "frame", "parent")

    def __init__(self, parent: _Node | None, frame: Frame) -> None:
        self.parent = parent
        self.frame = frame
        self.children: dict[tuple[int, int], _Node] = {}

    def path(self) -> list[_Node]:
        """Return the nodes from the outermost to this one."""
        found: list[_Node] = []
        node: _Node | None = self
        while node is not None:
            found.append(node)
            node = node.parent
        return found[::-1]


class _Stacks:
    """The stacks seen so far, as a tree. A code object is known by its address, so it is kept alive here."""

    def __init__(self) -> None:
        self._clear()

    def __len__(self) -> int:
        return self._count

    def _clear(self) -> None:
        self._roots: dict[tuple[int, int], _Node] = {}
        self._lines: dict[tuple[int, int], Frame] = {}
        self._kept: dict[int, CodeType] = {}
        self._count = 0

    def shrink(self) -> None:
        """Forget everything if it has become too much; samples that were taken keep what they need."""
        if self._count > NODES_MAX:
            self._clear()

    def of_thread(self, frame: FrameType) -> _Node | None:
        """Return the stack of a running thread."""
        frames = [frame]
        outer = frame.f_back
        while outer is not None and len(frames) < DEPTH_MAX:
            frames.append(outer)
            outer = outer.f_back
        frames.reverse()
        return self.of_chain(frames)

    def of_chain(self, frames: list[FrameType]) -> _Node | None:
        """Return the stack that these frames are, outermost first."""
        children, node = self._roots, None
        for frame in frames:
            code = frame.f_code
            key = (id(code), frame.f_lasti)
            found = children.get(key)
            if found is None:
                self._kept[key[0]] = code
                # Several offsets of one line are one node.
                line = self._line(code, frame)
                found = next((child for child in children.values() if child.frame is line), None) or _Node(node, line)
                children[key] = found
                self._count += 1
            node, children = found, found.children
        return node

    def _line(self, code: CodeType, frame: FrameType) -> Frame:
        number = frame.f_lineno or code.co_firstlineno
        line = self._lines.get((id(code), number))
        if line is None:
            made = Frame(code.co_qualname, code.co_filename, number, code.co_firstlineno, origin_of(code.co_filename))
            line = self._lines[id(code), number] = made
        return line


def _all_tasks(tasks: Any) -> list[Any]:
    """Return tasks of every event loop, up to a number."""
    known = getattr(tasks, "_scheduled_tasks", None)  # Python 3.12 and later
    if known is None:
        known = tasks._all_tasks
    for _ in range(10):
        try:
            return [
                *itertools.islice(known, TASKS_MAX),
                *itertools.islice(getattr(tasks, "_eager_tasks", ()), TASKS_MAX),
            ]
        except RuntimeError:  # another thread has made or ended one meanwhile
            continue
    return []


def _context_of(task: Any) -> contextvars.Context | dict[Any, Any]:
    """Return the context that a task runs in."""
    if hasattr(task, "get_context"):  # Python 3.12 and later
        return task.get_context()  # type: ignore[no-any-return]
    return next((found for found in gc.get_referents(task) if type(found) is contextvars.Context), {})


def _await_chain(awaited: Any) -> list[FrameType]:
    """Return the frames of a suspended coroutine and of what it awaits, outermost first."""
    chain: list[FrameType] = []
    while awaited is not None and len(chain) < DEPTH_MAX:
        for prefix in ("cr", "gi", "ag"):
            frame = getattr(awaited, f"{prefix}_frame", None)
            if frame is not None:
                chain.append(frame)
                awaited = getattr(awaited, f"{prefix}_await" if prefix != "gi" else "gi_yieldfrom", None)
                break
        else:
            return chain
    return chain


_LIBRARIES: Final = tuple(
    str(Path(path)) + "/"
    for name, path in sysconfig.get_paths().items()
    if name in {"stdlib", "platstdlib", "purelib", "platlib"}
)
_ZNB: Final = str(Path(znb.__file__).parent) + "/"


def origin_of(file: str) -> str:
    """Return whose code a file is: ``"znb"``, ``"library"`` or ``"user"``."""
    if file.startswith(_ZNB):
        return "znb"
    if file.startswith((*_LIBRARIES, "<frozen ")):
        return "library"
    return "user"


#: The sampler of this process, as ``RECORDER`` is its recorder.
SAMPLER: Final = Sampler(RECORDER)
