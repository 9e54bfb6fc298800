"""The runtime directory: where a user's clusters keep their files and sockets on this machine.

::

    <runtime>/                 0700, owned by this user
        <cluster>/             0700; who holds its flock(2) may create and remove what is in it
            connection.json    0600; see znb.connection
            zygote.log         0600; what the zygote wrote to its stderr
            control            socket of the zygote, see znb.control
            w0.1.5f3a.calls    socket of a worker: name . generation . incarnation . kind
            sockets            if this path is too deep for sockets: a link to where they are instead,
                               <tmp>/znb-XXXXXXXX, 0700

Invariants: what others can enter is never used. The incarnation in a socket's name differs from start to start,
so what is left of an earlier cluster of the same name can neither reach nor unlink the sockets of this one.

No state and no threads: the functions work on the file system alone. Source: unix(7), for the length of paths.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from znb.errors import AuthError, ZnbError

__all__ = [
    "CONTROL_NAME",
    "FILE_NAME",
    "LOG_NAME",
    "SERVICE_SUFFIX",
    "check_private",
    "empty_cluster_dir",
    "is_locked",
    "lock_dir",
    "make_socket_dir",
    "remove_cluster_dir",
    "remove_services",
    "runtime_dir",
    "socket_dir",
    "socket_path",
    "write_private",
]

#: Name of the connection file in a cluster's directory.
FILE_NAME = "connection.json"
#: Name of the file that takes the zygote's stdout and stderr.
LOG_NAME = "zygote.log"
#: Name of the zygote's socket in a cluster's directory of sockets.
CONTROL_NAME = "control"
#: Name of the link to the directory of sockets, if that is another one.
SOCKETS_NAME = "sockets"
#: Bytes that a socket's path may have. unix(7) allows 107 on Linux, and 103 on macOS; this leaves some room.
PATH_MAX_BYTES = 100
#: End of the name of a service's file in the runtime directory (``znb.rpc.registry``).
SERVICE_SUFFIX = ".service"
#: The longest name of a socket: worker, generation, incarnation and kind.
LONGEST_SOCKET = "/w9999.999999.ffff.events"


def runtime_dir() -> Path:
    """Return this user's runtime directory, made if it is missing.

    It is ``$ZNB_RUNTIME_DIR``, else ``$XDG_RUNTIME_DIR/znb`` if that can be written, else ``<tmp>/znb-<uid>``.

    Raises:
        AuthError: It belongs to somebody else, others can enter it, or it is not a directory.
        ZnbError: It cannot be made.
    """
    if explicit := os.environ.get("ZNB_RUNTIME_DIR"):
        path = Path(explicit).resolve()
    elif (xdg := os.environ.get("XDG_RUNTIME_DIR")) and os.access(xdg, os.W_OK):
        path = Path(xdg, "znb")
    else:
        path = Path(_temp_root(), f"znb-{os.getuid()}")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        pass  # something else than a directory: the check says so
    except OSError as error:
        problem = f"the runtime directory {path} cannot be made: {error.strerror or error}; "
        raise ZnbError(problem + "set ZNB_RUNTIME_DIR to a directory that you can write") from error
    check_private(path, path.lstat(), directory=True)
    return path


def check_private(path: Path, found: os.stat_result, *, directory: bool) -> None:
    """Make sure that only this user can get at ``path``.

    Raises:
        AuthError: That is not so; the message has the command that mends it.
    """
    mode = stat.S_IMODE(found.st_mode)
    if directory and not stat.S_ISDIR(found.st_mode):
        problem = f"{path} is no directory (or a link to one), so clusters cannot live in it; move it away or set "
        raise AuthError(problem + "ZNB_RUNTIME_DIR", path=str(path))
    if found.st_uid != os.getuid():
        problem = f"{path} belongs to user {found.st_uid}, not to {os.getuid()}, so it is not trusted; "
        raise AuthError(problem + "set ZNB_RUNTIME_DIR to a directory of your own", path=str(path))
    if mode & 0o077:
        wanted = "700" if directory else "600"
        problem = f"{path} has mode {mode:03o}, expected {wanted}: others can get at the clusters it leads to. "
        raise AuthError(problem + f"If you trust what is in it: chmod {wanted} {path}", path=str(path))


def make_socket_dir(cluster_dir: Path) -> Path:
    """Return the directory for a new cluster's sockets: its own, or a short one if its path is too long.

    Raises:
        ZnbError: Even the directory for temporary files is too deep.
    """
    if _fits(cluster_dir):
        return cluster_dir
    for root in dict.fromkeys((_temp_root(), "/tmp")):  # noqa: S108 - made 0700, with an unguessable name
        short = Path(root, f"znb-{os.urandom(4).hex()}")
        if _fits(short) and os.access(root, os.W_OK):
            (cluster_dir / SOCKETS_NAME).symlink_to(short)  # first, so that it cannot be forgotten
            short.mkdir(mode=0o700)
            return short
    most = PATH_MAX_BYTES - len(LONGEST_SOCKET)
    raise ZnbError(
        f"{cluster_dir} is too deep for sockets, and so is {_temp_root()}: expected at most {most} bytes; "
        f"set ZNB_RUNTIME_DIR or TMPDIR to a shorter path"
    )


def socket_dir(cluster_dir: Path) -> Path:
    """Return where the sockets of an existing cluster are."""
    link = cluster_dir / SOCKETS_NAME
    return link.readlink() if link.is_symlink() else cluster_dir


def socket_path(sockets: Path, name: str, generation: int, incarnation: str, kind: str) -> Path:
    """Return the path of a worker's socket of a kind (``calls``, ``jobs`` or ``events``)."""
    return sockets / f"{name}.{generation}.{incarnation}.{kind}"


