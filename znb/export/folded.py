"""Folded stacks: a line for each call path, with the microseconds that it took by itself.

Frames are separated by ``;``. A span's samples stand below it, as far as there are any; the rest of its own time stands
on the span. Source: Brendan Gregg's stackcollapse format, which flamegraph.pl, inferno and speedscope read.
"""

from __future__ import annotations

from collections.abc import Iterator

from znb.spans.table import KINDS
from znb.traces.analysis import self_ns
from znb.traces.model import TraceData

__all__ = ["folded_sums", "write_folded"]

#: Name and file of the frame that a worker begins with.
_WORKER = ("<module>", "<string>")
#: Kinds that are not named: a call, its job and the function are told apart by the others.
_PLAIN = frozenset({"span", "trace"})


def folded_sums(data: TraceData, hide: frozenset[str] = frozenset({"znb"})) -> dict[tuple[str, ...], int]:
    """Return nanoseconds by call path.

    Args:
        data: The trace.
        hide: Origins of code whose frames are left out: ``"znb"``, ``"library"``.
    """
    table, samples = data.table, data.samples
    sampled: dict[int, dict[int, int]] = {}
    for span_id, wall, stack in zip(samples.span_id, samples.wall_ns, samples.stack, strict=True):
        stacks = sampled.setdefault(span_id, {})
        stacks[stack] = stacks.get(stack, 0) + wall
    # What calls the user's code (a kernel's loop, a runner of jobs) stands above every span, so it says nothing.
    frames: list[tuple[str, ...]] = []
    entered: list[bool] = []
    for parent, number in zip(samples.stack_parent, samples.stack_frame, strict=True):
        frame = samples.frames[number]
        outermost = parent < 0 and (frame.name, frame.file) == _WORKER
        inside = (frame.origin == "user" and not outermost) or (parent >= 0 and entered[parent])
        above = frames[parent] if parent >= 0 and (entered[parent] or not inside) else ()
        entered.append(inside)
        frames.append(above if frame.origin in hide or outermost else (*above, frame.name))
    paths: dict[int, tuple[str, ...]] = {}
    own, sums = self_ns(data), dict[tuple[str, ...], int]()
    known: dict[tuple[tuple[str, ...], str], tuple[str, ...]] = {}
    for row, _ in data.walk():
        above = paths[data.parent[row]] if data.parent[row] >= 0 else ()
        kind = KINDS[table.kind[row]]
        name = table.strings[table.name[row]]
        key = (above, name if kind in _PLAIN else f"{name} [{kind}]")
        path = paths[row] = known.setdefault(key, (*above, key[1]))
        left = own[row]
        for stack, wall in sampled.get(table.span_id[row], {}).items():
            part = min(wall, left)
            left -= part
            below = (*path, *frames[stack])
            sums[below] = sums.get(below, 0) + part
        sums[path] = sums.get(path, 0) + left
    return sums


def write_folded(data: TraceData, _title: str) -> Iterator[bytes]:
    """Yield the file, piece by piece."""
    for path, nanoseconds in sorted(folded_sums(data).items()):
        if nanoseconds >= 1000:
            yield f"{';'.join(map(_clean, path))} {nanoseconds // 1000}\n".encode()


def _clean(name: str) -> str:
    """Return a name without what separates frames and lines."""
    return "".join(" " if char.isspace() else char for char in name.replace(";", ":")) or "(no name)"
