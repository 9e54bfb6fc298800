"""Calls that are made again on each process that replaces a worker, such as those that expose a service there.

A call of all workers is made on those that join later as well.

Invariants: a name stands for one call, of some workers by name; it is made again with what was encoded when it was
first made. Any thread may keep and forget; the reactor's thread makes the calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from znb.link import Failed, Link, ObjectCall
from znb.rpc import Lost, Reply
from znb.serialize import Payload

__all__ = ["Standing"]


class _Order(NamedTuple):
    workers: frozenset[str]
    everyone: bool
    payload: Payload


class Standing:
    """The calls of one cluster's client.

    Args:
        notify: Shows a line to the user.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._lock = threading.Lock()
        self._orders: dict[str, _Order] = {}

    def keep(self, name: str, workers: Sequence[str], payload: Payload, *, everyone: bool) -> None:
        """Have each process that replaces one of these workers make a call; instead of the one of this name.

        Args:
            name: Stands for the call.
            workers: Who has made it.
            payload: The call.
            everyone: Whether workers that join later make it as well.
        """
        with self._lock:
            self._orders[name] = _Order(frozenset(workers), everyone, payload)

    def forget(self, name: str, workers: Sequence[str]) -> None:
        """Have these workers make it no more."""
        with self._lock:
            order = self._orders.pop(name, None)
            if order is not None and (left := order.workers.difference(workers)):
                self._orders[name] = order._replace(workers=left, everyone=False)

    def workers(self, name: str) -> frozenset[str]:
        """Return the names of the workers that make it."""
        with self._lock:
            order = self._orders.get(name)
            return order.workers if order is not None else frozenset()

    def add_worker(self, link: Link) -> None:
        """Make the calls on a new process. On the reactor's thread."""
        with self._lock:
            due = {
                name: order._replace(workers=order.workers | {link.name})
                for name, order in self._orders.items()
                if order.everyone or link.name in order.workers
            }
            self._orders.update(due)
        for name, order in due.items():
            link.request("apply", order.payload, self._on_event, label=name)

    def _on_event(self, call: ObjectCall, reply: Reply | Lost) -> None:
        if isinstance(reply, Lost):
            return  # the next process is asked as well
        if not reply.is_last:
            call.call.consumed()
            return
        threading.Thread(target=self._look, args=(call, reply), name="znb-standing", daemon=True).start()

    def _look(self, call: ObjectCall, reply: Reply) -> None:
        """Say so if it failed. Not on the reactor's thread, because errors are decoded by code."""
        outcome = call.outcome(reply)
        if isinstance(outcome, Failed):
            error = outcome.error
            self._notify(
                f"{call.headers.get('label')} could not be exposed on {call.link.name}: {type(error).__name__}: {error}"
            )
