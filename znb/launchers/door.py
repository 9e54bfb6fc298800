"""The door of a cluster: where clients of other machines reach its control socket, if it was started with ``listen``.

The head, or zygote, must make no zmq context, so its door is a process of its own: a ROUTER with the cluster's keys
(CURVE, see ``znb.auth``) that opens a connection to the control socket for each client. What is said there travels in
messages of one frame, both ways:

======== ===================== =========================================================
byte 0    rest                  means
======== ===================== =========================================================
``d``     bytes                 the next piece of the stream
``b``                           I am still here; every ``BEAT`` seconds, from the client
``e``                           the stream has ended
======== ===================== =========================================================

Invariants: a peer without the keys costs a handshake that fails in libzmq. A client that is silent for the cluster's
``lease`` has hung up; one that does not read is hung up on. The door ends with its head, whose pipe it reads.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import msgspec
import zmq

from znb.auth import Gate
from znb.child import name_process
from znb.connection import ClusterFile
from znb.control import READ_BYTES, ControlClient, bootstrap_command, bootstrap_input, read_frame
from znb.errors import ServiceUnavailable, ZnbError
from znb.keys import WorkerKeys
from znb.launchers import EventHandler, ReactorLike
from znb.launchers.afar import AfarLauncher
from znb.launchers.local import stale_file
from znb.lifecycle import Snapshot
from znb.transport import bind_socket, prepare_socket

__all__ = ["Connector", "DoorProcess", "main"]

#: Seconds between two signs of life.
BEAT = 2.0
#: Seconds for a door to open, or to be reached.
OPEN_TIMEOUT = 10.0
#: Messages that may wait for a client that does not read.
BACKLOG = 256
#: Bytes of a key, as text.
KEY_BYTES = 40
DATA, ALIVE, END = b"d", b"b", b"e"


class DoorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a door is told at its start.

    Attributes:
        url: Where to listen; its port may be ``*``, or a range.
        control: Path of the control socket.
        keys: Whom to let in.
        lease: Seconds of silence after which a client has hung up.
    """

    url: str
    control: str
    keys: WorkerKeys
    lease: float


# -- the head's side -----------------------------------------------------------------------------------------


