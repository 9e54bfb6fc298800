"""Connection files: which clusters there are on this machine, and how to reach them.

A connection file is JSON, ``<runtime>/<cluster>/connection.json`` (see ``znb.rundir``), written by the zygote when
it is about to listen and removed when it ends.

Invariants: a connection file that others could read is neither written nor believed. What is alive is found out
by connecting to it, not by what a file says. Of several processes that start a cluster of one name, one does
and the others get what it started.

No state and no threads: the functions work on the file system and on sockets of their own. Source: proc(5), for
the start time that tells a process from a later one of the same pid.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from znb.errors import AuthError, CallTimeout, ProtocolError, ServiceUnavailable, ZnbError
from znb.keys import ClientKeys, WorkerKeys
from znb.rundir import (
    CONTROL_NAME,
    FILE_NAME,
    check_private,
    empty_cluster_dir,
    is_locked,
    lock_dir,
    remove_cluster_dir,
    runtime_dir,
    socket_dir,
    write_private,
)

__all__ = [
    "ClusterEntry",
    "ClusterFile",
    "ClusterState",
    "WorkerSpec",
    "check_name",
    "claim_cluster",
    "clean_dead",
    "find_cluster",
    "inspect_cluster",
    "list_clusters",
    "process_start",
    "read_cluster_file",
    "remove_cluster",
    "runtime_dir",
    "wait_process_end",
    "write_cluster_file",
]

#: Layout of connection.json; a file with another number is refused.
FILE_FORMAT = 1
#: Bytes of a connection file that are read; a real one has about 700.
FILE_MAX_BYTES = 1_000_000
#: Names that are safe in a path and on a command line.
NAME_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
#: Seconds for a connection on this machine; only one that hardly breathes takes longer.
PROBE_TIMEOUT = 1.0
#: Seconds between two looks at a cluster that another process is starting or stopping.
POLL_INTERVAL = 0.02

ClusterState = Literal["alive", "starting", "stopping", "dead", "damaged", "elsewhere"]


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process is told about itself.

    Attributes:
        name: Stable name, such as ``"w0"``.
        generation: 1 for the first process of this name, one more for each replacement.
        cluster: The cluster's name.
        cluster_dir: Its directory.
        calls: URL to bind for calls; on tcp its port may be ``*``, or a range such as ``20000-20100``.
        jobs: URL to bind for jobs.
        events: URL to bind for events.
        parent_fd: Descriptor that reads end-of-file when the zygote is gone; the worker must then end.
        ready_fd: Descriptor to write to when the three endpoints are bound: one byte; behind it the addresses, a
            line each, where they are others than these. It is closed then, or takes signs (``znb.signs``).
        crash_fd: File for ``faulthandler``; what is in it becomes part of the death certificate.
        keys: Who may connect, for endpoints on tcp; ``None`` where the file system sees to that.
    """

    name: str
    generation: int
    cluster: str
    cluster_dir: str
    calls: str
    jobs: str
    events: str
    parent_fd: int
    ready_fd: int
    crash_fd: int
    keys: WorkerKeys | None = None


class ClusterFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a connection file: all that is needed to reach a running cluster.

    Attributes:
        wire_version: Version of the wire protocol that the workers speak.
        name: The cluster's name.
        launcher: Kind of launcher that started it, such as ``"local"``.
        cluster_dir: Absolute path of its directory.
        control: Absolute path of the zygote's control socket.
        zygote_pid: Process id of the zygote.
        zygote_start: What tells that process from a later one with the same id.
        created: Unix time of the start.
        host: Name of the machine.
        cwd: Working directory of the workers.
        znb_version: Version of znb that runs the workers.
        python_version: Version of Python that does.
        keep: Whether it goes on when its last client has vanished.
        grace: Seconds that it waits for a client before it ends.
        keys: What its workers on tcp let in; ``None`` where they listen to this machine alone.
        door: Where clients on other machines are let in; empty for nowhere.
        format: Layout of this record.
    """

    wire_version: int
    name: str
    launcher: str
    cluster_dir: str
    control: str
    zygote_pid: int
    zygote_start: str
    created: float
    host: str
    cwd: str
    znb_version: str
    python_version: str
    keep: bool
    grace: float
    keys: ClientKeys | None = None
    door: str = ""
    format: int = FILE_FORMAT

    @property
    def identity(self) -> tuple[str, int, str]:
        """What tells this cluster from every other, also from earlier ones of its name."""
        return self.host, self.zygote_pid, self.zygote_start


class ClusterEntry(NamedTuple):
    """One directory in the runtime directory.

    Attributes:
        name: The cluster's name.
        path: Its directory.
        state: ``alive``: answers. ``starting``, ``stopping``: wait a moment. ``dead``: a leftover that
            ``clean_dead`` removes. ``damaged``: runs, but its connection file cannot be used. ``elsewhere``: on
            another machine that shares the file system.
        file: The connection file, if it could be read.
        reason: Why the state is what it is, for people.
    """

    name: str
    path: Path
    state: ClusterState
    file: ClusterFile | None
    reason: str


# -- connection files -----------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """Return a cluster's name if it is one.

    Raises:
        ZnbError: It is empty, too long, or has characters that do not belong in a name.
    """
    if NAME_PATTERN.fullmatch(name):
        return name
    expected = "1 to 32 letters, digits, '_', '-' or '.', the first one neither '-' nor '.'"
    raise ZnbError(f"{name!r} cannot name a cluster: expected {expected}")


def write_cluster_file(file: ClusterFile) -> Path:
    """Write a cluster's connection file, whole and for this user only; replace one that is there."""
    path = Path(file.cluster_dir, FILE_NAME)
    write_private(path, msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")
    return path


def read_cluster_file(path: Path) -> ClusterFile:
    """Read a connection file.

    Raises:
        ServiceUnavailable: There is none at ``path``.
        AuthError: Others can read it, or it belongs to somebody else.
        ProtocolError: It is damaged, or from a znb that writes another format.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        hint = "`%znb cluster list` shows what runs"
        raise ServiceUnavailable(str(path), "there is no such connection file", hint=hint) from None
    except PermissionError:
        raise AuthError(f"{path} cannot be read by user {os.getuid()}", path=str(path)) from None
    with os.fdopen(descriptor, "rb") as stream:
        check_private(path, os.fstat(descriptor), directory=False)
        data = stream.read(FILE_MAX_BYTES)
    try:
        found = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("format", msgspec.Raw(b"none"))
        if bytes(found) != str(FILE_FORMAT).encode():
            problem = f"{path} has format {bytes(found).decode()}, expected {FILE_FORMAT}: another version of znb "
            raise ProtocolError(problem + "wrote it; use that one", path=str(path))
        return msgspec.json.decode(data, type=ClusterFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "if its cluster is dead, `%znb cluster list` removes it"
        raise ProtocolError(f"{path} is no connection file: {error}; {hint}", path=str(path)) from None


# -- what is there --------------------------------------------------------------------------------------------


def process_start(pid: int) -> str:
    """Return what tells a process from any other that has or had its id; ``""`` if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except (FileNotFoundError, ProcessLookupError):
        return "" if Path("/proc/self/stat").exists() else _process_start_portably(pid)
    return "" if fields[0] in {b"Z", b"X"} else f"{int(fields[19])}@{boot}"


def _process_start_portably(pid: int) -> str:
    import psutil  # noqa: PLC0415 - 20 ms that only machines without /proc need

    try:
        return repr(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return ""


def inspect_cluster(path: Path) -> ClusterEntry:
    """Find out what has become of the cluster in a directory, by connecting to it."""
    file: ClusterFile | None = None
    damage = ""
    try:
        file = read_cluster_file(path / FILE_NAME)
    except ServiceUnavailable:
        if is_locked(path):
            return ClusterEntry(path.name, path, "starting", None, "another process is starting it")
    except (AuthError, ProtocolError) as error:
        damage = str(error)
    if file is not None and file.host != os.uname().nodename:
        return ClusterEntry(path.name, path, "elsewhere", file, f"it was started on {file.host}")
    if _answers(file.control if file else str(socket_dir(path) / CONTROL_NAME)):
        if file is not None:
            return ClusterEntry(path.name, path, "alive", file, "it answers")
        return ClusterEntry(path.name, path, "damaged", None, damage or "its connection file is missing")
    if file and process_start(file.zygote_pid) == file.zygote_start:
        return ClusterEntry(path.name, path, "stopping", file, f"process {file.zygote_pid} takes no more calls")
    return ClusterEntry(path.name, path, "dead", file, damage or "its processes are gone")


def list_clusters(runtime: Path | None = None) -> list[ClusterEntry]:
    """Return what is in the runtime directory, oldest first, dead clusters included."""
    root = runtime or runtime_dir()
    entries = [inspect_cluster(path) for path in root.iterdir() if path.is_dir() and not path.is_symlink()]
    return sorted(entries, key=lambda entry: (entry.file.created if entry.file else 0.0, entry.name))


def clean_dead(runtime: Path | None = None) -> list[ClusterEntry]:
    """Remove what dead clusters left behind, and return what they were."""
    removed: list[ClusterEntry] = []
    for entry in list_clusters(runtime):
        if entry.state != "dead":
            continue
        with lock_dir(entry.path) as locked:
            # Look again, now that nobody can start it; "starting" is our own lock, as others see it.
            if locked and inspect_cluster(entry.path).state in {"dead", "starting"}:
                remove_cluster_dir(entry.path)
                removed.append(entry)
    return removed


def find_cluster(which: str | None = None, runtime: Path | None = None) -> ClusterFile:
    """Return the running cluster of this name or connection file; the newest if ``which`` is ``None``.

    Raises:
        ServiceUnavailable: It does not run, or nothing does.
        AuthError: Its connection file can be read by others.
        ProtocolError: Its connection file is damaged.
    """
    if which is not None and (os.sep in which or which.endswith(".json")):
        path = Path(which).expanduser()
        return read_cluster_file(path / FILE_NAME if path.is_dir() else path)
    root = runtime or runtime_dir()
    entries = list_clusters(root)
    running = {entry.name: entry.file for entry in entries if entry.state == "alive" and entry.file}
    if which is None and running:
        return list(running.values())[-1]
    if which is None:
        hint = "Start one: `%znb cluster start` in a notebook, znb.Cluster.start() in a script, `znb start` in a shell"
        raise ServiceUnavailable("no cluster", "nothing runs here", hint=hint)
    if which in running:
        return running[which]
    hint = f"running: {', '.join(running) or 'none'}"
    for entry in entries:
        if entry.name == check_name(which):
            if entry.state == "damaged":
                read_cluster_file(entry.path / FILE_NAME)  # raises what is wrong with it
            raise ServiceUnavailable(which, f"this cluster is {entry.state}: {entry.reason}", hint=hint)
    raise ServiceUnavailable(check_name(which), "there is no cluster of this name", hint=hint)


def _answers(path: str) -> bool:
    """Whether somebody listens on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT)
        try:
            probe.connect(path)
        except (BlockingIOError, TimeoutError):
            return True  # its queue of connections is full: busy is not dead
        except OSError:
            return False
    return True


# -- making and removing --------------------------------------------------------------------------------------


@contextlib.contextmanager
def claim_cluster(name: str, *, timeout: float, runtime: Path | None = None) -> Iterator[Path | ClusterFile]:
    """Take the right to start a cluster of this name, or learn which one runs.

    Of several processes that ask at a time one gets the right; the others wait until it leaves its block, and
    then get what it has started. A dead cluster's leftovers are removed first. If there is no connection file
    when the block ends, the directory is removed.

    Args:
        name: The cluster's name.
        timeout: Seconds to wait for another process that is starting or stopping a cluster of this name.
        runtime: The runtime directory; ``None`` for this user's.

    Yields:
        A new, empty directory for the cluster; or the connection file of the one that runs.

    Raises:
        CallTimeout: Another process took too long to start or stop it.
        AuthError: It runs, but its connection file cannot be trusted.
        ProtocolError: It runs, but its connection file is damaged.
    """
    path = (runtime or runtime_dir()) / check_name(name)
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        with lock_dir(path) as locked:
            found = inspect_cluster(path)
            if found.file is not None and found.state in {"alive", "elsewhere"}:
                yield found.file
                return
            if found.state == "damaged":
                read_cluster_file(path / FILE_NAME)  # raises what is wrong with it
            if locked and found.state in {"dead", "starting"}:  # "starting" is our own lock, as others see it
                empty_cluster_dir(path)
                try:
                    yield path
                finally:
                    if not (path / FILE_NAME).exists():
                        remove_cluster_dir(path)
                return
        if time.monotonic() > deadline:
            raise CallTimeout(f"waiting for the cluster {name!r}, which another process is {found.state},", timeout)
        time.sleep(POLL_INTERVAL)


def remove_cluster(file: ClusterFile, *, timeout: float = PROBE_TIMEOUT) -> bool:
    """Remove the directories of a cluster that has ended, unless another one has taken its place.

    Args:
        file: Its connection file.
        timeout: Seconds to wait for a process that looks at the directory just now.

    Returns:
        Whether nothing of it is left.
    """
    path = Path(file.cluster_dir)
    deadline = time.monotonic() + timeout
    while path.exists():
        with lock_dir(path) as locked:
            try:
                found = read_cluster_file(path / FILE_NAME)
                ours = (found.zygote_pid, found.zygote_start) == (file.zygote_pid, file.zygote_start)
            except (ServiceUnavailable, AuthError, ProtocolError):
                ours = locked
            if locked and ours:
                remove_cluster_dir(path)
            if locked or not ours:  # if not ours, whoever holds it has taken it over
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL)
    return True


def wait_process_end(pid: int, start: str, timeout: float) -> bool:
    """Wait until a process that is not our child has ended; return whether it has.

    Args:
        pid: Its id.
        start: Its ``process_start``.
        timeout: Seconds to wait.
    """
    deadline = time.monotonic() + timeout
    if process_start(pid) == start and hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                poller = select.poll()
                poller.register(descriptor, select.POLLIN)
                poller.poll(timeout * 1000)
            finally:
                os.close(descriptor)
    while process_start(pid) == start:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
