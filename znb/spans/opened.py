"""A span that has begun: what is active in a context, what it is a child of, how it ends.

Invariants: those of ``recorder``. Any thread may begin, enter and end spans; what is entered is left in the same
context. Source: CPython's ``contextvars``.
"""

from __future__ import annotations

import contextvars
from threading import get_ident
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from znb.spans.adopted import OFF
from znb.spans.plain import ATTRIBUTES_MAX, clean

if TYPE_CHECKING:
    from znb.spans.recorder import Recorder

__all__ = ["OpenSpan", "OptionalSpan", "Parent", "current", "set_current"]

#: Events of one span; later ones are counted.
EVENTS_MAX = 128
#: Spans inside of each other that are looked through.
DEPTH_MAX = 10_000

#: The span, or the caller's context, in which the present code runs.
ACTIVE: Final[contextvars.ContextVar[Parent | None]] = contextvars.ContextVar("znb_span", default=None)

#: The present span or remote context; ``None`` for none.
current: Final = ACTIVE.get
#: Makes another one the present one.
set_current: Final = ACTIVE.set


class Parent(Protocol):
    """What a span can be a child of: an open span here, or a ``Context`` that came from elsewhere."""

    trace_id: int
    span_id: int
    live: int
    used: bool


class OpenSpan:
    """A span that has begun. Use it in ``with``, or ``start`` and ``end`` it, on any thread.

    In ``with`` it is what spans made inside are children of; ``start`` alone changes no context.

    Args:
        recorder: Where it is recorded.
        name: What it is called.
        kind: One of ``table.KINDS``.
        attributes: Belongs to the span from now on; values are cut to size. ``None`` for none.
        parent: What it is a child of; ``None`` for what is active where it starts.
        live: Milliseconds between samples, if it is watched; 0 for not. What is below a watched span is watched too, in
            every process.

    Attributes:
        optional: Whether it is only worth recording if something becomes a child of it.
        trace_id: 128 bits; 0 before it starts.
        span_id: 64 bits; 0 before it starts.
        start_ns: ``perf_counter_ns`` of its start.
        status: ``"ok"``, ``"error"`` or ``"cancelled"``; may be set until it ends.
        used: Whether it has children.
        outer: What was active when it was entered.
        entered: Whether code runs inside of it, on ``thread``.
        kept: Whether it is among the recorder's open ones.
        special: Whether entering it takes more than is done for nearly all spans.
    """

    optional = False

    __slots__ = (
        "attributes",
        "entered",
        "events",
        "kept",
        "kind",
        "live",
        "name",
        "outer",
        "parent_id",
        "recorder",
        "span_id",
        "special",
        "start_ns",
        "status",
        "thread",
        "trace_id",
        "used",
    )  # fmt: skip

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        kind: str = "span",
        attributes: dict[str, Any] | None = None,
        parent: Parent | None = None,
        live: int = 0,
    ) -> None:
        self.recorder = recorder
        self.name = name
        self.kind = kind
        self.attributes = clean(attributes) if attributes else None
        self.events: list[tuple[int, str, dict[str, Any]]] | None = None
        self.status = "ok"
        self.live = live
        self.used = self.entered = self.kept = False
        self.outer = parent
        self.special = parent is not None or live > 0 or self.optional
        self.trace_id = self.span_id = 0

    def start(self) -> Self:
        """Begin, as a child of the given parent or of what is active here."""
        self._start(self.outer or current(), keep=True)
        return self

    def _start(self, parent: Parent | None, *, keep: bool) -> None:
        recorder = self.recorder
        if parent is None:
            parent = recorder.adopt() if not recorder.off or self.live else OFF
        if parent is None or (self.live and not parent.trace_id):
            self.trace_id = recorder.new_trace_id()
            self.parent_id = 0
        else:
            parent.used = True
            self.trace_id = parent.trace_id
            self.parent_id = parent.span_id
        self.span_id = span_id = recorder.new_span_id()
        self.thread = get_ident()
        if parent is not None and parent.live:
            self.live = parent.live
        if self.live:
            recorder.watch(self.live)
        self.special = True
        self.kept = keep or self.live > 0 or self.optional
        if self.kept:
            recorder.open[span_id] = self
        self.start_ns = perf_counter_ns()

    def end(self, error: BaseException | None = None) -> None:
        """End, with the status that ``error`` gives it. Ends once; later calls do nothing.

        Args:
            error: What it failed with; ``None`` for nothing.
        """
        self._end(error, perf_counter_ns())

    def _end(self, error: BaseException | None, end_ns: int) -> None:
        recorder = self.recorder
        if self.kept:
            if recorder.open.pop(self.span_id, None) is None:
                return
        elif not self.entered:
            return
        self.entered = False
        if error is not None:
            recorder.note_error(self, error, end_ns)
        if self.live:
            recorder.unwatch()
        if not self.trace_id or (self.optional and not self.used and self.status == "ok"):
            return
        number = recorder.take()
        recorder.slots[number & recorder.mask] = (
            number, self.trace_id, self.span_id, self.parent_id, self.name, self.kind, self.start_ns, end_ns,
            self.status, self.thread, self.attributes, self.events,
        )  # fmt: skip

    # What follows is ``start``, ``enter``, ``leave`` and ``end`` once more, written out for spans that nobody
    # watches. They are not kept among the open ones: that would be a tenth of what a span costs, and only who watches
    # wants to know.

    def __enter__(self) -> Self:
        outer = current()
        if self.special or outer is None or outer.live:
            return self._enter(outer)
        outer.used = self.special = self.entered = True
        self.outer = outer
        self.trace_id = outer.trace_id
        self.parent_id = outer.span_id
        self.span_id = self.recorder.new_span_id()
        self.thread = get_ident()
        set_current(self)
        self.start_ns = perf_counter_ns()
        return self

    def _enter(self, outer: Parent | None) -> Self:
        if not self.span_id:
            self._start(self.outer or outer, keep=False)
        elif self.entered or self.span_id not in self.recorder.open:
            raise RuntimeError(f"the span {self.name!r} has been entered before; make another one for each time")
        self.enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: object) -> None:
        end_ns = perf_counter_ns()
        if self.kept or error is not None or not self.entered or current() is not self:
            self.close(error, end_ns)
            return
        set_current(self.outer)
        self.entered = False
        if self.trace_id:
            recorder = self.recorder
            number = recorder.take()
            recorder.slots[number & recorder.mask] = (
                number, self.trace_id, self.span_id, self.parent_id, self.name, self.kind, self.start_ns, end_ns,
                self.status, self.thread, self.attributes, self.events,
            )  # fmt: skip

    def enter(self) -> None:
        """Make a started span the one that spans are children of, on this thread and in this context."""
        self.outer = current()
        set_current(self)
        self.resume()

    def resume(self) -> None:
        """Note that the code inside runs again, or begins to run, on this thread."""
        self.thread = get_ident()
        self.entered = True
        opened = self.recorder.open
        if opened.pop(self.span_id, None) is not None:  # the latest entered on a thread is to be the last
            opened[self.span_id] = self

    def leave(self) -> None:
        """Undo ``enter``; the span stays open."""
        active = current()
        if active is self or self.is_above(active):
            set_current(self.outer)
        self.entered = False

    def is_above(self, active: Parent | None) -> bool:
        """Tell whether it was entered before ``active``, and what was entered since was left without a word.

        So it is with a span in a generator that nobody goes on with, and where an interrupt came in between the end
        of a block and the first line of ``__exit__``. If not, others have taken over.
        """
        for _ in range(DEPTH_MAX):
            if active is self:
                return True
            if active is None:
                return False
            active = getattr(active, "outer", None)
        return False

    def unwind(self) -> None:
        """End what was entered inside of it on this thread and left without a word, as cancelled."""
        active = current()
        if active is self or not self.is_above(active):
            return
        now = perf_counter_ns()
        while isinstance(active, OpenSpan) and active is not self:
            if active.status == "ok":
                active.status = "cancelled"
            outer = active.outer
            active.close(None, now)
            active = outer
        set_current(self)

    def close(self, error: BaseException | None, end_ns: int) -> None:
        """Undo ``enter``, and end at a time that has passed (``perf_counter_ns``)."""
        entered = self.entered
        self.leave()
        self.entered = entered
        self._end(error, end_ns)

    def keep(self) -> Self:
        """Return itself: as ``remote.Served`` it may be kept, and end later."""
        return self

    def set(self, **attributes: Any) -> None:
        """Add attributes, or change them."""
        added = clean(attributes)
        if self.attributes is None:
            self.attributes = added
        elif len(self.attributes) + len(added) <= ATTRIBUTES_MAX:
            self.attributes.update(added)

    def event(self, name: str, /, **attributes: Any) -> None:
        """Add something that happened, with the present time; beyond a limit they are only counted."""
        events = self.events
        if events is None:
            events = self.events = []
        if len(events) < EVENTS_MAX:
            events.append((perf_counter_ns(), name, clean(attributes)))
        else:
            self.set(events_dropped=(self.attributes or {}).get("events_dropped", 0) + 1)

    def error(self, error: BaseException) -> None:
        """Mark as failed with ``error``; to be called before the end."""
        self.recorder.note_error(self, error)


class OptionalSpan(OpenSpan):
    """A span that is only worth recording if something becomes a child of it, or if it fails: a notebook's cell."""

    optional = True

    __slots__ = ()
