"""Where the processes of workers live: this machine, with their parent (``LocalHome``), or the hosts of an engine.

``znb.nursery`` says which processes there are to be; a *home* makes them and tells what becomes of them. That is all
that differs between a cluster on this machine and one on many: see ``znb.launchers.hosts`` for the other home.

Invariants: for each process made, ``on_dead`` is called once, with its certificate, and ``on_ready`` at most once
before. Everything runs on the supervisor's one thread and waits for nothing. Source: wait4(2).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import resource
import selectors
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from znb.child import Child, Entry, fork_child, spawn_child
from znb.connection import WorkerSpec
from znb.errors import ZnbError
from znb.keys import WorkerKeys
from znb.lifecycle import DeathCertificate
from znb.postmortem import OomWatch
from znb.rundir import remove_services, socket_path
from znb.signs import Sign

__all__ = ["NOWHERE", "Home", "Kin", "LocalHome", "Process"]

logger = logging.getLogger("znb.zygote")

#: The machine of a worker that has no place yet.
NOWHERE = "?"


class Process(Protocol):
    """A worker's process, as the nursery handles it (see ``znb.child.Child``).

    Attributes:
        spec: What it was told, with the addresses where it listens once it is ready.
        pid: Its process id; 0 if that is not known yet.
        ready: Whether it serves.
        intent: What it was told to end for: ``"stop"``, ``"restart"``, ``"kill"``, or nothing.
    """

    spec: WorkerSpec
    pid: int
    ready: bool
    intent: str

    @property
    def host(self) -> str:
        """Name of its machine; empty for this one, ``NOWHERE`` if it waits for a place."""

    def signal(self, signum: int, *, group: bool = False) -> None:
        """Send it a signal; to its whole group if asked. Nothing happens if it is gone."""

    def end(self, intent: str, patience: float) -> None:
        """Tell it to end; it is killed if it has not after ``patience`` seconds."""


@dataclasses.dataclass(slots=True, frozen=True)
class Kin:
    """Who is told of a process.

    Attributes:
        on_ready: Called when it serves.
        on_dead: Called when it is gone.
        on_failed: Called when it cannot be made after all, with why; for homes that do not know at once.
        on_sign: Called when it says where something of it is found; for those whose processes are elsewhere.
    """

    on_ready: Callable[[Process], object]
    on_dead: Callable[[Process, DeathCertificate], object]
    on_failed: Callable[[Process, str], object]
    on_sign: Callable[[Process, Sign], object]


class Home(Protocol):
    """Makes the processes of workers, and watches them.

    Attributes:
        notes: What the user should know of it, such as hosts with other versions.
        elastic: Whether places come and go.
    """

    notes: tuple[str, ...]
    elastic: bool

    def make(self, spec: WorkerSpec, kin: Kin) -> Process:
        """Make a process; its addresses are for the home to choose.

        Raises:
            OSError: There is no more room for one.
            ZnbError: There cannot be one at all.
        """

    def change_keys(self, keys: WorkerKeys) -> None:
        """Have processes that are made from now on let in whom these keys name."""

    def has_process(self, pid: int) -> bool:
        """Whether a process of this machine is a worker's, or was started by one and has stayed in its group."""

    def places(self) -> int | None:
        """Return how many workers it has places for; ``None`` if that is not known yet."""

    def demand(self, workers: int) -> None:
        """The jobs there are could use so many workers."""

    def reap(self) -> None:
        """Deal with the processes of this machine that have ended (SIGCHLD)."""

    def next_due(self) -> float:
        """Return the monotonic time at which ``check_time`` has something to do; infinity for never."""

    def check_time(self, now: float) -> None:
        """Do what is due."""

    def kill_all(self) -> None:
        """Kill every process; for a supervisor that has failed itself."""

    def close(self) -> None:
        """Begin to let go of everything; there are no workers any more. May be called twice."""

    @property
    def closed(self) -> bool:
        """Whether that has come to its end."""


