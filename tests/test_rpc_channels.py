"""Calls over real sockets: endings, streams, cancellation, peers that vanish, and peers that send rubbish."""

import gc
import os
import queue
import subprocess
import sys
import threading
import time

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from znb import wire
from znb.errors import Cancelled, ProtocolError, ServiceUnavailable, ZnbError
from znb.rpc import Connection, GateClosed, Lost, Reply, Server
from znb.transport import Reactor


def keep_zero_copy_warm():
    """Have pyzmq start what it keeps for zero-copy messages until the process ends, so that it is not taken for a leak."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as a, context.socket(zmq.PAIR) as b:
        a.bind("inproc://warm")
        b.connect("inproc://warm")
        a.send(bytes(zmq.COPY_THRESHOLD + 1), copy=False)
        b.recv()


keep_zero_copy_warm()


def wait_until(condition, timeout=5.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


class Bench:
    """A server and a connection, each on a reactor of its own."""

    def __init__(self, runtime_dir):
        self.requests = queue.SimpleQueue()
        self.serving = Reactor("znb-test-server")
        self.serving.start()
        self.server = Server(self.serving, self.requests.put)
        self.url = self.serving.wait_call(self.server.bind, f"ipc://{runtime_dir}/calls")
        self.calling = Reactor("znb-test-client")
        self.calling.start()
        self.connection = Connection(self.calling, self.url)
        self.calling.wait_call(self.connection.open)

    def call(self, method="m", args=(), connection=None, **options):
        events = queue.SimpleQueue()
        call = (connection or self.connection).call(method, args, lambda _c, e: events.put(e), **options)
        return call, events

    def request(self):
        return self.requests.get(timeout=5)

    def close(self):
        self.calling.stop()
        self.serving.stop()


@pytest.fixture
def bench(runtime_dir):
    made = Bench(runtime_dir)
    yield made
    made.close()


@pytest.fixture
def stranger(bench):
    """A raw DEALER that says what it likes."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.RCVTIMEO, 5000)
    socket.connect(bench.url)
    yield socket
    socket.close(0)
    context.term()


def says(socket, *frames):
    socket.send_multipart([b"", *frames])


def hears(socket):
    """Return the next event that is no heartbeat."""
    while True:
        event = wire.decode_event(socket.recv_multipart()[1], [])
        if event.name != wire.HEARTBEAT:
            return event


def blob(name, args=None, **headers):
    return wire.encode_event(headers, name, args)


# -- replies


def test_a_call_is_answered(bench):
    call, events = bench.call("add", [1, 2], headers={"label": "x"}, buffers=[b"data"])
    request = bench.request()
    assert (request.method, request.args, request.headers["label"]) == ("add", [1, 2], "x")
    assert bytes(request.buffers[0].buffer) == b"data"
    request.reply(3, [b"out"], extra=1)
    reply = events.get(timeout=5)
    assert (reply.name, reply.args, reply.headers["extra"], bytes(reply.buffers[0])) == ("OK", [3], 1, b"out")
    assert call.ended
    wait_until(lambda: bench.server.stats().requests == 0)
    assert bench.connection.stats().calls == 0


def test_only_the_first_ending_counts(bench):
    _, events = bench.call()
    request = bench.request()
    request.fail("ValueError", "bad", "trace")
    request.reply(1)
    request.end()
    assert events.get(timeout=5).args == ["ValueError", "bad", "trace"]
    bench.call()
    bench.request().reply(2)
    assert events.empty()


def test_a_result_that_cannot_travel_leaves_the_call_open(bench):
    _, events = bench.call()
    request = bench.request()
    with pytest.raises(TypeError):
        request.reply(object())
    with pytest.raises(TypeError):
        request.send_item(object())
    request.fail("TypeError", "cannot send")
    assert events.get(timeout=5).name == "ERR"


def test_arguments_that_cannot_travel_leave_nothing_behind(bench):
    with pytest.raises(TypeError):
        bench.call("m", [object()])
    assert bench.connection.stats().calls == 0


def test_large_frames_arrive_whole_both_ways(bench):
    data = os.urandom(3_000_000)
    _, events = bench.call("m", None, buffers=[memoryview(data), b"small"])
    request = bench.request()
    assert bytes(request.buffers[0]) == data
    request.reply(None, [request.buffers[0].buffer])
    assert bytes(events.get(timeout=5).buffers[0]) == data


def test_a_dispatch_that_fails_is_the_callers_to_hear(bench, caplog):
    server = Server(bench.serving, lambda request: 1 / 0)
    url = bench.serving.wait_call(server.bind, bench.url + "2")
    connection = Connection(bench.calling, url)
    bench.calling.wait_call(connection.open)
    _, events = bench.call(connection=connection)
    assert events.get(timeout=5).args[0] == "ZeroDivisionError"


