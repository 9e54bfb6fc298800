"""What a worker holds of its clients' jobs: functions, clients, and chunks with the outcomes not yet sent.

Invariants: a job is given back or begun, never both; outcomes leave in order, each once. The I/O thread makes these
and takes chunks apart (``give_back``); the main thread claims jobs and runs them; a helper may take outcomes of a
chunk that hangs in a job (``znb.executor.flusher``). ``Work.lock`` guards what is claimed, ``Work.sending`` what is
sent.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import queue
import threading
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import zmq

from znb.executor import frames
from znb.executor.callers import Callers
from znb.executor.frames import CALL_BOTH, CALL_STAR
from znb.executor.results import ResultsStream
from znb.flow import CreditGate
from znb.runner import Task
from znb.serialize import Codec
from znb.serialize.settled import TRUST_AFTER, is_settled
from znb.shipping import unpack
from znb.spans import RECORDER, OpenSpan, current
from znb.spans.recorder import Parent, set_current
from znb.transport import Timer

__all__ = ["Function", "Outcomes", "Peer", "Work", "bases_of", "exit_status"]

#: Seconds of work for which jobs are claimed at a time: what a flush may be late by, and a revocation if jobs are
#: short.
CLAIM_TIME = 0.001
#: Jobs claimed at a time, at most.
CLAIM_MAX = 4096


#: Types of functions that are called from C without an interpreter's frame.
_NATIVE = (types.BuiltinFunctionType, type)


class Function:
    """A function that a client has defined, decoded at its first job.

    Attributes:
        settled: Results so far that nobody here could change any more (``znb.serialize.settled``); -1 once one could
            be, as it may be when the next job runs.
    """

    __slots__ = ("define", "frames", "loaded", "settled")

    def __init__(self, define: frames.Define, parts: list[Any]) -> None:
        self.define = define
        self.frames = parts
        self.loaded: Callable[[Any], Any] | None = None
        self.settled = 0

    def load(self, codec: Codec) -> Callable[[Any], Any]:
        """Return a function of one item. On the main thread: it runs code.

        Raises:
            MissingDefinitions: The worker has lost some.
        """
        if self.loaded is None:
            function = codec.decode(self.define.body, unpack(self.define.cargo, self.frames, codec))
            if inspect.iscoroutinefunction(function):
                function = functools.partial(_run_coroutine, function)
            if self.define.call == CALL_STAR:
                function = functools.partial(_call_star, function)
            elif self.define.call == CALL_BOTH:
                function = functools.partial(_call_both, function)
            self.loaded = function
            self.frames = []
        return self.loaded

    @property
    def trusted(self) -> bool:
        """Whether several jobs may run before the results of the first are encoded."""
        return self.settled >= TRUST_AFTER

    def note(self, results: list[Any], *, settled: bool) -> None:
        """Take note of whether results can still change, unless one could before.

        Args:
            results: They; nothing of ours refers to them besides.
            settled: Whether they are known not to.
        """
        if self.settled >= 0:
            settled = settled or is_settled(list(results), others=True)
            self.settled = self.settled + len(results) if settled else -1


def _run_coroutine(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return asyncio.run(function(*args, **kwargs))


def _call_star(function: Callable[..., Any], item: tuple[Any, ...]) -> Any:
    return function(*item)


def _call_both(function: Callable[..., Any], item: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    return function(*item[0], **item[1])


class Peer:
    """One client of this worker: its sink, its functions, what it holds.

    Attributes:
        lock: Held while something is sent to its sink, or while that is closed.
        known: Definitions that its sink has been sent.
        supplied: An entry for each answer to ``Need``, or for the client's end.
        gate: Bytes of results that may be under way.
        print_gate: The same for what jobs print.
        told_busy: Whether it has been told that this worker runs somebody else's work.
        vanishing: Runs while its sink cannot be reached.
    """

    def __init__(self, hello: frames.Hello, sink: zmq.Socket[bytes] | ResultsStream) -> None:
        self.lock = threading.RLock()
        self.id = hello.client
        self.link = hello.link
        self.sink = sink
        self.gate = CreditGate(hello.credit)
        self.print_gate = CreditGate(hello.print_credit)
        self.known: set[bytes] = set()
        self.supplied: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.functions: dict[int, Function] = {}
        self.work: dict[int, Work] = {}
        self.told_busy = False
        self.vanishing: Timer | None = None


class Outcomes(NamedTuple):
    """Outcomes of consecutive jobs that are to be sent now.

    Attributes:
        first: The first job.
        values: A value for each, ``None`` where ``errors`` has an entry.
        errors: What was raised, by job.
        run_time: Seconds that they took.
    """

    first: int
    values: list[Any]
    errors: dict[int, BaseException]
    run_time: float


class Work:
    """One chunk, from its arrival to its last outcome.

    Jobs are claimed a batch at a time. ``batch`` is the first job of the present one, ``items`` what is left of its
    items (the I/O thread may take away from the end), and ``values`` grows by one as each ends, which tells what runs
    now.

    Attributes:
        next: The first job not claimed by the main thread.
        stop: One past the last job that is to run here.
        inside: Whether the main thread is where an interrupt may hit.
        stopping: The job that is to be interrupted; -1 for none.
        cancelled: Jobs that were cancelled after they had begun.
        lock: Held to claim jobs and to give them back.
        sending: Held from taking outcomes to having sent them.
    """

    __slots__ = (
        "_callers", "_claim", "_pending", "_since", "_span_now", "_taken", "_unsent", "arrived_ns", "batch",
        "cancelled", "chunk", "errors", "frames", "function", "holes", "inside", "items", "lock", "next", "peer",
        "sending", "stop", "stopping", "task", "values",
    )  # fmt: skip

    def __init__(self, peer: Peer, function: Function, chunk: frames.Chunk, parts: list[Any]) -> None:
        self.peer = peer
        self.function = function
        self.chunk = chunk
        self.frames = parts
        self.lock = threading.Lock()
        self.sending = threading.Lock()
        self.next = chunk.first
        self.stop = chunk.first + sum(segment.stop - segment.start for segment in chunk.segments)
        self.batch = chunk.first
        self.items: list[Any] = []
        self.values: list[Any] = []
        self.errors: dict[int, BaseException] = {}
        self.holes: set[int] = set()
        self.inside = False
        self.stopping = -1
        self.cancelled: set[int] = set()
        self.task: Task | None = None
        self._claim = 1
        self.arrived_ns = time.perf_counter_ns()
        self._callers = Callers(chunk.segments)
        self._span_now: OpenSpan | None = None
        self._pending: list[Any] = []
        self._taken = 0
        self._unsent = chunk.first
        self._since = 0.0

    @property
    def running(self) -> int:
        """The job that runs now, or is the next to."""
        return self.batch + len(self.values)

    def mark(self) -> int:
        """Return the job that runs now, or else the last that did: what is written now is its output."""
        running = self.batch + len(self.values)
        return running if running < self.next else max(self.next - 1, self.chunk.first)

    # -- the I/O thread ------------------------------------------------------------------------------------

    def give_back(self, start: int, stop: int) -> tuple[int, int]:
        """Take out what has not begun of jobs ``start`` up to ``stop``; return what was taken out.

        Nothing is ``(stop, stop)``; then job ``stop - 1`` has begun, or ended, or is the next.
        """
        with self.lock:
            self._unclaim(start)
            start, end = max(start, self.next), min(stop, self.stop)
            if start >= end:
                return (stop, stop)
            if end == self.stop:
                self.stop = start
            else:
                self.holes.update(range(start, end))
            return (start, end)

    def _unclaim(self, start: int) -> None:
        """Take back the claim of jobs from ``start`` on, as far as they have surely not begun."""
        keep = max(start - self.batch, len(self.values) + 1)
        if self.batch + keep >= self.next:
            return
        del self.items[keep:]
        if len(self.values) < keep:  # the job before the cut has not ended, so the one behind it has not begun
            self.next = self.batch + keep

    def waiting(self) -> int:
        """Return how many jobs have not begun and may."""
        after = max(self.next, self.running + 1)
        return max(0, self.stop - after - sum(hole >= after for hole in list(self.holes)))

    def stop_job(self, index: int) -> bool:
        """Note that a job is to be interrupted if it is the one that runs; return whether it is."""
        with self.lock:
            if not self.running == index < self.next:
                return False
            self.stopping = index
            return True

    def stop_running(self) -> bool:
        """Note that the job that runs is to be interrupted, whichever it is; return whether one does."""
        return self.stop_job(self.running)

    # -- the main thread -----------------------------------------------------------------------------------

    def may_stop(self) -> bool:
        """Whether an interrupt that comes now hits the job it was meant for."""
        return self.inside and self.stopping == self.running < self.next

    def claim(self, items: list[Any], *, single: bool) -> bool:
        """Begin some more jobs, of a chunk with these items; return whether there are any. Holding ``sending``."""
        with self.lock:
            begin = self.next
            while begin in self.holes:
                begin += 1
            end = min(begin + (1 if single else self._claim), self.stop)
            if self.holes:
                end = min(min((hole for hole in self.holes if hole >= begin), default=end), end)
            first = self.chunk.first
            self.batch = begin
            self.values.clear()
            self.next = end  # last, for ``mark``
            self.items = items[self.batch - first : end - first]
            return bool(self.items)

    def run_batch(self, function: Callable[[Any], Any]) -> None:
        """Run the jobs that were claimed, inside of a span each, or of one if they are short and nobody watches."""
        first = self.batch - self.chunk.first
        together = self._callers.of_all(first, first + len(self.items))
        if len(self.items) > 1 and together is not None:
            with self._span(self.batch, together, jobs=len(self.items)) as span:
                self._run_batch(function)
                # A copy, as the flusher takes some out meanwhile; those are not counted.
                failed = [error for index, error in dict(self.errors).items() if index >= self.batch]
                if failed:
                    span.set(failed=len(failed))
                    span.error(failed[0])
            return

        def run_in_span(item: Any) -> Any:
            self._end_span()
            index = self.batch + len(self.values)
            self._span_now = span = self._span(index, self._callers.of(index - self.chunk.first))
            with span:
                return function(item)

        outer = current()
        self._run_batch(run_in_span)
        self._end_span()
        set_current(outer)

    def _end_span(self) -> None:
        """End the span of a job that was interrupted just outside of its ``with`` block, if there is one."""
        span, self._span_now = self._span_now, None
        if span is not None and span.span_id:
            span.leave()
            span.end()

    def _span(self, index: int, caller: Parent | None, **attributes: Any) -> OpenSpan:
        queued = time.perf_counter_ns() - self.arrived_ns
        more = {"index": index, "attempt": self.chunk.attempt, "queued_ns": queued, **attributes}
        # Started, so that it is among the open ones: who asks for a trace sees what runs.
        return OpenSpan(RECORDER, self.function.define.label, "job", more, caller).start()

    def _run_batch(self, function: Callable[[Any], Any]) -> None:
        values, items = self.values, self.items
        began = time.perf_counter()
        while len(values) < len(items):
            try:
                self._run_on(function)
            except KeyboardInterrupt:
                continue
        self.inside = False
        took = time.perf_counter() - began
        if took < CLAIM_TIME / 4:
            self._claim = min(CLAIM_MAX, self._claim * 4)
        else:
            self._claim = max(1, int(len(values) * CLAIM_TIME / took))
        with self.lock:
            self.next = self.batch + len(values)  # what was taken away from the end may be claimed again

    def forget(self, items: list[Any]) -> None:
        """Let go of what the jobs that have ended were given: a job may return it."""
        with self.lock:
            first = self.batch - self.chunk.first
            items[first : first + len(self.values)] = [None] * len(self.values)
            self.items = []

    def _run_on(self, function: Callable[[Any], Any]) -> None:
        """Run jobs until the batch has ended or one is interrupted."""
        try:
            self.inside = True
            if self.stopping == self.running:  # asked for before it began
                raise KeyboardInterrupt
            _run_jobs(function, self.items, self.values, self.errors, self.batch)
        except KeyboardInterrupt as error:  # it hit between two jobs, and was meant for the second
            self.errors[self.running] = error
            self.values.append(None)
        self.inside = False

    # -- whoever holds ``sending`` -------------------------------------------------------------------------

    def begin(self) -> Outcomes | None:
        """Prepare for the batch just claimed; return outcomes to be sent first, as jobs in between were given back."""
        before = None
        if self._pending and self._unsent + len(self._pending) != self.batch:
            before = self.take()
        if not self._pending:
            self._unsent, self._since = self.batch, time.perf_counter()
        return before

    def collect(self, after: float) -> Outcomes | None:
        """Add the outcomes of the batch that has ended; return them if the oldest began ``after`` seconds ago."""
        self._pending += self.values[self._taken :]
        self._taken = 0
        self.batch = self.next  # before the next line, for ``mark``
        self.values.clear()
        return self.take() if time.perf_counter() - self._since > after else None

    def take(self) -> Outcomes | None:
        """Take the outcomes that there are, also of a batch that runs; ``None`` if there is none."""
        done = len(self.values)
        values = self._pending + self.values[self._taken : done]
        if not values:
            return None
        self.values[self._taken : done] = [None] * (done - self._taken)  # their number tells what runs
        self._pending, self._taken = [], done
        first, end = self._unsent, self._unsent + len(values)
        errors = {index: self.errors.pop(index) for index in list(self.errors) if index < end}
        now = time.perf_counter()
        run_time, self._unsent, self._since = now - self._since, end, now
        return Outcomes(first, values, errors, run_time)


def _run_jobs(
    function: Callable[[Any], Any],
    items: list[Any],
    values: list[Any],
    errors: dict[int, BaseException],
    batch: int,
) -> None:
    """Call a function with each item behind those that have values; ``values`` grows by one as each job ends."""
    if isinstance(function, _NATIVE):
        _run_native(function, items, values, errors, batch)
        return
    append = values.append
    rest = iter(items)  # of the list itself, whose end may be taken away while we are at it
    rest.__setstate__(len(values))  # type: ignore[attr-defined]
    for item in rest:
        try:
            value = function(item)
        except BaseException as error:  # noqa: BLE001 - whatever it raises is the job's outcome
            errors[batch + len(values)] = error
            value = None
        append(value)


def _run_native(
    function: Callable[[Any], Any],
    items: list[Any],
    values: list[Any],
    errors: dict[int, BaseException],
    batch: int,
) -> None:
    """Do the same for a function of C, without a step of the interpreter for each job: half the time for ``abs``."""
    while len(values) < len(items):
        rest = iter(items)
        rest.__setstate__(len(values))  # type: ignore[attr-defined]
        try:
            values.extend(map(function, rest))
            if len(values) >= len(items):  # its end may have been taken away meanwhile
                return
            raise StopIteration  # it was the function's, and has ended the loop
        except BaseException as error:  # noqa: BLE001 - whatever it raises is the job's outcome
            errors[batch + len(values)] = error
            values.append(None)


def bases_of(error: BaseException) -> list[str]:
    """Return the qualified names of an exception's type and its bases, for ``retry_on``."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__]


def exit_status(errors: dict[int, BaseException]) -> int:
    """Return what a forked child exits with that has left its job: as a program would that ends so."""
    error = next(iter(errors.values()), None)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return int(error is not None)
