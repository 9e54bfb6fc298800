"""A cell that a magic runs here, in the notebook's own namespace, as if the magic were not there.

Magics, ``!shell``, multi-line strings and the value of the last expression are as in any cell; an error shows the
cell's own lines, and none of the frames between. ``await`` outside functions is not possible: the magic is called
inside the notebook's event loop, which goes on only when it returns.

Runs on the kernel's main thread. Source: ``InteractiveShell.run_cell_async`` of IPython 8.39 and 9.18.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from znb.cli.commands import WrongUsage

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["LocalCell"]

#: Statements whose blocks belong to the cell's own level.
_BLOCKS = (ast.If, ast.Try, ast.With, ast.For, ast.While, ast.Match)


class LocalCell:
    """A cell's code, ready to run.

    Args:
        shell: Whose namespace it runs in.
        source: The cell's lines below the magic's.
        number: The cell's, as tracebacks have it.

    Raises:
        SyntaxError: It is no Python.
    """

    def __init__(self, shell: InteractiveShell, source: str, number: int) -> None:
        self._shell = shell
        text: str = "\n" + shell.transform_cell(source)  # type: ignore[no-untyped-call]  # the first line is the magic's
        self.filename: str = shell.compile.cache(text, number, raw_code=source)
        try:
            tree = compile(text, self.filename, "exec", shell.compile.flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        except SyntaxError as error:
            pieces = shell.SyntaxTB.structured_traceback(SyntaxError, error, [])  # type: ignore[arg-type]
            error._render_traceback_ = lambda: ["".join(pieces)]  # type: ignore[attr-defined]
            raise
        self._tree = shell.transform_ast(tree)  # type: ignore[no-untyped-call]
        self._quiet = shell.displayhook.semicolon_at_end_of_expression(text)  # type: ignore[no-untyped-call]

    def definitions(self) -> list[str]:
        """Return the public names of functions and classes that it defines, in order, each once."""
        return list(dict.fromkeys(name for name in _defined(self._tree.body) if not name.startswith("_")))

    def run(self) -> Any:
        """Run it.

        Returns:
            The value of its last expression; ``None`` if it ends with something else, or with a semicolon.

        Raises:
            WrongUsage: It awaits outside of functions; nothing has run.
            Exception: What it raises.
        """
        *statements, last = self._tree.body or [ast.Pass(lineno=1, col_offset=0)]
        if not isinstance(last, ast.Expr):
            statements, last = self._tree.body, None
        first = self._compile(ast.Module(statements, []))
        value = self._compile(ast.Expression(last.value)) if last is not None else None
        namespace = self._shell.user_ns

        def execute() -> Any:
            exec(first, namespace)  # noqa: S102 - that is what a cell is for
            shown = eval(value, namespace) if value is not None else None  # noqa: S307
            return None if self._quiet else shown

        return self.call(execute)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call something that the cell has defined, and return its result; errors are shown from its own frame on."""
        try:
            return function()
        except BaseException as error:
            _show_own_frames(self._shell, error, self.filename)
            raise

    def _compile(self, tree: ast.Module | ast.Expression) -> Any:
        kind = "eval" if isinstance(tree, ast.Expression) else "exec"
        flags = self._shell.compile.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(tree, self.filename, kind, flags, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            raise WrongUsage(
                "this cell awaits outside of functions, which a local cell magic cannot do: use another cell"
            )
        return code


def _defined(body: list[Any]) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, _BLOCKS):
            for field in ("body", "orelse", "finalbody"):
                yield from _defined(getattr(statement, field, []))
            for inner in [*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())]:
                yield from _defined(inner.body)


def _show_own_frames(shell: InteractiveShell, error: BaseException, filename: str) -> None:
    """Have IPython show an error from the cell's own frame on."""
    entry = error.__traceback__
    while entry is not None and entry.tb_frame.f_code.co_filename != filename:
        entry = entry.tb_next
    if entry is not None and not hasattr(error, "_render_traceback_"):
        error._render_traceback_ = functools.partial(_render, shell, error, entry)  # type: ignore[attr-defined]


def _render(shell: InteractiveShell, error: BaseException, entry: TracebackType) -> list[str]:
    pieces: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, entry, tb_offset=0)
    return pieces
