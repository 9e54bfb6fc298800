"""Remote cells are real cells, and their errors are a cell's errors: in a notebook with two workers."""

from __future__ import annotations

import contextlib
import os
import re
import time
from ast import literal_eval

import psutil
import pytest

from job_functions import wait_until
from notebooks import lines_of, notices, open_gate, pids, plain, remote, run_script, script, with_cluster


@pytest.fixture(scope="module")
def notebook(shared_kernel):
    return with_cluster(shared_kernel, 2)


# -- output


def test_a_print_shows_while_the_cell_runs(notebook):
    cell = notebook.start(remote("print('early')\nwait_for('seen')\nprint('late')"))
    cell.wait_until(lambda cell: "all │ early\n" in plain(cell))
    assert not cell.idle
    open_gate(notebook, "seen")
    assert plain(cell.wait().ok()) == "all │ early\nall │ late\n"


def test_a_print_to_one_worker_is_shown_as_it_is(notebook):
    cell = notebook.run(remote("print('as it is')\nprint('no newline', end='')", "--on w1")).ok()
    assert cell.stdout == "as it is\nno newline"


def test_output_of_each_worker_keeps_its_order(notebook):
    source = """
    import os, random, sys, time
    seed = random.Random(os.getpid())
    for number in range(500):
        print(f"{os.getpid()} line {number}")
        if seed.random() < 0.02:
            time.sleep(0.02)
    """
    cell = notebook.run(remote(source)).ok()
    for worker, pid in pids(notebook).items():
        assert lines_of(cell, worker) == [f"{pid} line {number}" for number in range(500)]


def test_both_streams_and_displays_of_a_worker_keep_their_order(notebook):
    source = """
    import os, sys
    print("one")
    print("two", file=sys.stderr)
    os.write(1, b"three\\n")
    display("four")
    print("five", file=sys.stderr)
    sys.stdout.write("six\\n");
    """
    cell = notebook.run(remote(source, "--on 0")).ok()
    streams = {"stdout": "out", "stderr": "err"}
    shown = [
        (streams[o["name"]], o["text"]) if o["kind"] == "stream" else ("display", o["data"]["text/plain"])
        for o in cell.shown
    ]
    assert shown == [("out", "one\n"), ("err", "two\n"), ("out", "three\n"), ("display", "'four'"),
                     ("err", "five\n"), ("out", "six\n")]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import os\nos.write(1, b'by descriptor\\n');", "by descriptor\n"),
        ("import ctypes\nctypes.CDLL(None).puts(b'by C')\nNone", "by C\n"),
        ("import subprocess\nsubprocess.run(['echo', 'by a child']);", "by a child\n"),
        ("import os\nos.system('echo by a shell');", "by a shell\n"),
        ("import os\nif os.fork() == 0:\n    print('by a fork', flush=True)\n    os._exit(0)\nos.wait();", "by a fork\n"),
        ("import threading\nt = threading.Thread(target=print, args=('by a thread',))\nt.start(); t.join()", "by a thread\n"),
        ("!echo by a bang", "by a bang\n"),
        ("%%bash\necho by bash", "by bash\n"),
        ("import logging\nlogging.warning('by logging')", "WARNING:root:by logging\n"),
        ("import warnings\nwarnings.warn('by warnings')", "UserWarning: by warnings\n"),
    ],
)  # fmt: skip
def test_what_is_written_past_python_shows_as_well(notebook, source, text):
    assert text in plain(notebook.run(remote(source, "--on 0")).ok())


def test_a_child_process_is_heard_while_it_runs(notebook):
    source = "import subprocess\nsubprocess.run(['sh', '-c', 'echo heard; while [ ! -e child ]; do sleep 0.01; done; echo end']);"
    cell = notebook.start(remote(source, "--on 0"))
    cell.wait_until(lambda cell: "heard\n" in plain(cell))
    assert not cell.idle
    open_gate(notebook, "child")
    assert plain(cell.wait().ok()) == "heard\nend\n"


