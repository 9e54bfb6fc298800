"""``submit``: one future for each job; jobs of the same function travel together.

Invariants: arguments are encoded in the caller's thread, at once, so a job computes with the values of the moment it
was submitted; jobs of one function start in the order submitted. Any thread may submit; the reactor's thread numbers
the jobs and completes the futures.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any

from znb.errors import SerializationError, ZnbError
from znb.executor.client import JobClient
from znb.executor.frames import CALL_BOTH
from znb.executor.futures import Batch, Future
from znb.executor.groups import Group, Part, Show
from znb.serialize import Payload
from znb.serialize.settled import copied
from znb.spans import RECORDER, Brief, encode_context, mark
from znb.spans.recorder import Parent
from znb.transport import Reactor

__all__ = ["Submits"]

#: Functions whose groups are kept open for further submits; the oldest is closed beyond that.
OPEN_GROUPS = 64


class Stream:
    """The submits of one function: hears of its jobs (``groups.Receiver``).

    Attributes:
        group: The jobs as the client knows them.
        futures: Those that are not done, by job. On the reactor's thread.
    """

    def __init__(self, function: Payload, label: str, show: Show, targets: tuple[str, ...] | None) -> None:
        self.group = Group(function, CALL_BOTH, label, self, show=show, targets=targets)
        self.futures: dict[int, Future] = {}
        self.ended = False

    def sent(self, start: int, stop: int, worker: str) -> None:
        """Mark futures as running."""
        for index in range(start, stop):
            future = self.futures.get(index)
            if future is not None:
                future.sent(worker)

    def deliver(self, batch: Batch, count: int, skip: Collection[int], worker: str, _size_bytes: int) -> None:
        """Complete futures."""
        for index in range(batch.first, batch.first + count):
            if index not in skip:
                future = self.futures.pop(index, None)
                if future is not None:
                    future.deliver(batch, worker)

    def event(self, index: int, name: str, **attributes: Any) -> None:
        """Note it on the job's span, or else on the span that asked for it."""
        future = self.futures.get(index)
        if future is not None:
            future.note(name, **attributes)

    def parent(self, index: int) -> Brief | Parent | None:
        """Return the job's submit, if that is a span, or else who has submitted it."""
        future = self.futures.get(index)
        return None if future is None else future.span or future.caller

    def fail(self, index: int, error: BaseException) -> None:
        """Complete a future with a failure."""
        future = self.futures.pop(index, None)
        if future is not None:
            future.fail(error)

    def pull(self, count: int) -> None:
        """Do nothing: submits are fed as they come."""

    def finished(self) -> None:
        """Note the end."""
        self.ended = True

    def close_feed(self, *, cancel: bool) -> None:
        """Cancel futures whose jobs no worker has, if asked to."""
        for future in list(self.futures.values()) if cancel else ():
            if not future.running():
                future.cancel()

    def drain(self) -> bool:
        """Return whether nobody has to take results: here they are always taken."""
        return True

    def wait_finished(self) -> None:
        """Wait for all futures."""
        for future in list(self.futures.values()):
            future.wait_done()

    def abort(self, error: ZnbError) -> None:
        """Complete all futures with a failure."""
        self.ended = True
        futures, self.futures = self.futures, {}
        for future in futures.values():
            future.fail(error)


