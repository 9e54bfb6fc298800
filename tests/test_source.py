"""What a map pulls is what its jobs get, also if the source fills one buffer again and again."""

import contextlib
import itertools
import threading
import time

import numpy as np
import pytest

import job_functions as jobs
import znb
from test_rpc_channels import keep_zero_copy_warm
from znb.executor import mapflow
from znb.executor.source import Source
from znb.serialize import Codec

keep_zero_copy_warm()

COUNT = 400


def one_array():
    buffer = np.zeros(5)
    for i in range(COUNT):
        buffer[:] = i
        yield buffer


def views_of_one_array():
    buffer = np.zeros(9)
    for i in range(COUNT):
        buffer[:] = i
        yield buffer[:3]


def two_arrays_in_turn():
    buffers = np.zeros(5), np.zeros(5)
    for i in range(COUNT):
        buffers[i % 2][:] = i
        yield buffers[i % 2]


def large_array():
    buffer = np.zeros(200_000)
    for i in range(COUNT // 10):
        buffer[:] = i
        yield buffer


def one_dictionary_inside_another():
    inner = {}
    for i in range(COUNT):
        inner["i"] = i
        yield {"inner": inner}


def one_bytearray():
    buffer = bytearray(2)
    for i in range(COUNT):
        buffer[:] = i.to_bytes(2, "big")
        yield buffer


def a_list_that_grows():
    found = []
    for i in range(COUNT):
        found.append(i)
        yield found


def number_of(item):
    """Return the number that an item of one of these sources has been made with."""
    if isinstance(item, dict):
        return item["inner"]["i"]
    if isinstance(item, bytearray):
        return int.from_bytes(item, "big")
    return len(item) - 1 if isinstance(item, list) else int(item.max())


SOURCES = [
    one_array,
    views_of_one_array,
    two_arrays_in_turn,
    large_array,
    one_dictionary_inside_another,
    one_bytearray,
    a_list_that_grows,
]


@pytest.fixture(scope="module")
def cluster(module_world):
    with contextlib.closing(znb.Cluster.start(2, name="source")) as cluster:
        yield cluster


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_reuses_its_buffer(cluster, source):
    assert list(cluster.map(number_of, source())) == [number_of(item) for item in source()]


def test_a_source_that_reuses_its_buffer_beside_another(cluster):
    found = cluster.map(jobs.capture, one_array(), range(COUNT))
    assert all(array[0] == i for (array, i), _ in found)


def test_an_array_that_is_changed_after_submit(cluster):
    array = np.zeros(200_000)
    futures = []
    for i in range(20):
        array[:] = i
        futures.append(cluster.submit(np.max, array))
    array[:] = -1
    assert [future.result() for future in futures] == list(range(20))


# -- what cannot be sent


def test_an_item_that_cannot_be_sent_fails_alone(cluster):
    items = [1, threading.Lock(), 2, *range(COUNT), threading.Lock()]
    found = list(cluster.map(jobs.square, items, errors="return"))
    assert found[0] == 1
    assert [type(item) for item in (found[1], found[-1])] == [znb.SerializationError] * 2
    assert "items[1]" in str(found[1])
    assert found[2:-1] == [x * x for x in (2, *range(COUNT))]


def test_results_before_an_item_that_cannot_be_sent_come_first(cluster):
    found = []
    with pytest.raises(znb.SerializationError, match=r"items\[3000\]") as caught:
        found.extend(cluster.map(jobs.square, itertools.chain(range(3000), [threading.Lock()], range(10))))
    assert caught.value.__notes__ == ["With errors='return' that item fails alone, and the rest goes on."]
    assert found == [x * x for x in range(3000)]


def test_the_first_item_that_cannot_be_sent_is_said_at_once(cluster):
    with pytest.raises(znb.SerializationError, match=r"items\[0\]"):
        cluster.map(jobs.square, [threading.Lock()])


@pytest.mark.parametrize("kind", ["future", "map"])
def test_what_stays_in_its_process_says_what_to_do(cluster, kind):
    argument = cluster.submit(abs, -1) if kind == "future" else cluster.map(abs, [-1])
    advice = r"future\.result\(\)" if kind == "future" else r"list\(results\)"
    with pytest.raises(znb.SerializationError, match=rf"args\[0\]\): .*{advice}"):
        cluster.submit(abs, argument)


# -- how much is pulled


def test_large_items_are_not_piled_up(cluster, monkeypatch):
    monkeypatch.setattr(mapflow, "HELD_BYTES", 4_000_000)
    results = cluster.map(len, (bytes(1_000_000) for _ in range(50)))
    held = []
    for size in results:
        assert size == 1_000_000
        held.append(results._flow._held - results.group.dropped_bytes)
    assert len(held) == 50
    assert max(held) < 6_000_000


def test_items_that_are_larger_than_all_that_may_be_held(cluster, monkeypatch):
    monkeypatch.setattr(mapflow, "HELD_BYTES", 1)
    monkeypatch.setattr(mapflow, "AHEAD_BYTES", 1)
    assert list(cluster.map(len, (bytes(1000) for _ in range(50)))) == [1000] * 50


# -- what comes back


@pytest.mark.parametrize("function", [jobs.square, jobs.thing], ids=["plain", "objects"])
def test_a_cancelled_map_yields_no_more(cluster, function):
    results = cluster.map(function, range(5000))
    iterator = iter(results)
    next(iterator)
    results.cancel()
    results.cancel()
    assert list(iterator) == []
    assert list(results) == []


def test_a_cancelled_map_with_failures_yields_no_more(cluster):
    results = cluster.map(jobs.fail_at, range(8), itertools.repeat(3), errors="return", chunksize=8)
    iterator = iter(results)
    assert next(iterator) == 0
    results.cancel()
    assert list(iterator) == []


def test_a_map_that_has_raised_is_over(cluster):
    results = cluster.map(jobs.fail_at, range(100), itertools.repeat(3))
    with pytest.raises(ValueError, match="bad 3"):
        list(results)
    assert list(results) == []


def test_functions_of_c(cluster):
    found = list(cluster.map(int, ["1", "x", "3", None], errors="return"))
    assert [type(value) for value in found] == [int, ValueError, int, TypeError]
    found = list(cluster.map(next, [iter([1]), iter([]), iter([2])], errors="return"))
    assert [found[0], type(found[1]), found[2]] == [1, StopIteration, 2]
    found = list(cluster.map(time.sleep, [0, 60, 0], job_timeout=0.5, errors="return", chunksize=3))
    assert [found[0], type(found[1]), found[2]] == [None, znb.CallTimeout, None]


@pytest.mark.parametrize("items", [list(range(5000)), tuple(range(5000)), range(5000), dict.fromkeys(range(5000), 0)])
def test_containers(cluster, items):
    assert list(cluster.map(abs, items)) == list(range(5000))


@pytest.mark.parametrize("items", [[], (), range(0), {}, iter(())])
def test_nothing(cluster, items):
    assert list(cluster.map(abs, items)) == []


# -- without a cluster


def pull_all(items, **options):
    source = Source(Codec(), iter(items), **{"contained": False, "keep_going": False, **options})
    parts = []
    while not source.exhausted:
        parts += source.pull(1 << 20)
    return source, parts


@pytest.mark.parametrize(
    "items",
    [
        lambda: (i for i in range(5000)),
        lambda: ((i, str(i)) for i in range(5000)),
        lambda: ({"a": i, "b": [i, (i,)]} for i in range(5000)),
        lambda: ([np.zeros(2), np.float64(i)] for i in range(5000)),
    ],
)
def test_new_items_are_encoded_together(items):
    _, parts = pull_all(items())
    assert len(parts) < 50
    decoded = [item for part in parts for item in Codec().decode(part.payload.body, part.payload.buffers)]
    assert str(decoded) == str(list(items()))


def test_the_end_of_a_source_that_raises():
    def items():
        yield from range(10)
        raise ValueError("no more")

    source, parts = pull_all(items())
    assert sum(part.count for part in parts) == 10
    assert str(source.error) == "no more"
