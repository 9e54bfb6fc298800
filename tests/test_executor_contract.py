"""``Cluster`` as a ``concurrent.futures.Executor``: what PEP 3148 and CPython's own tests expect of one."""

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import itertools
import logging
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, as_completed, wait
from pathlib import Path

import pytest

import job_functions as jobs
import znb
from job_functions import Gate, wait_until
from kernels import interpreter
from test_rpc_channels import keep_zero_copy_warm

keep_zero_copy_warm()

TESTS = Path(__file__).parent


@contextlib.contextmanager
def started(n=2, name="contract"):
    cluster = znb.Cluster.start(n, name=name)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def cluster(module_world):
    """A cluster whose threads are all there before the tests begin."""
    with started() as cluster:
        jobs.start_callbacks(cluster)
        yield cluster


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path)
    yield gate
    gate.open()


# -- submit


def test_submit(cluster):
    assert cluster.submit(pow, 2, 8).result() == 256
    assert isinstance(cluster, concurrent.futures.Executor)


def test_keywords_named_self_and_fn(cluster):
    assert cluster.submit(jobs.capture, 1, self=2, fn=3).result() == ((1,), {"self": 2, "fn": 3})
    with pytest.raises(TypeError):
        cluster.submit(fn=jobs.capture, arg=1)
    with pytest.raises(TypeError):
        cluster.submit(arg=1)


def test_submit_from_several_threads(cluster):
    found = {}

    def work(number):
        futures = [cluster.submit(jobs.square, number * 100 + i) for i in range(100)]
        found[number] = [future.result() for future in futures]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [(n * 100 + i) ** 2 for i in range(100)] for n in range(4)}


def test_submits_of_two_functions_at_once_open_both_groups(cluster):
    """A submit of a new function was refused when it came right behind one of another."""
    for turn in range(200):
        both = [cluster.submit(functools.partial(pow, turn), 2), cluster.submit(functools.partial(pow, 2), 3)]
        assert [future.result() for future in both] == [turn**2, 8]


def test_submits_of_many_functions_from_several_threads(cluster):
    """Beyond 64 functions the streams of older ones are closed, while others may be submitting to them."""
    found = []

    def run(number):
        futures = [cluster.submit(functools.partial(pow, x % 100), 2) for x in range(number, number + 300)]
        found.append([future.result() for future in futures] == [(x % 100) ** 2 for x in range(number, number + 300)])

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(jobs.PATIENCE)
    assert found == [True] * 3


def test_functions_with_large_data_are_let_go(cluster):
    """The stream of such a function was kept open for more jobs, and its data with it."""

    class Data(bytearray):
        pass

    data = Data(1 << 20)
    gone = weakref.ref(data)
    assert cluster.submit(functools.partial(len, data)).result() == 1 << 20
    del data
    wait_until(lambda: gc.collect() is not None and gone() is None, "the data is let go")


# -- futures: states, results


def test_states_of_a_future(cluster, gate):
    future = cluster.submit(gate, 5)
    gate.wait_running()
    wait_until(future.running)
    assert not future.done()
    assert future.worker in cluster.names, "it is known where it runs"
    assert repr(future) == f"<Future of Gate, state=running on {future.worker}>"
    with pytest.raises(TimeoutError):
        future.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0)
    gate.open()
    wait([future])
    assert repr(future) == f"<Future of Gate, state=finished on {future.worker}>"
    assert future.result(timeout=jobs.PATIENCE) == 5
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert "returned int" in repr(future)
    assert future.worker in cluster.names


def test_a_queued_future_is_pending_until_it_is_sent(cluster, tmp_path):
    gate = Gate(tmp_path)
    futures = [cluster.submit(gate, number) for number in range(200)]
    gate.wait_running()
    assert "state=pending" in repr(futures[-1])
    assert not futures[-1].running()
    gate.open()
    assert [future.result() for future in futures] == list(range(200))


def test_exceptions_keep_their_type(cluster):
    future = cluster.submit(jobs.fail, "why")
    with pytest.raises(ValueError, match="why"):
        future.result()
    assert isinstance(future.exception(), ValueError)
    assert "raised ValueError" in repr(future)


def test_two_threads_ask_for_one_result(cluster):
    for number in range(50):
        future = cluster.submit(jobs.square, number)
        wait([future])
        barrier = threading.Barrier(4)
        found = []

        def ask():
            barrier.wait()
            found.append(future.result())

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [number**2] * 4


# -- callbacks


def called_with(future):
    """Add a callback; return a function that waits for it and returns what it saw."""
    seen = []
    future.add_done_callback(lambda done: seen.append((done, done.cancelled() or done.exception() or done.result())))
    return lambda: wait_until(lambda: seen, "the callback")[0]


