"""IPython's ``InteractiveShell`` as a worker has it: it runs cells, and shows nothing itself.

It has no history file, profile, prompt, completer, terminal or anything else that belongs to a person. Displays go
to its host in order with the text; the last value of a cell is its result. What IPython would show as a traceback
at the end of a cell (an error in ``%run``, a figure that cannot be drawn) fails the cell like an exception of its
own; what a cell run *by* a cell raises is printed.

Invariants: every method belongs to the main thread; tracebacks hold no frame of IPython; nothing is written to disk;
what is kept of past cells is bounded.

Source: the overridden hooks are those of ``IPython.core.interactiveshell`` 8 and 9; ``ipykernel.zmqshell`` is the
model.
"""

# mypy: allow-untyped-calls
# IPython annotates few of its methods.

from __future__ import annotations

import ast
import asyncio
import base64
import codeop
import collections
import contextlib
import itertools
import json
import linecache
import os
import re
import subprocess
import sys
import tempfile
import traceback
import types
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

import IPython
import msgspec
from IPython.core import application, logger, magics, oinspect
from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.events import EventManager
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir
from IPython.utils.text import LSString, SList
from traitlets import Type, observe
from traitlets.config import Config

from znb import commands
from znb.outputs import Clear, Display, Output

__all__ = ["WorkerShell"]

#: IPython 9 imports these when its shell is made; a zygote imports them once for all its workers.
_EARLY: Final = (application, logger, magics, oinspect)
#: Cells whose source, ``In`` and ``_i…`` are kept; as many as IPython keeps values in ``Out``.
CELLS_KEPT: Final = 1000
#: A widget's live form needs a connection to a kernel, which a worker does not have; its text form remains.
WIDGET: Final = "application/vnd.jupyter.widget-view+json"

_IPYTHON: Final = str(Path(IPython.__file__).parent) + os.sep
#: Modules whose frames no user wants to see.
_MODULES: Final = frozenset({__name__, "znb.shell", "znb.commands", "znb.capture", "znb.streams"})
_ALLOW_INCOMPLETE: Final[int] = getattr(codeop, "PyCF_ALLOW_INCOMPLETE_INPUT", 0)
#: Cells without ``await`` run outside the event loop, so that ``asyncio.run`` works; those that need a running one
#: to start a task, as they would have it in a notebook, run inside.
_NEEDS_LOOP: Final = re.compile(r"\b(create_task|ensure_future|get_running_loop)\b")
_BRINGS_LOOP: Final = re.compile(r"\b(asyncio\.run|run_until_complete|Runner)\(")
_CONFIG: Final = {"HistoryManager": {"enabled": False, "hist_file": ":memory:"}}


class Host(Protocol):
    """What the shell lives in (``znb.shell.Shell``)."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the cells."""

    def post(self, output: Output) -> None:
        """Emit a display or a clear."""

    def no_debugger(self) -> NoReturn:
        """Raise the error that says why there is none."""


