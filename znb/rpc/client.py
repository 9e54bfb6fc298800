"""The DEALER end of calls.

Invariants: each call hears exactly one ending, its last ``Reply`` or a ``Lost``, unless it was abandoned. Items of
a stream arrive in order and are granted only as they are consumed, so what is held here is bounded by the window.
A malformed message of the server ends every call of the connection, because nobody can tell whose it was. The
reactor's thread owns the socket; handlers are called on that thread and must not block; everything else may be
called from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import zmq

from znb import wire
from znb.errors import Cancelled, ProtocolError, ServiceUnavailable, ZnbError
from znb.flow import CreditWindow
from znb.transport import Reactor, send_message

__all__ = ["Call", "Connection", "ConnectionStats", "Lost", "Reply"]

#: Items of a stream that may be under way at once (zerorpc's figure).
STREAM_WINDOW = 100


class Reply(NamedTuple):
    """An event that the server sent: ``name`` is OK, ERR, STREAM, STREAM_DONE or NEED."""

    name: str
    args: Any
    headers: dict[str, Any]
    buffers: list[Any]

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return self.name in {wire.OK, wire.ERR, wire.STREAM_DONE}


class Lost(NamedTuple):
    """The call will not be answered."""

    error: ZnbError


class Call:
    """A call under way.

    Attributes:
        id: Channel id, unique within its connection.
        method: The method's name.
        started: Monotonic time at which it was made.
        ended: Whether its last event has been handed over.
    """

    __slots__ = ("_connection", "_handler", "_window", "ended", "frames", "id", "method", "started")

    def __init__(
        self,
        connection: Connection,
        identifier: int,
        method: str,
        handler: Callable[[Call, Reply | Lost], object],
    ) -> None:
        self._connection = connection
        self._handler = handler
        self._window: CreditWindow | None = None
        self.id = identifier
        self.method = method
        self.started = time.monotonic()
        self.ended = False
        self.frames: list[Any] = []

    def consumed(self, count: int = 1) -> None:
        """Say that items of the stream were taken, so that the server may send more."""
        self._connection.reactor.call_soon(self._connection.grant, self, count)

    def cancel(self, reason: str = "cancelled by the caller") -> None:
        """Have the server stop; the handler hears ``Lost`` with ``Cancelled``, unless the call has ended before."""
        self._connection.reactor.call_soon(self._connection.cancel, self, reason)

    def abandon(self) -> None:
        """Cancel, and hear no more of it."""
        self._connection.reactor.call_soon(self._connection.abandon, self)

    def deliver(self, event: Reply | Lost) -> None:
        """Hand an event to the handler. On the reactor's thread."""
        if self.ended:
            return
        if isinstance(event, Lost) or event.is_last:
            self.ended = True
            self.frames = []
        self._handler(self, event)


class ConnectionStats(NamedTuple):
    """A snapshot of a connection.

    Attributes:
        url: Where the server listens.
        calls: Calls under way.
        strays: Messages that came for calls which had been abandoned.
    """

    url: str
    calls: int
    strays: int


