"""The traces of a session: what has come of each, until there are too many.

Invariants: at most ``TRACES_MAX`` traces and ``BYTES_MAX`` bytes are kept, the oldest go first, those of other clients
of the same workers before ours; what was dropped is counted. May be used from any thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from znb.errors import ProtocolError
from znb.traces.assemble import Parts, assemble
from znb.traces.clock import Interval, RoundTrips
from znb.traces.feed import Batch, Feed, Request, decode_batch
from znb.traces.model import TraceData
from znb.traces.names import CellNames

__all__ = ["Store", "StoreStats"]

#: Spans of this process that wait to be read from which on they are read at once, while something is watched.
RELIEF = 4096

logger = logging.getLogger("znb.traces")

T = TypeVar("T")

#: Traces kept.
TRACES_MAX = 100
#: Bytes that they may take together.
BYTES_MAX = 512 << 20


class StoreStats(NamedTuple):
    """A snapshot of a store.

    Attributes:
        traces: Traces kept.
        size_bytes: What they take, nearly.
        dropped: Traces that had to go.
        damaged: Batches that could not be read; each was logged.
    """

    traces: int
    size_bytes: int
    dropped: int
    damaged: int


class _Kept:
    """One trace.

    Attributes:
        missed: By process key, spans that were overwritten before they were read, some of them perhaps of this trace.
        ours: Whether this process has spans in it.
        pinned: How many hold it: it is not dropped while there are any.
        version: Counts what has come.
        began_ns: Our clock when it began here, or was heard of.
        epoch_ns: Unix time minus our clock, looked at once, so that a span has one time whenever it is read.
    """

    __slots__ = ("began_ns", "epoch_ns", "missed", "ours", "parts", "pinned", "title", "version")

    def __init__(self, trace_id: int, cell_of: CellNames | None) -> None:
        self.parts = Parts(trace_id, cell_of=cell_of)
        self.missed: dict[str, int] = {}
        self.ours = False
        self.pinned = 0
        self.title = ""
        self.version = 0
        self.began_ns = time.perf_counter_ns()
        self.epoch_ns = time.time_ns() - self.began_ns


class Store:
    """Keeps the latest traces.

    Args:
        feed: What this process records itself.
        traces_max: Traces kept.
        bytes_max: Bytes that they may take together.

    Attributes:
        called: Addresses of services that the processes read have called.
        cell_of: What people call files, where this process knows cells.
    """

    def __init__(self, feed: Feed, traces_max: int = TRACES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._feed = feed
        self.called: set[str] = set()
        self.cell_of: CellNames | None = None
        self._lock = threading.RLock()
        self._traces: dict[int, _Kept] = {}
        self._requests: dict[str, Request] = {}
        self._trips: dict[str, RoundTrips] = {}
        self._lost: dict[str, str] = {}
        self._lost_ns: dict[str, int] = {}
        self._missed: dict[str, int] = {}
        self._traces_max = traces_max
        self._bytes_max = bytes_max
        self._dropped = 0
        self._damaged = 0
        self._local = Request(with_open=True)

    # -- what comes in -------------------------------------------------------------------------------------

    def request_for(self, key: str, *, with_open: bool) -> Request:
        """Return what to ask a process next; ``key`` is that of its last batch, empty for one not asked before."""
        with self._lock:
            known = self._requests.get(key)
            if known is None:
                return Request(with_open=with_open)
            return Request(known.key, known.spans, known.samples, with_open=with_open)

    def take(self, batch: Batch, sent_ns: int, received_ns: int, asked: Request | None = None) -> bool:
        """Take an answer; return whether it was news: a process may be read in several ways.

        Args:
            batch: The answer.
            sent_ns: ``perf_counter_ns`` when the request was given away.
            received_ns: And when the answer was there.
            asked: What was asked; ``None`` if nobody else reads this process.
        """
        with self._lock:
            key = batch.process.key
            self.called.update(batch.called)
            if key == self._feed.process.key:
                return True  # a service of this process, whose spans are read from the ring
            known = self._requests.get(key)
            if asked is not None and known is not None and (asked.spans, asked.samples) != (known.spans, known.samples):
                return False
            self._requests[key] = batch.next_request()
            self._trips.setdefault(key, RoundTrips()).add(sent_ns, received_ns, batch.clock_ns)
            self._take(batch, ours=False)
            self._shrink()
            return True

    def take_encoded(
        self, data: bytes | memoryview, sent_ns: int, received_ns: int, asked: Request | None = None
    ) -> Batch | None:
        """Take an answer as it came; return it, or ``None`` if it is damaged.

        One that was no news is returned with ``more``, as its process is to be asked again for what is.
        """
        try:
            batch = decode_batch(data)
            if not self.take(batch, sent_ns, received_ns, asked):
                return msgspec.structs.replace(batch, more=True)
        except (ProtocolError, ValueError, OverflowError):
            self._damaged += 1
            logger.exception("a batch of spans is damaged, so the trace lacks what was in it")
            return None
        return batch

    def lose(self, key: str, reason: str) -> None:
        """Note that a process is gone."""
        with self._lock:
            self._lost[key], self._lost_ns[key] = reason, time.perf_counter_ns()
            for kept in self._traces.values():
                kept.version += 1

    def begin(self, trace_id: int, title: str) -> None:
        """Note a trace that begins here, and hold on to it."""
        with self._lock:
            kept = self._kept(trace_id)
            kept.ours = True
            kept.pinned += 1
            kept.title = kept.title or title  # one inside of another is part of that

    def unpin(self, trace_id: int) -> None:
        """Let a trace go when its turn has come."""
        with self._lock:
            if trace_id in self._traces:
                self._traces[trace_id].pinned -= 1

    # -- what is there -------------------------------------------------------------------------------------

    def read_local(self) -> None:
        """Take what this process has recorded itself."""
        with self._lock:
            while True:
                batch = self._feed.answer(self._local)
                self._local = batch.next_request(with_open=True)
                self._take(batch, ours=True)
                if not batch.more:
                    break
            self._shrink()

    def relieve(self) -> None:
        """Take what this process has recorded, if so much of it waits that the ring may soon overwrite some.

        Never waits for another thread.
        """
        if self._feed.waiting(self._local) >= RELIEF and self._lock.acquire(blocking=False):
            try:
                self.read_local()
            finally:
                self._lock.release()

    def version(self, trace_id: int) -> int:
        """Return a number that grows when something of a trace comes; -1 if it is not kept."""
        with self._lock:
            kept = self._traces.get(trace_id)
            return -1 if kept is None else kept.version

    def assemble(self, trace_id: int) -> TraceData | None:
        """Return a trace as far as it has come; ``None`` if it is not kept."""
        with self._lock:
            kept = self._traces.get(trace_id)
            if kept is None:
                return None
            now = time.perf_counter_ns()
            intervals = {key: trips.interval(now) for key, trips in self._trips.items()}
            return assemble(
                kept.parts,
                self._feed.process,
                intervals=intervals,
                lost=self._lost,
                lost_ns=self._lost_ns,
                missed=kept.missed,
                epoch_ns=kept.epoch_ns,
            )

    def look(self, trace_id: int, look: Callable[[Parts, Mapping[str, Interval]], T]) -> T | None:
        """Return what a look at the parts of a trace gives; nothing comes meanwhile. ``None`` if it is not kept.

        Args:
            trace_id: Which.
            look: Is given the parts, and by process key bounds for its clock minus ours.
        """
        with self._lock:
            kept = self._traces.get(trace_id)
            if kept is None:
                return None
            now = time.perf_counter_ns()
            return look(kept.parts, {key: trips.interval(now) for key, trips in self._trips.items()})

    def titles(self, *, ours: bool = True) -> list[tuple[int, str]]:
        """Return ids and titles, by beginning; with ``ours``, of those that this process has a part in."""
        with self._lock:
            found = [item for item in self._traces.items() if item[1].ours or not ours]
            found.sort(key=lambda item: item[1].began_ns)
            return [(trace_id, kept.title or kept.parts.root_name()) for trace_id, kept in found]

    def stats(self) -> StoreStats:
        """Return what is kept."""
        with self._lock:
            size = sum(kept.parts.size_bytes for kept in self._traces.values())
            return StoreStats(len(self._traces), size, self._dropped, self._damaged)

    # -- how -----------------------------------------------------------------------------------------------

    def _kept(self, trace_id: int) -> _Kept:
        kept = self._traces.get(trace_id)
        if kept is None:
            kept = self._traces[trace_id] = _Kept(trace_id, self.cell_of)
        return kept

    def _take(self, batch: Batch, *, ours: bool) -> None:
        process = batch.process
        for part in batch.spans:
            kept = self._kept(int.from_bytes(part.trace_id, "big"))
            kept.parts.add(process, part)
            if ours:
                kept.ours = True
                kept.began_ns = min(kept.began_ns, part.first_ns)
            kept.version += 1
        for sampled in batch.samples:
            kept = self._kept(int.from_bytes(sampled.trace_id, "big"))
            kept.parts.add_samples(process, sampled)
            kept.version += 1
        self._take_open(batch, ours=ours)
        dropped = batch.next_spans[1]
        if dropped > self._missed.get(process.key, 0):
            self._note_missed(batch, dropped - self._missed.get(process.key, 0))
        self._missed[process.key] = dropped

    def _note_missed(self, batch: Batch, count: int) -> None:
        """Have those traces tell of spans that were overwritten which may have lost some: those that go on."""
        here = {int.from_bytes(part.trace_id, "big") for part in (*batch.spans, *batch.opened)}
        for trace_id, kept in self._traces.items():
            if kept.pinned or trace_id in here:
                kept.missed[batch.process.key] = kept.missed.get(batch.process.key, 0) + count

    def _take_open(self, batch: Batch, *, ours: bool) -> None:
        """Take open spans in place of those that were open the last time."""
        opened = {int.from_bytes(part.trace_id, "big"): part for part in batch.opened}
        for trace_id, kept in self._traces.items():
            if trace_id not in opened and batch.process in kept.parts.opened:
                kept.parts.set_open(batch.process, None)
                kept.version += 1
        for trace_id, part in opened.items():
            kept = self._kept(trace_id)
            kept.parts.set_open(batch.process, part)
            kept.ours |= ours
            kept.version += 1

    def _shrink(self) -> None:
        """Drop what is too much.

        This process's own and those of others are counted apart: what workers tell may come before what this process
        recorded of the same trace.
        """
        size = sum(kept.parts.size_bytes for kept in self._traces.values())
        own = [trace_id for trace_id, kept in self._traces.items() if kept.ours]
        foreign = [trace_id for trace_id, kept in self._traces.items() if not kept.ours]
        for traces in (foreign, own):
            excess = len(traces) - self._traces_max
            for trace_id in traces:
                if (excess <= 0 and size <= self._bytes_max) or self._traces[trace_id].pinned:
                    continue
                size -= self._traces.pop(trace_id).parts.size_bytes
                excess -= 1
                self._dropped += 1
