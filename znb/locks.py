"""Conditions, events and futures whose locks survive an interrupt.

``with condition:`` of the standard library calls a Python function that takes the lock. A ``KeyboardInterrupt`` that is
raised when that function has taken it and the block has not begun leaves it taken for ever, and whoever wants it
next, such as the I/O thread, hangs. Here the interpreter calls the lock itself, and between that and the block, as
between the block and the release, it looks for no signals.

Invariants: what a main thread may wait for uses these, and never those of the standard library.
Source: "Exceptions and signals" in https://docs.python.org/3/library/signal.html.
"""

from __future__ import annotations

import concurrent.futures
import operator
import threading
from typing import Any, TypeVar

__all__ = ["Condition", "Event", "Future"]

T = TypeVar("T")


class Condition(threading.Condition):
    """As ``threading.Condition``."""

    # A property of C code, so that ``with`` finds the lock's own methods without running a Python function.
    __enter__: Any = property(operator.attrgetter("_lock.__enter__"))
    __exit__: Any = property(operator.attrgetter("_lock.__exit__"))


class Event(threading.Event):
    """As ``threading.Event``."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = Condition(threading.Lock())


class Future(concurrent.futures.Future[T]):
    """As ``concurrent.futures.Future``."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = Condition()
