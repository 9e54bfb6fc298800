"""Frames on the wire: the zerorpc v3 event, and znb's additions to it.

Invariants: pure functions over bytes; nothing here reads a pickle, opens a socket or keeps state.
Source: zerorpc's protocol document, checked against zerorpc-python 0.6.3 (see docs/protocol.md).

====================  =====================================================================================
frames                 content
====================  =====================================================================================
call, DEALER sends     ``b""``, *blob*, buffer …
call, ROUTER sees      identity, ``b""``, *blob*, buffer … (the empty frame may be missing; replies carry it)
PUSH, PUB              *blob*, buffer …
*blob*                 msgpack ``[headers, name, args]``
====================  =====================================================================================

============== ============================ ==================================================================
header         value                         meaning
============== ============================ ==================================================================
message_id     bytes or str                  of a channel's first event: the channel's id
response_to    bytes or str                  every later event: the id of its channel
v              int, 3                        zerorpc version; missing counts as 1
znb            int                           wire version of a znb peer; zerorpc peers ignore it
deadline       float, seconds                what is left of the caller's time when it was sent
cargo          list, see ``shipping``        how to read ``args`` and the buffers, between holders of a cluster's keys
kw             int, 1                        the last argument is a dict of keyword arguments; znb peers only
items          int, 1                        the caller reads ``_znb_items``
error          bytes, see ``tracebacks``     in ERR: the record of the exception
traceparent    str                           W3C trace context
trace          24 bytes                      the same, in quick calls between znb peers: ids of trace and span
spans          [int]                         in ``_znb_calls``: the span of each call
============== ============================ ==================================================================

=============== =============== ============================================================================
name            args            meaning
=============== =============== ============================================================================
(a method)      arguments       request
OK              [result]        the one reply
STREAM          item            one item of a stream (bare, not in a list)
STREAM_DONE     null            the stream is complete
ERR             [name, message, traceback text]
_zpc_more       [n]             the sender grants n more data events; each side starts with 1
_zpc_hb         [0]             heartbeat; free of credit
_znb_cancel     [reason]        the caller gave up: stop the work; free of credit; znb peers only
_znb_need       [keys]          resend the request with these definitions; free of credit; znb peers only
_znb_calls      [[id, method, arguments] …]  several requests without headers of their own; znb peers only
_znb_results    [[id, [result]] …]           several replies of that kind; znb peers only
_znb_items      items           several items of a stream, each for a credit; only if the request has ``items``
=============== =============== ============================================================================
"""

from __future__ import annotations

import itertools
import os
from typing import Any, NamedTuple

import msgspec

from znb.errors import ProtocolError

__all__ = [
    "CALLS",
    "CANCEL",
    "ERR",
    "HEARTBEAT",
    "ITEMS",
    "LAST",
    "MORE",
    "NEED",
    "OK",
    "REPLIES",
    "RESULTS",
    "STREAM",
    "STREAM_DONE",
    "WIRE_VERSION",
    "Event",
    "channel_of",
    "check_reply",
    "decode_args",
    "decode_calls",
    "decode_event",
    "decode_results",
    "encode_event",
    "id_of",
    "message_ids",
]

#: Version of znb's own additions; peers with another one are refused with both numbers.
WIRE_VERSION = 2
#: Version of zerorpc's protocol that every event declares.
ZERORPC_VERSION = 3

OK = "OK"
ERR = "ERR"
STREAM = "STREAM"
STREAM_DONE = "STREAM_DONE"
MORE = "_zpc_more"
HEARTBEAT = "_zpc_hb"
CANCEL = "_znb_cancel"
NEED = "_znb_need"
ITEMS = "_znb_items"
CALLS = "_znb_calls"
RESULTS = "_znb_results"


class Event(NamedTuple):
    """One message of a channel.

    Attributes:
        headers: See the table above.
        name: A method's name, or one of the names above.
        args: What the name calls for.
        buffers: Out-of-band frames, in order.
    """

    headers: dict[str, Any]
    name: str
    args: Any
    buffers: list[Any]


#: What a server may send on an open channel, control events aside.
REPLIES = frozenset({OK, ERR, STREAM, STREAM_DONE, NEED, ITEMS})

