"""What is known of a service that does not answer: its process is gone, or frozen, or busy with other calls.

Invariants: a call that runs is waited for without a word; so is any for ``SAY_AFTER`` seconds, and those of other
threads than the main one, which nobody watches. Each reason is said once in a call. A ``Silence`` belongs to the thread
that waits; a ``Peer`` to any.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from znb import wire
from znb.connection import process_start
from znb.errors import ServiceUnavailable, ZnbError
from znb.rpc import registry, values

__all__ = ["Peer", "Process", "Silence"]

#: Seconds without an answer before anything is said of it, and between questions.
SAY_AFTER = 1.0
#: Seconds for which a peer that was not heard gets calls only if the others have many.
AVOID_FOR = 10.0


class Process:
    """A process of this machine; never another that has its id later."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._start = process_start(pid)

    @property
    def gone(self) -> bool:
        """Whether it has ended; one that nobody has waited for has."""
        return not self._start or process_start(self.pid) != self._start

    def loss(self, url: str) -> ServiceUnavailable | None:
        """Return what its end means to calls to an address of it that is still open; ``None`` if it has not ended."""
        if not self.gone:
            return None
        return ServiceUnavailable(
            url, f"its process {self.pid} has ended; a child of it holds the address, and answers nothing"
        )

    @property
    def frozen(self) -> bool:
        """Whether it is stopped (SIGSTOP, Ctrl-Z, a debugger)."""
        import psutil  # noqa: PLC0415 - 10 ms that only those who wait need

        try:
            return psutil.Process(self.pid).status() in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}
        except psutil.Error:
            return False


class Peer:
    """Who is at an address, and since when it owes an answer.

    Args:
        name: What the service is called.
        url: Where it listens.

    Attributes:
        process: Whose address it is, if it is a registered service of this machine.
    """

    __slots__ = ("_unheard_since", "name", "process", "url")

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.process: Process | None = None
        self._unheard_since = 0.0
        self.find_process()

    def find_process(self) -> Process | None:
        """Return the process, looked up anew if it is gone."""
        if self.process is None or self.process.gone:
            pid = registry.find_pid(self.url)
            self.process = None if pid is None else Process(pid)
        return self.process

    def asked(self) -> None:
        """Note that a call was sent."""
        now = time.monotonic()
        if not self._unheard_since or now - self._unheard_since > AVOID_FOR:
            self._unheard_since = now

    def heard(self) -> None:
        """Note that it answered something."""
        self._unheard_since = 0.0

    @property
    def silent(self) -> bool:
        """Whether it has owed an answer for too long to be given more to do."""
        since = self._unheard_since
        return bool(since) and SAY_AFTER < time.monotonic() - since < AVOID_FOR


class Silence:
    """One wait for an answer that does not come.

    Args:
        peer: Who is to answer.
        process: Its process when the connection was made; ``None`` if it is not known.
        ask: Asks the peer for its figures and returns the channel of the answer; ``None`` if it cannot be asked.
    """

    def __init__(self, peer: Peer, process: Process | None, ask: Callable[[], int] | None) -> None:
        self._peer = peer
        self._process = process
        self._ask = ask
        self._began = self._asked_at = time.monotonic()
        self._channel: int | None = None
        self._said: set[str] = set()
        self._watched = threading.current_thread() is threading.main_thread()

    def look(self, *, connected: bool) -> ServiceUnavailable | None:
        """Say what is known by now; return an error if no answer will come."""
        process, peer = self._process, self._peer
        if process is not None and (loss := process.loss(peer.url)) is not None:
            return loss
        now = time.monotonic()
        if not self._watched or now - self._began < SAY_AFTER:
            return None
        if process is not None and process.frozen:
            self._channel, self._asked_at = None, now  # once it goes on it needs a while
            pid = process.pid
            self._say("frozen", f"is frozen (stopped by a signal); `kill -CONT {pid}` lets it go on")
        elif not connected:
            self._say("unconnected", "has not taken the connection yet")
            self._asked_at = now
        elif self._channel is None:
            if self._ask is not None and (now - self._asked_at >= SAY_AFTER):
                self._channel, self._asked_at = self._ask(), now
        elif now - self._asked_at >= SAY_AFTER:
            self._say("silent", "does not answer: native code holds its interpreter, or its machine is out of reach")
        return None

    def hear(self, event: wire.Event) -> None:
        """Take an event that is not of the call."""
        if self._channel is None or event.headers.get("response_to") != self._channel:
            return
        self._channel = None
        self._peer.heard()
        try:
            told: Any = values.decode(event.args, event.buffers)[0] if event.name == wire.OK else None
        except ZnbError:
            return
        if isinstance(told, dict) and told.get("waiting"):
            running, waiting = told.get("running"), told["waiting"]
            self._say(
                "busy", f"is busy: its calls take all its threads (running: {running}, waiting for one: {waiting})"
            )

    def _say(self, reason: str, text: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            print(f"waiting: {self._peer.name} {text}", file=sys.stderr, flush=True)
