"""Workers in a Slurm allocation: ``--on slurm[:PARTITION]``.

``salloc --no-shell`` asks for one task for each worker; an ``srun`` for each node of the allocation carries the line to
the agent there. The allocation is given back with the cluster, and when its start is interrupted. What Slurm's own
environment variables say (``SALLOC_ACCOUNT``, ``SALLOC_TIMELIMIT``, …) holds.

Invariants: keys go through srun's standard input only. A thread of the engine's own waits for Slurm, because its commands
may take long when its controller is busy; the head's thread never does. Source: salloc(1), srun(1), squeue(1).
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
import threading
import time

from znb.control import ZygoteConfig
from znb.launchers.engine import Desk, EngineBase, ProcessLine, agent_command
from znb.launchers.local import LocalLauncher

__all__ = ["SlurmEngine", "SlurmLauncher"]

#: Seconds between two looks at a job that waits, or runs.
LOOK_EVERY = 2.0
#: Seconds for one of Slurm's commands.
COMMAND_TIMEOUT = 30.0
#: Seconds before the end of a job's time from which its end is put down to that.
END_MARGIN = 5.0


class SlurmLauncher(LocalLauncher):
    """The launcher of workers in a Slurm allocation (see ``znb.launchers.Launcher``)."""

    name = "slurm"
    engine = "znb.launchers.slurm:SlurmEngine"


class SlurmEngine(EngineBase):
    """Starts agents by srun (see ``znb.launchers.engine.Engine``).

    Args:
        config: What the head was told; its ``place`` is a partition.
    """

    elastic = True

    def __init__(self, config: ZygoteConfig) -> None:
        self._config = config
        self._desk: Desk | None = None
        self._job = ""
        self._ends_at = float("inf")
        self._wanted = 0
        self._allocating: subprocess.Popen[bytes] | None = None
        self._closed = threading.Event()

    def open(self, desk: Desk) -> None:
        """Wait to be told how many workers are wanted."""
        self._desk = desk

    def want(self, workers: int) -> None:
        """Ask for an allocation when the first workers are wanted; it does not grow."""
        if workers and not self._wanted:
            self._wanted = workers
            threading.Thread(target=self._run, name="znb-slurm", daemon=True).start()

    def start_agent(self, host: str) -> ProcessLine:
        """Start an agent on a node of the allocation."""
        step = ["srun", f"--jobid={self._job}", "--overlap", "-N1", "-n1", f"--nodelist={host}", "--job-name=znb-agent"]
        return ProcessLine([*step, *agent_command(self._config.python or sys.executable, os.uname().nodename)])

    def explain(self, host: str) -> str:
        """Return why a node is gone, if Slurm has a reason for it."""
        if time.time() > self._ends_at - END_MARGIN:
            return f"{host}: Slurm's job {self._job} has reached its time limit"
        return ""

    def close(self) -> None:
        """Give the allocation back."""
        self._closed.set()
        if self._allocating is not None and self._allocating.poll() is None:
            self._allocating.terminate()
        if self._job:
            subprocess.run(["scancel", "--quiet", self._job], check=False, stdin=subprocess.DEVNULL,
                           timeout=COMMAND_TIMEOUT)  # fmt: skip

    # -- the engine's thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._desk is not None  # noqa: S101 - it is open
        try:
            self._allocate()
            for node, tasks in self._nodes().items():
                self._desk.offer(node, tasks)
            reason = self._watch()
        except (OSError, subprocess.SubprocessError) as error:
            words = getattr(error, "stderr", b"") or b""
            reason = f"Slurm: {error} {words.decode(errors='replace')}".strip()
        if not self._closed.is_set():
            self._desk.fail(reason)

    def _allocate(self) -> None:
        """Return when the allocation is there, telling meanwhile how it stands."""
        command = ["salloc", "--no-shell", f"--ntasks={self._wanted}", f"--job-name=znb-{self._config.name}"]
        if self._config.place:
            command.append(f"--partition={self._config.place}")
        words: collections.deque[str] = collections.deque(maxlen=20)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            self._allocating = process
            reader = threading.Thread(target=self._read, args=(process, words), name="znb-salloc", daemon=True)
            reader.start()
            said = ""
            while process.poll() is None:
                if self._closed.wait(0.1 if not self._job else LOOK_EVERY) and process.poll() is None:
                    process.terminate()
                state = self._ask("%T %r") if self._job and process.poll() is None else ""
                if state.startswith("PENDING") and self._desk is not None:
                    text = f"Slurm's job {self._job} is pending ({state.partition(' ')[2]})"
                    said = text if text != said else said
                    self._desk.notice(said)
            reader.join()
        if process.returncode:
            raise OSError("\n".join(words) or f"salloc ended with status {process.returncode}")

    def _read(self, process: subprocess.Popen[bytes], words: collections.deque[str]) -> None:
        for line in process.stderr or ():
            words.append(line.decode(errors="replace").strip())
            if found := re.search(r"job allocation (\d+)", words[-1]):
                self._job = found[1]

    def _nodes(self) -> dict[str, int]:
        """Return the nodes of the allocation, with the tasks that each has."""
        command = ["srun", f"--jobid={self._job}", "--overlap", "sh", "-c", "echo $SLURMD_NODENAME"]
        names = subprocess.run(
            command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT
        ).stdout.decode()
        return dict(collections.Counter(names.split()))

    def _watch(self) -> str:
        """Return, when the job has ended, how it did."""
        while not self._closed.wait(LOOK_EVERY):
            state, _, end = self._ask("%T %e").partition(" ")
            if end and end != "N/A":
                self._ends_at = time.mktime(time.strptime(end, "%Y-%m-%dT%H:%M:%S"))
            if state not in {"RUNNING", "CONFIGURING", "SUSPENDED"}:
                gone = self.explain("its workers are lost") or f"Slurm's job {self._job} has ended"
                return f"{gone} ({state.lower() or 'completed'})"
        return ""

    def _ask(self, columns: str) -> str:
        """Return what squeue says of the job."""
        command = ["squeue", "--noheader", f"--jobs={self._job}", "--states=all", f"--format={columns}"]
        done = subprocess.run(command, check=False, capture_output=True, timeout=COMMAND_TIMEOUT)
        return done.stdout.decode().strip()
