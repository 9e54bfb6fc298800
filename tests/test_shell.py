"""Remote cells are real cells: what runs, prints, displays, fails and is interrupted in a worker's shell."""

from __future__ import annotations

import os
import signal

import pytest

from shells import RemoteShell
from znb.interactive import portable
from znb.shell import Shell


@pytest.fixture(scope="module")
def shell(module_world):
    with RemoteShell({"MPLBACKEND": ""}) as started:
        yield started


@pytest.fixture
def fresh(world):
    """A shell of the test's own."""
    with RemoteShell({"MPLBACKEND": ""}) as started:
        yield started


class TestValues:
    @pytest.mark.parametrize(
        ("source", "value"),
        [
            ("1 + 1", "2"),
            ("x = 1", None),
            ("1 + 1;", None),
            ("1 + 1  # comment", "2"),
            ("1 + 1;  # comment", None),
            ("for i in range(2): i", None),
            ("None", None),
            ("", None),
            ("   \n\n", None),
            ("'''a\n\n  b'''", r"'a\n\n  b'"),
            ("given", "1"),
        ],
    )
    def test_the_last_expression_is_the_value(self, shell, source, value):
        cell = shell.start(source).wait()
        assert (cell.error, cell.value, cell.outputs) == (None, value, [])

    def test_underscores_and_out_are_ipythons(self, fresh):
        fresh.run("10")
        fresh.run("20")
        assert fresh.value("_, __, _1, Out[2], In[1]") == (20, 10, 10, 20, "10")

    def test_a_suppressed_value_does_not_become_underscore(self, fresh):
        fresh.run("5")
        fresh.run("6;")
        assert fresh.value("_") == 5

    def test_all_expressions_are_shown_if_ipython_is_told_to(self, fresh):
        fresh.run("%config InteractiveShell.ast_node_interactivity = 'all'")
        cell = fresh.run("1\n2\n3")
        assert [d.data["text/plain"] for d in cell.displays] == ["1", "2"]
        assert cell.value == "3"

    def test_variables_last(self, shell):
        shell.run("lasting = [1]")
        assert shell.value("lasting") == [1]

    def test_cells_run_in_main_so_that_classes_pickle(self, shell):
        shell.run("class Lasting: pass")
        assert shell.value("import pickle, sys\ntype(pickle.loads(pickle.dumps(Lasting()))) is Lasting") is True
        assert shell.value("sys.modules['__main__'].__dict__ is globals(), __name__") == (True, "__main__")

    def test_decorators_of_earlier_cells_work(self, shell):
        shell.run("def twice(f):\n    return lambda x: 2 * f(x)")
        assert shell.value("@twice\ndef g(x): return x + 1\ng(1)") == 4

    def test_get_ipython_is_the_shell_in_modules_too(self, shell, tmp_path):
        (tmp_path / "helper_of_cells.py").write_text("from IPython import get_ipython\nmine = get_ipython()")
        source = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport helper_of_cells\nhelper_of_cells.mine is get_ipython()"
        assert shell.value(source) is True


