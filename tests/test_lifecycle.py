"""Clusters begin, are shared, and end: nothing stays behind, whatever becomes of the notebook."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import znb
from notebooks import connect_to, family, notices, open_gate, plain, remote, run_script, script, wait_gone, with_cluster


def files(world):
    """Return everything in the world's runtime directory that is no directory."""
    return [path for path in world.runtime.rglob("*") if not path.is_dir()]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def zn(*arguments):
    """Run the command line of znb."""
    command = [sys.executable, "-m", "znb", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# -- files


def test_the_connection_file_is_private(kernel, world):
    notebook = with_cluster(kernel(), 1)
    (file,) = world.runtime.rglob("connection.json")
    assert mode(file) == 0o600
    assert mode(file.parent) == mode(world.runtime) == 0o700
    assert {mode(path) for path in world.runtime.rglob("*") if path.is_dir()} <= {0o700}
    file.chmod(0o644)
    second = kernel()
    failed = second.run(f"%load_ext znb\n%znb cluster connect {file}")
    assert failed.error.name == "AuthError"
    assert f"chmod 600 {file}" in failed.error.plain
    file.chmod(0o600)
    connect_to(second, notebook)


def test_a_leftover_of_a_dead_cluster_is_recognised_and_cleaned(kernel, world):
    notebook = with_cluster(kernel(), 1, "--name fallen")
    processes = family(notebook)
    for process in processes:
        process.kill()
    assert wait_gone(processes) == []
    assert files(world) != []
    listed = notebook.run("%znb cluster list").ok().stdout
    assert "fallen" in listed
    assert "dead" in listed
    assert "fallen" not in notebook.run("%znb cluster list").ok().stdout
    assert files(world) == []


def test_a_dead_cluster_s_name_can_be_used_again(kernel):
    notebook = with_cluster(kernel(), 1, "--name phoenix")
    processes = family(notebook)
    for process in processes:
        process.kill()
    assert wait_gone(processes) == []
    notebook.run("%znb cluster start 2 --name phoenix").ok()
    assert notebook.run(remote("1")).ok().value == "{'w0': 1, 'w1': 1}"


# -- who shares it


def test_two_notebooks_share_a_cluster_until_both_have_gone(kernel, world):
    first = with_cluster(kernel(), 2)
    second = connect_to(kernel(), first)
    processes = family(first)
    second.run(remote("x = 'of the second'")).ok()
    assert first.run(remote("x", "--on 0")).ok().value == "'of the second'"
    first.close()
    assert second.run(remote("x")).ok().value == "{'w0': 'of the second', 'w1': 'of the second'}"
    second.close()
    assert wait_gone(processes) == []
    assert files(world) == []


def test_a_cluster_that_another_notebook_stops_says_so(kernel):
    first = with_cluster(kernel(), 1)
    second = connect_to(kernel(), first)
    second.run("%znb cluster stop").ok()
    failed = first.run(remote("1"))
    assert failed.reply["status"] == "error"
    said = plain(failed) + (failed.error.plain if failed.error else "")
    assert "%znb cluster start" in said or "closed" in said or "ended" in said or "stopped" in said
    first.run("%znb cluster start 1").ok()
    assert first.run(remote("1")).ok().value == "1"


def test_scale_and_restart_are_seen_by_the_other_notebook(kernel):
    first = with_cluster(kernel(), 1)
    second = connect_to(kernel(), first)
    first.run("%znb cluster scale 3").ok()
    assert second.run(remote("1")).ok().value == "{'w0': 1, 'w1': 1, 'w2': 1}"
    second.run("%znb cluster restart w1\n%znb cluster scale 2").ok()
    assert first.run(remote("1")).ok().value == "{'w0': 1, 'w1': 1}"


# -- how it ends


@pytest.mark.parametrize(
    "how", ["%znb cluster stop", "cluster.stop()", "cluster.close()", "cluster.shutdown()", "%unload_ext znb"]
)
def test_after_the_end_nothing_is_left(kernel, world, how):
    notebook = with_cluster(kernel(), 2)
    processes = family(notebook)
    shared = set(Path("/dev/shm").iterdir())
    notebook.run(how).ok()
    assert wait_gone(processes) == []
    assert files(world) == []
    assert set(Path("/dev/shm").iterdir()) <= shared


def test_kernel_shutdown_leaves_nothing(each_kernel, world):
    notebook = with_cluster(each_kernel(), 2)
    processes = family(notebook)
    notebook.close()
    assert wait_gone(processes) == []
    assert files(world) == []


def test_kernel_shutdown_ends_busy_workers_and_their_children(kernel, world):
    notebook = with_cluster(kernel(), 2)
    cell = notebook.start(
        remote("import subprocess\nsubprocess.Popen(['sleep', '600'])\nprint('begun')\nwhile True: pass", "--bg")
    )
    cell.wait_until(lambda cell: "begun" in plain(cell))
    processes = family(notebook)
    assert len(processes) >= 5
    notebook.close()
    assert wait_gone(processes) == []
    assert files(world) == []


def test_after_the_kernel_was_killed_the_workers_exit_by_themselves(kernel, world):
    notebook = kernel()
    notebook.run("import znb\ncluster = znb.Cluster.start(2, grace=0.2)").ok()
    processes = family(notebook)
    notebook.kill()
    assert wait_gone(processes) == []
    assert files(world) == []


def test_after_the_kernel_was_killed_busy_workers_exit_as_well(kernel, world):
    notebook = kernel()
    notebook.run("import znb\ncluster = znb.Cluster.start(2, grace=0.2)").ok()
    processes = family(notebook)
    cell = notebook.start(
        "cluster.run('''print('begun')\nwhile True:\n    try:\n        while True: pass\n    except KeyboardInterrupt: pass''')"
    )
    cell.wait_until(lambda cell: "begun" in plain(cell))
    notebook.kill()
    assert wait_gone(processes) == []
    assert files(world) == []


def test_a_kernel_that_comes_back_in_time_finds_its_workers(kernel):
    first = with_cluster(kernel(), 2, "--name survivor")
    first.run(remote("x = 'still here'")).ok()
    processes = family(first)
    first.kill()
    second = kernel()
    second.run("%load_ext znb\n%znb cluster connect survivor").ok()
    assert second.run(remote("x", "--on 0")).ok().value == "'still here'"
    second.run("%znb cluster stop").ok()
    assert wait_gone(processes) == []


def test_a_restarted_kernel_connects_and_ends_the_cluster_with_itself(each_kernel, world):
    notebook = with_cluster(each_kernel(), 2)
    notebook.run(remote("x = 'still here'")).ok()
    processes = family(notebook)
    notebook.restart()
    notebook.run("%load_ext znb\n%znb cluster connect").ok()
    assert notebook.run(remote("x")).ok().value == "{'w0': 'still here', 'w1': 'still here'}"
    notebook.close()
    assert wait_gone(processes) == []
    assert files(world) == []


def test_a_kernel_that_is_restarted_while_a_cell_runs_interrupts_it(kernel):
    notebook = with_cluster(kernel(), 2)
    cell = notebook.start(remote("print('begun')\nwait_for('never')"))
    cell.wait_until(lambda cell: "begun" in plain(cell))
    notebook.restart()
    notebook.run("%load_ext znb\n%znb cluster connect").ok()
    assert notebook.run(remote("1")).ok().value == "{'w0': 1, 'w1': 1}"
    notebook.run("%znb cluster stop").ok()


def test_a_cell_whose_kernel_was_killed_goes_on_and_the_next_one_is_told(kernel):
    first = with_cluster(kernel(), 2)
    cell = first.start(remote("print('begun')\nwait_for('old')\nprint('unheard')\nx = 'of the old cell'"))
    cell.wait_until(lambda cell: "begun" in plain(cell))
    first.kill()
    second = kernel()
    second.run("%load_ext znb\n%znb cluster connect").ok()
    waiting = second.start(remote("x"))
    waiting.wait_until(lambda cell: "busy with In[" in notices(cell))
    open_gate(first, "old")
    assert waiting.wait().ok().value == "{'w0': 'of the old cell', 'w1': 'of the old cell'}"


def test_a_kept_cluster_goes_on_until_it_is_stopped(kernel, world):
    notebook = with_cluster(kernel(), 2, "--keep --name kept")
    notebook.run(remote("x = 'kept'")).ok()
    processes = family(notebook)
    notebook.close()
    assert all(process.is_running() for process in processes)
    listed = zn("list")
    assert "kept" in listed.stdout
    assert "alive" in listed.stdout
    second = kernel()
    second.run("%load_ext znb\n%znb cluster connect kept").ok()
    assert second.run(remote("x", "--on 1")).ok().value == "'kept'"
    second.close()
    assert all(process.is_running() for process in processes)
    assert zn("stop", "kept").returncode == 0
    assert wait_gone(processes) == []
    assert files(world) == []


def test_a_kept_cluster_survives_the_kernel_s_violent_end_beyond_the_grace(kernel):
    notebook = kernel()
    notebook.run("import znb\ncluster = znb.Cluster.start(1, grace=0.1, keep=True, name='kept')").ok()
    processes = family(notebook)
    notebook.kill()
    assert psutil.wait_procs(processes, timeout=1.0)[0] == []
    with znb.Cluster.connect("kept") as cluster:
        assert cluster.run("1") == 1
        cluster.stop()
    assert wait_gone(processes) == []


# -- scripts


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("pass", 0),
        ("raise SystemExit(3)", 3),
        ("1 / 0", 1),
        ("import sys; sys.exit('no')", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("cluster.close(); cluster.close(); cluster.stop()", 0),
        ("import threading; threading.Thread(target=cluster.run, args=('import time; time.sleep(0.2)',)).start()", 0),
        ("cluster.submit(print, 'submitted')", 0),
        ("cluster[0].run_nowait('import time; time.sleep(600)')", 0),
        ("import os; pid = os.fork(); os._exit(0) if pid == 0 else os.wait()", 0),
        ("import os; pid = os.fork(); raise SystemExit(0) if pid == 0 else os.wait()[1] and 1", None),
    ],
)
def test_a_script_that_ends_leaves_nothing(world, end, status):
    source = f"import znb\ncluster = znb.Cluster.start(2)\nprint([w.pid for w in cluster.workers], flush=True)\n{end}\n"
    with script(source, world) as running:
        workers = eval(running.stdout.readline())
        output = running.communicate(timeout=60)[0]
    if status is not None:
        assert running.returncode == status, output
    assert wait_gone([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)]) == []
    assert files(world) == []


