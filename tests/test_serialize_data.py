"""Data: buffers out of band, odd types, round trips, threads, costs at import."""

import collections
import datetime as dt
import decimal
import fractions
import io
import logging
import pathlib
import pickle
import re
import subprocess
import sys
import threading
import types
import uuid
import weakref

import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

from serialize_peer import ship
from znb.errors import SerializationError
from znb.serialize import Codec

pytest_plugins = ("serialize_fixtures",)

# -- buffers


def test_arrays_go_out_of_band_without_a_copy(codec):
    array = np.arange(100_000, dtype="f8")
    payload = codec.encode({"a": [array]})
    (buffer,) = payload.buffers
    assert np.shares_memory(np.frombuffer(buffer, dtype="f8"), array)
    assert len(payload.body) < 300


def test_arrays_are_backed_by_the_received_buffers_and_writable(codec):
    array = np.arange(100_000, dtype="f8")
    payload = codec.encode(array)
    received = bytearray(payload.buffers[0])
    back = codec.decode(payload.body, [received])
    assert np.shares_memory(back, np.frombuffer(received, dtype="u1"))
    back[0] = 7
    assert array[0] == 0


def test_a_function_may_change_its_argument_in_place(notebook, peer):
    notebook.cell("def f(a, small, b):\n    a[0] = 5\n    small[0] = 6\n    b[0] = 7\n    return a[0], small[0], b[0]")
    array, small, raw = np.zeros(100_000), np.zeros(3), bytearray(100_000)
    assert peer.call(notebook.f, array, small, raw) == (5, 6, 7)
    assert (array[0], small[0], raw[0]) == (0, 0, 0)


def test_bytes_buffers_give_writable_arrays(codec):
    payload = codec.encode(np.zeros(100_000))
    back = codec.decode(payload.body, [bytes(each) for each in payload.buffers])
    back[0] = 1


def test_read_only_views_are_not_copied(codec):
    payload = codec.encode(np.zeros(100_000))
    shared = memoryview(bytes(payload.buffers[0]))
    back = codec.decode(payload.body, [shared])
    assert not back.flags.writeable
    assert np.shares_memory(back, np.frombuffer(shared, dtype="u1"))


@pytest.mark.parametrize("order", ["C", "F"])
def test_orders_and_strides(codec, order):
    array = np.asarray(np.arange(60_000, dtype="i4").reshape(200, 300), order=order)
    assert len(codec.encode(array).buffers) == 1
    back = ship(codec, Codec(), [array, array[::2, ::3], array.T])
    assert np.array_equal(back[0], array)
    assert back[0].flags["F_CONTIGUOUS"] == array.flags["F_CONTIGUOUS"]
    assert np.array_equal(back[1], array[::2, ::3])
    assert np.array_equal(back[2], array.T)


def test_small_arrays_stay_in_the_body(codec):
    payload = codec.encode(np.arange(10))
    assert payload.buffers == ()
    back = codec.decode(payload.body)
    back[0] = 3


def test_an_array_that_appears_twice_is_sent_once(codec):
    array = np.zeros(100_000)
    payload = codec.encode([array, array])
    assert len(payload.buffers) == 1
    first, second = ship(codec, Codec(), [array, array])
    assert first is second


@pytest.mark.parametrize("size", [0, 10, 65_535, 65_536, 65_537, 300_000])
def test_bytes_and_bytearrays_of_any_size(codec, size):
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    payload = codec.encode([data, bytearray(data), data, "é" * size, [data]])
    assert len(payload.buffers) == (2 if size >= 65_536 else 0)
    back = codec.decode(payload.body, [bytearray(each) for each in payload.buffers])
    assert back == [data, bytearray(data), data, "é" * size, [data]]
    assert [type(each) for each in back[:3]] == [bytes, bytearray, bytes]
    assert back[0] is back[2] is back[4][0]


def test_large_bytes_are_not_copied_on_encode(codec):
    data = b"q" * 200_000
    assert codec.encode({"a": data}).buffers[0] is data


def test_buffers_keep_their_order_among_kinds(codec):
    values = [np.arange(9000), b"a" * 70_000, bytearray(b"b" * 80_000), np.arange(3), np.arange(9001), b"c" * 90_000]
    back = ship(codec, Codec(), values)
    assert [type(each) for each in back] == [type(each) for each in values]
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(back, values, strict=True))


