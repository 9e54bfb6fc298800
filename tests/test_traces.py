from __future__ import annotations

import math
import time
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_harness import wait_until
from made_traces import BASE, PROCESSES, Made, make_samples, make_trace, random_spans
from znb.errors import ProtocolError
from znb.profiler import Sampler
from znb.spans import OpenSpan, OptionalSpan, Process, Recorder
from znb.spans.adopted import Adopted
from znb.spans.ring import Cursor
from znb.spans.samples import Frame, SampleTable
from znb.spans.table import pack_entries
from znb.traces import Batch, Feed, Parts, Request, Store, TraceData, analysis, assemble, decode_batch
from znb.traces.clock import DRIFT, Estimate, Interval, RoundTrips, chain
from znb.traces.listing import duration
from znb.traces.model import SpanList
from znb.traces.pieces import pieces
from znb.traces.text import Roots, text_tree
from znb.traces.unseen import unseen_ns, unseen_text

CLIENT, W0, W1 = PROCESSES


def entry(span_id, parent_id, start, end, name="a", kind="span", status="ok", attributes=None, events=None):
    return (0, 0xABC, span_id, parent_id, name, kind, start, end, status, 1, attributes, events)


def part(*entries):
    return pack_entries(entries, str)[0]


def parts_of(spans: dict[Process, list[tuple]], opened: dict[Process, list[tuple]] | None = None) -> Parts:
    parts = Parts(0xABC)
    for process, entries in spans.items():
        parts.add(process, part(*entries))
    for process, entries in (opened or {}).items():
        parts.set_open(process, part(*entries))
    return parts


# -- the model


@given(random_spans())
def test_every_span_is_there_once_and_its_parent_right(made):
    data = make_trace(made)
    assert len(data) == len(made)
    rows = [row for row, _ in data.walk()]
    assert sorted(rows) == list(range(len(made)))
    for row, span in enumerate(made):
        assert data.parent[row] == span.parent
        assert [*data.children(row)] == sorted(
            (child for child, other in enumerate(made) if other.parent == row), key=lambda child: made[child].start
        )
    assert data.start_ns == BASE
    assert data.end_ns == BASE + max(span.end for span in made)


@given(st.lists(st.integers(-1, 12), max_size=12))
def test_whatever_a_file_says_of_parents_every_row_is_reached_once(parents):
    data = make_trace([Made("a", 0, 1, parent) for parent in parents])
    assert sorted(row for row, _ in data.walk()) == list(range(len(parents)))


def test_a_span_as_an_object():
    data = make_trace([Made("a", 0, 10), Made("b", 2, 5, 0, 1, "serve", attributes={"x": 1})])
    root, below = SpanList(data, range(2))
    assert (root.parent_id, below.parent_id) == (None, f"{1:016x}")
    assert (below.name, below.kind, below.status, below.worker, below.host, below.pid) == (
        "b",
        "serve",
        "ok",
        "w0",
        "here",
        101,
    )
    assert below.attributes == {"x": 1}
    assert below.duration == pytest.approx(3e-9)
    assert below.trace_id == f"{0xABC:032x}"
    assert data.row_of(below) == 1
    with pytest.raises(KeyError):
        data.row_of("ff")
    assert data.path(1) == [0, 1]
    assert root.worker == "pid 100"
    spans = SpanList(data, range(2))
    assert list(spans[1:]) == [below]
    assert repr(spans).splitlines()[1].split() == ["a", "span", "10", "ns", "ok", "pid", "100"]


def test_a_deep_tree_needs_no_stack():
    data = make_trace([Made("a", 0, 10, number - 1) for number in range(20_000)])
    assert max(depth for _, depth in data.walk()) == 19_999
    assert len(analysis.critical_path(data)) <= 20_000
    assert sum(analysis.self_ns(data)) == 10
    assert analysis.by_path(make_trace([Made("a", 0, 10, number - 1) for number in range(300)]))
    assert text_tree(data)


def test_an_empty_trace():
    data = make_trace([])
    assert (len(data), data.seconds, data.roots) == (0, 0.0, [])
    assert len(analysis.critical_path(data)) == 0
    assert analysis.self_times(data) == []
    assert "empty trace" in text_tree(data)


# -- clocks


@given(
    st.integers(-(10**15), 10**15),
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=20),
)
def test_the_true_offset_is_within_the_bound(offset, trips):
    known, now = RoundTrips(), 10**12
    for there, back in trips:
        known.add(now, now + there + back, now + there + offset)
        now += there + back + 1000
    estimate = known.interval(now).estimate()
    assert abs(estimate.offset_ns - offset) <= estimate.error_ns
    assert estimate.error_ns <= min(there + back for there, back in trips) / 2 + DRIFT * (now - 10**12) + 2
    assert estimate.consistent


