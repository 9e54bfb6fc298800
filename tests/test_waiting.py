"""Nothing hangs silently: a cell that waits for more than a second says for whom, and goes on when it can."""

from __future__ import annotations

import os

import psutil
import pytest

from notebooks import (
    Frozen,
    connect_to,
    define_wait_for,
    notices,
    open_gate,
    pids,
    plain,
    remote,
    run_script,
    with_cluster,
)


@pytest.fixture(scope="module")
def notebook(shared_kernel):
    return with_cluster(shared_kernel, 2)


@pytest.fixture
def second(notebook, kernel):
    """Another notebook with the same cluster."""
    other = kernel()
    connect_to(other, notebook)
    return other


def waits(cell, *words):
    """Wait until the cell says what it waits for, in these words."""
    cell.wait_until(lambda cell: all(word in notices(cell) + plain(cell) for word in ("wait", *words)))
    assert not cell.idle


def shows_nothing_but(cell, value):
    """Check that what was said of the waiting has been taken back."""
    assert cell.wait().ok().value == value
    assert [o["data"]["text/plain"] for o in cell.shown if o["kind"] == "display_data"] in ([], [""])
    assert plain(cell) == ""


def test_a_worker_that_is_busy_for_another_notebook_is_named(notebook, second):
    running = notebook.start(remote("print('begun')\nwait_for('free')", "--on w1"))
    running.wait_until(lambda cell: "begun" in plain(cell))
    waiting = second.start(remote("'went on'"))
    waits(waiting, "w1 is busy with In[", "of another notebook")
    assert "w0" not in notices(waiting)
    open_gate(notebook, "free")
    running.wait().ok()
    shows_nothing_but(waiting, "{'w0': 'went on', 'w1': 'went on'}")


def test_a_worker_that_is_busy_in_the_background_is_named(notebook):
    notebook.run(remote("wait_for('background')", "--bg --out later")).ok()
    waiting = notebook.start(remote("'went on'"))
    waits(waiting, "w0 is busy with In[", "w1 is busy with In[")
    assert "another notebook" not in notices(waiting)
    open_gate(notebook, "background")
    shows_nothing_but(waiting, "{'w0': 'went on', 'w1': 'went on'}")


@pytest.mark.parametrize(
    ("line", "gate"),
    [
        ("%znb push x", "pushed"),
        ("%znb pull x --on 0", "pulled"),
        ("cluster[:].call(abs, -1)", "called"),
        ("list(cluster.map(abs, [1, 2, 3]))", "mapped"),
        ("cluster.submit(abs, -1).result()", "submitted"),
    ],
)
def test_whatever_waits_says_so(notebook, line, gate):
    notebook.run("x = 1\n%znb push x").ok()
    notebook.run(remote(f"wait_for('{gate}')", "--bg --out later")).ok()
    waiting = notebook.start(line)
    waits(waiting, "w0")
    open_gate(notebook, gate)
    waiting.wait().ok()


def test_a_frozen_worker_is_named_with_what_helps(notebook):
    pid = pids(notebook)["w0"]
    with Frozen(pid):
        waiting = notebook.start(remote("'went on'"))
        waits(waiting, "w0 is frozen", f"kill -CONT {pid}")
        assert "w1" not in notices(waiting)
    shows_nothing_but(waiting, "{'w0': 'went on', 'w1': 'went on'}")


def test_a_worker_that_freezes_while_it_runs_the_cell_is_named(notebook):
    running = notebook.start(remote("print('begun')\nwait_for('thawed')\n'went on'"))
    running.wait_until(lambda cell: "begun" in plain(cell))
    with Frozen(pids_while_busy(notebook)["w1"]):
        waits(running, "w1 is frozen")
    running.wait_until(lambda cell: cell.outputs[-1].content.get("data", {}).get("text/plain") == "")
    open_gate(notebook, "thawed")
    assert running.wait().ok().value == "{'w0': 'went on', 'w1': 'went on'}"


def pids_while_busy(kernel):
    """Return the workers' process ids without running a cell."""
    children = psutil.Process(kernel.pid).children(recursive=True)
    return {p.name().removeprefix("znb:"): p.pid for p in children if p.name().startswith("znb:w")}


def test_a_frozen_worker_is_named_though_another_prints_without_end(notebook):
    notebook.run("cluster[0].push(prints=True); cluster[1].push(prints=False)").ok()
    running = notebook.start(remote("while prints: print('more')\nwait_for('enough')"))
    running.wait_until(lambda cell: "more" in plain(cell))
    with Frozen(pids_while_busy(notebook)["w1"]):
        waits(running, "w1 is frozen")
    notebook.interrupt()
    assert running.wait().error.name == "KeyboardInterrupt"


