"""What a trace tells: where time went, what everybody waited for, what failed, and how two traces differ.

Invariants: pure functions over ``TraceData``; none takes more than some seconds for a million spans; none recurses,
since call trees may be deeper than Python's stack.
"""

from __future__ import annotations

import fnmatch
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import msgspec

from znb.spans.table import CANCELLED, ERROR, KINDS, Span
from znb.traces.listing import LINES_MAX, Listing, duration, in_columns, printable
from znb.traces.model import TraceData

__all__ = [
    "Change",
    "Failure",
    "PathTotals",
    "Segment",
    "Segments",
    "SelfTime",
    "TreeNode",
    "critical_path",
    "diff",
    "errors",
    "failures",
    "find",
    "own_ns",
    "self_ns",
    "self_times",
    "to_pandas",
    "tree",
]


#: The attribute of generators' spans that tells how long they stood still.
SUSPENDED = "suspended_ns"
#: Kinds of spans whose names tell which run it was, not what was done.
_TOPS = (KINDS.index("cell"), KINDS.index("trace"))


class Segment(NamedTuple):
    """A stretch of the critical path: during it, everybody waited for this span's own work.

    Attributes:
        span: Whose.
        start_ns: Unix time.
        end_ns: Unix time.
    """

    span: Span
    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.end_ns - self.start_ns) / 1e9


class Segments(Sequence[Segment]):
    """Segments of a trace, made when they are looked at."""

    def __init__(self, data: TraceData, stretches: Sequence[tuple[int, int, int]]) -> None:
        self._data = data
        self._stretches = stretches

    def __len__(self) -> int:
        return len(self._stretches)

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> Segments: ...
    def __getitem__(self, index: int | slice) -> Segment | Segments:
        if isinstance(index, slice):
            return Segments(self._data, self._stretches[index])
        row, start, end = self._stretches[index]
        return Segment(self._data.span(row), start, end)

    def __repr__(self) -> str:
        rows = [(printable(s.span.name), s.span.worker, duration(s.seconds * 1e9)) for s in self[:LINES_MAX]]
        return in_columns(("critical path", "where", "took"), rows, len(self)) if rows else "(nothing)"


class SelfTime(NamedTuple):
    """What the spans of one name cost together, in seconds.

    Attributes:
        calls: How many there are.
        total: From start to end, added up.
        own: The same without what their children cover.
        running: How much of ``own`` their threads were running, by their CPU clocks; ``None`` where nothing was
        sampled. errors: How many failed.
    """

    name: str
    kind: str
    calls: int
    total: float
    own: float
    running: float | None
    errors: int


class Failure(msgspec.Struct, frozen=True):
    """An exception where it happened.

    Attributes:
        span: The innermost span that it ended.
        path: From the root to ``span``.
        type: The exception's type.
        message: Its text.
        traceback: As Python prints it, where it was raised.
        count: How many spans of this trace it ended.
        chain: The traceback as the farthest caller saw it, with every hop on the way; as ``traceback`` if none did.
    """

    span: Span
    path: tuple[Span, ...]
    type: str
    message: str
    traceback: str
    count: int
    chain: str = ""

    def __str__(self) -> str:
        hops = " → ".join(f"{span.name} ({span.worker})" for span in self.path)
        return f"{self.type}: {self.message}\n  in {hops}"

    def __repr__(self) -> str:
        return f"<Failure {self.type}: {self.message:.60} in {self.span.name} ({self.span.worker})>"


class Failures(Listing[Failure]):
    """Exceptions; shows each with its way."""

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or "(no exceptions)"


class SelfTimes(Listing[SelfTime]):
    """What each name costs."""

    head = ("name", "kind", "calls", "total", "self", "running", "failed")

    def cells(self, item: SelfTime) -> tuple[str, ...]:
        """Return an item's line."""
        ran = "" if item.running is None else duration(item.running * 1e9)
        took = (duration(item.total * 1e9), duration(item.own * 1e9), ran)
        return (printable(item.name), item.kind, f"{item.calls:,}", *took, str(item.errors or ""))


