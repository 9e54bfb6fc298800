"""Checkpoints: what was finished is not run again, and a file that does not fit is refused."""

import functools
import gc
import itertools
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import job_functions as jobs
import znb
from job_functions import wait_until
from test_rpc_channels import keep_zero_copy_warm
from znb.checkpoint import Checkpoint
from znb.fingerprint import fingerprint

keep_zero_copy_warm()


@pytest.fixture(scope="module")
def cluster(module_world):
    with znb.Cluster.start(2, name="keep") as cluster:
        jobs.start_callbacks(cluster)
        yield cluster


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.db"


def runs(path):
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def noting(tmp_path):
    return functools.partial(jobs.note, str(tmp_path / "runs"))


@pytest.mark.parametrize("ordered", [True, False])
def test_what_was_finished_is_not_run_again(cluster, file, tmp_path, ordered):
    function = noting(tmp_path)
    assert sorted(cluster.map(function, range(100), checkpoint=file, ordered=ordered)) == list(range(100))
    found = list(cluster.map(function, range(150), checkpoint=file, ordered=ordered))
    assert (found if ordered else sorted(found)) == list(range(150))
    assert runs(tmp_path / "runs") == list(range(150)), "each ran once"
    assert not list(tmp_path.glob("run.db-*")), "nothing but the file is left"


def test_it_goes_on_where_it_was_left(cluster, file, tmp_path):
    function = noting(tmp_path)
    results = cluster.map(function, range(5000), checkpoint=file)
    assert list(itertools.islice(results, 700)) == list(range(700))
    results.cancel()
    before = set(runs(tmp_path / "runs"))
    assert list(cluster.map(function, range(5000), checkpoint=file)) == list(range(5000))
    again = [x for x in runs(tmp_path / "runs") if x < 700]
    assert again == list(range(700)), "what had been yielded did not run again"
    assert before < set(range(5000))


def test_progress_counts_what_was_kept(cluster, file, tmp_path, capfd):
    list(itertools.islice(cluster.map(functools.partial(jobs.note, tmp_path / "runs"), range(40), checkpoint=file), 20))
    capfd.readouterr()
    list(cluster.map(functools.partial(jobs.note, tmp_path / "runs"), range(40), checkpoint=file, progress="again"))
    assert "40/40" in capfd.readouterr().err
    list(cluster.map(functools.partial(jobs.note, tmp_path / "runs"), range(40), checkpoint=file, progress="again"))
    assert "40/40" in capfd.readouterr().err


def test_a_map_that_is_dropped_lets_go_of_its_file_at_once(cluster, file, tmp_path):
    gc.disable()  # the reference that used to hold it was a cycle
    try:
        for _ in cluster.map(functools.partial(jobs.note, tmp_path / "runs"), range(40), checkpoint=file):
            break
        Checkpoint(file, functools.partial(jobs.note, tmp_path / "runs")).close()
    finally:
        gc.enable()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("how", ["break", "cancel"])
def test_what_comes_after_the_end_of_a_map_is_not_kept(cluster, file, ordered, how):
    """Workers that were busy when a map was left send what they have, and whoever waits for them gets that."""
    results = cluster.map(jobs.work, range(2000), checkpoint=file, ordered=ordered, chunksize=10)
    for _ in results:
        if how == "cancel":
            results.cancel()
        break
    del results
    cluster._attached.submits.wait_finished()  # what the end of a ``with`` block does
    assert sorted(cluster.map(jobs.work, range(2000), checkpoint=file)) == sorted(map(jobs.work, range(2000)))


def test_a_map_with_a_checkpoint_says_what_it_is(cluster, file, capfd):
    results = cluster.map(jobs.square, range(8), checkpoint=file)
    next(results)
    assert repr(results) == f"<map of square, 1 results taken, checkpoint {file}>"
    results._ipython_display_()
    list(results)
    assert "8/8" in capfd.readouterr().err
    assert repr(results) == f"<map of square, 8 results taken, ended, checkpoint {file}>"