def test_a_clock_that_was_set_is_noticed():
    trips = RoundTrips()
    trips.add(0, 100, 50)
    trips.add(1000, 1100, 10**9)
    estimate = trips.interval(1100).estimate()
    assert abs(estimate.offset_ns - (10**9 - 1050)) <= estimate.error_ns
    assert RoundTrips().interval(0).estimate() is None


def test_offsets_are_chained_along_the_surest_pairs():
    found = chain(
        "a",
        {
            ("a", "b"): Interval(90, 110),
            ("c", "b"): Interval(-6, -4),
            ("a", "c"): Interval(0, 1000),
            ("d", "e"): Interval(1, 2),
        },
    )
    assert found["b"] == Estimate(100, 11)
    assert found["c"].offset_ns == 105
    assert found["c"].error_ns == 13
    assert "d" not in found
    assert Interval(5, 1).estimate().consistent is False


# -- assembling


def test_parts_of_several_processes_become_one_tree():
    parts = parts_of({CLIENT: [entry(1, 0, 100, 200, "root")], W0: [entry(2, 1, 120, 160, "below")]})
    parts.add(W0, part(entry(3, 2, 130, 140, "leaf")))
    data = assemble(parts, CLIENT, epoch_ns=10**18)
    assert [(data.name(row), depth) for row, depth in data.walk()] == [("root", 0), ("below", 1), ("leaf", 2)]
    assert data.table.start_ns[0] == 10**18 + 100
    assert data.notes == []
    assert data.clocks == []


def test_a_span_that_came_twice_is_there_once():
    parts = parts_of(
        {CLIENT: [entry(1, 0, 1, 9, "root"), entry(1, 0, 1, 9, "root"), entry(2, 1, 2, 5, "b", attributes={"x": 1})]},
        {CLIENT: [entry(2, 1, 2, 0, "b", status="open"), entry(3, 1, 3, 0, "c", status="open")]},
    )
    data = assemble(parts, CLIENT, epoch_ns=0)
    assert [data.span(row).name for row in range(len(data))] == ["root", "b", "c"]
    assert data.span(1).attributes == {"x": 1}
    assert data.span(1).end_ns == 5
    assert data.span(2).end_ns is None
    assert data.status(2) == "open"
    assert any("1 span has not ended" in note for note in data.notes)


@given(st.integers(-(10**14), 10**14), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**7))
def test_no_child_seems_to_begin_before_its_parent_by_more_than_the_bound(offset, there, back, took):
    start = 10**15
    call = entry(1, 0, start, start + there + took + back, "call", "call")
    serve = entry(2, 1, start + there + offset, start + there + took + offset, "serve", "serve")
    data = assemble(parts_of({CLIENT: [call], W1: [serve]}), CLIENT, epoch_ns=0)
    (clock,) = data.clocks
    assert clock.process == W1
    assert abs(clock.offset_ns - offset) <= clock.error_ns
    assert data.table.start_ns[1] >= data.table.start_ns[0] - clock.error_ns
    assert data.table.end_ns[1] <= data.table.end_ns[0] + clock.error_ns


def test_round_trips_make_the_bound_tighter():
    parts = parts_of({CLIENT: [entry(1, 0, 0, 10**9, "call")], W1: [entry(2, 1, 5 * 10**8 + 777, 6 * 10**8 + 777)]})
    wide = assemble(parts, CLIENT, epoch_ns=0).clocks[0]
    tight = assemble(parts, CLIENT, epoch_ns=0, intervals={W1.key: Interval(700, 800)}).clocks[0]
    assert tight.error_ns < 100 < wide.error_ns
    assert abs(tight.offset_ns - 777) <= tight.error_ns


def test_a_process_two_hops_away_is_put_on_our_clock():
    far = Process("far", "w9", "far away", 9, "boot-c")
    parts = parts_of({
        CLIENT: [entry(1, 0, 1000, 2000, "a")],
        W1: [entry(2, 1, 501_200, 501_800, "b"), entry(3, 2, 501_300, 501_700, "c")],
        far: [entry(4, 3, 91_400, 91_600, "d")],
    })  # fmt: skip
    data = assemble(parts, CLIENT, epoch_ns=0)
    starts = [data.table.start_ns[row] for row in range(4)]
    assert starts == sorted(starts)
    assert all(data.table.end_ns[row] <= data.table.end_ns[row - 1] for row in range(1, 4))


