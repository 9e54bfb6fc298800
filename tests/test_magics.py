"""The magics: what Tab offers, and everything else in real kernels with real workers."""

from __future__ import annotations

import shutil
import subprocess
import sys

import psutil
import pytest

import znb
from znb.cli.commands import Command, CommandTable
from znb.cli.values import add_place_options, add_target_option, variables
from znb.magics.completion import complete, paths
from znb.magics.extension import CELL_COMMANDS, LINE_COMMANDS, spell_out_help

# -- what Tab offers


def add_names(parser):
    parser.argument("names", metavar="NAME", nargs="+", type=variables, offers="variables")
    add_target_option(parser)


def add_which(parser):
    parser.argument("which", nargs="?", offers="clusters")
    parser.argument("--all", action="store_true")


TABLE = CommandTable(
    "%znb",
    [
        Command("cluster start", "start", print, add_place_options),
        Command("cluster stop", "stop", print, add_which),
        Command("push", "copy", print, add_names),
        Command("list", "list", print),
    ],
)
NAMES = {"clusters": ["a", "b"], "targets": ["all", "any", "w0", "w1"], "variables": ["data", "x"], "places": ["local"]}


@pytest.mark.parametrize(
    ("text", "fragment", "offered"),
    [
        ("", "", ["cluster", "push", "list", "help"]),
        ("c", "c", ["cluster"]),
        ("cluster ", "", ["start", "stop"]),
        ("cluster sto", "sto", ["stop"]),
        ("help cluster st", "st", ["start", "stop"]),
        ("nothing ", "", []),
        ("cluster stop ", "", ["a", "b", "--all"]),
        ("cluster stop a ", "", ["--all"]),
        ("cluster stop --", "--", ["--help", "--all"]),
        ("cluster stop --all ", "", ["a", "b"]),
        ("cluster start --env A=1 --e", "--e", ["--env"]),
        ("cluster start --name n --n", "--n", []),
        ("cluster start --name ", "", []),
        ("cluster start --on ", "", ["local"]),
        ("push ", "", ["data", "x", "--on"]),
        ("push data ", "", ["x", "--on"]),
        ("push data,", "", ["x"]),
        ("push --on ", "", ["all", "any", "w0", "w1"]),
        ("push --on=w", "w", ["w0", "w1"]),
        ("push --on w0,w", "w", ["w1"]),
        ("push --on w0 ", "", ["data", "x"]),
        ("push --on=w0 x d", "d", ["data"]),
        ("list ", "", ["--help"]),
    ],
)
def test_what_tab_offers(text, fragment, offered):
    assert complete(TABLE, text, lambda offer: NAMES[offer]) == (fragment, offered)


def test_tab_offers_paths(world):
    (world.home / "data").mkdir()
    (world.home / "data.csv").touch()
    (world.home / ".hidden").touch()
    assert paths(f"{world.home}/da") == [f"{world.home}/data/", f"{world.home}/data.csv"]
    assert f"{world.home}/.hidden" not in paths(f"{world.home}/")
    assert paths("~/data.") == ["~/data.csv"]
    assert paths("/nowhere/at/all") == paths("~nobody-of-this-name/") == []


@pytest.mark.parametrize(
    ("cell", "rewritten"),
    [
        ("%znb?", "%znb --help\n"),
        ("%znb cluster start ?", "%znb cluster start --help\n"),
        ("  %znb push??\n\n", "%znb push --help\n"),
        ("%%znb?", "%%znb --help\n\n"),
        ("%%znb remote", "%%znb remote\n\n"),
        ("%%znb remote?\n", "%%znb remote --help\n\n"),
        ("%znb push x", "%znb push x"),
        ("%%znb remote\nx?", "%%znb remote\nx?"),
        ("x?", "x?"),
        ("%znbx?", "%znbx?"),
        ("", ""),
    ],
)
def test_a_cell_that_asks_for_help_is_spelled_out(cell, rewritten):
    assert "".join(spell_out_help(cell.splitlines(keepends=True))) == rewritten