def test_cancel_a_map_with_a_checkpoint_from_another_thread(cluster, file, tmp_path):
    gate = jobs.Gate(tmp_path)
    results = cluster.map(functools.partial(jobs.gate_if, gate), [0, 1, 1, 1], checkpoint=file)
    found = []
    thread = threading.Thread(target=lambda: found.extend(results))
    thread.start()
    gate.wait_running()
    wait_until(lambda: found)
    results.cancel()
    thread.join(jobs.PATIENCE)
    assert found == [0]
    Checkpoint(file, functools.partial(jobs.gate_if, gate)).close()


def test_failures_are_run_again(cluster, file, tmp_path):
    function = functools.partial(jobs.fail_first, str(tmp_path / "runs"))
    found = list(cluster.map(function, range(5), errors="return", checkpoint=file))
    assert all(isinstance(error, OSError) for error in found)
    assert list(cluster.map(function, range(5), checkpoint=file)) == list(range(5))
    assert list(cluster.map(function, range(5), checkpoint=file)) == list(range(5))
    assert runs(tmp_path / "runs") == sorted([*range(5)] * 2)


def test_results_before_a_failure_are_kept(cluster, file, tmp_path):
    function = functools.partial(jobs.fail_at, bad=50)
    with pytest.raises(ValueError, match="bad 50"):
        list(cluster.map(function, range(100), checkpoint=file))
    with sqlite3.connect(file) as database:
        (count,) = database.execute("SELECT count(*) FROM results").fetchone()
    database.close()
    assert count >= 50


def test_several_iterables_and_arrays(cluster, file):
    arrays = [np.arange(5000) + n for n in range(6)]
    for _ in range(2):
        found = list(cluster.map(np.add, arrays, range(6), checkpoint=file))
        assert all(np.array_equal(a + n, b) for n, (a, b) in enumerate(zip(arrays, found, strict=True)))


def test_a_changed_function_is_refused(cluster, file):
    list(cluster.map(lambda x: x + 1, range(3), checkpoint=file))
    with pytest.raises(znb.ZnbError, match=r"was changed since.*Delete the file"):
        cluster.map(lambda x: x + 2, range(3), checkpoint=file)
    with pytest.raises(znb.ZnbError, match="is another one: this is square"):
        cluster.map(jobs.square, range(3), checkpoint=file)
    assert list(cluster.map(lambda x: x + 1, range(3), checkpoint=file)) == [1, 2, 3], "the refusals did no harm"


def test_a_changed_item_is_named(cluster, file):
    list(cluster.map(jobs.square, [1, 2, 3], checkpoint=file))
    with pytest.raises(znb.ZnbError, match="item 1 is not what it was"):
        list(cluster.map(jobs.square, [1, 5, 3], checkpoint=file))


def test_a_foreign_file_is_left_alone(cluster, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("my notes")
    other = tmp_path / "other.db"
    database = sqlite3.connect(other)
    database.execute("CREATE TABLE mine (x)")
    database.close()
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(znb.ZnbError, match="is not a checkpoint, and is left as it is"):
            cluster.map(abs, [1], checkpoint=path)
        assert path.read_bytes() == before
    with pytest.raises(znb.ZnbError, match="cannot be read"):
        cluster.map(abs, [1], checkpoint=tmp_path)


def test_a_folder_that_is_not_there_is_named(cluster, tmp_path):
    with pytest.raises(znb.ZnbError, match=r"nodir/run\.db: it cannot be made .*folder must be there"):
        cluster.map(abs, [1], checkpoint=tmp_path / "nodir" / "run.db")


def test_a_damaged_file_is_refused(cluster, file):
    list(cluster.map(jobs.blob, [5000] * 50, checkpoint=file))
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4096] + b"\xff" * 4096 + whole[8192:], whole[:150]):
        file.write_bytes(damaged)
        with pytest.raises(znb.ZnbError, match="damaged"):
            list(cluster.map(jobs.blob, [5000] * 50, checkpoint=file))


def test_a_file_of_another_format_is_refused(cluster, file):
    list(cluster.map(abs, [1], checkpoint=file))
    database = sqlite3.connect(file)
    database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(znb.ZnbError, match="format 9"):
        cluster.map(abs, [1], checkpoint=file)


