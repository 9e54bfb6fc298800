"""Services end to end: expose, connect, streams, errors, time, concurrency, replacement, security."""

import asyncio
import collections
import concurrent.futures
import contextlib
import datetime as dt
import gc
import inspect
import io
import json
import math
import os
import pickle
import platform
import pydoc
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import weakref

import msgspec
import numpy as np
import pytest
import zmq

from notebooks import run_script
from test_rpc_channels import keep_zero_copy_warm
from znb import wire
from znb.errors import (
    AuthError,
    CallTimeout,
    NoWorkers,
    ProtocolError,
    RemoteError,
    SerializationError,
    ServiceUnavailable,
    ZnbError,
)
from znb.rpc import (
    Hook,
    connect,
    current_call,
    expose,
    inspect_service,
    list_services,
    ping,
    process_hooks,
    serve,
    service_stats,
    unexpose,
    work,
)
from znb.rpc import host as hosting

keep_zero_copy_warm()


def wait_until(condition, timeout=10.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)


class Oops(Exception):
    """An exception of this test."""


class Things:
    """Things to call."""

    def __init__(self):
        self.events = collections.Counter()
        self.release = threading.Event()
        self.started = threading.Semaphore(0)

    attribute = 5

    @property
    def trap(self):
        raise AssertionError("properties are not looked at")

    def _private(self):
        return "secret"

    def add(self, a: int, b: int = 1) -> int:
        """Sum of two numbers.

        And more.
        """
        return a + b

    def echo(self, *args, **kwargs):
        return [list(args), kwargs]

    def same(self, x):
        return x

    def fail(self, kind="ValueError"):
        kinds = {
            "Oops": Oops,
            "SystemExit": SystemExit,
            "KeyboardInterrupt": KeyboardInterrupt,
            "MemoryError": MemoryError,
        }
        raise kinds.get(kind, ValueError)("bad", {"a": (1, 2)})

    def chained(self):
        try:
            {}["missing"]
        except KeyError as error:
            raise RuntimeError("outer") from error

    def count(self, n):
        """Numbers."""
        yield from range(n)

    def endless(self):
        try:
            for number in range(10**9):
                self.events["made"] += 1
                yield number
        finally:
            self.events["closed"] += 1

    def breaks(self, n):
        yield from range(n)
        raise Oops("in mid-stream")

    def dull(self):
        self.started.release()
        self.release.wait(30)
        return "done"

    def spin(self):
        self.started.release()
        try:
            while True:
                pass
        finally:
            self.events["stopped"] += 1

    def slow_stream(self):
        yield 1
        self.release.wait(30)
        yield 2

    async def later(self, x):
        await asyncio.sleep(0.001)
        return x

    async def forever(self):
        self.started.release()
        try:
            await asyncio.sleep(1000)
        finally:
            self.events["cancelled"] += 1

    async def ticks(self, n):
        try:
            for number in range(n):
                await asyncio.sleep(0)
                yield number
        finally:
            self.events["ticks closed"] += 1

    def unserialisable(self):
        return [1, {"lock": threading.Lock()}]

    def bad_item(self):
        yield 1
        yield object()

    def who(self):
        call = current_call()
        return [call.service, call.method, call.deadline is not None, dict(call.headers).get("token")]


@pytest.fixture
def things():
    return Things()


@pytest.fixture
def service(things):
    with serve(things, name="things", threads=4) as made:
        yield made
        things.release.set()


@pytest.fixture
def svc(service):
    with connect("things") as made:
        yield made


# -- calling


def test_calls_with_all_kinds_of_arguments(svc):
    assert svc.add(1, b=2) == 3
    assert svc.add(b=2, a=1) == 3
    assert svc.echo() == [[], {}]
    assert svc.echo(1, (2, {3}), x=dt.date(2000, 1, 1)) == [[1, (2, {3})], {"x": dt.date(2000, 1, 1)}]
    assert svc.echo({"looks": "like kwargs"}) == [[{"looks": "like kwargs"}], {}]
    assert svc.same(2**100) == 2**100
    assert svc.same("\ud800") == "\ud800"


def test_arrays_travel_out_of_band_and_come_back_equal(svc):
    array = np.arange(200_000.0).reshape(100, -1)
    np.testing.assert_array_equal(svc.same(array), array)
    np.testing.assert_array_equal(svc.same.future({"a": [array]}).result(5)["a"][0], array)
    assert svc.same(bytes(1_000_000)) == bytes(1_000_000)


def test_futures_are_awaitable_and_of_concurrent_futures(svc):
    assert svc.add.future(1).result(5) == 2

    async def ask():
        return await asyncio.gather(*(svc.add.future(n) for n in range(20)))

    assert asyncio.run(ask()) == [n + 1 for n in range(20)]
    future = svc.fail.future()
    assert isinstance(future.exception(5), ValueError)
    with pytest.raises(TypeError, match="iterate"):
        svc.count.future(3)


@pytest.mark.parametrize("waiting", ["result", "exception", "wait", "as_completed"])
def test_an_interrupted_wait_for_a_future_stops_its_call(svc, waiting):
    def interrupt():
        wait_until(lambda: future._waiters or future._condition._waiters)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    future = svc.forever.future()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        if waiting in {"result", "exception"}:
            getattr(future, waiting)()
        else:
            list(getattr(concurrent.futures, waiting)([future]))
    thread.join()
    assert future.cancelled()
    assert svc.add(1) == 2


