"""``%znb trace`` and ``%%znb trace`` in a real kernel, and ``znb trace`` in a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

import znb
from kernels import Kernel
from znb.cli.commands import CommandTable
from znb.cli.main import COMMANDS, run
from znb.spans import RECORDER
from znb.tracing import TRACES


@pytest.fixture(scope="module")
def kernel(module_world):
    with Kernel(module_world.home / "k") as kernel:
        kernel.run("%load_ext znb\nimport znb")
        kernel.run("%znb cluster start 2")
        kernel.run("def double(x):\n    import znb\n    with znb.span('doubling'):\n        return 2 * x")
        yield kernel
        kernel.run("%unload_ext znb")


def picture(cell):
    """Return the text and the SVG of a trace that a cell shows."""
    kinds = {"display_data", "update_display_data", "execute_result"}
    shown = [m.content["data"] for m in cell.messages if m.kind in kinds]
    data = [data for data in shown if "image/svg+xml" in data][-1]
    return data["text/plain"], data["image/svg+xml"]


def listed(kernel):
    """Return the rows of ``%znb trace list``, as lists of words."""
    return [line.split() for line in kernel.run("%znb trace list").stdout.splitlines()[1:]]


def test_a_cell_that_does_something_remote_is_a_trace_and_no_other_is(kernel):
    before = len(listed(kernel))
    kernel.run("1 + 1")
    kernel.run("import znb\nwith znb.span('local only'):\n    pass")
    label = f"In[{kernel.run('cluster.submit(double, 4).result()').reply['execution_count']}]"
    rows = listed(kernel)[before:]
    assert [row[-1] for row in rows] == [f"In[{int(label[3:-1]) - 1}]", label]
    text, svg = picture(kernel.run("%znb trace last"))
    for word in (label, "double", "doubling"):
        assert word in text
        assert word in svg


def test_a_traced_cell_runs_as_it_would_without_the_line(kernel):
    cell = kernel.run(
        "%%znb trace twice over\nimport asyncio\nawait asyncio.sleep(0)\nvalues = list(cluster.map(double, range(3)))\nvalues"
    )
    assert cell.value == "[0, 2, 4]"
    text, svg = picture(cell)
    assert text.startswith("twice over")
    assert "doubling" in svg
    assert listed(kernel)[-1][-2:] == ["twice", "over"]


def test_a_traced_cell_that_fails_shows_its_trace_too_and_fails_once(kernel):
    cell = kernel.start("%%znb trace\ncluster.submit(int, 'x').result()").wait()
    assert cell.error.name == "ValueError"
    assert sum(m.kind == "error" for m in cell.messages) == 1
    assert "invalid literal" in picture(cell)[0]
    assert kernel.run("1 + 1").value == "2"


def test_below_another_cell_magic_a_cell_is_traced_too(kernel):
    cell = kernel.run("%%time\n%%znb trace timed\nresult = cluster.submit(double, 1).result()")
    assert picture(cell)[0].startswith("timed")
    assert kernel.run("result").value == "2"


def test_a_remote_cell_is_traced(kernel):
    cell = kernel.run(
        "%%znb trace above\n\n%%znb remote --on 0\nimport znb\nwith znb.span('down there'):\n    found = 6 * 7\nfound"
    )
    text, _ = picture(cell)
    assert text.startswith("above")
    assert "down there" in text
    assert any("42" in str(m.content) for m in cell.messages)


def test_threads_that_a_cell_starts_belong_to_it(kernel):
    kernel.run(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with znb.trace('threads') as t, ThreadPoolExecutor(2) as pool:\n"
        "    list(pool.map(lambda n: cluster.submit(double, n).result(), range(3)))"
    )
    assert kernel.run("len(t.find('doubling'))").value == "3"


def test_spans_of_remote_cells_and_interrupted_ones(kernel):
    kernel.run("%%znb trace remote cell\ncluster.run('x = 5')")
    text, _ = picture(kernel.run("%znb trace last"))
    assert "[serve] ×2" in text


def test_tracebacks_name_cells_and_hops_as_people_know_them(kernel):
    kernel.run("def inner(x):\n    return 1 / (x - 4)\n\ndef outer(x):\n    return inner(x)")
    defined = kernel.run("1").reply["execution_count"] - 1
    cell = kernel.start("cluster.submit(outer, 4).result()").wait()
    number = cell.reply["execution_count"]
    text, _ = picture(kernel.run("%znb trace last"))
    shown = [line.strip() for line in text.splitlines()]
    for line in (
        f'File "Cell In[{number}]", line 1, in <module>',
        f'File "Cell In[{defined}]", line 5, in outer',
        "return inner(x)",
        f'File "Cell In[{defined}]", line 2, in inner',
        "return 1 / (x - 4)",
    ):
        assert line in shown
    assert any(line.startswith("── on w") for line in shown)
    for word in ("ipykernel", "interactiveshell", "in remote"):
        assert word not in text
    kernel.run("from znb.widgets.explorer import _source")
    source = kernel.run(f"_source({{'file': 'Cell In[{defined}]', 'line': 2}})['lines'][1]")
    assert source.value == "'    return 1 / (x - 4)'"
    kernel.run("import znb\nlast = list(znb.tracing.TRACES)[-1]\nlast.save('told.html')")
    assert kernel.run("'return 1 / (x - 4)' in open('told.html').read().partition('\"sources\"')[2]").value == "True"
    assert kernel.run(f"'Cell In[{defined}]' in str(last.errors()[0].traceback)").value == "True"


def test_a_cell_that_fails_ends_when_its_code_does(kernel):
    kernel.start("import time\ncluster.submit(double, 'x' * 10).result()\nbegan = time.time_ns()\n1 / 0").wait()
    kernel.run("import znb\nspan = list(znb.tracing.TRACES)[-1].spans[0]")
    assert kernel.run("span.status, span.end_ns - began < 5_000_000").value == "('error', True)"


INTERRUPTED = """
import os, signal, threading
import znb

