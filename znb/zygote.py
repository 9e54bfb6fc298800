"""The zygote: imports what workers need, once, and is then their parent and what clients of a cluster talk to.

Invariants: one thread for the whole life of the process, so that a fork copies no lock that somebody holds; no
zmq context is ever made here. The loop waits for no client and no worker: replies that depend on workers are
owed (``Debt``) and paid when they have come true. With no client for ``grace`` seconds everything is stopped,
unless ``keep``. When ``stop`` is answered nothing of the cluster is left but this process, which ends then.

Where an engine has the workers on other hosts the same process is their *head*: it imports and forks nothing, may have
threads of its engine, and has a ``znb.launchers.hosts.HostsHome`` in the place of ``znb.home.LocalHome``.

See ``znb.nursery`` for when workers are replaced, and ``znb.control`` for what clients can ask.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import os
import platform
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import znb
from znb.child import Entry, is_single_threaded, load_function, name_process
from znb.connection import ClusterFile, process_start, remove_cluster, write_cluster_file
from znb.control import CONTROL_VERSION, ControlPeer, Problem, Reply, Request, ZygoteConfig, peer_pid, read_frame
from znb.errors import NoWorkers, ProtocolError, ZnbError
from znb.home import Home, LocalHome
from znb.keys import ClientKeys, WorkerKeys, make_cluster_keys
from znb.launchers.engine import load_engine
from znb.launchers.hosts import HostsHome
from znb.lifecycle import ClusterEvent, DeathCertificate, Snapshot, WorkerStatus
from znb.nursery import EventName, Goal, Nursery
from znb.rundir import CONTROL_NAME
from znb.wire import WIRE_VERSION

if TYPE_CHECKING:
    from znb.launchers.door import DoorProcess

__all__ = ["Zygote", "main"]

#: Seconds to wait for a client that does not read, at the very end.
FAREWELL_TIMEOUT = 1.0


@dataclasses.dataclass(slots=True, eq=False)
class Debt:
    """A reply that is owed.

    Attributes:
        peer: Who gets it.
        id: To which request.
        goal: What workers must have come to first.
        deferred: The request, if it cannot be begun yet.
        end: Whether the whole cluster must be gone first.
        birth: Whether it is for the start of the cluster.
    """

    peer: ControlPeer
    id: int
    goal: Goal = dataclasses.field(default_factory=Goal)
    deferred: Request | None = None
    end: bool = False
    birth: bool = False


class Zygote:
    """Serves a cluster's clients, and runs its nursery.

    Args:
        config: What it was told.
        entry: What workers run; ``None`` if they are not forked but started.
        signals: Connected sockets; the interpreter writes the numbers of signals to the second.
    """

    def __init__(self, config: ZygoteConfig, entry: Entry | None, signals: tuple[socket.socket, socket.socket]) -> None:
        self._config = config
        self._signals, self._signals_writer = signals
        self._listener = socket.socket(fileno=config.listener_fd)
        self._selector = selectors.DefaultSelector()
        self._client_keys: ClientKeys | None = None
        self._worker_keys: WorkerKeys | None = None
        if config.engine or config.bind:
            self._client_keys, self._worker_keys = make_cluster_keys()
        self._home = self._make_home(entry, self._worker_keys)
        self._nursery = Nursery(config, self._home, self._tell)
        self._door = self._open_door(self._worker_keys)
        self._peers: set[ControlPeer] = set()
        self._debts: list[Debt] = []
        self._keep = config.keep
        self._orphan_at: float | None = None
        #: Whether a client that wanted it to end with itself has left it to others: the last of them ends it.
        self._disowned = False
        self._stopping = False
        self._done = False
        self._file = self._describe()

    def run(self) -> None:
        """Serve until the cluster is stopped."""
        self._listener.setblocking(False)
        self._listener.set_inheritable(False)  # it was inherited; workers that are started shall not
        self._signals.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._on_connection)
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signal)
        write_cluster_file(self._file)
        self._check_orphaned()
        try:
            while not self._done:
                for key, mask in self._selector.select(self._patience()):
                    key.data(mask)
                self._check_time()
                self._nursery.follow_places()
                if self._stopping and self._nursery.empty and not self._done:
                    self._finish()
                self._settle()
        finally:
            self._home.kill_all()  # there are any only if the loop has failed; its log, which stays, says why
            if self._door is not None:
                self._door.close()

    def _describe(self) -> ClusterFile:
        config = self._config
        return ClusterFile(
            wire_version=WIRE_VERSION,
            name=config.name,
            launcher=config.launcher,
            cluster_dir=config.cluster_dir,
            control=str(Path(config.socket_dir, CONTROL_NAME)),
            zygote_pid=os.getpid(),
            zygote_start=process_start(os.getpid()),
            created=time.time(),
            host=os.uname().nodename,
            cwd=str(Path.cwd()),
            znb_version=znb.__version__,
            python_version=platform.python_version(),
            keep=self._keep,
            grace=config.grace,
            keys=self._client_keys,
            door=self._door.url if self._door is not None else "",
        )

    def _make_home(self, entry: Entry | None, keys: WorkerKeys | None) -> Home:
        """Return where the workers are to live."""
        config = self._config
        if config.engine and keys is not None:
            return HostsHome(load_engine(config), config, keys, self._selector, self._note)
        sockets = Path(config.socket_dir)
        return LocalHome(
            entry, config.entry, self._selector, self._abandon, sockets=sockets, bind=config.bind, keys=keys
        )

    def _open_door(self, keys: WorkerKeys | None) -> DoorProcess | None:
        """Let clients of other machines in, if that is wanted."""
        if not self._config.listen or keys is None:
            return None
        door: DoorProcess = importlib.import_module("znb.launchers.door").DoorProcess(
            self._config.listen, str(Path(self._config.socket_dir, CONTROL_NAME)), keys, self._config.lease
        )
        return door

    # -- time and signals ------------------------------------------------------------------------------------

    def _patience(self) -> float | None:
        """Return the seconds until something is due; ``None`` for never."""
        due = min(self._home.next_due(), self._orphan_at if self._orphan_at is not None else float("inf"))
        return max(0.0, due - time.monotonic()) if due != float("inf") else None

    def _check_time(self) -> None:
        now = time.monotonic()
        self._home.check_time(now)
        if self._orphan_at is not None and self._orphan_at <= now:
            self._stop(f"no client for {self._config.grace:g} s")

    def _check_orphaned(self) -> None:
        """Start or stop the clock that runs while nobody is connected."""
        if self._keep or self._stopping or self._is_wanted():
            self._orphan_at = None
        elif self._orphan_at is None:
            self._orphan_at = time.monotonic() + self._config.grace

    def _is_wanted(self) -> bool:
        """Whether there is a client: what jobs connect with does not count, as it would keep the cluster for itself."""
        return any(peer.greeted and not peer.inside for peer in self._peers)

    def _on_signal(self, _mask: int) -> None:
        numbers = self._signals.recv(4096)
        if signal.SIGTERM in numbers:
            self._stop("its zygote was asked to end (SIGTERM)")
        if signal.SIGCHLD in numbers:
            self._home.reap()
            if self._door is not None:
                self._door.keep()

    def _abandon(self) -> None:
        """Close, in a fork, what belongs to the zygote."""
        self._selector.close()
        self._listener.close()
        self._signals.close()
        self._signals_writer.close()
        if self._door is not None:
            self._door.abandon()
        for peer in self._peers:
            peer.socket.close()

    # -- clients ---------------------------------------------------------------------------------------------

    def _on_connection(self, _mask: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # it has gone again
        peer = ControlPeer(connection)
        peer.inside = self._home.has_process(peer_pid(connection))
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, functools.partial(self._on_peer, peer))

    def _on_peer(self, peer: ControlPeer, mask: int) -> None:
        if peer not in self._peers:
            return  # dropped since select returned
        try:
            if mask & selectors.EVENT_WRITE:
                peer.flush()
                self._watch(peer)
            requests = peer.receive() if mask & selectors.EVENT_READ else []
        except (OSError, ProtocolError) as error:
            self._drop(peer, error)
            return
        for request in requests:
            if peer in self._peers:
                self._answer(peer, request)

    def _answer(self, peer: ControlPeer, request: Request) -> None:
        debt = Debt(peer, request.id)
        self._debts.append(debt)
        self._attempt(request, debt)

    def _attempt(self, request: Request | None, debt: Debt) -> None:
        if request is None:
            return
        try:
            self._obey(request, debt)
        except ZnbError as error:
            self._pay(debt, Problem(type(error).__name__, str(error)))
        except Exception as error:  # noqa: BLE001 - a defect here must not cost anybody the workers
            traceback.print_exc()
            message = f"the zygote failed at {request.op!r}: {error!r}; this is a defect of znb"
            self._pay(debt, Problem("ZnbError", message))

    def _pay(self, debt: Debt, answer: Snapshot | Problem) -> None:
        self._debts.remove(debt)
        if isinstance(answer, Snapshot):
            self._send(debt.peer, Reply(id=debt.id, ok=answer))
        else:
            self._send(debt.peer, Reply(id=debt.id, error=answer))

    def _tell(
        self, event: EventName, worker: WorkerStatus | None = None, certificate: DeathCertificate | None = None,
        reason: str = "", keys: ClientKeys | None = None,
    ) -> None:  # fmt: skip
        """Send an event to every client that has said hello."""
        members = self._nursery.members() if event == "scaled" else None
        message = ClusterEvent(event=event, worker=worker, certificate=certificate, workers=members, reason=reason,
                               keys=keys)  # fmt: skip
        for peer in [peer for peer in self._peers if peer.greeted]:
            self._send(peer, message)

    def _note(self, text: str) -> None:
        """Have the users told of something that they may wait for."""
        self._tell("notice", reason=text)

    def _send(self, peer: ControlPeer, message: msgspec.Struct) -> None:
        if peer not in self._peers:
            return
        try:
            peer.send(message)
            self._watch(peer)
        except OSError as error:
            self._drop(peer, error)

    def _watch(self, peer: ControlPeer) -> None:
        """Wait for a client to read only while there is something for it."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.backlog else 0)
        key = self._selector.get_key(peer.socket)
        if key.events != wanted:
            self._selector.modify(peer.socket, wanted, key.data)

    def _drop(self, peer: ControlPeer, error: Exception) -> None:
        if not isinstance(error, ConnectionResetError | BrokenPipeError):
            print(f"dropped a client: {error}", file=sys.stderr, flush=True)
        self._selector.unregister(peer.socket)
        peer.socket.close()
        self._peers.discard(peer)
        self._home.demand(sum(peer.demand for peer in self._peers))
        unborn = any(debt.peer is peer and debt.birth for debt in self._debts)
        self._debts = [debt for debt in self._debts if debt.peer is not peer]
        if unborn and self._config.engine and not self._is_wanted():
            self._stop("who started it has gone, and its places may never come")
        self._check_orphaned()

    # -- what clients ask for --------------------------------------------------------------------------------

    def _obey(self, request: Request, debt: Debt) -> None:
        """Do what a client asks for, and note in the debt what the reply waits for."""
        operations: dict[str, Callable[[Request, Debt], object]] = {
            "hello": self._do_hello,
            "workers": lambda _request, _debt: None,
            "start": self._do_start,
            "scale": self._do_scale,
            "restart": self._do_restart,
            "retire": self._do_retire,
            "kill": lambda request, _: self._nursery.kill(request.names or (), request.signum),
            "signal": self._do_signal,
            "keep": self._do_keep,
            "rotate": self._do_rotate,
            "demand": self._do_demand,
            "detach": self._do_detach,
            "stop": self._do_stop,
        }
        if request.op not in operations:
            known = ", ".join(operations)
            raise ProtocolError(f"the zygote of {self._config.name!r} knows no {request.op!r}; it knows {known}")
        if self._stopping and request.op in {"start", "scale", "restart"}:
            raise NoWorkers(f"the cluster {self._config.name!r} is stopping; start it again")
        operations[request.op](request, debt)

    def _do_hello(self, request: Request, debt: Debt) -> None:
        if request.version != CONTROL_VERSION:
            raise ProtocolError(
                f"this client speaks version {request.version} of the control protocol, the cluster "
                f"{self._config.name!r} version {CONTROL_VERSION}: use znb {znb.__version__}, which started it"
            )
        debt.peer.greeted = True
        self._check_orphaned()

    def _do_start(self, request: Request, debt: Debt) -> None:
        debt.birth = request.first
        members = self._nursery.members()
        if members and request.first:  # two who start it at once mean the same workers
            debt.goal = self._nursery.scale(len(members))
            return
        n = self._nursery.count_places(request.n) if request.names is None else 0
        debt.deferred = request if n is None else None
        if n is not None:
            debt.goal = self._nursery.start(request.names, n)

    def _do_scale(self, request: Request, debt: Debt) -> None:
        if request.n is None:
            raise ProtocolError("a request to scale does not say to how many workers")
        n = self._nursery.count_places(request.n)
        debt.deferred = request if n is None else None
        if n is not None:
            debt.goal = self._nursery.scale(n)

    def _do_restart(self, request: Request, debt: Debt) -> None:
        debt.goal = self._nursery.restart(request.names)

    def _do_retire(self, request: Request, debt: Debt) -> None:
        debt.goal = self._nursery.retire(request.names or ())

    def _do_signal(self, request: Request, _debt: Debt) -> None:
        self._nursery.signal(request.names or (), request.signum, group=request.group)

    def _do_keep(self, request: Request, _debt: Debt) -> None:
        self._keep = request.keep
        self._file = msgspec.structs.replace(self._file, keep=request.keep)
        write_cluster_file(self._file)
        self._check_orphaned()

    def _do_demand(self, request: Request, debt: Debt) -> None:
        debt.peer.demand = request.n or 0
        self._home.demand(sum(peer.demand for peer in self._peers))

    def _do_rotate(self, request: Request, _debt: Debt) -> None:
        if self._worker_keys is None or request.keys is None:
            raise ZnbError(f"{self._config.name!r} has no keys: its workers listen in a private folder of this machine")
        self._worker_keys = msgspec.structs.replace(self._worker_keys, client=request.keys.public)
        self._home.change_keys(self._worker_keys)
        if self._door is not None:
            self._door.admit(request.keys.public)
        self._file = msgspec.structs.replace(self._file, keys=request.keys)
        write_cluster_file(self._file)
        self._tell("keys", keys=request.keys)

    def _do_detach(self, request: Request, debt: Debt) -> None:
        debt.peer.greeted = False
        self._disowned = self._disowned or request.stop
        if self._disowned and not self._is_wanted():
            self._do_stop(request, debt)
        self._check_orphaned()

    def _do_stop(self, request: Request, debt: Debt) -> None:
        debt.end = True
        self._stop("a client asked for it" if request.op == "stop" else "its last client left")

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            cluster=self._config.name,
            pid=os.getpid(),
            wire_version=WIRE_VERSION,
            workers=self._nursery.members(),
            clients=sum(peer.greeted for peer in self._peers),
            keep=self._keep,
            stopping=self._stopping,
            notes=self._home.notes,
            client_key=self._file.keys.public if self._file.keys is not None else "",
        )

    def _settle(self) -> None:
        """Send the replies that are due."""
        for debt in [debt for debt in self._debts if debt.deferred is not None]:
            request, debt.deferred = debt.deferred, None
            self._attempt(request, debt)
        for debt in list(self._debts):
            early = debt.deferred is not None or (debt.end and not self._done)
            verdict = None if early else self._nursery.judge(debt.goal)
            if verdict is not None and debt in self._debts:  # paying one may drop a client with others
                self._pay(debt, Problem("NoWorkers", verdict) if verdict else self._snapshot())

    # -- the end ---------------------------------------------------------------------------------------------

    def _stop(self, reason: str) -> None:
        """Begin to end everything. May be called twice."""
        if self._stopping:
            return
        self._stopping = True
        self._orphan_at = None
        # From now on this cluster counts as stopping: who starts one of its name waits until it is gone.
        self._selector.unregister(self._listener)
        self._listener.close()
        self._tell("stopping", reason=reason)
        self._nursery.stop()
        if self._nursery.empty:
            self._finish()

    def _finish(self) -> None:
        """End, now that the last worker has."""
        self._done = True
        remove_cluster(self._file)
        self._settle()
        for peer in self._peers:
            peer.flush_and_close(FAREWELL_TIMEOUT)