def remove_cluster_dir(cluster_dir: Path) -> None:
    """Remove a cluster's directory and that of its sockets; for the holder of its lock. May be called twice."""
    empty_cluster_dir(cluster_dir)
    with contextlib.suppress(FileNotFoundError):
        cluster_dir.rmdir()


def empty_cluster_dir(cluster_dir: Path) -> None:
    """Remove what a cluster's directory holds, and its directory of sockets; for the holder of its lock."""
    # The connection file goes first, so that nobody finds a cluster that is half removed.
    (cluster_dir / FILE_NAME).unlink(missing_ok=True)
    sockets = socket_dir(cluster_dir)
    for top in dict.fromkeys((sockets, cluster_dir)):
        for parent, directories, files in os.walk(top, topdown=False):
            for path in (Path(parent, name) for name in (*files, *directories)):
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)
    if sockets != cluster_dir and sockets.is_dir():
        sockets.rmdir()


def remove_services(pid: int) -> None:
    """Remove what the services of a process that has ended have left, as one that was killed does."""
    for pattern in (f"*.{pid}{SERVICE_SUFFIX}", f"*.{pid}.*.calls"):
        for path in runtime_dir().glob(pattern):
            path.unlink(missing_ok=True)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only this user can read; it appears whole, in place of an earlier one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def lock_dir(path: Path) -> Iterator[bool]:
    """Hold a directory's lock for the block, if it exists and nobody else does; yields whether that is so.

    The kernel gives the lock back when its holder dies. It excludes other holders in this process, too.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The name may lead to another directory by now, if this one was removed while we opened it.
            held = os.path.samestat(os.fstat(descriptor), path.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        yield held
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether somebody holds a directory's lock."""
    with lock_dir(path) as locked:
        return not locked and path.exists()


def _temp_root() -> str:
    """Return the directory for temporary files, without importing ``tempfile`` (8 ms at each start)."""
    candidate = os.environ.get("TMPDIR", "")
    return candidate if Path(candidate or "/").is_dir() and candidate else "/tmp"  # noqa: S108 - names are checked


def _fits(directory: Path) -> bool:
    return len(os.fsencode(directory)) + len(LONGEST_SOCKET) <= PATH_MAX_BYTES
