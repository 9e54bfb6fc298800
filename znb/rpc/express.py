"""The short way for calls that are quick: run by the thread that received them, alone or several in a row.

A call is a ``Work`` with a ``Request`` only if it needs to be: if it is not over soon, raises, or returns no plain
value. Calls that came in one message are answered in one, or in several if that would keep the first waiting.

Invariants: as in ``znb.rpc.work``. The crew's owner runs everything here; when another thread takes the socket over
(``znb.rpc.crew``), what is left of a batch goes on there.
"""

from __future__ import annotations

import collections
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from znb import wire
from znb.errors import ProtocolError
from znb.rpc import values
from znb.rpc.hooks import CallInfo, _current
from znb.rpc.work import Entry, Work, pack_owned, pack_value, split_arguments
from znb.spans import OFF_STATE, RECORDER, OpenSpan, Served, read_headers, unpack_context

if TYPE_CHECKING:
    from znb.rpc.service import Service

__all__ = ["Batch", "Express"]

#: Seconds that the first answer of a batch may wait for the others.
PATIENCE = 0.001

pack = msgspec.msgpack.Encoder().encode


class Batch:
    """Calls that came in one message.

    Attributes:
        results: Of those that are done, not sent yet.
    """

    def __init__(
        self, service: Service, peer: bytes, calls: list[tuple[int, str, msgspec.Raw]], headers: dict[str, Any]
    ) -> None:
        self._headers = headers
        self._spans = _spans_of(headers, len(calls))
        self._service = service
        self._peer = peer
        self._calls = collections.deque(calls)
        self.results: list[tuple[int, msgspec.Raw]] = []

    def run(self) -> None:
        """Run them in order."""
        service = self._service
        started = time.monotonic()
        while self._calls:
            identifier, method, args = self._calls.popleft()
            headers: dict[str, Any] = {"message_id": identifier, "znb": wire.WIRE_VERSION, "v": 3}
            if self._spans:
                headers["trace"] = self._headers["trace"][:16] + self._spans.popleft().to_bytes(8, "big")
            elif "tracestate" in self._headers:
                headers["tracestate"] = self._headers["tracestate"]
            if not service.run_quickly(self._peer, wire.Event(headers, method, args, []), self):
                return  # another thread owns the socket, and goes on with the rest
            if self.results and time.monotonic() - started > PATIENCE:
                self.flush()
                started = time.monotonic()
        self.flush()

    def flush(self) -> None:
        """Send the results there are."""
        results, self.results = self.results, []
        if results:
            self._service.server.answer_many(self._peer, results)

    def hand_over(self) -> None:
        """Have the next owner of the socket go on. While nobody owns it."""
        rest = Batch(self._service, self._peer, [], self._headers)
        rest._calls, self._calls = self._calls, rest._calls
        rest._spans, self._spans = self._spans, rest._spans
        rest.results, self.results = self.results, []
        crew = self._service.crew
        crew.call_soon(rest.flush)
        crew.call_soon(rest.run)


def _spans_of(headers: dict[str, Any], count: int) -> collections.deque[int]:
    """Return the span of each call of a batch; empty if the headers do not say."""
    spans = headers.get("spans")
    if type(spans) is not list or len(spans) != count or type(headers.get("trace")) is not bytes:
        return collections.deque()
    fit = all(type(span) is int and 0 < span < 1 << 64 for span in spans)
    return collections.deque(spans if fit else ())


