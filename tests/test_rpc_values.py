"""Plain values come back equal and of the same type; what cannot is refused by name; no bytes run code."""

import collections
import contextlib
import datetime as dt
import decimal
import enum
import fractions
import gc
import math
import os
import pathlib
import threading
import time
import types
import uuid
import weakref
import zoneinfo

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from znb.errors import ProtocolError, SerializationError
from znb.rpc import values

pack = msgspec.msgpack.encode


def there_and_back(value):
    buffers = []
    try:
        data = pack(values.encode(value, buffers, where="value"))
    except (OverflowError, UnicodeEncodeError):
        buffers.clear()
        data = pack(values.encode(value, buffers, where="value", careful=True))
    careful = []
    assert values.decode(data, buffers) is not NotImplemented
    pack(values.encode(value, careful, where="value", careful=True))
    return values.decode(data, buffers)


HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.datetimes(timezones=st.none() | st.just(dt.timezone(dt.timedelta(hours=5, minutes=30))))
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.fractions()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=6,
)
PLAIN = st.recursive(
    HASHABLE | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
    ),
    max_leaves=12,
)


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple | collections.deque):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, dt.datetime):
        return (a, a.utcoffset(), a.fold) == (b, b.utcoffset(), b.fold)
    return a == b


@given(PLAIN)
def test_plain_values_come_back_equal_and_of_the_same_type(value):
    assert same(there_and_back(value), value)


Point = collections.namedtuple("Point", "x y")  # noqa: PYI024 - what users write


@pytest.mark.parametrize(
    "value",
    [
        2**200,
        -(2**63) - 1,
        2**64,
        "\ud800 lone",
        {(1, 2): [3], None: 1, 1.5: b"x", True: 2},
        {"\ud800": 1, 2**70: "\ud800"},
        range(1, 2**80, 3),
        slice(1, None, 2),
        collections.deque([1, (2,)], maxlen=5),
        collections.OrderedDict(b=1, a=2),
        collections.Counter("hello"),
        pathlib.Path("a/b"),
        pathlib.PureWindowsPath("c:/x"),
        pathlib.Path(os.fsdecode(b"\xff")),
        dt.UTC,
        dt.timezone(dt.timedelta(seconds=-30)),
        zoneinfo.ZoneInfo("Europe/Berlin"),
        dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        dt.time(1, 2, 3, 4, tzinfo=dt.UTC, fold=1),
        decimal.Decimal("-0.0010"),
        decimal.Decimal("Infinity"),
        bytes(100_000),
        bytearray(100_000),
        [bytes(20_000), bytes(30_000)],
        "x" * 100_000,
    ],
)
def test_special_values(value):
    assert same(there_and_back(value), value)


def test_values_that_are_not_equal_to_themselves():
    assert math.isnan(there_and_back(math.nan))
    assert there_and_back(decimal.Decimal("NaN")).is_nan()


def test_named_tuples_keep_their_names():
    point = there_and_back({"p": Point(1, [2, {3}])})["p"]
    assert (point.x, point.y, type(point).__name__) == (1, [2, {3}], "Point")
    assert there_and_back(pathlib.Path("/").stat()).st_mode == pathlib.Path("/").stat().st_mode
    assert there_and_back(time.gmtime(0)).tm_year == 1970


def test_what_loses_something_that_nobody_misses():
    assert there_and_back(collections.defaultdict(list, a=[1])) == {"a": [1]}
    assert there_and_back(memoryview(b"abc")) == b"abc"
    assert there_and_back(types.MappingProxyType({"a": 1})) == {"a": 1}


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "path", "says"),
    [
        (threading.Lock(), "value", "lock"),
        ([1, {"a": (2, threading.Lock())}], "value[1]['a'][1]", "lock"),
        ({"x": {object()}}, "value['x']{…}", "object"),
        ({1: {2: object()}}, "value[1][2]", "object"),
        ({(1,): object()}, "value[", "object"),
        (Color.RED, "value", ".value"),
        ([print], "value[0]", "cluster.submit"),
        ((n for n in "x"), "value", "yield"),
        (np.array([object()]), "value", "tolist"),
        (np.ma.array([1]), "value", "asarray"),
        (np.dtype("f8"), "value", ".str"),
        (pd.Series([pd.Interval(0, 1)]), "value", "astype"),
        (pd.DataFrame({"a": [object()]}), "value", "object"),
        (pd.Interval(0, 1), "value", "to_numpy"),
        (dt.datetime(2000, 1, 1, tzinfo=type("Z", (dt.tzinfo,), {"utcoffset": lambda *_: None})()), "value", "zone"),
    ],
)
def test_what_cannot_travel_is_named_with_the_path_to_it(value, path, says):
    with pytest.raises(SerializationError) as caught:
        values.encode(value, [], where="value")
    assert path in caught.value.path
    assert says in str(caught.value)


