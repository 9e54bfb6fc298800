"""Jobs on real processes: nothing is lost, nothing comes twice, limits hold, and workers come back in working order."""

import asyncio
import contextlib
import functools
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import job_functions as jobs
import znb
from job_functions import Gate, wait_until
from test_rpc_channels import keep_zero_copy_warm

keep_zero_copy_warm()

#: Jobs of the kill storm.
STORM_JOBS = 20_000
#: Seconds between two kills.
STORM_PAUSE = 0.05


@contextlib.contextmanager
def started(n=2):
    cluster = znb.Cluster.start(n, name="jobs")
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(world):
    with started() as cluster:
        yield cluster


def lines(path):
    return path.read_text().split() if path.exists() else []


# -- workers that die


class Storm:
    """Kills a random worker every now and then, while the ``with`` block runs.

    One that serves: of a process that is killed again and again before it does, the zygote makes no more.
    """

    def __init__(self, cluster, seed):
        self.cluster = cluster
        self.random = random.Random(seed)
        self.kills = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.over.wait(STORM_PAUSE):
            if serving := [link.pid for link in self.cluster._attached.membership.links()]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.random.choice(serving), signal.SIGKILL)
                    self.kills += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


@pytest.mark.serial
@pytest.mark.timeout(300)
def test_a_kill_storm_over_a_map():
    with started() as cluster, Storm(cluster, 1) as storm:
        found = list(cluster.map(jobs.work, range(STORM_JOBS), retries=1000))
        assert storm.kills > 10
        assert found == [x * 2 + 1 for x in range(STORM_JOBS)]


