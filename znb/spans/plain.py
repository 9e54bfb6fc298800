"""What spans keep of users' values and exceptions: plain data, cut to size.

Invariants: whatever a ``repr`` or ``str`` does, these return; what they return refers to nothing that they were
given, unless that is a number or a short text.
"""

from __future__ import annotations

import builtins
import itertools
import operator
import os
import reprlib
import traceback
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, Final

__all__ = [
    "ATTRIBUTES_MAX",
    "clean",
    "describe_error",
    "name_error",
    "plain",
    "remembered",
    "safe_text",
    "scrub",
    "seen_by",
    "type_name",
    "valid_text",
]

#: Attributes of one span; later ones are dropped.
ATTRIBUTES_MAX = 64
#: Characters of an attribute's name.
NAME_MAX = 100
#: Characters of one attribute or event value.
TEXT_MAX = 1024
#: Characters of a traceback kept with a span.
TRACEBACK_MAX = 16_000
#: Exceptions of one chain whose frames are looked at.
CHAIN_MAX = 100
#: Where znb's own code is.
ROOT = str(Path(__file__).parents[1]) + os.sep
#: Folders of code that calls the user's and is none of it: a frame of theirs tells nothing.
CALLERS = tuple(f"{os.sep}{name}{os.sep}" for name in ("IPython", "ipykernel"))
#: Where an exception keeps what was rendered of it.
TEXTS: Final = "_znb_texts"
#: What znb and Python note on an exception on its way; its text is the same with them.
NOTED: Final = frozenset({TEXTS, "_znb_span", "_render_traceback_", "__notes__", "znb_origin", "znb_endpoint"})
#: Types of values that are kept as they are, beside text and numbers.
PLAIN = frozenset({bool, type(None)})
#: Types of arguments whose text takes no time.
CHEAP = frozenset({str, int, float, *PLAIN})
#: Largest magnitude of an integer attribute: what msgpack and OTLP carry.
INT_MAX = (1 << 63) - 1


#: An exception's attributes and arguments, past what its class may make of these names.
_dict_of: Final[Callable[[BaseException], dict[str, Any]]] = vars(BaseException)["__dict__"].__get__
_args_of: Final[Callable[[BaseException], tuple[Any, ...]]] = vars(BaseException)["args"].__get__


class _Short(reprlib.Repr):
    """Reprs of at most some hundred characters."""

    def __init__(self) -> None:
        super().__init__()
        self.maxother = self.maxstring = 200
        self.maxlevel = 3


_SHORT: Final = _Short()


