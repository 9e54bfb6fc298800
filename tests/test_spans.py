from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import inspect
import os
import pickle
import sys
import threading
import weakref
from time import perf_counter_ns

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from znb.spans import (
    RECORDER,
    Brief,
    Context,
    OpenSpan,
    OptionalSpan,
    Process,
    Recorder,
    Ring,
    SpanTable,
    TracePart,
    calling,
    current,
    decode_context,
    encode_context,
    follow_threads,
    headers,
    mark,
    read_headers,
    run_in,
    serving,
    span,
    traced,
)
from znb.spans.context import bound
from znb.spans.opened import EVENTS_MAX
from znb.spans.plain import TEXT_MAX, clean
from znb.spans.recorder import FIELDS
from znb.spans.ring import PATIENCE, Cursor
from znb.spans.table import pack_entries

HERE = Process("k", "", "h", 1)


class Reader:
    """What the process's recorder has recorded since."""

    def __init__(self, recorder: Recorder = RECORDER) -> None:
        self.recorder = recorder
        self.cursor = Cursor()
        self.read()

    def read(self) -> list[dict]:
        found = []
        while True:
            entries, self.cursor, more = self.recorder.ring.read(self.cursor, 10_000)
            found += [dict(zip(FIELDS, entry, strict=True)) for entry in entries]
            if not more:
                return found

    def names(self) -> list[str]:
        return [entry["name"] for entry in self.read()]

    def by_name(self) -> dict[str, dict]:
        return {entry["name"]: entry for entry in self.read()}


@pytest.fixture
def recorded():
    assert current() is None
    yield Reader()
    assert current() is None
    assert not RECORDER.open


# -- the ring


def test_a_reader_sees_what_was_added_once():
    ring = Ring(8)
    for value in "abc":
        ring.add(value)
    first = ring.read(Cursor(), 100)
    assert [entry[1] for entry in first.entries] == ["a", "b", "c"]
    assert not ring.read(first.cursor, 100).entries
    ring.add("d")
    assert [entry[1] for entry in ring.read(first.cursor, 100).entries] == ["d"]


@given(st.lists(st.one_of(st.integers(0, 20), st.none()), max_size=40), st.sampled_from([2, 4, 16]), st.integers(1, 10))
def test_what_is_seen_and_missed_is_what_was_written(steps, size, limit):
    ring, cursor, written = Ring(size), Cursor(), 0
    seen: list[int] = []
    for step in [*steps, None]:
        if step is not None:
            for _ in range(step):
                ring.add(written)
                written += 1
            continue
        more = True
        while more:
            entries, cursor, more = ring.read(cursor, limit)
            seen += [value for _, value in entries]
        assert seen == sorted(set(seen))
        assert len(seen) + cursor.dropped == written


def test_a_slot_that_was_never_filled_holds_readers_up_for_a_while_only():
    ring = Ring(256)
    ring.add("a")
    ring.take()  # a writer is interrupted here
    ring.add("b")
    found = ring.read(Cursor(), 100)
    assert [entry[1] for entry in found.entries] == ["a"]
    assert not ring.read(found.cursor, 100).entries
    for _ in range(PATIENCE):
        ring.add("c")
    later = ring.read(found.cursor, 1000)
    assert [entry[1] for entry in later.entries] == ["b", *"c" * PATIENCE]
    assert later.cursor.dropped == 1


def test_many_threads_write_and_nothing_is_lost():
    ring = Ring(1 << 14)

    def write(name):
        for number in range(2000):
            ring.add(name, number)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = ring.read(Cursor(), 10_000).entries
    assert len({entry[1:] for entry in entries}) == 8000


@pytest.mark.parametrize("size", [0, 1, 3, 100])
def test_a_ring_has_a_power_of_two_as_size(size):
    with pytest.raises(ValueError, match="power of two"):
        Ring(size)


# -- spans


def test_spans_nest(recorded):
    with span("outer", rows=3) as outer:
        with span("inner"):
            assert current().name == "inner"
        assert current() is outer
    found = recorded.by_name()
    assert found["outer"]["parent_id"] == 0
    assert found["inner"]["parent_id"] == found["outer"]["span_id"]
    assert found["inner"]["trace_id"] == found["outer"]["trace_id"] != 0
    assert found["outer"]["attributes"] == {"rows": 3}
    assert (
        found["outer"]["start_ns"] <= found["inner"]["start_ns"] <= found["inner"]["end_ns"] <= found["outer"]["end_ns"]
    )
    assert found["inner"]["thread"] == threading.get_ident()


