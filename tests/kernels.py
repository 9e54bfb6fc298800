"""Real IPython kernels for tests: start one, run cells in it, watch its outputs as they arrive.

``Kernel`` starts a kernel process the way a notebook server does: through a kernelspec and
``jupyter_client``, in a process group of its own, with connection files in the test's own folders. The iopub
socket is read by one thread, which stamps each message on arrival; everything else happens on the test's
thread.

    with Kernel(folder) as kernel:
        assert kernel.run("print('hello'); 6 * 7").value == "42"

        cell = kernel.start("import time; time.sleep(60)")
        cell.wait_until(lambda c: c.busy)
        kernel.interrupt()
        assert cell.wait().error.name == "KeyboardInterrupt"
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import sys
import textwrap
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Seconds that a cell, or a kernel's start, may take unless the test says otherwise; generous, for busy machines.
TIMEOUT = 60.0

#: Seconds between two looks at whether the kernel still lives.
POLL = 0.1

ROOT = Path(__file__).resolve().parent.parent
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
OUTPUTS = ("stream", "display_data", "execute_result", "error", "update_display_data", "clear_output")


def interpreter(name: str) -> Path:
    """Return the Python of an extra environment (``ipykernel6``, ``py312``, …); skip the test if there is none.

    ``make test`` makes them. ipykernel 6 can be installed everywhere, so on CI its absence is a failure.
    """
    python = ROOT / ".venvs" / name / "bin" / "python"
    if not python.exists():
        if name == "ipykernel6" and os.environ.get("CI"):
            pytest.fail(f"no environment .venvs/{name}: `make test` should have made it")
        pytest.skip(f"no environment .venvs/{name} (`make test` makes it where it can)")
    return python


@dataclass(frozen=True, slots=True)
class Message:
    """An iopub message. ``at`` is its arrival, in seconds of ``time.monotonic()``."""

    kind: str
    content: dict[str, Any]
    parent: str
    at: float
    metadata: dict[str, Any]
    buffers: list[Any]


@dataclass(frozen=True, slots=True)
class CellError:
    """What a failed cell shows."""

    name: str
    message: str
    traceback: str

    @property
    def plain(self) -> str:
        """The traceback without colours."""
        return _ANSI.sub("", self.traceback)


@dataclass
class Cell:
    """One execution: grows while it runs."""

    kernel: Kernel
    id: str
    sent_at: float
    reply: dict[str, Any] | None = None

    def wait(self, timeout: float = TIMEOUT) -> Self:
        """Wait until it has ended and all of its output has arrived."""
        deadline = time.monotonic() + timeout
        self.kernel._wait_reply(self, deadline)
        return self.wait_until(lambda cell: cell.idle, deadline - time.monotonic())

    def wait_until(self, condition: Callable[[Self], object], timeout: float = TIMEOUT) -> Self:
        """Wait until ``condition(cell)`` is true of what has arrived so far."""
        self.kernel._wait_until(lambda: condition(self), timeout, self)
        return self

    def ok(self) -> Self:
        """Check that it ended without an error."""
        assert self.error is None, f"the cell failed:\n{self.error.plain}\nkernel's log:\n{self.kernel.log}"
        assert self.reply is not None
        assert self.reply["status"] == "ok", self.reply
        return self

    @property
    def messages(self) -> list[Message]:
        return [m for m in self.kernel.messages if m.parent == self.id]

    @property
    def busy(self) -> bool:
        return any(m.kind == "status" and m.content["execution_state"] == "busy" for m in self.messages)

    @property
    def idle(self) -> bool:
        return any(m.kind == "status" and m.content["execution_state"] == "idle" for m in self.messages)

    @property
    def outputs(self) -> list[Message]:
        return [m for m in self.messages if m.kind in OUTPUTS]

    @property
    def stdout(self) -> str:
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        return self._stream("stderr")

    def _stream(self, name: str) -> str:
        parts = (m.content for m in self.messages if m.kind == "stream")
        return "".join(part["text"] for part in parts if part["name"] == name)

    @property
    def error(self) -> CellError | None:
        for m in self.messages:
            if m.kind == "error":
                lines = "\n".join(m.content["traceback"])
                return CellError(m.content["ename"], m.content["evalue"], lines)
        return None

    @property
    def data(self) -> dict[str, Any]:
        """The MIME bundle of the cell's value; empty if it had none."""
        for m in self.messages:
            if m.kind == "execute_result":
                return m.content["data"]
        return {}

    @property
    def value(self) -> str | None:
        """The text form of the cell's value; it must not have failed."""
        assert self.error is None, f"the cell failed:\n{self.error.plain}\nkernel's log:\n{self.kernel.log}"
        return self.data.get("text/plain")

    @property
    def displays(self) -> list[dict[str, Any]]:
        """The MIME bundles displayed, in order, later updates not applied."""
        return [m.content["data"] for m in self.messages if m.kind == "display_data"]

    @property
    def shown(self) -> list[dict[str, Any]]:
        """What a notebook shows under the cell now: streams joined, clears and display updates applied."""
        return _replay(self.kernel.messages, self.id)


