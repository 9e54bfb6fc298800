"""What became of a process: the words for its end, and whether the kernel's out-of-memory killer did it.

Pure, but for ``OomWatch``, which reads the kernel's counters. Sources: signal(7); the kernel's
admin-guide/cgroup-v2 (``memory.events``) and cgroup-v1/memory (``memory.oom_control``); proc(5) (``vmstat``).
"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from types import MappingProxyType

__all__ = ["OomWatch", "explain_exit"]

#: What ended a process that a signal killed, by the signal's name; other signals are only named.
MEANINGS = MappingProxyType(
    {
        "SIGABRT": "native code gave up (abort: a failed assertion, or damaged memory)",
        "SIGBUS": "invalid memory access (a mapped file was cut short, or /dev/shm is full)",
        "SIGFPE": "invalid arithmetic in native code",
        "SIGHUP": "its terminal was closed",
        "SIGILL": "invalid instruction in native code (built for another kind of CPU?)",
        "SIGINT": "interrupted from outside",
        "SIGKILL": "killed from outside",
        "SIGPIPE": "wrote to a pipe that nobody reads",
        "SIGSEGV": "invalid memory access in native code",
        "SIGSYS": "a system call that is forbidden here",
        "SIGTERM": "asked to end from outside",
        "SIGTRAP": "native code stopped at a trap",
        "SIGXCPU": "its limit of CPU time is used up",
        "SIGXFSZ": "its limit of file size is reached",
    }
)


def explain_exit(code: int, *, oom: bool | None, peak_rss_bytes: int) -> str:
    """Return in words how a process ended, to follow its name.

    Args:
        code: Its exit status, or the negative number of the signal that ended it.
        oom: Whether the out-of-memory killer seems to have done it; ``None`` if that is not known.
        peak_rss_bytes: The most memory it held; 0 if that is not known.

    Example:
        >>> explain_exit(3, oom=False, peak_rss_bytes=0)
        'exited with status 3 (os._exit or sys.exit)'
        >>> explain_exit(-11, oom=False, peak_rss_bytes=0)
        'was killed by SIGSEGV: invalid memory access in native code'
    """
    if code == 1:
        return "exited with status 1 (an error that nobody caught, os._exit or sys.exit)"
    if code >= 0:
        return f"exited with status {code} (os._exit or sys.exit)"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = f"; it held up to {peak_rss_bytes / 1e6:,.0f} MB" if peak_rss_bytes else ""
    if name == "SIGKILL" and oom:
        return f"was killed by SIGKILL: probably the kernel's out-of-memory killer{memory}"
    if name == "SIGKILL" and oom is None:
        return f"was killed by SIGKILL: from outside, or by the kernel's out-of-memory killer{memory}"
    return f"was killed by {name}" + (f": {MEANINGS[name]}" if name in MEANINGS else "")


class OomWatch:
    """Tells deaths by the kernel's out-of-memory killer from other SIGKILLs, by its counters.

    A counter says how many processes were killed, not which; so the answer is no more than probable.

    Args:
        proc: Where procfs is.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._source = _find_counter(proc)
        self._seen = self._read()

    def look(self) -> bool | None:
        """Return whether the killer has struck since the last look; ``None`` if that cannot be known."""
        count = self._read()
        if count is None or self._seen is None:
            return None
        struck, self._seen = count > self._seen, count
        return struck

    def _read(self) -> int | None:
        return _read_count(self._source) if self._source else None


def _find_counter(proc: Path) -> Path | None:
    """Return the file that counts the killer's victims: in our control group if possible, else everywhere."""
    try:
        groups = (proc / "self/cgroup").read_text().splitlines()
        mounts = (proc / "self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    candidates: list[Path] = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        kind, file = ("cgroup2", "memory.events") if not controllers else ("cgroup", "memory.oom_control")
        if controllers and "memory" not in controllers.split(","):
            continue
        for mount in mounts:
            before, _, after = mount.partition(" - ")
            root, point = before.split()[3:5]
            if after.split()[0] == kind and (not controllers or "memory" in after.split()[2].split(",")):
                inside = path[len(root) :] if root != "/" and path.startswith(root) else path
                candidates += [Path(point, inside.lstrip("/"), file), Path(point, file)]
    candidates.append(proc / "vmstat")
    return next((found for found in candidates if _read_count(found) is not None), None)


def _read_count(path: Path) -> int | None:
    try:
        found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None