def test_two_traces_have_different_ids(recorded):
    with span("a"):
        pass
    with span("b"):
        pass
    one, other = recorded.read()
    assert one["trace_id"] != other["trace_id"]
    assert one["span_id"] != other["span_id"]


trees = st.recursive(st.just([]), lambda below: st.lists(below, max_size=4), max_leaves=30)


@given(trees)
def test_random_call_trees_come_back_as_they_were_called(tree):
    recorder = Recorder(1 << 10)
    expected: list[tuple[str, str]] = []

    def call(below, name, above):
        expected.append((name, above))
        with OpenSpan(recorder, name):
            for number, child in enumerate(below):
                call(child, f"{name}.{number}", name)

    call(tree, "0", "")
    entries = [dict(zip(FIELDS, entry, strict=True)) for entry in recorder.ring.read(Cursor(), 1000).entries]
    names = {entry["span_id"]: entry["name"] for entry in entries}
    found = sorted((entry["name"], names.get(entry["parent_id"], "")) for entry in entries)
    assert found == sorted(expected)
    assert not recorder.open


def test_an_exception_marks_the_span_and_goes_on(recorded):
    with pytest.raises(KeyError), span("outer"), span("inner"):
        raise KeyError("x")
    found = recorded.by_name()
    assert found["outer"]["status"] == found["inner"]["status"] == "error"
    ((_, name, details),) = found["inner"]["events"]
    assert name == "exception"
    assert details["exception.type"] == "KeyError"
    assert details["exception.message"] == "'x'"
    assert "raise KeyError" in details["exception.stacktrace"]
    ((_, _, outer),) = found["outer"]["events"]
    assert outer["exception.message"] == "'x'"
    assert outer["exception.span"] == f"{found['inner']['span_id']:016x}"
    assert "exception.stacktrace" not in outer


@pytest.mark.parametrize("error", [KeyboardInterrupt, concurrent.futures.CancelledError, asyncio.CancelledError])
def test_what_is_cancelled_is_no_error(recorded, error):
    with pytest.raises(error), span("a"):
        raise error
    assert recorded.by_name()["a"]["status"] == "cancelled"


def test_an_exception_that_cannot_be_described_is_recorded_all_the_same(recorded):
    class Nasty(Exception):
        __slots__ = ()

        def __str__(self):
            raise RuntimeError

    with pytest.raises(Nasty), span("outer"), span("a"):
        raise Nasty
    found = recorded.by_name()["a"]
    assert found["status"] == "error"
    assert "Nasty" in found["events"][0][2]["exception.type"]


def test_what_ended_some_time_ago_has_its_exception_at_that_time(recorded):
    outer = OpenSpan(RECORDER, "outer").start()
    outer.enter()
    with pytest.raises(KeyError) as caught, span("inner"):
        raise KeyError("x")
    end_ns = perf_counter_ns()
    outer.close(caught.value, end_ns)
    found = recorded.by_name()
    assert found["outer"]["end_ns"] == end_ns
    assert [(at, name) for at, name, _ in found["outer"]["events"]] == [(end_ns, "exception")]
    assert found["outer"]["events"][0][2]["exception.span"] == f"{found['inner']['span_id']:016x}"


def test_what_describes_exceptions_can_be_replaced():
    recorder = Recorder(8, describe=lambda error: {"exception.type": type(error).__name__, "exception.more": 1})
    with pytest.raises(ValueError), OpenSpan(recorder, "a"):
        raise ValueError
    entry = recorder.ring.read(Cursor(), 1).entries[0]
    assert entry[-1][0][2] == {"exception.type": "ValueError", "exception.more": 1}

    def fails(error):
        raise OSError

    recorder.describe = fails
    with pytest.raises(ValueError), OpenSpan(recorder, "a"):
        raise ValueError
    assert recorder.ring.read(Cursor(1), 1).entries[0][-1][0][2]["exception.lost"] == "OSError"


