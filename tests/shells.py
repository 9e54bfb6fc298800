"""A shell in a process of its own, for tests: descriptors, ``__main__`` and signals are changed there, not here.

    with RemoteShell() as shell:
        assert shell.run("print('hello'); 6 * 7").value == "42"

        cell = shell.start("print('begun'); import time; time.sleep(60)")
        cell.wait_text("begun")
        shell.interrupt()
        assert cell.wait().error.name == "KeyboardInterrupt"

``run_captured`` runs a script in which ``capture`` is started and ``emit`` collects, and returns what was emitted.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from znb.outputs import Clear, Display, Output, Text

#: Seconds that anything here may take; generous, for busy machines.
TIMEOUT = 60.0

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class CellError:
    """What a cell raised: ``frames`` are (file, line, function, source line) of user code."""

    name: str
    message: str
    frames: list[list[Any]]
    syntax: list[Any]


@dataclass
class Cell:
    """A cell that was started; ``value`` is the repr of its result."""

    shell: RemoteShell
    outputs: list[Output] = field(default_factory=list)
    value: str | None = None
    error: CellError | None = None
    ended: bool = False

    @property
    def text(self) -> str:
        return "".join(o.text for o in self.outputs if isinstance(o, Text))

    def stream(self, name: str) -> str:
        return "".join(o.text for o in self.outputs if isinstance(o, Text) and o.stream == name)

    @property
    def displays(self) -> list[Display]:
        return [o for o in self.outputs if isinstance(o, Display)]

    def wait_text(self, text: str) -> None:
        """Wait until the cell has printed this, while it runs."""
        while text not in self.text:
            assert not self.ended, f"ended without {text!r}: {self}"
            self.shell.pump(self)

    def wait(self) -> Cell:
        while not self.ended:
            self.shell.pump(self)
        return self


class RemoteShell:
    """The parent's side."""

    def __init__(self, env: dict[str, str] | None = None) -> None:
        self._env = {**os.environ, **(env or {})}
        self._count = 0

    def __enter__(self) -> Self:
        commands, self._commands = os.pipe()
        reports, out = os.pipe()
        gate, self._gate = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(commands), str(out), str(gate)],
            pass_fds=(commands, out, gate),
            env={**self._env, "PYTHONPATH": str(ROOT)},
        )
        for fd in (commands, out, gate):
            os.close(fd)
        self._reports = os.fdopen(reports, "rb", buffering=0)
        self._buffer = b""
        assert self._read() == {"ready": True}
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._commands)
        os.close(self._gate)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a test that failed may have left a cell running
            self.process.wait(TIMEOUT / 10)
        self.process.kill()
        self.process.wait()
        self._reports.close()

    def start(self, source: str, *, label: str | None = None, first_line: int = 1, emit: str = "report") -> Cell:
        self._count += 1
        command = {
            "source": source,
            "label": label or f"In [{self._count}]",
            "first_line": first_line,
            "emit": emit,
        }
        os.write(self._commands, json.dumps(command).encode() + b"\n")
        return Cell(self)

    def run(self, source: str, **options: Any) -> Cell:
        return self.start(textwrap.dedent(source), **options).wait()

    def value(self, source: str) -> Any:
        """Run an expression whose value is simple, and return it."""
        cell = self.run(source)
        assert cell.error is None, cell.error
        return eval(str(cell.value))

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def open_gate(self) -> None:
        """Let ``emit="blocked"`` go on."""
        os.write(self._gate, b"\1")

    def pump(self, cell: Cell) -> None:
        """Take one report."""
        report = self._read()
        if "output" in report:
            cell.outputs.append(msgspec.convert(report["output"], type=Text | Display | Clear))
        else:
            cell.ended = True
            cell.value = report.get("value")
            if "error" in report:
                cell.error = CellError(**report["error"])

    def _read(self) -> Any:
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._reports], [], [], TIMEOUT)
            assert ready, "the shell says nothing"
            data = self._reports.read(65536)
            assert data, "the shell has died"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


