"""The publishing end: one per process, made with its first message.

``post`` encodes on the caller's thread and puts the message on the board; a thread of the publisher's own sends, so
that no subscriber can hold up a caller. It sends at once after a pause, else every ``COALESCE`` seconds what has come.

Invariants: the board is read and written under ``_lock``; the sockets belong to the reactor's thread. Readers that
have not been heard of for ``LEASE`` seconds are forgotten; they may come back and go on where they were.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import zmq

from znb.auth import Gate
from znb.errors import ProtocolError, ZnbError
from znb.locks import Event
from znb.pubsub.board import TOPICS, TOPICS_BYTES, Board, BoardStats, Reader
from znb.pubsub.ledger import Ledger, ledger_path
from znb.pubsub.messages import (
    VERSION,
    Batch,
    Bye,
    Content,
    Done,
    Hello,
    Put,
    Taken,
    Welcome,
    decode_message,
    encode_message,
)
from znb.pubsub.places import count_subscribers, knock
from znb.transport import Reactor, is_local, send_message

__all__ = ["Publisher", "PublisherStats"]

logger = logging.getLogger("znb.pubsub")

#: Seconds between two sendings to the same subscriber.
COALESCE = 0.005
#: Seconds without a word of a reader after which it is forgotten. It speaks every second.
LEASE = 10.0
#: Seconds between looks for readers that are to be forgotten.
LEASE_INTERVAL = 2.0
#: Seconds that a process which ends waits for its last messages to be sent.
LINGER = 0.5
#: Seconds that a subscriber may take to find a new publisher.
FIND_TIME = 0.3
#: Seconds that the first message waits for those who have been told of it, and again until they have got it; they take
#: some milliseconds.
GREETING_TIME = 0.1
#: Seconds by which clocks differ that do not show the same time; NTP keeps them within some milliseconds.
CLOCKS_DIFFER = 2.0
#: Topics that a subscriber is told of, for its messages to people.
TOPICS_TOLD = 20
#: Readers of one publisher; more is a defect of theirs.
READERS_MAX = 1000


class PublisherStats(NamedTuple):
    """A snapshot of a publisher.

    Attributes:
        url: Where it is found.
        readers: Subscribers that it has now.
        board: What it holds.
    """

    url: str
    readers: int
    board: BoardStats


class _Peer:
    """A reader, when it was last heard of, and when and how often it is sent something."""

    __slots__ = ("heard", "interval", "reader", "sent_at")

    def __init__(self, reader: Reader, interval: float) -> None:
        self.reader = reader
        self.interval = max(COALESCE, interval)
        self.heard = time.monotonic()
        self.sent_at = 0.0


class Publisher:
    """What this process publishes, and to whom.

    Args:
        url: Where it is found.
        source: What its messages say they come from.
        cluster: The cluster that this process belongs to; empty for none.
        gate: Lets in who may subscribe; ``None`` where the file system sees to that.
    """

    def __init__(self, url: str, source: str, cluster: str = "", gate: Gate | None = None) -> None:
        self.url = url
        self._gate = gate
        self.source = source
        self.key = secrets.token_hex(8)
        self.cluster = cluster
        self._ledger: Ledger | None = None
        self._board = Board(note=self._note)
        self._greeted = Event()
        self._awaited = 0
        self._warned = False
        self._first = True
        self._lock = threading.RLock()  # a signal handler may publish while its thread does
        self._reactor = Reactor("znb-publish")
        self._socket: zmq.Socket[bytes] | None = None
        self._peers: dict[bytes, _Peer] = {}
        self._scheduled = False
        self._started_at = 0.0

    # -- any thread ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen.

        Raises:
            ZnbError: The address cannot be bound.
        """
        self._started_at = time.monotonic()
        self._begin_ledger()
        try:
            self._reactor.start()
            self._reactor.wait_call(self._bind)
            self._awaited = knock()
            if self._awaited:
                self._reactor.call_soon(self._greet)
                self._greeted.wait(GREETING_TIME)
        except BaseException as error:
            self._end()
            if isinstance(error, zmq.ZMQError):
                raise ZnbError(f"streams of this process cannot listen at {self.url}: {error}") from error
            raise

    def _begin_ledger(self) -> None:
        path = ledger_path(self.url)
        if path is None:
            return
        try:
            path.unlink(missing_ok=True)
            self._ledger = Ledger(path)
        except OSError as error:  # no room, say: streams go on, but what a kill loses is not counted
            logger.warning("%s: what is lost if this process is killed will not be counted: %s", path, error)

    def _note(self, topic: str, number: int) -> None:
        if self._ledger is not None:
            self._ledger.note(topic, number)

    def post(
        self, topic: str, content: Content, frames: tuple[bytes, ...], size_bytes: int, *, source: str = ""
    ) -> None:
        """Put a message on the board, and have it sent."""
        with self._lock:
            self._board.post(topic, content, frames, size_bytes, time=time.time(), source=source or self.source)
            crowded = not self._warned and self._board.stats().forgotten > 0
            self._warned = self._warned or crowded
        if crowded:
            logger.warning(
                "%s publishes on too many topics, so the last values of those that were silent for longest are let go: "
                "who subscribes later does not get them (kept are %d, and %d MB)",
                self.source,
                TOPICS,
                TOPICS_BYTES // 1_000_000,
            )
        if self._peers and not self._scheduled:
            self._scheduled = True
            self._reactor.call_soon(self._flush)
        if self._first and not self._reactor.on_thread:
            self._first = False
            if self._peers:
                self.flush(GREETING_TIME)  # a process that publishes once may be about to end, in atexit say

    def stats(self) -> PublisherStats:
        """Return what it holds, and for how many."""
        with self._lock:
            return PublisherStats(self.url, len(self._peers), self._board.stats())

    def close(self, linger: float = LINGER) -> int:
        """Send what is left, as far as subscribers take it, and stop listening. May be called twice.

        Args:
            linger: Seconds that this may take.

        Returns:
            How many subscribers have got something.
        """
        if self._reactor.stopped or self._reactor.forked:
            return 0
        self.flush(linger)
        heard = self._reactor.wait_call(lambda: sum(known.reader.taken_bytes > 0 for known in self._peers.values()))
        self._end()
        return heard

    def _end(self) -> None:
        self._reactor.stop()
        if self._ledger is not None:
            self._ledger.close()

    def flush(self, linger: float = LINGER) -> None:
        """Wait until subscribers have got what was published, as far as they take it.

        Args:
            linger: Seconds that this may take.
        """
        deadline = time.monotonic() + linger
        young = min(deadline, self._started_at + FIND_TIME)
        pause = Event()
        while (now := time.monotonic()) < young and count_subscribers() > len(self._peers):
            pause.wait(min(0.02, young - now))
        while time.monotonic() < deadline and not self._reactor.wait_call(self._is_sent):
            pause.wait(0.005)

    # -- the reactor's thread ------------------------------------------------------------------------------

    def _bind(self) -> None:
        if self._gate is not None:
            self._gate.guard(self._reactor)
        elif not is_local(self.url):
            raise ZnbError(f"streams listen on this machine only, not at {self.url}")
        self._socket = self._reactor.socket(zmq.ROUTER, self.url)
        self.url = self._reactor.bind(self._socket, self.url)
        self._reactor.add_socket(self._socket, self._on_message)
        self._reactor.call_later(LEASE_INTERVAL, self._forget_silent)

    def _is_sent(self) -> bool:
        """Whether every subscriber has got everything, so that the process may end."""
        for peer, known in self._peers.items():
            self._pump(peer, known)
        with self._lock:
            readers = [known.reader for known in self._peers.values()]
            return all(self._board.is_done(r) and r.sent_bytes == r.taken_bytes for r in readers)

    def _on_message(self, frames: list[Any]) -> None:
        peer, first, *rest = (frame.bytes for frame in frames)
        try:
            message = decode_message(first)
        except ProtocolError as error:
            logger.warning("%s: %s", self.url, error)
            return
        handle: Callable[..., None] | None = self._HANDLERS.get(type(message))
        if handle is not None:
            handle(self, peer, message, rest)

    def _on_hello(self, peer: bytes, hello: Hello, _frames: list[bytes]) -> None:
        known = self._peers.get(peer)
        if known is not None:
            known.heard = time.monotonic()
            return
        if hello.version != VERSION or len(self._peers) >= READERS_MAX:
            logger.warning("%s: a subscriber of version %d is refused, this is %d", self.url, hello.version, VERSION)
            return
        base: dict[str, int] = {}
        with self._lock:
            if hello.key == self.key:
                reader = self._board.resume(hello.topics, hello.cursor)
            else:
                reader, base = self._board.open(hello.topics, hello.since + clock_offset(hello.now, time.time()))
            topics = self._board.topics(TOPICS_TOLD)
        self._peers[peer] = made = _Peer(reader, hello.interval)
        forgotten = self._board.stats().forgotten
        welcome = Welcome(self.key, self.source, base, topics, VERSION, self.cluster, forgotten)
        self._send(peer, [encode_message(welcome)])
        self._pump(peer, made)
        self._greet()

    def _greet(self) -> None:
        if len(self._peers) >= self._awaited:
            self._greeted.set()

    def _on_taken(self, peer: bytes, taken: Taken, _frames: list[bytes]) -> None:
        known = self._peers.get(peer)
        if known is None:
            return
        known.heard = time.monotonic()
        known.reader.taken_bytes = min(taken.sent_bytes, known.reader.sent_bytes)
        self._pump(peer, known)

    def _on_bye(self, peer: bytes, _bye: Bye, _frames: list[bytes]) -> None:
        self._peers.pop(peer, None)

    def _on_put(self, peer: bytes, put: Put, frames: list[bytes]) -> None:
        content = put.item.content
        problem = "" if content.plain else "only plain values can be published elsewhere"
        if content.buffers != len(frames):
            problem = f"expected {content.buffers} frames, got {len(frames)}"
        if not problem:
            size = len(content.body) + sum(map(len, frames))
            self.post(put.item.topic, content, tuple(frames), size, source=put.item.source)
        self._send(peer, [encode_message(Done(put.id, problem))])

    def _forget_silent(self) -> None:
        oldest = time.monotonic() - LEASE
        for peer in [peer for peer, known in self._peers.items() if known.heard < oldest]:
            del self._peers[peer]
        self._reactor.call_later(LEASE_INTERVAL, self._forget_silent)

    def _flush(self) -> None:
        """Send what was posted to those whose time has come, and come back for the others."""
        self._scheduled = False  # what is posted from here on asks again
        now = time.monotonic()
        wait = 0.0
        for peer, known in list(self._peers.items()):
            left = known.sent_at + known.interval - now
            if left <= 0:
                self._pump(peer, known)
            else:
                wait = min(wait, left) if wait else left
        if wait and not self._scheduled:
            self._scheduled = True
            self._reactor.call_later(wait, self._flush)

    def _pump(self, peer: bytes, known: _Peer) -> None:
        """Send a subscriber what it may be sent."""
        while True:
            with self._lock:
                posted = self._board.take(known.reader)
            if not posted:
                return
            known.sent_at = time.monotonic()
            batch = encode_message(Batch([each.item for each in posted], known.reader.sent_bytes))
            self._send(peer, [batch, *(frame for each in posted for frame in each.frames)])

    def _send(self, peer: bytes, frames: list[bytes]) -> None:
        if self._socket is not None and not self._socket.closed:
            send_message(self._socket, [peer, *frames])

    _HANDLERS: dict[type, Callable[..., None]] = {  # noqa: RUF012 - a table, like the methods it names
        Hello: _on_hello,
        Taken: _on_taken,
        Bye: _on_bye,
        Put: _on_put,
    }


def clock_offset(there: float, here: float) -> float:
    """Return by how many seconds this machine's clock is ahead of a subscriber's.

    What a message takes on its way looks the same, so less than ``CLOCKS_DIFFER`` is none.
    """
    return here - there if abs(here - there) > CLOCKS_DIFFER else 0.0


def source_name(argv: list[str], *, kernel: bool) -> str:
    """Return what a process is called in the messages that it publishes: a notebook, or its script, with its pid."""
    name = "notebook" if kernel else os.path.basename(argv[0] if argv else "") or "python"  # noqa: PTH119 - text
    name = name.encode(errors="backslashreplace").decode()  # names of files may hold what is no character
    return f"{'python' if name in {'-c', '-m', '-'} else name}-{os.getpid()}"
