"""Connections through ssh: an OpenSSH client that forwards sockets of a private folder, and a launcher that uses one.

``Cluster.connect(FILE, ssh=HOST)`` attaches to a cluster whose head is on another machine, with a copy of its
connection file. One ssh leads there; the head's control socket, and the addresses of workers as they come, are
forwarded from sockets in a 0700 folder, so no port is opened. Keys, where the cluster has them, hold end to end inside.

Invariants: the ssh ends with this process, however that ends. A forward is asked of the ssh that runs, which takes
some milliseconds; the reactor's thread does it, because nobody may hear of a worker before it can be dialled. Source:
ssh(1), ``-O forward``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import zmq

from znb.connection import ClusterFile
from znb.errors import ServiceUnavailable, ZnbError
from znb.launchers import EventHandler, ReactorLike
from znb.launchers.afar import AfarLauncher
from znb.lifecycle import Snapshot, WorkerStatus

__all__ = ["OPTIONS", "Connector", "Tunnel", "cancel", "forward"]

#: Options of every ssh: it has nobody to ask, notices a dead connection, and takes no forwards of the user's along.
OPTIONS = (
    "-T", "-x", "-a",
    "-o", "BatchMode=yes",
    "-o", "ConnectTimeout=10",
    "-o", "ServerAliveInterval=5",
    "-o", "ServerAliveCountMax=4",
    "-o", "ClearAllForwardings=yes",
    "-o", "StreamLocalBindUnlink=yes",
    "-o", "ControlPersist=no",
    "-o", "ControlMaster=yes",
)  # fmt: skip
#: Runs a command that ends when its standard input does, as it does with this process, and removes the folder ``$0``.
UNTIL_EOF = '"$@"; rm -rf -- "$0"'
#: Seconds for the ssh that runs to set up a forward: it is on this machine.
FORWARD_TIMEOUT = 5.0
#: Seconds for an ssh to connect.
CONNECT_TIMEOUT = 30.0
#: Seconds between two looks whether it has.
POLL_INTERVAL = 0.02


def forward(host: str, control: Path, pairs: Sequence[tuple[Path, str]]) -> None:
    """Have the ssh that leads to a host forward sockets of this machine.

    Args:
        host: What it was started with.
        control: Its control socket.
        pairs: Sockets to make here, and where each leads to on the other side: a path, or ``ADDRESS:PORT``.

    Raises:
        ZnbError: It does not; the message has what it says.
    """
    _instruct("forward", host, control, pairs)


def cancel(host: str, control: Path, pairs: Sequence[tuple[Path, str]]) -> None:
    """Have it forward them no more, and remove the sockets; if it is gone, so are the forwards. As for ``forward``."""
    with contextlib.suppress(ZnbError):
        _instruct("cancel", host, control, pairs)
    for path, _ in pairs:
        path.unlink(missing_ok=True)


def _instruct(verb: str, host: str, control: Path, pairs: Sequence[tuple[Path, str]]) -> None:
    options = [option for local, remote in pairs for option in ("-L", f"{local}:{remote}")]
    command = ["ssh", "-O", verb, "-o", f"ControlPath={control}", *options, "--", host]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False,
                              timeout=FORWARD_TIMEOUT)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ZnbError(f"the ssh to {host} has not set up a forward within {FORWARD_TIMEOUT:g} s") from None
    if done.returncode:
        raise ZnbError(f"the ssh to {host} forwards nothing: {done.stderr.decode(errors='replace').strip()}")


class Tunnel:
    """An ssh that forwards, and the folder of its sockets.

    Args:
        host: Where it leads.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._folder = Path(tempfile.mkdtemp(prefix="znb-"))  # 0700
        self._control = self._folder / "ssh"
        self._process: subprocess.Popen[bytes] | None = None
        self._local: dict[str, Path] = {}
        self._numbers = itertools.count()

    def open(self) -> None:
        """Connect.

        Raises:
            ServiceUnavailable: It cannot; the message has what ssh says.
        """
        connect = ["ssh", *OPTIONS, "-o", f"ControlPath={self._control}", "--", self.host, "exec cat >/dev/null"]
        with tempfile.TemporaryFile() as stderr:
            self._process = subprocess.Popen(
                ["sh", "-c", UNTIL_EOF, str(self._folder), *connect],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
            deadline = time.monotonic() + CONNECT_TIMEOUT
            while not self._control.exists():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    stderr.seek(0)
                    said = stderr.read().decode(errors="replace").strip()
                    self.close()
                    late = f"it has not connected in {CONNECT_TIMEOUT:g} s"
                    raise ServiceUnavailable(f"ssh to {self.host}", said or late)
                time.sleep(POLL_INTERVAL)

    def lead(self, *addresses: str) -> list[Path]:
        """Return sockets here that lead to addresses there: paths, or ``ADDRESS:PORT``."""
        new = [address for address in dict.fromkeys(addresses) if address not in self._local]
        if new:
            pairs = [(self._folder / f"{next(self._numbers)}", address) for address in new]
            forward(self.host, self._control, pairs)
            self._local.update({address: path for path, address in pairs})
        return [self._local[address] for address in addresses]

    def forget(self, *addresses: str) -> None:
        """Lead there no more."""
        cancel(self.host, self._control, [(self._local.pop(address), address) for address in addresses])

    def close(self) -> None:
        """Hang up. May be called twice."""
        if self._process is not None:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.communicate()  # which closes its standard input as well
        shutil.rmtree(self._folder, ignore_errors=True)


class Connector(AfarLauncher):
    """The launcher of a cluster whose head ssh leads to; it can only connect.

    Args:
        host: What ssh calls that machine.
        reactor: The I/O thread.
        on_event: Called on the reactor's thread with every event.
    """

    def __init__(self, host: str, reactor: ReactorLike, on_event: EventHandler) -> None:
        super().__init__(reactor, on_event)
        self._tunnel = Tunnel(host)
        self._targets: dict[str, tuple[int, tuple[str, str]]] = {}

    def connect(self, file: ClusterFile) -> Snapshot:
        """Attach to a running cluster."""
        self._tunnel.open()
        try:
            if file.keys is None:  # its workers dial back to clients on their own machine, but not here
                self._reactor.credentials = _no_keys
            (control,) = self._tunnel.lead(file.control)
            self._learn(file)
            self._open(str(control))
            return self._greet(CONNECT_TIMEOUT)
        except BaseException:
            self._close()
            self._tunnel.close()
            raise

    def _translate(self, workers: Sequence[WorkerStatus]) -> tuple[WorkerStatus, ...]:
        """Return workers with addresses that can be dialled here, as far as they are ready."""
        ready = [worker for worker in workers if worker.state == "ready"]
        with contextlib.suppress(ZnbError):  # the ssh is gone, as the control connection will tell
            self._tunnel.lead(*(_target(url) for worker in ready for url in (worker.calls, worker.jobs)))
            return tuple(self._relocate(worker) for worker in super()._translate(workers))
        return tuple(workers)

    def _relocate(self, worker: WorkerStatus) -> WorkerStatus:
        if worker.state != "ready":
            return worker
        targets = (_target(worker.calls), _target(worker.jobs))
        calls, jobs = self._tunnel.lead(*targets)
        generation, before = self._targets.get(worker.name, (worker.generation, targets))
        if worker.generation >= generation:
            self._targets[worker.name] = (worker.generation, targets)
        if worker.generation > generation:  # it has replaced that process
            self._tunnel.forget(*before)
        return msgspec.structs.replace(worker, calls=f"ipc://{calls}", jobs=f"ipc://{jobs}")

    def _release(self) -> None:
        self._tunnel.close()


def _target(url: str) -> str:
    return url.partition("://")[2]


def _no_keys(_socket: zmq.Socket[bytes]) -> None:
    """Stand for the keys of a cluster that has none: ssh lets in whom it lets in."""
