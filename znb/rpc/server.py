"""The ROUTER end of calls: requests come in, replies and streams go out under credit.

Invariants: a malformed message costs its sender its own channels and nobody else's. A caller that is gone is noticed
within ``SWEEP_INTERVAL``: at once by its connection, and a zerorpc caller that gave up by its silence. The reactor's
thread owns the server.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import zmq

from znb import wire
from znb.errors import ProtocolError
from znb.rpc.request import GateClosed, Request
from znb.transport import Reactor, receive_small, send_message

__all__ = ["GateClosed", "Request", "Server", "ServerStats"]

logger = logging.getLogger("znb.rpc")

#: Seconds between looks whether the callers of open requests are still there.
SWEEP_INTERVAL = 0.5
#: Seconds between heartbeats to zerorpc callers, on each of their channels (zerorpc's default).
BEAT_INTERVAL = 5.0
#: Seconds after which a zerorpc caller that used to beat is taken to have given up (3 intervals, and some air).
BEAT_TIMEOUT = 16.0
#: Seconds between two warnings about callers that break the protocol, so that they cannot flood the log.
COMPLAINT_INTERVAL = 1.0

#: Errors of a ROUTER that say that the peer is not connected (any more).
_GONE = (zmq.EHOSTUNREACH, zmq.EAGAIN)


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
        raw: Whether requests keep their arguments as ``msgspec.Raw``, to be read by whoever runs the call.
        max_bytes: Bytes of msgpack that one message may have; ``None`` for any number.
        express: Called with each event first; returns whether that was all (see ``Service``).
    """

    def __init__(
        self,
        reactor: Reactor,
        dispatch: Callable[[Request], object],
        *,
        raw: bool = False,
        max_bytes: int | None = None,
        express: Callable[[bytes, wire.Event], bool] | None = None,
    ) -> None:
        self.reactor = reactor
        self.url = ""
        self._raw = raw
        self._express = express
        self._max_bytes = math.inf if max_bytes is None else max_bytes
        self._dispatch = dispatch
        self._ids = wire.message_ids()
        self._open: dict[bytes, dict[Any, Request]] = {}
        self._socket: zmq.Socket[bytes] | None = None
        self._sweeping = False
        self._complaints = 0
        self._complained = -math.inf
        self._next_beat = 0.0

    def bind(self, url: str, prepare: Callable[[zmq.Socket[bytes]], object] | None = None) -> str:
        """Listen at ``url``; return the address with its port filled in. On the reactor's thread.

        Args:
            url: Where to listen.
            prepare: Sets options of the socket before it is bound, such as keys.
        """
        self._socket = self.reactor.socket(zmq.ROUTER, url)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if prepare is not None:
            prepare(self._socket)
        self.url = self.reactor.bind(self._socket, url)
        self.reactor.add_socket(self._socket, self._on_message, receive=receive_small)
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
            if not request.may_end(frames):
                return
        except GateClosed:  # the caller has gone meanwhile
            return
        request.ended()
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
        try:
            send_message(self._socket, frames)
        except zmq.ZMQError as error:
            if error.errno not in _GONE:
                raise
            self._drop_peer(frames[0])

    def _on_message(self, frames: list[Any]) -> None:
        peer = frames[0]
        start = 2 if len(frames) > 1 and len(frames[1]) == 0 else 1
        if len(frames) <= start:
            self._complain(ProtocolError("expected a blob after the empty frame, got none"))
            return
        blob = frames[start]
        try:
            event = wire.decode_event(blob, frames[start + 1 :], raw=self._raw)
            del frames[start + 1 :]  # they go with the event
        except ProtocolError as error:
            self._complain(error)
            for request in list(self._open.get(peer, {}).values()):
                self._break(request, error)
            return
        try:
            if len(blob) > self._max_bytes:
                raise _too_large(len(blob), self._max_bytes)
            if self._express is not None and self._express(peer, event):
                return
            channel = wire.channel_of(event)
            if channel is None:
                self._dispatch_request(self.admit(peer, event))
            else:
                self._on_control(peer, channel, event)
        except ProtocolError as error:
            self._complain(error)
            self._refuse(peer, event, error)
        except Exception as error:  # a defect of ours must not leave the caller waiting
            logger.exception("a message to %s could not be handled", self.url)
            self._refuse(peer, event, ProtocolError(f"{type(error).__name__}: {error}"))

    def _on_control(self, peer: bytes, channel: Any, event: wire.Event) -> None:
        request = self._open.get(peer, {}).get(channel)
        if request is None:
            return  # it has ended; what crossed with its end is of no use
        if event.name == wire.MORE:
            request.grant(_count(wire.decode_args(event.args)))
        elif event.name == wire.CANCEL:
            self._forget(request)
            request.cancel()
        elif event.name == wire.HEARTBEAT:
            request.heard = time.monotonic()
            if not request.from_znb:  # whatever its interval is, it hears of us as often as we of it
                self._send_nowait(self.frames(request, wire.HEARTBEAT, [0], None, {}))
            if not request.from_znb:  # whatever its interval is, it hears of us as often as we of it
                self._send_nowait(self.frames(request, wire.HEARTBEAT, [0], None, {}))
        else:
            raise ProtocolError(f"expected a control event on an open channel, got {event.name!r:.50}")

    def take_request(self, peer: bytes, event: wire.Event) -> None:
        """Take an event that opens a channel, and did not come alone."""
        try:
            request = self.admit(peer, event)
        except ProtocolError as error:
            self._complain(error)
            self._refuse(peer, event, error)
        else:
            self._dispatch_request(request)

    def _dispatch_request(self, request: Request) -> None:
        try:
            self._dispatch(request)
        except Exception as error:
            logger.exception("a request could not be dispatched: %r", request.method)
            request.fail(type(error).__name__, str(error))

    def admit(self, peer: bytes, event: wire.Event) -> Request:
        """Return the request of an event that opens a channel.

        Raises:
            ProtocolError: It is none.
        """
        request = Request(self, peer, event)
        requests = self._open.setdefault(peer, {})
        if request.id in requests:
            raise ProtocolError("a message_id was used twice")
        requests[request.id] = request
        if not self._sweeping:
            self._sweeping = True
            self.reactor.call_later(SWEEP_INTERVAL, self._sweep)
        return request

    def answer(self, peer: bytes, channel: Any, packed: bytes | msgspec.Raw, buffers: list[Any]) -> None:
        """Send the one result of a call that was not admitted; ``packed`` is ``[result]`` in msgpack."""
        headers = {"message_id": next(self._ids), "response_to": channel, "znb": wire.WIRE_VERSION}
        self._send_nowait([peer, b"", wire.encode_event(headers, wire.OK, msgspec.Raw(packed)), *buffers])

    def answer_many(self, peer: bytes, results: list[tuple[int, msgspec.Raw]]) -> None:
        """Send the results of several calls that were not admitted."""
        if len(results) == 1:
            self.answer(peer, *results[0], [])
            return
        headers = {"message_id": next(self._ids), "znb": wire.WIRE_VERSION}
        self._send_nowait([peer, b"", wire.encode_event(headers, wire.RESULTS, results)])

    def _sweep(self) -> None:
        """Find out which callers have gone.

        A heartbeat to each that waits fails at once where the connection has gone; who only has calls open that last as
        long as the connection gets fewer. zerorpc callers get one on each of
        their channels, as often as they expect them, and are given up when they have stopped to answer.
        """
        self._sweeping = False
        if self._socket is None:
            return
        now = time.monotonic()
        beat = now >= self._next_beat
        if beat:
            self._next_beat = now + BEAT_INTERVAL
        for requests in list(self._open.values()):
            idle = all(request.lasting for request in requests.values())
            for number, request in enumerate(list(requests.values())):
                if (number == 0 and (beat or not idle)) or (beat and not request.from_znb):
                    self._send_nowait(self.frames(request, wire.HEARTBEAT, [0], None, {}))
                given_up = request.heard is not None and now - request.heard > BEAT_TIMEOUT
                if given_up or (request.deadline is not None and now > request.deadline):
                    self._forget(request)
                    request.cancel()
        if self._open:
            self._sweeping = True
            self.reactor.call_later(SWEEP_INTERVAL, self._sweep)

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


def _too_large(size: int, limit: float) -> ProtocolError:
    return ProtocolError(
        f"expected at most {limit:,} bytes of msgpack in a message, got {size:,}; arrays and bytes "
        f"travel beside it without a limit, and the service's max_bytes raises this one"
    )
