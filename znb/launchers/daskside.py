"""What ``znb.launchers.dask`` runs in Dask's own processes: agents beside its workers, and a word to its scheduler.

Invariants: what an agent writes arrives in order, because one thread reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from znb.launchers.carrier import Carrier

__all__ = ["make_demand", "start_agent", "write_agent"]

#: Agents of this process, in a Dask worker: by the head's name for the line.
_agents: dict[str, Carrier] = {}


def start_agent(name: str, command: list[str], dask_worker: Any) -> None:
    """Start an agent in this Dask worker; what it writes are events of the scheduler's on the topic ``name``."""
    _agents[name] = Carrier(command)
    threading.Thread(target=_read_agent, args=(name, dask_worker), name=name, daemon=True).start()


def _read_agent(name: str, worker: Any) -> None:
    while data := _agents[name].read():
        worker.log_event(name, data)
    worker.log_event(name, _agents.pop(name).wait())


def write_agent(name: str, data: bytes) -> None:
    """Write to an agent of this Dask worker; end-of-file if there is nothing."""
    if name in _agents:
        _agents[name].write(data)


def make_demand() -> Callable[..., None]:
    """Return what runs in the scheduler; a function of a function travels by value, so znb need not be there."""

    def demand(name: str, workers: int, dask_scheduler: Any) -> None:
        """Add to what the scheduler answers when ``adapt()`` asks how many workers there should be."""
        answer = dask_scheduler.handlers["adaptive_target"]
        needs = getattr(answer, "znb_needs", None)
        if needs is None:
            needs = {}

            def target(target_duration: Any = None) -> int:
                there = dask_scheduler.workers.values()
                threads = max(1, sum(worker.nthreads for worker in there)) / max(1, len(there))
                wanted = int(-(-sum(needs.values()) // threads))
                return max(int(answer(target_duration=target_duration)), wanted)

            target.znb_needs = needs  # type: ignore[attr-defined]
            dask_scheduler.handlers["adaptive_target"] = target
        needs[name] = workers
        if not workers:
            del needs[name]

    return demand
