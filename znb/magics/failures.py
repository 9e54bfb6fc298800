"""How errors that magics raise are shown.

A ``ZnbError`` shows its message alone: the frames between a magic and its failure are znb's, and say nothing to its
user. Remote errors bring their own rendering, which IPython respects except for groups and syntax errors; for those
``ErrorHandler`` sees to it, by IPython's ``set_custom_exc``.

What znb raises about its use (a worker that is not there, an argument of a wrong type) shows the user's frames alone,
and so does an interrupt of a wait.

Invariants: errors that are not znb's are shown as without this module, by whatever handler was there before.

Source: ``InteractiveShell.run_cell_async``, ``run_code`` and ``showtraceback`` of IPython 8.39 and 9.18.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from znb.errors import WorkerLost, ZnbError
from znb.tracebacks import render, show_in_shell
from znb.tracebacks.capture import HIDDEN_MODULES
from znb.tracebacks.frames import is_hidden

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionInfo, InteractiveShell

__all__ = ["ErrorHandler", "explain_debug", "rendered", "show_message_only"]

#: What znb raises, beside its own, about arguments, targets, methods and closed executors.
_OF_USE = (TypeError, ValueError, LookupError, AttributeError, RuntimeError)
#: What the interrupt key raises; in a cell that awaits, the kernel cancels the cell.
_INTERRUPTS = (KeyboardInterrupt, asyncio.CancelledError)
#: Where the modules are that znb waits in: ``queue``, ``threading``, ``asyncio``.
_LIBRARY = f"{Path(threading.__file__).parent}{os.sep}"
#: Others, some of whose frames have no file.
_WAITING_MODULES = frozenset({"zmq"})
#: A line of faulthandler's stacks, up to the number.
_STACK_LINE = re.compile(r'File "([^"]+)", line')


def show_message_only(error: BaseException) -> None:
    """Have IPython show an error without its frames, unless it has its own way to be shown."""
    if not hasattr(error, "_render_traceback_"):
        error._render_traceback_ = functools.partial(_message, error)  # type: ignore[attr-defined]


def rendered(error: BaseException) -> str:
    """Return an error as a failed cell shows it."""
    render = getattr(error, "_render_traceback_", None)
    return "\n".join(render() if render is not None else _message(error))


def _message(error: BaseException) -> list[str]:
    """Return an error without its frames."""
    name, text = type(error).__name__, str(error)
    return [f"\x1b[31m{name}\x1b[0m{': ' * bool(text)}{text}", *getattr(error, "__notes__", ())]


def explain_debug(info: ExecutionInfo) -> None:
    """Say what ``%debug`` can show of an error that came from elsewhere, before it does."""
    origin = getattr(getattr(sys, "last_value", None), "znb_origin", None)
    if origin is not None and (info.raw_cell or "").strip() == "%debug":
        print(
            f"This error was {origin.note}. Its frames are shown with their source; their variables stayed there, so "
            "only the frames of this notebook have theirs: of the others, workers started with --env "
            "ZNB_TRACE_LOCALS=1 send the texts along. `up` and `down` go through all of them."
        )


class ErrorHandler:
    """Shows remote groups and syntax errors in a shell as they want to be shown, and what znb raises without frames.

    Args:
        shell: The shell.
        on_error: Called before an error is shown.
    """

    def __init__(self, shell: InteractiveShell, on_error: Callable[[], object] = lambda: None) -> None:
        self._shell = shell
        self._on_error = on_error
        self._handled: tuple[type[BaseException], ...] = ()
        self._handle: Any = None
        self._installed: Any = None

    def install(self) -> None:
        """Take over from the handler that is there, which goes on to handle all that is not ours."""
        self._handled, self._handle = self._shell.custom_exceptions, self._shell.CustomTB
        self._shell.set_custom_exc(  # type: ignore[no-untyped-call]
            (*self._handled, BaseExceptionGroup, SyntaxError, ZnbError, *_INTERRUPTS, *_OF_USE), self._show
        )
        self._installed = self._shell.CustomTB

    def remove(self) -> None:
        """Put the handler back that was there, unless somebody else has taken over meanwhile."""
        if self._shell.CustomTB is self._installed:
            self._shell.custom_exceptions, self._shell.CustomTB = self._handled, self._handle

    def _show(
        self,
        shell: InteractiveShell,
        kind: type[BaseException],
        error: BaseException,
        frames: TracebackType,
        tb_offset: int | None = None,
    ) -> Any:
        self._on_error()
        if isinstance(error, WorkerLost):
            _name_cells(shell, error)
        if not hasattr(error, "_render_traceback_"):
            if isinstance(error, _INTERRUPTS):
                error.__traceback__ = _without_wait(error.__traceback__)
            if isinstance(error, (ZnbError, *_INTERRUPTS)) or _raised_by_znb(error):
                error._render_traceback_ = functools.partial(render, error)  # type: ignore[attr-defined]
        if hasattr(error, "_render_traceback_"):
            return show_in_shell(shell, kind, error, frames, tb_offset)
        if isinstance(error, self._handled):
            return self._handle(kind, error, frames, tb_offset)
        # What follows is what IPython does without a handler.
        if frames.tb_frame.f_code.co_name == "run_code":
            shell.showtraceback(running_compiled_code=True)
        elif issubclass(kind, IndentationError):
            shell.showindentationerror()  # type: ignore[no-untyped-call]
        else:
            shell.showsyntaxerror()  # type: ignore[no-untyped-call]
        return None


def _name_cells(shell: InteractiveShell, error: WorkerLost) -> None:
    """Name the cells in the stack that a worker has left, as tracebacks do; they have the names of files there."""

    def named(line: re.Match[str]) -> str:
        found = shell.compile.format_code_name(line[1])
        return f"{' '.join(found)}, line" if found else line[0]

    error.__notes__ = [_STACK_LINE.sub(named, note) for note in getattr(error, "__notes__", ())]


def _raised_by_znb(error: BaseException) -> bool:
    """Whether znb's own code raised it, and not what that code called."""
    entries = list(_entries(error.__traceback__))
    return bool(entries) and is_hidden(entries[-1].tb_frame.f_globals, HIDDEN_MODULES)


def _without_wait(frames: TracebackType | None) -> TracebackType | None:
    """Return a traceback up to where znb began to wait, if it is there that the key was pressed.

    It goes on as it is if znb had called code of the user's, which then is what was interrupted.
    """
    entries = list(_entries(frames))
    inside = [is_hidden(entry.tb_frame.f_globals, HIDDEN_MODULES) for entry in entries]
    begin = next((at for at in range(1, len(entries)) if inside[at] and not inside[at - 1]), None)
    if begin is None or not all(inside[at] or _is_wait(entries[at].tb_frame) for at in range(begin, len(entries))):
        return frames
    result = None
    for entry in reversed(entries[:begin]):
        result = TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return result


def _is_wait(frame: FrameType) -> bool:
    """Whether a frame below znb's is of what it waits with."""
    return frame.f_code.co_filename.startswith(_LIBRARY) or is_hidden(frame.f_globals, _WAITING_MODULES)


def _entries(frames: TracebackType | None) -> Iterator[TracebackType]:
    while frames is not None:
        yield frames
        frames = frames.tb_next