def test_from_many_threads_at_once(svc):
    wrong = []

    def ask(base):
        wrong.extend(n for n in range(base, base + 50) if svc.add(n) != n + 1)

    threads = [threading.Thread(target=ask, args=(n * 50,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_coroutines(svc):
    assert svc.later(5) == 5
    assert [svc.later.future(n).result(5) for n in range(3)] == [0, 1, 2]


def test_a_method_may_call_its_own_service(service, svc):
    def nested(n):
        with connect("things") as inner:
            return inner.add(n) if n else 0

    service.replace({"nested": nested, "add": lambda a: a + 1})
    with connect("things") as proxy:
        assert [proxy.nested(n) for n in (1, 2, 3)] == [2, 3, 4]


# -- what can be exposed


@pytest.mark.parametrize(
    ("obj", "name", "call", "result"),
    [
        (statistics, None, lambda s: s.mean([1, 2, 6]), 3),
        (json, None, lambda s: s.dumps({"a": 1}), '{"a": 1}'),
        (math, None, lambda s: s.gcd(12, 18), 6),
        (math.sqrt, None, lambda s: s.sqrt(4), 2.0),
        (lambda x: x + 1, "inc", lambda s: s.inc(1), 2),
        ({"double": lambda x: 2 * x, "thing": Things}, "both", lambda s: (s.double(2), s.thing.add(1)), (4, 2)),
        (Things, None, lambda s: s.add(1), 2),
        (io.StringIO("text"), "text", lambda s: s.read(), "text"),
        ({"a": Things()}, "d", lambda s: s["a.add"](1), 2),
    ],
)
def test_functions_classes_instances_modules_and_dicts(obj, name, call, result):
    with serve(obj, name=name) as service, connect(service.name) as svc:
        assert call(svc) == result


def test_plain_values_of_a_dict_are_left_out():
    with serve({"apple": 3, "when": dt.date(2024, 1, 31), "double": lambda x: 2 * x}, name="shop") as service:
        assert list(service.methods) == ["double"]


def test_only_public_methods_are_offered(svc, service):
    assert "_private" not in service.methods
    assert "trap" not in service.methods
    assert "attribute" not in service.methods
    with pytest.raises(AttributeError):
        _ = svc._private
    with pytest.raises(NameError, match="no method '_private'"):
        svc._znb_caller.call("_private", (), {}, svc._znb_limits)
    with pytest.raises(NameError, match="no method '__class__'"):
        svc._znb_caller.call("__class__", (), {}, svc._znb_limits)


class NeedsArguments:
    def __init__(self, x):
        self.x = x

    def get(self):
        return self.x


def test_what_cannot_be_exposed_says_why():
    with pytest.raises(ZnbError, match="expose an instance"):
        serve(NeedsArguments)
    with pytest.raises(ZnbError, match="no public methods"):
        serve({}, name="empty")
    with pytest.raises(ZnbError, match="name="):
        serve({"a": len})
    for value in (3, "text", [1], None, {"apple": 3, "pear": 0.5}):
        with pytest.raises(ZnbError, match="has no public methods to expose"):
            serve(value, name="value")
    with pytest.raises(ZnbError, match="cannot name"):
        serve(len, name="../x")
    with pytest.raises(ZnbError, match="cannot listen"):
        serve(len, bind="tcp://999.1.1.1:1", insecure=True)


def test_expose_as_a_decorator_leaves_the_object_as_it_is(things):
    @expose
    def triple(x):
        return 3 * x

    @expose(name="other", threads=1)
    class Thing:
        def get(self):
            return 1

    try:
        assert triple(2) == 6
        assert Thing().get() == 1
        with connect("triple") as svc:
            assert svc.triple(3) == 9
        assert expose(things, name="t") is things
        assert set(hosting.host.services) == {"triple", "other", "t"}
        assert {s.name for s in list_services()} == {"triple", "other", "t"}
    finally:
        hosting.host.close()
    with pytest.raises(ServiceUnavailable, match="no service"):
        unexpose("triple")
    assert list_services() == []


# -- introspection


def test_the_proxy_looks_like_the_thing(svc):
    assert str(inspect.signature(svc.add)) == "(a: int, b: int = 1) -> int"
    assert svc.add.__doc__.startswith("Sum of two numbers.")
    assert svc.add.__name__ == "add"
    assert {"add", "count", "using", "close"} <= set(dir(svc))
    assert "add(a: int, b: int = 1) -> int" in repr(svc)
    assert "count(n) → items" in repr(svc)
    assert "Sum of two numbers" in svc._repr_html_()
    assert "<service things" in repr(svc)
    assert "add(a: int" in repr(svc.add)
    assert "return a + b" in inspect.getsource(svc.add)
    assert not hasattr(svc, "_ipython_canary_method_should_not_exist_")


def test_help_shows_methods_and_docs(svc):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        pydoc.Helper(output=text)(svc)
    assert "Sum of two numbers." in text.getvalue()
    assert "add(a: int, b: int = 1) -> int" in text.getvalue()


def test_wrong_arguments_are_told_before_anything_is_sent(svc, service):
    before = service.stats().calls
    for args, kwargs in [((), {}), ((1, 2, 3), {}), ((1,), {"c": 1})]:
        with pytest.raises(TypeError, match="add\\(a: int"):
            svc.add(*args, **kwargs)
    assert service.stats().calls == before


def test_unknown_methods_are_attribute_errors_with_a_hint(svc):
    with pytest.raises(AttributeError, match="did you mean 'add'"):
        _ = svc.ad
    with pytest.raises(AttributeError, match="it has add"):
        _ = svc.qqqq


def test_introspection_and_ping_answer_while_all_threads_are_busy(svc, things):
    futures = [svc.dull.future() for _ in range(6)]
    for _ in range(4):
        assert things.started.acquire(timeout=5)
    told = inspect_service(svc)
    assert told["methods"]["add"]["signature"] == "(a: int, b: int = 1) -> int"
    assert 0 < ping(svc) < 5
    stats = service_stats(svc)
    assert (stats["running"], stats["waiting"]) == (4, 2)
    things.release.set()
    assert {f.result(5) for f in futures} == {"done"}


# -- streams


def test_streams_in_both_worlds(svc):
    assert list(svc.count(2500)) == list(range(2500))
    assert list(svc.count(0)) == []
    assert list(svc.ticks(300)) == list(range(300))

    async def read(method, n):
        return [item async for item in method(n)]

    assert asyncio.run(read(svc.count, 2500)) == list(range(2500))
    assert asyncio.run(read(svc.ticks, 30)) == list(range(30))


def test_items_of_every_size_and_kind(service, svc):
    items = [1, np.arange(100_000.0), {"a": (1,)}, bytes(50_000), "x" * 30_000, None]
    service.replace({"items": lambda: iter(items)})
    got = list(svc["items"]())
    assert len(got) == len(items)
    np.testing.assert_array_equal(got[1], items[1])
    assert got[2:] == items[2:]


@pytest.mark.parametrize("use_async", [False, True])
def test_a_consumer_that_stops_reading_holds_the_producer(svc, things, use_async):
    async def read_one(stream):
        return await anext(stream)

    loop = asyncio.new_event_loop()
    stream = svc.endless()
    first = loop.run_until_complete(read_one(stream)) if use_async else next(stream)
    assert first == 0
    wait_until(lambda: things.events["made"] > 900)
    made = -1
    while made != things.events["made"]:
        made = things.events["made"]
        threading.Event().wait(0.05)
    assert made <= 1100
    if use_async:
        loop.run_until_complete(stream.aclose())
    else:
        stream.close()
    loop.close()
    wait_until(lambda: things.events["closed"] == 1, timeout=1.5)


def test_a_stream_ends_on_the_server_when_it_is_dropped_or_broken_out_of(svc, things):
    for number in svc.endless():
        if number > 10:
            break
    gc.collect()
    wait_until(lambda: things.events["closed"] == 1, timeout=1.5)
    with svc.endless() as stream:
        next(stream)
    wait_until(lambda: things.events["closed"] == 2, timeout=1.5)
    assert list(stream) == []
    assert svc.add(1) == 2


def test_a_stream_whose_consumer_is_killed_ends(service, things):
    code = (
        "import sys\nfrom znb.rpc import connect\n"
        "stream = connect('things').endless()\nnext(stream)\nprint('read', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"read\n"
    process.kill()
    wait_until(lambda: things.events["closed"] == 1, timeout=2)
    process.communicate()


def test_streams_interleave_and_nest(svc):
    pairs = [(a, b) for a in svc.count(3) for b in svc.count(2)]
    assert pairs == [(a, b) for a in range(3) for b in range(2)]
    assert list(zip(svc.count(500), svc.count(500), strict=True)) == [(n, n) for n in range(500)]


def test_a_stream_is_read_in_one_way_only(svc):
    stream = svc.count(5)
    next(stream)

    async def read():
        return await anext(stream)

    with pytest.raises(TypeError, match="read by for"):
        asyncio.run(read())
    assert "open" in repr(stream)
    stream.close()
    assert "closed" in repr(stream)


# -- errors


def test_exceptions_have_their_own_type_and_arguments(svc):
    with pytest.raises(ValueError, match="bad") as caught:
        svc.fail()
    assert caught.value.args == ("bad", {"a": (1, 2)})
    assert any("raised on things" in note for note in caught.value.__notes__)
    with pytest.raises(Oops):
        svc.fail("Oops")
    with pytest.raises(RuntimeError, match="outer") as caught:
        svc.chained()
    assert isinstance(caught.value.__cause__, KeyError)


def test_the_remote_traceback_is_shown_without_the_frameworks_frames(svc):
    import traceback

    with pytest.raises(ValueError) as caught:
        svc.fail()
    text = "".join(traceback.format_exception(caught.value))
    assert 'raise kinds.get(kind, ValueError)("bad"' in text
    assert "work.py" not in text


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "MemoryError"])
def test_nothing_that_a_method_raises_ends_the_server(svc, kind):
    for _ in range(3):
        with pytest.raises((RemoteError, MemoryError, ZnbError)):
            svc.fail(kind)
    assert svc.add(1) == 2


def test_an_exception_type_that_is_not_known_here_is_a_remote_error(runtime_dir):
    code = (
        "import sys\nfrom znb.rpc import serve\n"
        "class Own(Exception): pass\n"
        "def f(): raise Own('mine')\n"
        "s = serve(f)\nprint('up', flush=True)\nsys.stdin.read()\ns.close()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    with connect("f") as svc, pytest.raises(RemoteError, match="Own: mine"):
        svc.f()
    process.communicate()


def test_a_strangers_error_record_imports_nothing(svc):
    from znb.rpc.failures import PlainCodec, find_type

    for module, name in [
        ("antigravity", "fly"),
        ("os", "system"),
        ("builtins", "SystemExit"),
        ("builtins", "eval"),
        ("znb.no_such_module", "X"),
        ("_thread", "error.__class__"),
    ]:
        with pytest.raises(LookupError):
            find_type(module, name)
    assert "antigravity" not in sys.modules
    assert find_type("json.decoder", "JSONDecodeError") is json.JSONDecodeError
    with pytest.raises(ProtocolError):
        PlainCodec().decode(msgspec.msgpack.encode(["pickle", b""]))


def test_streams_that_fail_give_their_items_first(svc):
    got = []
    with pytest.raises(Oops, match="mid-stream"):
        for item in svc.breaks(5):
            got += [item]
    assert got == list(range(5))

    async def read():
        async for item in svc.breaks(5):
            got.insert(0, item)

    with pytest.raises(Oops):
        asyncio.run(read())
    assert len(got) == 10


def test_what_cannot_travel_is_told_at_once_and_in_the_right_place(svc):
    with pytest.raises(SerializationError, match=r"args\[0\]\['x'\]"):
        svc.same({"x": threading.Lock()})
    with pytest.raises(SerializationError, match="args"):
        svc.same.future(object())
    with pytest.raises(SerializationError, match=r"result\[1\]\['lock'\]"):
        svc.unserialisable()
    got = []
    with pytest.raises(SerializationError, match="item"):
        got.extend(svc.bad_item())
    assert svc.add(1) == 2


# -- what changes while it is sent


class Camera:
    """Fills one picture anew for each who asks."""

    def __init__(self):
        self.picture = np.zeros(500_000)

    def take(self, number):
        self.picture[:] = number
        return self.picture

    def film(self, count):
        for number in range(count):
            yield {"picture": self.take(number)}

    async def film_slowly(self, count):
        for number in range(count):
            await asyncio.sleep(0)
            yield self.take(number)

    def total(self, picture):
        return picture.min(), picture.max()

    def echo(self, picture):
        return picture


@pytest.fixture
def camera():
    with serve(Camera(), name="camera", threads=1), connect("camera") as svc:
        yield svc


@pytest.mark.parametrize("quick", [False, True])
def test_results_are_as_they_were_when_the_method_returned(camera, quick):
    if quick:
        for number in range(20):  # so that it is known to be, and runs where it was received
            camera.take(number)
    futures = [camera.take.future(number) for number in range(20)]
    for number, future in enumerate(futures):
        assert (future.result() == number).all()


def test_items_are_as_they_were_when_they_were_yielded(camera):
    for number, item in enumerate(camera.film(30)):
        assert (item["picture"] == number).all()
    for number, picture in enumerate(camera.film_slowly(30)):
        assert (picture == number).all()


def test_arguments_of_futures_are_as_they_were_when_it_was_called(camera):
    picture, futures = np.zeros(500_000), []
    for number in range(20):
        picture[:] = number
        futures.append(camera.total.future(picture))
    assert [future.result() for future in futures] == [(number, number) for number in range(20)]


def test_what_nobody_else_has_is_sent_without_a_copy(camera, monkeypatch):
    monkeypatch.setattr(work, "copy_buffer", pytest.fail)
    picture = np.arange(500_000.0)
    assert np.array_equal(camera.echo(picture), picture)
    assert np.array_equal(camera.echo(picture.reshape(1000, 500)), picture.reshape(1000, 500))


# -- time


def test_a_call_that_takes_too_long_is_a_call_timeout_and_stops_there(svc, things):
    with pytest.raises(CallTimeout, match=r"things\.spin took longer than the 0\.2 s"):
        svc.using(timeout=0.2).spin()
    wait_until(lambda: things.events["stopped"] == 1)
    with pytest.raises(CallTimeout):
        svc.spin.using(timeout=0.2).future().result(5)
    wait_until(lambda: things.events["stopped"] == 2)
    with pytest.raises(TimeoutError):
        svc.forever.using(timeout=0.2)()
    wait_until(lambda: things.events["cancelled"] == 1)
    assert svc.add(1) == 2


UNDER_A_DEBUGGER = """
import sys, threading, znb
stopped = threading.Event()

def spin():
    turns = 0
    try:
        while True:
            turns += 1
    finally:
        stopped.set()

with znb.serve({"spin": spin}, name="spinning"):
    try:
        znb.connect("spinning").spin.using(timeout=1)()
    except znb.CallTimeout:
        stopped.wait()
    sys.settrace(lambda *_: None)
    print((lambda: "traced")())
    sys.settrace(None)
"""


def test_a_stopped_call_leaves_no_trap_for_debuggers(world):
    """An exception for another thread that is taken back has CPython 3.11 turn in circles once somebody traces."""
    assert run_script(UNDER_A_DEBUGGER, world) == "traced\n"


def test_a_future_that_is_cancelled_stops_the_call(svc, things):
    future = svc.spin.future()
    assert things.started.acquire(timeout=5)
    assert future.cancel()
    wait_until(lambda: things.events["stopped"] == 1)
    future = svc.forever.future()
    assert things.started.acquire(timeout=5)

    async def give_up():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.01)

    asyncio.run(give_up())
    wait_until(lambda: things.events["cancelled"] == 1)
    wait_until(lambda: svc._znb_caller.endpoints[0].busy == set())


def test_a_queued_call_that_is_cancelled_never_runs(svc, things, service):
    running = [svc.dull.future() for _ in range(4)]
    for _ in range(4):
        assert things.started.acquire(timeout=5)
    queued = svc.dull.future()
    wait_until(lambda: service.pool.waiting == 1)
    queued.cancel()
    wait_until(lambda: service.pool.waiting == 0)
    things.release.set()
    assert [f.result(5) for f in running] == ["done"] * 4
    assert not things.started.acquire(blocking=False)


def test_items_have_a_timeout_of_their_own(svc, things):
    stream = svc.slow_stream.using(item_timeout=0.2)()
    assert next(stream) == 1
    with pytest.raises(CallTimeout, match=r"one item of things\.slow_stream took longer than the 0\.2 s"):
        next(stream)

    async def read():
        return [item async for item in svc.slow_stream.using(item_timeout=0.2)()]

    with pytest.raises(CallTimeout, match=r"one item of things\.slow_stream took longer than the 0\.2 s"):
        asyncio.run(read())


def test_a_deadline_bounds_what_the_method_calls(service, svc):
    def outer():
        started = time.monotonic()
        try:
            with connect("inner") as inner:
                inner.wait()
        except CallTimeout:
            return time.monotonic() - started
        return None

    release = threading.Event()
    with serve(lambda: release.wait(30), name="inner") as inner:
        inner.replace({"wait": lambda: release.wait(30)})
        service.replace({"outer": outer, "who": Things().who})
        assert svc.using(timeout=5).who()[2] is True
        assert svc.who()[2] is False
        with contextlib.suppress(CallTimeout):  # or it heard of the timeout of what it called, in time to say so
            assert svc["outer"].using(timeout=0.3)() < 5
        wait_until(lambda: inner.stats().server.requests == 0)
        release.set()


def test_an_interrupt_here_stops_the_call_there(service, things):
    code = (
        "from znb.rpc import connect\nsvc = connect('things')\n"
        "try:\n    svc.spin()\nexcept KeyboardInterrupt:\n    print('interrupted', svc.add(1), flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert things.started.acquire(timeout=20)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[0] == b"interrupted 2\n"
    wait_until(lambda: things.events["stopped"] == 1)


# -- concurrency


def test_one_thread_serialises(things):
    with serve(things, name="one", threads=1) as service, connect("one") as svc:
        assert svc.add(1) == 2
        first = svc.dull.future()
        assert things.started.acquire(timeout=5)
        second = svc.add.future(1)
        wait_until(lambda: service.pool.waiting == 1)
        assert not second.done()
        things.release.set()
        assert (first.result(5), second.result(5)) == ("done", 2)


def test_a_full_queue_holds_callers_back_then_tells_them(things, monkeypatch):
    monkeypatch.setattr("znb.rpc.service.HOLD", 0.1)
    with serve(things, name="full", threads=1, queue=2) as service, connect("full") as svc:
        running = svc.dull.future()
        assert things.started.acquire(timeout=5)
        waiting = [svc.dull.future() for _ in range(2)]
        wait_until(lambda: service.pool.waiting == 2)
        held = svc.dull.future()
        with pytest.raises(ServiceUnavailable, match=r"busy: running 1, waiting 2 \(its queue= is 2\)\. Try again"):
            held.result(5)
        many = [svc.dull.future() for _ in range(6)]
        wait_until(lambda: service.stats().refused >= 5)
        things.release.set()
        assert running.result(5) == "done"
        assert [f.result(5) for f in waiting] == ["done"] * 2
        assert all(isinstance(f.exception(5), ServiceUnavailable | None) for f in many)


def test_a_call_that_is_usually_quick_does_not_hold_up_others_when_it_is_slow(service, svc):
    release = threading.Event()

    def moody(slow):
        return release.wait(30) if slow else True

    service.replace({"moody": moody, "quick": lambda: 1})
    for _ in range(5):
        svc.moody(False)
        svc.quick()
    futures = [svc.moody.future(True) for _ in range(3)]
    for _ in range(20):
        assert svc.using(timeout=5).quick() == 1
    release.set()
    assert [f.result(5) for f in futures] == [True] * 3
    for _ in range(50):
        assert svc.quick() == 1


def test_a_hundred_clients_at_once(service):
    def client(results):
        with connect(service.url) as svc:
            results.extend(svc.add(n) for n in range(10))

    results = []
    threads = [threading.Thread(target=client, args=(results,)) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(list(range(1, 11)) * 100)
    wait_until(lambda: service.stats().server[1:3] == (0, 0))


# -- coming and going


def test_a_service_is_replaced_without_dropping_calls_in_flight(things):
    expose(things, name="changing")
    try:
        with connect("changing") as svc:
            future = svc.dull.future()
            assert things.started.acquire(timeout=5)
            expose({"add": lambda a: a + 100, "new": lambda: "new"}, name="changing")
            assert svc.add(1) == 101
            assert svc.new() == "new"
            things.release.set()
            assert future.result(5) == "done"
            with pytest.raises(NameError, match="no method"):
                svc.dull()
    finally:
        hosting.host.close()


def test_callers_notice_nothing_while_a_service_is_replaced_again_and_again():
    stop = threading.Event()
    wrong, versions = [], set()

    def call():
        with connect("versions") as svc:
            while not stop.is_set():
                try:
                    versions.add(svc.version())
                    versions.add(svc.version.future().result(10))
                    assert len(list(svc.three())) == 3
                except BaseException as error:
                    wrong.append(error)
                    return

    def offer(number):
        expose(
            {"version": lambda: number, "three": lambda: iter([number] * 3)}, name="versions", threads=1 + number % 5
        )

    try:
        offer(0)
        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        for number in range(1, 100):
            offer(number)
        wait_until(lambda: 99 in versions or wrong)
        stop.set()
        for caller in callers:
            caller.join()
        assert wrong == []
    finally:
        stop.set()
        hosting.host.close()


def test_another_door_lets_calls_in_flight_end(things, monkeypatch):
    monkeypatch.setattr("znb.rpc.service.RETIRE_AFTER", 0.3)
    expose(things, name="moving")
    try:
        with connect("moving") as svc:
            old = hosting.host.services["moving"]
            future = svc.dull.future()
            assert things.started.acquire(timeout=5)
            expose({"add": lambda a: a + 100}, name="moving", bind="tcp://127.0.0.1:*")
            (found,) = [entry for entry in list_services() if entry.name == "moving"]
            assert found.url.startswith("tcp://127.0.0.1:")
            assert svc.add(1) == 101  # at the old address, which is still there
            things.release.set()
            assert future.result(5) == "done"
            wait_until(lambda: old.closed)
        with connect("moving") as svc:
            assert svc.add(1) == 101
            url = hosting.host.services["moving"].url
            expose({"add": lambda a: a + 200}, name="moving", bind=url, max_bytes=1000)
        with connect(url) as direct, connect("moving") as svc:
            assert direct.add(1) == svc.add(1) == 201
            with pytest.raises(AuthError):
                expose(len, name="moving", bind="tcp://0.0.0.0:*")
            with serve(len, bind="tcp://127.0.0.1:*") as other, pytest.raises(ZnbError, match="cannot listen"):
                expose(len, name="moving", bind=other.url)
            assert svc.add(1) == 201
    finally:
        hosting.host.close()


def test_keys_stay_and_go_with_expose():
    try:
        expose(len, name="keyed", bind="tcp://127.0.0.1:*", keys=True)
        first = hosting.host.services["keyed"]
        assert "#" in first.address
        expose(len, name="keyed", keys=True)
        assert hosting.host.services["keyed"] is first
        expose(len, name="keyed", bind="tcp://127.0.0.1:*")
        assert "#" not in hosting.host.services["keyed"].address
        wait_until(lambda: first.closed)
    finally:
        hosting.host.close()


def test_more_and_fewer_threads_when_exposed_anew(things):
    expose(things, name="sized", threads=1)
    try:
        with connect("sized") as svc:
            futures = [svc.dull.future() for _ in range(3)]
            assert things.started.acquire(timeout=5)
            wait_until(lambda: service_stats(svc)["waiting"] == 2)
            assert service_stats(svc)["running"] == 1
            expose(things, name="sized", threads=3)
            assert things.started.acquire(timeout=5)
            assert things.started.acquire(timeout=5)
            futures += [svc.dull.future() for _ in range(2)]
            wait_until(lambda: service_stats(svc)["waiting"] == 2)
            expose(things, name="sized", threads=1)
            things.release.set()
            assert [future.result(5) for future in futures] == ["done"] * 5
            wait_until(lambda: service_stats(svc)["running"] == 0)
            pool = hosting.host.services["sized"].pool
            assert (pool.size, pool._free) == (1, 1)
    finally:
        hosting.host.close()


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_a_number_of_threads_is_checked(threads):
    with pytest.raises(ValueError, match="threads: expected a whole number from 1 on"):
        expose(len, name="sized", threads=threads)
    assert list_services() == []


@pytest.mark.parametrize(
    "url", ["localhost", "tcp://localhost", "tcp://h:65536", "tcp://h:x", "http://h:1", "tcp://h:123456", "", "ipc://"]
)
def test_what_is_no_address(url):
    with pytest.raises(ValueError, match=r"expected an address such as|expected a port from 0 to 65535"):
        expose(len, bind=url)
    if "://" in url:
        with pytest.raises(ValueError, match=r"expected an address such as|expected a port from 0 to 65535"):
            connect([url, url])


def test_an_address_without_its_transport_is_told_so():
    with pytest.raises(ValueError, match=r"such as tcp://127\.0\.0\.1:444, or a name"):
        connect("127.0.0.1:444")


def test_a_host_that_is_not_known_is_told_at_once(runtime_dir):
    with pytest.raises(ServiceUnavailable, match=r"there is no host 'no\.such\.host\.invalid'"):
        connect("tcp://no.such.host.invalid:4242")


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"timeout": "3"}, TypeError, "timeout must be a number of seconds, got '3'"),
        ({"timeout": -1}, ValueError, "timeout must be a positive number of seconds, got -1"),
        ({"item_timeout": "3"}, TypeError, "item_timeout must be a number of seconds"),
        ({"hooks": [3]}, TypeError, r"hooks must be instances of znb\.Hook, got 3"),
    ],
)
def test_wrong_options_are_told_at_once(service, svc, wrong, error, said):
    with pytest.raises(error, match=said):
        connect("things", **wrong)
    if "hooks" not in wrong:
        with pytest.raises(error, match=said):
            svc.using(**wrong)
        with pytest.raises(error, match=said):
            svc.add.using(**wrong)


