import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_harness import harness, is_gone, wait_gone, wait_until
from znb.child import load_function


@pytest.fixture(params=[True, False], ids=["fork", "spawn"])
def cluster(request):
    with harness(2, fork=request.param) as made:
        yield made


def ask(cluster, path, expression, name="w0"):
    """Return the value of an expression in a worker, by way of a file."""
    cluster.tell(name, f"import json; Path({str(path)!r}).write_text(json.dumps({expression}))")
    wait_until(lambda: path.exists() and path.read_text(), f"{expression} of {name}")
    value = json.loads(path.read_text())
    path.unlink()
    return value


def descriptors(pid):
    return sorted(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())


def test_a_worker_holds_no_descriptor_but_its_own(cluster, tmp_path):
    for name in ("w0", "w1"):
        worker = cluster.worker(name)
        spec = ask(cluster, tmp_path / "x", "[spec.parent_fd, spec.crash_fd, orders.fileno()]", name)
        assert descriptors(worker.pid) == sorted([0, 1, 2, *spec])
        assert str(Path(f"/proc/{worker.pid}/fd/0").readlink()) == os.devnull


def test_a_worker_is_set_up(cluster, tmp_path):
    worker = cluster.worker()
    assert Path(f"/proc/{worker.pid}/comm").read_text() == "znb:w0\n"
    identity = "[os.getpgrp(), os.getsid(0), spec.name, spec.generation, spec.cluster]"
    session = os.getsid(cluster.launcher.file.zygote_pid)
    assert ask(cluster, tmp_path / "x", identity) == [worker.pid, session, "w0", 1, "default"]
    assert session != os.getsid(0), "Ctrl-C in this terminal does not reach it"
    assert ask(cluster, tmp_path / "x", "__import__('gc').isenabled()")
    assert ask(cluster, tmp_path / "x", "len(os.listdir('/proc/self/task'))") == 1
    for signum, handler in (
        ("INT", "default_int_handler"),
        ("TERM", "SIG_DFL"),
        ("HUP", "SIG_DFL"),
        ("CHLD", "SIG_DFL"),
    ):
        assert ask(cluster, tmp_path / "x", f"signal.getsignal(signal.SIG{signum}) is signal.{handler}"), signum


def test_exit_handlers_run(cluster):
    cluster.tell("w0", "atexit.register(print, 'a last word'); sys.exit(7)")
    certificate = cluster.wait_event("died", "w0").certificate
    assert certificate.exit_status == 7
    assert certificate.tail == "a last word\n"


def test_what_a_worker_has_started_ends_with_it(cluster, tmp_path):
    child = ask(cluster, tmp_path / "x", "subprocess.Popen(['sleep', '1000']).pid")
    assert not is_gone(child)
    cluster.launcher.kill(["w0"])
    cluster.wait_event("died", "w0")
    wait_gone(child)


def test_the_last_output_is_kept_and_no_more(cluster):
    cluster.tell("w0", "print('x' * 20000); sys.stderr.write('the end'); sys.stderr.flush(); os._exit(3)")
    certificate = cluster.wait_event("died", "w0").certificate
    assert certificate.tail == "x" * (8192 - 8) + "\nthe end"


def test_a_worker_may_close_its_output(cluster):
    cluster.tell("w0", "os.close(1); os.close(2)")
    cluster.tell("w0", "os._exit(5)")
    assert cluster.wait_event("died", "w0").certificate.exit_status == 5
    cluster.wait_event("ready", "w0", 2)


@pytest.mark.parametrize("end", ["sys.exit('bye')", "raise RuntimeError('bye')"])
def test_uncaught_errors_are_status_1_and_shown(cluster, end):
    cluster.tell("w0", end)
    certificate = cluster.wait_event("died", "w0").certificate
    assert certificate.exit_status == 1
    assert "bye" in certificate.tail


@pytest.mark.parametrize(("end", "status"), [("sys.exit()", 0), ("sys.exit(258)", 2)])
def test_exit_statuses(end, status):
    with harness(1) as cluster:
        cluster.tell("w0", end)
        assert cluster.wait_event("died", "w0").certificate.exit_status == status


def test_a_main_that_returns_is_status_0():
    with harness() as cluster:
        cluster.start(1, entry="toy_worker:returns")
        certificate = cluster.wait_event("died", "w0").certificate
        assert certificate.exit_status == 0
        assert certificate.tail == "a last word\n"
        assert certificate.was_ready


def test_workers_get_the_environment_and_directory(tmp_path):
    with harness(1, env={"FLAVOUR": "sour"}, cwd=str(tmp_path)) as cluster:
        assert ask(cluster, tmp_path / "x", "[os.environ['FLAVOUR'], os.getcwd()]") == ["sour", str(tmp_path)]


def test_signals_before_the_first_line_do_not_end_the_parent():
    with harness(1) as cluster:
        for signum in (signal.SIGHUP, signal.SIGINT):
            os.kill(cluster.launcher.file.zygote_pid, signum)
        assert cluster.worker().state == "ready"


def test_functions_are_loaded_by_name():
    assert load_function("os.path:join") is os.path.join
    with pytest.raises(ImportError, match="the module os has no function 'nothing'"):
        load_function("os:nothing")
    with pytest.raises(ImportError, match="no_such_module"):
        load_function("no_such_module:main")


def test_threads_are_counted():
    code = (
        "import threading, znb.child as c; a = c.is_single_threaded(); e = threading.Event(); "
        "t = threading.Thread(target=e.wait); t.start(); print(a, c.is_single_threaded()); e.set()"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True False\n"
