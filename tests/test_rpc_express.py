"""The short way: quick calls on the thread that received them, batches, and what happens when they are not quick."""

import collections
import random
import threading
import time

import msgspec
import pytest
import zmq

from test_rpc_channels import keep_zero_copy_warm
from test_rpc_service import wait_until
from znb import wire
from znb.errors import ServiceUnavailable
from znb.rpc import connect, serve
from znb.rpc.crew import Crew, Pool
from znb.rpc.express import Batch

keep_zero_copy_warm()


class Moody:
    """Methods that are usually quick."""

    def __init__(self):
        self.release = threading.Event()
        self.events = collections.Counter()

    def quick(self, x=None):
        return x

    def moody(self, mood):
        self.events[mood] += 1
        if mood == "slow":
            self.release.wait(30)
        elif mood == "spin":
            try:
                while not self.release.is_set():
                    pass
            finally:
                self.events["stopped"] += 1
        elif mood == "fail":
            raise ValueError(mood)
        elif mood == "stream":
            return iter([1, 2, 3])
        elif mood == "lock":
            return threading.Lock()
        elif mood == "big":
            return bytes(100_000)
        elif mood == "odd":
            return {(1,): 2**100}
        return mood


@pytest.fixture
def moody():
    return Moody()


@pytest.fixture
def service(moody):
    with serve(moody, name="moody", threads=3) as made:
        yield made
        moody.release.set()


@pytest.fixture
def svc(service):
    with connect("moody") as made:
        teach(made)
        yield made


def teach(svc):
    """Have the service learn that its methods are quick."""
    for _ in range(40):
        svc.quick()
        svc.moody("fine")


def test_every_kind_of_answer_on_the_short_way(svc):
    assert svc.quick(2**100) == 2**100
    assert svc.quick("\ud800") == "\ud800"
    assert svc.quick(x=(1, 2)) == (1, 2)
    assert svc.moody("big") == bytes(100_000)
    assert svc.moody("odd") == {(1,): 2**100}
    assert list(svc.moody("stream")) == [1, 2, 3]
    with pytest.raises(ValueError, match="fail"):
        svc.moody("fail")
    with pytest.raises(TypeError, match="result"):
        svc.moody("lock")
    assert svc.quick(1) == 1


def test_a_long_call_on_the_short_way_can_be_stopped(svc, moody, service):
    future = svc.moody.future("spin")
    wait_until(lambda: moody.events["spin"])
    wait_until(lambda: service.server.stats().requests == 1)
    future.cancel()
    wait_until(lambda: moody.events["stopped"])
    assert svc.quick(5) == 5
    wait_until(lambda: service.pool.running == 0)


def test_long_calls_on_the_short_way_are_as_many_as_there_are_threads(svc, moody, service):
    futures = [svc.moody.future("slow") for _ in range(5)]
    wait_until(lambda: moody.events["slow"] == 3)
    assert svc._znb_caller.call("_znb_ping", (), {}, svc._znb_limits) is None
    moody.release.set()
    assert [f.result(10) for f in futures] == ["slow"] * 5
    wait_until(lambda: service.pool.running == 0)


def test_a_storm_of_moods_from_many_threads_loses_nothing(svc, moody, service):
    moods = ["fine"] * 20 + ["fail", "stream", "big", "odd", "lock"]
    moody.release.set()  # slow and spin end at once
    wrong = []

    def ask(seed):
        choose = random.Random(seed)
        for _ in range(4):
            asked = [choose.choice([*moods, "slow", "spin"]) for _ in range(60)]
            futures = [(mood, svc.moody.future(mood)) for mood in asked]
            for mood, future in futures:
                try:
                    answer = future.result(20)
                except (ValueError, TypeError):
                    answer = "raised"
                expected = {"big": bytes(100_000), "odd": {(1,): 2**100}}.get(mood, mood)
                if mood in {"fail", "stream", "lock"}:
                    expected = "raised"
                if answer != expected:
                    wrong.append((mood, answer))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    wait_until(lambda: service.server.stats().requests == 0)
    wait_until(lambda: service.pool.running == 0)
    assert service.server.stats().complaints == 0


def test_a_batch_goes_on_elsewhere_when_one_of_its_calls_takes_long(svc, moody, service):
    slow = svc.moody.future("slow")
    wait_until(lambda: moody.events["slow"])
    futures = [svc.quick.future(n) for n in range(20)]
    futures.insert(7, svc.moody.future("slow"))
    quick = [f.result(10) for f in futures[:7] + futures[8:]]
    assert quick == list(range(20))
    assert not slow.done()
    moody.release.set()
    assert slow.result(10) == futures[7].result(10) == "slow"


@pytest.fixture
def stranger(service):
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.RCVTIMEO, 5000)
    socket.connect(service.url)
    yield socket
    socket.close(0)
    context.term()


def say(socket, name, args, **headers):
    socket.send_multipart([b"", msgspec.msgpack.encode([{"znb": 1, "v": 3, **headers}, name, args])])


def hear(socket):
    while True:
        event = wire.decode_event(socket.recv_multipart()[1], [])
        if event.name != wire.HEARTBEAT:
            return event


