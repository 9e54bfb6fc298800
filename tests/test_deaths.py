"""A worker dies: the cell gets its death certificate, the worker a successor, the user is told, the next cell works."""

from __future__ import annotations

import os
import re
import signal
import time

import psutil
import pytest

from notebooks import (
    connect_to,
    define_wait_for,
    lines_of,
    notices,
    open_gate,
    pids,
    plain,
    remote,
    run_script,
    with_cluster,
)

#: Seconds after which the cell of a dead worker must have ended; the promise is 1 s, and test machines are busy.
SOON = 5.0


@pytest.fixture(scope="module")
def with_workers(shared_kernel):
    return with_cluster(shared_kernel, 2)


@pytest.fixture
def notebook(with_workers):
    define_wait_for(with_workers)  # those that died have lost it
    return with_workers


def wait_replaced(kernel, name, pid):
    """Wait until a process other than ``pid`` has the name, and serves."""
    kernel.run(
        f"while (w := cluster[{name!r}] and {{w.name: w for w in cluster.workers}}[{name!r}]).pid == {pid}: pass"
    ).ok()


DEATHS = {
    "os._exit": ("import os\nos._exit(3)", "exited with status 3 (os._exit or sys.exit)"),
    "SIGKILL": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL: "),
    "segfault": ("import ctypes\nctypes.string_at(0)", "was killed by SIGSEGV: invalid memory access in native code"),
    "abort": ("import os\nos.abort()", "was killed by SIGABRT: native code gave up"),
    "SIGTERM": ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nimport time\ntime.sleep(600)", "was killed by SIGTERM"),
    "in a child of a thread": ("import os, threading\nthreading.Thread(target=os._exit, args=(4,)).start()\nimport time\ntime.sleep(600)", "exited with status 4"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "meaning"), DEATHS.values(), ids=DEATHS.keys())
def test_the_cell_gets_the_certificate_and_the_next_one_works(notebook, source, meaning):
    notebook.run(remote("kept = 1")).ok()
    before = pids(notebook)
    began = time.monotonic()
    failed = notebook.run(remote(f"print('last words')\n{source}", "--on w0"))
    assert time.monotonic() - began < SOON
    assert failed.error.name == "WorkerLost"
    shown = failed.error.plain
    assert f"WorkerLost: w0 (pid {before['w0']}) {meaning}" in shown
    assert f"In[{failed.reply['execution_count']}]" in shown, "what it was running"
    assert "last words" in shown, "its last output"
    assert "variables" in shown, "they are gone, and the user is told"
    assert "znb/" not in shown
    following = notebook.run(remote("'works'")).ok()
    assert following.value == "{'w0': 'works', 'w1': 'works'}"
    assert plain(following) == "", "it has been said"
    after = pids(notebook)
    assert after["w0"] != before["w0"]
    assert after["w1"] == before["w1"]
    assert notebook.run(remote("kept", "--on w1")).ok().value == "1"
    assert notebook.run(remote("kept", "--on w0")).error.name == "NameError"


def test_a_segfault_shows_where_the_user_s_code_was(notebook):
    source = "import ctypes\ndef crash():\n    ctypes.string_at(0)\n\ncrash()"
    failed = notebook.run("%%znb remote --on 0\n" + source)
    number = failed.reply["execution_count"]
    assert re.search(rf"cell In\[{number}\].*line 4 in crash", failed.error.plain)
    assert re.search(rf"cell In\[{number}\].*line 6 in <module>", failed.error.plain)
    for ours in ("znb/", "/IPython/", "zygote"):
        assert ours not in failed.error.plain


def test_a_job_that_segfaults_shows_its_cell(notebook):
    failed = notebook.run("import ctypes\ndef dies(_): ctypes.string_at(0)\nlist(cluster.map(dies, [1], retries=0))")
    assert failed.error.name == "WorkerLost"
    assert re.search(r"Cell In\[\d+\], line 2 in dies", failed.error.plain)
    assert "/ipykernel_" not in failed.error.plain


def test_a_death_among_several_leaves_the_others_their_results(notebook):
    source = """
    if dies:
        import os
        os._exit(3)
    wait_for("others")
    print("survived")
    """
    notebook.run("cluster[0].push(dies=True); cluster[1].push(dies=False)").ok()
    before = psutil.Process(pids(notebook)["w0"])
    cell = notebook.start(remote(source))
    psutil.wait_procs([before], timeout=30)
    open_gate(notebook, "others")
    cell.wait()
    assert cell.error.name == "WorkerLost"
    assert lines_of(cell, "w1") == ["survived"]


def test_all_workers_may_die_at_once(notebook):
    before = pids(notebook)
    failed = notebook.run(remote("import os\nos._exit(3)"))
    assert failed.error.name == "ExceptionGroup"
    for name, pid in before.items():
        assert f"WorkerLost: {name} (pid {pid}) exited with status 3" in failed.error.plain
    assert "znb/" not in failed.error.plain
    assert notebook.run(remote("1")).ok().value == "{'w0': 1, 'w1': 1}"


def test_a_death_between_two_cells_is_told_by_the_next_one(notebook):
    pid = pids(notebook)["w1"]
    os.kill(pid, signal.SIGKILL)
    wait_replaced(notebook, "w1", pid)
    cell = notebook.run(remote("1")).ok()
    assert f"w1 (pid {pid}) was killed by SIGKILL" in cell.stderr
    assert "variables" in cell.stderr
    assert notebook.run(remote("1")).ok().stderr == "", "once"