def test_the_recorder_keeps_no_exception_alive(recorded):
    class Big(Exception):
        pass

    def fail():
        big = Big()
        alive.append(weakref.ref(big))
        raise big

    alive: list[weakref.ref] = []
    with contextvars.copy_context() and pytest.raises(Big), span("a"):
        fail()
    gc.collect()
    sys.last_value = None
    assert recorded.by_name()["a"]["status"] == "error"


def test_attributes_and_events_are_bounded(recorded):
    with span("a", text="x" * 5000) as opened:
        for number in range(EVENTS_MAX + 3):
            opened.event("tick", number=number)
        for number in range(200):
            opened.set(**{f"k{number}": number})
    found = recorded.by_name()["a"]
    assert len(found["attributes"]["text"]) == TEXT_MAX
    assert len(found["events"]) == EVENTS_MAX
    assert found["attributes"]["events_dropped"] == 3
    assert len(found["attributes"]) <= 64


def test_attributes_are_plain_data():
    numpy = pytest.importorskip("numpy")

    class Loud(list):
        @property
        def shape(self):
            raise ValueError

        __iter__ = __len__ = __repr__ = None

    class Name(str):
        __slots__ = ()

    found = clean({
        "array": numpy.zeros((2, 3)), "scalar": numpy.int64(3), "half": numpy.float64(0.5), "loud": Loud("x"), "big": 1 << 80,
        "list": [1, "a", object], "none": None, "name": Name("n"), "nested": {"a": [1] * 50}, "true": True,
    })  # fmt: skip
    assert found["array"] == "<ndarray (2, 3)>"
    assert (found["scalar"], found["half"], found["none"], found["true"]) == (3, 0.5, None, True)
    assert found["loud"] == "<Loud: ValueError in its repr>"
    assert found["big"] == hex(1 << 80)
    assert found["list"][:2] == [1, "a"]
    assert type(found["name"]) is str
    assert clean({"inf": float("inf"), "nan": float("nan"), "half": 0.5}) == {"inf": "inf", "nan": "nan", "half": 0.5}
    assert clean({"lone": "\ud800", "fine": "é"}) == {"lone": "?", "fine": "é"}
    assert len(found["nested"]) < 100
    msgspec.msgpack.encode(found)


def test_the_ring_keeps_no_objects_of_users_alive(recorded):
    class Big:
        pass

    big = Big()
    alive = weakref.ref(big)
    with span("a", big=big):
        pass
    del big
    gc.collect()
    assert alive() is None
    assert "Big" in recorded.by_name()["a"]["attributes"]["big"]


def test_an_optional_span_without_children_is_not_recorded(recorded):
    with OptionalSpan(RECORDER, "cell", "cell"):
        pass
    assert recorded.read() == []
    with OptionalSpan(RECORDER, "cell", "cell"), span("below"):
        pass
    assert recorded.names() == ["below", "cell"]
    with pytest.raises(OSError), OptionalSpan(RECORDER, "cell", "cell"):
        raise OSError
    assert recorded.names() == ["cell"]


def test_a_span_ends_once(recorded):
    opened = OpenSpan(RECORDER, "a").start()
    opened.end()
    opened.end(ValueError())
    assert [entry["status"] for entry in recorded.read()] == ["ok"]


def test_started_spans_end_on_other_threads(recorded):
    with span("outer") as outer:
        opened = OpenSpan(RECORDER, "later", "submit").start()
    assert current() is None
    thread = threading.Thread(target=opened.end, args=(OSError("gone"),))
    thread.start()
    thread.join()
    found = recorded.by_name()
    assert found["later"]["parent_id"] == outer.span_id
    assert found["later"]["status"] == "error"


def test_a_record_needs_no_open_span(recorded):
    with span("outer") as outer:
        RECORDER.record(outer, "job", "job", 1, 2, "ok", {"index": 3})
    found = recorded.by_name()["job"]
    assert (found["parent_id"], found["start_ns"], found["end_ns"]) == (outer.span_id, 1, 2)
    assert found["attributes"] == {"index": 3}


def test_open_spans_are_known(recorded):
    with OpenSpan(RECORDER, "root", "trace", None, None, 10), span("a"), OpenSpan(RECORDER, "b").start() as started:
        assert [opened.name for opened in RECORDER.open.values()] == ["root", "a", "b"]
        assert current() is started
    with span("nobody watches"):
        assert not RECORDER.open


