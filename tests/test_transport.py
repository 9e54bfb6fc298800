"""The I/O thread: order, failures, timers, signals, forks and its end."""

import gc
import logging
import os
import signal
import socket
import threading
import time
import weakref

import pytest
import zmq

from znb.errors import ZnbError
from znb.transport import Reactor, is_local
from znb.transport.timers import CANCELLED_MAX


@pytest.fixture
def reactor():
    made = Reactor("znb-test-io")
    made.start()
    yield made
    made.stop()


def test_calls_are_made_in_order_on_its_thread(reactor):
    seen = []
    done = threading.Event()
    for number in range(1000):
        reactor.call_soon(lambda n: seen.append((n, reactor.on_thread)), number)
    reactor.call_soon(done.set)
    assert done.wait(5)
    assert seen == [(n, True) for n in range(1000)]
    assert not reactor.on_thread


def test_calls_given_before_the_start_are_made():
    reactor = Reactor("znb-test-io")
    done = threading.Event()
    reactor.call_soon(done.set)
    reactor.start()
    assert done.wait(5)
    reactor.stop()


def test_a_callback_that_raises_is_logged_and_does_not_stop_the_loop(reactor, caplog):
    def fail(error):
        raise error

    for error in (ValueError("boom"), SystemExit(3), KeyboardInterrupt()):
        reactor.call_soon(fail, error)
    assert reactor.wait_call(lambda: 5) == 5
    assert reactor.stats().failures == 3
    assert len([r for r in caplog.records if "a callback of the I/O thread failed" in r.message]) == 3


def test_wait_call_returns_raises_and_ends_in_time(reactor):
    assert reactor.wait_call(lambda a: a + 1, 4) == 5
    with pytest.raises(ZeroDivisionError):
        reactor.wait_call(lambda: 1 / 0)
    assert reactor.wait_call(lambda: reactor.wait_call(lambda: 7)) == 7
    release = threading.Event()
    reactor.call_soon(release.wait)
    with pytest.raises(TimeoutError):
        reactor.wait_call(lambda: 1, timeout=0.01)
    release.set()


def test_timers_come_in_order_of_their_time(reactor):
    seen = []
    done = threading.Event()

    def set_them():
        reactor.call_later(0.03, done.set)
        reactor.call_later(0.02, seen.append, "c")
        reactor.call_later(0.01, seen.append, "b")
        reactor.call_later(-1, seen.append, "a")
        reactor.call_later(float("inf"), seen.append, "never")
        reactor.call_later(0.015, seen.append, "cancelled").cancel()

    reactor.wait_call(set_them)
    assert done.wait(5)
    assert seen == ["a", "b", "c"]


def test_a_timer_may_be_cancelled_after_it_ran_and_twice(reactor):
    ran = threading.Event()
    timer = reactor.wait_call(reactor.call_later, 0.0, ran.set)
    assert ran.wait(5)
    reactor.wait_call(timer.cancel)
    reactor.wait_call(timer.cancel)
    assert timer.cancelled


def test_cancelled_timers_do_not_pile_up_and_let_go_of_their_arguments(reactor):
    class Thing:
        pass

    def churn():
        for _ in range(5000):
            reactor.call_later(3600, print).cancel()
        thing = Thing()
        timer = reactor.call_later(3600, print, thing)
        timer.cancel()
        return weakref.ref(thing), timer

    reference, _timer = reactor.wait_call(churn)
    gc.collect()
    assert reference() is None
    assert reactor.stats().timers <= 2 * CANCELLED_MAX


def test_far_timers_do_not_overflow_the_poll(reactor):
    reactor.wait_call(reactor.call_later, 1e12, print)
    assert reactor.wait_call(lambda: 1, timeout=5) == 1


