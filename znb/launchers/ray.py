"""Workers on a Ray cluster: ``--on ray[:ADDRESS]``, one actor with one CPU reserved for each.

Ray places the actors; each starts an agent as a child process, whose standard input and output travel in the actor's
method calls. So the keys travel in Ray's own messages, and its TLS holds for them if it is on. An actor that is lost,
with its node or by itself, takes its worker along; another is asked for.

Invariants: what is written to an agent arrives in order, because one thread of the actor does it; reading has another.
The head is Ray's driver: threads of the engine's own wait for it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import socket
import subprocess
import sys
import threading
from typing import Any

from znb.control import ZygoteConfig
from znb.launchers.engine import Desk, EngineBase, SocketLine, agent_command
from znb.launchers.local import LocalLauncher

__all__ = ["RayEngine", "RayLauncher"]

#: Bytes that travel in one call.
PART_BYTES = 1 << 16
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

    elastic = True
    on_demand = True

    def __init__(self, config: ZygoteConfig) -> None:
        self._ray: Any = importlib.import_module("ray")
        self._config = config
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

    def start_agent(self, host: str) -> SocketLine:
        """Start an agent in an actor."""
        ours, theirs = socket.socketpair()
        line = SocketLine(ours)
        actor = self._actors[host]
        threading.Thread(target=self._read, args=(actor, line, theirs), name="znb-ray-read", daemon=True).start()
        threading.Thread(target=self._write, args=(actor, theirs), name="znb-ray-write", daemon=True).start()
        return line

    def close(self) -> None:
        """Give the actors back."""
        self._wanted.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)

    # -- threads of the engine's own -------------------------------------------------------------------------

    def _run(self, desk: Desk) -> None:
        try:
            self._ray.init(address=self._config.place or "auto", log_to_driver=False, logging_level="error",
                           namespace=f"znb-{self._config.name}")  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            desk.fail(f"no Ray cluster at {self._config.place or 'auto'}: {error}")
            return
        count = 0
        carrier = make_carrier(self._ray)
        while (wanted := self._wanted.get()) is not None:
            while len(self._actors) < wanted:
                count += 1
                name = f"ray{count}"
                self._actors[name] = carrier.remote(agent_command(self._config.python, os.uname().nodename))
                threading.Thread(target=self._follow, args=(desk, name), name="znb-ray-actor", daemon=True).start()
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._ray.shutdown()

    def _follow(self, desk: Desk, name: str) -> None:
        """Tell when an actor is there, and when it is gone."""
        actor = self._actors[name]
        try:
            there = actor.start.remote()
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

    def _read(self, actor: Any, line: SocketLine, theirs: socket.socket) -> None:
        with contextlib.suppress(Exception):  # the actor is gone, as its wait() tells
            while data := self._ray.get(actor.read.remote()):
                theirs.sendall(data)
            line.reason = self._ray.get(actor.errors.remote())
        with contextlib.suppress(OSError):
            theirs.shutdown(socket.SHUT_RDWR)

    def _write(self, actor: Any, theirs: socket.socket) -> None:
        with theirs, contextlib.suppress(Exception):
            while data := theirs.recv(PART_BYTES):
                self._ray.get(actor.write.remote(data))
            self._ray.get(actor.write.remote(b""))


class Carrier:
    """The actor: an agent's standard input and output.

    Args:
        command: What starts the agent.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = [command[0] or sys.executable, *command[1:]]
        self._errors = b""

    def start(self) -> None:
        """Start the agent."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=pipe)

    def read(self) -> bytes:
        """Return what it has written, when there is something; nothing at its end."""
        return os.read(self._process.stdout.fileno(), PART_BYTES) if self._process.stdout is not None else b""

    def write(self, data: bytes) -> None:
        """Write to it; end-of-file if there is nothing."""
        stream = self._process.stdin
        with contextlib.suppress(OSError, ValueError):
            if stream is not None and data:
                stream.write(data)
                stream.flush()
            elif stream is not None:
                stream.close()

    def wait(self) -> str:
        """Return when it has ended."""
        return f"its agent has ended with status {self._process.wait()}"

    def errors(self) -> str:
        """Return what it has written to standard error, at its end."""
        return self._process.stderr.read().decode(errors="replace").strip() if self._process.stderr is not None else ""


def make_carrier(ray: Any) -> Any:
    """Return the actor's class as Ray has it: one thread for each direction, and one to wait."""
    methods = {"read": "read", "write": "write", "wait": "wait"}
    made = type("Carrier", (Carrier,), {
        name: ray.method(concurrency_group=group)(getattr(Carrier, name)) for name, group in methods.items()
    })  # fmt: skip
    return ray.remote(num_cpus=1, concurrency_groups=dict.fromkeys(methods.values(), 1))(made)
