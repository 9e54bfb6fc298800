"""Workers beside those of a running Dask cluster: ``--on dask:SCHEDULER``, one znb worker for each of its threads.

Dask starts, places and scales; znb follows. Each Dask worker starts an agent as a child process, whose standard input
and output travel in Dask's own messages: what the head writes by ``Client.run``, what the agent writes as events of the
scheduler. So whatever deploys Dask (LocalCluster, SSHCluster, jobqueue, Kubernetes) serves, and Dask's own security
holds for the keys.

Invariants: the Dask workers have znb as well. A thread of the engine's own asks the scheduler, and one of each line
writes to its agent: a Dask worker that is frozen holds up nobody else.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from znb.control import ZygoteConfig
from znb.launchers import PlaceError
from znb.launchers.carrier import MessageLine
from znb.launchers.daskside import make_demand, start_agent, write_agent
from znb.launchers.engine import Desk, EngineBase, agent_command
from znb.launchers.local import LocalLauncher

__all__ = ["DaskEngine", "DaskLauncher"]

#: Seconds between two looks at which workers Dask has.
LOOK_EVERY = 0.5
#: Seconds for the scheduler to answer.
ANSWER_TIMEOUT = 10.0


class DaskLauncher(LocalLauncher):
    """The launcher of workers beside those of a Dask cluster (see ``znb.launchers.Launcher``)."""

    name = "dask"
    engine = "znb.launchers.dask:DaskEngine"
    demanding = True

    def check_place(self, place: str) -> None:
        """Make sure that it says where a scheduler is."""
        if not place:
            raise PlaceError("which Dask cluster? Say where its scheduler is: dask:tcp://HOST:8786")
        if "://" not in place and place.endswith(".json") and not Path(place).exists():
            raise PlaceError(f"there is no scheduler file {place}")


class DaskEngine(EngineBase):
    """Starts agents by way of a Dask scheduler (see ``Engine``); its ``place`` is that one's address, or its file."""

    elastic = True

    def __init__(self, config: ZygoteConfig) -> None:
        super().__init__(config)
        self._distributed: Any = importlib.import_module("distributed")
        self._demands: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._lines: dict[str, MessageLine] = {}
        self._known: dict[str, int] | None = None
        self._numbers = itertools.count(1)

    def open(self, desk: Desk) -> None:
        """Begin to follow the Dask cluster."""
        self._thread = threading.Thread(target=self._run, args=(desk,), name="znb-dask", daemon=True)
        self._thread.start()

    def start_agent(self, host: str) -> MessageLine:
        """Start an agent beside a Dask worker."""
        name = f"znb-{os.getpid()}-{next(self._numbers)}"
        return MessageLine(functools.partial(self._write, host, name), functools.partial(self._start, host, name))

    def demand(self, workers: int) -> None:
        """Have what ``adapt()`` asks of the scheduler include the workers that znb's jobs could use."""
        self._demands.put(workers)

    def close(self) -> None:
        """Let the Dask cluster go; it goes on."""
        self._demands.put(None)
        self._thread.join(ANSWER_TIMEOUT)

    def _run(self, desk: Desk) -> None:
        key = "scheduler_file" if Path(self.config.place).exists() else "address"
        try:
            self._client = self._distributed.Client(
                timeout=ANSWER_TIMEOUT, set_as_default=False, **{key: self.config.place}
            )
        except (OSError, ValueError, TimeoutError) as error:
            desk.fail(f"no Dask scheduler at {self.config.place}: {error}")
            return
        while self._client.status != "closed":
            with contextlib.suppress(OSError, TypeError):  # it may be connecting again
                self._follow(desk, self._client.scheduler_info(n_workers=-1).get("workers"))
            with contextlib.suppress(queue.Empty):
                wanted = self._demands.get(timeout=LOOK_EVERY)
                self._ask(self._client.run_on_scheduler, make_demand(), name=f"znb-{os.getpid()}", workers=wanted or 0)
                if wanted is None:
                    break
        else:
            self._follow(desk, {})
            desk.fail(f"the Dask scheduler at {self.config.place} is gone")
        self._client.close(timeout=ANSWER_TIMEOUT)

    def _follow(self, desk: Desk, workers: dict[str, Any] | None) -> None:
        """Tell which Dask workers have come and gone; nothing if that is not known at the moment."""
        if workers is None:
            return
        there = {address: worker["nthreads"] for address, worker in workers.items()}
        known, self._known = self._known or {}, there
        for address in known.keys() - there.keys():
            desk.withdraw(address, f"its Dask worker {address} is gone")
        for address, threads in there.items() - known.items():
            desk.offer(address, threads, more=True)
        if there != known or not there:
            desk.complete()

    def _start(self, host: str, name: str, line: MessageLine) -> None:
        self._lines[name] = line
        self._client.subscribe_topic(name, functools.partial(self._on_event, name))
        command = agent_command(self.config.python or "", os.uname().nodename)
        try:
            self._client.run(start_agent, name, command, workers=[host], on_error="raise")
        except Exception as error:  # noqa: BLE001 - whatever Dask raises: the agent is not to be had
            self._lines.pop(name).end(f"{error}")

    def _ask(self, ask: Callable[..., object], *args: Any, **options: Any) -> None:
        try:
            ask(*args, **options)
        except Exception as error:  # noqa: BLE001 - whatever Dask raises: who is gone is told of by its scheduler
            sys.stderr.write(f"Dask: {error!r}\n")

    def _on_event(self, name: str, event: tuple[Any, Any]) -> None:
        """Hand what an agent wrote to the head; text is its last word. On the client's thread."""
        line = self._lines.get(name)
        if line is not None and isinstance(event[1], bytes):
            line.deliver(event[1])
        elif line is not None:
            self._lines.pop(name).end(event[1])

    def _write(self, host: str, name: str, data: bytes) -> None:
        if self._known and host in self._known:
            self._ask(self._client.run, write_agent, name, data, workers=[host], on_error="ignore")
