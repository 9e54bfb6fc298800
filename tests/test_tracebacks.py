"""Exceptions that cross processes keep type, values, chain and origin. Their frames: ``test_tracebacks_frames``."""

from __future__ import annotations

import asyncio
import json
import linecache
import pickle
import sys
import threading
import traceback
import types
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_errors import CODEC, BrokenCodec, Unprintable, caught, divide, forget, record_of, text_of, travel
from znb.errors import Cancelled, ProtocolError, RemoteError, WorkerLost
from znb.spans import span
from znb.spans.plain import NOTED
from znb.tracebacks import Origin, Place, capture, combine, decode_record, encode_record, fold, raise_for, restore

__all__ = ["forget"]


class OddInit(Exception):
    def __init__(self, code, *, hint):
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


class Reduced(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a}-{b}")
        self.a, self.b = a, b

    def __reduce__(self):
        return (Reduced, (self.a, self.b))


class Slotted(Exception):
    __slots__ = ("code",)


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Stop(BaseException):
    pass


class OddOSError(OSError):
    def __init__(self, what):
        super().__init__(2, "No such thing", what)
        self.what = what


# -- its own type


def test_it_is_caught_by_its_own_type_with_arguments_and_attributes():
    error = ValueError("bad", 3, None, b"x", ("a", 1.5))
    error.code = 7
    restored = travel(error)
    assert type(restored) is ValueError
    assert restored.args == ("bad", 3, None, b"x", ("a", 1.5))
    assert restored.code == 7


