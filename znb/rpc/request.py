"""One call on the serving side: what was asked, and the ways to answer it.

Invariants: it ends exactly once, as OK, ERR, STREAM_DONE, or because its caller is gone; after that nothing is sent
for it. Items leave in the order given, and before the end. Its table of owners: the server's reactor calls ``grant``
and ``cancel``; everything else may be called from any thread.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from znb import wire
from znb.errors import ProtocolError
from znb.flow import CreditGate, GateClosed

if TYPE_CHECKING:
    from znb.rpc.server import Server

__all__ = ["GateClosed", "Request"]

#: Credits a caller has given before its first grant (zerorpc).
INITIAL_CREDITS = 1


class Request:
    """One call on the serving side.

    Attributes:
        method: The method's name.
        args: The arguments as msgpack carried them.
        buffers: Out-of-band frames.
        headers: The event's headers.
        peer: The caller's routing id; equal for all calls of one connection.
        deadline: Monotonic time after which nobody waits for the answer; ``None`` for never.
        received_ns: ``time.perf_counter_ns()`` of arrival.
        on_cancel: Called on the reactor's thread, at most once, when the caller gave up or vanished. To be set before
            the server's ``dispatch`` returns.
        on_grant: Called on the reactor's thread when the caller has made room for items.
        closed: Whether it has ended.
        lasting: Whether it goes on for as long as the connection, so that nobody waits for its end.
        heard: Monotonic time of the caller's last heartbeat; ``None`` if it never sent one.
    """

    __slots__ = (
        "_gate",
        "_last",
        "_lock",
        "_outbox",
        "_server",
        "_streaming",
        "args",
        "buffers",
        "closed",
        "deadline",
        "headers",
        "heard",
        "id",
        "lasting",
        "method",
        "on_cancel",
        "on_grant",
        "peer",
        "received_ns",
    )

    def __init__(self, server: Server, peer: bytes, event: wire.Event) -> None:
        self._server = server
        self._gate: CreditGate | None = None
        self._lock = threading.Lock()
        self._streaming = False
        self._last: list[Any] | None = None
        self._outbox: list[Any] = []
        self.peer = peer
        self.id = wire.id_of(event)
        self.headers, self.method, self.args, self.buffers = event
        self.received_ns = time.perf_counter_ns()
        left = self.headers.get("deadline")
        self.deadline = None if left is None else _deadline(left)
        self.on_cancel: Callable[[], object] | None = None
        self.on_grant: Callable[[], object] | None = None
        self.closed = False
        self.lasting = False
        self.heard: float | None = None

    @property
    def from_znb(self) -> bool:
        """Whether the caller is a znb peer, who knows more than zerorpc does."""
        return "znb" in self.headers

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
        args = [name, message, trace]
        if self.headers.get("v", 1) in {0, 1}:  # zerorpc's first version knew one text
            args = [f"{name}({message!r})"]
        self._finish(wire.ERR, args, buffers, headers)

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
        if not self._open_gate().wait_take(timeout):
            return False
        self._streaming = True
        self._server.send_frames(frames)
        return True

    def post_item(self, item: Any, buffers: list[Any] | None = None) -> None:
        """Send one item of a stream whose bounds are kept elsewhere: without waiting, and at no credit."""
        self._server.send_frames(self._server.frames(self, wire.STREAM, item, buffers, {}))

    def put_item(self, item: bytes, buffers: list[Any], timeout: float | None = None) -> bool:
        """Send one item that is msgpack already; those that gather meanwhile leave together, if the caller reads that.

        Returns and raises what ``send_item`` does.
        """
        if not self._open_gate().wait_take(timeout):
            return False
        self._put(item, buffers)
        return True

    def put_item_nowait(self, item: bytes, buffers: list[Any]) -> bool:
        """As ``put_item``; returns ``False`` at once if there is no room (``on_grant`` tells when to try again)."""
        if not self._open_gate().take_nowait():
            return False
        self._put(item, buffers)
        return True

    def need(self, keys: list[bytes]) -> None:
        """Ask the caller for definitions; it sends the request again, and this one is forgotten."""
        self._finish(wire.NEED, keys, None, {})

    def _put(self, item: bytes, buffers: list[Any]) -> None:
        self._streaming = True
        with self._lock:
            self._outbox.append((item, buffers))
            first = len(self._outbox) == 1
        if first:
            self._server.reactor.call_soon(self._flush)

    def _open_gate(self) -> CreditGate:
        gate = self._gate
        if gate is None:
            with self._lock:
                gate = self._gate
                if gate is None:
                    gate = self._gate = CreditGate(INITIAL_CREDITS)
                    if self.closed:
                        gate.close()
        return gate

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
        self._open_gate().grant(count)
        if self._last is not None:
            self._server.end(self, self._last)
        elif self.on_grant is not None:
            self._server.reactor.guard(self.on_grant)

    def cancel(self) -> None:
        """Stop: the caller gave up or is gone."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            gate = self._gate
        if gate is not None:
            gate.close()
        on_cancel = self.on_cancel
        self.on_cancel = self.on_grant = None
        if on_cancel is not None:
            self._server.reactor.guard(on_cancel)

    def ended(self) -> None:
        """Refuse more items, because the end is sent, and let go of whoever wanted to hear of it."""
        self.on_cancel = self.on_grant = None
        if self._gate is not None:
            self._gate.close()

    def may_end(self, frames: list[Any]) -> bool:
        """Whether its end may be sent now; else it is kept until the caller grants the credit that it costs.

        A zerorpc caller counts the end of a stream among the items that it has room for.

        Raises:
            GateClosed: The caller has gone meanwhile.
        """
        if not self._streaming or self.from_znb or self._open_gate().take_nowait():
            return True
        self._last = frames
        return False

    def _flush(self) -> None:
        """Send what has gathered, in as few messages as the caller can read."""
        with self._lock:
            items, self._outbox = self._outbox, []
        server = self._server
        gathered: list[Any] = []
        for item, buffers in items:
            if not buffers and "items" in self.headers:
                gathered.append(msgspec.Raw(item))
                continue
            if gathered:
                server.send_frames(server.frames(self, wire.ITEMS, gathered, None, {}))
                gathered = []
            server.send_frames(server.frames(self, wire.STREAM, msgspec.Raw(item), buffers, {}))
        if gathered:
            server.send_frames(server.frames(self, wire.ITEMS, gathered, None, {}))


def _deadline(left: Any) -> float:
    """Return the monotonic time at which ``left`` seconds have passed."""
    if isinstance(left, int | float) and not math.isnan(left):
        return time.monotonic() + left
    raise ProtocolError(f"expected seconds as deadline, got {left!r:.50}")
