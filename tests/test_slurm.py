"""Workers in Slurm allocations: what only Slurm does. The rest is in test_every_launcher."""

import os
import signal
import subprocess
import threading

import pytest

import engines
import slurmhost
from cluster_harness import wait_until
from znb import Cluster
from znb.errors import NoWorkers

pytestmark = pytest.mark.skipif(bool(slurmhost.missing()), reason=f"NO TEST OF SLURM: {slurmhost.missing()}")


@pytest.fixture(scope="module")
def slurm(module_world):
    with pytest.MonkeyPatch.context() as patch, engines.slurm(module_world.home.parent / "s", patch) as where:
        yield where


def squeue(columns="%T"):
    command = ["squeue", "--noheader", f"--format={columns}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def set_node(state):
    node = os.uname().nodename.partition(".")[0]
    subprocess.run(["scontrol", "update", f"nodename={node}", f"state={state}", "reason=test"], check=True)


def test_one_allocation_that_is_given_back(slurm):
    with Cluster.start(2, on="slurm:main") as started:
        assert squeue() == ["RUNNING"]
        started.scale(3)
        assert squeue() == ["RUNNING", "RUNNING"]
        assert len(set(started.run("import os; os.getpid()").values())) == 3
    wait_until(lambda: not squeue(), "the end of the allocations")


def test_a_job_that_waits_says_why_and_goes_with_an_interrupt(slurm, capfd, runtime_dir):
    set_node("drain")
    try:
        told = []

        def interrupt():
            wait_until(lambda: told.append(capfd.readouterr().err) or "is pending" in "".join(told), "the state")
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            Cluster.start(1, on="slurm")
        thread.join()
        assert "Slurm's job" in "".join(told)
        wait_until(lambda: not squeue(), "the end of the request")
        assert list(runtime_dir.iterdir()) == []
    finally:
        set_node("resume")


def test_what_slurm_refuses_is_shown(slurm, runtime_dir):
    with pytest.raises(NoWorkers, match=r"(?s)Slurm gave no allocation:.*[Ii]nvalid partition"):
        Cluster.start(1, on="slurm:nowhere")
    assert list(runtime_dir.iterdir()) == []


def test_a_job_that_is_cancelled_from_outside_is_replaced(slurm, capfd):
    with Cluster.start(1, on="slurm") as started:
        subprocess.run(["scancel", "--name=znb-default"], check=True)
        wait_until(lambda: started.workers[0].generation > 1 and started.workers[0].state == "idle", "another w0")
        assert started["w0"].run("1 + 1") == 2
        assert "was lost" in capfd.readouterr().err


def test_workers_that_are_lost_to_the_time_limit_are_named_as_such(slurm, capfd):
    with Cluster.start(1, on="slurm") as started:
        (job,) = squeue("%A")
        subprocess.run(["scontrol", "update", f"jobid={job}", "EndTime=now+3"], check=True)
        again = "another w0; Slurm looks at limits every 30 s"
        wait_until(lambda: started.workers[0].generation > 1 and started.workers[0].state == "idle", again, 60)
        assert started["w0"].run("1 + 1") == 2
        assert f"was lost: Slurm's job {job} has reached its time limit" in capfd.readouterr().err
