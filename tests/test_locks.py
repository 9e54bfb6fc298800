"""Conditions, events and futures that an interrupt cannot leave locked."""

from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from znb.locks import LOOK_FOR_SIGNALS, Condition, Event, Future


def python_calls(run):
    """Return which Python functions were run."""
    called = []
    sys.setprofile(lambda frame, event, arg: called.append(frame.f_code.co_qualname) if event == "call" else None)
    try:
        run()
    finally:
        sys.setprofile(None)
    return called[1:]  # without `run`


@pytest.mark.parametrize("condition", [Condition(), Event()._cond, Future()._condition])
def test_nothing_of_python_runs_while_the_lock_is_taken_or_released(condition):
    def enter_and_leave():
        with condition:
            pass

    assert python_calls(enter_and_leave) == []


def test_they_work_as_those_of_the_standard_library():
    condition, event, future, got = Condition(), Event(), Future(), []

    def wait():
        with condition:
            condition.wait_for(lambda: got)
        event.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not event.is_set()
    with condition:
        got.append(1)
        condition.notify_all()
    assert event.wait(10)
    waiting.join()
    future.set_result(7)
    assert future.result(0) == 7
    with pytest.raises(RuntimeError, match="un-acquired"):
        condition.notify()


def test_an_interrupt_at_any_moment_leaves_the_lock_free():
    condition = Condition()
    seen = 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for number in range(2000):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + number % 50 * 1e-6)
                while True:
                    with condition:
                        pass
            except KeyboardInterrupt:
                seen += 1
            assert condition._lock.acquire(blocking=False)
            condition._lock.release()
            assert not condition._is_owned(), number
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen == 2000


def test_an_interrupt_as_a_wait_lets_go_of_the_lock_is_an_interrupt():
    condition = Condition()
    let_go = condition._release_save

    def let_go_and_be_interrupted():
        let_go()
        raise KeyboardInterrupt

    condition._release_save = let_go_and_be_interrupted
    with pytest.raises(KeyboardInterrupt), condition:  # it was a RuntimeError: cannot release un-acquired lock
        condition.wait()
    assert not condition._is_owned()
    assert not condition._waiters


@pytest.mark.parametrize("wait", [lambda: Event().wait(60), lambda: Future().result(60)])
def test_an_interrupt_at_any_moment_of_a_wait_is_an_interrupt(wait):
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for number in range(1000):
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + number % 60 * 1e-6)
                wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_that_comes_as_the_main_thread_falls_asleep_is_seen():
    """The interpreter does not see it before the wait ends; about one of a hundred to a thousand hits that moment."""
    main, before = threading.main_thread().ident, sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(5000):
            event = Event()
            thread = threading.Thread(target=interrupt_when_waiting, args=(event, main))
            start = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                thread.start()
                event.wait(10)
            thread.join()
            if (late := time.monotonic() - start) > LOOK_FOR_SIGNALS / 2:
                assert late < 5
                break
    finally:
        sys.setswitchinterval(before)


def interrupt_when_waiting(event, main):
    while not event._cond._waiters:
        pass
    signal.pthread_kill(main, signal.SIGINT)


def test_a_wait_on_the_main_thread_ends_in_time_or_when_notified():
    event = Event()
    for timeout in (-1, 0, 0.01, 0.6):
        start = time.monotonic()
        assert not event.wait(timeout)
        assert max(timeout, 0) <= time.monotonic() - start
    assert not event._cond._waiters
    threading.Timer(0.7, event.set).start()
    assert event.wait()
    assert event.wait(0)
    condition = Condition()
    with pytest.raises(RuntimeError, match="un-acquired"):
        condition.wait()
