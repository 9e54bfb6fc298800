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
        touched: The poller's set of sockets that were used since its last wait.
    """

    touched: set[zmq.Socket[bytes]] = set()  # noqa: RUF012 - replaced by the poller's own

    def send(self, data: Any, flags: int = 0, copy: bool = True, track: bool = False, **_: Any) -> Any:  # noqa: FBT001, FBT002
        """Send a frame, as ``zmq.Socket.send``."""
        self.touched.add(self)
        return _send(self, data, flags, copy=copy, track=track)

    def bind(self, addr: str) -> Any:
        """Bind, as ``zmq.Socket.bind``."""
        self.touched.add(self)
        return super().bind(addr)

    def connect(self, addr: str) -> Any:
        """Connect, as ``zmq.Socket.connect``."""
        self.touched.add(self)
        return super().connect(addr)

    def disconnect(self, addr: str) -> None:
        """Disconnect, as ``zmq.Socket.disconnect``."""
        self.touched.add(self)
        super().disconnect(addr)


class Poller:
    """What is watched, and what of it can be read.

    Attributes:
        touched: Sockets to be asked themselves before the next wait.
    """

    def __init__(self) -> None:
        self.touched: set[zmq.Socket[bytes]] = set()
        self._selector = selectors.DefaultSelector()
        self._sources: dict[Any, int] = {}

    def add(self, source: zmq.Socket[bytes] | int) -> None:
        """Watch a socket or a file descriptor."""
        if isinstance(source, int):
            fd = source
        else:
            fd = source.getsockopt(zmq.FD)  # type: ignore[assignment]
            self.touched.add(source)
        with contextlib.suppress(KeyError):  # of one that was closed without a word
            self._selector.unregister(fd)
        self._selector.register(fd, selectors.EVENT_READ, source)
        self._sources[source] = fd

    def remove(self, source: zmq.Socket[bytes] | int) -> None:
        """Watch it no more; before it is closed. May be called twice."""
        fd = self._sources.pop(source, None)
        key = self._selector.get_map().get(fd) if fd is not None else None
        if key is not None and key.data == source:
            self._selector.unregister(key.fd)
        self.touched.discard(source)  # type: ignore[arg-type]

    def poll(self, timeout: int | None) -> list[Any]:
        """Return what can be read, waiting at most ``timeout`` milliseconds for the first (``None``: for ever)."""
        ready = []
        if self.touched:
            for socket in self.touched:
                if not socket.closed and socket in self._sources and socket.getsockopt(_EVENTS) & _POLLIN:  # type: ignore[operator]
                    ready.append(socket)
            self.touched.clear()
        seconds = 0 if ready else None if timeout is None else timeout / 1000
        for key, _ in self._selector.select(seconds):
            if key.data not in ready:
                ready.append(key.data)
        return ready

    def rebuild(self) -> None:
        """Watch anew what there is, without sockets that were closed before they were removed."""
        known = [source for source in self._sources if isinstance(source, int) or not source.closed]
        self._selector.close()
        self._selector = selectors.DefaultSelector()
        self._sources.clear()
        for source in known:
            self.add(source)

    def close(self) -> None:
        """Watch nothing any more."""
        self._selector.close()
