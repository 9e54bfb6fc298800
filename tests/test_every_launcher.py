"""What holds on every launcher: one suite, run on each."""

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest

import znb
from cluster_harness import PATIENCE, wait_until
from engines import PLACES, place
from znb import Cluster, connect, expose, unexpose
from znb.errors import ServiceUnavailable, WorkerLost, ZnbError
from znb.rpc.registry import find_service, list_services

#: Other hosts do not know where this module is.
HERE = {"PYTHONPATH": str(Path(__file__).parent)}


@pytest.fixture(scope="module", params=PLACES)
def where(request, module_world):
    with pytest.MonkeyPatch.context() as monkeypatch:
        with place(request.param, module_world.home.parent / request.param[:3], monkeypatch) as made:
            yield made


@pytest.fixture(scope="module")
def cluster(where, module_world):
    """For tests that neither kill nor add."""
    with Cluster.start(2, on=where, name="all", env=HERE) as made:
        wait_until(lambda: len(made._attached.jobs._peers) == len(made), "every connection")
        yield made


def test_cells(cluster):
    assert cluster.run("x = 6 * 7\nx") == {"w0": 42, "w1": 42}
    cluster["w1"].push(y=[1, 2])
    assert cluster["w1"].pull("y") == [1, 2]
    with pytest.raises(ZeroDivisionError) as caught:
        cluster["w0"].run("1 / 0")
    assert "on w0" in str(caught.value.__notes__)


def test_output(cluster, capfd):
    cluster["w0"].run("print('é' * 3); import sys; print('no', file=sys.stderr)")
    written = capfd.readouterr()
    assert "ééé" in written.out + written.err
    assert "no" in written.out + written.err


def test_much_output(cluster, capfd):
    cluster["w0"].run("for i in range(20_000): print(i)")
    assert "19999" in "".join(capfd.readouterr())


def test_jobs(cluster):
    assert list(cluster.map(lambda x: x * x, range(500))) == [x * x for x in range(500)]
    assert cluster.submit(pow, 2, 10).result() == 1024
    assert {cluster.submit(os.getpid).result() for _ in range(20)} <= {worker.pid for worker in cluster.workers}


def test_large_values(cluster):
    data = os.urandom(5_000_000)
    assert cluster.submit(lambda blob: blob[::-1], data).result() == data[::-1]


def check_a_job_whose_worker_dies_is_run_again(own, tmp_path):
    flag = tmp_path / "once"
    result = own.submit(die_once, str(flag), os.getpid()).result()
    assert result == "second time"


def die_once(flag, _parent):
    if not os.path.exists(flag):
        open(flag, "w").close()
        os.kill(os.getpid(), 9)
    return "second time"


def check_a_cell_whose_worker_dies_says_so(own, tmp_path):
    with pytest.raises(WorkerLost, match=r"w0 \(pid \d+\) was killed by SIGKILL"):
        own["w0"].run("print('so long', flush=True)\nimport os; os.kill(os.getpid(), 9)")
    assert own["w0"].run("'x' in globals()") is False


def check_a_killed_worker_is_replaced_under_its_name(own, tmp_path):
    before = {worker.name: (worker.pid, worker.generation) for worker in own.workers}
    own.kill("w1")
    wait_until(lambda: own.workers[1].generation > before["w1"][1], "a replacement")
    assert own["w1"].run("1 + 1") == 2
    assert own.workers[0].pid == before["w0"][0]


def check_changed_keys_hold_for_all(own, tmp_path):
    if own._attached.launcher.file.keys is None:
        return
    before = own._attached.launcher.file.keys
    with Cluster.connect(own.connection_file, observe=True) as other:
        own.rotate_keys()
        assert own._attached.launcher.file.keys != before
        generation = own.workers[0].generation
        own.kill("w0")
        for client in (own, other):
            wait_until(lambda client=client: client.workers[0].generation > generation, "the next w0")
            assert client.run("1 + 1") == {"w0": 2, "w1": 2}


def check_restart(own, tmp_path):
    own["w0"].push(gone=1)
    before = [worker.pid for worker in own.workers]
    own.restart("w0")
    assert own["w0"].run("'gone' in globals()") is False
    assert own.workers[0].pid != before[0]
    assert own.workers[1].pid == before[1]


def check_scale(own, tmp_path):
    own.scale(4)
    assert own.names == ("w0", "w1", "w2", "w3")
    assert list(own.run("2 + 2").values()) == [4] * 4
    own.scale(1)
    assert own.names == ("w0",)
    assert own.submit(pow, 3, 2).result() == 9


def check_workers_that_come_are_used_by_a_map_under_way(own, tmp_path):
    own.scale(1)
    go = tmp_path / "go"
    results = own.map(wait_for, [str(go)] * 40, buffersize=40)
    threading.Thread(target=lambda: (own.scale(2), go.touch())).start()
    assert len(set(results)) == 2


