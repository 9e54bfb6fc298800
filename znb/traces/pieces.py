"""The pieces of a call: encode, send, transfer, queue, decode, run, encode, transfer, decode.

Caller and server each note, in attributes of their own spans, when they handed on; nothing is sent for it. What lies
between one's handing on and the other's receiving is transfer, known up to the error of their clocks.

================ ===================== ========================================================================
span              attribute             nanoseconds
================ ===================== ========================================================================
call              ``encode_ns``         from its start until the arguments were encoded
call              ``sent_ns``           from its start until the request was given to the socket
call              ``replied_ns``        from its start until the last reply was there, on the I/O thread
call              ``decode_ns``         decoding the result, at its end
serve             ``queue_ns``          from its start (the request was there) until a thread took it
serve             ``decode_ns``         decoding the arguments, after that
serve             ``encode_ns``         encoding the result, at its end
job               ``sent_ns``           the *client's* clock when its chunk was given to the socket (0: not known)
job               ``queue_ns``          from the chunk's arrival until its start
job               ``decode_ns``         decoding the chunk's items; of the first job of a chunk
================ ===================== ========================================================================

Invariants: pure; pieces are in order, do not overlap, and cover the call from start to end; where a figure is missing
its piece is part of the next.
"""

from __future__ import annotations

from typing import NamedTuple

from znb.spans.table import KINDS
from znb.traces.model import TraceData

__all__ = ["Piece", "pieces"]

_CALL = KINDS.index("call")
_SERVE = KINDS.index("serve")


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


def pieces(data: TraceData, row: int) -> list[Piece]:
    """Return the pieces of a call, seen from both ends; of another span, itself as one piece ``run``."""
    table = data.table
    if table.kind[row] == _CALL:
        served = next((child for child in data.children(row) if table.kind[child] == _SERVE), None)
        return _call(data, row, served)
    if table.kind[row] == _SERVE:
        return _served(data, row)
    return [Piece("run", table.process(row).label, table.start_ns[row], data.end(row))]


def _call(data: TraceData, row: int, served: int | None) -> list[Piece]:
    table = data.table
    own, here = table.attributes(row), table.process(row)
    start, end = table.start_ns[row], data.end(row)
    encoded = start + own.get("encode_ns", 0)
    sent = start + own.get("sent_ns", own.get("encode_ns", 0))
    replied = start + own["replied_ns"] if "replied_ns" in own else end
    decoding = end - own.get("decode_ns", 0)
    marks = [("encode", here.label, encoded, 0), ("send", here.label, sent, 0)]
    if served is None:
        marks.append(("wait", "", replied, 0))
    else:
        there = table.process(served)
        error = next((clock.error_ns for clock in data.clocks if clock.process == there), 0)
        marks.append(("transfer", "", table.start_ns[served], error))
        marks += [(piece.name, piece.worker, piece.end_ns, 0) for piece in _served(data, served)]
        marks.append(("reply", "", replied, error))
    marks += [("take", here.label, decoding, 0), ("decode", here.label, end, 0)]
    return _between(start, end, marks)


def _served(data: TraceData, row: int) -> list[Piece]:
    table = data.table
    own, label = table.attributes(row), table.process(row).label
    start, end = table.start_ns[row], data.end(row)
    taken = start + own.get("queue_ns", 0)
    decoded = taken + own.get("decode_ns", 0)
    encoding = end - own.get("encode_ns", 0)
    marks = [("queue", taken), ("decode", decoded), ("run", encoding), ("encode", end)]
    return _between(start, end, [(name, label, mark, 0) for name, mark in marks])


def _between(start: int, end: int, marks: list[tuple[str, str, int, int]]) -> list[Piece]:
    """Return the stretches that end at the marks, each within what is left; empty ones are left out."""
    found, at = [], start
    for name, worker, mark, error in marks:
        until = min(max(mark, at), end)
        if until > at:
            found.append(Piece(name, worker, at, until, error))
        at = until
    return found
