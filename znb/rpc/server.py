"""The ROUTER end of calls: requests come in, replies and streams go out under credit.

Invariants: a request ends exactly once, as OK, ERR, STREAM_DONE, or because its caller is gone; after that
nothing is sent for it. A malformed message costs its sender its own channels and nobody else's. The
reactor's thread owns the server; a ``Request`` may be answered from any thread.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import zmq

from znb import wire
from znb.errors import ProtocolError
from znb.flow import CreditGate, GateClosed
from znb.transport import Reactor

__all__ = ["GateClosed", "Request", "Server", "ServerStats"]

logger = logging.getLogger("znb.rpc")

#: Seconds between looks whether the callers of open requests are still connected.
PROBE_INTERVAL = 0.5
#: Credits a caller has given before its first grant (zerorpc).
INITIAL_CREDITS = 1
#: Messages larger than this go to libzmq without a copy; below, copying is cheaper than tracking.
COPY_THRESHOLD = 65536
#: Seconds between two warnings about callers that break the protocol, so that they cannot flood the log.
COMPLAINT_INTERVAL = 1.0

#: Errors of a ROUTER that say that the peer is not connected (any more).
_GONE = (zmq.EHOSTUNREACH, zmq.EAGAIN)


class Request:
    """One call on the serving side.

    Attributes:
        method: The method's name.
        args: The arguments as msgpack carried them.
        buffers: Out-of-band frames.
        headers: The event's headers.
        peer: The caller's routing id; equal for all calls of one connection.
        deadline: Monotonic time after which nobody waits for the answer; ``None`` for never.
        received_ns: ``time.time_ns()`` of arrival.
        on_cancel: Called on the reactor's thread, at most once, when the caller gave up or vanished. To be set before
            the server's ``dispatch`` returns.
        closed: Whether it has ended.
    """

    __slots__ = (
        "_gate",
        "_last",
        "_lock",
        "_server",
        "_streaming",
        "args",
        "buffers",
        "closed",
        "deadline",
        "headers",
        "id",
        "method",
        "on_cancel",
        "peer",
        "received_ns",
    )

    def __init__(self, server: Server, peer: bytes, event: wire.Event) -> None:
        self._server = server
        self._gate = CreditGate(INITIAL_CREDITS)
        self._lock = threading.Lock()
        self._streaming = False
        self._last: list[Any] | None = None
        self.peer = peer
        self.id = wire.id_of(event)
        self.method = event.name
        self.args = event.args
        self.buffers = event.buffers
        self.headers = event.headers
        self.received_ns = time.time_ns()
        self.deadline = _deadline(event.headers.get("deadline"))
        self.on_cancel: Callable[[], object] | None = None
        self.closed = False

    # -- any thread ----------------------------------------------------------------------------------------

    def reply(self, result: Any, buffers: list[Any] | None = None, **headers: Any) -> None:
        """End the call with its one result.

        Raises:
            TypeError: msgpack cannot carry ``result`` or a header; the call is still open.
        """
        self._finish(wire.OK, [result], buffers, headers)

    def fail(self, name: str, message: str, trace: str = "", **headers: Any) -> None:
        """End the call with an error; ``headers`` may carry the exception itself."""
        buffers = headers.pop("buffers", None)
        self._finish(wire.ERR, [name, message, trace], buffers, headers)

    def end(self) -> None:
        """End a stream."""
        self._finish(wire.STREAM_DONE, None, None, {})

    def send_item(
        self, item: Any, buffers: list[Any] | None = None, timeout: float | None = None, **headers: Any
    ) -> bool:
        """Send one item of a stream, waiting until the caller has room for it.

        Returns:
            Whether it was sent; ``False`` means that ``timeout`` seconds passed without credit.

        Raises:
            GateClosed: The caller gave up or vanished.
            TypeError: msgpack cannot carry ``item`` or a header; the stream is still open.
        """
        frames = self._server.frames(self, wire.STREAM, item, buffers, headers)
        if not self._gate.wait_take(timeout):
            return False
        self._streaming = True
        self._server.send_frames(frames)
        return True

    def need(self, keys: list[bytes]) -> None:
        """Ask the caller for definitions; it sends the request again, and this one is forgotten."""
        self._finish(wire.NEED, keys, None, {})

    def _finish(self, name: str, args: Any, buffers: list[Any] | None, headers: dict[str, Any]) -> None:
        frames = self._server.frames(self, name, args, buffers, headers)
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self._server.finish(self, frames)

    # -- the reactor's thread ------------------------------------------------------------------------------

    def grant(self, count: int) -> None:
        """Take the caller's credits."""
        self._gate.grant(count)
        if self._last is not None:
            self._server.end(self, self._last)

    def cancel(self) -> None:
        """Stop: the caller gave up or is gone."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self._gate.close()
        if self.on_cancel is not None:
            self._server.reactor.guard(self.on_cancel)

    def _may_end(self, frames: list[Any]) -> bool:
        """Whether its end may be sent now; else it is kept until the caller grants the credit that it costs.

        A zerorpc caller counts the end of a stream among the items that it has room for.
        """
        if not self._streaming or "znb" in self.headers or self._gate.take_nowait():
            return True
        self._last = frames
        return False


class ServerStats(NamedTuple):
    """A snapshot of a server.

    Attributes:
        url: Where it listens.
        peers: Callers with open requests.
        requests: Open requests.
        complaints: Messages since the start that broke the protocol.
    """

    url: str
    peers: int
    requests: int
    complaints: int


class Server:
    """Serves calls on one ROUTER socket.

    Args:
        reactor: The I/O thread.
        dispatch: Called on the reactor's thread with each request; must not block. Whoever it hands the
            request to ends it. If it raises, the request fails with what it raised.
    """

    def __init__(self, reactor: Reactor, dispatch: Callable[[Request], object]) -> None:
        self.reactor = reactor
        self.url = ""
        self._dispatch = dispatch
        self._ids = wire.message_ids()
        self._open: dict[bytes, dict[Any, Request]] = {}
        self._socket: zmq.Socket[bytes] | None = None
        self._probing = False
        self._complaints = 0
        self._complained = -math.inf

    def bind(self, url: str) -> str:
        """Listen at ``url``; return the address with its port filled in. On the reactor's thread."""
        self._socket = self.reactor.socket(zmq.ROUTER, url)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.url = self.reactor.bind(self._socket, url)
        self.reactor.add_socket(self._socket, self._on_message)
        self.reactor.at_stop(self.close)
        return self.url

    def close(self) -> None:
        """Stop listening and cancel what runs. On the reactor's thread; may be called twice."""
        self.reactor.not_at_stop(self.close)
        peers, self._open = self._open, {}
        for requests in peers.values():
            for request in requests.values():
                request.cancel()
        if self._socket is not None:
            self.reactor.close_socket(self._socket)
            self._socket = None

    # -- any thread ----------------------------------------------------------------------------------------

    def stats(self) -> ServerStats:
        """Return what is open."""
        peers = list(self._open.values())
        return ServerStats(self.url, len(peers), sum(map(len, peers)), self._complaints)

    def frames(
        self, request: Request, name: str, args: Any, buffers: list[Any] | None, headers: dict[str, Any]
    ) -> list[Any]:
        """Return the frames of one event of a request's channel."""
        return self._frames(request.peer, request.id, name, args, buffers, headers)

    def _frames(
        self, peer: bytes, channel: Any, name: str, args: Any, buffers: list[Any] | None, headers: dict[str, Any]
    ) -> list[Any]:
        headers.update(message_id=next(self._ids), response_to=channel, znb=wire.WIRE_VERSION)
        return [peer, b"", wire.encode_event(headers, name, args), *(buffers or ())]

    def send_frames(self, frames: list[Any]) -> None:
        """Send an event; from any thread, in the order called."""
        if self.reactor.on_thread:
            self._send_nowait(frames)
        else:
            self.reactor.call_soon(self._send_nowait, frames)

    def finish(self, request: Request, frames: list[Any]) -> None:
        """Send the last event of a request, and forget it; from any thread."""
        if self.reactor.on_thread:
            self.end(request, frames)
        else:
            self.reactor.call_soon(self.end, request, frames)

    # -- the reactor's thread ------------------------------------------------------------------------------

    def end(self, request: Request, frames: list[Any]) -> None:
        """Send the last event of a request when its caller has room for it, and forget the request.

        Both at once: after a NEED the same id may come again at any time.
        """
        try:
            if not request._may_end(frames):
                return
        except GateClosed:  # the caller has gone meanwhile
            return
        request._gate.close()
        self._forget(request)
        self._send_nowait(frames)

    def _forget(self, request: Request) -> None:
        requests = self._open.get(request.peer)
        if requests is not None and requests.get(request.id) is request:
            del requests[request.id]
            if not requests:
                del self._open[request.peer]

    def _send_nowait(self, frames: list[Any]) -> None:
        if self._socket is None:
            return
        large = any(_size(frame) > COPY_THRESHOLD for frame in frames)
        try:
            self._socket.send_multipart(frames, copy=not large)
        except zmq.ZMQError as error:
            if error.errno not in _GONE:
                raise
            self._drop_peer(frames[0])

    def _on_message(self, frames: list[zmq.Frame]) -> None:
        peer = frames[0].bytes
        start = 2 if len(frames) > 1 and len(frames[1]) == 0 else 1
        if len(frames) <= start:
            self._complain(ProtocolError("expected a blob after the empty frame, got none"))
            return
        try:
            event = wire.decode_event(frames[start].buffer, list(frames[start + 1 :]))
        except ProtocolError as error:
            self._complain(error)
            for request in list(self._open.get(peer, {}).values()):
                self._break(request, error)
            return
        try:
            channel = wire.channel_of(event)
            if channel is None:
                self._on_request(peer, event)
            else:
                self._on_control(peer, channel, event)
        except ProtocolError as error:
            self._complain(error)
            self._refuse(peer, event, error)

    def _on_control(self, peer: bytes, channel: Any, event: wire.Event) -> None:
        request = self._open.get(peer, {}).get(channel)
        if request is None:
            return  # it has ended; what crossed with its end is of no use
        if event.name == wire.MORE:
            request.grant(_count(event.args))
        elif event.name == wire.CANCEL:
            self._forget(request)
            request.cancel()
        elif event.name != wire.HEARTBEAT:
            raise ProtocolError(f"expected a control event on an open channel, got {event.name!r:.50}")

    def _on_request(self, peer: bytes, event: wire.Event) -> None:
        request = Request(self, peer, event)
        requests = self._open.setdefault(peer, {})
        if request.id in requests:
            raise ProtocolError("a message_id was used twice")
        requests[request.id] = request
        if not self._probing:
            self._probing = True
            self.reactor.call_later(PROBE_INTERVAL, self._probe)
        try:
            self._dispatch(request)
        except Exception as error:
            logger.exception("a request could not be dispatched: %r", request.method)
            request.fail(type(error).__name__, str(error))

    def _probe(self) -> None:
        """Send a heartbeat to each caller that waits: it fails at once where the caller has gone."""
        self._probing = False
        if self._socket is None:
            return
        for requests in list(self._open.values()):
            request = next(iter(requests.values()))
            self._send_nowait(self.frames(request, wire.HEARTBEAT, [0], None, {}))
        if self._open:
            self._probing = True
            self.reactor.call_later(PROBE_INTERVAL, self._probe)

    def _drop_peer(self, peer: bytes) -> None:
        for request in self._open.pop(peer, {}).values():
            request.cancel()

    def _refuse(self, peer: bytes, event: wire.Event, error: ProtocolError) -> None:
        """Close the channel of an event that breaks the protocol, be it open or not."""
        for header in ("response_to", "message_id"):
            channel = event.headers.get(header)
            if isinstance(channel, bytes | str | int):
                request = self._open.get(peer, {}).get(channel)
                if request is not None:
                    self._break(request, error)
                else:
                    self._send_nowait(self._frames(peer, channel, wire.ERR, _error_args(error), None, {}))
                return

    def _break(self, request: Request, error: ProtocolError) -> None:
        """Close an open channel because its caller broke the protocol: tell it, and stop the work."""
        self._forget(request)
        request.cancel()
        self._send_nowait(self.frames(request, wire.ERR, _error_args(error), None, {}))

    def _complain(self, error: ProtocolError) -> None:
        self._complaints += 1
        now = time.monotonic()
        if now - self._complained >= COMPLAINT_INTERVAL:
            self._complained = now
            logger.warning("a caller of %s broke the protocol and lost its calls: %s", self.url, error)


def _error_args(error: ProtocolError) -> list[str]:
    return [type(error).__name__, str(error), ""]


def _count(args: Any) -> int:
    """Read the number of credits of a grant."""
    if isinstance(args, list) and len(args) == 1 and isinstance(args[0], int) and args[0] >= 0:
        return args[0]
    raise ProtocolError(f"expected [n] as a grant of credits, got {args!r:.50}")


def _deadline(left: Any) -> float | None:
    """Return the monotonic time at which ``left`` seconds have passed."""
    if left is None:
        return None
    if isinstance(left, int | float) and not math.isnan(left):
        return time.monotonic() + left
    raise ProtocolError(f"expected seconds as deadline, got {left!r:.50}")


def _size(frame: Any) -> int:
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)