def test_a_proxy_is_no_list_and_cannot_be_changed(svc):
    with pytest.raises(TypeError, match="'Proxy' object is not iterable"):
        list(svc)
    with pytest.raises(TypeError, match=r"expected the name of a method, such as svc\['add'\], got 3"):
        svc[3]
    with pytest.raises(AttributeError, match="'add' cannot be set: a service has methods alone"):
        svc.add = 3


def test_keyword_arguments_may_have_any_name():
    with serve(lambda **kwargs: kwargs, name="anything") as service, connect(service.name) as svc:
        assert svc.anything(self=1, args=2) == {"self": 1, "args": 2}
        assert svc.anything.future(self=3).result(5) == {"self": 3}


def test_names_and_addresses_in_one_list(runtime_dir):
    with serve({"v": lambda: 1}, name="f") as one, serve({"v": lambda: 2}, name="g"):
        for targets in ([one.url, "g"], ["f", "g"]):
            with connect(targets) as svc:
                assert {svc.v() for _ in range(10)} == {1, 2}
    with pytest.raises(ServiceUnavailable, match="missing: there is no service of this name"):
        connect(["missing", "g"])


def test_proxies_and_their_methods_are_copied_by_what_leads_to_them(service, svc):
    for target in ("things", service.url):
        with connect(target, timeout=30, hooks=[Hook()]) as proxy:
            copy = pickle.loads(pickle.dumps(proxy))
            with copy:
                assert copy.add(1, b=2) == 3
                assert copy.using(timeout=9)._znb_limits.timeout == 9
                assert (copy._znb_limits.timeout, len(copy._znb_caller.hooks.own)) == (30, 1)
                assert str(inspect.signature(copy.add)) == "(a: int, b: int = 1) -> int"
    method = pickle.loads(pickle.dumps(svc.add.using(timeout=7)))
    assert (method(2), method._limits.timeout) == (3, 7)