def test_a_span_that_is_ended_early_ends_once(recorded):
    with span("a") as opened:
        opened.end()
    assert recorded.names() == ["a"]


def test_a_forked_child_has_ids_and_a_ring_of_its_own(recorded):
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        with span("child"):
            pass
        names = Reader().names()
        os.write(send, f"{RECORDER.key} {RECORDER.new_span_id()} {len(RECORDER.open)} {names}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    key, number, opened, _ = os.read(receive, 1000).decode().split(maxsplit=3)
    os.close(receive)
    os.close(send)
    assert key != RECORDER.key
    assert opened == "0"
    assert abs(int(number) - RECORDER.new_span_id()) > 1000


def test_a_trace_of_opentelemetry_goes_on(recorded):
    trace = pytest.importorskip("opentelemetry.trace")
    context = trace.SpanContext(5, 6, is_remote=True, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)), span("below"):
        pass
    found = recorded.by_name()["below"]
    assert (found["trace_id"], found["parent_id"]) == (5, 6)


# -- traced


def test_traced_functions_behave_as_before(recorded):
    @traced
    def double(x: int, *, by: int = 2) -> int:
        """Doc."""
        return x * by

    assert double(4, by=3) == 12
    assert double.__doc__ == "Doc."
    assert str(inspect.signature(double)) == "(x: int, *, by: int = 2) -> int" or "by" in str(inspect.signature(double))
    assert recorded.names() == ["test_traced_functions_behave_as_before.<locals>.double"]


def test_traced_takes_a_name_and_attributes(recorded):
    @traced("thrice", unit="cm")
    def triple(x):
        current().set(x=x)
        return 3 * x

    assert [triple(1), triple(2)] == [3, 6]
    assert [entry["attributes"] for entry in recorded.read()] == [{"unit": "cm", "x": 1}, {"unit": "cm", "x": 2}]


def test_traced_generators_do_not_leak_into_their_callers(recorded):
    @traced("gen")
    def numbers():
        got = []
        for number in range(3):
            with span("inside"):
                got.append((yield number))
        return got

    made = numbers()
    with span("caller") as caller:
        assert next(made) == 0
        assert current() is caller
        assert made.send("a") == 1
        with span("between"):
            pass
        assert made.send("b") == 2
        with pytest.raises(StopIteration) as stop:
            made.send("c")
    assert stop.value.value == ["a", "b", "c"]
    found = recorded.by_name()
    assert found["between"]["parent_id"] == caller.span_id
    assert found["inside"]["parent_id"] == found["gen"]["span_id"]
    assert found["gen"]["parent_id"] == caller.span_id
    assert found["gen"]["attributes"]["suspended_ns"] > 0


def test_a_traced_generator_that_is_closed_is_cancelled_and_one_that_raises_failed(recorded):
    closed = []

    @traced("gen")
    def numbers():
        try:
            yield 1
            raise ValueError
        finally:
            closed.append(current().name)

    made = numbers()
    next(made)
    made.close()
    assert recorded.by_name()["gen"]["status"] == "cancelled"
    with pytest.raises(ValueError):
        list(numbers())
    assert recorded.by_name()["gen"]["status"] == "error"
    made = numbers()
    next(made)
    with pytest.raises(OSError):
        made.throw(OSError())
    assert recorded.by_name()["gen"]["status"] == "error"
    assert closed == ["gen"] * 3


def test_traced_coroutines_keep_their_contexts_apart(recorded):
    @traced
    async def inner(number):
        await asyncio.sleep(0)
        with span(f"leaf{number}"):
            await asyncio.sleep(0)

    @traced("outer")
    async def outer():
        await asyncio.gather(*(inner(number) for number in range(3)))

    assert inspect.iscoroutinefunction(outer)
    asyncio.run(outer())
    found = recorded.read()
    outers = [entry for entry in found if entry["name"] == "outer"]
    inners = {entry["span_id"] for entry in found if entry["name"].endswith("inner")}
    assert len(inners) == 3
    assert all(entry["parent_id"] == outers[0]["span_id"] for entry in found if entry["span_id"] in inners)
    leaves = [entry["parent_id"] for entry in found if entry["name"].startswith("leaf")]
    assert sorted(leaves) == sorted(inners)


