"""Launchers: where workers come from. One small class for each engine, found by name.

A launcher makes workers, supervises them, replaces the dead and tells what became of them; everything above it
is the same on every launcher. Another package adds one by an entry point in the group ``znb.launchers``, whose
name is the first part of ``--on NAME[:PLACE]``.

Invariants: ``on_event`` is called on the reactor's thread only, in the order in which things happened. Everything
else of a launcher is for any other thread, and blocks; so that an interrupt ends the wait, but not the request.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec

from znb.auth import Guarded
from znb.checks import check_text
from znb.connection import ClusterFile
from znb.errors import ZnbError
from znb.keys import ClientKeys
from znb.lifecycle import ClusterEvent, Snapshot

__all__ = [
    "GROUP",
    "EventHandler",
    "Launcher",
    "PlaceError",
    "ReactorLike",
    "StartOptions",
    "Where",
    "make_connector",
    "make_launcher",
    "parse_where",
    "place_text",
]

#: Group of entry points by which other packages add launchers.
GROUP = "znb.launchers"
#: Launchers of znb itself; looking up entry points takes 10 ms or more.
BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "local": "znb.launchers.local:LocalLauncher",
        "ssh": "znb.launchers.ssh:SshLauncher",
        "dask": "znb.launchers.dask:DaskLauncher",
        "ray": "znb.launchers.ray:RayLauncher",
        "slurm": "znb.launchers.slurm:SlurmLauncher",
    }
)

EventHandler = Callable[[ClusterEvent], object]


class PlaceError(ZnbError, ValueError):
    """What was said of where workers are to run makes no sense."""


class ReactorLike(Guarded, Protocol):
    """What launchers use of ``znb.transport.Reactor``. ``call_soon`` is for any thread, the rest for its own."""

    def call_soon(self, fn: Callable[..., object], /, *args: Any) -> None:
        """Call ``fn(*args)`` on the reactor's thread."""

    def call_later(self, delay: float, fn: Callable[..., object], /, *args: Any) -> object:
        """Call it ``delay`` seconds later."""

    def add_reader(self, fd: int, on_readable: Callable[[], object], /) -> None:
        """Call ``on_readable()`` while a descriptor can be read."""

    def remove_reader(self, fd: int, /) -> None:
        """Stop doing so."""

    def add_monitor(self, socket: Any, events: int, on_event: Callable[[int], object], /) -> None:
        """Call ``on_event(event)`` when a connection of a socket changes."""

    def close_socket(self, socket: Any, /) -> None:
        """Close a socket."""


class StartOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a cluster is to be started.

    Attributes:
        name: Its name.
        keep: Whether it goes on when its last client has vanished.
        env: Environment variables to set for the workers, above those of this process.
        cwd: Working directory of the workers; empty for this process's.
        python: Interpreter of the workers; empty for this process's, whose ``sys.path`` they then get as well.
        grace: Seconds without a client after which the cluster ends.
        timeout: Seconds until the workers must be ready.
        stop_grace: Seconds between SIGTERM and SIGKILL when a worker is stopped.
        fork: Whether workers may be forked; otherwise each is a fresh interpreter.
        entry: What a worker process runs, as ``module:function``.
        preload: Modules that workers share, imported once.
        lease: Seconds of silence after which a host is taken for gone, and has killed its workers.
        bind: Where workers listen, such as ``tcp://10.0.0.5:20000-20100``; empty for what suits the launcher.
        deploy: Whether hosts are sent what workers need.
        listen: Where clients on other machines are let in, such as ``tcp://10.0.0.5:7000``; empty for nowhere.
    """

    name: str = "default"
    keep: bool = False
    env: Mapping[str, str] = {}
    cwd: str = ""
    python: str = ""
    grace: float = 300.0
    timeout: float = 60.0
    stop_grace: float = 1.0
    fork: bool = True
    entry: str = "znb.worker:main"
    preload: tuple[str, ...] = ("IPython.core.interactiveshell", "dill", "asyncio")
    bind: str = ""
    listen: str = ""
    deploy: bool = False
    lease: float = 20.0


class Launcher(Protocol):
    """What an engine must do.

    Guarantees that everything above relies on: names are ``w0``, ``w1``, …, stable, and free again only when their
    worker is gone for good; generations of a name only grow; a worker is ``ready`` before it is named in a returned
    snapshot; every end of a process is told by exactly one ``died`` or ``stopped`` event with a certificate.

    Attributes:
        where: The place, as the user may write it, such as ``"local"``.
        reused: Whether ``start`` found a cluster of the name running, and attached to it.
        demanding: Whether ``demand`` is of use to it.
        advice: What to do when the connection to its cluster has ended.
        file: The content of its connection file; ``None`` before it is started, and when it has ended.
    """

    where: str
    reused: bool
    demanding: bool
    advice: str
    file: ClusterFile | None

    def start(self, n: int | None, options: StartOptions) -> Snapshot:
        """Start a cluster of ``n`` workers (``None``: for all places), or attach to the one that runs.

        Raises:
            PlaceError: The place makes no sense, or an option there.
            NoWorkers: It could not be started; the message has what its processes wrote.
            CallTimeout: It took longer than ``options.timeout``; nothing of it is left.
        """

    def connect(self, file: ClusterFile) -> Snapshot:
        """Attach to a running cluster.

        Raises:
            ServiceUnavailable: It does not answer.
            ProtocolError: It speaks another version of a protocol.
        """

    def workers(self) -> Snapshot:
        """Return the state of the cluster."""

    def scale(self, n: int) -> Snapshot:
        """Have ``n`` workers: the new are ready and the superfluous gone when this returns."""

    def restart(self, names: Sequence[str] | None = None) -> Snapshot:
        """Replace workers (``None``: all) by new processes of the same names, ready when this returns."""

    def retire(self, names: Sequence[str]) -> Snapshot:
        """End workers for good: they are gone, and their names free, when this returns."""

    def kill(self, names: Sequence[str], signum: int = 9) -> Snapshot:
        """Kill the processes of workers, without waiting; they are replaced."""

    def signal(self, names: Sequence[str], signum: int, *, group: bool = False) -> Snapshot:
        """Send workers a signal; with ``group`` to the processes that they have started, too."""

    def rotate(self, keys: ClientKeys) -> Snapshot:
        """Change what clients need to connect: in the connection file, for all clients, and at workers made later."""

    def demand(self, workers: int) -> None:
        """Say how many workers the jobs there are could use, and do not wait."""

    def detach(self, *, stop: bool = False) -> None:
        """Let go of the cluster; with ``stop`` end it if no other client is left. May be called twice."""

    def stop(self) -> None:
        """End the cluster for everybody; nothing of it is left when this returns. May be called twice."""


class Where(NamedTuple):
    """A place for workers: the launcher's name, and what that launcher understands."""

    launcher: str
    place: str