class TestIPython:
    @pytest.mark.parametrize(
        ("source", "text"),
        [
            ("%env ZNB_TEST=7\n!echo $ZNB_TEST", "env: ZNB_TEST=7\n7\n"),
            ("name = 'expanded'\n!echo {name} $name", "expanded expanded\n"),
            ("%%bash\necho from bash", "from bash\n"),
            ("%%python\nprint('another python')", "another python\n"),
            ("%%capture taken\nprint('x')", ""),
            ("%pwd\nprint('y')", "y\n"),
            ("%who_ls str\nprint()", "\n"),
            ("%lsmagic\nprint('z')", "z\n"),
            ("%load_ext autoreload\n%autoreload 0\nprint('loaded')", "loaded\n"),
        ],
    )
    def test_magics_and_commands_work(self, shell, source, text):
        cell = shell.start(source).wait()
        assert (cell.error, cell.text) == (None, text)

    @pytest.mark.parametrize(
        ("source", "part"),
        [
            ("%timeit -n1 -r1 1", "per loop"),
            ("%%timeit -n1 -r1\n1", "per loop"),
            ("%%time\n1", "Wall time"),
            ("%history -n", "   1:"),
            ("%whos", "Variable"),
        ],
    )
    def test_magics_that_report_work(self, shell, source, part):
        cell = shell.start(source).wait()
        assert cell.error is None
        assert part in cell.text

    def test_writefile_run_and_cd_work(self, shell, tmp_path):
        shell.run(f"%cd {tmp_path}")
        shell.run("%%writefile script_of_cell.py\nfrom_script = 41\nprint('script runs', __name__)")
        cell = shell.run("%run script_of_cell.py\nfrom_script + 1")
        assert (cell.text, cell.value) == ("script runs __main__\n", "42")
        assert tmp_path.samefile(shell.value("%pwd"))

    def test_output_of_a_command_can_be_taken(self, shell):
        assert shell.value("taken = !echo a; echo b >&2; echo c\nlist(taken)") == ["a", "b", "c"]

    def test_the_status_of_a_command_is_kept(self, shell):
        assert shell.value("!exit 3\n_exit_code") == 3
        assert shell.value("x = !kill -TERM $$\n_exit_code") == -15

    def test_a_commands_output_is_live(self, shell, tmp_path):
        flag = tmp_path / "go"
        script = (
            f"import os,time; print('first')\nwhile not os.path.exists({str(flag)!r}): time.sleep(.01)\nprint('second')"
        )
        (tmp_path / "slow.py").write_text(script)
        cell = shell.start(f"!python {tmp_path}/slow.py")  # it buffers, unless it believes to have a terminal
        cell.wait_text("first")
        flag.touch()
        assert cell.wait().text == "first\nsecond\n"

    def test_a_background_command_does_not_hold_the_cell(self, shell, tmp_path):
        flag = tmp_path / "go"
        cell = shell.run(f"!(while [ ! -e {flag} ]; do sleep 0.01; done; echo late) &")
        assert cell.error is None
        flag.touch()
        heard = ""
        while "late" not in heard:  # between cells it is kept, during one it belongs to that
            cell = shell.run("_shell.stray()")
            heard += cell.text + cell.value

    def test_a_command_has_nothing_to_read(self, shell):
        assert shell.run("!cat; echo end").text == "end\n"

    def test_help_is_displayed(self, shell):
        assert "Docstring" in shell.run("len?").displays[0].data["text/plain"]

    def test_aliases_of_magics_and_macros_work(self, fresh):
        fresh.run("%alias_magic again timeit")
        assert "per loop" in fresh.run("%again -n1 -r1 1").text

    def test_a_nested_cell_that_fails_is_printed_and_the_outer_one_goes_on(self, shell):
        cell = shell.run("inner = get_ipython().run_cell('1/0')\ninner.success")
        assert cell.value == "False"
        assert "ZeroDivisionError" in cell.stream("stderr")

    def test_nothing_is_written_to_the_home_folder(self, fresh, world):
        fresh.run("%history\n%cd /\n!true")
        assert list(world.home.iterdir()) == []

    def test_old_cells_are_forgotten(self):
        from znb import interactive

        script = "import linecache, sys\nlen([k for k in linecache.cache if k.startswith('<cell')]), len(In[1]), '_i1' in globals()"
        with pytest.MonkeyPatch.context() as patch, RemoteShell() as shell:
            del patch
            shell.run(f"import znb.interactive as module; module.CELLS_KEPT = {3}")
            for _ in range(6):
                shell.run("1")
            assert shell.value(script) == (3, 0, False)
        assert interactive.CELLS_KEPT == 1000


