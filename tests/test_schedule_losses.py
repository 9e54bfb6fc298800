"""What becomes of jobs whose worker died, or that raised what is to be retried."""

from __future__ import annotations

import random

from schedule_model import DIED, Model, answer, begin, of, sends
from znb.schedule import Attempt, Fail

# --- death -----------------------------------------------------------------------------------------------


def test_only_the_running_job_is_charged_and_the_rest_moves_at_once():
    scheduler = begin(2)
    scheduler.tick(0.0)
    scheduler.lose_worker(1, DIED, 5.0)
    scheduler.lose_worker(1, DIED, 5.0)
    group = scheduler.stats().groups[0]
    assert (group.queued, group.retried) == (2, 1)
    scheduler.add_worker("w0", 5.0)
    scheduler.add_worker("w1", 5.0)
    again = sends(scheduler.tick(5.0))
    assert {(send.start, send.stop, send.attempt) for send in again} == {(0, 1, 2), (1, 2, 1)}
    assert scheduler._groups[1].attempts == {0: (Attempt("w0", DIED),)}
    assert scheduler.stats().lost_workers == 1


def test_a_job_that_kills_its_workers_fails_and_its_chunk_completes():
    model = Model()
    group = model.add_group(chunksize=50)
    model.feed(group, 200)
    deaths = 0
    for _ in range(2000):
        if "w0" not in model.workers:
            model.add_worker("w0")
        model.tick()
        model.step("w0")
        worker = model.workers["w0"]
        if worker.chunks and worker.chunks[0].running == 77:
            deaths += 1
            model.kill("w0")  # what was ready dies with it
        else:
            model.deliver(worker)
        model.advance(0.001)
    model.drain(("w0",))
    (failed,) = of(Fail, model.commands)
    assert (failed.index, failed.kind) == (77, "lost")
    assert failed.attempts == (Attempt("w0", "died of signal 9"),) * 3
    assert sum(how == "done" for how in model.ended[group].values()) == 199
    assert deaths <= 6


def test_a_culprit_behind_innocents_is_found_though_every_outcome_dies_with_its_worker():
    # Each worker runs two jobs, and dies in job 1 before the outcome of the one in front was sent.
    model = Model()
    group = model.add_group(chunksize=1)
    model.feed(group, 40)
    for _ in range(3000):
        if "w0" not in model.workers:
            model.add_worker("w0")
        model.tick()
        worker = model.workers["w0"]
        model.step("w0")
        if worker.chunks and worker.chunks[0].running == 1:
            worker.unsent.clear()
            worker.outbox.clear()
            model.kill("w0")
        model.now += 0.001
        worker.flush()
        model.deliver(worker) if random.Random(model.now).random() < 0.2 and "w0" in model.workers else None
    model.drain(("w0",))
    assert [(f.index, f.kind) for f in of(Fail, model.commands)] == [(1, "lost")]


def test_no_job_is_lost_in_a_storm_of_kills():
    rng = random.Random(7)
    model = Model()
    group = model.add_group(pulled=True)
    for round_ in range(300_000):
        for name in ("w0", "w1", "w2"):
            if name not in model.workers:
                model.add_worker(name)
        model.tick()
        left = 20_000 - model.fed[group]
        if left and model.pulls[group]:
            model.feed(group, min(left, model.pulls[group]))
        name = rng.choice(("w0", "w1", "w2"))
        for _ in range(4):
            model.step(name)
        if rng.random() < 0.3:
            model.workers[name].flush()
        model.deliver(model.workers[name])
        model.take(group, len(model.ended[group]) - model.taken[group])
        model.now += 0.0005
        if round_ % 40 == 39:
            model.kill(rng.choice(("w0", "w1", "w2")))
        if round_ % 1000 == 999:
            model.check()
        if len(model.ended[group]) == 20_000:
            break
    model.drain(("w0", "w1", "w2"))
    assert set(model.ended[group].values()) == {"done"}
    assert model.scheduler.stats().lost_workers > 150


def test_results_that_were_ready_before_the_death_count():
    scheduler = begin(3, chunksize=3)
    scheduler.tick(0.0)
    scheduler.results(1, 0, 2, 0.1, 0.1)
    scheduler.lose_worker(1, DIED, 0.2)
    scheduler.add_worker("w0", 0.3)
    assert [(send.start, send.stop) for send in sends(scheduler.tick(0.3))] == [(2, 3)]


def test_late_results_of_a_lost_worker_are_ignored():
    scheduler = begin(1)
    (send,) = scheduler.tick(0.0)
    scheduler.lose_worker(1, "was not heard of", 1.0, ended=False)
    scheduler.add_worker("w0", 1.0)
    (again,) = scheduler.tick(1.0)
    assert (again.worker, again.attempt) == (2, 2)
    assert answer(scheduler, send, 1.1) is None
    scheduler.started(send.chunk, 0, 1.1)
    scheduler.revoked(send.chunk, 0, 1, 1.1)
    assert answer(scheduler, again, 1.2) == set()
    assert answer(scheduler, again, 1.2) is None
    assert scheduler.stats().done == 1


