"""What ``cluster.status()`` and ``cluster.stats()`` tell of jobs, on real workers."""

import contextlib
import os
import time

import msgspec
import pytest

import job_functions as jobs
import znb
from job_functions import Gate, wait_until
from test_rpc_channels import keep_zero_copy_warm
from znb.status import size_text

keep_zero_copy_warm()


@pytest.fixture
def cluster(world):
    with contextlib.closing(znb.Cluster.start(2, name="status")) as cluster:
        yield cluster


def test_counts_of_jobs(cluster, tmp_path):
    assert str(cluster.stats()).startswith("none; ")
    assert repr(cluster.stats()) == f"<jobs: {cluster.stats()}>", "what a cell shows whose value it is"
    assert list(cluster.map(jobs.square, range(50))) == [x * x for x in range(50)]
    assert isinstance(cluster.submit(jobs.fail).exception(), ValueError)
    gate = Gate(tmp_path)
    waiting = [cluster.submit(gate, x) for x in range(7)]
    wait_until(lambda: len(gate.runs()) == 2)
    stats = wait_until(lambda: (found := cluster.stats()).running == 2 and found)
    assert (stats.queued, stats.running, stats.done, stats.failed) == (5, 2, 50, 1)
    assert sum(worker.done for worker in stats.workers) == 50
    assert sum(worker.failed for worker in stats.workers) == 1
    assert stats.sent_bytes == sum(worker.sent_bytes for worker in stats.workers) > 50
    assert stats.received_bytes > 50
    with pytest.raises(AttributeError):
        stats.done = 0
    gate.open()
    assert [future.result() for future in waiting] == list(range(7))
    assert (cluster.stats().running, cluster.stats().done) == (0, 57)


def test_large_data_is_counted(cluster):
    numpy = pytest.importorskip("numpy")
    cluster.submit(len, numpy.ones(100_000)).result()
    assert 800_000 < cluster.stats().sent_bytes < 900_000
    cluster.submit(numpy.ones, 100_000).result()
    assert 800_000 < cluster.stats().received_bytes < 900_000


def test_counts_go_on_when_a_worker_is_replaced(cluster, tmp_path):
    list(cluster.map(jobs.square, range(50)))
    gate = Gate(tmp_path)
    future = cluster.submit(gate, 1)
    os.kill(gate.wait_running(), 9)
    wait_until(lambda: len(gate.runs()) == 2)
    gate.open()
    assert future.result() == 1
    stats = cluster.stats()
    assert (stats.done, stats.retried, stats.lost_workers) == (51, 1, 1)
    assert [worker.name for worker in sorted(stats.workers, key=lambda worker: worker.name)] == ["w0", "w1"]
    assert sum(worker.done for worker in stats.workers) == 51
    assert sum(worker.retried for worker in stats.workers) == 1


def test_the_status_has_the_jobs_of_everybody(cluster, tmp_path):
    list(cluster.map(jobs.square, range(50)))
    cluster.submit(jobs.fail).exception()
    with contextlib.closing(znb.Cluster.connect("status", observe=True)) as other:
        status = other.status()
        assert sum(worker.jobs.done for worker in status.workers) == 50
        assert sum(worker.jobs.failed for worker in status.workers) == 1
        assert all(worker.jobs.sent_bytes > 0 for worker in status.workers)
        assert status.jobs.done == 0
        assert "jobs from here" not in str(status)
    text = str(cluster.status())
    assert "jobs from here: 50 done, 1 failed; " in text
    assert "queued" in text.splitlines()[1]
    assert "<caption>cluster 'status' on local, 2 workers; jobs from here: 50 done" in cluster.status().to_html()
    assert b'"jobs":' in msgspec.json.encode(status)


def test_what_was_cancelled_has_not_failed(cluster, tmp_path):
    gate = Gate(tmp_path)
    future = cluster.submit(gate, 0)
    gate.wait_running()
    future.cancel()
    assert isinstance(cluster.submit(jobs.fail).exception(), ValueError)
    with pytest.raises(znb.CallTimeout):
        list(cluster.map(time.sleep, [60], job_timeout=0.1))
    counted = ("done", "failed", "cancelled")

    def told(workers):
        return {name: sum(getattr(worker, name) for worker in workers) for name in counted}

    wanted = {"done": 0, "failed": 2, "cancelled": 1}
    wait_until(lambda: told([worker.jobs for worker in cluster.status().workers]) == wanted)
    assert told(cluster.stats().workers) == wanted
    assert cluster.status().rows()[0][5:9] == ("queued", "done", "failed", "cancelled")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (33_300_000, "33 MB"), (2_000_000_000, "2.0 GB")]
)
def test_sizes_for_people(size, text):
    assert size_text(size) == text
