"""The receiving end: finds publishers, dials them, and keeps what has come until somebody takes it.

The feed is what threads and sockets hold; the user holds a ``Subscription`` (see ``znb.pubsub.subscriber``), and when
that is gone the feed ends.

Invariants: what waits is bounded in messages and bytes; the oldest goes first, and its loss shows in the numbers of
those after it. Messages of one publisher come in its order. Sockets and publishers belong to the reactor's thread;
what has come is kept under ``_changed``, which is notified when something comes or the feed ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import zmq

from znb.errors import ProtocolError, ServiceUnavailable, ZnbError
from znb.locks import Condition
from znb.pubsub import places
from znb.pubsub.ledger import open_ledger, read_ledger
from znb.pubsub.messages import VERSION, Batch, Bye, Hello, Item, Taken, Welcome, decode_message, encode_message
from znb.transport import Reactor, is_local, send_message

__all__ = ["Arrived", "Feed", "FeedStats"]

logger = logging.getLogger("znb.pubsub")

#: Seconds between looks for new publishers.
FIND_INTERVAL = 0.1
#: The same where services have to be asked whether they live.
FIND_INTERVAL_NAMED = 0.5
#: Seconds after which a publisher is told that one is still there.
RENEW_INTERVAL = 1.0
#: Seconds that a socket may take to answer before it is left alone: its process is gone, or of another version.
ANSWER_TIME = 5.0
#: Frames of most messages.
_NO_FRAMES: tuple[Any, ...] = ()
#: Bytes that may wait to be taken, unless one message alone is larger.
WAITING_BYTES = 64_000_000


class Arrived(NamedTuple):
    """A message that has come.

    Attributes:
        item: It.
        frames: Its buffers.
        trusted: Whether it may hold a pickle.
        dropped: Messages of its topic and publisher that were lost since the one before.
        cluster: The cluster of its source; empty if that is no worker.
    """

    item: Item
    frames: Sequence[Any]
    trusted: bool
    dropped: int = 0
    cluster: str = ""


class FeedStats(NamedTuple):
    """A snapshot of a subscription.

    Attributes:
        received: Messages that have arrived.
        dropped: Messages that were lost, here or on the way, as far as their gaps have been seen.
        waiting: Messages that wait to be taken.
        publishers: Where messages may come from now.
        topics: Topics that those publish, as they last said.
        forgotten: Last values from before that those no longer had, because they publish on too many topics.
    """

    received: int
    dropped: int
    waiting: int
    publishers: tuple[str, ...]
    topics: tuple[str, ...]
    forgotten: int = 0


class _Peer:
    """A publisher.

    Attributes:
        numbers: The last message of each topic that was taken.
        arrived: The last message of each topic that has come.
        cursor: Index of the message to go on with.
        keyed: Whether it has proved the keys of a cluster of this user.
        ledger: Where it notes how much it has published.
        missed_at: When its address was first missing; 0 while it is there.
    """

    def __init__(self, url: str, socket: zmq.Socket[bytes]) -> None:
        self.url = url
        self.socket = socket
        self.key = ""
        self.source = ""
        self.topics: tuple[str, ...] = ()
        self.numbers: dict[str, int] = {}
        self.arrived: dict[str, int] = {}
        self.cursor = 0
        self.cluster = ""
        self.forgotten = 0
        self.keyed = False
        self.ledger = open_ledger(url)
        self.missed_at = 0.0
        self.dialled = time.monotonic()


class Feed:
    """Messages on some topics.

    Args:
        topics: Beginnings of their names.
        place: Where to look for publishers (see ``znb.pubsub.places.find_sockets``).
        history: Messages that may wait to be taken.
        since: Unix time from which on messages are wanted.
        latest: Whether the last values from before are.
        interval: Seconds between two batches of a publisher, for whoever looks only now and then.
    """

    def __init__(
        self, topics: Sequence[str], place: str, history: int, since: float, *, latest: bool, interval: float = 0.0
    ) -> None:
        self.topics = tuple(topics) or ("",)
        self.place = place
        self.closed = False
        self._history = history
        self._since = since
        self._latest = latest
        self._interval = interval
        self._changed = Condition()
        self._listeners: list[Callable[[], object]] = []
        self._waiting: deque[tuple[_Peer, Arrived, int]] = deque()
        self._waiting_bytes = 0
        self._received = 0
        self._dropped = 0
        self._reactor: Reactor
        self._peers: dict[str, _Peer] = {}
        self._left: set[str] = set()
        self._mark: places.Mark | None = None
        self._place_gone = 0.0
        self._pid = os.getpid()

    # -- any thread ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look for publishers from now on.

        Raises:
            ServiceUnavailable: There is no such place.
        """
        places.check_place(self.place)
        places.find_sockets(self.place)
        self._reactor = Reactor("znb-subscribe")
        if not places.is_url(self.place):
            self._mark = places.Mark()
        self._reactor.start()
        self._reactor.call_soon(self._reactor.at_stop, self._close_ledgers)
        if self._mark is not None:
            self._reactor.call_soon(self._open_door, self._mark)
        self._reactor.call_soon(self._find)
        self._reactor.call_soon(self._renew)

    def take(self, most: int) -> list[Arrived]:
        """Return what has come, the oldest first, at most so many messages."""
        with self._changed:
            count = min(most, len(self._waiting))
            taken = [self._waiting.popleft() for _ in range(count)]
            made = []
            for peer, arrived, size in taken:
                self._waiting_bytes -= size
                made.append(self._with_gap(peer, arrived))
            return made

    def _with_gap(self, peer: _Peer, arrived: Arrived) -> Arrived:
        """Note a message as seen; return it with the number of those missing before it."""
        item = arrived.item
        gap = item.number - peer.numbers.get(item.topic, 0) - 1
        peer.numbers[item.topic] = item.number
        if gap <= 0:
            return arrived
        self._dropped += gap
        return arrived._replace(dropped=gap)

    def wait_any(self, timeout: float | None) -> bool:
        """Wait until something is there to be taken, or never will be; return whether there is."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.closed, timeout)
            return bool(self._waiting)

    def listen(self, listener: Callable[[], object]) -> None:
        """Call ``listener()`` whenever something has come or the feed has ended, on the reactor's thread."""
        with self._changed:
            self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], object]) -> None:
        """Call it no more. May be called twice."""
        with self._changed, contextlib.suppress(ValueError):
            self._listeners.remove(listener)

    def stats(self) -> FeedStats:
        """Return what has come, and from where."""
        with self._changed:
            peers = [peer for peer in list(self._peers.values()) if peer.key]
            topics = sorted({topic for peer in peers for topic in peer.topics})
            sources = tuple(sorted(peer.source for peer in peers))
            forgotten = sum(peer.forgotten for peer in peers)
            return FeedStats(self._received, self._dropped, len(self._waiting), sources, tuple(topics), forgotten)

    @property
    def gone_for(self) -> float:
        """Seconds for which there has been no cluster or service of the place's name."""
        return time.monotonic() - self._place_gone if self._place_gone else 0.0

    def close(self, *, wait: bool = True) -> None:
        """End. What has come can still be taken. May be called twice.

        Args:
            wait: Whether its thread has ended when this returns.
        """
        if self._pid != os.getpid():  # it is the parent's
            return
        if self._mark is not None:
            self._mark.remove()
        if wait:
            self._reactor.call_soon(self._hang_up)
            self._reactor.stop()
        else:
            self._reactor.call_soon(self._end)
        with self._changed:
            self.closed = True
        self._tell()

    # -- the reactor's thread ------------------------------------------------------------------------------

    def _end(self) -> None:
        self._hang_up()
        self._reactor.stop()

    def _find(self) -> None:
        """Dial publishers that are new, and hang up on those that are gone."""
        everywhere = self.place == places.EVERYWHERE
        self._reactor.call_later(FIND_INTERVAL if everywhere else FIND_INTERVAL_NAMED, self._find)
        self._look()

    def _open_door(self, mark: places.Mark) -> None:
        def on_knock() -> None:
            mark.answer()
            self._look()

        def shut() -> None:
            self._reactor.remove_reader(mark.door.fileno())
            mark.door.close()

        self._reactor.add_reader(mark.door.fileno(), on_knock)
        self._reactor.at_stop(shut)

    def _look(self) -> None:
        try:
            found = places.find_sockets(self.place)
            self._place_gone = 0.0
        except (OSError, ServiceUnavailable):  # its cluster or service has ended; it may come back
            found = set()
            self._place_gone = self._place_gone or time.monotonic()
        self._left &= found
        now = time.monotonic()
        for url, peer in list(self._peers.items()):
            if url in found:
                peer.missed_at = 0.0
                if self._is_mute(peer):
                    self._leave(url)
            elif not peer.missed_at:
                peer.missed_at = now  # what it sent last may still be on its way through the socket
            elif now - peer.missed_at >= FIND_INTERVAL / 2:
                self._count_lost(peer)
                self._leave(url)
        for url in found - self._peers.keys() - self._left:
            self._dial(url)

    def _is_mute(self, peer: _Peer) -> bool:
        mute = not peer.key and time.monotonic() - peer.dialled > ANSWER_TIME and not places.is_url(self.place)
        if mute:
            self._left.add(peer.url)
        return mute

    def _dial(self, url: str) -> None:
        socket = self._reactor.socket(zmq.DEALER, url)
        peer = self._peers[url] = _Peer(url, socket)
        self._reactor.add_socket(socket, lambda frames: self._on_message(peer, frames))
        try:
            peer.keyed = places.dial(socket, url)
        except (zmq.ZMQError, ZnbError):  # a cluster that ends just now has no keys any more
            logger.warning("%s is no address of streams", url)
            self._left.add(url)
            self._leave(url)
            return
        self._hello(peer)

    def _leave(self, url: str) -> None:
        peer = self._peers.pop(url)
        if peer.ledger is not None:
            peer.ledger.close()
        self._reactor.close_socket(peer.socket)

    def _count_lost(self, peer: _Peer) -> None:
        """Count what a publisher that is gone had published and not sent."""
        if peer.ledger is None:
            return
        counts = read_ledger(peer.ledger)
        if not peer.key and counts.made < self._since:
            return  # it never answered, so nobody knows what of this was wanted
        lost = {
            topic: number - peer.arrived.get(topic, 0)
            for topic, number in counts.numbers.items()
            if topic.startswith(self.topics) and number > peer.arrived.get(topic, 0)
        }
        if not lost:
            return
        with self._changed:
            self._dropped += sum(lost.values())
        whose = f"{peer.source or 'a process'}{f' of {peer.cluster}' if peer.cluster else ''}"
        topics = ", ".join(f"{topic!r}" for topic in list(lost)[:3]) + (", …" if len(lost) > 3 else "")
        logger.warning(
            "%s has ended, and %sthe last %d of its messages with it (on %s)",
            whose,
            "at least " if counts.full else "",
            sum(lost.values()),
            topics,
        )
        self._tell()

    def _close_ledgers(self) -> None:
        for peer in self._peers.values():
            if peer.ledger is not None:
                peer.ledger.close()

    def _hello(self, peer: _Peer) -> None:
        self._send(peer, Hello(self.topics, self._since, self._interval, peer.key, peer.cursor, now=time.time()))

    def _renew(self) -> None:
        self._reactor.call_later(RENEW_INTERVAL, self._renew)
        for peer in self._peers.values():
            if peer.key:  # an unanswered hello is still under way
                self._hello(peer)

    def _hang_up(self) -> None:
        for peer in self._peers.values():
            self._send(peer, Bye())

    def _send(self, peer: _Peer, message: Hello | Taken | Bye) -> None:
        if not peer.socket.closed:
            send_message(peer.socket, [encode_message(message)])

    def _on_message(self, peer: _Peer, frames: list[Any]) -> None:
        try:
            message = decode_message(frames[0].bytes)
        except ProtocolError as error:
            logger.warning("%s: %s", peer.url, error)
            return
        if isinstance(message, Welcome):
            self._on_welcome(peer, message)
        elif isinstance(message, Batch):
            self._on_batch(peer, message, frames[1:])
            self._send(peer, Taken(message.sent_bytes))

    def _on_welcome(self, peer: _Peer, welcome: Welcome) -> None:
        if welcome.version != VERSION:
            logger.warning("%s publishes by version %d, expected %d", peer.url, welcome.version, VERSION)
            self._left.add(peer.url)
            return
        with self._changed:
            if welcome.key != peer.key:  # else it goes on after a pause
                peer.numbers, peer.arrived = dict(welcome.base), dict(welcome.base)
            peer.key, peer.source, peer.topics = welcome.key, welcome.source, welcome.topics
            peer.cluster, peer.forgotten = welcome.cluster, welcome.forgotten
        self._tell()

    def _on_batch(self, peer: _Peer, batch: Batch, frames: list[Any]) -> None:
        trusted = peer.keyed or (is_local(peer.url) and peer.url.startswith("ipc:"))
        position = 0
        with self._changed:
            waiting, arrived, source, cluster = self._waiting, peer.arrived, peer.source, peer.cluster
            for item in batch.items:
                content = item.content
                size = len(content.body)
                own: Sequence[Any] = _NO_FRAMES
                if content.buffers:
                    own = frames[position : position + content.buffers]
                    position += content.buffers
                    size += sum(len(frame) for frame in own)
                arrived[item.topic] = item.number
                peer.cursor = item.index + 1 if item.index >= peer.cursor else peer.cursor
                if item.late and not self._latest:
                    peer.numbers[item.topic] = item.number
                    continue
                waiting.append((peer, Arrived(item, own, trusted, 0, cluster if item.source == source else ""), size))
                self._waiting_bytes += size
            self._received += len(batch.items)
            while len(self._waiting) > self._history or (
                self._waiting_bytes > WAITING_BYTES and len(self._waiting) > 1
            ):
                self._waiting_bytes -= self._waiting.popleft()[2]
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            self._reactor.guard(listener)
