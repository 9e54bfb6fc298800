"""The state machine itself: events in, commands out. ``znb.schedule`` opens with its transition table.

Events only keep the books; ``tick`` hands out work and returns the commands collected since the last one.
That is quicker than a list per event, and places better: one round of the I/O loop carries up to hundreds of
events, and placing once after them sees the whole load, forms larger chunks and makes one list.

Invariants: a job is in exactly one place (a group's queue, one chunk, or ended); an outcome is delivered once,
because its chunk is forgotten with the last of them and its number is never used again; a chunk of a lost
incarnation is forgotten with it. Owning thread: any one at a time, the executor's I/O thread in practice;
nothing here locks, blocks or reads a clock. ``now`` is monotonic float seconds and never goes back.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from znb.errors import ProtocolError
from znb.schedule.fleet import IDLE, Chunk, Worker
from znb.schedule.groups import Group
from znb.schedule.losses import requeue
from znb.schedule.placement import Placement
from znb.schedule.records import Attempt, Command, Finished, Loss, Pull, SchedulerStats
from znb.schedule.report import Totals
from znb.schedule.stopping import interrupt, overran, stop_jobs, watch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = ["Scheduler"]


class Scheduler:
    """Decides which job runs where, and what becomes of it.

    Args:
        kill_grace: Seconds that a job which overran its ``job_timeout`` has to heed its interrupt.
        cancel_grace: The same for one that was cancelled.

    Example:
        >>> scheduler = Scheduler()
        >>> w0 = scheduler.add_worker("w0", now=0.0)
        >>> group = scheduler.add_group()
        >>> scheduler.feed(group, 1)
        0
        >>> scheduler.tick(now=0.0)
        [Send(worker=1, chunk=1, group=1, start=0, stop=1, attempt=1)]
        >>> scheduler.results(1, 0, 1, now=0.1, run_time=0.1)
        ()
        >>> scheduler.stats().done
        1
    """

    def __init__(self, *, kill_grace: float = 2.0, cancel_grace: float = 10.0) -> None:
        self._kill_grace = kill_grace
        self._cancel_grace = cancel_grace
        self._groups: dict[int, Group] = {}
        self._placement = Placement()
        self._fleet = self._placement.fleet
        self._totals = Totals()
        self._last_worker = self._last_group = 0

    # --- groups -----------------------------------------------------------------------------------------

    def add_group(
        self,
        *,
        retries: int = 2,
        job_timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        pulled: bool = False,
        weight: float = 1.0,
        targets: Iterable[str] | None = None,
        retry_timeouts: bool = False,
    ) -> int:
        """Open a group of jobs and return its number.

        Args:
            retries: Charged attempts that a job survives. At 0 and without a ``chunksize`` every job has a
                worker to itself while it runs, so that none can have begun unnoticed when one dies.
            job_timeout: Seconds that one job may run; ``None`` for no limit.
            chunksize: Jobs per chunk; ``None`` to follow measured run times.
            buffersize: Jobs fed and not yet taken, at most; ``None`` to follow the pace of the workers.
            pulled: Whether ``Pull`` commands are wanted; otherwise ``feed`` is called at will.
            weight: Share of the workers' time against other groups.
            targets: Names of the workers that may run it; ``None`` for all, now and later.
            retry_timeouts: Whether a job that overran its ``job_timeout`` is charged an attempt, and may run again.

        Raises:
            ValueError: An option is out of its range.
        """
        for name, value, least in (
            ("retries", retries, 0),
            ("chunksize", chunksize, 1),
            ("buffersize", buffersize, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value!r}")
        if targets is not None and not (targets := frozenset(targets)):
            raise ValueError("targets must name a worker at least, or be None for all; got an empty set")
        for name, seconds in (("job_timeout", job_timeout), ("weight", weight)):
            if seconds is not None and not 0 < seconds < math.inf:
                raise ValueError(f"{name} must be a positive finite number, got {seconds!r}")
        self._last_group += 1
        group = self._groups[self._last_group] = Group(
            self._last_group,
            retries=retries,
            job_timeout=job_timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            pulled=pulled,
            weight=weight,
            targets=targets,
            retry_timeouts=retry_timeouts,
        )
        if pulled:
            self._placement.hungry[group.number] = group
        return group.number

    def feed(self, group: int, count: int) -> int:
        """Append ``count`` jobs to a group and return the number of the first.

        Raises:
            ValueError: The group is finished, exhausted or cancelled.
        """
        known = self._groups.get(group)
        if known is None or known.exhausted:
            raise ValueError(f"group {group} takes no more jobs: it was exhausted or cancelled before this feed")
        first = known.feed(count)
        self._placement.line_up(known)
        return first

    def attempts(self, group: int, index: int) -> tuple[Attempt, ...]:
        """Return what has been charged to a job so far, oldest first."""
        known = self._groups.get(group)
        return known.attempts.get(index, ()) if known is not None else ()

    def exhausted(self, group: int) -> None:
        """Say that no more jobs will be fed to a group; ``Finished`` follows when all have ended."""
        known = self._groups.get(group)
        if known is not None and not known.exhausted:
            known.exhausted = True
            known.asked = 0
            self._settle(known)

    def taken(self, group: int, count: int) -> None:
        """Say that the consumer has taken ``count`` more results, failures included."""
        known = self._groups.get(group)
        if known is not None:
            known.taken += count
            if known.pulled and known.queued <= known.low and not known.exhausted:
                self._placement.hungry[group] = known

    def pause_group(self, group: int) -> None:
        """Send no new jobs of a group, because its results are not taken; those that came back still go out."""
        known = self._groups.get(group)
        if known is not None:
            known.paused = True

    def resume_group(self, group: int) -> None:
        """Take back ``pause_group``."""
        known = self._groups.get(group)
        if known is not None and known.paused:
            known.paused = False
            self._placement.line_up(known)

    def cancel(self, group: int, index: int) -> bool:
        """End a job as cancelled; return whether it had not ended before.

        If a worker has it, it is asked to skip it (``Revoke``), or interrupted, and what it reports about
        the job is not delivered.
        """
        known = self._groups.get(group)
        if known is None:
            return False
        chunk = None
        waiting = known.drop(index)
        if not waiting and (held := self._placement.holder(known, index)) is not None:
            self._placement.let_go(held)
            waiting = known.drop(index)
        if not waiting:
            chunk = self._placement.locate(known, index)
            if chunk is None or not chunk.has(index):
                return False
            chunk.mark().stopped.add(index)
            known.attempts.pop(index, None)
            stop_jobs(self._placement, chunk, index, index + 1)
        known.cancelled += 1
        self._settle(known)
        return True

    def cancel_group(self, group: int) -> None:
        """End all jobs of a group that have not ended, and its feeding."""
        known = self._groups.get(group)
        if known is None:
            return
        known.exhausted = True
        for worker in [
            worker for worker in self._placement.holding.values() if worker.held and worker.held.group is known
        ]:
            self._placement.let_go(worker)
        known.cancelled += known.drop_all()
        known.attempts.clear()
        for chunk in self._placement.chunks.values():
            if chunk.group is known and not (chunk.marks is not None and chunk.marks.void):
                known.cancelled += chunk.left()
                chunk.mark().void = True
                stop_jobs(self._placement, chunk, chunk.next, chunk.stop)
        self._settle(known)

    # --- workers ----------------------------------------------------------------------------------------

    def add_worker(self, name: str, now: float) -> int:
        """Take a worker in and return its incarnation, by which everything else names it.

        Raises:
            ValueError: The previous worker of that name was not declared lost.
        """
        if (there := self._fleet.named(name)) is not None:
            raise ValueError(f"worker {name} is here already, as incarnation {there.number}: lose_worker it first")
        self._last_worker += 1
        worker = Worker(self._last_worker, name, now)
        self._fleet.add(worker)
        self._placement.opened(worker)
        self._feed_all()
        return worker.number

    def lose_worker(
        self, worker: int, reason: str, now: float, *, charge: bool = True, ended: bool = True
    ) -> Loss | None:
        """Take a worker out, for good, and queue again what it had; return the job that ran, if one did.

        The results that it sent before must have been given to ``results``. Only the job that ran is charged an attempt
        and runs alone from then on; nobody is if it had ended already (cancelled, overran), or a cell was running.

        Args:
            worker: Its incarnation.
            reason: What is known, such as ``"died of signal 9 (SIGKILL)"``; it reaches ``Fail``.
            now: Monotonic seconds.
            charge: Whether its death may be the fault of a job; false for one stopped on request.
            ended: Whether the process is known to have ended; else what it had may run yet (``attempt`` says so).
        """
        lost = self._fleet.workers.get(worker)
        if lost is None:
            return None  # it is lost already
        if lost.held is not None:
            self._placement.let_go(lost)
        self._fleet.remove(lost)
        groups = {chunk.group for chunk in lost.queue}
        loss = requeue(self._placement, lost, reason, now, charge=charge and not lost.condemned, ended=ended)
        self._totals.lose(lost)
        for group in sorted(groups, key=lambda group: group.number):
            self._settle(group)
        return loss

    def set_busy(self, worker: int, busy: bool, now: float) -> None:  # noqa: FBT001 - the state is the event
        """Say that a worker runs something that is not ours (a cell, another client's job), or no longer."""
        known = self._fleet.workers.get(worker)
        if known is None:
            return
        known.busy = busy
        known.heard = now
        if not known.overrun:
            self._placement.deadlines.presume(known, now)
        if busy and known.queue:
            self._placement.stealer.note(known)
        self._placement.opened(known)

    def suspend(self, worker: int) -> None:
        """Give a worker nothing new (frozen, paused, to be stopped); what it has may move elsewhere."""
        known = self._fleet.workers.get(worker)
        if known is None or known.suspended:
            return
        if known.held is not None:
            self._placement.let_go(known)
        known.suspended = True
        self._fleet.live -= 1
        self._fleet.place(known)
        if known.queue:
            self._placement.stealer.note(known)

    def resume(self, worker: int, now: float) -> None:
        """Take back ``suspend``."""
        known = self._fleet.workers.get(worker)
        if known is None or not known.suspended:
            return
        known.suspended = False
        known.heard = now
        self._fleet.live += 1
        self._placement.opened(known)
        self._feed_all()

    def count_bytes(self, worker: int, *, sent: int = 0, received: int = 0) -> None:
        """Add to a worker's traffic, for ``stats``."""
        known = self._fleet.workers.get(worker)
        if known is not None:
            known.sent_bytes += sent
            known.received_bytes += received

    # --- reports of workers -----------------------------------------------------------------------------

    def started(self, chunk: int, index: int, now: float, elapsed: float = 0.0) -> None:
        """Say that a worker began a job ``elapsed`` seconds ago.

        Only jobs with a ``job_timeout`` need it, and of those only the ones that run for a good part of it.
        """
        known = self._placement.chunks.get(chunk)
        if known is None or not known.next <= index < known.stop:
            return
        worker = known.worker
        worker.started = (known, index)
        if known.group.job_timeout is not None and not (worker.overrun and known.is_stopped(index)):
            worker.overrun = False
            self._placement.deadlines.set(worker, now - elapsed + known.group.job_timeout)

    def results(
        self,
        chunk: int,
        first: int,
        count: int,
        now: float,
        run_time: float,
        errors: Collection[int] = (),
        retry: Mapping[int, str] | None = None,
    ) -> Collection[int] | None:
        """Take the outcomes of jobs ``first`` up to ``first + count`` of a chunk.

        Args:
            chunk: The chunk, as in ``Send``.
            first: The first job; outcomes come in order, and only those of revoked jobs are missing.
            count: How many outcomes there are.
            now: Monotonic seconds.
            run_time: Seconds that the worker took for them, without waiting.
            errors: Those of them that raised.
            retry: Those of them that raised what ``retry_on`` names, with a word on what (not in ``errors``).

        Returns:
            The jobs among them that must not be delivered: they run again, or ended before. ``None`` if
            nothing is to be delivered, because the chunk is gone: a late message of a lost worker.

        Raises:
            ProtocolError: The outcomes are out of order; the worker should be killed and lost.
        """
        known = self._placement.chunks.get(chunk)
        if known is None:
            return None
        worker = known.worker
        end = first + count
        if first != known.next or not first < end <= known.stop or worker.queue[0] is not known:
            raise self._disorder(known, first, end)
        group = known.group
        skip: Collection[int] = ()
        if known.attempt == 1 and known.marks is None and not errors and not retry:
            group.done += count
            known.next = end
        else:
            skip = self._sift(known, first, end, errors, retry or {})
        known.ran += count
        known.run_time += run_time
        worker.heard = now
        worker.done += count
        if known.next == known.stop:
            del worker.queue[0]
            self._placement.release(known)
            self._placement.advance(worker, now)
            if group.exhausted:
                self._settle(group)
        elif group.job_timeout is not None or worker.overrun:
            self._placement.deadlines.presume(worker, now)
        return skip

    def revoked(self, chunk: int, start: int, stop: int, now: float) -> None:
        """Take a worker's answer to a ``Revoke``: it will not begin jobs ``start`` up to ``stop`` of a chunk."""
        known = self._placement.chunks.get(chunk)
        if known is None:
            return
        self._placement.stealer.answered(known)
        worker = known.worker
        self._placement.stealer.note(worker)
        begun = start - 1
        if known.next <= begun < known.stop and known.is_stopped(begun):
            interrupt(self._placement, known, begun)
        start, stop = max(start, known.next), min(stop, known.stop)
        if start >= stop:
            known.begun |= start == known.stop
            return
        head = worker.queue[0]
        self._placement.give_back(known, start, stop)
        if known.next == known.stop:
            worker.queue.remove(known)
            self._placement.release(known)
            if known is head:
                self._placement.advance(worker, now)
            else:
                self._placement.opened(worker)
        self._settle(known.group)

    # --- time -------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Command]:
        """Act on what is due, hand out work, and return all commands since the last tick, in order."""
        placement = self._placement
        if (due := placement.deadlines.next()) is not None and due <= now:
            for worker in placement.deadlines.due(self._fleet, now):
                if overran(placement, worker, now, self._kill_grace):
                    self.suspend(worker.number)
        if placement.interrupted:
            watch(placement, now, self._cancel_grace)
        placement.dispatch(now)
        if self._fleet.buckets[IDLE]:
            placement.rebalance(now)
        if placement.hungry:
            self._pull()
        out = placement.out
        placement.out = []
        return out

    @property
    def outstanding(self) -> int:
        """How many chunks the workers have."""
        return len(self._placement.chunks)

    def next_deadline(self) -> float | None:
        """Return when ``tick`` must be called at the latest if nothing happens; ``None`` for never."""
        return self._placement.next_deadline()

    def stats(self) -> SchedulerStats:
        """Return the counts of this moment."""
        return self._totals.snapshot(self._groups.values(), self._fleet, self._placement.holding.values())

    # --- what events have in common ---------------------------------------------------------------------

    def _sift(
        self, chunk: Chunk, first: int, end: int, errors: Collection[int], retry: Mapping[int, str]
    ) -> Collection[int]:
        """Book outcomes that are out of the ordinary; return those that are not to be delivered."""
        group, worker, marks = chunk.group, chunk.worker, chunk.marks
        skip: set[int] = set()
        if marks is not None:
            if any(first <= hole < end for hole in marks.holes):
                raise self._disorder(chunk, first, end)
            skip = {index for index in range(first, end) if chunk.is_stopped(index)}
        chunk.next = end
        chunk.skip_holes()
        if chunk.next < chunk.stop and chunk.is_stopped(chunk.next):
            interrupt(self._placement, chunk, chunk.next)
        worker.count(first, end, (*errors, *retry), marks)
        failed = sum(first <= index < end and index not in skip for index in errors)
        for index, raised in retry.items():
            if index in skip or not first <= index < end:
                continue
            if group.charge(index, Attempt(worker.name, raised)):
                worker.retried += 1
                group.put_back(index, index + 1, chunk.attempt + 1, 0)
                self._placement.line_up(group)
                skip.add(index)
            else:
                failed += 1
        for index in range(first, end) if group.attempts else ():
            if index not in skip:
                group.attempts.pop(index, None)
        group.failed += failed
        group.done += end - first - len(skip) - failed
        return skip

    def _pull(self) -> None:
        """Ask for more items where more are wanted."""
        hungry = self._placement.hungry
        for group in hungry.values():
            count = group.wanted(self._fleet.eligible(group.targets))
            if count:
                group.asked += count
                self._placement.out.append(Pull(group.number, count))
        hungry.clear()

    def _feed_all(self) -> None:
        """Look at all sources again: there are more workers now."""
        for group in self._groups.values():
            if group.pulled and not group.exhausted:
                self._placement.hungry[group.number] = group

    def _settle(self, group: Group) -> None:
        """Forget a group that has nothing left to do."""
        if group.exhausted and not group.queued and not group.chunks and group.number in self._groups:
            del self._groups[group.number]
            self._placement.hungry.pop(group.number, None)
            self._placement.turns.forget(group)
            self._totals.add(group)
            self._placement.out.append(Finished(group.number))

    @staticmethod
    def _disorder(chunk: Chunk, first: int, end: int) -> ProtocolError:
        worker = chunk.worker
        head = worker.queue[0]
        return ProtocolError(
            f"worker {worker.name} reported jobs {first} to {end - 1} of chunk {chunk.number}; expected job "
            f"{head.next} of chunk {head.number} next (chunks end in the order sent, jobs in the order of "
            f"their chunk). Kill it and declare it lost: its jobs will run elsewhere"
        )