class CellCompiler(CachingCompiler):
    """Compiles the cell under its own name, with the line numbers that its author sees."""

    def __init__(self) -> None:
        super().__init__()
        self._name = ""
        self._source = ""
        self._lines: list[str] = []
        self._offset = 0
        self._active = False
        self._kept: collections.deque[str] = collections.deque()
        self._numbers = itertools.count(2)

    def begin(self, label: str, source: str, first_line: int) -> None:
        """Take the next source that comes for the cell ``label``."""
        lines = ["\n"] * (first_line - 1) + [line + "\n" for line in source.removesuffix("\n").split("\n")]
        name = f"<cell {label}>"
        if linecache.getlines(name) not in ([], lines):
            name = f"<cell {label} #{next(self._numbers)}>"
        leading = len(source) - len(source.lstrip())
        self._offset = first_line - 1 + source.count("\n", 0, leading)  # IPython drops leading empty lines
        self._name, self._source, self._lines = name, source, lines
        self._active = True

    def end(self) -> None:
        """Give what comes now IPython's own names."""
        self._active = False

    def cache(self, transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        """Remember the source under its name, as the user wrote it; return the name."""
        if not self._active or raw_code != self._source:
            return str(super().cache(transformed_code, number, raw_code))
        name, lines = self._name, self._lines
        as_written = transformed_code.count("\n") + self._offset == len(lines)
        if not as_written and not self._source.lstrip().startswith("%%"):
            lines = ["\n"] * self._offset + [line + "\n" for line in transformed_code.split("\n")]
        if name not in linecache.cache:
            self._kept.append(name)
        linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
        self._filename_map[name] = number
        if len(self._kept) > CELLS_KEPT:
            oldest = self._kept.popleft()
            linecache.cache.pop(oldest, None)
            self._filename_map.pop(oldest, None)
        return name

    def ast_parse(self, source: str, filename: str = "<unknown>", symbol: str = "exec") -> Any:
        """Parse, with the cell's line numbers if it is the cell."""
        if not self._active or filename != self._name:
            return super().ast_parse(source, filename, symbol)
        # without the flag that makes "incomplete input" of every bracket that was never closed
        flags = self.flags & ~_ALLOW_INCOMPLETE | ast.PyCF_ONLY_AST
        return compile("\n" * self._offset + source, filename, symbol, flags, dont_inherit=True)

    def complete(self, error: SyntaxError) -> None:
        """Fill in what a syntax error does not know of the cell."""
        if error.filename in {None, "<unknown>"}:
            error.filename = self._name
            error.lineno = (error.lineno or 1) + self._offset
        if error.text is None and error.lineno and error.filename:
            error.text = linecache.getline(error.filename, error.lineno) or None


class WorkerDisplayHook(DisplayHook):
    """Keeps the last value for the caller, who decides whether and where to show it."""

    shell: WorkerShell

    def __call__(self, result: Any = None) -> None:
        """Take the value of an expression: into ``_`` and ``Out``, and as the cell's result."""
        self.check_for_underscore()
        if result is None or self.quiet():
            return
        self.update_user_ns(result)
        if self.exec_result is None or self.shell.depth > 1:
            self._show(result)
            return
        if self.exec_result.result is not None:  # %config InteractiveShell.ast_node_interactivity = "all"
            self._show(self.exec_result.result)
        self.fill_exec_result(result)

    def _show(self, value: Any) -> None:
        data, metadata = self.compute_format_data(value)
        if data:
            self.shell.display_pub.publish(data, metadata)


class WorkerDisplayPublisher(DisplayPublisher):
    """Emits displays in order with the text."""

    shell: WorkerShell

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *_source: object,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **_: object,
    ) -> None:
        """Emit a display, or an update of one."""
        self._validate_data(data, metadata)
        bundle = portable(data)
        if bundle:
            display_id = (transient or {}).get("display_id")
            self.shell.host.post(Display(bundle, portable(metadata or {}), display_id, update))

    def clear_output(self, wait: bool = False) -> None:  # noqa: FBT001, FBT002 - IPython's signature
        """Emit a clear."""
        self.shell.host.post(Clear(wait))


class WorkerEvents(EventManager):
    """Runs what has been registered for the end of cells; its errors are the cell's, an interrupt ends it."""

    def trigger(self, event: str, *args: Any, **kwargs: Any) -> None:
        """Call the functions registered for an event."""
        for function in list(self.callbacks[event]):
            try:
                function(*args, **kwargs)
            except KeyboardInterrupt:
                self.shell.showtraceback()
                _drop_figures()
                return
            except Exception:  # noqa: BLE001 - the cell's caller gets it
                self.shell.showtraceback()


class _NoProfile(ProfileDir):
    """A profile that does not exist until something (``%store``) really writes to it."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def location(self) -> str:  # type: ignore[override]
        """The folder, made at the first use."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="znb-profile-")
        return self._folder.name


