"""The cluster that is meant where none is named, as in ``@znb.expose(on="all")``.

It is the one that this process has started, connected to or chosen last, of those that it has not let go of.

Invariants: keeps no cluster alive. Any thread may call.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, Protocol

from znb.errors import NoWorkers

__all__ = ["Current", "OpenCluster", "current"]


class OpenCluster(Protocol):
    """What is needed of a cluster here."""

    @property
    def closed(self) -> bool:
        """Whether this process has let go of it."""

    def __getitem__(self, target: Any, /) -> Any:
        """Return some of its workers."""

    def placed(self, name: str, /) -> Any:
        """Return the workers that repeat the call of this name (``Workers.call_anew``); ``None`` for no such call."""


class Current:
    """The clusters of one process, in the order in which they were chosen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clusters: list[weakref.ref[OpenCluster]] = []

    def choose(self, cluster: OpenCluster) -> None:
        """Make a cluster the one that is meant from now on."""
        with self._lock:
            others = [ref for ref in self._clusters if (found := ref()) is not None and found is not cluster]
            self._clusters = [*others, weakref.ref(cluster)]

    def clusters(self) -> list[OpenCluster]:
        """Return those that this process holds, the one that is meant first."""
        with self._lock:
            refs = list(self._clusters)
        return [found for ref in reversed(refs) if (found := ref()) is not None and not found.closed]

    def cluster(self) -> OpenCluster:
        """Return the cluster that is meant.

        Raises:
            NoWorkers: This process has none.
        """
        for found in self.clusters():
            return found
        raise NoWorkers(
            "this process has no cluster; start one with znb.Cluster.start(), or attach to one with "
            "znb.Cluster.connect(), and keep it in a variable"
        )


#: The clusters of this process. ``expose`` is a decorator, so there is nobody who could hold them.
current = Current()
