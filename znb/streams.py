"""What ``sys.stdout`` and ``sys.stderr`` are in a process whose output is captured, and C's side of them.

The stream objects hold nothing themselves: they hand text to ``znb.capture``, on the thread that writes. They can do
what libraries expect of standard streams: they have a descriptor for children and for ``faulthandler``, an encoding,
and a ``buffer`` for bytes; they are no terminal, and closing them does nothing.
"""

from __future__ import annotations

import codecs
import ctypes
import fcntl
import io
import logging
import os
import sys
from typing import Any, Final, Literal, Protocol

__all__ = ["FDS", "PIPE_BYTES", "CapturedStream", "Originals", "Stream", "redirect"]

Stream = Literal["stdout", "stderr"]

#: The descriptors of the standard streams.
FDS: Final[dict[Stream, int]] = {"stdout": 1, "stderr": 2}
#: ``setvbuf`` mode for line buffering in glibc, musl and macOS.
LINE_BUFFERED: Final = 1
#: Bytes of each pipe, so that a child that writes much is not held up between two batches.
PIPE_BYTES: Final = 4 * 65_536

_log = logging.getLogger("znb.capture")


class Writer(Protocol):
    """What takes the text (``znb.capture.Capture``)."""

    def write(self, owner: CapturedStream, text: str) -> None:
        """Take text."""

    def end_line(self) -> None:
        """Take what there is of a line as it is."""


class CapturedStream(io.TextIOBase):
    """What ``sys.stdout`` and ``sys.stderr`` are while they are captured.

    It is no terminal, has a descriptor that children can inherit, and cannot be closed.
    """

    encoding = "utf-8"
    errors = "backslashreplace"
    line_buffering = True
    write_through = True
    mode = "w"

    def __init__(self, capture: Writer, stream: Stream) -> None:
        super().__init__()
        self._capture = capture
        self.stream: Final = stream
        self.name = f"<{stream}>"
        self.buffer = CapturedBytes(self)

    def write(self, text: str, /) -> int:
        """Queue text; wait while the queue is full."""
        try:
            self._capture.write(self, text)
        except TypeError:
            if isinstance(text, str):
                raise
            raise TypeError(f"write() argument must be str, not {type(text).__name__}") from None
        return len(text)

    def flush(self) -> None:
        """Put the line that is not finished in order with what children write."""
        self._capture.end_line()

    def fileno(self) -> int:
        """Return the descriptor that children inherit."""
        return FDS[self.stream]

    def writable(self) -> bool:
        """Return whether text can be written: always."""
        return True

    def reconfigure(self, **_options: Any) -> None:
        """Accept what ``io.TextIOWrapper`` accepts, and ignore it."""

    def close(self) -> None:
        """Do nothing: the process goes on writing."""


class CapturedBytes(io.BufferedIOBase):
    """The ``buffer`` of a captured stream: takes bytes in UTF-8, in order with the text."""

    def __init__(self, text: CapturedStream) -> None:
        super().__init__()
        self._text = text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.name = text.name
        self.mode = "wb"

    def write(self, data: Any, /) -> int:
        """Queue bytes; a character may be split between two writes."""
        view = memoryview(data)
        text = self._decoder.decode(view)
        if text:
            self._text.write(text)
        return view.nbytes

    def flush(self) -> None:
        """Do as the text stream does."""
        self._text.flush()

    def fileno(self) -> int:
        """Return the descriptor that children inherit."""
        return self._text.fileno()

    def writable(self) -> bool:
        """Return whether bytes can be written: always."""
        return True

    def close(self) -> None:
        """Do nothing: the process goes on writing."""


class Originals:
    """The streams above the descriptors, which buffer what C extensions and holders of ``sys.__stdout__`` print."""

    def __init__(self) -> None:
        self._python = [stream for stream in (sys.__stdout__, sys.__stderr__) if isinstance(stream, io.TextIOWrapper)]
        library = ctypes.CDLL(None)
        self._fflush = library.fflush
        self._setvbuf = library.setvbuf
        self._files = []
        for name in ("stdout", "__stdoutp"):  # glibc and musl; macOS
            try:
                self._files.append(ctypes.c_void_p.in_dll(library, name))
            except ValueError:
                continue

    def line_buffer(self) -> None:
        """Make them write each line at once, though it goes to a pipe."""
        for stream in self._python:
            if not stream.closed:
                stream.reconfigure(line_buffering=True)
        for file in self._files:
            self._setvbuf(file, None, LINE_BUFFERED, 0)

    def flush(self) -> None:
        """Write what they have buffered."""
        self._fflush(None)
        for stream in self._python:
            if not stream.closed:
                stream.flush()


def redirect(fd: int) -> int:
    """Make a descriptor a pipe; return the pipe's end to read from, which does not block."""
    read, write = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        try:
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError as error:  # beyond the user's allowance: the usual size will do
            _log.debug("pipe of descriptor %d keeps its size: %s", fd, error)
    os.dup2(write, fd)
    os.close(write)
    os.set_blocking(read, False)
    return read