def test_progress_of_one_worker_keeps_its_carriage_returns(notebook):
    source = "for n in range(3): print(f'\\r{n} of 3', end='')\nprint('\\rdone  ')"
    assert notebook.run(remote(source, "--on 0")).ok().stdout == "\r0 of 3\r1 of 3\r2 of 3\rdone  \n"


def test_progress_of_several_workers_is_shown_live_and_ends_as_a_line(notebook):
    source = """
    import sys
    for percent in range(0, 51): print(f'\\r{percent}%', end='')
    wait_for('progress')
    print('\\r100%')
    """
    cell = notebook.start(remote(source))
    cell.wait_until(lambda cell: re.search(r"w0 +│ 50%\nw1 +│ 50%", notices(cell)))
    assert plain(cell) == ""
    open_gate(notebook, "progress")
    cell.wait().ok()
    assert lines_of(cell, "w0") == lines_of(cell, "w1") == ["100%"]
    live = [o for o in cell.shown if o["kind"] == "display_data"]
    assert [o["data"]["text/plain"] for o in live] == [""], "the live lines are taken away at the end"


def test_a_progress_bar_of_tqdm_works(notebook):
    shown = notebook.run(remote("from tqdm import tqdm\nfor n in tqdm(range(3), 'counting'): pass", "--on 0")).ok()
    assert "counting: 100%" in shown.stderr
    assert "\r" in shown.stderr
    shown = notebook.run(remote("from tqdm import tqdm\nfor n in tqdm(range(3), 'counting'): pass")).ok()
    assert shown.stderr.count("counting: 100%") in {1, 2}
    assert "\r" not in shown.stderr


def test_identical_output_is_folded_to_one_copy_that_names_the_workers(notebook):
    notebook.run("%znb cluster scale 3").ok()
    source = """
    import os
    mine = %s
    print("the same")
    print("only some" if mine != 1 else "the odd one")
    print(f"number {mine}")
    """
    for number in range(3):
        notebook.run(f"cluster[{number}].push(mine={number})").ok()
    shown = plain(notebook.run(remote(source % "mine")).ok())
    notebook.run("%znb cluster scale 2").ok()
    assert shown.splitlines()[0] == "all │ the same"
    assert "w0,w2 │ only some\n" in shown
    assert re.search(r"^w1 +│ the odd one$", shown, re.MULTILINE)
    assert [re.search(rf"^w{n} +│ number {n}$", shown, re.MULTILINE) is not None for n in range(3)] == [True] * 3


# -- a great deal of output


