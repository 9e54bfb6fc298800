"""What the tests of tracebacks share: a way there and back, and exceptions to send on it."""

from __future__ import annotations

import linecache
import pickle
import traceback
from dataclasses import dataclass

import pytest

from znb.tracebacks import capture, decode_record, encode_record, restore


@dataclass
class Pickled:
    body: bytes
    buffers: tuple = ()
    definitions: tuple = ()


class PickleCodec:
    """Stands in for ``znb.serialize.Codec``."""

    def encode(self, obj):
        buffers = []
        body = pickle.dumps(obj, 5, buffer_callback=buffers.append)
        return Pickled(body, tuple(b.raw() for b in buffers), (b"key of a definition",))

    def decode(self, body, buffers=()):
        return pickle.loads(body, buffers=buffers)


class BrokenCodec:
    def encode(self, obj):
        raise RuntimeError("cannot")

    def decode(self, body, buffers=()):
        raise RuntimeError("cannot")


CODEC = PickleCodec()


def record_of(exc, worker="w0", codec=CODEC, **options):
    """Capture an exception, as if on a worker, and take it over the wire."""
    record = capture(exc, codec, worker=worker, host="nb", pid=1234, **options)
    return decode_record(encode_record(record))


def travel(exc, worker="w0", codec=CODEC, **options):
    return restore(record_of(exc, worker, codec, **options), codec)


def caught(function, *args):
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def text_of(exc):
    return "".join(traceback.format_exception(exc))


def divide(xs, i):
    total = sum(xs)
    return total / xs[i] + 1


def cell(source, label="<cell 1>"):
    """Run source as a worker's shell does, then forget it as if it had been another process."""
    linecache.cache[label] = (len(source), None, source.splitlines(keepends=True), label)
    exec(compile(source, label, "exec"), {"__name__": "__main__"})


class Unprintable(Exception):
    def __str__(self):
        raise SystemExit(3)

    __repr__ = __str__


@pytest.fixture
def forget():
    """Forget cells and files as if the capture had been in another process."""
    before = dict(linecache.cache)
    yield linecache.clearcache
    linecache.cache.clear()
    linecache.cache.update(before)
