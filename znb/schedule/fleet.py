"""The workers as the scheduler sees them, sorted by how much they may still be given.

Every live worker is in exactly one of five buckets (``Level``). A bucket is an insertion-ordered dict, so
that a worker changes buckets, and the least loaded one is found, in constant time whatever their number.

Invariants: a worker runs its queue in order, so ``queue[0]`` is the chunk that runs; ``backlog`` is the sum of
its chunks' costs; a worker with an exclusive chunk has no other. Owning thread: whichever drives the
``Scheduler``.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from znb.schedule.groups import Group

__all__ = ["BUSY", "IDLE", "MORE", "ONE", "SHUT", "Chunk", "Fleet", "Marks", "Worker"]

#: Levels, in the order in which workers are chosen. Nothing outstanding: it starts at once.
IDLE = 0
#: One chunk outstanding: the next one hides the round trip.
ONE = 1
#: Two or more, but so little work in them that the worker may run dry during a round trip: it may be given more
#: of a group with a chunk size of its own.
MORE = 2
#: Runs somebody else's cell: a few chunks may wait there.
BUSY = 3
#: Gets nothing now: its window is full, it is suspended, or kept for one exclusive chunk.
SHUT = 4

#: Seconds of work up to which a worker may hold more than two chunks: several round trips of about 0.3 ms.
HORIZON = 0.005
#: Chunks that a worker holds while it runs what is not ours: enough to fill our turn if others' jobs are long.
BUSY_CHUNKS = 3
#: Chunks that a worker holds at most; 116,000 no-op jobs/s were measured with 64 at chunk size 1 on 2 workers.
MAX_CHUNKS = 128


class Marks:
    """What is out of the ordinary in a chunk; most chunks have none.

    Attributes:
        stopped: Jobs that have ended here (cancelled, overran) while the worker still holds them; their
            outcome is not delivered.
        holes: Jobs that the worker gave back out of the middle; no outcome will come.
        void: Whether all that is left of the chunk is ``stopped``.
        interrupted: Jobs that an ``Interrupt`` went out for.
        late: Those of ``stopped`` that overran; the others were cancelled.
    """

    __slots__ = ("holes", "interrupted", "late", "stopped", "void")

    def __init__(self) -> None:
        self.stopped: set[int] = set()
        self.holes: set[int] = set()
        self.void = False
        self.interrupted: set[int] = set()
        self.late: set[int] = set()


class Chunk(msgspec.Struct, eq=False):
    """A run of one group's jobs at a worker. A Struct because one is made per chunk (0.2 µs, not 0.7).

    Attributes:
        next: The first job with no outcome yet.
        stop: One past the last job; a revoked tail lowers it.
        attempt: As in ``Send``.
        limit: As in ``Piece``; above 0 the chunk is exclusive.
        cost: Seconds of work it was taken for when it was sent.
        ran: Jobs whose outcome has come.
        run_time: Seconds that the worker reported for them.
        marks: What is out of the ordinary, or ``None``.
        stealing: Whether a ``Revoke`` that is to move jobs elsewhere is unanswered.
        begun: Whether the worker has said that all that is left has begun, so that there is nothing to move.
    """

    number: int
    worker: Worker
    group: Group
    next: int
    stop: int
    attempt: int
    limit: int
    cost: float
    ran: int = 0
    run_time: float = 0.0
    marks: Marks | None = None
    stealing: bool = False
    begun: bool = False

    def mark(self) -> Marks:
        """Return the chunk's marks, made now if it had none."""
        if self.marks is None:
            self.marks = Marks()
        return self.marks

    def is_stopped(self, index: int) -> bool:
        """Tell whether the job has ended here, whatever the worker still reports."""
        marks = self.marks
        return marks is not None and (marks.void or index in marks.stopped)

    def has(self, index: int) -> bool:
        """Tell whether the job is to run here yet, or may be running."""
        inside = self.next <= index < self.stop and not self.is_stopped(index)
        return inside and (self.marks is None or index not in self.marks.holes)

    def left(self) -> int:
        """Return how many jobs of the chunk are to run here yet, or may be running."""
        count = self.stop - self.next
        marks = self.marks
        if marks is None or not count:
            return count
        return 0 if marks.void else count - sum(self.next <= index < self.stop for index in self.absent())

    def skip_holes(self) -> None:
        """Move ``next`` past jobs for which no outcome will come."""
        if self.marks is not None and self.marks.holes:
            while self.next < self.stop and self.next in self.marks.holes:
                self.next += 1

    def absent(self) -> set[int]:
        """Return the jobs of the chunk that are not to run again."""
        marks = self.marks
        if marks is None:
            return set()
        return set(range(self.next, self.stop)) if marks.void else marks.stopped | marks.holes


