"""What attaches this process to a cluster: the I/O thread, the launcher, a link to each worker, and the jobs there.

``znb.cluster`` is what its user holds; this is what stands behind it, and begins and ends it in the right order.

Invariants: usable from any thread. What was begun is ended once, by whoever comes first: the user, the end of the
process, or somebody else who ends the cluster.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from znb.collector import Collector
from znb.descriptors import ensure_descriptors
from znb.errors import ZnbError
from znb.executor.client import JobClient
from znb.executor.groups import Show
from znb.executor.submits import Submits
from znb.holdings import Spread
from znb.keys import renew
from znb.launchers import EventHandler, Launcher, ReactorLike
from znb.lifecycle import ClusterEvent, Snapshot
from znb.locks import Event
from znb.membership import Membership
from znb.serialize import Codec
from znb.shared import Shared
from znb.standing import Standing
from znb.tracing import TRACES
from znb.transport import Reactor

__all__ = ["Attachment"]

#: Seconds that the end waits for each of these: the last spans, the end of the links, and results to be handed on.
END_TIMEOUT = 1.0
#: Seconds for connections that are being made to have been made.
DIAL_TIMEOUT = 1.0
#: Seconds between two looks at how many workers the jobs could use.
DEMAND_EVERY = 1.0
#: Seconds for a worker to take new keys: its I/O thread does it.
ADMIT_TIMEOUT = 10.0


class Attachment:
    """One process's part in one cluster.

    Args:
        make: Makes the launcher.
        notify: Shows a line to the user.
        view: Returns what shows the output of jobs that are started now.

    Attributes:
        name: The cluster's name; empty until it has begun.
        owner: Whether the cluster ends with this attachment, if it is the last.
        ended: Why the cluster has ended; empty while it lives.
        closed: Whether this process has let go of it.
        codec: Encodes what is sent.
        reactor: The I/O thread.
        launcher: Starts and ends the processes.
        membership: The workers and their links.
        jobs: Runs jobs on them.
        submits: Jobs that were submitted one by one.
        standing: Calls that are made again on each process that replaces a worker.
    """

    def __init__(
        self,
        make: Callable[[ReactorLike, EventHandler], Launcher],
        *,
        notify: Callable[[str], None],
        view: Callable[[], Show],
    ) -> None:
        self.name = ""
        self.owner = False
        self.ended = ""
        self.closed = False
        self.codec = Codec()
        self.reactor = Reactor()
        self.jobs = JobClient(self.reactor, self.codec, kill=self.kill, notify=notify, view=view, absence=self._absence)
        self.submits = Submits(self.jobs, self.reactor, TRACES.of)
        self.standing = Standing(notify)
        self._notify = notify
        self._collector = Collector(self.reactor, TRACES.store)
        self._spread = Spread()
        self.membership = Membership(
            self.reactor, self.codec, self.jobs, self._on_ended, (self._collector, self._spread), self.standing
        )
        self.launcher = make(self.reactor, self._on_event)
        self._leaving = threading.Lock()
        self._pid = os.getpid()

    def begin(self, launch: Callable[[], Snapshot]) -> Snapshot:
        """Start the I/O thread, have ``launch`` start or find the cluster, and wait for a link to each worker."""
        self.reactor.start()
        try:
            snapshot = launch()
        except BaseException:
            self.reactor.stop()
            raise
        self.name = snapshot.cluster
        for note in snapshot.notes:
            self._notify(note)
        try:
            self._collector.open()
            TRACES.add(self._collector.collect)
            self.follow(snapshot)
            if self.launcher.demanding:
                self.reactor.call_soon(self._tell_demand, 0)
        except BaseException:
            self.close()
            raise
        return snapshot

    def follow(self, snapshot: Snapshot) -> None:
        """Wait until there are links to all workers of a snapshot that serve."""
        ensure_descriptors(len(snapshot.workers))
        self.reactor.wait_call(self.membership.on_members, snapshot.workers)
        self.membership.wait_links([worker.name for worker in snapshot.workers if worker.state == "ready"])

    def _absence(self) -> str:
        return self.membership.why_none()

    def kill(self, name: str) -> None:
        """Kill a worker's process; nothing more is sent to it, but to the one that replaces it."""
        self.membership.condemn(name)
        try:
            self.launcher.kill((name,))
        except ZnbError:
            self.membership.condemn(name, condemned=False)
            raise

    def spread_out(self, shared: Shared) -> None:
        """Bring what was put to the machines of the workers."""
        self.reactor.call_soon(self._spread.offer, shared.memory)

    def release(self, key: bytes) -> None:
        """Have every worker that is there let go of what was put."""
        self.reactor.call_soon(self._spread.forget, key)
        for link in self.membership.links():
            link.control_nowait("_znb_release", key, lambda _answer: None)

    def rotate_keys(self) -> None:
        """Change the keys of the cluster's clients (see ``znb.cluster.Cluster.rotate_keys``)."""
        file = self.launcher.file
        if file is None or file.keys is None:
            raise ZnbError(f"{self.name!r} has no keys: its workers listen in a private folder of its machine alone")
        keys = renew(file.keys)
        for link in self.membership.links():  # the old ones hold until everybody has the new ones
            link.control("_znb_admit", [file.keys.public, keys.public], timeout=ADMIT_TIMEOUT)
        self.launcher.rotate(keys)
        Event().wait(DIAL_TIMEOUT)  # who is about to connect with the old ones may
        for link in self.membership.links():
            link.control("_znb_admit", [keys.public], timeout=ADMIT_TIMEOUT)

    def stop(self) -> None:
        """End every worker and remove what belongs to the cluster. May be called twice."""
        self._leave(self.launcher.stop)

    def close(self) -> None:
        """Let go of the cluster. It ends if this owns it, with the last who uses it. May be called twice."""
        self._leave(lambda: self.launcher.detach(stop=self.owner))

    def _leave(self, leave: Callable[[], object]) -> None:
        with self._leaving:
            if self.closed or os.getpid() != self._pid:
                return
            self.closed = True
        try:
            self.submits.refuse("cannot schedule new futures after shutdown")
            self._collector.collect(END_TIMEOUT)
            done = Event()
            self.reactor.call_soon(self._end_links, done)
            done.wait(END_TIMEOUT)
            self.jobs.wait_delivered(END_TIMEOUT)
        finally:  # an interrupt only spares the waiting
            TRACES.remove(self._collector.collect)
            try:
                leave()
            finally:
                self.reactor.stop()

    # -- the I/O thread ------------------------------------------------------------------------------------

    def _on_event(self, event: ClusterEvent) -> None:
        if event.event == "notice":
            self._notify(event.reason)
        else:
            self.membership.on_event(event)  # looked up at each: tests hold some back

    def _tell_demand(self, told: int) -> None:
        """Tell the launcher, as long as this lasts, how many workers the jobs could use."""
        demand = self.jobs.demand()
        if demand != told:
            self.launcher.demand(demand)
        if not self.closed and not self.ended:
            self.reactor.call_later(DEMAND_EVERY, self._tell_demand, demand)

    def _on_ended(self, reason: str) -> None:
        """Take note that somebody else has ended the cluster, or that its supervisor is gone."""
        if self.closed:
            return
        why = reason or "it was stopped from elsewhere"
        self.ended = f"the cluster {self.name!r} has ended: {why}; {self.launcher.advice}"
        self.submits.refuse(self.ended)
        self._end(self.ended)

    def _end_links(self, done: Event) -> None:
        self._collector.close()
        self._end(f"the cluster {self.name!r} has been closed here; connect to it, or start another")
        done.set()

    def _end(self, reason: str) -> None:
        self.jobs.close(ZnbError(reason))
        self.membership.close(reason)
