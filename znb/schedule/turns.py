"""Whose turn it is: groups share the workers by time, not by the number of jobs they have.

Start-time fair queuing (Goyal, Vin and Cheng, 1996): a group's virtual time grows by the seconds of work it
was given, divided by its weight, and the group that is furthest behind goes next. One that comes back after
a pause starts at the present, so that it neither waits behind a huge map nor is owed the past.

Invariants: a group is in the heap or parked exactly while ``group.ready``; keys in the heap may lag behind a
group's virtual time and are corrected when they reach the top. Owning thread: whichever drives the
``Scheduler``.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from znb.schedule.groups import Group

__all__ = ["Turns"]


class Turns:
    """The groups that have jobs waiting, in the order of their turns.

    Attributes:
        parked: Groups that wait for a worker of theirs, by its name.
    """

    __slots__ = ("_heap", "_present", "parked")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Group]] = []
        self.parked: dict[str, dict[int, Group]] = {}
        self._present = 0.0

    def push(self, group: Group) -> None:
        """Line up a group that is not ready."""
        group.ready = True
        group.vtime = max(group.vtime, self._present)
        heappush(self._heap, (group.vtime, group.number, group))

    def head(self) -> Group | None:
        """Return the group whose turn it is; it stays in line."""
        heap = self._heap
        while heap:
            key, number, group = heap[0]
            if not group.queued or (group.paused and not group.returned):
                heappop(heap)
                group.ready = False
            elif key < group.vtime and len(heap) > 1:
                heapreplace(heap, (group.vtime, number, group))
            else:
                return group
        return None

    def charge(self, group: Group, cost: float) -> None:
        """Count ``cost`` seconds of work that the group is being given."""
        self._present = max(self._present, group.vtime)
        group.vtime += cost / group.weight

    def park(self) -> None:
        """Set the group at the head aside until one of the workers that it is limited to can take more."""
        group = heappop(self._heap)[2]
        for name in group.targets or ():
            self.parked.setdefault(name, {})[group.number] = group

    def unpark(self, name: str) -> None:
        """Line up again what waited for the worker of that name."""
        for group in self.parked.pop(name, {}).values():
            self._leave(group)
            heappush(self._heap, (group.vtime, group.number, group))

    def forget(self, group: Group) -> None:
        """Let go of a finished group that may be parked."""
        if self.parked and group.targets is not None:
            self._leave(group)

    def _leave(self, group: Group) -> None:
        for name in group.targets or ():
            waiting = self.parked.get(name)
            if waiting is not None and waiting.pop(group.number, None) is not None and not waiting:
                del self.parked[name]
