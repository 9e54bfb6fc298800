"""Sends outcomes that wait behind a job that takes long, though the main thread is inside that job.

A chunk's outcomes are sent together, because a message costs as much as many short jobs. If one of its jobs turns out
to be long, those before it must not wait for it: their results would come late, and be lost with the process if the
long job kills it. Encoding runs code, so it is not the I/O thread that does it.

Owning thread: its own; ``watch`` and ``unwatch`` are for the main thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from znb.executor.work import Work
from znb.flow import GateClosed
from znb.locks import Condition, Event

__all__ = ["Flusher"]

logger = logging.getLogger("znb.jobs")

#: Seconds between two looks at what runs. A job that is seen twice is long.
LOOK = 0.02
#: Looks without any work after which the thread sleeps until it is woken.
IDLE_LOOKS = 50


class Flusher:
    """Watches the chunk that runs.

    Args:
        flush: Sends the outcomes that a chunk has; may block.
    """

    def __init__(self, flush: Callable[[Work], object]) -> None:
        self._flush = flush
        self._work: Work | None = None
        self._asleep = False
        self._changed = Condition()
        self._pause = Event()
        self._thread: threading.Thread | None = None

    def watch(self, work: Work) -> None:
        """Look after a chunk from now on."""
        self._work = work
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="znb-flush", daemon=True)
            self._thread.start()
        elif self._asleep:
            with self._changed:
                self._changed.notify()

    def unwatch(self) -> None:
        """Look after nothing."""
        self._work = None

    def _run(self) -> None:
        seen: tuple[Work, int] | None = None
        idle = 0
        while True:
            if idle > IDLE_LOOKS:
                self._sleep()
                idle = 0
            self._pause.wait(LOOK)
            work = self._work
            if work is None:
                seen = None
                idle += 1
                continue
            idle = 0
            running = work.running
            if seen == (work, running) and work.inside:
                self._guard(work)
            seen = (work, running)

    def _sleep(self) -> None:
        with self._changed:
            self._asleep = True  # before the look, so that who sets the work after it sees this
            self._changed.wait_for(lambda: self._work is not None)
            self._asleep = False

    def _guard(self, work: Work) -> None:
        try:
            self._flush(work)
        except GateClosed:
            return  # its client is gone
        except Exception:
            logger.exception("sending outcomes of a chunk that runs failed")