@dataclass
class Kernel:
    """A kernel process and a client of it. ``start`` and ``close``, or ``with``; then ``run`` cells.

    Args:
        folder: Where its connection file, kernelspec, log and working directory are. Keep it short: sockets
            live there, and their paths end at 107 bytes.
        python: Interpreter to run it with.
        env: Changes to this process's environment; ``None`` as a value removes the variable.
    """

    folder: Path
    python: Path | str = sys.executable
    env: Mapping[str, str | None] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self.start_process()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start_process(self) -> Self:
        """Start the kernel and wait until it answers and its outputs arrive."""
        self.cwd = self.folder / "cwd"
        self.cwd.mkdir(parents=True, exist_ok=True)
        self._log_path = self.folder / "kernel.log"
        self._arrived = threading.Condition()
        self._replies: dict[str, dict[str, Any]] = {}
        self._closing = False
        environ = {**os.environ, **self.env}
        self._log_file = self._log_path.open("ab")
        self._context = zmq.Context()
        self._context.rcvhwm = 0  # a slow test must not lose outputs
        self._manager = KernelManager(
            kernel_name=_write_kernelspec(str(self.python)),
            connection_file=str(self.folder / "k.json"),
            transport="ipc",
            ip=str(self.folder / "k"),
            context=self._context,
        )
        self._manager.start_kernel(
            env={k: v for k, v in environ.items() if v is not None},
            cwd=str(self.cwd),
            stdout=self._log_file,
            stderr=self._log_file,
        )
        self._client: BlockingKernelClient = self._manager.client(context=self._context)
        self._client.start_channels(hb=False, stdin=False)
        self._reader = threading.Thread(target=self._read_iopub, name="iopub-reader", daemon=True)
        self._reader.start()
        try:
            self._wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Shut the kernel down as a notebook server does, and release everything; may be called twice."""
        if self._closing:
            return
        if self.alive:
            self._manager.shutdown_kernel()
        self._closing = True
        self._reader.join()
        self._client.stop_channels()
        self._manager.cleanup_resources()
        self._context.destroy(linger=0)
        self._log_file.close()

    # -- running cells

    def run(self, code: str, timeout: float = TIMEOUT) -> Cell:
        """Run a cell and wait for its end. Whether it failed is for the caller to check (``.ok()``)."""
        return self.start(code).wait(timeout)

    def start(self, code: str, *, stop_on_error: bool = False) -> Cell:
        """Send a cell and return at once."""
        source = textwrap.dedent(code).strip("\n")
        sent_at = time.monotonic()
        cell_id = self._client.execute(source, allow_stdin=False, stop_on_error=stop_on_error)
        return Cell(self, cell_id, sent_at)

    def complete(self, code: str) -> list[str]:
        """Return what Tab offers at the end of ``code``."""
        return self._request(self._client.complete(code))["matches"]

    def inspect(self, code: str, detail_level: int = 0) -> str:
        """Return what Shift-Tab shows at the end of ``code``."""
        reply = self._request(self._client.inspect(code, detail_level=detail_level))
        return _ANSI.sub("", reply["data"].get("text/plain", ""))

    def interrupt(self) -> None:
        """Do what the ■ button does."""
        self._manager.interrupt_kernel()

    def restart(self) -> None:
        """Do what "Restart kernel" does, and wait until the new process answers."""
        self._manager.restart_kernel()
        self._wait_ready()

    def kill(self) -> None:
        """SIGKILL the kernel's process alone, not its group, and wait for its end."""
        os.kill(self.pid, signal.SIGKILL)
        self._manager.provisioner.process.wait()

    @property
    def alive(self) -> bool:
        return self._manager.is_alive()

    @property
    def pid(self) -> int:
        return self._manager.provisioner.pid

    @property
    def log(self) -> str:
        """What the kernel's process wrote to its real standard output and error."""
        return self._log_path.read_text(errors="replace")

    # -- inside

    def _read_iopub(self) -> None:
        channel = self._client.iopub_channel
        while not self._closing:
            try:
                raw = channel.get_msg(timeout=POLL)
            except queue.Empty:
                continue
            message = Message(
                kind=raw["header"]["msg_type"],
                content=raw["content"],
                parent=raw["parent_header"].get("msg_id", ""),
                at=time.monotonic(),
                metadata=raw["metadata"],
                buffers=raw["buffers"],
            )
            with self._arrived:
                self.messages.append(message)
                self._arrived.notify_all()

    def _wait_ready(self) -> None:
        """Wait until requests are answered and what they publish arrives: the subscription takes a moment."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            probe = self._client.kernel_info()
            self._read_shell(probe, deadline)
            with self._arrived:
                if self._arrived.wait_for(lambda: any(m.parent == probe for m in self.messages), 0.5):
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the kernel's outputs do not arrive; its log:\n{self.log}")

    def _wait_reply(self, cell: Cell, deadline: float) -> None:
        if cell.reply is None:
            cell.reply = self._read_shell(cell.id, deadline, cell)

    def _request(self, request_id: str) -> dict[str, Any]:
        return self._read_shell(request_id, time.monotonic() + TIMEOUT)

    def _read_shell(self, request_id: str, deadline: float, cell: Cell | None = None) -> dict[str, Any]:
        while request_id not in self._replies:
            try:
                raw = self._client.shell_channel.get_msg(timeout=POLL)
            except queue.Empty:
                self._check(deadline, cell)
            else:
                self._replies[raw["parent_header"]["msg_id"]] = raw["content"]
        return self._replies.pop(request_id)

    def _wait_until(self, condition: Callable[[], object], timeout: float, cell: Cell) -> None:
        deadline = time.monotonic() + timeout
        with self._arrived:
            while not condition():
                self._arrived.wait(POLL)
                self._check(deadline, cell)

    def _check(self, deadline: float, cell: Cell | None) -> None:
        """Give up with all that is known when the kernel died or took too long."""
        shown = f"\nshown so far: {cell.shown}" if cell else ""
        if not self.alive:
            raise ChildProcessError(f"the kernel died; its log:\n{self.log}{shown}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the kernel took too long; its log:\n{self.log}{shown}")


def _write_kernelspec(python: str) -> str:
    """Install a kernelspec for an interpreter where Jupyter looks for it now; return its name."""
    name = "test-" + "".join(c if c.isalnum() else "-" for c in python).strip("-").lower()
    folder = Path(os.environ["JUPYTER_DATA_DIR"]) / "kernels" / name
    folder.mkdir(parents=True, exist_ok=True)
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": name, "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return name


def _replay(messages: list[Message], parent: str) -> list[dict[str, Any]]:
    """Return the outputs of one cell as a notebook shows them after all these messages."""
    shown: list[dict[str, Any]] = []
    clear_next = False
    for m in list(messages):
        if m.kind == "update_display_data":
            for output in shown:
                if output.get("display_id") == m.content["transient"]["display_id"]:
                    output.update(data=m.content["data"], metadata=m.content["metadata"])
        if m.parent != parent or m.kind not in OUTPUTS or m.kind == "update_display_data":
            continue
        if m.kind == "clear_output":
            clear_next = m.content["wait"]
            if not clear_next:
                shown.clear()
            continue
        if clear_next:
            shown.clear()
            clear_next = False
        last = shown[-1] if shown else {}
        if m.kind == "stream" and last.get("kind") == "stream" and last["name"] == m.content["name"]:
            last["text"] += m.content["text"]
        else:
            display_id = m.content.get("transient", {}).get("display_id")
            shown.append({"kind": m.kind, "display_id": display_id, **m.content})
    return shown
