"""Measure Python source files: lines, functions, cyclomatic complexity. The work that ``znb demo`` does.

Pure: files in, records out, and the records pickle. One thread of a process at a time: while it parses, warnings
are silenced, which Python can do for a whole process only.

Cyclomatic complexity is McCabe's: one more than the number of decisions a function can take ("A Complexity
Measure", IEEE Transactions on Software Engineering SE-2(4), 1976). A decision is an ``if``, ``elif`` or
conditional expression, a loop, an ``except`` clause, a ``case`` that can fail, a comprehension's ``for`` and
each of its ``if``, and each further operand of ``and`` and ``or``, for each of these is a branch of its own.
``else``, ``finally``, ``with`` and ``assert`` decide nothing, or nothing that ``python -O`` leaves. A function
inside another one is counted for itself only.

Why not a library: ``docs/architecture.md``.
"""

from __future__ import annotations

import ast
import heapq
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FileStats", "Function", "Summary", "measure_file", "measure_source", "standard_library", "summarize"]

Definition = ast.FunctionDef | ast.AsyncFunctionDef

#: Nodes that are one decision each, however they look inside.
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)


@dataclass(frozen=True, slots=True)
class Function:
    """A function or method.

    Attributes:
        name: Qualified within its file, as in ``"Popen._execute_child"``.
        path: The file that it is in.
        line: Line of its ``def``, counted from 1.
        complexity: Cyclomatic complexity, at least 1.
    """

    name: str
    path: str
    line: int
    complexity: int


@dataclass(frozen=True, slots=True)
class FileStats:
    """What one file holds, or why it could not be read.

    Attributes:
        path: The file.
        lines: Number of lines, blank ones and comments included; 0 if it did not parse.
        functions: All its functions, nested ones included, in the order of their lines.
        error: ``None``, or what kept it from being parsed.
    """

    path: str
    lines: int = 0
    functions: tuple[Function, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Totals over many files.

    Attributes:
        files: Number of files that parsed.
        lines: Their lines.
        functions: Their functions.
        most_complex: The functions with the highest complexity, highest first, then by place.
        unparsed: The files that did not parse.
    """

    files: int
    lines: int
    functions: int
    most_complex: tuple[Function, ...]
    unparsed: tuple[FileStats, ...]


def standard_library() -> list[str]:
    """Return every source file of the running Python's standard library, its tests included, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    files = (path for path in root.rglob("*.py") if "site-packages" not in path.relative_to(root).parts)
    return sorted(str(path) for path in files)


def measure_file(path: str) -> FileStats:
    """Parse and measure one file.

    A file that cannot be read or parsed is no failure: the record's ``error`` says why.
    """
    try:
        return measure_source(Path(path).read_bytes(), path)
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        return FileStats(path, error=f"{where}{error.msg}")
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        # ValueError: null bytes. The last two: the parser's answers to nesting that it cannot follow.
        return FileStats(path, error=f"{type(error).__name__}: {error}")


def measure_source(source: bytes, path: str = "<string>") -> FileStats:
    """Measure source code, decoded as its coding declaration says.

    Example:
        >>> stats = measure_source(b"def sign(x): return -1 if x < 0 else x > 0 and 1 or 0")
        >>> stats.functions[0].complexity
        4

    Raises:
        SyntaxError: It is not valid for the running Python.
        ValueError: It contains null bytes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd escapes in other people's code
        tree = ast.parse(source, path)
    lines = source.count(b"\n") + (not source.endswith(b"\n") and bool(source))
    return FileStats(path, lines, tuple(_functions(tree, path)))


def summarize(files: Iterable[FileStats], top: int = 10) -> Summary:
    """Add up records of files; keep the ``top`` most complex functions."""
    everything = list(files)
    parsed = [stats for stats in everything if stats.error is None]
    functions = [function for stats in parsed for function in stats.functions]
    return Summary(
        files=len(parsed),
        lines=sum(stats.lines for stats in parsed),
        functions=len(functions),
        most_complex=tuple(heapq.nsmallest(top, functions, key=lambda f: (-f.complexity, f.path, f.line))),
        unparsed=tuple(stats for stats in everything if stats.error is not None),
    )


def _functions(tree: ast.Module, path: str) -> list[Function]:
    """Return the functions below a module, each with the decisions that are its own."""
    decisions: dict[ast.AST, int] = {}
    names: dict[Definition, str] = {}
    # Each entry: a node, the function that it belongs to, and the qualified name of what surrounds it. A list, not
    # recursion: real code has chains of `elif` that are deeper than Python's stack.
    pending: list[tuple[ast.AST, ast.AST, str]] = [(tree, tree, "")]
    while pending:
        node, owner, scope = pending.pop()
        decisions[owner] = decisions.get(owner, 0) + _decisions(node)
        if isinstance(node, Definition | ast.ClassDef):
            scope = f"{scope}.{node.name}" if scope else node.name
        if isinstance(node, Definition):
            owner = node
            names[node] = scope
            decisions[node] = 0
        pending.extend((child, owner, scope) for child in ast.iter_child_nodes(node))
    found = [Function(name, path, node.lineno, 1 + decisions[node]) for node, name in names.items()]
    return sorted(found, key=lambda function: (function.line, function.name))


def _decisions(node: ast.AST) -> int:
    """Return how many decisions this node takes, those of its children not counted."""
    match node:
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.comprehension():
            return 1 + len(node.ifs)
        case ast.match_case():
            return not _always_matches(node)
        case _:
            return isinstance(node, BRANCHES)


def _always_matches(case: ast.match_case) -> bool:
    """Return whether a case is the `else` of its match: a bare name or underscore, without a guard."""
    return case.guard is None and isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None