def preload(modules: Iterable[str]) -> None:
    """Import modules, and call ``module:function``, for all workers. What fails is written down, and no more."""
    for target in modules:
        try:
            if ":" in target:
                load_function(target)()
            else:
                importlib.import_module(target)
        except Exception:  # noqa: BLE001 - a worker that needs it will say so better
            sys.stderr.write(f"cannot preload {target}:\n{traceback.format_exc()}")
    if not is_single_threaded():
        sys.stderr.write(f"one of {', '.join(modules)} has started a thread: workers may hang\n")


def main() -> None:
    """Be the zygote that standard input describes."""
    gc.disable()
    config = msgspec.msgpack.decode(read_frame(sys.stdin.buffer), type=ZygoteConfig)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    signals = socket.socketpair()
    signals[1].setblocking(False)
    signal.set_wakeup_fd(signals[1].fileno(), warn_on_full_buffer=False)
    for signum in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(signum, lambda *_: None)
    for signum in (signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    name_process("znb:zygote")
    entry: Entry | None = None
    if config.fork and hasattr(os, "fork") and not config.engine:
        entry = load_function(config.entry)
        preload(config.preload)
        gc.freeze()  # a collection in a worker must not copy the pages that it shares
    gc.enable()
    status = 0
    try:
        Zygote(config, entry, signals).run()
    except ZnbError as error:  # of a place that makes no sense, or an engine that is not installed
        sys.stderr.write(f"{error}\n")
        status = 1
    except BaseException:  # noqa: BLE001 - the process ends; this is its last word
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)  # tearing down hundreds of modules would only take time