def test_an_awaited_call_keeps_the_event_loop_turning(svc, things, monkeypatch):
    # An interrupt is noticed when the loop turns, and a loop with nothing to do does not.
    monkeypatch.setattr("znb.rpc.futures.AWAIT_TICK", 0.01)

    async def turns(awaited):
        loop, count = asyncio.get_running_loop(), 0
        select = loop._selector.select

        def counted(timeout=None):
            nonlocal count
            count += 1
            if count == 10:
                things.release.set()
            return select(timeout)

        monkeypatch.setattr(loop._selector, "select", counted)
        return await awaited()

    async def call():
        return await svc.dull.future()

    assert asyncio.run(turns(call)) == "done"


def test_cancelling_a_task_stops_the_call_that_it_awaits(svc, things):
    async def main():
        future = svc.dull.future()

        async def wait():
            return await future

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return future.cancelled()

    assert asyncio.run(main())
    things.release.set()


@pytest.mark.parametrize("by_name", [True, False])
def test_a_service_that_is_started_anew_is_found_again(runtime_dir, by_name):
    url = f"ipc://{runtime_dir}/fixed"
    first = serve(lambda: 1, name="f", bind=url)
    svc = connect("f" if by_name else url)
    try:
        assert svc.f() == 1
        assert svc.f.future().result(5) == 1
        first.close()
        with pytest.raises(ServiceUnavailable):
            svc.f()
        with serve(lambda: 2, name="f", bind=None if by_name else url):
            assert svc.f() == 2
            assert svc.f.future().result(5) == 2
    finally:
        svc.close()


