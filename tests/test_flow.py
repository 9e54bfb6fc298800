"""Credit windows: nobody sends more than was granted, and nobody who may send waits."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from znb.flow import CreditGate, CreditWindow, GateClosed


class BothEnds(RuleBasedStateMachine):
    """A sender and a receiver with every delay between them that there can be."""

    def __init__(self):
        super().__init__()
        self.window = CreditWindow(10, initial=1)
        self.gate = CreditGate(1)
        self.grants = [self.window.open()]
        self.held = 0  # sent and not consumed

    @rule()
    def send(self):
        if self.gate.take_nowait():
            self.held += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def consume(self, data):
        count = data.draw(st.integers(1, self.held))
        self.held -= count
        granted = self.window.consume(count)
        if granted:
            self.grants.append(granted)

    @precondition(lambda self: self.grants)
    @rule()
    def deliver_grant(self):
        self.gate.grant(self.grants.pop(0))

    @invariant()
    def never_more_than_the_window(self):
        assert 0 <= self.held <= 10

    @invariant()
    def never_stuck(self):
        if not self.grants and not self.held:
            assert self.gate.take_nowait()
            self.gate.grant(1)


TestBothEnds = BothEnds.TestCase


@given(st.integers(1, 500), st.integers(0, 3))
def test_a_window_opens_fully_at_once(window, initial):
    account = CreditWindow(window, initial)
    assert account.open() == max(0, window - initial)
    assert account.open() == 0


def test_grants_come_in_halves_of_the_window():
    account = CreditWindow(100)
    account.open()
    assert [account.consume() for _ in range(100)].count(50) == 2


def test_a_waiter_wakes_when_credit_comes():
    gate = CreditGate(0)
    took = threading.Event()
    thread = threading.Thread(target=lambda: gate.wait_take() and took.set())
    thread.start()
    gate.grant(0)
    gate.grant(-5)
    assert not took.is_set()
    gate.grant(1)
    thread.join(5)
    assert took.is_set()
    assert not gate.take_nowait()


def test_a_wait_without_credit_ends_in_time():
    assert not CreditGate(0).wait_take(0.01)


def test_closing_wakes_waiters_and_refuses_everything():
    gate = CreditGate(0)
    seen = []

    def wait():
        with pytest.raises(GateClosed):
            gate.wait_take()
        seen.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    gate.close()
    gate.close()
    thread.join(5)
    assert seen
    gate.grant(5)
    with pytest.raises(GateClosed):
        gate.take_nowait()
