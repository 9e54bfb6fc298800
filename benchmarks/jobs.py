"""Jobs on two workers: many small futures, a map, round trips, large arrays, memory."""

import json
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

WORKERS = 2
#: Futures per measurement; slow peers get fewer.
FUTURES, FUTURES_OF_SLOW = 10_000, 1_000
#: Items of the map.
ITEMS = 1_000_000
#: Round trips, of which the median counts.
TRIPS = 1_000
#: Bytes of the large array.
LARGE = 80_000_000
#: Numbers of workers that the scheduler is simulated with, and of jobs.
FLEETS, SIMULATED = (10, 100, 1_000, 10_000), 100_000
#: Tasks that share it.
SHARERS = 100


def total(array) -> float:
    return float(array[::4096].sum())


def timed(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def trips(call) -> float:
    return statistics.median(timed(call) for _ in range(TRIPS))


def futures(submit, count: int) -> float:
    def run() -> None:
        waiting = [submit(abs, -i) for i in range(count)]
        assert sum(future.result() for future in waiting) == count * (count - 1) // 2

    run()  # warm
    return count / timed(run)


def measure_znb() -> dict[str, float]:
    import numpy as np
    import psutil

    import znb

    me = psutil.Process()
    with znb.Cluster.start(WORKERS) as cluster:
        result = {"futures": futures(cluster.submit, FUTURES)}
        result["map"] = timed(lambda: sum(cluster.map(abs, range(ITEMS))))
        result["trip"] = trips(lambda: cluster.submit(abs, -1).result())
        array = np.ones(LARGE // 8)
        result["large"] = statistics.median(timed(lambda: cluster.submit(total, array).result()) for _ in range(5))
        result["shared"] = timed(lambda: share(cluster, array))
        before = me.memory_info().rss
        assert sum(cluster.map(abs, range(ITEMS))) == ITEMS * (ITEMS - 1) // 2
        result["growth"] = max(0.0, (me.memory_info().rss - before) / 1e6)
    return result


def share(cluster, array) -> None:
    with cluster.put(array) as shared:
        expected = total(array)
        assert all(value == expected for value in cluster.map(total, [shared] * SHARERS))


def measure_pool_executor() -> dict[str, float]:
    import multiprocessing

    import numpy as np

    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as executor:
        array = np.ones(LARGE // 8)
        return {
            "futures": futures(executor.submit, FUTURES),
            "trip": trips(lambda: executor.submit(abs, -1).result()),
            "large": statistics.median(timed(lambda: executor.submit(total, array).result()) for _ in range(5)),
        }


def measure_pool() -> dict[str, float]:
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.map(abs, range(1000))
        sizes = (1_000, 10_000, 50_000, 125_000, 250_000, 500_000)
        return {"map": min(timed(lambda size=size: sum(pool.map(abs, range(ITEMS), size))) for size in sizes)}


def measure_raw() -> dict[str, float]:
    """A DEALER/ROUTER echo with pickle between two processes, and an array as raw frames."""
    import multiprocessing
    import pickle
    import tempfile

    import numpy as np
    import zmq

    with tempfile.TemporaryDirectory() as folder:
        url = f"ipc://{folder}/echo"
        server = multiprocessing.get_context("spawn").Process(target=serve_echo, args=(url,), daemon=True)
        server.start()
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.connect(url)

        def trip() -> None:
            socket.send(pickle.dumps((abs, -1)))
            pickle.loads(socket.recv())

        array = np.ones(LARGE // 8)

        def large() -> None:
            socket.send(memoryview(array).cast("B"), copy=False)
            socket.recv()

        trip()
        result = {"trip": trips(trip), "large": statistics.median(timed(large) for _ in range(5))}
        socket.send(b"")
        server.join()
        context.destroy(0)
    return result


def serve_echo(url: str) -> None:
    import pickle

    import zmq

    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(url)
    while True:
        identity, frame = socket.recv_multipart(copy=False)
        if len(frame) == 0:
            return
        if len(frame) < 10_000:
            function, value = pickle.loads(frame.buffer)
            socket.send_multipart([identity, pickle.dumps(function(value))])
        else:
            socket.send_multipart([identity, b"1"])


def measure_joblib() -> dict[str, float]:
    import numpy as np
    from joblib import Parallel, delayed

    array = np.ones(LARGE // 8)
    with Parallel(n_jobs=WORKERS) as parallel:
        parallel(delayed(abs)(1) for _ in range(10))
        return {"shared": timed(lambda: parallel(delayed(total)(array) for _ in range(SHARERS)))}


def measure_dask() -> dict[str, float]:
    from distributed import Client, LocalCluster

    options = {"n_workers": WORKERS, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:

        def run() -> None:
            client.gather([client.submit(abs, -i, pure=False) for i in range(FUTURES_OF_SLOW)])

        run()
        return {
            "futures": FUTURES_OF_SLOW / timed(run),
            "trip": trips_of_slow(lambda: client.submit(abs, -1, pure=False).result()),
        }


def measure_ipyparallel() -> dict[str, float]:
    import ipyparallel

    with ipyparallel.Cluster(n=WORKERS) as client:
        view = client.load_balanced_view()

        def run() -> None:
            client.wait([view.apply_async(abs, -i) for i in range(FUTURES_OF_SLOW)])

        run()
        return {"futures": FUTURES_OF_SLOW / timed(run), "trip": trips_of_slow(lambda: view.apply_sync(abs, -1))}


def trips_of_slow(call) -> float:
    return statistics.median(timed(call) for _ in range(TRIPS // 10))


def measure_scheduler() -> dict[str, float]:
    """The scheduler alone, in virtual time (``simulate.py``): what a job costs it."""
    from simulate import Even, Simulation

    result = {}
    for workers in FLEETS:
        simulation = Simulation(Even(0.001), speeds=[1.0] * workers)
        simulation.run(SIMULATED, chunksize=1)
        result[f"w{workers}"] = simulation.spent_ns / 1e3 / SIMULATED
    return result


MEASURES = {
    "scheduler": measure_scheduler,
    "znb": measure_znb,
    "pool_executor": measure_pool_executor,
    "pool": measure_pool,
    "raw": measure_raw,
    "joblib": measure_joblib,
    "dask": measure_dask,
    "ipyparallel": measure_ipyparallel,
}


def topics():
    from harness import Column, Topic, megabytes, microseconds, milliseconds, per_second, seconds

    return [
        Topic(
            title=f"Jobs on {WORKERS} workers",
            text=(
                f"*Futures*: {FUTURES:,} no-op tasks, one future each, submitted and gathered (1,000 for Dask and "
                f"ipyparallel). *Map*: {ITEMS:,} integers, summed; `Pool.map` at its best chunk size, znb by default. "
                "*Round trip*: one no-op, median. *Array*: 80 MB to a worker and a number back; raw: the same bytes as "
                f"one frame. *Shared*: 80 MB used by {SHARERS} tasks, placing included. *Growth*: of the client's "
                "memory by a million jobs."
            ),
            script=Path(__file__),
            contenders={
                "znb": "znb",
                "pool_executor": "ProcessPoolExecutor, spawn",
                "pool": "multiprocessing.Pool",
                "raw": "raw DEALER/ROUTER",
                "joblib": "joblib, memory map",
                "dask": "Dask LocalCluster",
                "ipyparallel": "ipyparallel",
            },
            columns={
                "futures": Column("futures", per_second),
                "map": Column("map", seconds),
                "trip": Column("round trip", milliseconds),
                "large": Column("array", seconds),
                "shared": Column("shared", seconds),
                "growth": Column("growth", megabytes),
            },
        ),
        Topic(
            title="The scheduler alone",
            text=(
                f"Microseconds that a job costs the scheduler in a simulation of {SIMULATED:,} jobs of 1 ms in chunks "
                "of one, its worst case, by the number of workers. `python benchmarks/simulate.py --jobs 10000000` "
                "is the long form."
            ),
            script=Path(__file__),
            contenders={"scheduler": "znb"},
            columns={f"w{workers}": Column(f"{workers:,}", microseconds) for workers in FLEETS},
        ),
    ]


if __name__ == "__main__":
    print(json.dumps(MEASURES[sys.argv[1]]()))
else:
    TOPICS = topics()
