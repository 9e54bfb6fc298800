"""Child processes of ``!command``: their output as it comes, and an end when the cell is interrupted.

A command runs in a session of its own with a pseudo-terminal as output, so that it writes line by line as it would
in a terminal, and has nothing to read from. The terminal is its controlling one: if this process is killed, the
kernel hangs up on the command. A command that ends in ``&`` writes to this process's standard output instead, and
outlives the cell.

Invariants: when a call is left by an exception, the whole session's foreground has been signalled and the child
reaped. Runs on the calling thread, and signals interrupt it.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import psutil

from znb.locks import Event

__all__ = ["collect", "find_children", "interrupt_children", "stream"]

#: Rows and columns that the command believes to have; those of pexpect, which IPython uses.
WINDOW: Final = (24, 80)
#: Milliseconds between two looks at whether a silent command has ended and left the terminal to its children.
LOOK_EVERY: Final = 50
#: Seconds that a command has to end after each signal; together well below the second that an interrupt may take.
PATIENCE: Final = 0.3
#: Bytes read at once.
CHUNK: Final = 65_536

#: Opening a terminal makes it the controlling one of a session that has none.
_ADOPT_TERMINAL: Final = ': <>"$0"; exec "$1" -c "$2"'


def stream(command: str, write: Callable[[str], object]) -> int:
    """Run a shell command and pass on its output as it comes.

    Args:
        command: For the user's shell.
        write: Takes text; may block, which holds the command back.

    Returns:
        Its exit status; negative for a signal.
    """
    if command.rstrip().endswith("&"):
        with _running([_shell(), "-c", command], None) as process:
            return _status(process.wait())
    master, slave = _open_terminal()
    try:
        arguments = ["/bin/sh", "-c", _ADOPT_TERMINAL, os.ttyname(slave), _shell(), command]
        with _running(arguments, slave) as process:
            os.close(slave)
            slave = -1
            _relay(process, master, write)
            return _status(process.wait())
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)


def collect(command: str) -> tuple[str, int]:
    """Run a shell command and return its output, standard error included, and its exit status."""
    with _running([_shell(), "-c", command], subprocess.PIPE) as process:
        output, _ = process.communicate()
    return output.decode("utf-8", "replace"), _status(process.returncode)


def find_children() -> list[psutil.Process]:
    """Return this process's descendants in its own process group. For any thread."""
    try:
        if hasattr(os, "waitid"):  # which tells in a microsecond that there is no child; to look for them takes 5 ms
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []
    group = os.getpgrp()
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(child.pid) == group:
                found.append(child)
    return found


def interrupt_children(children: Iterable[psutil.Process] | None = None) -> None:
    """Send SIGINT to this process's descendants in its own process group, as a terminal does with Ctrl-C.

    For any thread. What runs in a session of its own, as every ``!command``, is left alone.

    Args:
        children: What ``find_children`` has returned before; those that have ended meanwhile are left out.
    """
    for child in find_children() if children is None else children:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            child.send_signal(signal.SIGINT)


def _shell() -> str:
    return os.environ.get("SHELL") or "/bin/sh"


@contextlib.contextmanager
def _running(args: list[str], output: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command; end it, and what it started in the foreground, if this is left by an exception."""
    with contextlib.ExitStack() as stack:
        with _interrupt_later():  # or it would begin and belong to nobody
            process = subprocess.Popen(
                args,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                start_new_session=True,
            )
            stack.enter_context(_ending(process))
        yield process


@contextlib.contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _end(process)
        raise


@contextlib.contextmanager
def _interrupt_later() -> Iterator[None]:
    """Hold back an interrupt of the main thread until the end of this context."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived = Event()
    previous = signal.signal(signal.SIGINT, lambda _number, _frame: arrived.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous or signal.SIG_DFL)
        if arrived.is_set():
            signal.raise_signal(signal.SIGINT)


def _open_terminal() -> tuple[int, int]:
    """Return both ends of a terminal that passes bytes as they are."""
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST  # no "\r\n" for "\n"
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *WINDOW, 0, 0))
    os.set_blocking(master, False)
    return master, slave


def _relay(process: subprocess.Popen[bytes], master: int, write: Callable[[str], object]) -> None:
    """Pass on what comes until all have closed the terminal, or the command has ended and nothing more comes."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    poller = select.poll()
    poller.register(master, select.POLLIN)
    while True:
        ended = process.poll() is not None
        if not poller.poll(0 if ended else LOOK_EVERY):
            if ended:
                break
            continue
        try:
            data = os.read(master, CHUNK)
        except OSError:  # Linux says EIO when the last writer has closed
            break
        if not data:
            break
        write(decoder.decode(data))
    write(decoder.decode(b"", final=True))


def _status(code: int) -> int:
    """Return the status as IPython has it: shells say 128 + n of a child ended by signal n."""
    return 128 - code if code > 128 else code


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            _signal(process, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
                return
    finally:  # also when interrupted once more
        _signal(process, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