def test_memoryviews(codec):
    array = np.arange(50_000, dtype="i4").reshape(100, 500)
    back = ship(codec, Codec(), [memoryview(b"abc"), memoryview(array), memoryview(b"abcdef")[::2]])
    assert back[0] == b"abc"
    assert back[1].shape == (100, 500)
    assert back[1].format == "i"
    assert np.array_equal(np.asarray(back[1]), array)
    assert back[2].tobytes() == b"ace"
    assert ship(codec, Codec(), memoryview(b"")) == b""
    with pytest.raises(SerializationError, match="format"):
        codec.encode(memoryview(np.zeros(2, dtype=">i4")))


def test_pandas_frames(codec):
    frame = pd.DataFrame({"a": np.arange(50_000), "b": np.arange(50_000) * 0.5})
    payload = codec.encode(frame)
    assert sum(memoryview(each).nbytes for each in payload.buffers) >= 800_000
    assert len(payload.body) < 5_000
    pd.testing.assert_frame_equal(ship(codec, Codec(), frame), frame)


def test_arrays_in_globals_travel_once_and_out_of_band(notebook, peer):
    notebook.cell(
        "import numpy as np\nbig = np.arange(200_000)\ndef f(i): return int(big[i])\ndef make(a): return lambda i: int(a[i])\ng = make(big)"
    )
    assert [peer.call(notebook.f, i) for i in (3, 5)] == [3, 5]
    assert [peer.call(notebook.g, i) for i in (3, 5)] == [3, 5]
    assert len(peer.shipped) == 2
    frames = peer.codec.definition(peer.shipped[0])
    assert len(frames) == 3
    assert memoryview(frames[2]).nbytes == 1_600_000


def test_an_array_in_globals_changed_in_place_is_noticed(notebook, peer):
    notebook.cell(
        "import numpy as np\nbig = np.zeros(100_000)\nsmall = np.zeros(3)\ndef f(): return float(big.sum() + small.sum())"
    )
    before = peer.codec.encode((notebook.f, (), {}))
    assert peer.call(notebook.f) == 0
    notebook.big[7] = 1
    assert peer.call(notebook.f) == 1
    notebook.small[0] = 5
    assert peer.call(notebook.f) == 6
    assert peer.send(before) == 0


def test_a_global_array_can_be_written_however_it_was_received(notebook, codec):
    notebook.cell("import numpy as np\nbig = np.zeros(100_000)\ndef f():\n    big[0] += 1\n    return float(big[0])")
    payload = codec.encode(notebook.f)
    receiver = Codec()
    (key,) = payload.definitions
    receiver.learn(key, [bytes(frame) for frame in codec.definition(key)])
    loaded = receiver.decode(payload.body)
    assert [loaded(), loaded()] == [1, 2]
    assert receiver.definition(key)  # its frames were not those written to
    assert notebook.big[0] == 0


def test_an_array_changed_by_the_worker_is_never_shipped_under_the_old_key(notebook, codec):
    notebook.cell("import numpy as np\nbig = np.zeros(100_000)\ndef f():\n    big[0] += 1\n    return float(big.sum())")
    receiver = Codec()
    loaded = ship(codec, receiver, notebook.f)
    (key,) = codec.encode(notebook.f).definitions
    assert receiver.definition(key)
    assert loaded() == 1
    with pytest.raises(KeyError):
        receiver.definition(key)


# -- odd types


def test_common_library_types(codec):
    values = [
        dt.datetime(2024, 1, 2, tzinfo=dt.UTC),
        decimal.Decimal("1.5"),
        fractions.Fraction(1, 3),
        uuid.uuid4(),
        pathlib.PurePosixPath("/a"),
        re.compile("a+"),
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        collections.deque([1], 3),
        range(3),
        slice(1, 2),
        complex(1, 2),
        10**100,
        frozenset({1}),
        np.float64(1.5),
        np.dtype("f4"),
        collections.ChainMap({"a": 1}),
        types.SimpleNamespace(x=1),
        Ellipsis,
        NotImplemented,
        int,
        dict[str, int],
        int | None,
    ]
    assert ship(codec, Codec(), values) == values