SERVER = """
import os, sys, threading, time, json
from znb.rpc import serve

def pid():
    return os.getpid()

def die():
    os._exit(1)

def hang():
    time.sleep(60)

def fork():
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child

def hold():
    json.loads("[" + "1," * 30_000_000 + "1]")  # keeps the GIL for seconds
    return "held"

s = serve({"pid": pid, "die": die, "hang": hang, "hold": hold, "fork": fork}, name=sys.argv[1], bind=sys.argv[2] or None, group=sys.argv[3])
print(s.url, flush=True)
sys.stdin.read()
s.close()
"""


@pytest.fixture
def start_server():
    processes = []

    def start(name="remote", bind="", group="g"):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, name, bind, group], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        process.url = process.stdout.readline().strip()
        return process

    yield start
    for process in processes:
        with contextlib.suppress(BrokenPipeError):
            process.communicate(timeout=10)


@pytest.mark.leaves_files
def test_a_server_that_dies_is_unavailable_within_a_second(start_server):
    server = start_server()
    with connect("remote") as svc:
        future = svc.hang.future()
        started = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="before it answered"):
            svc.die()
        with pytest.raises(ServiceUnavailable):
            future.result(5)
        assert time.monotonic() - started < 5
        started = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="no service of this name"):
            svc.pid()
        assert time.monotonic() - started < 3  # promised is 1 s; machines that test are busy
        replacement = start_server(group="other")
        assert svc.pid() == replacement.pid
    server.wait()


