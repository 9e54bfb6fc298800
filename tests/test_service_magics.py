"""``%znb services``, ``%znb call`` and ``%%znb expose``, and ``@znb.expose`` in notebooks, in real kernels."""

import re

import pytest

from notebooks import without_colours
from test_magics import refused
from znb.magics.services import notebook_name, split_method

CELL = """
%%znb expose maths
import dataclasses

class Counter:
    "Counts."
    def __init__(self):
        self.count = 0
    def up(self, by: int = 1):
        self.count += by
        return self.count

@dataclasses.dataclass
class Point:
    x: int
    def norm(self):
        return abs(self.x)

class Oops(Exception):
    pass

def add(a: int, b: int = 1) -> int:
    "Sum of two numbers."
    return a + b

def count(n):
    yield from range(n)

def fail():
    raise Oops("mine")

def _hidden():
    pass

add(20)
"""


@pytest.fixture(scope="module")
def notebook(shared_kernel):
    """A kernel that exposes ``maths``."""
    shared_kernel.run("%load_ext znb\nimport znb").ok()
    shared_kernel.run(CELL).ok()
    return shared_kernel


# -- without a kernel


class Namespace:
    def __init__(self, **namespace):
        self.namespace = namespace


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/me/Sales of 2024.ipynb", "Sales-of-2024"), ("a/b/c.ipynb", "c"), ("", "notebook"), (".ipynb", "notebook"),
        ("ünicode.ipynb", "nicode"), ("x" * 60 + ".ipynb", "x" * 40),
    ],
)  # fmt: skip
def test_the_default_name_is_the_notebook_s(path, name, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", path)
    assert notebook_name(Namespace()) == name
    assert notebook_name(Namespace(__vsc_ipynb_file__="/x/code.ipynb")) == "code"


def test_a_service_s_name_may_have_dots(runtime_dir):
    assert split_method("a.b.c", ["1"]) == ("a", "b.c", ["1"])
    assert split_method("tcp://h:1", ["m", "1"]) == ("tcp://h:1", "m", ["1"])
    assert split_method("tcp://h:1", []) == ("tcp://h:1", "", [])


# -- expose


def test_a_cell_is_run_and_its_definitions_are_a_service(notebook):
    cell = notebook.run(CELL).ok()
    assert cell.value == "21"
    assert cell.stdout == (
        "Service 'maths': Counter.{up}, add(a: int, b: int = 1) -> int, count(n), fail()\n"
        "Point is left out: it cannot be made without arguments (missing a required argument: 'x')\n"
        'Call it: %znb call maths.METHOD ARG…, or znb.connect("maths")\n'
    )
    assert notebook.run("sorted(znb.connect('maths')._znb_description.methods)").value == (
        "['Counter.up', 'add', 'count', 'fail']"
    )


def test_running_it_again_replaces_it_under_its_callers(notebook):
    notebook.run("svc = znb.connect('maths')").ok()
    notebook.run("%%znb expose maths2\ndef version():\n    return 1").ok()
    notebook.run("held = znb.connect('maths2')\nurl = str(held)").ok()
    assert notebook.run("held.version()").value == "1"
    notebook.run("%%znb expose maths2\ndef version():\n    return 2\ndef more():\n    return 3").ok()
    assert notebook.run("held.version(), held.more()").value == "(2, 3)"
    assert notebook.run("len([s for s in __import__('znb').rpc.list_services() if s.name == 'maths2'])").value == "1"
    notebook.run("held.close(); znb.unexpose('maths2')").ok()


def test_the_cell_is_as_any_other(notebook):
    cell = notebook.run("%%znb expose odd\n!echo hello\n%time 1\ndef f():\n    '''a\n    b'''\n    return 1\nf();").ok()
    assert "hello" in cell.stdout
    assert "Wall time" in cell.stdout
    assert cell.value is None
    assert notebook.run("f.__doc__").value == r"'a\n    b'"
    notebook.run("znb.unexpose('odd')").ok()


@pytest.mark.parametrize("source", ["def f():\n    return 1 / 0\nf()", "def f():\n    pass\n\n1 / 0"])
def test_an_error_shows_the_cell_s_own_lines_and_exposes_nothing(notebook, source):
    error = notebook.run(f"%%znb expose broken\n{source}").error
    assert error.name == "ZeroDivisionError"
    assert "1 / 0" in error.plain
    assert f"----> {source.count(chr(10)) + 2} " in error.plain
    assert "run_cell_magic" not in error.plain
    assert "localcell" not in error.plain
    number = int(notebook.run("len(In) - 2").value)
    assert f"In[{number}], line " in error.plain.replace("In [", "In[")
    assert notebook.run("znb.connect('broken')").error.name == "ServiceUnavailable"


def test_a_syntax_error_shows_its_line(notebook):
    error = notebook.run("%%znb expose broken\nx = 1\ndef f(:\n    pass").error
    assert error.name == "SyntaxError"
    assert "line 3\n    def f(:" in error.plain
    assert "run_cell_magic" not in error.plain


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%%znb expose nothing\nx = 1", "nothing to expose: this cell defines no public function or class"),
        ("%%znb expose nothing\nclass A:\n    def __init__(self, x): pass\n    def m(self): pass",
         "nothing to expose: this cell defines no public function or class: A is left out: it cannot be made"),
        ("%%znb expose a/b\ndef f(): pass", "NAME: 'a/b' cannot name a service: expected 1 to 40 letters"),
        ("%%znb expose --bind x\ndef f(): pass", "--bind: expected an address such as tcp://127.0.0.1:4242"),
        ("%%znb expose --no all\ndef f(): pass", "unknown option --no; did you mean --on?"),
        ("%%znb expose x --on all\ndef f(): pass", "this notebook has no cluster; start one"),
        ("%%znb expose x\ndef f(): pass\nimport asyncio\nawait asyncio.sleep(0)", "this cell awaits outside of functions"),
        ("%znb call", "missing: SERVICE.METHOD\n"),
        ("%znb cluster stat", "there is no %znb cluster stat; did you mean %znb cluster status?"),
        ("%znb call maths.ad 1", "maths has no method 'ad'; did you mean 'add'?"),
        ("%znb call maths.add", "add(a: int, b: int = 1) -> int: missing a required argument: 'a'"),
        ("%znb call maths.add [1, 2]", "[1, begins a list that does not end"),
        ("%znb call maths add 1", "which method of maths? It is written maths.METHOD"),
        ("%znb call maths.add 1 --kw b", "--kw: expected NAME=VALUE"),
        ("%znb service", "there is no %znb service; did you mean %znb services?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_and_does_nothing(notebook, cell, said):
    before = notebook.run("%znb services").ok().stdout
    assert refused(notebook.run(cell)).startswith(said)
    assert notebook.run("%znb services").ok().stdout == before


def test_a_door_to_other_machines_is_looked_at_before_the_cell_runs(notebook):
    error = notebook.run("%%znb expose x --bind tcp://0.0.0.0:0\nran = True\ndef f(): return 1").error
    assert error.name == "AuthError"
    assert "Give --keys FILE" in error.message
    assert "or say --insecure" in error.message
    assert notebook.run("'ran' in globals()").value == "False"
    said = notebook.run("%%znb expose x --bind tcp://127.0.0.1:0 --keys x.keys\ndef f(): return 1").ok().stdout
    address = re.search(r"Service 'x' at (tcp://127\.0\.0\.1:[1-9]\d*#[0-9a-f]{64}): f\(\)", said)[1]
    assert notebook.run(f"with znb.connect('{address}') as x: print(x.f())").ok().stdout == "1\n"
    cell = notebook.run("%%znb expose x --bind tcp://0.0.0.0:0 --insecure\ndef f(): return 2").ok()
    assert "insecure: whoever can reach tcp://0.0.0.0:0 may call this" in cell.stderr
    assert notebook.run("with znb.connect('x') as x: print(x.f())").ok().stdout == "2\n"
    notebook.run("znb.unexpose('x')").ok()


# -- call and services


def test_services_lists_signatures_and_docs(notebook):
    shown = notebook.run("%znb services").ok().stdout.splitlines()
    assert shown[0].startswith("maths  ipc://")
    assert shown[1:] == [
        "  Counter.up(by: int = 1)",
        "  add(a: int, b: int = 1) -> int  Sum of two numbers.",
        "  count(n) → items",
        "  fail()",
    ]


def test_call(notebook):
    assert notebook.run("%znb call maths.add 1 --kw b=5").ok().value == "6"
    notebook.run(CELL).ok()
    assert notebook.run("y = 7\nx = %znb call maths.Counter.up {y}\nx").ok().value == "7"
    assert notebook.run("%znb call maths.count 3").ok().stdout == "0\n1\n2\n"
    assert "add(a: int, b: int = 1) -> int  Sum of two numbers." in notebook.run("%znb call maths").ok().stdout
    url = notebook.run("print(znb.rpc.find_service('maths')[0].url)").ok().stdout.strip()
    assert notebook.run(f"%znb call {url} add -1.5").ok().value == "-0.5"


def test_errors_of_a_call_are_the_method_s(notebook):
    error = notebook.run("%znb call maths.fail").error
    assert (error.name, error.message) == ("Oops", "mine")
    assert 'raise Oops("mine")' in error.plain
    assert "on maths (" in error.plain
    assert notebook.run("%znb call nobody.x").error.name == "ServiceUnavailable"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("%znb call mat", ["maths.Counter.up", "maths.add", "maths.count", "maths.fail"]),
        ("%znb call maths.a", ["maths.add"]),
        ("%znb serv", ["services"]),
        ("%%znb exp", ["expose"]),
        ("%%znb expose x --", ["--help", "--bind", "--on", "--keys", "--insecure"]),
    ],
)
def test_tab(notebook, typed, offered):
    assert notebook.complete(typed) == offered


