"""Jobs that belong together, as the client holds them: until each has its outcome, and while it can be sent again.

Owned by the reactor's thread; a ``Receiver`` is told of them there unless it says otherwise.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from znb.errors import ZnbError
from znb.executor.futures import Batch
from znb.outputs import Output
from znb.schedule.records import Attempt, Loss, Send
from znb.serialize import Payload
from znb.shipping import payload_bytes
from znb.spans import Brief, record_lost
from znb.spans.recorder import Parent

__all__ = ["NOTHING", "Group", "Part", "Receiver", "Show"]

#: Shows what a job printed: worker, the job's label, its number, its attempt, and the output, or ``None`` when it has
#: ended. On the delivery thread.
Show = Callable[[str, str, int, int, Output | None], None]


class Receiver(Protocol):
    """Who hears of a group's jobs, on the reactor's thread: a map, or the futures of submits."""

    def sent(self, start: int, stop: int, worker: str) -> None:
        """These jobs are on their way to a worker."""

    def deliver(self, batch: Batch, count: int, skip: Collection[int], worker: str, size_bytes: int) -> None:
        """Outcomes have come; those in ``skip`` are not this receiver's. A map's size is ``taken`` with them."""

    def event(self, index: int, name: str, **attributes: Any) -> None:
        """Something happened to a job that its trace should tell: ``retry``, ``kill``, ``interrupt``."""

    def parent(self, index: int) -> Brief | Parent | None:
        """Return the span that a job's own is below; ``None`` if nobody waits for the job."""

    def fail(self, index: int, error: BaseException) -> None:
        """A job ended without an outcome."""

    def pull(self, count: int) -> None:
        """Up to ``count`` more items are wanted."""

    def finished(self) -> None:
        """Nothing more will come."""

    def abort(self, error: ZnbError) -> None:
        """Nothing more will come, because the cluster was closed."""

    def close_feed(self, *, cancel: bool) -> None:
        """No more jobs are to come; with ``cancel``, those that no worker has begun never run. On any thread."""

    def drain(self) -> bool:
        """Have results go on coming though nobody takes them; return whether that is not needed any more.

        On any thread; waits for a moment.
        """

    def wait_finished(self) -> None:
        """Wait until every job has ended. On any thread."""


class Part:
    """An encoded run of a group's items, kept until their outcomes are in.

    Attributes:
        first: The first job.
        count: How many jobs.
        left: How many of them have no outcome yet.
        payload: The encoded list of items.
    """

    __slots__ = ("context", "count", "first", "left", "payload", "span")

    def __init__(self, payload: Payload, count: int, context: str = "", span: int = 0) -> None:
        self.context = context
        self.span = span
        self.payload = payload
        self.count = count
        self.left = count
        self.first = -1


class Group:
    """One map, or the submits of one function.

    Args:
        function: The encoded function.
        call: How it is called with an item (``frames.CALL_…``).
        label: What it is called in messages.
        receiver: Who hears of its jobs.
        retry_on: Qualified names of exception types after which a job is run again.
        show: Shows what its jobs print.
        options: For ``Scheduler.add_group``.

    Attributes:
        dropped: Jobs whose outcomes are in.
        dropped_bytes: Bytes of encoded items that are not needed any more.
        held_bytes: Bytes of results that are here and have not been taken.
        retried: The last attempt that the trace was told of, of jobs that run again.
    """

    __slots__ = (
        "_firsts",
        "_parts",
        "call",
        "dropped",
        "dropped_bytes",
        "function",
        "held_bytes",
        "label",
        "number",
        "options",
        "receiver",
        "retried",
        "retry_on",
        "show",
    )

    def __init__(
        self,
        function: Payload,
        call: int,
        label: str,
        receiver: Receiver,
        *,
        retry_on: frozenset[str] = frozenset(),
        show: Show,
        **options: Any,
    ) -> None:
        self.function = function
        self.call = call
        self.label = label
        self.receiver = receiver
        self.retry_on = retry_on
        self.show = show
        self.options = options
        self.number = -1
        self.dropped = 0
        self.dropped_bytes = 0
        self.held_bytes = 0
        self.retried: dict[int, int] = {}
        self._parts: dict[int, Part] = {}
        self._firsts: collections.deque[int] = collections.deque()

    def add(self, part: Part, first: int) -> None:
        """Keep a part whose first job has this number; parts are added in order."""
        part.first = first
        self._parts[first] = part
        self._firsts.append(first)

    def find(self, index: int) -> Part:
        """Return the part that a job is in."""
        part = self._parts.get(index)
        return part or self._parts[self._firsts[bisect.bisect_right(self._firsts, index) - 1]]

    def drop(self, start: int, stop: int) -> None:
        """Let go of what is not needed any more, since these jobs have ended."""
        self.dropped += stop - start
        while start < stop:
            part = self.find(start)
            count = min(stop, part.first + part.count) - start
            part.left -= count
            start += count
            if part.left <= 0:
                self.dropped_bytes += payload_bytes(part.payload)
                part.payload = NOTHING
        while self._firsts and self._parts[self._firsts[0]].left <= 0:
            del self._parts[self._firsts.popleft()]

    def drop_all(self, first: int, count: int, without: Collection[int]) -> None:
        """Let go of what ``count`` jobs need that have ended, but not of what those in ``without`` need."""
        start = first
        for hole in sorted(without):
            self.drop(start, hole)
            start = hole + 1
        self.drop(start, first + count)

    def note_retry(self, command: Send, worker: str, charged: Sequence[Attempt]) -> None:
        """Note that jobs run again."""
        index = command.start
        if self.retried.get(index) == command.attempt:
            return  # it has only been given to another worker
        self.retried[index] = command.attempt
        reason = charged[-1].reason.splitlines()[0] if charged else "it may have begun on a worker that is gone"
        self.receiver.event(
            index, "retry", job=index, jobs=command.stop - index, attempt=command.attempt, worker=worker, reason=reason
        )

    def note_loss(self, loss: Loss, worker: str, reason: str) -> None:
        """Have the trace tell of the job that ran on a worker that is gone: the worker cannot any more."""
        parent = self.receiver.parent(loss.index)
        if parent is not None:
            self.receiver.event(loss.index, "kill", job=loss.index, worker=worker, reason=reason)
            which = {"worker": worker, "index": loss.index, "attempt": loss.attempt}
            record_lost(parent, self.label, loss.since, reason, **which)


#: The payload of a part that is not needed any more, or of an item that cannot be encoded: its job never runs.
NOTHING = Payload(b"", (), ())
