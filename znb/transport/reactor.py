"""The I/O thread: it owns every socket of a process, its timers and its readable descriptors.

Invariants: sockets are made, used and closed on the reactor's thread only; user code never runs on it;
a callback that raises is logged with its context and does not stop the loop. Other threads reach it through
``call_soon``, also from signal handlers. No call is lost: what was asked for before the thread ended is done by it,
what is asked for afterwards is done at once by whoever asks, and finds the sockets closed. A forked child inherits
nothing: there every call is dropped. Sources: the ZeroMQ guide, chapter 2 ("sockets are not thread-safe");
libzmq's zmq_setsockopt(3) and zmq_socket_monitor(3).
"""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import os
import socket as _socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import zmq

from znb.errors import ZnbError
from znb.locks import Future
from znb.transport.sockets import bind_socket, prepare_socket, receive_all
from znb.transport.timers import Timer, Timers

__all__ = ["STOP_TIMEOUT", "Reactor", "ReactorStats", "Readable"]

logger = logging.getLogger("znb.transport")
T = TypeVar("T")

#: Messages read from one socket before the others get their turn.
BATCH = 200
#: Seconds that ``stop`` waits for the thread; it only exceeds this if a callback hangs, which is a defect.
STOP_TIMEOUT = 5.0
#: Bytes read at once from the wake-up socket.
WAKE_BYTES = 4096
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)


class Readable(Protocol):
    """Called with the frames of one message."""

    def __call__(self, frames: list[zmq.Frame], /) -> None:
        """Take a message; ``frames`` are what the socket's ``receive`` returned."""


class ReactorStats(NamedTuple):
    """A snapshot of a reactor.

    Attributes:
        sockets: Sockets it listens to.
        readers: File descriptors it listens to.
        timers: Calls that wait for their time, cancelled ones included.
        ready: Calls that wait for their turn.
        failures: Callbacks that raised since the start; each was logged.
    """

    sockets: int
    readers: int
    timers: int
    ready: int
    failures: int