def test_a_million_printed_lines_arrive_in_order_and_need_no_memory(notebook):
    count = 1_000_000
    worker = psutil.Process(pids(notebook)["w0"])
    kernel = psutil.Process(notebook.pid)
    notebook.run(remote("print('warm')", "--on 0")).ok()
    before = {process: process.memory_info().rss for process in (worker, kernel)}
    peak = dict(before)

    def watch(cell):
        peak.update({process: max(most, process.memory_info().rss) for process, most in peak.items()})
        return cell.idle

    cell = notebook.start(remote(f"for n in range({count}): print(n % 10)", "--on 0"))
    cell.wait_until(lambda cell: len(cell.messages) > 5)
    assert not cell.idle, "it is shown while it runs"
    cell.wait_until(watch, timeout=110)
    assert cell.wait().ok().stdout == "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n" * (count // 10)
    for process, began in before.items():
        assert peak[process] - began < 50e6
    assert notebook.run(remote("1", "--on 0")).ok().value == "1"


SLOW_DISPLAY = """
import psutil, os, sys, znb

class Sink:  # takes everything, and looks at the memory at times
    color = False
    size = peak = 0
    def write(self, stream, text):
        self.size += len(text)
        self.peak = max(self.peak, *(p.memory_info().rss - began for p, began in watched.items()))
    def notice(self, text): pass
    def live(self, lines): pass

with znb.Cluster.start(1) as cluster:
    cluster.run("print('warm')")
    watched = {p: p.memory_info().rss for p in (psutil.Process(), psutil.Process(cluster.workers[0].pid))}
    sink = Sink()
    cluster.run("line = 'x' * 9999\\nfor n in range(20_000): print(line)", sink=sink)
    print(sink.size == 20_000 * 10_000, sink.peak < 60e6, sink.peak)
"""


def test_more_output_than_fits_anywhere_is_held_back_and_nothing_is_lost(world):
    assert run_script(SLOW_DISPLAY, world).startswith("warm\nTrue True")


HELD_BACK = """
import threading, znb, pathlib, sys
seen, go = threading.Event(), threading.Event()

class Sink:  # shows the first piece for as long as it is told to
    color = False
    size = 0
    def write(self, stream, text):
        self.size += len(text)
        seen.set()
        go.wait()
    def notice(self, text): pass
    def live(self, lines): pass

with znb.Cluster.start(1) as cluster:
    sink = Sink()
    future = cluster[0].run_nowait('''
import mmap
with open("counter", "r+b") as file:
    counter = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
line = "x" * 999
for counter[0] in range(1, 100_001): print(line)
''', sink=sink)
    print("held" if seen.wait(60) else future.exception(), flush=True)
    sys.stdin.readline()
    go.set()
    future.result()
    print(sink.size)
"""


def test_a_display_that_stands_still_holds_the_worker_back(world):
    counter = world.home / "counter"
    counter.write_bytes(bytes(8))
    with script(HELD_BACK, world) as running:
        assert running.stdout.readline() == "held\n"

        def printed():
            return int.from_bytes(counter.read_bytes(), "little")

        # it stops when every buffer on the way is full: 100 items of 64 kB on the wire at most, and the queue
        bound = 100 * 65_536 + 16 * 65_536
        seen, since = printed(), time.monotonic()
        while time.monotonic() - since < 0.5:
            if printed() != seen:
                seen, since = printed(), time.monotonic()
            assert seen * 1000 < bound
        running.stdin.write("\n")
        running.stdin.close()
        assert running.stdout.read() == f"{100_000 * 1000}\n"


# -- rich output


def test_figures_are_shown_inline(each_kernel):
    notebook = with_cluster(each_kernel(env={"MPLBACKEND": None}))
    source = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 4])\nplt.title('squares');"
    (figure,) = notebook.run(remote(source, "--on 0")).ok().displays
    assert figure["image/png"].startswith("iVBOR")
    notebook.run("for n in range(2): cluster[n].push(mine=n)").ok()
    different = notebook.run(remote("import matplotlib.pyplot as plt\nplt.plot([mine, 1]);")).ok()
    assert sorted(plain(different).split()) == ["w0", "w1", "│", "│"]
    assert [list(data) for data in different.displays] == [list(figure)] * 2


def test_html_pandas_and_images_are_displayed(notebook):
    source = """
    import pandas as pd
    from IPython.display import HTML, display
    from PIL import Image
    display(HTML("<b>bold</b>"))
    display(pd.DataFrame({"column": [1, 2]}))
    display(Image.new("RGB", (4, 4), "red"))
    """
    bold, frame, image = notebook.run(remote(source, "--on 0")).ok().displays
    assert bold["text/html"] == "<b>bold</b>"
    assert "<th>column</th>" in frame["text/html"]
    assert image["image/png"].startswith("iVBOR")


def test_values_display_as_a_local_cell_s_would(notebook):
    frame = notebook.run(remote("import pandas as pd\npd.DataFrame({'column': [1, 2]})", "--on 0")).ok()
    assert "<th>column</th>" in frame.data["text/html"]
    image = notebook.run(remote("from PIL import Image\nImage.new('RGB', (4, 4), 'red')", "--on 0")).ok()
    assert image.data["image/png"].startswith("iVBOR")
    both = notebook.run(remote("import pandas as pd\npd.DataFrame({'column': [1, 2]})")).ok()
    assert both.data["text/html"].count("<th>column</th>") == 2


