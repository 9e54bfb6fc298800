"""Property tests of the scheduler: any order of events, with the invariants checked after each."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from schedule_model import Model
from znb.schedule import Kill

NAMES = ("w0", "w1", "w2", "w3")
names = st.sampled_from(NAMES)
picks = st.integers(0, 10**6)


class ScheduleMachine(RuleBasedStateMachine):
    """Events in any order around real books; see ``schedule_model`` for what is asserted."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def pick(self, pick: int) -> int | None:
        """Return one of the groups that are not finished."""
        groups = [group.number for group in self.model.groups()]
        return groups[pick % len(groups)] if groups else None

    @initialize(count=st.integers(0, 4))
    def begin(self, count):
        for name in NAMES[:count]:
            self.model.add_worker(name)

    # --- the client -------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.groups()) < 4)
    @rule(
        retries=st.integers(0, 2),
        job_timeout=st.sampled_from([None, None, 1.0]),
        chunksize=st.sampled_from([None, None, 1, 3]),
        buffersize=st.sampled_from([None, 1, 8]),
        weight=st.sampled_from([1.0, 4.0]),
        only=st.sampled_from([None, None, None, ["w0"], ["w1", "w2"]]),
        count=st.integers(0, 60),
        pulled=st.booleans(),
    )
    def open_group(self, count, pulled, only, **options):
        group = self.model.add_group(pulled=pulled, targets=only, **options)
        if not pulled:
            self.model.feed(group, count)

    @rule(pick=picks, count=st.integers(1, 40))
    def feed(self, pick, count):
        group = self.pick(pick)
        if group in self.model.open:
            pulled = self.model.options[group]["pulled"]
            count = min(count, self.model.pulls[group]) if pulled else count
            if count:
                self.model.feed(group, count)

    @rule(pick=picks)
    def exhaust(self, pick):
        group = self.pick(pick)
        if group in self.model.open:
            self.model.exhausted(group)

    @rule(pick=picks)
    def take(self, pick):
        group = self.pick(pick)
        if group is not None:
            ready = len(self.model.ended[group]) - self.model.taken[group]
            self.model.take(group, min(5, ready))

    @rule(pick=picks, paused=st.booleans())
    def pause(self, pick, paused):
        group = self.pick(pick)
        if group is not None:
            scheduler = self.model.scheduler
            scheduler.pause_group(group) if paused else scheduler.resume_group(group)

    @rule(pick=picks, index=picks)
    def cancel(self, pick, index):
        group = self.pick(pick)
        if group is not None and self.model.fed[group]:
            self.model.tick()
            if group not in self.model.finished:
                self.model.cancel(group, index % self.model.fed[group])

    @rule(pick=picks)
    def cancel_group(self, pick):
        group = self.pick(pick)
        if group is not None and pick % 3 == 0:
            self.model.tick()
            if group not in self.model.finished:
                self.model.cancel_group(group)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.01, 0.3, 1.2, 3.0]))
    def tick(self, seconds):
        self.model.advance(seconds)
        self.model.tick()

    @precondition(lambda self: self.model.scheduler.next_deadline() is not None)
    @rule()
    def sleep_until_deadline(self):
        self.model.advance(max(0.0, self.model.scheduler.next_deadline() - self.model.now))
        while any(isinstance(command, Kill) for command in self.model.tick()):
            pass  # what the model does about a kill is the next event
        deadline = self.model.scheduler.next_deadline()
        assert deadline is None or deadline > self.model.now

    # --- workers ----------------------------------------------------------------------------------------

    @rule(name=names)
    def add_worker(self, name):
        if name not in self.model.workers:
            self.model.add_worker(name)

    @rule(name=names, steps=st.integers(1, 12), how=st.sampled_from(["ok", "ok", "ok", "error", "retry"]))
    def run(self, name, steps, how):
        if name in self.model.workers:
            for _ in range(steps):
                self.model.step(name, how)

    @rule(name=names, flush=st.booleans(), count=st.integers(1, 20))
    def deliver(self, name, flush, count):
        worker = self.model.workers.get(name)
        if worker is not None and not worker.frozen:
            if flush:
                worker.flush()
            self.model.deliver(worker, count)

    @rule(name=names, ended=st.booleans(), charge=st.booleans())
    def lose_worker(self, name, ended, charge):
        if name in self.model.workers:
            self.model.tick()
            if name in self.model.workers:
                self.model.kill(name, ended=ended, charge=charge)

    @precondition(lambda self: self.model.zombies)
    @rule(pick=picks)
    def zombie_runs(self, pick):
        zombie = self.model.zombies[pick % len(self.model.zombies)]
        for _ in range(5):
            self.model._step(zombie)
        zombie.flush()
        self.model.deliver(zombie)

    @rule(name=names, frozen=st.booleans())
    def freeze(self, name, frozen):
        if name in self.model.workers:
            self.model.suspend(name) if frozen else self.model.resume(name)

    @rule(name=names, busy=st.booleans())
    def cell(self, name, busy):
        worker = self.model.workers.get(name)
        if worker is not None and not worker.frozen and not any(c.running is not None for c in worker.chunks):
            worker.cell = busy
            worker.flush()
            self.model.deliver(worker)
            self.model.scheduler.set_busy(worker.number, busy, self.model.now)

    # --- always -----------------------------------------------------------------------------------------

    @invariant()
    def books_are_right(self):
        self.model.check()

    def teardown(self):
        self.model.drain()


TestSchedule = ScheduleMachine.TestCase
TestSchedule.settings = settings(
    max_examples=300,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