def test_traced_asynchronous_generators(recorded):
    @traced("agen")
    async def numbers():
        for number in range(2):
            with span("inside"):
                await asyncio.sleep(0)
            try:
                got = yield number
                assert got in {None, "sent"}
            except KeyError:
                yield "thrown"

    async def use():
        with span("caller") as caller:
            found = [number async for number in numbers()]
            assert current() is caller
            made = numbers()
            assert await made.asend(None) == 0
            assert await made.asend("sent") == 1
            assert await made.athrow(KeyError()) == "thrown"
            await made.aclose()
            return found

    assert inspect.isasyncgenfunction(numbers)
    assert asyncio.run(use()) == [0, 1]
    found = recorded.read()
    assert [entry["status"] for entry in found if entry["name"] == "agen"] == ["ok", "cancelled"]
    first = next(entry for entry in found if entry["name"] == "agen")
    assert next(entry for entry in found if entry["name"] == "inside")["parent_id"] == first["span_id"]


def test_an_asynchronous_generator_that_raises(recorded):
    @traced("agen")
    async def numbers():
        yield 1
        raise ValueError

    async def use():
        async for _ in numbers():
            pass

    with pytest.raises(ValueError):
        asyncio.run(use())
    assert recorded.by_name()["agen"]["status"] == "error"


# -- contexts

ids = st.tuples(st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1), st.integers(0, 1000))


@given(ids)
def test_a_context_survives_the_way(fields):
    context = Context(*fields)
    assert decode_context(encode_context(context)) == context
    assert read_headers(headers(context)) == context
    assert read_headers({"traceparent": headers(context)["traceparent"]}) == Context(*fields[:2])


@given(ids, ids)
def test_spans_of_one_trace_are_told_apart(first, second):
    for fields in (first, (first[0], second[1], 0), second):
        assert decode_context(headers(Context(*fields))["traceparent"]) == Context(*fields[:2])


GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "text",
    [
        "", "00", GOOD[:-1], GOOD + "-x", GOOD + "x", GOOD.upper(), "ff" + GOOD[2:], GOOD.replace("-", "_"), " " + GOOD[1:],
        "00-" + "0" * 32 + GOOD[35:], GOOD[:36] + "0" * 16 + "-01", GOOD[:36] + "_" * 16 + "-01", GOOD[:36] + "+7ad6b7169203331-01",
        GOOD[:36] + "B7AD6B7169203331-01", GOOD[:36] + "b7ad6b716920333g-01", "1" * 55, None, 5, GOOD.encode(),
    ],
)  # fmt: skip
def test_a_malformed_context_is_none(text):
    assert decode_context(GOOD) is not None
    assert decode_context(text) is None
    assert read_headers({"traceparent": text}) is None


def test_a_later_version_of_the_header_is_read():
    assert decode_context("01" + GOOD[2:] + "-what-comes") == decode_context(GOOD)


@pytest.mark.parametrize(
    ("state", "live"),
    [("znb=live:10", 10), ("other=1,znb=live:5", 5), ("znb=live:99999", 1000), ("znb=live:0", 1), ("znb=live:x", 0),
     ("znb=live:9999999999", 0), ("", 0), (5, 0)],
)  # fmt: skip
def test_the_interval_of_a_watched_trace_is_bounded(state, live):
    assert read_headers({"traceparent": GOOD, "tracestate": state}).live == live


def test_live_is_inherited_and_counted(recorded):
    woken = []
    RECORDER.on_live = lambda: woken.append(RECORDER.interval_ms)
    try:
        with OpenSpan(RECORDER, "root", "trace", live=20) as root:
            assert RECORDER.live == 1
            with span("below") as below:
                assert below.live == 20
                assert RECORDER.live == 2
            context = read_headers(headers(root))
        assert RECORDER.live == 0
        with OpenSpan(RECORDER, "serve", "serve", parent=context):
            assert RECORDER.live == 1
    finally:
        RECORDER.on_live = None
    assert woken == [20, 20]
    assert RECORDER.live == 0
    recorded.read()


