"""A line that travels in an engine's messages: its two ends, for engines that run no command of this machine.

On the host, in a process of the engine's, a ``Carrier`` is the agent's parent. At the head a ``MessageLine`` stands for
it: what the head writes goes to ``Carrier.write``, what ``Carrier.read`` returns is delivered to the head. How calls
get from one to the other is the engine's.

Invariants: bytes stay in order if calls of one method do. An agent reads end-of-file when its carrier's process is
gone, so it is never orphaned.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable

__all__ = ["Carrier", "MessageLine"]

#: Bytes that travel in one message.
PART_BYTES = 1 << 16


class MessageLine:
    """The head's end (see ``znb.launchers.engine.Line``).

    Args:
        send: Called with what the head writes, and with nothing at its end; on a thread of the line's own, which may
            be held up.
        begin: Called before, on that thread; ``None`` for nothing to do.
    """

    def __init__(self, send: Callable[[bytes], object], begin: Callable[[MessageLine], object] | None = None) -> None:
        ours, self._theirs = socket.socketpair()
        self._begin = begin
        self.read_fd = self.write_fd = ours.detach()
        self._send = send
        self._alive = True
        self._reason = ""
        threading.Thread(target=self._pump, name="znb-line", daemon=True).start()

    def deliver(self, data: bytes) -> None:
        """Hand what the agent has written to the head. Any thread."""
        with contextlib.suppress(OSError):  # the head has hung up
            self._theirs.sendall(data)

    def end(self, reason: str) -> None:
        """Tell the head that there will be no more. Any thread.

        Args:
            reason: What the agent, or the engine, has to say of it.
        """
        self._alive, self._reason = False, reason
        with contextlib.suppress(OSError):
            self._theirs.shutdown(socket.SHUT_RDWR)

    def running(self) -> bool:
        """Whether it has not been told to end."""
        return self._alive

    def errors(self) -> str:
        """Return why it has ended."""
        return self._reason

    def kill(self) -> None:
        """Nothing: the head's closed end says it."""

    def _pump(self) -> None:
        data = b" "
        with self._theirs:
            if self._begin is not None:
                self._begin(self)
            while data:
                try:
                    data = self._theirs.recv(PART_BYTES)
                except OSError:
                    data = b""
                self._send(data)


class Carrier:
    """An agent's parent on its host.

    Args:
        command: Starts the agent; without an interpreter in front, with this one.
    """

    def __init__(self, command: list[str]) -> None:
        pipe = subprocess.PIPE
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - it ends with this process, at the latest
        command = [command[0] or sys.executable, *command[1:]]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._stderr)

    def read(self) -> bytes:
        """Return what the agent has written, when there is something; nothing at its end."""
        return os.read(self._process.stdout.fileno(), PART_BYTES) if self._process.stdout is not None else b""

    def write(self, data: bytes) -> None:
        """Write to the agent; end-of-file if there is nothing."""
        stream = self._process.stdin
        with contextlib.suppress(OSError, ValueError):
            if stream is not None and data:
                stream.write(data)
                stream.flush()
            elif stream is not None:
                stream.close()

    def wait(self) -> str:
        """Return, when the agent has ended, what it has written to standard error, or else its status."""
        status = self._process.wait()
        words = os.pread(self._stderr.fileno(), PART_BYTES, 0).decode(errors="replace").strip()
        return words or f"its agent has ended with status {status}"