def test_native_code_that_holds_the_interpreter_is_suspected(notebook):
    os.mkfifo(notebook.cwd / "fifo")
    notebook.run(remote("import ctypes, os\nPYTHON = ctypes.PyDLL(None)", "--on 0")).ok()
    notebook.run(remote("PYTHON.open(b'fifo', os.O_RDONLY);", "--on 0 --bg --out later")).ok()
    waiting = notebook.start(remote("'went on'"))
    waits(waiting, "w0 does not answer: its interpreter is held by native code")
    with (notebook.cwd / "fifo").open("w"):
        pass
    shows_nothing_but(waiting, "{'w0': 'went on', 'w1': 'went on'}")


def test_native_code_that_holds_one_worker_is_suspected_by_jobs_that_wait_there(notebook):
    """The other workers were idle, so it was taken for granted that the jobs were about to begin."""
    os.mkfifo(notebook.cwd / "fifo2")
    notebook.run(
        """
        import ctypes, os, pathlib
        def hold():
            python = ctypes.PyDLL(None)
            pathlib.Path("held").touch()
            return python.open(b"fifo2", os.O_RDONLY) > 2
        held = cluster.submit(hold)
        while not pathlib.Path("held").exists(): pass
        """
    ).ok()
    waiting = notebook.start("list(cluster.map(abs, range(100))) == list(range(100))")
    waiting.wait_until(lambda cell: "does not answer: its interpreter is held by native code" in cell.stderr)
    with (notebook.cwd / "fifo2").open("w"):
        pass
    assert waiting.wait().ok().value == "True"
    assert notebook.run("held.result()").value == "True"


HOLD_READY = """
import os, threading, time
membership, held = cluster._attached.membership, []
heard = membership.on_event

def hold(event):
    if event.event == "ready":
        held.append(event)
    else:
        heard(event)

def let_go():
    while not os.path.exists("ready"):
        time.sleep(0.01)
    membership.on_event = heard
    for event in held:
        cluster._attached.reactor.call_soon(heard, event)

membership.on_event = hold
threading.Thread(target=let_go).start()
"""


def test_a_worker_whose_next_process_is_slow_to_start_is_waited_for(notebook):
    notebook.run(HOLD_READY).ok()
    assert notebook.run(remote("import os\nos._exit(3)", "--on w0")).error.name == "WorkerLost"
    waiting = notebook.start(remote("'went on'"))
    waits(waiting, "w0 not ready yet")
    assert "w1" not in notices(waiting)
    open_gate(notebook, "ready")
    shows_nothing_but(waiting, "{'w0': 'went on', 'w1': 'went on'}")
    define_wait_for(notebook)


def test_no_workers_is_an_error_that_says_what_helps(notebook):
    notebook.run("%znb cluster scale 0").ok()
    failed = notebook.run(remote("1"))
    notebook.run("%znb cluster scale 2").ok()
    define_wait_for(notebook)
    assert failed.reply["status"] == "error"
    assert "no workers" in plain(failed) + (failed.error.plain if failed.error else "")
    assert "scale" in plain(failed) + (failed.error.plain if failed.error else "")


def test_jobs_without_workers_say_so_and_go_on_when_there_are_some(notebook, second):
    notebook.run("%znb cluster scale 0").ok()
    waiting = notebook.start("list(cluster.map(abs, [-1, -2, -3]))")
    waits(waiting)
    second.run("cluster.scale(2)").ok()
    define_wait_for(second)
    assert waiting.wait().ok().value == "[1, 2, 3]"


def test_a_script_says_it_once_for_each_reason(world):
    source = """
    import os, signal, threading, znb
    with znb.Cluster.start(1) as cluster:
        pid = cluster.workers[0].pid
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(2.5, os.kill, (pid, signal.SIGCONT)).start()
        print(cluster.run("6 * 7"))
    """
    printed = run_script(source, world).splitlines()
    assert len(printed) == 2
    assert printed[0].startswith("waiting: w0 is frozen")
    assert printed[1] == "42"


def test_jobs_say_why_there_are_no_workers(world):
    source = """
    import shutil, threading, znb
    cluster = znb.Cluster.start(1)
    said = threading.Event()
    cluster._attached.jobs.notify = lambda text: (print(text), said.set())
    shutil.rmtree(cluster.connection_file.parent)
    cluster.kill("w0")
    job = threading.Thread(target=cluster.submit(int).exception)
    job.start()
    said.wait()
    cluster.stop()
    job.join()
    """
    said = run_script(source, world)
    assert said.startswith("int waits because w0 failed so often at its start that it is not replaced any more: ")
