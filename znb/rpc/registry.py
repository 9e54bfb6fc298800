"""Services of this user by name: one small file each, in the runtime directory.

::

    <runtime>/add.4711.service     0600; a ServiceFile
    <runtime>/add.4711.calls       its socket

A service with several replicas has a file for each; they have the same ``group``. Of two services of one name that know
nothing of each other the newer one is found.

Invariants: a file that others could have written is not believed; what is alive is decided by its process and by
connecting to it; a leftover of a dead process is removed by whoever finds it. No state, no threads.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from znb.connection import process_start
from znb.errors import AuthError, ServiceUnavailable, ZnbError
from znb.rundir import SERVICE_SUFFIX, runtime_dir, write_private
from znb.signs import OUTSIDE, Sign
from znb.transport import is_local

__all__ = [
    "ServiceFile",
    "check_service_name",
    "default_url",
    "find_pid",
    "find_service",
    "list_services",
    "publish",
    "wait_found",
    "withdraw",
]

logger = logging.getLogger("znb.rpc")

#: Layout of the file; others are not read.
FILE_FORMAT = 1
#: Bytes of a file; a real one has some hundred.
MAX_BYTES = 100_000
#: Bytes that a socket's path may have. unix(7) allows 107 on Linux, and 103 on macOS.
PATH_MAX_BYTES = 100
#: Names that are safe in a path and on a command line.
NAME_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,39}")
#: Seconds for the word of services on other machines to come here, and between two looks whether it has.
FOUND_TIMEOUT, FOUND_INTERVAL = 10.0, 0.005
#: Seconds for a local connection; only a machine that has stopped breathing takes longer.
PROBE_TIMEOUT = 1.0


class ServiceFile(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a running service.

    Attributes:
        format: Layout of this record.
        name: What callers say.
        url: Where it listens.
        group: Equal for the replicas of one service.
        pid: Its process.
        host: Name of its machine.
        created: Unix time of the start.
        doc: First line of what it says about itself.
        methods: Names of its methods when it was started.
        worker: The worker that it is on and that worker's machine, if that is another one; ``pid`` is its head's then.
    """

    format: int
    name: str
    url: str
    group: str
    pid: int
    host: str
    created: float
    doc: str = ""
    methods: list[str] = []
    worker: str = ""


def check_service_name(name: str) -> str:
    """Return a service's name if it is one.

    Raises:
        ZnbError: It is empty, too long, or has characters that do not belong in a name.
    """
    if NAME_PATTERN.fullmatch(name):
        return name
    raise ZnbError(
        f"{name!r} cannot name a service: expected 1 to 40 letters, digits, '_', '-' or '.', not starting with '-' or "
        f"'.'"
    )


def default_url(name: str) -> str:
    """Return the address at which a service of this name listens unless it is told another.

    A worker on another machine listens where its cluster is let in; else it is a socket that only this user reaches.

    Raises:
        ZnbError: The runtime directory is too deep for a socket.
    """
    if OUTSIDE.place is not None:
        return OUTSIDE.place.bind
    path = runtime_dir() / f"{name}.{os.getpid()}.{secrets.token_hex(2)}.calls"
    if len(os.fsencode(path)) > PATH_MAX_BYTES:
        raise ZnbError(
            f"{path} is too long for a socket ({PATH_MAX_BYTES} bytes); set ZNB_RUNTIME_DIR to a shorter path"
        )
    return f"ipc://{path}"


def publish(name: str, url: str, *, group: str, doc: str, methods: list[str]) -> Path:
    """Write the file of a service of this process, and return its path; replaces one of the same name and process."""
    path = runtime_dir() / f"{name}.{os.getpid()}{SERVICE_SUFFIX}"
    content = ServiceFile(
        format=FILE_FORMAT,
        name=name,
        url=url,
        group=group,
        pid=os.getpid(),
        host=os.uname().nodename,
        created=time.time(),
        doc=doc,
        methods=methods,
    )
    record = msgspec.json.encode(content)
    write_private(path, record)
    OUTSIDE.tell(Sign("service", path.stem, url.partition("#")[0], record))
    return path


def withdraw(path: Path) -> None:
    """Remove the file of a service. May be called twice."""
    path.unlink(missing_ok=True)
    OUTSIDE.tell(Sign("service", path.stem))


def list_services() -> list[ServiceFile]:
    """Return the services of this user that are alive, oldest first; removes the files of dead ones."""
    found: dict[str, ServiceFile] = {}
    for path in runtime_dir().glob(f"*{SERVICE_SUFFIX}"):
        entry = _read(path)
        if entry is None or entry.host != os.uname().nodename:
            continue
        if _is_alive(entry):
            found[entry.url] = entry  # a worker of an engine's on this machine has its own file, and one of the head
        else:
            _remove(path, entry)
    return sorted(found.values(), key=lambda entry: (entry.created, entry.pid))


def find_service(name: str) -> list[ServiceFile]:
    """Return the replicas of the newest service of this name.

    Raises:
        ServiceUnavailable: There is none; names those there are.
    """
    entries = list_services()
    named = [entry for entry in entries if entry.name == name]
    if not named:
        others = sorted({entry.name for entry in entries})
        near = difflib.get_close_matches(name, others, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Running: {', '.join(others) or 'none'}"
        raise ServiceUnavailable(name, "there is no service of this name", hint=hint)
    group = named[-1].group
    return [entry for entry in named if entry.group == group]


def wait_found(name: str, addresses: Iterable[str]) -> None:
    """Wait until services at these addresses can be found by name: the word of those on other machines takes a moment.

    Who cannot be found after ``FOUND_TIMEOUT`` seconds is spoken of in the log.
    """
    keys = {address.partition("#")[2] for address in addresses if address.startswith("tcp://")}
    deadline = time.monotonic() + FOUND_TIMEOUT
    while keys and (missing := keys - {service.url.partition("#")[2] for service in list_services()}):
        if time.monotonic() > deadline:
            logger.warning("%d of the replicas of %s cannot be found by name yet", len(missing), name)
            return
        time.sleep(FOUND_INTERVAL)


def find_pid(url: str) -> int | None:
    """Return the process of the service of this machine that listens at a URL; ``None`` if it is not known."""
    if not is_local(url):
        return None
    try:
        entries = [_read(path) for path in runtime_dir().glob(f"*{SERVICE_SUFFIX}")]
    except (AuthError, OSError):  # whoever dials an address needs no such directory
        return None
    node = os.uname().nodename
    found = [e for e in entries if e is not None and e.host == node and e.url.partition("#")[0] == url]
    return next((e.pid for e in sorted(found, key=lambda e: -e.created) if process_start(e.pid)), None)


def _read(path: Path) -> ServiceFile | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # it has just been removed, or is not ours to read
        return None
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            return None
        try:
            entry = msgspec.json.decode(stream.read(MAX_BYTES), type=ServiceFile)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
    return entry if entry.format == FILE_FORMAT else None


def _is_alive(entry: ServiceFile) -> bool:
    if not process_start(entry.pid):
        return False  # though a child of it may still hold its socket
    scheme, _, rest = entry.url.partition("#")[0].partition("://")
    if scheme == "ipc":
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_TIMEOUT)
            try:
                probe.connect(rest)
            except BlockingIOError:
                return True  # its queue of connections is full: busy is not dead
            except OSError:
                return False
    return True


def _remove(path: Path, entry: ServiceFile) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    if entry.url.startswith("ipc://"):
        leftover = Path(entry.url.partition("#")[0].removeprefix("ipc://"))
        if leftover.parent == path.parent:
            leftover.unlink(missing_ok=True)
