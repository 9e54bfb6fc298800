"""How errors that magics raise are shown.

A ``ZnbError`` shows its message alone: the frames between a magic and its failure are znb's, and say nothing to its
user. Remote errors bring their own rendering, which IPython respects except for groups and syntax errors; for those
``ErrorHandler`` sees to it, by IPython's ``set_custom_exc``.

What znb raises about its use (a worker that is not there, an argument of a wrong type) shows the user's frames alone.

Invariants: errors that are not znb's are shown as without this module, by whatever handler was there before.

Source: ``InteractiveShell.run_cell_async``, ``run_code`` and ``showtraceback`` of IPython 8.39 and 9.18.
"""

from __future__ import annotations

import functools
from types import TracebackType
from typing import TYPE_CHECKING, Any

from znb.errors import ZnbError
from znb.tracebacks import render, show_in_shell
from znb.tracebacks.capture import HIDDEN_MODULES
from znb.tracebacks.frames import is_hidden

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["ErrorHandler", "rendered", "show_message_only"]

#: What znb raises, beside its own, about arguments, targets, methods and closed executors.
_OF_USE = (TypeError, ValueError, LookupError, AttributeError, RuntimeError)


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


class ErrorHandler:
    """Shows remote groups and syntax errors in a shell as they want to be shown, and what znb raises without frames."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._handled: tuple[type[BaseException], ...] = ()
        self._handle: Any = None
        self._installed: Any = None

    def install(self) -> None:
        """Take over from the handler that is there, which goes on to handle all that is not ours."""
        self._handled, self._handle = self._shell.custom_exceptions, self._shell.CustomTB
        self._shell.set_custom_exc(  # type: ignore[no-untyped-call]
            (*self._handled, BaseExceptionGroup, SyntaxError, ZnbError, *_OF_USE), self._show
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
        if (isinstance(error, ZnbError) or _raised_by_znb(error)) and not hasattr(error, "_render_traceback_"):
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


def _raised_by_znb(error: BaseException) -> bool:
    """Whether znb's own code raised it, and not what that code called."""
    entry = error.__traceback__
    while entry is not None and entry.tb_next is not None:
        entry = entry.tb_next
    return entry is not None and is_hidden(entry.tb_frame.f_globals, HIDDEN_MODULES)
