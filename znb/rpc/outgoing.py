"""A call on its way out: its arguments, deadline, hooks and span.

Invariants: ``finish`` follows what ``__init__`` began, once for the hooks and at least once for the span, whatever
becomes of the call. The calling thread owns it, and the I/O thread when the call is a future.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from znb.errors import CallTimeout, SerializationError, ServiceUnavailable
from znb.rpc import values
from znb.rpc.hooks import CallInfo, current_call, run_after, run_before, run_lost
from znb.serialize.settled import copy_buffer
from znb.spans import OpenSpan, calling, mark

if TYPE_CHECKING:
    from znb import wire
    from znb.rpc.caller import Caller, Endpoint
    from znb.rpc.line import Line

__all__ = ["MAX_BYTES", "Outgoing"]

#: Bytes of msgpack in one request.
MAX_BYTES = 64_000_000

_encode = msgspec.msgpack.Encoder().encode


class Outgoing:
    """A request ready to be sent: what does not depend on the endpoint.

    Args:
        caller: Who calls.
        method: The method's name.
        args: Positional arguments.
        kwargs: Keyword arguments.
        timeout: Seconds that it may take; ``None`` for any.
        span: Its span, if it has one already.
        detached: Whether the caller goes on, and may change the arguments, while they are sent.

    Attributes:
        what: The call, for messages.
        deadline: Monotonic time; ``None`` for none.
        allowed: Seconds that the deadline was made of, for messages.
        span: Of the call; ``None`` for those that are not the user's.
    """

    __slots__ = (
        "_args",
        "_detached",
        "_headers",
        "_kwargs",
        "allowed",
        "deadline",
        "hooks",
        "info",
        "method",
        "span",
        "what",
    )

    def __init__(
        self,
        caller: Caller,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
        span: OpenSpan | None = None,
        *,
        detached: bool = False,
    ) -> None:
        self.method = method
        self._detached = detached
        self._args = args
        self._kwargs = kwargs
        self.what = f"{caller.name}.{method}"
        self._headers: dict[str, Any] = {}
        self.deadline: float | None = None
        self.allowed = timeout or 0.0
        if timeout is not None:
            self.deadline = time.monotonic() + timeout
        serving = current_call()
        bound = serving.deadline if serving is not None else None
        if bound is not None and (self.deadline is None or bound < self.deadline):
            self.deadline = bound
            self.allowed = max(0.0, bound - time.monotonic())
        self.span = span
        if span is None and not method.startswith("_z"):
            caller.note_traced()
            self.span = calling(self.what, self._headers, service=caller.name, method=method)
        self.hooks = caller.hooks.all
        self.info = CallInfo(caller.name, method, self._headers, self.deadline) if self.hooks else None
        if self.info is not None:
            try:
                run_before(self.hooks, "calling", self.info)
            except BaseException as error:
                self._end_span(error)
                raise

    def frames(self, endpoint: Endpoint, identifier: int | None, headers: dict[str, Any]) -> tuple[Any, list[Any]]:
        """Return the headers and packed arguments for one endpoint, and the buffers.

        Raises:
            SerializationError: An argument cannot travel.
        """
        if self.deadline is not None:
            headers["deadline"] = self.deadline - time.monotonic()
        headers.update(self._headers)
        if identifier is not None:
            headers["message_id"] = identifier
        buffers: list[Any] = []
        out_of_band = None if endpoint.zerorpc else buffers
        content: list[Any] = [*self._args, self._kwargs] if self._kwargs else list(self._args)
        if self._kwargs:
            headers["kw"] = 1
        try:
            packed = _encode(values.encode(content, out_of_band, where="args"))
        except (OverflowError, UnicodeEncodeError):
            buffers.clear()
            packed = _encode(values.encode(content, out_of_band, where="args", careful=True))
        if len(packed) > MAX_BYTES:
            raise SerializationError(
                f"the arguments of {self.what}",
                f"they are {len(packed):,} bytes of msgpack, and {MAX_BYTES:,} are allowed",
                hint="Arrays and bytes travel beside it without a limit: make such of them (text.encode(), "
                "numpy.array), send them in several calls, or give them to jobs instead, with cluster.put",
            )
        if self._detached and buffers:
            buffers = [copy_buffer(buffer) for buffer in buffers]
        self.mark("encoded_ns")
        return msgspec.Raw(packed), buffers

    def limit(self, item_timeout: float | None) -> tuple[float | None, str, float]:
        """Return the deadline of the next answer, what would be late then, and the seconds that it was made of.

        Args:
            item_timeout: Seconds for it alone; ``None`` for any.
        """
        if item_timeout is not None:
            patience = time.monotonic() + item_timeout
            if self.deadline is None or patience < self.deadline:
                return patience, f"one item of {self.what}", item_timeout
        return self.deadline, self.what, self.allowed

    def receive(self, line: Line, channel: int, item_timeout: float | None) -> tuple[wire.Event, int]:
        """Wait for the next answer on a line (``Line.receive``), for ``item_timeout`` seconds at most."""
        deadline, what, allowed = self.limit(item_timeout)
        return line.receive(channel, deadline=deadline, what=what, allowed=allowed)

    def mark(self, name: str) -> None:
        """Note how far the call has come (see ``znb.traces.pieces``)."""
        if self.span is not None:
            mark(self.span, name)

    def finish(self, error: BaseException | None = None, *, items: int | None = None) -> None:
        """Tell the hooks how it ended, and end its span; of a stream, with the number of its ``items``."""
        if items is not None and self.span is not None:
            self.span.set(items=items)
        self._end_span(error)
        if self.info is not None:
            if isinstance(error, ServiceUnavailable | CallTimeout):
                run_lost(self.hooks, self.info, error)
            run_after(self.hooks, "calling", self.info, error)

    def cancelled(self) -> None:
        """Note that nobody waits for it any more."""
        if self.span is not None:
            self.span.status = "cancelled"
            self.span.end()

    def _end_span(self, error: BaseException | None) -> None:
        if self.span is not None:
            self.span.end(error)
