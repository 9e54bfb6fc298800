from __future__ import annotations

import threading

import msgspec
import pytest

from znb.collector import INTERVAL, INTERVAL_LIVE, PATIENCE, Collector
from znb.errors import WorkerLost, ZnbError
from znb.rpc import Lost
from znb.spans import OpenSpan, Process, Recorder
from znb.traces import Feed, Request, Store
from znb.traces.feed import SPANS_MAX


class Reactor:
    """Makes calls at once; timers when told to."""

    stopped = on_thread = forked = False

    def __init__(self):
        self.timers = []

    def call_soon(self, fn, *args):
        fn(*args)

    def call_later(self, delay, fn, *args):
        self.timers.append((delay, fn, args))
        return self

    def cancel(self):
        self.timers.clear()

    def tick(self):
        """Make the call that waits; return for how long it did."""
        delay, fn, args = self.timers.pop()
        fn(*args)
        return delay


class Link:
    """A worker that answers when told to."""

    def __init__(self, name="w0"):
        self.name = name
        self.recorder = Recorder(1 << 14)
        self.feed = Feed(self.recorder, None, Process(self.recorder.key, name, "h", 1, "boot"))
        self.questions = []
        self.at_once = True

    def control_nowait(self, method, args, handler):
        assert method == "_znb_spans"
        request = msgspec.convert(args, Request)
        self.questions.append((request, handler))
        if self.at_once:
            self.answer()

    def answer(self):
        request, handler = self.questions[-1]
        handler(msgspec.msgpack.encode(self.feed.answer(request)))

    def work(self, count=1, trace_id=5):
        class Parent:
            span_id, live, used = 9, 0, False

        Parent.trace_id = trace_id
        for number in range(count):
            self.recorder.record(Parent, f"job{number}", "job", 1, 2)


@pytest.fixture
def made():
    recorder, reactor, link = Recorder(1 << 10), Reactor(), Link()
    store = Store(Feed(recorder))
    collector = Collector(reactor, store, recorder)
    collector.open()
    collector.add_worker(link)
    yield collector, store, recorder, reactor, link
    collector.close()
    collector.close()
    assert recorder.on_remote == ()


def spans_of(store, trace_id=5):
    data = store.assemble(trace_id)
    return 0 if data is None else len(data)


def test_nothing_is_asked_before_something_remote_is_done(made):
    _, _, recorder, reactor, link = made
    assert reactor.timers == []
    recorder.touch()
    recorder.touch()
    assert len(reactor.timers) == 1
    assert link.questions == []


def test_workers_are_asked_until_they_have_no_news(made):
    _, store, recorder, reactor, link = made
    recorder.touch()
    link.work(3)
    assert reactor.tick() == INTERVAL
    assert spans_of(store) == 3
    for _ in range(PATIENCE + 1):
        reactor.tick()
    assert reactor.timers == []
    asked = len(link.questions)
    link.work()
    recorder.touch()
    reactor.tick()
    assert len(link.questions) == asked + 1
    assert spans_of(store) == 4


def test_a_watched_trace_is_followed_closely_and_without_end(made):
    _, _, recorder, reactor, link = made
    with OpenSpan(recorder, "root", "trace", live=10):
        recorder.touch()
        for _ in range(3 * PATIENCE):
            assert reactor.tick() == INTERVAL_LIVE
        assert link.questions[-1][0].with_open


def test_a_long_answer_comes_in_pieces(made):
    collector, store, _, _, link = made
    link.work(2 * SPANS_MAX + 1)
    assert collector.collect(0)
    assert spans_of(store) == 2 * SPANS_MAX + 1
    assert len(link.questions) == 3


def test_collecting_waits_for_an_answer_to_a_question_of_its_own(made):
    collector, store, recorder, reactor, link = made
    link.at_once = False
    recorder.touch()
    reactor.tick()
    assert not collector.collect(0)
    assert len(link.questions) == 1
    link.answer()  # to the first question, which may have been before what we want
    assert len(link.questions) == 2
    link.work()
    done = threading.Event()
    collector._collect(done.set)
    link.answer()
    assert not done.is_set()
    link.answer()
    assert done.is_set()
    assert spans_of(store) == 1


def test_a_worker_that_is_lost_holds_nobody_up_and_is_told(made):
    collector, store, _, _, link = made
    with OpenSpan(link.recorder, "stuck", live=1) as stuck:
        assert collector.collect(0)
        link.at_once = False
        done = threading.Event()
        collector._collect(done.set)
        collector.lose_worker(link, WorkerLost("w0", "was killed by SIGKILL"))
        assert done.is_set()
        collector.lose_worker(link, ZnbError("again"))
        data = store.assemble(stuck.trace_id)
    assert data.status(0) == "lost"
    assert any("SIGKILL" in note for note in data.notes)


def test_a_question_that_is_lost_or_answered_with_nonsense(made, caplog):
    collector, store, _, _, link = made
    link.at_once = False
    for answer in (Lost(ZnbError("gone")), b"nonsense"):
        done = threading.Event()
        collector._collect(done.set)
        link.questions[-1][1](answer)
        assert done.is_set()
    assert store.stats().damaged == 1
    assert "damaged" in caplog.text


def test_a_cluster_without_workers_has_nothing_to_wait_for():
    recorder = Recorder(8)
    collector = Collector(Reactor(), Store(Feed(recorder)), recorder)
    assert collector.collect(0)


def test_after_the_end_nothing_is_waited_for(made):
    collector, _, _, reactor, _ = made
    reactor.stopped = True
    assert not collector.collect(10)