class TreeNode:
    """A span and those below it.

    Attributes:
        span: The span.
    """

    __slots__ = ("_data", "_row", "span")

    def __init__(self, data: TraceData, row: int) -> None:
        self._data = data
        self._row = row
        self.span = data.span(row)

    @property
    def children(self) -> list[TreeNode]:
        """The nodes below, by start."""
        return [TreeNode(self._data, row) for row in self._data.children(self._row)]

    @property
    def self_seconds(self) -> float:
        """The span's time that no child covers."""
        return own_ns(self._data, self._row) / 1e9

    def walk(self) -> Iterator[tuple[TreeNode, int]]:
        """Yield this node and those below, with their depths."""
        pending = [(self, 0)]
        while pending:
            node, depth = pending.pop()
            yield node, depth
            pending.extend((child, depth + 1) for child in reversed(node.children))

    def __repr__(self) -> str:
        count = len(self._data.children(self._row))
        more = f", {count} {'child' if count == 1 else 'children'}" if count else ""
        return f"<{self.span.name} [{self.span.kind}] {duration((self.span.duration or 0) * 1e9)}{more}>"


def tree(data: TraceData) -> list[TreeNode]:
    """Return the roots."""
    return [TreeNode(data, row) for row in data.roots]


def own_ns(data: TraceData, row: int) -> int:
    """Return nanoseconds of a span that no child covers."""
    table = data.table
    start, end = table.start_ns[row], data.end(row)
    covered, until = 0, start
    for child in data.children(row):
        begins, ends = max(table.start_ns[child], until), min(data.end(child), end)
        if ends > begins:
            covered += ends - begins
            until = ends
    return max(0, end - start - covered - _suspended(data, row))


def _suspended(data: TraceData, row: int) -> int:
    """Return nanoseconds that a generator's span stood still, while its caller was busy with an item."""
    found = data.table.attributes(row).get(SUSPENDED, 0)
    return found if isinstance(found, int) else 0


def self_ns(data: TraceData) -> array[int]:
    """Return, for each row, nanoseconds that no child covers."""
    starts, finish = data.table.start_ns, data.end_ns
    ends = [end or finish for end in data.table.end_ns]
    own = array("q", map(int.__sub__, ends, starts))
    order, first = data.order, data.first
    for row in range(len(own)):
        low, high = first[row], first[row + 1]
        if low == high:
            continue
        until, limit, covered = starts[row], ends[row], 0
        for child in order[low:high]:
            begins, stop = starts[child], ends[child]
            if begins < until:  # noqa: PLR1730 - max and min would double the time that this takes
                begins = until
            if stop > limit:  # noqa: PLR1730 - as above
                stop = limit
            if stop > begins:
                covered += stop - begins
                until = stop
        own[row] -= covered
    if SUSPENDED.encode() in data.table.blob:
        for row in range(len(own)):
            own[row] = max(0, own[row] - _suspended(data, row))
    return own


def self_times(data: TraceData) -> list[SelfTime]:
    """Return what each name costs, the most expensive in itself first."""
    own, table = self_ns(data), data.table
    sums: dict[tuple[int, int], list[int]] = {}
    where: dict[int, tuple[int, int]] = {}
    sampled = set(data.samples.span_id)
    for row, key in enumerate(zip(table.name, table.kind, strict=True)):
        found = sums.get(key)
        if found is None:
            found = sums[key] = [0, 0, 0, 0, 0, 0]
        found[0] += 1
        found[1] += (table.end_ns[row] or data.end_ns) - table.start_ns[row]
        found[2] += own[row]
        found[4] += table.status[row] == ERROR
        if sampled and table.span_id[row] in sampled:
            where[table.span_id[row]] = key
            found[5] = 1
    for span_id, cpu in zip(data.samples.span_id, data.samples.cpu_ns, strict=True):
        if span_id in where:
            sums[where[span_id]][3] += cpu
    totals = [
        SelfTime(table.strings[name], KINDS[kind], f[0], f[1] / 1e9, f[2] / 1e9, f[3] / 1e9 if f[5] else None, f[4])
        for (name, kind), f in sums.items()
    ]
    return SelfTimes(sorted(totals, key=lambda total: -total.own))


