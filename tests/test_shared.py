"""``cluster.put``: one copy, read-only, for whoever needs it and no longer."""

import copy
import functools
import gc
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import job_functions as jobs
import znb
from job_functions import Gate, wait_until
from test_rpc_channels import keep_zero_copy_warm
from znb import shared
from znb.serialize import Codec

keep_zero_copy_warm()


@pytest.fixture(scope="module")
def cluster(module_world):
    cluster = znb.Cluster.start(2, name="shared")
    jobs.start_callbacks(cluster)
    yield cluster
    cluster.close()


@pytest.fixture
def fresh(world):
    """A cluster of the test's own, whose workers may be killed and replaced."""
    with znb.Cluster.start(2, name="fresh") as cluster:
        yield cluster


@pytest.fixture
def codec():
    return Codec()


@pytest.fixture(autouse=True)
def nothing_stays(cluster):
    """No memory is open here or mapped in a worker after a test, but for those of fixtures."""
    yield
    wait_until(lambda: gc.collect() is not None and not opened(), "the memory is closed here")
    for worker in cluster.workers:
        wait_until(lambda: not mapped(worker.pid), f"the memory is unmapped in {worker.name}")
    assert not list(Path("/dev/shm").glob("znb*"))


def opened():
    """Return the descriptors of this process that are shared memory."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "znb-shared" in os.readlink(f"/proc/self/fd/{fd}"):
                found.append(fd)
        except FileNotFoundError:
            continue
    return found


def mapped(pid):
    """Return the mappings of shared memory in a process."""
    return [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "znb-shared" in line]


def describe(array):
    return type(array).__name__, array.flags.writeable, array.flags.owndata, array.ctypes.data % 64, float(array.sum())


def write(array):
    array[0] = 1


def spoil(box):
    """Change an object; return what it was like before."""
    before = copy.copy(box)
    box["mine"] = os.getpid()
    return before


def look(box):
    return box


# -- what arrives


def test_an_array_arrives_read_only_and_without_a_copy(cluster):
    array = np.arange(100_000.0)
    with cluster.put(array) as handle:
        assert cluster.submit(describe, handle).result() == ("ndarray", False, False, 0, float(array.sum()))
        with pytest.raises(ValueError, match="read-only"):
            cluster.submit(write, handle).result()
        pids = {cluster.submit(jobs.pid, handle).result() for _ in range(20)}
        assert all(mapped(pid) for pid in pids)


def test_one_array_serves_all_jobs_of_a_worker(cluster):
    with cluster.put(np.arange(50_000)) as handle:
        list(cluster.map(functools.partial(jobs.capture, handle), range(100)))
        assert all(len(mapped(worker.pid)) <= 1 for worker in cluster.workers)


def test_inside_other_objects(cluster):
    array = np.arange(20_000)
    with cluster.put(array) as handle:
        args, kwargs = cluster.submit(jobs.capture, [handle, {"x": (handle,)}], key=handle).result()
        for found in (args[0][0], args[0][1]["x"][0], kwargs["key"]):
            assert np.array_equal(found, array)


def test_as_an_argument_of_a_partial_and_as_an_item(cluster):
    with cluster.put(np.arange(20_000)) as handle:
        assert [int(found[7]) for found in cluster.map(look, [handle] * 50)] == [7] * 50
        assert list(cluster.map(functools.partial(np.take, handle), [3, 4])) == [3, 4]


def test_in_a_closure():
    """In a cluster of its own, because workers remember functions with all they hold."""
    with znb.Cluster.start(1, name="closures") as cluster, cluster.put(np.arange(20_000)) as handle:
        assert list(cluster.map(lambda i: int(handle[i]), [1, 5])) == [1, 5]
        assert cluster.submit(lambda: int(handle[7])).result() == 7


def test_push(cluster):
    handle = cluster.put(np.arange(20_000))
    cluster.push(pushed=handle)
    handle.release()
    assert cluster["w0"].run("int(pushed[9])") == 9, "what a worker has mapped is its own to keep"
    cluster.run("del pushed")


def test_the_original_may_change(cluster):
    array = np.zeros(20_000)
    with cluster.put(array) as handle:
        array[:] = 1
        assert cluster.submit(describe, handle).result()[-1] == 0
        assert float(handle.get().sum()) == 0


def test_jobs_do_not_see_what_others_do_to_their_object(cluster):
    box = {"data": np.arange(20_000), "list": [1, 2]}
    with cluster.put(box) as handle:
        for _ in range(6):
            assert set(cluster.submit(spoil, handle).result()) == {"data", "list"}


@pytest.mark.parametrize(
    "obj",
    [
        b"x" * 200_000,
        "text" * 50_000,
        ("a", 1, frozenset({2})),
        [np.arange(3), np.arange(30_000)],
        np.asfortranarray(np.arange(60_000.0).reshape(200, 300)),
        np.arange(60_000.0).reshape(200, 300)[:, ::2],
        np.arange(60_000.0).reshape(200, 300).T[::3],
        np.array([{1}, "x"], dtype=object),
        np.array([], dtype=np.int8),
        np.array(3.5),
        pd.DataFrame({"a": np.arange(20_000), "b": ["x", "y"] * 10_000}),
        None,
    ],
    ids=lambda obj: type(obj).__name__,
)
def test_kinds_of_objects(cluster, obj):
    with cluster.put(obj) as handle:
        for found in (cluster.submit(look, handle).result(), handle.get()):
            assert type(found) is type(obj)
            if isinstance(obj, pd.DataFrame):
                pd.testing.assert_frame_equal(found, obj)
            elif isinstance(obj, list):
                assert all(map(np.array_equal, found, obj))
            else:
                assert np.array_equal(found, obj) if isinstance(obj, np.ndarray) else found == obj


def test_instances_of_classes_that_workers_cannot_import(cluster):
    class Box:
        def __init__(self, data):
            self.data = data

    def total(box):
        assert isinstance(box, Box)
        return int(box.data.sum())

    with cluster.put([Box(np.ones(20_000)), Box]) as handle:
        assert cluster.submit(lambda pair: total(pair[0]), handle).result() == 20_000
        found, cls = cluster.submit(look, handle).result()
        assert type(found) is Box
        assert cls is Box
        assert type(handle.get()[0]) is Box


def test_many_buffers(cluster):
    arrays = [np.full(2000, number) for number in range(500)]
    with cluster.put(arrays) as handle:
        assert cluster.submit(lambda all_: [int(one[-1]) for one in all_], handle).result() == list(range(500))


# -- the handle


def test_a_handle_describes_itself(codec):
    with shared.put(codec, np.zeros(10_000_000 // 8)) as handle:
        assert len(handle) == 1_250_000
        assert handle.nbytes >= 10_000_000
        assert repr(handle) == "<Shared ndarray, 10 MB>"
        assert handle
    assert repr(handle) == "<Shared ndarray, 10 MB, released>"
    with shared.put(codec, 5) as handle, pytest.raises(TypeError, match=r"int has no len\(\)"):
        len(handle)
    with shared.put(codec, []) as handle:
        assert handle, "an empty list is there all the same"


def test_a_copy_of_a_handle_is_the_handle(codec):
    with shared.put(codec, [1]) as handle:
        assert copy.copy(handle) is handle
        assert copy.deepcopy([handle])[0] is handle


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickled_by_others_it_arrives_as_well(codec, protocol):
    with shared.put(codec, [np.arange(5)]) as handle:
        assert pickle.loads(pickle.dumps(handle, protocol))[0].tolist() == [0, 1, 2, 3, 4]


def test_what_cannot_travel_is_refused(codec):
    with pytest.raises(znb.SerializationError, match="lock"):
        shared.put(codec, {"a": [threading.Lock()]})


def test_a_released_handle_is_refused(cluster):
    handle = cluster.put(np.arange(10_000))
    handle.release()
    handle.release()
    with pytest.raises(znb.ZnbError, match="put the object again"):
        handle.get()
    with pytest.raises(znb.ZnbError, match="put the object again"):
        cluster.submit(look, handle)


def test_a_ticket_of_memory_that_is_gone_is_refused(codec):
    handle = shared.put(codec, np.arange(10_000))
    pickled = pickle.dumps(handle)
    handle.release()
    with pytest.raises(znb.SerializationError, match="released it"):
        pickle.loads(pickled)
    other = shared.put(codec, np.arange(20_000))  # has the same descriptor now
    with pytest.raises(znb.SerializationError, match="released it"):
        pickle.loads(pickled)
    other.release()


def test_a_ticket_of_another_machine_whose_memory_does_not_come_is_refused(codec, monkeypatch):
    with shared.put(codec, np.arange(10_000)) as handle:
        pickled = pickle.dumps(handle)
    monkeypatch.setattr(shared, "host_id", lambda: "elsewhere/1")
    monkeypatch.setattr(shared, "ARRIVAL_TIMEOUT", 0.1)
    with pytest.raises(znb.SerializationError, match="has not come to elsewhere"):
        pickle.loads(pickled)


def test_memory_that_cannot_be_had_is_given_back(codec, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        shared.put(codec, np.arange(10_000))


# -- how long it lasts


def test_it_is_freed_with_the_last_handle(cluster):
    handle = cluster.put(np.arange(10_000))
    cluster.submit(look, handle).result()
    assert opened()
    del handle


def test_a_job_that_waits_keeps_it(cluster, tmp_path):
    gates = [Gate(tmp_path, name) for name in "ab"]
    busy = [cluster.submit(gate) for gate in gates]
    for gate in gates:
        gate.wait_running()
    futures = [cluster.submit(describe, cluster.put(np.full(10_000, number))) for number in range(5)]
    gc.collect()
    for gate in gates:
        gate.open()
    assert [future.result()[-1] for future in futures] == [10_000 * number for number in range(5)]
    assert [future.result() for future in busy] == [None, None]


def test_a_worker_that_comes_later_finds_it(fresh):
    with fresh.put(np.arange(10_000)) as handle:
        fresh.restart("w1")
        fresh["w1"].push(late=handle)
        assert fresh["w1"].run("int(late[3])") == 3
        fresh["w1"].run("del late")


def test_it_goes_with_a_worker_that_is_killed(fresh):
    with fresh.put(np.arange(10_000)) as handle:
        fresh.push(held=handle)
        fresh.kill("w0")
        assert fresh.submit(describe, handle).result()[1] is False
        fresh["w1"].run("del held")


def test_it_goes_when_who_put_it_is_killed(fresh):
    program = (
        "import numpy as np, os, znb, job_functions as jobs\n"
        "cluster = znb.Cluster.connect('fresh')\n"
        "handle = cluster.put(np.arange(100_000))\n"
        "print(sum(1 for _ in cluster.map(jobs.capture, [handle] * 50)), flush=True)\n"
        "input()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent
    )
    assert owner.stdout.readline() == b"50\n"
    assert any(mapped(worker.pid) for worker in fresh.workers)
    owner.kill()
    owner.communicate()
    for worker in fresh.workers:
        wait_until(lambda: not mapped(worker.pid), "its memory is unmapped")


def test_a_forked_child_does_not_free_it(cluster):
    with cluster.put(np.arange(10_000)) as handle:
        child = os.fork()
        if not child:
            del handle
            gc.collect()
            os._exit(0)
        os.waitpid(child, 0)
        assert cluster.submit(describe, handle).result()[1] is False