# -- in a kernel


@pytest.fixture(scope="module")
def notebook(shared_kernel):
    """A kernel with the extension and a cluster of two workers."""
    shared_kernel.run("%load_ext znb\n%znb cluster start 2").ok()
    return shared_kernel


def refused(cell) -> str:
    """Return what IPython says about a wrong command: a failure without a traceback."""
    assert (cell.reply["status"], cell.reply["ename"], cell.error) == ("error", "UsageError", None)
    assert cell.stdout == ""
    assert cell.outputs[0].kind == "stream"
    return cell.stderr.removeprefix("UsageError: ").rstrip()


def test_the_list_of_commands(notebook):
    shown = notebook.run("%znb").ok().stdout
    for question in ("%znb help", "%znb?", "%znb --help", "%%znb", "%%znb?"):
        assert notebook.run(question).ok().stdout == shown
    assert notebook.inspect("%znb").startswith(f"Docstring:\n{shown}".rstrip())
    for line in (
        (
            "%znb cluster start [N] [--on WHERE] [--name NAME] [--env K=V]… [--cwd DIR] [--python PATH] "
            "[--bind URL] [--listen URL] [--deploy] [--keep]"
        ),
        "%znb push NAME… [--on T]",
        "%%znb remote [--on T] [--out NAME] [--bg] [--push A,B] [--pull X,Y] [--timeout S]",
    ):
        assert f"  {line}\n" in shown


@pytest.mark.parametrize(
    "line", [*(f"%znb {c.name}" for c in LINE_COMMANDS), *(f"%%znb {c.name}" for c in CELL_COMMANDS)]
)
def test_every_command_has_help(notebook, line):
    shown = notebook.run(f"{line} --help").ok()
    assert shown.stdout.startswith(f"usage: {line}")
    assert "%%%" not in shown.stdout
    assert notebook.run(f"{line}?").ok().stdout == shown.stdout


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%znb clutser start", "there is no %znb clutser; did you mean %znb cluster?\nusage: %znb cluster|push|pull"),
        ("%znb start 2", "there is no %znb start; did you mean %znb cluster start?"),
        ("%znb cluster start --nmae x", "unknown option --nmae; did you mean --name?\nusage: %znb cluster start [N]"),
        ("%znb cluster scale", "missing: N\nusage: %znb cluster scale N"),
        ("%znb cluster stop a --all", "give either NAME or --all"),
        ("%znb cluster 'start", "cluster 'start: No closing quotation"),
        ("%znb push nothing_of_this_name", "there is no variable 'nothing_of_this_name' here"),
        ("%znb pull x --on w7", "--on w7: no worker 'w7'; there are w0, w1"),
        ("%znb pull x --on 5", "--on 5: no worker number 5; there are 2: w0, w1"),
        ("%znb push help --on moon:base", "--on moon:base: no worker 'moon:base'"),
        ("%%znb remote --output x\n1", "unknown option --output; did you mean --out?\nusage: %%znb remote [--on T]"),
        ("%%znb remote --timeout soon\n1", "--timeout: expected seconds, such as 2.5, got 'soon'"),
        ("%%znb remote --out 1x\n1", "--out: expected a variable's name, got '1x'"),
        ("%%znb remtoe\n1", "there is no %%znb remtoe; did you mean %%znb remote?"),
    ],
)
def test_a_wrong_command_says_what_is_right_and_does_nothing(notebook, cell, said):
    before = notebook.run("%znb cluster list").ok().stdout
    assert refused(notebook.run(cell)).startswith(said)
    assert notebook.run("%znb cluster list").ok().stdout.count("\n") == before.count("\n")