def parse_where(where: str) -> Where:
    """Take ``NAME[:PLACE]`` apart.

    Example:
        >>> parse_where("ssh:alpha*4,beta")
        Where(launcher='ssh', place='alpha*4,beta')
    """
    launcher, _, place = where.strip().partition(":")
    return Where(launcher, place)


def place_text(on: object) -> str:
    """Return where workers are to run as text: that is what it is, or a Dask ``Client`` or cluster.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(on, str):
        return check_text("on", on, "local")
    address = getattr(getattr(on, "scheduler", None), "address", None) or getattr(on, "scheduler_address", None)
    if not isinstance(address, str):
        raise TypeError(f"on must be text such as 'local', or a Dask Client or cluster, got {on!r}")
    if address.startswith("inproc://"):
        raise ZnbError("workers in other processes cannot reach this Dask cluster: make it with processes=True")
    return f"dask:{address}"


def make_launcher(where: str, reactor: ReactorLike, on_event: EventHandler) -> Launcher:
    """Return a new launcher for a place.

    Args:
        where: The place, as in ``--on WHERE``.
        reactor: The I/O thread that is to call ``on_event``.
        on_event: Called with every ``ClusterEvent`` once the launcher is started or connected.

    Raises:
        PlaceError: There is no such launcher, or it does not know that place.
    """
    name, place = parse_where(where)
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        factory = getattr(importlib.import_module(module), attribute)
    else:
        from importlib.metadata import entry_points  # noqa: PLC0415 - 15 ms that only other packages' launchers need

        added = {point.name: point for point in entry_points(group=GROUP)}
        if name not in added:
            known = ", ".join(sorted({*BUILT_IN, *added}))
            hint = f"a package may add it by an entry point in the group {GROUP}"
            raise PlaceError(f"there is no launcher {name!r} (in {where!r}); there are: {known}; {hint}")
        try:
            factory = added[name].load()
        except (ImportError, AttributeError) as error:
            raise PlaceError(f"the launcher {name!r} ({added[name].value}) cannot be loaded: {error}") from None
    launcher: Launcher = factory(place, reactor, on_event)
    return launcher


def make_connector(file: ClusterFile, ssh: str | None, reactor: ReactorLike, on_event: EventHandler) -> Launcher:
    """Return a new launcher that can attach to a cluster that runs.

    Args:
        file: Its connection file, or a copy.
        ssh: What ssh calls its machine, if that is the way; ``None``: by its door if it is on another machine.
        reactor: As for ``make_launcher``.
        on_event: As for ``make_launcher``.
    """
    if ssh is None and (not file.door or file.host == os.uname().nodename):
        try:
            return make_launcher(file.launcher, reactor, on_event)
        except PlaceError:  # it has another environment: that can be attached to, and stopped, all the same
            return make_launcher("local", reactor, on_event)
    module, *place = ("door",) if ssh is None else ("tunnel", ssh)
    launcher: Launcher = importlib.import_module(f"znb.launchers.{module}").Connector(*place, reactor, on_event)
    return launcher