@pytest.mark.parametrize(
    "error",
    [
        OddInit(3, hint="h"),
        Reduced(1, 2),
        FileNotFoundError(2, "No such file", "a.txt"),
        OddOSError("z"),
        UnicodeDecodeError("utf-8", b"ab\xff", 2, 3, "invalid start byte"),
        KeyError("x"),
        KeyError(("a", [1])),
        ImportError("no", name="m", path="/p"),
        json.JSONDecodeError("bad", "{", 1),
        NameError("n", name="n"),
        StopIteration(5),
        WorkerLost("w1", "ended", hint="retry"),
        Frozen(3),
        Stop("x"),
        ValueError("\udcff lone surrogate"),
        ValueError(2**100, "🎉" * 3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_kind_comes_back_alike(error):
    restored = travel(error)
    assert type(restored) is type(error)
    assert (str(restored), repr(restored.args)) == (str(error), repr(error.args))
    theirs, mine = ({k: v for k, v in vars(e).items() if k not in NOTED} for e in (restored, error))
    assert theirs == mine
    for name in ("errno", "filename", "start", "value", "path", "name"):
        assert getattr(restored, name, None) == getattr(error, name, None)
    assert [n for n in restored.__notes__ if "raised on" not in n] == []


def test_slots_travel():
    error = Slotted("x")
    error.code = [1]
    assert travel(error).code == [1]


def test_an_attribute_that_cannot_travel_is_dropped_alone_and_named():
    error = OddInit(3, hint=threading.Lock())
    error.extra = {"a": 1}
    restored = travel(error)
    assert (restored.code, restored.extra, hasattr(restored, "hint")) == (3, {"a": 1}, False)
    assert "its attribute 'hint' was not sent: TypeError: cannot pickle '_thread.lock' object" in restored.__notes__


def test_an_argument_that_cannot_travel_becomes_its_text():
    restored = travel(ValueError("bad", threading.Lock(), [1]))
    assert restored.args[0] == "bad"
    assert restored.args[1].startswith("<unlocked _thread.lock")
    assert restored.args[2] == [1]
    assert any("its argument 1 was not sent" in note for note in restored.__notes__)


def test_an_attribute_that_cannot_be_loaded_here_is_dropped_alone_and_named(monkeypatch):
    module = types.ModuleType("only_there")
    exec("class Thing: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_there", module)
    error = OddInit(1, hint=module.Thing())
    record = record_of(error)
    monkeypatch.delitem(sys.modules, "only_there")
    restored = restore(record, CODEC)
    assert (type(restored), restored.code, hasattr(restored, "hint")) == (OddInit, 1, False)
    assert any("its attribute 'hint' could not be loaded here: ModuleNotFound" in n for n in restored.__notes__)


def test_a_type_that_cannot_be_loaded_here_is_a_remote_error(monkeypatch):
    module = types.ModuleType("only_there")
    exec("class Oops(Exception):\n    pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_there", module)
    record = record_of(module.Oops("bad"))
    monkeypatch.delitem(sys.modules, "only_there")
    restored = restore(record, CODEC)
    assert type(restored) is RemoteError
    assert (restored.type_name, str(restored)) == ("only_there.Oops", "only_there.Oops: bad")
    assert any("its type could not be loaded here: ModuleNotFoundError" in note for note in restored.__notes__)


def test_a_local_type_is_a_remote_error_where_the_codec_cannot_carry_it():
    class Local(Exception):
        pass

    restored = travel(Local("bad"))
    assert type(restored) is RemoteError
    assert str(restored).endswith("Local: bad")


def test_values_that_are_too_big_are_dropped_and_named():
    error = OddInit(1, hint=np.zeros(3_000_000))
    error.small = np.arange(3)
    restored = travel(error)
    assert not hasattr(restored, "hint")
    assert restored.small.tolist() == [0, 1, 2]
    assert "its attribute 'hint' was not sent: 23 MB, and errors carry up to 16 MB" in restored.__notes__
    assert len(encode_record(record_of(ValueError("x" * 50_000_000)))) < 17 * 2**20


def test_definitions_to_ship_are_listed_once():
    error = OddInit(1, hint=[1])
    error.other = [2]
    assert record_of(error).definitions == (b"key of a definition",)
    assert record_of(ValueError("x")).definitions == ()


@pytest.mark.parametrize(
    ("error", "type_", "says"),
    [
        (SystemExit(3), RemoteError, "SystemExit: 3"),
        (GeneratorExit(), RemoteError, "GeneratorExit"),
        (KeyboardInterrupt(), Cancelled, "stopped by KeyboardInterrupt"),
        (asyncio.CancelledError("x"), Cancelled, "stopped by asyncio.exceptions.CancelledError: x"),
    ],
)
def test_what_would_end_the_caller_is_restored_as_an_ordinary_error(error, type_, says):
    restored = travel(error)
    assert (type(restored), str(restored)) == (type_, says)


# -- chain, notes, origin


def chained():
    try:
        try:
            {}["x"]
        except KeyError as error:
            raise ValueError("first") from error
    except ValueError:
        raise RuntimeError("second")  # noqa: B904 - the context is what is tested


def test_cause_and_context_come_along():
    restored = travel(caught(chained))
    assert type(restored.__context__) is ValueError
    assert type(restored.__context__.__cause__) is KeyError
    assert restored.__context__.__cause__ is restored.__context__.__context__
    assert restored.__context__.__suppress_context__
    text = text_of(restored)
    assert text.index("KeyError: 'x'") < text.index("direct cause") < text.index("During handling")
    assert text.count("raised on w0") == 1


def test_from_none_hides_the_context():
    def hide():
        try:
            {}["x"]
        except KeyError:
            raise ValueError("only") from None

    record = record_of(caught(hide))
    assert "KeyError" not in text_of(restore(record, CODEC))
    assert "KeyError" not in record.traceback_text


def test_notes_come_along_and_the_origin_is_one_of_them():
    error = ValueError("x")
    error.add_note("look here")
    restored = travel(error)
    assert restored.__notes__ == ["look here", "raised on w0 (host nb, pid 1234)"]
    assert restored.znb_origin == Origin(Place("w0", "nb", 1234))
    assert (restored.znb_origin.worker, restored.znb_origin.host, restored.znb_origin.pid) == ("w0", "nb", 1234)


def test_over_several_hops_it_reads_as_one_traceback_and_names_each():
    first = travel(caught(divide, [1, 0], 1), "w2")

    def service():
        raise first

    def user():
        raise second

    second = travel(caught(service), "w1")
    record = record_of(caught(user), "w0")
    last = restore(record, CODEC)
    names = [f.filename if f.name == "remote" else f.name for f in traceback.extract_tb(last.__traceback__)]
    assert names == ["<w0>", "caught", "user", "<w1>", "caught", "service", "<w2>", "caught", "divide"]
    note = "raised on w2 (host nb, pid 1234), called from w1 (host nb, pid 1234), called from w0 (host nb, pid 1234)"
    assert last.__notes__ == [note]
    assert last.znb_origin.worker == "w2"
    assert text_of(last).count("raised on") == 1
    assert record.traceback_text.endswith(note + "\n")


def test_the_cause_of_a_local_error_may_be_a_remote_one_of_another_worker():
    inner = travel(KeyError("x"), "w1")

    def user():
        raise RuntimeError("wrapped") from inner

    restored = travel(caught(user), "w0")
    assert restored.__notes__ == ["raised on w0 (host nb, pid 1234)"]
    assert restored.__cause__.__notes__ == ["raised on w1 (host nb, pid 1234), called from w0 (host nb, pid 1234)"]


def test_circles_in_the_chain_are_cut():
    a, b = ValueError("a"), KeyError("b")
    a.__context__, b.__context__ = b, a
    restored = travel(a)
    assert type(restored.__context__) is KeyError
    assert restored.__context__.__context__ is None


def test_a_long_chain_is_bounded():
    error = ValueError(0)
    for i in range(2000):
        following = ValueError(i)
        following.__context__, error = error, following
    assert 40 < len(record_of(error).raised) <= 128


def test_groups_come_with_every_leaf():
    leaf = caught(divide, [1, 0], 1)
    leaf.add_note("of a leaf")
    group = ExceptionGroup("some", [leaf, ExceptionGroup("more", [KeyError("x"), OddInit(1, hint=2)])])
    record = record_of(group)
    restored = restore(record, CODEC)
    assert (type(restored), restored.message) == (ExceptionGroup, "some")
    first, second = restored.exceptions
    assert first.__notes__ == ["of a leaf"]
    assert traceback.extract_tb(first.__traceback__)[-1].name == "divide"
    assert [type(e) for e in second.exceptions] == [KeyError, OddInit]
    assert "| ZeroDivisionError: division by zero" in record.traceback_text
    assert len(travel(ExceptionGroup("wide", [ValueError(i) for i in range(500)])).exceptions) == 127
    assert type(travel(BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError()]))) is ExceptionGroup


def test_a_syntax_error_shows_its_line(forget):
    error = caught(compile, "x = 1\nif x\n  y", "<cell 1>", "exec")
    linecache.cache["<cell 1>"] = (1, None, ["x = 1\n", "if x\n", "  y\n"], "<cell 1>")
    record = record_of(error)
    forget()
    restored = restore(record, CODEC)
    assert (restored.filename, restored.lineno, restored.text, restored.msg) == (
        "<cell 1>",
        2,
        "if x\n",
        "expected ':'",
    )
    assert 'File "<cell 1>", line 2\n    if x\n        ^\nSyntaxError: expected' in text_of(restored)
    assert "    if x\n        ^\nSyntaxError: expected ':'\n" in record.traceback_text
    forget()
    linecache.cache["<cell 1>"] = (1, None, ["other\n"], "<cell 1>")
    assert restore(record, CODEC).filename == "<cell 1> (w0)"


# -- what misbehaves


def test_text_that_cannot_be_had_is_said_so():
    record = record_of(Unprintable("x"))
    assert record.message == "<exception str() failed: SystemExit>"
    assert type(restore(record, CODEC)) is Unprintable


def test_what_an_exception_says_is_asked_once_in_a_process_however_many_spans_it_passes():
    asked = []

    class Costly(Exception):
        def __str__(self):
            asked.append(self.args)
            if self.args == ("bad",):
                raise ValueError("no text")
            return f"said {self.args[0]}"

    def fail(text):
        with span("outer"), span("middle"), span("inner"):
            raise Costly(text)

    for text, message in (("good", "said good"), ("bad", "<exception str() failed>")):
        asked.clear()
        error = caught(fail, text)
        records = [capture(error, CODEC, worker="w0", host="a", pid=1) for _ in range(3)]
        assert asked == [(text,)]
        assert {record.message for record in records} == {message}
    error.args = ("changed",)
    assert capture(error, CODEC, worker="w0", host="a", pid=1).message == "said changed"
    assert asked == [("bad",), ("changed",)]
    error.detail = 3
    capture(error, CODEC, worker="w0", host="a", pid=1)
    assert len(asked) == 3  # another attribute may be another text


def test_the_repr_of_an_argument_that_cannot_travel_is_asked_once():
    asked = []

    class Costly:
        def __repr__(self):
            asked.append("repr")
            raise RuntimeError("no repr")

        def __reduce__(self):
            raise TypeError("no pickle")

    def fail():
        raise OSError(Costly(), "b", "c")

    error = caught(fail)
    records = [capture(error, CODEC, worker="w0", host="a", pid=1) for _ in range(3)]
    assert len(asked) == 2  # as an argument, and in the text of the exception
    assert records[0] == records[1] == records[2]


def test_capture_never_raises():
    class Hostile(Exception):
        @property
        def __dict__(self):
            raise KeyboardInterrupt

    record = record_of(Hostile("x"))
    assert (record.type_name, record.message) == ("Hostile", "x")
    assert record.raised[0].lost == ("not all of it could be captured: KeyboardInterrupt",)
    assert type(restore(record, CODEC)) is RemoteError
    assert type(travel(MemoryError())) is MemoryError
    assert type(travel(OddInit(1, hint=2), codec=BrokenCodec())) is RemoteError
    odd = ValueError("x", 2**70)
    odd.__notes__ = 3
    assert str(travel(odd, codec=BrokenCodec())).startswith("('x'")
    assert travel(SyntaxError("x", ("a\0b", 1, 1, "t"))).filename == "a\0b"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_any_value_comes_back_equal_and_of_its_type(value):
    error = ValueError(value)
    error.attribute = value
    restored = travel(error)
    assert repr((restored.args, restored.attribute)) == repr(((value,), value))


def test_a_record_is_msgpack_and_shown_without_a_pickle():
    record = record_of(caught(divide, [1, 0], 1))
    assert record.worker == "w0"
    assert (record.module, record.type_name, record.message) == ("builtins", "ZeroDivisionError", "division by zero")
    assert record.frames[-1] == (
        divide.__code__.co_filename,
        divide.__code__.co_firstlineno + 2,
        "divide",
        "    return total / xs[i] + 1",
    )
    expected = text_of(restore(record, CODEC)).replace('  File "<w0>", line 1, in remote\n', "")
    assert record.traceback_text == expected
    assert b"\x80\x05" not in encode_record(record)


@pytest.mark.parametrize("data", [b"", b"\xc1", msgspec.msgpack.encode({"worker": 1}), b"\x80"])
def test_what_is_no_record_is_a_protocol_error(data):
    with pytest.raises(ProtocolError, match="expected an error record, got"):
        decode_record(data)
    empty = msgspec.structs.replace(record_of(ValueError()), raised=())
    with pytest.raises(ProtocolError, match="without an exception"):
        decode_record(encode_record(empty))


def test_positions_that_lead_in_circles_are_cut_here_too():
    record = record_of(ValueError("x"))
    looped = msgspec.structs.replace(record.raised[0], cause=0, context=7)
    record = msgspec.structs.replace(record, raised=(looped,))
    restored = restore(record, CODEC)
    assert restored.__cause__ is None
    assert restored.__context__ is None
    assert "ValueError: x" in record.traceback_text


def test_a_restored_exception_can_be_pickled():
    copy = pickle.loads(pickle.dumps(travel(OddOSError("x").with_traceback(None).__class__.__base__(1, "x"))))
    assert copy.znb_origin.worker == "w0"
    assert copy.__notes__ == ["raised on w0 (host nb, pid 1234)"]


# -- several workers


class Failed(NamedTuple):
    error: BaseException
    record: object = None


def failed(worker, exc):
    record = record_of(exc, worker)
    return Failed(restore(record, CODEC), record)


def test_the_same_error_of_several_workers_is_folded():
    errors = {f"w{i}": caught(divide, [1, 0], 1) for i in (10, 2, 0)}
    different = caught(divide, [1], 7)
    records = [record_of(e, w) for w, e in errors.items()] + [record_of(different, "w1")]
    assert [(r.type_name, workers) for r, workers in fold(records)] == [
        ("ZeroDivisionError", ["w0", "w2", "w10"]),
        ("IndexError", ["w1"]),
    ]
    at = [ValueError(f"<thing at {hex(id(x))}>") for x in ([], {})]
    assert len(fold([record_of(e) for e in at])) == 1


def test_one_distinct_error_is_raised_as_itself_and_names_all_workers():
    failures = {f"w{i}": failed(f"w{i}", caught(divide, [1, 0], 1)) for i in range(3)}
    error = combine(failures, of=4)
    assert type(error) is ZeroDivisionError
    assert error.__notes__ == ["raised on w0 (host nb, pid 1234); the same on w1, w2"]
    with pytest.raises(ZeroDivisionError):
        raise_for([f.record for f in failures.values()], CODEC)
    raise_for([], CODEC)
    with pytest.raises(ValueError, match="at least one failure"):
        combine({}, of=2)


def test_several_distinct_errors_are_raised_as_a_group():
    failures = {
        "w0": failed("w0", caught(divide, [1, 0], 1)),
        "w1": failed("w1", caught(divide, [1, 0], 1)),
        "w2": Failed(WorkerLost("w2", "ended")),
    }
    group = combine(failures, of=4)
    assert (type(group), group.message) == (ExceptionGroup, "3 of 4 workers failed with 2 different errors")
    assert [type(e) for e in group.exceptions] == [ZeroDivisionError, WorkerLost]
    assert text_of(group).count("raised on w0 (host nb, pid 1234); the same on w1") == 1
    stopped = {"w0": Failed(Stop()), "w1": Failed(ValueError())}
    assert type(combine(stopped, of=2)) is BaseExceptionGroup
    records = [record_of(ValueError("a"), "w0"), record_of(KeyError("b"), "w1")]
    with pytest.raises(ExceptionGroup, match="2 of 3 workers failed"):
        raise_for(records, CODEC, of=3)