def test_a_death_between_two_cells_is_told_where_variables_are_copied(notebook):
    pid = pids(notebook)["w1"]
    notebook.run("kept = 1\n%znb push kept").ok()
    os.kill(pid, signal.SIGKILL)
    wait_replaced(notebook, "w1", pid)
    failed = notebook.run("%znb pull kept")
    assert failed.error.name == "NameError"
    assert f"w1 (pid {pid}) was killed by SIGKILL" in plain(failed) + failed.error.plain


def test_memory_that_runs_out_is_an_error_and_no_death(notebook):
    before = pids(notebook)
    source = """
    import resource
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, limits[1]))
    try:
        everything = bytearray(4 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    """
    failed = notebook.run(remote(source))
    assert failed.error.name == "MemoryError"
    assert "everything = bytearray(4 << 30)" in failed.error.plain
    assert pids(notebook) == before
    assert notebook.run(remote("1")).ok().value == "{'w0': 1, 'w1': 1}"


def test_a_child_of_a_worker_may_die(notebook):
    before = pids(notebook)
    cell = notebook.run(
        remote("import os\nif os.fork() == 0:\n    os.kill(os.getpid(), 9)\nos.wait()[1]", "--on 0")
    ).ok()
    assert cell.value == "9"
    assert pids(notebook) == before


def test_children_of_a_dead_worker_end_with_it(notebook):
    source = "import subprocess\nsubprocess.Popen(['sleep', '600']).pid"
    child = psutil.Process(int(notebook.run(remote(source, "--on 0")).ok().value))
    notebook.run(remote("import os\nos._exit(3)", "--on 0"))
    gone, alive = psutil.wait_procs([child], timeout=30)
    assert gone or alive[0].status() == psutil.STATUS_ZOMBIE


def test_ten_deaths_in_a_row(notebook):
    for number in range(10):
        failed = notebook.run(remote(f"import os\nos._exit({number})"))
        assert failed.error.name == "ExceptionGroup"
        assert notebook.run(remote(f"{number}")).ok().value == f"{{'w0': {number}, 'w1': {number}}}"
    status = notebook.run("[w.restarts >= 10 for w in cluster.status().workers]").ok()
    assert status.value == "[True, True]"


def test_a_worker_may_die_while_it_prints_a_lot(notebook):
    source = "import os, threading\nthreading.Timer(0.2, os._exit, (5,)).start()\nwhile True: print('more')"
    failed = notebook.run(remote(source, "--on 0"))
    assert "exited with status 5" in failed.error.plain
    assert "more" in plain(failed)
    assert notebook.run(remote("1")).ok().value == "{'w0': 1, 'w1': 1}"


def test_a_worker_may_die_while_a_second_notebook_waits_for_it(notebook, kernel):
    second = kernel()
    connect_to(second, notebook)
    pid = pids(notebook)["w0"]
    running = notebook.start(remote("print('begun')\nwait_for('die')\nimport os\nos._exit(3)", "--on 0"))
    running.wait_until(lambda cell: "begun" in plain(cell))
    waiting = second.start(remote("1", "--on 0"))
    waiting.wait_until(lambda cell: "of another notebook" in notices(cell))
    open_gate(notebook, "die")
    assert "WorkerLost" in running.wait().error.name
    assert waiting.wait().error.name == "WorkerLost"
    assert (
        f"w0 (pid {pid}) exited with status 3 (os._exit or sys.exit) before it was done with In[" in waiting.error.plain
    )
    assert second.run(remote("2", "--on 0")).ok().value == "2"


def test_a_worker_that_cannot_start_any_more_is_given_up_with_the_reason(kernel):
    notebook = kernel()
    (notebook.cwd / "sitecustomize.py").write_text("")
    notebook.run("import znb\ncluster = znb.Cluster.start(1)").ok()
    pid = pids(notebook)["w0"]
    # no descriptor left in the zygote: it can make no process
    zygote = psutil.Process(pid).parent()
    soft, hard = zygote.rlimit(psutil.RLIMIT_NOFILE)
    zygote.rlimit(psutil.RLIMIT_NOFILE, (3, hard))
    os.kill(pid, signal.SIGKILL)
    failed = notebook.run("cluster.run('1')")
    if failed.error.name == "WorkerLost":
        failed = notebook.run("cluster.run('1')")
    zygote.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
    assert failed.error.name == "NoWorkers"
    assert "%znb cluster restart w0" in failed.error.plain
    notebook.run("cluster.restart()").ok()
    assert notebook.run("cluster.run('1')").ok().value == "1"


def test_a_script_gets_the_same(world):
    source = """
    import znb
    with znb.Cluster.start(2) as cluster:
        try:
            cluster[0].run("print('last words')\\nimport os; os._exit(3)")
        except znb.WorkerLost as lost:
            print(lost.worker, lost.reason)
            print(*lost.__notes__)
        print(cluster.run("1"))
    """
    printed = run_script(source, world)
    assert re.search(r"^w0 \(pid \d+\) exited with status 3", printed, re.MULTILINE)
    assert printed.count("last words") in {1, 2}
    assert printed.splitlines()[-1] == "{'w0': 1, 'w1': 1}"


def test_what_follows_a_kill_goes_to_the_next_process(world):
    """It was sent to the one that was about to be gone, and was lost with it."""
    source = """
    import znb
    with znb.Cluster.start(1) as cluster:
        for number in range(10):
            cluster.kill("w0")
            assert cluster[0].run(str(number)) == number
        print("done")
    """
    assert run_script(source, world).splitlines()[-1] == "done"
