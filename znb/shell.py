"""What a worker runs cells with: an IPython shell, the process's output, its ``__main__`` and its event loop.

Cells run in the process's ``__main__`` module. What a cell raises is raised by ``run_cell``, and what it prints or
displays, or its threads and children do meanwhile, is emitted in order. Nobody sits at a keyboard here: what would
wait for one fails and says so.

Invariants: ``start``, ``run_cell`` and ``idle`` belong to the main thread; a cell may be left by
``KeyboardInterrupt`` anywhere and the next one runs normally; a child process that user code forks ends with its
cell.
"""

from __future__ import annotations

import asyncio
import builtins
import functools
import getpass
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Sized
from contextlib import AbstractContextManager
from typing import Any, Final, NoReturn, Self, TypeVar

from IPython.core.error import StdinNotImplementedError

from znb.capture import Capture
from znb.interactive import WorkerShell, portable
from znb.outputs import Display, Output
from znb.routes import Emit, Journal, Mark, MarkedEmit

__all__ = ["Shell"]

T = TypeVar("T")

#: Seconds that background tasks run between two looks for work, where nobody calls ``wake``.
IDLE_SLICE: Final = 0.01
#: Seconds that background tasks have to end when the shell closes.
TASKS_END: Final = 0.5

#: What pdb and IPython's debugger ask with.
_DEBUGGER_PROMPT: Final = re.compile(r"\W*i?pdb\W", re.IGNORECASE)
_INLINE: Final = "module://matplotlib_inline.backend_inline"


