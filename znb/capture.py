"""Everything a process writes to standard output and error, in order, as ``Text`` records for whoever listens.

File descriptors 1 and 2 become pipes, so that C extensions and child processes are heard, and ``sys.stdout``
and ``sys.stderr`` become objects that write into one queue. Python's writes first take in what the pipes hold:
``os.write(1, b"a"); print("b")`` is seen as ``a``, ``b``. One thread, the pump, empties pipes and queue into the
``emit`` function of the current *route* (the running cell or chunk of jobs), or into a ring when nobody listens.
What a route's ``mark`` returns when something is written (the job that runs) is given to ``emit`` with it.

Invariants: only the pump calls ``emit``, so outputs of a process have one order; the queue is bounded, and a
thread that writes while it is full waits (signals interrupt the wait); what was written before a route closes
has been emitted when closing it returns; a forked child writes straight to the pipes and never waits for the
pump, which it does not have. ``_lock`` guards all state and is reentrant, because a garbage collection or a
signal handler may print while it is held.

Source: the order of writes and the batching follow ipykernel's ``iostream``; the credit that ``emit`` may wait
for is described in ``znb.flow``.
"""

from __future__ import annotations

import codecs
import collections
import logging
import os
import select
import sys
import threading
import time
import weakref
from collections.abc import Sized
from typing import Any, Final, Self

from znb.flow import GateClosed
from znb.locks import Condition
from znb.outputs import Output, Text
from znb.routes import BATCH_CHARS, Emit, Journal, Mark, MarkedEmit, Queue, Ring, Route, Segment, now, pieces
from znb.streams import FDS, PIPE_BYTES, CapturedStream, Originals, Stream, redirect

__all__ = ["Capture"]

#: Seconds that the first write of a quiet period waits for the rest of its line (API: shown within 100 ms).
FIRST_DELAY: Final = 0.005
#: Seconds between batches while output flows; with the reader's own delay a line is still shown within 100 ms.
BATCH_DELAY: Final = 0.03
#: Characters in the queue at which writers wait: enough to keep the pump busy, small beside any heap.
QUEUE_CHARS: Final = 4 * BATCH_CHARS
#: Characters of unheard output that are kept.
STRAY_CHARS: Final = 65_536
#: Characters that a display counts for when its size is not worth finding out.
DISPLAY_CHARS: Final = 1024

_NEVER: Final = sys.maxsize
_log = logging.getLogger(__name__)


class _Routing:
    """Context in which output goes to one listener."""

    __slots__ = ("_capture", "_flush", "_ident", "_previous", "_route")

    def __init__(self, capture: Capture, route: Route, *, flush: bool) -> None:
        self._capture = capture
        self._route = route
        self._flush = flush
        self._previous: Route | None = None
        self._ident = 0

    def __enter__(self) -> None:
        capture = self._capture
        ident = threading.get_ident()
        with capture._lock:
            if self._flush:
                capture._drain()
            capture._end_line()
            capture._segment = None
            if ident == threading.main_thread().ident:
                self._previous = capture._direct_to(self._route)
            else:
                self._ident = ident
                self._previous = capture._thread_routes.get(ident)
                capture._thread_routes[ident] = self._route

    def __exit__(self, *_: object) -> None:
        capture = self._capture
        try:
            if self._flush:
                capture.flush()
        finally:
            with capture._lock:
                capture._end_line()
                self._route.closed = self._flush  # else what is still queued for it is to be emitted
                capture._segment = None
                if not self._ident:
                    capture._direct_to(self._previous)
                elif self._previous is None:
                    capture._thread_routes.pop(self._ident, None)
                else:
                    capture._thread_routes[self._ident] = self._previous


