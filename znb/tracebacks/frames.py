"""Frames: read from a traceback in the process that raised, and made again in the one that shows them.

A made frame is real for everything that looks at tracebacks: its code object has the file name, function name, first
line and columns of the original, and its ``f_locals`` hold the variables that were sent. Its code raises when it runs,
which is how a frame object comes to be; nothing of the original's code is in it.

Two kinds of frames stand for something else: a *hop* (``Frame.place``), after which frames ran in that process, and a
*gap* (``Frame.skipped``), where frames were left out.

Invariants: at most ``MAX_FRAMES`` frames are read; a made traceback keeps no frame of its maker alive.

Source: the location table is CPython's ``Objects/locations.md`` (3.11 to 3.14).
"""

from __future__ import annotations

import itertools
import re
import reprlib
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

from znb.tracebacks.record import Frame, Place
from znb.tracebacks.sources import Sources, clean

__all__ = ["PLUMBING", "Remote", "is_hidden", "make_traceback", "place_of", "read_frames"]

#: Frames kept of one traceback; those of an endless recursion are many thousands.
MAX_FRAMES = 80
#: Of these, how many are the outermost ones.
_HEAD = 30
#: Modules that run user code and are of no interest above it; below it they are what the user called.
PLUMBING: Final = frozenset({"asyncio", "codeop", "ast", "concurrent", "multiprocessing", "runpy", "threading"})
#: Modules of ours that are users of znb: their errors are shown in full.
_USERS: Final = frozenset({"znb.demo", "znb.sourcestats"})
#: Global of a hop frame that names its process.
_PLACE = "__znb_place__"
#: Global of a gap frame that counts what it stands for.
_SKIPPED = "__znb_skipped__"
#: Global of a made frame that keeps alive the generator it ran in (see ``_run_frames``).
_MAKER = "__znb_maker__"
#: Global of a made frame that is the record it was made of.
_RECORD = "__znb_record__"
#: How variables are kept.
KEEPING: Final = "workers started with --env ZNB_TRACE_LOCALS=1 send its text along"
#: Variables sent of one frame.
_MAX_VARIABLES = 50
#: Characters sent of one variable.
_MAX_TEXT = 300
#: Characters from which on a secret is masked wherever it stands; shorter texts stand everywhere.
_MIN_SECRET = 5
_SECRET = re.compile(
    r"pass(?:word|wd|phrase)|(?:^|_)pwd?(?:$|_)|token|secret|key|auth|credential|cookie", re.IGNORECASE
)
_SECRET_INSIDE = re.compile(
    rf"""((?:\w*(?:{_SECRET.pattern})\w*)['"]?\s*[:=]\s*)('[^']*'?|"[^"]*"?|[^\s,)}}\]]+)""", re.IGNORECASE
)
_MASK = "<masked>"


