"""``%znb trace`` and ``%%znb trace``, and a span for each cell that does something remote.

A cell that begins with ``%%znb trace`` runs as it would without that line, which IPython does not get to see
(``TracedCells.transform``): so ``await``, the last value and line numbers are as ever. Its trace begins before the
cell and ends behind it, by IPython's events. In a notebook it is displayed at once, and grows.

Invariants: a cell's span is recorded only if something became a child of it. Everything runs on the thread of the cell.
"""

from __future__ import annotations

import argparse
import functools
import linecache
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from IPython.display import display

from znb.cli.commands import Command, CommandTable, HelpWanted, Parser, WrongUsage
from znb.cli.traces import add_save_option, save, trace_table
from znb.magics.session import Session
from znb.spans import RECORDER, OptionalSpan, follow_threads
from znb.tracing import COLLECT_TIMEOUT, TRACES, LiveTrace, Trace, trace
from znb.widgets.display import prepare, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell

__all__ = ["CELL_COMMANDS", "LINE_COMMANDS", "TracedCells"]

#: How a cell begins that is traced.
MAGIC_LINE = "%%znb trace"
#: Cells whose end was not heard of that are remembered.
CELLS_MAX = 16


class TracedCells:
    """The spans of a shell's cells.

    Args:
        shell: The shell.
        session: Knows what cells are called.
    """

    def __init__(self, shell: InteractiveShell, session: Session) -> None:
        self._shell = shell
        self._session = session
        self._table = CommandTable("%%znb", CELL_COMMANDS)
        self._running: list[tuple[ExecutionInfo, OptionalSpan | LiveTrace]] = []
        self._explorer: Any = None
        self._failed_ns = 0
        self._replaced: Any = None
        self._installed: Any = None
        self._unfollow: Callable[[], None] = lambda: None

    def install(self) -> None:
        """Make a span of each cell from now on."""
        self._shell.events.register("pre_run_cell", self._begin)
        self._shell.events.register("post_run_cell", self._end)
        self._shell.input_transformers_cleanup.append(self.transform)
        show = self._shell.showtraceback

        @functools.wraps(show)
        def showtraceback(*args: Any, **kwargs: Any) -> None:
            self.failed()
            show(*args, **kwargs)

        self._replaced, self._installed = vars(self._shell).get("showtraceback"), showtraceback
        self._shell.showtraceback = showtraceback  # type: ignore[method-assign]
        TRACES.store.cell_of = self.cell_of
        self._unfollow = follow_threads()

    def failed(self) -> None:
        """Note that an exception has left the cell: what follows is IPython showing it."""
        self._failed_ns = time.perf_counter_ns()

    def cell_of(self, file: str) -> str:
        """Return what people call a cell whose code Python knows by the name of a file; empty if it is none."""
        found = self._shell.compile.format_code_name(file)
        if not found:
            return ""
        name = " ".join(found)
        text = linecache.cache.get(file)
        if text is not None:
            linecache.cache[name] = text  # so that its lines can be shown
        return name

    def remove(self) -> None:
        """Make no more spans."""
        self._shell.events.unregister("pre_run_cell", self._begin)
        self._shell.events.unregister("post_run_cell", self._end)
        self._shell.input_transformers_cleanup.remove(self.transform)
        if vars(self._shell).get("showtraceback") is self._installed:  # else somebody else has taken over meanwhile
            del self._shell.showtraceback
            if self._replaced is not None:
                self._shell.showtraceback = self._replaced  # type: ignore[method-assign]
        TRACES.store.cell_of = None
        self._unfollow()

    def transform(self, lines: list[str]) -> list[str]:
        """Take the magic's line out of a cell before it runs; not if it is wrong, or asks for help."""
        if self._running or self._title("".join(lines)) is None:  # what runs already is not a cell's beginning
            return lines
        number = next(number for number, line in enumerate(lines) if line.strip())
        rest = lines[number + 1 :]
        below = next(at for at, line in enumerate(rest) if line.strip())
        if rest[below].startswith("%%"):  # a cell magic has to stand in the first line
            return rest[below:]
        return [*lines[:number], "\n", *rest]

    def _title(self, cell: str) -> str | None:
        """Return the title that a cell asks to be traced with, empty for none; ``None`` if it does not ask."""
        first, _, body = cell.lstrip().partition("\n")
        if not first.startswith(MAGIC_LINE) or not body.strip():
            return None
        try:
            command, args = self._table.parse(shlex.split(first)[1:])
        except (WrongUsage, HelpWanted, ValueError):
            return None
        return " ".join(args.title) if command.name == "trace" else None

    def _begin(self, info: ExecutionInfo) -> None:
        self._failed_ns = 0
        if not _inside_a_cell():
            self._reset()
        del self._running[:-CELLS_MAX]
        history = self._shell.history_manager
        label = "a cell"
        if info.store_history and history is not None:
            label = f"In[{len(history.input_hist_parsed)}]"
        attributes = {"cell_id": info.cell_id} if info.cell_id else {}
        title = self._title(info.raw_cell or "")
        span: OptionalSpan | LiveTrace
        if title is None:
            span = OptionalSpan(RECORDER, label, "cell", attributes)
        else:
            if _has_front_end(self._shell):
                prepare()
            span = trace(title or label, cell=label, **attributes)
        self._running.append((info, span.__enter__()))
        if isinstance(span, LiveTrace) and _has_front_end(self._shell):
            self._explorer = show(span)

    def _reset(self) -> None:
        """Begin anew: nothing is left of earlier cells, whose ends may not have been heard of."""
        while self._running:
            _, span = self._running.pop()
            span.unwind()
            span.close(None, time.perf_counter_ns())

    def _end(self, result: ExecutionResult) -> None:
        while self._running:
            info, span = self._running.pop()
            error = None
            if info is result.info:
                error = result.error_before_exec or result.error_in_exec
            end_ns = (self._failed_ns if error is not None else 0) or time.perf_counter_ns()
            span.unwind()
            if isinstance(span, LiveTrace):
                span.close(error, end_ns)
                if not _has_front_end(self._shell):
                    print(span.text())
                elif self._explorer is not None:
                    self._explorer.finish()
                else:
                    display(span)  # type: ignore[no-untyped-call]
            else:
                span.close(error if span.used else None, end_ns)
            if info is result.info:
                return


