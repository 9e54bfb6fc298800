"""Which workers a cluster has, and a live link to each.

The launcher tells of processes; this keeps one link for each worker that serves, made when its process is ready and
ended with a death certificate when it is not.

Invariants: a link belongs to the newest process of its name that has been heard of; news older than that is ignored.
The reactor's thread makes and ends links; everybody reads the tables under ``_changed``, which is notified at each
change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from znb.errors import NoWorkers, WorkerLost, ZnbError
from znb.lifecycle import ClusterEvent, DeathCertificate, WorkerStatus
from znb.link import LEFT, Link
from znb.locks import Condition
from znb.serialize import Codec
from znb.standing import Standing
from znb.transport import Reactor

__all__ = ["Listener", "Membership"]

#: Seconds that a call waits for a worker that is being started or replaced before it says so.
NOTICE_AFTER = 1.0
#: What is said of a worker that is not replaced any more, and what to do about it.
GIVEN_UP = "failed so often at its start that it is not replaced any more"
TRY_AGAIN = "`%znb cluster restart {}` tries again"


class Listener(Protocol):
    """Who hears of links, on the reactor's thread (``znb.executor.client.JobClient``).

    Attributes:
        id: What its jobs are known by at the workers.
    """

    id: bytes

    def add_worker(self, link: Link) -> None:
        """A worker serves."""

    def lose_worker(self, link: Link, error: ZnbError, *, charge: bool) -> None:
        """A worker is gone: it died (``charge`` what it ran), or was ended on purpose."""


class Reader(Protocol):
    """Who else has to do with links, on the reactor's thread (``znb.collector.Collector``, ``znb.holdings.Spread``)."""

    def add_worker(self, link: Link) -> None:
        """A worker serves."""

    def lose_worker(self, link: Link, error: ZnbError) -> None:
        """A worker is gone, and with it what has not been read."""