class Remote:
    """A variable that stayed in its process: only its text is here, or only that it stayed."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def __getattr__(self, name: str) -> Any:
        message = f"no {name!r}: the object stayed in the process that raised, only its text was sent"
        raise AttributeError(message)


def is_hidden(globals_: Mapping[str, Any], hidden: Collection[str]) -> bool:
    """Tell whether a frame with these globals belongs to one of the ``hidden`` top-level modules."""
    name = globals_.get("__name__")
    if not isinstance(name, str):
        return False
    return name.partition(".")[0] in hidden and name not in _USERS


def place_of(frame: FrameType) -> Place | None:
    """Return the process that a hop frame stands for, ``None`` for any other frame."""
    place = frame.f_globals.get(_PLACE)
    return place if isinstance(place, Place) else None


def read_frames(
    traceback: TracebackType | None,
    hidden: Collection[str],
    sources: Sources,
    *,
    keep_innermost: bool,
    with_locals: bool,
) -> tuple[Frame, ...]:
    """Return the frames of a traceback that are the user's business, outermost first.

    Args:
        traceback: Where to begin; ``None`` for an exception that was never raised.
        hidden: Top-level modules whose frames are left out.
        sources: Is told which lines the frames need.
        keep_innermost: Whether to return the innermost frame where all are hidden.
        with_locals: Whether variables are sent along.
    """
    entries = list(_visible(traceback, hidden))
    if not entries and keep_innermost:
        entries.extend(deque(_entries(traceback), maxlen=1))
    secrets = _secrets(entry.tb_frame for entry in entries) if with_locals else None
    left_out = entries[_HEAD : max(_HEAD, len(entries) - MAX_FRAMES + _HEAD)]
    frames = [_read(entry, sources, secrets) for entry in entries[:_HEAD]]
    if left_out:
        # One that stands for a gap already counts for all that it stands for.
        skipped = sum(max(entry.tb_frame.f_globals.get(_SKIPPED, 1), 1) for entry in left_out)
        frames.append(Frame(f"<{skipped} frames left out>", 1, "...", skipped=skipped))
    frames.extend(_read(entry, sources, secrets) for entry in entries[_HEAD + len(left_out) :])
    return tuple(frames)


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _visible(traceback: TracebackType | None, hidden: Collection[str]) -> Iterator[TracebackType]:
    in_user_code = False
    for entry in _entries(traceback):
        frame = entry.tb_frame
        if is_hidden(frame.f_globals, hidden):
            continue
        if not in_user_code and is_hidden(frame.f_globals, PLUMBING):
            continue
        asks_to_hide = entry.tb_next is not None and "__tracebackhide__" in frame.f_code.co_varnames
        if asks_to_hide and frame.f_locals.get("__tracebackhide__"):
            continue
        in_user_code = True
        yield entry


def _read(entry: TracebackType, sources: Sources, secrets: frozenset[str] | None) -> Frame:
    """Read one frame, its variables too where the texts to be masked in them are given."""
    frame, code, lineno = entry.tb_frame, entry.tb_frame.f_code, entry.tb_lineno or 0
    filename = clean(code.co_filename)
    made = frame.f_globals.get(_RECORD)
    if isinstance(made, Frame) and (made.place is not None or made.skipped):
        return Frame(filename, lineno, clean(code.co_name), place=made.place, skipped=made.skipped)
    _, end_lineno, col, end_col = _positions(code, entry.tb_lasti)
    module = frame.f_globals.get("__name__")
    return Frame(
        filename,
        lineno,
        clean(code.co_name),
        sources.need(filename, lineno, frame.f_globals),
        clean(code.co_qualname),
        code.co_firstlineno,
        end_lineno,
        col,
        end_col,
        clean(module) if isinstance(module, str) else "",
        made.variables if isinstance(made, Frame) else _variables(frame, secrets) if secrets is not None else None,
        names=made.names if isinstance(made, Frame) else _names(frame),
    )


def _positions(code: CodeType, lasti: int) -> tuple[int | None, int | None, int | None, int | None]:
    if lasti < 0:
        return None, None, None, None
    return next(itertools.islice(code.co_positions(), lasti // 2, None), (None, None, None, None))


# -- variables


def _secrets(frames: Iterable[FrameType]) -> frozenset[str]:
    """Return the texts in variables that sound secret: they may stand under other names as well (``*args``)."""
    found = set()
    for frame in frames:
        for name, value in list(frame.f_locals.items()):
            if type(value) is str and len(value) >= _MIN_SECRET and _SECRET.search(name):
                found.add(value)
    return frozenset(found)


def _names(frame: FrameType) -> tuple[str, ...]:
    """Return what the frame's variables are called."""
    code, known = frame.f_code, frame.f_globals
    own = (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
    names = dict.fromkeys((*own, *(name for name in code.co_names if name in known)))
    return tuple(clean(name) for name in names if not name.startswith(("__", ".")))[:_MAX_VARIABLES]


def _variables(frame: FrameType, secrets: frozenset[str]) -> dict[str, Any]:
    """Return the frame's variables as values that msgpack can carry or as ``[text]``."""
    code, values = frame.f_code, frame.f_locals
    # A module's variables are its whole namespace; those its code speaks of are enough.
    names = [n for n in code.co_names if n in values] if code.co_name == "<module>" else list(values)
    found = {}
    for name in names[:_MAX_VARIABLES]:
        if not name.startswith("__"):
            found[clean(name)] = _variable(name, values[name], secrets)
    return found


def _variable(name: str, value: Any, secrets: frozenset[str]) -> Any:
    if _SECRET.search(name):
        return [_MASK]
    if value is None or isinstance(value, bool) or (type(value) is int and abs(value) < 2**63) or type(value) is float:
        return value
    if type(value) is str and len(value) <= _MAX_TEXT:
        return _masked(value, secrets)
    shorten = reprlib.Repr()
    shorten.maxstring = shorten.maxother = shorten.maxlong = _MAX_TEXT
    try:
        text = shorten.repr(value)
    except BaseException as error:  # noqa: BLE001 - a repr is user code; what it raises is the finding
        text = f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
    return [_masked(text, secrets)[: 2 * _MAX_TEXT]]


def _masked(text: str, secrets: frozenset[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _MASK)
    return clean(_SECRET_INSIDE.sub(rf"\1{_MASK}", text))


# -- made frames


class _Stop(BaseException):
    """What the stub raises; ends the run of a made frame."""


def _stop() -> None:
    raise _Stop


#: The code of every made frame. It ends in a call because most frames do: tools that verify the instruction against
#: the source (``executing``, so IPython) then mark the right expression.
_STUB: Final = compile("__znb_stop__()", "<made>", "exec")


def _stub_offset() -> int:
    try:
        exec(_STUB, {"__znb_stop__": _stop})  # noqa: S102 - our own constant code
    except _Stop as stop:
        raised = _in_stub(stop)
    return raised.tb_lasti


def _in_stub(stop: _Stop) -> TracebackType:
    """Return the traceback entry of the stub that raised; the one before it is who ran the stub."""
    entry = stop.__traceback__ and stop.__traceback__.tb_next
    if entry is None:
        raise AssertionError("a stub raises within its own frame")
    return entry


#: Byte offset of the stub's call.
_OFFSET: Final = _stub_offset()
_UNITS: Final = len(_STUB.co_code) // 2


def make_traceback(frames: Collection[Frame], filenames: Mapping[str, str], place: Place) -> TracebackType | None:
    """Return a traceback of made frames, ``None`` for no frames.

    Args:
        frames: Outermost first.
        filenames: Names to show instead of the frames' own.
        place: Where they ran, up to the first hop among them.
    """
    maker = _run_frames()
    made = []
    for frame in frames:
        globals_: dict[str, Any] = {"__znb_stop__": _stop, "__name__": frame.module, _MAKER: maker, _RECORD: frame}
        place = frame.place or place
        if frame.place is not None:
            globals_[_PLACE] = frame.place
        if frame.skipped:
            globals_[_SKIPPED] = frame.skipped
        code = _code(frame, filenames.get(frame.filename, frame.filename))
        next(maker)
        made_frame = maker.send((code, globals_, _locals(frame, place)))
        if made_frame is not None:
            made.append((made_frame, max(frame.lineno, 1)))
    traceback = None
    for made_frame, lineno in reversed(made):
        traceback = TracebackType(traceback, made_frame, _OFFSET, lineno)
    return traceback


def _run_frames() -> Generator[FrameType | None, tuple[CodeType, dict[str, Any], dict[str, Any]], None]:
    """Run made frames. A frame remembers who called it; a suspended generator is called by nobody.

    A plain function here would chain every made frame, through ``f_back``, to the frames of all its callers and so
    keep their variables alive for as long as the exception lives. The generator lives in the globals of its frames:
    were it closed, its frame would find a caller after all.
    """
    while True:
        code, globals_, locals_ = yield None
        try:
            exec(code, globals_, locals_)  # noqa: S102 - the stub under another name
        except _Stop as stop:
            frame = _in_stub(stop).tb_frame
        del code, globals_, locals_
        yield frame
        del frame


def _locals(frame: Frame, place: Place) -> dict[str, Any]:
    if frame.place is not None:
        return {"__tracebackhide__": True}
    about = f"this frame ran on {place}"
    why = KEEPING if frame.variables is None else "only the frame's own variables were sent"
    stayed: dict[str, Any] = {name: Remote(f"<{name} stayed on {place}; {why}>") for name in frame.names}
    if frame.variables is None:
        return {**stayed, "__remote__": Remote(f"{about}; its variables stayed there")}
    found = {n: Remote(str(v[0])) if isinstance(v, list) else v for n, v in frame.variables.items()}
    return {**stayed, **found, "__remote__": Remote(f"{about}; objects are shown by their text only")}


def _code(frame: Frame, filename: str) -> CodeType:
    first = max(frame.first_lineno, 1)
    name = frame.name.replace("\0", "")
    return _STUB.replace(
        co_filename=filename.replace("\0", ""),
        co_name=name,
        co_qualname=frame.qualname.replace("\0", "") or name,
        co_firstlineno=first,
        co_linetable=_location_table(frame, max(frame.lineno, 1) - first),
    )


def _location_table(frame: Frame, line_delta: int) -> bytes:
    """Return a table that gives the frame's position for each instruction of the stub."""
    if frame.col is None or frame.end_col is None or frame.end_lineno is None:
        kind, columns = 13, b""
    else:
        end_delta = max(frame.end_lineno - frame.lineno, 0)
        kind, columns = 14, _varint(end_delta) + _varint(frame.col + 1) + _varint(frame.end_col + 1)
    table = b""
    for start in range(0, _UNITS, 8):
        length = min(8, _UNITS - start)
        delta = line_delta if start == 0 else 0
        table += bytes([0x80 | kind << 3 | length - 1]) + _svarint(delta) + columns
    return table


def _varint(value: int) -> bytes:
    encoded = []
    while value >= 64:
        encoded.append(0x40 | value & 0x3F)
        value >>= 6
    return bytes([*encoded, value])


def _svarint(value: int) -> bytes:
    return _varint((-value << 1) | 1 if value < 0 else value << 1)
