"""Workers beside those of a Dask cluster: what only Dask does. The rest is in test_every_launcher."""

import functools
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster_harness import wait_until
from znb import Cluster, cluster
from znb.errors import NoWorkers, ZnbError
from znb.launchers import StartOptions, place_text

if importlib.util.find_spec("distributed") is None:
    pytest.skip("NO TEST OF DASK: distributed is not installed", allow_module_level=True)

#: Other processes do not know where this module is.
HERE = {"PYTHONPATH": str(Path(__file__).parent)}

#: A Dask cluster in a process of its own; each line of standard input is run there, and answered.
DASK = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        for line in sys.stdin:
            exec(line)
            print("done", flush=True)
"""


class Dask:
    def __init__(self, folder):
        script = folder / "cluster.py"
        script.write_text(DASK)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, script], stdin=pipe, stdout=pipe, text=True, cwd=folder)
        self.address = self.process.stdout.readline().strip()

    def run(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def dask(tmp_path):
    made = Dask(tmp_path)
    yield made
    made.close()


class Client:
    """As ``distributed.Client`` is, as far as it matters here."""

    def __init__(self, address):
        self.scheduler = type("Scheduler", (), {"address": address})()


def test_a_client_says_where():
    assert place_text(Client("tcp://10.0.0.1:8786")) == "dask:tcp://10.0.0.1:8786"
    assert place_text(type("LocalCluster", (), {"scheduler_address": "tcp://a:1"})()) == "dask:tcp://a:1"
    with pytest.raises(ZnbError, match="make it with processes=True"):
        place_text(Client("inproc://10.0.0.1/1/1"))
    with pytest.raises(TypeError, match="on must be text such as 'local', or a Dask Client or cluster, got 5"):
        place_text(5)


def test_workers_follow_those_of_dask(dask):
    with Cluster.start(on=Client(dask.address), env=HERE) as cluster:
        assert cluster.names == ("w0", "w1")
        cluster["w0"].push(kept=1)
        results = cluster.map(nap, range(200), chunksize=1, buffersize=200)
        dask.run("cluster.scale(3)")
        wait_until(lambda: len(cluster) == 3 and cluster.workers[2].state != "starting", "a third worker")
        assert list(results) == list(range(200))
        assert cluster.run("1 + 1") == {"w0": 2, "w1": 2, "w2": 2}
        dask.run("cluster.scale(1)")
        wait_until(lambda: len(cluster) == 1, "that two have gone")
        assert list(cluster.map(nap, range(10))) == list(range(10))
        cluster.scale(1)
        dask.run("cluster.scale(2)")
        assert len(cluster) == 1, "who has said how many are wanted gets so many"


def nap(number):
    time.sleep(0.05)
    return number


def test_dask_adapts_to_the_jobs_there_are(dask):
    dask.run("cluster.adapt(minimum=1, maximum=3, interval='200ms', wait_count=2)")
    with Cluster.start(on=f"dask:{dask.address}", env=HERE) as cluster:
        wait_until(lambda: len(cluster) == 1, "that Dask has nothing to do")
        results = cluster.map(nap, range(400), chunksize=1, buffersize=400)
        wait_until(lambda: len(cluster) == 3, "that Dask has grown")
        assert list(results) == list(range(400))
        wait_until(lambda: len(cluster) == 1, "that it has shrunk")
        assert cluster.submit(pow, 2, 10).result() == 1024


def test_a_dask_worker_that_is_frozen_or_killed_costs_its_own_workers_alone(dask, monkeypatch):
    monkeypatch.setattr(cluster, "StartOptions", functools.partial(StartOptions, lease=3.0))
    with Cluster.start(on=f"dask:{dask.address}", env=HERE) as started:
        parents = started.run("import os; os.getppid()")
        frozen = psutil.Process(parents["w0"]).parent()  # of the agent: the Dask worker
        generation = {worker.name: worker.generation for worker in started.workers}
        frozen.suspend()
        try:
            wait_until(lambda: started.workers[0].generation > generation["w0"], "that it counts as gone")
            assert started["w1"].run("1 + 1") == 2
            assert list(started.map(abs, range(-20, 0))) == list(range(20, 0, -1))
            assert started.workers[1].generation == generation["w1"]
        finally:
            frozen.kill()
        idle = ["idle", "idle"]
        wait_until(lambda: [each.state for each in started.workers] == idle, "that Dask has another one")
        assert started.run("2 + 2") == {"w0": 4, "w1": 4}
        assert started.workers[1].generation == generation["w1"], "it has nothing to do with that"


def test_a_scheduler_that_is_gone_is_said_and_the_cluster_can_be_stopped(dask, capfd):
    with Cluster.start(on=f"dask:{dask.address}", env=HERE) as started:
        dask.process.kill()  # Dask gives it up after 10 s
        waiting = started.submit(nap, 1000)
        told = ""
        while "is gone" not in told:
            with pytest.raises(TimeoutError):
                waiting.result(2)
            told += capfd.readouterr().err
        waiting.cancel()
        assert re.search(r"the Dask scheduler at \S+ is gone", told)
        with Cluster.connect(observe=True) as other:  # which does not wait for workers that nobody will bring
            assert [each.state for each in other.status().workers] == ["lost", "lost"]
            with pytest.raises(NoWorkers, match="w0 failed so often at its start"):
                other.run("1")
    assert Cluster.list() == []
