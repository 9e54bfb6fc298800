from __future__ import annotations

import concurrent.futures
import itertools
import pickle
import time

import msgspec
import pytest

import znb.tracing
from trace_peer import Failed, Peer, run
from znb.export import TraceFileError
from znb.spans import RECORDER, OpenSpan, Recorder, current, span
from znb.traces import Request
from znb.tracing import TRACES, Begin, Trace, Traces, trace


@pytest.fixture
def peers():
    """Two processes that serve, the second with another clock, and what brings their spans here."""
    found = {"a": Peer("a"), "b": Peer("b", "skewed")}
    keys: dict[str, str] = {}

    def collect(timeout):
        for name, peer in found.items():
            if peer.process.poll() is not None:
                continue
            more = True
            while more:
                batch = TRACES.store.take_encoded(
                    *peer.feed(TRACES.store.request_for(keys.get(name, ""), with_open=True))
                )
                keys[name] = batch.process.key
                more = batch.more

    collect(1.0)  # they have begun when they answer
    TRACES.collectors.append(collect)
    yield found
    TRACES.collectors.remove(collect)
    for peer in found.values():
        peer.close()


PROGRAM = [
    ["span", "prepare", [["busy", 0.15]]],
    ["call", "a.load", [["sleep", 0.1], ["span", "parse", [["busy", 0.2]]]]],
    ["call", "b.score", [["busy", 0.1], ["sleep", 0.2], ["span", "fit", [["busy", 0.1]]]]],
    ["try", "risky", [["call", "a.fail", [["busy", 0.05], ["raise", "no luck"]]]]],
    ["sleep", 0.1],
]


@pytest.mark.serial
def test_a_known_workload_over_three_processes_agrees_with_the_truth(peers):
    truth: dict[str, float] = {}
    with trace("workload") as t:
        run(PROGRAM, peers, truth, "workload")
    # Every span once, and its parent right.
    by_id = {one.span_id: one for one in t.spans}
    edges = sorted((one.name, by_id[one.parent_id].name if one.parent_id else "", one.worker) for one in t.spans)
    me = by_id[t.find("workload")[0].span_id].worker
    assert edges == sorted([
        ("workload", "", me), ("prepare", "workload", me), ("call a.load", "workload", me), ("a.load", "call a.load", "a"),
        ("parse", "a.load", "a"), ("call b.score", "workload", me), ("b.score", "call b.score", "b"), ("fit", "b.score", "b"),
        ("risky", "workload", me), ("call a.fail", "risky", me), ("a.fail", "call a.fail", "a"),
    ])  # fmt: skip
    # Self times.
    own = {total.name: total.own for total in t.self_times()}
    for name, seconds in truth.items():
        assert own[name] == pytest.approx(seconds, rel=0.05, abs=0.003)
    # The critical path is the whole workload, since nothing ran beside it.
    path = t.critical_path()
    assert sum(segment.seconds for segment in path) == pytest.approx(t.seconds)
    worked = (segment.span.name for segment in path if segment.seconds > 0.03 and segment.span.name in truth)
    assert [name for name, _ in itertools.groupby(worked)] == [
        "prepare", "a.load", "parse", "b.score", "fit", "a.fail", "workload",
    ]  # fmt: skip
    # One clock, though b's shows another time.
    (clock,) = t.data.clocks
    assert clock.process.worker == "b"
    assert abs(clock.offset_ns - 5_000_000_000) <= clock.error_ns < 50_000_000
    for one in t.spans:
        if one.parent_id:
            assert one.start_ns >= by_id[one.parent_id].start_ns - clock.error_ns
    # Errors where they happened.
    (failure,) = t.errors()
    assert [step.name for step in failure.path] == ["workload", "risky", "call a.fail", "a.fail"]
    assert failure.message == "no luck"
    assert "raise Failed(step[1])" in failure.traceback
    # Samples belong to their spans, on each process.
    running = {total.name: total.running for total in t.self_times()}
    for name in ("prepare", "parse", "fit"):
        assert 0 < running[name] <= own[name] * 1.1 + 0.02  # on a busy machine they run for a part of it only
    assert t.notes == []
    assert "b.score" in t.text()


