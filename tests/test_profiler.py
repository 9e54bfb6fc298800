from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter

import msgspec
import pytest

from cluster_harness import wait_until
from znb.profiler import HAS_THREAD_CLOCKS, Sampler, _await_chain, _Stacks, origin_of
from znb.spans import OpenSpan, Process, Recorder, run_in
from znb.spans.ring import Cursor
from znb.spans.samples import SamplePart, SampleTable

HERE = Process("k", "w0", "h", 1)


@pytest.fixture
def recorder():
    return Recorder(1 << 10)


@pytest.fixture
def sampler(recorder):
    made = Sampler(recorder, linger=0.05)
    made.install()
    yield made
    made.close()
    made.close()


def read(sampler):
    parts, _ = sampler.read(Cursor(), 100_000)
    table = SampleTable()
    for part in msgspec.msgpack.decode(msgspec.msgpack.encode(parts), type=list[SamplePart]):
        part.add_to(table, HERE)
    return table


def innermost(table, span):
    """Wall time by the innermost function, of one span."""
    found = Counter()
    for row in range(len(table)):
        if table.span_id[row] == span.span_id:
            found[table.stack_of(table.stack[row])[-1].name.rpartition(".")[2]] += table.wall_ns[row] / 1e9
    return found


def cpu(table, span):
    return sum(table.cpu_ns[row] for row in range(len(table)) if table.span_id[row] == span.span_id) / 1e9


def busy(seconds):
    """Run until the thread has taken so much CPU time; return how long that took."""
    began, end = time.perf_counter(), time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(100))
    return time.perf_counter() - began


def wait(seconds):
    began = time.perf_counter()
    threading.Event().wait(seconds)
    return time.perf_counter() - began


def look(sampler, times):
    """Wait until it has looked so many more times."""
    rounds = sampler.stats().rounds + times
    wait_until(lambda: sampler.stats().rounds >= rounds, f"{times} samples")


@pytest.mark.skipif(not HAS_THREAD_CLOCKS, reason="clocks of threads can be read on Linux alone")
def test_running_and_waiting_are_told_apart_and_belong_to_their_spans(recorder, sampler):
    with OpenSpan(recorder, "root", "trace", None, None, 5):
        with OpenSpan(recorder, "runs") as runs:
            took = busy(0.3)
        with OpenSpan(recorder, "waits") as waits:
            waited = wait(0.2)
    table = read(sampler)
    assert innermost(table, runs)["busy"] == pytest.approx(took, rel=0.2, abs=0.06)
    assert cpu(table, runs) == pytest.approx(0.3, rel=0.2, abs=0.06)
    assert sum(innermost(table, waits).values()) == pytest.approx(waited, rel=0.2, abs=0.06)
    assert cpu(table, waits) < 0.05
    assert sampler.stats().rounds >= 10
    assert 0 < sampler.stats().cost < 0.2


def test_what_is_not_watched_is_not_sampled_and_costs_no_thread(recorder, sampler):
    with OpenSpan(recorder, "root", "trace"):
        busy(0.05)
    assert not sampler.stats().running
    assert len(read(sampler)) == 0


def test_the_thread_ends_when_nothing_is_watched_and_begins_again(recorder, sampler):
    for _ in range(2):
        with OpenSpan(recorder, "root", "trace", None, None, 1):
            assert sampler.stats().running
        wait_until(lambda: not sampler.stats().running, "the end of the thread")
    with OpenSpan(recorder, "root", "trace", None, None, 1):
        sampler.rest()
        assert sampler.stats().running
    sampler.rest()
    assert not sampler.stats().running


def test_a_sampler_that_is_installed_late_samples_what_is_open(recorder):
    sampler = Sampler(recorder)
    with OpenSpan(recorder, "root", "trace", None, None, 1) as root:
        sampler.install()
        look(sampler, 3)
    sampler.close()
    assert sum(innermost(read(sampler), root).values()) > 0


def test_threads_are_sampled_below_the_span_that_started_them(recorder, sampler):
    with OpenSpan(recorder, "root", "trace", None, None, 2) as root:
        recorder.inherited.clear()

        def work():
            recorder.inherited[threading.get_ident()] = root
            try:
                look(sampler, 3)
            finally:
                del recorder.inherited[threading.get_ident()]

        thread = threading.Thread(target=work, name="helper")
        thread.start()
        thread.join()
    table = read(sampler)
    assert {name for _, _, name in table.threads} >= {"helper"}
    run_in(None, bool)


def test_a_thread_whose_span_has_ended_is_not_sampled(recorder, sampler):
    with OpenSpan(recorder, "other", "trace", None, None, 2):
        with OpenSpan(recorder, "ended", parent=None) as ended:
            pass
        recorder.inherited[threading.get_ident() + 1] = ended
        look(sampler, 3)
    assert not innermost(read(sampler), ended)


