"""The scheduler's rules one by one: the ordinary course, sizes, turns and sources. Any order of events is in
``test_schedule_states.py``.
"""

from __future__ import annotations

import msgspec
import pytest

from schedule_model import DIED, Model, answer, begin, of, sends
from znb.errors import ProtocolError
from znb.schedule import Finished, Pull, Scheduler, Send
from znb.schedule.fleet import IDLE

# --- the ordinary course ---------------------------------------------------------------------------------


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


# --- wrong use -------------------------------------------------------------------------------------------


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


# --- chunks and windows ----------------------------------------------------------------------------------


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


def test_a_worker_busy_with_a_cell_gets_a_few_chunks_and_only_when_the_others_are_full():
    scheduler = begin(0, workers=2)
    scheduler.set_busy(1, True, 0.0)
    scheduler.feed(1, 1)
    assert [send.worker for send in sends(scheduler.tick(0.0))] == [2]
    scheduler.feed(1, 50)
    assert sorted(send.worker for send in sends(scheduler.tick(0.0))) == [1, 1, 1, 2]
    scheduler.set_busy(1, False, 0.1)
    assert sends(scheduler.tick(0.1)) == []
    scheduler.set_busy(99, True, 0.1)


def test_a_suspended_worker_gets_nothing_until_it_is_resumed():
    scheduler = begin(10)
    scheduler.suspend(1)
    scheduler.suspend(1)
    assert scheduler.tick(0.0) == []
    assert scheduler.stats().workers[0].state == "suspended"
    scheduler.resume(1, 0.0)
    scheduler.resume(1, 0.0)
    assert len(sends(scheduler.tick(0.1))) == 2


# --- targets and fairness --------------------------------------------------------------------------------


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
    assert not scheduler._placement.turns.parked


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


# --- the source ------------------------------------------------------------------------------------------


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
    scheduler.resume(1, 0.0)
    assert scheduler.tick(0.0) == [Pull(1, 2)]


def test_a_paused_group_sends_nothing_new_but_what_came_back():
    scheduler = begin(10, workers=2, chunksize=1)
    first = [command for command in scheduler.tick(0.0) if isinstance(command, Send)]
    scheduler.pause_group(1)
    for command in first:
        scheduler.results(command.chunk, command.start, 1, 0.1, 0.01)
    assert scheduler.tick(0.1) == []
    scheduler.feed(1, 5)
    assert scheduler.tick(0.2) == []
    scheduler.resume_group(1)
    sent = [command for command in scheduler.tick(0.3) if isinstance(command, Send)]
    assert sent[0].start == first[-1].stop
    scheduler.pause_group(1)
    scheduler.lose_worker(sent[0].worker, "died", 0.4)
    for command in sent:
        if command.worker != sent[0].worker:
            scheduler.results(command.chunk, command.start, 1, 0.4, 0.01)
    again = [command for command in scheduler.tick(0.4) if isinstance(command, Send)]
    assert [(command.start, command.attempt) for command in again] == [(sent[0].start, 2)]


def test_pausing_a_group_that_is_gone_does_nothing():
    scheduler = begin(0)
    scheduler.pause_group(7)
    scheduler.resume_group(7)
    assert scheduler.tick(0.0) == []