def test_a_remote_parent(recorded):
    context = decode_context(GOOD)
    with OpenSpan(RECORDER, "serve", "serve", parent=context), span("below"):
        pass
    found = recorded.by_name()
    assert found["serve"]["parent_id"] == context.span_id
    assert found["below"]["trace_id"] == context.trace_id
    assert current() is None


def test_run_in_and_bound(recorded):
    inherited = dict(RECORDER.inherited)
    with span("outer") as outer:
        function = bound(lambda: [current()][0])
    assert function() is outer
    assert current() is None
    assert run_in(None, current) is None
    assert bound(current) is current
    assert RECORDER.inherited == inherited


def test_threads_begin_in_the_context_that_started_them(recorded):
    inherited = dict(RECORDER.inherited)
    seen = {}
    before = threading.Thread.start  # followed already, if an earlier test exposed a service here

    class Mine(threading.Thread):
        def run(self):
            seen["class"] = current()

    undo = follow_threads()
    try:
        assert follow_threads()() is None
        with span("outer") as outer:
            threads = [
                threading.Thread(target=lambda: seen.update(target=current())),
                Mine(),
                threading.Timer(0, lambda: seen.update(timer=current())),
            ]
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                seen["pool"] = pool.submit(current).result()
                with span("inner") as inner:
                    seen["second"] = pool.submit(current).result()
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert "run" not in vars(threads[0])
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(current).result() is None
    finally:
        undo()
    assert seen == {"target": outer, "class": outer, "timer": outer, "pool": outer, "second": inner}
    assert threading.Thread.start is before
    assert RECORDER.inherited == inherited


def test_elsewhere_only_threads_of_watched_traces_do(recorded):
    undo = follow_threads(watched=True)
    follows = threading.Thread.start.znb_follows
    before = follows["watched"]
    follows["watched"] = True
    try:
        seen = []
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            with span("cell"):
                seen.append(pool.submit(current).result())
            with OpenSpan(RECORDER, "watched", live=10) as watched:
                seen.append(pool.submit(current).result())
                assert list(pool.map(lambda _: current(), range(2))) == [watched, watched]
                thread = threading.Thread(target=lambda: seen.append(current()))
                thread.start()
                thread.join()
        assert seen == [None, watched, watched]
        follow_threads()()
        assert follows["watched"]
    finally:
        follows["watched"] = before
        undo()


# -- tables


def pack(*entries):
    return pack_entries(entries, lambda ident: f"thread {ident}")


def entry(trace_id, span_id, parent_id, name, attributes=None, events=None, status="ok", thread=1):
    return (
        0,
        trace_id,
        span_id,
        parent_id,
        name,
        "job",
        10 * span_id,
        10 * span_id + 5,
        status,
        thread,
        attributes,
        events,
    )


def test_entries_travel_as_columns():
    parts = pack(
        entry(1, 1, 0, "a", {"x": 1}),
        entry(2, 9, 0, "other"),
        entry(1, 2, 1, "b", None, [(21, "tick", {"n": 2})], "error", 2),
    )
    data = msgspec.msgpack.encode(parts)
    parts = msgspec.msgpack.decode(data, type=list[TracePart])
    assert [int.from_bytes(part.trace_id, "big") for part in parts] == [1, 2]
    table = parts[0].table(HERE)
    assert len(table) == 2
    assert table.attributes(0) == {"x": 1}
    assert table.attributes(1) == {}
    assert [table.strings[name] for name in table.name] == ["a", "b"]
    assert table.events[1][0].name == "tick"
    assert [table.threads[thread] for thread in table.thread] == [(0, 1, "thread 1"), (0, 2, "thread 2")]
    assert table.process(0) == HERE


def test_whatever_was_recorded_can_travel():
    odd = entry(
        1,
        1,
        0,
        5,
        {"\ud800": object(), "s": {1}, "big": 1 << 70, "l": ["\udfff"]},
        [(1, "\ud800", {"m": "\ud800", "r": b"x"})],
    )
    parts = msgspec.msgpack.decode(msgspec.msgpack.encode(pack(odd)), type=list[TracePart])
    table = parts[0].table(HERE)
    assert table.strings == ["5"]
    assert table.attributes(0)["s"] == "{1}"
    assert table.attributes(0)["l"] == ["?"]
    assert table.events[0][0].attributes == {"m": "?", "r": b"x"}


