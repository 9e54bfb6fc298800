"""Who waits for futures in ``concurrent.futures.wait`` and ``as_completed``: an interrupt there cancels them.

Both put a *waiter* into the list ``_waiters`` of each future and wait for its event, which knows nothing of futures. A
future whose list is one of these gives that event to know whom to tell when the wait is interrupted.

Invariants: nothing here refers to a future. On any thread; whoever waits is told on its own thread, holding no lock.
Source: CPython's Lib/concurrent/futures/_base.py, ``_create_and_install_waiters``, ``wait``, ``as_completed``.
"""

from __future__ import annotations

from typing import Any, Protocol

from znb.locks import Event

__all__ = ["Canceller", "Waiters"]


class Canceller(Protocol):
    """Who can cancel what is waited for."""

    def cancel_all_of(self, thread: int) -> None:
        """Stop everything that a thread has submitted."""


class Waiters(list[Any]):
    """The waiters of one future.

    Args:
        canceller: Is told when one of them is interrupted.
        thread: Who submitted what the future stands for.
    """

    __slots__ = ("_key",)

    def __init__(self, canceller: Canceller, thread: int) -> None:
        super().__init__()
        self._key = (canceller, thread)

    def append(self, waiter: Any) -> None:
        """Add a waiter; nobody waits for its event yet."""
        if not isinstance(waiter.event, _Event):
            waiter.event = _Event()
        waiter.event.cancellers.add(self._key)
        super().append(waiter)


class _Event(Event):
    def __init__(self) -> None:
        super().__init__()
        self.cancellers: set[tuple[Canceller, int]] = set()

    def wait(self, timeout: float | None = None) -> bool:
        try:
            return super().wait(timeout)
        except KeyboardInterrupt:
            for canceller, thread in self.cancellers:
                canceller.cancel_all_of(thread)
            raise
