"""What code running on a worker emits while it runs: text, rich displays, clears.

These records travel as stream items from a worker's shell to the notebook that asked (see ``znb.shell`` and
``znb.console``). They hold only what msgpack can carry, so that no pickle is read to show an output.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["Clear", "Display", "Output", "Text", "decode_output", "encode_output"]


class Text(msgspec.Struct, frozen=True, tag="text"):
    """Characters written to standard output or standard error, in the order written."""

    stream: Literal["stdout", "stderr"]
    text: str


class Display(msgspec.Struct, frozen=True, tag="display"):
    """A rich output: a MIME bundle, or the replacement of an earlier one.

    Attributes:
        data: MIME type to content; binary content as base64 text, as Jupyter has it.
        metadata: MIME type to metadata.
        display_id: Name under which later outputs may replace this one; ``None`` for none.
        update: Whether this replaces the output shown under ``display_id``.
    """

    data: dict[str, Any]
    metadata: dict[str, Any] = {}
    display_id: str | None = None
    update: bool = False


class Clear(msgspec.Struct, frozen=True, tag="clear"):
    """``clear_output``: remove what was shown, at once or when the next output comes (``wait``)."""

    wait: bool = False


Output = Text | Display | Clear


def encode_output(output: Output) -> bytes:
    """Return the msgpack form of an output."""
    return msgspec.msgpack.encode(output)


def decode_output(data: bytes | memoryview) -> Output:
    """Return the output whose msgpack form is ``data``.

    Raises:
        msgspec.ValidationError: ``data`` is no output.
    """
    return msgspec.msgpack.decode(data, type=Output)  # type: ignore[no-any-return]
