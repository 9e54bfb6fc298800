"""What people see of exceptions that cross processes: in IPython, in a notebook, in pytest and in the debugger."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from remote_errors import CODEC, caught, divide, record_of, travel
from znb.tracebacks import combine, render, restore

TESTS = str(Path(__file__).parent)

#: What each cell of these tests can call: ``remote(SOURCE)`` fails as a cell on a worker does.
SETUP = f"""
import sys, types
sys.path.insert(0, {TESTS!r})
framework = types.ModuleType("znb.stand_in")
exec(compile('''
import linecache
from collections import namedtuple
from remote_errors import CODEC, cell, record_of
from znb.tracebacks import combine, restore, show_in_shell
Failed = namedtuple("Failed", "error record")
def failed(source, worker="w0", label="<cell 1>"):
    try:
        cell(source, label)
    except BaseException as error:
        record = record_of(error, worker, hide={{"znb", "IPython", "remote_errors"}}, with_locals=True)
    del linecache.cache[label]
    return Failed(restore(record, CODEC), record)
def result(error):
    raise error
def remote(source):
    result(failed(source).error)
def several(*sources):
    failures = {{f"w{{i}}": failed(s, f"w{{i}}", f"<cell {{s}}>") for i, s in enumerate(sources)}}
    raise combine(failures, of=len(sources) + 1)
''', "/znb/stand_in.py", "exec"), framework.__dict__)
remote, several, show_in_shell = framework.remote, framework.several, framework.show_in_shell
"""

TERMINAL = """
import sys
from traitlets.config import Config
from IPython.terminal.interactiveshell import TerminalInteractiveShell
config = Config()
config.TerminalInteractiveShell.simple_prompt = True
config.HistoryManager.enabled = False
config.InteractiveShell.colors = sys.argv[1]
shell = TerminalInteractiveShell.instance(config=config)
shell.run_cell(SETUP)
for cell in CELLS:
    shell.run_cell(cell, store_history=True)
    print("=" * 20)
