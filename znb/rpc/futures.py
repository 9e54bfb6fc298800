"""The future of a call: of ``concurrent.futures``, and awaitable.

Invariants: cancelling it stops the call on the server. It is resolved on the I/O thread, so its callbacks run there
and must not block.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

from znb import locks
from znb.spans import bound
from znb.waiters import Waiters

__all__ = ["CallFuture", "awake"]

#: Seconds between two turns of an event loop in which a call is awaited: an interrupt is noticed that soon.
AWAIT_TICK = 0.25


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Keep the running event loop turning: one that sleeps in its selector would not notice the interrupt key."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def tick() -> None:
        nonlocal timer
        timer = loop.call_later(AWAIT_TICK, tick)

    tick()
    try:
        yield
    finally:
        timer.cancel()


class CallFuture(locks.Future[Any]):
    """What ``svc.method.future(…)`` returns: wait for it with ``result()`` or ``await``."""

    def __init__(self) -> None:
        super().__init__()
        self._waiters = Waiters(_OneCall(self), 0)
        self.abandon: Callable[[], object] | None = None
        #: The proxy, which would hang up if it were gone.
        self.owner: object = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait_async().__await__()

    def result(self, timeout: float | None = None) -> Any:
        """Return the call's value, waiting for it; an interrupt of the wait cancels the call."""
        try:
            return super().result(timeout)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or ``None``, waiting for the end; an interrupt of the wait cancels the call."""
        try:
            return super().exception(timeout)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def cancel(self) -> bool:
        """Stop the call, here and on the server; ``False`` if it has ended."""
        cancelled = super().cancel()
        if cancelled:
            self._let_go()
        return cancelled

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """As PEP 3148 has it; what it calls belongs to the present span."""
        super().add_done_callback(bound(fn))

    def settle(self, result: Any, error: BaseException | None = None) -> None:
        """Resolve it, unless it was cancelled."""
        self.abandon = self.owner = None
        if self.set_running_or_notify_cancel():
            if error is None:
                self.set_result(result)
            else:
                self.set_exception(error)

    async def _wait_async(self) -> Any:
        """Wait in an event loop; whatever ends the wait early cancels the call."""
        wrapped = asyncio.wrap_future(self)
        try:
            with awake():
                return await wrapped
        except (asyncio.CancelledError, KeyboardInterrupt):
            self.cancel()
            raise

    def _let_go(self) -> None:
        abandon, self.abandon, self.owner = self.abandon, None, None
        if abandon is not None:
            abandon()


class _OneCall:
    """Cancels a call whose wait is interrupted."""

    def __init__(self, future: CallFuture) -> None:
        self._future = weakref.ref(future)

    def cancel_all_of(self, _thread: int) -> None:
        future = self._future()
        if future is not None:
            future.cancel()
