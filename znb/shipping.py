"""How an encoded object is laid out in the frames of a message, and which definitions go with it.

A message between holders of the cluster's keys carries one object: the pickle, its out-of-band buffers, and
those definitions (functions, classes) that this peer has not been sent yet on this socket. The *cargo*
header says which frame is which.

====================  ===========================================================================
frames                buffers of the object, then the frames of each shipped definition
cargo                 ``[number of buffers, [[key, number of frames] …], [every key needed …]]``
====================  ===========================================================================

Invariants: a definition precedes its first use on the same socket; pure apart from ``Codec``'s store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from znb.errors import ProtocolError
from znb.serialize import Codec, Payload

__all__ = ["Cargo", "Shipment", "pack", "payload_bytes", "size_of", "unpack"]


class Cargo(msgspec.Struct, frozen=True, array_like=True):
    """The header that tells the frames of a message apart (see the table above)."""

    buffers: int = 0
    shipped: list[tuple[bytes, int]] = []
    needs: list[bytes] = []


class Shipment(NamedTuple):
    """An object ready to be sent to one peer."""

    cargo: Cargo
    body: bytes
    frames: list[Any]


#: Definitions that a peer is remembered to have been sent; then all are forgotten, and sent again when needed.
KNOWN = 8192

#: What an object without buffers and definitions has for a header.
PLAIN = Cargo()


def pack(payload: Payload, codec: Codec, known: set[bytes]) -> Shipment:
    """Lay out ``payload`` for a peer that has been sent ``known``, and add to ``known`` what goes with it."""
    if not payload.definitions and not payload.buffers:
        return Shipment(PLAIN, payload.body, [])
    if len(known) > KNOWN:
        known.clear()
    frames: list[Any] = list(payload.buffers)
    shipped: list[tuple[bytes, int]] = []
    for key in payload.definitions:
        if key not in known:
            parts = codec.definition(key)
            shipped.append((key, len(parts)))
            frames.extend(parts)
            known.add(key)
    return Shipment(Cargo(len(payload.buffers), shipped, list(payload.definitions)), payload.body, frames)


def unpack(cargo: Any, frames: Sequence[Any], codec: Codec, known: set[bytes] | None = None) -> list[Any]:
    """Store the definitions that came along, and return the object's own buffers.

    Args:
        cargo: The message's header; ``None`` if it had none.
        frames: The message's frames.
        codec: Learns the definitions.
        known: What its sender has been sent; what the message needs, the sender has, so it is added.

    Raises:
        ProtocolError: The frames are not those that ``cargo`` announces.
    """
    if cargo is None:
        return []
    try:
        header = msgspec.convert(cargo, Cargo) if not isinstance(cargo, Cargo) else cargo
    except msgspec.ValidationError as error:
        raise ProtocolError(f"expected a cargo header, got {cargo!r:.100}") from error
    announced = header.buffers + sum(count for _, count in header.shipped)
    if announced != len(frames):
        raise ProtocolError(f"expected {announced} frames as the header announces, got {len(frames)}")
    if known is not None:
        known.update(header.needs)
    position = header.buffers
    for key, count in header.shipped:
        codec.learn(key, tuple(_buffer(frame) for frame in frames[position : position + count]))
        position += count
    return [_buffer(frame) for frame in frames[: header.buffers]]


def payload_bytes(payload: Payload) -> int:
    """Return the size of an encoded object without its definitions."""
    return len(payload.body) + size_of(payload.buffers)


def size_of(buffers: Iterable[Any]) -> int:
    """Return how many bytes buffers or frames have together."""
    return sum(len(buffer) if isinstance(buffer, bytes) else memoryview(buffer).nbytes for buffer in buffers)


def _buffer(frame: Any) -> Any:
    """Return what can be read of a frame without copying it."""
    return getattr(frame, "buffer", frame)


def forget(known: set[bytes], keys: Iterable[bytes]) -> None:
    """Note that a peer has lost definitions, so that the next message carries them again."""
    known.difference_update(keys)
