"""The delivery thread: runs callbacks and shows output, so that user code never holds up the I/O thread.

Invariants: what it is given runs once, in the order given, on one thread; nothing that was given before ``close`` is
dropped, and what comes later runs at once, on the thread that brings it. The thread is started by the first thing to
do.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

__all__ = ["Delivery"]

logger = logging.getLogger("znb.jobs")


class Delivery:
    """A queue of calls, and the thread that makes them."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def later(self, call: Callable[[], object]) -> None:
        """Have the thread call something. From any thread."""
        with self._lock:
            closed = self._closed
            if not closed:
                self._calls.put(call)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="znb-delivery", daemon=True)
                    self._thread.start()
        if closed:
            _guard(call)

    def close(self) -> None:
        """End the thread when it has done what it was given. From any thread; may be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._calls.put(None)

    def wait_closed(self, timeout: float) -> bool:
        """Wait for the thread's end; return whether it has ended, or is the caller's own."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            _guard(call)
            del call  # it may hold the last reference to a future and its value


def _guard(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        logger.exception("a callback of a job failed")