def test_a_server_that_holds_the_interpreter_is_busy_not_lost(start_server):
    start_server()
    with connect("remote") as svc:
        assert svc.hold() == "held"


def test_nobody_there(runtime_dir):
    with pytest.raises(ServiceUnavailable, match="no service of this name"):
        connect("nobody")
    with pytest.raises(ServiceUnavailable, match="nobody answered"):
        connect(f"ipc://{runtime_dir}/nobody")
    with pytest.raises(ServiceUnavailable, match="a: there is no service of this name"):
        connect(["a", "b"])
    with pytest.raises(ValueError, match="empty list"):
        connect([])


@pytest.mark.leaves_files
def test_several_servers_share_the_calls_and_stand_in_for_each_other(start_server):
    servers = [start_server(bind="", group="same") for _ in range(2)]
    with connect("remote") as svc, connect([s.url for s in servers]) as listed:
        for proxy in (svc, listed):
            pids = {proxy.pid() for _ in range(20)}
            assert pids == {s.pid for s in servers}
        servers[0].kill()
        servers[0].wait()
        wait_until(lambda: len(list_services()) == 1)
        for proxy in (svc, listed):
            seen = set()
            for _ in range(10):
                with contextlib.suppress(ServiceUnavailable):
                    seen.add(proxy.pid())
            assert seen == {servers[1].pid}
            assert {proxy.pid() for _ in range(10)} == {servers[1].pid}


@pytest.mark.leaves_files
def test_futures_go_to_another_server_if_one_is_dead(start_server):
    servers = [start_server(group="same") for _ in range(2)]
    with connect("remote") as svc, connect([s.url for s in servers]) as listed:
        servers[0].kill()
        servers[0].wait()
        for proxy in (svc, listed):
            futures = [proxy.pid.future() for _ in range(10)]
            assert {future.result(10) for future in futures} == {servers[1].pid}
            assert not any(endpoint.busy for endpoint in proxy._znb_caller.endpoints)
            hanging = [proxy.hang.future() for _ in range(2)]
            assert all(future.cancel() for future in hanging)
        wait_until(lambda: listed._znb_caller.endpoints[1].connection().stats().calls == 0)


@pytest.mark.leaves_files
def test_futures_find_a_service_that_is_started_anew(start_server):
    server = start_server()
    with connect("remote") as svc:
        assert svc.pid.future().result(10) == server.pid
        server.kill()
        server.wait()
        replacement = start_server(group="other")
        with contextlib.suppress(ServiceUnavailable):  # it may have been under way when the connection was lost
            svc.pid.future().result(10)
        assert svc.pid.future().result(10) == replacement.pid