class Connection:
    """Calls to one server.

    Args:
        reactor: The I/O thread.
        url: Where the server listens.
    """

    def __init__(self, reactor: Reactor, url: str) -> None:
        self.reactor = reactor
        self.url = url
        self._ids = wire.message_ids()
        self._calls: dict[int, Call] = {}
        self._socket: zmq.Socket[bytes] | None = None
        self._closed: ZnbError | None = None
        self._strays = 0

    # -- any thread ----------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        args: Any,
        handler: Callable[[Call, Reply | Lost], object],
        *,
        buffers: list[Any] | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Call:
        """Send a request; ``handler(call, event)`` hears its items and its ending on the reactor's thread.

        Raises:
            TypeError: msgpack cannot carry ``args``.
            ZnbError: This process was forked from the one that opened the connection.
        """
        self.reactor.check_pid()
        call = Call(self, next(self._ids), method, handler)
        self._prepare(call, args, buffers, headers)
        self.reactor.call_soon(self._start, call)
        return call

    def resend(self, call: Call, args: Any, buffers: list[Any], headers: dict[str, Any]) -> None:
        """Send a request again under its id, after the server asked for definitions."""
        self._prepare(call, args, buffers, headers)
        self.reactor.call_soon(self._start, call)

    def stats(self) -> ConnectionStats:
        """Return what is under way."""
        return ConnectionStats(self.url, len(self._calls), self._strays)

    # -- the reactor's thread ------------------------------------------------------------------------------

    def open(self) -> None:
        """Dial the server."""
        self._socket = self.reactor.socket(zmq.DEALER, self.url)
        self._socket.connect(self.url)
        self.reactor.add_socket(self._socket, self._on_message)
        self.reactor.at_stop(self._on_stop)

    def close(self, error: ZnbError) -> None:
        """Hang up; every open call ends with ``error``. May be called twice."""
        self._closed = self._closed or error
        self.reactor.not_at_stop(self._on_stop)
        if self._socket is not None:
            self.reactor.close_socket(self._socket)
            self._socket = None
        calls, self._calls = self._calls, {}
        for call in calls.values():
            self.reactor.guard(call.deliver, Lost(error))

    def grant(self, call: Call, count: int) -> None:
        """Account for consumed items, and grant new ones when it is time."""
        if call._window is not None and not call.ended:
            credits_due = call._window.consume(count)
            if credits_due:
                self.send_control(call, wire.MORE, [credits_due])

    def send_control(self, call: Call, name: str, args: Any) -> None:
        """Send an event that costs no credit on an open channel."""
        if self._socket is None or call.id not in self._calls:
            return
        headers = {"message_id": next(self._ids), "response_to": call.id, "znb": wire.WIRE_VERSION}
        send_message(self._socket, [b"", wire.encode_event(headers, name, args)])

    def cancel(self, call: Call, reason: str) -> None:
        """Have the server stop a call, and end it."""
        self.send_control(call, wire.CANCEL, [reason])
        self._calls.pop(call.id, None)
        call.deliver(Lost(Cancelled(f"{call.method} was {reason}")))

    def abandon(self, call: Call) -> None:
        """Cancel a call and forget it."""
        self.send_control(call, wire.CANCEL, ["abandoned"])
        self._calls.pop(call.id, None)
        call.ended = True
        call.frames = []

    def _on_stop(self) -> None:
        self.close(ServiceUnavailable(self.url, "this end of the connection was closed"))

    def _prepare(self, call: Call, args: Any, buffers: list[Any] | None, headers: dict[str, Any] | None) -> None:
        event_headers = {**(headers or {}), "message_id": call.id, "znb": wire.WIRE_VERSION}
        call.frames = [b"", wire.encode_event(event_headers, call.method, args), *(buffers or ())]

    def _start(self, call: Call) -> None:
        frames, call.frames = call.frames, []
        if call.ended:  # it was cancelled or abandoned before it was sent (again)
            return
        if self._socket is None:
            never = ServiceUnavailable(self.url, "the connection was never opened")
            call.deliver(Lost(self._closed or never))
            return
        self._calls[call.id] = call
        send_message(self._socket, frames)

    def _on_message(self, frames: list[zmq.Frame]) -> None:
        start = 1 if len(frames) > 1 and len(frames[0]) == 0 else 0
        try:
            event = wire.decode_event(frames[start].buffer, list(frames[start + 1 :]))
            call = self._calls.get(wire.channel_of(event))  # type: ignore[arg-type]
            if call is None:
                self._strays += 1  # the call was abandoned while this was under way
            else:
                self._on_event(call, event)
        except ProtocolError as error:
            self.close(error)

    def _on_event(self, call: Call, event: wire.Event) -> None:
        if event.name in {wire.HEARTBEAT, wire.MORE}:
            return
        if event.name not in wire.REPLIES:
            raise ProtocolError(f"expected a reply on the channel of {call.method}, got {event.name!r:.50}")
        reply = Reply(event.name, event.args, event.headers, event.buffers)
        if reply.name == wire.STREAM and call._window is None:
            call._window = CreditWindow(STREAM_WINDOW)
            self.send_control(call, wire.MORE, [call._window.open()])
        if reply.is_last:
            wire.check_reply(event)
            del self._calls[call.id]
        call.deliver(reply)
