"""What is behind a proxy: endpoints, lines and connections, deadlines, hooks and fail-over.

A call that waits uses a blocking socket of its own (``znb.rpc.line``); futures and ``async for`` go over the I/O
thread. Of several endpoints the one with the fewest calls under way is taken; one that nobody answers at is left
alone for ``RETRY_AFTER`` seconds, and one that owes an answer gets no other call while the rest are free. A call that
could not be sent is tried at the next endpoint, and, where the service was found by name, at those which the name leads
to now; one that was under way when its server went is not repeated, because it may have run.

Invariants: what is queued for a server that went is never delivered. Any thread may call; the sockets of a line belong
to the thread that holds the line.
"""

from __future__ import annotations

import collections
import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple

import msgspec
import zmq

from znb import wire
from znb.errors import CallTimeout, ServiceUnavailable
from znb.rpc import failures, registry, security, values
from znb.rpc.callers import CALLED
from znb.rpc.client import Connection
from znb.rpc.hooks import Hook, Hooks, current_call, process_hooks
from znb.rpc.line import Line
from znb.rpc.outgoing import MAX_BYTES, Outgoing
from znb.rpc.silence import Peer
from znb.spans import OFF_STATE, RECORDER, continue_call, pack_context, record_call
from znb.spans.recorder import Parent
from znb.transport import Reactor

__all__ = ["Caller", "Endpoint", "Limits", "Outgoing"]

#: Seconds during which an endpoint that did not answer is asked only if no other is left.
RETRY_AFTER = 1.0
#: Calls that others get before one that owes an answer does: as many as a service runs at a time by default.
SILENT_LOAD = 8
#: Seconds to wait for a service that is found by name and is just being replaced (promise: ServiceUnavailable in 1 s).
REPLACE_PATIENCE = 0.8
#: Seconds between looks for it.
REPLACE_INTERVAL = 0.02
#: Lines kept for later calls; more are made where more calls run at a time.
LINES_KEPT = 32

#: What stands for the result of a call that was not made.
NOT_MADE: Any = object()

_encode = msgspec.msgpack.Encoder().encode


class Limits(NamedTuple):
    """How long calls may take.

    Attributes:
        timeout: Seconds for a whole call, or stream; ``None`` for any.
        item_timeout: Seconds for the next item of a stream; ``None`` for any.
    """

    timeout: float | None = None
    item_timeout: float | None = None


class Endpoint:
    """One server, and what leads to it."""

    __slots__ = (
        "_caller",
        "_connection",
        "_inherited",
        "address",
        "busy",
        "failed_at",
        "lines",
        "peer",
        "pid",
        "prepare",
        "url",
        "zerorpc",
    )

    def __init__(self, caller: Caller, address: str) -> None:
        url, key = security.split_address(address)
        self.url = url
        self.address = address
        self.prepare = security.client_options(key)
        self.zerorpc: bool | None = None
        self.busy: set[object] = set()
        self.failed_at = -RETRY_AFTER
        self.lines: collections.deque[Line] = collections.deque()
        self.peer = Peer(caller.name, url)
        self.pid = os.getpid()
        self._caller = caller
        self._connection: Connection | None = None
        self._inherited: collections.deque[Line] | None = None

    @property
    def load(self) -> int:
        """Calls under way; more if nobody knows whether it does anything."""
        return len(self.busy) + (SILENT_LOAD if self.peer.silent else 0)

    def take_line(self) -> Line:
        """Return a line for one call.

        Raises:
            ServiceUnavailable: The connection broke since the last call, and the service is found by name.
        """
        if self.pid != os.getpid():  # forked: the parent's sockets must be neither used nor closed here
            self.pid = os.getpid()
            self._inherited = self.lines
            self.lines = collections.deque()
        while self.lines:
            try:
                line = self.lines.pop()
            except IndexError:
                break
            if line.usable:
                return line
            line.close()
            if self._caller.by_name:  # ask for the name anew, before waiting for an address that may be dead
                self.close()
                raise ServiceUnavailable(self.url, "the connection was lost")
        known = self.peer.process
        if self._caller.by_name and known is not None and self.peer.find_process() is None:
            raise ServiceUnavailable(self.url, f"its process {known.pid} has ended")
        return Line(zmq.Context.instance(), self.url, self.prepare, self.peer)

    def take_idle_line(self) -> Line | None:
        """Return a line that was used just now, or has been looked at; ``None`` if there is none."""
        if self.pid != os.getpid():
            return None
        try:
            line = self.lines.pop()
        except IndexError:
            return None
        if line.fresh or line.usable:
            return line
        line.close()
        return None

    def give_line(self, line: Line) -> None:
        """Keep a line for later calls."""
        if len(self.lines) < LINES_KEPT and not self._caller.closed:
            self.lines.append(line)
        else:
            line.close()

    def connection(self) -> Connection:
        """Return the connection for calls that nobody blocks for."""
        if self._connection is None or self._connection.reactor.stopped or self._connection.reactor.forked:
            reactor, peer = self._caller.reactor(), self.peer
            self._connection = Connection(reactor, self.url, watch=True, raw=True, prepare=self.prepare, peer=peer)
        return self._connection

    def close(self) -> None:
        """Hang up."""
        while self.lines:
            self.lines.pop().close()