def test_tables_are_appended():
    first = pack(entry(1, 1, 0, "a", {"x": 1}))[0].table(HERE)
    other = Process("k2", "w0", "h", 2)
    first.append(
        pack(entry(1, 2, 1, "b", {"y": 2}, [(25, "e", {})]), entry(1, 3, 1, "a"))[0].table(other), offset_ns=100
    )
    assert [first.strings[name] for name in first.name] == ["a", "b", "a"]
    assert [first.attributes(row) for row in range(3)] == [{"x": 1}, {"y": 2}, {}]
    assert list(first.start_ns) == [10, 120, 130]
    assert first.events[1][0].time_ns == 125
    assert [first.process(row) for row in range(3)] == [HERE, other, other]
    assert first.size_bytes > 0


def test_a_row_that_does_not_fit_leaves_the_table_whole():
    table = SpanTable()
    table.strings = ["a"]
    table.place(HERE, 1, "t")
    with pytest.raises(OverflowError):
        table.add(1, 1 << 64, 0, 0, 0, 0)
    with pytest.raises(OverflowError):
        table.add(1, 1, 1 << 63, 0, 0, 0)
    table.add(1, 0, 5, 6, 0, 0)
    assert len(table) == len(table.parent_id) == len(table.start_ns) == len(table.extent) == 1


@pytest.mark.parametrize(
    "damage",
    [
        {"columns": []}, {"columns": [b"x"] * 9}, {"strings": []}, {"threads": []}, {"blob": b""}, {"events": {5: []}},
    ],
)  # fmt: skip
def test_a_damaged_part_is_refused(damage):
    part = pack(entry(1, 1, 0, "a", {"x": 1}), entry(1, 2, 0, "b", {"x": 1}))[0]
    with pytest.raises(ValueError):
        msgspec.structs.replace(part, **damage).table(HERE)


def test_columns_of_different_lengths_are_refused():
    part = pack(entry(1, 1, 0, "a"), entry(1, 2, 0, "b"))[0]
    columns = [part.columns[0][:8], *part.columns[1:]]
    with pytest.raises(ValueError, match="one length"):
        msgspec.structs.replace(part, columns=columns).table(HERE)


def test_thread_names_are_remembered(recorded):
    names = []
    thread = threading.Thread(target=lambda: names.append(RECORDER.thread_name(threading.get_ident())), name="reader")
    thread.start()
    thread.join()
    assert names == ["reader"]
    assert RECORDER.thread_name(thread.ident) == "reader"
    assert RECORDER.thread_name(12345) == "thread 12345"


def test_contexts_can_be_compared_and_shown():
    context = Context(1, 2)
    assert context == Context(1, 2)
    assert hash(context) == hash(Context(1, 2))
    assert context != "x"
    assert "live=0" in repr(context)
    assert pickle.loads(pickle.dumps(HERE)) == HERE


# -- the ends of a call


def test_a_call_and_how_it_is_served(recorded):
    sent = {"label": "x"}
    with span("cell") as cell:
        call = calling("svc.f", sent, worker="w0")
        mark(call, "sent_ns")
    served = serving("svc.f", sent, call.start_ns + 1, method="f")
    with served:
        mark(served, "taken_ns")
        with span("inside"):
            pass
    call.end()
    found = recorded.by_name()
    assert sent["traceparent"].split("-")[2] == f"{call.span_id:016x}"
    assert served.parent_id == call.span_id
    assert call.parent_id == cell.span_id
    assert served.start_ns == call.start_ns + 1
    assert served.attributes.keys() == {"method", "taken_ns"}
    assert found["inside"]["parent_id"] == served.span_id
    assert call.attributes["sent_ns"] >= 0


def test_a_started_span_can_be_left_and_entered_again(recorded):
    served = serving("svc.f", {})
    served.enter()
    with span("first"):
        pass
    served.leave()
    assert current() is None
    with served, span("second"):
        pass
    found = recorded.by_name()
    assert found["first"]["parent_id"] == found["second"]["parent_id"] == found["svc.f"]["span_id"]


