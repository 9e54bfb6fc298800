"""What of a span crosses a boundary: process (``traceparent``), thread, or time (callbacks).

============ =========================================================================================
header        value
============ =========================================================================================
traceparent   ``00-<32 hex digits: trace>-<16: span>-01``, W3C Trace Context level 2
tracestate    ``znb=live:10`` where the trace is watched: whoever gets it samples every 10 ms while it works for it
trace         24 bytes, the ids of trace and span: what ``traceparent`` says, a third of the work, between znb peers
              where nobody watches
============ =========================================================================================

With tracing switched off there is no ``traceparent``, and ``tracestate`` is ``znb=off``.

Invariants: a header that is not well formed is no context, never an error: a stranger's header must not fail a call.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import functools
import re
import threading
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any, Final, ParamSpec, TypeVar

from znb.spans.adopted import OFF, OFF_STATE
from znb.spans.recorder import LIVE, RECORDER, Parent, current, set_current

__all__ = [
    "Context",
    "decode_context",
    "encode_context",
    "follow_threads",
    "headers",
    "pack_context",
    "read_headers",
    "run_in",
    "unpack_context",
]

P = ParamSpec("P")
T = TypeVar("T")

#: Version, trace, span; and what a later version appends. Version ``ff`` is forbidden.
_match: Final = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(.*)", re.DOTALL).fullmatch
#: Milliseconds between samples that another process may ask for, at least and at most.
LIVE_MIN, LIVE_MAX = 1, 1000
#: Digits of that number, at most.
LIVE_DIGITS = 6


class Context:
    """A span of another process, as its callee knows it.

    Attributes:
        trace_id: 128 bits.
        span_id: 64 bits.
        live: Milliseconds between samples, if the trace is watched; else 0.
        used: Whether it has children here.
    """

    __slots__ = ("live", "span_id", "trace_id", "used")

    def __init__(self, trace_id: int, span_id: int, live: int = 0) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.live = live
        self.used = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        return f"Context({self.trace_id:032x}, {self.span_id:016x}, live={self.live})"

    def _fields(self) -> tuple[int, int, int]:
        return (self.trace_id, self.span_id, self.live)


def encode_context(parent: Parent) -> str:
    """Return a context as one text: ``traceparent``, and behind it the ``tracestate`` if it is watched."""
    return RECORDER.context_text(parent)


def decode_context(text: Any) -> Parent | None:
    """Read what ``encode_context`` made, or a ``traceparent``; ``None`` if it is neither.

    Example:
        >>> decode_context("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        Context(0af7651916cd43dd8448eb211c80319c, b7ad6b7169203331, live=0)
    """
    if type(text) is not str:
        return None
    trace_id, prefix = RECORDER.prefix
    span = text[36:52]
    # The common case, in a third of the time: the next call of the same trace.
    if text[:36] == prefix and text[52:] == "-01" and span.isalnum() and span == span.lower() and span.isascii():
        try:
            span_id = int(span, 16)
        except ValueError:
            return None
        return Context(trace_id, span_id) if span_id else None
    return _decode(text)


def _decode(text: str) -> Parent | None:
    match = _match(text)
    if match is None:
        return OFF if text == f";{OFF_STATE}" else None
    version, trace, span, rest = match.groups()
    live = 0
    if rest[:1] == ";":
        live = _live(rest[1:])
    elif rest and (version == "00" or rest[0] != "-"):
        return None
    context = Context(int(trace, 16), int(span, 16), live)
    if not context.trace_id or not context.span_id:
        return None
    RECORDER.prefix = (context.trace_id, f"00-{trace}-")
    return context


def headers(parent: Parent) -> dict[str, Any]:
    """Return the headers that carry a context with a call."""
    if not parent.trace_id:
        return {"tracestate": OFF_STATE}
    text = RECORDER.traceparent(parent)
    return {"traceparent": text, "tracestate": f"{LIVE}{parent.live}"} if parent.live else {"traceparent": text}


def pack_context(trace_id: int, span_id: int) -> bytes:
    """Return the header ``trace``."""
    known, packed = RECORDER.packed
    if known != trace_id:
        packed = trace_id.to_bytes(16, "big")
        RECORDER.packed = (trace_id, packed)
    return packed + span_id.to_bytes(8, "big")


def unpack_context(data: Any) -> tuple[int, int] | None:
    """Return the ids of trace and span that the header ``trace`` gives; ``None`` if it is none."""
    if type(data) is not bytes or len(data) != 24:
        return None
    known, packed = RECORDER.packed
    if not data.startswith(packed):
        packed = data[:16]
        known = int.from_bytes(packed, "big")
        RECORDER.packed = (known, packed)
    span_id = int.from_bytes(data[16:], "big")
    return (known, span_id) if known and span_id else None


def read_headers(received: Mapping[str, Any]) -> Parent | None:
    """Return the context that came with a call; ``None`` if there is none, or none that is well formed."""
    text, state = received.get("traceparent"), received.get("tracestate")
    if text is None:
        if state == OFF_STATE:
            return OFF
        found = unpack_context(received.get("trace"))
        return Context(*found) if found is not None else None
    context = decode_context(text)
    if state is not None and context is not None:
        context.live = _live(state)
    return context


def _live(state: Any) -> int:
    """Return the milliseconds between samples that a ``tracestate`` asks for; 0 for none."""
    _, found, after = state.partition(LIVE) if type(state) is str else ("", "", "")
    digits = after.partition(",")[0]
    if not found or not digits.isdecimal() or len(digits) > LIVE_DIGITS:
        return 0
    return max(LIVE_MIN, min(LIVE_MAX, int(digits)))


def run_in(parent: Parent | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function with ``parent`` as what spans are children of: a callback, or the target of a thread."""
    outer = current()
    inherited, thread = RECORDER.inherited, get_ident()
    before = inherited.get(thread)
    set_current(parent)
    if parent is not None:
        inherited[thread] = parent
    try:
        return function(*args, **kwargs)
    finally:
        set_current(outer)
        if before is not None:
            inherited[thread] = before
        else:
            inherited.pop(thread, None)


def bound(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that runs in the context of now, whenever it is called; itself if there is none."""
    parent = current()
    return function if parent is None else functools.partial(run_in, parent, function)


def follow_threads(*, watched: bool = False) -> Callable[[], None]:
    """Have threads, and what is given to thread pools, begin in the context that they were started in.

    It wraps ``threading.Thread.start`` and ``ThreadPoolExecutor.submit``, once.

    Args:
        watched: Whether only what is started inside a watched trace does: in processes that are not znb's own, whose
            threads may outlive the cell that they were started in. For workers and services, all; once that was asked
            for, it holds.

    Returns:
        A function that puts everything back.
    """
    thread_class: Any = threading.Thread
    pool_class: Any = concurrent.futures.ThreadPoolExecutor
    start, submit = thread_class.start, pool_class.submit
    known = getattr(start, "znb_follows", None)
    if known is not None:
        before = known["watched"]
        known["watched"] = before and watched
        return lambda: known.update(watched=before)
    pool_worker: Any = vars(concurrent.futures.thread)["_worker"]
    only = {"watched": watched}

    def followed() -> Parent | None:
        parent = current()
        return parent if parent is None or parent.live or not only["watched"] else None

    @functools.wraps(start)
    def start_in_context(self: Any) -> None:
        parent = followed()
        # A pool's thread serves many; what it is given brings its own context. So it is with znb's and pyzmq's.
        serves_many = getattr(self, "_target", None) is pool_worker or type(self).__module__.startswith("zmq.")
        foreign = not serves_many and not self.name.startswith("znb-")
        if parent is not None and foreign:
            run = self.run

            def run_once() -> None:
                del self.run
                RECORDER.threads[get_ident()] = self.name
                run_in(parent, run)

            self.run = run_once
        start(self)

    @functools.wraps(submit)
    def submit_in_context(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        parent = followed()
        return submit(self, fn if parent is None else functools.partial(run_in, parent, fn), *args, **kwargs)

    start_in_context.znb_follows = only  # type: ignore[attr-defined]
    thread_class.start, pool_class.submit = start_in_context, submit_in_context

    def undo() -> None:
        thread_class.start, pool_class.submit = start, submit

    return undo
