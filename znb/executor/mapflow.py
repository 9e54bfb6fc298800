"""The stream of one map's jobs and results, between the thread that takes them and the reactor's.

The consumer's thread pulls items, encodes them and decodes results; the reactor's thread only hands messages over. So
user code (iterators, pickling) runs where its owner waits for it, and a consumer that stops taking results stops the
source.

Invariants: at most what the scheduler permits has been pulled and not been taken; each result is yielded once; a map
that is dropped, closed or interrupted cancels what is left of it, at once.
"""

from __future__ import annotations

import operator
import queue
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from typing import Any, Literal

from znb.errors import CallTimeout, Cancelled, SerializationError, ZnbError
from znb.executor.client import JobClient
from znb.executor.companions import Keeper, Progress
from znb.executor.futures import NOTICE_AFTER, Batch
from znb.executor.groups import Group, Part
from znb.executor.outcomes import Outcomes
from znb.executor.source import PULL_TIME, Source
from znb.shipping import payload_bytes
from znb.spans import OpenSpan, encode_context

__all__ = ["MapFlow"]

#: Items pulled before the first result is taken, at most: what keeps a few workers busy for a while.
AHEAD_ITEMS = 512
#: Bytes of encoded items at which that ends, for items that are large.
AHEAD_BYTES = 1 << 20
#: Bytes of encoded items whose results are not here; beyond that no more are pulled, but for a few.
HELD_BYTES = 256 << 20
#: Items that are pulled however large they are: one may run while the next one travels.
HELD_ITEMS = 4
#: Results said to be taken where all of a map is to run and to be held; more than there can be.
UNBOUNDED = 1 << 60
#: Seconds after which a thread that waits for a map's end sees that another has taken the last of its results.
HANDOVER = 0.05
#: Results yielded between two looks at what has arrived.
SLICE = 16384


