"""A client and its workers around the real scheduler, one step at a time, with an account of every job.

Workers are honest and nothing else: they run their chunks in order, send what is ready when told to, freeze,
die with outcomes unsent, or go on after they were declared lost. ``check`` compares the scheduler's books with
what happened; ``drain`` brings everything to its end.
"""

from __future__ import annotations

from collections import deque

from znb.schedule import Fail, Finished, Interrupt, Kill, Pull, Revoke, Scheduler, Send
from znb.schedule.fleet import BUSY, BUSY_CHUNKS, HORIZON, IDLE, MAX_CHUNKS, MORE, ONE, SHUT

DIED = "died of signal 9 (SIGKILL)"


def sends(commands):
    return [command for command in commands if isinstance(command, Send)]


def of(kind, commands):
    return [command for command in commands if isinstance(command, kind)]


def begin(jobs=0, *, workers=1, **options):
    """Return a scheduler with workers 1, 2, …, and group 1 with its jobs fed."""
    scheduler = Scheduler()
    for position in range(workers):
        scheduler.add_worker(f"w{position}", 0.0)
    scheduler.add_group(**options)
    if jobs:
        scheduler.feed(1, jobs)
    return scheduler


def answer(scheduler, send, now, seconds_each=0.001):
    count = send.stop - send.start
    return scheduler.results(send.chunk, send.start, count, now, count * seconds_each)


class ModelChunk:
    def __init__(self, send: Send) -> None:
        self.number = send.chunk
        self.group = send.group
        self.attempt = send.attempt
        self.waiting = deque(range(send.start, send.stop))
        self.running: int | None = None
        self.began = 0.0
        self.interrupted: set[int] = set()


class ModelWorker:
    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.inbox: deque = deque()
        self.chunks: deque[ModelChunk] = deque()
        self.unsent: list[tuple] = []
        self.outbox: deque[tuple] = deque()
        self.frozen = False
        self.cell = False

    def receive(self) -> None:
        """Read what has come."""
        while self.inbox:
            command = self.inbox.popleft()
            if isinstance(command, Send):
                self.chunks.append(ModelChunk(command))
                continue
            chunk = next((chunk for chunk in self.chunks if chunk.number == command.chunk), None)
            if isinstance(command, Revoke):
                given = [i for i in chunk.waiting if command.start <= i < command.stop] if chunk else []
                first = command.stop
                if given:
                    chunk.waiting = deque(i for i in chunk.waiting if i not in given)
                    first = max(command.start, given[0])
                    self.unsent.append(("revoked", command.chunk, first, command.stop))
                    if not chunk.waiting and chunk.running is None:
                        self.chunks.remove(chunk)
                else:
                    self.unsent.append(("revoked", command.chunk, first, first))
            elif chunk is not None and chunk.running == command.index:
                chunk.interrupted.add(command.index)

    def flush(self) -> None:
        """Hand what is ready to the socket; it arrives whatever becomes of the process."""
        self.outbox.extend(self.unsent)
        self.unsent.clear()


