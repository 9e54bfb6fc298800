"""A blocking socket for one call at a time, owned by the thread that makes the call: no hop to the I/O thread.

Invariants: a line is used by one thread at a time; replies of earlier calls that were given up are skipped; a line
whose connection broke is not used again, so that nothing queued for a dead server reaches the one that replaces it.
Waiting wakes at least every ``LOOK`` seconds to see whether the server is still there; signals interrupt it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import zmq

from znb import wire
from znb.errors import AuthError, CallTimeout, ProtocolError, ServiceUnavailable
from znb.rpc.client import MONITORED, broken, connect_timeout
from znb.rpc.silence import Peer, Process, Silence
from znb.transport import prepare_socket, receive_small, send_message

__all__ = ["Line"]

#: Seconds after a reply during which the server is taken to be there; a look costs 1.5 µs.
FRESH = 0.02
#: Seconds between looks whether the server is still there, while waiting.
LOOK = 0.25
#: Handshakes that fail without a reason until it is taken to be the keys.
REFUSALS_MAX = 3
_LOOK_MS = int(LOOK * 1000)
_EVENTS = int(zmq.EVENTS)
_RCVTIMEO = int(zmq.RCVTIMEO)


class Line:
    """One blocking connection to a server.

    Args:
        context: Where the sockets belong.
        url: Where the server listens.
        prepare: Sets options of the socket before it dials, such as keys.
        peer: Who listens there.

    Attributes:
        ids: Source of channel and message ids.
        zerorpc: Whether the server speaks zerorpc only.
    """

    __slots__ = (
        "_broken",
        "_connected",
        "_dialled",
        "_heard",
        "_keyed",
        "_monitor",
        "_patience",
        "_peer",
        "_pid",
        "_process",
        "_refusals",
        "_silence",
        "_socket",
        "ids",
        "url",
        "zerorpc",
    )

    def __init__(
        self,
        context: zmq.Context[Any],
        url: str,
        prepare: Callable[[zmq.Socket[bytes]], object] | None,
        peer: Peer,
    ) -> None:
        self.url = url
        self.ids = wire.message_ids()
        self.zerorpc = False
        self._connected = False
        self._heard = 0.0
        self._broken: Exception | None = None
        self._refusals = 0
        self._keyed = prepare is not None
        self._peer = peer
        self._process: Process | None = None
        self._silence: Silence | None = None
        self._pid = os.getpid()
        self._dialled = time.monotonic()
        self._patience = connect_timeout(url)
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        prepare_socket(self._socket, url)
        self._socket.setsockopt(zmq.RCVTIMEO, _LOOK_MS)
        if prepare is not None:
            prepare(self._socket)
        self._monitor = self._socket.get_monitor_socket(MONITORED)
        self._socket.connect(url)
        self._process = peer.find_process()

    def __del__(self) -> None:
        self.close()

    @property
    def usable(self) -> bool:
        """Whether another call may be made on it."""
        if self._monitor.getsockopt(_EVENTS) & 1:
            self._listen()
        return self._broken is None

    @property
    def fresh(self) -> bool:
        """Whether the server was heard a moment ago, so that looking for it is a waste."""
        return time.monotonic() - self._heard < FRESH

    def send(self, frames: list[Any]) -> None:
        """Send a message, given without its empty frame."""
        send_message(self._socket, [b"", *frames])

    def send_control(self, channel: int, name: str, args: Any) -> None:
        """Send an event that costs no credit."""
        headers = {"message_id": next(self.ids), "response_to": channel, "znb": wire.WIRE_VERSION}
        self.send([wire.encode_event(headers, name, args)])

    def cancel(self, channel: int, reason: str) -> None:
        """Have the server stop a call. zerorpc has no way to say so; it notices that we do not beat any more."""
        if not self.zerorpc:
            self.send_control(channel, wire.CANCEL, [reason])

    def receive(
        self, channel: int, *, deadline: float | None, what: str, allowed: float = 0.0
    ) -> tuple[wire.Event, int]:
        """Wait for the next event of a call that is no control event.

        Args:
            channel: The call's id.
            deadline: Monotonic time; ``None`` for no limit.
            what: The call, for messages.
            allowed: Seconds that the deadline was made of, for messages.

        Returns:
            The event, its arguments as ``msgspec.Raw``, and the size of its message in bytes.

        Raises:
            CallTimeout: The deadline passed; the server has been told.
            ServiceUnavailable: The server is not there, or went.
            AuthError: The server refused our key.
            ProtocolError: The server sent what is no event.
        """
        self._silence = None
        while True:
            frames = self._next(channel, deadline, what, allowed)
            start = 1 if len(frames) > 1 and len(frames[0]) == 0 else 0
            event = wire.decode_event(frames[start], frames[start + 1 :], raw=True)
            if event.headers.get("response_to") != channel:
                self._hear_other(event)
                continue
            name = event.name
            if name in wire.REPLIES:
                self._peer.heard()
                return event, len(frames[start]) + sum(len(frame) for frame in event.buffers)
            if name == wire.HEARTBEAT:
                if "znb" not in event.headers:  # zerorpc wants to hear the same, or gives us up
                    self.send_control(channel, wire.HEARTBEAT, [0])
            elif name != wire.MORE:
                raise ProtocolError(f"expected a reply to {what}, got {name!r:.50}")

    def receive_now(self, channel: int, method: str) -> tuple[wire.Event, int]:
        """As ``receive`` without a deadline, for the case that the reply is all that comes."""
        try:
            frames = receive_small(self._socket, 0, 2)
            event = wire.decode_event(frames[1], frames[2:], raw=True)
            if event.name in wire.REPLIES and event.headers.get("response_to") == channel:
                self._heard = time.monotonic()
                return event, len(frames[1]) + sum(len(frame) for frame in event.buffers)
        except (zmq.Again, IndexError):
            self._check(method)
        return self.receive(channel, deadline=None, what=method)

    def close(self) -> None:
        """Hang up. May be called twice."""
        if self._pid == os.getpid() and not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(0)

    def _next(self, channel: int, deadline: float | None, what: str, allowed: float) -> list[Any]:
        if deadline is None:
            while True:
                try:
                    return receive_small(self._socket, 0, 2)
                except zmq.Again:
                    self._check(what)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                self.cancel(channel, "timed out")
                raise CallTimeout(what, allowed)
            self._socket.setsockopt(_RCVTIMEO, max(1, min(_LOOK_MS, int(left * 1000))))
            try:
                return receive_small(self._socket, 0, 2)
            except zmq.Again:
                self._check(what)
            finally:
                self._socket.setsockopt(_RCVTIMEO, _LOOK_MS)

    def _check(self, what: str) -> None:
        """Raise if the server is not there."""
        self._listen()
        if self._broken is not None:
            self._broken.add_note(f"while {what} was waited for")
            raise self._broken from None  # zmq.Again says nothing
        if not self._connected and time.monotonic() - self._dialled > self._patience:
            self._broken = self._never_connected()
            raise self._broken from None  # zmq.Again says nothing
        if self._silence is None:
            self._silence = Silence(self._peer, self._process, None if self.zerorpc else self._ask)
        gone = self._silence.look(connected=self._connected)
        if gone is not None:
            gone.fields["may_have_run"] = gone.may_have_run = self._connected  # type: ignore[attr-defined]
            self._broken = gone
            raise gone from None  # zmq.Again says nothing

    def _never_connected(self) -> ServiceUnavailable:
        if self._refusals:
            hint = "Does the service want a key? Its address ends in '#' and its public key then"
            return ServiceUnavailable(self.url, "what listens there closes each connection at once", hint=hint)
        if self._process is not None and self._process.frozen:
            hint = f"`kill -CONT {self._process.pid}` lets it go on"
            return ServiceUnavailable(self.url, "its process is frozen (stopped by a signal)", hint=hint)
        return ServiceUnavailable(self.url, f"nobody answered within {self._patience:g} s")

    def _hear_other(self, event: wire.Event) -> None:
        """Take an event of a call that was given up, or an answer to ``_ask``."""
        if self._silence is not None:
            self._silence.hear(event)

    def _ask(self) -> int:
        """Ask the server for its figures; return the channel of the answer."""
        channel = next(self.ids)
        headers = {"message_id": channel, "v": 3, "znb": wire.WIRE_VERSION}
        self.send([wire.encode_event(headers, "_znb_stats", [])])
        return channel

    def _listen(self) -> None:
        while True:
            try:
                frames = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            event = int.from_bytes(frames[0][:2], "little")
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connected = True
                continue
            error = broken(self.url, event, int.from_bytes(frames[0][2:6], "little"))
            if not self._connected and not isinstance(error, AuthError):
                # Nothing was sent yet, and it dials anew. Which end notices first that keys do not fit is a race.
                self._refusals += event != zmq.EVENT_DISCONNECTED
                if not self._keyed or self._refusals < REFUSALS_MAX:
                    continue
                error = AuthError(
                    f"{self.url} closes each connection before it is made: its keys are not those of this address"
                )
            if self._broken is None:  # after a handshake that failed comes the end of the connection
                self._broken = error