class Submits:
    """Every submit of one client (``futures.Owner``).

    Args:
        client: Runs the jobs.
        reactor: The I/O thread.
        find_trace: Returns the trace of an id.
    """

    def __init__(self, client: JobClient, reactor: Reactor, find_trace: Callable[[int], Any]) -> None:
        self.find_trace = find_trace
        self._client = client
        self._reactor = reactor
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[Any, Stream] = collections.OrderedDict()
        self._streams: list[Stream] = []
        self._incoming: list[tuple[Stream, Future, Part]] = []
        self._flushing = False
        self._refusal = ""

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        targets: tuple[str, ...] | None = None,
    ) -> Future:
        """Have ``function(*args, **kwargs)`` run on a worker.

        Raises:
            SerializationError: Function or arguments cannot travel.
            RuntimeError: The executor has been shut down.
        """
        self._reactor.check_pid()
        caller = RECORDER.caller()
        label = getattr(function, "__qualname__", None) or type(function).__qualname__
        span = Brief(caller, label, "submit") if caller.live else None
        try:
            encoded = self._client.codec.encode(function)
            part = self._encode_arguments(args, kwargs, caller)
            self.check_open()
        except BaseException:
            if span is not None:
                span.end("error")
            raise
        if span is not None:
            part.span = span.span_id
            mark(span, "encoded_ns")
        RECORDER.touch()
        future: Future | None = None
        try:
            with self._lock:
                self.check_open()
                stream, over = self._stream(encoded, label, targets)
                future = Future(self, stream.group, label, caller, span)
                self._incoming.append((stream, future, part))
                if not self._flushing:
                    self._flushing = True
                    self._reactor.call_soon(self._flush)
            if over is not None:
                self._close((over,))
        except KeyboardInterrupt:
            if future is not None:  # nobody will ever hold it
                future.cancel()
            self._reactor.call_soon(self._flush)  # it may not have been asked for
            raise
        return future

    def _encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any], caller: Parent) -> Part:
        codec = self._client.codec
        try:
            # A copy, as the caller may change an array at once.
            return Part(copied(codec.encode([(args, kwargs)])), 1, encode_context(caller))
        except SerializationError as error:
            failure = error
        codec.encode((args, kwargs), labels=("args", "kwargs"))  # raises again, and says where it sits
        raise failure

    def check_open(self) -> None:
        """Raise ``RuntimeError`` if no more jobs are taken."""
        if self._refusal:
            raise RuntimeError(self._refusal)

    def refuse(self, reason: str) -> None:
        """Take no more jobs, and let those there are run to their end."""
        with self._lock:
            self._refusal = self._refusal or reason
            streams = list(self._open.values())
            self._open.clear()
        self._close(streams)

    def shutdown(self, *, cancel: bool) -> None:
        """Take no more jobs, and ``cancel`` those that no worker has begun, if asked to."""
        self.refuse("cannot schedule new futures after shutdown")
        for receiver in self._client.receivers():
            receiver.close_feed(cancel=cancel)

    def wait_finished(self) -> None:
        """Wait until every job, of maps too, has ended."""
        receivers = self._client.receivers()
        waiting = receivers
        while waiting:  # together: a worker that waits until one map's results are taken runs nothing of another
            waiting = [receiver for receiver in waiting if not receiver.drain()]
        for receiver in receivers:
            receiver.wait_finished()

    def pending(self) -> list[Future]:
        """Return the futures that are not done."""
        with self._lock:
            waiting = [future for _, future, _ in self._incoming]
            streams = list(self._streams)
        waiting += [future for stream in streams for future in list(stream.futures.values())]
        return [future for future in waiting if not future.done()]

    # -- for futures (any thread) --------------------------------------------------------------------------

    def cancel_job(self, future: Future) -> None:
        """Stop a job, wherever it is."""
        self._reactor.call_soon(self._cancel, future)

    def cancel_all_of(self, thread: int) -> None:
        """Stop every job that a thread has submitted."""
        for future in self.pending():
            if future.thread == thread:
                future.cancel()

    def run_callbacks(self, run: Callable[[], None]) -> None:
        """Run done-callbacks on the delivery thread."""
        self._client.later(run)

    def explain_wait(self, future: Future) -> str:
        """Say why a job makes no progress; empty if it does."""
        return self._client.explain(future.group)

    def notify(self, text: str) -> None:
        """Show a line to the user."""
        self._client.notify(text)

    def folder(self) -> str:
        """Return the folder where the cluster's sockets are."""
        return self._client.folder()

    # -- how -----------------------------------------------------------------------------------------------

    def _stream(self, function: Payload, label: str, targets: tuple[str, ...] | None) -> tuple[Stream, Stream | None]:
        """Return the open stream of a function, or a new one; and one that is to be closed. Under the lock."""
        show = self._client.view()
        key = (function.body, function.definitions, show, targets)
        stream = self._open.get(key) if not function.buffers else None
        if stream is not None:
            self._open.move_to_end(key)
            return stream, None
        stream = Stream(function, label, show, targets)
        self._streams = [*(known for known in self._streams if not known.ended), stream]
        if function.buffers:
            return stream, stream  # large data is not held for jobs that may never come
        self._open[key] = stream
        return stream, self._open.popitem(last=False)[1] if len(self._open) > OPEN_GROUPS else None

    def _close(self, streams: Iterable[Stream]) -> None:
        """Say that no more jobs come: after ``_flush``, which the reactor's thread was asked for with the last one."""
        for stream in streams:
            self._client.feed(stream.group, (), last=True)

    def _flush(self) -> None:
        """Give what was submitted since the last time to the scheduler. On the reactor's thread."""
        with self._lock:
            incoming, self._incoming = self._incoming, []
            self._flushing = False
        for stream, future, part in incoming:
            index = self._client.feed_nowait(stream.group, part)
            if index is None:
                future.fail(ZnbError("the cluster was closed before the job could start"))
                continue
            future.index = index
            stream.futures[index] = future
            if future.cancelled():
                self._cancel(future)
        self._client.tick_if_idle()

    def _cancel(self, future: Future) -> None:
        stream = future.group.receiver
        if future.index >= 0 and isinstance(stream, Stream):
            stream.futures.pop(future.index, None)
            self._client.cancel(future.group, future.index)