def locate(targets: Sequence[str]) -> list[str]:
    """Return the addresses that names and addresses mean.

    Raises:
        ServiceUnavailable: There is no service of one of the names.
    """
    found = ([target] if "://" in target else [e.url for e in registry.find_service(target)] for target in targets)
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


class Caller:
    """Calls one service, wherever it is.

    Args:
        targets: Its names and addresses, as the user gave them.
        addresses: Where it is.
        limits: How long calls may take.
        hooks: See ``znb.rpc.hooks``.
    """

    def __init__(
        self, targets: Sequence[str], addresses: Sequence[str], limits: Limits, hooks: tuple[Hook, ...]
    ) -> None:
        self._traced = False
        self.targets = tuple(targets)
        self.by_name = any("://" not in target for target in targets)
        self.name = targets[0].partition("#")[0]
        self.limits = limits
        self.hooks = Hooks(hooks, process_hooks)
        self.endpoints = [Endpoint(self, address) for address in addresses]
        self.closed = False
        self.lock = threading.Lock()
        self._reactor: Reactor | None = None
        self._turn = 0

    # -- one call ------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        limits: Limits,
        *,
        streams: bool = False,
    ) -> Any:
        """Call a method and wait for its result.

        Args:
            method: Its name.
            args: Positional arguments.
            kwargs: Keyword arguments.
            limits: How long it may take.
            streams: Whether any first answer is to be returned as ``Started``.

        Returns:
            Its result; or, if it turns out to stream, ``Started``.

        Raises:
            Exception: What the method raised.
        """
        if not kwargs and not streams and limits.timeout is None and values.SCALARS.issuperset(map(type, args)):
            result = self._call_quickly(method, args)
            if result is not NOT_MADE:
                return result
        outgoing = Outgoing(self, method, args, kwargs, limits.timeout)
        try:
            result = self.try_endpoints(lambda endpoint: self._exchange(endpoint, outgoing, limits, streams=streams))
        except BaseException as error:
            outgoing.finish(error)
            raise
        kind = type(result)
        if kind is Started:
            return result
        if kind is Raised:
            outgoing.finish(result.error)
            raise result.error
        outgoing.finish()
        return result

    def _call_quickly(self, method: str, args: tuple[Any, ...]) -> Any:
        """Make a call that needs nothing special; ``NOT_MADE`` if it does.

        The same as what follows, for the most frequent case: one znb server, a line at hand, no hooks, no deadline.
        """
        endpoints = self.endpoints
        serving = current_call()
        if (
            len(endpoints) != 1
            or self.hooks.all
            or self.closed
            or (serving is not None and serving.deadline is not None)
        ):
            return NOT_MADE
        endpoint = endpoints[0]
        parent = RECORDER.caller()
        if parent.live:
            return NOT_MADE  # each piece of it is to be seen
        line = endpoint.take_idle_line() if endpoint.zerorpc is False else None
        if line is None:
            return NOT_MADE
        channel = next(line.ids)
        number, began = RECORDER.new_span_id(), perf_counter_ns()
        what = f"{self.name}.{method}"
        blob = _pack_plain(channel, parent, number, method, args)
        if not blob or len(blob) > MAX_BYTES:
            endpoint.lines.append(line)
            return NOT_MADE
        if not self._traced:
            self.note_traced()
        try:
            line.send([blob])
            event, size = line.receive_now(channel, method)
        except KeyboardInterrupt as error:
            line.cancel(channel, "interrupted")
            endpoint.lines.append(line)
            record_call(parent, what, number, began, error)
            raise
        except BaseException as error:
            line.close()
            record_call(parent, what, number, began, error)
            raise
        if event.name == wire.OK:
            endpoint.lines.append(line)
            result = values.decode(event.args, event.buffers)[0]
            record_call(parent, what, number, began)
            return result
        if event.name == wire.ERR:
            endpoint.lines.append(line)
            failure = failures.restore(values.decode(event.args), event.headers, endpoint=what)
            record_call(parent, what, number, began, failure)
            raise failure
        endpoint.busy.add(line)
        span = continue_call(parent, what, number, began)
        return Started(line, endpoint, Outgoing(self, method, args, {}, None, span), channel, event, size)

    def pack_quickly(self, args: tuple[Any, ...]) -> tuple[Endpoint, bytes, Parent] | None:
        """Return endpoint, packed arguments and span of a future that needs nothing special; ``None`` if it does."""
        serving = current_call()
        parent = RECORDER.caller()
        if (
            len(self.endpoints) != 1
            or self.hooks.all
            or self.closed
            or (serving is not None and serving.deadline is not None)
            or self.endpoints[0].zerorpc is not False
            or not values.SCALARS.issuperset(map(type, args))
            or parent.live
        ):
            return None
        try:
            packed = _encode(args)
        except (OverflowError, UnicodeEncodeError):
            return None
        return (self.endpoints[0], packed, parent) if len(packed) <= MAX_BYTES else None

    def _exchange(self, endpoint: Endpoint, outgoing: Outgoing, limits: Limits, *, streams: bool) -> Any:
        line = endpoint.take_line()
        endpoint.busy.add(line)
        keep = False
        try:
            channel = self.start(endpoint, line, outgoing)
            patience = limits.item_timeout if streams else None
            try:
                event, size = outgoing.receive(line, channel, patience)
            except KeyboardInterrupt:
                line.cancel(channel, "interrupted")
                keep = True
                raise
            except CallTimeout:
                keep = True
                raise
            outgoing.mark("replied_ns")
            if event.name == wire.OK and not streams:
                keep = True
                return values.decode(event.args, event.buffers)[0]
            if event.name == wire.ERR and not streams:
                keep = True
                return Raised(failures.restore(values.decode(event.args), event.headers, endpoint=outgoing.what))
            started = Started(line, endpoint, outgoing, channel, event, size)
            line = None  # type: ignore[assignment]
            return started
        finally:
            if line is not None:
                endpoint.busy.discard(line)
                if keep:
                    endpoint.give_line(line)
                else:
                    line.close()

    def start(self, endpoint: Endpoint, line: Line, outgoing: Outgoing) -> int:
        """Send a request on a line; return its channel."""
        channel = next(line.ids)
        line.zerorpc = bool(endpoint.zerorpc)
        headers: dict[str, Any] = {"message_id": channel, "v": 3, "znb": wire.WIRE_VERSION, "items": 1}
        packed, buffers = outgoing.frames(endpoint, None, headers)
        blob = _encode((headers, outgoing.method, packed))
        line.send([blob, *buffers])
        endpoint.peer.asked()
        outgoing.mark("sent_ns")
        return channel

    # -- endpoints -----------------------------------------------------------------------------------------

    def try_endpoints(self, attempt: Callable[[Endpoint], Any]) -> Any:
        """Return what ``attempt`` returns for the first endpoint that can be reached.

        Raises:
            ServiceUnavailable: None can.
        """
        if self.closed:
            raise ServiceUnavailable(self.name, "this proxy was closed")
        if len(self.endpoints) == 1 and not self.by_name:
            return attempt(self.endpoints[0])
        tried: set[str] = set()
        began = time.monotonic()
        deadline: float | None = None
        while True:
            endpoint = self._choose(tried)
            if endpoint is not None:
                tried.add(endpoint.url)
                try:
                    return attempt(endpoint)
                except ServiceUnavailable as unreachable:
                    endpoint.failed_at = time.monotonic()
                    last = unreachable
                    if getattr(unreachable, "may_have_run", False):
                        raise
                    continue
            if not self.by_name:
                raise last
            deadline = deadline or time.monotonic() + REPLACE_PATIENCE
            self._look_up(deadline)
            urls = {endpoint.url for endpoint in self.endpoints}
            if urls <= tried and time.monotonic() > began + REPLACE_PATIENCE:
                raise last
            tried -= urls

    def _choose(self, tried: set[str]) -> Endpoint | None:
        """Return the endpoint with the fewest calls under way; those that failed or fell silent lately come last."""
        open_ = [endpoint for endpoint in self.endpoints if endpoint.url not in tried]
        if not open_:
            return None
        if len(open_) == 1:
            return open_[0]
        self._turn += 1
        recently = time.monotonic() - RETRY_AFTER
        start = self._turn % len(open_)
        return min(open_[start:] + open_[:start], key=lambda e: (e.failed_at > recently, e.load))

    def _look_up(self, deadline: float) -> None:
        """Find out where the service is now; wait a moment if it is just being replaced."""
        known = {endpoint.url: endpoint for endpoint in self.endpoints}
        while True:
            try:
                found = locate(self.targets)
            except ServiceUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(REPLACE_INTERVAL)
                continue
            break
        endpoints = []
        for address in found:
            url = security.split_address(address)[0]
            endpoints.append(known.pop(url) if url in known else Endpoint(self, address))
        for gone in known.values():
            gone.close()
        self.endpoints = endpoints
        self._traced = False

    # -- the rest ------------------------------------------------------------------------------------------

    def note_traced(self) -> None:
        """Note that a call is made whose trace goes on at the service."""
        if not self._traced:
            self._traced = True
            CALLED.note(endpoint.address for endpoint in self.endpoints if not endpoint.zerorpc)

    def reactor(self) -> Reactor:
        """Return the I/O thread, started when it is first needed."""
        found = self._reactor
        if found is not None and not found.forked:
            return found
        with self.lock:
            if self._reactor is None or self._reactor.forked:
                self._reactor = Reactor("znb-proxy-io")
                self._reactor.start()
            return self._reactor

    def close(self) -> None:
        """Hang up everywhere. May be called twice."""
        with self.lock:  # whoever makes a reactor meanwhile has made it, or finds us closed
            self.closed = True
        for endpoint in self.endpoints:
            endpoint.close()
        if self._reactor is not None:
            self._reactor.stop()


def _pack_plain(channel: Any, parent: Parent, number: int, method: str, args: tuple[Any, ...]) -> bytes:
    """Return the message of a call that needs nothing special; empty if it does."""
    headers: dict[str, Any] = {"message_id": channel, "v": 3, "znb": wire.WIRE_VERSION, "items": 1}
    if parent.trace_id:
        headers["trace"] = pack_context(parent.trace_id, number)
    else:
        headers["tracestate"] = OFF_STATE
    try:
        return _encode((headers, method, args))
    except (OverflowError, UnicodeEncodeError):
        return b""


class Started(NamedTuple):
    """A call that answered with the first items of a stream."""

    line: Line
    endpoint: Endpoint
    outgoing: Outgoing
    channel: int
    event: wire.Event
    size: int


class Raised(NamedTuple):
    """What the method raised; kept apart from what went wrong on the way to it."""

    error: BaseException