class Worker:
    """One incarnation of a worker.

    Attributes:
        held: An exclusive chunk that is sent as soon as the queue is empty.
        sealed: Whether the worker is kept for one exclusive chunk, held or sent.
        heard: When its last outcome came, or it could begin again: first chunk after it was idle, cell ended.
        started: The last reported start: a chunk and a job in it.
        deadline: When the running job has overrun, or a stopped one ignored its interrupt.
        armed: When the timer looks at ``deadline`` next.
        overrun: Whether ``deadline`` is the kill after an interrupt.
        grace: Seconds that a job had to heed that interrupt.
        condemned: Whether a ``Kill`` went out for it.
        listed: Whether it is in the scheduler's list of workers to steal from.
    """

    __slots__ = (
        "armed",
        "backlog",
        "busy",
        "cancelled",
        "condemned",
        "deadline",
        "done",
        "failed",
        "grace",
        "heard",
        "held",
        "level",
        "listed",
        "name",
        "number",
        "overrun",
        "queue",
        "received_bytes",
        "retried",
        "run_time",
        "sealed",
        "sent_bytes",
        "started",
        "suspended",
    )

    def __init__(self, number: int, name: str, now: float) -> None:
        self.number = number
        self.name = name
        # A list: a deque takes 600 bytes, which at 10,000 workers is what does not fit into the cache.
        self.queue: list[Chunk] = []
        self.backlog = 0.0
        self.level = SHUT
        self.busy = False
        self.suspended = False
        self.sealed = False
        self.listed = False
        self.held: Chunk | None = None
        self.heard = now
        self.started: tuple[Chunk, int] | None = None
        self.deadline = math.inf
        self.armed = math.inf
        self.overrun = False
        self.grace = 0.0
        self.condemned = False
        self.done = 0
        self.failed = 0
        self.cancelled = 0
        self.retried = 0
        self.run_time = 0.0
        self.sent_bytes = 0
        self.received_bytes = 0

    def count(self, first: int, end: int, errors: Collection[int], marks: Marks | None) -> None:
        """Count the outcomes of jobs ``first`` to ``end`` that are no values; what was cancelled is no failure."""
        cancelled = {i for i in marks.stopped - marks.late if first <= i < end} if marks is not None else ()
        self.cancelled += len(cancelled)
        self.failed += sum(index not in cancelled for index in errors)

    def reported(self) -> tuple[Chunk, int] | None:
        """Return the chunk and job that the worker said it began and has not answered."""
        if self.started is not None:
            chunk, index = self.started
            if chunk in self.queue and chunk.next <= index < chunk.stop:
                return self.started
        return None

    def running(self) -> tuple[Chunk, int]:
        """Return the chunk and job that run now as far as can be known; the queue must not be empty."""
        head = self.queue[0]
        return self.reported() or (head, head.next)


class Fleet:
    """The live workers, by incarnation, by name and by level."""

    __slots__ = ("_by_name", "_open", "buckets", "live", "workers")

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}
        self._by_name: dict[str, Worker] = {}
        self.buckets: tuple[dict[int, Worker], ...] = ({}, {}, {}, {}, {})
        self._open = self.buckets[:SHUT]
        #: Workers that are not suspended: those that share the work.
        self.live = 0

    def add(self, worker: Worker) -> None:
        """Take a worker in."""
        self.workers[worker.number] = worker
        self._by_name[worker.name] = worker
        self.buckets[worker.level][worker.number] = worker
        self.live += 1
        self.place(worker)

    def remove(self, worker: Worker) -> None:
        """Take a worker out."""
        del self.workers[worker.number]
        del self._by_name[worker.name]
        del self.buckets[worker.level][worker.number]
        self.live -= not worker.suspended

    def named(self, name: str) -> Worker | None:
        """Return the live worker of that name."""
        return self._by_name.get(name)

    def place(self, worker: Worker) -> int:
        """Put a worker into the bucket where it belongs now, and return its level."""
        count = len(worker.queue)
        if worker.sealed or worker.suspended:
            level = SHUT
        elif worker.busy:
            level = BUSY if count < BUSY_CHUNKS else SHUT
        elif count < 2:
            level = count
        else:
            level = MORE if worker.backlog < HORIZON and count < MAX_CHUNKS else SHUT
        if level != worker.level:
            number = worker.number
            del self.buckets[worker.level][number]
            self.buckets[level][number] = worker
            worker.level = level
        return level

    def pick(self, targets: frozenset[str] | None) -> Worker | None:
        """Return the least loaded worker that may be given a chunk, or ``None``."""
        if targets is None:
            for bucket in self._open:
                if bucket:
                    return next(reversed(bucket.values()))
            return None
        found = [worker for name in targets if (worker := self._by_name.get(name)) and worker.level < SHUT]
        return min(found, key=lambda worker: (worker.level, worker.backlog, worker.number), default=None)

    def eligible(self, targets: frozenset[str] | None) -> int:
        """Return how many workers that are not suspended may run a group with these targets."""
        if targets is None:
            return self.live
        return sum(1 for name in targets if (worker := self._by_name.get(name)) and not worker.suspended)
