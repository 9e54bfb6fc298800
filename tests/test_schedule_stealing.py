"""Moving jobs from slow, busy and suspended workers to idle ones."""

from __future__ import annotations

from schedule_model import answer, begin, of, sends
from znb.schedule import Revoke


def test_an_idle_worker_takes_what_waits_behind_a_long_job_once_that_is_confirmed():
    scheduler = begin(4, workers=2, chunksize=1)
    first = sends(scheduler.tick(0.0))
    mine = [send for send in first if send.worker == 2]
    for now, send in zip((0.01, 0.02), mine, strict=True):
        answer(scheduler, send, now, 0.01)
    (revoke,) = scheduler.tick(0.1)
    behind = [send for send in first if send.worker == 1][1]
    assert revoke == Revoke(1, behind.chunk, behind.start, behind.stop)
    assert scheduler.tick(0.2) == []
    scheduler.revoked(behind.chunk, behind.start, behind.stop, 0.3)
    (again,) = sends(scheduler.tick(0.3))
    assert (again.worker, again.start, again.attempt) == (2, behind.start, 1)


def test_a_denied_steal_changes_nothing():
    scheduler = begin(4, workers=2, chunksize=1)
    first = sends(scheduler.tick(0.0))
    for send in [send for send in first if send.worker == 2]:
        answer(scheduler, send, 0.01)
    (revoke,) = scheduler.tick(0.1)
    scheduler.revoked(revoke.chunk, revoke.stop, revoke.stop, 0.2)
    for send in [send for send in first if send.worker == 1]:
        assert answer(scheduler, send, 0.3) == ()
    assert scheduler._placement.stealer.pending == 0
    assert scheduler.stats().done == 4


def test_a_chunk_that_has_begun_to_its_end_is_not_asked_for_again():
    scheduler = begin(21, workers=2, chunksize=20)
    first = sends(scheduler.tick(0.0))
    (short,) = (send for send in first if send.stop - send.start == 1)
    (long,) = (send for send in first if send is not short)
    answer(scheduler, short, 0.001, 0.001)
    assert len(of(Revoke, scheduler.tick(0.002))) == 1
    scheduler.revoked(long.chunk, long.stop, long.stop, 0.003)
    assert scheduler.tick(9.0) == []
    assert scheduler.next_deadline() is None


def test_the_time_of_a_cell_does_not_make_a_worker_look_stuck():
    scheduler = begin(2, workers=2, chunksize=1)
    for send in sends(scheduler.tick(0.0)):
        answer(scheduler, send, 0.1, 1e-6)
    scheduler.suspend(2)
    scheduler.set_busy(1, True, 0.1)
    scheduler.feed(1, 1)
    assert sends(scheduler.tick(0.1))
    scheduler.set_busy(1, False, 100.0)
    scheduler.resume(2, 100.0)
    assert scheduler.tick(100.0) == []


def test_half_of_a_running_chunk_is_taken_and_all_behind_a_stuck_job():
    scheduler = begin(41, workers=2, chunksize=20)
    first = sends(scheduler.tick(0.0))
    assert [send.stop - send.start for send in first] == [20, 20, 1]
    for send in [send for send in first if send.worker == first[2].worker]:
        answer(scheduler, send, 0.001, 0.001)
    other = next(send for send in first if send.worker != first[2].worker)
    assert of(Revoke, scheduler.tick(0.002)) == [Revoke(other.worker, other.chunk, other.start + 10, other.stop)]
    scheduler.revoked(other.chunk, other.start + 10, other.stop, 0.003)
    (moved,) = sends(scheduler.tick(0.003))
    answer(scheduler, moved, 0.02, 0.001)
    assert of(Revoke, scheduler.tick(1.0)) == [Revoke(other.worker, other.chunk, other.start + 1, other.start + 10)]


def test_the_queue_of_a_suspended_worker_moves_when_it_says_so():
    scheduler = begin(2, workers=2)
    first = {send.worker: send for send in sends(scheduler.tick(0.0))}
    scheduler.suspend(1)
    answer(scheduler, first[2], 0.1)
    assert of(Revoke, scheduler.tick(0.1)) == [Revoke(1, first[1].chunk, first[1].start, first[1].stop)]
    assert scheduler.tick(10.0) == []
    assert scheduler.next_deadline() is None


def test_little_work_is_not_worth_a_steal_until_the_worker_is_silent():
    scheduler = begin(2, workers=2, chunksize=1)
    for send in sends(scheduler.tick(0.0)):
        answer(scheduler, send, 0.1, 1e-6)
    scheduler.feed(1, 4)
    second = sends(scheduler.tick(0.1))
    for send in second:
        if send.worker == 2:
            answer(scheduler, send, 0.1, 1e-6)
    assert scheduler.tick(0.1) == []
    assert scheduler.tick(scheduler.next_deadline()) == []
    assert 0.1 < scheduler.next_deadline() < 0.106
    (revoke,) = scheduler.tick(0.106)
    assert (revoke.worker, revoke.stop - revoke.start) == (1, 1)
    assert scheduler.next_deadline() is None


def test_what_is_limited_to_one_worker_is_not_stolen():
    scheduler = begin(2, workers=2, targets=["w0"], chunksize=1)
    scheduler.tick(0.0)
    assert scheduler.tick(5.0) == []
    assert scheduler.next_deadline() is None
