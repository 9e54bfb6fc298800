"""Workers in Slurm allocations: ``--on slurm[:PARTITION]``.

``salloc --no-shell`` asks for one task for each worker; an ``srun`` for each node of the allocation carries the line to
the agent there. More workers are another allocation. All are given back with the cluster, and when its start is
interrupted. What the environment says to Slurm's commands (``SALLOC_ACCOUNT``, ``SALLOC_TIMELIMIT``, …) holds.

Invariants: keys go through srun's standard input only. Each allocation has a thread that waits for Slurm, whose
commands take long when its controller is busy; the head's thread does not. Source: salloc(1), srun(1), squeue(1).
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from znb.control import ZygoteConfig
from znb.launchers.engine import Desk, EngineBase, ProcessLine, agent_command
from znb.launchers.local import LocalLauncher
from znb.locks import Event

__all__ = ["SlurmEngine", "SlurmLauncher"]

#: Seconds between two looks at a job that waits, or runs.
LOOK_EVERY = 2.0
#: Seconds for one of Slurm's commands.
COMMAND_TIMEOUT = 30.0
#: Seconds before the end of a job's time from which its end is put down to that.
END_MARGIN = 5.0


class SlurmLauncher(LocalLauncher):
    """The launcher of workers in Slurm allocations (see ``znb.launchers.Launcher``)."""

    name = "slurm"
    engine = "znb.launchers.slurm:SlurmEngine"


class SlurmEngine(EngineBase):
    """Starts agents by srun (see ``znb.launchers.engine.Engine``).

    Args:
        config: What the head was told; its ``place`` is a partition.
    """

    elastic = True
    on_demand = True

    def __init__(self, config: ZygoteConfig) -> None:
        self._config = config
        self._desk: Desk | None = None
        self._allocations: list[Allocation] = []
        self._hosts: dict[str, tuple[Allocation, str]] = {}

    def open(self, desk: Desk) -> None:
        """Wait to be told how many workers are wanted."""
        self._desk = desk

    def want(self, workers: int) -> None:
        """Ask for an allocation for those that there are no places for."""
        more = workers - sum(allocation.tasks for allocation in self._allocations)
        if more > 0 and self._desk is not None:
            self._allocations.append(Allocation(self._config, more, self._desk, self._name_host))
            self._allocations[-1].start()

    def start_agent(self, host: str) -> ProcessLine:
        """Start an agent on a node of an allocation."""
        allocation, node = self._hosts[host]
        step = ["srun", f"--jobid={allocation.job}", "--overlap", "-N1", "-n1", f"--nodelist={node}"]
        return ProcessLine([*step, *agent_command(self._config.python or sys.executable, os.uname().nodename)])

    def explain(self, host: str) -> str:
        """Return why a node is gone, if Slurm has a reason for it."""
        return self._hosts[host][0].explain() if host in self._hosts else ""

    def close(self) -> None:
        """Give the allocations back."""
        for allocation in self._allocations:
            allocation.close()

    def _name_host(self, allocation: Allocation, node: str) -> str:
        host = node if node not in self._hosts else f"{node}/{allocation.job}"
        self._hosts[host] = (allocation, node)
        return host


class Allocation(threading.Thread):
    """One allocation, from its request to its end.

    Attributes:
        job: Slurm's id of it, once it has one.
        tasks: Workers that it is for; 0 when it has ended.
    """

    def __init__(
        self, config: ZygoteConfig, tasks: int, desk: Desk, name_host: Callable[[Allocation, str], str]
    ) -> None:
        super().__init__(name="znb-slurm", daemon=True)
        self.job = ""
        self.tasks = tasks
        self._config = config
        self._desk = desk
        self._name_host = name_host
        self._ends_at = float("inf")
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = Event()

    def explain(self) -> str:
        """Return why it has ended, if it has reached its time limit."""
        late = time.time() > self._ends_at - END_MARGIN
        return f"Slurm's job {self.job} has reached its time limit" if late else ""

    def close(self) -> None:
        """Give it back."""
        self._closed.set()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        if self.job:
            subprocess.run(["scancel", "--quiet", self.job], check=False, timeout=COMMAND_TIMEOUT)

    def run(self) -> None:
        """Ask for it, offer its nodes, and say when it has ended."""
        hosts: list[str] = []
        try:
            self._allocate()
            for node, tasks in self._nodes().items():
                hosts.append(self._name_host(self, node))
                self._desk.offer(hosts[-1], tasks)
            reason = self._watch()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            words = getattr(error, "stderr", b"") or b""
            reason = f"{error} {words.decode(errors='replace')}".strip()
        if self._closed.is_set():
            return
        self.tasks = 0
        for host in hosts:
            self._desk.withdraw(host, reason)
        if not hosts:
            self._desk.fail(f"Slurm gave no allocation: {reason}")

    def _allocate(self) -> None:
        """Return when it is there, telling meanwhile how it stands."""
        command = ["salloc", "--no-shell", f"--ntasks={self.tasks}", f"--job-name=znb-{self._config.name}"]
        if self._config.place:
            command.append(f"--partition={self._config.place}")
        words: collections.deque[str] = collections.deque(maxlen=20)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            self._process = process
            threading.Thread(target=self._tell_state, name="znb-squeue", daemon=True).start()
            for line in process.stderr or ():
                words.append(line.decode(errors="replace").strip())
                if found := re.search(r"job allocation (\d+)", words[-1]):
                    self.job = found[1]
        if process.returncode:
            raise OSError("\n".join(words) or f"salloc ended with status {process.returncode}")

    def _tell_state(self) -> None:
        while self._process is not None and self._process.poll() is None and not self._closed.wait(LOOK_EVERY):
            state, _, reason = self._ask("%T %r").partition(" ")
            if state == "PENDING":
                self._desk.notice(f"Slurm's job {self.job} is pending: {reason}")

    def _nodes(self) -> dict[str, int]:
        """Return its nodes, with the tasks that each has."""
        command = [
            "srun",
            f"--jobid={self.job}",
            f"--ntasks={self.tasks}",
            "--overlap",
            "sh",
            "-c",
            "echo $SLURMD_NODENAME",
        ]
        done = subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL,
                              timeout=COMMAND_TIMEOUT)  # fmt: skip
        return dict(collections.Counter(done.stdout.decode().split()))

    def _watch(self) -> str:
        """Return, when it has ended, why."""
        while not self._closed.wait(LOOK_EVERY):
            state, _, end = self._ask("%T %e").partition(" ")
            if end[:1].isdigit():  # else there is no limit
                self._ends_at = time.mktime(time.strptime(end, "%Y-%m-%dT%H:%M:%S"))
            if state not in {"RUNNING", "CONFIGURING", "SUSPENDED"}:
                return self.explain() or f"Slurm's job {self.job} has ended: {state.lower() or 'completed'}"
        return ""

    def _ask(self, columns: str) -> str:
        """Return what squeue says of it."""
        if not self.job:
            return ""
        command = ["squeue", "--noheader", f"--jobs={self.job}", "--states=all", f"--format={columns}"]
        return (
            subprocess.run(command, check=False, capture_output=True, timeout=COMMAND_TIMEOUT).stdout.decode().strip()
        )
