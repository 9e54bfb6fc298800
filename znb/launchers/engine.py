"""What an engine must do to run workers: offer hosts, and start an agent on each. The rest is the same everywhere.

An engine lives in the *head*, the process that supervises a cluster whose workers are elsewhere (``znb.zygote`` with
``znb.launchers.hosts`` for a home). It says which hosts there are (``Desk.offer``), and gives a ``Line`` to an agent
that it starts on one: two descriptors, the agent's standard input and output. Who can run a command there with its
standard input connected can be an engine: ``ssh``, ``srun``, ``docker exec -i``. See ``docs/launchers.md``.

Invariants: ``start_agent`` and ``close`` are called on the head's one thread and must not block; an engine may have
threads of its own, and the methods of its desk may be called from any.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from typing import Protocol

from znb.control import ZygoteConfig
from znb.errors import ZnbError

__all__ = [
    "Desk",
    "Engine",
    "EngineBase",
    "Line",
    "ProcessLine",
    "agent_command",
    "check_command",
    "command_output",
    "load_engine",
    "remote_command",
]

#: Bytes of what a command wrote to its standard error that a message shows.
TAIL_BYTES = 4000
#: Run by the interpreter on a host. It works with every Python 3, so that a wrong one can say so.
AGENT = textwrap.dedent("""\
    import sys
    version = "%d.%d.%d" % sys.version_info[:3]
    try:
        from znb.launchers.agent import main
    except Exception as error:
        if isinstance(error, ImportError) and getattr(error, "name", "") in ("znb", "znb.launchers.agent"):
            error = "znb is not installed there"
        sys.exit("znb-agent: Python %s at %s cannot be a worker: %s" % (version, sys.executable, error))
    main()
    """)


class Desk(Protocol):
    """What an engine tells the head, from any thread."""

    def offer(self, host: str, slots: int, *, more: bool = False) -> None:
        """There is a host, which has room for so many workers; 0 for one for each of its CPUs.

        With ``more`` another one is offered next, and nobody counts the places until then.
        """

    def complete(self) -> None:
        """Every host that there is has been offered; there may be none."""

    def withdraw(self, host: str, reason: str) -> None:
        """A host is gone for good, and its workers with it."""

    def fail(self, reason: str) -> None:
        """There will be no (more) hosts."""

    def notice(self, text: str) -> None:
        """Something that the user waits for takes its time."""


class Line(Protocol):
    """An agent's standard input and output.

    Attributes:
        read_fd: Descriptor of what it writes.
        write_fd: Descriptor of what it reads. Both are the head's to close.
    """

    read_fd: int
    write_fd: int

    def running(self) -> bool:
        """Whether what carries the line still does."""

    def errors(self) -> str:
        """Return the last of what the agent, or what carries it, wrote to standard error."""

    def kill(self) -> None:
        """End what carries the line. May be called twice."""


class Engine(Protocol):
    """What an engine must do; ``EngineBase`` has what most need not say. It is made with its ``ZygoteConfig``.

    Attributes:
        elastic: Whether hosts come and go; then there may be no more workers than places.
        on_demand: Whether there are hosts only when it has been told how many workers are wanted.
    """

    elastic: bool
    on_demand: bool

    def open(self, desk: Desk) -> None:
        """Begin to offer hosts.

        Raises:
            ZnbError: The place makes no sense.
        """

    def start_agent(self, host: str) -> Line:
        """Start an agent on a host.

        Raises:
            OSError: It cannot be.
        """

    def want(self, workers: int) -> None:
        """There are to be so many workers in all."""

    def demand(self, workers: int) -> None:
        """The jobs there are could use so many workers: news for an engine that scales by need."""

    def explain(self, host: str) -> str:
        """Return why the line to a host has ended, if the engine knows better than the line; else nothing."""

    def forward(self, host: str, urls: Sequence[str]) -> Sequence[str] | None:
        """Return addresses on this machine that lead to addresses on a host which are not reachable directly.

        ``None``: there is no way. On a thread of the host's own; this and ``withdraw`` may block.
        """

    def withdraw(self, host: str, urls: Sequence[str]) -> None:
        """Take back what ``forward`` has returned: nobody needs it any more. Also on that thread."""

    def close(self) -> None:
        """Give back what was allocated; all agents have ended. May be called twice."""


class EngineBase:
    """What most engines need not say: hosts are there for good, and can be reached or not.

    Args:
        config: What the head was told.

    Attributes:
        config: That.
        desk: Where to offer hosts, once it is open.
    """

    elastic = False
    on_demand = False
    desk: Desk

    def __init__(self, config: ZygoteConfig) -> None:
        self.config = config

    def open(self, desk: Desk) -> None:
        """Take note of where to offer hosts."""
        self.desk = desk

    def want(self, workers: int) -> None:
        """Do nothing: there are the hosts that there are."""

    def demand(self, workers: int) -> None:
        """Do nothing: hosts do not depend on it."""

    def explain(self, host: str) -> str:  # noqa: ARG002 - for engines that know more
        """Return nothing: the line has said it."""
        return ""

    def forward(self, host: str, urls: Sequence[str]) -> Sequence[str] | None:  # noqa: ARG002 - as above
        """Return that there is no way."""
        return None

    def withdraw(self, host: str, urls: Sequence[str]) -> None:
        """Do nothing: nothing was forwarded."""

    def close(self) -> None:
        """Do nothing: nothing was allocated."""


def load_engine(config: ZygoteConfig) -> Engine:
    """Return the engine that a config names.

    Raises:
        ZnbError: There is none, or what it needs is not installed.
    """
    module, _, name = config.engine.partition(":")
    try:
        make = getattr(importlib.import_module(module), name)
        engine: Engine = make(config)
    except ImportError as error:
        raise ZnbError(f"{config.launcher} needs a package that is not installed here: {error}") from None
    except AttributeError as error:
        raise ZnbError(f"{config.launcher} has no engine {config.engine!r}: {error}") from None
    return engine


def agent_command(python: str, peer: str = "") -> list[str]:
    """Return the command that runs an agent.

    Args:
        python: The interpreter.
        peer: A host on the head's side, by which the agent finds its own address; empty where ssh tells it.
    """
    return [python, "-c", AGENT, "znb-agent", peer]


def remote_command(python: str, code: str) -> str:
    """Return what the user's shell on a host is to run: some code, with the first interpreter that there is.

    Args:
        python: The interpreter; empty for one at the same path as here, else the first of ``PATH``.
        code: What it runs.
    """
    candidates = [python] if python else [sys.executable, "python3", "python"]
    tried = " ".join(shlex.quote(candidate) for candidate in candidates)
    script = (
        f'for python in {tried}; do command -v "$python" >/dev/null 2>&1 && exec "$python" -c "$0" znb-agent; done; '
        f'echo "there is no Python there: tried {" ".join(candidates)}" >&2; exit 127'
    )
    return f"exec sh -c {shlex.quote(script)} {shlex.quote(code)}"


def check_command(name: str) -> None:
    """Make sure that there is a program of this name.

    Raises:
        FileNotFoundError: There is not.
    """
    if shutil.which(name) is None:
        raise FileNotFoundError(f"there is no program {name!r} on this machine")


def command_output(*command: str, timeout: float = 30.0) -> str:
    """Return what a command prints, without the white space around it.

    Args:
        command: The program and its arguments.
        timeout: Seconds that it may take.

    Raises:
        OSError: It cannot be run, fails, or takes too long; the message has what it wrote to standard error.
    """
    check_command(command[0])
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} has not ended within {timeout:g} s") from None
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()
        raise OSError(f"{command[0]} has ended with status {done.returncode}: {words}")
    return done.stdout.decode(errors="replace").strip()


class ProcessLine:
    """A line to an agent that a command on this machine leads to.

    Args:
        command: Its standard input and output become the agent's.
        env: Environment of the command; ``None`` for this process's.

    Raises:
        OSError: It cannot be run.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        check_command(command[0])
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._stderr,
                env=env,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            self._stderr.close()
            raise
        finally:
            theirs.close()
        self.read_fd = self.write_fd = ours.detach()

    def running(self) -> bool:
        """Whether the command runs."""
        return self._process.poll() is None

    def errors(self) -> str:
        """Return the last of what it wrote to standard error."""
        if self._stderr.closed:
            return ""
        size = os.fstat(self._stderr.fileno()).st_size
        tail = os.pread(self._stderr.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES))
        return tail.decode(errors="replace").strip()

    def kill(self) -> None:
        """End the command, and what it has started. May be called twice."""
        if self.running():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._stderr.close()
