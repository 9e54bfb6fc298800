import os
import resource
import signal
from pathlib import Path

import pytest

from cluster_harness import PATIENCE, harness, is_gone, wait_gone, wait_until
from znb.errors import NoWorkers, ZnbError
from znb.postmortem import MEANINGS


@pytest.fixture
def cluster():
    with harness(2) as made:
        yield made


def names(snapshot):
    return [(worker.name, worker.generation, worker.state) for worker in snapshot.workers]


# -- deaths


@pytest.mark.parametrize(
    ("code", "exit_status", "signum", "meaning"),
    [
        ("os._exit(3)", 3, None, "exited with status 3 (os._exit or sys.exit)"),
        ("os.kill(os.getpid(), 9)", None, signal.SIGKILL, "was killed by SIGKILL: killed from outside"),
        ("faulthandler._sigsegv()", None, signal.SIGSEGV, "was killed by SIGSEGV: invalid memory access in native code"),
        ("faulthandler._sigabrt()", None, signal.SIGABRT, "was killed by SIGABRT: " + MEANINGS["SIGABRT"]),
    ],
)  # fmt: skip
def test_a_worker_that_dies_is_certified_and_replaced_under_its_name(cluster, code, exit_status, signum, meaning):
    before = cluster.worker()
    cluster.tell("w0", "print('last words')\n" + code)
    event = cluster.wait_event("died", "w0")
    certificate = event.certificate
    assert (certificate.name, certificate.generation, certificate.pid) == ("w0", 1, before.pid)
    assert (certificate.exit_status, certificate.signal) == (exit_status, signum)
    assert certificate.meaning.startswith(meaning.partition(":")[0])
    if certificate.oom is False:
        assert certificate.meaning == meaning
    assert certificate.tail == "last words\n"
    assert ("Fatal Python error" in certificate.dump) == (signum in {signal.SIGSEGV, signal.SIGABRT})
    assert certificate.peak_rss_bytes > 1_000_000
    assert certificate.was_ready
    assert not certificate.intentional
    assert 0 <= certificate.uptime < PATIENCE
    assert str(certificate).startswith(
        f"w0 (pid {before.pid}) was killed" if signum else f"w0 (pid {before.pid}) exited"
    )
    assert "last words" in str(certificate)
    replacement = cluster.wait_event("ready", "w0", 2).worker
    assert cluster.names().index("died") < cluster.names().index("replaced")
    assert replacement.pid not in {before.pid, 0}
    assert replacement.calls != before.calls
    assert names(cluster.launcher.workers()) == [("w0", 2, "ready"), ("w1", 1, "ready")]
    assert is_gone(before.pid)


def test_a_worker_can_die_any_number_of_times_if_it_has_served(cluster):
    for generation in range(1, 8):
        cluster.wait_event("ready", "w0", generation)
        cluster.tell("w0", "os._exit(9)")
    assert cluster.wait_event("ready", "w0", 8).worker.state == "ready"


def test_all_workers_can_die_at_once():
    with harness(6) as cluster:
        for worker in cluster.launcher.workers().workers:
            os.kill(worker.pid, signal.SIGKILL)
        for number in range(6):
            cluster.wait_event("ready", f"w{number}", 2)


def test_a_worker_that_never_gets_ready_is_given_up_with_what_it_wrote():
    with harness() as cluster:
        with pytest.raises(NoWorkers, match="w0 ended 3 times before it served") as caught:
            cluster.start(1, entry="toy_worker:broken")
        assert "RuntimeError: w0 is broken" in str(caught.value)
        assert "exited with status 1" in str(caught.value)
        assert cluster.names().count("died") == 3
        assert not cluster.launcher.file


def test_a_worker_that_was_given_up_can_be_tried_again(runtime_dir):
    mended = runtime_dir / "default/mended"
    with harness() as cluster:
        cluster.start(0, entry="toy_worker:broken_unless_mended")
        with pytest.raises(NoWorkers, match="w0 ended 3 times"):
            cluster.launcher.scale(1)
        assert cluster.wait_event("gave_up", "w0").certificate.exit_status == 4
        assert names(cluster.launcher.workers()) == [("w0", 3, "dead")]
        assert cluster.worker().pid == 0
        mended.touch()
        for again in (lambda: cluster.launcher.restart(["w0"]), lambda: cluster.launcher.scale(2)):
            assert names(again())[0] == ("w0", 4, "ready")
        mended.unlink()
        cluster.tell("w0", "os._exit(1)")
        cluster.wait_event("gave_up", "w0", 7)
        mended.touch()
        assert names(cluster.launcher.scale(2))[0] == ("w0", 8, "ready")