@pytest.mark.serial
@pytest.mark.timeout(300)
def test_a_kill_storm_over_an_unordered_map():
    with started() as cluster, Storm(cluster, 2) as storm:
        found = list(cluster.map(jobs.work, range(STORM_JOBS // 4), retries=1000, ordered=False))
        assert storm.kills > 5
        assert sorted(found) == [x * 2 + 1 for x in range(STORM_JOBS // 4)]


@pytest.mark.serial
@pytest.mark.timeout(300)
def test_a_kill_storm_over_futures():
    """Two retries are not enough for each, so some end as ``WorkerLost``: but each ends, and none otherwise."""
    with started() as cluster, Storm(cluster, 3) as storm:
        futures = [cluster.submit(jobs.work, x) for x in range(STORM_JOBS // 4)]
        errors = [future.exception() for future in futures]
        assert storm.kills > 5
        assert all(error is None or isinstance(error, znb.WorkerLost) for error in errors)
        found = [future.result() for future, error in zip(futures, errors, strict=True) if error is None]
        assert found == [x * 2 + 1 for x, error in enumerate(errors) if error is None]
        assert len(found) > 0.99 * len(futures)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_job_that_kills_its_workers(cluster, how):
    found = list(cluster.map(functools.partial(jobs.die_at, bad={33}, how=how), range(200), errors="return"))
    lost = found.pop(33)
    assert found == [x for x in range(200) if x != 33]
    assert isinstance(lost, znb.WorkerLost)
    assert how.name in str(lost)
    assert "die_at" in str(lost) or "partial" in str(lost)
    assert sum(note.startswith("attempt before") for note in lost.__notes__) == 2


def test_a_job_that_exits_its_workers(cluster):
    found = list(cluster.map(functools.partial(jobs.exit_at, bad={7, 150}), range(200), errors="return", chunksize=50))
    assert [x for x, value in enumerate(found) if isinstance(value, znb.WorkerLost)] == [7, 150]
    assert "7" in found[7].reason
    assert [value for x, value in enumerate(found) if x not in {7, 150}] == [x for x in range(200) if x not in {7, 150}]


def test_a_future_whose_job_kills_its_workers(cluster):
    future = cluster.submit(jobs.die_at, 1, {1})
    with pytest.raises(znb.WorkerLost, match="SIGKILL"):
        future.result()
    assert cluster.submit(pow, 2, 3).result() == 8


def test_a_lost_worker_leaves_its_last_words(cluster):
    future = cluster.submit(jobs.print_and_die, "famous last words")
    error = future.exception()
    assert isinstance(error, znb.WorkerLost)
    assert "SIGKILL" in str(error)
    assert "last output:\n  famous last words" in "\n".join(error.__notes__)
    assert sum("attempt before" in note for note in error.__notes__) == 2


def test_what_was_queued_on_a_dead_worker_runs_elsewhere(tmp_path):
    path = tmp_path / "runs"
    with started() as cluster:
        gates = [Gate(tmp_path, name) for name in ("first", "second")]
        held = [cluster.submit(gate) for gate in gates]
        pids = [gate.wait_running() for gate in gates]
        rest = [cluster.submit(jobs.note, str(path), x) for x in range(20)]
        os.kill(pids[0], signal.SIGKILL)
        gates[0].open()
        assert [future.result() for future in rest] == list(range(20))
        gates[1].open()
        assert [future.result() for future in held] == [None, None]
        assert sorted(lines(path), key=int) == [str(x) for x in range(20)], "each ran once"
        assert len(gates[0].runs()) == 2


def test_retries_count_deaths(cluster, tmp_path):
    path = tmp_path / "runs"
    found = list(cluster.map(functools.partial(jobs.note_and_die, str(path)), [1], retries=4, errors="return"))
    assert isinstance(found[0], znb.WorkerLost)
    assert lines(path) == ["1"] * 5


def test_no_retries(cluster, tmp_path):
    path = tmp_path / "runs"
    found = list(cluster.map(functools.partial(jobs.note_and_die, str(path)), [1, 2], retries=0, errors="return"))
    assert [type(error) for error in found] == [znb.WorkerLost] * 2
    assert sorted(lines(path)) == ["1", "2"]


def test_what_runs_in_a_cell_is_not_charged_to_a_job(tmp_path):
    """A worker that dies in somebody's cell leaves the jobs that wait behind it all their attempts."""
    with started(1) as cluster:
        assert cluster.submit(pow, 2, 3).result() == 8
        for turn in range(5):
            gate = Gate(tmp_path, f"cell{turn}")
            cell = cluster["w0"].run_nowait(
                f"import job_functions, os, pathlib; job_functions.Gate({str(tmp_path)!r}, 'cell{turn}')(); os._exit(3)"
            )
            gate.wait_running()
            results = cluster.map(jobs.square, [turn], retries=0)
            gate.open()
            assert list(results) == [turn**2]
            assert isinstance(cell.exception(jobs.PATIENCE), znb.WorkerLost)


def test_results_that_were_ready_before_a_death_count(cluster, tmp_path):
    path, gate = tmp_path / "runs", Gate(tmp_path)
    results = cluster.map(
        functools.partial(jobs.note_then_die, str(path), gate), range(10), chunksize=10, errors="return"
    )
    found = [next(results) for _ in range(9)]
    gate.open()
    assert isinstance(next(results), znb.WorkerLost)
    assert found == list(range(9))
    assert sorted(lines(path), key=int) == [*map(str, range(9)), "9", "9", "9"], "what was done did not run again"


# -- exceptions and retries


def test_exceptions_are_not_retried(cluster, tmp_path):
    path = tmp_path / "runs"
    found = list(cluster.map(functools.partial(jobs.fail_first, str(path)), [1], errors="return"))
    assert isinstance(found[0], OSError)
    assert lines(path) == ["1"]


def test_retry_on(cluster, tmp_path):
    path = tmp_path / "runs"
    function = functools.partial(jobs.fail_first, str(path))
    assert list(cluster.map(function, range(5), retry_on=OSError)) == list(range(5))
    assert sorted(lines(path)) == sorted([str(x) for x in range(5)] * 2)


def test_retry_on_a_base_class_until_the_attempts_are_used_up(cluster, tmp_path):
    path = tmp_path / "runs"
    function = functools.partial(jobs.fail_first, str(path), times=10)
    found = list(cluster.map(function, [1], retry_on=(Exception,), retries=3, errors="return"))
    assert isinstance(found[0], OSError)
    assert lines(path) == ["1"] * 4


# -- limits


def test_job_timeout_stops_that_job_only(cluster):
    found = list(cluster.map(jobs.sleep, [0.01, 60, 0.02, 0.03], range(4), job_timeout=0.5, errors="return"))
    assert isinstance(found[1], znb.CallTimeout)
    assert "0.5 s" in str(found[1])
    assert found[0:1] + found[2:] == [0, 2, 3]
    pids = {worker.pid for worker in cluster.workers}
    assert cluster.submit(jobs.pid).result() in pids, "the interrupt was enough: no process was replaced"
    assert all(worker.generation == 1 for worker in cluster.workers)


def test_a_job_that_overran_is_retried_on_call_timeout(cluster, tmp_path):
    path = tmp_path / "runs"

    def slow_first(x):
        jobs.note(str(path), x)
        if lines(path).count(str(x)) == 1:
            time.sleep(jobs.PATIENCE)
        return x

    assert list(cluster.map(slow_first, [1, 2], job_timeout=0.3, retry_on=znb.CallTimeout)) == [1, 2]
    assert sorted(lines(path)) == ["1", "1", "2", "2"]


def test_a_job_that_ignores_its_interrupt_is_killed(tmp_path):
    with started(1) as cluster:
        with pytest.raises(znb.CallTimeout):
            list(cluster.map(jobs.stubborn, [str(tmp_path)], job_timeout=0.3))
        old = int((tmp_path / "stubborn").read_text())
        wait_until(lambda: not psutil.pid_exists(old), "the stubborn worker is killed")
        assert cluster.submit(pow, 2, 3).result() == 8
        assert cluster.workers[0].generation == 2


def test_cancelled_jobs_stop(tmp_path):
    with started(1) as cluster:
        gate = Gate(tmp_path)
        pid = cluster.submit(jobs.pid).result()
        future = cluster.submit(gate)
        gate.wait_running()
        future.cancel()
        assert cluster.submit(jobs.pid).result() == pid, "the worker is free again, and the same"


def test_a_cancelled_job_that_ignores_its_interrupt_is_killed_in_the_end(tmp_path, capfd):
    with started(1) as cluster:
        cluster._attached.jobs._scheduler._cancel_grace = 0.3
        future = cluster.submit(jobs.stubborn, str(tmp_path))
        wait_until((tmp_path / "stubborn").exists)
        assert future.cancel()
        assert cluster.submit(pow, 2, 3).result() == 8
        assert cluster.workers[0].generation == 2
        said = capfd.readouterr().err
    assert "w0 is killed, and replaced without its variables: stubborn (job 0) was to stop" in said


def test_a_handler_that_a_job_leaves_behind_does_not_keep_interrupts_from_the_next(tmp_path):
    with started(1) as cluster:
        pid = cluster.submit(jobs.pid).result()
        cluster.submit(jobs.ignore_interrupts).result()
        gate = Gate(tmp_path)
        future = cluster.submit(gate)
        gate.wait_running()
        future.cancel()
        assert cluster.submit(jobs.pid).result() == pid
        found = list(cluster.map(jobs.ignore_then_sleep, [0, 60, 0], chunksize=3, job_timeout=0.5, errors="return"))
        assert isinstance(found[1], znb.CallTimeout)
        assert found[0] == found[2] == pid, "the interrupt was enough: no process was replaced"


def test_interrupts_hit_nothing_else(tmp_path):
    """Cancel jobs as they run, with others right behind them: those must not notice."""
    with started(1) as cluster:
        for turn in range(30):
            gate = Gate(tmp_path, f"gate{turn}")
            future = cluster.submit(gate)
            after = [cluster.submit(jobs.square, x) for x in range(20)]
            gate.wait_running()
            future.cancel()
            assert [f.result() for f in after] == [x * x for x in range(20)]


def test_breaking_out_of_a_map_frees_the_workers(tmp_path):
    gate = Gate(tmp_path)
    with started() as cluster:
        pids = {worker.pid for worker in cluster.workers}
        for result in cluster.map(functools.partial(jobs.gate_if, gate), itertools.chain([0, 0], itertools.repeat(1))):
            assert result == 0
            gate.wait_running()
            break
        assert cluster.submit(pow, 2, 3).result() == 8
        assert {worker.pid for worker in cluster.workers} == pids
        cluster[:].call(abs, -1)  # each has stopped what it ran, and so has heard that the rest is not wanted
        began = len(gate.runs())
        assert list(cluster.map(jobs.square, range(100))) == [x * x for x in range(100)]
        assert len(gate.runs()) == began, "nothing of it began after the break"


def test_an_interrupted_map_frees_the_workers(tmp_path):
    gate = Gate(tmp_path)
    with started() as cluster:
        with gate.interrupting(), pytest.raises(KeyboardInterrupt):
            list(cluster.map(gate, range(10)))
        assert cluster.submit(pow, 2, 3).result() == 8


def test_the_clusters_interrupt_reaches_jobs_and_the_next_ones_run(cluster, tmp_path):
    gate = Gate(tmp_path)
    future = cluster.submit(gate)
    results = cluster.map(gate, range(4), errors="return")
    wait_until(lambda: len(gate.runs()) == 2, "both workers are in a job")
    cluster.interrupt()
    with pytest.raises(znb.Cancelled, match="KeyboardInterrupt"):
        future.result()
    results.cancel()
    assert cluster.submit(pow, 2, 3).result() == 8


def test_an_interrupted_wait_for_a_future_cancels_what_this_thread_submitted(tmp_path):
    gate = Gate(tmp_path)
    with started() as cluster, gate.interrupting():
        futures = [cluster.submit(gate) for _ in range(10)]
        with pytest.raises(KeyboardInterrupt):
            futures[0].result()
        assert all(future.cancelled() for future in futures)
        assert cluster.submit(pow, 2, 3).result() == 8


def test_results_do_not_wait_for_a_long_job_of_their_chunk(cluster, tmp_path):
    gate = Gate(tmp_path)
    results = cluster.map(functools.partial(jobs.gate_if, gate), [0] * 9 + [1] + [0] * 5, chunksize=15)
    assert [next(results) for _ in range(9)] == [0] * 9
    gate.open()
    assert list(results) == [1, 0, 0, 0, 0, 0]


def test_cancel_what_is_claimed_but_has_not_begun(tmp_path):
    """Jobs are claimed some at a time, yet one that waits behind a long one can be cancelled."""
    with started(1) as cluster:
        first, second = Gate(tmp_path, "first"), Gate(tmp_path, "second")
        quick = [cluster.submit(jobs.gate_if, first, 0) for _ in range(500)]
        assert [future.result() for future in quick] == [0] * 500
        futures = [cluster.submit(jobs.gate_if, gate, gate is not None) for gate in (None, None, first, second, second)]
        first.wait_running()
        assert futures[3].cancel()
        assert futures[4].cancel()
        cluster._attached.jobs.stats()  # the cancellations have been sent …
        cluster.workers[0].stats()  # … and the worker's I/O thread has had its turn
        first.open()
        assert [future.result() for future in futures[:3]] == [False, False, True]
        assert cluster.submit(pow, 2, 3).result() == 8
        assert second.runs() == []


# -- memory


def test_an_endless_source_in_constant_memory(cluster):
    results = cluster.map(jobs.square, itertools.count())
    for expected in range(100_000):
        assert next(results) == expected**2
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for expected in range(100_000, 500_000):
        assert next(results) == expected**2
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.cancel()
    assert after - before < 10_000, "kB; each result costs 30 bytes at the least"


def test_large_results_are_held_back(cluster):
    """A consumer that takes nothing has little piled up for it: 2 workers, 64 MB each, of 4 GB."""
    before = psutil.Process().memory_info().rss
    results = cluster.map(jobs.blob, itertools.repeat(8 << 20, 500))
    assert len(next(results)) == 8 << 20
    workers = [psutil.Process(worker.pid) for worker in cluster.workers]
    wait_until(lambda: all(worker.status() != psutil.STATUS_RUNNING for worker in workers), "workers held back")
    assert psutil.Process().memory_info().rss - before < 400 << 20
    assert sum(len(item) for item in results) == 499 * (8 << 20)


def test_distinct_functions_do_not_pile_up_in_a_worker():
    with started(1) as cluster:
        worker = psutil.Process(cluster.workers[0].pid)
        sizes = []
        for turn in range(3):
            futures = [cluster.submit(jobs.adder(turn * 2400 + i), 1) for i in range(2400)]
            assert [future.result() for future in futures] == [turn * 2400 + i + 1 for i in range(2400)]
            sizes.append(worker.memory_info().rss)
        assert min(b - a for a, b in itertools.pairwise(sizes)) < 4 << 20, "2,400 of them would take 30 MB"


@pytest.mark.parametrize("size", [10, 10_000, 1_000_000])
def test_a_job_may_fill_the_array_anew_that_the_last_one_returned(cluster, size):
    for filled in (functools.partial(jobs.fill, np.zeros(size)), functools.partial(jobs.fill, np.zeros((2, size))[1])):
        for i, result in enumerate(cluster.map(filled, range(60), chunksize=20)):
            assert (result == i).all()


def test_a_job_may_change_the_list_that_the_last_one_returned(cluster):
    results = list(cluster.map(functools.partial(jobs.collect, []), range(1000)))
    assert [result[-1] for result in results] == list(range(1000))
    assert all(len(set(result)) == len(result) for result in results)


def test_cells_in_the_background_run_in_the_order_of_the_calls(cluster):
    worker = cluster["w0"]
    worker.run("order = []")
    array = np.zeros(500_000)
    cells = []
    for number in range(50):
        array[:] = number
        cells.append(worker.run_nowait("order.append((array[0], array[-1]))", push={"array": array}))
    assert worker.run("order") == [(number, number) for number in range(50)]
    for cell in cells:
        cell.result()
    worker.run("del array, order")


def test_the_next_cell_may_change_what_the_last_one_sends(cluster):
    worker = cluster["w0"]
    worker.run("import numpy as np; array = np.zeros(4_000_000)")
    for number in range(5):
        worker.run(f"array[:] = {number}")
        value, change = worker.run_nowait("array"), worker.run_nowait("array[:] = -1")
        assert (value.result() == number).all()
        change.result()
    worker.run("del array")


def test_a_job_may_return_what_it_was_given(cluster):
    rows = [{"row": i} for i in range(3000)]
    assert list(cluster.map(jobs.identity, rows)) == rows
    arrays = [np.full(20_000, i) for i in range(20)]
    assert all((a == b).all() for a, b in zip(arrays, cluster.map(jobs.identity, arrays), strict=True))


def test_results_that_nobody_takes_do_not_hold_up_other_jobs(cluster):
    results = cluster.map(jobs.blob, [4 << 20] * 100)
    waited = wait_until(lambda: cluster.stats().running == 0 and cluster.stats(), "no more jobs are sent")
    assert waited.done < 60
    assert cluster.submit(pow, 2, 3).result() == 8
    assert list(cluster.map(jobs.square, range(1000))) == [x * x for x in range(1000)]
    assert [len(item) for item in results] == [4 << 20] * 100


def test_a_slow_source_does_not_hold_back_results(cluster):
    """Results that are there are yielded before the source is asked for hundreds of slow items."""
    pulled = []

    def source():
        for number in itertools.count():
            pulled.append(number)
            if number > 600:
                time.sleep(0.005)
            yield number

    results = cluster.map(jobs.square, source())
    seen = []
    for result in itertools.islice(results, 800):
        seen.append((result, len(pulled)))
    results.cancel()
    assert [result for result, _ in seen] == [x * x for x in range(800)]
    assert max(count - position for position, (_, count) in enumerate(seen[620:], 620)) < 700


# -- several clients and threads


def test_several_threads_map_at_once(cluster):
    found = {}

    def run(number):
        found[number] = list(cluster.map(functools.partial(pow, number), range(300)))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [n**x for x in range(300)] for n in range(2, 8)}


def test_two_clients_share_a_cluster(cluster):
    with znb.Cluster.connect("jobs") as other:
        mine, theirs = cluster.map(jobs.work, range(2000)), other.map(jobs.work, range(2000))
        pairs = list(zip(mine, theirs, strict=True))
    assert pairs == [(x * 2 + 1, x * 2 + 1) for x in range(2000)]


NOTEBOOK = """
import itertools, sys, znb, job_functions as jobs
name, path, seconds = sys.argv[1:]
with znb.Cluster.connect("jobs") as cluster, open(path, "a", buffering=1) as file:
    step = max(1, round(0.05 / float(seconds)))
    for n, _ in enumerate(cluster.map(jobs.spin, itertools.repeat(float(seconds)))):
        if n % step == step - 1:
            file.write(name + "\\n")
"""


@pytest.mark.serial
@pytest.mark.parametrize(("first", "second"), [(0.0005, 0.0005), (0.0005, 0.02)])
def test_two_notebooks_get_half_of_a_cluster_each(cluster, tmp_path, first, second):
    """Each writes its name for every 50 ms of work that has been done for it."""
    path = tmp_path / "work"
    notebooks = [
        subprocess.Popen([sys.executable, "-c", NOTEBOOK, name, path, str(seconds)], cwd=Path(__file__).parent)
        for name, seconds in (("a", first), ("b", second))
    ]
    try:
        wait_until(lambda: {"a", "b"} <= set(lines(path)), "both run")
        begin = len(lines(path))
        found = wait_until(
            lambda: len(lines(path)) > begin + 60 and lines(path)[begin : begin + 60], "60 pieces of work"
        )
    finally:
        for notebook in notebooks:
            notebook.kill()
            notebook.wait()
    # Loose, as a client that gets no processor has nothing to run; ``test_runner.py`` has the exact rule.
    assert 12 <= found.count("a") <= 48, f"half of it is 30: {''.join(found)}"


def test_a_client_that_vanishes_frees_the_workers(cluster, tmp_path):
    gate = Gate(tmp_path)
    with znb.Cluster.connect("jobs") as other:
        futures = [other.submit(gate) for _ in range(10)]
        gate.wait_running()
        other.close()
        assert all(isinstance(future.exception(), znb.ZnbError) for future in futures)
    assert cluster.submit(pow, 2, 3).result() == 8
    assert list(cluster.map(jobs.square, range(10))) == [x * x for x in range(10)]


def test_a_client_that_is_killed_frees_the_workers(cluster):
    """It takes no more results, so its workers are blocked by what they may not send."""
    program = (
        "import znb, itertools, job_functions as jobs\n"
        "results = znb.Cluster.connect('jobs').map(jobs.blob, itertools.repeat(8 << 20))\n"
        "print(len(next(results)), flush=True)\n"
        "input()\n"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent
    )
    assert client.stdout.readline() == b"8388608\n"
    client.kill()
    client.communicate()
    assert [cluster[name].run("6 * 7") for name in cluster.names] == [42, 42]
    assert list(cluster.map(jobs.square, range(100))) == [x * x for x in range(100)]


def test_a_job_uses_the_cluster_that_runs_it(cluster):
    assert cluster.submit(jobs.nest, "jobs", 7).result() == 49


# -- elastic


def test_jobs_that_wait_for_jobs_on_all_workers_are_told_so(cluster):
    found = list(cluster.map(jobs.nest, ["jobs"] * 4, range(4), errors="return"))
    stuck = [error for error in found if isinstance(error, znb.NoWorkers)]
    assert stuck
    assert "square can never run: every worker runs a job that waits for other jobs of this cluster" in str(stuck[0])
    assert all(isinstance(value, znb.NoWorkers) or value == x * x for x, value in enumerate(found))
    assert cluster.submit(pow, 2, 3).result() == 8


def test_workers_that_come_are_used_at_once(tmp_path):
    gate = Gate(tmp_path)
    with started(1) as cluster:
        futures = [cluster.submit(gate, x) for x in range(2)]
        gate.wait_running()
        cluster.scale(2)
        wait_until(lambda: len(gate.runs()) == 2)
        gate.open()
        assert [future.result() for future in futures] == [0, 1]


def test_workers_that_go_lose_nothing(tmp_path):
    with started(2) as cluster:
        results = cluster.map(jobs.work, range(3000))
        assert next(results) == 1
        cluster.scale(1)
        assert list(results) == [x * 2 + 1 for x in range(1, 3000)]


def test_a_worker_that_retires_hands_its_job_on(tmp_path):
    gate = Gate(tmp_path)
    with started(2) as cluster:
        future = cluster.submit(gate, 7)
        gate.wait_running()
        (busy,) = (worker.name for worker in cluster.status().workers if worker.running)
        cluster.retire(busy)
        assert busy not in cluster.names
        gate.open()
        assert future.result() == 7
        cluster.scale(2)
        assert cluster.names == ("w0", "w1")


def test_no_workers_is_said(capfd):
    with started(1) as cluster:
        cluster.scale(0)
        future = cluster.submit(pow, 2, 3)
        with pytest.raises(TimeoutError):
            future.result(timeout=1.5)
        assert "no workers" in capfd.readouterr().err

        async def wait():
            async with asyncio.timeout(3):
                await cluster.submit(pow, 2, 4)

        with pytest.raises(TimeoutError):
            asyncio.run(wait())
        assert "pow waits because there are no workers" in capfd.readouterr().err
        cluster.scale(1)
        assert future.result() == 8


def test_a_job_that_connects_to_its_own_cluster_does_not_keep_it(tmp_path):
    """It would never end: the worker that holds the connection ends with the cluster."""
    program = """
        import psutil, znb

        def nested():
            import znb
            globals()["kept"] = znb.Cluster.connect("ten")
            return kept.submit(pow, 2, 3).result()

        with znb.Cluster.start(2, name="ten") as cluster:
            zygote = psutil.Process(cluster.workers[0].pid).parent()
            print(cluster.submit(nested).result())
        print(psutil.wait_procs([zygote], timeout=30)[1])
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(program))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "8\n[]\n", done.stderr