def test_of_a_lost_process_is_shown_what_had_come(peers):
    with trace("half") as t:
        run([["call", "a.first", []]], peers, {})
        TRACES.collect(1.0)
        with pytest.raises(TypeError), OpenSpan(RECORDER, "call a.second", "call"):
            peers["a"].process.kill()
            peers["a"].process.wait()
            error, _ = peers["a"].ask("call", "a.second", [], {})
        row = t.data.row_of(t.find("a.first")[0])
        TRACES.store.lose(t.data.table.process(row).key, "was killed by SIGKILL")
    assert [one.name for one in t.spans] == ["half", "call a.first", "a.first", "call a.second"]
    assert any("a was killed by SIGKILL; what it had not told" in note for note in t.notes)
    assert "! a was killed" in t.text()


def test_a_trace_can_be_looked_at_while_it_grows():
    with trace("growing") as t:
        with span("one"):
            pass
        assert {one.name: one.status for one in t.spans} == {"growing": "open", "one": "ok"}
        with span("two"):
            assert len(t.spans) == 3
    assert [one.status for one in t.spans] == ["ok"] * 3
    assert t.notes == []
    data = t.data
    assert t.data is data
    assert len(t.trace_id) == 32


def test_a_trace_before_it_begins_is_empty():
    t = trace("later")
    assert len(t.spans) == 0
    assert t.trace_id == "0" * 32
    with t:
        pass
    with pytest.raises(RuntimeError, match="entered before"), t:
        pass
    assert len(t.spans) == 1


def test_a_trace_that_fails_goes_on_failing():
    with pytest.raises(ValueError), trace("bad") as t:
        raise ValueError("x")
    assert t.spans[0].status == "error"
    assert current() is None


def test_traces_nest():
    with trace("outer") as outer, trace("inner") as inner:
        pass
    assert inner.trace_id == outer.trace_id
    assert [one.name for one in outer.spans] == ["outer", "inner"]


def test_a_trace_inside_of_another_is_what_is_below_it(peers):
    with trace("outer") as outer:
        with span("before"):
            pass
        with trace("inner") as inner:
            assert inner.inside
            assert [(one.name, one.status) for one in inner.spans] == [("inner", "open")]
            run([["call", "a.load", [["span", "parse", [["busy", 0.05]]]]]], peers, {}, "")
        assert [one.name for one in inner.spans] == ["inner", "call a.load", "a.load", "parse"]
        assert inner.notes == []  # that the outer one goes on is not its business
        assert outer.notes == ["1 span has not ended yet"]
        with span("after"):
            pass
    ids = {one.span_id for one in inner.spans}
    assert {f"{number:016x}" for number in inner.data.samples.span_id} <= ids
    assert [one.name for one in outer.spans] == ["outer", "before", "inner", "call a.load", "a.load", "parse", "after"]
    assert inner.trace_id == outer.trace_id
    assert inner.spans[0].parent_id == outer.spans[0].span_id
    assert {process.key for process in inner.data.table.processes} == {
        TRACES.process.key,
        inner.data.table.processes[1].key,
    }
    for text in (inner.text(), inner._repr_mimebundle_()["text/plain"], pickle.loads(pickle.dumps(inner)).text()):
        assert text.startswith("inner")
        assert "2 processes" in text
        assert "outer" not in text
        assert "before" not in text
    assert not inner.inside


def test_a_trace_inside_of_a_cell_does_not_show_the_cell():
    with OpenSpan(RECORDER, "In[1]", "cell"), trace("mine") as mine, span("below"):
        pass
    assert [one.name for one in mine.spans] == ["mine", "below"]
    assert [one.name for one in TRACES[mine.trace_id].spans] == ["In[1]", "mine", "below"]


def test_what_a_trace_is_asked():
    with trace("asked") as t, OpenSpan(RECORDER, "call svc.f", "call", {"encoded_ns": 5}) as call:
        time.sleep(0.001)
    assert [one.name for one in t.find("f")] == ["call svc.f"]
    assert t.pieces(t.find("f")[0])[0].name == "encode"
    assert t.pieces(f"{call.span_id:016x}")
    assert [root.span.name for root in t.tree()] == ["asked"]
    assert t.diff(t)[0].difference == 0
    assert len(t.critical_path()) >= 2
    assert t.errors() == []
    pytest.importorskip("pandas")
    assert list(t.to_pandas()["name"]) == ["asked", "call svc.f"]


def test_how_a_trace_is_shown(tmp_path):
    with trace("shown") as t:
        pass
    bundle = t._repr_mimebundle_()
    assert bundle["image/svg+xml"].startswith("<svg")
    assert bundle["text/plain"] == str(t) == t.text()
    assert repr(t) == "<Trace 'shown', 1 spans>"
    assert t.flame()._repr_svg_() == str(t.flame())
    assert t.save(tmp_path / "t.json").exists()
    with pytest.raises(TraceFileError):
        t.save(tmp_path / "t.doc")


