"""Outcomes of jobs as they come from a worker: values, and exceptions with their tracebacks; and as they wait here."""

from __future__ import annotations

import functools
from typing import Any

from znb import tracebacks
from znb.executor import frames
from znb.link import Link
from znb.serialize import Codec
from znb.shipping import unpack

__all__ = ["Outcomes", "decode_results"]


class Outcomes:
    """Outcomes of consecutive jobs, decoded; errors by position.

    Attributes:
        size_bytes: What is to be said to be taken with them, so that more may be sent.
        plain: Whether it does not matter how long the values are held.
    """

    __slots__ = ("errors", "plain", "size_bytes", "values")

    def __init__(
        self, values: list[Any], errors: dict[int, BaseException], size_bytes: int = 0, *, plain: bool = False
    ) -> None:
        self.values = values
        self.errors = errors
        self.size_bytes = size_bytes
        self.plain = plain


def decode_results(
    message: frames.Results, parts: list[Any], codec: Codec, link: Link
) -> tuple[list[Any], dict[int, BaseException]]:
    """Decode outcomes. On the thread that wants them: it runs code, and may ask the worker for definitions."""
    buffers = unpack(message.cargo, parts, codec)
    values = link.with_definitions(lambda: codec.decode(message.body, buffers))
    errors: dict[int, BaseException] = {}
    for failed in message.failed:
        record = tracebacks.decode_record(failed.record)
        errors[failed.index] = link.with_definitions(functools.partial(tracebacks.restore, record, codec))
    return values, errors
