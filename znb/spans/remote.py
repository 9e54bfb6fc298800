"""The two ends of a call, as spans: what the places that send and serve calls need.

``calling`` on the caller's side adds the context to the headers; ``serving`` on the other makes a span of it, inside of
which the method runs. Marks along the way (see ``znb.traces.pieces``) are nanoseconds since the span began.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import get_ident
from time import perf_counter_ns
from typing import Any

from znb.spans.adopted import Adopted
from znb.spans.context import headers as context_headers
from znb.spans.context import read_headers
from znb.spans.recorder import RECORDER, OpenSpan, Parent, current, set_current

__all__ = [
    "Brief",
    "Served",
    "begin_remote",
    "calling",
    "continue_call",
    "mark",
    "record_call",
    "record_lost",
    "serving",
]


def begin_remote(name: str, kind: str) -> OpenSpan:
    """Begin the span of something remote that is no single call, such as a map."""
    span = OpenSpan(RECORDER, name, kind, None, RECORDER.caller()).start()
    RECORDER.touch()
    return span


def calling(name: str, headers: dict[str, Any], **attributes: Any) -> OpenSpan:
    """Begin the span of a call, and add its context to the headers; it is to be ended when the last reply is decoded.

    Args:
        name: Service and method, or the label of a cell.
        headers: Of the request.
        attributes: Such as ``worker``.
    """
    span = OpenSpan(RECORDER, name, "call", attributes, RECORDER.caller()).start()
    headers.update(context_headers(span))
    RECORDER.touch()
    return span


def serving(name: str, headers: Mapping[str, Any], received_ns: int = 0, **attributes: Any) -> OpenSpan:
    """Begin the span of a call that is to be served.

    ``enter`` it where the method runs, ``leave`` and ``end`` it behind.

    Args:
        name: The same as on the caller's side.
        headers: Of the request.
        received_ns: ``perf_counter_ns`` of its arrival, so that waiting for a thread counts; 0 for now.
        attributes: Such as ``method``.
    """
    span = OpenSpan(RECORDER, name, "serve", attributes, read_headers(headers)).start()
    if received_ns:
        span.start_ns = received_ns
    return span


def mark(span: OpenSpan | Brief, name: str) -> None:
    """Note how long it took from the span's start until now."""
    if span.attributes is None:
        span.attributes = {}
    span.attributes[name] = perf_counter_ns() - span.start_ns


def record_call(parent: Parent, name: str, span_id: int, start_ns: int, error: BaseException | None = None) -> None:
    """Record a call that has ended, and was no open span: the quick way.

    Args:
        parent: Who called.
        name: Service and method.
        span_id: What the request said.
        start_ns: ``perf_counter_ns`` of its start.
        error: What it failed with; ``None`` for nothing. Its traceback is the callee's to keep.
    """
    status = "ok" if error is None else "cancelled" if isinstance(error, KeyboardInterrupt) else "error"
    trace_id = parent.trace_id
    if trace_id:  # as Recorder.record does it
        recorder, end_ns = RECORDER, perf_counter_ns()
        number = recorder.take()
        recorder.slots[number & recorder.mask] = (
            number, trace_id, span_id, parent.span_id, name, "call", start_ns, end_ns, status, get_ident(), None, None,
        )  # fmt: skip


def record_lost(parent: Parent | Brief, name: str, since: float, reason: str, **attributes: Any) -> None:
    """Record a job whose worker is gone: the worker will not.

    Args:
        parent: What it is a child of.
        name: What it is called.
        since: ``time.monotonic`` of its start, nearly.
        reason: How the worker ended.
        attributes: Such as ``worker``.
    """
    now_ns = perf_counter_ns()
    start_ns = now_ns - max(0, int((time.monotonic() - since) * 1e9))
    above = Adopted(parent.trace_id, parent.span_id)
    RECORDER.record(above, name, "job", start_ns, now_ns, "lost", attributes, [(now_ns, "lost", {"reason": reason})])