class TestOutputs:
    def test_a_print_is_live(self, shell, tmp_path):
        flag = tmp_path / "go"
        cell = shell.start(f"import os\nprint('begun')\nwhile not os.path.exists({str(flag)!r}): pass\nprint('end')")
        cell.wait_text("begun\n")
        flag.touch()
        assert cell.wait().text == "begun\nend\n"

    def test_stdout_and_stderr_keep_their_order(self, shell):
        cell = shell.run("import sys\nfor i in range(3):\n    print(i)\n    print(i, file=sys.stderr)")
        assert [(o.stream, o.text) for o in cell.outputs] == [
            (stream, f"{i}\n") for i in range(3) for stream in ("stdout", "stderr")
        ]

    def test_rich_objects_display(self, shell):
        cell = shell.run(
            "from IPython.display import HTML, Markdown, JSON\ndisplay(HTML('<b>x</b>'), Markdown('*y*'), JSON({'a': [1]}))"
        )
        html, markdown, json = (d.data for d in cell.displays)
        assert html["text/html"] == "<b>x</b>"
        assert markdown["text/markdown"] == "*y*"
        assert json["application/json"] == {"a": [1]}

    def test_displays_can_be_updated_and_cleared(self, shell):
        cell = shell.run(
            """
            from IPython.display import clear_output, update_display
            handle = display("one", display_id="mine")
            handle.update("two")
            update_display("three", display_id="mine")
            clear_output(wait=True)
            """
        )
        assert [(d.data["text/plain"], d.display_id, d.update) for d in cell.displays] == [
            ("'one'", "mine", False),
            ("'two'", "mine", True),
            ("'three'", "mine", True),
        ]
        assert cell.outputs[-1].wait is True

    def test_pandas_and_images_display(self, shell):
        cell = shell.run(
            """
            import pandas
            from IPython.display import Image
            display(pandas.DataFrame({"a": [1]}))
            display(Image(data=b"\\x89PNG\\r\\n\\x1a\\n", format="png"))
            """
        )
        table, image = (d.data for d in cell.displays)
        assert "<table" in table["text/html"]
        assert image["image/png"].strip() == "iVBORw0KGgo="

    def test_figures_are_shown_at_the_end_of_the_cell(self, shell):
        cell = shell.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nprint('before')")
        assert cell.error is None
        assert [type(o).__name__ for o in cell.outputs] == ["Text", "Display"]
        assert cell.displays[0].data["image/png"].startswith("iVBOR")
        assert shell.run("plt.plot([2, 1]); plt.show(); print('after')").displays[0].data["image/png"]
        assert shell.run("%matplotlib inline\n1").displays == []

    def test_a_figure_that_cannot_be_drawn_fails_the_cell(self, shell):
        cell = shell.run("import matplotlib.pyplot as plt\nplt.title('$\\\\nosuchmacro$')\nprint('printed')")
        assert cell.text == "printed\n"
        assert cell.error.name == "ValueError"

    def test_widgets_have_their_text_form(self, shell):
        pytest.importorskip("ipywidgets")
        cell = shell.run("import ipywidgets\ndisplay(ipywidgets.IntSlider(3))")
        assert cell.displays[0].data == {"text/plain": "IntSlider(value=3)"}

    def test_progress_bars_keep_their_carriage_returns(self, shell):
        cell = shell.run("import tqdm.auto\nfor _ in tqdm.auto.tqdm(range(2)): pass")
        assert cell.stream("stderr").startswith("\r  0%")

    def test_a_listener_that_has_gone_does_not_stop_the_cell(self, shell):
        shell.run("print('unheard'); went_on = True", emit="closed")
        assert shell.value("went_on") is True

    def test_a_listener_that_fails_does_not_stop_the_cell(self, shell):
        shell.run("print('unheard'); went_on_again = True", emit="broken")
        assert shell.value("went_on_again") is True

    def test_values_that_cannot_travel_are_described(self):
        bundle = {"image/png": b"\x00\x01", "text/plain": "a\ud800", "application/json": {"n": 2**70}, "x/y": {1, 2}}
        assert portable(bundle) == {
            "image/png": "AAE=",
            "text/plain": "a\\ud800",
            "application/json": repr({"n": 2**70}),
            "x/y": "{1, 2}",
        }


