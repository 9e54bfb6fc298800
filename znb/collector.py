"""Brings what workers have recorded: asks each for its new spans and samples, while there may be some.

No message is sent for a call or a job. Whoever sends something remote *touches* the collector, which then asks the
workers every ``INTERVAL`` (``INTERVAL_LIVE`` while a trace is watched) until they have had nothing new for
``PATIENCE``. ``collect`` asks at once, and waits: an answer holds everything that its worker had recorded before, so
what a result depends on is there.

Invariants: one question to a worker is under way at a time; an answer takes the worker's I/O thread some milliseconds
at most, the rest comes with the next. The reactor's thread owns the readers; ``touch`` and ``collect`` are for any
thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from znb.errors import ZnbError
from znb.link import Link
from znb.locks import Event
from znb.rpc import Lost
from znb.spans import RECORDER, Recorder
from znb.traces import Request, Store
from znb.transport import Reactor, Timer

__all__ = ["Collector"]

#: Seconds between two questions to a worker.
INTERVAL = 0.25
#: The same while a trace is watched.
INTERVAL_LIVE = 0.1
#: Questions without news after which a worker is asked no more, until something remote is done again.
PATIENCE = 4


class _Reader:
    """What was read of one incarnation of a worker.

    Attributes:
        key: Of its recorder; empty before the first answer.
        asking: Whether a question is under way.
        again: Whether to ask once more when its answer is there.
        waiters: Called when everything that it had recorded by then has come, or never will.
    """

    __slots__ = ("again", "asking", "key", "link", "waiters")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.key = ""
        self.asking = False
        self.again = False
        self.waiters: list[Callable[[], object]] = []


class Collector:
    """Reads the workers of one cluster.

    Args:
        reactor: The I/O thread.
        store: Takes what comes.
        recorder: This process's recorder.
    """

    def __init__(self, reactor: Reactor, store: Store, recorder: Recorder = RECORDER) -> None:
        self._reactor = reactor
        self._store = store
        self._recorder = recorder
        self._readers: dict[Link, _Reader] = {}
        self._timer: Timer | None = None
        self._ticking = False
        self._quiet = 0

    def open(self) -> None:
        """Hear of remote work that begins."""
        self._recorder.on_remote += (self.touch,)

    # -- any thread ----------------------------------------------------------------------------------------

    def touch(self) -> None:
        """Note that something remote begins."""
        self._quiet = 0
        if not self._ticking:
            self._ticking = True
            self._reactor.call_soon(self._arm)

    def collect(self, timeout: float) -> bool:
        """Bring everything that the workers have recorded until now; return whether all of them answered in time."""
        if self._reactor.stopped or self._reactor.on_thread or self._reactor.forked:
            return False
        done = Event()
        self._reactor.call_soon(self._collect, done.set)
        return done.wait(timeout)

    # -- the reactor's thread ------------------------------------------------------------------------------

    def add_worker(self, link: Link) -> None:
        """Read a worker from now on."""
        self._readers[link] = _Reader(link)

    def lose_worker(self, link: Link, error: ZnbError) -> None:
        """Note that a worker is gone, and with it what it had not sent."""
        reader = self._readers.pop(link, None)
        if reader is None:
            return
        if reader.key:
            self._store.lose(reader.key, str(error.fields.get("reason", error)))
        self._settle(reader)

    def close(self) -> None:
        """Ask no more. May be called twice."""
        self._recorder.on_remote = tuple(note for note in self._recorder.on_remote if note != self.touch)
        if self._timer is not None:
            self._timer.cancel()
        for reader in self._readers.values():
            self._settle(reader)
        self._readers.clear()

    def _arm(self) -> None:
        interval = INTERVAL_LIVE if self._recorder.live else INTERVAL
        self._timer = self._reactor.call_later(interval, self._tick)

    def _tick(self) -> None:
        self._store.read_local()
        self._quiet += 1
        if self._quiet > PATIENCE and not self._recorder.live:
            self._ticking = False
            return
        for reader in list(self._readers.values()):
            self._ask(reader)
        self._arm()

    def _collect(self, done: Callable[[], object]) -> None:
        left = set(self._readers)
        if not left:
            done()
            return

        def settled(link: Link) -> None:
            left.discard(link)
            if not left:
                done()

        for link, reader in list(self._readers.items()):
            reader.waiters.append(lambda link=link: settled(link))  # type: ignore[misc]
            reader.again = reader.asking  # what it answers now may be from before
            self._ask(reader)

    def _ask(self, reader: _Reader) -> None:
        if reader.asking:
            return
        reader.asking = True
        with_open = bool(self._recorder.live or reader.waiters)
        request = self._store.request_for(reader.key, with_open=with_open)
        sent = time.perf_counter_ns()
        reader.link.control_nowait(
            "_znb_spans", msgspec.to_builtins(request), lambda answer: self._on_answer(reader, request, sent, answer)
        )

    def _on_answer(self, reader: _Reader, request: Request, sent: int, answer: Any) -> None:
        received = time.perf_counter_ns()
        reader.asking = False
        batch = None
        if not isinstance(answer, Lost):
            batch = self._store.take_encoded(answer, sent, received, request)
        if batch is None:
            self._settle(reader)
            return
        reader.key = batch.process.key
        if batch.spans or batch.samples:
            self._quiet = 0
        if batch.more or reader.again:
            reader.again = False
            self._ask(reader)
        else:
            self._settle(reader)

    def _settle(self, reader: _Reader) -> None:
        waiters, reader.waiters = reader.waiters, []
        for waiter in waiters:
            waiter()
