"""What a head knows of its hosts, and of the workers' processes on them (see ``znb.launchers.hosts``).

Both belong to the head's one thread.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import importlib.metadata
import platform
import selectors
import socket
import time
from collections.abc import Callable, Collection, Sequence
from typing import Literal, Protocol

import msgspec

import znb
from znb.connection import WorkerSpec
from znb.home import NOWHERE, Kin
from znb.launchers import line
from znb.launchers.engine import Line
from znb.lifecycle import DeathCertificate
from znb.wire import WIRE_VERSION

__all__ = ["FarProcess", "Host", "Inbox", "choose_host", "compare_versions", "refuse_wire", "waiting_text"]

#: Seconds for what ends a moment after its line to have ended, and said why.
LAST_WORDS = 0.2


class Sender(Protocol):
    """What a process needs of its home (``znb.launchers.hosts.HostsHome``)."""

    def send(self, host: Host, message: msgspec.Struct, /) -> None:
        """Send a message to a host's agent."""

    def post(self, fn: Callable[..., object], /, *args: object) -> None:
        """Have the head's thread call ``fn(*args)``."""

    def forget(self, process: FarProcess, reason: str, /) -> None:
        """Take a process for dead."""


class FarProcess:
    """A worker's process on a host (see ``znb.home.Process``).

    Attributes:
        place: Its host, once it has one.
        asked: Whether its host's agent has been told to make it.
    """

    def __init__(self, home: Sender, spec: WorkerSpec, kin: Kin) -> None:
        self.spec = spec
        self.kin = kin
        self.pid = 0
        self.ready = False
        self.intent = ""
        self.place: Host | None = None
        self.asked = False
        self.born = time.monotonic()
        self._home = home

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from all others."""
        return self.spec.name, self.spec.generation

    @property
    def host(self) -> str:
        """Name of its machine."""
        return self.place.name if self.place is not None else NOWHERE

    def signal(self, signum: int, *, group: bool = False) -> None:
        """Send it a signal; to its whole group if asked."""
        if self.place is not None:
            self._home.send(self.place, line.Signal(self.spec.name, self.spec.generation, signum, group))

    def end(self, intent: str, patience: float) -> None:
        """Tell it to end; it is killed if it has not after ``patience`` seconds."""
        self.intent = intent
        if self.asked and self.place is not None:
            self._home.send(self.place, line.End(self.spec.name, self.spec.generation, intent, patience))
        else:
            self._home.post(self._home.forget, self, "had not been started yet")

    def certify(self, reason: str) -> DeathCertificate:
        """Return the certificate of a process of which nothing more will be heard."""
        return DeathCertificate(
            name=self.spec.name, generation=self.spec.generation, pid=self.pid, exit_status=None, signal=None,
            meaning=reason, oom=None, peak_rss_bytes=0, dump="", tail="", time=time.time(),
            uptime=time.monotonic() - self.born, was_ready=self.ready, intentional=bool(self.intent),
        )  # fmt: skip


@dataclasses.dataclass(slots=True, eq=False)
class Host:
    """One host.

    Attributes:
        name: As the engine calls it.
        slots: Workers that it has places for; 0 if that is not known yet.
        state: See the table.
        carrier: What leads to its agent, if it has one.
        end: The head's end of the line.
        hello: What the agent said of itself.
        workers: The processes that are there, or shall be.
        heard: Monotonic time of its last sign of life.
        due: Monotonic time at which it is to be tried again, or has to be up.
        failures: How often in a row it could not be reached.
        was_up: Whether it was up once, so that it is tried again.
        reached: How its workers are: at their own addresses, at those that the user has chosen, or through the engine.
    """

    name: str
    slots: int
    state: Literal["opening", "up", "down", "failed"] = "opening"
    carrier: Line | None = None
    end: line.LineEnd | None = None
    hello: line.Hello | None = None
    workers: dict[tuple[str, int], FarProcess] = dataclasses.field(default_factory=dict)
    heard: float = 0.0
    due: float = 0.0
    failures: int = 0
    was_up: bool = False
    reached: Literal["directly", "asked", "forward"] = "directly"

    def share(self) -> float:
        """Return how full it is."""
        return len(self.workers) / max(1, self.slots)

    def last_words(self) -> str:
        """Return what a failed agent, or what carries its line, has left, for the end of a message."""
        if self.carrier is None:
            return ""
        deadline = time.monotonic() + LAST_WORDS
        while self.carrier.running() and time.monotonic() < deadline:
            time.sleep(0.005)
        words = self.carrier.errors() or (self.end.noise if self.end is not None else "")
        if "znb is not installed there" in words:
            words += f"\nInstall it there: python -m pip install znb=={znb.__version__}"
        return f":\n{words}" if words else ""


class Inbox:
    """Calls that other threads want the head's thread to make, in their order.

    Args:
        selector: The head's.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._posted: collections.deque[Callable[[], object]] = collections.deque()
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        selector.register(self._read, selectors.EVENT_READ, self._on_posted)

    def post(self, fn: Callable[..., object], /, *args: object) -> None:
        """Have the head's thread call ``fn(*args)``. Any thread."""
        self._posted.append(functools.partial(fn, *args))
        with contextlib.suppress(BlockingIOError):
            self._write.send(b"\0")

    def _on_posted(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._read.recv(4096)
        while self._posted:
            self._posted.popleft()()


def choose_host(hosts: Collection[Host], last: Host | None, wanted: int, *, crowded: bool) -> Host | None:
    """Return where one more process goes; ``None`` if it has to wait.

    Args:
        hosts: Those that there are.
        last: Where the one before it of its name was.
        wanted: Processes that there are to be in all.
        crowded: Whether hosts take more than they have places, if there are more processes than places in all.
    """
    there = [host for host in hosts if host.state in {"opening", "up"}]
    free = [host for host in there if len(host.workers) < host.slots or (not host.slots and not host.workers)]
    if last in free:
        return last
    if free:
        return min(free, key=Host.share)
    known = all(host.slots for host in hosts)
    if there and known and crowded and wanted > sum(host.slots for host in hosts):
        return min(there, key=Host.share)
    return None


def waiting_text(names: Sequence[str], hosts: Collection[Host], launcher: str) -> str:
    """Return what workers wait for; nothing if their hosts are being reached for.

    Args:
        names: The workers.
        hosts: Those that there are.
        launcher: What gives places; empty if it gives more when it is asked to.
    """
    down = ", ".join(host.name for host in hosts if host.state == "down")
    if names and down:
        return f"waiting: {', '.join(names)} for {down} to be reached again"
    if names and hosts and launcher and all(host.slots for host in hosts):
        places = sum(host.slots for host in hosts)
        return f"waiting: {', '.join(names)} for a place; {launcher} has {places}, and all are taken"
    return ""


def refuse_wire(name: str, hello: line.Hello) -> str:
    """Return why a host cannot be used whose workers speak another wire protocol; empty if they speak this one."""
    if hello.wire == WIRE_VERSION:
        return ""
    return (
        f"{name} has znb {hello.znb}, which speaks version {hello.wire} of the wire protocol; here is "
        f"{znb.__version__}, which speaks {WIRE_VERSION}: install znb {znb.__version__} there"
    )


def compare_versions(name: str, hello: line.Hello) -> list[str]:
    """Return what will not work with a host's versions, a line for each difference that matters."""
    notes = []
    python, dill = platform.python_version(), importlib.metadata.version("dill")
    if python.rpartition(".")[0] != hello.python.rpartition(".")[0]:
        notes.append(
            f"{name} runs Python {hello.python}, this process {python}: functions and classes that are defined in a "
            f"notebook cannot go there, those of installed modules can"
        )
    if hello.znb != znb.__version__:
        notes.append(f"{name} has znb {hello.znb}, this process {znb.__version__}: use the same")
    if hello.dill != dill:
        notes.append(
            f"{name} has dill {hello.dill}, this process {dill}: functions and classes that are defined in a notebook "
            f"may not be understood there; install dill {dill}"
        )
    return notes
