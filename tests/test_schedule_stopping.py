"""Time limits and cancelling: jobs that end while a worker still has them."""

from __future__ import annotations

import pytest

from schedule_model import DIED, answer, begin, of, sends
from znb.schedule import Attempt, Fail, Finished, Interrupt, Kill, Revoke

# --- time limits -----------------------------------------------------------------------------------------


def test_the_job_that_overran_fails_is_interrupted_and_then_its_worker_is_killed():
    scheduler = begin(3, job_timeout=10.0, chunksize=3)
    scheduler.tick(0.0)
    scheduler.results(1, 0, 1, 5.0, 5.0)
    scheduler.started(1, 1, 5.0)
    assert scheduler.next_deadline() <= 15.0
    assert scheduler.tick(14.9) == []
    assert scheduler.tick(15.0) == [Fail(1, 1, "timeout", ()), Interrupt(1, 1, 1, late=True)]
    assert scheduler.tick(16.9) == []
    (kill,) = of(Kill, scheduler.tick(17.0))
    assert kill.worker == 1
    assert (kill.group, kill.index, kill.grace) == (1, 1, 2.0)
    scheduler.lose_worker(1, "was killed", 17.1)
    scheduler.add_worker("w0", 17.2)
    assert [(send.start, send.stop, send.attempt) for send in sends(scheduler.tick(17.2))] == [(2, 3, 1)]
    group = scheduler.stats().groups[0]
    assert (group.failed, group.retried) == (1, 0)


def test_a_job_that_overran_runs_again_until_the_retries_are_used_up():
    scheduler = begin(1, job_timeout=10.0, retry_timeouts=True, retries=1)
    scheduler.tick(0.0)
    scheduler.started(1, 0, 0.0)
    scheduler.add_worker("w1", 9.0)
    again = scheduler.tick(10.0)
    assert of(Fail, again) == []
    assert of(Interrupt, again) == [Interrupt(1, 1, 0, late=True)]
    (send,) = sends(again)
    assert (send.start, send.attempt) == (0, 2)
    assert scheduler.results(1, 0, 1, 10.1, 10.1, errors=[0]) == {0}
    scheduler.started(send.chunk, 0, 11.0)
    (failed,) = of(Fail, scheduler.tick(21.0))
    assert failed == Fail(1, 0, "timeout", (Attempt("w0", "ran for longer than 10 s"),))
    group = scheduler.stats().groups[0]
    assert (group.failed, group.retried) == (1, 1)


def test_a_job_that_heeds_its_interrupt_lets_the_next_ones_go_on():
    scheduler = begin(2, job_timeout=10.0, chunksize=2)
    scheduler.tick(0.0)
    scheduler.started(1, 0, 0.0)
    scheduler.tick(10.0)
    assert scheduler.results(1, 0, 1, 10.1, 10.1, errors=[0]) == {0}
    assert scheduler.tick(15.0) == []
    assert scheduler.results(1, 1, 1, 16.0, 5.0) == set()
    group = scheduler.stats().groups[0]
    assert (group.done, group.failed) == (1, 1)
    worker = scheduler.stats().workers[0]
    assert (worker.done, worker.failed, worker.cancelled) == (2, 1, 0)


def test_nobody_is_charged_when_the_kill_comes_after_the_job_let_go():
    scheduler = begin(2, job_timeout=10.0, chunksize=2)
    scheduler.tick(0.0)
    scheduler.started(1, 0, 0.0)
    scheduler.tick(10.0)
    assert of(Kill, scheduler.tick(12.0))
    scheduler.results(1, 0, 1, 12.1, 12.1, errors=[0])
    scheduler.lose_worker(1, "was killed", 12.2)
    assert scheduler.stats().retried == 0
    assert scheduler.stats().queued == 1


def test_the_limit_counts_from_the_reported_start():
    scheduler = begin(1, job_timeout=10.0)
    scheduler.tick(0.0)
    scheduler.started(1, 0, 100.0, elapsed=4.0)
    assert scheduler.tick(105.9) == []
    assert of(Fail, scheduler.tick(106.0))


def test_a_job_that_keeps_its_worker_from_reporting_is_presumed_to_have_begun():
    scheduler = begin(1, job_timeout=10.0)
    scheduler.tick(0.0)
    assert scheduler.tick(10.5) == []
    assert of(Fail, scheduler.tick(11.0))


