"""Where jobs go, and how they come back from there: the books shared by all events.

A job leaves a group's queue in a chunk (``dispatch``), and the chunk leaves the books with its last outcome
(``release``), or piece by piece as the worker gives jobs back (``give_back``).

Invariants: only ``dispatch`` sends, so that nothing can happen to a worker between a chunk's way into the books and
its ``Send``; a chunk is in ``chunks`` exactly while it is in its worker's queue, or neither while it is held;
``group.chunks`` counts both. Owning thread: whichever drives the ``Scheduler``.
"""

from __future__ import annotations

from bisect import bisect_right
from math import inf
from typing import TYPE_CHECKING

from znb.schedule.deadlines import Deadlines
from znb.schedule.fleet import IDLE, MORE, SHUT, Chunk, Fleet, Worker
from znb.schedule.groups import live_runs
from znb.schedule.records import Command, Send
from znb.schedule.stealing import Stealer
from znb.schedule.turns import Turns

if TYPE_CHECKING:
    from znb.schedule.groups import Group

__all__ = ["Placement"]

#: Seconds of work that a chunk counts for while nothing is known about its group: enough to fill a window of
#: two, so that the first chunks are few.
UNKNOWN_COST = 0.005


class Placement:
    """Groups' turns on one side, workers' windows on the other, and the chunks between them.

    Attributes:
        chunks: What the workers have, by chunk number.
        holding: Workers that keep an exclusive chunk back until they are idle.
        hungry: Groups whose source may have to be asked.
        interrupted: Workers whose job has been interrupted since the last tick.
        out: Commands since the last tick.
    """

    __slots__ = (
        "_drained",
        "_located",
        "_sent",
        "chunks",
        "deadlines",
        "fleet",
        "holding",
        "hungry",
        "interrupted",
        "out",
        "stealer",
        "turns",
    )

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.turns = Turns()
        self.stealer = Stealer()
        self.deadlines = Deadlines()
        self.chunks: dict[int, Chunk] = {}
        self.holding: dict[int, Worker] = {}
        self.hungry: dict[int, Group] = {}
        self.interrupted: list[Worker] = []
        self.out: list[Command] = []
        self._drained: list[Worker] = []
        self._sent = 0
        self._located: tuple[int, int, list[int], list[Chunk]] = (0, 0, [], [])

    # --- out --------------------------------------------------------------------------------------------

    def dispatch(self, now: float) -> None:
        """Hand out jobs while there are some and a worker can take more."""
        turns = self.turns
        pick = self.fleet.pick
        while self._drained:
            worker = self._drained.pop()
            chunk = worker.held
            if chunk is not None and not worker.queue:
                worker.held = None
                del self.holding[worker.number]
                self._commit(chunk, worker, now)
        while (group := turns.head()) is not None:
            found = pick(group.targets)
            # More than two chunks only of a size that the caller chose: one that is measured grows while two
            # are under way, and many small ones would only be in the way of the larger.
            if found is not None and (found.level != MORE or (group.chunksize and group.queued >= group.cap)):
                self._assign(group, found, now)
            elif group.targets is not None:
                turns.park()
            else:
                return

    def _assign(self, group: Group, worker: Worker, now: float) -> None:
        """Make the group's next chunk and give it to a worker."""
        fleet = self.fleet
        workers = fleet.live if group.targets is None else fleet.eligible(group.targets)
        start, stop, attempt, limit = group.take(workers)
        cost = (stop - start) * group.job_time or UNKNOWN_COST
        self.turns.charge(group, cost)
        chunk = Chunk(0, worker, group, start, stop, attempt, limit, cost)
        group.chunks += 1
        if group.pulled and group.queued <= group.low and not group.exhausted:
            self.hungry[group.number] = group
        if limit:
            worker.sealed = True
            if worker.queue:
                worker.held = chunk
                self.holding[worker.number] = worker
                fleet.place(worker)
                return
        self._commit(chunk, worker, now)

    def _commit(self, chunk: Chunk, worker: Worker, now: float) -> None:
        """Send a chunk."""
        self._sent += 1
        number = chunk.number = self._sent
        self.chunks[number] = chunk
        queue = worker.queue
        queue.append(chunk)
        worker.backlog += chunk.cost
        group = chunk.group
        start, stop = chunk.next, chunk.stop
        self.out.append(Send(worker.number, number, group.number, start, stop, chunk.attempt))
        self.fleet.place(worker)
        if len(queue) == 1:
            worker.heard = now
            if group.job_timeout is not None:
                self.deadlines.presume(worker, now)
        if not worker.listed and (len(queue) > 1 or stop - start > 1 or worker.busy):
            self.stealer.note(worker)

    # --- back -------------------------------------------------------------------------------------------

    def release(self, chunk: Chunk) -> None:
        """Forget a chunk that has left its worker's queue."""
        worker, group = chunk.worker, chunk.group
        del self.chunks[chunk.number]
        group.chunks -= 1
        worker.backlog = worker.backlog - chunk.cost if worker.queue else 0.0
        if chunk.limit:
            worker.sealed = False
        if chunk.stealing:
            self.stealer.answered(chunk)
        group.vtime += (chunk.run_time - chunk.cost) / group.weight
        if chunk.ran:
            worker.run_time += chunk.run_time
            group.measured(chunk.ran, chunk.run_time)

    def advance(self, worker: Worker, now: float) -> None:
        """Go on after the first chunk of a worker's queue has been released."""
        if worker.queue:
            if worker.deadline != inf or worker.queue[0].group.job_timeout is not None:
                self.deadlines.presume(worker, now)
        else:
            worker.started = None
            worker.overrun = False
            worker.deadline = inf
            if worker.held is not None:
                self._drained.append(worker)
                return
        self.opened(worker)

    def opened(self, worker: Worker) -> None:
        """Find a worker's level, and let those in who waited for this one."""
        if self.fleet.place(worker) < SHUT and self.turns.parked:
            self.turns.unpark(worker.name)

    def give_back(self, chunk: Chunk, start: int, stop: int) -> None:
        """Queue again the jobs ``[start, stop)`` that a worker has given back, in the chunk's range."""
        group = chunk.group
        moved = 0
        for run_start, run_stop in live_runs(start, stop, chunk.absent()):
            group.put_back(run_start, run_stop, chunk.attempt, chunk.limit)
            moved += run_stop - run_start
        cost = min(chunk.cost, moved * group.job_time)
        chunk.cost -= cost
        chunk.worker.backlog -= cost
        group.vtime -= cost / group.weight
        if stop == chunk.stop:
            chunk.stop = start
        else:
            chunk.mark().holes.update(range(start, stop))
        chunk.skip_holes()
        self.line_up(group)

    def let_go(self, worker: Worker) -> None:
        """Queue again the chunk that a worker holds back."""
        chunk = worker.held
        if chunk is not None:
            worker.held = None
            worker.sealed = False
            del self.holding[worker.number]
            group = chunk.group
            group.chunks -= 1
            group.vtime -= chunk.cost / group.weight
            group.put_back(chunk.next, chunk.stop, chunk.attempt, chunk.limit)
            self.line_up(group)
            self.opened(worker)

    def line_up(self, group: Group) -> None:
        """See to it that a group with waiting jobs gets its turn."""
        if group.queued and not group.ready:
            self.turns.push(group)

    # --- the ends ---------------------------------------------------------------------------------------

    def rebalance(self, now: float) -> None:
        """Find work for idle workers when no group has any for them."""
        idle = self.fleet.buckets[IDLE]
        if self.holding:
            movable = [worker for worker in self.holding.values() if worker.held and _free_for(worker.held, idle)]
            for worker in movable[: len(idle)]:
                self.let_go(worker)
            if movable:
                self.dispatch(now)
        self.stealer.look(self.fleet, now, self.out)

    def next_deadline(self) -> float | None:
        """Return when there is something to do if nothing happens."""
        due = self.deadlines.next()
        look = self.stealer.next_look(self.fleet) if self.fleet.buckets[IDLE] else None
        if due is None or look is None:
            return look if due is None else due
        return min(due, look)

    # --- finding ----------------------------------------------------------------------------------------

    def holder(self, group: Group, index: int) -> Worker | None:
        """Return the worker that holds a chunk with this job back."""
        for worker in self.holding.values():
            held = worker.held
            if held is not None and held.group is group and held.next <= index < held.stop:
                return worker
        return None

    def locate(self, group: Group, index: int) -> Chunk | None:
        """Return the chunk in which a job is at a worker, ended there or not.

        The first of a run of calls sorts the group's chunks; so cancelling each of many futures costs a
        bisection each, and sending pays nothing for it.
        """
        number, sent, starts, chunks = self._located
        if number != group.number or sent != self._sent:
            chunks = sorted((chunk for chunk in self.chunks.values() if chunk.group is group), key=_start)
            starts = [chunk.next for chunk in chunks]
            self._located = (group.number, self._sent, starts, chunks)
        place = bisect_right(starts, index) - 1
        if place >= 0:
            chunk = chunks[place]
            if chunk.number in self.chunks and chunk.next <= index < chunk.stop:
                return chunk
        return None


def _start(chunk: Chunk) -> int:
    return chunk.next


def _free_for(chunk: Chunk, idle: dict[int, Worker]) -> bool:
    """Tell whether one of the idle workers may run the chunk."""
    targets = chunk.group.targets
    return targets is None or any(worker.name in targets for worker in idle.values())
