"""What this process publishes: ``znb.publish``.

Invariants: a process that never publishes has no socket and no thread for it; in a forked child nothing of the parent's
is used. Any thread may call.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import zmq

from znb.errors import CallTimeout, ProtocolError, ServiceUnavailable
from znb.pubsub.home import home
from znb.pubsub.messages import Done, Item, Put, check_topic, decode_message, encode_message, encode_value
from znb.pubsub.places import EVERYWHERE, check_place, dial, events_url, find_sockets, is_url
from znb.pubsub.publisher import Publisher, PublisherStats, source_name
from znb.signs import OUTSIDE, Sign
from znb.transport.sockets import prepare_socket

__all__ = ["Streams", "publish", "streams"]

logger = logging.getLogger("znb.pubsub")

#: Seconds that a process elsewhere has to take a value.
PUT_TIMEOUT = 5.0


class Streams:
    """The publisher of one process, made when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._publisher: Publisher | None = None
        self._pid = 0
        self._at_exit = False

    @property
    def source(self) -> str:
        """What this process is called in its messages."""
        if home.address is not None:
            return home.address.source
        return source_name(sys.argv, kernel="ipykernel.kernelapp" in sys.modules)

    @property
    def publisher(self) -> Publisher:
        """This process's publisher, which listens."""
        made = self._publisher
        if made is not None and self._pid == os.getpid():
            return made
        with self._lock:
            if self._publisher is None or self._pid != os.getpid():
                source = self.source
                address, outside = home.address, OUTSIDE.place
                made = Publisher(
                    address.url if address else events_url(source),
                    source,
                    address.cluster if address else "",
                    outside.gate if address and outside else None,
                )
                made.start()
                OUTSIDE.tell(Sign("events", made.key, made.url))
                self._publisher, self._pid = made, os.getpid()
                if not self._at_exit:
                    self._at_exit = True
                    atexit.register(self.close)
            return self._publisher

    def stats(self) -> PublisherStats | None:
        """Return what this process publishes; ``None`` if it does not."""
        made = self._publisher if self._pid == os.getpid() else None
        return made.stats() if made is not None else None

    def close(self) -> int:
        """Send what is left, and publish no more until somebody does. May be called twice.

        Returns:
            How many subscribers have got something.
        """
        with self._lock:
            made, self._publisher = self._publisher, None
        if made is None or self._pid != os.getpid():
            return 0
        heard = made.close()
        OUTSIDE.tell(Sign("events", made.key))
        return heard


#: The streams of this process. ``publish`` is called from anywhere, so there is nobody who could hold them.
streams = Streams()


def publish(topic: str, value: Any, *, at: str = EVERYWHERE) -> None:
    """Publish a value: whoever subscribes to its topic gets it, and whoever does so later gets the last one.

    Returns at once, and takes some microseconds whether anybody listens or not; the first one of a process waits until
    those who listen have got it, at most 0.2 s. The value is copied, so it may be changed afterwards. It goes with
    its process: one that ends sends what is left first, and what one that was killed had not sent is counted.

    Args:
        topic: What it is about, such as ``"loss"`` or ``"loss/train"``.
        value: Anything that can be sent; plain values, arrays and tables can be read on other machines too.
        at: The process in whose place to publish, such as a URL of one that others subscribe to; default: this one.

    Raises:
        SerializationError: The value cannot be sent.
        TypeError: The topic is not text, or ``at`` is not.
        ValueError: The topic is empty, too long, or holds what is no character.
        ServiceUnavailable: There is nobody of that name.
        CallTimeout: Nobody answers at ``at``.

    Example:
        >>> publish("doc/epoch", {"epoch": 3, "loss": 0.12})
    """
    check_topic(topic)
    if not topic:
        raise ValueError("a topic has at least one character, got ''")
    check_place(at)
    if sys.is_finalizing():  # threads have been stopped for ever: a ``__del__`` would wait for them as long
        logger.warning("a value on %r was published too late: this process ends", topic)
        return
    content, frames, size = encode_value(value, home.codec)
    if at == EVERYWHERE:
        streams.publisher.post(topic, content, frames, size)
        if not threading.main_thread().is_alive():  # in atexit: ``close`` may have been called, and is not again
            streams.close()
    else:
        url = min(find_sockets(at), default=at)  # one of them, or each subscriber would get it several times
        put(url, Item(topic, 0, 0, time.time(), streams.source, content), frames)


_ids = itertools.count(1)


def put(url: str, item: Item, frames: tuple[bytes, ...], timeout: float = PUT_TIMEOUT) -> None:
    """Have another process publish something, and wait until it has.

    Raises:
        ServiceUnavailable: There is no such address.
        CallTimeout: It does not answer.
        ProtocolError: It refuses, or does not speak of streams.
    """
    identifier = next(_ids)
    if not is_url(url):
        raise ServiceUnavailable(url, "nothing has been published there yet, so there is nobody who could")
    if url.startswith("ipc:///") and not Path(url.removeprefix("ipc://")).exists():
        raise ServiceUnavailable(url, "there is no such socket", hint="its process has ended, or has not published yet")
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        prepare_socket(socket, url)
        try:
            dial(socket, url)
        except zmq.ZMQError as error:
            raise ServiceUnavailable(url, f"this is no address ({error})") from None
        socket.send_multipart([encode_message(Put(identifier, item)), *frames])
        deadline = time.monotonic() + timeout
        while socket.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            answer = decode_message(socket.recv_multipart()[0])
            if isinstance(answer, Done) and answer.id == identifier:
                if answer.problem:
                    raise ProtocolError(f"{url} did not publish on {item.topic!r}: {answer.problem}")
                return
    raise CallTimeout(f"publishing at {url}", timeout)
