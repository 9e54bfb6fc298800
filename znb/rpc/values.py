"""Plain values ⇄ msgpack: what a service may be sent by strangers, and nothing that runs code when it is read.

Between znb peers the values below arrive equal and of the same type; everything else is refused by name before it is
sent. Towards zerorpc peers only the first line exists.

========= =================================== =========================================================
ext code  Python type                          content
========= =================================== =========================================================
(msgpack) None, bool, int (64 bits), float,    themselves
          str, bytes, list, dict
1, 2, 3   tuple, set, frozenset                items
4         dict with other keys than scalars    [[key, value] …]
5         int beyond 64 bits                   big-endian two's complement
6         complex                              [real, imaginary]
7, 8, 9   datetime, date, time                 [ISO text, fold, zone key or null], ISO text, [ISO text, fold]
10        timedelta                            [days, seconds, microseconds]
11, 12    Decimal, UUID                        text, 16 bytes
13        Fraction                             [numerator, denominator]
14        pathlib paths                        [type, text]
15, 16    NumPy array, scalar                  see ``znb.rpc.tables``
17        bytes or bytearray out of band       [type, number of the buffer]
18        bytearray                            its bytes
19        named tuple                          [type name, fields, items]
20, 21    range, slice                         [start, stop, step]
22        deque                                [items, maximal length]
23, 24    OrderedDict, Counter                 [[key, value] …]
25        str with lone surrogates             UTF-8 with surrogates passed
26        timezone, ZoneInfo                   seconds, key
27 … 30   pandas frame, series, index, scalar  see ``znb.rpc.tables``
========= =================================== =========================================================

A defaultdict travels as dict, because its factory cannot. Invariants: reading never imports, unpickles or calls what
the sender names; a value that was changed after ``encode`` returned is not sent changed, buffers excepted. No state,
no thread.
"""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import fractions
import functools
import keyword
import pathlib
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from znb.errors import ProtocolError, SerializationError

__all__ = ["Decoder", "Encoder", "decode", "encode"]

Ext = msgspec.msgpack.Ext

#: Bytes from which a value travels in a frame of its own, without a copy, between znb peers.
OUT_OF_BAND_BYTES = 16_384
#: Types that msgpack carries as they are.
SCALARS: Final = frozenset({type(None), bool, int, float, str})
#: Different named tuple types that are remembered.
NAMED_TUPLES_MAX = 256
#: Fields of a named tuple.
FIELDS_MAX = 255

_pack = msgspec.msgpack.Encoder().encode


