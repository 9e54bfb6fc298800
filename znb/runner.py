"""The main thread of a worker: it runs cells and jobs one at a time, and can be interrupted.

Invariants: a task's ``finish`` is called exactly once, outside the region that an interrupt can hit, so
that an answer is never cut in half; an interrupt reaches the task it was meant for or nobody. Tasks of one
owner run in the order they came; of several owners each gets the same time, so that notebooks share a worker
(start-time fair queuing, as in ``znb.schedule.turns``). The main thread owns the queues; ``submit``, ``interrupt`` and
``snapshot`` are for any thread.
"""

from __future__ import annotations

import collections
import itertools
import queue
import signal
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

__all__ = ["Failure", "Runner", "Running", "Success", "Task"]

#: Seconds between two looks whether an interrupt has been noticed; the last one is repeated.
INSIST_AFTER = (0.01, 0.03, 0.1, 0.3)
#: Seconds of difference in the time that owners have had up to which they simply take turns.
SLACK = 0.005
#: Owners whose time is remembered.
OWNERS = 64


class Success(NamedTuple):
    """The task returned."""

    value: Any


class Failure(NamedTuple):
    """The task raised; ``error`` still carries its traceback."""

    error: BaseException


class Running(NamedTuple):
    """What the main thread is doing.

    Attributes:
        label: The cell or function.
        owner: Whose it is.
        since: Monotonic start time.
        queued: Tasks that wait behind it.
    """

    label: str
    owner: Hashable
    since: float
    queued: int


class Task:
    """One piece of work for the main thread.

    Args:
        execute: Runs user code and returns its value; may be interrupted anywhere.
        finish: Takes the outcome; never interrupted.
        owner: Who asked; owners take turns.
        label: What to call it when somebody asks what runs.
        guard: Whether an interrupt may hit at this moment; ``None`` for always. Asked on the main thread.
        aim: Points an interrupt that names no part of the task at what runs now; ``None`` where there is nothing to
            point at.
    """

    __slots__ = ("aim", "execute", "finish", "guard", "interrupting", "label", "owner", "started")

    def __init__(
        self,
        execute: Callable[[], Any],
        finish: Callable[[Success | Failure], object],
        *,
        owner: Hashable,
        label: str,
        guard: Callable[[], bool] | None = None,
        aim: Callable[[], object] | None = None,
    ) -> None:
        self.execute = execute
        self.finish = finish
        self.owner = owner
        self.label = label
        self.guard = guard
        self.aim = aim
        self.interrupting = False
        self.started = 0.0


