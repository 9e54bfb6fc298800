"""What one more worker costs the process that holds a cluster, and its head: for ``docs/scale.md``.

    python benchmarks/scale.py [--few 8] [--many 40] [--on local:tcp]

Workers are real and idle. What the scheduler costs with many is ``simulate.py``'s to say.
"""

from __future__ import annotations

import argparse
import time

import psutil

from znb import Cluster

#: Seconds that are watched; CPU times come in hundredths.
IDLE = 10.0
#: Seconds for the spans of the jobs to be collected before that.
SETTLE = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--many", type=int, default=40)
    parser.add_argument("--on", default="local:tcp")
    options = parser.parse_args()
    with Cluster.start(options.few, on=options.on) as cluster:
        look(cluster)  # what is made once
        few = look(cluster)
        began = time.perf_counter()
        cluster.scale(options.many)
        took = time.perf_counter() - began
        many = look(cluster)
        more = options.many - options.few
        print(f"{options.few} → {options.many} workers on {options.on}, in {took:.2f} s; for each one more:")
        for name, value in many.items():
            print(f"  {name:32} {(value - few[name]) / more:10.2f}")


def look(cluster: Cluster) -> dict[str, float]:
    """Return what is in use now, after each worker has run a cell and jobs."""
    cluster.run("1")
    assert sum(cluster.map(abs, range(100_000))) == sum(range(100_000))
    own, head = psutil.Process(), psutil.Process(cluster._attached.launcher.workers().pid)
    time.sleep(SETTLE)
    began = own.cpu_times()
    time.sleep(IDLE)
    idle = own.cpu_times()
    return {
        "notebook: descriptors": own.num_fds(),
        "notebook: memory, kB": own.memory_full_info().uss / 1000,
        "notebook: CPU when idle, µs/s": (idle.user + idle.system - began.user - began.system) / IDLE * 1e6,
        "head: descriptors": head.num_fds(),
        "head: memory, kB": head.memory_full_info().uss / 1000,
    }


if __name__ == "__main__":
    main()
