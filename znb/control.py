"""The control protocol between launchers and a cluster's zygote: both ends of it.

====== =========================================================================================
bytes   content
====== =========================================================================================
4       length N of what follows, big-endian, at most 4 MiB
N       one msgpack map
====== =========================================================================================

Client to zygote: a ``Request``, ``{"id": 1, "op": "scale", "n": 4}``. Zygote to client: one ``Reply`` to each,
``{"id": 1, "ok": {...}}`` or ``{"id": 1, "error": {"type": ..., "message": ...}}``, when what was asked for has
come true; and every ``ClusterEvent``, ``{"event": "died", ...}``, from the client's hello on.

======== ======================= ================================================================
op        arguments               replied
======== ======================= ================================================================
hello     version                 at once; from now on this client counts, and gets events
workers                           at once
start     names, or n more        when they are ready; a name that runs is left alone
scale     n                       when there are n workers, all ready, and the others are gone
restart   names (default: all)    when their next generations are ready
retire    names                   when they are gone; they are not replaced
kill      names, signum (9)       at once; they are replaced when they are dead
signal    names, signum, group    at once; ``group``: to the worker's children as well
keep      keep                    at once
demand    n                       at once; so many workers could be used by the jobs that this client has
rotate    keys                    at once; processes that are made from now on let in who holds these
detach    stop                    at once, and it hangs up; the last who leaves ends the cluster, if one had ``stop``
stop                              when nothing is left of the cluster but the zygote, which then ends
======== ======================= ================================================================

The zygote gets its ``ZygoteConfig`` as one such frame on its standard input, behind the ``sys.path`` that it is
to use (marshalled, because it is read before anything can be imported).

Invariants: frames of one peer are handled in order; a malformed frame costs its sender the connection, and
nobody else anything; buffers are bounded, and a peer that does not read is dropped. A ``ControlClient`` sends
from any thread; one thread at a time receives.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import marshal
import select
import signal
import socket
import struct
import threading
import time
from typing import Any, BinaryIO

import msgspec

from znb.errors import NoWorkers, ProtocolError, ServiceUnavailable, ZnbError
from znb.keys import ClientKeys
from znb.lifecycle import ClusterEvent, DeathCertificate, Snapshot, WorkerStatus

__all__ = [
    "CONTROL_VERSION",
    "ClusterEvent",
    "ControlClient",
    "ControlPeer",
    "DeathCertificate",
    "FrameDecoder",
    "Reply",
    "Request",
    "Snapshot",
    "WorkerStatus",
    "ZygoteConfig",
    "bootstrap_command",
    "bootstrap_input",
    "encode_frame",
    "peer_pid",
    "read_frame",
]

#: Version of this protocol; the hello of another one is refused with both numbers.
CONTROL_VERSION = 1
#: Bytes of one frame; a list of ten thousand workers has 3 MB.
FRAME_MAX_BYTES = 4 << 20
#: Bytes that may wait for a client that does not read; then it is dropped. Four of the largest frames.
BACKLOG_MAX_BYTES = 16 << 20
#: Bytes taken from a socket at a time.
READ_BYTES = 1 << 16
#: Run by a fresh interpreter: takes ``sys.path`` from its standard input, then runs a function. Imports make much
#: and drop little: garbage collections in between cost 6 % of the time to start, so the function enables them.
BOOTSTRAP = (
    "import sys, marshal, gc; gc.disable(); path = marshal.load(sys.stdin.buffer); sys.path[:] = path or sys.path; "
    "from {module} import {function} as main; main()"
)
_HEADER = struct.Struct(">I")


class ZygoteConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a zygote is told at its start.

    Attributes:
        name: The cluster's name.
        launcher: Kind of launcher that starts it.
        cluster_dir: Its directory, made and empty.
        socket_dir: The directory of its sockets.
        listener_fd: Inherited descriptor of its control socket, which listens already.
        entry: ``module:function`` that a worker process runs, with its ``WorkerSpec``.
        preload: Modules to import once, before any worker is forked; ``module:function`` is called as well.
            None of them may start a thread.
        fork: Whether workers are forked; otherwise each is a fresh interpreter.
        keep: Whether to go on without clients.
        grace: Seconds without a client after which the cluster ends.
        stop_grace: Seconds between SIGTERM and SIGKILL when a worker is stopped.
        bind: Where workers listen if not on sockets in ``socket_dir``, such as ``tcp://10.0.0.5:20000-20100``.
        deploy: Whether hosts are sent what workers need (see ``znb.launchers.deploy``).
        listen: Where clients of other machines are let in (see ``znb.launchers.door``); empty for nowhere.
        engine: ``module:Class`` of the engine whose hosts run the workers; empty for this machine.
        place: What that engine is told of the place.
        python: Interpreter on those hosts; empty for the one that is found there.
        cwd: Working directory there, if there is such a directory.
        env: Environment variables to set there.
        timeout: Seconds for a host to answer.
        lease: Seconds of silence after which a host is taken for gone; it has killed its workers by then.
    """

    name: str
    launcher: str
    cluster_dir: str
    socket_dir: str
    listener_fd: int
    entry: str
    preload: tuple[str, ...]
    fork: bool
    keep: bool
    grace: float
    stop_grace: float
    bind: str = ""
    listen: str = ""
    deploy: bool = False
    engine: str = ""
    place: str = ""
    python: str = ""
    cwd: str = ""
    env: dict[str, str] = {}
    timeout: float = 60.0
    lease: float = 20.0


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client asks for; which attributes count depends on ``op`` (see the table above)."""

    id: int
    op: str
    version: int = CONTROL_VERSION
    names: tuple[str, ...] | None = None
    n: int | None = None
    signum: int = int(signal.SIGKILL)
    group: bool = False
    keep: bool = False
    stop: bool = False
    first: bool = False
    keys: ClientKeys | None = None


class Problem(msgspec.Struct, frozen=True):
    """Why a request failed: the name of a class of ``znb.errors``, and its message."""

    type: str
    message: str


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to one request: exactly one of ``ok`` and ``error``."""

    id: int
    ok: Snapshot | None = None
    error: Problem | None = None

    def unwrap(self) -> Snapshot:
        """Return the snapshot, or raise what went wrong."""
        if self.ok is not None:
            return self.ok
        problem = self.error or Problem("ProtocolError", "the zygote sent a reply that says nothing")
        kinds: dict[str, type[ZnbError]] = {"NoWorkers": NoWorkers, "ProtocolError": ProtocolError}
        raise kinds.get(problem.type, ZnbError)(problem.message)


