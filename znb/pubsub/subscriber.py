"""``znb.subscribe``: messages as a user gets them.

Values are read on the thread that asks for them, because reading one may run code. Any thread may use a subscription;
each message is handed out once.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import math
import sys
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

from znb.errors import CallTimeout
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

_UNREAD = object()


class Message:
    """A published value.

    Attributes:
        topic: What it is about.
        source: Who published it: a worker's name, or a notebook or script with its pid.
        time: Unix time at which it was published.
        dropped: Messages of this topic and source that were lost since the one before this.
        number: Its number among those of its topic and source, from 1 on.
        late: Whether it was the last of its topic before this subscription began.
    """

    __slots__ = ("_arrived", "_value", "dropped", "late", "number", "source", "time", "topic")

    def __init__(self, arrived: Arrived) -> None:
        item = arrived.item
        self.topic = item.topic
        self.source = item.source
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
        return f"<{self.topic} from {self.source} at {when}: {_short(self.value)}{lost}>"


class Subscription(Iterator[Message]):
    """The messages of some topics: iterate over it, with ``for`` or ``async for``.

    It begins when it is made, and ends with ``close``, the ``with`` block, or when nobody holds it any more. If
    messages come faster than they are taken, the oldest are dropped, and ``m.dropped`` says how many.
    """

    def __init__(self, feed: Feed, timeout: float | None = None) -> None:
        self._feed = feed
        self._timeout = timeout
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
        notice = _Notice(self._feed)
        deadline = time.monotonic() + (math.inf if self._timeout is None else self._timeout)
        while not self._feed.wait_any(max(0.0, min(WAIT, deadline - time.monotonic()))):
            if self._feed.closed or time.monotonic() >= deadline:
                raise StopIteration
            notice.look()
        taken = self._feed.take(1)
        return Message(taken[0]) if taken else self.__next__()  # another thread was faster

    def wait_message(self, timeout: float | None = None) -> Message:
        """Return the next message.

        Args:
            timeout: Seconds to wait for it; ``None`` for ever.

        Raises:
            CallTimeout: None came in time.
            EOFError: The subscription was closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self._feed.wait_any(left):
                taken = self._feed.take(1)
                if taken:
                    return Message(taken[0])
            elif self._feed.closed:
                raise EOFError(f"the subscription to {_names(self.topics)} is closed")
            elif deadline is not None and time.monotonic() >= deadline:
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
            while True:
                came.clear()
                for arrived in self._feed.take(1):
                    yield Message(arrived)
                    came.set()
                if self._feed.closed and not self._feed.wait_any(0):
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(came.wait(), self._timeout)
                if not came.is_set():
                    return
        finally:
            self._feed.unlisten(tell)


class _Notice:
    """Says that nothing comes, and what could; each once."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._due = time.monotonic() + NOTICE_AFTER
        self._said = ""

    def look(self) -> None:
        """Say it if it is time; on stderr, because the loop's own output goes to stdout."""
        if time.monotonic() < self._due:
            return
        text = self._text()
        if text and text != self._said:
            self._said = text
            print(f"waiting for a message on {_names(self._feed.topics)}; {text}", file=sys.stderr)

    def _text(self) -> str:
        stats = self._feed.stats()
        if self._feed.lost:
            return f"nothing comes any more: {self._feed.lost}"
        if stats.received or self._said:
            return ""
        if not stats.publishers and is_url(self._feed.place):
            return f"nobody who publishes answers at {self._feed.place}"
        return f"published now: {', '.join(stats.topics)}" if stats.topics else "nothing is published yet"


def subscribe(
    *topics: str, at: str = EVERYWHERE, history: int = HISTORY, latest: bool = True, timeout: float | None = None
) -> Subscription:
    """Return the messages of some topics, as they come, from all processes of this user on this machine.

    Args:
        topics: Beginnings of topics: ``"loss"`` means ``"loss/train"`` too; none for all topics.
        at: Where from: ``"local"`` for everywhere, the name of a cluster or of a service, or a URL.
        history: Messages that may wait to be taken; when there are more, the oldest are dropped and counted.
        latest: Whether the last message that each topic had before is handed over first.
        timeout: Seconds without a message after which a loop ends; ``None`` for never.

    Returns:
        A subscription, which begins now. Close it, or let go of it.

    Raises:
        ServiceUnavailable: There is no cluster or service of that name, or it is no address.
        TypeError: A topic or ``at`` is not text, or ``history`` no whole number.
        ValueError: ``history`` is not positive, or a topic cannot be one.

    Example:
        >>> import znb
        >>> with znb.subscribe("doc/loss") as losses:
        ...     znb.publish("doc/loss", {"epoch": 1, "loss": 0.5})
        ...     losses.wait_message(5).value
        {'epoch': 1, 'loss': 0.5}
    """
    for topic in topics:
        check_topic(topic, hint="several: znb.subscribe('loss', 'accuracy')")
    if not isinstance(at, str):
        raise TypeError(f"at is a name or an address, such as 'local', got {at!r:.50}")
    if not isinstance(history, int):
        raise TypeError(f"history is a whole number of messages, got {history!r:.50}")
    if history < 1:
        raise ValueError(f"history must be at least 1, got {history}")
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout is a number of seconds, 0 or more, got {timeout}")
    feed = Feed(topics, at, history, time.time(), latest=latest)
    feed.start()
    return Subscription(feed, timeout)


def _names(topics: tuple[str, ...]) -> str:
    return "any topic" if topics == ("",) else ", ".join(repr(topic) for topic in topics)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
