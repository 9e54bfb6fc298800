"""Conformance: the real zerorpc package, in an environment of its own, on the other side of the wire."""

import contextlib
import datetime as dt
import subprocess
import textwrap
import threading
import time

import pytest

from kernels import interpreter
from znb.cli import main
from znb.errors import CallTimeout, RemoteError, SerializationError, ServiceUnavailable, ZnbError
from znb.rpc import connect, serve
from znb.rpc.oneway import publisher, puller, pusher, subscriber


def wait_until(condition, timeout=15.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


@pytest.fixture(scope="module")
def python():
    return interpreter("zerorpc")


class Peer:
    """A program that runs under zerorpc's own Python."""

    def __init__(self, python, code, *args):
        self.process = subprocess.Popen(
            [python, "-u", "-c", textwrap.dedent(code), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.stderr.read())
        return line.strip()

    def finish(self):
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return out.split()

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def run(python):
    peers = []

    def start(code, *args):
        peers.append(Peer(python, code, *args))
        return peers[-1]

    yield start
    for peer in peers:
        peer.close()


# -- zerorpc's client calls a znb service


class Things:
    """Things to call."""

    def __init__(self):
        self.events = []

    def add(self, a, b=1):
        """Sum of two numbers."""
        return a + b

    def same(self, x):
        return x

    def fail(self):
        raise ValueError("bad")

    def count(self, n):
        yield from range(n)

    def breaks(self):
        yield 1
        raise KeyError("mid-stream")

    def slow(self, seconds):
        threading.Event().wait(seconds)
        return "slept"

    def odd(self):
        return {1: "a"}

    def endless(self):
        try:
            for number in range(10**9):
                self.events.append(number)
                yield number
        finally:
            self.events.append("closed")

    async def later(self, x):
        return x


@pytest.fixture
def service(runtime_dir):
    with serve(Things(), name="things", bind="tcp://127.0.0.1:*") as made:
        yield made


CLIENT = """
import sys, zerorpc, gevent
c = zerorpc.Client(heartbeat=float(sys.argv[2]) if len(sys.argv) > 2 else 5, timeout=30)
c.connect(sys.argv[1])
"""


def client(body):
    return CLIENT + textwrap.dedent(body)


def test_requests_and_replies(run, service):
    code = """
    assert c.add(1) == 2 and c.add(1, 5) == 6
    assert c.same([1, 2.5, None, True, "ü", b"x", {"a": [1]}]) == [1, 2.5, None, True, "ü", b"x", {"a": [1]}]
    assert c.later(7) == 7
    assert c.add(1, **{"async": True}).get() == 2
    print("done")
    """
    assert run(client(code), service.url).finish() == ["done"]


def test_streams_with_flow_control(run, service):
    code = """
    assert list(c.count(0)) == []
    assert list(c.count(1)) == [0]
    assert list(c.count(1000)) == list(range(1000))
    got = []
    try:
        for x in c.breaks():
            got.append(x)
    except zerorpc.RemoteError as error:
        assert error.name == "KeyError", error.name
    assert got == [1]
    print("done")
    """
    assert run(client(code), service.url).finish() == ["done"]


def test_errors(run, service):
    code = """
    for name, call in [("ValueError", c.fail), ("NameError", c.nothing), ("SerializationError", c.odd), ("TypeError", c.add)]:
        try:
            call()
        except zerorpc.RemoteError as error:
            assert error.name == name, (name, error.name)
            assert error.traceback and name in error.traceback, error.traceback
        else:
            raise AssertionError(name)
    assert c.add(1) == 2
    print("done")
    """
    assert run(client(code), service.url).finish() == ["done"]


def test_introspection(run, service):
    code = """
    assert c._zerorpc_ping() == ["pong", "things"]
    assert c._zerorpc_name() == "things"
    assert "add" in c._zerorpc_list() and "_znb_inspect" not in c._zerorpc_list()
    assert c._zerorpc_help("add") == "Sum of two numbers."
    assert c._zerorpc_args("add") == [["a", "b"], None, None, [1]]
    told = c._zerorpc_inspect()
    assert told["name"] == "things"
    assert told["methods"]["add"] == {"args": [{"name": "a"}, {"name": "b", "default": 1}], "doc": "Sum of two numbers."}
    print("done")
    """
    assert run(client(code), service.url).finish() == ["done"]


@pytest.mark.parametrize("passive", [False, True])
def test_heartbeats_keep_a_long_call_alive(run, service, passive):
    code = f"""
    c = zerorpc.Client(heartbeat=0.4, timeout=30, passive_heartbeat={passive})
    c.connect(sys.argv[1])
    assert c.slow(3) == "slept"
    print("done")
    """
    assert run(client(code), service.url).finish() == ["done"]


def test_a_client_that_gave_up_ends_its_stream(run, service, monkeypatch):
    monkeypatch.setattr("znb.rpc.server.BEAT_TIMEOUT", 2.0)
    code = """
    c = zerorpc.Client(heartbeat=0.3, timeout=30)
    c.connect(sys.argv[1])
    stream = iter(c.endless())
    print(next(stream))
    gevent.sleep(1.0)
    stream._bufchan.close() if hasattr(stream, "_bufchan") else stream.close()
    sys.stdin.read()
    """
    things = service.methods["add"].function.__self__
    peer = run(client(code), service.url)
    assert peer.line() == "0"
    wait_until(lambda: "closed" in things.events)


def test_a_client_that_reads_no_more_holds_the_generator(run, service):
    code = """
    stream = iter(c.endless())
    print(next(stream), flush=True)
    gevent.sleep(1)
    print("slept", flush=True)
    sys.stdin.read()
    """
    things = service.methods["add"].function.__self__
    peer = run(client(code), service.url)
    assert [peer.line(), peer.line()] == ["0", "slept"]
    assert len(things.events) <= 250
    peer.close()
    wait_until(lambda: "closed" in things.events)


#: zerorpc's command line asks for names that Python 3.10 and 3.11 have dropped; with them it is itself.
COMMAND_LINE = """
import collections, collections.abc, inspect, sys
collections.Iterator = collections.abc.Iterator
inspect.getargspec = lambda f: inspect.getfullargspec(f)[:4]
from zerorpc import cli
sys.exit(cli.main())
"""


def test_zerorpcs_command_line(python, service):
    def command(*args):
        call = [python, "-c", COMMAND_LINE, "--client", "--connect", service.url, *args]
        return subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)

    assert command("-j", "add", "1", "2").stdout.strip() == "3"
    assert command("-j", "count", "3").stdout.split() == ["0", "1", "2"]
    listed = command()
    assert "Sum of two numbers." in listed.stdout, listed.stderr
    failed = command("fail")
    assert failed.returncode != 0
    assert "ValueError: bad" in failed.stderr


# -- znb calls a zerorpc server


SERVER = """
import sys, gevent, time, zerorpc
class Things(object):
    def add(self, a, b=1):
        "Sum of two numbers."
        return a + b
    def same(self, x):
        return x
    def fail(self):
        raise ValueError("bad")
    def own(self):
        raise type("Own", (Exception,), {})("mine")
    @zerorpc.stream
    def count(self, n):
        return iter(range(n))
    @zerorpc.stream
    def breaks(self):
        yield 1
        raise KeyError("mid-stream")
    def slow(self, seconds):
        gevent.sleep(seconds)
        return "slept"
    def block(self, seconds):
        time.sleep(seconds)
        return "blocked"
s = zerorpc.Server(Things(), heartbeat=float(sys.argv[1]))
s.bind("tcp://127.0.0.1:0")
print(s._events._socket.getsockopt(__import__("zmq").LAST_ENDPOINT).decode().rstrip("\\0"), flush=True)
s.run()
"""


@pytest.fixture
def server(run):
    peer = run(SERVER, "0.4")
    peer.url = peer.line()
    return peer


@pytest.fixture
def svc(server):
    with connect(server.url) as made:
        yield made


def test_calling_a_zerorpc_server(svc):
    assert svc.add(1) == 2
    assert svc.add(1, 5) == 6
    assert svc.same([1, 2.5, None, True, "ü", b"x", {"a": [1]}]) == [1, 2.5, None, True, "ü", b"x", {"a": [1]}]
    assert svc.same((1, 2)) == [1, 2]
    assert svc.add.future(1).result(10) == 2
    assert "add" in dir(svc)


def test_streams_of_a_zerorpc_server(svc):
    assert list(svc.count(0)) == []
    assert list(svc.count(1000)) == list(range(1000))
    got = []
    with pytest.raises(KeyError):
        got.extend(svc.breaks())
    stream = svc.count(10**6)
    assert next(stream) == 0
    stream.close()
    assert svc.add(1) == 2


def test_errors_of_a_zerorpc_server(svc):
    with pytest.raises(ValueError, match="bad") as caught:
        svc.fail()
    assert "in fail\nValueError: bad" in caught.value.__notes__[0]
    with pytest.raises(RemoteError, match="Own: mine"):
        svc.own()
    with pytest.raises(AttributeError, match="did you mean 'add'"):
        svc.ad  # noqa: B018


def test_our_command_line_calls_a_zerorpc_server(server, capsys):
    def znb(*words):
        status = main([words[0], server.url, *words[1:]])
        return (status, *capsys.readouterr())

    assert znb("call", "add", "1", "2") == (0, "3\n", "")
    assert znb("call", "count", "2") == (0, "0\n1\n", "")
    status, _, said = znb("call", "fail")
    assert (status, said.splitlines()[0]) == (1, "ValueError: bad")
    assert "in fail" in said
    assert znb("call", "add", "1", "--kw", "b=2")[0] == 2
    status, _, said = znb("call", "add", "{1, 2}")
    assert (status, said.partition(": a")[0]) == (2, "znb: cannot send set object {1, 2} (at args[0])")
    assert "Sum of two numbers." in znb("inspect", "add")[1]
    assert znb("ping", "--count", "1")[0] == 0


@pytest.mark.parametrize("value", [{1: "a"}, {1, 2}, dt.date(2000, 1, 1), 2**70, "\ud800"])
def test_what_zerorpc_cannot_express_is_a_clear_error(svc, value):
    with pytest.raises(SerializationError, match="zerorpc"):
        svc.same(value)
    with pytest.raises(SerializationError, match="zerorpc"):
        svc.same.future(value)
    assert svc.add(1) == 2


def test_keyword_arguments_are_refused_instead_of_dropped(svc):
    with pytest.raises(TypeError, match="zerorpc cannot carry"):
        svc.add(1, b=2)


def test_our_heartbeats_keep_a_long_call_alive(svc):
    assert svc.slow(3) == "slept"
    assert svc.slow.future(3).result(10) == "slept"


def test_a_zerorpc_server_that_blocks_is_busy_not_lost(svc):
    assert svc.block(2.5) == "blocked"


def test_timeouts_and_deaths_of_a_zerorpc_server(svc, server):
    with pytest.raises(CallTimeout):
        svc.using(timeout=0.3).slow(5)
    assert svc.add(1) == 2
    future = svc.slow.future(30)
    threading.Timer(0.3, server.process.kill).start()
    with pytest.raises(ServiceUnavailable):
        svc.slow(30)
    with pytest.raises(ServiceUnavailable):
        future.result(5)


# -- PUSH/PULL and PUB/SUB


def test_zerorpc_pushes_and_publishes_to_znb(run, runtime_dir, caplog):
    got = []
    methods = {"take": lambda *args: got.append(list(args)), "fail": lambda: 1 / 0}
    with (
        puller(methods, f"ipc://{runtime_dir}/pull") as pulling,
        subscriber(methods, f"ipc://{runtime_dir}/sub", bind=True),
    ):
        code = """
        import sys, zerorpc, gevent
        p = zerorpc.Pusher(); p.connect(sys.argv[1])
        p.fail(); p.nothing()
        for n in range(10): p.take(n, "x")
        q = zerorpc.Publisher(); q.connect(sys.argv[2])
        gevent.sleep(0.5)
        q.take("published")
        gevent.sleep(0.5)
        print("sent")
        """
        assert run(code, pulling.url, f"ipc://{runtime_dir}/sub").finish() == ["sent"]
        wait_until(lambda: len(got) == 11)
    assert got[:10] == [[n, "x"] for n in range(10)]
    assert got[10] == ["published"]
    assert "no such method" in caplog.text


def test_znb_pushes_and_publishes_to_zerorpc(run, runtime_dir):
    code = """
    import sys, zerorpc, gevent
    class Take(object):
        def __init__(self, kind): self.kind = kind
        def take(self, *args): print(self.kind, *args, flush=True)
    p = zerorpc.Puller(Take("pulled")); p.bind(sys.argv[1])
    s = zerorpc.Subscriber(Take("heard")); s.bind(sys.argv[2])
    print("up", flush=True)
    gevent.joinall([gevent.spawn(p.run), gevent.spawn(s.run)])
    """
    urls = [f"ipc://{runtime_dir}/p", f"ipc://{runtime_dir}/s"]
    peer = run(code, *urls)
    assert peer.line() == "up"
    with pusher(urls[0]) as push, publisher(urls[1], bind=False) as publish:
        push.take(1, "a")
        assert peer.line() == "pulled 1 a"
        done = threading.Event()

        def repeat():
            while not done.wait(0.05):
                publish.take("b")

        thread = threading.Thread(target=repeat)
        thread.start()
        assert peer.line() == "heard b"
        done.set()
        thread.join()
        with pytest.raises(SerializationError):
            push.take({1})
    peer.close()
    for url in urls:
        (runtime_dir / url.rpartition("/")[2]).unlink(missing_ok=True)


def test_one_way_patterns_are_not_opened_to_other_machines_by_accident():
    with pytest.raises(ZnbError, match="insecure=True"):
        pusher("tcp://0.0.0.0:5999", bind=True)
