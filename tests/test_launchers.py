import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster_harness import PATIENCE, Harness, harness, is_gone, wait_gone, wait_until
from znb import launchers
from znb.connection import list_clusters, process_start, wait_process_end
from znb.errors import CallTimeout, NoWorkers, ProtocolError, ServiceUnavailable, ZnbError
from znb.launchers import StartOptions, Where, local, make_launcher, parse_where
from znb.launchers.local import LocalLauncher
from znb.wire import WIRE_VERSION


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("local", Where("local", "")),
        (" local ", Where("local", "")),
        ("ssh:alpha*4,beta", Where("ssh", "alpha*4,beta")),
        ("dask:tcp://host:8786", Where("dask", "tcp://host:8786")),
        ("slurm", Where("slurm", "")),
    ],
)
def test_places(where, expected):
    assert parse_where(where) == expected


def test_launchers_are_made_by_name(monkeypatch):
    assert isinstance(make_launcher("local", None, None), LocalLauncher)
    with pytest.raises(ZnbError, match=r"no launcher 'mars' \(in 'mars:olympus'\); there are: .*local.*znb.launchers"):
        make_launcher("mars:olympus", None, None)
    with pytest.raises(ZnbError, match="'local:2' is no place for workers: expected 'local' alone"):
        make_launcher("local:2", None, None)


