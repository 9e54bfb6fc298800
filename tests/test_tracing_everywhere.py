"""Traces of real work on real processes: what is recorded agrees with what was done."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import znb
from job_functions import start_callbacks, wait_until
from znb.rpc.callers import CALLED
from znb.spans import RECORDER, OpenSpan, current
from znb.tracing import TRACES


@pytest.fixture(scope="module")
def cluster(module_world):
    with znb.Cluster.start(2, name="traced") as cluster:
        ADDRESSES.update({name: cluster[name].call(expose_grower, name) for name in ("w0", "w1")})
        cluster[:].call(connect_all, ADDRESSES)
        start_callbacks(cluster)
        yield cluster
        for name in ("w0", "w1"):
            cluster[name].call(znb.unexpose, f"grower-{name}")


@pytest.fixture
def growers(cluster):
    """Connections to the growers on the workers, for one test."""
    connect_all(ADDRESSES)
    yield GROWERS
    disconnect()


@pytest.fixture(autouse=True)
def nothing_stays():
    """After each test nothing is open or watched, so that the next begins as a new process does."""
    yield
    assert current() is None
    assert RECORDER.live == 0
    assert not RECORDER.briefs
    TRACES.sampler.rest()


# -- programs that know what they do: they run on workers too, so what they need is inside


def expose_grower(name):
    import znb
    from test_tracing_everywhere import Grower

    znb.expose(Grower(), name=f"grower-{name}")
    from znb.rpc.host import host

    return host.services[f"grower-{name}"].address


def connect_all(addresses):
    import test_tracing_everywhere as here

    here.disconnect()
    for name, address in addresses.items():
        here.GROWERS[name] = znb.connect(address)
        here.GROWERS[name].grow([], "")


def disconnect():
    while GROWERS:
        GROWERS.popitem()[1].close()


#: Where each worker's grower is, and a proxy of it, in each process.
ADDRESSES = {}
GROWERS = {}


class Fell(Exception):
    """What a program raises."""


class Grower:
    def grow(self, program: list, path: str) -> dict:
        """Run a program; return the seconds that each of its spans took by itself, by name."""
        truth: dict[str, float] = {}
        run(program, path, truth)
        return truth

    def fall(self, program: list) -> None:
        run(program, "", {})
        raise Fell("as I was told")


def run(program, path, truth):
    for step in program:
        kind, *rest = step
        began = time.perf_counter()
        if kind == "busy":
            while time.perf_counter() - began < rest[0]:
                sum(range(50))
        elif kind == "sleep":
            time.sleep(rest[0])
        else:
            BELOW[kind](*rest, truth)
            continue
        truth[path] = truth.get(path, 0.0) + time.perf_counter() - began


def run_span(name, program, truth):
    began = time.perf_counter()
    with znb.span(name):
        run(program, name, truth)
    truth[f"{name} from outside"] = time.perf_counter() - began


def run_call(name, worker, program, truth):
    with znb.span(name):
        truth.update(GROWERS[worker].grow(program, f"{name} there"))


def run_future(name, worker, program, truth):
    with znb.span(name):
        truth.update(GROWERS[worker].grow.future(program, f"{name} there").result())


def run_thread(name, program, truth):
    with znb.span(name):
        thread = threading.Thread(target=run, args=(program, name, truth))
        thread.start()
        thread.join()


def run_pool(name, program, truth):
    from concurrent.futures import ThreadPoolExecutor

    with znb.span(name), ThreadPoolExecutor(1) as pool:
        pool.submit(run, program, name, truth).result()


def run_async(name, program, truth):
    async def inside():
        await asyncio.sleep(0)
        await asyncio.to_thread(run, program, name, truth)

    async def outside():
        with znb.span(name):
            await asyncio.gather(asyncio.create_task(inside()))

    asyncio.run(outside())


def run_generator(name, program, truth):
    @znb.traced(name)
    def items():
        yield 1
        run(program, name, truth)
        yield 2

    for _ in items():
        with znb.span(f"{name}:between"):
            pass


BELOW = {
    "span": run_span,
    "call": run_call,
    "future": run_future,
    "thread": run_thread,
    "pool": run_pool,
    "async": run_async,
    "generator": run_generator,
}

WORKLOAD = [
    ["span", "prepare", [["busy", 0.05]]],
    ["call", "load", "w0", [["sleep", 0.05], ["span", "parse", [["busy", 0.08]]]]],
    [
        "call",
        "score",
        "w1",
        [["busy", 0.05], ["call", "fit", "w0", [["sleep", 0.08], ["span", "solve", [["busy", 0.06]]]]]],
    ],
]


def named(trace):
    """Return the spans that programs named, each with the nearest named one above and the worker."""
    spans = {span.span_id: span for span in trace.spans}
    found = []
    for span in trace.spans:
        if span.kind not in {"span", "trace"}:
            continue
        above = spans.get(span.parent_id)
        while above is not None and above.kind not in {"span", "trace"}:
            above = spans.get(above.parent_id)
        found.append((span.name, above.name if above is not None else "", span.worker))
    return sorted(found)


# -- the truth


def test_a_known_workload_over_three_processes_agrees_with_the_truth(growers):
    truth: dict[str, float] = {}
    with znb.trace("workload") as t:
        run(WORKLOAD, "workload", truth)
    me = t.find("workload")[0].worker
    assert named(t) == sorted(
        [
            ("workload", "", me),
            ("prepare", "workload", me),
            ("load", "workload", me),
            ("parse", "load", "w0"),
            ("score", "workload", me),
            ("fit", "score", "w1"),
            ("solve", "fit", "w0"),
        ]
    )
    # Each call has two ends, under one another.
    spans = {span.span_id: span for span in t.spans}
    serves = [span for span in t.spans if span.kind == "serve"]
    assert sorted((spans[s.parent_id].kind, spans[s.parent_id].worker, s.worker) for s in serves) == sorted(
        [("call", me, "w0"), ("call", me, "w1"), ("call", "w1", "w0")]
    )
    assert t.notes == []
    # What each took by itself, to a twentieth of what the programs saw, inside and outside of the span: on a busy
    # machine these differ.
    own = {}
    for node in walk(t.tree()):
        own[node.span.name] = own.get(node.span.name, 0.0) + node.self_seconds
    for name in ("prepare", "parse", "solve"):
        assert truth[name] * 0.95 <= own[name] <= truth[f"{name} from outside"] * 1.05
    served = {spans[s.parent_id].parent_id: s for s in serves}
    for name in ("load", "score", "fit"):
        span = t.find(name)[0]
        own_there = self_seconds(t, served[span.span_id])
        assert truth[f"{name} there"] * 0.95 <= own_there <= (span.end_ns - span.start_ns) / 1e9
    # What all waited for, one after the other.
    path = [segment.span.name for segment in t.critical_path() if segment.seconds > 0.03]
    order = [name for name, before in zip(path, [None, *path], strict=False) if name != before]
    assert [name for name in order if name in {"prepare", "parse", "solve"}] == ["prepare", "parse", "solve"]


def walk(nodes):
    for node in nodes:
        yield node
        yield from walk(node.children)


def self_seconds(trace, wanted):
    return next(node.self_seconds for node in walk(trace.tree()) if node.span.span_id == wanted.span_id)


def programs(depth):
    if not depth:
        return st.just([])
    inner = programs(depth - 1)
    worker = st.sampled_from(["w0", "w1"])
    step = st.one_of(
        st.tuples(st.sampled_from(["span", "thread", "pool", "async", "generator"]), st.just(""), inner).map(list),
        st.tuples(st.sampled_from(["call", "future"]), st.just(""), worker, inner).map(list),
    )
    return st.lists(step, max_size=3)


def number(program, counter):
    """Give each step a name of its own."""
    for step in program:
        step[1] = f"n{next(counter)}"
        number(step[-1], counter)


def expected(program, above, worker, found):
    for step in program:
        kind, name, *_ = step
        found.append((name, above, worker))
        there = step[2] if kind in {"call", "future"} else worker
        if kind == "generator":
            found += [(f"{name}:between", above, worker)] * 2
        expected(step[-1], name, there, found)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=programs(3))
def test_random_call_trees_come_back_as_they_were_called(growers, program):
    number(program, itertools.count())
    found = []
    expected(program, "root", "w0", found)
    with znb.trace("root") as t:
        GROWERS["w0"].grow(program, "root there")
    assert [one for one in named(t) if one[0] != "root"] == sorted(found)
    assert t.notes == []


# -- exceptions


def test_an_exception_is_pinned_where_it_happened_and_read_through_every_hop(cluster):
    def middle():
        import test_tracing_everywhere as here

        here.GROWERS["w1"].fall([["span", "quiet", []]])

    with pytest.raises(Exception, match="as I was told") as caught, znb.trace("falling") as t:
        cluster["w0"].call(middle)
    assert type(caught.value).__name__ == "Fell"
    (failure,) = t.errors()
    assert (failure.span.kind, failure.span.worker, failure.span.name) == ("serve", "w1", "grower-w1.fall")
    me = t.find("falling")[0].worker
    assert [(span.kind, span.worker) for span in failure.path] == [
        ("trace", me),
        ("call", me),
        ("serve", "w0"),
        ("call", "w0"),
        ("serve", "w1"),
    ]
    assert failure.type.endswith("Fell")
    assert 'raise Fell("as I was told")' in failure.traceback
    for line in ("in middle", ".fall(", 'raise Fell("as I was told")', "w0", "grower-w1"):
        assert line in failure.chain
    assert failure.chain.index("in middle") < failure.chain.index("raise Fell")
    assert "znb/rpc" not in failure.traceback
    assert "as I was told" in t.text()


# -- jobs: what happened to them


def die_once(path):
    with znb.span("deadly"):
        if not os.path.exists(path):
            open(path, "w").close()
            time.sleep(0.15)  # so that the open spans are read before
            os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def fail_once(path):
    if not os.path.exists(path):
        open(path, "w").close()
        raise OSError("once")
    return 1


def events_of(trace, kind):
    return [(event.name, event.attributes) for span in trace.spans if span.kind == kind for event in span.events]


def test_a_worker_that_dies_leaves_its_spans_marked_as_lost_and_the_retry_is_told(world):
    with znb.Cluster.start(2, name="damaged") as cluster, znb.trace("damage") as t:
        cluster.submit(die_once, str(world.home / "once")).result()
    lost = [span for span in t.spans if span.status == "lost"]
    assert {"die_once"} <= {span.name for span in lost} <= {"die_once", "deadly"}
    for span in lost:
        assert span.events[-1].name == "lost"
        assert "SIGKILL" in span.events[-1].attributes["reason"]
        assert span.end_ns is not None
    assert any("missing" in note and "SIGKILL" in note for note in t.notes)
    (retry,) = [attributes for name, attributes in events_of(t, "submit") if name == "retry"]
    assert (retry["job"], retry["attempt"]) == (0, 2)
    assert "SIGKILL" in retry["reason"]
    assert [span.status for span in t.spans if span.kind == "job"].count("ok") == 1
    assert next(span for span in t.spans if span.kind == "submit").status == "ok"


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("watched", [True, False])
def test_a_job_that_kills_its_worker_is_a_lost_span_and_its_kills_and_retries_are_events(world, watched):
    with znb.Cluster.start(2, name="killed") as cluster:
        with znb.trace("kills") if watched else OpenSpan(RECORDER, "kills", "cell"):
            future = cluster.submit(die)
            with pytest.raises(znb.WorkerLost):
                future.result()
        t = future.trace
    jobs = [span for span in t.spans if span.kind == "job"]
    assert [span.status for span in jobs] == ["lost"] * 3
    assert [span.attributes["attempt"] for span in jobs] == [1, 2, 3]
    assert all("SIGKILL" in span.events[-1].attributes["reason"] for span in jobs)
    above = next(span for span in t.spans if span.span_id == jobs[0].parent_id)
    assert (above.kind, above.name) == (("submit", "die") if watched else ("cell", "kills"))
    assert [event.name for event in above.events if event.name != "exception"] == ["kill", "retry"] * 2 + ["kill"]
    assert all("SIGKILL" in event.attributes["reason"] for event in above.events if event.name == "kill")
    if watched:
        (failure,) = t.errors()
        assert failure.type.endswith("WorkerLost")
        assert "SIGKILL" in failure.message
    assert "3 lost" in t.text()


def test_a_worker_that_the_cluster_kills_is_an_event_of_what_it_ran(world):
    with znb.Cluster.start(1, name="ended") as cluster, znb.trace("ended") as t:
        future = cluster.submit(wait_for_file, str(world.home / "go"), str(world.home / "begun"))
        wait_until((world.home / "begun").exists, "the job runs")
        (world.home / "go").touch()
        cluster.kill("w0")
        assert future.result() == "went"
        killer = threading.Thread(target=kill_when, args=(cluster, world.home / "here"))
        killer.start()
        with pytest.raises(znb.WorkerLost):
            cluster["w0"].run(f"open({str(world.home / 'here')!r}, 'w'); import time; time.sleep(60)")
        killer.join()
    for kind in ("submit", "call"):
        (kill,) = [attributes for name, attributes in events_of(t, kind) if name == "kill"]
        assert kill["worker"] == "w0"
        assert "SIGKILL" in kill["reason"]


def wait_for_file(go, begun):
    if not os.path.exists(begun):
        open(begun, "w").close()
        time.sleep(60)
    return "went" if os.path.exists(go) else "came too early"


def kill_when(cluster, path):
    wait_until(path.exists, "the cell runs")
    cluster.kill("w0")


def test_who_asks_for_a_trace_sees_what_runs(cluster):
    with OpenSpan(RECORDER, "outer", "cell"):
        future = cluster.submit(time.sleep, 30)
        wait_until(future.running, "the job runs")
        wait_until(lambda: future.trace.find("sleep"), "the job is told of")
        assert [span.status for span in future.trace.find("sleep")] == ["open"]
        assert "not ended" in future.trace.text()
        future.cancel()
    wait_until(lambda: [span.status for span in future.trace.find("sleep")] == ["cancelled"], "it has ended")
    (job,) = future.trace.find("sleep")
    assert [event.name for event in job.events] == ["interrupt", "exception"]
    assert "cancelled" in future.trace.text()
    assert events_of(future.trace, "cell") == [("cancel", {"job": future.index})]


def test_a_job_that_is_cancelled_before_it_has_a_number_is_told_without_one(cluster, monkeypatch):
    with znb.trace("early") as t:
        with monkeypatch.context() as patched:
            patched.setattr(cluster._attached.reactor, "call_soon", lambda *_: None)  # it is not sent before the cancel
            future = cluster.submit(time.sleep, 30)
            assert future.cancel()
        cluster._attached.reactor.call_soon(cluster._attached.submits._flush)
        assert cluster.submit(abs, -1).result() == 1
    (submit,) = (span for span in t.spans if span.kind == "submit" and span.name == "sleep")
    assert [(event.name, event.attributes) for event in submit.events] == [("cancel", {})]


def test_retries_limits_and_cancellations_are_events(cluster, world):
    with znb.trace("events") as t:
        assert list(cluster.map(fail_once, [str(world.home / "f")], retry_on=OSError)) == [1]
        with pytest.raises(znb.CallTimeout):
            list(cluster.map(time.sleep, [30], job_timeout=0.1))
        future = cluster.submit(time.sleep, 30)
        wait_until(future.running, "the job runs")
        future.cancel()
        with pytest.raises(znb.CallTimeout):
            cluster[0].run("import time; time.sleep(30)", timeout=0.2)
    told = events_of(t, "map")
    assert [(name, attributes.get("reason")) for name, attributes in told if name in {"retry", "interrupt"}] == [
        ("retry", "raised OSError"),
        ("interrupt", "it took too long"),
    ]
    assert [(span.name, span.kind, span.status) for span in t.spans if span.kind in {"map", "submit"}] == [
        ("fail_once", "map", "ok"),
        ("sleep", "map", "error"),
        ("sleep", "submit", "cancelled"),
    ]
    call = next(span for span in t.spans if span.kind == "call")
    assert (call.status, call.events[0].name) == ("cancelled", "interrupt")


def test_short_jobs_that_nobody_watches_share_a_span(cluster):
    with OpenSpan(RECORDER, "outer", "cell") as outer:
        assert sum(cluster.map(abs, range(5000))) == sum(range(5000))
    TRACES.collect(10.0)
    t = TRACES[outer.trace_id]
    jobs = [span for span in t.spans if span.kind == "job"]
    assert sum(span.attributes.get("jobs", 1) for span in jobs) == 5000
    assert len(jobs) < 1000
    (flow,) = [span for span in t.spans if span.kind == "map"]
    assert flow.attributes["taken"] == 5000


# -- what is inside


def spin(seconds):
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        sum(range(200))


async def rest(seconds):
    with znb.span("resting"):
        await asyncio.sleep(seconds)


def test_workers_are_sampled_and_stacks_belong_to_the_span_that_was_active(cluster):
    with znb.trace("sampled", interval=0.002) as t:
        cluster.submit(spin, 0.2).result()
        cluster.submit(rest, 0.2).result()
    data = t.data
    ids = {span.span_id: span for span in t.spans}
    seen: dict[tuple[str, str], list[tuple[int, int]]] = {}
    functions: dict[tuple[str, str], set[str]] = {}
    for row in range(len(data.samples)):
        span = ids[f"{data.samples.span_id[row]:016x}"]
        key = (span.kind, span.name)
        seen.setdefault(key, []).append((data.samples.wall_ns[row], data.samples.cpu_ns[row]))
        functions.setdefault(key, set()).update(frame.name for frame in data.samples.stack_of(data.samples.stack[row]))
    assert "spin" in functions["job", "spin"]
    assert "rest" in functions["span", "resting"]
    ran = sum(cpu for _, cpu in seen["job", "spin"]) / 1e9
    assert 0.1 < ran < 0.3  # it was 0.2, whatever time the machine took for that
    waited = [sum(column) / 1e9 for column in zip(*seen["span", "resting"], strict=True)]
    assert waited[0] > 0.1
    assert waited[1] < 0.02


def test_the_pieces_of_a_call_explain_all_of_it(cluster):
    with znb.trace("pieces") as t:
        cluster["w1"].call(time.sleep, 0.05)
        cluster.submit(time.sleep, 0.05).result()
    for kind in ("call", "submit"):
        span = next(span for span in t.spans if span.kind == kind)
        pieces = t.pieces(span)
        assert pieces[0].start_ns == span.start_ns
        assert pieces[-1].end_ns == span.end_ns
        assert all(one.end_ns == two.start_ns for one, two in itertools.pairwise(pieces))
        names = [piece.name for piece in pieces]
        assert {"transfer", "run", "reply"} <= set(names)
        assert names.index("transfer") < names.index("run") < names.index("reply")
        assert sum(piece.seconds for piece in pieces if piece.name == "run") >= 0.05


# -- context


def test_a_futures_trace_is_that_of_its_submit(cluster):
    with znb.span("asking") as asking:
        future = cluster.submit(abs, -1)
    assert future.result() == 1
    t = future.trace
    assert t.trace_id == f"{asking.trace_id:032x}"
    assert [span.kind for span in t.spans] == ["span", "job"]


def test_callbacks_of_futures_belong_to_the_span_that_added_them(cluster):
    done = threading.Event()

    def called(_future):
        with znb.span("in callback"):
            done.set()

    with znb.trace("callbacks") as t:
        with znb.span("adding"):
            cluster.submit(abs, -1).add_done_callback(called)
        assert done.wait(20)
    wait_until(lambda: any(span.name == "in callback" and span.end_ns for span in t.spans), "its span has ended")
    spans = {span.name: span for span in t.spans}
    assert spans["in callback"].parent_id == spans["adding"].span_id


def test_a_context_of_opentelemetry_is_continued(cluster):
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    tracer = sdk.TracerProvider().get_tracer("web server")
    with tracer.start_as_current_span("request") as request:
        future = cluster.submit(abs, -1)
        assert future.result() == 1
    context = request.get_span_context()
    t = future.trace
    assert t.trace_id == f"{context.trace_id:032x}"
    assert [span.parent_id for span in t.spans] == [f"{context.span_id:016x}"]


def test_switched_off_nothing_is_recorded_anywhere(cluster, growers):
    TRACES.collect(10.0)
    before = {trace_id for trace_id, _ in TRACES.store.titles(ours=False)}
    RECORDER.off = True
    try:
        with znb.span("here"):
            cluster.submit(fail_never, 1).result()
            assert list(cluster.map(abs, [-1])) == [1]
            cluster["w0"].call(fail_never, 1)
            for _ in range(3):
                GROWERS["w0"].grow([["span", "there", []]], "x")
            GROWERS["w0"].grow.future([], "x").result()
        TRACES.collect(10.0)
        assert {trace_id for trace_id, _ in TRACES.store.titles(ours=False)} == before
        with znb.trace("yet this is") as t:
            cluster.submit(fail_never, 1).result()
        assert [span.kind for span in t.spans] == ["trace", "submit", "job", "span"]
    finally:
        RECORDER.off = False


def fail_never(x):
    with znb.span("inside"):
        return x


def test_what_is_put_and_interrupted_is_recorded(cluster):
    with znb.trace("putting") as t, cluster.put(b"x" * 1000):
        pass
    (put,) = [span for span in t.spans if span.kind == "put"]
    assert put.attributes["bytes"] >= 1000


def test_exports_of_a_real_trace_can_be_read_back(cluster, world):
    with znb.trace("saved") as t:
        cluster.submit(spin, 0.05).result()
    for suffix in (".json", ".otlp.json", ".html"):
        again = znb.Trace.load(t.save(world.home / f"t{suffix}"))
        assert [(s.span_id, s.parent_id, s.start_ns, s.end_ns) for s in again.spans] == [
            (s.span_id, s.parent_id, s.start_ns, s.end_ns) for s in t.spans
        ]
    for suffix in (".speedscope.json", ".folded", ".svg"):
        assert "spin" in t.save(world.home / f"t{suffix}").read_text()


# -- services of processes that are nobody's worker

SERVICE = """
import sys, threading, znb

