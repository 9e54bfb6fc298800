"""A trace as text: the call tree, siblings of one name on one line, for terminals and logs.

Invariants: at most ``LINES_MAX`` lines; plain text, control characters taken out; says what is missing. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from znb.spans.table import KINDS
from znb.traces.analysis import TreeNode, errors, failures, self_ns, tree
from znb.traces.model import TraceData
from znb.traces.tables import clean, duration

__all__ = ["Roots", "text_tree"]

#: Lines of the tree.
LINES_MAX = 200
#: Branches below which siblings that took less than this part of the whole are summed up.
PART_MIN = 0.001
#: Exceptions shown below the tree.
ERRORS_MAX = 5
#: Lines of each one's traceback, the last.
TRACEBACK_LINES = 24
#: Functions shown of a branch that was sampled, the most expensive.
FUNCTIONS_MAX = 3
#: The part of a branch's time that makes a function worth a line.
FUNCTION_PART = 0.05
#: Workers named on one line.
WORKERS_MAX = 4


class Roots(list[TreeNode]):
    """The roots of a trace, shown as its tree."""

    def __init__(self, data: TraceData, width: int = 100) -> None:
        super().__init__(tree(data))
        self._data = data
        self._width = width

    def __repr__(self) -> str:
        return "\n".join(_lines(self._data, self._width)) or "no spans"


class _Group:
    """Spans of one name below one parent group."""

    __slots__ = (
        "below",
        "cancelled",
        "count",
        "failed",
        "first",
        "functions",
        "kind",
        "longest",
        "lost",
        "name",
        "own",
        "total",
        "workers",
    )

    def __init__(self, name: str, kind: int, first: int) -> None:
        self.name = name
        self.kind = kind
        self.first = first
        self.count = self.total = self.own = self.longest = self.failed = self.lost = self.cancelled = 0
        self.workers: dict[str, int] = {}
        self.below: dict[tuple[str, int], _Group] = {}
        self.functions: dict[str, int] = {}


def text_tree(data: TraceData, title: str = "", width: int = 100) -> str:
    """Return the tree, the exceptions and the notes."""
    lines = [_headline(data, title)]
    lines += _lines(data, width)
    failures = errors(data)
    if failures:
        lines.append("")
    for failure in failures[:ERRORS_MAX]:
        lines.append(f"✗ {failure.type}: {clean(failure.message)[: 2 * width]}")
        lines.append("    " + " → ".join(f"{clean(span.name)} ({span.worker})" for span in failure.path))
        lines += [f"    {clean(line)}" for line in failure.chain.rstrip().splitlines()[-TRACEBACK_LINES:]]
    if len(failures) > ERRORS_MAX:
        lines.append(f"… and {len(failures) - ERRORS_MAX} more that failed: trace.errors()")
    if data.notes:
        lines += ["", *(f"! {clean(note)}" for note in data.notes)]
    return "\n".join(lines)


def _headline(data: TraceData, title: str) -> str:
    name = title or (data.name(data.roots[0]) if data.roots else "empty trace")
    parts = [clean(name), duration(data.end_ns - data.start_ns), f"{len(data)} span{'s' * (len(data) != 1)}"]
    processes = len({number for number, _, _ in data.table.threads})
    if processes > 1:
        parts.append(f"{processes} processes")
    failed = len(failures(data))
    if failed:
        parts.append(f"{failed} failed")
    return " · ".join(parts)


def _group(data: TraceData) -> dict[tuple[str, int], _Group]:
    table, own = data.table, self_ns(data)
    roots: dict[tuple[str, int], _Group] = {}
    group_of: list[_Group | None] = [None] * len(data)
    for row, _ in data.walk():
        up = group_of[data.parent[row]] if data.parent[row] >= 0 else None
        there = roots if up is None else up.below
        key = (data.name(row), table.kind[row])
        group = there.get(key)
        if group is None:
            group = there[key] = _Group(*key, row)
        group_of[row] = group
        took = data.end(row) - table.start_ns[row]
        group.count += 1
        group.total += took
        group.own += own[row]
        group.longest = max(group.longest, took)
        group.failed += table.status[row] == 1
        group.lost += table.status[row] == 4
        group.cancelled += table.status[row] == 2
        worker = table.process(row).label
        group.workers[worker] = group.workers.get(worker, 0) + 1
    _add_samples(data, group_of, list(own))
    return roots


def _add_samples(data: TraceData, group_of: list[_Group | None], left: list[int]) -> None:
    """Add up what the user's functions took by the samples: those that were running, or waiting for a library.

    Args:
        data: The trace.
        group_of: By row.
        left: By row, nanoseconds that no child covers: what is waited for stands on its own lines.
    """
    samples = data.samples
    if not len(samples):
        return
    rows = dict(zip(data.table.span_id, range(len(data)), strict=True))
    names: list[str] = []
    for parent, number in zip(samples.stack_parent, samples.stack_frame, strict=True):
        frame = samples.frames[number]
        above = names[parent] if parent >= 0 else ""
        users = frame.origin == "user" and (parent >= 0 or frame.file != "<string>")  # so a worker begins
        names.append(f"{frame.name}, {_place(frame.file)}:{frame.first_line}" if users else above)
    for span_id, wall, stack in zip(samples.span_id, samples.wall_ns, samples.stack, strict=True):
        row = rows.get(span_id, -1)
        group = group_of[row] if row >= 0 else None
        if group is not None and names[stack]:
            part = min(wall, left[row])
            left[row] -= part
            group.functions[names[stack]] = group.functions.get(names[stack], 0) + part


def _place(file: str) -> str:
    """Return a file as it is named on a line: without its folders."""
    return file.rpartition("/")[2]


def _lines(data: TraceData, width: int) -> Iterator[str]:
    whole = max(1, data.end_ns - data.start_ns)
    count, hidden = 0, 0
    pending: list[tuple[_Group, str, bool]] = []

    def push(groups: dict[tuple[str, int], _Group], prefix: str) -> None:
        shown = list(groups.values())
        pending.extend((g, prefix, g is shown[-1]) for g in reversed(shown))

    push(_group(data), "")
    while pending:
        group, prefix, last = pending.pop()
        if count >= LINES_MAX:
            hidden += 1
            continue
        if group.total < whole * PART_MIN and count > LINES_MAX // 2 and not group.failed:
            hidden += 1
            continue
        count += 1
        yield _line(data, group, prefix + ("└─ " if last else "├─ "), width)
        below = prefix + ("   " if last else "│  ")
        functions = sorted(group.functions.items(), key=lambda item: -item[1])[:FUNCTIONS_MAX]
        for name, took in functions:
            if took >= group.total * FUNCTION_PART:
                yield _function(name, took, below + ("│  " if group.below else "   "), width)
        push(group.below, below)
    if hidden:
        yield f"… {hidden} more branches"


def _line(data: TraceData, group: _Group, prefix: str, width: int) -> str:
    mark = "✗ " if group.failed else "? " if group.lost else ""
    name = clean(group.name)
    kind = KINDS[group.kind]
    left = f"{prefix}{mark}{name}" + (f" [{kind}]" if kind not in {"span", "trace"} else "")
    if group.count > 1:
        left += f" ×{group.count}"
    room = max(24, width - 40)
    if len(left) > room:
        left = left[: room - 1] + "…"
    figures = f"{duration(group.total):>8} self {duration(group.own):>8}"
    if group.count > 1:
        figures += f" max {duration(group.longest):>8}"
    more = [_workers(group.workers)]
    if group.failed and group.count > 1:
        more.append(f"{group.failed} failed")
    if group.cancelled:
        more.append("cancelled" if group.count == 1 else f"{group.cancelled} cancelled")
    if group.lost:
        more.append("lost" if group.count == 1 else f"{group.lost} lost")
    elif group.count == 1 and not data.table.end_ns[group.first]:
        more.append("not ended")
    return f"{left:<{room}} {figures}  {' · '.join(more)}".rstrip()


def _function(name: str, took: int, prefix: str, width: int) -> str:
    room = max(24, width - 40)
    left = f"{prefix}· {clean(name)}"
    left = left if len(left) <= room else left[: room - 1] + "…"
    return f"{left:<{room}} {duration(took):>8} sampled"


def _workers(workers: dict[str, int]) -> str:
    if len(workers) == 1:
        return next(iter(workers))
    named = sorted(workers.items(), key=lambda item: -item[1])
    text = ", ".join(f"{name} {count}" for name, count in named[:WORKERS_MAX])
    return text + (f", {len(named) - WORKERS_MAX} more" if len(named) > WORKERS_MAX else "")