class Capture:
    """Owns file descriptors 1 and 2 and ``sys.stdout``/``sys.stderr`` between ``start`` and ``close``.

    Args:
        closed: What ``emit`` raises when its listener has gone; its output then goes to the ring, in silence.
    """

    def __init__(self, *, closed: type[Exception] = GateClosed, journal: Journal | None = None) -> None:
        self._journal = journal
        self._closed_error = closed
        self._originals = Originals()
        self._lock = threading.RLock()
        self._changed = Condition(self._lock)
        self._queue: Queue = collections.deque()
        self._segment: Segment | None = None
        self._line: list[str] = []
        self._line_owner: CapturedStream | None = None
        self._line_mark: int | None = None
        self._line_count = 0
        self._mark: Mark | None = None
        self._ended_jobs: Sized = ()
        self._line_seen: float | None = None
        self._size = 0
        self._wake_at, self._look_at = _NEVER, QUEUE_CHARS
        self._route: Route | None = None
        self._told: int | None = None
        self._thread_routes: dict[int, Route] = {}
        self._exempt: set[int] = set()
        self._begun = self._ended = 0
        self._ring = Ring(STRAY_CHARS)
        self._thread: threading.Thread | None = None
        self._running = False
        self._stopping = False
        self._urgent = False
        self.direct = False

    # -- life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take over the descriptors and stream objects, and start the pump."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        self._saved_streams = (sys.stdout, sys.stderr)
        self._saved_fds = (os.dup(1), os.dup(2))
        self._pipes = {name: redirect(fd) for name, fd in FDS.items()}
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in FDS}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        # epoll costs half of poll, and may be asked by two threads at once
        self._poller: Any = select.epoll() if hasattr(select, "epoll") else select.poll()
        for fd in self._pipes.values():
            self._poller.register(fd, select.POLLIN)
        self._poll = self._poller.poll
        self._partial = dict.fromkeys(FDS, "")
        self._originals.line_buffer()
        self._streams = {name: CapturedStream(self, name) for name in FDS}
        sys.stdout, sys.stderr = self._streams.values()
        forked = weakref.WeakMethod(self._forked)  # the interpreter keeps such hooks for ever
        os.register_at_fork(after_in_child=lambda: (found := forked()) is not None and found())
        self._running = True
        self._thread = threading.Thread(target=self._pump, name="znb-capture", daemon=True)
        self._thread.start()
        self._exempt.add(self._thread.ident or 0)

    def close(self) -> None:
        """Emit what is left, and put everything back as it was. May be called twice."""
        if self._thread is None or self._stopping or self.direct:
            return
        self.flush()
        sys.stdout, sys.stderr = self._saved_streams
        for fd, saved in zip(FDS.values(), self._saved_fds, strict=True):
            os.dup2(saved, fd)
            os.close(saved)
        with self._lock:
            self._stopping = True
            self._wake()
        self._thread.join()
        with self._lock:  # who has kept a stream object goes on with it
            self._running = False
            self.direct = True
        self._close_fds()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_fds(self) -> None:
        if hasattr(self._poller, "close"):
            self._poller.close()
        for fd in (*self._pipes.values(), self._wake_read, self._wake_write):
            os.close(fd)

    # -- routes --------------------------------------------------------------------------------------------

    def route(
        self, emit: Emit | MarkedEmit, *, mark: Mark | None = None, ended: Sized = (), flush: bool = True
    ) -> _Routing:
        """Return a context in which output goes to ``emit``.

        On the main thread it is the process's output, that of threads and children included; on another thread it
        is what that thread itself writes through Python.

        Args:
            emit: Called by the pump; may block, which holds writers back.
            mark: What it returns when something is written is given to ``emit`` with it.
            ended: Its length changes with the mark until ``settle`` is called; that is cheap to see. A line ends then.
            flush: Whether to emit what was written before, and at the end what was written meanwhile. Without it the
                caller does so where it matters, and saves 10 µs.
        """
        return _Routing(self, Route(emit, mark, ended), flush=flush)

    def settle(self) -> None:
        """Mark what has been written so far: the next mark is about to come. Costs 1 µs, and waits for nobody."""
        if not self.direct:
            with self._lock:
                self._drain()
                self._end_line()

    def _direct_to(self, route: Route | None) -> Route | None:
        """Direct the process's output to a route; return the one before. Under the lock."""
        before, self._route = self._route, route
        self._mark, self._ended_jobs = (None, ()) if route is None else (route.mark, route.ended)
        self._line_mark, self._line_count = None, 0
        self._told = None
        return before

    def exempt(self) -> None:
        """Let the calling thread write without ever waiting: it serves those that ``emit`` waits for."""
        self._exempt.add(threading.get_ident())

    def stray(self, *, take: bool = False) -> str:
        """Return the last 64 kB of what was written while nobody listened; ``take`` forgets it."""
        with self._lock:
            text = self._ring.text()
            if take:
                self._ring.clear()
            return text

    # -- writers -------------------------------------------------------------------------------------------

    def write(self, owner: CapturedStream, text: str) -> None:
        """Queue text after what the pipes hold; wait while the queue is full."""
        if self.direct:
            self._write_directly(owner.stream, text)
            return
        # Every piece of every print comes through here: that of a line which is not finished costs little, and
        # what a child writes meanwhile does not come between it and the rest.
        with self._lock:
            if self._line and (self._line_owner is not owner or self._line_count != len(self._ended_jobs)):
                self._end_line()
            self._size = size = self._size + len(text)
            if "\n" in text or "\r" in text or self._thread_routes:
                self._drain()
                if self._line:
                    text = self._take_line() + text
                elif self._mark is not None:
                    self._line_mark = self._mark()
                if self._thread_routes:
                    route = self._route_here()
                    self._append(owner, route, now(route), text)
                else:
                    self._append(owner, self._route, self._line_mark, text)
            else:
                if not self._line:
                    self._line_owner = owner
                    if self._mark is not None:
                        self._line_mark, self._line_count = self._mark(), len(self._ended_jobs)
                self._line.append(text)
            if size >= self._look_at:
                self._overflow()

    def end_line(self) -> None:
        """Queue the line that is not finished: the stream was flushed."""
        if self.direct:
            self.flush()
            return
        with self._lock:
            if self._line:
                self._drain()
                self._end_line()

    def _route_here(self) -> Route | None:
        return self._thread_routes.get(threading.get_ident(), self._route)

    def _end_line(self) -> None:
        owner = self._line_owner
        text = self._take_line()
        if text and owner is not None:
            self._append(owner, self._route, self._line_mark, text)

    def _take_line(self) -> str:
        if not self._line:
            return ""
        empty: list[str] = []  # made first, so that a handler or finalizer that prints cannot run amid the exchange
        line, self._line = self._line, empty
        self._line_seen = None
        return "".join(line)

    def _append(self, owner: CapturedStream, route: Route | None, mark: int | None, text: str) -> None:
        segment = self._segment
        if segment is None or segment.stream != owner.stream or segment.mark != mark or segment.route is not route:
            segment = self._segment = Segment(owner.stream, route, mark)
            self._queue.append(segment)
        segment.write(text)
        if self._journal is not None:
            if mark is not None and mark != self._told:
                self._told = mark
                self._journal.begin()
            self._journal.write(text)

    def _overflow(self) -> None:
        """Do what a size of ``_look_at`` asks for: wake the pump, wait for room."""
        if self._size >= self._wake_at:
            self._wake()
        if self._size >= QUEUE_CHARS and threading.get_ident() not in self._exempt:
            self._changed.wait_for(lambda: self._size < QUEUE_CHARS)

    def post(self, output: Output) -> None:
        """Queue an output that is not text, in order with the text; wait while the queue is full."""
        if self.direct:
            return  # a child has no line to the listener
        with self._lock:
            self._drain()
            self._end_line()
            route = self._route_here()
            self._segment = None
            self._queue.append((route, output, now(route)))
            data = getattr(output, "data", {})
            self._size += sum(len(v) if isinstance(v, str) else DISPLAY_CHARS for v in data.values()) + 1
            self._overflow()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything written so far has been emitted.

        Args:
            timeout: Seconds to wait at most; ``None`` for ever. Signals interrupt the wait.

        Returns:
            Whether it was in time.
        """
        if self.direct:
            for stream in FDS:
                self._write_directly(stream, "", force=True)
            return True
        self._originals.flush()
        with self._lock:
            self._drain(everything=True)
            self._end_line()
            # the batch that takes what is queued now is the next to begin
            batch = self._begun + 1 if self._queue else self._begun
            if self._ended >= batch or threading.get_ident() == (self._thread and self._thread.ident):
                return True
            self._urgent = True
            self._wake()
            return self._changed.wait_for(lambda: self._ended >= batch, timeout)

    def _wake(self) -> None:
        self._wake_at, self._look_at = _NEVER, QUEUE_CHARS
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:  # full of wake-ups that the pump has not read yet
            return

    def _write_directly(self, stream: Stream, text: str, *, force: bool = False) -> None:
        """Write whole lines to the descriptor, so that several children's lines stay apart."""
        with self._lock:
            held, self._partial[stream] = self._partial[stream], ""
            text = held + text
            cut = len(text) if force or len(text) > BATCH_CHARS else text.rfind("\n") + 1
            self._partial[stream] = text[cut:]
            data = memoryview(text[:cut].encode("utf-8", "backslashreplace"))
            while data:
                data = data[os.write(FDS[stream], data) :]

    def _forked(self) -> None:
        """Be the capture of a forked child: no pump, nothing queued, no ends of pipes that keep a parent's alive."""
        self.direct = True
        self._lock = threading.RLock()
        self._changed = Condition(self._lock)
        self._queue.clear()
        self._line.clear()
        self._segment = None
        if self._running:
            self._close_fds()

    # -- the pipes (under the lock) ------------------------------------------------------------------------

    def _drain(self, *, everything: bool = False) -> None:
        """Move what the pipes hold into the queue, as far as there is room (or all that a full pipe can hold)."""
        if self.direct or not self._running or not self._poll(0):
            return
        room = self._size + PIPE_BYTES if everything else QUEUE_CHARS
        for stream, fd in self._pipes.items():
            while self._size <= room:
                try:
                    data = os.read(fd, BATCH_CHARS)
                except BlockingIOError:
                    break
                text = self._decoders[stream].decode(data)
                if text:
                    self._append(self._streams[stream], self._route, now(self._route), text)
                    self._size += len(text)
                if len(data) < BATCH_CHARS:
                    break

    # -- the pump ------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        wake, anything = select.poll(), select.poll()
        wake.register(self._wake_read, select.POLLIN)
        for fd in (self._wake_read, *self._pipes.values()):
            anything.register(fd, select.POLLIN)
        last = 0.0
        while True:
            if self._prepare_to_wait(1):
                anything.poll()
            self._swallow_wakes()
            pause = max(FIRST_DELAY, last + BATCH_DELAY - time.monotonic())
            if not self._stopping and self._prepare_to_wait(BATCH_CHARS):
                wake.poll(pause * 1000)
            self._emit(self._take())
            last = time.monotonic()
            if self._stopping and not self._queue:
                return

    def _prepare_to_wait(self, wake_at: int) -> bool:
        """Ask to be woken at ``wake_at`` characters; return whether to wait at all."""
        with self._lock:
            self._drain()
            if self._size >= wake_at or self._urgent or self._stopping:
                return False
            self._wake_at = self._look_at = wake_at
            return True

    def _swallow_wakes(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            return

    def _take(self) -> Queue:
        with self._lock:
            self._wake_at, self._look_at = _NEVER, QUEUE_CHARS
            self._drain()
            if self._urgent or self._stopping or self._line_is_old():
                self._end_line()
            self._urgent = False
            entries, self._queue = self._queue, collections.deque()  # not copied: a finalizer may print meanwhile
            self._segment = None
            self._size = sum(map(len, self._line))
            self._begun += 1
            self._changed.notify_all()
            return entries

    def _line_is_old(self) -> bool:
        """Whether a line is not being finished. One that the pump has not seen before is: a print is under way."""
        if not self._line:
            return False
        if self._line_seen is None:
            self._line_seen = time.monotonic()
        return time.monotonic() - self._line_seen > BATCH_DELAY - FIRST_DELAY

    def _emit(self, entries: Queue) -> None:
        for entry in entries:
            if isinstance(entry, Segment):
                for text in pieces(entry.getvalue()):
                    self._deliver(entry.route, Text(entry.stream, text), entry.mark)
            else:
                self._deliver(*entry)
        with self._lock:
            self._ended = self._begun
            self._changed.notify_all()

    def _deliver(self, route: Route | None, output: Output, mark: int | None) -> None:
        if route is not None and not route.closed:
            try:
                if mark is None:
                    route.emit(output)
                else:
                    route.emit(output, mark)
            except self._closed_error:
                route.closed = True
            except Exception:  # noqa: BLE001 - the pump must outlive any listener
                route.closed = True
                _log.exception("output of this cell or job is no longer shown: its listener failed")
            else:
                return
        text = output.text if isinstance(output, Text) else str(getattr(output, "data", {}).get("text/plain", ""))
        with self._lock:
            self._ring.add(text)