def test_callback_with_result(cluster):
    future = cluster.submit(pow, 2, 3)
    assert called_with(future)() == (future, 8)


def test_callback_with_exception(cluster):
    future = cluster.submit(jobs.fail)
    assert called_with(future)()[1].args == ("no",)


def test_callback_with_cancel(cluster, gate):
    future = cluster.submit(gate)
    seen = called_with(future)
    assert future.cancel()
    assert seen() == (future, True)


def test_callback_of_a_future_that_is_done_runs_at_once(cluster):
    future = cluster.submit(pow, 2, 3)
    future.result()
    seen = []
    future.add_done_callback(lambda done: seen.append(threading.current_thread()))
    assert seen == [threading.current_thread()]


def test_a_callback_that_raises_is_logged_and_the_next_one_runs(cluster, caplog):
    future = cluster.submit(pow, 2, 3)

    def bad(_):
        raise RuntimeError("doh")

    with caplog.at_level(logging.ERROR):
        future.add_done_callback(bad)
        seen = called_with(future)
        assert seen()[1] == 8
    assert "doh" in caplog.text


def test_callbacks_may_submit_and_wait(cluster):
    found = []
    cluster.submit(pow, 2, 3).add_done_callback(
        lambda done: found.append(cluster.submit(jobs.square, done.result()).result())
    )
    assert wait_until(lambda: found) == [64]


def test_callbacks_do_not_run_on_the_io_thread(cluster):
    seen = []
    future = cluster.submit(jobs.sleep, 0.01)
    future.add_done_callback(lambda _: seen.append(threading.current_thread().name))
    wait_until(lambda: seen)
    assert seen[0] in {"znb-delivery", "MainThread"}


# -- cancel


def test_cancel_a_running_job(cluster, gate):
    future = cluster.submit(gate)
    gate.wait_running()
    wait_until(future.running)
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    assert cluster.submit(pow, 2, 3).result() == 8
    assert future.cancel(), "it stays cancelled"


def test_a_queued_job_that_is_cancelled_never_runs(cluster, tmp_path):
    gate = Gate(tmp_path)
    futures = [cluster.submit(gate, number) for number in range(100)]
    gate.wait_running()
    assert all(future.cancel() for future in futures[50:])
    gate.open()
    assert [future.result() for future in futures[:50]] == list(range(50))
    assert cluster.submit(pow, 2, 3).result() == 8
    assert len(gate.runs()) == 50


def test_what_is_done_cannot_be_cancelled(cluster):
    future = cluster.submit(pow, 2, 3)
    assert future.result() == 8
    assert not future.cancel()
    assert not future.cancelled()


def test_cancelling_wakes_who_waits(cluster, gate):
    future = cluster.submit(gate)
    gate.wait_running()
    found = []

    def ask():
        try:
            future.result()
        except concurrent.futures.CancelledError as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    future.cancel()
    thread.join(jobs.PATIENCE)
    assert found


# -- wait and as_completed


def test_wait_for_all(cluster):
    futures = [cluster.submit(divmod, 2, 0), cluster.submit(pow, 2, 3)]
    done, left = wait(futures, return_when=ALL_COMPLETED)
    assert (done, left) == (set(futures), set())


def test_wait_for_the_first(cluster, gate):
    quick, slow = cluster.submit(pow, 2, 3), cluster.submit(gate)
    assert wait([quick, slow], return_when=FIRST_COMPLETED) == ({quick}, {slow})


def test_wait_for_the_first_exception(cluster, gate):
    """Outcomes are decoded late, yet that a job failed has to be known at once."""
    good, slow = cluster.submit(pow, 2, 3), cluster.submit(gate)
    gate.wait_running()
    good.result()
    bad = cluster.submit(jobs.fail)
    done, left = wait([good, bad, slow], timeout=jobs.PATIENCE, return_when=FIRST_EXCEPTION)
    assert (done, left) == ({good, bad}, {slow})


def test_wait_times_out(cluster, gate):
    slow = cluster.submit(gate)
    assert wait([slow], timeout=0.05) == (set(), {slow})


def test_as_completed(cluster, gate):
    slow = cluster.submit(gate, "slow")
    quick = cluster.submit(pow, 2, 3)
    found = as_completed([slow, quick, slow])
    assert next(found) is quick
    gate.open()
    assert list(found) == [slow]
    with pytest.raises(TimeoutError):
        list(as_completed([cluster.submit(jobs.sleep, 0.3)], timeout=0.01))