def continue_call(parent: Parent, name: str, span_id: int, start_ns: int) -> OpenSpan:
    """Return the open span of a call that was made the quick way, and turns out to be a longer one."""
    span = OpenSpan(RECORDER, name, "call", None, parent).start()
    del RECORDER.open[span.span_id]
    span.span_id, span.start_ns = span_id, start_ns
    RECORDER.open[span_id] = span
    return span


class Served:
    """The span of a call that is served at once, on the thread that received it: half of what an open span costs.

    It is what spans made inside are children of, until it ends or becomes an open span.

    Args:
        trace_id: Of the caller, whom nobody watches; 0 if it is not to be recorded.
        parent_id: Its span.
        name: Service and method.
    """

    __slots__ = ("live", "name", "outer", "parent_id", "span_id", "start_ns", "trace_id", "used")

    def __init__(self, trace_id: int, parent_id: int, name: str) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.name = name
        self.span_id = RECORDER.new_span_id()
        self.live = 0
        self.used = False
        self.outer = current()
        set_current(self)
        self.start_ns = perf_counter_ns()

    def leave(self) -> None:
        """Let what was active before be so again."""
        set_current(self.outer)

    def end(self, error: BaseException | None = None) -> None:
        """Record it; to be called once."""
        end_ns = perf_counter_ns()
        if error is not None:
            self.keep().end(error)
        elif self.trace_id:  # as Recorder.record does it
            recorder = RECORDER
            number = recorder.take()
            recorder.slots[number & recorder.mask] = (
                number, self.trace_id, self.span_id, self.parent_id, self.name, "serve", self.start_ns, end_ns, "ok",
                get_ident(), None, None,
            )  # fmt: skip

    def keep(self) -> OpenSpan:
        """Return it as an open span, which is not entered and will end later."""
        parent = Adopted(self.trace_id, self.parent_id)
        span = OpenSpan(RECORDER, self.name, "serve", None, parent).start()
        del RECORDER.open[span.span_id]
        span.span_id, span.start_ns = self.span_id, self.start_ns
        RECORDER.open[span.span_id] = span
        return span


class Brief:
    """A span that nothing runs inside of; for jobs by the thousand.

    Args:
        parent: What it is a child of, and what short jobs that are run together are children of.
        name: What it is called.
        kind: One of ``table.KINDS``.

    Attributes:
        span_id: What a job that is run by itself is a child of.
        start_ns: ``perf_counter_ns`` of its start.
        attributes: Set by ``mark``.
        events: Set by ``event``.
    """

    optional = False

    __slots__ = ("attributes", "events", "kind", "name", "parent", "span_id", "start_ns", "thread")

    def __init__(self, parent: Parent, name: str, kind: str) -> None:
        self.parent = parent
        self.name = name
        self.kind = kind
        self.thread = get_ident()
        self.span_id = RECORDER.new_span_id()
        RECORDER.briefs[self.span_id] = self
        self.start_ns = perf_counter_ns()
        self.attributes: dict[str, Any] | None = None
        self.events: list[tuple[int, str, dict[str, Any]]] | None = None

    def event(self, name: str, /, **attributes: Any) -> None:
        """Add something that happened, with the present time; plain values, and few."""
        self.events = [*(self.events or ()), (perf_counter_ns(), name, attributes)]

    @property
    def trace_id(self) -> int:
        """As its parent's."""
        return self.parent.trace_id

    @property
    def parent_id(self) -> int:
        """The parent's id."""
        return self.parent.span_id

    def end(self, status: str = "ok") -> None:
        """Record it. Ends once; later calls do nothing."""
        end_ns = perf_counter_ns()
        if RECORDER.briefs.pop(self.span_id, None) is not None:
            what, more = (self.name, self.kind), (self.attributes, self.events)
            RECORDER.record(self.parent, *what, self.start_ns, end_ns, status, *more, span_id=self.span_id)