def test_displays_can_be_updated_and_cleared(notebook):
    source = """
    from IPython.display import clear_output, display
    print("gone")
    clear_output(wait=True)
    handle = display("old", display_id=True)
    handle.update("new")
    """
    (shown,) = notebook.run(remote(source, "--on 0")).ok().shown
    assert shown["data"]["text/plain"] == "'new'"


def test_clearing_on_several_workers_keeps_the_last_state_of_each(notebook):
    source = """
    import os
    from IPython.display import clear_output
    for step in range(3):
        clear_output(wait=True)
        print(f"step {step} of {os.getpid()}")
    """
    cell = notebook.run(remote(source)).ok()
    for pid in pids(notebook).values():
        assert f"step 2 of {pid}\n" in plain(cell) + notices(cell)


# -- values


def test_the_last_expression_is_the_value(notebook):
    assert notebook.run(remote("x = 20\nx + 1", "--on w1")).ok().value == "21"
    assert notebook.run("_").value == "21"
    two = notebook.run(remote("import os\nos.getpid()")).ok()
    assert literal_eval(two.value) == pids(notebook)
    assert notebook.run("_ == {w.name: w.pid for w in cluster.workers}").value == "True"
    assert notebook.run(remote("y = 1")).ok().value is None


def test_a_value_that_cannot_travel_is_shown_and_stays_there(notebook):
    cell = notebook.run(remote("import threading\nlock = threading.Lock()\nlock", "--on 0")).ok()
    assert "lock" in notices(cell) + (cell.value or "")
    assert "the value stays there" in cell.stderr


# -- everything that a cell may hold


def test_magics_and_shell_commands_work(notebook):
    run = notebook.run
    assert "CPU times" in plain(run(remote("%time 1 + 1", "--on 0")).ok())
    assert "per loop" in plain(run(remote("%timeit -n 1 -r 1 pass", "--on 0")).ok())
    assert run(remote("where = 'here'\n!echo {where} $where", "--on 0")).ok().stdout == "here here\n"
    assert run(remote("found = !echo a; echo b\nlist(found)", "--on 0")).ok().value == "['a', 'b']"
    assert run(remote("%env ZNB_TEST=7\nimport os\nos.environ['ZNB_TEST']", "--on 0")).ok().value == "'7'"
    assert run(remote("%%capture caught\nprint('caught')", "--on 0")).ok().stdout == ""
    assert run(remote("caught.stdout", "--on 0")).ok().value == "'caught\\n'"
    assert run(remote("%%python\nprint('by another python')", "--on 0")).ok().stdout == "by another python\n"
    assert "namespace" not in run(remote("len?", "--on 0")).ok().stderr


def test_await_works(notebook):
    source = """
    import asyncio
    async def double(x):
        await asyncio.sleep(0.01)
        return 2 * x
    await asyncio.gather(double(1), double(2))
    """
    assert notebook.run(remote(source, "--on 0")).ok().value == "[2, 4]"
    assert notebook.run(remote("[x async for x in ag()]", "--on 0")).error.name == "NameError"
    loop = "async def ag():\n    for x in range(3):\n        yield x\n[x async for x in ag()]"
    assert notebook.run(remote(loop, "--on 0")).ok().value == "[0, 1, 2]"
    assert notebook.run(remote("import asyncio\nasyncio.run(double(4))", "--on 0")).ok().value == "8"


def test_decorators_and_classes_of_other_remote_cells_work(notebook):
    first = """
    import functools
    def loud(function):
        @functools.wraps(function)
        def wrapper(*args):
            print("calling", function.__name__)
            return function(*args)
        return wrapper

    class Base:
        def hello(self): return "hello from " + type(self).__name__
    """
    notebook.run(remote(first)).ok()
    cell = notebook.run(remote("@loud\ndef add(a, b):\n    return a + b\nadd(1, 2)", "--on 0")).ok()
    assert (cell.stdout, cell.value) == ("calling add\n", "3")
    assert (
        notebook.run(remote("class Derived(Base): pass\nDerived().hello()", "--on 1")).value == "'hello from Derived'"
    )


