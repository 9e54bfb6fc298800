"""What IPython shows for a restored exception: the lines that called, a separator that names the worker, remote frames.

IPython calls ``_render_traceback_`` of an exception if there is one. The frames are rendered by the shell's own
formatter, so colours, ``%xmode`` and chained exceptions are as for a local error; only what it makes of hop frames is
replaced by separators, and the note that says the same is left out.

Runs on the shell's thread. IPython is an optional dependency: without a shell the text is Python's.

Source: ``InteractiveShell.showtraceback`` and ``ultratb.FormattedTB`` of IPython 8.39 and 9.
"""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from znb.tracebacks.capture import HIDDEN_MODULES
from znb.tracebacks.frames import is_hidden, place_of
from znb.tracebacks.record import Origin, Place

__all__ = ["Renderer", "render", "show_in_shell"]

#: Columns of a separator; IPython's own rule above a traceback has as many.
_WIDTH = 75
#: What IPython makes of a cell that begins with ``%%znb``.
CELL_MAGIC_CALL = "get_ipython().run_cell_magic('znb', "
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
#: Exceptions of a chain that are looked through for hops; more are not shown either.
_MAX_CHAIN = 100


class Renderer:
    """An exception's ``_render_traceback_``. Pickled, it forgets the exception: that one has a new renderer then."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return (Renderer, ())

    def __call__(self) -> list[str]:
        """Return the pieces of the traceback."""
        error = self._error or sys.exc_info()[1] or getattr(sys, "last_value", None)
        if error is None:
            return ["no exception to show"]
        return render(error)


def render(error: BaseException) -> list[str]:
    """Return the pieces of an exception's traceback, as IPython's ``structured_traceback`` does."""
    shell = _shell()
    if shell is None:
        return traceback.format_exception(error)
    pieces = _render_one(shell, error)
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            pieces.extend(("", *render(member)))
    return pieces


def show_in_shell(shell: Any, etype: Any, value: BaseException, tb: TracebackType | None, tb_offset: Any = None) -> Any:
    """Show a restored group or syntax error: a handler for IPython's ``set_custom_exc``.

    For these types IPython does not ask ``_render_traceback_``: it shows groups by Python's own formatter, and syntax
    errors with the framework's frames. After ``shell.set_custom_exc((BaseExceptionGroup, SyntaxError), show_in_shell)``
    it shows those that have one by it, and others as before.
    """
    if not hasattr(value, "_render_traceback_"):
        shell.showtraceback((etype, value, tb), tb_offset=tb_offset, running_compiled_code=True)
        return None
    pieces = value._render_traceback_()
    sys.last_type, sys.last_value, sys.last_traceback = etype, value, tb
    shell._showtraceback(etype, value, pieces)
    if shell.call_pdb:  # %pdb on
        shell.debugger(force=True)
    return pieces


def _shell() -> Any:
    # Where IPython has not been imported there is no shell, and importing it takes long.
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _render_one(shell: Any, error: BaseException) -> list[str]:
    hops: dict[str, Place] = {}
    notes: set[str] = set()
    shown: list[dict[str, Any]] = []
    for link in _chain(error):
        for entry in _entries(link.__traceback__):
            place = _place(entry)
            if place is None:
                continue
            origin = link.__dict__.get("znb_origin")
            hops[entry.tb_frame.f_code.co_filename] = place
            if isinstance(origin, Origin):
                notes.add(origin.note)
            shown.append(entry.tb_frame.f_locals)
    for variables in shown:
        variables["__tracebackhide__"] = False
    try:
        pieces = _structured(shell, error)
    finally:
        for variables in shown:
            variables["__tracebackhide__"] = True
    pieces = _with_separators(pieces, hops, notes, error)
    # These end in line ends already, and the shell puts one more between pieces.
    return ["".join(pieces)] if isinstance(error, SyntaxError) else pieces


def _structured(shell: Any, error: BaseException) -> list[str]:
    frames = _user_frames(error.__traceback__)
    if isinstance(error, SyntaxError):
        # The formatter for other errors does not show the line that is wrong.
        pieces: list[str] = shell.SyntaxTB.structured_traceback(type(error), error, traceback.extract_tb(frames))
    else:
        pieces = shell.InteractiveTB.structured_traceback(type(error), error, frames, tb_offset=0)
    return pieces


def _with_separators(pieces: list[str], hops: dict[str, Place], notes: set[str], error: BaseException) -> list[str]:
    origin = error.__dict__.get("znb_origin")
    result: list[str] = []
    separated = False
    for piece in pieces:
        plain = _ANSI.sub("", piece)
        place = _hop_in(plain, hops)
        if place is None:
            result.append(piece)
            continue
        separated = True
        also = origin.also if isinstance(origin, Origin) and place == origin.caller else ()
        result.append(_separator(place, also, pieces[0]))
    if not separated:
        return result
    return [kept for piece in result if (kept := _without(piece, notes)) is not None]


def _hop_in(plain: str, hops: dict[str, Place]) -> Place | None:
    head = plain.lstrip().partition("\n")[0]
    if head.startswith("File "):
        for filename, place in hops.items():
            if head[5:].lstrip('"').startswith(filename):
                return place
    return None


def _separator(place: Place, also: tuple[str, ...], rule: str) -> str:
    same = f", the same on {', '.join(also)}" if also else ""
    text = f"── on {place.worker} ({place.host}, pid {place.pid}){same} " if place.worker else f"── on {place} "
    text += "─" * max(_WIDTH - len(text), 2)
    # In the colour of the shell's own rule, which is the first piece.
    return re.sub(r"[-─━]{10,}", text, rule, count=1) + "\n" if re.search(r"[-─━]{10,}", rule) else text + "\n"


def _without(piece: str, notes: set[str]) -> str | None:
    lines = piece.splitlines(keepends=True)
    kept = [line for line in lines if _ANSI.sub("", line).rstrip("\n") not in notes]
    return "".join(kept) if kept or not lines else None


def _user_frames(traceback_: TracebackType | None) -> TracebackType | None:
    """Return the traceback without the framework's frames of this process."""
    kept = []
    for entry in _entries(traceback_):
        if is_hidden(entry.tb_frame.f_globals, HIDDEN_MODULES):
            entry.tb_frame.f_locals["__tracebackhide__"] = True  # the debugger goes past it, too
        else:
            kept.append(entry)
    if len(kept) > 1 and _calls_cell_magic(kept[0]):
        del kept[0]
    result = None
    for entry in reversed(kept):
        result = TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return result


def _calls_cell_magic(entry: TracebackType) -> bool:
    """Whether this is the line that IPython has made of a whole remote cell: the user knows it as another one."""
    line = linecache.getline(entry.tb_frame.f_code.co_filename, entry.tb_lineno)
    return line.startswith(CELL_MAGIC_CALL)


def _entries(traceback_: TracebackType | None) -> Iterator[TracebackType]:
    while traceback_ is not None:
        yield traceback_
        traceback_ = traceback_.tb_next


def _place(entry: TracebackType) -> Place | None:
    return place_of(entry.tb_frame)


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(_MAX_CHAIN):
        if link is None:
            return
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