def clean(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes as plain data, cut to size; the same dict if there is nothing to do."""
    for key, value in attributes.items():
        kind = type(value)
        if len(key) > NAME_MAX:
            break
        if kind is str:
            if len(value) > TEXT_MAX or not value.isascii():
                break
        elif kind is int:
            if not -INT_MAX <= value <= INT_MAX:
                break
        elif kind is float:
            if not isfinite(value):
                break
        elif kind not in PLAIN:
            break
    else:
        if len(attributes) <= ATTRIBUTES_MAX:
            return attributes
    items = itertools.islice(attributes.items(), ATTRIBUTES_MAX)
    return {valid_text(str(key)[:NAME_MAX]): plain(value) for key, value in items}


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value as a number, a boolean, ``None``, a short text, or a short list of these."""
    kind = type(value)
    if kind is str:
        return valid_text(value if len(value) <= TEXT_MAX else value[: TEXT_MAX - 1] + "…")
    if kind is int:
        return value if -INT_MAX <= value <= INT_MAX else plain(hex(value))
    if kind is float:
        return value if isfinite(value) else repr(value)  # JSON has no other numbers
    if kind in PLAIN:
        return value
    if kind in {list, tuple} and depth == 0 and len(value) <= ATTRIBUTES_MAX:
        return [plain(item, 1) for item in value]
    try:
        return _plain_object(value)
    except Exception as error:  # noqa: BLE001 - a user's class may raise anything; recording does not
        return f"<{type(value).__name__}: {type(error).__name__} in its repr>"


def _plain_object(value: Any) -> Any:
    if isinstance(value, str):
        return plain(str.__str__(value))
    if isinstance(value, float):
        return plain(float(value))
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:  # an array or a table: its repr would take long
        return f"<{type(value).__name__} {shape}>"
    if isinstance(value, int) or hasattr(value, "__index__"):
        return plain(operator.index(value))
    return plain(_SHORT.repr(value))


def valid_text(text: str) -> str:
    """Return a text with nothing in it that UTF-8 has no place for."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class Texts:
    """What was rendered of an exception, and what it was then. It is not pickled: another process renders anew."""

    __slots__ = ("args", "found", "state")

    def __init__(self, error: BaseException) -> None:
        self.args = _args_of(error)
        self.state = _state(error)
        self.found: dict[object, str] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (bool, ())

    def still_hold(self, error: BaseException) -> bool:
        """Tell whether the exception has the arguments and attributes that it had."""
        state = _state(error)
        return (
            _args_of(error) is self.args
            and state.keys() == self.state.keys()
            and all(value is self.state[name] for name, value in state.items())
        )


def _state(error: BaseException) -> dict[str, Any]:
    return {name: value for name, value in _dict_of(error).items() if name not in NOTED}


def remembered(error: BaseException, what: object, render: Callable[[], str]) -> str:
    """Return what ``render()`` says of an exception, which is asked once while the exception stays as it is.

    An exception is looked at by every span, call and process that it passes, and to say what it is may take long.
    """
    noted = _dict_of(error)
    known = noted.get(TEXTS)
    if type(known) is not Texts or not known.still_hold(error):
        known = noted[TEXTS] = Texts(error)
    text = known.found.get(what)
    if text is None:
        text = known.found[what] = render()
    return text


def safe_text(error: BaseException) -> str:
    """Return ``str(error)``, or what went wrong with it; asked once, where it may take long."""
    return _remembered_text(error, lambda: _text(error))


def _remembered_text(error: BaseException, render: Callable[[], str]) -> str:
    cls = type(error)
    if getattr(builtins, cls.__name__, None) is cls and all(type(arg) in CHEAP for arg in _args_of(error)):
        return render()
    return remembered(error, str, render)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001 - as above
        return f"<exception str() failed: {type(failure).__name__}>"


def type_name(error: BaseException) -> str:
    """Return the qualified name of an exception's type."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def name_error(error: BaseException) -> dict[str, Any]:
    """Return type and message of an exception, under OpenTelemetry's names."""
    return {"exception.type": type_name(error), "exception.message": plain(safe_text(error))}


def describe_error(error: BaseException) -> dict[str, Any]:
    """Return type, message and traceback of an exception, under OpenTelemetry's names; without znb's own frames."""
    made = traceback.TracebackException.from_exception(error)
    _hide_frames(made)
    text = "".join(made.format())
    if len(text) > TRACEBACK_MAX:
        text = f"{text[: TRACEBACK_MAX // 2]}\n…\n{text[-TRACEBACK_MAX // 2 :]}"
    message = plain(_remembered_text(error, lambda: str(made)))  # which has rendered it already
    return {"exception.type": type_name(error), "exception.message": message, "exception.stacktrace": text}


def _hide_frames(made: traceback.TracebackException, depth: int = 0) -> None:
    """Take the frames of znb and of IPython out, unless there are no others."""
    shown = [f for f in made.stack if not f.filename.startswith(ROOT) and not any(c in f.filename for c in CALLERS)]
    if shown:
        made.stack[:] = shown
    for other in (made.__cause__, made.__context__, *(made.exceptions or () if hasattr(made, "exceptions") else ())):
        if other is not None and depth < CHAIN_MAX:
            _hide_frames(other, depth + 1)


def seen_by(error: BaseException) -> tuple[str, int]:
    """Return which process's which span has seen an exception first, of those that it still knows."""
    found = getattr(error, "_znb_span", None)
    if isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[1], int):
        return str(found[0]), found[1]
    return "", 0


def scrub(value: Any) -> Any:
    """Return a value as msgpack and JSON carry it, for what did not go through ``clean``."""
    if isinstance(value, dict):
        return {valid_text(str(key)): scrub(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(found) for found in value]
    if isinstance(value, bytes):
        return value
    return valid_text(value) if type(value) is str else plain(value)
