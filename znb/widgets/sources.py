"""What stream views show: one subscription for all views of the same topics, so that a message is read once.

A source has a thread, which takes what has come and brings the views up to date, at most ``RATE`` times a second. One
that joins later is given the last value of each topic first, as a subscription of its own would have been.

Invariants: views are only touched by the source's thread, holding ``_lock``; when ``leave`` returns it touches that
view no more. A source ends with its last view. What is kept for views to come is bounded.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from znb.locks import Event
from znb.pubsub.feed import Feed
from znb.pubsub.subscriber import Message, Subscription

__all__ = ["RATE", "Source", "Sources", "View", "sources"]

logger = logging.getLogger("znb.widgets")

#: Times a second that views are brought up to date, and that each publisher sends what it has: each takes some 0.1 ms.
RATE = 10
#: Messages that may wait for the thread.
HISTORY = 20_000
#: Topics whose last values are kept for views that join.
LATEST_MAX = 1_000
#: Seconds that a view that leaves waits for its turn to end.
TURN_MAX = 1.0


class View(Protocol):
    """What shows messages."""

    def turn(self, messages: Sequence[Message], dropped: int) -> None:
        """Show what has come since the last turn; must not raise.

        Args:
            messages: The same objects for all views, so that a value is read once.
            dropped: Messages lost since the view joined.
        """


class Source:
    """Messages for some views.

    Args:
        topics: Beginnings of topics.
        place: Where from.

    Raises:
        ServiceUnavailable: There is nobody of that name.
    """

    def __init__(self, topics: tuple[str, ...], place: str) -> None:
        self._feed = Feed(topics, place, HISTORY, time.time(), latest=True, interval=1 / RATE)
        self._feed.start()
        self._subscription = Subscription(self._feed)
        self._name = ", ".join(topics) or "all topics"
        self._lock = threading.Lock()
        self._views: dict[View, int] = {}
        self._joined: list[View] = []
        self._latest: dict[tuple[str, str, str], Message] = {}
        self._closing = Event()
        self._thread = threading.Thread(target=self._run, name="znb-stream", daemon=True)
        self._thread.start()

    def join(self, view: View) -> None:
        """Show messages in a view as well."""
        with self._lock:
            self._views[view] = self._subscription.stats().dropped
            self._joined.append(view)

    def leave(self, view: View) -> bool:
        """Show nothing in a view any more; return whether there is none left. May be called twice."""
        held = self._lock.acquire(timeout=TURN_MAX)
        try:
            self._views.pop(view, None)
            if view in self._joined:
                self._joined.remove(view)
            return not self._views
        finally:
            if held:
                self._lock.release()

    def close(self) -> None:
        """End it."""
        self._closing.set()
        if self._thread is not threading.current_thread():
            self._thread.join(TURN_MAX)
        self._subscription.close()

    # -- the source's thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing.wait(1 / RATE):
                with self._lock:
                    self._turn()
        except Exception:
            logger.exception("the views of %s have ended", self._name)

    def _turn(self) -> None:
        messages = self._subscription.take_nowait(HISTORY)
        dropped = self._subscription.stats().dropped  # with what killed processes had not sent
        before = list(self._latest.values()) if self._joined else []
        for view, joined_at in list(self._views.items()):
            view.turn([*before, *messages] if view in self._joined else messages, dropped - joined_at)
        self._joined.clear()
        for message in messages:
            self._latest[message.topic, message.source, message.cluster] = message
        while len(self._latest) > LATEST_MAX:
            del self._latest[next(iter(self._latest))]


class Sources:
    """The sources of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: dict[tuple[int, tuple[str, ...], str], Source] = {}

    def join(self, view: View, topics: tuple[str, ...], place: str) -> None:
        """Show messages in a view.

        Raises:
            ServiceUnavailable: There is nobody of that name.
        """
        key = (os.getpid(), topics, place)  # a forked child has none of its parent's threads
        with self._lock:
            source = self._sources.get(key)
            if source is None:
                source = self._sources[key] = Source(topics, place)
            source.join(view)

    def leave(self, view: View, topics: tuple[str, ...], place: str) -> None:
        """Show nothing in a view any more. May be called twice."""
        key = (os.getpid(), topics, place)
        with self._lock:
            source = self._sources.get(key)
            if source is not None and source.leave(view):
                del self._sources[key]
                source.close()

    def __len__(self) -> int:
        return len(self._sources)


#: Those of this process: views come and go, and whichever comes first makes the source that others share.
sources = Sources()