def test_a_charged_job_waits_for_an_idle_worker_and_has_it_alone():
    scheduler = begin(10, workers=2, chunksize=1)
    scheduler.tick(0.0)
    scheduler.lose_worker(1, DIED, 1.0)
    assert sends(scheduler.tick(1.0)) == []
    own = [chunk for chunk in scheduler._placement.chunks.values() if chunk.worker.number == 2]
    scheduler.results(own[0].number, own[0].next, 1, 1.1, 0.1)
    assert sends(scheduler.tick(1.1)) == []  # kept for the charged job until the second chunk is done
    assert scheduler.stats().groups[0].queued == 8
    scheduler.results(own[1].number, own[1].next, 1, 1.2, 0.1)
    (alone,) = sends(scheduler.tick(1.2))
    assert (alone.stop - alone.start, alone.attempt) == (1, 2)
    assert sends(scheduler.tick(1.3)) == []


def test_a_death_after_a_stop_on_request_charges_nobody():
    scheduler = begin(2)
    scheduler.tick(0.0)
    scheduler.lose_worker(1, "was stopped", 1.0, charge=False)
    assert scheduler.stats().retried == 0
    scheduler.add_worker("w0", 1.0)
    assert [send.attempt for send in sends(scheduler.tick(1.0))] == [2, 1]


def test_a_death_in_somebody_elses_cell_charges_nobody():
    scheduler = begin(1)
    scheduler.set_busy(1, True, 0.0)
    scheduler.tick(0.0)
    scheduler.lose_worker(1, DIED, 1.0)
    assert scheduler.stats().retried == 0
    scheduler.add_worker("w0", 1.0)
    assert [send.attempt for send in sends(scheduler.tick(1.0))] == [1]


def test_the_job_that_was_reported_as_begun_is_the_one_charged():
    scheduler = begin(5, chunksize=5)
    scheduler.tick(0.0)
    scheduler.started(1, 3, 0.1)
    scheduler.lose_worker(1, DIED, 0.2)
    assert list(scheduler._groups[1].attempts) == [3]


def test_after_a_silence_only_the_oldest_job_can_have_begun():
    scheduler = begin(5, chunksize=5)
    scheduler.tick(0.0)
    scheduler.lose_worker(1, DIED, 1.0)
    scheduler.add_worker("w0", 1.0)
    attempts = {}
    for now in range(1, 9):
        for send in sends(scheduler.tick(float(now))):
            attempts |= dict.fromkeys(range(send.start, send.stop), send.attempt)
            answer(scheduler, send, now + 0.1)
    assert attempts == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1}


def test_without_retries_a_job_has_its_worker_alone_and_runs_at_most_once():
    scheduler = begin(3, retries=0)
    (send,) = scheduler.tick(0.0)
    assert send.stop == 1
    scheduler.lose_worker(1, DIED, 0.01)
    scheduler.add_worker("w0", 0.02)
    failed, again = scheduler.tick(0.02)
    assert failed == Fail(1, 0, "lost", (Attempt("w0", DIED),))
    assert (again.start, again.stop, again.attempt) == (1, 2, 1)


def test_an_exclusive_job_moves_when_another_worker_is_idle_first():
    scheduler = begin(4, workers=2, chunksize=1)
    first = sends(scheduler.tick(0.0))
    scheduler.results(first[0].chunk, first[0].start, 1, 0.1, 0.1)
    exclusive = scheduler.add_group(retries=0)
    scheduler.feed(exclusive, 1)
    assert scheduler.tick(0.1) == []
    (holder,) = scheduler._placement.holding
    for send in first[1:]:
        if send.worker != holder:
            scheduler.results(send.chunk, send.start, 1, 0.2, 0.1)
    assert [(send.group, send.worker) for send in sends(scheduler.tick(0.2))] == [(exclusive, 3 - holder)]


# --- exceptions that are retried -------------------------------------------------------------------------


def test_an_exception_named_by_retry_on_runs_again_until_the_retries_are_used_up():
    scheduler = begin(1, retries=1)
    scheduler.tick(0.0)
    assert scheduler.results(1, 0, 1, 0.1, 0.1, retry={0: "raised OSError"}) == {0}
    (again,) = scheduler.tick(0.1)
    assert again.attempt == 2
    assert scheduler.results(2, 0, 1, 0.2, 0.1, retry={0: "raised OSError"}) == set()
    group = scheduler.stats().groups[0]
    assert (group.failed, group.retried, group.running) == (1, 1, 0)
    assert scheduler._groups[1].attempts == {}