def test_odd_builtin_types(codec):
    import dataclasses
    import functools
    import os.path

    receiver = Codec()
    assert ship(codec, receiver, os.path) is os.path
    assert ship(codec, receiver, logging.getLogger("a.b")) is logging.getLogger("a.b")
    assert ship(codec, receiver, types.FunctionType) is types.FunctionType
    assert ship(codec, receiver, [type(None), type(...), type(NotImplemented)]) == [
        type(None),
        type(...),
        type(NotImplemented),
    ]
    assert ship(codec, receiver, types.MappingProxyType({"a": 1})) == {"a": 1}
    assert list(ship(codec, receiver, {"a": 1}.keys())) == ["a"]
    assert list(ship(codec, receiver, {"a": 1}.items())) == [("a", 1)]
    assert ship(codec, receiver, types.FunctionType.__code__) is types.FunctionType.__code__
    assert ship(codec, receiver, str.upper)("a") == "A"
    assert ship(codec, receiver, "x".upper)() == "X"
    assert ship(codec, receiver, dataclasses.MISSING) is dataclasses.MISSING
    assert ship(codec, receiver, functools.partial(int, base=2))("11") == 3
    assert ship(codec, receiver, compile("1 + 1", "<s>", "eval")) == compile("1 + 1", "<s>", "eval")
    assert ship(codec, receiver, types.CellType(3)).cell_contents == 3
    assert ship(codec, receiver, staticmethod(len)).__func__ is len
    assert list(ship(codec, receiver, weakref.WeakSet())) == []
    assert ship(codec, receiver, io.BytesIO(b"abc")).read() == b"abc"


def test_proxies_that_lie_about_their_class(codec):
    from unittest import mock

    class Liar:
        __class__ = property(lambda self: type)

    with pytest.raises(SerializationError):
        codec.encode(mock.Mock(spec=type))
    codec.encode(isinstance(Liar(), type))


# -- round trips

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.dates()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
HASHABLE = PLAIN | st.tuples(PLAIN, PLAIN) | st.frozensets(PLAIN)
NESTED = st.recursive(
    HASHABLE,
    lambda each: (
        st.lists(each)
        | st.dictionaries(HASHABLE, each)
        | st.tuples(each, each)
        | st.sets(HASHABLE)
        | each.map(lambda x: [b"z" * 70_000, x])
    ),
    max_leaves=20,
)


@hypothesis.given(NESTED)
@hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_nested_data_round_trips(value):
    sender, receiver = Codec(), Codec()
    back = ship(sender, receiver, value)
    assert back == value
    assert type(back) is type(value)
    assert sender.encode(value).body == sender.encode(value).body


@hypothesis.given(st.lists(NESTED, min_size=1, max_size=4))
@hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_functions_carry_any_data(values):
    space = {"__name__": "__main__", "values": [values], "first": values}
    exec("def f(): return values, first, values[0] is first\ndef make(c): return lambda: c", space)
    receiver = Codec()
    back, first, is_same = ship(Codec(), receiver, space["f"])()
    assert back == [values]
    assert first == values
    assert is_same
    assert ship(Codec(), receiver, space["make"](values))() == values


def test_objects_that_contain_themselves(codec, notebook):
    loop: list = [1]
    loop.append(loop)
    back = ship(codec, Codec(), loop)
    assert back[1] is back
    notebook.cell(
        "class N: pass\nn = N()\nn.me = n\nn.d = {'n': n}\ndef f(): return n.me is n, n.d['n'] is n, isinstance(n, N)"
    )
    assert ship(codec, Codec(), notebook.f)() == (True, True, True)


# -- threads and costs


def test_several_threads_at_once(notebook, codec):
    notebook.cell(
        "import numpy as np\nk = 0\nxs = []\nclass A:\n    def __init__(self, x): self.x = x\ndef h(): return len(xs) >= 0\n"
        "def make(n):\n    def f(): return n, A(n).x, h(), k >= 0\n    return f\nshared = make(0)"
    )
    receiver = Codec()
    failures = []

    def work(start):
        try:
            for n in range(start, start + 60):
                notebook.module.k = n
                notebook.xs.append(n)
                assert ship(codec, receiver, notebook.make(n))()[:3] == (n, n, True)
                assert ship(codec, receiver, notebook.shared)()[0] == 0
                a = ship(codec, receiver, notebook.A(n))
                assert a.x == n
                assert type(a) is type(ship(codec, receiver, notebook.A(0)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 600, 100)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failures == []


def test_importing_brings_in_nothing_heavy():
    code = "import sys, znb.serialize; print([m for m in ('dill', 'IPython', 'numpy', 'pandas', 'zmq', 'asyncio') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_plain_encoding_does_not_import_dill():
    code = (
        "import sys\nfrom znb.serialize import Codec\nclass A:\n    @property\n    def p(self): return 1\ndef f(): return A().p\n"
        "Codec().encode((f, A(), [1], len))\nprint('dill' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_bodies_are_valid_pickles(notebook, codec):
    import pickletools

    notebook.cell("class A: pass")
    payload = codec.encode([notebook.A(), b"x" * 100_000, np.zeros(100_000)])
    pickletools.dis(payload.body, out=io.StringIO())
    assert pickle.loads(codec.encode([b"x" * 100_000]).body, buffers=codec.encode([b"x" * 100_000]).buffers) == [
        b"x" * 100_000
    ]