@pytest.mark.parametrize("waiting", [wait, lambda futures: list(as_completed(futures))], ids=["wait", "as_completed"])
def test_an_interrupted_wait_for_several_cancels_what_this_thread_submitted(cluster, gate, waiting):
    def interrupt():
        gate.wait_running()
        wait_until(lambda: futures[-1]._waiters)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    futures = [cluster.submit(gate) for _ in range(10)]
    other = cluster.submit(gate)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        waiting(futures)
    thread.join()
    assert all(future.cancelled() for future in [*futures, other])
    assert cluster.submit(pow, 2, 3).result() == 8


# -- map


def test_map(cluster):
    assert list(cluster.map(pow, range(10), range(10))) == list(map(pow, range(10), range(10)))
    assert list(cluster.map(pow, range(10), range(10), chunksize=3)) == list(map(pow, range(10), range(10)))
    assert list(cluster.map(jobs.square, [])) == []
    assert list(cluster.map(max, range(3), itertools.count(1))) == [1, 2, 3]


def test_map_raises_where_the_job_failed(cluster):
    results = cluster.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_map_times_out(cluster, gate):
    found = []
    with pytest.raises(TimeoutError, match="1 s"):
        for result in cluster.map(functools.partial(jobs.gate_if, gate), [0, 0, 1], timeout=1):
            found.append(result)
    assert found == [0, 0]
    assert cluster.submit(pow, 2, 3).result() == 8


def test_map_starts_before_it_is_iterated(cluster, tmp_path):
    path = tmp_path / "runs"
    results = cluster.map(functools.partial(jobs.note, str(path)), range(20))
    wait_until(lambda: path.exists() and len(path.read_text().split()) == 20)
    assert list(results) == list(range(20))


def test_map_pulls_no_faster_than_results_are_taken(cluster):
    pulled = []

    def source():
        for number in itertools.count():
            pulled.append(number)
            yield number

    results = cluster.map(jobs.square, source())
    assert [next(results) for _ in range(5000)] == [n * n for n in range(5000)]
    assert 5000 <= len(pulled) < 100_000
    results.cancel()


def test_map_with_a_buffersize(cluster):
    pulled = []
    results = cluster.map(jobs.square, (pulled.append(n) or n for n in range(1000)), buffersize=7)
    assert len(pulled) <= 7
    for number, result in enumerate(results):
        assert result == number**2
        assert len(pulled) <= number + 8
    assert len(pulled) == 1000


def test_a_source_that_raises(cluster):
    def source():
        yield from range(10)
        raise LookupError("source")

    results = cluster.map(jobs.square, source())
    assert [next(results) for _ in range(10)] == [n * n for n in range(10)]
    with pytest.raises(LookupError, match="source"):
        next(results)


def test_failures_in_place(cluster):
    found = list(cluster.map(jobs.fail_at, range(5), [3] * 5, errors="return"))
    assert found[:3] == [0, 1, 2]
    assert isinstance(found[3], ValueError)
    assert found[4] == 4


def test_cancel_a_map_from_another_thread(cluster, gate):
    results = cluster.map(functools.partial(jobs.gate_if, gate), [0, 1, 1, 1])
    found = []
    thread = threading.Thread(target=lambda: found.extend(results))
    thread.start()
    gate.wait_running()
    wait_until(lambda: found)
    results.cancel()
    thread.join(jobs.PATIENCE)
    assert found == [0]
    assert cluster.submit(pow, 2, 3).result() == 8, "the workers are free"


def test_cancel_a_map_from_its_source(cluster):
    def items():
        yield from range(3)
        while not maps:
            yield 0
        maps[0].cancel()
        yield 1

    maps = []
    results = cluster.map(jobs.square, items(), buffersize=4)
    maps.append(results)
    assert list(results)[:3] in ([], [0], [0, 1], [0, 1, 4])


def test_a_map_tells_how_many_results_were_taken(cluster, capfd):
    results = cluster.map(jobs.square, range(1000))
    assert repr(results) == "<map of square, 0 results taken>"
    assert list(itertools.islice(results, 3)) == [0, 1, 4]
    assert repr(results) == "<map of square, 3 results taken>"
    results._ipython_display_()
    assert "3/1000" in capfd.readouterr().err
    next(results)
    results.cancel()
    assert "4/1000" in capfd.readouterr().err
    assert repr(results) == "<map of square, 4 results taken, ended>"
    with pytest.raises(NotImplementedError):
        results._ipython_display_()
    assert capfd.readouterr().err == "", "a bar of what has ended would never move"