class LocalHome:
    """Workers on this machine, children of this process.

    Args:
        entry: What workers run; ``None`` if they are not forked but started.
        target: That as ``module:function``.
        selector: Watches their descriptors; the values of its keys are called with the event mask.
        abandon: Called in a fork, to close what belongs to its parent.
        sockets: Directory for their sockets; ``None`` if they listen on tcp.
        bind: Where they listen then, as for ``WorkerSpec``.
        keys: Whom they let in.
    """

    notes: tuple[str, ...] = ()
    elastic = False
    closed = True

    def __init__(
        self,
        entry: Entry | None,
        target: str,
        selector: selectors.BaseSelector,
        abandon: Callable[[], object],
        *,
        sockets: Path | None,
        bind: str = "",
        keys: WorkerKeys | None = None,
    ) -> None:
        self._entry = entry
        self._target = target
        self._selector = selector
        self._abandon_parent = abandon
        self._sockets = sockets
        self._bind = bind
        self._keys = keys
        self._parent_fd, self._life_fd = os.pipe()
        self._incarnation = os.urandom(2).hex()
        self._children: dict[int, tuple[Child, Kin]] = {}
        self._oom = OomWatch()

    def make(self, spec: WorkerSpec, kin: Kin) -> Child:
        """Make a process."""
        if self._sockets is not None and not self._sockets.is_dir():
            problem = f"the directory of the cluster's sockets, {self._sockets}, was removed from outside"
            raise ZnbError(f"{problem}; no new worker can be reached. Stop this cluster and start another")
        spec = self._specify(spec)
        if self._entry is not None:
            child = fork_child(spec, self._entry, self._abandon)
        else:
            child = spawn_child(spec, self._target)
        self._children[child.pid] = (child, kin)
        read = selectors.EVENT_READ
        self._selector.register(child.ready_fd, read, functools.partial(self._on_ready, child, kin))
        self._selector.register(child.output_fd, read, functools.partial(self._on_output, child))
        return child

    def change_keys(self, keys: WorkerKeys) -> None:
        """Have processes that are made from now on let in whom these keys name."""
        self._keys = keys

    def has_process(self, pid: int) -> bool:
        """Whether a process is a worker's, or was started by one and has stayed in its group."""
        if pid in self._children:
            return True
        try:
            return pid > 0 and os.getpgid(pid) in self._children
        except ProcessLookupError:
            return False

    def places(self) -> int:
        """Return one for each usable CPU."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def demand(self, workers: int) -> None:
        """Do nothing: there are the CPUs that there are."""

    def close(self) -> None:
        """Do nothing: what is here ends with the process."""

    def _specify(self, spec: WorkerSpec) -> WorkerSpec:
        def url(kind: str) -> str:
            if self._sockets is None or (self._bind and kind != "events"):
                return self._bind
            return f"ipc://{socket_path(self._sockets, spec.name, spec.generation, self._incarnation, kind)}"

        return msgspec.structs.replace(spec, calls=url("calls"), jobs=url("jobs"), events=url("events"),
                        parent_fd=self._parent_fd, keys=self._keys)  # fmt: skip

    def _abandon(self) -> None:
        """Close, in a fork, what belongs to its parent."""
        self._abandon_parent()
        os.close(self._life_fd)
        for child, _ in self._children.values():
            child.close()

    def _on_ready(self, child: Child, kin: Kin, _mask: int) -> None:
        if child.ready_fd < 0:
            return  # buried since select returned
        descriptor, was_ready = child.ready_fd, child.ready
        signs = child.read_ready()
        if child.ready_fd < 0:
            self._selector.unregister(descriptor)
        if child.ready and not was_ready:
            kin.on_ready(child)
        for sign in signs:
            kin.on_sign(child, sign)

    def _on_output(self, child: Child, _mask: int) -> None:
        descriptor = child.output_fd
        if descriptor >= 0:
            child.read_output()
            if child.output_fd < 0:
                self._selector.unregister(descriptor)

    # -- deaths ----------------------------------------------------------------------------------------------

    def next_due(self) -> float:
        """Return the monotonic time at which ``check_time`` has something to do; infinity for never."""
        due = [child.kill_at for child, _ in self._children.values() if child.kill_at is not None]
        return min(due, default=float("inf"))

    def check_time(self, now: float) -> None:
        """Kill those that have not ended in time."""
        for child, _ in self._children.values():
            if child.kill_at is not None and child.kill_at <= now:
                child.kill_at = None
                child.signal(signal.SIGKILL, group=True)

    def kill_all(self) -> None:
        """Kill every worker."""
        for child, _ in self._children.values():
            child.signal(signal.SIGKILL, group=True)

    def reap(self) -> None:
        """Deal with the processes that have ended."""
        struck = self._oom.look()
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:
                child, kin = self._children.pop(pid)
                kin.on_dead(child, self._bury(child, os.waitstatus_to_exitcode(status), usage, struck=struck))

    def _bury(self, child: Child, code: int, usage: resource.struct_rusage, *, struck: bool | None) -> DeathCertificate:
        for descriptor in (child.ready_fd, child.output_fd):
            if descriptor >= 0:
                self._selector.unregister(descriptor)
        oom = struck if code == -signal.SIGKILL and not child.intent else False
        scale = 1 if sys.platform == "darwin" else 1024
        certificate = child.bury(code, usage.ru_maxrss * scale, oom=oom)
        self._sweep(child)
        return certificate

    def _sweep(self, child: Child) -> None:
        """Remove the sockets and files that a process has left which was killed."""
        try:
            for url in (child.spec.calls, child.spec.jobs, child.spec.events, f"{child.spec.events}.count"):
                if url.startswith("ipc://"):
                    Path(url.removeprefix("ipc://")).unlink(missing_ok=True)
            remove_services(child.pid)
        except (OSError, ZnbError):  # no descriptor left, say; whoever finds them removes them
            logger.warning("could not remove what %s has left", child.spec.name, exc_info=True)
