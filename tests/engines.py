"""Places for workers, as tests want them: each launcher with what it needs, or the reason why it cannot be had here."""

import contextlib
import functools
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import farhosts
import slurmhost
from cluster_harness import PATIENCE, wait_until

#: Every place that the shared suite runs on.
PLACES = ("local", "local:tcp", "ssh", "slurm", "dask", "ray")

#: A Dask cluster in a process of its own, until its standard input ends.
DASK = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""

ssh_missing = functools.cache(farhosts.missing)


@contextlib.contextmanager
def place(name, folder, monkeypatch):
    """Yield what to write for ``--on``."""
    makers = {"ssh": ssh, "slurm": slurm, "dask": dask, "ray": ray}
    if name not in makers:
        yield name
        return
    with makers[name](folder, monkeypatch) as where:
        yield where


@contextlib.contextmanager
def ssh(folder, monkeypatch):
    if ssh_missing():
        pytest.skip(f"NO TEST OF SSH: {ssh_missing()}")
    with farhosts.far_hosts(folder / "far", "alpha", "beta") as (_, bin_), monkeypatch.context() as patch:
        patch.setenv("PATH", str(bin_), prepend=":")
        yield "ssh:alpha*2,beta*2"


@contextlib.contextmanager
def slurm(folder, monkeypatch):
    if slurmhost.missing():
        pytest.skip(f"NO TEST OF SLURM: {slurmhost.missing()}")
    with slurmhost.slurm(folder / "slurm") as environment, monkeypatch.context() as patch:
        patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        yield "slurm"


@contextlib.contextmanager
def dask(folder, monkeypatch):
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("NO TEST OF DASK: distributed is not installed")
    folder.mkdir()
    script = folder / "cluster.py"
    script.write_text(DASK)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, script], stdin=pipe, stdout=pipe, text=True, cwd=folder) as process:
        yield f"dask:{process.stdout.readline().strip()}"
        process.stdin.close()


@contextlib.contextmanager
def ray(folder, monkeypatch):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("NO TEST OF RAY: ray is not installed")
    folder.mkdir()
    port = slurmhost.free_port()
    command = str(Path(sys.executable).with_name("ray"))
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    options = ["--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=8", "--include-dashboard=false"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [command, "start", *options, f"--temp-dir={folder / 'ray'}", "--block"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def healthy():
        check = [command, "health-check", "--address", f"127.0.0.1:{port}"]
        return subprocess.run(check, env=environment, capture_output=True, check=False).returncode == 0

    try:
        wait_until(healthy, "ray")
        yield f"ray:127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