def test_circles_are_refused():
    circle = []
    circle.append(circle)
    with pytest.raises(SerializationError, match="itself"):
        values.encode(circle, [], where="args")


@pytest.mark.parametrize(
    "value", [{1: "a"}, {1, 2}, 2**70, "\ud800", dt.date(2000, 1, 1), [np.float64(1)], {"a": {b"k": 1}}, bytearray()]
)
def test_zerorpc_peers_are_sent_nothing_that_they_cannot_read(value):
    with pytest.raises(SerializationError, match="zerorpc"):
        values.encode(value, None, where="args", careful=True)


def test_what_zerorpc_peers_can_read_is_sent_as_it_is():
    value = {"a": [1, 2.5, None, True, b"x" * 100_000, "ü", {"b": (1, 2)}]}
    assert values.encode(value, None, where="args") == {**value, "a": [*value["a"][:6], {"b": [1, 2]}]}
    assert values.encode(value, None, where="args", careful=True)["a"][6] == {"b": [1, 2]}


def test_a_value_that_is_changed_later_is_not_sent_changed():
    rows, table = [1, 2], {"a": 1}
    encoded = values.encode([rows, table], [], where="args")
    rows.append(3)
    table["b"] = 2
    assert encoded == [[1, 2], {"a": 1}]


# -- arrays


@pytest.mark.parametrize(
    "array",
    [
        np.arange(10),
        np.arange(10_000.0).reshape(100, 100),
        np.asfortranarray(np.arange(10_000.0).reshape(100, 100)),
        np.arange(10_000)[::3],
        np.zeros((0, 3)),
        np.array(5),
        np.array(["a", "bcd"]),
        np.array([b"a", b"bcd"]),
        np.array(["2020-01-01", "NaT"], dtype="M8[ns]"),
        np.arange(5).astype("m8[s]"),
        np.arange(4000, dtype=">i4"),
        np.zeros(3000, dtype=[("a", "i4"), ("b", "f8", (2,)), ("c", [("d", "u1")])]),
        np.array([1 + 2j]),
        np.array([True, False]),
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    ],
)
def test_arrays_come_back_equal(array):
    back = there_and_back({"x": array})["x"]
    np.testing.assert_array_equal(back, array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)


def test_large_arrays_are_not_copied():
    array = np.arange(100_000.0)
    buffers = []
    encoded = values.encode([array], buffers, where="args")
    assert np.shares_memory(np.frombuffer(buffers[0]), array)
    back = values.decode(pack(encoded), buffers)[0]
    assert np.shares_memory(back, array)


def test_buffers_go_with_their_values_without_the_collector():
    data = pack(values.encode(np.zeros(20_000, "u1"), [], where="x"))

    gc.disable()
    try:
        array = values.decode(data, buffers := [np.zeros(20_000, "u1")])
        reference = weakref.ref(buffers[0])
        assert array.nbytes == 20_000
        del array, buffers
        assert reference() is None
    finally:
        gc.enable()


def test_received_small_arrays_can_be_written():
    back = there_and_back(np.arange(3))
    back[0] = 5
    assert back[0] == 5


@pytest.mark.parametrize(
    "scalar", [np.float64(1.5), np.int8(-3), np.bool_(True), np.datetime64("2020-01-01"), np.str_("x")]
)
def test_scalars_keep_their_type(scalar):
    back = there_and_back([scalar])[0]
    assert back == scalar
    assert type(back) is type(scalar)


# -- pandas

FRAME = pd.DataFrame(
    {
        "ints": np.arange(3),
        "floats": [1.5, np.nan, 3],
        "text": ["a", None, "c"],
        "objects": pd.Series([1, "x", None], dtype=object),
        "when": pd.date_range("2020-01-01", periods=3),
        "zoned": pd.date_range("2020-01-01", periods=3, tz="Europe/Berlin"),
        "kind": pd.Categorical(["x", "y", "x"], categories=["y", "x"], ordered=True),
        "nullable": pd.array([1, None, 3], dtype="Int64"),
        "flags": pd.array([True, None, False], dtype="boolean"),
        "string": pd.array(["a", None, "b"], dtype="string"),
        "period": pd.period_range("2020-01", periods=3, freq="M"),
        "delta": pd.to_timedelta([1, 2, 3], unit="s"),
        ("a", 1): [1, 2, 3],
    }
)


