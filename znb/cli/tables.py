"""Tables and counts of plain text for people. Pure, but for the clock."""

from __future__ import annotations

import time
from collections.abc import Sequence

from znb.connection import ClusterEntry

__all__ = ["cluster_table", "count_workers"]

#: Seconds of each unit that an age is told in, largest first.
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def cluster_table(entries: Sequence[ClusterEntry], *, now: float | None = None) -> str:
    """Return a table of clusters, and below it what to know of those that do not run.

    Args:
        entries: The clusters, in the order wanted.
        now: Unix time to tell ages by; ``None`` for the clock's.

    Returns:
        Lines without a newline at the end; empty if there is no cluster.
    """
    if not entries:
        return ""
    now = time.time() if now is None else now
    rows = [("name", "state", "where", "pid", "age", "keep", "directory")]
    rows += [
        (
            entry.name,
            entry.state,
            entry.file.launcher if entry.file else "",
            str(entry.file.zygote_pid) if entry.file else "",
            _age(now - entry.file.created) if entry.file else "",
            ("yes" if entry.file.keep else "no") if entry.file else "",
            entry.file.cwd if entry.file else "",
        )
        for entry in entries
    ]
    notes = [f"{e.name}: {e.reason}{'; cleaned up' * (e.state == 'dead')}" for e in entries if e.state != "alive"]
    return "\n".join([*_columns(rows), *notes])


def count_workers(count: int) -> str:
    """Return a number of workers with its noun."""
    return f"{count} worker{'s' * (count != 1)}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _age(seconds: float) -> str:
    for size, unit in UNITS:
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return "0 s"