class TestAsync:
    def test_await_works_and_its_value_is_the_cells(self, shell):
        assert shell.value("import asyncio\nawait asyncio.sleep(0, 'slept')") == "slept"

    def test_async_for_and_with_work(self, shell):
        source = "async def numbers():\n    yield 1\n    yield 2\n[n async for n in numbers()]"
        assert shell.value(source) == [1, 2]

    def test_one_loop_serves_all_cells(self, shell):
        shell.run("import asyncio\nfirst_loop = asyncio.get_running_loop()\nqueue = asyncio.Queue()")
        assert shell.value("await asyncio.sleep(0)\nasyncio.get_running_loop() is first_loop") is True

    def test_asyncio_run_works_in_a_cell(self, shell):
        assert shell.value("import asyncio\nasync def main(): return 5\nasyncio.run(main())") == 5

    def test_run_until_complete_works_in_a_cell(self, shell):
        assert shell.value("import asyncio\nasyncio.get_event_loop().run_until_complete(asyncio.sleep(0, 6))") == 6

    def test_background_tasks_go_on_while_the_worker_is_idle(self, shell, tmp_path):
        flag = tmp_path / "written by a task"
        shell.run(
            f"import asyncio, pathlib\nasync def later():\n    await asyncio.sleep(0.05)\n    pathlib.Path({str(flag)!r}).touch()\nbackground = asyncio.create_task(later())"
        )
        while not flag.exists():
            assert shell.process.poll() is None
        assert shell.value("background.done()") is True

    def test_servers_answer_while_the_worker_is_idle(self, shell):
        import socket

        port = shell.value(
            "import asyncio\nasync def hello(r, w):\n    w.write(b'hello'); w.close()\nserver = await asyncio.start_server(hello, '127.0.0.1', 0)\nserver.sockets[0].getsockname()[1]"
        )
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            assert client.recv(5) == b"hello"
        shell.run("server.close(); await server.wait_closed()")

    def test_wake_ends_idle(self):
        import queue
        import threading

        shell = Shell("w0")
        inbox = queue.SimpleQueue()

        def wait(timeout):
            try:
                return inbox.get(timeout=timeout) if timeout != 0 else inbox.get_nowait()
            except queue.Empty:
                return None

        async def forever():
            await asyncio_event.wait()

        import asyncio

        asyncio_event = asyncio.Event()
        task = shell.loop.create_task(forever())
        shell.wake()  # while nothing waits, nothing happens
        thread = threading.Timer(0.02, lambda: (inbox.put("work"), shell.wake()))
        thread.start()
        while (work := shell.idle(wait)) is None:
            pass
        thread.join()
        assert work == "work"
        asyncio_event.set()
        shell.loop.run_until_complete(task)
        shell.loop.close()


