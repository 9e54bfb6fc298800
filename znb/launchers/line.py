"""The line between a cluster's head and its agent on one host: what they say, and how it is framed.

A *head* is the supervisor of a cluster whose workers are elsewhere; on each host an *agent* makes and watches them for
it. Their line is any two-way stream of bytes that an engine gives: an ssh's standard input and output, for example.

============ ======================= ============================================================================
head → agent  holds                   and the agent
============ ======================= ============================================================================
``Welcome``   the agent's orders      gets ready to make workers
``Make``      a worker's name         makes its process
``Signal``    a signal                sends it to a worker
``End``       patience                ends a worker
``Keys``      keys                    makes workers that let in whom these name
``Beat``                              answers with one
``Leave``                             kills what is left, and ends
============ ======================= ============================================================================

============ ======================= ============================================================================
agent → head  holds                   means
============ ======================= ============================================================================
``Hello``     versions, addresses     I am here; the first frame, behind ``GREETING``
``Made``      process id              a process was made
``Failed``    the reason              it could not be
``Ready``     addresses               a worker serves
``Found``     a sign                  something of a worker is found elsewhere (``znb.signs``)
``Dead``      certificate             it has ended
``Beat``                              I am still here
============ ======================= ============================================================================

A frame is msgpack behind its length, and a line feed behind it, because srun passes on whole lines only. What a login
shell prints before ``GREETING`` is skipped.
Both sides beat: who hears nothing for ``Welcome.lease`` seconds takes the other for gone. The head then replaces the
workers elsewhere, and the agent has killed them by then, so that nothing runs twice for longer than a moment.

Invariants: a frame that cannot be read ends the line; buffers are bounded. One thread owns each end.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from znb.control import BACKLOG_MAX_BYTES, READ_BYTES, FrameDecoder
from znb.errors import ProtocolError
from znb.keys import WorkerKeys
from znb.lifecycle import DeathCertificate
from znb.signs import Sign

__all__ = [
    "BEAT",
    "GREETING",
    "Beat",
    "Dead",
    "End",
    "Failed",
    "Found",
    "FromAgent",
    "Hello",
    "Keys",
    "Leave",
    "LineEnd",
    "Made",
    "Make",
    "Ready",
    "Signal",
    "ToAgent",
    "Welcome",
]

#: What an agent writes first; nothing that a login shell prints has it.
GREETING = b"\0znb-agent\0"
#: Bytes that may come before it.
NOISE_MAX_BYTES = 1 << 20
#: Seconds between two beats.
BEAT = 2.0


class _Message(msgspec.Struct, frozen=True, tag=True):
    """A frame's content."""


class Welcome(_Message, frozen=True, kw_only=True):
    """What an agent is told first.

    Attributes:
        cluster: The cluster's name.
        keys: Whom its workers let in.
        bind: Where they listen, as for ``WorkerSpec``.
        entry: What they run, as ``module:function``.
        preload: Modules that they share.
        env: Environment variables to set.
        cwd: Working directory, if there is such a directory.
        fork: Whether workers may be forked.
        lease: Seconds of silence after which the other side is taken for gone.
    """

    cluster: str
    keys: WorkerKeys
    bind: str
    entry: str
    preload: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    fork: bool
    lease: float


class Make(_Message, frozen=True):
    """See the table."""

    name: str
    generation: int


class Signal(_Message, frozen=True):
    """See the table; with ``group`` to what the worker has started, too."""

    name: str
    generation: int
    signum: int
    group: bool


class End(_Message, frozen=True):
    """See the table; ``intent`` and ``patience`` as for ``znb.child.Child.end``."""

    name: str
    generation: int
    intent: str
    patience: float


class Keys(_Message, frozen=True):
    """See the table."""

    keys: WorkerKeys


class Beat(_Message, frozen=True):
    """See the table."""


class Leave(_Message, frozen=True):
    """See the table."""


