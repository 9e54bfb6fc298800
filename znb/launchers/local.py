"""Workers on this machine: starts the zygote, and speaks the control protocol with it.

The launcher makes the control socket itself and hands it on, so that there is nothing to wait or poll for: its
first requests lie in the socket's queue when the zygote has done its imports, and if that fails they are cut off.

Invariants: the control connection is read on the reactor's thread only; requests are sent from any thread, and
their futures are set by the reactor. All blocking methods can be interrupted. An interrupted or failed ``start``
leaves nothing behind.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from znb.auth import client_options
from znb.connection import (
    ClusterFile,
    claim_cluster,
    process_start,
    read_cluster_file,
    remove_cluster,
    wait_process_end,
)
from znb.control import ControlClient, Reply, ZygoteConfig, bootstrap_command, bootstrap_input
from znb.errors import AuthError, CallTimeout, NoWorkers, ProtocolError, ServiceUnavailable, ZnbError
from znb.keys import ClientKeys
from znb.launchers import EventHandler, PlaceError, ReactorLike, StartOptions
from znb.lifecycle import ClusterEvent, Snapshot
from znb.locks import Event, Future
from znb.rundir import CONTROL_NAME, FILE_NAME, LOG_NAME, make_socket_dir
from znb.wire import WIRE_VERSION

__all__ = ["LocalLauncher", "stale_file"]

logger = logging.getLogger("znb.launchers.local")

#: Connections that may wait for the zygote during its imports.
BACKLOG = 64
#: Bytes of the zygote's log that an error shows.
LOG_TAIL_BYTES = 4000
#: Seconds for the zygote to answer what it answers at once.
ANSWER_TIMEOUT = 10.0
#: Seconds for workers to become ready after a change, as at a start.
READY_TIMEOUT = 60.0
#: Seconds for the zygote to end everything, above its patience with each worker.
STOP_TIMEOUT = 5.0
#: Seconds more for an engine: its agents leave, and its allocations are given back.
ENGINE_STOP_TIMEOUT = 20.0
#: Seconds for the zygote's process to end after its farewell.
EXIT_TIMEOUT = 2.0


class LocalLauncher:
    """The launcher of workers on this machine (see ``znb.launchers.Launcher``).

    Args:
        place: Nothing, or ``tcp`` to have workers listen on loopback and ask for keys, as those far away do.
        reactor: The I/O thread; it must be running when this is started or connected.
        on_event: Called on the reactor's thread with every event.

    Attributes:
        where: The place, such as ``"local"``.
        reused: Whether ``start`` found a cluster of the name running.
        file: Its connection file.
    """

    #: The first part of ``--on NAME[:PLACE]``.
    name = "local"
    #: ``module:Class`` of the engine whose hosts have the workers; empty for this machine.
    engine = ""
    #: Whether it is to be told how many workers the jobs there are could use.
    demanding = False
    #: What to do when the connection to its cluster has ended.
    advice = "start another"
    #: Whether it can send hosts what workers need.
    deploys = False

    def __init__(self, place: str, reactor: ReactorLike, on_event: EventHandler) -> None:
        if self.engine:
            self.where = f"{self.name}:{place}" if place else self.name
        elif place in {"", "tcp"}:
            self.where = f"local:{place}" if place else "local"
        else:
            raise PlaceError(f"'local:{place}' is no place for workers: expected 'local' alone, or 'local:tcp'")
        self._place = place
        self.reused = False
        self.file: ClusterFile | None = None
        self._reactor = reactor
        self._on_event = on_event
        self._client: ControlClient | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pending: dict[int, concurrent.futures.Future[Snapshot]] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._stop_grace = 0.0
        self._heard_at = 0.0
        self._noticed = ""

    # -- beginning -------------------------------------------------------------------------------------------

    def start(self, n: int | None, options: StartOptions) -> Snapshot:
        """Start a cluster of ``n`` workers (``None``: for all places), or attach to the one that runs."""
        self.check_place(self._place)
        if options.deploy and not self.deploys:
            raise PlaceError(f"nothing can be deployed on {self.where!r}: that is for hosts that ssh leads to")
        deadline = time.monotonic() + options.timeout
        with claim_cluster(options.name, timeout=options.timeout) as claimed:
            if isinstance(claimed, ClusterFile):
                self.reused = True
                snapshot = self.connect(claimed)
                if n != 0 and not snapshot.workers and not snapshot.stopping:  # whoever started it was killed at it
                    snapshot = self._request("start", deadline - time.monotonic(), n=n, first=True)
                return snapshot
            try:
                return self._launch(n, options, claimed, deadline)
            except BaseException:
                self._abort(claimed)
                raise

    def check_place(self, place: str) -> None:
        """Make sure that workers can be started at a place, as far as can be said without looking there.

        Raises:
            PlaceError: They cannot.
        """

    def connect(self, file: ClusterFile) -> Snapshot:
        """Attach to a running cluster."""
        self._learn(file)
        try:
            self._open(file.control)
        except ServiceUnavailable:
            here = os.uname().nodename
            if file.host == here:
                raise
            hint = (
                f"Cluster.connect(FILE, ssh={file.host!r}) leads there; without ssh only if it is started with listen="
            )
            raise ServiceUnavailable(file.name, f"it runs on {file.host}, and this is {here}", hint=hint) from None
        try:
            return self._greet(ANSWER_TIMEOUT)
        except BaseException:
            self._close()
            raise

    def _learn(self, file: ClusterFile) -> None:
        """Take note of how the cluster is reached, before any connection to its workers is made."""
        self.file = file
        self.where = file.launcher
        if file.keys is not None:
            self._reactor.credentials = client_options(file.keys)

    def _launch(self, n: int | None, options: StartOptions, directory: Path, deadline: float) -> Snapshot:
        self._stop_grace = options.stop_grace
        sockets = make_socket_dir(directory)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(sockets / CONTROL_NAME))
            listener.listen(BACKLOG)
            self._process = self._start_zygote(options, directory, sockets, listener)
        self._open(str(sockets / CONTROL_NAME))
        try:
            self._greet(deadline - time.monotonic())
            self._learn(read_cluster_file(directory / FILE_NAME))
            return self._request("start", deadline - time.monotonic(), n=n, first=True)
        except ServiceUnavailable as error:
            raise self._explain(options.name, directory, str(error)) from None
        except CallTimeout:
            count = "the" if n is None else n
            late = CallTimeout(f"starting {count} workers of {options.name!r}", options.timeout)
            if self._noticed:
                late.add_note(self._noticed)
            late.add_note(_read_log(directory))
            raise late from None

    def _start_zygote(
        self, options: StartOptions, directory: Path, sockets: Path, listener: socket.socket
    ) -> subprocess.Popen[bytes]:
        """Start the zygote's process; it may live longer than this one."""
        far = bool(self.engine)
        loopback = "tcp://127.0.0.1:*" if self._place == "tcp" else ""
        beside_door = f"{options.listen.rpartition(':')[0]}:*" if options.listen else ""
        bind = options.bind or ("" if far else beside_door or loopback)
        config = ZygoteConfig(
            name=options.name,
            launcher=self.where,
            cluster_dir=str(directory),
            socket_dir=str(sockets),
            listener_fd=listener.fileno(),
            entry=options.entry,
            preload=options.preload,
            fork=options.fork,
            keep=options.keep,
            grace=options.grace,
            stop_grace=options.stop_grace,
            bind=bind,
            listen=options.listen,
            deploy=options.deploy,
            engine=self.engine,
            place=self._place,
            python=options.python,
            cwd=options.cwd,
            env=dict(options.env) if far else {},
            timeout=options.timeout,
            lease=options.lease,
        )
        python = sys.executable if far else options.python or sys.executable
        own = Path(python).absolute() == Path(sys.executable).absolute()
        log = os.open(directory / LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                bootstrap_command(python, "znb.zygote:main", "znb-zygote", options.name),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=None if far else options.cwd or None,
                env=dict(os.environ) if far else {**os.environ, **options.env},
                pass_fds=(listener.fileno(),),
                start_new_session=True,  # so that Ctrl-C in a terminal reaches this process alone
            )
        except OSError as error:
            raise NoWorkers(f"cannot run {python} in {options.cwd or Path.cwd()}: {error}") from None
        finally:
            os.close(log)
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # if it has ended, its log says why
                stdin.write(bootstrap_input(list(sys.path) if own else None, config))
        return process

    def _greet(self, timeout: float) -> Snapshot:
        snapshot = self._request("hello", timeout)
        if snapshot.wire_version != WIRE_VERSION:
            raise ProtocolError(
                f"the workers of {snapshot.cluster!r} speak version {snapshot.wire_version} of the wire protocol, "
                f"this process version {WIRE_VERSION}: use the same version of znb"
            )
        if self.file is not None and self.file.keys is not None and snapshot.client_key != self.file.keys.public:
            raise stale_file(self.file)
        return snapshot

    def _explain(self, name: str, directory: Path, reason: str) -> NoWorkers:
        """Return the error for a zygote that ended at its start."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                reason = f"its first process ended with status {self._process.wait(EXIT_TIMEOUT)}"
        log = _read_log(directory)
        if "No module named 'znb'" in log:
            log += "\nznb is not installed there: run `python -m pip install znb` with that interpreter"
        return NoWorkers(f"the cluster {name!r} could not be started: {reason}.\n{log}".rstrip())

    def _abort(self, directory: Path) -> None:
        """Undo a start that failed or was interrupted."""
        (directory / FILE_NAME).unlink(missing_ok=True)  # what is left of it is for ``claim_cluster`` to remove
        if self.file is not None:  # it has answered, and may have made workers
            with contextlib.suppress(ZnbError):
                self._request("stop", self._stop_timeout())
            self._wait_exit()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._close()
        self.file = None

    # -- requests --------------------------------------------------------------------------------------------

    def workers(self) -> Snapshot:
        """Return the state of the cluster."""
        return self._request("workers", ANSWER_TIMEOUT)

    def scale(self, n: int) -> Snapshot:
        """Have ``n`` workers: the new are ready and the superfluous gone when this returns."""
        return self._request("scale", READY_TIMEOUT, n=n)

    def restart(self, names: Sequence[str] | None = None) -> Snapshot:
        """Replace workers (``None``: all) by new processes of the same names, ready when this returns."""
        return self._request("restart", READY_TIMEOUT, names=None if names is None else tuple(names))

    def retire(self, names: Sequence[str]) -> Snapshot:
        """End workers for good: they are gone, and their names free, when this returns."""
        return self._request("retire", READY_TIMEOUT, names=tuple(names))

    def kill(self, names: Sequence[str], signum: int = signal.SIGKILL) -> Snapshot:
        """Kill the processes of workers, without waiting; they are replaced."""
        return self._request("kill", ANSWER_TIMEOUT, names=tuple(names), signum=int(signum))

    def signal(self, names: Sequence[str], signum: int, *, group: bool = False) -> Snapshot:
        """Send workers a signal; with ``group`` to the processes that they have started, too."""
        return self._request("signal", ANSWER_TIMEOUT, names=tuple(names), signum=int(signum), group=group)

    def rotate(self, keys: ClientKeys) -> Snapshot:
        """Change what clients need to connect: in the connection file, for all clients, and at workers made later."""
        return self._request("rotate", ANSWER_TIMEOUT, keys=keys)

    def demand(self, workers: int) -> None:
        """Say how many workers the jobs there are could use, and do not wait."""
        with contextlib.suppress(ServiceUnavailable):
            self.request_nowait("demand", n=workers)

    def keep(self, *, keep: bool) -> Snapshot:
        """Say whether the cluster goes on when its last client has vanished."""
        return self._request("keep", ANSWER_TIMEOUT, keep=keep)

    def request_nowait(self, op: str, **arguments: Any) -> concurrent.futures.Future[Snapshot]:
        """Send a request of ``znb.control``; the reactor's thread sets the future."""
        client = self._client
        if client is None:
            raise ServiceUnavailable(self.where, "this launcher is not connected to a cluster (any more)")
        future: concurrent.futures.Future[Snapshot] = Future()
        with self._lock:  # so that the reply cannot overtake the entry in the table
            self._pending[client.request_nowait(op, **arguments)] = future
        return future

    def _request(self, op: str, timeout: float, **arguments: Any) -> Snapshot:
        future = self.request_nowait(op, **arguments)
        self._heard_at = time.monotonic()
        while True:
            left = self._heard_at + timeout - time.monotonic()
            try:
                return future.result(max(0.0, left))
            except concurrent.futures.TimeoutError:
                if self._heard_at + timeout <= time.monotonic():
                    raise CallTimeout(f"the request {op!r} to the zygote", timeout) from None

    # -- ending ----------------------------------------------------------------------------------------------

    def detach(self, *, stop: bool = False) -> None:
        """Let go of the cluster; with ``stop`` end it if no other client is left. May be called twice."""
        if self._client is None:
            return
        self._closing = True
        ended = False
        with contextlib.suppress(ServiceUnavailable, CallTimeout):
            ended = self._request("detach", self._stop_timeout(), stop=stop).stopping
        self._leave(ended=ended)

    def stop(self) -> None:
        """End the cluster for everybody; nothing of it is left when this returns. May be called twice."""
        if self._client is None:
            return
        self._closing = True
        with contextlib.suppress(ServiceUnavailable, CallTimeout):
            self._request("stop", self._stop_timeout())
        if not self._wait_exit():
            self._kill_all()
        self._leave(ended=True)

    def _stop_timeout(self) -> float:
        return self._stop_grace + STOP_TIMEOUT + (ENGINE_STOP_TIMEOUT if self.engine else 0.0)

    def _leave(self, *, ended: bool) -> None:
        if ended or self._is_gone():
            self._wait_exit()
            if self.file is not None:
                remove_cluster(self.file)
        if self._process is not None and self._process.poll() is None:
            self._process.returncode = 0  # it goes on without us: its destructor shall not complain of that
        self._close()

    def _wait_exit(self) -> bool:
        """Wait until the zygote's process has ended; return whether it has."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_TIMEOUT)
            return self._process.returncode is not None
        return self.file is None or wait_process_end(self.file.zygote_pid, self.file.zygote_start, EXIT_TIMEOUT)

    def _is_gone(self) -> bool:
        if self._process is not None:
            return self._process.poll() is not None
        return self.file is not None and process_start(self.file.zygote_pid) != self.file.zygote_start

    def _kill_all(self) -> None:
        """End a zygote that does not obey, and its workers, by force."""
        pid = self.file.zygote_pid if self.file else 0
        if not pid or self._is_gone():
            return
        logger.warning("the zygote %d does not end when asked to; it is killed", pid)
        os.kill(pid, signal.SIGSTOP)  # so that it neither replaces nor reaps: the ids below stay true
        with contextlib.suppress(OSError):  # where there is no such file, workers end when the zygote has
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
                os.killpg(int(child), signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        self._wait_exit()

    # -- the connection --------------------------------------------------------------------------------------

    def _open(self, path: str) -> None:
        client = ControlClient(path)
        client.connect()
        # A copy of the connection in a fork of this process would look like a client that is still there.
        os.register_at_fork(after_in_child=functools.partial(_close_copy, weakref.ref(client)))
        self._take(client)

    def _take(self, client: ControlClient) -> None:
        """Speak over a connection from now on."""
        self._client = client
        self._closing = False
        self._reactor.call_soon(self._reactor.add_reader, client.fileno(), self._on_readable)

    def _close(self) -> None:
        """Forget the connection; the reactor closes it, because it may be polling it."""
        client, self._client = self._client, None
        if client is not None:
            self._closing = True
            closed = Event()
            self._reactor.call_soon(self._hang_up, client, closed)
            if not closed.wait(EXIT_TIMEOUT):
                client.close()  # the reactor has ended, so it does not poll it

    def _hang_up(self, client: ControlClient, closed: Event) -> None:
        if client.fileno() >= 0:
            self._reactor.remove_reader(client.fileno())
            client.close()
        self._fail_pending("the connection was closed here")
        closed.set()

    def _on_readable(self) -> None:
        client = self._client
        if client is None or client.fileno() < 0:
            return
        try:
            messages = client.receive()
        except ZnbError as error:
            self._reactor.remove_reader(client.fileno())
            client.close()
            self._fail_pending(str(error))
            if not self._closing:
                self._on_event(ClusterEvent(event="lost", reason=str(error)))
            return
        for message in messages:
            if isinstance(message, Reply):
                self._on_reply(message)
            else:
                if message.event == "notice":  # it takes its time, but goes on
                    self._heard_at = time.monotonic()
                    if message.reason == self._noticed:
                        continue
                    self._noticed = message.reason
                if message.keys is not None and self.file is not None:
                    self._learn(msgspec.structs.replace(self.file, keys=message.keys))
                    continue
                self._on_event(message)

    def _on_reply(self, reply: Reply) -> None:
        with self._lock:
            future = self._pending.pop(reply.id, None)
        if future is not None:
            try:
                future.set_result(reply.unwrap())
            except ZnbError as error:
                future.set_exception(error)

    def _fail_pending(self, reason: str) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(ServiceUnavailable(self.file.name if self.file else self.where, reason))


def stale_file(file: ClusterFile) -> AuthError:
    """Return the error for a connection file whose keys are not those of the cluster."""
    stale = "this connection file is of another start of the cluster, or its keys have been changed since"
    return AuthError(f"{file.door or file.host} refuses the keys for {file.name!r}: {stale}; copy it again")


def _close_copy(reference: weakref.ref[ControlClient]) -> None:
    client = reference()
    if client is not None:
        client.close()


def _read_log(directory: Path) -> str:
    """Return the end of what the zygote wrote."""
    with contextlib.suppress(OSError), (directory / LOG_NAME).open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        return log.read().decode(errors="replace").strip()
    return ""