def test_a_killed_script_s_workers_exit_by_themselves(world):
    source = """
    import znb, sys
    cluster = znb.Cluster.start(2, grace=0.2)
    print([w.pid for w in cluster.workers], flush=True)
    sys.stdin.read()
    """
    with script(source, world) as running:
        workers = [psutil.Process(pid) for pid in eval(running.stdout.readline())]
        running.kill()
    assert wait_gone(workers) == []


def test_a_with_block_ends_the_cluster(world):
    source = """
    import psutil, znb
    with znb.Cluster.start(2) as cluster:
        workers = [psutil.Process(w.pid) for w in cluster.workers]
    print(psutil.wait_procs(workers, timeout=30)[1], cluster.closed)
    """
    assert run_script(source, world) == "[] True\n"


def test_many_clusters_at_once_and_one_after_the_other(world):
    source = """
    import znb
    clusters = [znb.Cluster.start(1, name=f"c{n}") for n in range(4)]
    print([c.run(str(n)) for n, c in enumerate(clusters)])
    for c in clusters: c.stop()
    for n in range(4):
        with znb.Cluster.start(1) as c: print(c.run(str(n)))
    """
    assert run_script(source, world) == "[0, 1, 2, 3]\n0\n1\n2\n3\n"


def test_a_zygote_that_is_killed_takes_its_workers_along_and_the_notebook_says_so(kernel):
    notebook = with_cluster(kernel(), 2)
    processes = family(notebook)
    cell = notebook.start(remote("print('begun')\nwait_for('never')"))
    cell.wait_until(lambda cell: "begun" in plain(cell))
    processes[0].kill()
    assert cell.wait().error is not None
    assert wait_gone(processes) == []
    failed = notebook.run(remote("1"))
    assert failed.reply["status"] == "error"
    notebook.run("%znb cluster start 1").ok()
    assert notebook.run(remote("1")).ok().value == "1"


def test_a_forked_child_leaves_the_with_block_at_once(world):
    source = """
    import os, sys, znb
    with znb.Cluster.start(1) as cluster:
        later = cluster.submit(pow, 2, 3)
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            print(later.result())
    if not child:
        os._exit(0)
    """
    assert run_script(source, world).strip() == "8"
