"""Where streams are found: each process that publishes has a socket whose name ends in ``.events``.

::

    <runtime>/4711.5f3a.notebook.events          a process of this user: pid . incarnation . name
    <runtime>/<cluster>/w0.1.5f3a.events         a worker (see ``znb.rundir``)
    <runtime>/4711.5f3a.subscriber               empty: this process waits for publishers that may come

Sockets appear with a process's first message and go with the process. Subscribers look again and again, which costs
them some microseconds; a publisher looks once, when it ends, whether somebody still has to find it.

Invariants: what a dead process has left is removed by whoever finds it, workers' sockets aside, which are their
zygote's. No state, no thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

import zmq

from znb.connection import find_cluster
from znb.errors import ServiceUnavailable, ZnbError
from znb.rpc import registry
from znb.rundir import FILE_NAME, runtime_dir, socket_dir

__all__ = [
    "EVERYWHERE",
    "check_url",
    "events_url",
    "find_sockets",
    "has_subscribers",
    "is_url",
    "mark_subscriber",
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


def check_url(url: str) -> None:
    """Refuse what is no address; whether anybody is there remains to be seen.

    Raises:
        ServiceUnavailable: It is none.
    """
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        try:
            socket.connect(url)
        except zmq.ZMQError as error:
            raise ServiceUnavailable(url, f"this is no address ({error})") from None


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
        pids = {str(service.pid) for service in registry.list_services() if _same_address(service.url, place)}
        return _sockets_of(root, pids) if pids else {place}
    if place != EVERYWHERE:
        return resolve(place)
    found = {f"ipc://{path}" for path in _sockets_in(root)}
    with os.scandir(root) as entries:
        folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    for folder in folders:
        with contextlib.suppress(OSError):  # it ends just now
            found.update(f"ipc://{path}" for path in _sockets_in(socket_dir(folder)))
    return found


def resolve(name: str) -> set[str]:
    """Return the addresses of the streams of a cluster or a service.

    Raises:
        ServiceUnavailable: There is none of this name.
    """
    root = runtime_dir()
    if (root / name / FILE_NAME).exists():
        folder = Path(find_cluster(name).cluster_dir)
        return {f"ipc://{path}" for path in _sockets_in(socket_dir(folder))}
    pids = {str(service.pid) for service in registry.list_services() if service.name == name}
    if not pids:
        raise ServiceUnavailable(
            name,
            "there is no cluster and no service of this name here",
            hint="`local` means all processes of yours on this machine; or give a URL",
        )
    return _sockets_of(root, pids)


def _sockets_of(root: Path, pids: set[str]) -> set[str]:
    return {f"ipc://{path}" for path in _sockets_in(root) if path.name.partition(".")[0] in pids}


def _same_address(address: str, url: str) -> bool:
    """Whether they are the same but for their keys."""
    return address.partition("#")[0] == url.partition("#")[0]


def mark_subscriber() -> Path:
    """Leave word that this process looks for streams; whoever asked removes the file."""
    path = runtime_dir() / f"{os.getpid()}.{secrets.token_hex(2)}{SUBSCRIBER}"
    path.touch(mode=0o600)
    return path


def has_subscribers() -> bool:
    """Whether a living process looks for streams."""
    try:
        marks = list(runtime_dir().glob(f"*{SUBSCRIBER}"))
    except ZnbError:
        return False
    alive = [path for path in marks if _is_alive(path)]  # all of them, to remove those of the dead
    return bool(alive)


def _sockets_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries if entry.name.endswith(SOCKET)]
    return [path for path in paths if _is_alive(path)]


def _is_alive(path: Path) -> bool:
    """Whether the process still lives whose file this is; removes the file if it is certain that it does not."""
    pid = path.name.partition(".")[0]
    if not pid.isdigit():
        return True  # a worker's
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        path.unlink(missing_ok=True)
        return False
    except PermissionError:
        return True
    return True