def test_brief_spans(recorded):
    with span("cell") as cell:
        brief = Brief(RECORDER.caller(), "job", "submit")
    mark(brief, "sent_ns")
    assert RECORDER.briefs == {brief.span_id: brief}
    brief.end("error")
    brief.end("ok")
    assert not RECORDER.briefs
    found = recorded.by_name()["job"]
    assert (found["span_id"], found["parent_id"], found["status"]) == (brief.span_id, cell.span_id, "error")
    assert found["attributes"]["sent_ns"] > 0


def test_remote_work_of_a_script_has_a_root_that_is_renewed():
    recorder = Recorder(64)
    roots = {recorder.caller().span_id for _ in range(10_000)}
    assert len(roots) == 1
    assert recorder.caller().span_id not in roots
    entries = [dict(zip(FIELDS, entry, strict=True)) for entry in recorder.ring.read(Cursor(), 100).entries]
    assert [entry["span_id"] in roots for entry in entries] == [True, False]
    assert [(entry["kind"], entry["status"], entry["end_ns"]) for entry in entries] == [("cell", "open", 0)] * 2


def test_collectors_hear_of_remote_work(recorded):
    heard = []
    before = RECORDER.on_remote
    RECORDER.on_remote += (lambda: heard.append(1),)
    try:
        calling("x", {}).end()
    finally:
        RECORDER.on_remote = before
    assert heard == [1]


def test_an_exception_of_another_process_shows_its_way_here_too(recorded):
    error = ValueError("far")
    error._znb_span = ("another process", 5)
    with pytest.raises(ValueError), span("outer"), span("here"):
        raise error
    found = recorded.by_name()
    assert "exception.stacktrace" in found["here"]["events"][0][2]
    assert found["outer"]["events"][0][2]["exception.span"] == f"{found['here']['span_id']:016x}"
    error._znb_span = "odd"
    with pytest.raises(ValueError), span("again"):
        raise error
    assert "exception.stacktrace" in recorded.by_name()["again"]["events"][0][2]


# -- spans that are left without a word


def test_a_span_is_entered_once():
    once = span("once")
    with once, pytest.raises(RuntimeError, match="'once' has been entered before"):
        once.__enter__()
    with pytest.raises(RuntimeError, match="entered before"):
        once.__enter__()
    assert current() is None


def test_what_an_interrupt_has_left_entered_ends_with_what_is_around_it():
    read = Reader()
    with span("around"):
        for name in ("left", "behind"):
            span(name).__enter__()
    assert current() is None
    assert [entry["name"] for entry in read.read()] == ["around"]


def test_what_is_left_entered_in_a_watched_span_ends_with_it():
    read = Reader()
    outer = OpenSpan(RECORDER, "watched", "trace", live=10)
    with outer:
        for name in ("left", "behind"):
            span(name).__enter__()
        outer.unwind()
        assert current() is outer
    assert RECORDER.live == 0
    assert [(entry["name"], entry["status"]) for entry in read.read()] == [
        ("behind", "cancelled"),
        ("left", "cancelled"),
        ("watched", "ok"),
    ]


def test_class_and_static_methods_are_traced_whichever_stands_above():
    class Words:
        @traced
        @classmethod
        def made(cls, text):
            return cls.__name__ + text

        @traced("static", unit="cm")
        @staticmethod
        def joined(*words):
            return " ".join(words)

    read = Reader()
    assert (Words.made("!"), Words().made("?")) == ("Words!", "Words?")
    assert (Words.joined("a", "b"), Words().joined("c")) == ("a b", "c")
    assert [entry["name"].rpartition(".")[2] for entry in read.read()] == ["made", "made", "static", "static"]


def test_a_name_may_be_given_by_name():
    read = Reader()
    traced(name="custom", x=1)(lambda: None)()
    (entry,) = read.read()
    assert (entry["name"], entry["attributes"]) == ("custom", {"x": 1})


def test_names_of_attributes_are_cut():
    assert [len(name) for name in clean({"a" * 100_000: 1})] == [100]


def test_a_call_that_was_stopped_as_nobody_waits_for_it_is_no_failure():
    read = Reader()

    class CallStopped(BaseException):
        """As the one of services is called."""

    with contextlib.suppress(CallStopped), span("left"):
        raise CallStopped
    assert [entry["status"] for entry in read.read()] == ["cancelled"]