def test_a_wrong_command_stops_run_all(notebook, world):
    sent = world.home / "sent"
    first = notebook.start(f"import pathlib, time\nwhile not pathlib.Path({str(sent)!r}).exists(): time.sleep(0.01)")
    wrong = notebook.start("%znb clutser", stop_on_error=True)
    behind = notebook.start("went_on = True", stop_on_error=True)
    sent.touch()
    first.wait().ok()
    wrong.wait()
    assert behind.wait().reply["status"] == "aborted"
    assert notebook.run("went_on").error.name == "NameError"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("%zn", ["%znb", "%%znb"]),
        ("%znb ", ["cluster", "push", "pull", "services", "call", "stream", "trace", "help"]),
        ("%znb cl", ["cluster"]),
        ("%znb cluster st", ["start", "status", "stop"]),
        ("%znb cluster start --k", ["--keep"]),
        ("%znb cluster stop ", ["default", "--all"]),
        ("import sys\n%znb cl", ["cluster"]),
        ("x = %znb pull --o", ["--on"]),
        ("%znb push tab_", ["tab_one", "tab_two"]),
        ("%znb push tab_one,tab_", ["tab_two"]),
        ("%%znb re", ["remote"]),
        ("%%znb remote --o", ["--on", "--out"]),
        ("%%znb remote --on ", ["all", "any", "w0", "w1"]),
        ("%%znb remote --on=w", ["w0", "w1"]),
        ("%%znb remote --push tab_one,", None),
        ("%%znb remote\ntab_", ["tab_one", "tab_two"]),
    ],
)
def test_tab_in_a_kernel(notebook, typed, offered):
    notebook.run("tab_one = tab_two = 1").ok()
    found = notebook.complete(typed)
    if offered is None:
        assert "tab_two" in found
        assert "tab_one" not in found
        assert "--push" not in found
    else:
        assert found == offered


# -- cells on workers


def test_the_last_expression_is_the_cell_s_value(notebook):
    assert notebook.run("%%znb remote --on 0\nx = 20\nx + 1").ok().value == "21"
    assert notebook.run("_ + 1").value == "22"
    assert "w1" in notebook.run("%%znb remote\nimport os\nos.getpid()").ok().value
    assert notebook.run("sorted(_)").value == "['w0', 'w1']"
    assert notebook.run("%%znb remote\nx = 1").ok().value is None


def test_a_final_semicolon_hides_the_value(notebook):
    assert notebook.run("%%znb remote --on 0\n41;  # not shown").ok().value is None
    assert notebook.run("%%znb remote\nlambda: 0;").ok().outputs == []


def test_out_takes_the_value_and_shows_nothing(notebook):
    assert notebook.run("%%znb remote --out both\n6 * 7").ok().value is None
    assert notebook.run("dict(both)").value == "{'w0': 42, 'w1': 42}"


def test_push_before_and_pull_after(notebook):
    notebook.run("a, b = 2, 3").ok()
    notebook.run("%%znb remote --on w1 --push a,b --pull product,total\nproduct, total = a * b, a + b").ok()
    assert notebook.run("product, total").value == "(6, 5)"
    notebook.run("%%znb remote --push=a --pull product\nproduct = -a").ok()
    assert notebook.run("product").value == "{'w0': -2, 'w1': -2}"
    assert "there is no variable 'zz' here" in refused(notebook.run("%%znb remote --push zz\n1"))


def test_variables_are_pushed_and_pulled(notebook):
    notebook.run("first, second = [1], None\n%znb push first, second").ok()
    notebook.run("%znb push first second --on 0").ok()
    notebook.run("del first, second\n%znb pull first,second --on w0").ok()
    assert notebook.run("first, second").value == "([1], None)"
    notebook.run("%znb pull first second").ok()
    assert notebook.run("first, second").value == "({'w0': [1], 'w1': [1]}, {'w0': None, 'w1': None})"
    notebook.run("%znb pull second").ok()
    assert notebook.run("second").value == "{'w0': None, 'w1': None}"
    assert notebook.run("%znb pull never_set --on 0").error.name == "NameError"