def test_failures_are_taken_too(cluster, capfd):
    function = functools.partial(jobs.fail_at, bad=3)
    results = cluster.map(function, range(6), errors="return", progress=True)
    assert len(list(results)) == 6
    assert repr(results) == "<map of partial, 6 results taken, ended>"
    assert "6/6" in (shown := capfd.readouterr().err)
    assert "failed=1" in shown


@pytest.mark.parametrize(("timeout", "kind"), [("3", TypeError), (True, TypeError), (-1, ValueError)])
def test_map_says_what_is_wrong_with_its_timeout(cluster, timeout, kind):
    with pytest.raises(kind, match=rf"timeout must .*got {timeout!r}"):
        cluster.map(jobs.square, [1], timeout=timeout)


def test_map_without_iterables(cluster):
    with pytest.raises(TypeError, match="at least one iterable"):
        cluster.map(jobs.square)


# -- references


def test_no_stale_references_to_arguments(cluster):
    thing = jobs.Thing()
    gone = weakref.ref(thing)
    cluster.submit(thing.method)
    del thing
    wait_until(lambda: gc.collect() is not None and gone() is None, "the argument is let go")


def test_no_stale_references_to_results(cluster):
    future = cluster.submit(jobs.thing)
    gone = weakref.ref(future.result())
    assert gone() is not None
    del future
    wait_until(lambda: gc.collect() is not None and gone() is None, "the result is let go")


def test_map_lets_go_of_what_it_yielded(cluster):
    for errors in ("raise", "return"):
        for thing in cluster.map(jobs.thing, range(10), errors=errors):
            gone = weakref.ref(thing)
            del thing
            gc.collect()
            assert gone() is None


# -- asyncio


def test_await_a_future(cluster):
    async def main():
        assert await cluster.submit(pow, 2, 3) == 8
        with pytest.raises(ValueError, match="no"):
            await cluster.submit(jobs.fail)
        return await asyncio.gather(*(cluster.submit(jobs.square, n) for n in range(10)))

    assert asyncio.run(main()) == [n * n for n in range(10)]


def test_run_in_executor(cluster):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(cluster, jobs.square, n) for n in range(10)))

    assert asyncio.run(main()) == [n * n for n in range(10)]


def test_cancelling_an_asyncio_task_interrupts_the_job(cluster, gate):
    future = None

    async def job():
        nonlocal future
        future = cluster.submit(gate)
        return await future

    async def main():
        task = asyncio.create_task(job())
        while not gate.runs():
            await asyncio.sleep(jobs.LOOK)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert future.cancelled()
    assert cluster.submit(pow, 2, 3).result() == 8


# -- shutdown


def test_after_shutdown():
    with started() as cluster:
        future = cluster.submit(jobs.sleep, 0.1, "done")
        cluster.shutdown()
        assert future.result(0) == "done"
        assert cluster.closed
        with pytest.raises(RuntimeError, match="after shutdown"):
            cluster.submit(pow, 2, 3)
        with pytest.raises(RuntimeError, match="after shutdown"):
            cluster.map(abs, [1])
        cluster.shutdown()


def test_after_close():
    with started() as cluster:
        pass
    with pytest.raises(RuntimeError, match="after shutdown"):
        cluster.submit(pow, 2, 3)


def test_shutdown_waits_for_everything():
    with started() as cluster:
        futures = [cluster.submit(jobs.sleep, 0.01, n) for n in range(50)]
        cluster.shutdown()
        assert [future.result(0) for future in futures] == list(range(50))


def test_shutdown_without_waiting():
    with started() as cluster:
        futures = [cluster.submit(jobs.sleep, 0.05, n) for n in range(6)]
        results = cluster.map(abs, range(-5, 5))
        cluster.shutdown(wait=False)
        with pytest.raises(RuntimeError):
            cluster.submit(pow, 2, 3)
        assert [future.result() for future in futures] == list(range(6))
        assert list(results) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]


def test_shutdown_cancels_what_has_not_begun(tmp_path):
    gate = Gate(tmp_path)
    with started() as cluster:
        futures = [cluster.submit(gate, n) for n in range(100)]
        gate.wait_running()
        cluster.shutdown(wait=False, cancel_futures=True)
        gate.open()
        wait(futures)
        cancelled = [future.cancelled() for future in futures]
        assert any(cancelled)
        assert not all(cancelled)
        assert all(f.result() == n for n, f in enumerate(futures) if not f.cancelled())


def test_shutdown_after_a_quick_cancel():
    with started(1) as cluster:
        cluster.submit(int).cancel()
        cluster.shutdown()


def test_shutdown_from_a_callback():
    with started(1) as cluster:
        cluster.submit(pow, 2, 3).add_done_callback(lambda _: cluster.shutdown())
        wait_until(lambda: cluster.closed)


