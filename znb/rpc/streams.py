"""The calling side of a stream: an iterator, for ``for`` and for ``async for``.

Invariants: items come in order and once; at most a window of them is under way; one that is closed, dropped or broken
out of is stopped on the server. A stream is read by one thread, or one task, at a time.
"""

from __future__ import annotations

import asyncio
import collections
import time
from typing import TYPE_CHECKING, Any, Self

from znb import wire
from znb.errors import CallTimeout
from znb.flow import CreditWindow, window_for
from znb.rpc import failures, values
from znb.rpc.caller import Caller, Limits, Outgoing, Started
from znb.rpc.client import Call, Lost, Reply
from znb.rpc.futures import awake

if TYPE_CHECKING:
    from znb.rpc.caller import Endpoint
    from znb.rpc.line import Line

__all__ = ["Stream"]


class Stream:
    """What a streaming method returns; begins when the first item is asked for.

    It is an iterator and an asynchronous one (which of them, the first use decides), and a context manager. ``close``,
    leaving the ``with`` block, or letting go of it, stops the method on the server.
    """

    def __init__(
        self,
        caller: Caller,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        limits: Limits,
        *,
        owner: object = None,
    ) -> None:
        self._owner = owner  # the proxy, which would hang up if it were gone
        self._caller = caller
        self._request = (method, args, kwargs)
        self._limits = limits
        self._reader: _Reader | _AsyncReader | None = None
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._reader is not None else "not begun"
        return f"<Stream of {self._caller.name}.{self._request[0]}, {state}>"

    # -- for -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        reader = self._reader
        if reader is None:
            if self._closed:
                raise StopIteration
            reader = self._begin()
        if not isinstance(reader, _Reader):
            raise TypeError(f"{self!r} is read by async for; it cannot be read by for as well")
        return reader.next()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop it, here and on the server. May be called twice."""
        self._closed = True
        if self._reader is not None:
            self._reader.close()

    def __del__(self) -> None:
        self.close()

    def adopt(self, started: Started) -> Self:
        """Go on with a call that turned out to be a stream."""
        self._reader = _Reader(started, self._limits)
        return self

    def _begin(self) -> _Reader:
        method, args, kwargs = self._request
        result = self._caller.call(method, args, kwargs, self._limits, streams=True)
        self._reader = _Reader(result, self._limits)
        return self._reader

    # -- async for -----------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        reader = self._reader
        if reader is None:
            if self._closed:
                raise StopAsyncIteration
            method, args, kwargs = self._request
            outgoing = Outgoing(self._caller, method, args, kwargs, self._limits.timeout, detached=True)
            reader = self._reader = _AsyncReader(self._caller, outgoing, self._limits)
        if not isinstance(reader, _AsyncReader):
            raise TypeError(f"{self!r} is read by for; it cannot be read by async for as well")
        return await reader.next()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def aclose(self) -> None:
        """As ``close``."""
        self.close()


class _Reader:
    """Reads a stream on a line, which it holds until the end."""

    def __init__(self, started: Started, limits: Limits) -> None:
        self._line: Line | None = started.line
        self._endpoint: Endpoint = started.endpoint
        self._outgoing = started.outgoing
        self._channel = started.channel
        self._limits = limits
        self._window: CreditWindow | None = None
        self._items: collections.deque[Any] = collections.deque()
        self._taken = self._count = 0
        try:
            self._take(started.event, started.size)
        except BaseException as error:
            self._outgoing.finish(error)
            raise

    def next(self) -> Any:
        while not self._items:
            if self._line is None:
                raise StopIteration
            self._grant()
            self._wait()
        self._taken += 1
        return self._items.popleft()

    def close(self) -> None:
        if self._line is not None:
            line = self._line
            line.cancel(self._channel, "closed")
            self._let_go(keep=True)
            self._outgoing.finish(items=self._count)

    def _wait(self) -> None:
        assert self._line is not None  # noqa: S101 - the caller has looked
        outgoing = self._outgoing
        try:
            event, size = outgoing.receive(self._line, self._channel, self._limits.item_timeout)
            self._take(event, size)
        except BaseException as error:
            if self._line is not None:
                if isinstance(error, KeyboardInterrupt):
                    self._line.cancel(self._channel, "interrupted")
                self._let_go(keep=isinstance(error, CallTimeout | KeyboardInterrupt))
            outgoing.finish(error)
            raise

    def _take(self, event: wire.Event, size: int) -> None:
        name = event.name
        if name == wire.ITEMS:
            self._items.extend(values.decode(event.args, event.buffers))
            self._count += len(self._items)  # there were none left, or nobody would have looked for more
            self._open_window(size / max(1, len(self._items)))
        elif name == wire.STREAM:
            self._items.append(values.decode(event.args, event.buffers))
            self._count += 1
            self._open_window(size)
        elif name == wire.STREAM_DONE:
            self._let_go(keep=True)
            self._outgoing.finish(items=self._count)
        elif name == wire.ERR:
            self._let_go(keep=True)
            raise failures.restore(values.decode(event.args), event.headers, endpoint=self._outgoing.what)
        else:  # OK: it turned out to return a value, which is what there is to iterate over
            self._let_go(keep=True)
            raise TypeError(f"{self._outgoing.what} does not stream here; it returned a value")

    def _open_window(self, item_bytes: float) -> None:
        if self._window is None:
            assert self._line is not None  # noqa: S101 - an item has just come over it
            self._window = CreditWindow(window_for(item_bytes))
            self._line.send_control(self._channel, wire.MORE, [self._window.open()])
        else:
            self._window.resize(window_for(item_bytes))

    def _grant(self) -> None:
        """Make room for as many as were taken."""
        if self._window is not None and self._line is not None:
            taken, self._taken = self._taken, 0
            due = self._window.consume(taken)
            if due:
                self._line.send_control(self._channel, wire.MORE, [due])

    def _let_go(self, *, keep: bool) -> None:
        line, self._line = self._line, None
        if line is not None:
            self._endpoint.busy.discard(line)
            if keep:
                self._endpoint.give_line(line)
            else:
                line.close()


class _AsyncReader:
    """Reads a stream over the I/O thread, for a task."""

    def __init__(self, caller: Caller, outgoing: Outgoing, limits: Limits) -> None:
        self._outgoing = outgoing
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._events: collections.deque[Reply | Lost] = collections.deque()
        self._items: collections.deque[Any] = collections.deque()
        self._taken = 0
        self._ended = False
        self._call: Call = caller.try_endpoints(self._start)

    def _start(self, endpoint: Endpoint) -> Call:
        headers: dict[str, Any] = {"items": 1}
        packed, buffers = self._outgoing.frames(endpoint, None, headers)
        call = endpoint.connection().call(
            self._outgoing.method, packed, self._on_event, buffers=buffers, headers=headers
        )
        self._outgoing.mark("sent_ns")
        return call

    def _on_event(self, _call: Call, event: Reply | Lost) -> None:
        self._events.append(event)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def next(self) -> Any:
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            if self._taken:
                self._call.consumed(self._taken)
                self._taken = 0
            self._take(await self._wait())
        self._taken += 1
        return self._items.popleft()

    async def _wait(self) -> Reply | Lost:
        outgoing = self._outgoing
        deadline, what, allowed = outgoing.limit(self._limits.item_timeout)
        while not self._events:
            self._arrived.clear()
            if self._events:
                break
            try:
                with awake():
                    left = None if deadline is None else deadline - time.monotonic()
                    await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                self.close()
                raise CallTimeout(what, allowed) from None
            except BaseException:  # the task was cancelled, or interrupted: nobody will come back to it
                self.close()
                raise
        return self._events.popleft()

    def _take(self, event: Reply | Lost) -> None:
        if isinstance(event, Lost):
            self._finish(event.error)
            raise event.error
        if event.name == wire.ITEMS:
            self._items.extend(values.decode(event.args, event.buffers))
        elif event.name == wire.STREAM:
            self._items.append(values.decode(event.args, event.buffers))
        elif event.name == wire.STREAM_DONE:
            self._finish(None)
        elif event.name == wire.ERR:
            error = failures.restore(values.decode(event.args), event.headers, endpoint=self._outgoing.what)
            self._finish(error)
            raise error
        else:
            self._finish(None)
            raise TypeError(f"{self._outgoing.what} does not stream here; it returned a value")

    def _finish(self, error: BaseException | None) -> None:
        self._ended = True
        self._outgoing.finish(error)

    def close(self) -> None:
        if not self._ended:
            self._ended = True
            self._call.abandon()
            self._outgoing.finish()
