"""The recorder of a process: which spans are open, which have ended, and which is active on each thread.

A finished span is a tuple in a ring; the fields stand in ``FIELDS``. Times are ``time.perf_counter_ns()``, which on
one machine is one clock for all processes (CLOCK_MONOTONIC); whoever reads a trace turns them into Unix time. Ids have
the sizes of W3C Trace Context: 128 bits for a trace, 64 for a span; a process counts its span ids up from a random
start.

Invariants: recording never blocks or raises; attributes are plain data, cut to size, so the ring keeps no user's object
alive; the ring and the events of a span are bounded and what does not fit is counted. Any thread may record. Sources:
W3C Trace Context level 2.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
from collections.abc import Callable, Mapping
from threading import get_ident
from time import perf_counter_ns
from typing import Any, Final

from znb.spans.adopted import OFF, OFF_STATE, Adopted, adopt_active, program_name
from znb.spans.opened import OpenSpan, OptionalSpan, Parent, current, set_current
from znb.spans.plain import describe_error, name_error, seen_by, type_name
from znb.spans.ring import Ring

__all__ = ["FIELDS", "RECORDER", "OpenSpan", "OptionalSpan", "Parent", "Recorder", "current", "set_current"]

#: What an entry of the ring holds, in order.
FIELDS = (
    "number", "trace_id", "span_id", "parent_id", "name", "kind", "start_ns", "end_ns", "status", "thread",
    "attributes", "events",
)  # fmt: skip
#: Finished spans that a process keeps for readers; about 400 bytes each.
RING_SIZE = 1 << 15
#: What ``tracestate`` says of a watched trace, before the milliseconds between samples.
LIVE: Final = "znb=live:"
#: Spans below one root of a program that has made none.
AMBIENT_MAX = 10_000
#: Names of exceptions by which code is stopped that nobody waits for: asyncio's, the executors', and services'.
CANCELLATIONS: Final = frozenset({"CancelledError", "CallStopped"})
#: Names of threads that are remembered.
THREADS_MAX = 4096


class Recorder:
    """Records the spans of one process.

    Args:
        size: Finished spans kept for readers; a power of two.
        describe: Returns what is kept of an exception, as attributes of an event. ``None`` for its type, message and
            traceback as Python prints it.

    Attributes:
        key: Tells this process from all others, also one forked from it.
        ring: Finished spans.
        open: Those that have not ended, by id, if they are watched or were begun with ``start``. Of those entered on
            one thread, the innermost is the last.
        briefs: The same of those that nothing runs inside of (``remote.Brief``).
        inherited: By thread, the context that it was started in or runs a callback in.
        take, slots, mask: The ring's own, at hand.
        live: How many watched spans are open; while there are any, the sampler runs.
        interval_ms: Milliseconds between two samples.
        on_live: Called when the first watched span opens.
        on_remote: Called when something remote begins, often: collectors, which must only note it.
        worker: The worker's name; empty in a process that is none.
        off: Whether nothing is recorded, here or where it leads, but for what is below spans that are open or watched.
        prefix: The trace whose id was last written or read as text, and the text.
        packed: The same as bytes.
        threads: Names of the threads that have recorded, by ident.
    """

    __slots__ = (
        "_ambient", "_ambient_left", "_bits", "_context", "_live_lock", "briefs", "describe", "inherited",
        "interval_ms", "key", "live", "mask", "new_span_id", "off", "on_live", "on_remote", "open", "packed",
        "prefix", "ring", "size", "slots", "take", "threads", "worker",
    )  # fmt: skip

    def __init__(
        self, size: int = RING_SIZE, describe: Callable[[BaseException], Mapping[str, Any]] | None = None
    ) -> None:
        self.size = size
        self.describe = describe or describe_error
        self.on_live: Callable[[], object] | None = None
        self.worker = ""
        self.off = False
        self.reset()

    def reset(self) -> None:
        """Begin anew, as a process of its own: what was recorded is gone, ids are other ones, and nobody collects."""
        self.on_remote: tuple[Callable[[], object], ...] = ()
        seed = random.Random(os.urandom(32))  # noqa: S311 - ids have to be different, not secret
        self.key = os.urandom(8).hex()
        self.ring = ring = Ring(self.size)
        self.take, self.slots, self.mask = ring.take, ring.slots, ring.mask
        self.open: dict[int, OpenSpan] = {}
        self.briefs: dict[int, Any] = {}
        self.inherited: dict[int, Parent] = {}
        self.live = 0
        self.interval_ms = 0
        self._live_lock = threading.Lock()
        self.threads: dict[int, str] = {}
        self.new_span_id = itertools.count(seed.getrandbits(63) | 1 << 62).__next__
        self._bits = seed.getrandbits
        self.prefix = (0, "")
        self.packed = (0, bytes(16))
        self._ambient: Parent | None = None
        self._context: tuple[Parent | None, str] = (None, "")
        self._ambient_left = 0

    def traceparent(self, parent: Parent) -> str:
        """Return a span's W3C ``traceparent``."""
        trace_id = parent.trace_id
        known, prefix = self.prefix
        if known != trace_id:
            prefix = f"00-{trace_id:032x}-"
            self.prefix = (trace_id, prefix)
        return f"{prefix}{parent.span_id:016x}-01"

    def context_text(self, parent: Parent) -> str:
        """Return ``encode_context`` of a span; quick for the one that it was last asked of."""
        known, text = self._context
        if not parent.trace_id:
            return f";{OFF_STATE}"
        if known is not parent:
            text = self.traceparent(parent) + (f";{LIVE}{parent.live}" if parent.live else "")
            self._context = (parent, text)
        return text

    def new_trace_id(self) -> int:
        """Return the id of a new trace."""
        return self._bits(128) or 1

    def caller(self) -> Parent:
        """Return what something remote that begins here is a child of.

        Outside of any span (in a script, say) that is a root of its own, which stays open; a new one begins when it has
        had ``AMBIENT_MAX`` children, so that a trace of it can be looked at.
        """
        parent = current() or (OFF if self.off else self.adopt())
        if parent is not None:
            parent.used = True
            return parent
        if self._ambient is None or self._ambient_left <= 0:
            self._ambient, self._ambient_left = Adopted(self.new_trace_id(), self.new_span_id()), AMBIENT_MAX
            root = Adopted(self._ambient.trace_id, 0)
            name = program_name()
            self.record(root, name, "cell", perf_counter_ns(), 0, "open", span_id=self._ambient.span_id)
        self._ambient_left -= 1
        return self._ambient

    def record(
        self,
        parent: Parent,
        name: str,
        kind: str,
        start_ns: int,
        end_ns: int,
        status: str = "ok",
        attributes: dict[str, Any] | None = None,
        events: list[tuple[int, str, dict[str, Any]]] | None = None,
        *,
        span_id: int = 0,
    ) -> None:
        """Record a span that was never open: the cheapest way, for callers that have both times.

        Args:
            parent: What it is a child of.
            name: What it is called.
            kind: One of ``table.KINDS``.
            start_ns: ``perf_counter_ns`` of its start.
            end_ns: And of its end.
            status: How it ended.
            attributes: Plain data, not checked here.
            events: The same, as ``(perf_counter_ns, name, attributes)``.
            span_id: Its id, if children know it already; 0 for a new one.
        """
        parent.used = True
        if not parent.trace_id:
            return
        number = self.take()
        self.slots[number & self.mask] = (
            number, parent.trace_id, span_id or self.new_span_id(), parent.span_id, name, kind, start_ns, end_ns,
            status, get_ident(), attributes, events,
        )  # fmt: skip

    def adopt(self) -> Parent | None:
        """Return OpenTelemetry's active span, if the program is in one: its trace goes on here."""
        return adopt_active()

    def note_error(self, span: OpenSpan, error: BaseException, at_ns: int = 0) -> None:
        """Mark a span as failed; the traceback is kept with the innermost span of this process that saw it.

        ``at_ns`` is ``perf_counter_ns`` of that; 0 for now.
        """
        cancelled = isinstance(error, KeyboardInterrupt | GeneratorExit) or not CANCELLATIONS.isdisjoint(
            cls.__name__ for cls in type(error).__mro__
        )
        if span.status != "ok" or not span.trace_id:
            return
        span.status = "cancelled" if cancelled else "error"
        if isinstance(error, GeneratorExit):
            return
        # With the process, because an exception that came from another one should show its way through this one too.
        process, inner = seen_by(error)
        at_ns = at_ns or perf_counter_ns()
        events = span.events = span.events or []
        if process == self.key and inner != span.span_id:
            events.append((at_ns, "exception", {**name_error(error), "exception.span": f"{inner:016x}"}))
            return
        with contextlib.suppress(Exception):  # some types refuse attributes: each span keeps the traceback then
            error._znb_span = (self.key, span.span_id)  # type: ignore[attr-defined]
        try:
            details = dict(self.describe(error))
        except Exception as failure:  # noqa: BLE001 - the error that is being recorded matters more
            details = {"exception.type": type_name(error), "exception.lost": type(failure).__name__}
        if isinstance(error, KeyboardInterrupt):
            events.append((at_ns, "interrupt", {}))
        events.append((at_ns, "exception", details))

    def watch(self, interval_ms: int) -> None:
        """Count a watched span, and wake the sampler at the first."""
        with self._live_lock:
            self.live += 1
            first = self.live == 1
            self.interval_ms = interval_ms if first else min(interval_ms, self.interval_ms)
        if first and self.on_live is not None:
            self.on_live()

    def unwatch(self) -> None:
        """Count a watched span no longer."""
        with self._live_lock:
            self.live -= 1

    def touch(self) -> None:
        """Note that something remote begins."""
        if not self.off:
            for note in self.on_remote:
                note()

    def thread_name(self, ident: int) -> str:
        """Return a thread's name, also of one that has ended if it was asked for before."""
        thread = threading._active.get(ident)  # type: ignore[attr-defined]
        if thread is None:
            return self.threads.get(ident) or f"thread {ident}"
        if len(self.threads) > THREADS_MAX:
            self.threads.clear()
        name = self.threads[ident] = str(thread.name)
        return name


#: The recorder of this process: like logging's manager, what everything in the process records to. A forked child gets
#: ids and a ring of its own.
RECORDER: Final = Recorder()
os.register_at_fork(after_in_child=RECORDER.reset)
