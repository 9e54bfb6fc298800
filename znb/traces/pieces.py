"""The pieces of a call: encode, send, transfer, queue, decode, run, encode, reply, take, decode.

Caller and server each note on their own spans when they handed on (``znb.spans.mark``); nothing is sent for it. What
lies between one's handing on and the other's receiving is transfer, known up to the error of their clocks.

=================== ================== =========================================================================
span                 attribute          nanoseconds since the span began
=================== ================== =========================================================================
call, submit         ``encoded_ns``     the arguments were encoded
call, submit         ``sent_ns``        the request was given to the socket
call, submit         ``replied_ns``     the last reply was there, on the I/O thread
call, submit         ``decoding_ns``    the waiting thread began to decode the result
serve                ``taken_ns``       a thread took it; before that, since its arrival, it waited
serve, job           ``decoded_ns``     the arguments were decoded
serve                ``ran_ns``         the method had returned
job                  ``queued_ns``      *before* it began: since its chunk arrived
=================== ================== =========================================================================

Invariants: pure; pieces are in order, do not overlap, and cover the call from start to end; where a mark is missing its
piece is part of the next.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from znb.spans.table import KINDS
from znb.traces.listing import Listing, duration
from znb.traces.model import TraceData

__all__ = ["Piece", "Pieces", "pieces"]

_CALLS = frozenset({KINDS.index("call"), KINDS.index("submit")})
_SERVES = frozenset({KINDS.index("serve"), KINDS.index("job")})


class Piece(NamedTuple):
    """A part of a call.

    Attributes:
        name: ``encode``, ``send``, ``transfer``, ``queue``, ``decode``, ``run``, ``reply`` (transfer back), ``take``
        (from
            the arrival of the reply to the caller's thread) or ``wait``.
        worker: Where it happened; empty between two processes.
        start_ns: Unix time.
        end_ns: Unix time.
        error_ns: How far a bound between two machines may be off.
    """

    name: str
    worker: str
    start_ns: int
    end_ns: int
    error_ns: int = 0

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.end_ns - self.start_ns) / 1e9


class Pieces(Listing[Piece]):
    """The pieces of a call, one after the other."""

    head = ("piece", "where", "took")
    none = "(no time at all)"

    def cells(self, item: Piece) -> tuple[str, ...]:
        """Return an item's line."""
        error = f" ± {duration(item.error_ns)}" if item.error_ns else ""
        return item.name, item.worker, duration(item.end_ns - item.start_ns) + error


def pieces(data: TraceData, row: int) -> Pieces:
    """Return the pieces of a call, seen from both ends; of another span, itself as one piece ``run``."""
    table = data.table
    if table.kind[row] in _CALLS:
        served = [child for child in data.children(row) if table.kind[child] in _SERVES]
        return _call(data, row, served[-1] if served else None)  # the last attempt is the one that was answered
    if table.kind[row] in _SERVES:
        return _between(_arrival(data, row), data.end(row), _served(data, row))
    return Pieces([Piece("run", table.process(row).label, table.start_ns[row], data.end(row))])


def _call(data: TraceData, row: int, served: int | None) -> Pieces:
    table = data.table
    here = table.process(row).label
    start, end = table.start_ns[row], data.end(row)
    marks = _Marks(table.attributes(row), start)
    encoded = marks.get("encoded_ns", start)
    found = [("encode", here, encoded, 0), ("send", here, marks.get("sent_ns", encoded), 0)]
    if served is None:
        found.append(("wait", "", marks.get("replied_ns", end), 0))
    else:
        there = table.process(served)
        error = next((clock.error_ns for clock in data.clocks if clock.process == there), 0)
        found.append(("transfer", "", _arrival(data, served), error))
        found += _served(data, served)
        found.append(("reply", "", marks.get("replied_ns", end), error))
    found += [("take", here, marks.get("decoding_ns", end), 0), ("decode", here, end, 0)]
    return _between(start, end, found)


def _arrival(data: TraceData, row: int) -> int:
    """Return when a request was there; a job's span begins later, when it runs."""
    queued = data.table.attributes(row).get("queued_ns", 0)
    return data.table.start_ns[row] - (queued if isinstance(queued, int) else 0)


def _served(data: TraceData, row: int) -> list[tuple[str, str, int, int]]:
    """Return where the pieces of the serving side end."""
    table = data.table
    label, start = table.process(row).label, table.start_ns[row]
    marks = _Marks(table.attributes(row), start)
    taken = marks.get("taken_ns", start)
    decoded = marks.get("decoded_ns", taken)
    ran = marks.get("ran_ns", data.end(row))
    return [(name, label, at, 0) for name, at in (("queue", taken), ("decode", decoded), ("run", ran))] + [
        ("encode", label, data.end(row), 0)
    ]


class _Marks:
    """The marks of a span, as Unix time."""

    def __init__(self, attributes: dict[str, Any], start: int) -> None:
        self._attributes = attributes
        self._start = start

    def get(self, name: str, default: int) -> int:
        since = self._attributes.get(name)
        return self._start + since if isinstance(since, int) else default


def _between(start: int, end: int, marks: list[tuple[str, str, int, int]]) -> Pieces:
    """Return the stretches that end at the marks, each within what is left; empty ones are left out."""
    found, at = Pieces(), start
    for name, worker, mark, error in marks:
        until = min(max(mark, at), end)
        if until > at:
            found.append(Piece(name, worker, at, until, error))
        at = until
    return found