@pytest.mark.parametrize(
    "frame",
    [
        FRAME,
        FRAME.iloc[:0],
        FRAME[["ints", "ints"]],
        pd.DataFrame({"a": pd.Series(["x", "y"], dtype=object)}, index=pd.Index(["p", "q"], dtype=object)),
        FRAME.set_index("text"),
        FRAME.set_index(["text", "ints"]),
        FRAME.set_index("when").asfreq("D"),
        FRAME.set_index("zoned"),
        pd.DataFrame(np.arange(20_000.0).reshape(1000, 20)),
        pd.DataFrame(),
        pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "x"), ("b", "y")], names=["n", None])),
    ],
)
def test_frames_come_back_equal(frame):
    pd.testing.assert_frame_equal(there_and_back(frame), frame, check_freq=True)


def test_series_indexes_and_scalars_come_back_equal():
    for name in FRAME.columns:
        pd.testing.assert_series_equal(there_and_back(FRAME[name]), FRAME[name])
    index = pd.Index([3, 1], name="n")
    pd.testing.assert_index_equal(there_and_back(index), index)
    for scalar in [
        pd.Timestamp("2020-01-01 01:02:03.000000004", tz="UTC"),
        pd.Timestamp("2020-01-01"),
        pd.Timedelta("1ns"),
    ]:
        assert there_and_back(scalar) == scalar
        assert type(there_and_back(scalar)) is type(scalar)
    assert there_and_back(pd.NaT) is pd.NaT
    assert there_and_back(pd.NA) is pd.NA


def test_frames_are_not_copied():
    frame = pd.DataFrame(np.arange(200_000.0).reshape(10_000, 20))
    buffers = []
    encoded = pack(values.encode(frame, buffers, where="args"))
    assert len(encoded) < 5000
    back = values.decode(encoded, buffers)
    assert np.shares_memory(np.frombuffer(buffers[0]), frame.to_numpy())
    assert np.shares_memory(back[3].to_numpy(), np.frombuffer(buffers[0]))
    mixed = pd.DataFrame({"a": np.arange(10_000.0), "b": np.arange(10_000)})
    buffers = []
    back = values.decode(pack(values.encode(mixed, buffers, where="args")), buffers)
    assert np.shares_memory(np.frombuffer(buffers[0]), mixed["a"].to_numpy())
    assert np.shares_memory(back["a"].to_numpy(), np.frombuffer(buffers[0]))


# -- rubbish


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_protocol_error(data):
    with contextlib.suppress(ProtocolError):
        values.decode(data)


@given(
    st.integers(-128, 127),
    st.binary(max_size=40) | PLAIN.map(lambda v: pack(values.encode(v, [], where="", careful=True))),
)
def test_any_extension_is_a_value_or_a_protocol_error(code, content):
    with contextlib.suppress(ProtocolError):
        values.decode(pack([msgspec.msgpack.Ext(code, content)]), [b"buffer"])


@pytest.mark.parametrize(
    ("code", "content"),
    [
        (15, ["O", [1], "C", b"12345678"]),
        (15, ["<f8", [10**12], "C", b""]),
        (15, ["<f8", [-1], "C", b""]),
        (15, ["<f8", [1], "C", 7]),
        (15, ["<f8", [True], "C", b"12345678"]),
        (15, [[["a", "|O"]], [1], "C", b"12345678"]),
        (16, ["O", b"12345678"]),
        (17, ["bytes", -1]),
        (17, ["eval", 0]),
        (19, ["import os", ["a"], [1]]),
        (19, ["A", ["a"] * 1000, [1] * 1000]),
        (14, ["PosixPath.__class__", "x"]),
        (7, ["2020-01-01", 0, "../../etc/passwd"]),
        (27, [1, 2, 3]),
        (99, 1),
    ],
)
def test_extensions_that_lie_are_protocol_errors(code, content):
    with pytest.raises(ProtocolError):
        values.decode(pack(msgspec.msgpack.Ext(code, pack(content))), [b"12345678"])


def test_extensions_nested_without_end_are_a_protocol_error():
    data = b"\x90"
    for _ in range(5000):
        data = pack(msgspec.msgpack.Ext(1, pack([msgspec.Raw(data)])))
        if len(data) > 100_000:
            break
    with pytest.raises(ProtocolError):
        values.decode(data)
    assert values.decode(pack(1)) == 1
    assert uuid.UUID(int=5) == there_and_back(uuid.UUID(int=5))
    assert fractions.Fraction(1, 3) == there_and_back(fractions.Fraction(1, 3))