class Shell:
    """Runs cells, and routes what they and everything else in this process write.

    Args:
        name: The worker's name, for messages.
        namespace: Variables to begin with.
        journal: Also takes everything that is written, at once.

    Attributes:
        namespace: The cells' variables: those of ``__main__``.
    """

    def __init__(
        self,
        name: str,
        namespace: dict[str, Any] | None = None,
        *,
        journal: Journal | None = None,
    ) -> None:
        self.name = name
        self._module = types.ModuleType("__main__")
        self.namespace = self._module.__dict__
        self.namespace.update(namespace or {})
        self._capture = Capture(journal=journal)
        self._ipython: WorkerShell | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idling = False
        self._undo: list[Callable[[], object]] = []

    # -- life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the IPython shell, become ``__main__``, and take over standard output, error and input."""
        self._take_keyboard()
        if not os.environ.get("MPLBACKEND"):
            os.environ["MPLBACKEND"] = _INLINE
        self._capture.start()
        self._undo.append(functools.partial(sys.modules.__setitem__, "__main__", sys.modules["__main__"]))
        sys.modules["__main__"] = self._module
        WorkerShell.clear_instance()
        self._ipython = WorkerShell.begin(self, self._module)

    def close(self) -> None:
        """Put the process back as it was, as far as that can be. May be called twice."""
        self._capture.close()
        if self._ipython is not None:
            WorkerShell.clear_instance()
            self._ipython = None
        if self._loop is not None and not self._loop.is_closed():
            self._end_tasks(self._loop)
            self._loop.close()
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set(self, where: Any, key: str, value: Any) -> None:
        """Set a global of the process, to be put back by ``close``."""
        self._undo.append(functools.partial(setattr, where, key, getattr(where, key)))
        setattr(where, key, value)

    def _take_keyboard(self) -> None:
        """Make everything that would wait for a person fail at once, and say what to do."""
        saved, null = os.dup(0), os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
        self._undo.append(stdin.close)
        self._undo.append(functools.partial(os.close, saved))
        self._undo.append(functools.partial(os.dup2, saved, 0))
        self._set(sys, "stdin", stdin)
        self._set(builtins, "input", self._no_input)
        self._set(getpass, "getpass", self._no_input)
        self._set(sys, "breakpointhook", self._no_breakpoint)

    def _no_input(self, prompt: object = "", *_: object, **__: object) -> NoReturn:
        if _DEBUGGER_PROMPT.match(str(prompt)):
            self.no_debugger()
        asked = f" (it was asked {str(prompt)!r})" if prompt else ""
        raise StdinNotImplementedError(
            f"a remote cell has no keyboard, so it cannot read input{asked}. Ask in a local cell, and send "
            "the answer with `%znb push NAME`"
        )

    def _no_breakpoint(self, *args: Any, **kwargs: Any) -> Any:
        if "PYTHONBREAKPOINT" in os.environ:  # somebody who knows what they want
            return sys.__breakpointhook__(*args, **kwargs)  # noqa: T100 - the original hook, not a call of it left over
        return self.no_debugger()

    def no_debugger(self) -> NoReturn:
        """Raise the error that says why there is no debugger."""
        raise StdinNotImplementedError(
            "a remote cell has no keyboard, so no debugger can be used in it. The traceback shows where an "
            "error came from"
        )

    # -- cells ---------------------------------------------------------------------------------------------

    def run_cell(self, source: str, emit: Emit, *, label: str, first_line: int = 1) -> Any:
        """Run a cell.

        Everything that was written before this returns has been emitted.

        Args:
            source: Anything that a notebook cell may hold.
            emit: Takes the outputs, on the capture's thread; may block, which holds the cell back.
            label: Names the cell in tracebacks: its functions' file is ``<cell LABEL>``.
            first_line: Number that tracebacks give to the first line of ``source``.

        Returns:
            The value of the last expression; ``None`` if there is none, or if the cell ends in ``;``.

        Raises:
            BaseException: What the cell raised, ``SystemExit``, ``SyntaxError`` and ``KeyboardInterrupt`` included;
                its traceback goes from this function's frame directly to those of the user.
        """
        ipython = self._started()
        pid = os.getpid()
        error: BaseException | None = None
        try:
            with self._capture.route(emit):
                asyncio.set_event_loop(self.loop)
                return ipython.execute(source, label, first_line)
        except BaseException as raised:
            error = raised
            raise
        finally:
            if os.getpid() != pid:  # user code forked and the child came this far; it must not go on as a worker
                self._end_child(error)

    def capture(
        self, emit: Emit | MarkedEmit, *, mark: Mark | None = None, ended: Sized = (), flush: bool = True
    ) -> AbstractContextManager[None]:
        """Return a context in which what a job or service writes goes to ``emit`` (see ``Capture.route``)."""
        return self._capture.route(emit, mark=mark, ended=ended, flush=flush)

    def settle(self) -> None:
        """Mark what has been written so far: another job is about to begin."""
        self._capture.settle()

    def post(self, output: Output) -> None:
        """Emit a display or a clear, in order with the text."""
        self._capture.post(output)

    def describe(self, value: Any) -> Display:
        """Return the forms in which a value can be shown."""
        data, metadata = self._started().display_formatter.format(value)
        return Display(portable(data), portable(metadata))

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything written so far has been emitted; return whether it was within ``timeout`` seconds."""
        return self._capture.flush(timeout)

    def exempt(self) -> None:
        """Let the calling thread write without ever waiting: for the thread that carries what is emitted."""
        self._capture.exempt()

    def stray(self, *, take: bool = False) -> str:
        """Return the last 64 kB of what was written while nothing ran; ``take`` forgets it."""
        return self._capture.stray(take=take)

    def _started(self) -> WorkerShell:
        if self._ipython is None:
            raise RuntimeError("the shell has not been started: call start() first")
        return self._ipython

    def _end_child(self, error: BaseException | None) -> NoReturn:
        status = 0
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            traceback.print_exception(error)
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    # -- asyncio -------------------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of all cells; it runs during cells that use it, and in ``idle``."""
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        return self._loop

    def idle(self, wait: Callable[[float | None], T | None]) -> T | None:
        """Wait for work while background tasks of earlier cells go on.

        Args:
            wait: Waits for the seconds given (``None``: for ever) and returns work, or ``None``.

        Returns:
            What ``wait`` returned; ``None`` also when ``wake`` was called.
        """
        if not self._has_background():
            return wait(None)
        self._idling = True
        try:
            work = wait(0)
            if work is None:
                loop = self.loop
                slice_end = loop.call_later(IDLE_SLICE, loop.stop)
                loop.run_forever()
                slice_end.cancel()
        finally:
            self._idling = False
        return work if work is not None else wait(0)

    def wake(self) -> None:
        """End ``idle`` soon; for any thread. Not needed, but saves work up to ``IDLE_SLICE`` of waiting."""
        loop = self._loop
        if self._idling and loop is not None:
            loop.call_soon_threadsafe(lambda: loop.stop() if self._idling else None)

    def _end_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=TASKS_END))

    def _has_background(self) -> bool:
        loop = self._loop
        if loop is None or loop.is_closed():
            return False
        if asyncio.all_tasks(loop):
            return True
        selector = getattr(loop, "_selector", None)  # a server without a task; one entry is the loop's own
        return selector is not None and len(selector.get_map()) > 1
