"""Where the call of a future goes: to another endpoint, if it certainly was not delivered to the first.

Invariants: a call that may have run is sent nowhere else; one whose future is done is stopped wherever it is. Any
thread may send and abandon it; what has become of it is told on the I/O thread, where nothing waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from znb.errors import ServiceUnavailable, ZnbError
from znb.rpc.caller import Caller, Endpoint
from znb.rpc.client import Call, Lost, Reply
from znb.rpc.futures import CallFuture

__all__ = ["Tries"]


class Tries:
    """The endpoints that one call is sent to, one after the other.

    Args:
        caller: Whose endpoints.
        future: Of the call.
        send: Sends the call to an endpoint.
    """

    __slots__ = ("_caller", "_future", "_lock", "_now", "_send", "_tried")

    def __init__(self, caller: Caller, future: CallFuture, send: Callable[[Endpoint], Call]) -> None:
        self._caller = caller
        self._future: CallFuture | None = future
        self._send = send
        self._lock = threading.RLock()  # an answer may come before the sender has noted what it sent
        self._now: tuple[Endpoint, Call] | None = None
        self._tried: set[str] = set()

    def at(self, endpoint: Endpoint) -> None:
        """Send it to an endpoint."""
        with self._lock:
            self._tried.add(endpoint.url)
            call = self._send(endpoint)
            self._now = endpoint, call
            endpoint.busy.add(call)
            endpoint.peer.asked()
        if self._future is None:  # it was cancelled, or answered already
            self.abandon()

    def heard(self, event: Reply | Lost, endpoint: Endpoint | None = None) -> Reply | Lost | None:
        """Take what became of it; ``None`` if it has been sent to another endpoint, else what its future is to hear.

        Args:
            event: What its connection told.
            endpoint: Where it was, if it was not this that sent it there.
        """
        with self._lock:
            if self._now is not None:
                endpoint = self._now[0]
            self._end()
            if endpoint is None:
                return event
            if not isinstance(event, Lost):
                endpoint.peer.heard()
                return event
            if not isinstance(event.error, ServiceUnavailable) or getattr(event.error, "may_have_run", False):
                return event
            endpoint.failed_at = time.monotonic()
            self._tried.add(endpoint.url)
            if self._future is None or self._future.done():
                return event
            try:
                other = self._choose()
                if other is None:
                    return event
                self.at(other)
            except ZnbError as error:
                return Lost(error)
            return None

    def abandon(self) -> None:
        """Stop it where it is."""
        with self._lock:
            if self._now is not None:
                self._now[1].abandon()
            self._end()

    def ended(self, _future: object = None) -> None:
        """Note that nobody has to do with it any more, and let go of what it was."""
        with self._lock:
            self._end()
            self._future = None
            self._send = _nowhere

    def _choose(self) -> Endpoint | None:
        caller = self._caller
        if caller.closed:
            return None
        found = caller._choose(self._tried)
        if found is None and caller.by_name:
            caller._look_up(0.0)
            found = caller._choose(self._tried)
        return found

    def _end(self) -> None:
        """Take it off the endpoint where it is."""
        if self._now is not None:
            self._now[0].busy.discard(self._now[1])


def _nowhere(endpoint: Endpoint) -> Call:
    raise ServiceUnavailable(endpoint.url, "the call has ended")
