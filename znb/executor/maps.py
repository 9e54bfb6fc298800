"""``map``: a lazy, bounded stream of jobs and their results.

The consumer's thread pulls items, encodes them and decodes results; the reactor's thread only hands messages over. So
user code (iterators, pickling) runs where its owner waits for it, and a consumer that stops taking results stops the
source.

Invariants: at most what the scheduler permits has been pulled and not been taken; each result is yielded once; a map
that is dropped, closed or interrupted cancels what is left of it, at once.
"""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sized
from typing import Any, Literal

from znb.errors import CallTimeout, Cancelled, SerializationError, ZnbError
from znb.executor.client import Group, JobClient, Part
from znb.executor.companions import Keeper, Progress
from znb.executor.frames import CALL_ONE, CALL_STAR
from znb.executor.futures import NOTICE_AFTER, Batch
from znb.executor.source import PULL_TIME, Source, is_container
from znb.shipping import payload_bytes

__all__ = ["MapResult", "Progress", "check_map_options", "start_map"]

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


class MapResult(Iterator[Any]):
    """The results of ``cluster.map``, in the order of the items unless asked otherwise.

    Iterate over it, or ``cancel`` it. Breaking out of the loop, or dropping it, cancels what is left.

    Attributes:
        group: The jobs.
    """

    def __init__(self, flow: _Flow) -> None:
        self.group = flow.group
        self._flow = flow
        self._results = flow.results()
        next(self._results)  # begun, so that it is also ended when nobody ever iterates

    def __iter__(self) -> Iterator[Any]:  # noqa: PYI034 - the generator itself, which costs nothing per result
        return self._results

    def __reduce__(self) -> str:
        raise TypeError("the results of a map come in this process: pass what they are, as list(results)")

    def __repr__(self) -> str:
        return f"<map of {self.group.label}, {self._flow.taken} results taken>"

    def _ipython_display_(self) -> None:
        self._flow.show_progress()

    def __next__(self) -> Any:
        return next(self._results)

    def cancel(self) -> None:
        """Cancel what is left: queued jobs never run, running ones are interrupted. May be called twice."""
        self._results.close()

    close = cancel


def start_map(
    client: JobClient,
    function: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    *,
    ordered: bool = True,
    errors: Literal["raise", "return"] = "raise",
    timeout: float | None = None,
    progress: Callable[[], Progress],
    show: bool = False,
    keeper: Keeper | None = None,
    **options: Any,
) -> MapResult:
    """Start a map; ``options`` are those of ``client.Group``.

    Args:
        client: Runs the jobs.
        function: What to call.
        iterables: With what.
        ordered: See ``Cluster.map``, also for the next two.
        errors: See there.
        timeout: See there.
        progress: Makes what shows the progress, when that is wanted.
        show: Whether it is wanted from the beginning.
        keeper: Knows which items have a result already, and keeps those of the others.
        options: Of the group.

    Raises:
        SerializationError: The function cannot travel.
    """
    call = CALL_ONE if len(iterables) == 1 else CALL_STAR
    label = getattr(function, "__qualname__", None) or type(function).__qualname__
    items = iter(iterables[0]) if call == CALL_ONE else zip(*iterables, strict=False)
    if keeper is not None:
        items = keeper.select(items)
    ends = any(isinstance(iterable, Sized) for iterable in iterables)
    contained = all(map(is_container, iterables))
    source = Source(client.codec, items, contained=contained, keep_going=errors == "return")
    flow = _Flow(client, source, ends, ordered=ordered, errors=errors, timeout=timeout, progress=progress, show=show)
    flow.keeper = keeper
    flow.group = Group(client.codec.encode(function), call, label, flow, show=client.view(), pulled=True, **options)
    client.open_group(flow.group, flow.pull_ahead(), last=flow.source.exhausted)
    return MapResult(flow)


class _Outcomes:
    """Outcomes of consecutive jobs, decoded; errors by position.

    Attributes:
        acknowledge: To be called when they are taken, so that their worker may send more.
    """

    __slots__ = ("acknowledge", "errors", "values")

    def __init__(self, values: list[Any], errors: dict[int, BaseException], acknowledge: Callable[[], None]) -> None:
        self.values = values
        self.errors = errors
        self.acknowledge = acknowledge


def check_map_options(
    *,
    chunksize: object,
    buffersize: object,
    retries: object,
    job_timeout: object,
    errors: object,
    retry_on: object,
) -> None:
    """Raise what is wrong with the options of a map, before anything is started.

    Raises:
        ValueError: An option is out of its range.
        TypeError: An option is of another type.
    """
    for name, value, least in (("chunksize", chunksize, 1), ("buffersize", buffersize, 1), ("retries", retries, 0)):
        if value is None and name != "retries":
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer{'' if name == 'retries' else ' or None'}, got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if job_timeout is not None:
        if not isinstance(job_timeout, int | float):
            raise TypeError(f"job_timeout must be seconds or None, got {job_timeout!r}")
        if not 0 < job_timeout < math.inf:
            raise ValueError(f"job_timeout must be a positive number of seconds, got {job_timeout!r}")
    if errors not in {"raise", "return"}:
        raise ValueError(f"errors must be 'raise' or 'return', got {errors!r}")
    for kind in retry_on if isinstance(retry_on, tuple) else (retry_on,):
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"retry_on must be an exception type or a tuple of them, got {kind!r}")