class Reactor:
    """An event loop over ZeroMQ sockets on a thread of its own.

    ``call_soon`` may be called from any thread, also from a signal handler; ``start``, ``stop``, ``wait_call``
    and ``stats`` from any thread. Everything else is for the reactor's thread alone.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str = "znb-io") -> None:
        self.context = zmq.Context()
        #: Sets options, such as keys, of every socket made for an address.
        self.credentials: Callable[[zmq.Socket[bytes]], object] | None = None
        self._ready: collections.deque[tuple[Callable[..., object], tuple[Any, ...]]] = collections.deque()
        self._timers = Timers()
        self._failures = 0
        self._sockets: dict[zmq.Socket[bytes], tuple[Readable, Callable[[Any], list[Any]]]] = {}
        self._files: dict[zmq.Socket[bytes], list[tuple[Path, os.stat_result]]] = {}
        self._readers: dict[int, Callable[[], object]] = {}
        self._closers: dict[Callable[[], object], None] = {}
        self._poller = zmq.Poller()
        self._sleeping = False
        self._running = False
        self._stopped = False
        self._owner = 0
        self._late = threading.RLock()
        self._pid = os.getpid()
        self._wake_receive, self._wake_send = _socket.socketpair()
        self._wake_receive.setblocking(False)
        self._wake_send.setblocking(False)
        self._wake_fd = self._wake_receive.fileno()
        self._poller.register(self._wake_fd, zmq.POLLIN)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # -- any thread ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._running = True
        self._thread.start()

    def stop(self) -> None:
        """Make the calls that wait for their turn, close every socket and end the thread.

        Returns when the thread has ended. May be called twice, from the thread itself and before ``start``; does
        nothing in a forked child.
        """
        if self.forked or self._stopped:
            return
        if not self._thread.is_alive():
            self._finish()
            return
        self.call_soon(self._halt)
        if not self.on_thread:
            self._thread.join(STOP_TIMEOUT)
            if self._thread.is_alive():
                logger.error("%s did not end within %g s: a callback hangs", self._thread.name, STOP_TIMEOUT)

    def call_soon(self, fn: Callable[..., object], *args: Any) -> None:
        """Have the reactor's thread call ``fn(*args)``; calls are made in the order given.

        Once the reactor has been stopped the call is made at once, on the caller's thread.
        """
        self._ready.append((fn, args))
        if self._sleeping:
            self._wake()
        if self._stopped:
            self._run_late()

    def wait_call(self, fn: Callable[..., T], *args: Any, timeout: float | None = None) -> T:
        """Have the reactor's thread call ``fn(*args)``, and wait for what it returns or raises.

        Raises:
            TimeoutError: It was not done within ``timeout`` seconds.
            ZnbError: This process was forked from the one that made the reactor.
        """
        self.check_pid()
        if self.on_thread:
            return fn(*args)
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(fn(*args))
            except BaseException as error:  # noqa: BLE001 - it is handed to the thread that waits
                done.set_exception(error)

        self.call_soon(call)
        return done.result(timeout)

    @property
    def on_thread(self) -> bool:
        """Whether the caller is on the reactor's thread."""
        return threading.get_ident() == self._owner

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that made the reactor, so that it has no thread."""
        return os.getpid() != self._pid

    @property
    def stopped(self) -> bool:
        """Whether the thread has ended and its sockets are closed."""
        return self._stopped

    def check_pid(self) -> None:
        """Raise ``ZnbError`` in a forked child, where nothing would ever answer."""
        if self.forked:
            raise ZnbError(
                f"process {os.getpid()} was forked from {self._pid}, whose connections it cannot use; "
                f"connect anew in the child"
            )

    def stats(self) -> ReactorStats:
        """Return how much the reactor holds."""
        return ReactorStats(len(self._sockets), len(self._readers), len(self._timers), len(self._ready), self._failures)

    # -- the reactor's thread ------------------------------------------------------------------------------

    def call_later(self, delay: float, fn: Callable[..., object], *args: Any) -> Timer:
        """Call ``fn(*args)`` after ``delay`` seconds (never, if that is infinite)."""
        return self._timers.add(delay, fn, args)

    def at_stop(self, fn: Callable[[], object]) -> None:
        """Call ``fn()`` when the reactor stops, before its sockets are closed; the latest comes first."""
        self._closers[fn] = None

    def not_at_stop(self, fn: Callable[[], object]) -> None:
        """Forget what ``at_stop`` was told. May be called twice."""
        self._closers.pop(fn, None)

    def socket(self, kind: int, url: str = "") -> zmq.Socket[bytes]:
        """Return a new socket that never lingers and whose queues are bounded by credits, not by marks.

        Args:
            kind: A socket type, such as ``zmq.DEALER``.
            url: Where it will bind or connect; to other machines ZMTP's heartbeats are turned on. A socket that
                has one gets the ``credentials``.
        """
        made: zmq.Socket[bytes] = self.context.socket(kind)
        prepare_socket(made, url)
        if url and self.credentials is not None:
            self.credentials(made)
        return made

    def add_socket(
        self, socket: zmq.Socket[bytes], on_message: Readable, *, receive: Callable[[Any], list[Any]] | None = None
    ) -> None:
        """Call ``on_message(frames)`` for each message that arrives.

        Args:
            socket: One of this reactor's sockets.
            on_message: Takes the frames of a message.
            receive: Takes a message off the socket without waiting, for those who want some frames as bytes;
                ``None``: all are ``zmq.Frame``.
        """
        self._sockets[socket] = (on_message, receive or receive_all)
        self._poller.register(socket, zmq.POLLIN)

    def add_monitor(self, socket: zmq.Socket[bytes], events: int, on_event: Callable[[int], object]) -> None:
        """Call ``on_event(event)`` when a connection of ``socket`` changes; ends with ``close_socket``.

        Args:
            socket: One of this reactor's sockets.
            events: A sum of ``zmq.EVENT_…``.
            on_event: Called with one ``zmq.EVENT_…``.
        """
        monitor = socket.get_monitor_socket(events)

        def on_message(frames: list[zmq.Frame]) -> None:
            event = int.from_bytes(frames[0].bytes[:2], sys.byteorder)
            if event != zmq.EVENT_MONITOR_STOPPED:
                on_event(event)

        self.add_socket(monitor, on_message)

    def bind(self, socket: zmq.Socket[bytes], url: str) -> str:
        """Bind a socket; return the address with its port filled in.

        The file of an ipc address goes when the socket is closed, unless another socket has taken its place.

        Raises:
            zmq.ZMQError: The address is in use, or not one of this machine.
        """
        bind_socket(socket, url)
        bound = socket.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")  # type: ignore[union-attr]
        if bound.startswith("ipc://") and not bound.startswith("ipc://@"):
            path = Path(bound.removeprefix("ipc://"))
            self._files.setdefault(socket, []).append((path, path.stat()))
        return bound

    def close_socket(self, socket: zmq.Socket[bytes]) -> None:
        """Stop listening to a socket and close it; what is queued in it is dropped. May be called twice."""
        monitor = getattr(socket, "_monitor_socket", None)
        if monitor is not None:
            self._unregister(monitor)
            socket.disable_monitor()
            monitor.close(0)
        self._unregister(socket)
        socket.close(0)
        for path, found in self._files.pop(socket, ()):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), found):
                    path.unlink()

    def add_reader(self, fd: int, on_readable: Callable[[], object]) -> None:
        """Call ``on_readable()`` whenever a file descriptor can be read (level-triggered).

        A callback that raises is removed, because it would be called again at once and for ever.
        """
        self._readers[fd] = on_readable
        self._poller.register(fd, zmq.POLLIN)

    def remove_reader(self, fd: int) -> None:
        """Forget a file descriptor. May be called twice."""
        if self._readers.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def guard(self, fn: Callable[..., object], *args: Any) -> bool:
        """Call ``fn(*args)``; log what it raises. Returns whether it raised nothing."""
        try:
            fn(*args)
        except BaseException:  # even SystemExit: the thread serves everybody
            self._failures += 1
            logger.exception("a callback of the I/O thread failed: %r", fn)
            return False
        return True

    # -- the loop ------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self.forked:
            self._ready.clear()  # and leave the parent's wake-up socket alone
            return
        try:
            self._wake_send.send(b"\0")
        except BlockingIOError:
            return  # the thread has wake-ups to read already
        except OSError as error:
            if error.errno not in {errno.EBADF, errno.EPIPE}:  # it was closed because the reactor has stopped
                raise

    def _halt(self) -> None:
        self._running = False

    def _run(self) -> None:
        self._owner = threading.get_ident()
        try:
            while self._running:
                self._turn()
        finally:
            self._finish()

    def _turn(self) -> None:
        self._sleeping = True  # from here on call_soon wakes us
        timeout = 0 if self._ready else self._timers.milliseconds_left()
        try:
            events = self._poller.poll(timeout)
        except (zmq.ZMQError, ValueError):
            self._sleeping = False
            if not self._remove_closed():
                logger.exception("polling failed, so the I/O thread ends")
                self._running = False
            return
        self._sleeping = False
        owner = self._owner
        for source, _ in events:
            self._dispatch(source)
            if self._owner != owner:
                return
        for fn, args in self._timers.due():
            self.guard(fn, *args)
        self._run_ready()

    def _run_ready(self) -> None:
        for _ in range(len(self._ready)):
            try:
                fn, args = self._ready.popleft()
            except IndexError:  # somebody else has made it, after the end
                return
            self.guard(fn, *args)

    def _dispatch(self, source: Any) -> None:
        if isinstance(source, int):
            if source == self._wake_fd:
                self._drain_wakeups()
            elif source not in self._readers:
                self._remove_closed()  # pyzmq polls file descriptor 0 in the place of a closed socket
            elif not self.guard(self._readers[source]):
                self.remove_reader(source)
            return
        owner = self._owner
        for _ in range(BATCH):
            entry = self._sockets.get(source)
            if entry is None or source.closed:
                return
            on_message, receive = entry
            try:
                frames = receive(source)
            except zmq.Again:
                return
            self.guard(on_message, frames)
            if self._owner != owner or source.closed or not source.getsockopt(_EVENTS) & _POLLIN:
                return

    def _drain_wakeups(self) -> None:
        try:
            while len(self._wake_receive.recv(WAKE_BYTES)) == WAKE_BYTES:
                pass
        except BlockingIOError:
            return

    def _unregister(self, socket: zmq.Socket[bytes]) -> None:
        if self._sockets.pop(socket, None) is not None:
            self._poller.unregister(socket)

    def _remove_closed(self) -> bool:
        """Drop sockets that were closed without asking us; return whether there was one."""
        closed = [socket for socket in self._sockets if socket.closed]
        for socket in closed:
            self._unregister(socket)
        return bool(closed)

    def _finish(self) -> None:
        """Make the calls that wait, tell whom it concerns, and close everything."""
        self._running = False
        self._run_ready()
        while self._closers:
            self.guard(self._closers.popitem()[0])
        for socket in list(self._sockets):
            self.guard(self.close_socket, socket)
        self._timers.clear()
        self._stopped = True
        self._run_late()
        self._wake_receive.close()
        self._wake_send.close()
        self.context.destroy(linger=0)

    def _run_late(self) -> None:
        """Make calls that came after the end, in order."""
        with self._late:
            while self._ready:
                self._run_ready()