"""

DIVIDE = "def f(xs, i):\n    total = sum(xs)\n    return total / xs[i]\n\nf([1, 0], 1)\n"


def in_terminal(*cells, colors="nocolor", keys=""):
    """Run cells in an IPython terminal; return what each printed."""
    script = f"SETUP = {SETUP!r}\nCELLS = {cells!r}\n{TERMINAL}"
    ran = subprocess.run(
        [sys.executable, "-c", script, colors],
        input=keys,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    parts = (ran.stdout + ran.stderr if not ran.stdout else ran.stdout).split("=" * 20 + "\n")
    return [*parts[: len(cells)], ran.stderr]


def test_in_ipython_the_call_the_worker_and_the_remote_frames_are_shown():
    (shown, _) = in_terminal(f"def job():\n    remote({DIVIDE!r})\n\njob()")
    assert shown == textwrap.dedent(
        """\
        ---------------------------------------------------------------------------
        ZeroDivisionError                         Traceback (most recent call last)
        Cell In[1], line 4
              1 def job():
              2     remote('def f(xs, i):\\n    total = sum(xs)\\n    return total / xs[i]\\n\\nf([1, 0], 1)\\n')
        ----> 4 job()

        Cell In[1], line 2, in job()
              1 def job():
        ----> 2     remote('def f(xs, i):\\n    total = sum(xs)\\n    return total / xs[i]\\n\\nf([1, 0], 1)\\n')

        ── on w0 (nb, pid 1234) ───────────────────────────────────────────────────

        File <cell 1>:5
              2     total = sum(xs)
              3     return total / xs[i]
        ----> 5 f([1, 0], 1)

        File <cell 1>:3, in f()
              1 def f(xs, i):
              2     total = sum(xs)
        ----> 3     return total / xs[i]

        ZeroDivisionError: division by zero
        """
    )


def test_in_ipython_every_mode_and_the_colours_are_those_of_the_shell():
    plain, minimal, verbose, _ = in_terminal(
        "%xmode Plain\nremote('1/0')", "%xmode Minimal\nremote('1/0')", "%xmode Verbose\nremote('n = 5\\nn/0')"
    )
    assert "on w0 (nb, pid 1234)" in plain
    assert "raised on" not in plain
    assert "on w0" not in minimal.replace("raised on w0 (host nb, pid 1234)", "")
    assert "raised on w0 (host nb, pid 1234)" in minimal
    assert "n = 5" in verbose
    coloured, _ = in_terminal("remote('1/0')", colors="linux")
    rule = next(line for line in coloured.splitlines() if "-----" in line)
    separator = next(line for line in coloured.splitlines() if "── on w0" in line)
    assert rule.startswith("\x1b[")
    assert separator.partition("──")[0] == rule.partition("---")[0]


def test_in_ipython_a_chain_shows_each_link():
    source = "try:\n    {}['x']\nexcept KeyError as e:\n    raise RuntimeError('bad') from e"
    shown, wrapped, _ = in_terminal(
        f"remote({source!r})", "try:\n    remote('1/0')\nexcept ZeroDivisionError as e:\n    raise ValueError() from e"
    )
    assert shown.index("KeyError: 'x'") < shown.index("direct cause") < shown.index("on w0") < shown.index("bad\n")
    assert "raised on w0 (host nb, pid 1234)" in wrapped


def test_in_ipython_groups_and_syntax_errors_are_shown_by_the_handler():
    install = "get_ipython().set_custom_exc((BaseExceptionGroup, SyntaxError), show_in_shell)"
    _, group, syntax, local, other, errors = in_terminal(
        install, "several('1/0', '1/0', '{}[2]')", "remote('x = 1\\nif x')", "compile('if', 'c', 'exec')", "1 +"
    )
    assert "ExceptionGroup: 3 of 4 workers failed with 2 different errors" in group
    assert group.count("── on w0 (nb, pid 1234), the same on w1 ──") == 1
    assert group.count("── on w2 (nb, pid 1234) ──") == 1
    assert group.count("ZeroDivisionError: division by zero") == 1
    assert "stand_in" not in group + syntax
    assert "File <cell 1>:2\n    if x\n        ^\nSyntaxError: expected ':'" in syntax
    assert "── on w0" in syntax
    assert "SyntaxError: invalid syntax" in local
    assert "SyntaxError" in other
    assert "Traceback" not in errors


def test_in_ipython_groups_are_readable_without_the_handler_too():
    _, errors = in_terminal("several('1/0', '{}[2]')")
    assert "ExceptionGroup: 2 of 3 workers failed" in errors
    assert "| ZeroDivisionError: division by zero\n    | raised on w0 (host nb, pid 1234)" in errors


def test_the_debugger_opens_on_the_remote_frame():
    _, debugged, errors = in_terminal(
        f"remote({DIVIDE!r})", "%debug", keys="p total\np xs\np __remote__\nxs.append(1)\nup\nq\n"
    )
    assert "> <cell 1>(3)f()" in debugged
    assert "----> 3     return total / xs[i]" in debugged
    assert "ipdb> 1\nipdb> [1, 0]\nipdb> this frame ran on w0 (host nb, pid 1234)" in debugged
    assert "only its text was sent" in debugged + errors
    assert "> <cell 1>(5)<module>()" in debugged


def test_in_a_notebook_it_is_the_cell_s_error(shared_kernel):
    shared_kernel.run(SETUP).ok()
    error = shared_kernel.run(f"remote({DIVIDE!r})").error
    assert error.name == "ZeroDivisionError"
    assert error.plain.count("on w0 (nb, pid 1234)") == 1
    assert "----> 1 remote(" in error.plain
    assert "----> 3     return total / xs[i]" in error.plain
    assert "stand_in" not in error.plain
    shared_kernel.run("get_ipython().set_custom_exc((BaseExceptionGroup, SyntaxError), show_in_shell)").ok()
    group = shared_kernel.run("several('1/0', '{}[2]')").error
    assert group.name == "ExceptionGroup"
    assert "── on w1 (nb, pid 1234) ──" in group.plain


def test_pytest_shows_the_remote_function(tmp_path):
    test = tmp_path / "test_it.py"
    test.write_text(
        f"import sys; sys.path.insert(0, {TESTS!r})\n"
        "from remote_errors import caught, divide, travel\n"
        "def test_it():\n    raise travel(caught(divide, [1, 0], 1))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    expected = "    def divide(xs, i):\n        total = sum(xs)\n>       return total / xs[i] + 1\n"
    assert expected in ran.stdout
    assert "E       raised on w0 (host nb, pid 1234)" in ran.stdout


def test_logging_shows_the_remote_frames(caplog):
    with caplog.at_level(logging.ERROR):
        try:
            raise travel(caught(divide, [1, 0], 1))
        except ZeroDivisionError:
            logging.getLogger("test").exception("it failed")
    assert 'File "<w0>", line 1, in remote' in caplog.text
    assert "return total / xs[i] + 1" in caplog.text


def test_without_a_shell_the_text_is_python_s():
    error = travel(caught(divide, [1, 0], 1))
    assert "".join(render(error)) == "".join(error._render_traceback_())
    assert 'File "<w0>", line 1, in remote' in "".join(render(error))


@pytest.mark.parametrize("worker", ["w1", ""])
def test_a_process_without_a_worker_s_name_is_named_by_its_host(worker):
    error = travel(ValueError("x"), worker)
    name = "w1 (host nb, pid 1234)" if worker else "host nb (pid 1234)"
    assert error.__notes__ == [f"raised on {name}"]


def test_a_group_of_one_kind_is_the_error_itself():
    class Failure:
        record = record_of(ValueError("x"))
        error = restore(record, CODEC)

    assert combine({"w0": Failure()}, of=1) is Failure.error
