"""Workers on a Ray cluster: ``--on ray[:ADDRESS]``, one actor with one CPU reserved for each.

Ray places the actors; each starts an agent as a child process, whose standard input and output travel in the actor's
method calls. So the keys travel in Ray's own messages, and its TLS holds for them if it is on. An actor that is lost,
with its node or by itself, takes its worker along; another is asked for.

Invariants: what is written to an agent arrives in order, because one thread of the actor does it; reading has another,
and so has waiting for its end. The head is Ray's driver: threads of the engine's own wait for it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import socket
import threading
from typing import Any

from znb.control import ZygoteConfig
from znb.launchers.carrier import Carrier, MessageLine
from znb.launchers.engine import Desk, EngineBase, agent_command
from znb.launchers.local import LocalLauncher

__all__ = ["RayEngine", "RayLauncher"]

#: What an actor does at the same time as the others: each has a thread of its own.
METHODS = ("read", "write", "wait")
#: Seconds for somebody to answer at Ray's address.
REACH_TIMEOUT = 5.0
#: Seconds for Ray to take the actors back.
CLOSE_TIMEOUT = 10.0
#: Seconds after which an actor that Ray has no room for is spoken of.
NOTICE_AFTER = 3.0


class RayLauncher(LocalLauncher):
    """The launcher of workers on a Ray cluster (see ``znb.launchers.Launcher``)."""

    name = "ray"
    engine = "znb.launchers.ray:RayEngine"


class RayEngine(EngineBase):
    """Starts agents by Ray's actors (see ``znb.launchers.engine.Engine``).

    Args:
        config: What the head was told; its ``place`` is Ray's address, empty for the one that this machine is part of.
    """

    elastic = on_demand = True

    def __init__(self, config: ZygoteConfig) -> None:
        super().__init__(config)
        self._ray: Any = importlib.import_module("ray")
        self._wanted: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._actors: dict[str, Any] = {}
        self._thread: threading.Thread | None = None

    def open(self, desk: Desk) -> None:
        """Connect to Ray."""
        self._thread = threading.Thread(target=self._run, args=(desk,), name="znb-ray", daemon=True)
        self._thread.start()

    def want(self, workers: int) -> None:
        """Have an actor for each worker."""
        self._wanted.put(workers)

    def start_agent(self, host: str) -> MessageLine:
        """Return the line to the agent that an actor has started."""
        actor = self._actors[host]
        line = MessageLine(lambda data: self._write(actor, data))
        threading.Thread(target=self._read, args=(actor, line), name="znb-ray-read", daemon=True).start()
        return line

    def close(self) -> None:
        """Give the actors back."""
        self._wanted.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)

    # -- threads of the engine's own -------------------------------------------------------------------------

    def _run(self, desk: Desk) -> None:
        try:
            self._reach()
            self._ray.init(address=self.config.place or "auto", log_to_driver=False, logging_level="error",
                           namespace=f"znb-{self.config.name}")  # fmt: skip
        except (OSError, ValueError, RuntimeError) as error:
            desk.fail(f"no Ray cluster at {self.config.place or 'auto'}: {error}")
            return
        count = 0
        groups = {name: self._ray.method(concurrency_group=name)(getattr(Carrier, name)) for name in METHODS}
        carrier = self._ray.remote(num_cpus=1, concurrency_groups=dict.fromkeys(METHODS, 1))(
            type("Carrier", (Carrier,), groups)
        )
        while (wanted := self._wanted.get()) is not None:
            while len(self._actors) < wanted:
                count += 1
                name = f"ray{count}"
                self._actors[name] = carrier.remote(agent_command(self.config.python, os.uname().nodename))
                threading.Thread(target=self._follow, args=(desk, name), name="znb-ray-actor", daemon=True).start()
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._ray.shutdown()

    def _reach(self) -> None:
        """Make sure that somebody listens at Ray's address: Ray itself tries for minutes."""
        host, _, port = self.config.place.rpartition(":")
        if host and port.isdigit():
            socket.create_connection((host, int(port)), REACH_TIMEOUT).close()

    def _follow(self, desk: Desk, name: str) -> None:
        """Tell when an actor is there, and when it is gone."""
        actor = self._actors[name]
        try:
            there = actor.__ray_ready__.remote()
            while not self._ray.wait([there], timeout=NOTICE_AFTER)[0]:
                free = self._ray.available_resources().get("CPU", 0.0)
                desk.notice(f"Ray has no place yet for one of the workers: it takes one CPU, and {free:g} are free")
            self._ray.get(there)
            desk.offer(name, 1)
            reason = self._ray.get(actor.wait.remote())
        except Exception as error:  # noqa: BLE001 - whatever Ray raises: the actor is gone
            reason = f"Ray's actor is gone: {error}".partition("\n")[0]
        self._actors.pop(name, None)
        desk.withdraw(name, reason)

    def _read(self, actor: Any, line: MessageLine) -> None:
        reason = "Ray's actor is gone"
        with contextlib.suppress(Exception):  # it is, as its wait() tells
            while data := self._ray.get(actor.read.remote()):
                line.deliver(data)
            reason = self._ray.get(actor.wait.remote())
        line.end(reason)

    def _write(self, actor: Any, data: bytes) -> None:
        with contextlib.suppress(Exception):  # the actor is gone, as its wait() tells
            self._ray.get(actor.write.remote(data))