def test_clocks_that_cannot_be_compared_or_disagree_are_told():
    alone = assemble(parts_of({CLIENT: [entry(1, 0, 0, 9)], W1: [entry(2, 77, 5, 6)]}), CLIENT, epoch_ns=0)
    assert any("is not known" in note for note in alone.notes)
    strange = {
        CLIENT: [entry(1, 0, 0, 100), entry(3, 0, 200, 300)],
        W1: [entry(2, 1, 5000, 5010), entry(4, 3, 9000, 9010)],
    }
    data = assemble(parts_of(strange), CLIENT, epoch_ns=0)
    assert any("another rate" in note for note in data.notes)


def test_calls_both_ways_narrow_one_interval():
    both = {
        CLIENT: [entry(1, 0, 0, 1000), entry(4, 3, 520, 540)],
        W1: [entry(2, 1, 5400, 5600), entry(3, 2, 5510, 5550)],
    }
    data = assemble(parts_of(both), CLIENT, epoch_ns=0)
    assert data.clocks[0].error_ns <= 12


def test_what_a_lost_process_had_open_is_lost():
    parts = parts_of(
        {CLIENT: [entry(1, 0, 0, 90, "call", status="error")]}, {W0: [entry(2, 1, 10, 0, "serve", status="open")]}
    )
    data = assemble(parts, CLIENT, epoch_ns=0, lost={W0.key: "was killed by SIGKILL", "other": "x"})
    assert data.status(1) == "lost"
    assert data.span(1).end_ns is None
    assert data.events(1)[0].attributes == {"reason": "was killed by SIGKILL"}
    assert [note for note in data.notes if "w0 was killed by SIGKILL; what it had not told" in note]
    assert "lost" in text_tree(data)


def test_what_is_missing_is_told():
    parts = parts_of({CLIENT: [entry(1, 0, 0, 9)], W0: [entry(2, 99, 1, 2)]})
    parts.dropped = 5
    notes = assemble(parts, CLIENT, epoch_ns=0, missed={W0.key: 7, "other": 3}).notes
    assert any("7 spans of w0" in note for note in notes)
    assert any("1 span stands alone" in note for note in notes)
    assert any(note.startswith("5 spans found no room") for note in notes)
    assert len(notes) == 3


def test_a_trace_takes_no_more_than_its_share():
    parts = Parts(0xABC, bytes_max=5000)
    for number in range(1, 300):
        parts.add(CLIENT, part(entry(number, 0, 1, 2)))
    assert parts.size_bytes <= 5000
    assert parts.dropped + len(parts.tables[CLIENT]) == 299
    assert parts.root_name() == "a"
    assert Parts(1).root_name() == ""


def test_samples_of_several_processes_are_merged():
    recorder = Recorder(64)
    sampler = Sampler(recorder)
    sampler.install()
    with OpenSpan(recorder, "root", "trace", None, None, 1) as root:
        wait_until(lambda: sampler.stats().rounds > 5, "samples")
    sampler.close()
    feed = Feed(recorder, sampler)
    batch = decode_batch(msgspec.msgpack.encode(feed.answer(Request())))
    parts = Parts(root.trace_id)
    for found in batch.spans:
        parts.add(batch.process, found)
    for sampled in batch.samples:
        parts.add_samples(batch.process, sampled)
    data = assemble(parts, batch.process)
    assert len(data.samples) > 3
    assert data.start_ns <= min(data.samples.time_ns)
    assert abs(data.start_ns - time.time_ns()) < 60e9
    assert analysis.self_times(data)[0].running is not None


# -- feed and store


def test_a_feed_sends_each_span_once():
    recorder = Recorder(64)
    feed = Feed(recorder, None, W0)
    with OpenSpan(recorder, "outer", live=1):
        with OpenSpan(recorder, "inner"):
            pass
        first = feed.answer(Request(with_open=True))
        assert [found.strings for found in first.spans] == [["inner"]]
        assert [found.strings for found in first.opened] == [["outer"]]
    second = feed.answer(first.next_request())
    assert [found.strings for found in second.spans] == [["outer"]]
    assert second.opened == []
    assert feed.answer(second.next_request()).spans == []
    assert len(feed.answer(Request("another process", (99, 0), (99, 0))).spans) == 1
    assert feed.process is W0


