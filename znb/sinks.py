"""Where outputs are shown: in a notebook, paced so that its server drops nothing, or in a terminal.

A Jupyter server drops what a kernel sends beyond a rate, and says so in the cell once. ``NotebookSink`` waits instead,
which through flow control holds the workers back. ``TerminalSink`` draws live lines below the text if it is shown on
a terminal; in a pipe or file there are none.

Invariants: everything happens on the caller's thread; waits can be interrupted; a sink holds no text.

Source: ``ZMQChannelsWebsocketConnection._limit_rate`` of jupyter_server 2.21, which counts messages and the bytes of
``stream`` messages over a window of 3 s, and allows 1,000 messages/s and 1 MB/s on average.
"""

from __future__ import annotations

import contextvars
import json
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, Protocol, TextIO

__all__ = ["NotebookCell", "NotebookSink", "Pace", "Sink", "Stream", "TerminalSink", "make_sink"]

Stream = Literal["stdout", "stderr"]

#: Bytes of text per second that are sent, and that may be sent at once. A server that was busy for up to 0.6 s sees
#: more in its window than was sent in 3 s: 0.45 + 0.7 · 3.6 MB < 3 MB.
BYTES_PER_SECOND: Final = 700_000
BURST_BYTES: Final = 450_000
#: The same for messages.
MESSAGES_PER_SECOND: Final = 700
BURST_MESSAGES: Final = 450
#: Bytes of a message besides its text: headers, signature, JSON.
MESSAGE_BYTES: Final = 1_000
#: Characters of one message, so that waits are short and output flows.
MESSAGE_CHARS: Final = 65_536

_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
_DIGITS: Final = re.compile(r"\d+")
_NOTHING: Final = {"text/plain": "", "text/html": ""}


class Sink(Protocol):
    """Where things are shown. The caller's thread may be held up, to pace it."""

    #: Whether ANSI colours are understood.
    color: bool

    def write(self, stream: Stream, text: str) -> None:
        """Show text, at once."""

    def display(self, data: dict[str, Any], metadata: dict[str, Any], display_id: str | None, *, update: bool) -> None:
        """Show a MIME bundle, or replace one."""

    def clear(self, *, wait: bool) -> None:
        """Remove what was shown, at once or when the next thing is."""

    def live(self, lines: Sequence[str]) -> None:
        """Show these lines in place of the live lines before; none of them: remove them."""

    def notice(self, text: str) -> None:
        """Show a line about what is being waited for; an empty one takes it back."""


class Pace:
    """Holds its caller to a rate of messages and bytes, with bursts (the generic cell rate algorithm).

    Args:
        clock: Seconds, monotonic.
        sleep: Waits; signals interrupt it.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._messages_until = self._bytes_until = float("-inf")

    def wait(self, size_bytes: int = 0) -> None:
        """Account for a message with so many bytes of text; return when it may be sent."""
        now = self._clock()
        messages = max(self._messages_until, now - BURST_MESSAGES / MESSAGES_PER_SECOND) + 1 / MESSAGES_PER_SECOND
        size = max(self._bytes_until, now - BURST_BYTES / BYTES_PER_SECOND) + size_bytes / BYTES_PER_SECOND
        self._messages_until, self._bytes_until = messages, size
        if max(messages, size) > now:
            self._sleep(max(messages, size) - now)


class NotebookCell:
    """The cell that runs while this is made, as a place to show things in later.

    Text finds its cell by context variables. Displays do not in ipykernel 6, so they are sent by hand.
    """

    def __init__(self, publisher: Any) -> None:
        self._publisher = publisher
        self._parent = dict(publisher.parent_header)
        self._context = contextvars.copy_context()

    def write(self, stream: Stream, text: str) -> None:
        """Show text."""
        self._context.run(_write, stream, text)

    def send(self, kind: str, content: dict[str, Any]) -> None:
        """Send a message to the cell's output."""
        session = self._publisher.session
        message = session.msg(kind, content, parent=self._parent)
        session.send(self._publisher.pub_socket, message, ident=self._publisher.topic)


class NotebookSink:
    """Shows outputs in the cell that runs, through IPython.

    Args:
        pace: ``None`` where nothing is dropped.
        cell: Where given, what is shown belongs to this cell whatever runs meanwhile; a thread may do it then.
    """

    color = True

    def __init__(self, pace: Pace | None, cell: NotebookCell | None = None) -> None:
        self._pace = pace
        self._cell = cell
        self._area = f"znb-{uuid.uuid4().hex}"
        self._drawn: str | None = None
        self._lines: Sequence[str] = ()
        self._notice = ""

    def write(self, stream: Stream, text: str) -> None:
        """Show text, at once."""
        for start in range(0, len(text), MESSAGE_CHARS):
            piece = text[start : start + MESSAGE_CHARS]
            if self._pace is not None:
                encoded = json.dumps(piece, ensure_ascii=False).encode("utf-8", "surrogatepass")
                self._pace.wait(len(encoded) + MESSAGE_BYTES)
            if self._cell is None:
                _write(stream, piece)
            else:
                self._cell.write(stream, piece)

    def display(self, data: dict[str, Any], metadata: dict[str, Any], display_id: str | None, *, update: bool) -> None:
        """Show a MIME bundle, or replace one."""
        if self._pace is not None:
            self._pace.wait()
        transient = {} if display_id is None else {"display_id": display_id}
        if self._cell is None:
            _publish(data, metadata, transient, update=update)
        else:
            content = {"data": data, "metadata": metadata, "transient": transient}
            self._cell.send("update_display_data" if update else "display_data", content)

    def clear(self, *, wait: bool) -> None:
        """Remove what was shown, at once or when the next thing is."""
        if self._pace is not None:
            self._pace.wait()
        if self._cell is None:
            _clear_output(wait=wait)
        else:
            self._cell.send("clear_output", {"wait": wait})
        self._drawn = None

    def live(self, lines: Sequence[str]) -> None:
        """Show these lines in place of the live lines before."""
        self._lines = lines
        self._draw()

    def notice(self, text: str) -> None:
        """Show a line about what is being waited for."""
        self._notice = text
        self._draw()

    def _draw(self) -> None:
        text = "\n".join([*self._lines, *([self._notice] if self._notice else [])])
        if text != (self._drawn or ""):
            data = {"text/plain": text} if text else dict(_NOTHING)
            self.display(data, {}, self._area, update=self._drawn is not None)
            self._drawn = text