def test_calls_from_signal_handlers_arrive(reactor):
    count = 200
    done = threading.Semaphore(0)
    previous = signal.signal(signal.SIGUSR1, lambda *_: reactor.call_soon(done.release))
    try:
        for _ in range(count):
            signal.raise_signal(signal.SIGUSR1)
            reactor.call_soon(int)  # the handler may run inside a call_soon of the thread it interrupts
    finally:
        signal.signal(signal.SIGUSR1, previous)
    for _ in range(count):
        assert done.acquire(timeout=5)


def test_messages_and_file_descriptors_are_read(reactor):
    got = []
    arrived = threading.Semaphore(0)
    ours, theirs = socket.socketpair()

    def on_fd():
        got.append(ours.recv(10))
        arrived.release()

    def on_message(frames):
        got.append([f.bytes for f in frames])
        arrived.release()

    def set_up():
        pull = reactor.socket(zmq.PULL)
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        reactor.add_socket(pull, on_message)
        push = reactor.socket(zmq.PUSH)
        push.connect(f"tcp://127.0.0.1:{port}")
        reactor.add_socket(push, print)
        push.send_multipart([b"a", b""])
        reactor.add_reader(ours.fileno(), on_fd)

    reactor.wait_call(set_up)
    theirs.send(b"hello")
    assert arrived.acquire(timeout=5)
    assert arrived.acquire(timeout=5)
    assert sorted(got, key=str) == sorted([b"hello", [b"a", b""]], key=str)
    reactor.wait_call(reactor.remove_reader, ours.fileno())
    reactor.wait_call(reactor.remove_reader, ours.fileno())
    ours.close()
    theirs.close()


def test_a_reader_that_fails_is_removed_instead_of_failing_for_ever(reactor, caplog):
    ours, theirs = socket.socketpair()
    reactor.wait_call(reactor.add_reader, ours.fileno(), lambda: 1 / 0)
    theirs.send(b"x")
    wait_until(lambda: reactor.stats().failures)
    assert reactor.wait_call(reactor.stats).readers == 0
    assert reactor.stats().failures == 1
    ours.close()
    theirs.close()


def test_a_socket_that_somebody_closed_does_not_end_the_loop(reactor):
    def set_up():
        closed = reactor.socket(zmq.PULL)
        reactor.add_socket(closed, print)
        closed.close()

    reactor.wait_call(set_up)
    assert reactor.wait_call(lambda: 3, timeout=5) == 3
    wait_until(lambda: reactor.stats().sockets == 0)


def test_a_monitor_hears_of_connections(reactor):
    events = []
    heard = threading.Event()

    def on_event(event):
        events.append(event)
        heard.set()

    def set_up():
        pull = reactor.socket(zmq.PULL)
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        push = reactor.socket(zmq.PUSH)
        reactor.add_socket(push, print)
        reactor.add_socket(pull, print)
        reactor.add_monitor(push, zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED, on_event)
        push.connect(f"tcp://127.0.0.1:{port}")
        return pull, push

    pull, push = reactor.wait_call(set_up)
    assert heard.wait(5)
    heard.clear()
    reactor.wait_call(reactor.close_socket, pull)
    assert heard.wait(5)
    assert events == [zmq.EVENT_CONNECTED, zmq.EVENT_DISCONNECTED]
    reactor.wait_call(reactor.close_socket, push)
    reactor.wait_call(reactor.close_socket, push)
    assert reactor.stats().sockets == 0


# -- the end


def test_stop_makes_the_calls_that_wait_and_those_that_they_ask_for():
    reactor = Reactor("znb-test-io")
    reactor.start()
    seen = []
    hold = threading.Event()
    reactor.call_soon(hold.wait)
    reactor.call_soon(lambda: reactor.call_soon(lambda: reactor.call_soon(seen.append, "nested")))
    reactor.at_stop(lambda: seen.append(("closing", reactor.on_thread)))
    reactor.at_stop(seen.clear)
    reactor.not_at_stop(seen.clear)
    reactor.not_at_stop(seen.clear)
    stopper = threading.Thread(target=reactor.stop)
    stopper.start()
    hold.set()
    stopper.join(5)
    assert seen == [("closing", True), "nested"] or seen == ["nested", ("closing", True)]
    assert reactor.stopped


