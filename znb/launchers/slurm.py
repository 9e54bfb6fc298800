"""Workers in Slurm allocations: ``--on slurm[:PARTITION]``.

``salloc --no-shell`` asks for one task for each worker; an ``srun`` for each node of the allocation carries the line to
the agent there. More workers are another allocation. All are given back with the cluster, and when its start is
interrupted. What the environment says to Slurm's commands (``SALLOC_ACCOUNT``, ``SALLOC_TIMELIMIT``, …) holds.

Invariants: keys go through srun's standard input only. Each allocation has a thread that waits for Slurm, whose
commands take long when its controller is busy; the head's thread does not. Source: salloc(1), srun(1), squeue(1).
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import threading
import time
from collections import Counter

from znb.control import ZygoteConfig
from znb.launchers.engine import EngineBase, ProcessLine, agent_command, check_command, command_output
from znb.launchers.local import LocalLauncher
from znb.locks import Event

__all__ = ["SlurmEngine", "SlurmLauncher"]

#: Seconds between two looks at a job, and before the end of its time from which its end is put down to that.
LOOK_EVERY, END_MARGIN = 2.0, 5.0


class SlurmLauncher(LocalLauncher):
    """The launcher of workers in Slurm allocations (see ``znb.launchers.Launcher``)."""

    name = "slurm"
    engine = "znb.launchers.slurm:SlurmEngine"


class SlurmEngine(EngineBase):
    """Starts agents by srun (see ``znb.launchers.engine.Engine``); its ``place`` is a partition."""

    elastic = on_demand = True

    def __init__(self, config: ZygoteConfig) -> None:
        super().__init__(config)
        self._allocations: list[Allocation] = []
        self.hosts: dict[str, tuple[Allocation, str]] = {}  # by the name that the head has for a node of an allocation

    def want(self, workers: int) -> None:
        """Ask for an allocation for those that there are no places for."""
        more = workers - sum(allocation.tasks for allocation in self._allocations)
        if more > 0:
            self._allocations.append(Allocation(self, more))
            self._allocations[-1].start()

    def start_agent(self, host: str) -> ProcessLine:
        """Start an agent on a node of an allocation."""
        allocation, node = self.hosts[host]
        step = ["srun", f"--jobid={allocation.job}", "--overlap", "-N1", "-n1", f"--nodelist={node}"]
        return ProcessLine([*step, *agent_command(self.config.python or sys.executable, os.uname().nodename)])

    def explain(self, host: str) -> str:
        """Return why a node is gone, if Slurm has a reason for it."""
        return self.hosts[host][0].late()

    def close(self) -> None:
        """Give the allocations back."""
        for allocation in self._allocations:
            allocation.close()


class Allocation(threading.Thread):
    """One allocation, from its request to its end: Slurm's ``job``, for so many workers (0 when it has ended)."""

    def __init__(self, engine: SlurmEngine, tasks: int) -> None:
        super().__init__(name="znb-slurm", daemon=True)
        self.job, self.tasks, self._ends_at, self._engine = "", tasks, float("inf"), engine
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = Event()

    def late(self) -> str:
        """Return that it has reached its time limit, if it has."""
        late = time.time() > self._ends_at - END_MARGIN
        return f"Slurm's job {self.job} has reached its time limit" if late else ""

    def close(self) -> None:
        """Give it back."""
        self._closed.set()
        if self._process is not None:
            self._process.terminate()
        if self.job:
            subprocess.run(["scancel", "--quiet", self.job], check=False, timeout=LOOK_EVERY * 10)

    def run(self) -> None:
        """Ask for it, offer its nodes, and say when it has ended."""
        hosts: list[str] = []
        try:
            self._allocate()
            step = ("srun", f"--jobid={self.job}", f"--ntasks={self.tasks}", "--overlap")
            for node, tasks in Counter(command_output(*step, "sh", "-c", "echo $SLURMD_NODENAME").split()).items():
                hosts.append(node if node not in self._engine.hosts else f"{node}/{self.job}")
                self._engine.hosts[hosts[-1]] = (self, node)
                self._engine.desk.offer(hosts[-1], tasks)
            reason = self._watch()
        except (OSError, ValueError) as error:
            reason = str(error)
        if self._closed.is_set():
            return
        self.tasks = 0
        for host in hosts:
            self._engine.desk.withdraw(host, reason)
        if not hosts:
            self._engine.desk.fail(f"Slurm gave no allocation: {reason}")

    def _allocate(self) -> None:
        """Return when it is there, telling meanwhile how it stands."""
        config, said, more = self._engine.config, "", b" "
        check_command("salloc")
        command = ["salloc", "--no-shell", f"--ntasks={self.tasks}", f"--job-name=znb-{config.name}"]
        command += [f"--partition={config.place}"] if config.place else []
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            self._process = process
            while more and process.stderr is not None:
                if select.select([process.stderr], [], [], LOOK_EVERY)[0]:
                    more = os.read(process.stderr.fileno(), 4096)
                    said += more.decode(errors="replace")
                    self.job = "".join(re.findall(r"job allocation (\d+)", said)[:1])
                elif self.job and (state := self._ask("%T %r").partition(" "))[0] == "PENDING":
                    self._engine.desk.notice(f"Slurm's job {self.job} is pending: {state[2]}")
        if process.returncode:
            raise OSError(said.strip() or f"salloc ended with status {process.returncode}")

    def _watch(self) -> str:
        """Return, when it has ended, why."""
        state = ""
        while state in {"", "RUNNING", "CONFIGURING", "SUSPENDED"} and not self._closed.wait(LOOK_EVERY):
            state, _, end = self._ask("%T %e").partition(" ")
            if end[:1].isdigit():  # else there is no limit
                self._ends_at = time.mktime(time.strptime(end, "%Y-%m-%dT%H:%M:%S"))
        return self.late() or f"Slurm's job {self.job} has ended: {state.lower()}"

    def _ask(self, columns: str) -> str:
        """Return what squeue says of it; nothing while Slurm's controller is busy, which ends no job."""
        try:
            return command_output("squeue", "--noheader", f"--jobs={self.job}", "--states=all", f"--format={columns}")
        except OSError as error:
            return "COMPLETED" if "Invalid job id" in str(error) else ""