def test_a_proxy_in_a_notebook(notebook):
    notebook.run("svc = znb.connect('maths')").ok()
    assert {"svc.add", "svc.count", "svc.Counter"} <= {f"svc.{name}" for name in notebook.complete("svc.")} | set(
        notebook.complete("svc.")
    )
    shown = notebook.inspect("svc.add")
    assert "(a: int, b: int = 1) -> int" in shown
    assert "Sum of two numbers." in shown
    assert "return a + b" in notebook.inspect("svc.add", detail_level=1)
    assert "<code>add(a: int, b: int = 1) -&gt; int</code>" in notebook.run("svc").ok().data["text/html"]
    assert notebook.run("[i async for i in svc.count(3)], await svc.add.future(1)").ok().value == "([0, 1, 2], 2)"
    error = notebook.run("svc.ad").error
    assert error.message == "maths has no method 'ad'; did you mean 'add'?"
    assert "proxy.py" not in without_colours(error.traceback)


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        ("svc.nap(60)", "KeyboardInterrupt"),
        ("await svc.nap.future(60)", "CancelledError"),
        ("async for _ in svc.naps(60): pass", "CancelledError"),
    ],
)
def test_an_interrupted_wait_ends_at_once_and_shows_the_cell_alone(notebook, wait, name):
    notebook.run(
        "%%znb expose sleeper\nimport os, signal, threading\n"
        "begun, ended = threading.Semaphore(0), threading.Semaphore(0)\ndef nap(seconds):\n"
        "    begun.release()\n    until = threading.Event()\n"
        "    try:\n        for _ in range(seconds * 100): until.wait(0.01)\n"
        "    finally:\n        ended.release()\ndef naps(seconds):\n    yield nap(seconds)\n"
        "def press():\n    begun.acquire()\n    os.kill(os.getpid(), signal.SIGINT)"
    ).ok()
    notebook.run("svc = znb.connect('sleeper')\nthreading.Thread(target=press).start()").ok()
    cell = notebook.run(wait)
    assert cell.error.name == name
    assert wait in cell.error.plain
    assert "File " not in cell.error.plain
    notebook.run("assert ended.acquire(timeout=20)").ok()
    notebook.run("svc.close(); znb.unexpose('sleeper')").ok()


