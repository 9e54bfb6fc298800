"""Conditions, events and futures whose locks survive an interrupt.

``with condition:`` of the standard library calls a Python function that takes the lock. A ``KeyboardInterrupt`` that is
raised when that function has taken it and the block has not begun leaves it taken for ever, and whoever wants it
next, such as the I/O thread, hangs. Here the interpreter calls the lock itself, and between that and the block, as
between the block and the release, it looks for no signals. And where an interrupt hits ``wait`` as it lets go of the
lock, the standard library's leaves the block without it, which is a ``RuntimeError`` in place of the interrupt.

A signal that comes when the main thread has let go of the interpreter and does not sleep yet does not wake it: the
interrupt would be seen when the wait ends, which may be never. So the main thread wakes now and then while it waits.

Invariants: what a main thread may wait for uses these, and never those of the standard library.
Source: "Exceptions and signals" in https://docs.python.org/3/library/signal.html.
"""

from __future__ import annotations

import concurrent.futures
import math
import operator
import threading
import time
from typing import Any, TypeVar

__all__ = ["Condition", "Event", "Future"]

T = TypeVar("T")

#: How late an interrupt may be that came just before the main thread fell asleep, in seconds.
LOOK_FOR_SIGNALS = 0.5


class Condition(threading.Condition):
    """As ``threading.Condition``, of a lock that its thread may take again (``RLock``)."""

    # A property of C code, so that ``with`` finds the lock's own methods without running a Python function.
    __enter__: Any = property(operator.attrgetter("_lock.__enter__"))
    __exit__: Any = property(operator.attrgetter("_lock.__exit__"))
    _lock: Any
    _is_owned: Any
    _release_save: Any
    _acquire_restore: Any
    _waiters: Any

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until notified, for ``timeout`` seconds at most; tell whether it was notified."""
        me = threading.get_ident()
        if me != threading.main_thread().ident:
            return super().wait(timeout)
        if not self._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        waiter = threading.Lock()
        waiter.acquire()
        saved, notified = None, False
        try:
            self._waiters.append(waiter)
            saved = self._release_save()
            notified = _acquire(waiter, timeout)
            return notified
        finally:
            try:
                if saved is not None:  # first of all: a call of anything else would let an interrupt come before it
                    self._acquire_restore(saved)
                elif not self._is_owned():  # interrupted as it let go, of a lock taken once
                    self._acquire_restore((1, me))
            finally:
                if not notified and waiter in self._waiters:
                    self._waiters.remove(waiter)


def _acquire(lock: threading.Lock, timeout: float | None) -> bool:
    """Acquire a lock on the main thread, looking for signals all the while."""
    if timeout is not None and timeout <= LOOK_FOR_SIGNALS:
        return lock.acquire(timeout=timeout) if timeout > 0 else lock.acquire(blocking=False)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        if lock.acquire(timeout=min(left, LOOK_FOR_SIGNALS)):
            return True
    return False


class Event(threading.Event):
    """As ``threading.Event``."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = Condition()


class Future(concurrent.futures.Future[T]):
    """As ``concurrent.futures.Future``."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = Condition()