def test_names_in_a_line_are_expanded(notebook):
    notebook.run("wanted = 'first'; first = 1; where = 'w0'\n%znb push $wanted --on {where}").ok()
    assert notebook.run("%%znb remote --on {where}\nfirst").value == "1"


def test_an_empty_cell_does_nothing(notebook):
    for cell in ("%%znb remote", "%%znb remote\n", "%%znb remote --on 0 --out nothing\n   \n\n"):
        assert notebook.run(cell).ok().outputs == []


def test_an_error_fails_the_cell_at_its_own_line(notebook):
    failed = notebook.run("%%znb remote\nx = 1\n\nint('no number')")
    assert failed.error.name == "ValueError"
    assert "----> 4 int('no number')" in failed.error.plain
    assert "w0" in failed.error.plain
    assert "znb/magics" not in failed.error.plain
    number = failed.reply["execution_count"]
    assert f"In[{number}]" in failed.error.plain


def test_different_errors_are_each_shown(notebook):
    notebook.run("which = 0\n%znb push which --on 0\nwhich = 1\n%znb push which --on 1").ok()
    failed = notebook.run("%%znb remote\nint('no number') if which else {}['no key']")
    assert failed.error.name == "ExceptionGroup"
    for part in ("KeyError: 'no key'", "ValueError", "no number", "w0", "w1"):
        assert part in failed.error.plain
    assert "znb/magics" not in failed.error.plain


def test_a_syntax_error_on_workers_shows_the_line(notebook):
    failed = notebook.run("%%znb remote\nx = 1\nif x = 1:\n    pass")
    assert failed.error.name == "SyntaxError"
    assert "if x = 1:" in failed.error.plain
    assert "znb/magics" not in failed.error.plain


def test_a_cell_that_takes_too_long_is_interrupted(notebook):
    failed = notebook.run("%%znb remote --timeout 0.2\nimport time; time.sleep(600)")
    assert failed.error.name == "CallTimeout"
    assert "znb/" not in failed.error.plain
    assert notebook.run("%%znb remote --on 0\n1").ok().value == "1"


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("cluster[7]", "IndexError: no worker number 7; there are 2: w0, w1"),
        ("cluster['w9']", "KeyError: \"no worker 'w9'; there are w0, w1"),
        ("cluster.run('1', timeout='x')", "TypeError: timeout must be a number of seconds, got 'x'"),
        ("cluster.run('1', push='x')", "TypeError: push must be a mapping such as {'x': 1}, got 'x'"),
        ("cluster[:].push(5)", "TypeError: push must be a mapping such as {'x': 1}, got 5"),
        ("cluster[0].pull(5)", "TypeError: pull what? Name at least one variable"),
        ("cluster.scale(-1)", "ValueError: the number of workers must not be negative, got -1"),
        ("cluster.start(on=5)", "TypeError: on must be text such as 'local', or a Dask Client or cluster, got 5"),
        ("cluster.start(name='')", "ValueError: name must not be empty"),
    ],
)
def test_wrong_use_is_told_without_frames_of_the_framework(notebook, cell, said):
    failed = notebook.run(cell)
    assert said in failed.error.plain
    assert f"----> 1 {cell}" in failed.error.plain
    assert "znb/" not in failed.error.plain


def test_an_interrupt_shows_no_frames_of_the_framework(notebook):
    cell = notebook.start("%%znb remote\nprint('runs')\nimport time; time.sleep(600)")
    cell.wait_until(lambda cell: "runs" in cell.stdout)
    notebook.interrupt()
    assert cell.wait().error.plain == "KeyboardInterrupt"
    assert notebook.run("%%znb remote --on 0\n1").ok().value == "1"


