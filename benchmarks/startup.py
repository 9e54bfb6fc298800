"""Start-up: from a fresh process to the first result, and what is running then."""

import time

BEGAN = time.perf_counter()  # before anything else is imported: that is part of what is measured

import json
import sys
from pathlib import Path

#: Calls in the map; the two slow ones get fewer, so that a round does not take minutes.
CALLS = 10_000
CALLS_OF_SLOW = 1_000


def measure_znb(workers: int) -> dict[str, float]:
    import znb

    with znb.Cluster.start(workers) as cluster:
        return measured(
            first=lambda: cluster.submit(abs, -1).result(),
            cell=lambda: cluster[:].run("1 + 1"),
            calls=lambda: sum(1 for _ in cluster.map(abs, range(CALLS))),
        )


def measure_loky(workers: int) -> dict[str, float]:
    import loky

    executor = loky.get_reusable_executor(max_workers=workers)
    result = measured(
        first=lambda: executor.submit(abs, -1).result(),
        calls=lambda: sum(1 for _ in executor.map(abs, range(CALLS))),
    )
    executor.shutdown()
    return result


def measure_spawn(workers: int) -> dict[str, float]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
        return measured(
            first=lambda: executor.submit(abs, -1).result(),
            calls=lambda: sum(1 for _ in executor.map(abs, range(CALLS))),
        )


def measure_dask(workers: int) -> dict[str, float]:
    from distributed import Client, LocalCluster

    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        return measured(
            first=lambda: client.submit(abs, -1).result(),
            cell=lambda: client.run(eval, "1 + 1"),
            calls=lambda: len(client.gather(client.map(abs, range(CALLS_OF_SLOW), pure=False))),
        )


def measure_ipyparallel(workers: int) -> dict[str, float]:
    import ipyparallel

    with ipyparallel.Cluster(n=workers) as client:
        direct, balanced = client[:], client.load_balanced_view()
        return measured(
            first=lambda: balanced.apply_sync(abs, -1),
            cell=lambda: direct.execute("1 + 1", block=True),
            calls=lambda: len(balanced.map_sync(abs, range(CALLS_OF_SLOW))),
        )


def measured(*, first, calls, cell=None) -> dict[str, float]:
    """Time the three, in this order; count processes and memory after the first."""
    from harness import footprint

    first()
    result = {"first": time.perf_counter() - BEGAN}
    result["processes"], result["memory"] = footprint()
    if cell:
        began = time.perf_counter()
        cell()
        result["cell"] = time.perf_counter() - began
    began = time.perf_counter()
    done = calls()
    result["calls"] = done / (time.perf_counter() - began)
    return result


def main() -> None:
    name, _, workers = sys.argv[1].partition("-")
    result = globals()[f"measure_{name}"](int(workers))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
else:
    from harness import Column, Topic, count, megabytes, milliseconds, per_second, seconds

    TITLES = {
        "znb": "znb",
        "loky": "loky",
        "spawn": "ProcessPoolExecutor, spawn",
        "dask": "Dask LocalCluster",
        "ipyparallel": "ipyparallel",
    }
    COLUMNS = {
        "first": Column("first result", seconds),
        "processes": Column("processes", count),
        "memory": Column("memory (PSS)", megabytes),
        "cell": Column("first remote cell", milliseconds),
        "calls": Column("map of `abs`", per_second),
    }
    TEXT = (
        "From a fresh process's first line, imports included, to the result of the first call; the processes that are "
        "there then, the caller included, and their memory; a first cell on all workers, where there is such a thing; "
        f"a map of `abs` over {CALLS:,} integers ({CALLS_OF_SLOW:,} for Dask and ipyparallel), all at its defaults."
    )
    TOPICS = [
        Topic(
            title=f"Start-up with {workers} workers",
            text=TEXT,
            script=Path(__file__),
            contenders={f"{name}-{workers}": title for name, title in TITLES.items()},
            columns=COLUMNS,
        )
        for workers in (2, 4)
    ]
