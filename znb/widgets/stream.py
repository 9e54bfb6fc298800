"""``znb.stream``: what is published, live in a notebook.

What has come (``znb.widgets.sources``) is folded into a picture, and the page is sent what is new, at most ``RATE``
times a second and only while somebody looks. Frames are numbered. Whoever misses one waits for a full one: the page
asks for it, and because a kernel that runs a cell does not hear it, one is put into the widget's state every
``KEYFRAME_INTERVAL`` as well, where a page finds it that is opened later.

Invariants: the picture belongs to the source's thread; messages of the page come on the kernel's main thread, or on
that of a subshell while a cell runs, one at a time, and only set flags, begin and end. ``close`` leaves the source, and
may be called twice.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

import anywidget
import traitlets
from IPython.core.getipython import get_ipython

from znb.errors import ZnbError
from znb.locks import Event
from znb.pubsub.messages import check_topic
from znb.pubsub.places import EVERYWHERE
from znb.pubsub.subscriber import Message
from znb.widgets.bundles import read_bundle
from znb.widgets.comms import hear_while_busy
from znb.widgets.kinds import KINDS, Frame, Kind, Picture, Seen, guess_kind, make_picture
from znb.widgets.sources import sources

__all__ = ["StreamView", "stream"]

logger = logging.getLogger("znb.widgets")

#: Seconds between two full frames in the widget's state, while something changes: at least, and at most where making
#: one takes long; and the part of a core that they may take in between.
KEYFRAME_INTERVAL, KEYFRAME_INTERVAL_MAX = 3.0, 15.0
KEYFRAME_SHARE = 0.0025
#: Seconds after which the page is told that the kernel is still there.
ALIVE_INTERVAL = 5.0
#: Seconds that a display where nothing is live waits for what has been published already.
FIRST_LOOK = 0.5


class StreamView(anywidget.AnyWidget):
    """A live view of some topics.

    Attributes:
        kind: ``line``, ``table``, ``log`` or ``image``; empty until the first message says which.
        topics: Beginnings of the topics.
        library: Source of the plotting library, where it is needed.
        keyframe: A full frame, for pages that come later.
        key: Its model's id, for pages.
    """

    kind = traitlets.Unicode("").tag(sync=True)
    topics = traitlets.List(traitlets.Unicode()).tag(sync=True)
    library = traitlets.Unicode("").tag(sync=True)
    keyframe = traitlets.Dict().tag(sync=True)
    key = traitlets.Unicode("").tag(sync=True)

    def __init__(self, topics: tuple[str, ...], *, kind: Kind | None, x: str | None, place: str) -> None:
        self._esm = read_bundle("stream.js")
        self._css = read_bundle("stream.css")
        key = uuid.uuid4().hex
        super().__init__(topics=list(topics), key=key, model_id=key)
        self._asked_kind = kind
        self._x = x
        self._place = place
        self._picture: Picture | None = None
        self._shows = False
        self._folded = Event()
        self._hidden: dict[str, bool] = {}
        self._wanted = False
        self._number = 0
        self._received = 0
        self._dropped = 0
        self._dropped_before = 0
        self._first_cluster: str | None = None
        self._failed = False
        self._unreadable = 0
        self._unfit = 0
        self._keyframe_due = 0.0
        self._sent_at = 0.0
        self._fresh = False
        self.on_msg(self._on_page)
        hear_while_busy(self)
        if kind is not None:
            self._show_as(kind)

    # -- the caller's thread ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Subscribe, and show what comes.

        Raises:
            ServiceUnavailable: There is nobody of that name.
        """
        sources.join(self, tuple(self.topics), self._place)
        self._shows = True

    def wait_shown(self, timeout: float) -> bool:
        """Wait until there is something to see; return whether there is."""
        return self._folded.wait(timeout)

    def close(self) -> None:
        """End it. May be called twice."""
        self._end()
        super().close()

    def _end(self) -> None:
        if self._shows:
            self._shows = False
            sources.leave(self, tuple(self.topics), self._place)
            self._dropped_before = self._dropped

    def __repr__(self) -> str:
        topics = ", ".join(self.topics) or "all topics"
        shown = self._picture.text() if self._picture is not None else ""
        head = f"stream of {topics}: {self._received:,} messages, {self._dropped:,} dropped"
        if not in_notebook():
            head += "; it is live in a notebook only. Here: for m in znb.subscribe(…), or `znb subscribe` in a shell"
        return f"{head}\n{shown}" if shown else head

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if isinstance(bundle, tuple):
            return ({**bundle[0], "text/plain": repr(self)}, *bundle[1:])
        return bundle

    # -- the page ---------------------------------------------------------------------------------------------

    def _on_page(self, _widget: Any, content: dict[str, Any], _buffers: list[Any]) -> None:
        kind, view = content.get("type"), str(content.get("view", ""))
        if kind == "resync":
            self._wanted = True
        elif kind == "view":
            self._hidden[view] = not content.get("visible", True)
            self._wanted = self._wanted or bool(content.get("visible"))
            if content.get("gone"):
                self._hidden.pop(view, None)
                if not self._hidden:
                    self._end()  # the cell was cleared or the page closed; one that comes back begins anew
                return
            if not self._shows:
                self.start()

    # -- the source's thread -----------------------------------------------------------------------------------

    def turn(self, messages: Sequence[Message], dropped: int) -> None:
        """Do a turn; one that fails, as with a value that a page cannot be sent, does not end the view."""
        try:
            self._turn(messages, self._dropped_before + dropped)
        except Exception:
            if not self._failed and self._shows:
                logger.exception("the view of %s could not be brought up to date", ", ".join(self.topics))
            self._failed = True
            self._wanted = True  # what was on its way is in a full frame

    def _turn(self, messages: Sequence[Message], dropped: int) -> None:
        self._fold(messages)
        if self._received:
            self._folded.set()
        if dropped != self._dropped:
            self._dropped, self._fresh = dropped, True
        now = time.monotonic()
        looked_at = not self._hidden or not all(self._hidden.values())
        full = self._wanted
        if not (looked_at or full):
            return
        if self._picture is None or not (self._fresh or full):
            if now - self._sent_at > ALIVE_INTERVAL:
                self._sent_at = now
                self.send({"type": "alive"})
            return
        self._wanted = self._fresh = False
        self._sent_at = now
        self._number += 1
        frame = self._picture.frame(full=False)
        self.send(self._content(frame), frame.buffers)
        if full or now >= self._keyframe_due:
            began = time.thread_time()
            frame = self._picture.frame(full=True)
            self.keyframe = {**self._content(frame), "buffers": frame.buffers}
            wanted = (time.thread_time() - began) / KEYFRAME_SHARE
            self._keyframe_due = now + min(max(KEYFRAME_INTERVAL, wanted), KEYFRAME_INTERVAL_MAX)

    def _fold(self, messages: Sequence[Message]) -> None:
        """Fold messages into the picture: what is done most often here, thousands of times a second."""
        unreadable = 0
        for message in messages:
            try:
                value = message.value
            except ZnbError:
                unreadable += 1
                continue
            try:
                if self._picture is None:
                    self._show_as(self._asked_kind or guess_kind(value))
                source = message.source if message.cluster == self._first_cluster else self._name_of(message)
                shown = self._picture is not None and self._picture.add(
                    Seen(message.topic, source, message.time, value)
                )
            except Exception:  # whatever a value of the user's does when it is looked at, others follow
                logger.warning("a value on %r cannot be shown", message.topic, exc_info=True)
                shown = False
            if not shown:
                self._unfit += 1
        self._received += len(messages)
        self._unreadable += unreadable
        self._fresh = self._fresh or len(messages) > unreadable

    def _name_of(self, message: Message) -> str:
        """Return what a source is called: with its cluster, if that is not the first one that was heard."""
        if not message.cluster:
            return message.source
        if self._first_cluster is None:
            self._first_cluster = message.cluster
        return message.source if message.cluster == self._first_cluster else f"{message.cluster}/{message.source}"

    def _show_as(self, kind: Kind) -> None:
        self._picture = make_picture(kind, self._x)
        if kind == "line":
            self.library = read_bundle("uplot.js")
        self.kind = kind

    def _content(self, frame: Frame) -> dict[str, Any]:
        return {
            "type": "frame",
            "number": self._number,
            "received": self._received,
            "dropped": self._dropped,
            "unreadable": self._unreadable,
            "unfit": self._unfit,
            **frame.content,
        }


def in_notebook() -> bool:
    """Whether there is a front end that can show widgets."""
    return hasattr(get_ipython(), "kernel")


def stream(*topics: str, kind: str | None = None, x: str | None = None, at: str = EVERYWHERE) -> StreamView:
    """Show what is published on some topics, live, below the cell.

    Args:
        topics: Beginnings of topics; none for all.
        kind: ``line``, ``table``, ``log`` or ``image``; ``None`` to follow from the first value.
        x: The key of the horizontal axis of lines, such as ``"epoch"``; ``None`` for one that counts, else the time.
        at: Where from (see ``znb.subscribe``).

    Returns:
        A widget, which is the cell's value. ``close()`` ends it.

    Raises:
        TypeError: A topic or ``at`` is not text.
        ValueError: There is no such kind, or a topic cannot be one.
        ServiceUnavailable: There is nobody of the name ``at``, or it is no address.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    for topic in topics:
        check_topic(topic, hint="several: znb.stream('loss', 'accuracy')")
    view = StreamView(topics, kind=kind, x=x, place=at)
    try:
        view.start()
        if not in_notebook():
            view.wait_shown(FIRST_LOOK)  # a text of this moment is all that there will be
    except BaseException:
        view.close()
        raise
    return view
