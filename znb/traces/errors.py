"""What a span keeps of an exception in a process that has a codec: the traceback as users of znb see it.

``Recorder.describe`` is such a function: znb's own frames are left out, cells have their source lines, and the way of
an exception that came from another process is shown. Never raises, like ``tracebacks.capture``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from znb import tracebacks
from znb.spans.plain import TRACEBACK_MAX, plain
from znb.tracebacks.values import Codec

__all__ = ["describer"]

#: Characters of variables kept with one exception.
LOCALS_MAX = 8_000


def describer(
    codec: Codec, place: Callable[[], dict[str, Any]], *, with_locals: bool = False
) -> Callable[[BaseException], dict[str, Any]]:
    """Return a function for ``Recorder.describe``.

    Args:
        codec: Of this process.
        place: Returns worker, host and pid, as ``tracebacks.capture`` takes them.
        with_locals: Whether to keep the frames' variables, as text; those whose names sound secret are masked.
    """

    def describe(error: BaseException) -> dict[str, Any]:
        record = tracebacks.capture(error, codec, **place(), with_locals=with_locals)
        module = "" if record.module in {"builtins", ""} else f"{record.module}."
        text = record.traceback_text
        if len(text) > TRACEBACK_MAX:
            text = f"{text[: TRACEBACK_MAX // 2]}\n…\n{text[-TRACEBACK_MAX // 2 :]}"
        found = {
            "exception.type": f"{module}{record.type_name}",
            "exception.message": plain(record.message),
            "exception.stacktrace": text,
        }
        if with_locals:
            found["exception.locals"] = _locals(record)
        return found

    return describe


def _locals(record: tracebacks.ErrorRecord) -> str:
    """Return the variables of the frames, innermost first."""
    lines: list[str] = []
    for frame in reversed(record.raised[0].frames):
        if frame.variables:
            lines.append(f"{frame.name}, line {frame.lineno}:")
            # A text stands for itself; what is in a list is a repr.
            lines += [f"  {name} = {v[0] if isinstance(v, list) else repr(v)}" for name, v in frame.variables.items()]
    return "\n".join(lines)[:LOCALS_MAX]