class _Incoming(Reply, frozen=True, kw_only=True):
    """A reply, or an event's name, by which the two are told apart."""

    id: int = 0
    event: str = ""


# -- frames --------------------------------------------------------------------------------------------------


def encode_frame(message: msgspec.Struct) -> bytes:
    """Return a message with its length in front."""
    body = msgspec.msgpack.encode(message)
    return _HEADER.pack(len(body)) + body


class FrameDecoder:
    """Cuts a stream of bytes into the bodies of frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that ``data`` completes.

        Raises:
            ProtocolError: A frame is announced that is larger than any real one.
        """
        self._buffer += data
        frames: list[bytes] = []
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > FRAME_MAX_BYTES:
                raise ProtocolError(f"a control frame announces {length} bytes, expected at most {FRAME_MAX_BYTES}")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(self._buffer[_HEADER.size : end]))
            del self._buffer[:end]
        return frames


def read_frame(stream: BinaryIO) -> bytes:
    """Read one frame's body from a blocking stream.

    Raises:
        ProtocolError: The stream ends before the frame does.
    """
    header = stream.read(_HEADER.size)
    length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else 0
    body = stream.read(min(length, FRAME_MAX_BYTES))
    if not body or len(body) != length:
        raise ProtocolError(f"expected a frame of {length} bytes on standard input, got {len(body)}")
    return body


def bootstrap_command(python: str, target: str, *labels: str) -> list[str]:
    """Return the command by which a fresh interpreter runs ``module:function``, configured on its stdin.

    Args:
        python: Path of the interpreter.
        target: What to run, as ``module:function``.
        labels: What lists of processes shall show.
    """
    module, _, function = target.partition(":")
    return [python, "-c", BOOTSTRAP.format(module=module, function=function), *labels]


def bootstrap_input(sys_path: list[str] | None, message: msgspec.Struct) -> bytes:
    """Return what that interpreter reads: its ``sys.path`` (``None``: its own), and the frame of its config."""
    return marshal.dumps(sys_path, 2) + encode_frame(message)


# -- the zygote's end ----------------------------------------------------------------------------------------


