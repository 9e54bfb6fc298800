"""The agent: makes and watches the workers of one host, for a head that is elsewhere (see ``znb.launchers.line``).

Invariants: one thread for the whole life of the process, so that a fork copies no lock that somebody holds; no zmq
context is ever made here. Its standard input and output are the line; what is printed goes to standard error. When the
line ends, or is silent for too long (``Welcome.lease``), every worker is killed and the agent ends: nobody could reach
or replace them. It writes no files, and listens to nobody but, for a moment, to a head that tries to reach it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hmac
import importlib.metadata
import os
import platform
import secrets
import selectors
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import znb
from znb.child import Entry, load_function, name_process
from znb.connection import WorkerSpec
from znb.errors import ProtocolError, ZnbError
from znb.home import Kin, LocalHome, Process
from znb.launchers import line
from znb.lifecycle import DeathCertificate
from znb.signs import Sign
from znb.wire import WIRE_VERSION
from znb.zygote import preload

__all__ = ["Agent", "main"]

#: Seconds for a head to make up its mind.
WELCOME_TIMEOUT = 60.0
#: Bytes of the secret that a head shows to the probe.
SECRET_BYTES = 16


class Agent:
    """Serves one head.

    Args:
        end: This end of the line.
        signals: Connected sockets; the interpreter writes the numbers of signals to the second.
        peer: A host on the head's side, by which this one's address is found; empty where ssh tells it.
    """

    def __init__(self, end: line.LineEnd, signals: tuple[socket.socket, socket.socket], peer: str) -> None:
        self._end = end
        self._signals, self._signals_writer = signals
        self._address = find_address(peer)
        self._selector = selectors.DefaultSelector()
        self._home: LocalHome | None = None
        self._welcome: line.Welcome | None = None
        self._workers: dict[tuple[str, int], Process] = {}
        self._probe: socket.socket | None = None
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._heard = time.monotonic()
        self._lease = WELCOME_TIMEOUT
        self._reason = ""

    def run(self) -> str:
        """Serve until the line ends, and return why it did."""
        self._signals.setblocking(False)
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signal)
        self._selector.register(self._end.read_fd, selectors.EVENT_READ, self._on_line)
        self._listen()
        try:
            self._end.send(self._hello(), before=line.GREETING)
            while not self._reason:
                for key, mask in self._selector.select(self._patience()):
                    key.data(mask)
                now = time.monotonic()
                if self._home is not None:
                    self._home.check_time(now)
                if now - self._heard > self._lease:
                    self._reason = f"nothing was heard of the head for {self._lease:g} s"
                if self._end.backlog:
                    self._end.flush()
        except OSError as error:
            self._reason = str(error)
        finally:
            if self._home is not None:
                self._home.kill_all()
        return self._reason

    def _patience(self) -> float:
        due = self._heard + self._lease
        if self._home is not None:
            due = min(due, self._home.next_due())
        left = min(due - time.monotonic(), line.BEAT)
        return max(0.0, 0.01 if self._end.backlog else left)

    def _hello(self) -> line.Hello:
        return line.Hello(
            znb=znb.__version__,
            wire=WIRE_VERSION,
            python=platform.python_version(),
            dill=importlib.metadata.version("dill"),
            host=os.uname().nodename,
            pid=os.getpid(),
            cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            address=self._address,
            probe=self._probe.getsockname()[1] if self._probe is not None else 0,
            secret=self._secret,
        )

    # -- the line --------------------------------------------------------------------------------------------

    def _on_signal(self, _mask: int) -> None:
        numbers = self._signals.recv(4096)
        if signal.SIGTERM in numbers:
            self._reason = "it was asked to end (SIGTERM)"
        if signal.SIGCHLD in numbers and self._home is not None:
            self._home.reap()

    def _on_line(self, _mask: int) -> None:
        try:
            messages = self._end.receive()
        except (OSError, ProtocolError) as error:
            self._reason = str(error)
            return
        self._heard = time.monotonic()
        for message in messages:
            match message:
                case line.Beat():
                    self._end.send(line.Beat())
                case line.Welcome():
                    self._on_welcome(message)
                case line.Make():
                    self._on_make(message)
                case line.Signal():
                    for process in self._named(message):
                        process.signal(message.signum, group=message.group)
                case line.End():
                    for process in self._named(message):
                        process.end(message.intent, message.patience)
                case line.Keys() if self._home is not None:
                    self._home.change_keys(message.keys)
                case line.Leave():
                    self._reason = "the head has let it go"

    def _named(self, message: line.Signal | line.End) -> list[Process]:
        """Return the process that is meant, if it is still there."""
        process = self._workers.get((message.name, message.generation))
        return [process] if process is not None else []

    def _on_welcome(self, welcome: line.Welcome) -> None:
        self._stop_listening()
        self._welcome = welcome
        self._lease = welcome.lease
        os.environ.update(welcome.env)
        added = [path for path in welcome.env.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
        sys.path[1:1] = added  # the interpreter has read the variable already
        with contextlib.suppress(OSError):
            os.chdir(welcome.cwd)
        entry: Entry | None = None
        if welcome.fork and hasattr(os, "fork"):
            entry = load_function(welcome.entry)
            preload(welcome.preload)
            gc.freeze()  # a collection in a worker must not copy the pages that it shares
        gc.enable()
        self._home = LocalHome(
            entry, welcome.entry, self._selector, self._abandon, sockets=None, bind=welcome.bind, keys=welcome.keys
        )

    def _on_make(self, order: line.Make) -> None:
        if self._home is None or self._welcome is None:
            raise ProtocolError("a worker was asked for before the welcome")
        key = (order.name, order.generation)
        spec = WorkerSpec(
            name=order.name, generation=order.generation, cluster=self._welcome.cluster, cluster_dir="",
            calls="", jobs="", events="", parent_fd=-1, ready_fd=-1, crash_fd=-1,
        )  # fmt: skip
        kin = Kin(self._on_ready, functools.partial(self._on_dead, key), lambda _process, _reason: None, self._on_sign)
        try:
            process = self._home.make(spec, kin)
        except (OSError, ZnbError) as error:
            self._end.send(line.Failed(order.name, order.generation, str(error)))
            return
        self._workers[key] = process
        self._end.send(line.Made(order.name, order.generation, process.pid))

    def _on_ready(self, process: Process) -> None:
        spec = process.spec
        self._end.send(line.Ready(spec.name, spec.generation, spec.calls, spec.jobs, spec.events))

    def _on_sign(self, process: Process, sign: Sign) -> None:
        self._end.send(line.Found(process.spec.name, process.spec.generation, sign))

    def _on_dead(self, key: tuple[str, int], _process: Process, certificate: DeathCertificate) -> None:
        del self._workers[key]
        self._end.send(line.Dead(certificate))

    def _abandon(self) -> None:
        """Close, in a fork, what belongs to the agent."""
        self._selector.close()
        self._signals.close()
        self._signals_writer.close()
        self._end.close()

    # -- the probe -------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Let the head try whether it reaches this address; until it has made up its mind."""
        if not self._address:
            return
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        probe = socket.socket(family, socket.SOCK_STREAM)
        try:
            probe.bind((self._address, 0))
            probe.listen(4)
        except OSError:  # the address is that of a router in front of this machine
            probe.close()
            return
        probe.setblocking(False)
        self._probe = probe
        self._selector.register(probe, selectors.EVENT_READ, self._on_probe)

    def _on_probe(self, _mask: int) -> None:
        with contextlib.suppress(OSError):
            if self._probe is not None:
                connection, _ = self._probe.accept()
                connection.setblocking(False)
                self._selector.register(
                    connection, selectors.EVENT_READ, functools.partial(self._on_probed, connection)
                )

    def _on_probed(self, connection: socket.socket, _mask: int) -> None:
        """Answer who knows the secret, and hang up."""
        self._selector.unregister(connection)
        with connection, contextlib.suppress(OSError):
            if hmac.compare_digest(connection.recv(SECRET_BYTES), self._secret):
                connection.send(b"\1")

    def _stop_listening(self) -> None:
        for key in [key for key in self._selector.get_map().values() if isinstance(key.fileobj, socket.socket)]:
            if key.fileobj is not self._signals and isinstance(key.fileobj, socket.socket):
                self._selector.unregister(key.fileobj)
                key.fileobj.close()
        self._probe = None


