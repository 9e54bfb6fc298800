"""Run the real scheduler against simulated workers, in virtual time, and print what a job costs it.

    python benchmarks/simulate.py [--jobs 200000] [--workers 10 100 1000 10000] [--chunksize 1 32 auto]

``--jobs 10000000`` is the full size of the promise: flat or logarithmic in the number of workers. Each number
is the scheduler's own time (events, ``tick`` and ``next_deadline``, timed around each call, so a little too
high) per job; the simulator's is not in it. The client ticks after every single message, which is the worst
case: a real one ticks once per round of its I/O loop.

``Simulation`` is also what ``tests/test_schedule.py`` measures balance with.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from bisect import bisect_right
from collections import deque
from heapq import heappop, heappush
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from znb.schedule import Finished, Pull, Revoke, Scheduler, Send

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds that a message takes one way: half a round trip over ipc with a thread hop at each end.
LATENCY = 0.00015
#: Seconds after which a worker sends the outcomes it has, though the chunk is not done.
FLUSH = 0.05


class Durations(Protocol):
    """How long jobs run."""

    def between(self, start: int, stop: int) -> float: ...

    def ended(self, start: int, stop: int, elapsed: float) -> int: ...


class Even:
    """All jobs run for the same time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def between(self, start: int, stop: int) -> float:
        return (stop - start) * self.seconds

    def ended(self, start: int, stop: int, elapsed: float) -> int:
        return min(stop, start + int(elapsed / self.seconds + 1e-6))


