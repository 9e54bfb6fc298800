"""Workers on another host: their own CURVE on tcp, against a tunnel of ssh, against loopback and ipc without either.

The host is a network namespace of this machine with an sshd (``tests/farhosts.py``): root, and both ends share two
cores, so that the cost of the cryptography is all that differs.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from harness import Column, Topic

#: Small calls one after the other, bytes of a large value, jobs of a map.
CALLS, LARGE, JOBS = 300, 32_000_000, 30_000


def measure_curve() -> dict[str, float]:
    """Workers on the host's own address: CURVE."""
    with hosts():
        return measure("ssh:alpha*1")


def measure_ssh() -> dict[str, float]:
    """The same workers by way of ssh's forwarding, with CURVE inside, as where only ssh leads there."""
    with hosts():
        return measure("ssh:hidden*1")


def measure_tunnel() -> dict[str, float]:
    """A cluster without keys, by a copied connection file and ssh: ssh's cryptography alone."""
    import znb

    with hosts(), znb.Cluster.start(1, name="there") as there, tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy.json")
        copy.touch(0o600)
        copy.write_bytes(there.connection_file.read_bytes())
        with znb.Cluster.connect(copy, ssh="alpha", observe=True) as cluster:
            return figures(cluster)


def measure_loopback() -> dict[str, float]:
    """CURVE on loopback, without a second network stack."""
    return measure("local:tcp")


def measure_ipc() -> dict[str, float]:
    """No cryptography at all."""
    return measure("local")


@contextlib.contextmanager
def hosts():
    import farhosts

    with (
        tempfile.TemporaryDirectory(prefix="zf", dir="/tmp") as folder,
        farhosts.far_hosts(Path(folder, "far"), "alpha") as (_, bin_),
    ):
        os.environ["PATH"] = f"{bin_}:{os.environ['PATH']}"
        yield


def measure(where: str) -> dict[str, float]:
    import znb

    with znb.Cluster.start(1 if where.startswith("local") else None, on=where) as cluster:
        return figures(cluster)


def figures(cluster) -> dict[str, float]:
    worker = cluster["w0"]
    worker.push(n=1)
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        worker.pull("n")
        took.append(time.perf_counter() - began)
    data = os.urandom(LARGE)
    worker.push(data=data[:1000])
    began = time.perf_counter()
    worker.push(data=data)
    there = time.perf_counter() - began
    began = time.perf_counter()
    assert len(worker.pull("data")) == LARGE
    back = time.perf_counter() - began
    assert sum(1 for _ in cluster.map(abs, range(JOBS // 10))) == JOBS // 10
    began = time.perf_counter()
    assert sum(1 for _ in cluster.map(abs, range(JOBS))) == JOBS
    return {
        "call": sorted(took)[len(took) // 2],
        "there": LARGE / there,
        "back": LARGE / back,
        "jobs": JOBS / (time.perf_counter() - began),
    }


TOPICS = [
    Topic(
        title="Workers on another host: CURVE and ssh",
        text="One worker on a host of its own network stack, on the same two cores: a small variable's round trip "
        f"(`pull`), {LARGE // 1_000_000} MB there (`push`) and back, and a map of `abs` over {JOBS:,} integers.",
        script=Path(__file__).resolve(),
        contenders={
            "curve": "its own address, CURVE",
            "ssh": "through ssh, CURVE inside (a host that only ssh reaches)",
            "tunnel": "through ssh alone (`connect(FILE, ssh=HOST)`, no keys)",
            "loopback": "CURVE on loopback (`local:tcp`)",
            "ipc": "this machine, ipc (`local`)",
        },
        columns={
            "call": Column("small call", lambda value: f"{value * 1e6:,.0f} µs"),
            "there": Column("push", lambda value: f"{value / 1e6:,.0f} MB/s"),
            "back": Column("pull", lambda value: f"{value / 1e6:,.0f} MB/s"),
            "jobs": Column("map of `abs`", lambda value: f"{value:,.0f}/s"),
        },
    ),
]


if __name__ == "__main__":
    print(json.dumps(globals()[f"measure_{sys.argv[1]}"]()))