def test_a_feed_limits_its_answers_and_tells_what_was_overwritten():
    recorder = Recorder(16)
    feed = Feed(recorder, None, W0)
    with OptionalSpan(recorder, "root") as root:
        for number in range(40):
            recorder.record(root, str(number), "span", 1, 2)
    first = feed.answer(Request(limit=4))
    assert first.more
    assert first.next_spans[1] == 25
    names = [*first.spans[0].strings]
    second = feed.answer(first.next_request())
    assert not second.more
    assert names + second.spans[0].strings == [str(number) for number in range(25, 40)] + ["root"]


@pytest.mark.parametrize("data", [b"", b"\x93", msgspec.msgpack.encode([1, 2, 3]), msgspec.msgpack.encode({"a": 1})])
def test_what_is_no_batch_is_refused(data):
    with pytest.raises(ProtocolError, match="batch of spans"):
        decode_batch(data)


@pytest.fixture
def store():
    recorder = Recorder(1 << 10)
    recorder.worker = "me"
    return Store(Feed(recorder), traces_max=3), recorder


def batch_of(process, trace_id, *entries, opened=(), clock=0):
    packed = [msgspec.structs.replace(part(*entries), trace_id=trace_id.to_bytes(16, "big"))] if entries else []
    still = [msgspec.structs.replace(part(*opened), trace_id=trace_id.to_bytes(16, "big"))] if opened else []
    return Batch(process, clock, packed, still, [], (len(entries), 0), (0, 0), False)


def test_a_store_brings_together_what_processes_send(store):
    store, recorder = store
    with OpenSpan(recorder, "root", "trace") as root:
        store.begin(root.trace_id, "title")
        remote = batch_of(W0, root.trace_id, entry(2, root.span_id, time.perf_counter_ns(), time.perf_counter_ns()))
        assert store.take_encoded(msgspec.msgpack.encode(remote), 0, 10) is not None
        store.read_local()
        assert store.assemble(root.trace_id).status(0) in {"open", "ok"}
    before = store.version(root.trace_id)
    store.read_local()
    assert store.version(root.trace_id) > before
    data = store.assemble(root.trace_id)
    assert [data.name(row) for row, _ in data.walk()] == ["root", "a"]
    assert store.titles() == [(root.trace_id, "title")]
    assert store.request_for(W0.key, with_open=True) == Request(W0.key, (1, 0), (0, 0), with_open=True)
    assert store.request_for("", with_open=False) == Request()
    unchanged = store.version(root.trace_id)
    store.read_local()
    assert store.version(root.trace_id) == unchanged


def test_what_a_worker_tells_before_this_process_does_is_kept_in_a_full_store(store):
    """It was dropped as somebody else's: from the 100th cell on, traces lacked what happened on workers."""
    store, recorder = store
    for name in "abc":
        with OpenSpan(recorder, name):
            pass
    store.read_local()
    with OpenSpan(recorder, "asks") as asks:
        trace_id = asks.trace_id
        store.take(batch_of(W0, trace_id, entry(1, asks.span_id, 1, 2)), 0, 1)
    store.read_local()
    assert len(store.assemble(trace_id).table) == 2


def test_a_store_keeps_the_latest_traces_ours_and_others_apart(store):
    store, recorder = store
    ours = []
    for name in "abc":
        with OpenSpan(recorder, name) as span:
            ours.append(span.trace_id)
    store.read_local()
    for number in (76, 77, 78, 79):
        store.take(batch_of(W0, number, entry(1, 0, 1, 2)), 0, 1)
    assert store.version(76) == -1
    assert store.assemble(76) is None
    assert store.version(77) >= 0
    store.begin(ours[0], "held")
    with OpenSpan(recorder, "d") as span:
        ours.append(span.trace_id)
    store.read_local()
    assert [trace_id for trace_id, _ in store.titles()] == [ours[0], ours[2], ours[3]]
    assert store.stats().dropped == 2
    store.unpin(ours[0])
    store.unpin(12345)
    with OpenSpan(recorder, "e"):
        pass
    store.read_local()
    assert ours[0] not in dict(store.titles())


def test_a_store_with_only_held_traces_keeps_them(store):
    store, _ = store
    for number in range(1, 6):
        store.begin(number, "held")
    store.read_local()
    store.take(batch_of(W0, 1, entry(1, 0, 1, 2)), 0, 1)
    assert store.stats().traces == 5


def test_open_spans_are_those_of_the_last_time(store):
    store, _ = store
    store.take(batch_of(W0, 5, opened=[entry(1, 0, 1, 0, "x", status="open")]), 0, 1)
    assert len(store.assemble(5)) == 1
    store.take(batch_of(W0, 5), 0, 1)
    assert len(store.assemble(5)) == 0


