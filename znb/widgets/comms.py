"""How a widget and its page speak while the kernel runs a cell.

ipykernel 7 runs *subshells*, and JupyterLab and Notebook 7 have one for the messages of widgets, so that a button works
while a cell runs. But a comm that was opened by a cell takes its page's messages back to the main shell (ipykernel's
``BaseComm._reply_subshell_for``, for libraries that are not safe with threads), where they wait for the cell's end.
"""

from __future__ import annotations

from typing import Any

__all__ = ["hear_while_busy"]


def hear_while_busy(widget: Any) -> None:
    """Have what the page says handled where the page sends it: on a thread of its own, where the kernel has one.

    For widgets whose handlers may run on any thread. Does nothing where there are no subshells.
    """
    comm = widget.comm
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda _data, sent_to: sent_to