class Membership:
    """The workers of one cluster, as this process sees them.

    Args:
        reactor: The I/O thread.
        codec: For the links.
        listener: Hears of links that come and go.
        ended: Called on the reactor's thread, with the reason, when the whole cluster has ended.
        readers: Hear of links too.
        standing: What each new process is asked to do.
    """

    def __init__(
        self,
        reactor: Reactor,
        codec: Codec,
        listener: Listener,
        ended: Callable[[str], None],
        readers: Sequence[Reader],
        standing: Standing,
    ) -> None:
        self._standing = standing
        self._readers = readers
        self._ended = ended
        self._reactor = reactor
        self._codec = codec
        self._listener = listener
        self._changed = Condition()
        self._links: dict[str, Link] = {}
        self._members: dict[str, WorkerStatus] = {}
        self._dead: dict[str, int] = {}
        self._given_up: dict[str, str] = {}
        self._news: dict[str, str] = {}
        self._closed = ""

    # -- any thread ----------------------------------------------------------------------------------------

    @property
    def members(self) -> dict[str, WorkerStatus]:
        """The workers, in order."""
        with self._changed:
            return dict(self._members)

    def link_of(self, name: str) -> Link | None:
        """Return the live link to a worker, if it has one."""
        with self._changed:
            return self._links.get(name)

    def links(self) -> Sequence[Link]:
        """Return all live links."""
        with self._changed:
            return list(self._links.values())

    def wait_links(self, names: Sequence[str], notify: Callable[[str], None] | None = None) -> Sequence[Link]:
        """Return a live link to each worker, waiting for those that are being started or replaced.

        Raises:
            NoWorkers: One of them is gone for good.
            ZnbError: The cluster is closed.
        """
        notice_at = time.monotonic() + NOTICE_AFTER
        said = ""
        try:
            while True:
                with self._changed:
                    missing = [name for name in names if not self._serves(name)]
                    if not missing:
                        return [self._links[name] for name in names]
                    self._check_coming(missing)
                    left = notice_at - time.monotonic()
                    self._changed.wait(left if left > 0 else NOTICE_AFTER)
                text = f"waiting: {', '.join(missing)} not ready yet"
                if notify is not None and text != said and time.monotonic() >= notice_at:
                    notify(text)
                    said = text
        finally:
            if notify is not None and said:
                notify("")

    def why_none(self) -> str:
        """Return why there are no workers; empty if none was asked for, or all may still come."""
        with self._changed:
            return " ".join(self._given_up.values())

    def condemn(self, name: str, *, condemned: bool = True) -> None:
        """Note that a worker is about to be killed: nothing more is sent to this process, but to the next."""
        with self._changed:
            if name in self._links:
                self._links[name].condemned = condemned
                self._changed.notify_all()

    def _serves(self, name: str) -> bool:
        return name in self._links and not self._links[name].condemned

    def take_news(self, names: Sequence[str]) -> Sequence[str]:
        """Return, once, what happened to these workers that their user has not been told."""
        with self._changed:
            return [news for name in names if (news := self._news.pop(name, ""))]

    def _check_coming(self, missing: Sequence[str]) -> None:
        if self._closed:
            raise ZnbError(self._closed)
        for name in missing:
            member = self._members.get(name)
            if member is None:
                raise NoWorkers(
                    f"{name} is not a worker of this cluster any more; there are {', '.join(self._members) or 'none'}"
                )
            if name in self._given_up:
                raise NoWorkers(self._given_up[name])

    # -- the reactor's thread ------------------------------------------------------------------------------

    def on_event(self, event: ClusterEvent) -> None:
        """Take news of a process."""
        if event.certificate is not None and event.worker is not None:
            self._on_death(event.worker.name, event.certificate)
        if event.worker is not None:
            self._on_prospects(event)
        if event.workers is not None:
            self.on_members(event.workers)
        elif event.worker is not None:
            self._on_member(event.worker)
        if event.event in {"lost", "stopping"}:
            self._ended(event.reason)

    def _on_prospects(self, event: ClusterEvent) -> None:
        """Note whether a worker is still being replaced."""
        name = event.worker.name if event.worker is not None else ""
        with self._changed:
            if event.event == "gave_up":
                reason = event.reason.rstrip(".")
                self._given_up[name] = f"{name} {GIVEN_UP}: {reason}. {TRY_AGAIN.format(name)}"
            elif event.event in {"started", "replaced", "ready"}:
                self._given_up.pop(name, None)

    def on_members(self, members: Sequence[WorkerStatus]) -> None:
        """Take the list of all workers."""
        with self._changed:
            gone = [link for name, link in self._links.items() if name not in {m.name for m in members}]
            self._members = {member.name: self._newer(member) for member in members}
            for member in members:
                if member.state == "dead" and member.name not in self._given_up:  # before this client was there
                    self._given_up[member.name] = f"{member.name} {GIVEN_UP}. {TRY_AGAIN.format(member.name)}"
        for link in gone:
            self._end_link(link, link.lost(LEFT))
        for member in members:
            self._on_member(member)

    def _newer(self, member: WorkerStatus) -> WorkerStatus:
        known = self._members.get(member.name)
        return known if known is not None and known.generation > member.generation else member

    def _on_member(self, member: WorkerStatus) -> None:
        with self._changed:
            known = self._members.get(member.name)
            if known is not None and known.generation <= member.generation:
                self._members[member.name] = member
            link = self._links.get(member.name)
            dead = self._dead.get(member.name, 0) >= member.generation
            wanted = member.state == "ready" and known is not None and not dead
        if link is not None and link.generation < member.generation:
            self._end_link(link, link.lost("was replaced"))
            link = None
        if link is None and wanted:
            self._make_link(member)
        with self._changed:
            self._changed.notify_all()

    def _make_link(self, member: WorkerStatus) -> None:
        link = Link(self._reactor, self._codec, member, self._listener.id)
        link.on_broken = self._on_broken
        link.open()
        with self._changed:
            self._links[member.name] = link
        self._listener.add_worker(link)
        for reader in self._readers:
            reader.add_worker(link)
        self._standing.add_worker(link)

    def _on_broken(self, link: Link) -> None:
        """Make another link to a worker whose connection broke, though nobody told of its death."""
        with self._changed:
            member = self._members.get(link.name)
        self._end_link(link, link.lost("could not be reached for a while, so what was under way there is lost"))
        if member is not None and member.generation == link.generation:
            self._on_member(member)

    def _on_death(self, name: str, certificate: DeathCertificate) -> None:
        with self._changed:
            self._dead[name] = max(certificate.generation, self._dead.get(name, 0))
            link = self._links.get(name)
            if not certificate.intentional:
                self._news[name] = (
                    f"{name} (pid {certificate.pid}) {certificate.meaning}. A new process takes its place, "
                    f"without its variables"
                )
        if link is not None and link.generation == certificate.generation:
            lost = WorkerLost(name, f"(pid {certificate.pid}) {certificate.meaning}")
            for detail in certificate.details():
                lost.add_note(detail)
            self._end_link(link, lost, charge=not certificate.intentional)

    def _end_link(self, link: Link, error: ZnbError, *, charge: bool = False) -> None:
        with self._changed:
            if self._links.get(link.name) is link:
                del self._links[link.name]
            self._changed.notify_all()
        self._listener.lose_worker(link, error, charge=charge)
        for reader in self._readers:
            reader.lose_worker(link, error)
        link.close(error)

    def close(self, reason: str) -> None:
        """End all links; nothing is waited for any more. On the reactor's thread."""
        with self._changed:
            self._closed = reason
            self._changed.notify_all()
        for link in self.links():
            self._end_link(link, ZnbError(reason))
