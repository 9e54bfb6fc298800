"""Waits until some of many sockets and file descriptors can be read, at a cost that goes with those that can.

``zmq_poll`` looks at every socket, at two or three system calls each, whenever one has something. Here each socket's
own descriptor is watched by the operating system instead. That descriptor is edge-triggered: it speaks when something
has come since the socket was last looked at, and whatever is done with the socket looks at it. So a socket that has
been used is asked itself before the next wait, and one that nobody has touched need not be.

Invariants: belongs to one thread, as its sockets do; a socket that was used since the last wait is in ``touched``.
Source: ``ZMQ_FD`` and ``ZMQ_EVENTS`` in libzmq's zmq_getsockopt(3).
"""

from __future__ import annotations

import contextlib
import selectors
from typing import Any

import zmq

__all__ = ["Poller", "WatchedSocket"]

_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_send = zmq.backend.Socket.send


class WatchedSocket(zmq.Socket[bytes]):
    """A socket that notes when it is used, for the ``Poller`` that watches it.

    Attributes:
        touched: The poller's set of sockets that were used since its last wait; ``None`` while it does not watch this
            one, which may then be used on any thread that holds its lock.
    """

    touched: set[Any] | None = None

    def send(self, data: Any, flags: int = 0, copy: bool = True, track: bool = False, **_: Any) -> Any:  # type: ignore[override]  # noqa: FBT001, FBT002
        """Send a frame, as ``zmq.Socket.send``."""
        self._touch()
        return _send(self, data, flags, copy=copy, track=track)

    def bind(self, addr: str) -> Any:
        """Bind, as ``zmq.Socket.bind``."""
        self._touch()
        return super().bind(addr)

    def connect(self, addr: str) -> Any:
        """Connect, as ``zmq.Socket.connect``."""
        self._touch()
        return super().connect(addr)

    def close(self, linger: int | None = None) -> None:
        """Close, as ``zmq.Socket.close``; if it is still watched, its poller hears of that."""
        self._touch()
        super().close(linger)

    def _touch(self) -> None:
        if self.touched is not None:
            self.touched.add(self)

    def disconnect(self, addr: str | bytes) -> None:
        """Disconnect, as ``zmq.Socket.disconnect``."""
        self._touch()
        super().disconnect(addr)


class Poller:
    """What is watched, and what of it can be read.

    Attributes:
        touched: Sockets to be asked themselves before the next wait.
        watched: What is watched, with its file descriptor.
    """

    def __init__(self) -> None:
        self.touched: set[Any] = set()
        self._selector = selectors.DefaultSelector()
        self.watched: dict[Any, int] = {}

    def add(self, source: zmq.Socket[bytes] | int) -> None:
        """Watch a socket or a file descriptor."""
        if isinstance(source, int):
            fd = source
        else:
            fd = source.getsockopt(zmq.FD)  # type: ignore[assignment]
            self.touched.add(source)
            if type(source) is WatchedSocket:
                source.touched = self.touched
        with contextlib.suppress(KeyError):  # of one that was closed without a word
            self._selector.unregister(fd)
        self._selector.register(fd, selectors.EVENT_READ, source)
        self.watched[source] = fd

    def remove(self, source: zmq.Socket[bytes] | int) -> None:
        """Watch it no more; before it is closed. May be called twice."""
        fd = self.watched.pop(source, None)
        key = self._selector.get_map().get(fd) if fd is not None else None
        if key is not None and key.data == source:
            self._selector.unregister(key.fd)
        self.touched.discard(source)
        if type(source) is WatchedSocket:
            source.touched = None

    def poll(self, timeout: int | None) -> list[Any]:
        """Return what can be read or was closed, waiting for the first of it.

        Args:
            timeout: Milliseconds to wait at most; ``None`` for ever.
        """
        ready: list[Any] = []
        if self.touched:
            ready = [socket for socket in self.touched if self._has_news(socket)]
            self.touched.clear()
        seconds = 0 if ready else None if timeout is None else timeout / 1000
        for key, _ in self._selector.select(seconds):
            source = key.data
            if type(source) is int or (source not in ready and self._has_news(source)):
                ready.append(source)
        return ready

    def _has_news(self, socket: Any) -> bool:
        return socket in self.watched and (socket.closed or bool(socket.getsockopt(_EVENTS) & _POLLIN))

    def rebuild(self) -> None:
        """Watch anew what there is, without sockets that were closed before they were removed."""
        known = [source for source in self.watched if isinstance(source, int) or not source.closed]
        self._selector.close()
        self._selector = selectors.DefaultSelector()
        self.watched.clear()
        for source in known:
            self.add(source)

    def close(self) -> None:
        """Watch nothing any more."""
        self._selector.close()