@pytest.mark.leaves_files
def test_a_dead_server_whose_child_holds_its_socket(start_server):
    server = start_server()
    with connect("remote") as svc:
        assert svc.pid.future().result(10) == server.pid  # the child will hold its connection too
        child = svc.fork()
        try:
            future = svc.hang.future()
            server.kill()
            server.wait()
            with pytest.raises(ServiceUnavailable, match=r"its process \d+ has ended"):
                svc.pid()
            with pytest.raises(ServiceUnavailable, match="its process"):
                future.result(10)
            with pytest.raises(ServiceUnavailable, match="no service of this name"):
                connect("remote")
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.leaves_files
def test_a_frozen_server_is_told_of_and_left_alone(start_server, monkeypatch, capsys):
    monkeypatch.setattr("znb.rpc.silence.SAY_AFTER", 0.1)
    servers = [start_server(group="same") for _ in range(2)]
    frozen, other = servers
    with connect("remote") as svc, connect(frozen.url) as alone:
        assert {svc.pid() for _ in range(20)} == {s.pid for s in servers}
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            with pytest.raises(CallTimeout):
                while True:  # a replica that a busy machine has made slow just before is spared for a while
                    svc.pid.using(timeout=0.6)()
            text = f"waiting: remote is frozen (stopped by a signal); `kill -CONT {frozen.pid}` lets it go on\n"
            assert capsys.readouterr().err.count(text) == 1
            assert {svc.pid() for _ in range(20)} == {other.pid}
            assert {f.result(10) for f in [svc.pid.future() for _ in range(5)]} == {other.pid}
            with pytest.raises(ServiceUnavailable, match="frozen"):
                connect(frozen.url)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        assert alone.pid() == frozen.pid


def test_a_busy_service_is_told_of_and_a_slow_call_is_not(things, monkeypatch, capsys):
    monkeypatch.setattr("znb.rpc.silence.SAY_AFTER", 0.1)
    with serve(things, name="busy", threads=1), connect("busy") as svc:
        with pytest.raises(CallTimeout):
            svc.dull.using(timeout=1)()
        assert capsys.readouterr().err == ""
        with pytest.raises(CallTimeout):
            svc.same.using(timeout=1)(1)
        assert capsys.readouterr().err == (
            "waiting: busy is busy: its calls take all its threads (running: 1, waiting for one: 1)\n"
        )
        things.release.set()


def test_an_address_that_closes_connections_is_unavailable(runtime_dir):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_each():
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        closer = threading.Thread(target=close_each)
        closer.start()
        try:
            with pytest.raises(ServiceUnavailable, match="closes each connection"):
                connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            closer.join()


@pytest.mark.parametrize("option", [{"queue": -1}, {"queue": 0}, {"max_bytes": 0}, {"max_bytes": -1}, {"queue": 1.5}])
def test_limits_of_a_service_are_whole_numbers(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}: expected a whole number from 1 on"):
        serve(len, name="limits", **option)


def test_a_forked_child_connects_anew(svc):
    assert svc.add(1) == 2
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if svc.add(5) == 6 and hosting.host.services == {} else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert svc.add(1) == 2


def test_closing_ends_everything(things):
    service = serve(things, name="closing")
    svc = connect("closing")
    stream = svc.endless()
    next(stream)
    future = svc.forever.future()
    assert things.started.acquire(timeout=5)
    service.close()
    service.close()
    with pytest.raises(ServiceUnavailable):
        future.result(5)
    with pytest.raises(ServiceUnavailable):
        collections.deque(stream, maxlen=0)
    wait_until(lambda: things.events["closed"] == 1)
    wait_until(lambda: things.events["cancelled"] == 1)
    svc.close()
    svc.close()
    with pytest.raises(ServiceUnavailable, match="closed"):
        svc.add(1)


# -- security and limits


def test_other_machines_need_keys():
    with pytest.raises(AuthError, match="insecure=True"):
        serve(len, bind="tcp://0.0.0.0:0")
    with serve(len, bind="tcp://127.0.0.1:*") as service, connect(service.url) as svc:
        assert svc.len([1]) == 1


def test_keys(runtime_dir):
    file = runtime_dir / "keys"
    with serve(len, bind="tcp://0.0.0.0:*", keys=str(file)) as service:
        url, _, key = service.address.partition("#")
        assert url == service.url.replace("0.0.0.0", platform.node())
        address = f"{service.url.replace('0.0.0.0', '127.0.0.1')}#{key}"
        with connect(address) as svc:
            assert svc.len([1]) == 1
            assert svc.len.future([1]).result(5) == 1
        wrong = address.partition("#")[0] + "#" + "ab" * 32
        with pytest.raises(AuthError, match="keys"):
            connect(wrong)
        with pytest.raises(AuthError, match="keys"):
            connect(address.partition("#")[0])
        with pytest.raises(AuthError, match="64 hex digits"):
            connect("tcp://127.0.0.1:1#zz")
        with connect("len") as svc:
            assert svc.len([1]) == 1
    assert file.stat().st_mode & 0o777 == 0o600
    with serve(len, bind="tcp://0.0.0.0:*", keys=str(file)) as again:
        assert again.address.partition("#")[2] == address.partition("#")[2]
    file.chmod(0o644)
    with pytest.raises(AuthError, match="chmod"):
        serve(len, keys=str(file))
    file.chmod(0o600)
    file.write_text("{}")
    with pytest.raises(AuthError, match="no keys"):
        serve(len, keys=str(file))
    file.unlink()


def test_messages_that_are_too_large_cost_their_call_only(things):
    with serve(things, name="small", max_bytes=10_000) as service, connect("small") as svc:
        with pytest.raises(ProtocolError, match=r"at most 10,000 bytes of msgpack in a message, got 2\d,\d\d\d;"):
            svc.same("x" * 20_000)
        assert svc.same(bytes(1_000_000)) == bytes(1_000_000)
        assert svc.add(1) == 2
        assert service.stats().server.complaints == 1


def test_too_large_a_request_is_refused_before_it_is_sent(svc, monkeypatch):
    monkeypatch.setattr("znb.rpc.outgoing.MAX_BYTES", 1000)
    monkeypatch.setattr("znb.rpc.caller.MAX_BYTES", 1000)
    with pytest.raises(SerializationError, match=r"bytes of msgpack.*cluster\.put"):
        svc.same("x" * 2000)


@pytest.mark.parametrize("content", [b"\x91\xc7\x01\x63\x00", b"\x91\xd4\x0f\x00", b"\x01", b"\x80"])
def test_arguments_that_are_none_are_the_senders_to_hear(service, svc, content):
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.RCVTIMEO, 5000)
    socket.connect(service.url)
    headers = {"message_id": 1, "v": 3, "znb": 1}
    socket.send_multipart([b"", msgspec.msgpack.encode([headers, "same", msgspec.Raw(content)])])
    name = ""
    while name not in {"OK", "ERR"}:
        event = wire.decode_event(socket.recv_multipart()[1], [])
        name = event.name
    socket.close(0)
    context.term()
    assert name == ("OK" if content in {b"\x01", b"\x80"} else "ERR")
    assert svc.add(1) == 2


# -- hooks


