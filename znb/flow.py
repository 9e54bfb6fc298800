"""Credit windows: who may send how much more, and who is waiting for leave to.

Invariants: credits are never negative; a waiter wakes when there is credit or when the window closes;
nothing is granted to a closed window. ``CreditWindow`` is pure; ``CreditGate`` adds the lock with which a
producing thread waits (no thread owns it).
"""

from __future__ import annotations

from znb.locks import Condition

__all__ = ["CreditGate", "CreditWindow", "GateClosed", "window_for"]

#: Bytes of a stream that may be under way at once.
WINDOW_BYTES = 8_000_000
#: Items of a stream that may be under way at once, whatever their size.
WINDOW_ITEMS = 1000
#: Items that may be under way at once however large they are: one is consumed while the next one travels.
WINDOW_MIN = 2


def window_for(item_bytes: float) -> int:
    """Return the window for a stream of items of this size."""
    return max(WINDOW_MIN, min(WINDOW_ITEMS, int(WINDOW_BYTES / max(1.0, item_bytes))))


class CreditWindow:
    """The receiving side's account: when to grant the sender more.

    Grants come in halves of the window, so that a sender that is kept up with never stops and the
    grants cost a message per ``window / 2`` items.

    Args:
        window: Items that may be under way at once.
        initial: Items the sender may send before the first grant (zerorpc: 1).
    """

    __slots__ = ("_open", "_threshold", "window")

    def __init__(self, window: int, initial: int = 1) -> None:
        self.window = window
        self._threshold = max(1, window // 2)
        self._open = initial

    def open(self) -> int:
        """Return the grant to make at once, so that the whole window is open."""
        grant = max(0, self.window - self._open)
        self._open += grant
        return grant

    def resize(self, window: int) -> None:
        """Change the window; what is under way already may exceed a smaller one for a while."""
        self.window = window
        self._threshold = max(1, window // 2)

    def consume(self, count: int = 1) -> int:
        """Account for items taken by the consumer; return how many to grant now (often 0)."""
        self._open -= count
        if self.window - self._open >= self._threshold:
            return self.open()
        return 0


class GateClosed(Exception):
    """The channel is gone; there is nobody to send to."""


class CreditGate:
    """The sending side's account, shared by the producing thread and the I/O thread.

    Args:
        credits: Items that may be sent before the first grant.
    """

    __slots__ = ("_changed", "_closed", "_credits")

    def __init__(self, credits: int = 1) -> None:  # noqa: A002 - the field's word
        self._credits = credits
        self._closed = False
        self._changed = Condition()

    def take_nowait(self) -> bool:
        """Use one credit if there is one.

        Raises:
            GateClosed: The window was closed.
        """
        with self._changed:
            if self._closed:
                raise GateClosed
            if self._credits < 1:
                return False
            self._credits -= 1
            return True

    def wait_take(self, timeout: float | None = None, *, count: int = 1) -> bool:
        """Use credit, waiting until there is some; signals interrupt the wait.

        Args:
            timeout: Seconds to wait; ``None`` for ever.
            count: Credits to use. One is enough to go ahead: what a large item uses beyond that is owed, and the
                next one waits until it is granted.

        Returns:
            Whether there was some within ``timeout`` seconds (``None``: wait for ever).

        Raises:
            GateClosed: The window was closed, before or while waiting.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._credits > 0 or self._closed, timeout):
                return False
            if self._closed:
                raise GateClosed
            self._credits -= count
            return True

    def grant(self, count: int) -> None:
        """Add credits; wakes waiters."""
        with self._changed:
            self._credits += max(0, count)
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse everything from now on; wakes waiters. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
