"""Workers beside those of a running Dask cluster: ``--on dask:SCHEDULER``, one znb worker for each of its threads.

Dask starts, places and scales; znb follows. Each Dask worker starts an agent as a child process, whose standard input
and output travel in Dask's own messages: what the head writes by ``Client.run``, what the agent writes as events of the
scheduler. So whatever deploys Dask (LocalCluster, SSHCluster, jobqueue, Kubernetes) serves, and Dask's own security
holds for the keys. An agent reads end-of-file when its Dask worker is gone, so it is never orphaned.

Invariants: the Dask workers have znb as well; what an agent writes arrives in order, because one thread reads it. A
thread of the engine's own talks to Dask.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from znb.control import ZygoteConfig
from znb.errors import ZnbError
from znb.launchers.engine import Desk, EngineBase, SocketLine, agent_command
from znb.launchers.local import LocalLauncher

__all__ = ["DaskEngine", "DaskLauncher"]

#: Seconds between two looks at which workers Dask has.
LOOK_EVERY = 0.5
#: Seconds for the scheduler to answer.
ANSWER_TIMEOUT = 10.0
#: Bytes that travel in one message.
PART_BYTES = 1 << 16
#: Agents of this process, in a Dask worker: by the head's name for the line.
_agents: dict[str, subprocess.Popen[bytes]] = {}


class DaskLauncher(LocalLauncher):
    """The launcher of workers beside those of a Dask cluster (see ``znb.launchers.Launcher``)."""

    name = "dask"
    engine = "znb.launchers.dask:DaskEngine"
    demanding = True


class DaskEngine(EngineBase):
    """Starts agents by way of a Dask scheduler (see ``znb.launchers.engine.Engine``).

    Args:
        config: What the head was told; its ``place`` is the scheduler's address, or a scheduler file.
    """

    elastic = True

    def __init__(self, config: ZygoteConfig) -> None:
        if not config.place:
            raise ZnbError("which Dask cluster? Say where its scheduler is: dask:tcp://HOST:8786")
        self._distributed: Any = importlib.import_module("distributed")
        self._config = config
        self._tasks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lines: dict[str, tuple[SocketLine, socket.socket]] = {}
        self._known: dict[str, int] = {}
        self._count = 0
        self._thread: threading.Thread | None = None

    def open(self, desk: Desk) -> None:
        """Begin to follow the Dask cluster."""
        self._thread = threading.Thread(target=self._run, args=(desk,), name="znb-dask", daemon=True)
        self._thread.start()

    def start_agent(self, host: str) -> SocketLine:
        """Start an agent beside a Dask worker."""
        self._count += 1
        ours, theirs = socket.socketpair()
        line = SocketLine(ours)
        name = f"znb-{os.getpid()}-{self._count}"
        self._lines[name] = (line, theirs)
        command = agent_command(self._config.python or "", os.uname().nodename)
        self._tasks.put(lambda: self._start(host, name, command))
        threading.Thread(target=self._pump, args=(host, name, theirs), name="znb-dask-line", daemon=True).start()
        return line

    def demand(self, workers: int) -> None:
        """Have what ``adapt()`` asks of the scheduler include the workers that znb's jobs could use."""
        self._tasks.put(
            lambda: self._client.run_on_scheduler(make_demand(), name=f"znb-{os.getpid()}", workers=workers)
        )

    def close(self) -> None:
        """Let the Dask cluster go; it goes on."""
        self.demand(0)
        self._tasks.put(None)
        if self._thread is not None:
            self._thread.join(ANSWER_TIMEOUT)

    # -- the engine's thread ---------------------------------------------------------------------------------

    def _run(self, desk: Desk) -> None:
        place = {"scheduler_file": self._config.place} if Path(self._config.place).exists() else {}
        try:
            address = None if place else self._config.place
            self._client = self._distributed.Client(address, timeout=ANSWER_TIMEOUT, set_as_default=False, **place)
        except (OSError, ValueError, TimeoutError) as error:
            desk.fail(f"no Dask scheduler at {self._config.place}: {error}")
            return
        with self._client:
            while True:
                self._follow(desk)
                with contextlib.suppress(queue.Empty):
                    task = self._tasks.get(timeout=LOOK_EVERY)
                    if task is None:
                        return
                    try:
                        task()
                    except Exception as error:  # noqa: BLE001 - whatever Dask raises: the agent is not to be had
                        sys.stderr.write(f"Dask: {error!r}\n")

    def _follow(self, desk: Desk) -> None:
        """Tell which Dask workers have come and gone."""
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TypeError):
            workers = {}
        there = {address: worker["nthreads"] for address, worker in workers.items()}
        for address in [known for known in self._known if known not in there]:
            del self._known[address]
            desk.withdraw(address, f"its Dask worker {address} is gone")
        new = [(address, threads) for address, threads in there.items() if self._known.get(address) != threads]
        for address, threads in new:
            self._known[address] = threads
            desk.offer(address, threads, more=address != new[-1][0])

    def _start(self, host: str, name: str, command: list[str]) -> None:
        self._client.subscribe_topic(name, functools.partial(self._on_event, name))
        try:
            self._client.run(_start_agent, name, command, workers=[host], on_error="raise")
        except Exception as error:
            line, theirs = self._lines.pop(name)
            line.reason = f"{error}"
            theirs.close()
            raise

    def _on_event(self, name: str, event: tuple[Any, Any]) -> None:
        """Hand what an agent wrote to the head. On the client's thread."""
        data = event[1]
        line, theirs = self._lines.get(name, (None, None))
        if theirs is None or line is None:
            return
        if isinstance(data, bytes):
            with contextlib.suppress(OSError):
                theirs.sendall(data)
        else:  # its standard error, at its end
            line.reason = str(data or "the agent has ended")
            del self._lines[name]
            with contextlib.suppress(OSError):
                theirs.shutdown(socket.SHUT_RDWR)

    def _pump(self, host: str, name: str, theirs: socket.socket) -> None:
        """Pass on what the head writes. On a thread of the line's own."""
        with theirs:
            while True:
                try:
                    data = theirs.recv(PART_BYTES)
                except OSError:
                    data = b""
                self._tasks.put(functools.partial(self._write, host, name, data))
                if not data:
                    return

    def _write(self, host: str, name: str, data: bytes) -> None:
        if host in self._known:
            self._client.run(_write_agent, name, data, workers=[host], on_error="ignore")


# -- in the Dask scheduler --------------------------------------------------------------------------------------


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


# -- in the Dask worker ------------------------------------------------------------------------------------------


def _start_agent(name: str, command: list[str], dask_worker: Any) -> None:
    """Start an agent in this Dask worker."""
    command[0] = command[0] or sys.executable
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _agents[name] = process
    threading.Thread(target=_read_agent, args=(name, process, dask_worker), name=name, daemon=True).start()


def _read_agent(name: str, process: subprocess.Popen[bytes], worker: Any) -> None:
    """Send what an agent writes to the head, until it ends."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    assert process.stderr is not None  # noqa: S101 - as above
    while data := os.read(process.stdout.fileno(), PART_BYTES):
        worker.log_event(name, data)
    errors = process.stderr.read().decode(errors="replace").strip()
    process.wait()
    worker.log_event(name, errors)
    _agents.pop(name, None)


def _write_agent(name: str, data: bytes) -> None:
    """Write to an agent of this Dask worker; end-of-file if there is nothing."""
    process = _agents.get(name)
    if process is None or process.stdin is None:
        return
    with contextlib.suppress(OSError, ValueError):
        if data:
            process.stdin.write(data)
            process.stdin.flush()
        else:
            process.stdin.close()