def test_a_lost_process_changes_the_trace(store):
    store, _ = store
    store.take(batch_of(W0, 5, opened=[entry(1, 0, 1, 0, "x", status="open")]), 0, 1)
    version = store.version(5)
    store.lose(W0.key, "exited with status 1")
    assert store.version(5) > version
    assert store.assemble(5).status(0) == "lost"


def test_a_damaged_batch_is_counted_and_logged(store, caplog):
    store, _ = store
    good = batch_of(W0, 5, entry(1, 0, 1, 2))
    bad = msgspec.structs.replace(good, spans=[msgspec.structs.replace(good.spans[0], strings=[])])
    assert store.take_encoded(b"\x00", 0, 1) is None
    assert store.take_encoded(msgspec.msgpack.encode(bad), 0, 1) is None
    assert store.stats().damaged == 2
    assert "damaged" in caplog.text


# -- analysis


@given(random_spans(sequential=True))
def test_self_times_of_sequential_spans_add_up_to_the_whole(made):
    data = make_trace(made)
    own = analysis.self_ns(data)
    assert sum(own) == made[0].end
    assert all(0 <= own[row] <= made[row].end - made[row].start for row in range(len(made)))
    assert math.isclose(sum(total.own for total in analysis.self_times(data)), made[0].end / 1e9, abs_tol=1e-12)
    assert sum(total.calls for total in analysis.self_times(data)) == len(made)
    assert sum(
        totals.calls if hasattr(totals, "calls") else totals.count for totals in analysis.by_path(data).values()
    ) == len(made)


@given(random_spans())
def test_self_times_are_what_no_child_covers(made):
    data = make_trace(made)
    for row, own in enumerate(analysis.self_ns(data)):
        if made[0].end <= 400:
            covered = {
                t for child, other in enumerate(made) if other.parent == row for t in range(other.start, other.end)
            }
            assert own == len(set(range(made[row].start, made[row].end)) - covered)
        assert analysis.TreeNode(data, row).self_seconds == pytest.approx(own / 1e9)


@given(random_spans())
def test_the_critical_path_covers_the_whole_once(made):
    data = make_trace(made)
    path = analysis.critical_path(data)
    at = data.start_ns
    for segment in path:
        assert segment.start_ns == at
        assert segment.span.start_ns <= segment.start_ns < segment.end_ns <= segment.span.end_ns
        at = segment.end_ns
    assert at == data.end_ns


def test_the_critical_path_goes_through_the_last_to_end():
    data = make_trace([
        Made("map", 0, 100), Made("short", 5, 30, 0, 1), Made("long", 5, 80, 0, 2), Made("after", 85, 95, 0), Made("inside", 20, 70, 2, 2),
        Made("background", 10, 500, 0),
    ])  # fmt: skip
    path = analysis.critical_path(data, 0)
    assert [segment.span.name for segment in path] == ["map", "long", "inside", "long", "map", "after", "map"]
    assert path[2].seconds == pytest.approx(50e-9)
    assert [segment.span.name for segment in path[1:3]] == ["long", "inside"]
    assert repr(path).splitlines()[1].split() == ["map", "pid", "100", "5", "ns"]


def test_jobs_on_two_workers_have_the_busiest_worker_as_critical_path():
    jobs = [Made(f"a{n}", 10 * n, 10 * n + 10, 0, 1) for n in range(5)] + [
        Made(f"b{n}", 30 * n, 30 * n + 15, 0, 2) for n in range(2)
    ]
    path = analysis.critical_path(make_trace([Made("map", 0, 50), *jobs]))
    assert [segment.span.name for segment in path] == ["a0", "a1", "a2", "a3", "a4"]


def failing():
    details = {
        "exception.type": "ValueError",
        "exception.message": "bad",
        "exception.stacktrace": "Traceback…\nValueError: bad",
    }
    event = analysis_event(details)
    return make_trace([
        Made("cell", 0, 100, status="error", events=(analysis_event({"exception.type": "ValueError", "exception.span": "3"}),)),
        Made("call svc.f", 5, 60, 0, 0, "call", "error"),
        Made("svc.f", 10, 50, 1, 1, "serve", "error", events=(event,)),
        Made("fine", 61, 62, 0),
        Made("svc.g", 70, 90, 0, 2, "serve", "error", events=(analysis_event({"exception.type": "OSError"}),)),
    ])  # fmt: skip


def analysis_event(details):
    from znb.spans.table import Event

    return Event(BASE + 49, "exception", details)


