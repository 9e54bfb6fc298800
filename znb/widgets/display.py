"""What makes traces show themselves as explorers: a printer for IPython's displays.

The widget libraries are imported when the first trace is displayed, not before. Invariants: ``remove`` leaves the shell
as ``install`` found it.
"""

from __future__ import annotations

import importlib
from typing import Any

from znb.tracing import LiveTrace, Trace

__all__ = ["install", "prepare", "remove", "show"]

_TYPES = (Trace, LiveTrace)


def install(shell: Any) -> None:
    """Show traces as explorers in a shell; in one without a front end nothing changes."""
    if not hasattr(shell, "kernel"):
        return
    for kind in _TYPES:
        shell.display_formatter.ipython_display_formatter.for_type(kind, show)


def remove(shell: Any) -> None:
    """Show them as before."""
    for kind in _TYPES:
        shell.display_formatter.ipython_display_formatter.pop(kind, None)


def prepare() -> None:
    """Import what ``show`` needs, where that is not to be part of what is measured."""
    importlib.import_module("znb.widgets.explorer")


def show(trace: Trace) -> Any:
    """Display a trace; return its explorer, if it has one."""
    from znb.widgets import explorer  # noqa: PLC0415 - ipywidgets takes 0.1 s to import

    return explorer.show(trace)