def critical_path(data: TraceData, row: int | None = None) -> Segments:
    """Return what the whole took its time for: going back from the end, always the child that ended last.

    Args:
        data: The trace.
        row: Where it begins; ``None`` for the longest root.

    Returns:
        Segments by time; together they cover the span from start to end once.
    """
    if not len(data):
        return Segments(data, [])
    if row is None:
        row = max(data.roots, key=lambda root: data.end(root) - data.table.start_ns[root])
    starts = data.table.start_ns
    found: list[tuple[int, int, int]] = []
    # Each entry: a span, its children by end (the last first), and up to which time it is still to be gone through.
    pending = [(row, _by_end(data, row), data.end(row), starts[row])]
    while pending:
        at, children, until, floor = pending.pop()
        while children:
            child = children.pop()
            ends = data.end(child)
            if ends <= until and ends > floor and starts[child] < until:
                found.append((at, ends, until))
                begins = max(starts[child], floor)
                pending.append((at, children, begins, floor))
                pending.append((child, _by_end(data, child), ends, begins))
                break
        else:
            found.append((at, floor, until))
    return Segments(data, [stretch for stretch in reversed(found) if stretch[2] > stretch[1]])


def _by_end(data: TraceData, row: int) -> list[int]:
    """Return a span's children, those that ended last at the end; what outlives the span does not hold it up."""
    limit, ends, finish = data.end(row), data.table.end_ns, data.end_ns
    found = [child for child in data.children(row) if (ends[child] or finish) <= limit]
    if len(found) > 1:
        found.sort(key=data.end)
    return found


def failures(data: TraceData) -> list[int]:
    """Return the innermost span that each exception ended: one row for each, by time."""
    failed = {row for row, status in enumerate(data.table.status) if status == ERROR}
    above = {data.parent[row] for row in failed}
    return sorted(failed - above, key=data.end)


def errors(data: TraceData) -> list[Failure]:
    """Return each exception once, where it happened."""
    status = data.table.status
    found = Failures()
    for row in failures(data):
        count, up = 1, data.parent[row]
        while up >= 0 and status[up] == ERROR:
            count, up = count + 1, data.parent[up]
        details = _exception(data, row)
        path = tuple(data.span(step) for step in data.path(row))
        kind, message, text = (str(details.get(f"exception.{key}", "")) for key in ("type", "message", "stacktrace"))
        found.append(Failure(path[-1], path, kind, message, text, count, _chain(data, row)))
    return found


def _chain(data: TraceData, row: int) -> str:
    """Return the traceback of the outermost span that an exception went through, of those that kept one."""
    found, up = "", row
    while up >= 0 and data.table.status[up] == ERROR:
        found = str(_exception(data, up).get("exception.stacktrace", "")) or found
        up = data.parent[up]
    return found


def _exception(data: TraceData, row: int) -> dict[str, Any]:
    """Return what is known of the exception that ended a span, or a child of it that was cancelled."""
    for at in (row, *(child for child in data.children(row) if data.table.status[child] == CANCELLED)):
        for event in reversed(data.events(at)):
            if event.name == "exception":
                return event.attributes
    return {}


def find(data: TraceData, pattern: str) -> list[int]:
    """Return the rows of spans of a name: all of it, its last part (``method`` of ``service.method``), or a pattern."""
    wanted = set()
    for number, name in enumerate(data.table.strings):
        if name == pattern or name.endswith(f".{pattern}") or fnmatch.fnmatchcase(name, pattern):
            wanted.add(number)
    rows = [row for row, name in enumerate(data.table.name) if name in wanted]
    return sorted(rows, key=data.table.start_ns.__getitem__)