def test_errors_are_told_once_where_they_happened():
    first, second = analysis.errors(failing())
    assert (first.span.name, first.type, first.message, first.count) == ("svc.f", "ValueError", "bad", 3)
    assert [span.name for span in first.path] == ["cell", "call svc.f", "svc.f"]
    assert first.traceback.endswith("ValueError: bad")
    assert "w0" in str(first)
    assert (second.span.name, second.type) == ("svc.g", "OSError")


def test_find():
    data = failing()
    assert [data.name(row) for row in analysis.find(data, "f")] == ["call svc.f", "svc.f"]
    assert [data.name(row) for row in analysis.find(data, "svc.*")] == ["svc.f", "svc.g"]
    assert [data.name(row) for row in analysis.find(data, "fine")] == ["fine"]
    assert analysis.find(data, "nothing") == []


def test_two_traces_differ_by_call_path():
    before = make_trace([Made("a", 0, 100), Made("b", 0, 40, 0), Made("b", 50, 60, 0), Made("gone", 70, 75, 0)])
    after = make_trace([Made("a", 0, 200), Made("b", 0, 150, 0), Made("new", 160, 170, 0)])
    changes = {change.path: change for change in analysis.diff(before, after)}
    assert next(iter(changes)) == ("a", "b")
    assert changes["a", "b"].difference == pytest.approx(100e-9)
    assert (changes["a", "b"].before.calls, changes["a", "b"].after.calls) == (2, 1)
    assert changes["a", "gone"].after is None
    assert changes["a", "new"].before is None
    assert all(change.difference == 0 for change in analysis.diff(before, before))


def test_traces_of_two_cells_are_compared_whatever_they_are_called():
    def one(cell, took):
        return make_trace([
            Made(cell, 0, 100 + took, kind="cell"),
            Made(f"trace in {cell}", 10, 90 + took, 0, kind="trace"),
            Made("score", 20, 30 + took, 1, 1, "job"),
        ])  # fmt: skip

    found = analysis.diff(one("In[4]", 10), one("In[5]", 30))
    assert [(change.path, change.before.calls, change.after.calls) for change in found] == [
        (("(whole)", "score"), 1, 1),
        (("(whole)",), 1, 1),
    ]
    assert "(whole) → score" in repr(found)
    assert "(no difference)" in repr(analysis.diff(make_trace([]), make_trace([])))


def test_spans_that_were_missed_are_told_of_traces_that_may_lack_them(store):
    kept, _ = store
    cursors = iter([(5, 0), (50, 40), (60, 40)])

    def batch(trace_id):
        recorder = Recorder(8)
        recorder.record(Adopted(trace_id, 1), "x", "span", 1, 2)
        made = Feed(recorder, None, W0).answer(Request())
        return msgspec.structs.replace(made, next_spans=next(cursors))

    for trace_id in (1, 2, 3):
        kept.take(batch(trace_id), 0, 1)
    assert [len([n for n in kept.assemble(t).notes if "came faster" in n]) for t in (1, 2, 3)] == [0, 1, 0]


def test_what_is_asked_of_a_trace_shows_as_a_table():
    data = failing()
    for found in (analysis.self_times(data), analysis.diff(data, data), pieces(data, 1)):
        assert "object at" not in repr(found)
        assert "svc.f" in repr(found) or "transfer" in repr(found)
        assert "<td" in found._repr_html_()
    assert "svc.f [serve]" in repr(Roots(data))
    assert repr(Roots(make_trace([]))) == "(no spans)"
    assert repr(pieces(make_trace([Made("a", 0, 0)]), 0)).splitlines()[0].split() == ["piece", "where", "took"]
    many = analysis.self_times(make_trace([Made(f"n{n}", n, n + 1) for n in range(50)]))
    assert repr(many).splitlines()[-1] == "… 20 more"
    assert "20 more" in many._repr_html_()


def test_a_trace_without_a_root_is_called_by_its_first_span():
    parts = parts_of({W0: [entry(2, 1, 50, 60, "second"), entry(3, 1, 10, 40, "first")]})
    assert parts.root_name() == "first"


def test_suspended_generators_cost_nothing_by_themselves():
    data = make_trace(
        [
            Made("gen", 0, 100, attributes={"suspended_ns": 70}),
            Made("b", 10, 20, 0),
            Made("odd", 200, 210, attributes={"suspended_ns": "x"}),
        ]
    )
    assert list(analysis.self_ns(data)) == [20, 10, 10]


