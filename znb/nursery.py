"""The workers of one zygote: their names, their processes, and when the dead are replaced.

===================== ============================================ =========================================
a worker's process     ended because                                so it is
===================== ============================================ =========================================
starting, ready        it was asked to restart                      replaced at once: next generation
starting, ready        it retires, or its cluster stops             gone, its name free
ready                  anything else                                replaced at once, its certificate sent
starting               anything else, for the third time in a row   given up: start or restart tries again
starting               it was killed, for the tenth time in a row   given up, too
===================== ============================================ =========================================

Invariants: a name has at most one process at a time, and its generations only grow, also across scaling down and
up. Every end of a process is told by exactly one event with its certificate. Runs on the zygote's one thread, and
waits for nothing: what was asked for is a ``Goal``, to be judged whenever something has happened.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import signal
import time
from collections.abc import Iterable
from typing import Literal, Protocol

import msgspec

from znb.connection import WorkerSpec
from znb.control import ZygoteConfig
from znb.errors import NoWorkers, ZnbError
from znb.home import NOWHERE, Home, Kin, Process
from znb.lifecycle import DeathCertificate, WorkerStatus

__all__ = ["EventName", "Goal", "Nursery", "Tell"]

#: Times in a row that a worker may fail before it serves; a mistake in its start does not mend itself.
FAILURES_MAX = 3
#: Times in a row that one may be killed before it serves; that may be bad luck.
KILLS_MAX = 10
#: Workers in one cluster, by what fits into the names of sockets.
WORKERS_MAX = 10_000
#: Names that workers may have.
WORKER_NAME = re.compile(r"w\d{1,4}")

EventName = Literal[
    "started", "replaced", "ready", "died", "stopped", "gave_up", "scaled", "stopping", "notice", "keys"
]


class Tell(Protocol):
    """Whom the nursery tells what happens."""

    def __call__(
        self,
        event: EventName,
        worker: WorkerStatus | None = None,
        certificate: DeathCertificate | None = None,
        reason: str = "",
    ) -> None:
        """Take note of an event."""


@dataclasses.dataclass(slots=True, eq=False)
class Slot:
    """A worker's name, and the process that has it now.

    Attributes:
        name: The name.
        status: Its state when it had no process, or the last one had just been made.
        child: Its process, if it has one.
        generation: How many processes it has had.
        failures: How often in a row it ended before it served.
        leaving: Whether it is not to be replaced.
    """

    name: str
    status: WorkerStatus
    child: Process | None = None
    generation: int = 0
    failures: int = 0
    leaving: bool = False
    verdict: str = ""

    def current(self) -> WorkerStatus:
        """Return its state now."""
        if self.child is None:
            return msgspec.structs.replace(self.status, pid=0, state="dead")
        if self.child.intent in {"stop", "restart"}:
            return msgspec.structs.replace(self.status, state="stopping")
        return msgspec.structs.replace(self.status, state="ready" if self.child.ready else "starting")


@dataclasses.dataclass(slots=True)
class Goal:
    """What workers must have come to for a request to be fulfilled.

    Attributes:
        ready: Workers that must serve, and in which generation at least.
        gone: Processes that must be gone: names and generations.
    """

    ready: dict[str, int] = dataclasses.field(default_factory=dict)
    gone: dict[str, int] = dataclasses.field(default_factory=dict)


class Nursery:
    """Makes, watches and replaces workers.

    Args:
        config: What the zygote was told.
        home: Makes and watches their processes.
        tell: Called with everything that happens.
    """

    def __init__(self, config: ZygoteConfig, home: Home, tell: Tell) -> None:
        self._config = config
        self._home = home
        self._tell = tell
        self._slots: dict[str, Slot] = {}
        self._generations: dict[str, int] = {}
        self._children: list[Process] = []
        self._stopping = False
        #: So many workers are to be there, if there are as many places, which come and go; ``None`` if they do not.
        self.most: int | None = None

    @property
    def empty(self) -> bool:
        """Whether there is no process left."""
        return not self._children and self._home.closed

    def members(self) -> tuple[WorkerStatus, ...]:
        """Return the workers, in order, without those that leave."""
        slots = [slot for slot in self._slots.values() if not slot.leaving]
        return tuple(slot.current() for slot in sorted(slots, key=lambda slot: int(slot.name[1:])))

    # -- what clients ask for --------------------------------------------------------------------------------

    def count_places(self, n: int | None) -> int | None:
        """Return how many workers there can be of those asked for; ``None`` if that is not known yet.

        Args:
            n: How many are asked for; ``None`` for one for each place.
        """
        if n is not None and not self._home.elastic:
            return n
        places = self._home.places()
        if places is None or not self._home.elastic:
            return places
        self.most = WORKERS_MAX if n is None else n
        if places < (1 if n is None else n):
            there = f"{self._config.launcher} has {places} place{'s' * (places != 1)} now"
            self._tell("notice", reason=f"{there}; more workers come with more places")
        return min(places, self.most)

    def start(self, names: Iterable[str] | None, n: int) -> Goal:
        """Make sure that there are workers of these names; or of ``n`` names that are free."""
        wanted = self._free_names(n) if names is None else list(names)
        for name in wanted:
            if not WORKER_NAME.fullmatch(name):
                raise ZnbError(f"{name!r} cannot name a worker: expected w0 to w{WORKERS_MAX - 1}")
        return self._grow(wanted, Goal())

    def scale(self, n: int) -> Goal:
        """Have ``n`` workers; those with the highest numbers leave."""
        if not 0 <= n <= WORKERS_MAX:
            raise ZnbError(f"cannot scale to {n} workers: expected 0 to {WORKERS_MAX}")
        names = [worker.name for worker in self.members()]
        goal = self._leave(names[n:])
        return self._grow([*names[:n], *self._free_names(n - len(names))], goal)

    def follow_places(self) -> None:
        """Have a worker for each place, if that is wanted. Those that have a place keep it."""
        try:
            places = self._home.places() if self.most is not None and not self._stopping else None
        except NoWorkers:  # there will be no more, as those that wait for one have been told
            places = self.most = None
        if places is None or self.most is None:
            return
        places = min(places, self.most)
        names = [worker.name for worker in self.members()]
        if places > len(names):
            self._grow(self._free_names(places - len(names)), Goal())
        elif places < len(names):
            unplaced = [
                slot.name for slot in self._named(names) if slot.child is not None and slot.child.host == NOWHERE
            ]
            self._leave(unplaced[places - len(names) :])

    def retire(self, names: Iterable[str]) -> Goal:
        """Have workers leave for good; their names are free then."""
        goal = self._leave(names)
        self.most = None if self.most is None else len(self.members())
        return goal

    def _leave(self, names: Iterable[str]) -> Goal:
        goal = Goal()
        for slot in self._named(names):
            slot.leaving = True
            goal.gone[slot.name] = slot.generation
            if slot.child is None:
                del self._slots[slot.name]
            else:
                slot.child.end("stop", self._config.stop_grace)
        if goal.gone:
            self._tell("scaled")
        return goal

    def _grow(self, names: Iterable[str], goal: Goal) -> Goal:
        """Make sure that there are workers of these names; those that leave stay, as new processes."""
        before = len(self.members())
        for name in names:
            slot = self._slots.get(name)
            if slot is None:
                slot = self._slots[name] = Slot(name, _nobody(name), generation=self._generations.get(name, 0))
            goal.ready[name] = slot.generation
            if slot.leaving and slot.child is not None:
                slot.leaving = False
                slot.child.intent = "restart"
            if slot.child is None:
                slot.failures = 0
                self._make(slot)
        if len(self.members()) != before:
            self._tell("scaled")
        return goal

    def restart(self, names: Iterable[str] | None) -> Goal:
        """Replace workers (``None``: all) by new processes."""
        goal = Goal()
        for slot in self._named(names):
            goal.ready[slot.name] = slot.generation + 1
            slot.failures = 0
            if slot.child is not None:
                slot.child.end("restart", self._config.stop_grace)
            else:
                self._make(slot)
        return goal

    def kill(self, names: Iterable[str], signum: int) -> None:
        """Kill workers' processes, with their certificates saying that it was asked for."""
        for slot in self._named(names):
            if slot.child is not None:
                slot.child.intent = slot.child.intent or "kill"
                slot.child.signal(signum)

    def signal(self, names: Iterable[str], signum: int, *, group: bool) -> None:
        """Send workers a signal; with ``group`` to the processes that they have started, too."""
        for slot in self._named(names):
            if slot.child is not None:
                slot.child.signal(signum, group=group)

    def stop(self) -> None:
        """Tell every worker to end. None is replaced from now on."""
        self._stopping = True
        for child in list(self._children):
            child.end("stop", self._config.stop_grace)
        if not self._children:
            self._home.close()

    def judge(self, goal: Goal) -> str | None:
        """Return why a goal will not be reached, ``""`` if it has been, ``None`` if that is open."""
        for name, generation in goal.ready.items():
            slot = self._slots.get(name)
            if (slot is None or slot.leaving) and self.most is not None and not self._stopping:
                continue  # its place is gone
            if slot is None or slot.leaving or self._stopping:
                return f"{name} was stopped before it was ready"
            if slot.child is None:
                return slot.verdict
            if not slot.child.ready or slot.generation < generation or slot.child.intent == "restart":
                return None
        for name, generation in goal.gone.items():
            slot = self._slots.get(name)
            if slot is not None and slot.child is not None and slot.generation <= generation:
                return None
        return ""

    def _named(self, names: Iterable[str] | None) -> list[Slot]:
        members = {worker.name: self._slots[worker.name] for worker in self.members()}
        if unknown := [name for name in names or () if name not in members]:
            raise ZnbError(f"there is no worker {', '.join(unknown)}; there are {', '.join(members) or 'none'}")
        return [members[name] for name in (members if names is None else names)]

    def _free_names(self, n: int) -> list[str]:
        """Return the first ``n`` names that no member has."""
        members = {worker.name for worker in self.members()}
        if n > WORKERS_MAX - len(members):
            raise ZnbError(f"cannot start {n} more workers: there may be {WORKERS_MAX}, and are {len(members)}")
        free = (f"w{number}" for number in range(WORKERS_MAX) if f"w{number}" not in members)
        return [name for _, name in zip(range(n), free, strict=False)]

    # -- making them -----------------------------------------------------------------------------------------

    def _make(self, slot: Slot) -> None:
        """Make a process for a worker that has none."""
        slot.generation = self._generations[slot.name] = slot.generation + 1
        slot.status = msgspec.structs.replace(_nobody(slot.name), generation=slot.generation, started=time.time())
        spec = WorkerSpec(
            name=slot.name, generation=slot.generation, cluster=self._config.name,
            cluster_dir=self._config.cluster_dir, calls="", jobs="", events="",
            parent_fd=-1, ready_fd=-1, crash_fd=-1,
        )  # fmt: skip
        kin = Kin(
            functools.partial(self._on_ready, slot),
            functools.partial(self._on_dead, slot),
            functools.partial(self._on_failed, slot),
            lambda _child, _sign: None,  # its home has put it up
        )
        try:
            child = self._home.make(spec, kin)
        except OSError as error:
            self._give_up(slot, f"could not be started: {error}")
            return
        except ZnbError as error:
            self._give_up(slot, f"could not be started: {error}")
            return
        slot.child = child
        self._children.append(child)
        spec = child.spec
        slot.status = msgspec.structs.replace(
            slot.status, pid=child.pid, host=child.host, calls=spec.calls, jobs=spec.jobs, events=spec.events
        )
        self._tell("started" if slot.generation == 1 else "replaced", slot.current())

    def _on_ready(self, slot: Slot, child: Process) -> None:
        if slot.child is child:
            slot.failures = 0
            spec = child.spec
            slot.status = msgspec.structs.replace(
                slot.status, pid=child.pid, host=child.host, calls=spec.calls, jobs=spec.jobs, events=spec.events
            )
            self._tell("ready", slot.current())

    # -- deaths ----------------------------------------------------------------------------------------------

    def _on_failed(self, slot: Slot, child: Process, reason: str) -> None:
        """Take note that a process could not be made after all."""
        self._children.remove(child)
        slot.child = None
        if self._stopping or slot.leaving:
            del self._slots[slot.name]
        else:
            self._give_up(slot, f"could not be started: {reason}")

    def _on_dead(self, slot: Slot, child: Process, certificate: DeathCertificate) -> None:
        self._children.remove(child)
        slot.child = None
        if self._stopping or slot.leaving:
            status = slot.current()
            del self._slots[slot.name]
            self._tell("stopped", status, certificate)
        elif child.intent == "restart":
            self._tell("stopped", slot.current(), certificate)
            self._make(slot)
        else:
            self._tell("died", slot.current(), certificate)
            self._replace(slot, certificate)
        if self._stopping and not self._children:
            self._home.close()

    def _replace(self, slot: Slot, certificate: DeathCertificate) -> None:
        """Make the next process for a worker that died, unless that has proved to be of no use."""
        slot.failures = 0 if certificate.was_ready or certificate.intentional else slot.failures + 1
        killed = certificate.signal in {signal.SIGKILL, signal.SIGTERM}
        if slot.failures < (KILLS_MAX if killed else FAILURES_MAX):
            self._make(slot)
        else:
            self._give_up(slot, f"ended {slot.failures} times before it served. {certificate}", certificate)

    def _give_up(self, slot: Slot, verdict: str, certificate: DeathCertificate | None = None) -> None:
        slot.verdict = f"{slot.name} {verdict}"
        self._tell("gave_up", slot.current(), certificate, reason=slot.verdict)


def _nobody(name: str) -> WorkerStatus:
    """Return the state of a worker that has never had a process."""
    return WorkerStatus(name=name, generation=0, pid=0, state="dead", calls="", jobs="", events="", started=0.0)