@pytest.mark.parametrize(
    "cell",
    [
        "for _ in cluster.map(runs, [600]): pass",
        "cluster.submit(runs, 600).result()",
        "cluster.run('print(7 * 6); import time; time.sleep(600)')",
    ],
)
def test_an_interrupted_wait_is_told_at_its_own_line(notebook, cell):
    notebook.run("def runs(seconds):\n    import time\n    print(42)\n    time.sleep(seconds)").ok()
    waiting = notebook.start(cell)
    waiting.wait_until(lambda waiting: "42" in waiting.stdout)
    notebook.interrupt()
    ended = waiting.wait()
    assert ended.error.name == "KeyboardInterrupt"
    assert f"----> 1 {cell}" in ended.error.plain
    assert "File " not in ended.error.plain
    assert notebook.run("%%znb remote --on 0\n1").ok().value == "1"


def test_an_interrupt_of_what_a_map_pulls_from_shows_where_it_was(notebook):
    cell = notebook.start(
        """
        import time
        def numbers():
            yield 1
            print("pulled")
            time.sleep(600)
        list(cluster.map(abs, numbers()))
        """
    )
    cell.wait_until(lambda cell: "pulled" in cell.stdout)
    notebook.interrupt()
    shown = cell.wait().error.plain
    assert "time.sleep(600)" in shown
    assert "znb/" not in shown


def test_a_cell_in_the_background(notebook):
    began = notebook.run("%%znb remote --bg --on 0\nimport time; time.sleep(0.2); print('from afar'); 7").ok()
    assert "Future" in began.value
    assert notebook.run("_.result()").value == "7"
    began.wait_until(lambda cell: "from afar" in cell.stdout)

    assert notebook.run("%%znb remote --bg --out later --pull gone_far --on 1\ngone_far = 3; 8").ok().value is None
    assert notebook.run("later.result(), gone_far").value == "(8, 3)"


def test_a_failure_in_the_background_is_shown_where_it_began(notebook):
    began = notebook.run("%%znb remote --bg --out later --on 0\nint('no number')").ok()
    assert notebook.run("later.result()").error.name == "ValueError"
    began.wait_until(lambda cell: "no number" in cell.stdout + cell.stderr + str(cell.displays))


# -- clusters, each test in a kernel of its own


@pytest.fixture
def fresh(kernel):
    """A kernel with the extension."""
    started = kernel()
    started.run("%load_ext znb").ok()
    return started


def test_a_cell_without_a_cluster_says_how_to_get_one(fresh):
    said = refused(fresh.run("%%znb remote\n1"))
    assert said == "this notebook has no cluster; start one with `%znb cluster start`"
    assert fresh.run("%znb cluster list").ok().stdout == "No clusters. `%znb cluster start` starts one.\n"
    assert fresh.run("%znb cluster connect").error.name == "ServiceUnavailable"
    assert "znb/" not in fresh.run("%znb cluster connect ghost").error.plain


def test_a_second_start_returns_the_running_one_and_says_so(fresh):
    first = fresh.run("%znb cluster start 2 --name twice").ok()
    assert len(first.displays) == 1
    assert first.stdout == ""
    fresh.run("before = cluster").ok()
    again = fresh.run("%znb cluster start 3 --name twice").ok()
    assert again.stdout == (
        "The cluster 'twice' is running already, with 2 workers and their variables. "
        "`%znb cluster restart` gives fresh workers. `%znb cluster scale 3` changes their number.\n"
    )
    assert fresh.run("cluster is before").value == "True"


def test_a_variable_of_the_user_s_is_left_alone(fresh):
    fresh.run("cluster = [1, 2]").ok()
    started = fresh.run("%znb cluster start 1 --name mine").ok()
    assert started.stdout == (
        "Your variable `cluster` (a list) is left as it is. To have the cluster in another: "
        '`import znb; c = znb.Cluster.connect("mine")`.\n'
    )
    assert fresh.run("cluster").value == "[1, 2]"
    assert fresh.run("%%znb remote\n6 * 7").ok().value == "42"


