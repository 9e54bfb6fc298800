"""Streams between real processes: what arrives, what is counted, what is left behind."""

import asyncio
import concurrent.futures
import io
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pandas as pd
import pytest
import zmq

import znb
from job_functions import wait_until
from znb.errors import CallTimeout, ProtocolError, SerializationError, ServiceUnavailable
from znb.pubsub import messages, places, streams
from znb.pubsub.board import Board
from znb.pubsub.home import home
from znb.pubsub.publisher import source_name
from znb.serialize import Codec

PATIENCE = 20.0


@pytest.fixture(autouse=True)
def _end_streams():
    yield
    streams.close()


def receive(subscription, count):
    return [subscription.wait_message(PATIENCE) for _ in range(count)]


def script(source, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)], stdout=subprocess.PIPE, text=True, **options
    )


def test_a_message_says_what_when_and_from_whom():
    with znb.subscribe("loss") as losses:
        before = time.time()
        znb.publish("loss/train", {"epoch": 3, "loss": 0.12})
        (message,) = receive(losses, 1)
    assert message.value == {"epoch": 3, "loss": 0.12}
    assert (message.topic, message.dropped, message.number, message.late) == ("loss/train", 0, 1, False)
    assert str(os.getpid()) in message.source
    assert before <= message.time <= time.time()
    assert "loss/train" in repr(message)


def test_topics_are_chosen_by_their_beginning():
    with znb.subscribe("loss", "note") as some, znb.subscribe() as everything:
        for topic in ("loss", "accuracy", "loss/val", "notes"):
            znb.publish(topic, topic)
        assert [m.value for m in receive(some, 3)] == ["loss", "loss/val", "notes"]
        assert [m.value for m in receive(everything, 4)] == ["loss", "accuracy", "loss/val", "notes"]