def run_captured(script: str, *, env: dict[str, str] | None = None) -> list[Output]:
    """Run a script in a new process that has started ``capture``; return what it gave to ``emit``.

    The script has ``capture``, ``emit``, ``outputs`` (what was emitted so far), ``Text``, ``GateClosed``, ``os``,
    ``sys`` and ``threading``. What it raises fails the test.
    """
    read, write = os.pipe()
    source = textwrap.dedent(script)
    process = subprocess.Popen(
        [sys.executable, __file__, "--captured", str(write), source],
        pass_fds=(write,),
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    )
    os.close(write)
    with os.fdopen(read, "rb") as reports:
        try:
            data = reports.read()
            process.wait(TIMEOUT)
        finally:
            process.kill()
            process.wait()
    report = json.loads(data)
    assert report["error"] == "", report["error"]
    return [msgspec.convert(output, type=Text | Display | Clear) for output in report["outputs"]]


def text_of(outputs: list[Output], stream: str | None = None) -> str:
    return "".join(o.text for o in outputs if isinstance(o, Text) and stream in {None, o.stream})


# -- the child's side


def _serve(commands: int, reports: int, gate: int) -> None:
    from znb.flow import GateClosed
    from znb.shell import Shell

    lock = threading.Lock()

    def report(**what: Any) -> None:
        data = json.dumps(what).encode() + b"\n"
        with lock:
            while data:
                data = data[os.write(reports, data) :]

    emits = {
        "report": lambda output: report(output=tagged(output)),
        "closed": _raising(GateClosed),
        "broken": _raising(ValueError("listener")),
        "blocked": lambda output: (os.read(gate, 1), report(output=tagged(output))),
    }
    buffer = b""

    def wait(timeout: float | None) -> bytes | None:
        ready, _, _ = select.select([commands], [], [], timeout)
        return os.read(commands, 65536) if ready else None

    with Shell("w0", {"given": 1}) as shell:
        shell.namespace["_shell"] = shell
        report(ready=True)
        while True:
            while b"\n" not in buffer:
                data = shell.idle(wait)
                if data == b"":
                    return
                buffer += data or b""
            line, _, buffer = buffer.partition(b"\n")
            command = json.loads(line)
            emit = emits[command.pop("emit")]
            try:
                value = shell.run_cell(emit=emit, **command)
            except BaseException as error:
                report(error=_described(error))
            else:
                report(value=None if value is None else repr(value))


def _raising(error: Any) -> Any:
    def emit(output: Output) -> None:
        raise error

    return emit


def tagged(output: Output) -> Any:
    return msgspec.to_builtins(output)


def _described(error: BaseException) -> dict[str, Any]:
    frames = [[f.filename, f.lineno, f.name, f.line] for f in traceback.extract_tb(error.__traceback__)]
    internal = ("znb/shell.py", "znb/interactive.py", "shells.py")
    while frames and frames[0][0].endswith(internal):
        frames.pop(0)
    syntax = [error.filename, error.lineno, error.text] if isinstance(error, SyntaxError) else []
    return {"name": type(error).__name__, "message": str(error), "frames": frames, "syntax": syntax}


def _captured(reports: int, source: str) -> None:
    from znb.capture import Capture
    from znb.flow import GateClosed

    outputs: list[Output] = []
    capture = Capture()
    names = {
        "capture": capture,
        "emit": outputs.append,
        "outputs": outputs,
        "Text": Text,
        "Display": Display,
        "GateClosed": GateClosed,
        "text_of": text_of,
        "os": os,
        "sys": sys,
        "threading": threading,
    }
    error = ""
    pid = os.getpid()
    with capture:
        try:
            exec(compile(source, "<script>", "exec"), names)
        except BaseException:
            error = traceback.format_exc()
    if os.getpid() == pid:
        with os.fdopen(reports, "w") as out:
            json.dump({"error": error, "outputs": [tagged(output) for output in outputs]}, out)


if __name__ == "__main__":
    if sys.argv[1] == "--captured":
        _captured(int(sys.argv[2]), sys.argv[3])
    else:
        _serve(*map(int, sys.argv[1:]))
