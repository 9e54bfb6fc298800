"""Shows what jobs print, under the cell that started them.

Each line says which worker and which job it comes from. A job that prints without end is shown in full as far as its
cell can take it: the worker is held back by credits, so nothing is lost and nothing piles up.

Invariants: a cell has one view, and everything it shows goes through it, on the delivery thread.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from znb.console import make_sink
from znb.outputs import Display, Output, Text

__all__ = ["JobView", "JobViews"]


class JobView:
    """What the jobs of one cell print."""

    def __init__(self) -> None:
        self._sink = make_sink(detached=True)
        self._partial: dict[tuple[str, str, int, str], str] = {}

    def __call__(self, worker: str, label: str, index: int, attempt: int, output: Output | None) -> None:
        """Show an output of job ``index`` of ``label``, which is being run for the ``attempt``-th time.

        ``None`` says that it has ended: lines that it has not finished are shown as they are.
        """
        again = f" (run again: attempt {attempt})" if attempt > 1 else ""
        prefix = f"{worker} {label}[{index}]{again} │ "
        if output is None:
            for stream in ("stdout", "stderr"):
                if rest := self._partial.pop((worker, label, index, stream), ""):
                    self._sink.write(stream, f"{prefix}{_last_state(rest)}\n")
            return
        if isinstance(output, Text):
            key = (worker, label, index, output.stream)
            lines = (self._partial.pop(key, "") + output.text).split("\n")
            if rest := lines.pop():
                self._partial[key] = rest
            if lines:
                self._sink.write(output.stream, "".join(f"{prefix}{_last_state(line)}\n" for line in lines))
        elif isinstance(output, Display):
            self._sink.write("stdout", prefix.rstrip("│ ") + "\n")
            self._sink.display(output.data, output.metadata, None, update=False)


class JobViews:
    """The views of this process's cells."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: tuple[Any, JobView] | None = None

    def current(self) -> JobView:
        """Return the view of the cell that runs now."""
        cell = _current_cell()
        with self._lock:
            if self._latest is None or self._latest[0] != cell:
                self._latest = (cell, JobView())
            return self._latest[1]


def _current_cell() -> str:
    """Return what tells the cell that runs now from others; empty outside a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    parent: Any = getattr(shell, "get_parent", dict)() if shell is not None else {}
    return str(parent.get("header", {}).get("msg_id", ""))


def _last_state(line: str) -> str:
    """Return what is seen of a line in the end: a carriage return begins it anew."""
    return line.rstrip("\r").rpartition("\r")[2]