def test_one_map_at_a_time(cluster, file):
    with_file = cluster.map(abs, range(10), checkpoint=file)
    with pytest.raises(znb.ZnbError, match="another map uses it now"):
        cluster.map(abs, range(10), checkpoint=file)
    with_file.cancel()
    assert list(cluster.map(abs, range(10), checkpoint=file)) == list(range(10))


def test_a_result_that_cannot_be_kept(cluster, file):
    with pytest.raises(znb.SerializationError, match="the result of item 0"):
        list(cluster.map(lambda x: lambda: x, [1], checkpoint=file))


def test_nothing_that_was_yielded_is_lost_with_the_process(file, tmp_path):
    """The kernel is killed in the midst of it; another one goes on."""
    program = (
        "import functools, os, signal, sys, znb, job_functions as jobs\n"
        "function = functools.partial(jobs.note, sys.argv[2])\n"
        "cluster = znb.Cluster.start(2, name='keep', grace=1)\n"
        "for count, result in enumerate(cluster.map(function, range(20000), checkpoint=sys.argv[1]), 1):\n"
        "    if count == 3000 and len(sys.argv) > 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "print(count, result)\n"
        "cluster.stop()\n"
    )
    command = [sys.executable, "-c", program, file, tmp_path / "runs"]
    options = {"capture_output": True, "text": True, "cwd": Path(__file__).parent, "timeout": 100}
    assert subprocess.run([*command, "die"], check=False, **options).returncode == -9
    done = subprocess.run(command, check=False, **options)
    assert (done.stdout, done.stderr) == ("20000 19999\n", "")
    ran = runs(tmp_path / "runs")
    assert sorted(set(ran)) == list(range(20000))
    assert [x for x in ran if x < 3000] == list(range(3000)), "what had been yielded did not run again"


# -- fingerprints


def define(source, name="f", file="<cell>", line=0):
    space = {"__name__": "__main__"}
    exec(compile("\n" * line + source, file, "exec"), space)
    return space[name]


def test_fingerprints_of_functions_do_not_depend_on_where_they_stand():
    source = "K = 3\ndef g(x):\n    return f(x - 1) if x else K\ndef f(x):\n    'doc'\n    return g(x) in {'a', 'b'}\n"
    here, there = define(source), define(source, file="/tmp/ipykernel_5/1.py", line=7)
    assert fingerprint(here) == fingerprint(there)
    for old, new in (("K = 3", "K = 4"), ("x - 1", "x - 2"), ("'a'", "'c'")):
        assert fingerprint(define(source.replace(old, new))) != fingerprint(here)


def test_fingerprints_of_classes():
    source = (
        "import dataclasses, enum\n@dataclasses.dataclass\nclass P:\n    a: int = 1\n    def m(self):\n        return self.a\n"
        "class E(enum.Enum):\n    A = 1\ndef f(x):\n    return P(x).m() + E.A.value\n"
    )
    assert fingerprint(define(source)) == fingerprint(define(source, line=3))
    assert fingerprint(define(source.replace("return self.a", "return -self.a"))) != fingerprint(define(source))


@pytest.mark.parametrize(
    "obj", [{"b", "a", "c"}, [frozenset("xyz"), ("x",)], {"k": {"v", "w"}}, 1, "a", (1.5, None), b"\x8f"]
)
def test_fingerprints_are_the_same_in_every_process(obj):
    program = f"from znb.fingerprint import fingerprint; print(fingerprint({obj!r}).hex())"
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{fingerprint(obj).hex()}\n".encode()}


def test_what_refers_to_itself_has_a_fingerprint():
    loop = []
    loop.append(loop)
    assert fingerprint(loop) == fingerprint(loop)
    with pytest.raises(znb.SerializationError, match="no fingerprint"):
        fingerprint(threading.Lock())


def test_a_checkpoint_can_be_closed_twice(file):
    checkpoint = Checkpoint(file, abs)
    checkpoint.close()
    checkpoint.close()
    assert wait_until(file.exists)
