"""A trace as text: the call tree, siblings of one name on one line, for terminals and logs.

Invariants: at most ``LINES_MAX`` lines; plain text, control characters taken out; says what is missing. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from znb.spans.table import CANCELLED, ERROR, KINDS, LOST
from znb.traces.analysis import TreeNode, errors, failures, self_ns, tree
from znb.traces.listing import duration, printable
from znb.traces.model import TraceData
from znb.traces.unseen import REASON, unseen_ns

__all__ = ["Roots", "duration", "text_tree"]

#: Lines of the tree.
LINES_MAX = 200
#: Branches below which siblings that took less than this part of the whole are summed up.
PART_MIN = 0.001
#: Exceptions shown below the tree.
ERRORS_MAX = 5
#: Lines of each one's traceback, the last.
TRACEBACK_LINES = 24
#: Events that a line tells of, in words.
MARKS = {"retry": "retried", "kill": "worker killed"}
#: Functions shown of a trace that was sampled.
HOT_MAX = 5
#: Workers named on one line.
WORKERS_MAX = 4


class Roots(list[TreeNode]):
    """The roots of a trace, shown as its tree."""

    def __init__(self, data: TraceData, width: int = 100) -> None:
        super().__init__(tree(data))
        self._data = data
        self._width = width

    def __repr__(self) -> str:
        return "\n".join(_lines(self._data, self._width)) or "(no spans)"


class _Group:
    """Spans of one name below one parent group."""

    __slots__ = (
        "below",
        "count",
        "failed",
        "first",
        "kind",
        "longest",
        "lost",
        "marks",
        "name",
        "own",
        "total",
        "workers",
    )

    def __init__(self, name: str, kind: int, first: int) -> None:
        self.name = name
        self.kind = kind
        self.first = first
        self.count = self.total = self.own = self.longest = self.failed = self.lost = 0
        self.marks: Counter[str] = Counter()
        self.workers: dict[str, int] = {}
        self.below: dict[tuple[str, int], _Group] = {}


def text_tree(data: TraceData, title: str = "", width: int = 100) -> str:
    """Return the tree, the exceptions and the notes."""
    lines = [_headline(data, title)]
    lines += _lines(data, width)
    lines += _hot(data)
    lines += _unseen(data)
    found = errors(data)
    if found:
        lines.append("")
    for failure in found[:ERRORS_MAX]:
        lines.append(f"✗ {failure.type}: {printable(failure.message)[: 2 * width]}")
        lines.append("    " + " → ".join(f"{printable(span.name)} ({span.worker})" for span in failure.path))
        lines += [f"    {printable(line)}" for line in failure.chain.rstrip().splitlines()[-TRACEBACK_LINES:]]
    if len(found) > ERRORS_MAX:
        lines.append(f"… and {len(found) - ERRORS_MAX} more that failed: trace.errors()")
    if data.notes:
        lines += ["", *(f"! {printable(note)}" for note in data.notes)]
    return "\n".join(lines)


def _hot(data: TraceData) -> list[str]:
    """Return the functions that were seen at work most, if it was sampled."""
    samples = data.samples
    running: dict[int, int] = {}
    for stack, cpu in zip(samples.stack, samples.cpu_ns, strict=True):
        if cpu:
            running[stack] = running.get(stack, 0) + cpu
    by_name: dict[str, int] = {}
    for stack, cpu in running.items():
        frame = _user_frame(data, stack)
        by_name[frame] = by_name.get(frame, 0) + cpu
    found = sorted(by_name.items(), key=lambda item: -item[1])[:HOT_MAX]
    return (
        ["", "sampled at work in", *(f"  {duration(cpu):>8}  {printable(name)}" for name, cpu in found)]
        if found
        else []
    )


def _unseen(data: TraceData) -> list[str]:
    """Return the spans that took time in which the sampler could not look, if there are any."""
    by_name: Counter[str] = Counter()
    for row, unseen in unseen_ns(data).items():
        by_name[data.name(row)] += unseen
    found = [f"  {duration(unseen):>8}  {printable(name)}" for name, unseen in by_name.most_common(HOT_MAX)]
    return ["", f"not seen by the sampler: {REASON}", *found] if found else []


def _user_frame(data: TraceData, node: int) -> str:
    """Return the innermost line of the user's code of a stack; without any, the innermost."""
    samples, at = data.samples, node
    while at >= 0:
        frame = samples.frames[samples.stack_frame[at]]
        if frame.origin == "user":
            break
        at = samples.stack_parent[at]
    else:
        frame = samples.frames[samples.stack_frame[node]]
    return f"{frame.name} ({frame.file.rpartition('/')[2]}:{frame.first_line})"


def _headline(data: TraceData, title: str) -> str:
    name = title or data.root_name or "empty trace"
    parts = [printable(name), duration(data.end_ns - data.start_ns), f"{len(data)} span{'s' * (len(data) != 1)}"]
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
        group.failed += table.status[row] == ERROR
        group.lost += table.status[row] == LOST
        if table.status[row] == CANCELLED:
            group.marks["cancelled"] += 1
        if row in table.events:
            group.marks.update(MARKS[event.name] for event in data.events(row) if event.name in MARKS)
        worker = table.process(row).label
        group.workers[worker] = group.workers.get(worker, 0) + 1
    return roots


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
        push(group.below, prefix + ("   " if last else "│  "))
    if hidden:
        yield f"… {hidden} more branches"


def _line(data: TraceData, group: _Group, prefix: str, width: int) -> str:
    mark = "✗ " if group.failed else "? " if group.lost else ""
    name = printable(group.name)
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
    for what, count in group.marks.items():
        more.append(what if count == 1 else f"{what} {count}×")
    if group.failed and group.count > 1:
        more.append(f"{group.failed} failed")
    if group.lost:
        more.append("lost" if group.count == 1 else f"{group.lost} lost")
    elif group.count == 1 and not data.table.end_ns[group.first]:
        more.append("not ended")
    return f"{left:<{room}} {figures}  {' · '.join(more)}".rstrip()


def _workers(workers: dict[str, int]) -> str:
    if len(workers) == 1:
        return next(iter(workers))
    named = sorted(workers.items(), key=lambda item: -item[1])
    text = ", ".join(f"{name} {count}" for name, count in named[:WORKERS_MAX])
    return text + (f", {len(named) - WORKERS_MAX} more" if len(named) > WORKERS_MAX else "")