class ControlPeer:
    """A client, at the zygote: a non-blocking socket with bounded buffers.

    Attributes:
        socket: The connection.
        greeted: Whether the client has said hello.
        inside: Whether it is one of the cluster's own workers, or a process that one has started.
        demand: How many workers its jobs could use.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.greeted = False
        self.inside = False
        self.demand = 0
        self._frames = FrameDecoder()
        self._outgoing = bytearray()

    @property
    def backlog(self) -> int:
        """Bytes that wait for the client to read."""
        return len(self._outgoing)

    def receive(self) -> list[Request]:
        """Return the requests that have arrived.

        Raises:
            ConnectionError: The client is gone.
            ProtocolError: It sent something else than requests.
        """
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            raise ConnectionResetError("the client is gone")
        try:
            return [msgspec.msgpack.decode(frame, type=Request) for frame in self._frames.feed(data)]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProtocolError(f"a control frame is no request: {error}") from None

    def send(self, message: msgspec.Struct) -> None:
        """Send a message, or as much as the client takes now; ``flush`` sends the rest.

        Raises:
            ConnectionError: The client is gone, or does not read.
        """
        self._outgoing += encode_frame(message)
        self.flush()
        if len(self._outgoing) > BACKLOG_MAX_BYTES:
            raise ConnectionAbortedError(f"the client has left {len(self._outgoing)} bytes unread")

    def flush(self) -> None:
        """Send what waits, as far as the client takes it.

        Raises:
            ConnectionError: The client is gone.
        """
        with contextlib.suppress(BlockingIOError):
            while self._outgoing:
                del self._outgoing[: self.socket.send(self._outgoing)]

    def flush_and_close(self, timeout: float) -> None:
        """Send what waits, for at most ``timeout`` seconds, and hang up."""
        self.socket.settimeout(timeout)
        with contextlib.suppress(OSError):
            self.socket.sendall(self._outgoing)
        self.socket.close()


def peer_pid(connection: socket.socket) -> int:
    """Return the process at the other end of a local socket; 0 if the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0
    pid: int
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid


# -- the client's end ----------------------------------------------------------------------------------------


class ControlClient:
    """A client's connection to a zygote, without a thread of its own.

    Args:
        path: The control socket, or what messages shall call it.
        stream: What leads there, if it is connected already.
    """

    def __init__(self, path: str, stream: socket.socket | None = None) -> None:
        self.path = path
        self._socket = stream or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._frames = FrameDecoder()
        self._ids = itertools.count(1)
        self._sending = threading.Lock()

    def connect(self) -> None:
        """Connect; the zygote may answer later.

        Raises:
            ServiceUnavailable: Nobody listens there.
        """
        try:
            self._socket.connect(self.path)
        except OSError as error:
            self.close()
            raise ServiceUnavailable(
                self.path,
                f"the cluster does not answer ({error.strerror})",
                hint="`%znb cluster list` shows what runs",
            ) from None

    def fileno(self) -> int:
        """Return the descriptor that can be read when ``receive`` has something to return; -1 if closed."""
        return self._socket.fileno()

    def request_nowait(self, op: str, **arguments: Any) -> int:
        """Send a request from any thread, without waiting, and return the id that its reply will have.

        Raises:
            ServiceUnavailable: The zygote is gone, or has not read for thousands of requests.
        """
        if self.fileno() < 0:
            raise ServiceUnavailable(self.path, "this connection to the zygote is closed")
        identifier = next(self._ids)
        frame = encode_frame(Request(id=identifier, op=op, **arguments))
        try:
            with self._sending:
                sent = self._socket.send(frame, socket.MSG_DONTWAIT)
                if sent < len(frame):
                    self._socket.shutdown(socket.SHUT_RDWR)  # what is cut off cannot be mended
                    raise BlockingIOError(errno.EAGAIN, "it does not read")
        except OSError as error:
            raise ServiceUnavailable(self.path, f"the zygote is gone ({error.strerror})") from None
        return identifier

    def receive(self, timeout: float = 0.0) -> list[Reply | ClusterEvent]:
        """Return what has arrived, in order.

        Args:
            timeout: Seconds to wait if nothing has.

        Raises:
            ServiceUnavailable: The zygote has hung up; everything it had sent has been returned before.
            ProtocolError: It sent something else than replies and events.
        """
        deadline = time.monotonic() + timeout
        messages: list[Reply | ClusterEvent] = []
        while not messages:
            try:
                data = self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not self._wait_readable(deadline - time.monotonic()):
                    break
                continue
            except OSError as error:
                raise ServiceUnavailable(self.path, f"the zygote is gone ({error.strerror})") from None
            if not data:
                raise ServiceUnavailable(self.path, "the zygote has hung up")
            messages += [_decode_message(frame) for frame in self._frames.feed(data)]
        return messages

    def _wait_readable(self, timeout: float) -> bool:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return timeout > 0 and bool(poller.poll(timeout * 1000))

    def close(self) -> None:
        """Hang up. May be called twice."""
        self._socket.close()


def _decode_message(frame: bytes) -> Reply | ClusterEvent:
    try:
        incoming = msgspec.msgpack.decode(frame, type=_Incoming)
        if incoming.event:
            return msgspec.msgpack.decode(frame, type=ClusterEvent)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(
            f"a control frame is neither reply nor event: {error}; the cluster may be of another version of znb"
        ) from None
    return Reply(id=incoming.id, ok=incoming.ok, error=incoming.error)