def test_a_deadline_travels(bench):
    bench.call(headers={"deadline": 5.0})
    assert 0 < bench.request().deadline - time.monotonic() <= 5.0
    bench.call()
    assert bench.request().deadline is None


def test_many_calls_from_many_threads_each_get_their_own_answer(bench):
    def serve():
        for _ in range(400):
            request = bench.request()
            request.reply(request.args)

    def ask(base):
        pairs = [(n, bench.call("m", [n])[1]) for n in range(base, base + 100)]
        wrong.extend(n for n, events in pairs if events.get(timeout=5).args != [[n]])

    wrong = []
    threads = [threading.Thread(target=serve), *(threading.Thread(target=ask, args=(n * 100,)) for n in range(4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert bench.connection.stats().calls == 0


# -- NEED


def test_a_request_is_sent_again_under_its_id(bench):
    call, events = bench.call("m", [1])
    first = bench.request()
    first.need([b"key"])
    assert events.get(timeout=5).args == [b"key"]
    assert not call.ended
    bench.connection.resend(call, [2], [], {})
    second = bench.request()
    assert (second.id, second.args) == (first.id, [2])
    second.reply("done")
    assert events.get(timeout=5).args == ["done"]


def test_needs_and_resends_in_a_tight_loop_are_no_duplicates(bench):
    def on_event(call, event):
        if isinstance(event, Reply) and event.name == wire.NEED:
            bench.connection.resend(call, event.args, [], {})
        else:
            endings.put(event)

    def serve():
        for _ in range(300):
            request = bench.request()
            if request.args[0] > 0:
                request.need([request.args[0] - 1])
            else:
                request.reply("done")

    endings = queue.SimpleQueue()
    server = threading.Thread(target=serve)
    server.start()
    for _ in range(50):
        bench.connection.call("m", [5], on_event)
    assert {endings.get(timeout=5).name for _ in range(50)} == {"OK"}
    server.join()
    assert bench.server.stats().complaints == 0


def test_a_resend_after_giving_up_is_not_sent(bench):
    call, _ = bench.call("m", [1])
    bench.request()
    call.abandon()
    bench.connection.resend(call, [2], [], {})
    _, events = bench.call("other")
    request = bench.request()
    assert request.method == "other"
    request.reply(1)
    events.get(timeout=5)
    assert bench.connection.stats().calls == 0


# -- streams


def test_a_stream_is_held_back_by_its_consumer(bench):
    call, events = bench.call("count")
    request = bench.request()
    sent = 0
    while request.send_item(sent, timeout=0.2):
        sent += 1
    assert sent == 100
    got = [events.get(timeout=5).args for _ in range(100)]
    assert got == list(range(100))
    call.consumed(100)
    while request.send_item(sent, timeout=0.2):
        sent += 1
    assert sent == 200
    request.end()
    last = [events.get(timeout=5) for _ in range(101)][-1]
    assert last.name == wire.STREAM_DONE
    assert bench.connection.stats().calls == 0


def test_an_empty_stream_just_ends(bench):
    _, events = bench.call()
    bench.request().end()
    assert events.get(timeout=5).name == wire.STREAM_DONE


def test_a_stream_may_fail_after_some_items(bench):
    _, events = bench.call()
    request = bench.request()
    request.send_item(1)
    request.fail("ValueError", "bad")
    assert [events.get(timeout=5).name for _ in range(2)] == ["STREAM", "ERR"]


def test_a_zerorpc_caller_pays_for_the_end_of_a_stream(bench, stranger):
    says(stranger, blob("count", [], message_id=b"c"))
    request = bench.request()
    request.send_item("one")
    assert hears(stranger).args == "one"
    request.end()  # no credit left
    says(stranger, blob("_zpc_more", [1], message_id=b"d", response_to=b"c"))
    assert hears(stranger).name == wire.STREAM_DONE
    wait_until(lambda: bench.server.stats().requests == 0)


# -- giving up


def test_cancel_stops_the_server_and_ends_the_call(bench):
    call, events = bench.call()
    request = bench.request()
    cancelled = threading.Event()
    request.on_cancel = cancelled.set
    call.cancel()
    call.cancel()
    assert isinstance(events.get(timeout=5).error, Cancelled)
    assert cancelled.wait(5)
    request.reply(1)
    with pytest.raises(GateClosed):
        request.send_item(1)
    assert events.empty()
    assert bench.connection.stats().calls == 0
    assert bench.server.stats().requests == 0


def test_abandoning_a_call_is_silent(bench):
    call, events = bench.call()
    request = bench.request()
    cancelled = threading.Event()
    request.on_cancel = cancelled.set
    call.abandon()
    assert cancelled.wait(5)
    assert events.empty()
    call.abandon()
    call.consumed()


def test_a_producer_that_waits_for_credit_wakes_when_the_caller_gives_up(bench):
    call, _ = bench.call()
    request = bench.request()
    ended = threading.Event()

    def produce():
        with pytest.raises(GateClosed):
            while True:
                request.send_item(1)
        ended.set()

    thread = threading.Thread(target=produce)
    thread.start()
    call.abandon()
    assert ended.wait(5)
    thread.join()


def test_a_caller_that_vanishes_is_noticed_while_nothing_is_sent(bench):
    """A process that was killed cannot say goodbye."""
    code = (
        "import sys, zmq\n"
        "from znb import wire\n"
        "s = zmq.Context().socket(zmq.DEALER)\n"
        f"s.connect({bench.url!r})\n"
        "s.send_multipart([b'', wire.encode_event({'message_id': 1, 'znb': 1}, 'm', [])])\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    request = bench.request()
    cancelled = threading.Event()
    request.on_cancel = cancelled.set
    process.kill()
    process.communicate()
    assert cancelled.wait(5)
    wait_until(lambda: bench.server.stats().requests == 0)
    request.reply("nobody hears this")


def test_closing_a_connection_ends_its_calls_once(bench):
    _, events = bench.call()
    bench.calling.wait_call(bench.connection.close, ZnbError("over"))
    bench.calling.wait_call(bench.connection.close, ZnbError("again"))
    assert str(events.get(timeout=5).error) == "over"
    _, later = bench.call()
    assert str(later.get(timeout=5).error) == "over"


def test_a_handler_that_fails_does_not_keep_others_from_hearing_the_end(bench, caplog):
    bench.connection.call("a", [], lambda _c, _e: 1 / 0)
    _, events = bench.call()
    bench.calling.wait_call(bench.connection.close, ZnbError("over"))
    assert isinstance(events.get(timeout=5), Lost)


def test_calls_end_when_their_reactor_stops_and_afterwards(bench):
    _, events = bench.call()
    bench.calling.stop()
    assert isinstance(events.get(timeout=5).error, ServiceUnavailable)
    _, later = bench.call()
    assert isinstance(later.get(timeout=5).error, ServiceUnavailable)


def test_requests_are_cancelled_when_the_server_stops(bench):
    bench.call()
    request = bench.request()
    cancelled = threading.Event()
    request.on_cancel = cancelled.set
    bench.serving.stop()
    assert cancelled.is_set()
    request.reply(1)


def test_a_connection_that_was_never_opened_says_so(bench):
    _, events = bench.call(connection=Connection(bench.calling, "ipc:///nowhere"))
    assert "never opened" in str(events.get(timeout=5).error)


def test_a_forked_child_cannot_call(bench):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with pytest.raises(ZnbError, match="forked"):
                bench.call()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    _, events = bench.call()
    bench.request().reply(1)
    assert events.get(timeout=5).args == [1]


def test_a_million_ways_to_end_leave_tables_empty(bench):
    def serve():
        for number in range(600):
            request = bench.request()
            if number % 3 == 0:
                request.reply(1)
            elif number % 3 == 1:
                request.fail("E", "e")
            else:
                request.end()

    server = threading.Thread(target=serve)
    server.start()
    for number in range(600):
        call, events = bench.call()
        if number % 4 == 0:
            call.abandon()
        else:
            events.get(timeout=5)
    server.join()
    wait_until(lambda: bench.server.stats()[1:3] == (0, 0))
    assert bench.connection.stats().calls == 0
    assert bench.server.stats().complaints == 0
    gc.collect()


# -- rubbish


def test_bytes_that_are_no_event_cost_their_sender_its_calls_and_nobody_elses(bench, stranger, caplog):
    says(stranger, blob("m", [], message_id="a"))
    theirs = bench.request()
    cancelled = threading.Event()
    theirs.on_cancel = cancelled.set
    _, events = bench.call()
    ours = bench.request()
    says(stranger, b"\xc1rubbish")
    assert cancelled.wait(5)
    assert hears(stranger).args[0] == "ProtocolError"
    ours.reply("fine")
    assert events.get(timeout=5).args == ["fine"]
    assert "broke the protocol" in caplog.text


@pytest.mark.parametrize(
    "event",
    [
        blob("OK", [1], message_id="b", response_to="a"),
        blob("anything", [1], message_id="b", response_to="a"),
        blob("_zpc_more", [-1], message_id="b", response_to="a"),
        blob("_zpc_more", ["x"], message_id="b", response_to="a"),
        blob("_zpc_more", None, message_id="b", response_to="a"),
        blob("m", [], message_id="a"),
    ],
)
def test_events_out_of_order_cost_their_channel_only(bench, stranger, event, caplog):
    for name in ("a", "other"):
        says(stranger, blob("m", [], message_id=name))
    first, second = bench.request(), bench.request()
    says(stranger, event)
    error = hears(stranger)
    assert (error.name, error.args[0], error.headers["response_to"]) == ("ERR", "ProtocolError", "a")
    assert first.closed
    second.reply(2)
    assert hears(stranger).args == [2]


@pytest.mark.parametrize(
    "headers", [{"message_id": "q", "deadline": "soon"}, {"message_id": "q", "deadline": float("nan")}]
)
def test_a_request_that_breaks_the_protocol_is_answered(bench, stranger, headers, caplog):
    says(stranger, blob("m", [], **headers))
    assert hears(stranger).args[0] == "ProtocolError"
    assert bench.server.stats().requests == 0


@pytest.mark.parametrize(
    "frames", [[b""], [], [blob("m", [])], [blob("m", [], message_id=[])], [blob("m", [], response_to={})]]
)
def test_what_has_no_sender_to_tell_is_only_counted(bench, stranger, frames, caplog):
    says(stranger, *frames)
    wait_until(lambda: bench.server.stats().complaints == 1)
    stranger.send(blob("m", [], message_id=1))  # without the empty frame, as zerorpc accepts
    bench.request().reply(5)
    assert hears(stranger).args == [5]


def test_complaints_do_not_flood_the_log(bench, stranger, caplog):
    for _ in range(100):
        says(stranger, b"\xc1")
    wait_until(lambda: bench.server.stats().complaints == 100)
    assert len(caplog.records) < 5


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.lists(
        st.binary(max_size=30)
        | st.builds(
            lambda headers, name, args: msgspec.msgpack.encode([headers, name, args]),
            st.dictionaries(
                st.sampled_from(["message_id", "response_to", "deadline", "v", "znb"]),
                st.none() | st.integers(-5, 5) | st.sampled_from(["a", b"a", [], {}, 1.5]),
            ),
            st.sampled_from(["m", "OK", "ERR", "STREAM", "_zpc_more", "_zpc_hb", "_znb_cancel", "_znb_need"]),
            st.none() | st.lists(st.integers(-3, 3), max_size=2) | st.text(max_size=3),
        ),
        max_size=4,
    )
)
def test_no_bytes_of_a_stranger_disturb_others(bench, stranger, frames, caplog):
    failures = bench.serving.stats().failures
    stranger.send_multipart([b"", *frames])
    says(stranger, blob("end", [], message_id="end"))
    _, events = bench.call("ours")
    names = set()
    while not names >= {"end", "ours"}:
        request = bench.request()
        names.add(request.method)
        request.reply(1)
    assert events.get(timeout=5).args == [1]
    assert bench.serving.stats().failures == failures


@pytest.fixture
def bad_server(bench, runtime_dir):
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.RCVTIMEO, 5000)
    router.bind(f"ipc://{runtime_dir}/bad")
    yield router
    router.close(0)
    context.term()
    (runtime_dir / "bad").unlink()


@pytest.mark.parametrize(
    "reply",
    [
        [b"\xc1"],
        [],
        [blob("OK", [], response_to=0)],
        [blob("ERR", None, response_to=0)],
        [blob("m", [], response_to=0)],
        [blob("OK", [1], response_to=[])],
    ],
)
def test_a_server_that_sends_rubbish_ends_its_calls(bench, bad_server, runtime_dir, reply):
    connection = Connection(bench.calling, f"ipc://{runtime_dir}/bad")
    bench.calling.wait_call(connection.open)
    call, events = bench.call(connection=connection)
    peer, empty, _ = bad_server.recv_multipart()
    if reply and reply[0] != b"\xc1":
        event = wire.decode_event(reply[0], [])
        if event.headers.get("response_to") == 0:
            reply = [wire.encode_event({**event.headers, "response_to": call.id}, event.name, event.args)]
    bad_server.send_multipart([peer, empty, *reply])
    assert isinstance(events.get(timeout=5).error, ProtocolError)


def test_replies_to_calls_that_were_given_up_are_counted_and_dropped(bench, bad_server, runtime_dir):
    connection = Connection(bench.calling, f"ipc://{runtime_dir}/bad")
    bench.calling.wait_call(connection.open)
    call, events = bench.call(connection=connection)
    peer, empty, _ = bad_server.recv_multipart()
    for name, channel in [("OK", "unknown"), ("_zpc_hb", call.id), ("_zpc_more", call.id), ("OK", call.id)]:
        bad_server.send_multipart([peer, empty, blob(name, [1], message_id=1, response_to=channel)])
    assert events.get(timeout=5).args == [1]
    assert connection.stats().strays == 1