def find_address(peer: str) -> str:
    """Return the address of this machine at which the head's side reaches it; empty if that is not known.

    Args:
        peer: A host on the head's side; empty where ssh tells more.
    """
    told = os.environ.get("SSH_CONNECTION", "").split()  # client's address and port, server's address and port
    if not peer:
        return told[2] if len(told) == 4 else ""
    with contextlib.suppress(OSError):
        family, _, _, _, target = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as route:
            route.connect(target)  # nothing is sent: the kernel looks its way up
            return str(route.getsockname()[0])
    return ""


def main() -> None:
    """Be the agent of the head at the other end of standard input and output."""
    gc.disable()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # an engine's threads may block some, such as SIGINT
    end = line.LineEnd(os.dup(0), os.dup(1), line.ToAgent)
    for descriptor in (end.read_fd, end.write_fd):
        os.set_inheritable(descriptor, False)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    signals = socket.socketpair()
    signals[1].setblocking(False)
    signal.set_wakeup_fd(signals[1].fileno(), warn_on_full_buffer=False)
    for signum in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(signum, lambda *_: None)
    for signum in (signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    name_process("znb:agent")
    with contextlib.suppress(OSError):
        os.chdir(Path.home())
    status = 0
    try:
        Agent(end, signals, sys.argv[2] if len(sys.argv) > 2 else "").run()
    except BaseException:  # noqa: BLE001 - the process ends; this is its last word
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)
