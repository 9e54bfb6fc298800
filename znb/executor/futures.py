"""The future of one job, and the batch of outcomes that it shares with its neighbours.

Outcomes arrive in batches, still encoded; a future decodes its batch when its value is first asked for, on the
thread that asks, because unpickling runs code. Done-callbacks run on a thread of their own, never on the I/O thread,
so that a callback may wait for other futures.

Invariants: a batch is decoded once; a decoded value is held by its future alone. Source: PEP 3148;
CPython's Lib/concurrent/futures/_base.py, whose ``Future`` this extends.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import threading
import time
from collections.abc import Callable, Collection, Generator
from concurrent.futures import _base as states
from typing import Any, Protocol

from znb import locks
from znb.errors import CallTimeout, NoWorkers
from znb.spans import Brief, OpenSpan, bound, mark
from znb.spans.plain import name_error
from znb.spans.recorder import Parent
from znb.waiters import Waiters

__all__ = ["Batch", "Future", "Owner"]

#: Seconds after which a wait that makes no progress says what it waits for (API.md §2).
NOTICE_AFTER = 1.0
#: States in which nothing more happens to a future.
DONE = frozenset((states.FINISHED, states.CANCELLED, states.CANCELLED_AND_NOTIFIED))
#: Seconds between two turns of an event loop in which a job is awaited: an interrupt is noticed that soon.
AWAIT_TICK = 0.25


class Owner(Protocol):
    """What a future needs of whoever runs its job."""

    def cancel_job(self, future: Future) -> None:
        """Stop a job, wherever it is."""

    def cancel_all_of(self, thread: int) -> None:
        """Stop every job that a thread has submitted."""

    def run_callbacks(self, run: Callable[[], None]) -> None:
        """Run done-callbacks, in the order given, off the I/O thread."""

    def explain_wait(self, future: Future) -> str:
        """Say why a job makes no progress; empty if it does."""

    def notify(self, text: str) -> None:
        """Show a line to the user."""

    def folder(self) -> str:
        """Return the folder where the cluster's sockets are."""

    @property
    def find_trace(self) -> Callable[[int], Any]:
        """Returns the trace of an id."""


class Batch:
    """The outcomes of consecutive jobs, decoded when the first of them is wanted.

    Args:
        first: The first job.
        decode: Returns their values, with a ``BaseException`` from ``errors`` where a job failed.
        failed: Those that failed, which is known before anything is decoded.
        plain: Whether the values are small and cannot change.
    """

    __slots__ = ("_decode", "_lock", "_values", "failed", "first", "plain")

    def __init__(
        self,
        first: int,
        decode: Callable[[], tuple[list[Any], dict[int, BaseException]]],
        failed: Collection[int] = (),
        *,
        plain: bool = False,
    ) -> None:
        self.first = first
        self.plain = plain
        self.failed = failed
        self._decode: Callable[[], tuple[list[Any], dict[int, BaseException]]] | None = decode
        self._values: tuple[list[Any], dict[int, BaseException]] = ([], {})
        self._lock = threading.Lock()

    def load(self) -> tuple[list[Any], dict[int, BaseException]]:
        """Return the values in order, and the errors by job."""
        with self._lock:
            if self._decode is not None:
                self._values = self._decode()
                self._decode = None
            return self._values

    def take(self, index: int) -> tuple[Any, BaseException | None]:
        """Return one job's value and error, and let go of them."""
        values, errors = self.load()
        with self._lock:
            value, values[index - self.first] = values[index - self.first], None
            return value, errors.pop(index, None)


class _Undecoded(Exception):
    """Stands for an exception that nobody has looked at yet."""