def test_the_tree():
    (root,) = analysis.tree(make_trace([Made("a", 0, 10), Made("c", 5, 6, 0), Made("b", 1, 4, 0), Made("d", 2, 3, 2)]))
    assert [(node.span.name, depth) for node, depth in root.walk()] == [("a", 0), ("b", 1), ("d", 2), ("c", 1)]
    assert "2 children" in repr(root)


def test_to_pandas():
    pandas = pytest.importorskip("pandas")
    frame = analysis.to_pandas(make_trace([Made("a", 0, 10**9, attributes={"x": 1}), Made("b", 0, 10**8, 0, 1)]))
    assert list(frame["name"]) == ["a", "b"]
    assert frame["seconds"].sum() == pytest.approx(1.1)
    assert frame["start"].iloc[0] == pandas.Timestamp(BASE, unit="ns", tz="UTC")
    assert frame["attributes.x"].iloc[0] == 1
    assert len(analysis.to_pandas(make_trace([]))) == 0


def test_to_pandas_without_pandas(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        analysis.to_pandas(make_trace([]))


# -- pieces


def test_the_pieces_of_a_call_cover_it_and_have_names():
    data = make_trace([
        Made("call f", 0, 1000, -1, 0, "call", attributes={"encoded_ns": 50, "sent_ns": 80, "replied_ns": 900, "decoding_ns": 940}),
        Made("f", 150, 800, 0, 1, "serve", attributes={"taken_ns": 100, "decoded_ns": 120, "ran_ns": 620}),
    ])  # fmt: skip
    found = pieces(data, 0)
    assert [(piece.name, piece.end_ns - BASE) for piece in found] == [
        ("encode", 50), ("send", 80), ("transfer", 150), ("queue", 250), ("decode", 270), ("run", 770), ("encode", 800),
        ("reply", 900), ("take", 940), ("decode", 1000),
    ]  # fmt: skip
    assert sum(piece.seconds for piece in found) == pytest.approx(1e-6)
    assert [piece.name for piece in pieces(data, 1)] == ["queue", "decode", "run", "encode"]


def test_the_pieces_of_a_job():
    data = make_trace([
        Made("f", 0, 100, -1, 0, "submit", attributes={"sent_ns": 10, "replied_ns": 95}),
        Made("f", 50, 80, 0, 1, "job", attributes={"queued_ns": 30}),
    ])  # fmt: skip
    assert [(piece.name, piece.end_ns - BASE) for piece in pieces(data, 0)] == [
        ("send", 10), ("transfer", 20), ("queue", 50), ("run", 80), ("reply", 95), ("take", 100),
    ]  # fmt: skip
    assert [(piece.name, piece.end_ns - BASE) for piece in pieces(data, 1)] == [("queue", 50), ("run", 80)]


def test_the_pieces_of_other_spans_and_of_half_a_call():
    data = make_trace([Made("call f", 0, 100, -1, 0, "call", attributes={"encoded_ns": 50}), Made("x", 5, 9, 0)])
    assert [piece.name for piece in pieces(data, 0)] == ["encode", "wait"]
    assert [piece.name for piece in pieces(data, 1)] == ["run"]


@given(random_spans())
def test_pieces_never_overlap(made):
    data = make_trace(made)
    for row in range(len(data)):
        found = pieces(data, row)
        if found:
            assert found[0].start_ns == data.table.start_ns[row]
            assert found[-1].end_ns == data.end(row)
        assert all(one.end_ns == other.start_ns for one, other in pairwise(found))


# -- text


def test_the_text_tree():
    text = text_tree(failing(), "my cell\x1b[31m")
    lines = text.splitlines()
    assert lines[0] == "my cell [31m · 100 ns · 5 spans · 3 processes · 2 failed"
    assert "✗ call svc.f [call]" in text
    assert "✗ ValueError: bad" in text
    assert "cell (pid 100) → call svc.f (pid 100) → svc.f (w0)" in text
    assert "\x1b" not in text


def test_siblings_of_one_name_are_one_line():
    jobs = [Made("job", 10 * n, 10 * n + 9, 0, 1 + n % 2, "job", "error" if n == 3 else "ok") for n in range(50)]
    text = text_tree(make_trace([Made("map", 0, 500), *jobs]))
    (line,) = [line for line in text.splitlines() if "job" in line and "×" in line]
    assert "×50" in line
    assert "1 failed" in line
    assert "w0 25, w1 25" in line


def test_a_wide_tree_is_cut():
    text = text_tree(make_trace([Made("root", 0, 10**6), *(Made(f"n{n}", n, n + 1, 0) for n in range(500))]))
    assert len(text.splitlines()) < 250
    assert "more branches" in text
    many = make_trace([Made(f"r{n}", n, n + 1, -1, n % 3, status="error") for n in range(10)])
    assert "5 more that failed" in text_tree(many)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1000, "1 µs"),
        (1_234_567, "1.23 ms"),
        (999_999_999, "1 s"),
        (61e9, "61 s"),
        (12345e9, "12345 s"),
    ],
)
def test_durations_are_readable(nanoseconds, text):
    assert duration(nanoseconds) == text


