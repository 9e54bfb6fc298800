"""What leads to workers on hosts: addresses that the engine forwards, or that are tried, without holding up the head.

An engine may take seconds to forward something, or for ever: its ssh is frozen, say. So each host has a thread of its
own for that, made when it is first needed, which does one thing after the other.

Invariants: ``then`` is called on the head's thread, once, unless the host has been dropped. The head's thread calls
everything here.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol

from znb.launchers.engine import Engine
from znb.launchers.far import FarProcess, Host

__all__ = ["Forwards", "reach"]

#: Seconds to try whether something can be reached directly.
REACH_TIMEOUT = 2.0

#: Told what leads there from here; ``None`` if nothing does.
Then = Callable[[Sequence[str] | None], object]


class Post(Protocol):
    """Has the head's thread call something."""

    def __call__(self, fn: Callable[..., object], /, *args: object) -> None:
        """Call ``fn(*args)`` there."""


class Forwards:
    """What an engine forwards.

    Args:
        engine: The engine.
        post: Has the head's thread call something.
    """

    def __init__(self, engine: Engine, post: Post) -> None:
        self._engine = engine
        self._post = post
        self._queues: dict[str, queue.SimpleQueue[Callable[[], object] | None]] = {}
        self._leads: dict[tuple[str, int], dict[str, tuple[str, Sequence[str]]]] = {}

    def lead(self, host: Host, process: FarProcess, key: str, urls: Sequence[str], then: Then) -> None:
        """Tell what leads from here to addresses of a worker, unless that ends before.

        Args:
            host: Where they are.
            process: Whose; what is forwarded is for as long as that lasts.
            key: Tells them from others of this process.
            urls: The addresses, in place of those of this key before; there may be none any more.
            then: Told.
        """

        def done(made: Sequence[str] | None) -> None:
            if host.name not in self._queues or process not in host.workers.values():
                return
            self.release(process.key, key)
            if made and host.reached == "forward":
                self._leads.setdefault(process.key, {})[key] = (host.name, made)
            then(made)

        if host.reached == "directly":
            then(urls)
        elif host.reached == "asked":
            self._do(host.name, lambda: urls if all(map(_reach, urls)) else None, done)
        else:
            self._do(host.name, lambda: self._engine.forward(host.name, urls) if urls else (), done)

    def release(self, owner: tuple[str, int], key: str = "") -> None:
        """Take back what was forwarded for a worker (name and generation); with ``key`` that alone."""
        leads = self._leads.get(owner, {})
        for each in [key] if key else list(leads):
            host, urls = leads.pop(each, ("", ()))
            if urls:
                self._do(host, functools.partial(self._engine.withdraw, host, urls), lambda _none: None)
        if not leads:
            self._leads.pop(owner, None)

    def drop(self, host: str) -> None:
        """Forget a host: what led there is gone."""
        tasks = self._queues.pop(host, None)
        if tasks is not None:
            tasks.put(None)
        for leads in self._leads.values():
            for key in [key for key, (where, _) in leads.items() if where == host]:
                del leads[key]

    def _do(self, host: str, ask: Callable[[], Sequence[str] | None], then: Then) -> None:
        """Have a host's thread ask its engine something, and tell the answer; of a defect that there is none."""

        def task() -> None:
            made = None
            try:
                made = ask()
            except Exception:  # noqa: BLE001 - what an engine raises must not leave a worker waiting
                traceback.print_exc()
            self._post(then, made)

        if host not in self._queues:
            self._queues[host] = queue.SimpleQueue()
            work = functools.partial(_work, self._queues[host])
            threading.Thread(target=work, name="znb-forward", daemon=True).start()
        self._queues[host].put(task)


def _reach(url: str) -> bool:
    """Whether somebody listens at an address of tcp."""
    address, _, port = url.removeprefix("tcp://").rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((address.strip("[]"), int(port)), REACH_TIMEOUT):
        return True
    return False


def reach(address: str, port: int, secret: bytes) -> bool:
    """Whether an agent that knows a secret answers at an address."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), REACH_TIMEOUT) as tried:
        tried.sendall(secret)
        return tried.recv(1) == b"\1"
    return False


def _work(tasks: queue.SimpleQueue[Callable[[], object] | None]) -> None:
    while (task := tasks.get()) is not None:
        task()