def _trace(_session: Session, args: argparse.Namespace) -> Trace | None:
    which = args.which
    if which in {"on", "off"}:
        if args.save:
            raise WrongUsage(f"--save goes with a trace, not with {which}", "%znb trace [last|list|ID] --save FILE")
        RECORDER.off = which == "off"
        if RECORDER.off:
            print("Tracing is off: only what is inside %%znb trace or `with znb.trace()` is recorded.")
        else:
            print("Tracing is on: cells that do something remote are recorded.")
        return None
    TRACES.collect(COLLECT_TIMEOUT)
    kept = list(TRACES)
    if which == "list" and not args.save:
        print(trace_table(kept) or "No traces yet: a cell that does something remote leaves one.")
        return None
    found = _find(kept, which)
    if args.save:
        for file in args.save:
            print(save(found, file))
        return None
    return found


def _find(kept: list[Trace], which: str) -> Trace:
    usage = "%znb trace [last|list|ID] [--save FILE]"
    if which == "list":
        raise WrongUsage("--save goes with one trace: give last or an ID", usage)
    if which == "last":
        if not kept:
            raise WrongUsage("there are no traces yet: a cell that does something remote leaves one", "")
        return kept[-1]
    try:
        return TRACES[which]
    except KeyError as error:
        raise WrongUsage(f"{error.args[0]}; %znb trace list shows them", usage) from None


def _trace_cell(session: Session, args: argparse.Namespace) -> None:
    """Trace a cell whose line IPython got to see, as another cell magic stands above it: run it as ``%%time`` does."""
    if not args.cell.strip():
        return
    shell = session.shell
    source: str = shell.transform_cell(args.cell)  # type: ignore[no-untyped-call]
    code = compile(source, shell.compile.cache(source), "exec")
    with trace(" ".join(args.title) or f"a cell at {time.strftime('%H:%M:%S')}") as traced:
        explorer = show(traced) if _has_front_end(shell) else None
        exec(code, shell.user_ns)  # noqa: S102 - it is the user's cell
    if explorer is not None:
        explorer.finish()
    else:
        display(traced)  # type: ignore[no-untyped-call]


def _inside_a_cell() -> bool:
    """Whether the cell that begins is run by another one."""
    frame, cells = sys._getframe(1), 0
    while frame is not None and cells < 2:
        code = frame.f_code
        cells += code.co_name == "run_cell_async" and "interactiveshell" in code.co_filename
        frame = frame.f_back  # type: ignore[assignment]
    return cells > 1


def _has_front_end(shell: InteractiveShell) -> bool:
    """Whether a display may change later; in a terminal it is printed once, so at the end."""
    return hasattr(shell, "kernel")


def _trace_arguments(parser: Parser) -> None:
    parser.argument(
        "which",
        metavar="last|list|ID|on|off",
        nargs="?",
        default="last",
        help="which one: the last (default), the one of this id; a list of all; or switch recording on or off",
    )
    add_save_option(parser)


def _cell_arguments(parser: Parser) -> None:
    parser.argument("title", metavar="TITLE", nargs="*", help="what to call it (default: the cell's number)")


#: Line magics for traces.
LINE_COMMANDS = (
    Command(
        "trace",
        "show where the time of a cell went, or save that to a file",
        _trace,
        _trace_arguments,
        "Every cell that does something remote is recorded: each call, job and span of your own, on all workers and "
        "in all services that it led to. The last 100 are kept.",
        "%znb trace                       the last one, as a flame graph\n"
        "%znb trace list                  all of them\n"
        "%znb trace 3fa2 --save run.json  for ui.perfetto.dev\n"
        "%znb trace off                   record nothing from now on",
    ),
)

#: Cell magics for traces.
CELL_COMMANDS = (
    Command(
        "trace",
        "run this cell, sampled wherever it leads, and show where its time went",
        _trace_cell,
        _cell_arguments,
        "The cell runs here, as it would without this line; what it calls on workers and in services is followed.",
        "%%znb trace                      called as the cell is\n%%znb trace first epoch          with a title",
    ),
)