class Express:
    """A call that is expected to be over soon, on the thread that received it.

    It is no ``Work`` and no ``Request``, which would take longer to make than it takes to run. If it is not over soon,
    it is made both while it runs, so that it can be stopped like any other.
    """

    __slots__ = (
        "_batch",
        "_entry",
        "_event",
        "_iterator",
        "_packed",
        "_peer",
        "_seconds",
        "_service",
        "_span",
        "_thread",
        "_work",
        "buffers",
        "error",
    )

    def __init__(
        self, service: Service, peer: bytes, event: wire.Event, entry: Entry, batch: Batch | None = None
    ) -> None:
        self._service = service
        self._batch = batch
        self._peer = peer
        self._event = event
        self._entry = entry
        self._thread = threading.get_ident()
        self._span: OpenSpan | None = None
        self._work: Work | None = None
        self._packed = b""
        self._seconds = 0.0
        self._iterator: Any = None
        self.buffers: list[Any] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make the call. On the thread that received it."""
        event = self._event
        token = _current.set(self.info)
        name = f"{self._service.name}.{event.name}"
        ids = unpack_context(event.headers.get("trace"))
        if event.headers.get("tracestate") == OFF_STATE:
            ids = (0, 0)
        span: Served | OpenSpan
        if ids is not None:
            span = Served(*ids, name)
        else:
            span = OpenSpan(RECORDER, name, "serve", None, read_headers(event.headers)).start()
            span.enter()
        try:
            args = values.decode(event.args, event.buffers)
            if type(args) is not list or "kw" in event.headers:
                args, kwargs = split_arguments(args, event.headers)
            else:
                kwargs = _NONE
            started = time.perf_counter()
            result = self._entry.method.function(*args, **kwargs)
            self._seconds = time.perf_counter() - started
            kind = type(result)
            if kind in values.SCALARS:
                try:
                    self._packed = pack([result])
                except (OverflowError, UnicodeEncodeError):
                    self._packed = b"\x91" + pack_value(result, self.buffers, where="result")
            elif hasattr(kind, "__next__") or hasattr(kind, "__anext__") or hasattr(kind, "__await__"):
                self._iterator = result
                self._span = span.keep()
            else:
                owner = [result]
                del result, args
                event.buffers.clear()  # it may be what was given
                self._packed = b"\x91" + pack_owned(owner, self.buffers, where="result")
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the outcome
            self.error = error
        finally:
            span.leave()
            if self._iterator is None:
                span.end(self.error)
            _current.reset(token)

    def info(self) -> CallInfo:
        """Return what the method is told of its call, if it asks."""
        event = self._event
        return CallInfo(self._service.name, event.name, event.headers, None, self._peer)

    def overrun(self) -> None:
        """It is not over soon: make it a call like any other. On the thread that takes the socket over."""
        if self._batch is not None:
            self._batch.hand_over()
        try:
            self._work = self._make_work()
        except ProtocolError as error:  # its id was used twice
            self.error = error
            return
        with self._work._lock:
            self._work._thread = self._thread

    def end(self, *, still_owner: bool) -> bool:
        """Answer it; return whether its place in the pool is free."""
        work = self._work
        if work is not None:
            work._leave()
        if still_owner and self.error is None and self._iterator is None:
            if self._batch is not None and not self.buffers:
                self._batch.results.append((self._event.headers["message_id"], msgspec.Raw(self._packed)))
                self._entry.took(self._seconds)
                return True
            self._service.server.answer(self._peer, self._event.headers["message_id"], self._packed, self.buffers)
            self._entry.took(self._seconds)
            return True
        self._entry.took(self._seconds)
        if work is not None and self._span is not None:
            work.span = self._span
        if work is None:
            if not still_owner:  # it could not be made a call like any other
                return True
            work = self._make_work()
        if self.error is not None:
            failed = work.failure(self.error)
            if failed is not None:
                failed()
        elif self._iterator is None:
            packed, buffers = self._packed, self.buffers
            work.request.reply(msgspec.Raw(packed[1:]), buffers)
        else:
            work.resume(self._iterator)
            if work.streams:
                self._service.pool.hand_over(work.stream)
                return False
        return True

    def _make_work(self) -> Work:
        request = self._service.server.admit(self._peer, self._event)
        work = Work(self._service, request, self._entry, self._span or OpenSpan(RECORDER, "", "serve"))  # it has ended
        request.on_cancel = work.cancel
        return work


_NONE: dict[str, Any] = {}