class Sly:
    def __enter__(self):
        znb.span("left").__enter__()
        znb.span("behind").__enter__()
    def __exit__(self, *_):
        return False

with Sly():
    raise KeyboardInterrupt
"""


def test_a_cell_leaves_nothing_behind_that_others_would_belong_to(kernel):
    assert kernel.start(INTERRUPTED).wait().error.name == "KeyboardInterrupt"
    kernel.run("with znb.trace('probe') as t:\n    pass")
    assert kernel.run("[span.kind for span in znb.trace.last().spans]").value == "['cell', 'trace']"
    kernel.start("%%znb trace watched\n" + INTERRUPTED).wait()
    kernel.run("with znb.trace('probe') as t:\n    pass")
    assert kernel.run("[span.kind for span in znb.trace.last().spans]").value == "['cell', 'trace']"
    assert kernel.run("znb.spans.RECORDER.live").value == "0"


def test_a_trace_is_saved_by_its_suffix(kernel, world):
    kernel.run("%%znb trace to be saved\ncluster.submit(double, 1).result()")
    said = kernel.run(f"%znb trace --save {world.home}/t.json").stdout
    assert "Saved 'to be saved'" in said
    assert json.loads((world.home / "t.json").read_text())["traceEvents"]
    identifier = listed(kernel)[-1][0]
    kernel.run(f"%znb trace {identifier} --save {world.home}/t.speedscope.json")
    assert json.loads((world.home / "t.speedscope.json").read_text())["profiles"]


def test_runs_of_one_line_in_two_cells_are_compared(kernel):
    for name in "ab":
        kernel.run(f"import znb\nwith znb.trace('{name}') as {name}:\n    cluster.submit(double, 4).result()")
    assert kernel.run("all(change.before and change.after for change in a.diff(b))").value == "True"
    shown = kernel.run("a.diff(b)").value
    assert shown.splitlines()[0].split() == ["call", "path", "before", "after", "difference"]
    assert "(whole) → double → double → doubling" in shown


def test_what_is_cancelled_or_takes_too_long_is_told_where_it_ran(kernel):
    kernel.run("import threading, time\nbegun = threading.Event()\nf = cluster.submit(time.sleep, 60)")
    kernel.run("while f.worker is None or not f.running() or not f.trace.find('sleep'): time.sleep(0.01)")
    kernel.run("f.cancel()\nwhile not f.trace.find('sleep')[-1].end_ns: time.sleep(0.01)")
    told = kernel.run("job = f.trace.find('sleep')[-1]\njob.kind, job.status, job.events[0].name").value
    assert told == "('job', 'cancelled', 'interrupt')"
    assert "cancelled" in kernel.run("print(f.trace)").stdout
    kernel.start("list(cluster.map(time.sleep, [60], job_timeout=0.2))").wait()
    kernel.run("late = znb.trace.last()\nwhile len(late.spans) < 3: time.sleep(0.01)")
    told = kernel.run("[(s.kind, s.status) for s in late.find('sleep')], late.find('sleep')[-1].events[0].name").value
    assert told == "([('map', 'error'), ('job', 'cancelled')], 'interrupt')"
    assert kernel.run("len(late.errors())").value == "1"


def test_the_latest_traces_by_name_in_a_cell(kernel):
    kernel.run("%%znb trace shown by name\ncluster.submit(double, 1).result()")
    assert kernel.run("znb.trace.last().title").value == "'shown by name'"
    assert "shown by name" in kernel.run("znb.trace.list()").value


def test_switched_off_cells_leave_no_trace(kernel):
    assert "off" in kernel.run("%znb trace off").stdout
    before = listed(kernel)
    kernel.run("cluster.submit(double, 1).result()")
    assert listed(kernel) == before
    assert "on" in kernel.run("%znb trace on").stdout
    kernel.run("cluster.submit(double, 1).result()")
    assert len(listed(kernel)) == len(before) + 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%znb trace nonsense", "expected the id of one trace, got 'nonsense'"),
        ("%znb trace --save x.nope", "a trace is saved by its suffix"),
        ("%znb trace list --save x.json", "--save goes with one trace"),
        ("%znb trace on --save x.json", "--save goes with a trace, not with on"),
        ("%znb trace --save /nowhere/x.json", "/nowhere/x.json cannot be written: there is no such folder: /nowhere"),
        ("%%znb trace --nonsense\n1", "unknown option --nonsense"),
    ],
)
def test_what_is_wrong_is_said(kernel, line, said):
    kernel.run("cluster.submit(double, 1).result()")
    cell = kernel.start(line).wait()
    assert cell.reply["status"] == "error"
    assert said in cell.stderr


def test_help_of_a_traced_cell_runs_nothing(kernel):
    cell = kernel.run("%%znb trace --help\nhelped = 1")
    assert "usage: %%znb trace [TITLE…]" in cell.stdout
    assert kernel.run("'helped' in dir()").value == "False"


# -- in a shell


def command(*words):
    return run(list(words), CommandTable("znb", COMMANDS))


def test_a_saved_trace_is_shown_and_converted(world, capsys):
    with znb.trace("kept") as t, znb.span("inside"):
        pass
    TRACES.sampler.rest()
    file = t.save(world.home / "kept.json")
    assert command("trace", str(file)) == 0
    assert "inside" in capsys.readouterr().out
    assert command("trace", str(file), "--save", str(world.home / "kept.otlp.json")) == 0
    assert command("trace", str(world.home / "kept.otlp.json")) == 0
    assert "inside" in capsys.readouterr().out
    assert RECORDER.live == 0


def test_each_trace_of_a_file_is_shown_and_one_can_be_chosen(world, capsys):
    times = {"startTimeUnixNano": "5", "endTimeUnixNano": "9"}
    spans = [{"traceId": two * 16, "spanId": two * 8, "name": f"span {two}", **times} for two in ("aa", "bb")]
    file = world.home / "two.otlp.json"
    file.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}))
    assert command("trace", str(file)) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 traces:")
    assert said.count("└─ span aa") == said.count("└─ span bb") == 1
    assert command("trace", str(file), "--id", "aaaa", "--save", str(world.home / "one.json")) == 0
    assert "Saved 'span aa'" in capsys.readouterr().out
    assert command("trace", str(file), "--id", "cc") == 2
    assert "expected the id of one trace, got 'cc'" in capsys.readouterr().err


def test_what_is_no_trace_is_said_with_the_status_of_wrong_usage(world, capsys):
    (world.home / "cut.json").write_text('{"traceEvents": [')
    assert command("trace", str(world.home / "cut.json")) == 2
    assert "cut off" in capsys.readouterr().err
    assert command("trace", str(world.home / "missing.json")) == 2
    assert "expected a file, or a URL" in capsys.readouterr().err
    assert command("trace", "tcp://127.0.0.1:1") == 3


SERVICE = """
import sys, znb.rpc
service = znb.rpc.serve({"shout": lambda text: text.upper()}, name="shouter", bind=sys.argv[1], insecure=sys.argv[2] == "open")
print(service.address, flush=True)
sys.stdin.read()
service.close()
"""


@pytest.mark.parametrize(("bind", "kind"), [("tcp://127.0.0.1:*", "local"), ("tcp://0.0.0.0:*", "open")])
def test_the_traces_of_a_service(world, capsys, bind, kind):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, bind, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        url = process.stdout.readline().strip().replace("0.0.0.0", "127.0.0.1")
        with znb.connect(url) as svc:
            assert svc.shout("a") == "A"
        status = command("trace", url)
        said = capsys.readouterr()
        if kind == "local":
            assert status == 0
            assert "shouter.shout" in said.out
            assert command("trace", "shouter") == 0
            assert "shouter.shout" in capsys.readouterr().out
            assert command("trace", "shooter") == 2
            assert "Did you mean 'shouter'?" in capsys.readouterr().err
        else:  # whoever can reach it could read what others ask of it
            assert status == 4
            assert "has no keys" in said.err
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def test_the_traces_of_what_runs_are_found_by_name(kernel, module_world, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("ZNB_RUNTIME_DIR", str(module_world.runtime))
    kernel.run("import znb\nkept = znb.expose({'shout': lambda text: text.upper()}, name='shouter')")
    kernel.run("cluster.submit(double, 1).result()")
    with znb.connect("shouter") as svc:
        assert svc.shout("a") == "A"
    assert command("trace", "shouter") == 0
    assert "shouter.shout" in capsys.readouterr().out
    assert command("trace", "default") == 0
    assert "double" in capsys.readouterr().out
    files = [str(tmp_path / name) for name in ("a.html", "a.json")]
    assert command("trace", "local", "--save", files[0], "--save", files[1]) == 0
    assert len({znb.Trace.load(file).title for file in files}) == 1
    assert "Saved ''" not in capsys.readouterr().out
    assert command("trace", "nobody") == 2
    said = capsys.readouterr().err
    assert "no file, service or cluster 'nobody' here" in said
    assert "services: shouter; clusters: default" in said
    kernel.run("znb.unexpose('shouter')")


def test_traces_of_several_clusters_are_each_shown_once(world):
    with znb.Cluster.start(1, name="one") as one, znb.Cluster.start(1, name="other") as other:
        assert [cluster.submit(abs, -1).result() for cluster in (one, other)] == [1, 1]
        command_line = [sys.executable, "-m", "znb", "trace", "local"]
        done = subprocess.run(command_line, capture_output=True, text=True, check=True)
    assert done.stdout.count("abs · ") == 1  # both workers are w0, and both jobs are of this process's trace


def test_a_cluster_that_ends_as_all_are_asked_is_only_mentioned(world, monkeypatch, capsys):
    entry = SimpleNamespace(name="ended", state="alive")
    monkeypatch.setattr("znb.cli.traces.list_clusters", lambda: [entry])
    assert command("trace", "local") == 0
    assert "znb: ended: there is no cluster" in capsys.readouterr().err
    assert command("trace", "ended") != 0


TERMINAL = """
%load_ext znb
%znb cluster start 1
def inner(x):
    return 1 / (x - 4)

def outer(x):
    return inner(x)

cluster.submit(outer, 4).result()
%debug
where
p x
up
q
%pdb on
cluster.submit(outer, 4).result()
print("here", 6 * 7)
q
"""


def test_debug_goes_through_the_remote_frames_and_says_what_it_cannot_do(world):
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor"],
        input=TERMINAL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "their variables stayed there" in done.stdout
    walked = done.stdout.partition("their variables stayed there")[2]
    assert "futures.py" not in walked
    assert "<x stayed on w0 (host " in walked
    assert "workers started with --env ZNB_TRACE_LOCALS=1 send its text along>" in walked
    assert "here 42" in walked
    for line in ("inner()", "----> 2     return 1 / (x - 4)", "outer()", "cluster.submit(outer, 4).result()"):
        assert line in walked