def test_a_call_after_the_end_is_made_at_once():
    reactor = Reactor("znb-test-io")
    reactor.start()
    reactor.stop()
    reactor.stop()
    seen = []
    reactor.call_soon(lambda: reactor.call_soon(seen.append, 2))
    assert seen == [2]
    assert reactor.wait_call(lambda: 4) == 4


def test_stop_from_its_own_thread_and_before_the_start():
    reactor = Reactor("znb-test-io")
    reactor.start()
    reactor.call_soon(reactor.stop)
    wait_until(lambda: reactor.stopped)
    reactor.stop()
    never = Reactor("znb-test-io")
    never.stop()
    never.stop()
    assert never.context.closed


def test_no_call_is_lost_while_it_stops():
    for _ in range(20):
        reactor = Reactor("znb-test-io")
        reactor.start()
        made = []
        barrier = threading.Barrier(3)

        def ask(reactor=reactor, made=made, barrier=barrier):
            barrier.wait()
            for number in range(200):
                reactor.call_soon(made.append, number)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        barrier.wait()
        reactor.stop()
        for thread in threads:
            thread.join()
        wait_until(lambda made=made: len(made) == 400)


def test_a_stop_that_takes_too_long_says_so(monkeypatch, caplog):
    monkeypatch.setattr("znb.transport.reactor.STOP_TIMEOUT", 0.01)
    reactor = Reactor("znb-test-io")
    reactor.start()
    release = threading.Event()
    reactor.call_soon(release.wait)
    with caplog.at_level(logging.ERROR):
        reactor.stop()
    assert "a callback hangs" in caplog.text
    release.set()
    wait_until(lambda: reactor.stopped)


def test_a_forked_child_drops_calls_and_leaves_the_parent_alone(reactor):
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            reactor.call_soon(os.write, send, b"must not happen")
            reactor.stop()
            with pytest.raises(ZnbError, match="forked"):
                reactor.wait_call(int)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert reactor.wait_call(lambda: 9, timeout=5) == 9
    os.close(send)
    assert os.read(receive, 100) == b""
    os.close(receive)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("ipc:///tmp/x", True),
        ("inproc://x", True),
        ("tcp://127.0.0.1:80", True),
        ("tcp://localhost:80", True),
        ("tcp://[::1]:80", True),
        ("tcp://10.0.0.1:80", False),
        ("tcp://*:80", False),
        ("tcp://127.evil.example:80", False),
        ("tcp://localhost.evil.example:80", False),
    ],
)
def test_local_addresses_are_told_from_others(url, local):
    assert is_local(url) is local


def test_sockets_to_other_machines_have_heartbeats(reactor):
    def options(url):
        made = reactor.socket(zmq.DEALER, url)
        found = made.getsockopt(zmq.HEARTBEAT_IVL), made.getsockopt(zmq.LINGER), made.getsockopt(zmq.IPV6)
        made.close()
        return found

    assert reactor.wait_call(options, "tcp://10.0.0.1:80") == (1000, 0, 0)
    assert reactor.wait_call(options, "tcp://[fe80::1]:80") == (1000, 0, 1)
    assert reactor.wait_call(options, "ipc:///tmp/x") == (0, 0, 0)


def wait_until(condition, timeout=5.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


def test_ipc_files_go_with_their_socket_unless_another_took_the_place(reactor, runtime_dir):
    path = runtime_dir / "x"

    def bind():
        made = reactor.socket(zmq.PULL)
        assert reactor.bind(made, f"ipc://{path}") == f"ipc://{path}"
        return made

    first = reactor.wait_call(bind)
    reactor.wait_call(reactor.close_socket, first)
    assert not path.exists()
    first = reactor.wait_call(bind)
    second = reactor.wait_call(bind)  # libzmq takes the path from the first without a word
    reactor.wait_call(reactor.close_socket, first)
    assert path.exists()
    reactor.wait_call(reactor.close_socket, second)
    assert not path.exists()
