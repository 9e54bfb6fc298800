"""The DEALER end of calls.

Invariants: each call hears exactly one ending, its last ``Reply`` or a ``Lost``, unless it was abandoned. Items of
a stream arrive in order and are granted only as they are consumed, so what is held here is bounded by the window.
A malformed message of the server ends every call of the connection, because nobody can tell whose it was. A watched
connection that breaks ends its calls at once and dials anew for the next; nothing queued for the old server ever
reaches a new one. The reactor's thread owns the socket; handlers are called on that thread and must not block;
everything else may be called from any thread.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import zmq

from znb import wire
from znb.errors import AuthError, Cancelled, ProtocolError, ServiceUnavailable, ZnbError
from znb.flow import CreditWindow, window_for
from znb.rpc.security import KEY_DIGITS
from znb.spans import OFF_STATE, Context, pack_context
from znb.transport import Reactor, Timer, is_local, receive_at_dealer, send_message

if TYPE_CHECKING:
    from znb.rpc.silence import Peer, Process

__all__ = ["MONITORED", "Call", "Connection", "ConnectionStats", "Lost", "Reply", "connect_timeout"]

#: Items of a stream that may be under way at once (zerorpc's figure).
STREAM_WINDOW = 100
#: Seconds that a server on this machine has to take a connection; the promise is 1 s (issue: ServiceUnavailable).
LOCAL_CONNECT_TIMEOUT = 0.8
#: Seconds that a server on another machine has to take a connection and to prove its key.
REMOTE_CONNECT_TIMEOUT = 5.0
#: Seconds between looks whether the process behind a connection is still there, while calls are under way.
LOOK_AFTER = 0.5

#: Packed calls in one message.
BATCH_CALLS = 64
#: Bytes of packed calls after which a message is sent.
BATCH_BYTES = 256_000

#: What a watched connection listens to.
MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
MONITORED |= _FAILED


def connect_timeout(url: str) -> float:
    """Return how many seconds a server may take to accept a connection."""
    return LOCAL_CONNECT_TIMEOUT if is_local(url) else REMOTE_CONNECT_TIMEOUT


class Reply(NamedTuple):
    """An event that the server sent: ``name`` is OK, ERR, STREAM, STREAM_DONE, ITEMS or NEED."""

    name: str
    args: Any
    headers: dict[str, Any]
    buffers: list[Any]

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return self.name in wire.LAST


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

    __slots__ = ("_connection", "_handler", "_window", "context", "ended", "frames", "id", "method", "started")

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
        self.context: Context | None = None

    def consumed(self, count: int = 1) -> None:
        """Say that items of the stream were taken, so that the server may send more."""
        self._connection.reactor.call_soon(self._connection.grant, self, count)

    def cancel(self, reason: str = "cancelled by the caller") -> None:
        """Have the server stop; the handler hears ``Lost`` with ``Cancelled``, unless the call has ended before."""
        self._connection.reactor.call_soon(self._connection.cancel, self, reason)

    def abandon(self) -> None:
        """Cancel, and hear no more of it; on the reactor's thread at once."""
        if self._connection.reactor.on_thread:
            self._connection.abandon(self)
        else:
            self._connection.reactor.call_soon(self._connection.abandon, self)

    def deliver(self, event: Reply | Lost) -> None:
        """Hand an event to the handler. On the reactor's thread."""
        if self.ended:
            return
        handler = self._handler
        if isinstance(event, Lost) or event.is_last:
            self.end()
        handler(self, event)

    def end(self) -> None:
        """Hear no more, and let go of whoever did. On the reactor's thread."""
        self.ended = True
        self.frames = []
        self._handler = _deaf


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
        watch: Whether a break is the end of its calls, and the next call dials anew. Without it somebody else must
            say when the server is gone, by ``close``.
        raw: Whether replies keep their arguments as ``msgspec.Raw``, and items come gathered (``ITEMS``).
        prepare: Sets options of the socket before it dials, such as keys.
        on_change: Told of what happens to the connection, one ``MONITORED`` event at a time; without ``watch``.
        peer: Who listens there, if its process may be looked at.
        patience: Seconds that the server may take to accept the connection; ``None`` for what suits its address.
    """

    def __init__(
        self,
        reactor: Reactor,
        url: str,
        *,
        watch: bool = False,
        raw: bool = False,
        prepare: Callable[[zmq.Socket[bytes]], object] | None = None,
        on_change: Callable[[int], object] | None = None,
        peer: Peer | None = None,
        patience: float | None = None,
    ) -> None:
        self.reactor = reactor
        self._patience = patience
        self._tell_change = on_change
        self.url = url
        self._watch = watch
        self._raw = raw
        self._prepare_socket = prepare
        self._peer = peer
        self._process: Process | None = None
        self._look: Timer | None = None
        self._ids = wire.message_ids()
        self._calls: dict[int, Call] = {}
        self._socket: zmq.Socket[bytes] | None = None
        self._closed: ZnbError | None = None
        self._dialling: Timer | None = None
        self._strays = 0
        self._outbox: collections.deque[Call] = collections.deque()
        self._flushing = False

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

    def call_packed(
        self, method: str, packed: bytes, handler: Callable[[Call, Reply | Lost], object], context: Context
    ) -> Call:
        """As ``call``, for arguments that are msgpack already and a peer that is known to be znb.

        Those that gather until the I/O thread gets to them leave in one message, if they are of one trace.
        """
        self.reactor.check_pid()
        call = Call(self, next(self._ids), method, handler)
        call.context = context
        call.frames = [packed]
        self._outbox.append(call)
        if not self._flushing:
            self._flushing = True
            self.reactor.call_soon(self._flush)
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
        if self._prepare_socket is not None:
            self._prepare_socket(self._socket)
        if self._tell_change is not None:
            self.reactor.add_monitor(self._socket, MONITORED, self._tell_change)
        if self._watch:
            self.reactor.add_monitor(self._socket, MONITORED, self._on_change)
            timeout = connect_timeout(self.url) if self._patience is None else self._patience
            silent = ServiceUnavailable(self.url, f"nobody answered within {timeout:g} s")
            self._dialling = self.reactor.call_later(timeout, self._hang_up, silent)
        self._socket.connect(self.url)
        self._process = None if self._peer is None else self._peer.find_process()
        self.reactor.add_socket(self._socket, self._on_message, receive=receive_at_dealer)
        self.reactor.at_stop(self._on_stop)

    def close(self, error: ZnbError) -> None:
        """Hang up for good; every open call ends with ``error``. May be called twice."""
        self._closed = self._closed or error
        self._hang_up(error)

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
        call.end()

    def _hang_up(self, error: ZnbError) -> None:
        self.reactor.not_at_stop(self._on_stop)
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._socket is not None:
            self.reactor.close_socket(self._socket)
            self._socket = None
        calls, self._calls = self._calls, {}
        for call in calls.values():
            self.reactor.guard(call.deliver, Lost(error))

    def _look_after(self) -> None:
        """End the calls if the process is gone, though a child of it may hold the connection."""
        self._look = None
        loss = None if self._process is None else self._process.loss(self.url)
        if loss is not None:
            loss.fields["may_have_run"] = loss.may_have_run = self._dialling is None  # type: ignore[attr-defined]
            self._hang_up(loss)
        elif self._calls:
            self._look = self.reactor.call_later(LOOK_AFTER, self._look_after)

    def _on_stop(self) -> None:
        self.close(ServiceUnavailable(self.url, "this end of the connection was closed"))

    def _on_change(self, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            if self._dialling is not None:
                self._dialling.cancel()
                self._dialling = None
        else:
            self._hang_up(broken(self.url, event))

    def _prepare(self, call: Call, args: Any, buffers: list[Any] | None, headers: dict[str, Any] | None) -> None:
        event_headers = {**(headers or {}), "message_id": call.id, "znb": wire.WIRE_VERSION}
        call.frames = [b"", wire.encode_event(event_headers, call.method, args), *(buffers or ())]

    def _start(self, call: Call) -> None:
        frames, call.frames = call.frames, []
        if not self._admit(call) or self._socket is None:
            return
        if self._tell_change is not None and not int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            self._hang_up(ServiceUnavailable(self.url, "it has refused this connection"))  # sending would wait for ever
            return
        send_message(self._socket, frames)

    def _admit(self, call: Call) -> bool:
        """Note a call as under way; return whether it is still to be sent."""
        if call.ended:  # it was cancelled or abandoned before it was sent (again)
            return False
        if self._socket is None and self._watch and self._closed is None and not self.reactor.stopped:
            self.open()
        if self._socket is None:
            never = ServiceUnavailable(self.url, "the connection was never opened")
            call.deliver(Lost(self._closed or never))
            return False
        self._calls[call.id] = call
        if self._look is None and self._process is not None:
            self._look = self.reactor.call_later(LOOK_AFTER, self._look_after)
        return True

    def _flush(self) -> None:
        """Send the packed calls that have gathered."""
        self._flushing = False
        batch: list[Call] = []
        size = 0
        while self._outbox:
            call = self._outbox.popleft()
            if not self._admit(call):
                call.frames = []
                continue
            if batch and _trace_of(batch[0]) != _trace_of(call):
                self._send_batch(batch)
                batch, size = [], 0
            batch.append(call)
            size += len(call.frames[0])
            if len(batch) == BATCH_CALLS or size > BATCH_BYTES:
                self._send_batch(batch)
                batch, size = [], 0
        if batch:
            self._send_batch(batch)

    def _send_batch(self, batch: list[Call]) -> None:
        if self._socket is None:
            return
        packed = [msgspec.Raw(call.frames[0]) for call in batch]
        first = batch[0]
        headers: dict[str, Any] = {"znb": wire.WIRE_VERSION}
        if first.context is not None:
            trace_id, span_id = first.context.trace_id, first.context.span_id
            headers |= {"trace": pack_context(trace_id, span_id)} if trace_id else {"tracestate": OFF_STATE}
        if len(batch) == 1:
            headers["message_id"] = first.id
            blob = wire.encode_event(headers, first.method, packed[0])
        else:
            headers["message_id"] = next(self._ids)
            headers["spans"] = [call.context.span_id for call in batch if call.context is not None]
            calls = [(call.id, call.method, body) for call, body in zip(batch, packed, strict=True)]
            blob = wire.encode_event(headers, wire.CALLS, calls)
        for call in batch:
            call.frames = []
        send_message(self._socket, [b"", blob])

    def _on_message(self, frames: list[Any]) -> None:
        start = 1 if len(frames) > 1 and len(frames[0]) == 0 else 0
        try:
            event = wire.decode_event(frames[start], frames[start + 1 :], raw=self._raw)
            if event.name == wire.RESULTS and self._raw:
                self._on_results(event)
                return
            call = self._calls.get(wire.channel_of(event))  # type: ignore[arg-type]
            if call is None:
                self._strays += 1  # the call was abandoned while this was under way
            else:
                self._on_event(call, event, len(frames[start]))
        except ProtocolError as error:
            if self._watch:
                self._hang_up(error)
            else:
                self.close(error)

    def _on_results(self, event: wire.Event) -> None:
        for identifier, result in wire.decode_results(event.args):
            call = self._calls.pop(identifier, None)
            if call is None:
                self._strays += 1
            else:
                self.reactor.guard(call.deliver, Reply(wire.OK, result, event.headers, []))

    def _on_event(self, call: Call, event: wire.Event, size: int) -> None:
        if event.name == wire.HEARTBEAT:
            if "znb" not in event.headers:  # zerorpc wants to hear the same, or gives us up
                self.send_control(call, wire.HEARTBEAT, [0])
            return
        if event.name == wire.MORE:
            return
        if event.name not in wire.REPLIES:
            raise ProtocolError(f"expected a reply on the channel of {call.method}, got {event.name!r:.50}")
        reply = Reply(event.name, event.args, event.headers, event.buffers)
        if reply.name in {wire.STREAM, wire.ITEMS} and call._window is None:
            size += sum(len(frame) for frame in event.buffers)
            call._window = CreditWindow(window_for(size) if self._raw else STREAM_WINDOW)
            self.send_control(call, wire.MORE, [call._window.open()])
        if reply.is_last:
            if not self._raw:
                wire.check_reply(event)
            del self._calls[call.id]
        call.deliver(reply)


def _trace_of(call: Call) -> int:
    return 0 if call.context is None else call.context.trace_id


def _deaf(_call: Call, _event: Reply | Lost) -> None:
    """Hear nothing."""


def broken(url: str, event: int, detail: int = 0) -> ZnbError:
    """Return what a change of a connection means to its calls."""
    if detail == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH and event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return AuthError(
            f"{url} has keys and this address has not, or the other way round; the address of a service with keys ends "
            f"in '#' and the {KEY_DIGITS} hex digits of its public key"
        )
    if event == zmq.EVENT_DISCONNECTED:
        error = ServiceUnavailable(url, "the process behind it ended, or closed the connection, before it answered")
        error.fields["may_have_run"] = error.may_have_run = True  # type: ignore[attr-defined]
        return error
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return AuthError(f"{url} refused our key; the address of a service with keys ends in '#' and its public key")
    return ServiceUnavailable(url, "it refused the connection", hint="does it want a key, or has it another one?")