def test_who_comes_late_gets_the_last_value_of_each_topic():
    for number in range(10):
        znb.publish("loss", number)
        znb.publish("accuracy", -number)
    with znb.subscribe() as late:
        found = {m.topic: (m.value, m.late, m.dropped) for m in receive(late, 2)}
        assert found == {"loss": (9, True, 0), "accuracy": (-9, True, 0)}
        znb.publish("loss", 10)
        assert [(m.value, m.late, m.dropped) for m in receive(late, 1)] == [(10, False, 0)]
    with znb.subscribe(latest=False) as later:
        znb.publish("loss", 11)
        assert [(m.value, m.dropped) for m in receive(later, 1)] == [(11, 0)]


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x == other.x

    __hash__ = None


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1.5,
        None,
        "größer",
        b"\x89PNG" * 10_000,
        {"a": 1, "b": [1, 2, (3, 4)]},
        [{"name": "x", "n": 1}, {"name": "y", "n": 2}],
        2**100,
        float("inf"),
        Point(3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_arrive_as_they_are(value):
    with znb.subscribe("v") as values:
        znb.publish("v", value)
        found = receive(values, 1)[0].value
    assert found == value
    assert type(found) is type(value)


def test_arrays_and_tables_arrive_as_they_are_and_as_they_were():
    array = np.arange(100_000.0)
    table = pd.DataFrame({"n": [1, 2, 3], "s": ["a", "b", "c"]})
    with znb.subscribe("v") as values:
        znb.publish("v", array)
        array[:] = 0
        znb.publish("v", table)
        first, second = (m.value for m in receive(values, 2))
    assert np.array_equal(first, np.arange(100_000.0))
    pd.testing.assert_frame_equal(second, table)


def test_what_cannot_travel_is_refused_here_and_nothing_is_lost():
    with znb.subscribe("v") as values:
        with pytest.raises(SerializationError, match="lock"):
            znb.publish("v", {"lock": threading.Lock()})
        znb.publish("v", 1)
        assert [(m.value, m.dropped) for m in receive(values, 1)] == [(1, 0)]


@pytest.mark.parametrize(
    ("topic", "error"), [(b"loss", TypeError), ("", ValueError), ("x" * 1000, ValueError), ("\ud800", ValueError)]
)
def test_a_topic_is_text_of_some_length(topic, error):
    with pytest.raises(error, match="topic"):
        znb.publish(topic, 1)
    if topic:
        with pytest.raises(error, match="topic"):
            znb.subscribe(topic)


def test_a_script_whose_name_is_no_text_is_heard():
    assert source_name(["/tmp/\ud800.py"], kernel=False) == f"\\ud800.py-{os.getpid()}"


def test_a_topic_that_cannot_be_sent_is_refused_and_mutes_nobody():
    for refused in (
        lambda: znb.publish("\ud800", 1),
        lambda: znb.subscribe("ok", "\ud800"),
        lambda: znb.stream("\ud800"),
    ):
        with pytest.raises(
            ValueError, match=r"text that UTF-8 can write, got '\\ud800': the character at 0 cannot be sent"
        ):
            refused()
    znb.publish("größe/日本", 1)
    with znb.subscribe("größe") as messages:
        assert messages.wait_message(PATIENCE).value == 1
    assert source_name(["/tmp/\udcff.py"], kernel=False) == f"\\udcff.py-{os.getpid()}"


def test_wrong_subscriptions_are_refused():
    with pytest.raises(TypeError, match="several"):
        znb.subscribe(["a", "b"])
    with pytest.raises(ValueError, match="history"):
        znb.subscribe("a", history=0)
    with pytest.raises(ServiceUnavailable, match="no cluster and no service"):
        znb.subscribe("a", at="nowhere")
    for history in ("x", None, 1.5, True):
        with pytest.raises(TypeError, match="history is a whole number"):
            znb.subscribe("a", history=history)
    with pytest.raises(TypeError, match="timeout is a number"):
        znb.subscribe("a", timeout="1")
    with pytest.raises(ValueError, match="timeout is a number of seconds, 0 or more"):
        znb.subscribe("a", timeout=float("nan"))
    with pytest.raises(TypeError, match="until must be a future"):
        znb.subscribe("a", until=3)


@pytest.mark.parametrize("ask", [znb.subscribe, lambda topic, at: znb.publish(topic, 1, at=at)], ids=["sub", "pub"])
def test_wrong_places_are_refused_at_once(ask, runtime_dir):
    for place in (5, None):
        with pytest.raises(TypeError, match="at is a name or an address"):
            ask("a", at=place)
    with pytest.raises(ValueError, match="a place is"):
        ask("a", at="")
    for place in ("http://x", "tcp://bad host", "tcp://127.0.0.1:x", "ipc://\ud800"):
        with pytest.raises(ServiceUnavailable, match="this is no address"):
            ask("a", at=place)
    assert list(runtime_dir.glob("*.subscriber")) == []


def test_a_slow_subscriber_loses_the_oldest_and_knows_how_many():
    with znb.subscribe("n", history=10) as slow, znb.subscribe("n", history=10) as again:
        for number in range(1000):
            znb.publish("n", number)
        with znb.subscribe("end") as end:  # its message is behind all of those
            znb.publish("end", None)
            receive(end, 1)
        found = receive(slow, 1)
        while found[-1].value < 999:
            found += receive(slow, 1)
        assert len(found) + sum(m.dropped for m in found) == 1000
        assert slow.stats().dropped == sum(m.dropped for m in found)
        assert again.stats().waiting <= 10


def test_a_subscriber_that_is_stopped_costs_nothing_and_gets_the_last_value():
    source = """
        import sys, znb
        with znb.subscribe("n") as messages:
            print(messages.wait_message(20).value, flush=True)
            sys.stdin.readline()
            seen, dropped = 1, 0
            for m in messages:
                seen += 1
                dropped += m.dropped
                if m.topic == "n/end":
                    break
            print(seen, dropped, flush=True)
    """
    process = script(source, stdin=subprocess.PIPE)
    try:
        znb.publish("n", b"first")
        assert "first" in process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        body = b"x" * 10_000
        for _ in range(5_000):
            znb.publish("n", body)
        znb.publish("n/end", None)
        board = streams.stats().board
        assert board.held_bytes <= 16_000_000
        process.send_signal(signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        seen, dropped = map(int, process.stdout.readline().split())
        assert dropped > 0
        assert seen + dropped == 5_002
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.communicate()


def test_a_loop_ends_when_the_subscription_is_closed():
    subscription = znb.subscribe("n")
    znb.publish("n", 1)
    found = []

    def loop():
        found.extend(m.value for m in subscription)

    thread = threading.Thread(target=loop)
    thread.start()
    with znb.subscribe("n") as other:
        receive(other, 1)
    while not found:
        pass
    subscription.close()
    subscription.close()
    thread.join(PATIENCE)
    assert found == [1]
    with pytest.raises(EOFError, match="closed"):
        subscription.wait_message()


def test_a_subscription_ends_with_its_last_reference():
    for message in [znb.subscribe("gone")]:
        del message  # the world's check for threads and files does the rest


def test_waiting_is_bounded_if_asked():
    with znb.subscribe("silence") as silence, pytest.raises(CallTimeout, match="silence"):
        silence.wait_message(0.01)


def test_a_loop_that_hears_nothing_says_what_there_is(capfd, monkeypatch):
    monkeypatch.setattr("znb.pubsub.subscriber.NOTICE_AFTER", 0.0)
    monkeypatch.setattr("znb.pubsub.subscriber.WAIT", 0.05)
    znb.publish("loss", 1)
    with znb.subscribe("los/") as misspelt:
        threading.Timer(0.5, misspelt.close).start()
        assert list(misspelt) == []
    assert "waiting for a message on 'los/'; published now: loss" in capfd.readouterr().err


def test_a_loop_ends_after_silence_if_asked():
    with znb.subscribe("n", timeout=0.2) as numbers:
        znb.publish("n", 1)
        assert [m.value for m in numbers] == [1]
        znb.publish("n", 2)
        assert [m.value for m in numbers] == [2]

        async def main():
            znb.publish("n", 3)
            return [m.value async for m in numbers]

        assert asyncio.run(main()) == [3]


def test_a_loop_ends_when_what_it_follows_is_done():
    done = concurrent.futures.Future()
    with znb.subscribe("n", until=done) as numbers:
        znb.publish("n", 1)
        assert next(numbers).value == 1
        znb.publish("n", 2)
        done.set_result(None)
        znb.publish("n", 3)
        assert [m.value for m in numbers] == [2, 3]
        znb.publish("n", 4)

        async def main():
            return [m.value async for m in numbers]

        assert asyncio.run(main()) == [4]


def test_an_interrupted_wait_shows_no_frames_of_locks():
    with znb.subscribe("silence") as silence:
        threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt) as caught:
            next(silence)
    assert {os.path.basename(entry.path) for entry in caught.traceback} == {"test_pubsub.py", "subscriber.py"}


def test_a_loop_ends_after_a_silence_if_asked():
    with znb.subscribe("t", timeout=0.2) as values:
        znb.publish("t", 1)
        assert next(values).value == 1
        assert [m.value for m in values] == []
        znb.publish("t", 2)  # it has not ended, only the loop has
        assert next(values).value == 2

        async def main():
            return [m.value async for m in values]

        assert asyncio.run(main()) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"at": "http://x"}, "this is no address"),
        ({"at": "tcp://bad host:1"}, "this is no address"),
        ({"at": 5}, "at is a name or an address"),
        ({"history": "x"}, "history is a whole number"),
        ({"timeout": -1}, "timeout is a number of seconds"),
    ],
)
def test_wrong_options_are_refused(options, error):
    with pytest.raises((TypeError, ValueError, ServiceUnavailable), match=error):
        znb.subscribe("x", **options)


