"""What can still change when it has been encoded, and copies of it."""

import dataclasses
import enum
import gc

import numpy as np
import pandas as pd
import pytest

from znb.serialize import Codec
from znb.serialize.settled import copied, copy_buffer, is_settled


def settled(make, **options):
    owner = [make()]
    return is_settled(list(owner), **options)


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: object


def received():
    """Return an array as it comes in a message."""
    return Codec().decode(*encoded(np.zeros(100_000)))


def encoded(obj):
    payload = Codec().encode(obj)
    return payload.body, [memoryview(bytearray(buffer)) for buffer in payload.buffers]


KEPT = {"a": 1}
ARRAY = np.zeros(3)
BUFFER = bytearray(8)
POINT = Point(1)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: 1, True),
        (lambda: (1, ("a", None)), True),
        (lambda: {"a": [1, {"b": {2}}]}, True),
        (lambda: np.zeros(3), True),
        (lambda: (np.zeros(3), 1), True),
        (lambda: np.float32(1), True),
        (lambda: Colour.RED, True),
        (lambda: [np.zeros(3), None, Colour.RED, int, np.dtype("f4")], True),
        (lambda: [np.zeros(3), None, ARRAY], False),
        (lambda: KEPT, False),
        (lambda: [KEPT], False),
        (lambda: ARRAY, False),
        (lambda: ARRAY[:2], False),
        (lambda: (1, ARRAY), False),
        (lambda: np.array([KEPT]), False),
        (lambda: np.zeros(6).reshape(2, 3), True),
        (lambda: np.zeros((6, 2))[::2].T, True),
        (lambda: [np.zeros((6, 2))[::2].T, 1], True),
        (lambda: np.frombuffer(bytearray(8)), True),
        (lambda: np.frombuffer(BUFFER), False),
        (received, True),
        (lambda: received()[:10], True),
        (lambda: Point(1), False),
        (object, False),
        (lambda: [[[[[1]]]]], False),
    ],
)
def test_settled(make, expected):
    assert settled(make) is expected


def test_copies_are_of_their_own():
    for size in (100_000, 2_000_000):
        array = np.zeros(size)
        payload = Codec().encode(array)
        copy = copied(payload)
        array[:] = 1
        assert Codec().decode(copy.body, copy.buffers).sum() == 0
        assert Codec().decode(payload.body, payload.buffers).sum() == size


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Point(1), True),
        (lambda: [Point(1), {"a": Point(2)}], True),
        (lambda: pd.DataFrame({"a": [1]}), True),
        (lambda: POINT, False),
        (lambda: [1, POINT], False),
        (lambda: (Point(1), ARRAY), False),
    ],
)
def test_objects_of_other_types(make, expected):
    assert settled(make, others=True) is expected
    assert not settled(make)


def test_a_view_of_what_somebody_else_has_is_not_settled():
    array = received()
    views = [array[10:]]
    assert not is_settled(list(views))
    del array
    gc.collect()
    assert is_settled(list(views))
    more = views[0][10:]
    assert not is_settled(list(views))
    assert len(more) == len(views[0]) - 10


def test_what_cannot_change_is_not_copied():
    data = b"x" * 100_000
    assert copy_buffer(data) is data
    view = memoryview(data)
    assert copy_buffer(view) is view
    changing = bytearray(data)
    copy = copy_buffer(changing)
    changing[0] = 0
    assert copy == data