def test_the_variable_says_which_cluster_is_meant(fresh):
    fresh.run("%znb cluster start 1 --name a\nmine = cluster\n%znb cluster start 1 --name b").ok()
    assert fresh.run("cluster.name, mine.name").value == "('b', 'a')"
    fresh.run("%%znb remote\nx = 'on b'").ok()
    fresh.run("cluster = mine").ok()
    assert fresh.run("%%znb remote\nx").error.name == "NameError"
    fresh.run("%znb cluster stop").ok()
    assert fresh.run("%%znb remote\nx").ok().value == "'on b'"


def test_scale_restart_status_and_stop(fresh):
    fresh.run("%znb cluster start 1 --env GREETING=hello").ok()
    assert fresh.run("%%znb remote\nimport os; os.environ['GREETING']").value == "'hello'"
    assert fresh.run("%znb cluster scale 2").ok().stdout == "The cluster 'default' has 2 workers now; it had 1.\n"
    shown = fresh.run("%znb cluster status").ok().displays[0]["text/plain"]
    assert "w0" in shown
    assert "w1" in shown
    fresh.run("%%znb remote\nx = 1").ok()
    assert fresh.run("%znb cluster restart 0").ok().stdout == "Restarted w0: their variables are gone.\n"
    assert fresh.run("%%znb remote --on w1\nx").ok().value == "1"
    assert fresh.run("%%znb remote --on w0\nx").error.name == "NameError"
    assert fresh.run("%znb cluster restart").ok().stdout == "Restarted w0, w1: their variables are gone.\n"
    assert "default" in fresh.run("%znb cluster list").ok().stdout
    assert fresh.run("%znb cluster stop").ok().stdout == "Stopped the cluster 'default'.\n"
    assert fresh.run("cluster.closed").value == "True"
    assert "has no cluster" in refused(fresh.run("%znb cluster stop"))
    fresh.run("%znb cluster start 1 --name a\n%znb cluster start 1 --name b").ok()
    assert fresh.run("%znb cluster stop a").ok().stdout == "Stopped the cluster 'a'.\n"
    assert fresh.run("%znb cluster stop --all").ok().stdout == "Stopped the cluster 'b'.\n"
    assert fresh.run("%znb cluster stop --all").ok().stdout == "No cluster was running.\n"


def test_a_second_notebook_connects(fresh, kernel, runtime_dir, world):
    fresh.run("%znb cluster start 1 --name both\ncluster.push(x=5)").ok()
    assert "`%znb cluster connect both`: it is running" in refused(_with_extension(kernel()).run("%%znb remote\n1"))
    second = _with_extension(kernel())
    second.run("%znb cluster connect").ok()
    assert second.run("%%znb remote\nx").ok().value == "5"
    copy = shutil.copy(runtime_dir / "both" / "connection.json", world.home / "copied.json")
    third = _with_extension(kernel())
    third.run(f"%znb cluster connect {copy}").ok()
    assert third.run("%%znb remote\nx").ok().value == "5"


def _with_extension(kernel):
    kernel.run("%load_ext znb").ok()
    return kernel


def test_a_restarted_kernel_finds_its_cluster(each_kernel):
    kernel = _with_extension(each_kernel())
    kernel.run("%znb cluster start 1\n%znb cluster list").ok()
    kernel.run("%%znb remote\nx = 'still here'").ok()
    kernel.restart()
    kernel.run("%load_ext znb\n%znb cluster connect").ok()
    assert kernel.run("%%znb remote\nx").ok().value == "'still here'"
    kernel.run("%znb cluster stop").ok()


def test_a_kernel_that_ends_takes_its_cluster_along(each_kernel):
    kernel = _with_extension(each_kernel())
    kernel.run("%znb cluster start 1").ok()
    pid = int(kernel.run("cluster.workers[0].pid").value)
    kernel.close()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=30)
    assert znb.Cluster.list() == []


# -- unloading