class Recorder(Hook):
    def __init__(self):
        self.seen = []

    def before_calling(self, call):
        call.headers["token"] = "secret"
        self.seen.append(("before calling", call.method))

    def after_calling(self, call, error):
        self.seen.append(("after calling", call.method, type(error).__name__))

    def before_serving(self, call):
        self.seen.append(("before serving", call.method))
        if call.headers.get("token") != "secret":
            raise PermissionError("a token, please")

    def after_serving(self, call, error):
        self.seen.append(("after serving", call.method, type(error).__name__))

    def on_lost(self, call, error):
        self.seen.append(("lost", call.method))


def test_hooks_see_both_sides_and_may_refuse(things):
    guard, token = Recorder(), Recorder()
    with (
        serve(things, name="guarded", hooks=[guard]),
        connect("guarded") as plain,
        connect("guarded", hooks=[token]) as svc,
    ):
        with pytest.raises(PermissionError, match="token"):
            plain.add(1)
        guard.seen.clear()
        assert svc.add(1) == 2
        assert svc.who()[3] == "secret"
        assert svc.add.future(1).result(5) == 2
        assert list(svc.count(3)) == [0, 1, 2]
        with pytest.raises(ValueError, match="bad"):
            svc.fail()
        wait_until(lambda: ("after serving", "count", "NoneType") in guard.seen)
    for method, kind in [("add", "NoneType"), ("count", "NoneType"), ("fail", "ValueError")]:
        assert ("before serving", method) in guard.seen
        assert ("after serving", method, kind) in guard.seen
        assert ("before calling", method) in token.seen
        assert ("after calling", method, kind) in token.seen


def test_a_hook_that_refuses_is_told_no_end_and_others_are_told_once(things):
    first, last = Recorder(), Recorder()

    class Refuses(Hook):
        after = 0

        def before_serving(self, call):
            raise PermissionError("no")

        def after_serving(self, call, error):
            Refuses.after += 1

    with serve(things, name="guarded", hooks=[first, Refuses(), last]), connect("guarded", hooks=[Recorder()]) as svc:
        for call in (svc.add, svc.count, svc.fail):
            with pytest.raises(PermissionError, match="no"):
                list([call(1)] if call is not svc.count else call(1))
        wait_until(lambda: len(first.seen) == 6)
    assert first.seen == [
        (moment, method, *kind)
        for method in ("add", "count", "fail")
        for moment, *kind in [("before serving",), ("after serving", "PermissionError")]
    ]
    assert (last.seen, Refuses.after) == ([], 0)


def test_streams_and_futures_outlive_their_proxy(service):
    stream, future = connect("things").count(3), connect("things").add.future(1)
    late = connect("things").later.future(1)
    gc.collect()
    assert (list(stream), future.result(5), late.result(5)) == ([0, 1, 2], 2, 1)
    assert future.owner is late.owner is None
    waiting = connect("things").forever.future()
    gc.collect()
    assert waiting.cancel()
    assert waiting.owner is None


def test_hooks_hear_of_losses_and_their_own_failures_are_logged(svc, things, caplog):
    class Broken(Hook):
        def after_calling(self, call, error):
            raise RuntimeError("my own")

    recorder, bad = Recorder(), Broken()
    process_hooks.add(recorder)
    process_hooks.add(bad)
    try:
        with pytest.raises(CallTimeout):
            svc.using(timeout=0.1).spin()
        wait_until(lambda: recorder.seen.count(("lost", "spin")) == 2)  # on both sides
        assert "my own" in caplog.text
    finally:
        process_hooks.remove(recorder)
        process_hooks.remove(bad)
        process_hooks.remove(bad)


def test_a_long_life_leaves_tables_empty(svc, service):
    for number in range(300):
        svc.add(number)
        svc.add.future(number).result(5)
        list(svc.count(3))
        if number % 10 == 0:
            next(svc.endless())
            with pytest.raises(ValueError):
                svc.fail()
    gc.collect()
    wait_until(lambda: service.stats().server[1:3] == (0, 0))
    endpoint = svc._znb_caller.endpoints[0]
    assert endpoint.busy == set()
    assert len(endpoint.lines) <= 4
    wait_until(lambda: svc._znb_caller.reactor().stats().timers == 0)  # one looked after the calls, until now
    assert service.crew.stats().timers <= 3


@pytest.mark.parametrize("warm", [0, 30])
def test_arguments_and_results_go_without_the_collector(service, svc, warm):
    kept = []

    def take(x):
        kept.append(weakref.ref(x))
        return x

    service.replace({"take": take})
    array = np.arange(100_000)
    for _ in range(warm):
        svc["take"](array)
    kept.clear()
    gc.collect()
    gc.disable()
    try:
        mine = [weakref.ref(svc["take"](array)), weakref.ref(svc["take"].future(array).result(5))]
        wait_until(lambda: service.server.stats().requests == 0)
        svc["take"](array)
        wait_until(lambda: [r() is None for r in kept[:2]] == [True, True])
        assert [r() is None for r in mine] == [True, True]
    finally:
        gc.enable()


class FakeWorkers:
    """What ``on=`` needs of workers: here they are all this process."""

    def __init__(self):
        self.calls = []

    def call(self, function, *args):
        self.calls.append(args)
        return function(*args)

    def call_anew(self, name, function, *args):
        self.calls.append(name)
        return self.call(function, *args)

    headed_here = True

    def forget_call(self, name):
        self.calls.remove(name)

    def __len__(self):
        return 2


def test_on_needs_a_cluster_unless_it_is_workers():
    with pytest.raises(NoWorkers, match=r"this process has no cluster; start one with znb\.Cluster\.start\(\)"):
        expose(len, on="all")
    with pytest.raises(ZnbError, match="2 workers cannot all listen at tcp://127"):
        expose(len, on=FakeWorkers(), bind="tcp://127.0.0.1:4242")


def test_expose_on_workers_makes_a_replica_on_each():
    workers = FakeWorkers()
    try:
        assert expose(len, name="far", on=workers) is len
        assert workers.calls[0] == workers.calls[1][1] == "far"
        with connect("far") as svc:
            assert svc.len([1, 2]) == 2
        unexpose("far", on=workers)
        assert "far" not in workers.calls
        assert list_services() == []
    finally:
        hosting.host.close()


def test_ipython_shows_signature_docs_and_source(svc):
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.user_ns["svc"] = svc
    info = shell.object_inspect("svc.add")
    assert "(a: int, b: int = 1) -> int" in info["definition"]
    assert "Sum of two numbers." in info["docstring"]
    assert [info[key] for key in ("class_docstring", "init_docstring", "call_def", "call_docstring")] == [None] * 4
    assert svc.add.__call__(1) == 2
    assert "return a + b" in shell.object_inspect("svc.add", detail_level=1)["source"]
