"""Who may speak to a cluster's workers over tcp: those who hold its keys (see ``znb.keys``).

libzmq does the cryptography (CURVE) and asks ``Gate`` about each peer that has proved *some* key (ZAP). A peer that
does not know the workers' public key fails before that, in libzmq's own thread, without an answer.

Invariants: the gate is open before the first socket that it guards is bound, or libzmq would let everybody in. Each
context that has such sockets asks by a socket of its own, on the thread that owns that; ``admit`` holds for all.
Sources: the ZeroMQ RFCs 26 (CurveZMQ) and 27 (ZAP); libzmq's zmq_curve(7).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import zmq
from zmq.utils import z85

from znb.keys import ClientKeys, WorkerKeys

__all__ = ["Gate", "Prepare", "client_options"]

#: The address at which libzmq asks (RFC 27), one for each context.
ZAP_URL = "inproc://zeromq.zap.01"
#: The ZAP domain of a cluster's sockets; those of other domains are no concern of the gate.
DOMAIN = "znb-cluster"
#: Milliseconds between ZMTP's heartbeats on connections to workers.
HEARTBEAT_MS = 2000
#: Milliseconds of silence after which such a connection is given up. Longer than what it takes a cluster's head to find
#: that a host is gone (``StartOptions.lease``): as long as it is not, what is under way is worth waiting for.
HEARTBEAT_TIMEOUT_MS = 30_000

#: Sets options of a socket before it binds or connects.
Prepare = Callable[["zmq.Socket[bytes]"], object]


def client_options(keys: ClientKeys) -> Prepare:
    """Return what lets a client's socket in, and makes sure that it speaks to a worker of this cluster."""

    def prepare(socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, keys.server)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, keys.secret)
        _be_patient(socket)

    return prepare


class Guarded(Protocol):
    """What is used of ``znb.transport.Reactor``."""

    #: Sets the keys of every socket made for an address.
    credentials: Prepare | None

    def socket(self, kind: int, url: str = "", /) -> Any:
        """Return a new socket."""

    def add_socket(self, socket: Any, on_message: Any, /) -> None:
        """Call ``on_message(frames)`` for each message that arrives."""


class Gate:
    """Lets in clients with their key, and the cluster's other workers, and nobody else.

    Args:
        keys: The worker's.
    """

    def __init__(self, keys: WorkerKeys) -> None:
        self._keys = keys
        self._workers = z85.decode(zmq.curve_public(keys.secret.encode()))
        self._clients = {z85.decode(keys.client.encode()), self._workers}

    def open(self, socket: zmq.Socket[bytes]) -> None:
        """Have a new ROUTER take libzmq's questions, before any guarded socket of its context is bound."""
        socket.bind(ZAP_URL)

    def guard(self, reactor: Guarded) -> None:
        """Guard every socket that a reactor makes for an address from now on. On its thread."""
        questions = reactor.socket(zmq.ROUTER)
        self.open(questions)
        reactor.add_socket(questions, functools.partial(self.on_question, questions))
        reactor.credentials = self.prepare

    def prepare(self, socket: zmq.Socket[bytes]) -> None:
        """Put a worker's socket behind the gate."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self._keys.secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
        _be_patient(socket)

    def dial(self, socket: zmq.Socket[bytes]) -> None:
        """Have a socket reach other workers of the cluster: they prove the same key, and let in who has it."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(self._workers))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(self._workers))
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self._keys.secret)
        _be_patient(socket)

    def admit(self, clients: Sequence[str]) -> None:
        """Let in who holds one of these keys of clients from now on, and nobody else. Who is in stays in."""
        self._clients = {self._workers, *(z85.decode(client.encode()) for client in clients)}

    def on_question(self, socket: zmq.Socket[bytes], frames: list[Any]) -> None:
        """Answer libzmq, which has asked a socket: may this peer come in?"""
        peer, empty, version, identifier, domain, _address, _routing, mechanism, *credentials = map(bytes, frames)
        known = domain != DOMAIN.encode() or (mechanism == b"CURVE" and credentials[0] in self._clients)
        verdict = (b"200", b"") if known else (b"400", b"")
        socket.send_multipart([peer, empty, version, identifier, *verdict, b"", b""])


def _be_patient(socket: zmq.Socket[bytes]) -> None:
    """Have libzmq notice, in its own thread, that a machine has vanished."""
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