def test_text_in_a_cell_arrives_as_written(notebook):
    text = "a {brace} $dollar %percent \\n\n    indented ü 漢 🐙\n\ttab"
    cell = notebook.run(f'%%znb remote --on 0\ntext = """{text}"""\ntext')
    assert cell.ok().value == repr(text.replace("\\n", "\n"))


@pytest.mark.parametrize(
    "source", ["input('name? ')", "import getpass\ngetpass.getpass()", "breakpoint()", "import pdb\npdb.set_trace()"]
)
def test_what_needs_a_keyboard_says_that_there_is_none(notebook, source):
    failed = notebook.run(remote(source))
    assert failed.error.name == "StdinNotImplementedError"
    assert failed.error.plain.count("a remote cell has no keyboard") == 1, "the same error of both is shown once"
    assert notebook.run(remote("1", "--on 0")).ok().value == "1"


# -- errors


def test_an_error_fails_the_cell_after_the_other_workers_are_done(notebook):
    notebook.run("fails = True\n%znb push fails --on 0\nfails = False\n%znb push fails --on 1").ok()
    source = """
    if fails:
        open("failing", "w").close()
        raise ValueError("early")
    wait_for("failing")
    print("waiting")
    wait_for("other")
    print("done")
    """
    cell = notebook.start(remote(source))
    cell.wait_until(lambda cell: "waiting" in plain(cell))
    assert not cell.idle
    assert cell.error is None
    open_gate(notebook, "other")
    cell.wait()
    assert cell.error.name == "ValueError"
    assert lines_of(cell, "w1") == ["waiting", "done"]
    kinds = [m.kind for m in cell.outputs]
    assert kinds.index("stream") < kinds.index("error")


def test_an_error_stops_run_all(notebook):
    failing = notebook.start(remote("wait_for('behind')\n1 / 0"), stop_on_error=True)
    behind = notebook.start("went_on = True", stop_on_error=True)
    failing.wait_until(lambda cell: cell.busy)
    open_gate(notebook, "behind")
    assert failing.wait().error.name == "ZeroDivisionError"
    assert behind.wait().reply["status"] == "aborted"
    assert notebook.run("went_on").error.name == "NameError"


def test_an_error_is_shown_once_with_worker_and_own_source_lines(notebook):
    source = """
    def divide(a, b):
        quotient = a / b
        return quotient

    divide(1, 0)
    """
    failed = notebook.run(remote(source))
    shown = failed.error.plain
    number = failed.reply["execution_count"]
    assert failed.error.name == "ZeroDivisionError"
    assert shown.count("ZeroDivisionError: division by zero") == 1
    assert f"on w0 (" in shown  # noqa: F541
    assert "the same on w1" in shown
    assert f"In[{number}]" in shown
    assert "----> 6 divide(1, 0)" in shown
    assert "----> 3     quotient = a / b" in shown


def test_an_error_shows_the_remote_frames_only(notebook):
    shown = notebook.run(remote("import json\njson.loads('{')")).error.plain
    assert "json/decoder.py" in shown, "the user's frames, those of libraries included"
    for ours in ("znb/", "/IPython/", "run_cell_magic", "zygote", "runner.py"):
        assert ours not in shown


def test_a_function_of_an_earlier_remote_cell_has_its_own_lines_and_cell(notebook):
    defined = notebook.run("%%znb remote\n# a comment\ndef fails():\n    return {}['no key']").ok()
    shown = notebook.run("%%znb remote\n\nfails()").error.plain
    assert f"In[{defined.reply['execution_count']}]" in shown
    assert "----> 4     return {}['no key']" in shown
    assert "----> 3 fails()" in shown


