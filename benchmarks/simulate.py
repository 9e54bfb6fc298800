"""Run the real scheduler against simulated workers, in virtual time, and print what a job costs it.

    python benchmarks/simulate.py [--jobs 200000] [--workers 10 100 1000 10000] [--chunksize 1 32 auto]

``--jobs 10000000`` is the full size of the promise: flat or logarithmic in the number of workers. Each number
is the scheduler's own wall time (events, ``tick`` and ``next_deadline``) per job; the simulator's is not in it. The
client ticks after every single message, which is the worst case: a real one ticks once per round of its I/O
loop. ``× ideal`` compares the virtual makespan with the work divided by the workers' speeds: what chunks of a
given size and too few jobs per worker cost shows there.

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
    from collections.abc import Callable, Sequence

    from znb.schedule import Command

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
        self.group = 0
        self.spent_ns = 0
        self.sends = 0
        self.revokes = 0
        self.delivered = 0

    def at(self, when: float, handler: Callable[..., tuple | None], what: object) -> None:
        self.order += 1
        heappush(self.events, (when, self.order, handler, what))

    def run(self, jobs: int, *, pulled: bool = True, chunksize: int | None = None) -> float:
        scheduler = self.scheduler
        group = self.group = scheduler.add_group(chunksize=chunksize, pulled=pulled)
        left = jobs
        if not pulled:
            scheduler.feed(group, jobs)
            scheduler.exhausted(group)
            left = 0
        now = 0.0
        pull = 0
        message: tuple | None = None
        while True:
            count = min(left, pull)
            left -= count
            commands, wake = self.client(now, message, count, exhausted=pull > 0 and not left)
            pull = 0
            for command in commands:
                if isinstance(command, Send):
                    self.sends += 1
                    self.at(now + self.latency, self.on_send, command)
                elif isinstance(command, Revoke):
                    self.revokes += 1
                    self.at(now + self.latency, self.on_revoke, command)
                elif isinstance(command, Pull):
                    pull = command.count
                elif isinstance(command, Finished):
                    assert self.delivered == jobs, (self.delivered, jobs)
                    return now
            message = None
            while message is None and not pull:
                if wake is not None and (not self.events or wake < self.events[0][0]):
                    now = max(now, wake)
                    break
                when, _, handler, what = heappop(self.events)
                now = max(now, when)
                message = handler(now, what)

    def client(
        self, now: float, message: tuple | None, count: int, *, exhausted: bool
    ) -> tuple[list[Command], float | None]:
        """Give the scheduler what has come, and return its commands and when to wake it; this is timed."""
        scheduler = self.scheduler
        began = time.perf_counter_ns()
        if message is not None:
            number, first, stop, span = message
            if span is None:
                scheduler.revoked(number, first, stop, now)
            else:
                skip = scheduler.results(number, first, stop - first, now, span)
                scheduler.taken(self.group, stop - first)
                self.delivered += stop - first
                assert skip == ()
        if count:
            scheduler.feed(self.group, count)
        if exhausted:
            scheduler.exhausted(self.group)
        commands = scheduler.tick(now)
        wake = scheduler.next_deadline()
        self.spent_ns += time.perf_counter_ns() - began
        return commands, wake

    @staticmethod
    def arrive(_now: float, message: tuple) -> tuple:
        """A message of a worker arrives; it is an event like the others."""
        return message

    # --- at a worker ------------------------------------------------------------------------------------

    def on_send(self, now: float, command: Send) -> None:
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
        self.at(now + span, self.on_report, (worker, worker.turn, span))

    def on_report(self, now: float, what: tuple[SimulatedWorker, int, float]) -> None:
        worker, turn, span = what
        if turn != worker.turn:
            return
        head = worker.queue[0]
        number, first, stop, _ = head
        ended = self.durations.ended(first, stop, span / worker.speed)
        self.at(now + self.latency, self.arrive, (number, first, ended, span))
        head[1] = ended
        if ended == stop:
            worker.queue.popleft()
        if worker.queue:
            self.begin(worker, now)

    def on_revoke(self, now: float, command: Revoke) -> None:
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
                    self.begin(worker, chunk[3])  # its report is planned again: it has fewer jobs now
                elif chunk[1] == chunk[2]:
                    del worker.queue[place]
                break
        self.at(now + self.latency, self.arrive, (command.chunk, start, stop, None))


def table(jobs: int, workers: Sequence[int], chunksizes: Sequence[int | None], seconds: float, repeat: int = 1) -> None:
    print(f"{jobs:,} jobs of {seconds * 1e3:g} ms (varied by 30 %), pulled from a source; scheduler only")
    heads = f"{'workers':>8} {'chunksize':>10} {'µs/job':>8} {'µs/chunk':>9} {'jobs/chunk':>10} {'× ideal':>8}"
    print(f"{heads} {'wall s':>7}")
    rng = random.Random(1)
    for count in workers:
        for chunksize in chunksizes:
            speeds = [rng.uniform(0.7, 1.3) for _ in range(count)]
            began = time.perf_counter()
            runs = []
            for _ in range(repeat):
                simulation = Simulation(Even(seconds), speeds=speeds)
                makespan = simulation.run(jobs, chunksize=chunksize)
                runs.append(simulation.spent_ns)
            wall = time.perf_counter() - began
            cost = min(runs) / 1e3  # of runs on a busy machine, the least disturbed
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
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; the best counts")
    options = parser.parse_args()
    chunksizes = [None if size == "auto" else int(size) for size in options.chunksize]
    table(options.jobs, options.workers, chunksizes, options.seconds, options.repeat)


if __name__ == "__main__":
    sys.exit(main())