def test_with_waits_for_jobs_and_keeps_results_of_maps():
    with znb.Cluster.start(2, name="contract") as cluster:
        future = cluster.submit(jobs.sleep, 0.2, "late")
        results = cluster.map(jobs.square, range(5000))
        large = cluster.map(jobs.blob, [4_000_000] * 40)
    assert future.result(0) == "late"
    assert list(results) == [n * n for n in range(5000)]
    assert [len(item) for item in large] == [4_000_000] * 40


def test_maps_whose_results_hold_up_each_other_are_all_finished():
    with znb.Cluster.start(2, name="contract") as cluster:
        small = cluster.map(jobs.sleep, [0.001] * 2000)
        large = cluster.map(jobs.blob, [4_000_000] * 60)
    assert len(list(small)) == 2000
    assert [len(item) for item in large] == [4_000_000] * 60


def test_with_leaves_an_endless_source_alone():
    with znb.Cluster.start(2, name="contract") as cluster:
        results = cluster.map(jobs.square, itertools.count())
        assert next(results) == 0
    found = []
    with pytest.raises(RuntimeError, match="after shutdown"):
        for result in results:
            found.append(result)
    assert found == [n * n for n in range(1, len(found) + 1)]


def test_with_does_not_wait_after_an_interrupt(tmp_path):
    gate = Gate(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        with znb.Cluster.start(1, name="contract") as cluster:
            future = cluster.submit(gate)
            gate.wait_running()
            raise KeyboardInterrupt
    assert isinstance(future.exception(0), znb.ZnbError)


def test_maps_are_cancelled_by_shutdown(tmp_path):
    gate = Gate(tmp_path)
    with started() as cluster:
        results = cluster.map(gate, range(1000))
        gate.wait_running()
        cluster.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(concurrent.futures.CancelledError):
            list(results)


# -- the end of the interpreter


def run_program(source, **options):
    """Run a program as a file of its own; return what it printed."""
    program = "import sys, znb, job_functions as jobs\n" + source
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=TESTS, check=False, **options
    )


def test_work_that_is_pending_at_exit_is_done():
    done = run_program(
        "cluster = znb.Cluster.start(1)\n"
        "cluster.submit(jobs.sleep_and_print, 0.3, 'apple')\n"
        "future = cluster.submit(pow, 2, 3)\n"
        "future.add_done_callback(lambda done: print('called', done.result()))\n"
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert "apple" in done.stdout
    assert "called 8" in done.stdout


def test_shutdown_without_waiting_then_exit():
    done = run_program(
        "cluster = znb.Cluster.start(1)\n"
        "cluster.submit(jobs.sleep_and_print, 0.3, 'apple')\n"
        "cluster.shutdown(wait=False)\n"
    )
    assert done.stderr == ""
    assert "apple" in done.stdout


def test_submit_while_the_interpreter_ends():
    done = run_program(
        "import atexit\n"
        "@atexit.register\n"
        "def last():\n"
        "    try:\n"
        "        cluster.submit(id, None)\n"
        "    except RuntimeError as error:\n"
        "        print('refused:', error)\n"
        "cluster = znb.Cluster.start(1)\n"
        "cluster.submit(id, 42).result()\n"
    )
    assert done.stdout == "refused: cannot schedule new futures after shutdown\n"
    assert done.stderr == ""


def test_an_interrupted_program_does_not_wait(tmp_path):
    Gate(tmp_path)
    source = (
        f"import time\ngate = jobs.Gate({str(tmp_path)!r})\n"
        "cluster = znb.Cluster.start(1)\n"
        "cluster.submit(gate)\n"
        "gate.wait_running()\n"
        "print('go', flush=True)\n"
        "time.sleep(60)\n"
    )
    program = "import sys, znb, job_functions as jobs\n" + source
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=TESTS
    )
    assert process.stdout.readline() == b"go\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=jobs.PATIENCE)
    assert b"KeyboardInterrupt" in stderr
    assert time.monotonic() - began < jobs.PATIENCE
    assert process.returncode != 0


# -- CPython's own


@pytest.mark.parametrize("which", ["own", "py313", "py312"])
@pytest.mark.timeout(300)
def test_the_tests_of_cpython(which):
    """Whichever Python here has them in its standard library."""
    python = sys.executable if which == "own" else interpreter(which)
    has = subprocess.run(
        [python, "-c", "import test.test_concurrent_futures.executor"], capture_output=True, check=False
    )
    if has.returncode:
        pytest.skip(f"{python} comes without test.test_concurrent_futures")
    done = subprocess.run(
        [python, TESTS / "cpython_executor.py"], capture_output=True, text=True, cwd=TESTS, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