def test_a_worker_that_is_killed_at_its_start_has_more_patience():
    with harness() as cluster:
        cluster.start(0, entry="toy_worker:never_ready")
        future = cluster.launcher.request_nowait("start", n=1)
        for generation in range(1, 11):
            found = cluster.wait_event("started" if generation == 1 else "replaced", "w0", generation)
            os.kill(found.worker.pid, signal.SIGKILL)
        with pytest.raises(NoWorkers, match="w0 ended 10 times before it served"):
            future.result(PATIENCE)
        assert cluster.wait_event("gave_up").certificate.signal == signal.SIGKILL


def test_no_room_for_a_process_is_said_and_the_others_go_on(cluster):
    pid = cluster.launcher.file.zygote_pid
    used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 2, before[1]))
    with pytest.raises(NoWorkers, match=r"w2 could not be started: .*Too many open files"):
        cluster.launcher.scale(3)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert names(cluster.launcher.workers())[2] == ("w2", 1, "dead")
    assert names(cluster.launcher.scale(3))[2] == ("w2", 2, "ready")


# -- what clients ask for


def test_kill_is_intentional_and_followed_by_a_replacement(cluster):
    assert [worker.name for worker in cluster.launcher.kill(["w1"]).workers] == ["w0", "w1"]
    certificate = cluster.wait_event("died", "w1").certificate
    assert certificate.intentional
    assert certificate.signal == signal.SIGKILL
    assert certificate.oom is False
    cluster.wait_event("ready", "w1", 2)


def test_signals_reach_the_worker_and_its_children_if_asked(cluster, tmp_path):
    cluster.tell(
        "w0", f"child = subprocess.Popen(['sleep', '1000']); Path('{tmp_path}/pid').write_text(str(child.pid))"
    )
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the child")
    child = int((tmp_path / "pid").read_text())
    cluster.tell("w0", f"signal.signal(signal.SIGUSR1, lambda *_: Path('{tmp_path}/usr1').touch())")
    cluster.tell("w0", f"Path('{tmp_path}/installed').touch()")
    wait_until((tmp_path / "installed").exists, "the handler")
    cluster.launcher.signal(["w0"], signal.SIGUSR1)
    wait_until((tmp_path / "usr1").exists, "the signal")
    assert not is_gone(child)
    cluster.launcher.signal(["w0"], signal.SIGUSR1, group=True)
    wait_until(lambda: is_gone(child), "the end of the child")
    assert cluster.worker().generation == 1


def test_scaling_up_and_down(cluster):
    pids = [worker.pid for worker in cluster.launcher.workers().workers]
    assert names(cluster.launcher.scale(4)) == [(f"w{number}", 1, "ready") for number in range(4)]
    four = cluster.launcher.workers().workers
    assert [worker.pid for worker in four[:2]] == pids
    assert names(cluster.launcher.scale(1)) == [("w0", 1, "ready")]
    assert all(is_gone(worker.pid) for worker in four[1:])
    assert {event.worker.name for event in cluster.events if event.event == "stopped"} == {"w1", "w2", "w3"}
    assert all(event.certificate.intentional for event in cluster.events if event.event == "stopped")
    assert "died" not in cluster.names()
    assert names(cluster.launcher.scale(3)) == [("w0", 1, "ready"), ("w1", 2, "ready"), ("w2", 2, "ready")]
    scaled = [[worker.name for worker in event.workers] for event in cluster.events if event.event == "scaled"]
    assert scaled == [["w0", "w1"], ["w0", "w1", "w2", "w3"], ["w0"], ["w0", "w1", "w2"]]
    assert cluster.launcher.scale(0).workers == ()
    assert names(cluster.launcher.scale(1)) == [("w0", 2, "ready")]