class TestErrors:
    def test_a_traceback_has_the_users_frames_only(self, shell):
        cell = shell.run("def fails(x):\n    return 1 / x\n\nfails(0)", label="frames")
        assert cell.error.name == "ZeroDivisionError"
        assert cell.error.frames == [
            ["<cell frames>", 4, "<module>", "fails(0)"],
            ["<cell frames>", 2, "fails", "return 1 / x"],
        ]

    @pytest.mark.parametrize(
        ("source", "first_line", "line"),
        [("1/0", 2, 2), ("\n\n1/0", 2, 4), ("x = '''\n\n'''\n1/0", 3, 6), ("\n  \n%env\n1/0", 1, 4)],
    )
    def test_line_numbers_are_those_of_the_cell(self, shell, source, first_line, line):
        cell = shell.start(source, first_line=first_line).wait()
        assert [(frame[1], frame[3]) for frame in cell.error.frames] == [(line, "1/0")]

    def test_lines_are_shown_as_written(self, shell):
        cell = shell.run("x = 1\n%nosuchmagic here")
        assert cell.error.name == "UsageError"
        assert cell.error.frames[-1][3] == "%nosuchmagic here"
        assert len(cell.error.frames) == 1

    def test_labels_used_twice_keep_their_sources_apart(self, shell):
        shell.run("def one():\n    1 / 0  # one", label="twice")
        shell.run("def two():\n    1 / 0  # two", label="twice")
        assert shell.run("one()").error.frames[-1][3] == "1 / 0  # one"
        assert shell.run("two()").error.frames[-1][3] == "1 / 0  # two"

    def test_lines_are_shown_as_written_also_if_the_cell_ends_in_a_newline(self, shell):
        cell = shell.start("x = 1\n%nosuchmagic here\n").wait()
        assert cell.error.frames[-1][3] == "%nosuchmagic here"

    def test_syntax_errors_of_code_that_a_cell_runs_keep_their_own_place(self, shell):
        cell = shell.run("x = 1\nexec('y = (')", first_line=5)
        assert cell.error.syntax[:2] == ["<string>", 1]
        assert cell.error.frames[-1][1] == 6

    def test_sources_of_functions_can_be_had(self, shell):
        source = "def documented():\n    # a comment\n    return 1\n"
        shell.run(source + "1", first_line=2)
        assert shell.value("import inspect\ninspect.getsource(documented)") == source

    @pytest.mark.parametrize(
        ("source", "name", "line", "text"),
        [
            ("x = 1\ny = (", "SyntaxError", 3, "y = ("),
            ("return 5", "SyntaxError", 2, "return 5"),
            ("if 1:\nx", "IndentationError", 3, "x"),
            ("'unterminated", "SyntaxError", 2, "'unterminated"),
            ("def f(:\n    pass", "SyntaxError", 2, "def f(:"),
        ],
    )
    def test_syntax_errors_know_where_they_are(self, shell, source, name, line, text):
        cell = shell.start(source, first_line=2, label="syntax").wait()
        assert cell.error.name == name
        assert cell.error.frames == []
        filename, lineno, shown = cell.error.syntax
        assert filename.startswith("<cell syntax")
        assert (lineno, shown.strip()) == (line, text)

    def test_nothing_of_a_cell_with_a_syntax_error_runs(self, shell):
        assert shell.run("print('ran')\ny = (").text == ""

    @pytest.mark.parametrize("source", ["exit", "quit()", "import sys; sys.exit(3)", "raise SystemExit"])
    def test_system_exit_is_raised_and_ends_nothing(self, shell, source):
        cell = shell.run(source)
        assert cell.error.name == "SystemExit"
        assert cell.text == ""
        assert shell.value("1") == 1

    def test_an_error_in_run_fails_the_cell(self, shell, tmp_path):
        (tmp_path / "bad.py").write_text("x = 1\n1/0\n")
        cell = shell.run(f"%run {tmp_path}/bad.py\nprint('after')")
        assert cell.text == "after\n"
        assert cell.error.name == "ZeroDivisionError"
        assert cell.error.frames[-1][:2] == [str(tmp_path / "bad.py"), 2]

    def test_two_errors_are_both_told(self, shell, tmp_path):
        (tmp_path / "bad.py").write_text("1/0\n")
        cell = shell.run(f"%run {tmp_path}/bad.py\nraise KeyError('second')")
        assert cell.error.name == "KeyError"
        assert "ZeroDivisionError" in cell.stream("stderr")

    def test_errors_in_cell_magics_have_the_users_lines(self, shell):
        cell = shell.run("%%time\n1/0")
        assert cell.error.name == "ZeroDivisionError"
        assert all("IPython" not in frame[0] for frame in cell.error.frames)

    def test_exception_groups_and_notes_pass(self, shell):
        assert shell.run("raise ExceptionGroup('many', [ValueError(1)])").error.name == "ExceptionGroup"

    def test_recursion_errors_pass(self, shell):
        shell.run("def deep(): deep()")
        assert shell.run("deep()").error.name == "RecursionError"
        assert shell.value("1") == 1

    def test_running_before_start_is_refused(self):
        with pytest.raises(RuntimeError, match="call start"):
            Shell("w0").run_cell("1", print, label="x")