def test_a_loop_on_a_place_that_has_ended_says_so(capfd, monkeypatch):
    monkeypatch.setattr("znb.pubsub.subscriber.NOTICE_AFTER", 0.0)
    monkeypatch.setattr("znb.pubsub.subscriber.WAIT", 0.05)
    service = znb.serve({"add": max}, name="brief")
    values = znb.subscribe("x", at="brief", timeout=3)
    service.close()
    assert list(values) == []
    assert "nothing comes any more: 'brief' has ended" in capfd.readouterr().err
    values.close()


LATE = """
import atexit, sys
from znb import publish
atexit.register(lambda: publish("late", "at exit"))
class Last:
    def __del__(self):
        publish("late", "in __del__")
last = Last()
if "first" in sys.argv:
    publish("late", "first")
"""


@pytest.mark.parametrize("first", ["", "first"])
def test_a_process_that_publishes_at_its_very_end_ends(first):
    done = subprocess.run(
        [sys.executable, "-c", LATE, first], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert "'late' was published too late: this process ends" in done.stderr


def test_async_loops():
    async def main():
        with znb.subscribe("n") as numbers:
            for number in range(100):
                znb.publish("n", number)
            found = []
            async for message in numbers:
                found.append(message.value)
                if len(found) == 100:
                    break
            return found

    assert asyncio.run(main()) == list(range(100))


def test_a_script_that_ends_at_once_is_heard():
    with znb.subscribe("n") as numbers:
        process = script("import znb; [znb.publish('n', i) for i in range(1000)]")
        assert [m.value for m in receive(numbers, 1000)] == list(range(1000))
        process.communicate()


def test_a_process_that_was_killed_leaves_nothing_for_others_to_stumble_over(runtime_dir):
    process = script("import znb, time; znb.publish('n', 1); print('go', flush=True); time.sleep(60)")
    process.stdout.readline()
    process.kill()
    process.communicate()
    assert list(runtime_dir.glob("*.events"))
    with znb.subscribe("n") as numbers:
        znb.publish("n", 2)
        assert [m.value for m in receive(numbers, 1)] == [2]
    assert len(list(runtime_dir.glob("*.events"))) == 1


KILLED = """
    import os, signal, znb
    from znb.pubsub import streams
    for number in range(5):
        znb.publish("n", number)
    streams.publisher.flush()
    streams.publisher._flush = lambda: None  # from here on nothing is sent
    for number in range(3):
        znb.publish("n", 5 + number)
        znb.publish("n/other", number)
        znb.publish("unwanted", number)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_had_not_sent_is_counted(caplog):
    with znb.subscribe("n") as numbers:
        process = script(KILLED)
        assert [m.value for m in receive(numbers, 5)] == list(range(5))
        process.communicate()
        while numbers.stats().dropped < 6:
            with pytest.raises(CallTimeout):
                numbers.wait_message(0.05)
        assert numbers.stats().dropped == 6
    assert "the last 6 of its messages with it (on 'n', 'n/other')" in caplog.text


def test_a_new_publisher_is_found_before_its_first_message_is_published(monkeypatch):
    monkeypatch.setattr("znb.pubsub.feed.FIND_INTERVAL", 3600.0)
    with znb.subscribe("n") as numbers:
        numbers._feed._reactor.wait_call(int)  # it has looked once
        process = script("import znb; znb.publish('n', 1); import sys; sys.stdin.readline()", stdin=subprocess.PIPE)
        assert [m.value for m in receive(numbers, 1)] == [1]
        process.communicate("\n")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import znb, atexit; atexit.register(lambda: znb.publish('n', 'at exit'))", ["at exit"]),
        ("import znb, atexit; atexit.register(znb.publish, 'n', 'late'); znb.publish('n', 'soon')", ["soon", "late"]),
        (
            """
            import znb
            class Published:
                def __del__(self): znb.publish("n", "del")
            published = Published()
            znb.publish("n", "soon")
            """,
            ["soon"],
        ),
    ],
    ids=["first", "again", "del"],
)
def test_what_is_published_at_the_end_of_a_process_arrives_or_is_let_go(source, found):
    with znb.subscribe("n") as numbers:
        process = script(source)
        assert [m.value for m in receive(numbers, len(found))] == found
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert places.find_sockets() == set()  # and so removes what a process leaves that first publishes in atexit


def test_too_many_topics_are_told(monkeypatch, caplog):
    monkeypatch.setattr("znb.pubsub.publisher.Board", lambda note: Board(topics=10, note=note))
    for number in range(25):
        znb.publish(f"n/{number}", number)
    assert streams.stats().board.forgotten == 15
    assert caplog.text.count("publishes on too many topics") == 1
    with znb.subscribe("n") as late:
        assert [m.value for m in receive(late, 10)] == list(range(15, 25))
        assert late.stats().forgotten == 15


def test_a_forked_child_publishes_as_itself():
    znb.publish("n", 1)
    with znb.subscribe("n") as numbers:
        receive(numbers, 1)
        pid = os.fork()
        if pid == 0:
            try:
                znb.publish("n", 2)
                streams.close()
            finally:
                os._exit(0)
        (message,) = receive(numbers, 1)
        assert message.value == 2
        assert message.source.endswith(f"-{pid}")
        os.waitpid(pid, 0)


def test_publishing_in_the_place_of_another_process():
    znb.publish("n", 0)
    url = streams.publisher.url
    with znb.subscribe("n", at=url) as numbers:
        receive(numbers, 1)
        process = script(f"import znb; znb.publish('n', [1, b'x' * 100_000], at={url!r})")
        (message,) = receive(numbers, 1)
        process.communicate()
    assert message.value == [1, b"x" * 100_000]
    assert message.source != streams.source
    with pytest.raises(ProtocolError, match="plain values"):
        znb.publish("n", Point(1), at=url)
    with pytest.raises(ServiceUnavailable, match="no such socket"):
        znb.publish("n", 1, at=f"{url}x")


def test_a_pickle_from_a_stranger_is_not_read():
    content = messages.Content(pickle.dumps(Point(1)), plain=False)
    with pytest.raises(ProtocolError, match="pickle"):
        messages.decode_value(content, [], home.codec, trusted=False)
    assert messages.decode_value(content, [], Codec(), trusted=True) == Point(1)


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x93\x01\x02\x03", messages.encode_message(messages.Bye())[:-1]])
def test_rubbish_is_no_message(frame):
    with pytest.raises(ProtocolError, match="message of a stream"):
        messages.decode_message(frame)


def test_rubbish_disturbs_nobody(caplog):
    with znb.subscribe("n") as numbers:
        znb.publish("n", 1)
        receive(numbers, 1)
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.connect(streams.publisher.url)
            socket.send_multipart([b"rubbish"])
            socket.send_multipart([messages.encode_message(messages.Taken(10**9))])
            socket.send_multipart([messages.encode_message(messages.Hello(("n",), time.time(), version=99))])
            socket.send_multipart([messages.encode_message(messages.Hello(("n",), 0.0))])
            assert socket.poll(PATIENCE * 1000)
            assert isinstance(messages.decode_message(socket.recv_multipart()[0]), messages.Welcome)
        znb.publish("n", 2)
        assert [m.value for m in receive(numbers, 1)] == [2]
    assert "got 7 bytes" in caplog.text
    assert "version 99" in caplog.text


def test_from_workers_jobs_and_services():
    def job(number):
        import znb

        znb.publish("n", {"from": number})
        return number

    with znb.Cluster.start(2, name="pub") as cluster, znb.subscribe("n") as numbers:
        cluster.run("import znb\nznb.publish('n', {'from': -1})")
        list(cluster.map(job, range(4), chunksize=1))
        found = receive(numbers, 6)
        assert {m.source for m in found} == {"w0", "w1"}
        assert {m.cluster for m in found} == {"pub"}
        assert "from w0 of pub" in "".join(map(repr, found))
        assert sorted(m.value["from"] for m in found) == [-1, -1, 0, 1, 2, 3]
        assert {m.dropped for m in found} == {0}

        cluster.run("class Box:\n    def __init__(self): self.x = 1\nznb.publish('n', Box())", timeout=30)
        assert {m.value.x for m in receive(numbers, 2)} == {1}

        # from the notebook to a worker
        cluster.run("heard = znb.subscribe('to workers')")
        znb.publish("to workers", [1, 2])
        assert set(cluster.run("heard.wait_message(20).value[1]").values()) == {2}
        cluster.run("heard.close()")

        with znb.subscribe("n", at="pub") as only:
            znb.publish("n", "not from the cluster")
            assert {m.source for m in receive(only, 2)} == {"w0", "w1"}
            znb.publish("n", "in its place", at="pub")
            assert [m.cluster for m in receive(only, 1)] == [""]
            receive(numbers, 2)  # this one, and the one before from here

        cluster.restart("w0")
        cluster["w0"].run("import znb\nznb.publish('n', 'again')")
        while (message := numbers.wait_message(PATIENCE)).value != "again":
            pass
        assert (message.source, message.dropped) == ("w0", 0)


def test_a_cluster_that_has_ended_is_said_to_have(monkeypatch):
    monkeypatch.setattr("znb.pubsub.subscriber.NOTICE_AFTER", 0.0)
    monkeypatch.setattr("znb.pubsub.subscriber.WAIT", 0.05)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with znb.Cluster.start(1, name="pub"):
        messages_ = znb.subscribe("n", at="pub")
    with messages_:
        watcher = threading.Thread(target=list, args=[messages_])
        watcher.start()
        wait_until(lambda: "nothing comes any more: 'pub' has ended" in sys.stderr.getvalue(), "the notice")
        messages_.close()
        watcher.join()


def test_a_service_is_found_by_its_name_and_its_address():
    source = """
        import sys, znb
        service = znb.serve({"add": max}, name="adder", bind="tcp://127.0.0.1:*")
        znb.publish("n", "from the service")
        print(service.url, flush=True)
        sys.stdin.readline()
        service.close()
    """
    process = script(source, stdin=subprocess.PIPE)
    try:
        url = process.stdout.readline().strip()
        znb.publish("n", "from here")
        for place in ("adder", url):
            with znb.subscribe("n", at=place) as numbers:
                assert [m.value for m in receive(numbers, 1)] == ["from the service"]
                znb.publish("n", "said in its place", at=place)
                assert [m.value for m in receive(numbers, 1)] == ["said in its place"]
                znb.publish("n", "from the service", at=place)
                receive(numbers, 1)
    finally:
        process.communicate("\n")


def test_a_place_where_nobody_answers_is_named(capfd, monkeypatch):
    monkeypatch.setattr("znb.pubsub.subscriber.NOTICE_AFTER", 0.0)
    monkeypatch.setattr("znb.pubsub.subscriber.WAIT", 0.05)
    with znb.subscribe("n", at="tcp://127.0.0.1:9") as nobody:
        threading.Timer(0.3, nobody.close).start()
        assert list(nobody) == []
    assert "nobody who publishes answers at tcp://127.0.0.1:9" in capfd.readouterr().err


def test_places(runtime_dir):
    assert places.find_sockets() == set()
    assert places.count_subscribers() == 0
    znb.publish("n", 1)
    assert places.find_sockets() == {streams.publisher.url}
    with znb.subscribe("n"):
        assert places.count_subscribers() == 1
    (runtime_dir / "999999999.abcd.subscriber").touch()
    assert places.count_subscribers() == 0


def test_an_interrupt_of_the_first_publish_leaves_nothing_behind(world, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("znb.pubsub.publisher.knock", interrupted)
        with pytest.raises(KeyboardInterrupt):
            znb.publish("first", 1)
    assert not [thread for thread in threading.enumerate() if thread.name == "znb-publish"]
    assert not list(world.runtime.glob("*.events*"))
    znb.publish("first", 2)
    with znb.subscribe("first") as subscription:
        assert subscription.wait_message(PATIENCE).value == 2