#: Those after which nothing follows.
LAST = frozenset({OK, ERR, STREAM_DONE})

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[dict[str, Any], str, Any])
_calls_decoder = msgspec.msgpack.Decoder(list[tuple[int, str, msgspec.Raw]])
_results_decoder = msgspec.msgpack.Decoder(list[tuple[int, msgspec.Raw]])
_raw_decoder = msgspec.msgpack.Decoder(tuple[dict[str, Any], str, msgspec.Raw])


def encode_event(headers: dict[str, Any], name: str, args: Any) -> bytes:
    """Return the *blob* of an event.

    Raises:
        TypeError: ``args`` holds something that msgpack cannot carry.
    """
    headers.setdefault("v", ZERORPC_VERSION)
    return _encoder.encode((headers, name, args))


def decode_event(blob: bytes | memoryview, buffers: list[Any], *, raw: bool = False) -> Event:
    """Read a *blob*.

    Args:
        blob: The bytes.
        buffers: What came out of band.
        raw: Whether the arguments are left as ``msgspec.Raw``, to be read by whoever they are for.

    Raises:
        ProtocolError: It is not msgpack of the form ``[headers, name, args]``.
    """
    try:
        headers, name, args = (_raw_decoder if raw else _decoder).decode(blob)
    except RecursionError as error:
        raise ProtocolError("expected msgpack [headers, name, args], got one nested too deeply") from error
    except (msgspec.DecodeError, ValueError, MemoryError) as error:  # ValueError: text that is not UTF-8
        raise ProtocolError(f"expected msgpack [headers, name, args], got {len(blob)} bytes: {error}") from error
    return Event(headers, name, args, buffers)


def decode_args(args: Any) -> Any:
    """Return the arguments of an event that was decoded with ``raw``.

    Raises:
        ProtocolError: They are not msgpack.
    """
    if not isinstance(args, msgspec.Raw):
        return args
    try:
        return msgspec.msgpack.decode(args)
    except (msgspec.DecodeError, ValueError, RecursionError, MemoryError) as error:
        raise ProtocolError(f"expected msgpack arguments, got something else: {error}") from error


def decode_calls(args: Any) -> list[tuple[int, str, msgspec.Raw]]:
    """Return the requests of a ``_znb_calls`` event that was decoded with ``raw``.

    Raises:
        ProtocolError: They are none.
    """
    return _decode_list(_calls_decoder, args)  # type: ignore[no-any-return]


def decode_results(args: Any) -> list[tuple[int, msgspec.Raw]]:
    """Return the replies of a ``_znb_results`` event that was decoded with ``raw``.

    Raises:
        ProtocolError: They are none.
    """
    return _decode_list(_results_decoder, args)  # type: ignore[no-any-return]


def _decode_list(decoder: Any, args: Any) -> Any:
    try:
        return decoder.decode(args)
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ProtocolError(f"expected a list of calls or results, got something else: {error}") from error


def channel_of(event: Event) -> bytes | str | int | None:
    """Return the id of the channel that an event belongs to; ``None`` for one that opens a channel.

    Raises:
        ProtocolError: It is not an id.
    """
    return _identifier(event, "response_to", optional=True)


def id_of(event: Event) -> bytes | str | int:
    """Return the id of an event that opens a channel.

    Raises:
        ProtocolError: It has none.
    """
    return _identifier(event, "message_id", optional=False)  # type: ignore[return-value]


def check_reply(event: Event) -> None:
    """Raise ``ProtocolError`` if an ``OK`` or ``ERR`` does not hold what it should."""
    if event.name == OK and not (isinstance(event.args, list) and len(event.args) == 1):
        raise ProtocolError(f"expected [result] in OK, got {event.args!r:.50}")
    if event.name == ERR and not (isinstance(event.args, list) and event.args):
        raise ProtocolError(f"expected [name, message, traceback] in ERR, got {event.args!r:.50}")


def _identifier(event: Event, header: str, *, optional: bool) -> bytes | str | int | None:
    value = event.headers.get(header)
    if isinstance(value, bytes | str | int) or (value is None and optional):
        return value
    raise ProtocolError(f"expected bytes, str or int as {header}, got {value!r:.50}")


def message_ids() -> itertools.count[int]:
    """Return a source of ids for one socket: unique in this process, unpredictable start."""
    return itertools.count(int.from_bytes(os.urandom(6), "big"))
