"""What client and worker say to each other about jobs: PUSH/PULL both ways.

A message is one msgpack header frame, then the frames that its shipments announce (see ``znb.shipping``).

============ ======================================================================================
client → worker
============ ======================================================================================
``Hello``     who I am, where my sink is, and how many bytes of results may be under way
``Define``    a group's function; comes before the first chunk of the group
``Chunk``     run these jobs, in order, after those you have
``Revoke``    give back those of these jobs that you have not begun
``Stop``      raise ``KeyboardInterrupt`` in this job, if it is the one that runs
``Consumed``  so many bytes of results, or of printed output, have been taken; send as many more
``Supply``    the definitions that were asked for
``Forget``    no more chunks of this group will come
``Bye``       forget everything of mine; nobody waits for it
============ ======================================================================================

============ ======================================================================================
worker → client, each with the client's number for this incarnation of the worker
============ ======================================================================================
``Results``   outcomes of consecutive jobs of a chunk, as far as they have come
``Started``   a job with a time limit has begun
``Revoked``   the part of a chunk that will not run here
``Need``      definitions were lost; the worker waits for them
``Printed``   what a job has printed or displayed
``Busy``      somebody else's work runs here now, or no longer
============ ======================================================================================

Invariants: messages of one direction arrive in the order sent; a chunk's outcomes come in order, each once; a worker
keeps at most ``Hello.credit`` bytes of results under way to one client, unless a single result is larger than that.
"""

from __future__ import annotations

from typing import Any

import msgspec

from znb.errors import ProtocolError
from znb.shipping import Cargo

__all__ = [
    "CALL_BOTH",
    "CALL_ONE",
    "CALL_STAR",
    "Busy",
    "Bye",
    "Chunk",
    "Consumed",
    "Define",
    "Failed",
    "Forget",
    "FromWorker",
    "Hello",
    "Need",
    "Printed",
    "Results",
    "Revoke",
    "Revoked",
    "Segment",
    "Started",
    "Stop",
    "Supply",
    "ToWorker",
    "decode_from_worker",
    "decode_to_worker",
    "encode",
]

#: How a group's function is called with an item: ``f(item)``, ``f(*item)``, ``f(*item[0], **item[1])``.
CALL_ONE = 0
CALL_STAR = 1
CALL_BOTH = 2


class _Message(msgspec.Struct, array_like=True, tag=True):
    """A header frame."""


class Hello(_Message):
    """The first message of a connection: the worker dials ``sink`` and calls itself ``link`` there."""

    client: bytes
    link: int
    sink: str
    credit: int
    print_credit: int
    wire: int


class Define(_Message):
    """A group: its encoded function, how to call it, and whether each start is to be told."""

    client: bytes
    group: int
    body: bytes
    cargo: Cargo
    call: int
    tell_starts: bool
    label: str


class Segment(msgspec.Struct, array_like=True, frozen=True):
    """An encoded list of items, of which a chunk uses ``start`` up to ``stop``.

    Attributes:
        context: The span that asked for them (see ``znb.spans.encode_context``).
        span: Id of the span of a job that was submitted by itself; 0 for none.
    """

    body: bytes
    cargo: Cargo
    start: int
    stop: int
    context: str = ""
    span: int = 0


class Chunk(_Message):
    """Jobs ``first``, ``first + 1``, … of a group: the items of the segments, in order."""

    client: bytes
    chunk: int
    group: int
    first: int
    attempt: int
    segments: list[Segment]


class Revoke(_Message):
    """See the table."""

    client: bytes
    chunk: int
    start: int
    stop: int


class Stop(_Message):
    """See the table; ``late`` if the job overran its limit, else it was cancelled."""

    client: bytes
    chunk: int
    index: int
    late: bool = False


class Consumed(_Message):
    """See the table."""

    client: bytes
    count_bytes: int
    printed: bool = False


class Supply(_Message):
    """See the table; the frames are those of the definitions."""

    client: bytes
    cargo: Cargo


class Forget(_Message):
    """See the table."""

    client: bytes
    group: int


class Bye(_Message):
    """See the table."""

    client: bytes


ToWorker = Hello | Define | Chunk | Revoke | Stop | Consumed | Supply | Forget | Bye


class Failed(msgspec.Struct, array_like=True, frozen=True):
    """The outcome of one job that raised: the qualified names of its type and bases, and an encoded ``ErrorRecord``."""

    index: int
    type_name: str
    bases: list[str]
    record: bytes


class Results(_Message):
    """Outcomes of jobs ``first`` up to ``first + count``: the encoded list of values, and which of them failed.

    Attributes:
        run_time: Seconds that user code took.
        size_bytes: What it counts against the credit.
        plain: Whether the values are small and cannot change, so that it does not matter how long they are held.
    """

    link: int
    chunk: int
    group: int
    first: int
    count: int
    run_time: float
    size_bytes: int
    body: bytes
    cargo: Cargo
    failed: list[Failed] = []
    plain: bool = False


class Started(_Message):
    """See the table; ``elapsed`` is in seconds."""

    link: int
    chunk: int
    index: int
    elapsed: float


class Revoked(_Message):
    """See the table."""

    link: int
    chunk: int
    start: int
    stop: int


class Need(_Message):
    """See the table."""

    link: int
    keys: list[bytes]


class Printed(_Message):
    """See the table; ``output`` is an encoded ``znb.outputs.Output``."""

    link: int
    group: int
    index: int
    attempt: int
    output: bytes


class Busy(_Message):
    """See the table."""

    link: int
    busy: bool


FromWorker = Results | Started | Revoked | Need | Printed | Busy

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode(message: ToWorker | FromWorker) -> bytes:
    """Return a message's header frame."""
    return _encoder.encode(message)


def decode_to_worker(data: Any) -> ToWorker:
    """Read a header frame that came to a worker.

    Raises:
        ProtocolError: It is not one.
    """
    try:
        return _to_worker.decode(data)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"expected a job message for a worker: {error}") from error


def decode_from_worker(data: Any) -> FromWorker:
    """Read a header frame that came from a worker.

    Raises:
        ProtocolError: It is not one.
    """
    try:
        return _from_worker.decode(data)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"expected a job message from a worker: {error}") from error