def test_a_package_can_add_a_launcher(monkeypatch, tmp_path):
    info = tmp_path / "mars-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mars\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{launchers.GROUP}]\nmars = mars:Launcher\n")
    (tmp_path / "mars.py").write_text("class Launcher:\n    def __init__(self, *args): self.args = args\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert make_launcher("mars:olympus", "reactor", "on_event").args == ("olympus", "reactor", "on_event")


# -- starting


def test_workers_are_ready_when_start_returns(runtime_dir):
    with harness() as cluster:
        snapshot = cluster.start(3)
        assert [(worker.name, worker.state) for worker in snapshot.workers] == [(f"w{n}", "ready") for n in range(3)]
        for worker in snapshot.workers:
            assert Path(worker.calls.removeprefix("ipc://")).is_socket()
        assert not cluster.launcher.reused
        assert cluster.names() == ["started"] * 3 + ["scaled"] + ["ready"] * 3
        assert [entry.state for entry in list_clusters()] == ["alive"]


def test_a_second_start_of_the_name_gets_the_running_one():
    with harness(2, name="x") as first:
        second = Harness()
        snapshot = second.start(5, name="x")
        assert second.launcher.reused
        assert snapshot.pid == first.launcher.file.zygote_pid
        assert len(snapshot.workers) == 2
        second.launcher.detach()
        second.reactor.stop()
        assert len(first.launcher.workers().workers) == 2


def test_of_many_that_start_one_does(runtime_dir):
    made = [Harness() for _ in range(4)]
    snapshots = []
    threads = [threading.Thread(target=lambda h=h: snapshots.append(h.start(1))) for h in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({snapshot.pid for snapshot in snapshots}) == 1
    assert sorted(h.launcher.reused for h in made) == [False, True, True, True]
    for h in sorted(made, key=lambda h: not h.launcher.reused):
        h.close()
    assert list(runtime_dir.iterdir()) == []


def test_clusters_of_different_names_do_not_meet():
    with harness(1, name="a") as a, harness(1, name="b") as b:
        assert a.launcher.file.zygote_pid != b.launcher.file.zygote_pid
        a.launcher.stop()
        assert b.launcher.workers().workers


def test_a_dead_cluster_is_replaced(runtime_dir):
    with harness(1) as first:
        file = first.launcher.file
        os.kill(file.zygote_pid, signal.SIGKILL)
        wait_gone(file.zygote_pid)
        with harness(1) as second:
            assert not second.launcher.reused
            assert second.launcher.file.zygote_pid != file.zygote_pid
            first.launcher.stop()
            assert second.launcher.workers().workers[0].state == "ready", "the first one's end is not the second one's"


def test_a_deep_runtime_directory_is_no_obstacle(tmp_path, monkeypatch):
    deep = tmp_path / ("deep" * 25)
    monkeypatch.setenv("ZNB_RUNTIME_DIR", str(deep))
    with harness(1) as cluster:
        sockets = Path(cluster.launcher.file.control).parent
        assert not sockets.is_relative_to(deep)
        assert [entry.state for entry in list_clusters()] == ["alive"]
        cluster.launcher.restart()
    assert not sockets.exists()
    assert list(deep.iterdir()) == []


def test_a_zygote_that_cannot_start_is_shown(runtime_dir):
    with harness() as cluster, pytest.raises(NoWorkers) as caught:
        cluster.start(1, entry="no_such_module:main")
    assert "the cluster 'default' could not be started: its first process ended with status 1" in str(caught.value)
    assert "No module named 'no_such_module'" in str(caught.value)
    assert list(runtime_dir.iterdir()) == []


def test_an_interpreter_without_znb_is_told_what_to_install(runtime_dir, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    with harness() as cluster, pytest.raises(NoWorkers, match=r"No module named 'znb'[\s\S]*pip install znb"):
        cluster.start(1, python=str(python))
    with harness() as cluster, pytest.raises(NoWorkers, match="cannot run /no/python"):
        cluster.start(1, python="/no/python")
    with harness() as cluster, pytest.raises(NoWorkers, match=r"cannot run .* in /no/directory"):
        cluster.start(1, cwd="/no/directory")
    assert list(runtime_dir.iterdir()) == []


def test_another_interpreter_runs_the_workers(tmp_path):
    python = tmp_path / "python"
    tests = Path(__file__).parent
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tests}:{tests.parent} FLAVOUR=own exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with harness(1, python=str(python)) as cluster:
        cluster.tell("w0", f"Path('{tmp_path}/x').write_text(os.environ['FLAVOUR'])")
        wait_until(lambda: (tmp_path / "x").exists() and (tmp_path / "x").read_text() == "own", "the answer")


def test_a_start_that_takes_too_long_is_ended_with_what_was_written(runtime_dir):
    with harness() as cluster:
        with pytest.raises(CallTimeout, match=r"starting 1 workers of 'default' took longer than the 0.5 s") as caught:
            cluster.start(1, entry="toy_worker:never_ready", preload=("no_such_module",), timeout=0.5)
        assert "cannot preload no_such_module" in caught.value.__notes__[0]
        assert list(runtime_dir.iterdir()) == []


def test_a_zygote_that_is_stuck_in_its_imports_is_killed(runtime_dir, tmp_path, monkeypatch):
    (tmp_path / "stuck.py").write_text("import signal\nsignal.pause()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with harness() as cluster, pytest.raises(CallTimeout):
        cluster.start(1, preload=("stuck",), timeout=0.3)
    assert list(runtime_dir.iterdir()) == []


def test_an_interrupted_start_leaves_nothing(runtime_dir):
    with harness() as cluster:
        cluster.launcher._request = interrupt_at(cluster.launcher._request, "start")
        with pytest.raises(KeyboardInterrupt):
            cluster.start(2)
        assert list(runtime_dir.iterdir()) == []
        assert is_gone(cluster.launcher._process.pid)


def interrupt_at(original, op):
    def request(asked, *args, **kwargs):
        if asked == op:
            raise KeyboardInterrupt
        return original(asked, *args, **kwargs)

    return request


def test_workers_of_another_wire_version_are_refused_with_both_numbers(monkeypatch, runtime_dir):
    monkeypatch.setattr(local, "WIRE_VERSION", 7)
    with (
        harness() as cluster,
        pytest.raises(
            ProtocolError, match=f"speak version {WIRE_VERSION} of the wire protocol, this process version 7"
        ),
    ):
        cluster.start(1)
    assert list(runtime_dir.iterdir()) == []
    monkeypatch.undo()
    with harness(1) as cluster, harness() as second:
        monkeypatch.setattr(local, "WIRE_VERSION", 7)
        with pytest.raises(ProtocolError, match="use the same version of znb"):
            second.launcher.connect(cluster.launcher.file)
        assert second.launcher._client is None
        monkeypatch.undo()


# -- connecting and leaving


def test_what_is_not_connected_says_so():
    with harness() as cluster:
        with pytest.raises(ServiceUnavailable, match="not connected to a cluster"):
            cluster.launcher.workers()
        cluster.launcher.stop()
        cluster.launcher.detach()


def test_connecting_to_what_is_gone_is_said():
    with harness(1) as cluster:
        file = cluster.launcher.file
    with harness() as late:
        with pytest.raises(ServiceUnavailable, match="does not answer"):
            late.launcher.connect(file)
        assert late.launcher._client is None


def test_a_client_that_did_not_start_it_can_stop_it(runtime_dir):
    with harness(2) as first, harness() as second:
        everybody = [worker.pid for worker in first.launcher.workers().workers]
        second.launcher.connect(first.launcher.file)
        second.launcher.stop()
        assert all(is_gone(pid) for pid in [*everybody, first.launcher.file.zygote_pid])
        assert list(runtime_dir.iterdir()) == []
        first.wait_event("stopping")
        first.wait_event("lost")


def test_detaching_lets_it_go_on():
    with harness(1) as first, harness() as second:
        file = first.launcher.file
        second.launcher.connect(file)
        first.launcher.detach()
        assert not is_gone(file.zygote_pid)
        assert second.launcher.workers().clients == 1
        second.launcher.stop()
        os.waitpid(file.zygote_pid, 0)


def test_a_frozen_zygote_is_ended_by_force(runtime_dir, monkeypatch, caplog):
    monkeypatch.setattr(local, "STOP_TIMEOUT", 0.1)
    monkeypatch.setattr(local, "EXIT_TIMEOUT", 0.1)
    with harness(2, stop_grace=0.1) as cluster:
        everybody = [worker.pid for worker in cluster.launcher.workers().workers]
        cluster.launcher.signal(["w1"], signal.SIGSTOP)
        os.kill(cluster.launcher.file.zygote_pid, signal.SIGSTOP)
        with caplog.at_level(logging.WARNING):
            cluster.launcher.stop()
        assert "does not end when asked to; it is killed" in caplog.text
        wait_gone(*everybody, cluster.launcher.file.zygote_pid)
        assert list(runtime_dir.iterdir()) == []


def test_a_request_that_takes_too_long_is_said(monkeypatch):
    monkeypatch.setattr(local, "ANSWER_TIMEOUT", 0.05)
    with harness(1) as cluster:
        pid = cluster.launcher.file.zygote_pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(CallTimeout, match=r"the request 'workers' to the zygote took longer than the 0.05 s"):
            cluster.launcher.workers()
        os.kill(pid, signal.SIGCONT)
        monkeypatch.undo()
        assert cluster.launcher.workers().workers


def test_requests_that_wait_when_the_zygote_dies_fail():
    with harness(1) as cluster:
        cluster.launcher.request_nowait("workers").result(PATIENCE)
        cluster.tell("w0", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
        os.kill(cluster.launcher.file.zygote_pid, signal.SIGSTOP)
        future = cluster.launcher.request_nowait("restart")
        os.kill(cluster.launcher.file.zygote_pid, signal.SIGKILL)
        with pytest.raises(ServiceUnavailable):
            future.result(PATIENCE)


def test_a_fork_of_the_client_does_not_hold_the_cluster():
    with harness(1, grace=0.2) as cluster:
        file = cluster.launcher.file
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        cluster.vanish()
        wait_gone(file.zygote_pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_closing_works_when_the_reactor_has_ended(monkeypatch):
    monkeypatch.setattr(local, "EXIT_TIMEOUT", 0.2)
    with harness(1) as cluster:
        cluster.reactor.stop()
        cluster.launcher._close()
        assert cluster.launcher._client is None
        os.kill(cluster.launcher.file.zygote_pid, signal.SIGTERM)
        wait_gone(cluster.launcher.file.zygote_pid)


def test_waiting_for_a_process_that_is_no_child():
    with subprocess.Popen(["sleep", "1000"]) as process:
        start = process_start(process.pid)
        assert not wait_process_end(process.pid, start, 0.05)
        process.kill()
        assert wait_process_end(process.pid, start, PATIENCE)
    assert wait_process_end(process.pid, start, 0)


def test_the_default_options_are_those_of_the_design():
    options = StartOptions()
    assert (options.name, options.grace, options.keep, options.fork) == ("default", 300.0, False, True)
    assert options.entry == "znb.worker:main"
    with contextlib.suppress(ImportError):
        import znb.worker

        assert callable(znb.worker.main)