class TestKeyboard:
    @pytest.mark.parametrize("source", ["input('name? ')", "import getpass; getpass.getpass('name? ')"])
    def test_input_says_that_it_cannot(self, shell, source):
        cell = shell.run(source)
        assert cell.error.name == "StdinNotImplementedError"
        assert "no keyboard" in cell.error.message
        assert "name? " in cell.error.message
        assert "%znb push" in cell.error.message

    def test_it_is_a_runtime_error(self, shell):
        assert shell.value("try: input()\nexcept RuntimeError as e: ok = True\nok") is True

    @pytest.mark.parametrize(
        "source", ["breakpoint()", "%debug", "%pdb on", "import pdb; pdb.set_trace()\nx = 1", "1/0\n%debug"]
    )
    def test_debuggers_say_that_they_cannot(self, fresh, source):
        cell = fresh.run(source)
        if "1/0" in source:
            cell = fresh.run("%debug")
        assert "no debugger can be used in it" in cell.error.message

    def test_breakpoints_can_be_turned_off(self, fresh):
        assert fresh.value("%env PYTHONBREAKPOINT=0\nbreakpoint()\n1") == 1

    def test_standard_input_is_at_its_end(self, shell):
        assert shell.value("import sys\nsys.stdin.read(), sys.stdin.readline()") == ("", "")

    def test_editors_and_windows_are_refused(self, shell):
        assert "no editor" in shell.run("%edit").error.message
        assert "no screen" in shell.run("get_ipython().enable_gui('qt')").error.message


INTERRUPTIBLE = {
    "sleep": "import time\nprint('begun')\ntime.sleep(100)",
    "loop": "print('begun')\nwhile True: pass",
    "await": "import asyncio\nprint('begun')\nawait asyncio.sleep(100)",
    "nested await": "import asyncio\nasync def a(): await b()\nasync def b():\n    print('begun')\n    await asyncio.sleep(100)\nawait a()",
    "asyncio.run": "import asyncio\nprint('begun')\nasyncio.run(asyncio.sleep(100))",
    "command": "print('begun')\n!sleep 100; echo not ended",
    "taken command": "print('begun')\nx = !sleep 100",
    "script": "print('begun')\n%timeit -n1 -r1 __import__('time').sleep(100)",
    "bash": "%%bash\necho begun\nexec sleep 100",
    "lock": "import threading\nprint('begun')\nthreading.Event().wait()",
    "nested cell": "print('begun')\nget_ipython().run_cell('import time; time.sleep(100)')\ntime.sleep(100)",
    "printing": "while True: print('begun' * 100)",
    "figure": "import matplotlib.pyplot as plt, time\nclass Slow(plt.Artist):\n    def draw(self, *_):\n        print('begun')\n        time.sleep(100)\nplt.gca().add_artist(Slow())\n1",
}