def test_a_saved_trace_is_opened(tmp_path):
    with trace("saved", lr=0.1) as t:
        pass
    for suffix in (".json", ".html", ".otlp.json"):
        again = Trace.load(t.save(tmp_path / f"x{suffix}"))
        assert again.title == "saved"
        assert list(again.spans) == list(t.spans)
        assert again.spans[0].attributes == {"lr": 0.1}


def test_the_latest_traces_are_kept():
    with trace("kept") as t:
        pass
    with span("by itself"):
        pass
    found = {one.trace_id: one for one in TRACES}
    assert found[t.trace_id].title == "kept"
    assert [one.title for one in TRACES][-1] == "by itself"
    assert list(TRACES[t.trace_id[:12]].spans) == list(t.spans)
    assert list(TRACES[int(t.trace_id, 16)].spans) == list(t.spans)
    with pytest.raises(KeyError):
        TRACES["ffff0000ffff0000ff"]


def test_a_trace_that_was_dropped_stays_with_who_has_read_it():
    traces = Traces(RECORDER)
    traces.store._traces_max = 2
    with traces.new("first", 0.01, {}) as t:
        pass
    assert len(t.spans) == 1
    for _ in range(4):
        with span("more"):
            pass
    list(traces)
    assert traces.store.version(int(t.trace_id, 16)) == -1
    assert len(t.spans) == 1
    traces.sampler.close()


def test_sending_says_what_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with trace("sent") as t:
        pass
    with pytest.raises(znb.errors.ZnbError, match="otlp"):
        t.send()


def test_a_request_travels():
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(Request("k", (1, 2))), type=Request) == Request("k", (1, 2))
    assert issubclass(Failed, Exception)


def test_a_watched_trace_of_this_process_keeps_more_than_the_ring_holds():
    many = 3 * (RECORDER.ring.mask + 1)
    with trace("many") as t:
        for number in range(many):
            with span("one"):
                pass
            if number % 4096 == 0:
                time.sleep(0.02)  # a loop that does nothing else leaves nobody the interpreter
    assert len(t.find("one")) == many
    assert t.notes == []


def test_a_trace_travels():
    with trace("sent") as t, span("inside", rows=1):
        pass
    back = pickle.loads(pickle.dumps(t))
    assert type(back) is Trace
    assert [(one.name, one.span_id, one.attributes) for one in back.spans] == [
        (one.name, one.span_id, one.attributes) for one in t.spans
    ]
    assert back.title == "sent"


def test_what_was_not_recorded_is_an_empty_trace_that_says_so():
    empty = TRACES.of(0)
    assert len(empty.spans) == 0
    assert "tracing was off" in empty.text()


def test_an_interval_has_to_be_one():
    for wrong in (0, -1, float("inf"), float("nan"), "x", True):
        with pytest.raises((TypeError, ValueError), match=r"interval must be a (positive )?number of seconds"):
            trace("x", interval=wrong)
    assert RECORDER.live == 0


def test_the_latest_traces_can_be_had():
    with trace("one") as one:
        pass
    assert Trace.latest()[-1].trace_id == one.trace_id


def test_the_latest_trace_is_found_by_name():
    with trace("outer") as outer, trace("nested"):
        pass
    assert trace.last().trace_id == outer.trace_id
    assert trace.last().title == "outer"  # one inside of another is part of that
    kept = trace.list()
    assert repr(kept).splitlines()[-1].split()[:2] == ["outer", outer.trace_id[:8]]
    assert repr(kept).splitlines()[0].split() == ["title", "id", "took", "spans", "failed", "began"]
    assert "last()" in repr(trace)
    assert pickle.loads(pickle.dumps(trace)) is trace
    empty = Traces(Recorder())
    with pytest.raises(LookupError, match="no traces yet"):
        Begin(empty).last()
    empty.sampler.close()


def test_threads_begun_in_a_trace_are_part_of_it():
    with concurrent.futures.ThreadPoolExecutor(2) as pool, trace("threads") as t:

        def work(number):
            with span(f"work {number}"):
                return number

        assert list(pool.map(work, range(3))) == [0, 1, 2]
    assert {one.name for one in t.spans} == {"threads", "work 0", "work 1", "work 2"}