def test_the_limit_does_not_run_while_somebody_elses_cell_does():
    scheduler = begin(1, job_timeout=10.0)
    scheduler.tick(0.0)
    scheduler.set_busy(1, True, 1.0)
    assert scheduler.tick(500.0) == []
    scheduler.set_busy(1, False, 500.0)
    assert scheduler.tick(510.0) == []
    assert of(Fail, scheduler.tick(511.0))


def test_outcomes_from_before_do_not_stop_the_clock_of_a_reported_job():
    scheduler = begin(3, job_timeout=10.0, chunksize=3)
    scheduler.tick(0.0)
    scheduler.started(1, 2, 0.0)
    scheduler.results(1, 0, 2, 8.0, 0.1)
    assert of(Fail, scheduler.tick(10.0)) == [Fail(1, 2, "timeout", ())]


def test_a_job_without_a_limit_behind_one_with_is_not_timed():
    scheduler = begin(1, job_timeout=1.0)
    scheduler.add_group()
    scheduler.tick(0.0)
    scheduler.feed(2, 1)
    scheduler.tick(0.0)
    scheduler.results(1, 0, 1, 0.5, 0.5)
    assert scheduler.tick(100.0) == []


def test_a_million_short_jobs_under_a_long_limit_leave_no_timers():
    scheduler = begin(2000, job_timeout=1000.0, chunksize=1)
    now, queue = 0.0, sends(scheduler.tick(0.0))
    while queue:
        send = queue.pop(0)
        now += 0.01
        answer(scheduler, send, now)
        queue += sends(scheduler.tick(now))
    assert len(scheduler._placement.deadlines._heap) == 1


# --- cancelling ------------------------------------------------------------------------------------------


def test_a_waiting_job_is_dropped_at_once():
    scheduler = begin(10, chunksize=2)
    assert scheduler.cancel(1, 1)
    assert not scheduler.cancel(1, 1)
    assert scheduler.cancel(1, 9)
    assert not scheduler.cancel(1, 10)
    assert not scheduler.cancel(7, 0)
    sent, now = [], 0.0
    queue = sends(scheduler.tick(now))
    while queue:
        send = queue.pop(0)
        sent += range(send.start, send.stop)
        now += 0.1
        answer(scheduler, send, now)
        queue += sends(scheduler.tick(now))
    assert sent == [0, 2, 3, 4, 5, 6, 7, 8]


def test_a_running_job_is_interrupted_and_one_behind_it_revoked():
    scheduler = begin(3, chunksize=3)
    scheduler.tick(0.0)
    assert scheduler.cancel(1, 2)
    assert scheduler.tick(0.1) == [Revoke(1, 1, 2, 3)]
    assert scheduler.cancel(1, 0)
    assert scheduler.tick(0.1) == [Revoke(1, 1, 0, 1), Interrupt(1, 1, 0)]
    scheduler.revoked(1, 2, 3, 0.2)
    scheduler.revoked(1, 1, 1, 0.2)
    assert scheduler.results(1, 0, 1, 0.3, 0.1, errors=[0]) == {0}
    assert scheduler.results(1, 1, 1, 0.4, 0.1) == set()
    group = scheduler.stats().groups[0]
    assert (group.done, group.cancelled, group.failed, group.running) == (1, 2, 0, 0)
    worker = scheduler.stats().workers[0]
    assert (worker.done, worker.failed, worker.cancelled) == (2, 0, 1)  # the other one was never its own
    assert not scheduler.cancel(1, 1)


def test_a_cancelled_job_that_had_begun_after_all_is_interrupted():
    scheduler = begin(3, chunksize=3)
    scheduler.tick(0.0)
    scheduler.cancel(1, 1)
    assert scheduler.tick(0.1) == [Revoke(1, 1, 1, 2)]
    scheduler.revoked(1, 2, 2, 0.2)
    assert scheduler.tick(0.2) == [Interrupt(1, 1, 1)]
    scheduler.results(1, 0, 1, 0.3, 0.1)
    assert scheduler.tick(0.3) == []


def test_a_cancelled_job_that_comes_to_run_is_interrupted():
    scheduler = begin(3, chunksize=3)
    scheduler.tick(0.0)
    scheduler.cancel(1, 1)
    scheduler.tick(0.1)
    scheduler.results(1, 0, 1, 0.3, 0.1)
    assert scheduler.tick(0.3) == [Interrupt(1, 1, 1)]