class DoorProcess:
    """A door as its head has it: a child process.

    Args:
        url: Where it is to listen.
        control: Path of the control socket.
        keys: Whom it lets in.
        lease: Seconds of silence after which a client has hung up.

    Attributes:
        url: Where it listens.

    Raises:
        ZnbError: It cannot listen there.
    """

    def __init__(self, url: str, control: str, keys: WorkerKeys, lease: float) -> None:
        self._config = DoorConfig(url=url, control=control, keys=keys, lease=lease)
        self.url = url
        self._closed = False
        self._open()

    def _open(self) -> None:
        self._process = subprocess.Popen(
            bootstrap_command(sys.executable, f"{__name__}:main", "znb-door"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        said = b""
        if self._process.stdin is not None and self._process.stdout is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(bootstrap_input(list(sys.path), self._config))
                self._process.stdin.flush()
            if select.select([self._process.stdout], [], [], OPEN_TIMEOUT)[0]:
                said = self._process.stdout.readline()
            self._process.stdout.close()
        answer = said.decode().strip()
        if not answer.startswith("tcp://"):
            self._end()
            raise ZnbError(f"cannot listen at {self.url}: {answer or 'the process that should does not start'}")
        self.url = answer
        self._config = msgspec.structs.replace(self._config, url=answer)

    def keep(self) -> None:
        """Open it again, at the same address, if its process was killed: copies of the connection file lead there."""
        if self._closed or self._process.poll() is None:
            return
        self._end()
        sys.stderr.write(f"the process that listens at {self.url} was killed; another one takes its place\n")
        try:
            self._open()
        except ZnbError as error:
            sys.stderr.write(f"{error}\n")

    def admit(self, client: str) -> None:
        """Let in who holds this key of clients from now on, and nobody else."""
        keys = msgspec.structs.replace(self._config.keys, client=client)
        self._config = msgspec.structs.replace(self._config, keys=keys)
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(client.encode())
                self._process.stdin.flush()

    def abandon(self) -> None:
        """Close, in a fork, what belongs to the head."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def close(self) -> None:
        """End it. May be called twice."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()


# -- the door ------------------------------------------------------------------------------------------------


class Door:
    """Passes on what clients and the control socket say to each other.

    Args:
        config: What it was told.
        context: For its sockets.
    """

    def __init__(self, config: DoorConfig, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._config = config
        self._gate = Gate(config.keys)
        self._questions = context.socket(zmq.ROUTER)
        self._router = context.socket(zmq.ROUTER)
        self._gate.open(self._questions)  # before anything is bound that it guards
        prepare_socket(self._router, config.url)
        self._gate.prepare(self._router)
        self._router.setsockopt(zmq.SNDHWM, BACKLOG)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._poller = zmq.Poller()
        self._clients: dict[bytes, socket.socket] = {}
        self._heard: dict[bytes, float] = {}
        self._names: dict[int, bytes] = {}

    def bind(self) -> str:
        """Listen; return where."""
        bind_socket(self._router, self._config.url)
        bound: str = self._router.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")  # type: ignore[union-attr]
        return bound

    def run(self, parent: int) -> None:
        """Serve until a descriptor reads end-of-file; what else it reads is the new key of clients."""
        for readable in (self._router, self._questions, parent):
            self._poller.register(readable, zmq.POLLIN)
        while True:
            ready: dict[Any, int] = dict(self._poller.poll(int(BEAT * 1000)))
            if parent in ready:
                client = os.read(parent, KEY_BYTES).decode()
                if not client:
                    return
                self._gate.admit([client])
            if self._questions in ready:
                self._gate.on_question(self._questions, self._questions.recv_multipart())
            if self._router in ready:
                self._on_message(*self._router.recv_multipart()[:2])
            for descriptor in [one for one in ready if isinstance(one, int)]:
                self._on_stream(descriptor)
            now = time.monotonic()
            for name in [name for name, heard in self._heard.items() if now - heard > self._config.lease]:
                self._hang_up(name)

    def _on_message(self, name: bytes, message: bytes = b"") -> None:
        kind, data = message[:1], message[1:]
        if kind == END:
            self._hang_up(name)
            return
        try:
            if name not in self._clients:
                self._connect(name)
            self._heard[name] = time.monotonic()
            self._clients[name].sendall(data)
        except OSError:
            self._send(name, END)
            self._hang_up(name)

    def _connect(self, name: bytes) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(OPEN_TIMEOUT)
        self._clients[name] = connection
        self._names[connection.fileno()] = name
        connection.connect(self._config.control)
        self._poller.register(connection.fileno(), zmq.POLLIN)

    def _on_stream(self, descriptor: int) -> None:
        name = self._names.get(descriptor)
        if name is None:
            return  # hung up since poll returned
        data = b""
        with contextlib.suppress(OSError):
            data = self._clients[name].recv(READ_BYTES)
        if not (self._send(name, DATA + data) if data else self._send(name, END)) or not data:
            self._hang_up(name)

    def _send(self, name: bytes, message: bytes) -> bool:
        """Send to a client; return whether it is there, and reads."""
        try:
            self._router.send_multipart([name, message], zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def _hang_up(self, name: bytes) -> None:
        connection = self._clients.pop(name, None)
        self._heard.pop(name, None)
        if connection is not None:
            del self._names[connection.fileno()]
            with contextlib.suppress(KeyError):
                self._poller.unregister(connection.fileno())
            connection.close()


def main() -> None:
    """Be the door that standard input describes, until that ends."""
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    name_process("znb:door")
    config = msgspec.msgpack.decode(read_frame(sys.stdin.buffer), type=DoorConfig)
    with zmq.Context() as context:
        door = Door(config, context)
        try:
            url = door.bind()
        except zmq.ZMQError as error:
            url = str(error)
        print(url, flush=True)
        if url.startswith("tcp://"):
            door.run(sys.stdin.fileno())
    os._exit(0)


# -- the client's side ---------------------------------------------------------------------------------------


class Connector(AfarLauncher):
    """The launcher of a cluster that is reached by its door; it can only connect.

    Args:
        reactor: The I/O thread.
        on_event: Called on the reactor's thread with every event.
    """

    def __init__(self, reactor: ReactorLike, on_event: EventHandler) -> None:
        super().__init__(reactor, on_event)
        self._dealer: zmq.Socket[bytes] | None = None
        self._stream: socket.socket | None = None
        self._heard = self._lost = False

    def connect(self, file: ClusterFile) -> Snapshot:
        """Attach to a running cluster."""
        host, _, port = file.door.removeprefix("tcp://").rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), OPEN_TIMEOUT).close()
        except OSError as error:
            hint = f"if only ssh leads to {file.host}: Cluster.connect(FILE, ssh={file.host!r})"
            raise ServiceUnavailable(file.name, f"{file.door} cannot be reached ({error})", hint=hint) from None
        self._learn(file)
        ours, self._stream = socket.socketpair()
        self._stream.setblocking(False)
        self._take(ControlClient(file.door, ours))
        self._reactor.call_soon(self._dial, file.door)
        try:
            snapshot = self._greet(OPEN_TIMEOUT)
            hidden = [worker.name for worker in snapshot.workers if worker.calls.startswith("ipc://")]
            if hidden:
                there = f"{', '.join(hidden)} can be reached from {file.host} alone"
                hint = f"connect through it: Cluster.connect(FILE, ssh={file.host!r})"
                raise ServiceUnavailable(file.name, there, hint=hint)
        except BaseException as error:
            self._close()
            self._release()
            if isinstance(error, ServiceUnavailable) and self._lost and not self._heard:
                raise stale_file(file) from None
            raise
        return snapshot

    # -- the reactor's thread ----------------------------------------------------------------------------------

    def _dial(self, url: str) -> None:
        self._dealer = self._reactor.socket(zmq.DEALER, url)
        self._reactor.add_monitor(self._dealer, zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH, self._on_lost)
        self._reactor.add_socket(self._dealer, self._on_message)
        self._dealer.connect(url)
        if self._stream is not None:
            self._reactor.add_reader(self._stream.fileno(), self._on_request)
        self._beat()

    def _beat(self) -> None:
        if self._dealer is not None:
            self._dealer.send(ALIVE)
            self._reactor.call_later(BEAT, self._beat)

    def _on_request(self) -> None:
        """Send what this process has written to its end of the stream."""
        if self._stream is None or self._dealer is None:
            return
        data = self._stream.recv(READ_BYTES)
        if data:
            self._dealer.send(DATA + data)
        else:
            self._drop()

    def _on_message(self, frames: list[zmq.Frame]) -> None:
        self._heard = True
        message = frames[0].bytes
        if message[:1] != DATA:
            self._drop()
        elif self._stream is not None:
            try:
                self._stream.send(message[1:])
            except OSError:  # it does not read
                self._drop()

    def _on_lost(self, _event: int) -> None:
        self._lost = True
        self._drop()

    def _drop(self) -> None:
        """Hang up: the control client reads the end of its stream."""
        stream, self._stream = self._stream, None
        dealer, self._dealer = self._dealer, None
        if stream is not None:
            self._reactor.remove_reader(stream.fileno())
            stream.close()
        if dealer is not None:
            with contextlib.suppress(zmq.ZMQError):
                dealer.send(END, zmq.NOBLOCK)
            self._reactor.call_later(BEAT, self._reactor.close_socket, dealer)

    def _release(self) -> None:
        self._reactor.call_soon(self._drop)