def test_a_batch_in_one_message_is_answered_in_few(svc, stranger):
    say(stranger, wire.CALLS, [[n, "quick", [n]] for n in range(50)], message_id=99)
    got = {}
    while len(got) < 50:
        event = hear(stranger)
        results = event.args if event.name == wire.RESULTS else [[event.headers["response_to"], event.args]]
        got.update({identifier: result[0] for identifier, result in results})
    assert got == {n: n for n in range(50)}


def test_a_batch_of_all_kinds(svc, stranger):
    calls = [
        [1, "quick", [1]],
        [2, "nothing", []],
        [3, "moody", ["fail"]],
        [4, "moody", ["stream"]],
        [5, "quick", [2, 3]],
    ]
    say(stranger, wire.CALLS, calls, message_id=99)
    kinds = collections.defaultdict(list)
    while set(kinds) < {1, 2, 3, 4, 5}:
        event = hear(stranger)
        if event.name == wire.RESULTS:
            kinds[1].append("OK")
        else:
            kinds[event.headers["response_to"]].append(event.name)
    assert (kinds[1], kinds[2], kinds[3], kinds[5]) == (["OK"], ["ERR"], ["ERR"], ["ERR"])
    assert kinds[4][0] == "STREAM"


@pytest.mark.parametrize("args", [None, 1, [1], [["a", "m", []]], [[1, 2, 3]], [[1, "m"]]])
def test_a_batch_that_is_none_is_the_senders_to_hear(svc, stranger, service, args):
    say(stranger, wire.CALLS, args, message_id=99)
    event = hear(stranger)
    assert (event.name, event.args[0], event.headers["response_to"]) == ("ERR", "ProtocolError", 99)
    assert svc.quick(1) == 1


def test_results_that_are_none_end_the_connection_not_the_process(runtime_dir):
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{runtime_dir}/bad")

    def serve_badly():
        while True:
            peer, empty, blob = router.recv_multipart()
            event = wire.decode_event(blob, [])
            reply = {"response_to": event.headers["message_id"], "znb": 1}
            if event.name == "_znb_inspect":
                told = {
                    "name": "bad",
                    "doc": "",
                    "methods": {"m": {"doc": "", "kind": "call", "params": None, "returns": None}},
                }
                router.send_multipart([peer, empty, wire.encode_event(reply, "OK", [told])])
            else:
                router.send_multipart([peer, empty, wire.encode_event({"znb": 1}, wire.RESULTS, [["x"]])])
                return

    thread = threading.Thread(target=serve_badly)
    thread.start()
    with connect(f"ipc://{runtime_dir}/bad") as svc:
        assert isinstance(svc.m.future().exception(5), ServiceUnavailable | Exception)
    thread.join()
    router.close(0)
    context.term()
    (runtime_dir / "bad").unlink()


# -- the crew and the pool alone


def test_a_pool_runs_as_many_as_it_has_places_and_the_rest_in_order():
    pool = Pool(2, "znb-test-pool")
    gate, started, done = threading.Event(), threading.Semaphore(0), []

    def job(number):
        started.release()
        gate.wait(5)
        done.append(number)

    jobs = [lambda n=n: job(n) for n in range(6)]
    for run in jobs:
        pool.submit(run)
    assert started.acquire(timeout=5)
    assert started.acquire(timeout=5)
    assert (pool.running, pool.waiting) == (2, 4)
    assert not pool.take_place()
    assert pool.remove(jobs[4])
    assert not pool.remove(jobs[4])
    gate.set()
    wait_until(lambda: len(done) == 5)
    wait_until(lambda: pool.running == 0)
    assert pool.take_place()
    assert pool.running == 1
    pool.give_back()
    pool.close()
    pool.close()


def test_the_socket_changes_hands_while_its_owner_is_lent():
    crew = Crew("znb-test-crew")
    crew.start()
    release, overrun, regained = threading.Event(), threading.Event(), []

    def lend():
        crew.lend(overrun.set)
        release.wait(10)
        regained.append(crew.regain())

    crew.call_soon(lend)
    assert overrun.wait(5)
    assert crew.wait_call(lambda: threading.current_thread().name, timeout=5) == "znb-test-crew-reserve"
    release.set()
    wait_until(lambda: regained == [False])
    for _ in range(50):
        assert crew.wait_call(lambda: 5, timeout=5) == 5
    crew.stop()
    crew.stop()
    assert crew.stopped


def test_a_crew_stops_while_its_owner_is_lent():
    crew = Crew("znb-test-crew")
    crew.start()
    release, started = threading.Event(), threading.Event()

    def lend():
        crew.lend(int)
        started.set()
        release.wait(10)
        crew.regain()

    crew.call_soon(lend)
    assert started.wait(5)
    crew.stop()
    assert crew.stopped
    release.set()


def test_short_loans_keep_the_socket():
    crew = Crew("znb-test-crew")
    crew.start()
    names = set()

    def lend():
        crew.lend(lambda: names.add("overrun"))
        names.add(threading.current_thread().name)
        return crew.regain()

    for _ in range(200):
        assert crew.wait_call(lend, timeout=5)
    deadline = time.monotonic() + 0.1
    while time.monotonic() < deadline:
        assert crew.wait_call(lend, timeout=5)
    crew.stop()
    assert "znb-test-crew" in names


def test_an_empty_batch_sends_nothing(service):
    Batch(service, b"nobody", [], {}).run()
