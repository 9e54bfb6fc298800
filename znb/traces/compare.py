"""How two traces differ, by call path.

What is run twice is called otherwise each time: ``In[4]`` and ``In[5]``, "before" and "after". So what is around all of
it, the cell or the outermost ``znb.trace``, is one and the same in both, whatever it is called: the first name of each
path is the trace's title if both have it, else ``WHOLE``.

Invariants: pure.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from znb.spans.table import KINDS
from znb.traces.analysis import self_ns
from znb.traces.model import TraceData
from znb.traces.tables import Listing, duration, signed

__all__ = ["WHOLE", "Change", "Changes", "PathTotals", "by_path", "diff"]

#: The first name of paths where the two traces are called otherwise.
WHOLE = "(all)"
_CELL = KINDS.index("cell")
_TRACE = KINDS.index("trace")


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
    """How two traces differ."""

    HEADS = (">difference", ">self", ">self then", ">calls", ">calls then", "path")
    EMPTY = "no spans in either trace"

    def row(self, item: Change) -> tuple[str, ...]:
        """Return the texts of a row."""
        both = (item.before, item.after)
        own = [duration(found.own * 1e9) if found else "-" for found in both]
        calls = [str(found.calls) if found else "-" for found in both]
        return signed(item.difference * 1e9), *own, *calls, _path(item.path)


def _path(names: tuple[str, ...]) -> str:
    """Return a path with its end, however long it is."""
    return " → ".join(names if len(names) < 6 else (names[0], "…", *names[-3:]))


def around(data: TraceData) -> tuple[set[int], set[int]]:
    """Return the rows of cells that hold nothing but a trace, which do not count, and those around all the rest."""
    kinds = data.table.kind
    roots = {row for row in data.roots if kinds[row] in {_CELL, _TRACE}}
    traces = {row: [child for child in data.children(row) if kinds[child] == _TRACE] for row in roots}
    passed = {row for row in roots if kinds[row] == _CELL and traces[row]}
    below = {child for row in passed for child in traces[row]}
    return passed, (roots - passed) | below


def by_path(data: TraceData, whole: str | None = None) -> dict[tuple[str, ...], PathTotals]:
    """Return what each call path costs.

    Args:
        data: The trace.
        whole: What to call the cell or trace around all the rest; ``None`` for what it is called.
    """
    own, table = self_ns(data), data.table
    passed, outermost = around(data)
    nodes: dict[tuple[int, str], int] = {}
    at = array("i", bytes(4 * len(data)))
    sums: list[list[int]] = []
    for row, _ in data.walk():
        up = data.parent[row]
        if row in passed:
            at[row] = -1
            continue
        name = whole if whole is not None and row in outermost else table.strings[table.name[row]]
        key = (at[up] if up >= 0 else -1, name)
        node = nodes.get(key)
        if node is None:
            node = nodes[key] = len(sums)
            sums.append([0, 0, 0])
        at[row] = node
        found = sums[node]
        found[0] += 1
        found[1] += (table.end_ns[row] or data.end_ns) - table.start_ns[row]
        found[2] += own[row]
    paths: list[tuple[str, ...]] = []
    for parent, name in nodes:
        paths.append((*(paths[parent] if parent >= 0 else ()), name))
    return {
        path: PathTotals(count, total / 1e9, alone / 1e9)
        for path, (count, total, alone) in zip(paths, sums, strict=True)
    }


def diff(before: TraceData, after: TraceData) -> Changes:
    """Return how the call paths of two traces differ, the largest difference of self time first."""
    names = [{data.name(row) for row in around(data)[1]} for data in (before, after)]
    whole = None if names[0] == names[1] else WHOLE
    first, second = by_path(before, whole), by_path(after, whole)
    changes = Changes()
    for path in dict.fromkeys((*first, *second)):
        one, other = first.get(path), second.get(path)
        changes.append(Change(path, one, other, (other.own if other else 0.0) - (one.own if one else 0.0)))
    changes.sort(key=lambda change: -abs(change.difference))
    return changes