class PathTotals(NamedTuple):
    """What the spans of one call path cost together, in seconds."""

    calls: int
    total: float
    own: float


class Change(NamedTuple):
    """A call path in two traces.

    Attributes:
        path: Names from the root.
        before: In this trace; ``None`` if it is not there.
        after: In the other.
        difference: Seconds of self time that the other takes more.
    """

    path: tuple[str, ...]
    before: PathTotals | None
    after: PathTotals | None
    difference: float


class Changes(Listing[Change]):
    """How call paths differ."""

    head = ("call path", "before", "after", "difference")
    none = "(no difference)"

    def cells(self, item: Change) -> tuple[str, ...]:
        """Return an item's line."""
        sides = [f"{side.calls:,}× {duration(side.own * 1e9)}" if side else "" for side in (item.before, item.after)]
        sign = "+" if item.difference >= 0 else "-"
        return (printable(" → ".join(item.path)), *sides, f"{sign}{duration(abs(item.difference) * 1e9)}")


#: What stands for the cell, or the trace, that all of a trace is below: what they are called is not what is compared.
WHOLE = "(whole)"


def by_path(data: TraceData) -> dict[tuple[str, ...], PathTotals]:
    """Return what each call path costs; cells and traces at the top count as one, whatever they are called."""
    own, table = self_ns(data), data.table
    nodes: dict[tuple[int, int], int] = {}
    at = array("i", bytes(4 * len(data)))
    sums: list[list[int]] = []
    whole = -2
    for row, _ in data.walk():
        up = data.parent[row]
        above = at[up] if up >= 0 else -1
        top = table.kind[row] in _TOPS and (up < 0 or above == whole)
        key = (-1, -1) if top else (above, table.name[row])
        node = nodes.get(key)
        if node is None:
            node = nodes[key] = len(sums)
            sums.append([0, 0, 0])
        at[row] = node
        found = sums[node]
        if top:
            whole = node
        if not top or up < 0:  # what is inside of another top is counted with it
            found[0] += 1
            found[1] += (table.end_ns[row] or data.end_ns) - table.start_ns[row]
        found[2] += own[row]
    paths: list[tuple[str, ...]] = []
    for parent, name in nodes:
        paths.append((*(paths[parent] if parent >= 0 else ()), table.strings[name] if name >= 0 else WHOLE))
    return {
        path: PathTotals(count, total / 1e9, alone / 1e9)
        for path, (count, total, alone) in zip(paths, sums, strict=True)
    }


def diff(before: TraceData, after: TraceData) -> list[Change]:
    """Return how the call paths of two traces differ, the largest difference of self time first."""
    first, second = by_path(before), by_path(after)
    changes = []
    for path in dict.fromkeys((*first, *second)):
        one, other = first.get(path), second.get(path)
        changes.append(Change(path, one, other, (other.own if other else 0.0) - (one.own if one else 0.0)))
    return Changes(sorted(changes, key=lambda change: -abs(change.difference)))


def to_pandas(data: TraceData) -> Any:
    """Return a ``pandas.DataFrame`` with a row for each span; attributes as columns of their own.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install pandas") from error
    rows = []
    own = self_ns(data)
    for row in data.by_start:
        span = data.span(row)
        rows.append({
            "name": span.name, "kind": span.kind, "span_id": span.span_id, "parent_id": span.parent_id,
            "worker": span.worker, "host": span.host, "pid": span.pid, "thread": span.thread, "status": span.status,
            "start": span.start_ns, "end": span.end_ns, "seconds": span.duration, "self_seconds": own[row] / 1e9,
            **{f"attributes.{key}": value for key, value in span.attributes.items()},
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    if len(frame):
        frame["start"] = pd.to_datetime(frame["start"], unit="ns", utc=True)
        frame["end"] = pd.to_datetime(frame["end"], unit="ns", utc=True)
    return frame