def test_cancelling_many_futures_in_a_row_is_one_revoke():
    scheduler = begin(100, chunksize=50)
    scheduler.tick(0.0)
    for index in range(10, 100):
        assert scheduler.cancel(1, index)
    assert scheduler.tick(0.1) == [Revoke(1, 1, 10, 50), Revoke(1, 2, 50, 100)]
    scheduler.revoked(1, 10, 50, 0.2)
    scheduler.revoked(2, 50, 100, 0.2)
    scheduler.results(1, 0, 10, 0.3, 0.1)
    scheduler.exhausted(1)
    assert scheduler.tick(0.3) == [Finished(1)]


def test_cancelling_a_group_frees_the_workers():
    scheduler = begin(1000, workers=2, chunksize=5)
    scheduler.tick(0.0)
    scheduler.cancel(1, 7)
    scheduler.cancel_group(1)
    scheduler.cancel_group(1)
    commands = scheduler.tick(0.1)
    assert len(of(Interrupt, commands)) == 2
    assert len(of(Revoke, commands)) >= 4
    assert scheduler.stats().cancelled == 1000
    for chunk in list(scheduler._placement.chunks.values()):
        scheduler.revoked(chunk.number, chunk.next + 1, chunk.stop, 0.2)
    for chunk in list(scheduler._placement.chunks.values()):
        assert set(scheduler.results(chunk.number, chunk.next, 1, 0.3, 0.1)) == {chunk.next - 1}
    assert scheduler.tick(0.3)[-1] == Finished(1)


def test_a_cancelled_job_is_not_charged_nor_run_again_when_its_worker_dies():
    scheduler = begin(2, chunksize=2)
    scheduler.tick(0.0)
    scheduler.cancel(1, 0)
    scheduler.lose_worker(1, DIED, 1.0)
    scheduler.add_worker("w0", 1.0)
    commands = scheduler.tick(1.0)
    assert [(send.start, send.stop) for send in sends(commands)] == [(1, 2)]
    assert scheduler.stats().retried == 0


def test_a_job_that_is_held_back_can_be_cancelled():
    scheduler = begin(2)
    scheduler.tick(0.0)
    exclusive = scheduler.add_group(retries=0)
    scheduler.feed(exclusive, 1)
    scheduler.results(1, 0, 1, 0.1, 0.1)
    scheduler.tick(0.1)
    assert scheduler._placement.holding
    assert scheduler.cancel(exclusive, 0)
    assert not scheduler._placement.holding
    assert scheduler.stats().cancelled == 1


@pytest.mark.parametrize("how", ["cancel", "suspend", "lose"])
def test_what_is_held_back_returns_to_the_queue(how):
    scheduler = begin(2)
    scheduler.tick(0.0)
    exclusive = scheduler.add_group(retries=0)
    scheduler.feed(exclusive, 2)
    scheduler.results(1, 0, 1, 0.1, 0.1)
    scheduler.tick(0.1)
    if how == "cancel":
        scheduler.cancel_group(exclusive)
        assert of(Finished, scheduler.tick(0.2)) == [Finished(exclusive)]
    elif how == "suspend":
        scheduler.suspend(1)
        assert scheduler._groups[exclusive].queued == 2
    else:
        scheduler.lose_worker(1, DIED, 0.2)
        assert scheduler._groups[exclusive].queued == 2
    assert not scheduler._placement.holding


def test_a_cancelled_job_that_ignores_its_interrupt_costs_its_worker_the_life_after_a_longer_grace():
    scheduler = begin(2, chunksize=1)
    scheduler.tick(0.0)
    assert scheduler.cancel(1, 0)
    assert of(Interrupt, scheduler.tick(1.0)) == [Interrupt(1, 1, 0)]
    assert of(Kill, scheduler.tick(10.9)) == []
    assert of(Kill, scheduler.tick(11.0)) == [Kill(1, 1, 0, 10.0)]


def test_a_cancelled_job_that_heeds_its_interrupt_does_not_endanger_the_next():
    scheduler = begin(2, chunksize=1)
    scheduler.tick(0.0)
    assert scheduler.cancel(1, 0)
    scheduler.tick(1.0)
    scheduler.results(1, 0, 1, 1.1, 1.1, errors=[0])
    assert of(Kill, scheduler.tick(12.0)) == []
    assert scheduler.stats().running == 1


def test_a_worker_that_runs_somebody_elses_cell_is_not_killed_for_a_cancelled_job():
    scheduler = begin(1)
    scheduler.tick(0.0)
    assert scheduler.cancel(1, 0)
    scheduler.tick(1.0)
    scheduler.set_busy(1, True, 2.0)
    assert of(Kill, scheduler.tick(12.0)) == []
