"""What publishers and subscribers say to each other, and how a value travels.

A publisher binds a ROUTER, a subscriber dials it with a DEALER. PUB and SUB would fan out in C, but could tell nobody
what they dropped, bound their queues in messages rather than in bytes, and not hand anything to one late subscriber.

========= ============ ==================================================================================
message    direction    content
========= ============ ==================================================================================
hello      sub → pub    topics (prefixes), since, seconds between batches, publisher's key and cursor (to go on
                        after a pause), version, time there
taken      sub → pub    the batch's bytes: it has arrived, and the publisher may send as many more
bye        sub → pub    nothing; the subscriber is gone
put        sub → pub    id, and an item to publish there in the sender's name
welcome    pub → sub    version, key, source, base (topic → number of its last message before), known topics, the
                        source's cluster, last values that are no longer kept
batch      pub → sub    items; bytes sent in all
done       pub → sub    id of a put, and what was wrong with it, or nothing
========= ============ ==================================================================================

Frames: one msgpack message, then the buffers of its items, in order. An *item* is one published value: its topic, the
number that it has there (from 1 on), its place among all that the publisher has published, when, by whom, and the
value: ``plain`` as ``znb.rpc.values`` writes it, else a pickle as ``znb.shipping`` lays it out.

Invariants: pure; reading a message runs no code, reading a value does so only if it is a pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from znb.errors import ProtocolError, SerializationError
from znb.rpc import values
from znb.rpc.work import pack_value
from znb.serialize import Codec
from znb.shipping import Cargo, pack, size_of, unpack

__all__ = [
    "TOPIC_MAX",
    "VERSION",
    "Batch",
    "Bye",
    "Content",
    "Done",
    "Hello",
    "Item",
    "Put",
    "Taken",
    "Welcome",
    "check_topic",
    "decode_message",
    "decode_value",
    "encode_message",
    "encode_value",
]

#: Characters that a topic may have.
TOPIC_MAX = 200
#: Version of these messages; peers with another one are refused with both numbers.
VERSION = 1


def check_topic(topic: Any, *, hint: str = "") -> None:
    """Make sure that a topic can travel.

    Args:
        topic: What somebody gave.
        hint: What to write instead of a list, if it is not text.

    Raises:
        TypeError: It is not text.
        ValueError: It is too long, or holds what is no character, as names of files may.
    """
    if not isinstance(topic, str):
        raise TypeError(f"a topic is text, got {topic!r:.50}{hint and f'; {hint}'}")
    if len(topic) > TOPIC_MAX:
        raise ValueError(f"a topic has at most {TOPIC_MAX} characters, got {len(topic)}: {topic[:40]!a}…")
    try:
        topic.encode()
    except UnicodeEncodeError as error:  # a file's name that is not UTF-8, say
        raise ValueError(
            f"a topic must be text that UTF-8 can write, got {topic!r}: the character at {error.start} cannot be "
            "sent; for a file's name take os.fsencode(name).decode(errors='replace')"
        ) from None


class Content(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value made ready to travel.

    Attributes:
        body: msgpack of a plain value, or a pickle.
        plain: Which of the two.
        buffers: How many frames belong to it.
        cargo: How those of a pickle are told apart.
    """

    body: bytes
    plain: bool = True
    buffers: int = 0
    cargo: Cargo | None = None


class Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One published value.

    Attributes:
        topic: What it is about.
        number: Its number on this topic, from 1 on.
        index: Its place among all that its publisher has published, from 0 on.
        time: Unix time at which it was published.
        source: Who published it.
        content: The value.
        late: Whether it is handed over because it was the last of its topic before the subscription.
    """

    topic: str
    number: int
    index: int
    time: float
    source: str
    content: Content
    late: bool = False


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """Subscribe, or say that one still does; ``now`` is the subscriber's clock."""

    topics: tuple[str, ...]
    since: float
    interval: float = 0.0
    key: str = ""
    cursor: int = 0
    version: int = VERSION
    now: float = 0.0


class Taken(msgspec.Struct, frozen=True, array_like=True, tag="taken"):
    """A batch has arrived: its ``sent_bytes``."""

    sent_bytes: int


class Bye(msgspec.Struct, frozen=True, array_like=True, tag="bye"):
    """Hang up."""


class Put(msgspec.Struct, frozen=True, array_like=True, tag="put"):
    """Publish something in the sender's name."""

    id: int
    item: Item


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """The answer to a hello that is new."""

    key: str
    source: str
    base: dict[str, int]
    topics: tuple[str, ...]
    version: int = VERSION
    cluster: str = ""
    forgotten: int = 0


class Batch(msgspec.Struct, frozen=True, array_like=True, tag="batch"):
    """Items, in the order in which they were published, and the bytes that were sent in all with this one."""

    items: list[Item]
    sent_bytes: int


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """The answer to a put."""

    id: int
    problem: str = ""


Message = Hello | Taken | Bye | Put | Welcome | Batch | Done

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """Return the first frame of a message."""
    return _encoder.encode(message)


def decode_message(frame: bytes | memoryview) -> Message:
    """Read the first frame of a message.

    Raises:
        ProtocolError: It is none of those in the table above.
    """
    try:
        return _decoder.decode(frame)
    except (msgspec.DecodeError, ValueError, RecursionError, MemoryError) as error:
        raise ProtocolError(f"expected a message of a stream, got {len(frame)} bytes: {error}") from error


def encode_value(value: Any, codec: Codec) -> tuple[Content, tuple[bytes, ...], int]:
    """Make a copy of a value that can travel: later changes to it do not show.

    Args:
        value: What to send.
        codec: Writes what is not plain.

    Returns:
        The content, its frames, and the bytes of both together.

    Raises:
        SerializationError: It cannot travel; names the object and the path to it.
    """
    buffers: list[Any] = []
    try:
        body, plain, cargo = pack_value(value, buffers, where="value"), True, None
    except SerializationError:
        shipment = pack(codec.encode(value), codec, set())
        body, plain, cargo, buffers = shipment.body, False, shipment.cargo, shipment.frames
    frames = tuple(bytes(buffer) for buffer in buffers)
    return Content(body, plain, len(frames), cargo), frames, len(body) + size_of(frames)


def decode_value(content: Content, frames: Sequence[Any], codec: Codec, *, trusted: bool) -> Any:
    """Return the value again.

    Args:
        content: As it came.
        frames: Its buffers.
        codec: Reads what is not plain.
        trusted: Whether its sender may make this process run code, as pickles do.

    Raises:
        ProtocolError: It is damaged, or a pickle of somebody who is not trusted.
        SerializationError: What it is made of is not known here.
    """
    if content.plain:
        return values.decode(content.body, list(frames) if frames else None)
    if not trusted:
        raise ProtocolError(
            "a value came as a pickle, which is only read from this user's own processes on this machine; "
            "publish plain values, arrays or tables towards other machines"
        )
    return codec.decode(content.body, unpack(content.cargo, frames, codec))
