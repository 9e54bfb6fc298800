from __future__ import annotations

import ast
import pickle
import re
import textwrap
from pathlib import Path

import pytest

from znb.sourcestats import FileStats, Function, measure_file, measure_source, standard_library, summarize


def complexity(body: str) -> int:
    source = "def f(x, y=0):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    (function,) = measure_source(source.encode()).functions
    return function.complexity


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pass", 1),
        ("if x: pass", 2),
        ("if x: pass\nelse: pass", 2),
        ("if x: pass\nelif y: pass\nelse: pass", 3),
        ("return 1 if x else 2", 2),
        ("for i in x: pass\nelse: pass", 2),
        ("while x: pass", 2),
        ("return x and y", 2),
        ("return x and y and f or f", 4),
        ("try: pass\nexcept OSError: pass\nexcept ValueError: pass\nelse: pass\nfinally: pass", 3),
        ("try: pass\nexcept* OSError: pass", 2),
        ("return [i for i in x]", 2),
        ("return {i: j for i in x if i if y for j in i}", 5),
        ("with x: pass", 1),
        ("assert x", 1),
        ("match x:\n    case 1: pass\n    case 2: pass", 3),
        ("match x:\n    case 1: pass\n    case _: pass", 2),
        ("match x:\n    case 1: pass\n    case other: pass", 2),
        ("match x:\n    case 1: pass\n    case other if y: pass", 3),
        ("match x:\n    case [1 as one]: pass\n    case (1 | 2) as number: pass", 3),
        ("return lambda: 1 if x else 2", 2),
    ],
)
def test_each_decision_counts_one(body, expected):
    assert complexity(body) == expected


def test_functions_are_named_placed_and_counted_for_themselves():
    stats = measure_source(
        textwrap.dedent(
            """\
            if True:
                class Outer:
                    class Inner:
                        async def method(self):
                            async for x in self: pass

                        def method(self):
                            def helper(x):
                                return x if x else 0
                            return helper
            """
        ).encode(),
        "m.py",
    )
    assert stats == FileStats(
        "m.py",
        lines=10,
        functions=(
            Function("Outer.Inner.method", "m.py", 4, 2),
            Function("Outer.Inner.method", "m.py", 7, 1),
            Function("Outer.Inner.method.helper", "m.py", 8, 2),
        ),
    )


def test_a_very_long_chain_of_elif_is_measured():
    chain = "if x == 0: pass\n" + "".join(f"elif x == {n}: pass\n" for n in range(1, 150))
    assert complexity(chain) == 151


@pytest.mark.parametrize(("source", "lines"), [(b"", 0), (b"x", 1), (b"x\n", 1), (b"x\n\n# y", 3)])
def test_lines_are_counted_with_and_without_a_last_newline(source, lines):
    assert measure_source(source).lines == lines


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"print 'hi'\n", "line 1: Missing parentheses"),
        (b"# coding: uft-8\n", "unknown encoding: uft-8"),
        (b"x = '\xf6'\n", r"line 1: \(unicode error\)"),
        (b"x = 1\x00\n", "null bytes"),
        (b"(" * 300 + b")" * 300, "too many nested parentheses"),
        (b"-" * 100_000 + b"1", "MemoryError|RecursionError|too complex"),
    ],
)
def test_a_file_that_does_not_parse_says_why(tmp_path, content, error):
    path = tmp_path / "bad.py"
    path.write_bytes(content)
    stats = measure_file(str(path))
    assert re.search(error, stats.error)
    assert (stats.path, stats.lines, stats.functions) == (str(path), 0, ())


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    assert "FileNotFoundError" in measure_file(str(tmp_path / "none.py")).error


def test_odd_escapes_in_other_peoples_code_are_not_our_warnings():
    assert measure_source(rb"x = '\d'").lines == 1  # warnings are errors here


def test_records_pickle():
    stats = measure_source(b"def f(): pass", "m.py")
    assert pickle.loads(pickle.dumps(stats)) == stats


def test_the_summary_adds_up_and_keeps_the_most_complex():
    a = FileStats("a.py", 10, (Function("f", "a.py", 1, 5), Function("g", "a.py", 7, 2)))
    b = FileStats("b.py", 5, (Function("h", "b.py", 1, 5),))
    bad = FileStats("c.py", error="line 1: no")
    summary = summarize([b, bad, a], top=2)
    assert (summary.files, summary.lines, summary.functions) == (2, 15, 3)
    assert [f.name for f in summary.most_complex] == ["f", "h"]
    assert summary.unparsed == (bad,)


def test_the_standard_library_is_there_and_is_nothing_else():
    files = standard_library()
    assert ast.__file__ in files
    assert files == sorted(set(files))
    assert not [path for path in files if "site-packages" in path or not path.endswith(".py")]


def test_real_files_measure_as_the_syntax_tree_says():
    stats = measure_file(ast.__file__)
    text = Path(ast.__file__).read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text)))
    assert stats.lines == text.count("\n")
    assert len(stats.functions) == sum(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) for n in nodes)
    assert all(text.split("\n")[f.line - 1].lstrip().startswith(("def ", "async def ")) for f in stats.functions)
