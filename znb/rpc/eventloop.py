"""An asyncio event loop on a thread of its own, for the coroutines of a service.

Invariants: the thread is started when it is first needed; ``close`` cancels what runs and ends it. Any thread may
submit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

__all__ = ["EventLoop"]

#: Seconds that ``close`` waits for cancelled coroutines; one that refuses to end is left behind.
CLOSE_TIMEOUT = 2.0


class EventLoop:
    """Runs coroutines.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def running(self) -> int:
        """Coroutines that run."""
        return len(self._tasks)

    def submit(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine, which must not raise."""
        with self._lock:
            if self._closed:
                coroutine.close()
                return
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            self._loop.call_soon_threadsafe(self._begin, coroutine)

    def close(self) -> None:
        """Cancel what runs, and end the thread. May be called twice."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            return
        loop.call_soon_threadsafe(self._stop)
        if threading.current_thread() is not thread:
            thread.join(CLOSE_TIMEOUT)

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            asyncio.ensure_future(asyncio.wait(self._tasks)).add_done_callback(lambda _done: loop.stop())
        else:
            loop.stop()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
