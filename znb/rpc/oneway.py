"""One-way calls in zerorpc's other two patterns: PUSH → PULL (each call to one puller) and PUB → SUB (to all).

They interoperate with zerorpc's ``Pusher``, ``Puller``, ``Publisher`` and ``Subscriber``, and inherit their weakness:
nobody is told of a call that is lost, or that fails. Where that matters, use ``connect``; for streams of values
between znb peers, ``znb.publish`` and ``znb.subscribe``, which count what was lost.

Invariants: arguments are plain values that zerorpc can read; a receiver runs one call at a time, in the order of
arrival, on a thread of its own; what a method raises is logged. A sender may be used by any thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Self

import zmq

from znb import wire
from znb.errors import AuthError, ProtocolError
from znb.rpc import describe, values
from znb.rpc.crew import Pool
from znb.transport import Reactor, is_local, send_message

__all__ = ["Receiver", "Sender", "publisher", "puller", "pusher", "subscriber"]

logger = logging.getLogger("znb.rpc")

#: Calls that may wait in a receiver; further ones are dropped, and logged.
WAITING_MAX = 1000


class Sender:
    """Sends one-way calls: ``sender.method(1, 2)``. Returns at once; a context manager.

    Args:
        kind: ``zmq.PUSH`` or ``zmq.PUB``.
        url: Where to connect, or to listen.
        bind: Whether to listen.
        insecure: Whether to listen where other machines can connect.
    """

    def __init__(self, kind: int, url: str, *, bind: bool, insecure: bool = False) -> None:
        _check(url, bind=bind, insecure=insecure)
        self._reactor = Reactor("znb-sender-io")
        self._reactor.start()
        self._ids = wire.message_ids()
        self._socket, self.url = _open(self._reactor, kind, url, bind=bind)
        self._reactor.wait_call(self._reactor.add_socket, self._socket, lambda _frames: None)

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def send(*args: Any) -> None:
            content = values.encode(list(args), None, where="args", careful=True)
            blob = wire.encode_event({"message_id": next(self._ids)}, name, content)
            self._reactor.call_soon(send_message, self._socket, [blob])

        return send

    def close(self) -> None:
        """Hang up; what nobody has received yet is dropped. May be called twice."""
        self._reactor.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Receiver:
    """Runs the methods of an object as one-way calls come in; a context manager.

    Args:
        kind: ``zmq.PULL`` or ``zmq.SUB``.
        obj: A function, class, instance, module or dict, as for ``expose``.
        url: Where to connect, or to listen.
        bind: Whether to listen.
        insecure: Whether to listen where other machines can connect.
    """

    def __init__(self, kind: int, obj: Any, url: str, *, bind: bool, insecure: bool = False) -> None:
        _check(url, bind=bind, insecure=insecure)
        self._methods = describe.methods_of(obj, "receiver")
        self._pool = Pool(1, "znb-receiver")
        self._reactor = Reactor("znb-receiver-io")
        self._reactor.start()
        self._socket, self.url = _open(self._reactor, kind, url, bind=bind)
        self._reactor.wait_call(self._reactor.add_socket, self._socket, self._on_message)

    def close(self) -> None:
        """Stop listening; calls that wait are dropped. May be called twice."""
        self._reactor.stop()
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_message(self, frames: list[zmq.Frame]) -> None:
        try:
            event = wire.decode_event(frames[-1].buffer, [])
        except ProtocolError as error:
            logger.warning("a message to %s was dropped: %s", self.url, error)
            return
        if self._pool.waiting < WAITING_MAX:
            self._pool.submit(lambda: self._run(event))
        else:
            logger.warning("a call of %s at %s was dropped: %d wait already", event.name, self.url, WAITING_MAX)

    def _run(self, event: wire.Event) -> None:
        method = self._methods.get(event.name)
        if method is None:
            logger.warning("a call of %r came to %s, which has no such method", event.name, self.url)
            return
        try:
            method.function(*(event.args if isinstance(event.args, list) else [event.args]))
        except BaseException:  # nobody can be told; the next call is no worse for it
            logger.exception("%s failed; its caller is not told", event.name)


def pusher(url: str, *, bind: bool = False, insecure: bool = False) -> Sender:
    """Return a sender whose calls go to one of the pullers each."""
    return Sender(zmq.PUSH, url, bind=bind, insecure=insecure)


def puller(obj: Any, url: str, *, bind: bool = True, insecure: bool = False) -> Receiver:
    """Run an object's methods as pushers call them."""
    return Receiver(zmq.PULL, obj, url, bind=bind, insecure=insecure)


def publisher(url: str, *, bind: bool = True, insecure: bool = False) -> Sender:
    """Return a sender whose calls go to every subscriber that is connected."""
    return Sender(zmq.PUB, url, bind=bind, insecure=insecure)


def subscriber(obj: Any, url: str, *, bind: bool = False, insecure: bool = False) -> Receiver:
    """Run an object's methods as publishers call them."""
    return Receiver(zmq.SUB, obj, url, bind=bind, insecure=insecure)


def _open(reactor: Reactor, kind: int, url: str, *, bind: bool) -> tuple[zmq.Socket[bytes], str]:
    def make() -> tuple[zmq.Socket[bytes], str]:
        socket = reactor.socket(kind, url)
        if kind == zmq.SUB:
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        if bind:
            return socket, reactor.bind(socket, url)
        socket.connect(url)
        return socket, url

    try:
        return reactor.wait_call(make)
    except BaseException:
        reactor.stop()
        raise


def _check(url: str, *, bind: bool, insecure: bool) -> None:
    if bind and not is_local(url) and not insecure:
        raise AuthError(
            f"{url} can be reached from other machines, and zerorpc's one-way patterns have no keys; "
            f"say insecure=True if the network is trusted"
        )
