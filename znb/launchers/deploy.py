"""``--deploy``: what workers need is sent over ssh to hosts that have Python and nothing else.

The packages of this environment that znb depends on, and znb itself, become one archive. A host keeps it unpacked in
the user's cache (``$XDG_CACHE_HOME/znb``, else ``~/.cache/znb``), under the digest of what is in it: it is sent once
for each change, and what has not been used for a month is removed. The interpreter is the host's own: it must be of
this one's minor version and on the same kind of machine, because packages hold compiled code.

Invariants: an unpacked archive appears whole, by a rename, or not at all. Everything here blocks: it is for a thread of
the engine's.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import znb
from znb.errors import ZnbError

__all__ = ["Archive", "deploy", "prelude"]

#: Seconds for an archive to be sent: 30 MB over a slow line.
SEND_TIMEOUT = 600.0
#: Seconds for a host to say whether it has one.
ASK_TIMEOUT = 60.0
#: What ends the name of a package in a requirement.
NAME = re.compile(r"[^A-Za-z0-9._-]")
#: Where a host keeps archives; run by its own Python, whichever that is.
FOLDER = textwrap.dedent("""\
    import os, sys
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "znb")
    folder = os.path.join(cache, {digest!r})
    """)
#: Says what a host is, and whether it has an archive; takes it from standard input if it is told to.
RECEIVE = textwrap.dedent("""\
    import platform, shutil, tarfile, tempfile, time
    mine = "%d.%d %s %s" % (sys.version_info[0], sys.version_info[1], sys.platform, platform.machine())
    if mine != {kind!r}:
        sys.exit("%s is Python %s, and what is sent is for %s" % (sys.executable, mine, {kind!r}))
    if {take!r} and not os.path.isdir(folder):
        os.makedirs(cache, mode=0o700, exist_ok=True)
        unpacked = tempfile.mkdtemp(prefix=".", dir=cache)
        try:
            with tarfile.open(fileobj=sys.stdin.buffer, mode="r|gz") as archive:
                archive.extractall(unpacked)
            os.rename(unpacked, folder)
        except BaseException:
            shutil.rmtree(unpacked, ignore_errors=True)
            if not os.path.isdir(folder):
                raise
    if os.path.isdir(folder):
        os.utime(folder)
        for other in os.listdir(cache):
            other = os.path.join(cache, other)
            if time.time() - os.stat(other).st_mtime > 30 * 86400:
                shutil.rmtree(other, ignore_errors=True)
    sys.stdout.write("it is there" if os.path.isdir(folder) else "it is missing")
    """)


class Archive:
    """This environment's znb with all that it depends on. Any thread may use it.

    Attributes:
        digest: Of what is in it: names, sizes and times of files.
    """

    def __init__(self) -> None:
        self._files = dict(sorted(_collect()))
        self._lock = threading.Lock()
        self._data = b""
        digest = hashlib.sha256(kind().encode())
        for name, path in self._files.items():
            found = path.stat()
            digest.update(f"\0{name}\0{found.st_size}\0{found.st_mtime_ns}".encode())
        self.digest = digest.hexdigest()[:24]

    def pack(self) -> bytes:
        """Return it as a gzipped tar file; the first call takes seconds."""
        with self._lock:
            if not self._data:
                buffer = io.BytesIO()
                with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=2) as archive:
                    for name, path in self._files.items():
                        archive.add(path, name, recursive=False)
                self._data = buffer.getvalue()
            return self._data


def kind() -> str:
    """Return what interpreters can use the packages of this one."""
    return f"{sys.version_info[0]}.{sys.version_info[1]} {sys.platform} {platform.machine()}"


def prelude(digest: str) -> str:
    """Return the code that has an interpreter on a host find what was sent."""
    return FOLDER.format(digest=digest) + (
        'sys.path.insert(0, folder)\nos.environ["PYTHONPATH"] = os.pathsep.join('
        '[folder, *filter(None, [os.environ.get("PYTHONPATH")])])\n'
    )


def _collect() -> Iterator[tuple[str, Path]]:
    """Yield each file's place in the archive, and where it is here."""
    package = Path(znb.__file__).parent
    for path in package.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"znb/{path.relative_to(package).as_posix()}", path
    wanted, seen = ["znb"], set[str]()
    roots = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for other systems or Pythons
        required = [text for text in distribution.requires or () if "extra ==" not in text]
        wanted += [NAME.split(text, maxsplit=1)[0].lower().replace("_", "-") for text in required]
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            inside = (
                not PurePosixPath(file).is_absolute() and ".." not in file.parts and "__pycache__" not in file.parts
            )
            if inside and file.parts[0] != "znb" and path.is_file() and any(root in path.parents for root in roots):
                yield file.as_posix(), path


def deploy(
    command: Callable[[str, str], Sequence[str]], archive: Archive, say: Callable[[str], object], host: str
) -> None:
    """Bring an archive to a host that does not have it yet.

    Args:
        command: Returns the command that has a host's Python run some code.
        archive: What to send.
        say: Told what takes its time.
        host: The host.

    Raises:
        ZnbError: The host cannot use it, or it could not be sent; the message has what was said there.
    """
    if _ask(command, host, archive, take=False) == "it is missing":
        say(f"sending znb and what it needs to {host}: {len(archive.pack()) / 1e6:.0f} MB, once")
        _ask(command, host, archive, take=True)


def _ask(command: Callable[[str, str], Sequence[str]], host: str, archive: Archive, *, take: bool) -> str:
    code = FOLDER.format(digest=archive.digest) + RECEIVE.format(kind=kind(), take=take)
    try:
        done = subprocess.run(
            command(host, code),
            input=archive.pack() if take else b"",
            capture_output=True,
            check=False,
            timeout=SEND_TIMEOUT if take else ASK_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise ZnbError(
            f"{host} did not take what it needs within {SEND_TIMEOUT if take else ASK_TIMEOUT:g} s"
        ) from None
    said = done.stdout.decode(errors="replace")
    if done.returncode or not said.endswith(("it is there", "it is missing")):
        raise ZnbError(f"{host} cannot be given what it needs:\n{done.stderr.decode(errors='replace').strip() or said}")
    return "it is there" if said.endswith("it is there") else "it is missing"