def test_distinct_errors_are_each_shown_once(notebook):
    notebook.run("%znb cluster scale 3").ok()
    for number in range(3):
        notebook.run(f"cluster[{number}].push(mine={number})").ok()
    failed = notebook.run(remote("int('x') if mine == 1 else {}['key']"))
    notebook.run("%znb cluster scale 2").ok()
    assert failed.error.name == "ExceptionGroup"
    assert failed.error.plain.count("KeyError: 'key'") == 1
    assert failed.error.plain.count("invalid literal for int()") == 1
    assert "the same on w2" in failed.error.plain


def test_a_remote_error_is_caught_by_its_own_type(notebook):
    caught = notebook.run(
        """
        try:
            cluster.run("int('x')")
        except ValueError as error:
            print(type(error).__name__, error.znb_origin.worker)
        """
    ).ok()
    assert caught.stdout == "ValueError w0\n"


def test_a_chained_error_shows_both(notebook):
    source = "try:\n    {}['key']\nexcept KeyError as error:\n    raise RuntimeError('outer') from error"
    shown = notebook.run(remote(source, "--on 0")).error.plain
    assert "KeyError: 'key'" in shown
    assert "RuntimeError: outer" in shown
    assert "direct cause" in shown


def test_a_syntax_error_shows_its_line(notebook):
    failed = notebook.run(remote("x = 1\nif x = 2:\n    pass"))
    assert failed.error.name == "SyntaxError"
    assert "if x = 2:" in failed.error.plain
    assert re.search(r"In\[\d+\]>?:3", failed.error.plain)
    assert "znb/" not in failed.error.plain
    assert notebook.run(remote("'x' in dir()", "--on 0")).ok().value


@pytest.mark.parametrize("source", ["raise SystemExit(3)", "import sys\nsys.exit(3)", "exit()", "quit()"])
def test_system_exit_is_reported_and_ends_no_worker(notebook, source):
    before = pids(notebook)
    failed = notebook.run(remote(source))
    assert "SystemExit" in failed.error.plain
    assert pids(notebook) == before
    assert notebook.run(remote("1")).ok().value == "{'w0': 1, 'w1': 1}"


def test_what_was_printed_before_an_error_is_shown_before_it(notebook):
    failed = notebook.run(remote("print('before')\n1 / 0"))
    assert [m.kind for m in failed.outputs if m.kind in {"stream", "error"}] == ["stream", "error"]
    assert plain(failed) == "all │ before\n"


def test_two_threads_of_a_notebook_run_cells_at_once(notebook):
    notebook.run(
        """
        import concurrent.futures
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda n: cluster[n % 2].run(f"{n} * 2"), range(40)))
        """
    ).ok()
    assert notebook.run("results == [2 * n for n in range(40)]").value == "True"


def test_a_thousand_cells_leave_nothing_behind(notebook):
    source = "for n in range({0}): cluster[0].run(f'x = {{n}}')"
    notebook.run(source.format(200)).ok()
    processes = [psutil.Process(notebook.pid), psutil.Process(pids(notebook)["w0"])]
    before = [held(process) for process in processes]
    notebook.run(source.format(1000)).ok()
    # Those that come and go, such as the thread by which IPython writes its history, may have counted before.
    wait_until(
        lambda: all(
            now <= then
            for process, held_before in zip(processes, before, strict=True)
            for now, then in zip(held(process), held_before, strict=True)
        ),
        f"no more threads and open files than {before}",
    )


def held(process):
    return process.num_threads(), held_files(process)


def held_files(process):
    """Return how many descriptors a process has, without those by which IPython writes its history now and then."""
    count = 0
    for descriptor in os.listdir(f"/proc/{process.pid}/fd"):
        with contextlib.suppress(OSError):
            count += "profile_default" not in os.readlink(f"/proc/{process.pid}/fd/{descriptor}")
    return count