class Future(locks.Future[Any]):
    """A job's outcome: ``concurrent.futures.Future``, awaitable, whose ``cancel`` stops a running job too.

    Attributes:
        worker: Name of the worker that runs it, or ran it; empty as long as none has it.
        index: The job's number within its group; -1 until it has one.
        label: What the job is called in messages.
        group: The jobs that it runs with (``groups.Group``).
        thread: Who submitted it.
        caller: The span that it was submitted in.
        span: Its own; ``None`` if nobody watches.
    """

    def __init__(self, owner: Owner, group: Any, label: str, caller: Parent, span: Brief | None) -> None:
        super().__init__()
        self.caller = caller
        self.span = span
        self.worker = ""
        self.label = label
        self.group = group
        self._owner = owner
        self.index = -1
        self.thread = threading.get_ident()
        self._waiters = Waiters(owner, self.thread)
        self._batch: Batch | None = None

    def __repr__(self) -> str:
        where = f" on {self.worker}" if self.worker else ""
        said = f"{type(self).__name__} of {self.label}, state={states._STATE_TO_DESCRIPTION_MAP[self._state]}{where}"
        batch, error = self._batch, self._exception
        if batch is not None:  # its type is not known before somebody asks
            said += " raised an exception" if self.index in batch.failed else ""
        elif self._state == states.FINISHED:
            said += f" raised {type(error).__name__}" if error else f" returned {type(self._result).__name__}"
        return f"<{said}>"

    def __reduce__(self) -> str:
        raise TypeError(
            f"a future stays in the process that submitted its job: pass what it stands for, {self.label}'s result "
            f"(future.result()), or let a job call both functions"
        )

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait_async().__await__()

    def result(self, timeout: float | None = None) -> Any:
        """Return the job's value, waiting for it.

        Raises:
            Exception: What the job raised, of its own type.
            CallTimeout: Not done within ``timeout`` seconds (a ``TimeoutError``); the job goes on.
            CancelledError: The job was cancelled.
            WorkerLost: Workers died under it more often than ``retries`` allows.
            KeyboardInterrupt: The wait was interrupted; so is every job that this thread has submitted.
        """
        error = self.exception(timeout)
        if error is None:
            return super().result(0)
        try:
            raise error
        finally:
            del error, self  # no cycle through this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the job raised, or ``None``, waiting for the end.

        Raises:
            CallTimeout: Not done within ``timeout`` seconds (a ``TimeoutError``).
            CancelledError: The job was cancelled.
        """
        self.wait_done(timeout)
        if timeout is not None and self._state not in DONE:
            raise CallTimeout(self.label, timeout)
        batch = self._batch
        if batch is not None:
            self._settle(batch)
        return super().exception(0)

    def wait_done(self, timeout: float | None = None) -> None:
        """Wait until done, at most ``timeout`` seconds, saying why if nothing happens.

        Raises:
            KeyboardInterrupt: The wait was interrupted; so is every job that this thread has submitted.
            NoWorkers: This is a job itself, and all workers run jobs that wait for others, so that none can.
        """
        if self._state in DONE:
            return
        first = NOTICE_AFTER if timeout is None else min(timeout, NOTICE_AFTER)
        try:
            if self._wait_done(first):
                return
            if timeout is None or timeout > NOTICE_AFTER:
                if reason := self._owner.explain_wait(self):
                    self._owner.notify(f"{self.label} waits because {reason}")
                self._wait_done(None if timeout is None else timeout - NOTICE_AFTER)
        except (KeyboardInterrupt, NoWorkers):
            self._owner.cancel_all_of(self.thread)
            raise

    def awaited_folder(self) -> str:
        """Return the folder of its cluster."""
        return self._owner.folder()

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """As PEP 3148 has it; what it calls belongs to the present span."""
        super().add_done_callback(bound(fn))

    def cancel(self) -> bool:
        """Cancel the job: a queued one never runs, a running one is interrupted.

        Returns:
            Whether it is cancelled; ``False`` means that it was done already.
        """
        with self._condition:
            if self._state == states.FINISHED:
                return False
            if self._state not in {states.CANCELLED, states.CANCELLED_AND_NOTIFIED}:
                self._state = states.CANCELLED
                self._condition.notify_all()
                fresh = True
            else:
                fresh = False
        if fresh:
            self.note("cancel", **({"job": self.index} if self.index >= 0 else {}))
            self._end_span("cancelled")
            self.set_running_or_notify_cancel()
            self._invoke_callbacks()
            self._owner.cancel_job(self)
        return True

    def note(self, name: str, **attributes: Any) -> None:
        """Note something on the job's span, or else on the span that asked for it."""
        span = self.span or self.caller
        if isinstance(span, Brief | OpenSpan):
            span.event(name, **attributes)

    @property
    def trace(self) -> Any:
        """The trace (``znb.Trace``) that it was submitted in, as far as it has come."""
        return self._owner.find_trace(self.caller.trace_id)

    # -- the I/O thread ------------------------------------------------------------------------------------

    def sent(self, worker: str) -> None:
        """Note that the job is on its way to a worker."""
        self.worker = worker
        if self.span is not None:
            mark(self.span, "sent_ns")
        if self._state == states.PENDING:
            self.set_running_or_notify_cancel()

    def deliver(self, batch: Batch, worker: str) -> None:
        """Complete with an outcome that is still encoded."""
        self.worker = worker
        self._batch = batch
        try:
            if self.index in batch.failed:  # whoever waits for the first exception has to hear of it now
                self.set_exception(_Undecoded())
            else:
                self.set_result(None)
        except concurrent.futures.InvalidStateError:
            self._batch = None  # it was cancelled a moment ago
        else:
            self._end_span("error" if self.index in batch.failed else "ok")

    def fail(self, error: BaseException) -> None:
        """Complete with a failure that is not the job's own."""
        try:
            self.set_exception(error)
        except concurrent.futures.InvalidStateError:
            return  # it was cancelled a moment ago
        if self.span is not None:
            self.span.event("exception", **name_error(error))
        self._end_span("error")

    def _end_span(self, status: str) -> None:
        if self.span is not None:
            self.span.end(status)

    # -- how -----------------------------------------------------------------------------------------------

    def _settle(self, batch: Batch) -> None:
        failure: BaseException | None = None
        try:
            batch.load()  # may take long, so not under the lock
        except Exception as error:  # noqa: BLE001 - what decoding raises is what the caller gets
            error.add_note(f"raised while the result of {self.label} was decoded")
            failure = error
        with self._condition:
            if self._batch is batch:  # no other thread was quicker
                self._batch = None
                self._result, self._exception = (None, failure) if failure else batch.take(self.index)

    async def _wait_async(self) -> Any:
        """Wait in an event loop, saying why if nothing happens; whatever ends the wait early cancels the job."""
        wrapped = asyncio.wrap_future(self)
        notice_at = time.monotonic() + NOTICE_AFTER
        try:
            while not wrapped.done():
                # A loop that sleeps in its selector would notice the interrupt key only when the job is done.
                await asyncio.wait({wrapped}, timeout=AWAIT_TICK)
                if time.monotonic() >= notice_at and not wrapped.done():
                    notice_at = math.inf
                    if reason := await asyncio.to_thread(self._owner.explain_wait, self):
                        self._owner.notify(f"{self.label} waits because {reason}")
            return wrapped.result()
        except (asyncio.CancelledError, KeyboardInterrupt):
            self.cancel()
            raise

    def _wait_done(self, timeout: float | None) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: self._state in DONE, timeout)

    def _invoke_callbacks(self) -> None:
        if self._done_callbacks:  # type: ignore[attr-defined]
            self._owner.run_callbacks(super()._invoke_callbacks)  # type: ignore[misc]