# -- on workers


def test_replicas_on_workers(kernel):
    notebook = kernel()
    notebook.run("%load_ext znb\n%znb cluster start 2\nimport znb").ok()
    source = "import os\nclass Place:\n    def __init__(self):\n        self.pid = os.getpid()\n    def made(self):\n        return self.pid == os.getpid()\ndef pid():\n    return os.getpid()"
    said = notebook.run(f"%%znb expose far --on all\n{source}").ok().stdout
    assert said.startswith("Service 'far' on w0, w1: Place.{made}, pid()\n")
    notebook.run("svc = znb.connect('far')\npids = {w.pid for w in cluster.workers}").ok()
    assert notebook.run("{svc.pid() for _ in range(20)} == pids, svc.Place.made()").ok().value == "(True, True)"
    assert "far  2 replicas: pid " in notebook.run("%znb services").ok().stdout

    notebook.run("@znb.expose(on='w1')\ndef one():\n    import os\n    return os.getpid()").ok()
    assert notebook.run("znb.connect('one').one() == cluster.workers[1].pid").ok().value == "True"
    # A third worker joins, and has it as well: the three replicas are one service, also when it is exposed anew.
    notebook.run("%znb cluster scale 3").ok()
    notebook.run("while len(znb.rpc.find_service('far')) < 3: pass").ok()
    assert notebook.run("len(znb.rpc.find_service('one'))").ok().value == "1"
    notebook.run(f"%%znb expose far --on all\n{source}").ok()
    assert (
        notebook.run("len({znb.connect('far').pid() for _ in range(1)}), len(znb.rpc.find_service('far'))").value
        == "(1, 3)"
    )
    # One dies, and the others answer until the process that replaces it does too. (A call that is sent in that very
    # moment may have run, so it is not repeated.)
    notebook.run("import os, signal\nfirst = cluster.workers[0].pid\nos.kill(first, signal.SIGKILL)").ok()
    notebook.run(
        "while cluster.workers[0].pid == first: pass\ntry: svc.pid()\nexcept znb.ServiceUnavailable: pass"
    ).ok()
    assert notebook.run("first in {svc.pid() for _ in range(20)}").ok().value == "False"
    again = "{w.pid for w in cluster.workers} == {e.pid for e in znb.rpc.list_services() if e.name == 'far'}"
    notebook.run(f"while not {again}: pass").ok()
    notebook.run("%znb cluster restart").ok()
    notebook.run(f"while not {again}: pass").ok()
    assert notebook.run("znb.connect('far').Place.made()").ok().value == "True"

    # A job calls it through the notebook's proxy, and a method of it.
    assert notebook.run("cluster.submit(lambda: svc.Place.made()).result()").ok().value == "True"
    assert notebook.run("cluster.submit(svc.Place.made).result()").ok().value == "True"

    # One that cannot come back is told of.
    notebook.run(
        "%%znb expose once --on w0\nimport os\nclass Once:\n    def __init__(self): os.mkdir('once')\n"
        "    def m(self): pass"
    ).ok()
    heard = notebook.folder / "heard"
    cell = notebook.start(f"%znb cluster restart w0\nwhile not os.path.exists({str(heard)!r}): pass")
    cell.wait_until(lambda cell: "once could not be exposed on w0: FileExistsError: " in cell.stderr)
    heard.touch()
    cell.wait().ok()

    assert "no worker 'w7'; there are w0, w1, w2" in notebook.run("znb.expose(len, on='w7')").error.message
    assert "cannot all listen at tcp://127.0.0.1:1" in (
        notebook.run("znb.expose(len, on='0,1', bind='tcp://127.0.0.1:1')").error.message
    )
    assert "--on w9: no worker 'w9'" in refused(notebook.run("%%znb expose x --on w9\ndef f(): pass"))
    notebook.run("znb.unexpose('one', on='w1')").ok()
    assert notebook.run("znb.connect('one')").error.name == "ServiceUnavailable"
    notebook.run("znb.unexpose('far')").ok()
    assert notebook.run("znb.connect('far')").error.name == "ServiceUnavailable"
    assert "this process exposes no service" in notebook.run("znb.unexpose('far')").error.message
