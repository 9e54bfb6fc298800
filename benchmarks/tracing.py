"""Tracing: what a span costs, what sampling costs, and how long a big trace takes to be put together and saved.

All times are CPU times of the thread (or process) that pays, so that a busy machine matters less.
"""

import json
import statistics
import sys
import time
from pathlib import Path

#: Spans of one slice of a measurement, and slices; the fastest counts.
SLICE, SLICES = 1000, 200
#: Spans of the big trace.
BIG = 500_000
#: Seconds of one run of the mixed code, and pairs of runs with and without the sampler.
RUN, PAIRS = 1.0, 6
#: Pairs of runs of calls and jobs with tracing on and off.
TURNS = 12


def fastest(call) -> float:
    """Return microseconds of one call: the fastest slice, without the loop around it."""

    def one(function) -> float:
        best = 1e9
        for _ in range(SLICES):
            began = time.thread_time_ns()
            for _ in range(SLICE):
                function()
            best = min(best, (time.thread_time_ns() - began) / SLICE)
        return best

    return (one(call) - one(lambda: None)) / 1000


# -- what a span costs


def measure_bare() -> dict[str, float]:
    """A tuple and two looks at the clock: the least that a span could be."""
    clock = time.perf_counter_ns
    return {"span": fastest(lambda: (1, 2, 3, 4, "name", "kind", clock(), clock(), "ok", 5, None, None))}


def measure_znb() -> dict[str, float]:
    from znb.spans import RECORDER, OpenSpan, calling, serving, span

    def block() -> None:
        with span("name"):
            pass

    def block_with_attribute() -> None:
        with span("name", rows=10):
            pass

    def call() -> None:
        calling("service.method", {}).end()

    with OpenSpan(RECORDER, "root") as root:
        headers: dict[str, str] = {}
        calling("service.method", headers).end()

        def serve() -> None:
            with serving("service.method", headers):
                pass

        return {
            "span": fastest(block),
            "attribute": fastest(block_with_attribute),
            "record": fastest(lambda: RECORDER.record(root, "name", "job", 1, 2)),
            "call": fastest(call),
            "serve": fastest(serve),
        }


def measure_otel() -> dict[str, float]:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("benchmark")

    def block() -> None:
        with tracer.start_as_current_span("name"):
            pass

    def block_with_attribute() -> None:
        with tracer.start_as_current_span("name", attributes={"rows": 10}):
            pass

    with tracer.start_as_current_span("root"):
        return {"span": fastest(block), "attribute": fastest(block_with_attribute)}


# -- what sampling costs


def mixed(seconds: float) -> float:
    """Run Python code of many kinds; return rounds by second of CPU time."""
    began, rounds = time.thread_time(), 0
    while time.thread_time() - began < seconds:
        words = [str(number) for number in range(200)]
        counts: dict[str, int] = {}
        for word in words:
            counts[word[-1]] = counts.get(word[-1], 0) + len(word)
        sorted(counts.items(), key=lambda item: item[1])
        json.loads(json.dumps({"words": words, "deep": nested(30)}))
        rounds += 1
    return rounds / (time.thread_time() - began)


def nested(depth: int) -> list:
    return [nested(depth - 1)] if depth else []


def slowdown(begin, end) -> dict[str, float]:
    """Return by how much the code is slower between ``begin`` and ``end``: paired runs, in turns, their median."""
    mixed(RUN / 4)
    ratios = []
    for number in range(PAIRS):
        speeds = {}
        for watched in (number % 2 == 0, number % 2 == 1):
            if watched:
                begin()
            cpu, began = time.process_time(), time.thread_time()
            speeds[watched] = mixed(RUN)
            other = (time.process_time() - cpu) - (time.thread_time() - began)  # the sampler's own thread
            speeds[watched] *= RUN / (RUN + other)
            if watched:
                end()
        ratios.append(speeds[False] / speeds[True] - 1)
    return {"slowdown": statistics.median(ratios) * 100}