class _Flow:
    """What both threads share of one map (``client.Receiver``), and the generator of its results.

    The generator refers to this, and nothing here refers to the generator: so it ends when its user drops it.
    """

    group: Group
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
        progress: Callable[[], Progress],
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
        self._progress = progress() if show else None
        self.taken = 0
        self._arrivals: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._held = 0
        self._wanted = 0
        self._finished = False
        self._aborted: BaseException | None = None
        self._retried = 0
        self._draining = False
        self._next = 0
        self._turn = threading.RLock()
        self._ready: dict[int, _Outcomes] = {}
        self._yielding: _Outcomes | None = None

    def show_progress(self) -> None:
        """Show how far it has come, from now on."""
        if self._progress is None:
            self._progress = self._make_progress()
            self._progress.update(self.taken, 0, self._retried)

    # -- the reactor's thread ------------------------------------------------------------------------------

    def sent(self, start: int, stop: int) -> None:
        """Do nothing: only futures show that they run."""

    def deliver(
        self, batch: Batch, count: int, skip: Collection[int], _worker: str, acknowledge: Callable[[], None]
    ) -> None:
        """Hand outcomes to the consumer."""
        self._arrivals.put((self._on_batch, batch, count, skip, acknowledge))

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

    def results(self) -> Generator[Any, None, None]:
        """Yield ``None`` once, then the results."""
        try:
            yield None
            while (found := self._wait_ready()) is not None:
                yield from self._yield_outcomes(found)
            if self._aborted is not None:
                raise self._aborted
            if self.source.error is not None:
                raise self.source.error
        finally:
            self._end()

    def _yield_outcomes(self, outcomes: _Outcomes) -> Generator[Any, None, None]:
        """Yield outcomes, holding on to none that has been yielded."""
        values, errors = outcomes.values, outcomes.errors
        total = len(values)
        values.reverse()
        for start in range(0, total, SLICE):
            count = min(SLICE, total - start)
            failed = sum(start <= position < start + count for position in errors)
            if failed:
                yield from self._yield_with_errors(values, range(start, start + count), errors)
            else:
                yield from map(list.pop, itertools.repeat(values, count))
            self._client.taken(self.group, count)
            self.taken += count
            if self._progress is not None:
                self._progress.update(count, failed, self._retried)
            self._take_arrivals()
        with self._turn:
            outcomes.acknowledge()
            self._yielding = None

    def _yield_with_errors(
        self, values: list[Any], positions: range, errors: dict[int, BaseException]
    ) -> Generator[Any, None, None]:
        for position in positions:
            if position not in errors:
                yield values.pop()
                continue
            values.pop()
            if self._errors == "raise":
                raise errors.pop(position)
            yield errors.pop(position)

    def _wait_ready(self) -> _Outcomes | None:
        """Return the outcomes that are to be yielded next, or ``None`` at the end."""
        with self._turn:
            while True:
                more = self._take_arrivals()
                found = self._next_ready()
                if found is not None or self._finished:
                    self._yielding = found
                    return found
                if not more:
                    self._wait_result()

    def _next_ready(self) -> _Outcomes | None:
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

    def _on_batch(self, batch: Batch, count: int, skip: Collection[int], acknowledge: Callable[[], None]) -> None:
        values, errors = batch.load()
        if self.keeper is not None:
            kept = [index for index in range(batch.first, batch.first + count) if index not in skip]
            self.keeper.keep((index, values[index - batch.first]) for index in kept if index not in errors)
            for index in kept:
                if index in errors:
                    self.keeper.drop(index)
        if self._draining:
            acknowledge()
            acknowledge = _nothing
        if not skip:
            errors = {index - batch.first: error for index, error in errors.items()}
            self._ready[batch.first] = _Outcomes(values, errors, acknowledge)
            return
        self._retried += len(skip)
        for position in range(count):  # some run again, so the others come one by one
            index = batch.first + position
            if index not in skip:
                found = {0: errors[index]} if index in errors else {}
                self._ready[index] = _Outcomes([values[position]], found, _nothing)
        acknowledge()

    def _on_failure(self, index: int, error: BaseException) -> None:
        if self.keeper is not None:
            self.keeper.drop(index)
        self._ready[index] = _Outcomes([None], {0: error}, _nothing)

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
            outcomes.acknowledge()
            outcomes.acknowledge = _nothing

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
        if not self._wanted or self.source.exhausted or self._is_full():
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
        parts += pulled
        self._held += sum(payload_bytes(part.payload) for part in pulled)
        while self.source.refused:
            self._on_failure(*self.source.refused.popitem())
        return sum(part.count for part in pulled)

    def _end(self) -> None:
        """Cancel what is left."""
        if not self._finished:
            self._client.cancel(self.group)
        if self._progress is not None:
            self._progress.close()


def _nothing() -> None:
    """Acknowledge nothing: the batch was acknowledged as a whole."""
