"""Where streams are found: each process that publishes has a socket whose name ends in ``.events``.

::

    <runtime>/4711.5f3a.notebook.events          a process of this user: pid . incarnation . name
    <runtime>/<cluster>/w0.1.5f3a.events         a worker (see ``znb.rundir``); of one elsewhere a file: its
                                                 address, ``#``, the cluster with the keys (``znb.signs``)
    <runtime>/….events.count                     beside each: how much it has published (``ledger``)
    <runtime>/4711.5f3a.subscriber               a socket: this process waits for publishers that may come

Sockets appear with a process's first message and go with the process. Subscribers look again and again, which costs
them some microseconds, and when a new publisher knocks at theirs; a publisher looks once more, when it ends, whether
somebody still has to find it.

Invariants: what a dead process has left is removed by whoever finds it, workers' sockets aside, which are their
zygote's. No state, no thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Any

import zmq

from znb.auth import client_options
from znb.connection import find_cluster
from znb.errors import ServiceUnavailable, ZnbError
from znb.rpc import registry
from znb.rundir import FILE_NAME, runtime_dir, socket_dir

__all__ = [
    "EVERYWHERE",
    "Mark",
    "check_place",
    "count_subscribers",
    "dial",
    "events_url",
    "find_sockets",
    "is_url",
    "knock",
    "resolve",
]

#: Suffix of sockets at which streams are found.
SOCKET = ".events"
#: Suffix of the files of those who look for them.
SUBSCRIBER = ".subscriber"
#: What a place is called that is all of them.
EVERYWHERE = "local"
#: Characters of a name that is part of a path.
NAME_CHARACTERS = 24


def is_url(place: str) -> bool:
    """Whether a place is an address."""
    return "://" in place


def check_place(place: Any) -> None:
    """Make sure that a place can be one, without looking for it.

    Raises:
        TypeError: It is not text.
        ValueError: It is empty.
        ServiceUnavailable: It is an address that cannot be dialled.
    """
    if not isinstance(place, str):
        raise TypeError(f"at is a name or an address, such as 'local', got {place!r:.50}")
    if not place:
        raise ValueError("a place is 'local', the name of a cluster or service, or a URL; got ''")
    if not is_url(place):
        return
    hint = "expected tcp://host:port or ipc:///path, or the name of a cluster or service"
    try:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.connect(place.partition("#")[0])
    except (zmq.ZMQError, UnicodeError) as error:
        raise ServiceUnavailable(f"{place!a}"[1:-1], f"this is no address ({error})", hint=hint) from None


def events_url(name: str) -> str:
    """Return an address at which this process's streams can be found."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:NAME_CHARACTERS] or "process"
    return f"ipc://{runtime_dir()}/{os.getpid()}.{secrets.token_hex(2)}.{safe}{SOCKET}"


def find_sockets(place: str = EVERYWHERE) -> set[str]:
    """Return the addresses at which there are streams now.

    Args:
        place: The URL of a process's streams, or of a service on this machine; the name of a cluster or a service; or
            ``local`` for all processes of this user on this machine.

    Raises:
        ServiceUnavailable: There is no such cluster or service.
    """
    root = runtime_dir()
    if is_url(place):
        pids = {service.pid for service in registry.list_services() if _same_address(service.url, place)}
        return _sockets_of(root, pids) if pids else {place}
    if place != EVERYWHERE:
        return resolve(place)
    found = set(_sockets_in(root))
    with os.scandir(root) as entries:
        folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    for folder in folders:
        with contextlib.suppress(OSError):  # it ends just now
            found.update(_sockets_in(socket_dir(folder)))
    return found


def resolve(name: str) -> set[str]:
    """Return the addresses of the streams of a cluster or a service.

    Raises:
        ServiceUnavailable: There is none of this name.
    """
    root = runtime_dir()
    if (root / name / FILE_NAME).exists():
        folder = Path(find_cluster(name).cluster_dir)
        return set(_sockets_in(socket_dir(folder)))
    pids = {service.pid for service in registry.list_services() if service.name == name}
    if not pids:
        raise ServiceUnavailable(
            name,
            "there is no cluster and no service of this name here",
            hint="`local` means all processes of yours on this machine; or give a URL",
        )
    return _sockets_of(root, pids)


def dial(socket: zmq.Socket[bytes], place: str) -> bool:
    """Connect a socket to where streams are found; return whether by the keys of a cluster.

    Raises:
        zmq.ZMQError: It is no address.
        ServiceUnavailable: Its cluster has ended.
    """
    url, _, cluster = place.partition("#")
    keys = find_cluster(cluster).keys if cluster and (runtime_dir() / cluster / FILE_NAME).exists() else None
    if keys is not None:
        client_options(keys)(socket)
    socket.connect(url)
    return keys is not None


def _sockets_of(root: Path, pids: set[int]) -> set[str]:
    return set(_sockets_in(root, tuple(f"{pid}." for pid in pids)))


def _same_address(address: str, url: str) -> bool:
    """Whether they are the same but for their keys."""
    return address.partition("#")[0] == url.partition("#")[0]


class Mark:
    """Word that this process looks for streams, with a door to knock at; whoever makes it closes it."""

    def __init__(self) -> None:
        self.path = runtime_dir() / f"{os.getpid()}.{secrets.token_hex(2)}{SUBSCRIBER}"
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.door.setblocking(False)
        try:
            self.door.bind(str(self.path))
        except OSError:  # its path is too long; then nobody can knock, and new publishers are found a little later
            self.path.touch(mode=0o600)

    def answer(self) -> None:
        """Take all knocks."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.door.recv(1)

    def remove(self) -> None:
        """Take the word back. May be called twice."""
        self.path.unlink(missing_ok=True)


def knock() -> int:
    """Have all subscribers of this machine look for publishers now; return how many there are."""
    told = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as caller:
        caller.setblocking(False)
        for path in _marks():
            with contextlib.suppress(OSError):  # it ends just now, or is asleep with its box full
                caller.sendto(b"\0", str(path))
                told += 1
    return told


def count_subscribers() -> int:
    """Return how many subscriptions of living processes look for streams."""
    return len(_marks())


def _marks() -> list[Path]:
    try:
        marks = list(runtime_dir().glob(f"*{SUBSCRIBER}"))
    except ZnbError:
        return []
    return [path for path in marks if _is_alive(path)]  # all of them, to remove those of the dead


def _sockets_in(folder: Path, beginnings: tuple[str, ...] = ("",)) -> list[str]:
    """Return the addresses that a folder leads to, of files whose names begin so."""
    with os.scandir(folder) as entries:
        named = [entry for entry in entries if entry.name.endswith(SOCKET) and entry.name.startswith(beginnings)]
        found = [(Path(entry.path), entry.is_file(follow_symlinks=False)) for entry in named]
    urls = []
    for path, is_sign in found:
        if is_sign:
            with contextlib.suppress(OSError):  # it has just been taken down
                urls.append(path.read_text(encoding="utf-8"))
        elif _is_alive(path):
            urls.append(f"ipc://{path}")
    return urls


def _is_alive(path: Path) -> bool:
    """Whether the process still lives whose file this is; removes the file if it is certain that it does not."""
    pid = path.name.partition(".")[0]
    if not pid.isdigit():
        return True  # a worker's
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.count").unlink(missing_ok=True)
        return False
    except PermissionError:
        return True
    return True