class Model:
    def __init__(self) -> None:
        self.now = 100.0
        self.scheduler = Scheduler(kill_grace=2.0)
        self.workers: dict[str, ModelWorker] = {}
        self.zombies: list[ModelWorker] = []
        self.options: dict[int, dict] = {}
        self.fed: dict[int, int] = {}
        self.ended: dict[int, dict[int, str]] = {}
        self.begun: dict[int, set[int]] = {}
        self.pulls: dict[int, int] = {}
        self.open: set[int] = set()
        self.finished: set[int] = set()
        self.taken: dict[int, int] = {}
        self.commands: list = []

    # --- what the client does ---------------------------------------------------------------------------

    def add_group(self, **options) -> int:
        group = self.scheduler.add_group(**options)
        self.options[group] = options
        self.fed[group] = self.pulls[group] = self.taken[group] = 0
        self.ended[group] = {}
        self.begun[group] = set()
        self.open.add(group)
        return group

    def feed(self, group: int, count: int) -> None:
        assert self.scheduler.feed(group, count) == self.fed[group]
        self.fed[group] += count
        self.pulls[group] = max(0, self.pulls[group] - count)

    def exhausted(self, group: int) -> None:
        self.open.discard(group)
        self.scheduler.exhausted(group)

    def take(self, group: int, count: int) -> None:
        self.taken[group] += count
        self.scheduler.taken(group, count)

    def cancel(self, group: int, index: int) -> None:
        assert self.scheduler.cancel(group, index) == (index not in self.ended[group])
        self.ended[group].setdefault(index, "cancelled")

    def cancel_group(self, group: int) -> None:
        self.open.discard(group)
        self.scheduler.cancel_group(group)
        for index in range(self.fed[group]):
            self.ended[group].setdefault(index, "cancelled")

    def add_worker(self, name: str) -> None:
        self.workers[name] = ModelWorker(self.scheduler.add_worker(name, self.now), name)

    def suspend(self, name: str) -> None:
        self.workers[name].frozen = True
        self.scheduler.suspend(self.workers[name].number)

    def resume(self, name: str) -> None:
        self.workers[name].frozen = False
        self.scheduler.resume(self.workers[name].number, self.now)

    def tick(self) -> list:
        commands = self.scheduler.tick(self.now)
        self.commands += commands
        for command in commands:
            self.obey(command)
        return commands

    def obey(self, command) -> None:
        by_number = {worker.number: worker for worker in self.workers.values()}
        if isinstance(command, Send | Revoke | Interrupt):
            worker = by_number.get(command.worker)
            if worker is None:  # killed by an earlier command of the same tick
                assert not isinstance(command, Send)
                return
            worker.inbox.append(command)
            if isinstance(command, Send):
                assert not worker.frozen
                targets = self.options[command.group].get("targets")
                assert targets is None or worker.name in targets
                for index in range(command.start, command.stop):
                    assert index not in self.ended[command.group]
                    assert command.attempt > 1 or index not in self.begun[command.group]
        elif isinstance(command, Pull):
            assert command.group in self.open
            assert command.count > 0
            self.pulls[command.group] += command.count
            limit = self.options[command.group].get("buffersize")
            ahead = self.fed[command.group] + self.pulls[command.group] - self.taken[command.group]
            assert limit is None or ahead <= limit
        elif isinstance(command, Fail):
            retries = self.options[command.group].get("retries", 2)
            assert len(command.attempts) == retries + 1 if command.kind == "lost" else True
            assert len(command.attempts) <= retries + 1
            self.end(command.group, command.index, command.kind)
        elif isinstance(command, Kill):
            if command.worker in by_number:
                self.kill(by_number[command.worker].name)
        elif isinstance(command, Finished):
            assert command.group not in self.open
            assert command.group not in self.finished
            assert len(self.ended[command.group]) == self.fed[command.group]
            self.finished.add(command.group)

    def end(self, group: int, index: int, how: str) -> None:
        assert 0 <= index < self.fed[group]
        assert index not in self.ended[group], f"job {index} ended twice"
        self.ended[group][index] = how

    # --- what workers do --------------------------------------------------------------------------------

    def step(self, name: str, how: str = "ok") -> bool:
        """Let a worker end its running job, or else begin one; return whether it had something to do."""
        return self._step(self.workers[name], how)

    def _step(self, worker: ModelWorker, how: str = "ok") -> bool:
        if worker.frozen:
            return False
        worker.receive()
        if not worker.chunks:
            return False
        chunk = worker.chunks[0]
        if chunk.running is not None:
            index, chunk.running = chunk.running, None
            how = "error" if index in chunk.interrupted else how
            worker.unsent.append(("result", chunk.number, chunk.group, index, how, self.now - chunk.began))
            if not chunk.waiting:
                worker.flush()
                worker.chunks.popleft()
            return True
        if worker.cell:
            return False
        chunk.running = chunk.waiting.popleft()
        chunk.began = self.now
        self.begun[chunk.group].add(chunk.running)
        if self.options[chunk.group].get("job_timeout"):
            worker.flush()
            worker.outbox.append(("started", chunk.number, chunk.running))
        return True

    def deliver(self, worker: ModelWorker, count: int = 10_000) -> None:
        """Let some messages of a worker arrive."""
        worker.receive() if not worker.frozen else None
        for _ in range(min(count, len(worker.outbox))):
            kind, chunk, *rest = worker.outbox.popleft()
            if kind == "started":
                self.scheduler.started(chunk, rest[0], self.now)
            elif kind == "revoked":
                self.scheduler.revoked(chunk, rest[0], rest[1], self.now)
            else:
                self.result(chunk, *rest)

    def result(self, chunk: int, group: int, index: int, how: str, run_time: float) -> None:
        errors = [index] if how == "error" else []
        retry = {index: "raised OSError"} if how == "retry" else None
        skip = self.scheduler.results(chunk, index, 1, self.now, run_time, errors, retry)
        if skip is None:
            return
        if index not in skip:
            self.end(group, index, "done" if how == "ok" else "error")

    def kill(self, name: str, *, ended: bool = True, charge: bool = True) -> None:
        """Let a worker die, or lose contact with it; what it has sent arrives first."""
        worker = self.workers.pop(name)
        if ended:
            worker.unsent.clear()
            self.deliver(worker)
        else:
            worker.frozen = False
            self.zombies.append(worker)
        charged = self.charged()
        self.scheduler.lose_worker(worker.number, "died of signal 9", self.now, charge=charge, ended=ended)
        lost = [command for command in self.scheduler._placement.out if isinstance(command, Fail)]
        grown = self.charged() - charged + sum(len(command.attempts) for command in lost if command.kind == "lost")
        assert grown <= charge or lost, "one death charged several jobs"

    def charged(self) -> int:
        return sum(len(known) for group in self.groups() for known in group.attempts.values())

    def advance(self, seconds: float) -> None:
        """Let time pass; what was ready has been sent by then."""
        if seconds > 0.05:
            for worker in self.workers.values():
                if not worker.frozen:
                    worker.flush()
                    self.deliver(worker)
        self.now += seconds

    # --- the account ------------------------------------------------------------------------------------

    def groups(self) -> list:
        return list(self.scheduler._groups.values())

    def places(self, group) -> dict[str, list[int]]:
        """Return the jobs of a group by where the scheduler has them."""
        placement = self.scheduler._placement
        queued = [*range(group.next, group.fed)]
        for start, stop, *_ in group.returned:
            queued += range(start, stop)
        chunks = [chunk for chunk in placement.chunks.values() if chunk.group is group]
        return {
            "queued": [index for index in queued if index not in group.dropped],
            "held": [
                index
                for worker in placement.holding.values()
                if worker.held.group is group
                for index in range(worker.held.next, worker.held.stop)
            ],
            "sent": [index for chunk in chunks for index in range(chunk.next, chunk.stop) if chunk.has(index)],
        }

    def check(self) -> None:
        self.check_groups()
        self.check_turns()
        self.check_workers()

    def check_groups(self) -> None:
        stats = {row.group: row for row in self.scheduler.stats().groups}
        pending = {(c.group, c.index) for c in self.scheduler._placement.out if isinstance(c, Fail)}
        for group in self.groups():
            ended = set(self.ended[group.number]) | {index for number, index in pending if number == group.number}
            places = self.places(group)
            alive = [index for jobs in places.values() for index in jobs]
            assert len(alive) == len(set(alive)), "a job is in two places"
            assert ended.isdisjoint(alive), "a job that ended is still to run"
            assert ended | set(alive) == set(range(group.fed)), (
                f"a job is lost: {set(range(group.fed)) - ended - set(alive)}"
            )
            row = stats[group.number]
            assert group.queued == len(places["queued"])
            assert row.queued == len(places["queued"]) + len(places["held"])
            assert row.running == len(places["sent"])
            assert row.done + row.failed + row.cancelled == len(ended)
            assert group.chunks == sum(
                chunk.group is group for chunk in self.scheduler._placement.chunks.values()
            ) + sum(w.held.group is group for w in self.scheduler._placement.holding.values())
            assert not group.queued or group.ready or (group.paused and not group.returned)
            for index, attempts in group.attempts.items():
                assert 0 < len(attempts) <= group.retries
                assert index in alive
        assert {group.number for group in self.groups()} | self.finished | {
            c.group for c in self.scheduler._placement.out if isinstance(c, Finished)
        } == set(self.options)

    def check_turns(self) -> None:
        turns = self.scheduler._placement.turns
        lined_up = [group.number for _, _, group in turns._heap]
        parked = {number for waiting in turns.parked.values() for number in waiting}
        assert len(lined_up) == len(set(lined_up)), "a group is in line twice"
        assert parked.isdisjoint(lined_up)
        assert {group.number for group in self.groups() if group.ready} <= parked.union(lined_up)

    def check_workers(self) -> None:
        placement = self.scheduler._placement
        fleet = placement.fleet
        assert {worker.number for worker in self.workers.values()} == set(fleet.workers)
        assert sum(len(bucket) for bucket in fleet.buckets) == len(fleet.workers)
        assert fleet.live == sum(not worker.suspended for worker in fleet.workers.values())
        queues = [chunk for worker in fleet.workers.values() for chunk in worker.queue]
        assert {chunk.number for chunk in queues} == set(placement.chunks)
        assert placement.stealer.pending == sum(chunk.stealing for chunk in queues)
        for worker in fleet.workers.values():
            assert worker.number in fleet.buckets[worker.level]
            assert abs(worker.backlog - sum(chunk.cost for chunk in worker.queue)) < 1e-6
            count = len(worker.queue)
            assert count <= MAX_CHUNKS
            assert not worker.sealed or count <= 1 or worker.held is not None
            assert all(chunk.next < chunk.stop for chunk in worker.queue)
            assert worker.sealed == (worker.held is not None or any(chunk.limit for chunk in worker.queue))
            expected = {IDLE: count == 0, ONE: count == 1, MORE: count >= 2 and worker.backlog < HORIZON}
            if worker.level == BUSY:
                assert worker.busy
                assert count < BUSY_CHUNKS
            elif worker.level != SHUT:
                assert expected[worker.level]
                assert not any((worker.sealed, worker.suspended, worker.busy))

    # --- the end ----------------------------------------------------------------------------------------

    def drain(self, names: tuple[str, ...] = ("w0", "w1", "w2", "w3")) -> None:
        """Bring everything to its end: every job must end, and nothing may be left in the books."""
        for name in names:
            if name not in self.workers:
                self.add_worker(name)
            self.resume(name)
            self.workers[name].cell = False
            self.scheduler.set_busy(self.workers[name].number, False, self.now)
        for group in self.groups():
            self.scheduler.resume_group(group.number)
        for group in sorted(self.open):
            self.exhausted(group)
        for _ in range(20_000):
            self.advance(0.06)
            self.tick()
            for name in names:
                if name not in self.workers:
                    self.add_worker(name)
                while self.step(name):
                    pass
                self.workers[name].flush()
                self.deliver(self.workers[name])
            for zombie in self.zombies:
                while self._step(zombie):
                    pass
                zombie.flush()
                self.deliver(zombie)
            self.check()
            if not self.groups():
                break
        self.tick()
        assert self.finished == set(self.options)
        placement = self.scheduler._placement
        assert not placement.chunks
        assert not placement.holding
        assert not placement.hungry
        assert placement.stealer.pending == 0
        for group, count in self.fed.items():
            assert len(self.ended[group]) == count
        stats = self.scheduler.stats()
        assert (stats.queued, stats.running) == (0, 0)
        assert stats.done + stats.failed + stats.cancelled == sum(self.fed.values())