class WorkerShell(InteractiveShell):
    """IPython in a worker; made by ``begin``."""

    compiler_class = Type(CellCompiler)
    displayhook_class = Type(WorkerDisplayHook)
    display_pub_class = Type(WorkerDisplayPublisher)

    host: Host
    compile: CellCompiler
    history_manager: Any
    display_formatter: Any
    depth = 0

    def __init__(self, **options: Any) -> None:
        self._reported: list[BaseException] = []
        super().__init__(**options)

    @classmethod
    def begin(cls, host: Host, module: types.ModuleType) -> WorkerShell:
        """Make the shell of this process, whose cells run in ``module``."""
        shell: WorkerShell = cls.instance(
            user_module=module, config=Config(_CONFIG), colors="nocolor", display_page=True
        )
        shell.host = host
        shell.loop_runner = shell._run_in_loop
        shell.set_hook("editor", _no_editor)
        return shell

    def execute(self, source: str, label: str, first_line: int) -> Any:
        """Run a cell; return its value or raise what it raised."""
        shown: list[BaseException] = []
        self._reported = shown
        self.displayhook.exec_result = None
        self.depth = 0
        self.compile.begin(label, source, first_line)
        try:
            result = self.run_cell(source, store_history=True)
        finally:
            self.compile.end()
            self._reported = []
            self._forget()
        error: BaseException | None = result.error_before_exec or result.error_in_exec
        for reported in shown:
            if error is None:
                error = reported
            elif not _is_same(reported, error):
                _print_error(reported)
        if error is None:
            return result.result
        if error is result.error_before_exec:
            if isinstance(error, SyntaxError):
                self.compile.complete(error)
            raise error.with_traceback(None)
        if isinstance(error, subprocess.CalledProcessError) and isinstance(error.__context__, KeyboardInterrupt):
            error = KeyboardInterrupt().with_traceback(error.__traceback__)  # %%bash says it so
        raise error.with_traceback(_user_frames(error.__traceback__))

    # -- what IPython calls --------------------------------------------------------------------------------

    def run_cell(self, *args: Any, **kwargs: Any) -> Any:
        """Run a cell; those that a cell runs itself are told apart by ``depth``."""
        self.depth += 1
        outer = self.displayhook.exec_result
        try:
            result = super().run_cell(*args, **kwargs)
        finally:
            self.depth -= 1
            self.displayhook.exec_result = outer
        if self.depth and isinstance(result.error_in_exec, KeyboardInterrupt):
            raise result.error_in_exec  # it is the outer cell that was interrupted
        return result

    def should_run_async(self, raw_cell: str, *, transformed_cell: str | None = None, **options: Any) -> bool:
        """Return whether the cell has to run inside the event loop."""
        if super().should_run_async(raw_cell, transformed_cell=transformed_cell, **options):
            return True
        return bool(self.autoawait and _NEEDS_LOOP.search(raw_cell) and not _BRINGS_LOOP.search(raw_cell))

    async def run_code(self, code_obj: types.CodeType, result: Any = None, *, async_: bool = False) -> bool:
        """Run a part of a cell; return whether it raised."""
        try:
            if async_:
                await eval(code_obj, self.user_global_ns, self.user_ns)  # noqa: S307 - it is what users ask for
            else:
                exec(code_obj, self.user_global_ns, self.user_ns)  # noqa: S102 - as above
        except BaseException as error:  # noqa: BLE001 - the cell's caller gets it
            if result is not None:
                result.error_in_exec = error
            if (result is None or self.depth > 1) and not isinstance(error, KeyboardInterrupt):
                self.showtraceback()
            return True
        return False

    def showtraceback(self, exc_tuple: Any = None, *_: object, **__: object) -> None:
        """Keep the first error that the cell would show, to be raised at its end; print others."""
        error = exc_tuple[1] if exc_tuple else sys.exception()
        if error is None:
            print("No traceback available to show.", file=sys.stderr)
        elif self.depth <= 1 and not self._reported:
            self._reported.append(error)
        elif not any(_is_same(error, reported) for reported in self._reported):
            _print_error(error)

    def showsyntaxerror(self, *_: object, **__: object) -> None:
        """Treat a syntax error as any other."""
        self.showtraceback()

    def debugger(self, force: bool = False) -> None:  # noqa: FBT001, FBT002 - IPython's signature
        """Say why there is none."""
        if force:
            self.host.no_debugger()

    def _set_debug_on_error(self, wanted: bool) -> None:  # noqa: FBT001 - a property's setter
        if wanted:
            self.host.no_debugger()

    call_pdb = property(lambda _self: False, _set_debug_on_error)

    def ask_exit(self) -> None:
        """End the cell: ``exit`` and ``quit`` do not end the worker."""
        raise SystemExit

    def enable_gui(self, gui: str | None = None) -> None:
        """Accept the inline backend, refuse windows."""
        if gui not in {None, "inline"}:
            raise RuntimeError(f"a worker has no screen for {gui!r}: use `%matplotlib inline`")

    def system(self, cmd: str) -> None:
        """Run ``!cmd``; its output comes as it is written."""
        status = commands.stream(self.var_expand(cmd, depth=1), sys.stdout.write)
        self._note_status(cmd, status)

    system_piped = system_raw = system

    def getoutput(self, cmd: str, split: bool = True, depth: int = 0) -> Any:  # noqa: FBT001, FBT002 - as above
        """Run ``x = !cmd``."""
        output, status = commands.collect(self.var_expand(cmd, depth=depth + 1))
        self._note_status(cmd, status)
        return SList(output.splitlines()) if split else LSString(output)

    def _note_status(self, cmd: str, status: int) -> None:
        self.user_ns["_exit_code"] = status
        if status and getattr(self, "system_raise_on_error", False):
            raise subprocess.CalledProcessError(status, cmd)

    def init_events(self) -> None:
        """Begin with IPython's own callbacks."""
        super().init_events()
        events = WorkerEvents(self, self.events.callbacks)
        events.callbacks = self.events.callbacks
        self.events = events

    # -- what a worker has no use for ----------------------------------------------------------------------

    def init_ipython_dir(self, ipython_dir: str | None) -> None:
        """Name the folder that IPython would use, without making it."""
        self.ipython_dir = ipython_dir or os.environ.get("IPYTHONDIR") or str(Path("~/.ipython").expanduser())

    @observe("ipython_dir")
    def _ipython_dir_changed(self, change: object) -> None:
        """Do not make the folder."""

    def init_profile_dir(self, profile_dir: Any) -> None:
        """Have a profile in name only."""
        self.profile_dir = profile_dir or _NoProfile()

    def init_completer(self) -> None:
        """Have none: nobody types here."""
        self.Completer: Any = None

    def init_virtualenv(self) -> None:
        """Leave ``sys.path`` alone: the worker runs the interpreter it was asked for."""

    def _tee(self, channel: str) -> Any:  # noqa: ARG002 - IPython's signature
        """Do not keep a copy of everything that is printed."""
        return contextlib.nullcontext()

    def _format_exception_for_storage(self, *_: object, **__: object) -> dict[str, Any]:
        """Do not format tracebacks for a history that nobody reads: it takes up to a second."""
        return {}

    # -- asyncio -------------------------------------------------------------------------------------------

    def _run_in_loop(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a cell in the event loop; an interrupt cancels what it awaits."""
        loop = self.host.loop
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt as interrupt:
            if task.done():
                raise
            task.cancel()
            try:
                result = loop.run_until_complete(task)
            except asyncio.CancelledError:  # it hit IPython's own code
                raise interrupt from None
            inner = result.error_in_exec
            result.error_in_exec = interrupt.with_traceback(inner.__traceback__ if inner else None)
            return result

    def _forget(self) -> None:
        """Let go of the oldest cell: a worker may run millions."""
        oldest = self.execution_count - CELLS_KEPT
        if oldest < 1:
            return
        self.user_ns.pop(f"_i{oldest}", None)
        for history in (self.history_manager.input_hist_parsed, self.history_manager.input_hist_raw):
            if oldest < len(history):
                history[oldest] = ""


def portable(bundle: dict[str, Any]) -> dict[str, Any]:
    """Return a MIME bundle in the form in which it can travel, and in which Jupyter takes it."""
    return {mime: _portable_value(value) for mime, value in bundle.items() if mime != WIDGET}


def _portable_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    try:
        value = json.loads(json.dumps(value, default=repr))
        msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):  # beyond what JSON and msgpack can hold
        return repr(value)
    return value


def _user_frames(chain: types.TracebackType | None) -> types.TracebackType | None:
    """Return a traceback without the frames of IPython and of this module."""
    kept = []
    while chain is not None:
        if not _is_ours(chain.tb_frame):
            kept.append(chain)
        chain = chain.tb_next
    for entry, following in itertools.pairwise([*kept, None]):
        if entry is not None:
            entry.tb_next = following
    return kept[0] if kept else None


def _is_ours(frame: types.FrameType) -> bool:
    return frame.f_globals.get("__name__") in _MODULES or frame.f_code.co_filename.startswith(_IPYTHON)


def _print_error(error: BaseException) -> None:
    frames = _user_frames(error.__traceback__)
    sys.stderr.write("".join(traceback.format_exception(type(error), error, frames)))


def _is_same(one: BaseException, other: BaseException) -> bool:
    """Return whether two errors say the same: a figure that cannot be drawn fails twice."""
    return one is other or (type(one) is type(other) and str(one) == str(other))


def _drop_figures() -> None:
    """Forget the figures that are to be drawn: an interrupt came while they were, and the next cell must not try."""
    inline = sys.modules.get("matplotlib_inline.backend_inline")
    pyplot = sys.modules.get("matplotlib.pyplot")
    if inline is not None and pyplot is not None:
        inline.show._to_draw = []
        inline.show._draw_called = False
        pyplot.close("all")


def _no_editor(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("a worker has no editor: edit the cell in the notebook")