def test_tasks_are_sampled_with_what_they_await(recorder, sampler):
    spans, took = {}, {}

    async def leaf():
        await asyncio.sleep(0.15)

    async def branch():
        await leaf()

    async def worker(name):
        began = time.perf_counter()
        with OpenSpan(recorder, name) as span:
            spans[name] = span
            await branch()
        took[name] = time.perf_counter() - began

    async def runner():
        with OpenSpan(recorder, "runs") as span:
            spans["runs"] = span
            took["runs"] = busy(0.1)

    async def main():
        await asyncio.gather(worker("a"), worker("b"), runner())

    with OpenSpan(recorder, "root", "trace", None, None, 5):
        asyncio.run(main())
    table = read(sampler)
    for name in ("a", "b"):
        stacks = [
            [frame.name.rpartition(".")[2] for frame in table.stack_of(table.stack[row])]
            for row in range(len(table))
            if table.span_id[row] == spans[name].span_id
        ]
        assert ["worker", "branch", "leaf", "sleep"] in stacks
        assert sum(innermost(table, spans[name]).values()) == pytest.approx(took[name], rel=0.3, abs=0.06)
        assert cpu(table, spans[name]) < 0.03
    assert innermost(table, spans["runs"])["busy"] == pytest.approx(took["runs"], rel=0.3, abs=0.06)


def test_an_await_chain_goes_through_generators_and_asynchronous_generators():
    async def items():
        await asyncio.sleep(1)
        yield 1

    async def outer():
        async for _ in items():
            pass

    async def main():
        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        names = [frame.f_code.co_name for frame in _await_chain(task.get_coro())]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return names

    assert asyncio.run(main())[0] == "outer"
    assert _await_chain(None) == []
    assert _await_chain(object()) == []


def test_stacks_are_one_node_for_each_line():
    stacks = _Stacks()

    def here():
        frame = sys._getframe()
        return stacks.of_thread(frame), stacks.of_thread(frame)

    first, second = here()
    assert first is second
    assert [node.frame.name for node in first.path()][-1].endswith("here")
    count = len(stacks)
    here()
    assert len(stacks) - count < 10


def test_deep_stacks_are_cut_and_too_many_are_forgotten(monkeypatch):
    monkeypatch.setattr("znb.profiler.NODES_MAX", 10)
    stacks = _Stacks()

    def deep(n):
        return deep(n - 1) if n else stacks.of_thread(sys._getframe())

    assert len(deep(400).path()) == 256
    stacks.shrink()
    assert len(stacks) == 0


@pytest.mark.parametrize(
    ("file", "origin"),
    [
        (__file__, "user"),
        (asyncio.__file__, "library"),
        (pytest.__file__, "library"),
        (sys.modules["znb"].__file__, "znb"),
        ("<frozen runpy>", "library"),
    ],
)
def test_whose_code_a_file_is(file, origin):
    assert origin_of(file) == origin


def test_readers_read_on(recorder, sampler):
    with OpenSpan(recorder, "root", "trace", None, None, 1):
        look(sampler, 5)
    parts, cursor = sampler.read(Cursor(), 2)
    assert sum(len(part.columns[0]) for part in parts) == 16
    rest, _ = sampler.read(cursor, 10_000)
    assert rest
    assert cursor.next == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"columns": []},
        {"columns": [b""] * 5 + [b"abcd"]},
        {"frames": []},
        {"stack_parent": (5).to_bytes(4, "little")},
        {"threads": []},
    ],
)
def test_damaged_samples_are_refused(recorder, sampler, damage):
    with OpenSpan(recorder, "root", "trace", None, None, 1):
        look(sampler, 2)
    (part,) = sampler.read(Cursor(), 1)[0]
    with pytest.raises(ValueError):
        msgspec.structs.replace(part, **damage).add_to(SampleTable(), HERE)


def test_a_sample_that_fails_is_logged_and_does_not_end_the_sampler(recorder, sampler, monkeypatch, caplog):
    monkeypatch.setattr("znb.profiler._all_tasks", lambda tasks: 1 / 0)
    with OpenSpan(recorder, "root", "trace", None, None, 1):
        wait_until(lambda: "could not be taken" in caplog.text, "a message")
        assert sampler.stats().running


def test_the_clock_of_a_thread_that_has_ended(sampler):
    thread = threading.Thread(target=bool)
    thread.start()
    thread.join()
    sampler._clocks[thread.ident] = ((~(1 << 22)) << 3 | 6, 0)
    assert sampler._ran(thread.ident, 10) == 0
    assert sampler._ran(thread.ident, 10) == 10