def wait_for(path):
    import time

    while not os.path.exists(path):
        time.sleep(0.01)
    time.sleep(0.02)
    return os.getpid()


def test_interrupt(cluster):
    with interrupted_when(lambda: cluster.workers[0].state == "busy"), pytest.raises(KeyboardInterrupt):
        cluster["w0"].run("import time\ntime.sleep(1000)")
    assert cluster["w0"].run("'still there'") == "still there"
    with interrupted_when(lambda: any(worker.state == "busy" for worker in cluster.workers)):
        with pytest.raises(KeyboardInterrupt):
            list(cluster.map(sleep_long, range(10)))
    assert cluster.submit(pow, 2, 3).result() == 8


def sleep_long(_):
    import time

    time.sleep(1000)


@contextlib.contextmanager
def interrupted_when(condition):
    """Press the interrupt key once something is so."""

    def press():
        wait_until(condition, "a busy worker")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def check_a_second_client(own, tmp_path):
    own["w0"].push(shared="seen by both")
    before = own.workers[0].generation
    with Cluster.connect(own.connection_file, observe=True) as other:
        assert other.names == ("w0", "w1")
        assert other["w0"].pull("shared") == "seen by both"
        assert list(other.map(abs, [-1, 2])) == [1, 2]
        other.kill("w0")
    with pytest.raises(ZnbError, match="there is no cluster of this name"):
        Cluster.connect("nothing")
    wait_until(lambda: own.workers[0].generation > before, "the replacement")
    assert own["w0"].run("'shared' in globals()") is False


def check_streams(own, tmp_path):
    with znb.subscribe("far/", at="own", timeout=PATIENCE) as stream:
        own.run("import znb, collections\nfor i in range(200): znb.publish('far/numbers', i)")
        seen = {"w0": [], "w1": []}
        while min(map(len, seen.values())) < 200:
            message = next(stream)
            seen[message.source].append(message.value)
            assert (message.cluster, message.dropped) == ("own", 0)
        assert seen == {"w0": list(range(200)), "w1": list(range(200))}
        own["w1"].run("class Point: pass\npoint = Point(); point.x = 5\nznb.publish('far/objects', point)")
        assert next(stream).value.x == 5
    with znb.subscribe("far/numbers", timeout=PATIENCE) as late:
        assert {next(late).value, next(late).value} == {199}


def check_services(own, tmp_path):
    expose(Counter, name="far-counter", on=own[:])
    with connect("far-counter") as counter:
        assert counter.double(21) == 42
        assert list(counter.count(300)) == list(range(300))
        with pytest.raises(ZeroDivisionError):
            counter.fail()
    assert len(find_service("far-counter")) == 2
    unexpose("far-counter")
    with pytest.raises(ServiceUnavailable):
        connect("far-counter")


def check_a_service_is_there_again_after_its_worker_died(own, tmp_path):
    expose(Counter, name="far-again", on=own["w0"])
    with connect("far-again") as counter:
        assert counter.double(1) == 2
        first = {service.url for service in list_services()}
        own.kill("w0")
        wait_until(lambda: [s for s in list_services() if s.name == "far-again" and s.url not in first], "the next one")
    with connect("far-again") as counter:
        assert counter.double(2) == 4
    unexpose("far-again")


class Counter:
    def double(self, x):
        return 2 * x

    def count(self, n):
        yield from range(n)

    def fail(self):
        return 1 / 0


def test_traces(cluster):
    with znb.trace("far") as trace:
        cluster.run("import znb\nwith znb.span('there'): pass")
        list(cluster.map(abs, range(10)))
    there = trace.find("there")
    assert {span.worker for span in there} == {"w0", "w1"}
    by_id = {span.span_id: span for span in trace.spans}
    assert all(by_id[span.parent_id].worker == span.worker for span in there)
    assert {"w0", "w1"} <= {span.worker for span in trace.spans}


def test_status(cluster):
    assert [worker.state for worker in cluster.status().workers] == ["idle", "idle"]
    assert cluster.workers[0].stats()["name"] == "w0"
    cluster._repr_mimebundle_()


def test_what_changes_workers(where, tmp_path):
    """In a row on one cluster: engines that take seconds to start would take minutes for one each."""
    checks = [check for name, check in globals().items() if name.startswith("check_")]
    with Cluster.start(2, on=where, name="own", env=HERE) as own:
        for check in checks:
            own.scale(2)
            wait_until(lambda: len(own._attached.membership.links()) == 2, "both workers")
            folder = tmp_path / check.__name__
            folder.mkdir()
            try:
                check(own, folder)
            except BaseException as error:
                error.add_note(f"in {check.__name__}")
                raise