class MapFlow:
    """What both threads share of one map (``groups.Receiver``), and the generator of its results.

    The generator refers to this, and nothing here refers to the generator: so it ends when its user drops it.
    """

    group: Group
    span: OpenSpan
    keeper: Keeper | None = None

    def __init__(
        self,
        client: JobClient,
        source: Source,
        ends: bool,  # noqa: FBT001 - whether the items have an end for sure
        *,
        ordered: bool,
        errors: Literal["raise", "return"],
        timeout: float | None,
        progress: Callable[[int], Progress],
        show: bool,
    ) -> None:
        self._client = client
        self.source = source
        self._ends = ends
        self._ordered = ordered
        self._errors = errors
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._make_progress = progress
        self._progress = progress(0) if show else None
        self._booked = 0
        self._shown = 0
        self._failed = 0
        self._arrivals: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._held = 0
        self._wanted = 0
        self._finished = False
        self._aborted: BaseException | None = None
        self._retried = 0
        self._draining = False
        self._next = 0
        self._turn = threading.RLock()
        self._ready: dict[int, Outcomes] = {}
        self._yielding: Outcomes | None = None
        self._offered: list[Any] = []  # emptied, it ends the slice that is being yielded
        self._left: Iterator[Any] = iter(())
        self._unbooked = 0
        self.over = False
        self._ended = False

    def show_progress(self) -> bool:
        """Show how far it has come, from now on; ``False`` if that is shown already, or nothing more comes."""
        if self._progress is not None or self.over:
            return False
        self._shown = self.taken
        self._progress = self._make_progress(self._shown)
        self._update_progress()
        return True

    @property
    def taken(self) -> int:
        """How many results have been taken."""
        return self._booked + self._unbooked - operator.length_hint(self._left)

    # -- the reactor's thread ------------------------------------------------------------------------------

    def sent(self, start: int, stop: int, worker: str) -> None:
        """Do nothing: only futures show that they run."""

    def deliver(self, batch: Batch, count: int, skip: Collection[int], _worker: str, size_bytes: int) -> None:
        """Hand outcomes to the consumer."""
        self._arrivals.put((self._on_batch, batch, count, skip, size_bytes))

    def event(self, index: int, name: str, **attributes: Any) -> None:  # noqa: ARG002 - the attributes have it
        """Note it on the map's span."""
        self.span.event(name, **attributes)

    def parent(self, index: int) -> OpenSpan:  # noqa: ARG002 - all of them are below the map
        """Return the map's span."""
        return self.span

    def fail(self, index: int, error: BaseException) -> None:
        """Hand a failure to the consumer."""
        self._arrivals.put((self._on_failure, index, error))

    def pull(self, count: int) -> None:
        """Let the consumer pull more items."""
        self._arrivals.put((self._on_pull, count))

    def finished(self) -> None:
        """Tell the consumer that nothing more comes."""
        self._arrivals.put((self._on_finished, None))

    def abort(self, error: ZnbError) -> None:
        """Tell the consumer that the cluster is gone."""
        self._arrivals.put((self._on_finished, error))

    # -- any thread ----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Cancel what is left, though the generator runs: it ends as soon as it sees that."""
        if self.span.status == "ok":
            self.span.status = "cancelled"
        self._cut()
        self._client.cancel(self.group)
        self.pull(0)  # wakes it

    def _cut(self) -> None:
        """Yield no more, not even of the slice that is being yielded."""
        self.over = True
        self._booked, self._unbooked, self._left = self.taken, 0, iter(())
        self._offered.clear()

    def close_feed(self, *, cancel: bool) -> None:
        """Leave the rest of the source alone, unless it has an end for sure; ``cancel`` what has not been yielded."""
        if cancel:
            error: Exception = Cancelled(f"{self.group.label} was cancelled by shutdown(cancel_futures=True)")
        else:
            error = RuntimeError(
                f"cannot schedule new jobs after shutdown: {self.group.label} was mapped over items of unknown number, "
                f"and those not pulled until then are left out"
            )
        self._arrivals.put((self._on_close_feed, error))
        if cancel:
            self._client.cancel(self.group)

    def drain(self) -> bool:
        """Pull and run some of what is left, and hold the results until they are taken; whether every job has ended."""
        if not self._draining:
            self._client.taken(self.group, UNBOUNDED)
            self._arrivals.put((self._on_drain,))
        if not self._take_arrivals() and not self._finished:
            self._wait_arrival(HANDOVER)
        return self._finished

    def wait_finished(self) -> None:
        """Pull and run all that is left, and hold the results until they are taken."""
        while not self.drain():
            pass

    # -- the consumer's thread -----------------------------------------------------------------------------

    def slices(self) -> Generator[Iterable[Any], None, None]:
        """Yield nothing once, then some of the results at a time."""
        try:
            yield ()
            while (found := self._wait_ready()) is not None:
                yield from self._slices(found)
            if self.over:
                return
            if self._aborted is not None:
                raise self._aborted
            if self.source.error is not None:
                raise self.source.error
        except Exception as error:
            self.span.error(error)
            raise
        finally:
            self._end()

    def _slices(self, outcomes: Outcomes) -> Generator[Iterable[Any], None, None]:
        """Yield slices of outcomes, holding on to none that has been yielded, unless that does not matter."""
        values, errors = outcomes.values, outcomes.errors
        total = len(values)
        if not outcomes.plain:
            values.reverse()
        for start in range(0, total, SLICE):
            count = min(SLICE, total - start)
            failed = any(start <= position < start + count for position in errors)
            if failed:
                self._offered = list(range(start, start + count))
            elif outcomes.plain:
                self._offered = values if count == total else values[start : start + count]
            else:
                self._offered = [values] * count
            self._unbooked = count
            self._left = left = iter(self._offered)
            if self.over:  # another thread has seen to that a moment ago
                self._cut()
            if failed:
                yield self._yield_with_errors(values, left, errors)
            else:
                yield left if outcomes.plain else map(list.pop, left)
            if self.over:
                return
            self._booked, self._unbooked = self._booked + count, 0
            is_last = start + count == total
            self._client.taken(self.group, count, outcomes.size_bytes if is_last else 0)
            if is_last:
                outcomes.size_bytes = 0
            self._update_progress()
            self._take_arrivals()
        with self._turn:
            self._yielding = None

    def _update_progress(self) -> None:
        if self._progress is not None:
            taken = self.taken
            found = self.keeper.take_found() if self.keeper is not None else 0
            self._progress.update(taken - self._shown + found, self._failed, self._retried)
            self._shown, self._failed = taken, 0

    def _yield_with_errors(
        self, values: list[Any], positions: Iterator[int], errors: dict[int, BaseException]
    ) -> Generator[Any, None, None]:
        for position in positions:
            if position not in errors:
                yield values.pop()
                continue
            values.pop()
            self._failed += 1
            if self._errors == "raise":
                self.span.error(errors[position])
                self._end()
                raise errors.pop(position)
            yield errors.pop(position)

    def _wait_ready(self) -> Outcomes | None:
        """Return the outcomes that are to be yielded next, or ``None`` at the end."""
        with self._turn:
            while True:
                more = self._take_arrivals()
                if self.over:
                    return None
                found = self._next_ready()
                if found is not None or self._finished:
                    self._yielding = found
                    return found
                if not more:
                    self._wait_result()

    def _next_ready(self) -> Outcomes | None:
        """Return the outcomes that are to be yielded now, if they are here."""
        if self._ordered:
            found = self._ready.pop(self._next, None)
            if found is not None:
                self._next += len(found.values)
            return found
        return self._ready.pop(next(iter(self._ready))) if self._ready else None

    def _take_arrivals(self) -> bool:
        """Handle what is here, and pull for a moment; return whether there is more to pull at once."""
        with self._turn:
            while self._wait_arrival(0):
                pass
            return self._pull_some()

    def _wait_arrival(self, timeout: float | None) -> bool:
        """Handle what arrives next, and wait for it; under ``_turn``, so that things are handled in their order."""
        with self._turn:
            try:
                handler, *rest = self._arrivals.get(timeout=timeout) if timeout != 0 else self._arrivals.get_nowait()
            except queue.Empty:
                return False
            handler(*rest)
            return True

    def awaited_folder(self) -> str:
        """Return the folder of its cluster."""
        return self._client.folder()

    def _wait_result(self) -> None:
        """Wait for something to arrive, and say what is being waited for if nothing does.

        Raises:
            TimeoutError: The map's ``timeout`` has passed.
        """
        left = None if self._deadline is None else self._deadline - time.monotonic()
        if left is not None and left <= 0:
            raise CallTimeout(f"the map of {self.group.label}", self._timeout or 0.0)
        if self._wait_arrival(NOTICE_AFTER if left is None else min(left, NOTICE_AFTER)):
            return
        if left is None or left > NOTICE_AFTER:
            if reason := self._client.explain(self.group):
                self._client.notify(f"{self.group.label} waits because {reason}")
            self._wait_arrival(None if left is None else left - NOTICE_AFTER)

    def _on_batch(self, batch: Batch, count: int, skip: Collection[int], size_bytes: int) -> None:
        if self.over:  # and what keeps results is closed
            self._client.taken(self.group, 0, size_bytes)
            return
        values, errors = batch.load()
        if self.keeper is not None:
            kept = [index for index in range(batch.first, batch.first + count) if index not in skip]
            self.keeper.keep((index, values[index - batch.first]) for index in kept if index not in errors)
            for index in kept:
                if index in errors:
                    self.keeper.drop(index)
        if self._draining or skip:
            self._client.taken(self.group, 0, size_bytes)
            size_bytes = 0
        if not skip:
            errors = {index - batch.first: error for index, error in errors.items()}
            self._ready[batch.first] = Outcomes(values, errors, size_bytes, plain=batch.plain)
            return
        self._retried += len(skip)
        for position in range(count):  # some run again, so the others come one by one
            index = batch.first + position
            if index not in skip:
                found = {0: errors[index]} if index in errors else {}
                self._ready[index] = Outcomes([values[position]], found)

    def _on_failure(self, index: int, error: BaseException) -> None:
        if self.keeper is not None:
            self.keeper.drop(index)
        self._ready[index] = Outcomes([None], {0: error})

    def _on_finished(self, error: BaseException | None) -> None:
        self._finished = True
        self._aborted = error

    def _on_close_feed(self, error: Exception) -> None:
        if isinstance(error, Cancelled):
            self.source.close(error)
        elif not self._ends and not self.source.exhausted:
            self.source.close(error)
            self._client.feed(self.group, (), last=True)

    def _on_drain(self) -> None:
        """Let workers send whatever they have: from now on results are held here."""
        self._draining = True
        for outcomes in [*self._ready.values(), *([self._yielding] if self._yielding else ())]:
            self._client.taken(self.group, 0, outcomes.size_bytes)
            outcomes.size_bytes = 0

    def _on_pull(self, count: int) -> None:
        self._wanted += count

    def pull_ahead(self) -> list[Part]:
        """Pull and encode the first items, which workers are to be busy with until the first result is taken.

        Raises:
            SerializationError: One of them cannot travel.
        """
        left = self.group.options.get("buffersize") or AHEAD_ITEMS
        deadline = time.monotonic() + PULL_TIME
        parts: list[Part] = []
        while left > 0 and not self.source.exhausted and self._held < AHEAD_BYTES and time.monotonic() < deadline:
            left -= self._pull_part(left, parts)
        if isinstance(self.source.error, SerializationError):
            raise self.source.error
        return parts

    def _pull_some(self) -> bool:
        """Pull and encode what is wanted, and have it run; return whether there is more to pull at once."""
        if self.over or not self._wanted or self.source.exhausted or self._is_full():
            return False
        parts: list[Part] = []
        deadline = time.monotonic() + PULL_TIME
        while self._wanted and not self.source.exhausted and not self._is_full() and time.monotonic() < deadline:
            self._wanted -= self._pull_part(self._wanted, parts)
        self._client.feed(self.group, parts, last=self.source.exhausted)
        return bool(self._wanted) and not self.source.exhausted and not self._is_full()

    def _is_full(self) -> bool:
        """Whether so much has been encoded whose results are not here that no more should be."""
        if self._held - self.group.dropped_bytes < HELD_BYTES:
            return False
        return self.source.count - self.group.dropped >= HELD_ITEMS

    def _pull_part(self, count: int, parts: list[Part]) -> int:
        """Pull and encode up to ``count`` items; return how many."""
        pulled = self.source.pull(count)
        for part in pulled:
            part.context = encode_context(self.span)
        parts += pulled
        self._held += sum(payload_bytes(part.payload) for part in pulled)
        while self.source.refused:
            self._on_failure(*self.source.refused.popitem())
        return sum(part.count for part in pulled)

    def _end(self) -> None:
        """Cancel what is left, and yield no more. May be called twice."""
        if self._ended:
            return
        if not self._finished:
            self._client.cancel(self.group)
        self._ended = True
        self._cut()
        if self._progress is not None:
            self._update_progress()
            self._progress.close()
        if self.span.status == "ok" and not self._finished:
            self.span.status = "cancelled"
        self.span.set(taken=self.taken)
        self.span.end()