class Listed:
    """Each job runs for its own time."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.sums = [0.0, *accumulate(seconds)]

    def between(self, start: int, stop: int) -> float:
        return self.sums[stop] - self.sums[start]

    def ended(self, start: int, stop: int, elapsed: float) -> int:
        return min(stop, bisect_right(self.sums, self.sums[start] + elapsed + 1e-12) - 1)


class SimulatedWorker:
    """Runs chunks in order; a chunk is ``[number, next job, stop, when its next job began]``."""

    __slots__ = ("number", "queue", "speed", "turn")

    def __init__(self, number: int, speed: float) -> None:
        self.number = number
        self.speed = speed
        self.queue: deque[list] = deque()
        self.turn = 0


class Simulation:
    """One client and its workers; ``run`` returns the virtual seconds until the last result is in."""

    def __init__(self, durations: Durations, *, speeds: Sequence[float], latency: float = LATENCY) -> None:
        self.durations = durations
        self.latency = latency
        self.scheduler = Scheduler()
        self.workers: dict[int, SimulatedWorker] = {}
        for position, speed in enumerate(speeds):
            number = self.scheduler.add_worker(f"w{position}", 0.0)
            self.workers[number] = SimulatedWorker(number, speed)
        self.events: list[tuple] = []
        self.order = 0
        self.spent_ns = 0
        self.sends = 0
        self.revokes = 0
        self.delivered = 0

    def at(self, when: float, *what: object) -> None:
        self.order += 1
        heappush(self.events, (when, self.order, *what))

    def run(self, jobs: int, *, pulled: bool = True, chunksize: int | None = None) -> float:
        scheduler = self.scheduler
        clock = time.perf_counter_ns
        group = scheduler.add_group(chunksize=chunksize, pulled=pulled)
        left = jobs
        if not pulled:
            scheduler.feed(group, jobs)
            scheduler.exhausted(group)
            left = 0
        now, wake = 0.0, None
        while True:
            again = True
            while again:
                began = clock()
                commands = scheduler.tick(now)
                self.spent_ns += clock() - began
                again = False
                for command in commands:
                    if isinstance(command, Send):
                        self.sends += 1
                        self.at(now + self.latency, "send", command)
                    elif isinstance(command, Revoke):
                        self.revokes += 1
                        self.at(now + self.latency, "revoke", command)
                    elif isinstance(command, Pull):
                        count = min(left, command.count)
                        left -= count
                        began = clock()
                        if count:
                            scheduler.feed(group, count)
                        if not left:
                            scheduler.exhausted(group)
                        self.spent_ns += clock() - began
                        again = True
                    elif isinstance(command, Finished):
                        assert self.delivered == jobs, (self.delivered, jobs)
                        return now
            began = clock()
            wake = scheduler.next_deadline()
            self.spent_ns += clock() - began
            if wake is not None and (not self.events or wake < self.events[0][0]):
                now = max(now, wake)
                continue
            when, _, kind, *what = heappop(self.events)
            now = max(now, when)
            getattr(self, "on_" + kind)(now, group, *what)

    # --- at a worker ------------------------------------------------------------------------------------

    def on_send(self, now: float, group: int, command: Send) -> None:
        worker = self.workers[command.worker]
        worker.queue.append([command.chunk, command.start, command.stop, now])
        if len(worker.queue) == 1:
            self.begin(worker, now)

    def begin(self, worker: SimulatedWorker, now: float) -> None:
        """Plan the next report of the first chunk."""
        worker.turn += 1
        head = worker.queue[0]
        head[3] = now
        span = self.durations.between(head[1], head[2]) * worker.speed
        if span > FLUSH:
            # Outcomes go out after FLUSH, or when the job that runs then has ended.
            ended = self.durations.ended(head[1], head[2], FLUSH / worker.speed)
            span = self.durations.between(head[1], min(head[2], max(ended, head[1] + 1))) * worker.speed
        self.at(now + span, "report", worker, worker.turn, span)

    def on_report(self, now: float, group: int, worker: SimulatedWorker, turn: int, span: float) -> None:
        if turn != worker.turn:
            return
        head = worker.queue[0]
        number, first, stop, _ = head
        ended = self.durations.ended(first, stop, span / worker.speed)
        self.at(now + self.latency, "results", number, first, ended - first, span)
        head[1] = ended
        if ended == stop:
            worker.queue.popleft()
        if worker.queue:
            self.begin(worker, now)

    def on_revoke(self, now: float, group: int, command: Revoke) -> None:
        worker = self.workers[command.worker]
        start = stop = command.stop
        for place, chunk in enumerate(worker.queue):
            if chunk[0] == command.chunk:
                unbegun = chunk[1]
                if place == 0:
                    unbegun = self.durations.ended(chunk[1], chunk[2], (now - chunk[3]) / worker.speed) + 1
                start, stop = min(max(command.start, unbegun), chunk[2]), chunk[2]
                chunk[2] = start
                if place == 0 and start < stop:
                    self.shorten(worker, now)
                elif chunk[1] == chunk[2]:
                    del worker.queue[place]
                break
        self.at(now + self.latency, "revoked", command.chunk, start, stop)

    def shorten(self, worker: SimulatedWorker, now: float) -> None:
        """Plan the next report again: the first chunk has fewer jobs now."""
        head = worker.queue[0]
        began = head[3]
        self.begin(worker, began)
        when, *_ = self.events[-1]
        assert when >= 0.0
        assert began <= now

    # --- back at the client -----------------------------------------------------------------------------

    def on_results(self, now: float, group: int, chunk: int, first: int, count: int, span: float) -> None:
        began = time.perf_counter_ns()
        skip = self.scheduler.results(chunk, first, count, now, span)
        self.scheduler.taken(group, count)
        self.spent_ns += time.perf_counter_ns() - began
        assert skip == ()
        self.delivered += count

    def on_revoked(self, now: float, group: int, chunk: int, start: int, stop: int) -> None:
        began = time.perf_counter_ns()
        self.scheduler.revoked(chunk, start, stop, now)
        self.spent_ns += time.perf_counter_ns() - began


def table(jobs: int, workers: Sequence[int], chunksizes: Sequence[int | None], seconds: float) -> None:
    print(f"{jobs:,} jobs of {seconds * 1e3:g} ms (varied by 30 %), pulled from a source; scheduler only")
    print(
        f"{'workers':>8} {'chunksize':>10} {'µs/job':>8} {'µs/chunk':>9} {'jobs/chunk':>10} {'× ideal':>8} {'wall s':>7}"
    )
    rng = random.Random(1)
    for count in workers:
        for chunksize in chunksizes:
            speeds = [rng.uniform(0.7, 1.3) for _ in range(count)]
            simulation = Simulation(Even(seconds), speeds=speeds)
            began = time.perf_counter()
            makespan = simulation.run(jobs, chunksize=chunksize)
            wall = time.perf_counter() - began
            cost = simulation.spent_ns / 1e3
            ideal = jobs * seconds / sum(1 / speed for speed in speeds)
            print(
                f"{count:>8,} {chunksize or 'auto':>10} {cost / jobs:>8.2f} {cost / simulation.sends:>9.2f} "
                f"{jobs / simulation.sends:>10.1f} {makespan / ideal:>8.2f} {wall:>7.1f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=200_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--chunksize", nargs="+", default=["1", "32", "auto"])
    parser.add_argument("--seconds", type=float, default=0.001, help="run time of one job")
    options = parser.parse_args()
    chunksizes = [None if size == "auto" else int(size) for size in options.chunksize]
    table(options.jobs, options.workers, chunksizes, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