class TerminalSink:
    """Shows outputs on standard output and error.

    Args:
        stdout: ``None`` for what ``sys.stdout`` is at the time.
        stderr: ``None`` for what ``sys.stderr`` is at the time.
        columns: Width for live lines; ``None`` for the terminal's.
    """

    def __init__(
        self, stdout: TextIO | None = None, stderr: TextIO | None = None, *, columns: int | None = None
    ) -> None:
        self._given: dict[Stream, TextIO | None] = {"stdout": stdout, "stderr": stderr}
        self._columns = columns
        self._is_terminal = self._stream("stdout").isatty()
        self.color = self._is_terminal
        self._mid_line = False
        self._lines: list[str] = []
        self._notice = self._noticed = ""
        self._height = 0

    def write(self, stream: Stream, text: str) -> None:
        """Show text, at once."""
        if not text:
            return
        self._erase()
        target = self._stream(stream)
        target.write(text)
        target.flush()
        self._mid_line = not text.endswith("\n")
        self._draw()

    def display(self, data: dict[str, Any], metadata: dict[str, Any], display_id: str | None, *, update: bool) -> None:
        """Show the text form of a MIME bundle, or name what there is."""
        del metadata, display_id, update
        text = data.get("text/plain")
        self.write("stdout", f"{text if isinstance(text, str) else f'<{chr(44).join(data)}>'}\n")

    def clear(self, *, wait: bool) -> None:
        """Leave everything: a terminal scrolls."""

    def live(self, lines: Sequence[str]) -> None:
        """Show these lines below the text, in place of the live lines before."""
        self._redraw(list(lines), self._notice)

    def notice(self, text: str) -> None:
        """Show a line about what is being waited for; off a terminal it stays, and is not repeated for its figures."""
        if not self._is_terminal and text and _DIGITS.sub("", text) != self._noticed:
            self._noticed = _DIGITS.sub("", text)
            self.write("stderr", text + "\n")
        self._redraw(self._lines, text)

    def _redraw(self, lines: list[str], notice: str) -> None:
        if (lines, notice) != (self._lines, self._notice):
            self._erase()
            self._lines, self._notice = lines, notice
            self._draw()

    def _erase(self) -> None:
        if self._height:
            self._stream("stdout").write(f"\x1b[{self._height}A\x1b[J")
            self._height = 0

    def _draw(self) -> None:
        lines = [*self._lines, *([self._notice] if self._notice else [])]
        if not self._is_terminal or not lines or self._mid_line:
            return
        columns = self._columns or shutil.get_terminal_size().columns
        target = self._stream("stdout")
        target.write("".join(f"{_fitting(line, columns)}\n" for line in lines))
        target.flush()
        self._height = len(lines)

    def _stream(self, name: Stream) -> TextIO:
        given = self._given[name]
        if given is not None:
            return given
        return sys.stdout if name == "stdout" else sys.stderr


def make_sink(*, detached: bool = False) -> NotebookSink | TerminalSink:
    """Return the sink for this process: a notebook's, if IPython is loaded and shows rich output, else a terminal's.

    Args:
        detached: Whether it is used by another thread, for the cell that runs now.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or type(shell).__name__ == "TerminalInteractiveShell":
        return TerminalSink()
    if getattr(shell, "kernel", None) is None:  # a worker's own shell: its outputs travel under flow control
        return NotebookSink(None)
    pace = getattr(shell, "_znb_pace", None)
    if pace is None:  # all cells of a kernel share what its server allows
        pace = shell._znb_pace = Pace()
    return NotebookSink(pace, NotebookCell(shell.display_pub) if detached else None)


def _write(stream: Stream, text: str) -> None:
    target = sys.stdout if stream == "stdout" else sys.stderr
    target.write(text)
    target.flush()  # ipykernel would wait 0.2 s for more


def _publish(data: dict[str, Any], metadata: dict[str, Any], transient: dict[str, Any], *, update: bool) -> None:
    from IPython.display import publish_display_data  # noqa: PLC0415 - it is loaded, or this is not called

    publish: Callable[..., None] = publish_display_data
    publish(data=data, metadata=metadata, transient=transient, update=update)


def _clear_output(*, wait: bool) -> None:
    from IPython.display import clear_output  # noqa: PLC0415 - as above

    clear: Callable[..., None] = clear_output
    clear(wait=wait)


def _fitting(line: str, columns: int) -> str:
    """Return as much of a line as fits; without colours if it has to be cut."""
    plain = _ANSI.sub("", line)
    return line if len(plain) < columns else plain[: columns - 1]