class Hello(_Message, frozen=True, kw_only=True):
    """Who an agent is.

    Attributes:
        znb: Version of znb.
        wire: Version of the wire protocol.
        python: Version of Python.
        dill: Version of dill.
        host: The machine's name.
        pid: The agent's process id.
        cpus: CPUs that workers may use.
        address: Address at which the head's side has reached this machine, as far as that is known.
        probe: Port there that answers who knows ``secret``, for the head to try; 0 for none.
        secret: See ``probe``.
    """

    znb: str
    wire: int
    python: str
    dill: str
    host: str
    pid: int
    cpus: int
    address: str = ""
    probe: int = 0
    secret: bytes = b""


class Made(_Message, frozen=True):
    """See the table."""

    name: str
    generation: int
    pid: int


class Failed(_Message, frozen=True):
    """See the table."""

    name: str
    generation: int
    reason: str


class Ready(_Message, frozen=True):
    """See the table."""

    name: str
    generation: int
    calls: str
    jobs: str
    events: str


class Found(_Message, frozen=True):
    """See the table."""

    name: str
    generation: int
    sign: Sign


class Dead(_Message, frozen=True):
    """See the table."""

    certificate: DeathCertificate


ToAgent = Welcome | Make | Signal | End | Keys | Beat | Leave
FromAgent = Hello | Made | Failed | Ready | Found | Dead | Beat


class LineEnd:
    """One end of a line: two descriptors that do not block, or one that is both.

    Args:
        read_fd: Where messages come from; this closes it.
        write_fd: Where they go; this closes it.
        type_: What may come: ``ToAgent`` or ``FromAgent``.
        greeting: What to skip up to; empty for nothing.
    """

    def __init__(self, read_fd: int, write_fd: int, type_: Any, *, greeting: bytes = b"") -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._decoder = msgspec.msgpack.Decoder(type_)
        self._frames = FrameDecoder()
        self._outgoing = bytearray()
        self._greeting = greeting
        self._noise = bytearray()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    @property
    def backlog(self) -> int:
        """Bytes that wait for the other side to read."""
        return len(self._outgoing)

    @property
    def noise(self) -> str:
        """What came before the greeting."""
        return self._noise.decode(errors="replace").strip()

    def receive(self) -> Sequence[Any]:
        """Return the messages that have arrived.

        Raises:
            ConnectionError: The other side is gone.
            ProtocolError: It sent something else than messages.
        """
        try:
            data = os.read(self.read_fd, READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            raise ConnectionResetError("the other side of the line is gone")
        if self._greeting:
            self._noise += data
            noise, found, data = bytes(self._noise).partition(self._greeting)
            if not found:
                if len(self._noise) > NOISE_MAX_BYTES:
                    raise ProtocolError(f"expected an agent's greeting, got {noise[:200]!r}…")
                return []
            self._noise[:], self._greeting = noise, b""
        try:
            return [self._decoder.decode(frame[:-1]) for frame in self._frames.feed(data)]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProtocolError(f"a frame on the line cannot be read: {error}; another version of znb?") from None

    def send(self, message: msgspec.Struct, *, before: bytes = b"") -> None:
        """Send a message, or as much as the other side takes now; ``flush`` sends the rest.

        Raises:
            ConnectionError: The other side is gone, or does not read.
        """
        body = msgspec.msgpack.encode(message) + b"\n"
        self._outgoing += before + struct.pack(">I", len(body)) + body
        self.flush()
        if len(self._outgoing) > BACKLOG_MAX_BYTES:
            raise ConnectionAbortedError(f"the other side has left {len(self._outgoing)} bytes unread")

    def flush(self) -> None:
        """Send what waits, as far as the other side takes it."""
        with contextlib.suppress(BlockingIOError):
            while self._outgoing:
                del self._outgoing[: os.write(self.write_fd, self._outgoing)]

    def close(self) -> None:
        """Hang up. May be called twice."""
        for descriptor in {self.read_fd, self.write_fd} - {-1}:
            os.close(descriptor)
        self.read_fd = self.write_fd = -1