def measure_sampler() -> dict[str, float]:
    from znb.profiler import Sampler
    from znb.spans import RECORDER, OpenSpan

    sampler = Sampler(RECORDER)
    sampler.install()
    spans = []

    def begin() -> None:
        spans.append(OpenSpan(RECORDER, "watched", "trace", live=10).__enter__())

    def end() -> None:
        spans.pop().__exit__(None, None, None)
        sampler.rest()

    return slowdown(begin, end)


# -- what it costs calls and jobs


def noop() -> None:
    pass


def millisecond(_item: int) -> None:
    began = time.thread_time_ns()
    while time.thread_time_ns() - began < 1_000_000:
        pass


def spent(pids: list[int]) -> int:
    """Return nanoseconds of CPU time that processes have taken, all threads together (Linux)."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total


def dearer(call, count: int, pids: list[int], *, switch: bool) -> float:
    """Return by how many percent a call takes more CPU time, of all that are part of it, with tracing on than off."""
    from znb.spans import RECORDER

    def one() -> float:
        began = spent(pids)
        call(count)
        return (spent(pids) - began) / count

    for off in (True, False):  # warm
        RECORDER.off = off and switch
        call(count)
    ratios = []
    for number in range(TURNS):
        cost = {}
        for off in (number % 2 == 0, number % 2 == 1):
            RECORDER.off = off and switch
            cost[off] = one()
        ratios.append(cost[False] / cost[True] - 1)
    RECORDER.off = False
    return statistics.median(ratios) * 100


def measure_on(*, switch: bool = True) -> dict[str, float]:
    import os
    import subprocess

    import znb

    me = os.getpid()
    source = "import sys, tracing, znb; znb.expose(tracing.noop, name='noop'); print(1, flush=True); sys.stdin.read()"
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    server = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=where)
    server.stdout.readline()
    with znb.connect("noop") as svc:
        both = [me, server.pid]

        def calls(count: int) -> None:
            for _ in range(count):
                svc.noop()

        def futures(count: int) -> None:
            for future in [svc.noop.future() for _ in range(count)]:
                future.result()

        result = {
            "call": dearer(calls, 2000, both, switch=switch),
            "future": dearer(futures, 2000, both, switch=switch),
        }
    server.stdin.close()
    server.wait()
    with znb.Cluster.start(2) as cluster:
        all_of_us = [me, *(worker.pid for worker in cluster.workers)]

        def submits(count: int) -> None:
            for future in [cluster.submit(millisecond, 1) for _ in range(count)]:
                future.result()

        def mapped(count: int) -> None:
            for _ in cluster.map(millisecond, range(count)):
                pass

        def trips(count: int) -> None:
            for _ in range(count):
                cluster.submit(noop).result()

        result["submit"] = dearer(submits, 300, all_of_us, switch=switch)
        result["map"] = dearer(mapped, 300, all_of_us, switch=switch)
        result["trip"] = dearer(trips, 500, all_of_us, switch=switch)
    return result


def measure_same() -> dict[str, float]:
    return measure_on(switch=False)


def measure_nothing() -> dict[str, float]:
    return slowdown(lambda: None, lambda: None)


# -- a big trace


def measure_big() -> dict[str, float]:
    import msgspec

    from znb.export import save
    from znb.spans import Process, Recorder
    from znb.traces import Feed, Parts, Request, analysis, assemble, decode_batch

    recorders = {f"w{number}": Recorder(1 << 18) for number in range(4)}
    root, count = fill(recorders)
    parts = Parts(root, 1 << 30)
    answering = taking = 0.0
    for number, (name, recorder) in enumerate(recorders.items()):
        feed = Feed(recorder, None, Process(recorder.key, name, "host", number, "boot"))
        request, more = Request(), True
        while more:
            began = time.thread_time()
            data = msgspec.msgpack.encode(feed.answer(request))
            between = time.thread_time()
            batch = decode_batch(data)
            for part in batch.spans:
                parts.add(batch.process, part)
            taking += time.thread_time() - between
            answering += between - began
            request, more = batch.next_request(), batch.more
    process = next(iter(parts.tables))
    began = time.thread_time()
    trace = assemble(parts, process)
    assembling = time.thread_time() - began
    assert len(trace) == count
    result = {
        "answer": answering / count * 1e6,
        "assemble": taking + assembling,
        "memory": trace.size_bytes / count,
    }
    for column, call in {
        "self": lambda: analysis.self_times(trace),
        "critical": lambda: analysis.critical_path(trace),
        "speedscope": lambda: save(trace, "big.speedscope.json"),
        "chrome": lambda: save(trace, "big.json"),
    }.items():
        began = time.thread_time()
        call()
        result[column] = time.thread_time() - began
    for file in Path().glob("big.*"):
        file.unlink()
    return result


def fill(recorders) -> tuple[int, int]:
    """Record a map of jobs with ten spans each, a third of them with attributes."""

    class Parent:
        trace_id, span_id, live, used = 1 << 100, 7, 0, False

    from znb.spans import Context

    count, now = 0, 10**12
    root = Context(Parent.trace_id, 7)
    client = Context(root.trace_id, 0)
    next(iter(recorders.values())).record(client, "score", "map", now - 10, now + BIG * 2000, span_id=7)
    count += 1
    workers = list(recorders.values())
    for job in range(BIG // 10):
        recorder = workers[job % len(workers)]
        start = now + job * 20_000
        below = Context(root.trace_id, recorder.new_span_id())
        recorder.record(
            root, "score", "job", start, start + 19_000, "ok", {"index": job, "attempt": 1}, span_id=below.span_id
        )
        for step in range(9):
            begins = start + step * 2000 + 100
            attributes = {"rows": step} if step % 3 == 0 else None
            recorder.record(below, f"step{step % 3}", "span", begins, begins + 1800, "ok", attributes)
        count += 10
    return root.trace_id, count


if __name__ == "__main__":
    from harness import answer

    answer(globals())
else:
    from harness import Column, Topic, seconds

    def microseconds(value: float) -> str:
        return f"{value:.2f} µs"

    def percent(value: float) -> str:
        return f"{value:+.1f} %"

    TOPICS = [
        Topic(
            title="A span",
            text="Recorded below another one, nobody watching: a block, a block with an attribute, a span whose times "
            "are known already, and both ends of a call with the header between them.",
            script=Path(__file__),
            contenders={
                "znb": "znb",
                "bare": "a tuple and two looks at the clock",
                "otel": "OpenTelemetry SDK, no exporter",
            },
            columns={
                "span": Column("block", microseconds),
                "attribute": Column("with an attribute", microseconds),
                "record": Column("times known", microseconds),
                "call": Column("caller's end", microseconds),
                "serve": Column("server's end", microseconds),
            },
        ),
        Topic(
            title="Tracing on and off",
            text="What calls and jobs take more with tracing on, as it always is, than with `%znb trace off`: CPU time "
            "of all processes that are part of it, in paired runs.",
            script=Path(__file__),
            contenders={"on": "znb", "same": "on and on: the noise"},
            columns={
                "call": Column("no-op call", percent),
                "future": Column("future of one", percent),
                "submit": Column("submit, 1 ms", percent),
                "map": Column("map, 1 ms", percent),
                "trip": Column("no-op job, one by one", percent),
            },
        ),
        Topic(
            title="Sampling",
            text="Mixed Python code inside a watched span, against the same code outside, in CPU time of the process; "
            "a look every 10 ms.",
            script=Path(__file__),
            contenders={"sampler": "znb", "nothing": "nothing, twice: the noise"},
            columns={"slowdown": Column("slower by", percent)},
        ),
        Topic(
            title=f"A trace of {BIG:,} spans",
            text="From four workers. What a worker takes to answer, by span; reading the answers and assembling; "
            "memory by span; what it is asked then.",
            script=Path(__file__),
            contenders={"big": "znb"},
            columns={
                "answer": Column("answer, a span", microseconds),
                "assemble": Column("assemble", seconds),
                "memory": Column("memory, a span", lambda value: f"{value:.0f} bytes"),
                "self": Column("self times", seconds),
                "critical": Column("critical path", seconds),
                "speedscope": Column("save for speedscope", seconds),
                "chrome": Column("save for Perfetto", seconds),
            },
        ),
    ]