def test_a_worker_that_retires_is_gone_and_its_name_free(cluster):
    cluster.launcher.scale(3)
    pid = cluster.worker("w1").pid
    assert names(cluster.launcher.retire(["w1"])) == [("w0", 1, "ready"), ("w2", 1, "ready")]
    assert is_gone(pid)
    assert "died" not in cluster.names()
    with pytest.raises(ZnbError, match="there is no worker w1; there are w0, w2"):
        cluster.launcher.retire(["w1", "w2"])
    assert names(cluster.launcher.scale(3)) == [("w0", 1, "ready"), ("w1", 2, "ready"), ("w2", 1, "ready")]
    assert cluster.launcher.retire(["w0", "w1", "w2"]).workers == ()


def test_scaling_up_again_before_the_others_have_left(cluster):
    cluster.launcher.signal(["w1"], signal.SIGUSR2)
    cluster.wait_event("ready", "w1", 2)
    cluster.tell("w1", "signal.signal(signal.SIGTERM, signal.SIG_IGN); os.close(2)")
    wait_until(lambda: not is_gone(cluster.worker("w1").pid), "w1")
    down = cluster.launcher.request_nowait("scale", n=1)
    up = cluster.launcher.request_nowait("scale", n=2)
    assert names(up.result(PATIENCE)) == [("w0", 1, "ready"), ("w1", 3, "ready")]
    down.result(PATIENCE)


@pytest.mark.parametrize("n", [-1, 10_001])
def test_impossible_sizes_are_refused(cluster, n):
    with pytest.raises(ZnbError, match=f"cannot scale to {n} workers: expected 0 to 10000"):
        cluster.launcher.scale(n)
    with pytest.raises(ZnbError, match="cannot start 9999 more workers: there may be 10000, and are 2"):
        cluster.launcher._request("start", PATIENCE, n=9999)


def test_workers_are_started_by_name(cluster):
    started = cluster.launcher._request("start", PATIENCE, names=("w1", "w7"))
    assert names(started) == [("w0", 1, "ready"), ("w1", 1, "ready"), ("w7", 1, "ready")]
    assert names(cluster.launcher._request("start", PATIENCE, n=1))[2] == ("w2", 1, "ready")
    with pytest.raises(ZnbError, match="'x' cannot name a worker: expected w0 to w9999"):
        cluster.launcher._request("start", PATIENCE, names=("x",))


def test_restart_replaces_all_or_some(cluster):
    before = [worker.pid for worker in cluster.launcher.workers().workers]
    assert names(cluster.launcher.restart()) == [("w0", 2, "ready"), ("w1", 2, "ready")]
    wait_gone(*before)
    assert names(cluster.launcher.restart(["w1"])) == [("w0", 2, "ready"), ("w1", 3, "ready")]
    assert "died" not in cluster.names()
    with pytest.raises(ZnbError, match="there is no worker w5, w6; there are w0, w1"):
        cluster.launcher.restart(["w5", "w0", "w6"])


def test_sockets_of_a_worker_that_was_killed_are_removed():
    with harness(1) as cluster:
        before = cluster.worker()
        Path(before.calls.removeprefix("ipc://")).touch()  # toy workers have none
        cluster.launcher.kill(["w0"])
        cluster.wait_event("ready", "w0", 2)
        assert not Path(before.calls.removeprefix("ipc://")).exists()


def test_workers_are_not_made_where_nobody_could_reach_them():
    with harness(1) as cluster:
        folder = Path(cluster.worker().calls.removeprefix("ipc://")).parent
        folder.rename(folder.with_name("elsewhere"))
        cluster.launcher.kill(["w0"])
        assert "was removed from outside" in cluster.wait_event("gave_up", "w0").reason
        folder.with_name("elsewhere").rename(folder)


def test_a_worker_that_is_stopped_or_ignores_sigterm_is_restarted_all_the_same():
    with harness(2, stop_grace=0.1) as cluster:
        cluster.tell("w0", "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ignoring')")
        cluster.launcher.signal(["w1"], signal.SIGSTOP)
        assert names(cluster.launcher.restart()) == [("w0", 2, "ready"), ("w1", 2, "ready")]


def test_spawned_workers_are_supervised_as_well():
    with harness(1, fork=False) as cluster:
        cluster.tell("w0", "faulthandler._sigsegv()")
        assert cluster.wait_event("died", "w0").certificate.dump
        cluster.wait_event("ready", "w0", 2)
        assert names(cluster.launcher.scale(2)) == [("w0", 2, "ready"), ("w1", 1, "ready")]
    with harness() as cluster, pytest.raises(NoWorkers, match="RuntimeError: w0 is broken"):
        cluster.start(1, fork=False, entry="toy_worker:broken")