class TestInterrupt:
    @pytest.mark.parametrize("kind", INTERRUPTIBLE)
    def test_an_interrupt_stops_the_cell_and_leaves_the_shell_usable(self, shell, kind):
        cell = shell.start(INTERRUPTIBLE[kind])
        cell.wait_text("begun")
        shell.interrupt()
        assert cell.wait().error.name == "KeyboardInterrupt"
        assert "not ended" not in cell.text
        after = shell.run("print('after')\n7")
        assert (after.text, after.value) == ("after\n", "7")

    def test_the_traceback_says_where_it_waited(self, shell):
        cell = shell.start(
            "import asyncio\nasync def waits():\n    print('begun')\n    await asyncio.sleep(100)\nawait waits()",
            label="waiting",
        )
        cell.wait_text("begun")
        shell.interrupt()
        frames = [(frame[1], frame[2]) for frame in cell.wait().error.frames if frame[0] == "<cell waiting>"]
        assert frames == [(5, "<module>"), (4, "waits")]

    def test_a_commands_children_are_ended(self, shell, tmp_path):
        cell = shell.start(f"!sh -c 'trap \"\" INT; echo $$ > {tmp_path}/pid; echo begun; sleep 100; sleep 100'")
        cell.wait_text("begun")
        shell.interrupt()
        assert cell.wait().error.name == "KeyboardInterrupt"
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)

    def test_twenty_times_in_a_row(self, shell):
        for _ in range(20):
            cell = shell.start("print('begun')\nwhile True: pass")
            cell.wait_text("begun")
            shell.interrupt()
            assert cell.wait().error.name == "KeyboardInterrupt"
            assert shell.value("1 + 1") == 2

    def test_code_may_catch_it(self, shell):
        cell = shell.start(
            "try:\n    print('begun')\n    while True: pass\nexcept KeyboardInterrupt:\n    caught = 'caught'\ncaught"
        )
        cell.wait_text("begun")
        shell.interrupt()
        assert cell.wait().value == "'caught'"

    def test_a_cell_held_back_by_its_listener_stops(self, fresh):
        cell = fresh.start("import os\nprint('x' * 1_000_000)", emit="blocked")
        # SIGINT only when the main thread waits: its stack says so
        import psutil

        process = psutil.Process(fresh.process.pid)
        while process.status() not in {psutil.STATUS_SLEEPING, psutil.STATUS_IDLE}:
            pass
        fresh.interrupt()
        for _ in range(20):
            fresh.open_gate()
        assert cell.wait().error is None or cell.error.name == "KeyboardInterrupt"
        assert fresh.value("1") == 1

    def test_children_in_our_group_can_be_interrupted(self, shell):
        cell = shell.start(
            "import subprocess\np = subprocess.Popen(['sleep', '100'])\nprint('begun')\nfrom znb.commands import interrupt_children\ninterrupt_children()\np.wait()"
        )
        assert cell.wait().value == str(-signal.SIGINT)


class TestForks:
    def test_a_child_that_goes_on_ends_with_its_cell(self, shell):
        cell = shell.run(
            "import os\npid = os.fork()\nprint('child' if not pid else 'parent')\nif pid: print(os.waitpid(pid, 0)[1])"
        )
        assert sorted(cell.stream("stdout").split()) == ["0", "child", "parent"]

    def test_a_child_that_fails_says_so(self, shell):
        cell = shell.run(
            "import os\npid = os.fork()\nif not pid: raise ValueError('in the child')\nos.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
        )
        assert cell.value == "1"
        assert "ValueError: in the child" in cell.stream("stderr")

    def test_multiprocessing_works_with_functions_of_cells(self, shell):
        shell.run("def double(x):\n    print('doubling')\n    return 2 * x")
        cell = shell.run(
            "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool: doubled = pool.map(double, [1, 2])\ndoubled"
        )
        assert (cell.value, cell.stream("stdout")) == ("[2, 4]", "doubling\ndoubling\n")


def test_a_shell_can_be_closed_and_opened_again_in_one_process(tmp_path):
    from shells import run_captured

    run_captured(
        """
        from znb.shell import Shell
        capture.close()
        import builtins, getpass
        main, stdin, read, hook = sys.modules["__main__"], sys.stdin, builtins.input, sys.breakpointhook
        for _ in range(2):
            with Shell("w0") as shell:
                assert shell.run_cell("print('x')\\n1", emit, label="a") == 1
                with shell.capture(emit):
                    print("a job")
                assert shell.flush(10)
        shell.close()
        assert (main, stdin, read, hook) == (sys.modules["__main__"], sys.stdin, builtins.input, sys.breakpointhook)
        assert text_of(outputs) == "x\\na job\\n" * 2
        """
    )