class Runner:
    """Runs tasks on the thread that calls ``run``, which must be the process's main thread.

    Args:
        find_children: Returns the child processes that an interrupt should hit as well.
        interrupt_children: Interrupts them; some may have ended.
    """

    def __init__(
        self,
        find_children: Callable[[], list[Any]] = list,
        interrupt_children: Callable[[list[Any]], object] = lambda _children: None,
    ) -> None:
        self._find_children = find_children
        self._interrupt_children = interrupt_children
        self._inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._waiting: dict[Hashable, collections.deque[Task]] = {}
        self._turns: collections.deque[Hashable] = collections.deque()
        self._used: dict[Hashable, float] = {}
        self._present = 0.0
        self._current: Task | None = None
        self._stopping = False
        self._thread = threading.main_thread()
        self._turn_of: Hashable = None
        #: Told on the main thread whose turn begins; ``None`` before it waits for work.
        self.on_turn: Callable[[Hashable], object] | None = None

    # -- any thread ----------------------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Queue a task."""
        self._inbox.put(task)

    def interrupt(self, task: Task) -> None:
        """Raise ``KeyboardInterrupt`` in a running task; a queued one ends with it before it starts.

        The children that it waits for are interrupted as well, as a terminal does. They are found before the task hears
        of it, so that what it starts then to clean up is left alone, and told after it, so that it hears of it first.
        """
        task.interrupting = True
        if self._current is task:
            children = self._find_children() if task.guard is None or task.guard() else []
            self._signal()
            if children:
                self._interrupt_children(children)
            threading.Thread(target=self._insist, args=(task,), name="znb-interrupt", daemon=True).start()

    def _signal(self) -> None:
        signal.pthread_kill(self._thread.ident or 0, signal.SIGINT)

    def _insist(self, task: Task) -> None:
        """Send the signal again until its handler has run.

        The interpreter may take note of a signal while the main thread waits for its lock, and then go on into a
        system call without looking: ``time.sleep(600)`` would sleep on. Another signal ends the call.
        """
        for pause in itertools.chain(INSIST_AFTER, itertools.repeat(INSIST_AFTER[-1])):
            time.sleep(pause)
            if not task.interrupting or self._current is not task:
                return
            self._signal()

    def interrupt_current(self) -> None:
        """Raise ``KeyboardInterrupt`` in whatever runs."""
        current = self._current
        if current is not None:
            if current.aim is not None:
                current.aim()
            self.interrupt(current)

    def stop(self) -> None:
        """Make ``run`` return after the current task, which is interrupted."""
        self._stopping = True
        current = self._current
        if current is not None:
            self.interrupt(current)  # not aimed: a job that it hit would fail, instead of running elsewhere
        self._inbox.put(None)

    def snapshot(self) -> Running | None:
        """Return what runs now, or ``None`` when idle."""
        current = self._current
        if current is None:
            return None
        queued = self._inbox.qsize() + sum(len(tasks) for tasks in list(self._waiting.values()))
        return Running(current.label, current.owner, current.started, queued)

    # -- the main thread -----------------------------------------------------------------------------------

    def run(self, idle: Callable[[Callable[[float | None], Task | None]], Task | None] | None = None) -> None:
        """Run tasks until ``stop`` is called."""
        previous = signal.signal(signal.SIGINT, self._on_sigint)
        try:
            while not self._stopping:
                task = self._next(idle)
                if task is not None:
                    self._run_one(task)
                del task  # and with it all that it refers to, before the wait for the next
        finally:
            signal.signal(signal.SIGINT, previous)

    def listen(self) -> None:
        """See to it that interrupts arrive: user code may have set a handler of its own, or blocked the signal."""
        if signal.getsignal(signal.SIGINT) != self._on_sigint:
            signal.signal(signal.SIGINT, self._on_sigint)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))

    def _on_sigint(self, _signum: int, _frame: object) -> None:
        current = self._current
        if current is not None and current.interrupting:
            current.interrupting = False
            if current.guard is None or current.guard():
                raise KeyboardInterrupt

    def _next(self, idle: Callable[..., Task | None] | None) -> Task | None:
        """Return the task whose owner's turn it is, waiting for one."""
        while True:
            try:
                arrived = self._inbox.get_nowait()
            except queue.Empty:
                break
            self._sort_in(arrived)
        if not self._turns:
            self._note_turn(None)
            self._sort_in(self._inbox.get() if idle is None else idle(self._wait))
            return None
        owner = self._next_owner()
        self._note_turn(owner)
        tasks = self._waiting[owner]
        task = tasks.popleft()
        if tasks:
            self._turns.append(owner)
        else:
            del self._waiting[owner]
        return task

    def _next_owner(self) -> Hashable:
        """Return whose turn it is, out of the line: the first of those who have had the least time."""
        turns, used = self._turns, self._used
        self._present = min(used[owner] for owner in turns)
        while used[turns[0]] > self._present + SLACK:
            turns.rotate(-1)
        return turns.popleft()

    def _note_turn(self, owner: Hashable) -> None:
        if owner != self._turn_of:
            self._turn_of = owner
            if self.on_turn is not None:
                self.on_turn(owner)

    def _wait(self, timeout: float | None) -> Task | None:
        try:
            return self._inbox.get(timeout=timeout)
        except queue.Empty:
            return None

    def _sort_in(self, task: Task | None) -> None:
        if task is None:
            return
        if task.owner not in self._waiting:
            self._waiting[task.owner] = collections.deque()
            self._turns.append(task.owner)
            # One that comes back is not owed the past; forgotten are those who would begin at the present anyway.
            self._used[task.owner] = max(self._used.get(task.owner, 0.0), self._present)
            if len(self._used) > OWNERS:
                self._used = {owner: time for owner, time in self._used.items() if time > self._present} | {
                    owner: self._used[owner] for owner in self._turns
                }
        self._waiting[task.owner].append(task)

    def _run_one(self, task: Task) -> None:
        outcome: Success | Failure = Failure(KeyboardInterrupt())
        task.started = time.monotonic()
        self.listen()
        try:
            try:
                self._current = task
                if task.interrupting and task.guard is None:  # asked for before it began
                    task.interrupting = False
                    raise KeyboardInterrupt
                outcome = Success(task.execute())
            except BaseException as error:  # noqa: BLE001 - whatever user code raises is its outcome
                outcome = Failure(error)
            self._current = None
        except KeyboardInterrupt:  # hit between the end of the code and the end of the region
            self._current = None
        self._used[task.owner] = self._used.get(task.owner, 0.0) + time.monotonic() - task.started
        task.finish(outcome)
