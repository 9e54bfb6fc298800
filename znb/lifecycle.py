"""What launchers and supervisors tell of workers: their states, what became of them, and what happens.

These records are the same for every launcher. The local one gets them from the zygote (see ``znb.control``).
They are immutable, and may be handed from thread to thread.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from znb.keys import ClientKeys

__all__ = ["ClusterEvent", "DeathCertificate", "Snapshot", "WorkerStatus"]


#: Lines of output that a death certificate shows.
LAST_LINES = 10


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as its supervisor sees it.

    Attributes:
        name: Stable name.
        generation: How many processes had this name, this one included.
        pid: Its process id; 0 if it has none.
        state: ``starting``: not bound yet. ``ready``. ``stopping``: told to end. ``dead``: given up.
        calls: URL of its endpoint for calls.
        jobs: URL of its endpoint for jobs.
        events: URL of its endpoint for events.
        started: Unix time of its start.
        host: Name of its machine; empty for the supervisor's.
    """

    name: str
    generation: int
    pid: int
    state: Literal["starting", "ready", "stopping", "dead"]
    calls: str
    jobs: str
    events: str
    started: float
    host: str = ""


class DeathCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a worker process.

    Attributes:
        name: The worker's name.
        generation: Which process of this name it was.
        pid: Its process id.
        exit_status: Its exit status; ``None`` if a signal ended it.
        signal: Number of the signal that ended it; ``None`` if it exited.
        meaning: That in words, such as ``"was killed by SIGSEGV: invalid memory access in native code"``.
        oom: Whether the kernel's out-of-memory killer seems to have done it; ``None`` if that is not known.
        peak_rss_bytes: The most memory it held.
        dump: What ``faulthandler`` wrote: the Python stacks at a fatal signal.
        tail: The last of what it wrote, cells and jobs included.
        time: Unix time of its death.
        uptime: Seconds that it lived.
        was_ready: Whether it had got as far as serving.
        intentional: Whether a client had asked for it.
    """

    name: str
    generation: int
    pid: int
    exit_status: int | None
    signal: int | None
    meaning: str
    oom: bool | None
    peak_rss_bytes: int
    dump: str
    tail: str
    time: float
    uptime: float
    was_ready: bool
    intentional: bool

    def __str__(self) -> str:
        """Return everything that is known, over several lines."""
        return "\n".join([f"{self.name} (pid {self.pid}) {self.meaning}", *self.details()])

    def details(self) -> list[str]:
        """Return what else a user wants to know: the last lines of output, and where the code was."""
        details = []
        if lines := self.tail.rstrip().splitlines()[-LAST_LINES:]:
            details.append("last output:\n" + "\n".join(f"  {line}" for line in lines))
        if frames := _user_frames(self.dump):
            details.append("where it was, innermost first:\n" + "\n".join(frames))
        return details


def _user_frames(dump: str) -> list[str]:
    """Return the lines of faulthandler's dump that show the user's code, without those of the framework below it."""
    _, _, current = dump.partition("Current thread")
    frames = []
    for line in current.splitlines()[1:]:
        if not line.startswith("  File "):
            break
        if "/znb/" in line.partition(" line ")[0] or "/IPython/" in line:
            break
        frames.append(line)
    return frames


class ClusterEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something happened to a cluster. Events come in order, and each client gets all since its hello.

    Attributes:
        event: ``started``: a process was made for a new worker. ``replaced``: one was made for a worker whose
            last one is dead. ``ready``: it serves. ``died``: it ended unasked, or by ``kill``; it is replaced
            unless ``gave_up`` follows. ``stopped``: it ended as asked. ``gave_up``: it ended so often before it
            served that it is not replaced any more. ``scaled``: ``workers`` are the members from now on.
            ``stopping``: the cluster ends, for this ``reason``. ``lost``: contact with the supervisor is lost
            (made by the launcher). ``notice``: the user may want to know the ``reason`` why this takes its time.
            ``keys``: clients have other ``keys`` from now on.
        worker: The worker's state after the event.
        certificate: What became of its process.
        workers: All workers.
        reason: Why, for people.
        keys: What clients need to connect.
    """

    event: Literal[
        "started", "replaced", "ready", "died", "stopped", "gave_up", "scaled", "stopping", "lost", "notice", "keys"
    ]
    worker: WorkerStatus | None = None
    certificate: DeathCertificate | None = None
    workers: tuple[WorkerStatus, ...] | None = None
    reason: str = ""
    keys: ClientKeys | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a cluster: what every successful request returns.

    Attributes:
        cluster: Its name.
        pid: The zygote's process id.
        wire_version: Version of the wire protocol that its workers speak.
        workers: Its workers, in the order of their names' numbers.
        clients: How many clients have said hello.
        keep: Whether it goes on without clients.
        stopping: Whether it is about to end.
        notes: What its user should know, such as hosts with other versions.
        client_key: Public key that its clients need now; empty if they need none.
    """

    cluster: str
    pid: int
    wire_version: int
    workers: tuple[WorkerStatus, ...]
    clients: int
    keep: bool
    stopping: bool
    notes: tuple[str, ...] = ()
    client_key: str = ""
