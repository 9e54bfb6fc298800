"""The two ends of a call, as spans: what the places that send and serve calls need.

``calling`` on the caller's side adds the context to the headers; ``serving`` on the other makes a span of it, inside of
which the method runs. Marks along the way (see ``znb.traces.pieces``) are nanoseconds since the span began.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any

from znb.spans.context import headers as context_headers
from znb.spans.context import read_headers
from znb.spans.recorder import RECORDER, OpenSpan, Parent

__all__ = ["Brief", "calling", "mark", "serving"]


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


class Brief:
    """A span that is recorded when it has ended, and not known before; for jobs by the thousand.

    Attributes:
        parent: What it is a child of, and what short jobs that are run together are children of.
        span_id: What a job that is run by itself is a child of.
        start_ns: ``perf_counter_ns`` of its start.
        attributes: Set by ``mark``.
    """

    __slots__ = ("attributes", "parent", "span_id", "start_ns")

    def __init__(self, parent: Parent) -> None:
        self.parent = parent
        self.span_id = RECORDER.new_span_id()
        self.start_ns = perf_counter_ns()
        self.attributes: dict[str, Any] | None = None

    def end(self, name: str, kind: str, status: str = "ok") -> None:
        """Record it; to be called once."""
        end_ns = perf_counter_ns()
        RECORDER.record(self.parent, name, kind, self.start_ns, end_ns, status, self.attributes, span_id=self.span_id)
