"""``znb.subscribe``: messages as a user gets them.

Values are read on the thread that asks for them, because reading one may run code. Any thread may use a subscription;
each message is handed out once.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import sys
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol, Self

from znb.errors import CallTimeout, ZnbError
from znb.pubsub.feed import Arrived, Feed, FeedStats
from znb.pubsub.home import home
from znb.pubsub.messages import check_topic, decode_value
from znb.pubsub.places import EVERYWHERE, is_url

__all__ = ["Message", "Subscription", "subscribe"]

#: Messages that may wait to be taken, unless told otherwise.
HISTORY = 10_000
#: Seconds without any message after which a loop says what it waits for.
NOTICE_AFTER = 3.0
#: Seconds that a wait lasts before it looks whether there is something to say.
WAIT = 1.0
#: Seconds of silence after which a subscription whose ``until`` is done has heard everything: a result may overtake
#: what was published before it.
SETTLE = 0.3
#: Seconds between looks whether ``until`` is done.
UNTIL_INTERVAL = 0.05

_UNREAD = object()


class Message:
    """A published value.

    Attributes:
        topic: What it is about.
        source: Who published it: a worker's name, or a notebook or script with its pid.
        cluster: The cluster whose worker published it; empty if it was no worker.
        time: Unix time at which it was published.
        dropped: Messages of this topic and source that were lost since the one before this.
        number: Its number among those of its topic and source, from 1 on.
        late: Whether it was the last of its topic before this subscription began.
    """

    __slots__ = ("_arrived", "_value", "cluster", "dropped", "late", "number", "source", "time", "topic")

    def __init__(self, arrived: Arrived) -> None:
        item = arrived.item
        self.topic = item.topic
        self.source = item.source
        self.cluster = arrived.cluster
        self.time = item.time
        self.dropped = arrived.dropped
        self.number = item.number
        self.late = item.late
        self._arrived: Arrived | None = arrived
        self._value: Any = _UNREAD

    @property
    def value(self) -> Any:
        """What was published.

        Raises:
            SerializationError: It is made of something that cannot be loaded here.
            ProtocolError: It is damaged, or a pickle from another machine.
        """
        arrived = self._arrived
        if arrived is not None:
            self._value = decode_value(arrived.item.content, arrived.frames, home.codec, trusted=arrived.trusted)
            self._arrived = None
        return self._value

    def __repr__(self) -> str:
        when = dt.datetime.fromtimestamp(self.time).strftime("%H:%M:%S.%f")[:-3]  # noqa: DTZ006 - the user's clock
        lost = f", {self.dropped} dropped before it" if self.dropped else ""
        whose = f"{self.source} of {self.cluster}" if self.cluster else self.source
        try:
            text = _short(self.value)
        except ZnbError as error:
            text = f"cannot be read: {error}"
        return f"<{self.topic} from {whose} at {when}: {text}{lost}>"


class Subscription(Iterator[Message]):
    """The messages of some topics: iterate over it, with ``for`` or ``async for``.

    It begins when it is made, and ends with ``close``, the ``with`` block, or when nobody holds it any more. If
    messages come faster than they are taken, the oldest are dropped, and ``m.dropped`` says how many. A loop over it
    has no end of its own, unless ``timeout`` or ``until`` sets one; what comes after that goes to the next loop.
    """

    def __init__(self, feed: Feed, timeout: float | None = None, until: Ending | None = None) -> None:
        self._feed = feed
        self._timeout = timeout
        self._until = until
        self._ending = weakref.finalize(self, feed.close, wait=False)

    @property
    def topics(self) -> tuple[str, ...]:
        """Beginnings of the topics."""
        return self._feed.topics

    @property
    def closed(self) -> bool:
        """Whether it has ended. What had come before can still be taken."""
        return self._feed.closed

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        watch = _Watch(self._feed, self._timeout, self._until)
        while True:
            if taken := self._take_one(watch.patience()):
                return taken[0]
            if watch.is_over():
                raise StopIteration

    def _take_one(self, timeout: float) -> list[Message]:
        """Wait for a message for some seconds."""
        __tracebackhide__ = True
        try:
            found = self._feed.wait_any(timeout)
        except KeyboardInterrupt as interrupt:
            raise interrupt.with_traceback(None) from None  # without the frames of the lock's own waiting
        return self.take_nowait(1) if found else []  # another thread may have been faster

    def wait_message(self, timeout: float | None = None) -> Message:
        """Return the next message.

        Args:
            timeout: Seconds to wait for it; ``None`` for ever.

        Raises:
            CallTimeout: None came in time.
            EOFError: The subscription was closed.
        """
        watch = _Watch(self._feed, timeout, None)
        while True:
            if taken := self._take_one(watch.patience()):
                return taken[0]
            if self._feed.closed:
                raise EOFError(f"the subscription to {_names(self.topics)} is closed")
            if watch.is_over():
                raise CallTimeout(f"waiting for a message on {_names(self.topics)}", timeout or 0.0)

    def take_nowait(self, most: int = sys.maxsize) -> list[Message]:
        """Return what has come, at most so many messages; does not wait."""
        return [Message(arrived) for arrived in self._feed.take(most)]

    def stats(self) -> FeedStats:
        """Return what has come, what was dropped, and who publishes."""
        return self._feed.stats()

    def close(self) -> None:
        """End it. May be called twice."""
        if self._ending.detach() is not None:
            self._feed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        stats = self.stats()
        state = "closed" if self.closed else f"from {', '.join(stats.publishers) or 'nobody yet'}"
        return (
            f"<Subscription to {_names(self.topics)}, {state}: {stats.received:,} received, "
            f"{stats.dropped:,} dropped, {stats.waiting:,} waiting>"
        )

    def __aiter__(self) -> AsyncIterator[Message]:
        return self._follow()

    async def _follow(self) -> AsyncIterator[Message]:
        loop = asyncio.get_running_loop()
        came = asyncio.Event()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(came.set)

        self._feed.listen(tell)
        try:
            watch = _Watch(self._feed, self._timeout, self._until)
            while True:
                came.clear()
                if taken := self.take_nowait(1):
                    yield taken[0]
                    watch = _Watch(self._feed, self._timeout, self._until)
                elif watch.is_over():
                    return
                else:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(came.wait(), watch.patience())
        finally:
            self._feed.unlisten(tell)


class Ending(Protocol):
    """What can be done, such as a future."""

    def done(self) -> bool:
        """Whether it is."""


class _Watch:
    """A wait for one message: how long it lasts, and what is said when nothing comes.

    Args:
        feed: Where it is to come from.
        timeout: Seconds that it may take; ``None`` for ever.
        until: What ends it.
    """

    def __init__(self, feed: Feed, timeout: float | None, until: Ending | None) -> None:
        self._feed = feed
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._until = until
        self._settled: float | None = None
        self._due = time.monotonic() + NOTICE_AFTER
        self._said = False
        self._said_gone = False

    def patience(self) -> float:
        """Return how long to wait before looking whether it is over."""
        wait = WAIT if self._until is None else UNTIL_INTERVAL
        return wait if self._deadline is None else min(wait, max(0.0, self._deadline - time.monotonic()))

    def is_over(self) -> bool:
        """Whether to wait no more, nothing having come; says once on stderr what it waits for."""
        if self._feed.closed:
            return not self._feed.wait_any(0)
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            return True
        if self._until is not None and self._until.done():
            self._settled = self._settled or now + SETTLE
            return now >= self._settled
        if now >= self._due:
            self._say()
        return False

    def _say(self) -> None:
        stats = self._feed.stats()
        names, place = _names(self._feed.topics), self._feed.place
        if self._feed.gone_for > NOTICE_AFTER and not self._said_gone:
            self._said_gone = self._said = True
            text = f"{place!r} has ended; close the subscription unless one of this name is to come back"
            print(f"waiting for a message on {names}; nothing comes any more: {text}", file=sys.stderr)
        if self._said or stats.received:
            return
        self._said = True
        there = f"published now: {', '.join(stats.topics)}" if stats.topics else "nothing is published yet"
        if not stats.publishers and is_url(self._feed.place):
            there = f"nobody who publishes answers at {place}"
        print(f"waiting for a message on {names}; {there}", file=sys.stderr)


def subscribe(
    *topics: str,
    at: str = EVERYWHERE,
    history: int = HISTORY,
    latest: bool = True,
    timeout: float | None = None,
    until: Ending | None = None,
) -> Subscription:
    """Return the messages of some topics, as they come, from all processes of this user on this machine.

    Args:
        topics: Beginnings of topics: ``"loss"`` means ``"loss/train"`` too; none for all topics.
        at: Where from: ``"local"`` for everywhere, the name of a cluster or of a service, or a URL.
        history: Messages that may wait to be taken; when there are more, the oldest are dropped and counted.
        latest: Whether the last message that each topic had before is handed over first.
        timeout: Seconds without a message after which a loop ends; ``None``: it goes on for ever.
        until: A future, or whatever has ``done()``, such as a job of which to follow the progress: a loop ends when it
            is done and what was published before has been taken.

    Returns:
        A subscription, which begins now. Close it, or let go of it.

    Raises:
        ServiceUnavailable: There is no cluster or service of that name, or it is no address.
        TypeError: A topic or ``at`` is not text, ``history`` no whole number, ``timeout`` no number, or ``until``
            nothing that can be done.
        ValueError: ``history`` is not positive, ``timeout`` is negative, or a topic cannot be one.

    Example:
        >>> import znb
        >>> with znb.subscribe("doc/loss") as losses:
        ...     znb.publish("doc/loss", {"epoch": 1, "loss": 0.5})
        ...     losses.wait_message(5).value
        {'epoch': 1, 'loss': 0.5}
    """
    for topic in topics:
        check_topic(topic, hint="several: znb.subscribe('loss', 'accuracy')")
    if not isinstance(history, int) or isinstance(history, bool):
        raise TypeError(f"history is a whole number of messages, got {history!r:.50}")
    if history < 1:
        raise ValueError(f"history must be at least 1, got {history}")
    _check_timeout(timeout)
    if until is not None and not callable(getattr(until, "done", None)):
        raise TypeError(f"until must be a future, or have a method done(), got {until!r:.50}")
    feed = Feed(topics, at, history, time.time(), latest=latest)
    feed.start()
    return Subscription(feed, timeout, until)


def _check_timeout(timeout: Any) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless it is seconds to wait, 0 or more, or ``None``."""
    if timeout is None:
        return
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        raise TypeError(f"timeout is a number of seconds, or None, got {timeout!r:.50}")
    if not timeout >= 0:
        raise ValueError(f"timeout is a number of seconds, 0 or more, got {timeout}")


def _names(topics: tuple[str, ...]) -> str:
    return "any topic" if topics == ("",) else ", ".join(repr(topic) for topic in topics)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