SHELL_STATE = """
ip = get_ipython()
(sorted(ip.magics_manager.magics["line"]), sorted(ip.magics_manager.magics["cell"]), len(ip.Completer.custom_matchers),
 len(ip.input_transformers_cleanup), ip.custom_exceptions, "cluster" in globals())
"""


def test_unloading_puts_everything_back(kernel):
    kernel = kernel()
    before = kernel.run(SHELL_STATE).ok().value
    kernel.run("%load_ext znb\n%znb cluster start 1").ok()
    assert kernel.run(SHELL_STATE).ok().value != before
    pid = int(kernel.run("cluster.workers[0].pid").value)
    unloaded = kernel.run("%unload_ext znb").ok()
    assert unloaded.stdout == "Let go of the cluster 'default'. It ends now unless it is kept or used elsewhere.\n"
    assert kernel.run(SHELL_STATE).ok().value == before
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=30)
    assert not psutil.pid_exists(pid)
    assert kernel.run("%znb").reply["ename"] == "UsageError"
    assert "cluster" not in kernel.complete("%znb cl")
    kernel.run("%load_ext znb\n%reload_ext znb").ok()
    assert kernel.run("%znb").ok().stdout


def test_unloading_gives_the_variable_back(fresh):
    fresh.run("import znb\ncluster = mine = znb.Cluster.start(1, name='mine')\n%znb cluster start 1 --name other").ok()
    assert fresh.run("cluster.name").value == "'other'"
    fresh.run("%unload_ext znb").ok()
    assert fresh.run("cluster is mine and not mine.closed").value == "True"
    fresh.run("mine.close()").ok()


@pytest.mark.parametrize(
    "cell",
    [
        "x = = 1",
        "if 1:\nx",
        "exec('x = = 1')",
        "1 / 0",
        "raise ExceptionGroup('g', [ValueError('v')])",
        "[][1]",
        "__import__('json').loads('{')",
        "'unterminated",
    ],
)
def test_local_errors_look_as_without_the_extension(fresh, cell):
    with_extension = fresh.run(cell)
    fresh.run("%unload_ext znb").ok()
    without = fresh.run(cell)

    def shown(ended):
        text = (ended.error.plain if ended.error else "") + ended.stderr
        return text.replace(f"In[{ended.reply['execution_count']}]", "In[]")

    assert shown(with_extension) == shown(without)
    assert shown(without)


def test_a_handler_of_the_user_s_goes_on_to_handle_its_errors(kernel):
    kernel = kernel()
    kernel.run(
        """
        def mine(shell, kind, error, frames, tb_offset=None):
            print("mine:", error)
        get_ipython().set_custom_exc((ZeroDivisionError, ExceptionGroup), mine)
        %load_ext znb
        """
    ).ok()
    for _ in ("loaded", "unloaded"):
        assert kernel.run("1 / 0").stdout == "mine: division by zero\n"
        assert kernel.run("raise ExceptionGroup('g', [ValueError()])").stdout == "mine: g (1 sub-exception)\n"
        kernel.run("%unload_ext znb").ok()


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_others_show_tracebacks_with_stays_when_znb_is_unloaded(kernel, when):
    kernel = kernel()
    steps = ["%load_ext znb", "get_ipython().showtraceback = lambda *args, **kwargs: print('mine')"]
    for step in steps if when == "after" else steps[::-1]:
        kernel.run(step).ok()
    for _ in ("loaded", "unloaded"):
        assert kernel.run("1 / 0").stdout == "mine\n"
        kernel.run("%unload_ext znb").ok()


def test_it_works_in_plain_ipython(world):
    script = world.home / "session.ipy"
    script.write_text(
        "%load_ext znb\n%znb cluster start 1\nvalue = cluster.run('6 * 7')\nprint('value', value)\n%znb cluster stop\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "IPython", "--colors=NoColor", str(script)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "value 42\nStopped the cluster 'default'.\n" in ended.stdout
