"""The scheduler's rules one by one; ``test_schedule_states.py`` has them in any order."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import msgspec
import pytest
from schedule_model import Model

from znb.errors import ProtocolError
from znb.schedule import Attempt, Fail, Finished, Interrupt, Kill, Pull, Revoke, Scheduler, Send
from znb.schedule.fleet import IDLE

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


# --- the ordinary course ------------------------------------------------------------------------------------


def test_a_job_goes_out_comes_back_and_its_group_finishes():
    scheduler = begin(1)
    assert scheduler.tick(0.0) == [Send(worker=1, chunk=1, group=1, start=0, stop=1, attempt=1)]
    assert scheduler.results(1, 0, 1, 0.1, 0.1) == ()
    scheduler.exhausted(1)
    assert scheduler.tick(0.1) == [Finished(1)]
    stats = scheduler.stats()
    assert (stats.done, stats.queued, stats.running, stats.groups) == (1, 0, 0, ())


def test_results_may_come_in_parts():
    scheduler = begin(5, chunksize=5)
    scheduler.tick(0.0)
    assert scheduler.results(1, 0, 2, 0.1, 0.1) == ()
    assert scheduler.stats().workers[0].running == 3
    assert scheduler.results(1, 2, 3, 0.2, 0.1, errors=[4]) == set()
    group = scheduler.stats().groups[0]
    assert (group.done, group.failed, group.running) == (4, 1, 0)
    assert scheduler.stats().workers[0].failed == 1


def test_an_empty_group_finishes_when_its_source_ends():
    scheduler = begin(0)
    scheduler.exhausted(1)
    scheduler.exhausted(1)
    assert scheduler.tick(0.0) == [Finished(1)]
    scheduler.taken(1, 1)
    scheduler.cancel_group(1)
    assert scheduler.cancel(1, 0) is False
    assert scheduler.tick(0.0) == []


def test_jobs_without_a_worker_wait_and_stats_say_so():
    scheduler = begin(3, workers=0)
    assert scheduler.tick(0.0) == []
    group = scheduler.stats().groups[0]
    assert (group.queued, group.eligible) == (3, 0)
    scheduler.add_worker("w0", 5.0)
    assert sends(scheduler.tick(5.0))


def test_commands_and_records_are_frozen():
    scheduler = begin(1)
    (send,) = scheduler.tick(0.0)
    with pytest.raises(AttributeError):
        send.start = 5
    with pytest.raises(AttributeError):
        scheduler.stats().done = 5
    assert msgspec.structs.asdict(send)["stop"] == 1


def test_a_million_jobs_are_a_few_integers():
    scheduler = begin(1_000_000, workers=2)
    commands = scheduler.tick(0.0)
    group = scheduler._groups[1]
    assert len(commands) == 4
    assert (len(group.returned), len(group.dropped), len(group.attempts)) == (0, 0, 0)


def test_counted_bytes_are_shown():
    scheduler = begin(0)
    scheduler.count_bytes(1, sent=5)
    scheduler.count_bytes(1, received=7)
    scheduler.count_bytes(99, sent=1)
    worker = scheduler.stats().workers[0]
    assert (worker.sent_bytes, worker.received_bytes) == (5, 7)


# --- wrong use ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"retries": -1}, "retries"),
        ({"chunksize": 0}, "chunksize"),
        ({"buffersize": 0}, "buffersize"),
        ({"job_timeout": 0.0}, "job_timeout"),
        ({"job_timeout": float("inf")}, "job_timeout"),
        ({"weight": 0.0}, "weight"),
        ({"targets": []}, "targets"),
    ],
)
def test_an_option_out_of_range_is_refused(options, name):
    with pytest.raises(ValueError, match=name):
        Scheduler().add_group(**options)


def test_a_closed_group_takes_no_jobs():
    scheduler = begin(1)
    scheduler.exhausted(1)
    with pytest.raises(ValueError, match="takes no more jobs"):
        scheduler.feed(1, 1)


def test_a_name_is_used_once_at_a_time():
    scheduler = begin(0)
    with pytest.raises(ValueError, match="w0 is here already, as incarnation 1"):
        scheduler.add_worker("w0", 1.0)
    scheduler.lose_worker(1, DIED, 1.0)
    assert scheduler.add_worker("w0", 2.0) == 2


@pytest.mark.parametrize(
    ("chunk", "first", "count"),
    [(1, 1, 1), (1, 0, 0), (1, 0, 4), (2, 3, 3)],
    ids=["gap", "none", "beyond", "not first"],
)
def test_outcomes_out_of_order_are_a_protocol_error(chunk, first, count):
    scheduler = begin(6, chunksize=3)
    scheduler.tick(0.0)
    with pytest.raises(ProtocolError, match="worker w0 reported jobs"):
        scheduler.results(chunk, first, count, 0.1, 0.1)
    assert scheduler.stats().running == 6


def test_an_outcome_of_a_revoked_job_is_a_protocol_error():
    scheduler = begin(4, chunksize=4)
    scheduler.tick(0.0)
    scheduler.cancel(1, 2)
    scheduler.revoked(1, 2, 3, 0.1)
    with pytest.raises(ProtocolError):
        scheduler.results(1, 0, 4, 0.2, 0.1)
    assert scheduler.results(1, 0, 2, 0.2, 0.1) == set()
    assert scheduler.results(1, 3, 1, 0.3, 0.1) == set()
    assert scheduler.stats().groups[0].done == 3


# --- chunks and windows -------------------------------------------------------------------------------------


def test_a_worker_gets_two_chunks_and_no_more_while_nothing_is_known():
    assert len(sends(begin(100).tick(0.0))) == 2


def test_chunks_double_up_to_the_target_time():
    scheduler = begin(1_000_000)
    sizes, now = [], 0.0
    queue = sends(scheduler.tick(now))
    for _ in range(24):
        send = queue.pop(0)
        sizes.append(send.stop - send.start)
        now += sizes[-1] * 1e-5
        answer(scheduler, send, now, 1e-5)
        queue += sends(scheduler.tick(now))
    assert sizes[:4] == [1, 1, 2, 2]
    assert 990 <= max(sizes) <= 1000  # 10 ms of 10 µs
    assert sizes == sorted(sizes)


def test_chunks_shrink_towards_the_end():
    scheduler = begin(4000, workers=2)
    scheduler.exhausted(1)
    sizes, now = [], 0.0
    queue = sends(scheduler.tick(now))
    while queue:
        send = queue.pop(0)
        sizes.append(send.stop - send.start)
        now += 1e-3
        answer(scheduler, send, now, 1e-4)
        queue += sends(scheduler.tick(now))
    assert sum(sizes) == 4000
    assert max(sizes) == 100
    assert sizes[-1] <= 10  # one millisecond of work


def test_many_submitted_no_ops_form_batches():
    scheduler = begin(0, workers=2)
    now, queue, sent = 0.0, [], 0
    for _ in range(200):
        scheduler.feed(1, 50)
        now += 1e-4
        queue += sends(scheduler.tick(now))
        sent += len(queue)
        for send in queue:
            answer(scheduler, send, now, 1e-6)
        queue = sends(scheduler.tick(now))
    assert sent < 10_000 / 20


def test_a_given_chunksize_is_kept_and_short_ones_fill_a_deeper_window():
    scheduler = begin(1000, chunksize=10)
    first = sends(scheduler.tick(0.0))
    assert {send.stop - send.start for send in first} == {10}
    for send in first:
        answer(scheduler, send, 0.001, 1e-6)
    assert 2 < len(sends(scheduler.tick(0.001))) <= 128


def test_the_least_loaded_worker_comes_first():
    scheduler = begin(2, workers=2)
    assert {send.worker for send in sends(scheduler.tick(0.0))} == {1, 2}
    scheduler.results(1, 0, 1, 0.1, 0.1)
    free = next(iter(scheduler._placement.fleet.buckets[IDLE]))
    scheduler.feed(1, 1)
    assert [send.worker for send in sends(scheduler.tick(0.1))] == [free]


def test_a_worker_busy_with_a_cell_gets_one_chunk_and_only_when_the_others_are_full():
    scheduler = begin(0, workers=2)
    scheduler.set_busy(1, True, 0.0)
    scheduler.feed(1, 1)
    assert [send.worker for send in sends(scheduler.tick(0.0))] == [2]
    scheduler.feed(1, 50)
    assert sorted(send.worker for send in sends(scheduler.tick(0.0))) == [1, 2]
    scheduler.set_busy(1, False, 0.1)
    assert [send.worker for send in sends(scheduler.tick(0.1))] == [1]
    scheduler.set_busy(99, True, 0.1)


def test_a_suspended_worker_gets_nothing_until_it_is_resumed():
    scheduler = begin(10)
    scheduler.suspend(1)
    scheduler.suspend(1)
    assert scheduler.tick(0.0) == []
    assert scheduler.stats().workers[0].state == "suspended"
    scheduler.resume(1)
    scheduler.resume(1)
    assert len(sends(scheduler.tick(0.1))) == 2


# --- targets and fairness -----------------------------------------------------------------------------------


def test_a_group_limited_to_workers_runs_there_alone_and_does_not_hold_up_others():
    scheduler = begin(10, workers=2, targets=["w1"], chunksize=1)
    assert [send.worker for send in sends(scheduler.tick(0.0))] == [2, 2]
    other = scheduler.add_group()
    scheduler.feed(other, 1)
    assert [(send.worker, send.group) for send in sends(scheduler.tick(0.0))] == [(1, other)]
    scheduler.lose_worker(2, DIED, 10.0)
    assert sends(scheduler.tick(10.0)) == []
    assert scheduler.stats().groups[0].eligible == 0
    assert scheduler.add_worker("w1", 11.0) == 3
    assert {send.worker for send in sends(scheduler.tick(11.0))} == {3}


def test_a_finished_group_that_was_set_aside_is_let_go():
    scheduler = begin(10, targets=["w7"])
    scheduler.tick(0.0)
    scheduler.cancel_group(1)
    assert scheduler.tick(0.0) == [Finished(1)]
    assert not scheduler._placement.turns._parked


def test_a_submit_beside_a_huge_map_takes_the_next_turn():
    scheduler = begin(100_000, chunksize=10)
    queue = sends(scheduler.tick(0.0))
    for now in (0.1, 0.2, 0.3):
        answer(scheduler, queue.pop(0), now, 0.01)
        queue += sends(scheduler.tick(now))
    other = scheduler.add_group()
    scheduler.feed(other, 1)
    answer(scheduler, queue.pop(0), 0.4, 0.01)
    assert [send.group for send in sends(scheduler.tick(0.4))] == [other]


@pytest.mark.parametrize(("weight", "share"), [(1.0, 0.5), (3.0, 0.75)])
def test_groups_share_time_not_jobs_by_their_weights(weight, share):
    scheduler = begin(10_000)
    scheduler.add_group(weight=weight)
    scheduler.feed(2, 100_000)
    seconds = {1: 0.01, 2: 0.0005}
    now, spent, queue = 0.0, {1: 0.0, 2: 0.0}, sends(scheduler.tick(0.0))
    while now < 5.0:
        send = queue.pop(0)
        took = (send.stop - send.start) * seconds[send.group]
        now += took
        spent[send.group] += took
        answer(scheduler, send, now, seconds[send.group])
        queue += sends(scheduler.tick(now))
    assert spent[2] / now == pytest.approx(share, abs=0.03)


# --- the source ---------------------------------------------------------------------------------------------


def test_little_is_pulled_while_nobody_takes_and_nothing_is_known():
    scheduler = begin(0, workers=2, pulled=True)
    assert scheduler.tick(0.0) == [Pull(1, 4)]
    assert scheduler.tick(0.0) == []


def test_a_slow_consumer_stops_the_source():
    model = Model()
    model.add_worker("w0")
    model.add_worker("w1")
    group = model.add_group(pulled=True)
    for _ in range(2000):
        model.tick()
        if model.pulls[group]:
            model.feed(group, model.pulls[group])
        model.step("w0")
        model.step("w1")
        model.advance(0.06)
    ahead = model.fed[group]
    assert 1000 < ahead <= 1024 + 8
    model.take(group, len(model.ended[group]))
    assert of(Pull, model.tick())
    model.drain(("w0", "w1"))


def test_buffersize_bounds_what_is_ahead_of_the_consumer():
    scheduler = begin(0, pulled=True, buffersize=3)
    assert of(Pull, scheduler.tick(0.0)) == [Pull(1, 2)]
    scheduler.feed(1, 2)
    assert of(Pull, scheduler.tick(0.0)) == [Pull(1, 1)]
    scheduler.feed(1, 1)
    for _ in range(3):
        for number in list(scheduler._placement.chunks):
            chunk = scheduler._placement.chunks[number]
            scheduler.results(number, chunk.next, 1, 0.1, 0.1)
        assert of(Pull, scheduler.tick(0.1)) == []
    scheduler.taken(1, 2)
    assert of(Pull, scheduler.tick(0.1)) == [Pull(1, 2)]


def test_pulls_are_whole_chunks():
    scheduler = begin(0, workers=3, pulled=True, chunksize=7, buffersize=40)
    assert of(Pull, scheduler.tick(0.0)) == [Pull(1, 35)]


def test_a_new_worker_asks_for_more():
    scheduler = begin(0, pulled=True)
    scheduler.tick(0.0)
    scheduler.add_worker("w1", 0.0)
    scheduler.suspend(1)
    scheduler.resume(1)
    assert scheduler.tick(0.0) == [Pull(1, 2)]


# --- death --------------------------------------------------------------------------------------------------


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


# --- exceptions that are retried ----------------------------------------------------------------------------


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


# --- time limits --------------------------------------------------------------------------------------------


def test_the_job_that_overran_fails_is_interrupted_and_then_its_worker_is_killed():
    scheduler = begin(3, job_timeout=10.0, chunksize=3)
    scheduler.tick(0.0)
    scheduler.results(1, 0, 1, 5.0, 5.0)
    scheduler.started(1, 1, 5.0)
    assert scheduler.next_deadline() <= 15.0
    assert scheduler.tick(14.9) == []
    assert scheduler.tick(15.0) == [Fail(1, 1, "timeout", ()), Interrupt(1, 1, 1)]
    assert scheduler.tick(16.9) == []
    (kill,) = of(Kill, scheduler.tick(17.0))
    assert kill.worker == 1
    assert "job 1 of group 1" in kill.reason
    scheduler.lose_worker(1, "was killed", 17.1)
    scheduler.add_worker("w0", 17.2)
    assert [(send.start, send.stop, send.attempt) for send in sends(scheduler.tick(17.2))] == [(2, 3, 1)]
    group = scheduler.stats().groups[0]
    assert (group.failed, group.retried) == (1, 0)


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


# --- cancelling ---------------------------------------------------------------------------------------------


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


# --- stealing -----------------------------------------------------------------------------------------------


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


# --- balance, in virtual time -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulate():
    path = Path(__file__).parents[1] / "benchmarks" / "simulate.py"
    spec = importlib.util.spec_from_file_location("simulate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("workers", [2, 4, 16])
@pytest.mark.parametrize("where", ["random", "first", "last", "together"])
@pytest.mark.parametrize("seconds", [1e-5, 1e-4, 1e-3])
def test_uneven_jobs_end_within_a_fifth_of_the_ideal(simulate, workers, where, seconds):
    count = min(100_000, int(workers * 1.5 / seconds))
    long = max(2, count // 400)
    chosen = {
        "random": random.Random(3).sample(range(count), long),
        "first": range(long),
        "last": range(count - long, count),
        "together": range(count // 2, count // 2 + long),
    }[where]
    durations = [seconds] * count
    for index in chosen:
        durations[index] = 300 * seconds
    simulation = simulate.Simulation(simulate.Listed(durations), speeds=[1.0] * workers)
    makespan = simulation.run(count)
    assert makespan <= 1.2 * max(sum(durations) / workers, max(durations))


def test_slow_workers_get_less(simulate):
    simulation = simulate.Simulation(simulate.Even(0.001), speeds=[1.0, 1.0, 4.0])
    assert simulation.run(3000) <= 1.2 * 3000 * 0.001 / 2.25


def test_one_job_each_for_many_workers(simulate):
    simulation = simulate.Simulation(simulate.Even(0.1), speeds=[1.0] * 500)
    assert simulation.run(500, pulled=False) <= 0.1 + 3 * simulate.LATENCY


def test_the_table_is_printed(simulate, capsys):
    simulate.table(400, [4], [1, None], 0.001)
    assert len(capsys.readouterr().out.splitlines()) == 4