class Encoder:
    """Turns one message's values to what msgpack carries.

    Args:
        buffers: Takes what travels out of band; ``None`` where the peer speaks zerorpc only.
        careful: Whether scalars are looked at one by one; the quick way is tried first, and fails where that is needed.
    """

    __slots__ = ("buffers", "careful")

    def __init__(self, buffers: list[Any] | None, *, careful: bool = False) -> None:
        self.buffers = buffers
        self.careful = careful

    def convert(self, value: Any) -> Any:
        """Return the msgpack form of a value.

        Raises:
            _Refused: It cannot travel.
        """
        kind = type(value)
        if kind in SCALARS:
            return self._scalar(kind, value) if self.careful else value
        if kind is list:
            return self.items(value)
        if kind is dict:
            return self._dict(value)
        if self.buffers is None:
            return self._for_zerorpc(kind, value)
        if (convert := _TO_EXT.get(kind)) is not None:
            return convert(self, value)
        return self._other(kind, value)

    def items(self, values: Any) -> list[Any]:
        """Return the msgpack form of a sequence's items."""
        if not self.careful and SCALARS.issuperset(map(type, values)):
            return list(values)
        made = []
        for number, value in enumerate(values):
            try:
                made.append(self.convert(value))
            except _Refused as refused:
                refused.inside(f"[{number}]")
                raise
        return made

    def ext(self, code: int, content: Any) -> Ext:
        """Return an extension whose content is made of what ``convert`` returned."""
        return Ext(code, _pack(content))

    def pairs(self, value: Mapping[Any, Any]) -> list[Any]:
        """Return a mapping's items."""
        made = []
        for key, item in value.items():
            try:
                made.append([self.convert(key), self.convert(item)])
            except _Refused as refused:
                refused.inside(f"[{_short(key)}]")
                raise
        return made

    def _scalar(self, kind: type, value: Any) -> Any:
        if kind is int and not -(2**63) <= value < 2**64:
            if self.buffers is None:
                raise _Refused(value, "zerorpc carries integers of at most 64 bits")
            return Ext(5, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
        if kind is str and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                if self.buffers is None:
                    raise _Refused(value, "zerorpc carries text without lone surrogates") from None
                return Ext(25, value.encode("utf-8", "surrogatepass"))
        return value

    def _dict(self, value: dict[Any, Any]) -> Any:
        kinds = set(map(type, value))
        if not (kinds <= {str} or (self.buffers is not None and kinds <= SCALARS)) or (self.careful and kinds):
            return self._odd_dict(value, kinds)
        if not self.careful and SCALARS.issuperset(map(type, value.values())):
            return value.copy()
        made = {}
        for key, item in value.items():
            try:
                made[key] = self.convert(item)
            except _Refused as refused:
                refused.inside(f"[{key!r:.50}]")
                raise
        return made

    def _odd_dict(self, value: dict[Any, Any], kinds: set[type]) -> Any:
        if self.buffers is not None:
            return self.ext(4, self.pairs(value))
        if not kinds <= {str}:
            odd = next(key for key in value if type(key) is not str)
            raise _Refused(value, f"zerorpc carries dicts with text as keys only, not {_short(odd)}")
        return {self.convert(key): item for key, item in self.pairs(value)}

    def _for_zerorpc(self, kind: type, value: Any) -> Any:
        if kind is bytes:
            return value
        if kind is tuple:  # arrives as a list there, as everybody's tuples do
            return self.items(value)
        raise _Refused(
            value, "a zerorpc peer can be sent None, bool, int, float, str, bytes, list, and dict with text as keys"
        )

    def _other(self, kind: type, value: Any) -> Any:
        for base in kind.__mro__[1:]:
            root = base.__module__.partition(".")[0]
            if root in {"numpy", "pandas"}:
                break
        else:
            root = kind.__module__.partition(".")[0]
        if root in {"numpy", "pandas"}:
            from znb.rpc import tables  # noqa: PLC0415 - NumPy and pandas are optional, and slow to import

            return tables.to_ext(self, value)
        if isinstance(value, tuple) and isinstance(getattr(kind, "_fields", None), tuple):
            return self.ext(19, [kind.__name__, list(kind._fields), self.items(value)])  # type: ignore[attr-defined]
        if isinstance(value, tuple) and hasattr(kind, "n_sequence_fields"):
            return self._struct_sequence(kind, value)
        if kind is types.MappingProxyType:
            return self._dict(dict(value))
        raise _Refused(value, "a service carries plain values only", _hint(value))

    def _struct_sequence(self, kind: Any, value: Any) -> Any:
        """``os.stat_result`` and its like, without the fields that only have a name."""
        names = list(kind.__match_args__)[: len(value)]
        names += [f"field{number}" for number in range(len(names), len(value))]
        return self.ext(19, [kind.__name__, names, self.items(value)])


class _Refused(Exception):
    """A value cannot travel; collects the path to it on its way out."""

    def __init__(self, value: Any, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.value = value
        self.reason = reason
        self.hint = hint
        self.path: list[str] = []

    def inside(self, step: str) -> None:
        self.path.append(step)

    def error(self, where: str) -> SerializationError:
        path = where + "".join(reversed(self.path))
        return SerializationError(_short(self.value), self.reason, path=path, hint=self.hint)


def encode(value: Any, buffers: list[Any] | None, *, where: str, careful: bool = False) -> Any:
    """Return the msgpack form of a value.

    Args:
        value: What to send.
        buffers: Takes what travels out of band; ``None`` where the peer speaks zerorpc only.
        where: What the value is to the caller, such as ``"args"``, for messages.
        careful: As in ``Encoder``. Without it msgpack may yet raise ``OverflowError`` or ``UnicodeEncodeError``.

    Raises:
        SerializationError: It cannot travel; names the object and the path to it.
    """
    try:
        return Encoder(buffers, careful=careful).convert(value)
    except _Refused as refused:
        raise refused.error(where) from None
    except RecursionError:
        reason = "it contains itself, or is nested too deeply"
        raise SerializationError(_short(value), reason, path=where) from None
    except RuntimeError as error:  # changed by another thread while it was read
        raise SerializationError(_short(value), str(error), path=where) from None


class Decoder:
    """Reads one message's values.

    Args:
        buffers: What came out of band.
    """

    __slots__ = ("_decoder", "buffers")

    def __init__(self, buffers: list[Any]) -> None:
        self.buffers = buffers
        self._decoder = msgspec.msgpack.Decoder(ext_hook=self._on_ext)

    def read(self, data: Any) -> Any:
        """Return the value whose msgpack form is ``data``. May raise anything that bad data leads to."""
        return self._decoder.decode(data)

    def close(self) -> None:
        """Break the circle of references, so that the buffers go with the values, and not when the collector runs."""
        del self._decoder

    def buffer(self, number: Any) -> Any:
        """Return one of the buffers, without a copy."""
        if type(number) is not int or not 0 <= number < len(self.buffers):
            raise ValueError(f"there is no buffer {number!r:.20}, only {len(self.buffers)}")
        found = self.buffers[number]
        return getattr(found, "buffer", found)

    def _on_ext(self, code: int, data: memoryview) -> Any:
        convert = _FROM_EXT.get(code)
        if convert is None:
            from znb.rpc import tables  # noqa: PLC0415 - NumPy and pandas are optional, and slow to import

            return tables.from_ext(self, code, data)
        return convert(self, data)


#: For messages without buffers, which are most.
_without_buffers = Decoder([])


def decode(data: Any, buffers: list[Any] | None = None) -> Any:
    """Return the value whose msgpack form is ``data``.

    Raises:
        ProtocolError: It is none, or names what does not exist.
    """
    decoder = Decoder(buffers) if buffers else _without_buffers
    try:
        return decoder.read(data)
    except RecursionError as error:
        raise ProtocolError("expected a plain value, got one nested too deeply") from error
    except Exception as error:
        raise ProtocolError(f"expected a plain value, got something else: {type(error).__name__}: {error}") from error
    finally:
        if decoder is not _without_buffers:
            decoder.close()


# -- there -----------------------------------------------------------------------------------------------------


def _bytes_to_ext(encoder: Encoder, value: bytes | bytearray) -> Any:
    if len(value) < OUT_OF_BAND_BYTES:
        return value if type(value) is bytes else Ext(18, bytes(value))
    assert encoder.buffers is not None  # noqa: S101 - zerorpc's way was taken before
    encoder.buffers.append(value)
    return encoder.ext(17, [type(value).__name__, len(encoder.buffers) - 1])


def _memoryview_to_ext(encoder: Encoder, value: memoryview) -> Any:
    return _bytes_to_ext(encoder, value.tobytes())


def _datetime_to_ext(encoder: Encoder, value: dt.datetime) -> Any:
    zone = value.tzinfo
    if isinstance(zone, zoneinfo.ZoneInfo) and zone.key:
        return encoder.ext(7, [value.replace(tzinfo=None).isoformat(), value.fold, zone.key])
    if zone is not None and type(zone) is not dt.timezone:
        raise _Refused(zone, "its time zone is neither a datetime.timezone nor a zoneinfo.ZoneInfo")
    return encoder.ext(7, [value.isoformat(), value.fold, None])


def _time_to_ext(encoder: Encoder, value: dt.time) -> Any:
    if value.tzinfo is not None and type(value.tzinfo) is not dt.timezone:
        raise _Refused(value.tzinfo, "the zone of a time without a date must be a datetime.timezone")
    return encoder.ext(9, [value.isoformat(), value.fold])


def _zone_to_ext(encoder: Encoder, value: Any) -> Any:
    if isinstance(value, dt.timezone):
        return encoder.ext(26, value.utcoffset(None).total_seconds())
    return encoder.ext(26, value.key)


def _set_to_ext(code: int) -> Callable[[Encoder, Any], Any]:
    def convert(encoder: Encoder, value: Any) -> Any:
        try:
            return encoder.ext(code, encoder.items(list(value)))
        except _Refused as refused:
            refused.path[-1:] = ["{…}"]
            raise

    return convert


_TO_EXT: Final[Mapping[type, Callable[[Encoder, Any], Any]]] = {
    bytes: _bytes_to_ext,
    bytearray: _bytes_to_ext,
    memoryview: _memoryview_to_ext,
    tuple: lambda e, v: e.ext(1, e.items(v)),
    set: _set_to_ext(2),
    frozenset: _set_to_ext(3),
    complex: lambda e, v: e.ext(6, [v.real, v.imag]),
    dt.datetime: _datetime_to_ext,
    dt.date: lambda _e, v: Ext(8, v.isoformat().encode()),
    dt.time: _time_to_ext,
    dt.timedelta: lambda e, v: e.ext(10, [v.days, v.seconds, v.microseconds]),
    decimal.Decimal: lambda _e, v: Ext(11, str(v).encode()),
    uuid.UUID: lambda _e, v: Ext(12, v.bytes),
    fractions.Fraction: lambda e, v: e.ext(13, Encoder(e.buffers, careful=True).items([v.numerator, v.denominator])),
    **dict.fromkeys(
        (pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath),
        lambda e, v: e.ext(14, [type(v).__name__, Encoder(e.buffers, careful=True).convert(str(v))]),
    ),
    range: lambda e, v: e.ext(20, Encoder(e.buffers, careful=True).items([v.start, v.stop, v.step])),
    slice: lambda e, v: e.ext(21, e.items([v.start, v.stop, v.step])),
    collections.deque: lambda e, v: e.ext(22, [e.items(v), v.maxlen]),
    collections.OrderedDict: lambda e, v: e.ext(23, e.pairs(v)),
    collections.Counter: lambda e, v: e.ext(24, e.pairs(v)),
    collections.defaultdict: lambda e, v: e.convert(dict(v)),
    dt.timezone: _zone_to_ext,
    zoneinfo.ZoneInfo: _zone_to_ext,
}


# -- here ------------------------------------------------------------------------------------------------------


def _read_datetime(decoder: Decoder, data: memoryview) -> dt.datetime:
    text, fold, zone = decoder.read(data)
    made = dt.datetime.fromisoformat(text).replace(fold=fold)
    return made if zone is None else made.replace(tzinfo=zoneinfo.ZoneInfo(zone))


def _read_time(decoder: Decoder, data: memoryview) -> dt.time:
    text, fold = decoder.read(data)
    return dt.time.fromisoformat(text).replace(fold=fold)


def _read_zone(decoder: Decoder, data: memoryview) -> dt.tzinfo:
    value = decoder.read(data)
    return zoneinfo.ZoneInfo(value) if isinstance(value, str) else dt.timezone(dt.timedelta(seconds=value))


_PATHS: Final = {
    cls.__name__: cls
    for cls in (pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath)
}


def _read_path(decoder: Decoder, data: memoryview) -> pathlib.PurePath:
    name, text = decoder.read(data)
    if name == ("PosixPath" if sys.platform == "win32" else "WindowsPath"):
        name = f"Pure{name}"  # a path of another kind of system can be held here, but not opened
    return _PATHS[name](text)


def _read_buffer(decoder: Decoder, data: memoryview) -> Any:
    name, number = decoder.read(data)
    found = decoder.buffer(number)
    return {"bytes": bytes, "bytearray": bytearray}[name](found)


def _read_named_tuple(decoder: Decoder, data: memoryview) -> Any:
    name, fields, values = decoder.read(data)
    return named_tuple(name, tuple(fields))(*values)


@functools.lru_cache(NAMED_TUPLES_MAX)
def named_tuple(name: str, fields: tuple[str, ...]) -> type[Any]:
    """Return a named tuple type that stands for one of the sender's."""
    if len(fields) > FIELDS_MAX or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"no named tuple is called {name!r:.50} with {len(fields)} fields")
    return collections.namedtuple(name, fields, rename=True, module="znb.rpc.values")  # noqa: PYI024 - by its nature


def _read_fraction(decoder: Decoder, data: memoryview) -> fractions.Fraction:
    numerator, denominator = decoder.read(data)
    return fractions.Fraction(numerator, denominator)


def _read_deque(decoder: Decoder, data: memoryview) -> collections.deque[Any]:
    items, maxlen = decoder.read(data)
    return collections.deque(items, maxlen)


_FROM_EXT: Final[Mapping[int, Callable[[Decoder, memoryview], Any]]] = {
    1: lambda d, data: tuple(d.read(data)),
    2: lambda d, data: set(d.read(data)),
    3: lambda d, data: frozenset(d.read(data)),
    4: lambda d, data: dict(d.read(data)),
    5: lambda _d, data: int.from_bytes(data, "big", signed=True),
    6: lambda d, data: complex(*d.read(data)),
    7: _read_datetime,
    8: lambda _d, data: dt.date.fromisoformat(str(data, "ascii")),
    9: _read_time,
    10: lambda d, data: dt.timedelta(*d.read(data)),
    11: lambda _d, data: decimal.Decimal(str(data, "ascii")),
    12: lambda _d, data: uuid.UUID(bytes=bytes(data)),
    13: _read_fraction,
    14: _read_path,
    17: _read_buffer,
    18: lambda _d, data: bytearray(data),
    19: _read_named_tuple,
    20: lambda d, data: range(*d.read(data)),
    21: lambda d, data: slice(*d.read(data)),
    22: _read_deque,
    23: lambda d, data: collections.OrderedDict(d.read(data)),
    24: lambda d, data: collections.Counter(dict(d.read(data))),
    25: lambda _d, data: str(data, "utf-8", "surrogatepass"),
    26: _read_zone,
}


def _short(value: Any) -> str:
    """Return how to call an object in a message."""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a repr is user code, and only decoration here
        text = f"its repr raised {type(error).__name__}"
    return f"{name} object {text if len(text) <= 60 else text[:57] + '...'}"


def _hint(value: Any) -> str:
    if hasattr(value, "__dataclass_fields__"):
        return "dataclasses.asdict() makes a dict of it"
    if hasattr(value, "name") and hasattr(value, "value"):
        return "send its .value or its .name"
    if hasattr(value, "__next__"):
        return "make a list of it, or have the method yield its items"
    if callable(value):
        return "functions and classes travel to workers (cluster.submit), not to services"
    return "send what it is made of"
