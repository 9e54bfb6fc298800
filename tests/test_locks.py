"""Conditions, events and futures that an interrupt cannot leave locked."""

from __future__ import annotations

import signal
import sys
import threading

import pytest

from znb.locks import Condition, Event, Future


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