class Service:
    def hop(self, address, x):
        with znb.connect(address) as svc:
            return svc.leaf(x)
    def leaf(self, x):
        def work():
            with znb.span("on a thread"):
                if x < 0:
                    raise ValueError("negative")
        with znb.span("leaf itself"):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        return x
    def quick(self, x):
        return x
    def count(self, n):
        for i in range(n):
            yield i
    async def later(self, x):
        with znb.span("later itself"):
            return x

service = znb.rpc.serve(Service(), name=sys.argv[1])
print(service.address, flush=True)
sys.stdin.read()
service.close()
"""


@pytest.fixture(scope="module")
def services(module_world):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", "import znb.rpc\n" + SERVICE, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in ("near", "far")
    ]
    yield [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def test_a_service_out_of_reach_keeps_nobody_else_away(services):
    near, far = services
    with contextlib.ExitStack() as stack:
        mute = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)]
        addresses = [
            f"tcp://127.0.0.1:{each.getsockname()[1]}" for each in mute
        ]  # they take connections, and say nothing
        CALLED.note(addresses)
        with znb.connect(near) as svc:
            for _ in range(2):
                with znb.trace("hops") as t:
                    assert svc.hop(far, 1) == 1
                assert [span.name.rpartition(".")[2] for span in t.spans if span.kind == "serve"] == ["hop", "leaf"]
        for address in addresses:
            CALLED.forget(address)


def test_services_are_followed_through_processes_that_this_one_does_not_know(services):
    near, far = services
    with znb.connect(near) as svc:
        with znb.trace("hops") as t:
            assert svc.hop(far, 1) == 1
            assert list(svc.count(3)) == [0, 1, 2]
            assert svc.later.future(5).result() == 5
            assert [svc.quick(i) for i in range(3)] == [0, 1, 2]
    assert t.notes == []
    spans = {span.span_id: span for span in t.spans}
    tree = [
        (s.name.rpartition(".")[2], spans[s.parent_id].kind)
        for s in t.spans
        if s.parent_id in spans and s.kind != "call"
    ]
    assert sorted(tree) == sorted(
        [
            ("hop", "call"),
            ("leaf", "call"),
            ("leaf itself", "serve"),
            ("on a thread", "span"),
            ("count", "call"),
            ("later", "call"),
            ("later itself", "serve"),
            *[("quick", "call")] * 3,
        ]
    )
    assert len({span.worker for span in t.spans}) == 3
    (count,) = [span for span in t.spans if span.kind == "call" and span.name.endswith("count")]
    assert count.attributes["items"] == 3


def test_quick_calls_that_nobody_watches_have_both_ends(services):
    near, _ = services
    with znb.connect(near) as svc:
        for i in range(5):  # so that it knows that they are quick
            svc.quick(i)
        with znb.span("unwatched") as outer:
            assert [svc.quick(i) for i in range(10)] == list(range(10))
            assert [future.result() for future in [svc.quick.future(i) for i in range(10)]] == list(range(10))
            with pytest.raises(TypeError):
                svc["quick"].future(1, 2).result()
        TRACES.collect(10.0)
    t = TRACES[outer.trace_id]
    spans = {span.span_id: span for span in t.spans}
    serves = [span for span in t.spans if span.kind == "serve"]
    assert len(serves) == 20
    assert {(spans[s.parent_id].kind, spans[spans[s.parent_id].parent_id].name) for s in serves} == {
        ("call", "unwatched")
    }
    assert len({s.parent_id for s in serves}) == 20


def test_each_call_begins_in_its_own_context(services):
    near, _ = services
    with znb.connect(near) as svc:
        for watched in (0, 1, 0, 1):
            for _ in range(5):
                assert svc.quick(1) == 1
                if watched:
                    with znb.trace("watched"):
                        assert svc.quick(2) == 2
        RECORDER.off = True
        try:
            assert [svc.quick(i) for i in range(5)] == list(range(5))
        finally:
            RECORDER.off = False
        with OpenSpan(RECORDER, "last", "span") as last:
            svc.quick(5)
        TRACES.collect(10.0)
    assert sorted((span.kind, span.name.rpartition(".")[2]) for span in TRACES[last.trace_id].spans) == [
        ("call", "quick"),
        ("serve", "quick"),
        ("span", "last"),
    ]


def test_a_stream_that_is_left_and_a_call_that_is_cancelled_are_so_in_the_trace(services):
    near, _ = services
    with znb.connect(near) as svc:
        with znb.trace("left") as t:
            stream = svc.count(1000)
            assert next(stream) == 0
            stream.close()
            wait_until(lambda: served_status(t, "count") != "open", "the service has heard of it")
    assert served_status(t, "count") in {"cancelled", "ok"}


def served_status(trace, name):
    TRACES.collect(10.0)
    found = [span.status for span in trace.spans if span.kind == "serve" and span.name.endswith(name)]
    return found[0] if found else "open"


def test_what_cannot_be_sent_leaves_nothing_open(cluster):
    lock = threading.Lock()
    with znb.trace("refused") as t:
        with pytest.raises(znb.SerializationError):
            cluster.map(lambda _: lock, [1])
        with pytest.raises(znb.SerializationError):
            cluster.submit(abs, lock)
        with pytest.raises(znb.SerializationError):
            cluster["w0"].call(abs, lock)
    assert {(span.kind, span.status) for span in t.spans} == {("trace", "ok"), ("map", "error"), ("submit", "error")}
    assert t.notes == []


def divide(secret_token, amount):
    return amount / 0


CELL = "secret_token, amount = 'hunter2', 5\nsecret_token, amount / 0"


def test_variables_of_frames_are_kept_where_asked_for_and_secrets_are_not(world):
    with (
        znb.Cluster.start(1, name="locals", env={"ZNB_TRACE_LOCALS": "1"}) as cluster,
        znb.trace("locals") as t,
    ):
        raised = []
        for call in (lambda: cluster.submit(divide, "hunter2", 5).result(), lambda: cluster["w0"].run(CELL)):
            with pytest.raises(ZeroDivisionError) as failed:
                call()
            raised.append(failed.value)
    for error in raised:  # as `%debug` has them
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        assert frame.f_locals["amount"] == 5
        assert repr(frame.f_locals["secret_token"]) == "<masked>"
    kept = [
        event.attributes["exception.locals"]
        for span in t.spans
        for event in span.events
        if "exception.locals" in event.attributes
    ]
    assert any("amount = 5" in text for text in kept)
    assert not any("hunter2" in text for text in kept)