def test_samples_count_as_running_time():
    data = make_trace([Made("a", 0, 100), Made("b", 10, 60, 0)], make_samples())
    totals = {total.name: total for total in analysis.self_times(data)}
    assert totals["a"].running == pytest.approx(10e-9)
    assert totals["b"].running == pytest.approx(4e-9)
    assert isinstance(data, TraceData)
    assert data.size_bytes > 0


MS = 1_000_000


def looked_at(*samples):
    """Return samples of these spans: number, when, the wall and the CPU time that they stand for, in milliseconds."""
    table = SampleTable()
    thread = table.place(PROCESSES[0], 7, "MainThread")
    node = table.node(-1, Frame("work", "/home/u/cell.py", 3, 1, "user"))
    for span_id, at, wall, cpu in samples:
        table.add(span_id, BASE + at * MS, wall * MS, cpu * MS, thread, node)
    return table


def test_time_that_the_sampler_did_not_see_is_told():
    spans = [
        Made("t", 0, 2000 * MS, kind="trace"),
        Made("seen", 0, 100 * MS, 0),
        Made("held to its end", 100 * MS, 500 * MS, 0),  # no sample at all
        Made("held", 500 * MS, 1000 * MS, 0),  # the one sample stands for all of it
        Made("starved", 1000 * MS, 1200 * MS, 0),  # the same, but its thread did not run either
        Made("call", 1200 * MS, 2000 * MS, 0, kind="call"),  # runs nothing itself
        Made("elsewhere", 1200 * MS, 2000 * MS, 5, 1, kind="serve"),  # its process has sent no samples
    ]
    seen = [(2, at, 10, 10) for at in range(10, 101, 10)]
    data = make_trace(spans, looked_at(*seen, (4, 910, 410, 400), (4, 1000, 40, 40), (5, 1200, 200, 20)))
    found = {data.name(row): ns // MS for row, ns in unseen_ns(data).items()}
    assert found == {"held to its end": 400, "held": 450}
    assert (
        "not seen by the sampler: C code that held the GIL\n    450 ms  held\n    400 ms  held to its end"
        in text_tree(data)
    )
    assert unseen_text(412 * MS) == "412 ms not seen by the sampler: C code that held the GIL"


def test_nothing_is_said_to_be_unseen_where_nobody_looked_or_only_now_and_then():
    held = Made("held", 0, 400 * MS, 0)
    watched = [Made("t", 0, 400 * MS, kind="trace"), held]
    assert unseen_ns(make_trace(watched))
    assert not unseen_ns(make_trace(watched, sampled=False))
    assert not unseen_ns(make_trace([Made("t", 0, 400 * MS, kind="cell"), held]))
    rare = Made("t", 0, 400 * MS, kind="trace", attributes={"interval_ms": 100})
    assert not unseen_ns(make_trace([rare, held]))
    ends = (Made("held", 0, 0, 0, status=status) for status in ("open", "lost"))
    assert not any(unseen_ns(make_trace([watched[0], end])).keys() & {1} for end in ends)


# -- errors as users see them


def test_exceptions_are_described_without_znb_and_with_variables_if_asked_for():
    from znb.serialize import Codec
    from znb.traces.errors import describer

    def place():
        return {"worker": "w0", "host": "h", "pid": 1}

    def fails(rows, password):
        raise KeyError(rows)

    recorder = Recorder(16, describe=describer(Codec(), place))
    with pytest.raises(KeyError), OpenSpan(recorder, "a"):
        fails(3, "geheim")
    details = recorder.ring.read(Cursor(), 1).entries[0][-1][0][2]
    assert details["exception.type"] == "KeyError"
    assert "raise KeyError(rows)" in details["exception.stacktrace"]
    assert "geheim" not in str({**details, "exception.stacktrace": ""})
    assert "exception.locals" not in details
    with pytest.raises(KeyError) as caught:
        fails(3, "geheim")
    found = describer(Codec(), place, with_locals=True)(caught.value)["exception.locals"]
    assert "rows = 3" in found
    assert "geheim" not in found
