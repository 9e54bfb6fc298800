"""NumPy arrays and pandas frames as plain values, their data out of band and without a copy.

=========== ======================================================================================================
ext code     content
=========== ======================================================================================================
15 array     [dtype, shape, "C" or "F", data or number of the buffer]
16 scalar    [dtype, data]
27 frame     [columns' index, rows' index, [column …] or array]
28 series    [column, index, name]
29 index     ["range", start, stop, step, name], ["multi", [index …], [codes …], names] or ["flat", column, name, freq]
30 scalar    ["timestamp", value, unit, zone], ["timedelta", value, unit], ["NaT"] or ["NA"]
*column*     ["array", array], ["objects", items], ["text", nullable, items], ["zoned", unit, zone, array],
             ["categories", index, ordered, codes], ["masked", dtype, array, mask] or ["period", dtype, ordinals]
=========== ======================================================================================================

Invariants: arrays of Python objects are refused, because reading them would take pickle. Frames keep the order and
types of their columns. No state, no thread.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from znb.rpc.values import Decoder, Encoder

__all__ = ["from_ext", "to_ext"]

#: Kinds of NumPy types that are plain memory.
KINDS = frozenset("biufcmMSUV")


def to_ext(encoder: Encoder, value: Any) -> Any:
    """Return the msgpack form of a NumPy or pandas object."""
    if isinstance(value, np.ndarray):
        return _array(encoder, value)
    if isinstance(value, np.generic):
        return encoder.ext(16, [_descr(value.dtype, value), value.tobytes()])
    if isinstance(value, np.dtype):
        raise _refused(value, "a dtype is no plain value", "send its .str")
    return _pandas_to_ext(encoder, value)


def from_ext(decoder: Decoder, code: int, data: memoryview) -> Any:
    """Return what an extension stands for."""
    content = decoder.read(data)
    if code == 15:
        return _read_array(decoder, *content)
    if code == 16:
        dtype = _read_dtype(content[0])
        return np.frombuffer(content[1], dtype=dtype, count=1)[0]
    if code in {27, 28, 29, 30}:
        return _pandas_from_ext(code, content)
    raise ValueError(f"extension {code} is not known here; the peer runs a newer znb")


# -- arrays ----------------------------------------------------------------------------------------------------


def _array(encoder: Encoder, value: np.ndarray[Any, Any]) -> Any:
    if type(value) not in {np.ndarray, np.memmap}:
        raise _refused(value, "only arrays of NumPy's own type travel", "np.asarray() makes one of it")
    descr = _descr(value.dtype, value)
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    flat = np.ascontiguousarray(value.T if order == "F" else value)
    from znb.rpc.values import OUT_OF_BAND_BYTES  # noqa: PLC0415 - the two modules are one concept, split for size

    if value.nbytes < OUT_OF_BAND_BYTES or encoder.buffers is None:
        return encoder.ext(15, [descr, list(value.shape), order, flat.tobytes()])
    # As bytes: memoryview cannot say dates and structures.
    encoder.buffers.append(flat.reshape(-1).view(np.uint8).data)
    return encoder.ext(15, [descr, list(value.shape), order, len(encoder.buffers) - 1])


def _descr(dtype: np.dtype[Any], value: Any) -> Any:
    if dtype.hasobject or dtype.kind not in KINDS:
        raise _refused(value, f"its dtype {dtype} holds Python objects", "tolist() makes a list of it")
    return dtype.str if dtype.fields is None else np.lib.format.dtype_to_descr(dtype)


def _read_dtype(descr: Any) -> np.dtype[Any]:
    if not isinstance(descr, str):
        descr = [_tuples(field) for field in descr]
    dtype = np.lib.format.descr_to_dtype(descr)
    if dtype.hasobject or dtype.kind not in KINDS or dtype.itemsize == 0:
        raise ValueError(f"an array of {dtype} is not plain memory")
    return dtype


def _tuples(field: Any) -> Any:
    name, descr, *shape = field
    inner = descr if isinstance(descr, str) else [_tuples(part) for part in descr]
    return (name, inner, *map(tuple, shape))


def _read_array(decoder: Decoder, descr: Any, shape: Any, order: str, where: Any) -> np.ndarray[Any, Any]:
    data = bytearray(where) if isinstance(where, bytes) else decoder.buffer(where)
    dtype = _read_dtype(descr)
    if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != memoryview(data).nbytes:
        raise ValueError(f"an array of shape {shape!r:.50} does not fit into {memoryview(data).nbytes} bytes")
    flat = np.frombuffer(data, dtype=dtype)
    return flat.reshape(shape[::-1]).T if order == "F" else flat.reshape(shape)


# -- pandas ----------------------------------------------------------------------------------------------------


def _pandas_to_ext(encoder: Encoder, value: Any) -> Any:
    import pandas as pd  # noqa: PLC0415 - optional; here it has been imported already

    if type(value) is pd.DataFrame:
        labels = [encoder.convert(value.columns), encoder.convert(value.index)]
        if _is_block(value):
            return encoder.ext(27, [*labels, encoder.convert(value.to_numpy())])
        return encoder.ext(27, [*labels, [_column(encoder, value.iloc[:, n].array) for n in range(value.shape[1])]])
    if type(value) is pd.Series:
        column = _column(encoder, value.array)
        return encoder.ext(28, [column, encoder.convert(value.index), encoder.convert(value.name)])
    if isinstance(value, pd.Index):
        return encoder.ext(29, _index(encoder, value))
    if value is pd.NaT:
        return encoder.ext(30, ["NaT"])
    if value is pd.NA:
        return encoder.ext(30, ["NA"])
    if isinstance(value, pd.Timestamp):
        zone = encoder.convert(value.tzinfo) if value.tzinfo else None
        return encoder.ext(30, ["timestamp", _integer(value), value.unit, zone])
    if isinstance(value, pd.Timedelta):
        return encoder.ext(30, ["timedelta", _integer(value), value.unit])
    raise _refused(value, "this pandas type is not carried", "to_numpy() or to_dict() make plain values of it")


def _integer(value: Any) -> int:
    return int(value.asm8.view("i8"))


def _is_block(frame: Any) -> bool:
    """Whether a frame is one array of numbers, which pandas keeps by rows or by columns."""
    kinds = set(frame.dtypes)
    return len(kinds) == 1 and isinstance(kind := kinds.pop(), np.dtype) and kind.kind in "biufc"


def _index(encoder: Encoder, value: Any) -> list[Any]:
    import pandas as pd  # noqa: PLC0415 - as above

    if isinstance(value, pd.RangeIndex):
        return ["range", value.start, value.stop, value.step, encoder.convert(value.name)]
    if isinstance(value, pd.MultiIndex):
        codes = [encoder.convert(np.asarray(part)) for part in value.codes]
        return ["multi", encoder.items(list(value.levels)), codes, encoder.items(list(value.names))]
    freq = getattr(value, "freqstr", None) if isinstance(value, pd.DatetimeIndex | pd.TimedeltaIndex) else None
    return ["flat", _column(encoder, value.array), encoder.convert(value.name), freq]


def _column(encoder: Encoder, array: Any) -> list[Any]:
    import pandas as pd  # noqa: PLC0415 - as above

    dtype = array.dtype
    if type(array) is pd.arrays.NumpyExtensionArray or isinstance(dtype, np.dtype):
        plain = np.asarray(array)
        if plain.dtype.hasobject:
            return ["objects", encoder.items(plain.tolist())]
        return ["array", encoder.convert(plain)]
    if isinstance(dtype, pd.StringDtype):
        items = [item if isinstance(item, str) else None for item in array]
        return ["text", dtype.na_value is pd.NA, encoder.items(items)]
    if isinstance(dtype, pd.DatetimeTZDtype):
        zone = encoder.convert(dtype.tz)
        return ["zoned", dtype.unit, zone, encoder.convert(np.asarray(array.asi8))]
    if isinstance(dtype, pd.CategoricalDtype):
        codes = encoder.convert(np.asarray(array.codes))
        return ["categories", encoder.convert(dtype.categories), bool(dtype.ordered), codes]
    if isinstance(dtype, pd.PeriodDtype):
        return ["period", str(dtype), encoder.convert(np.asarray(array.asi8))]
    if hasattr(array, "_mask") and hasattr(array, "_data"):  # the nullable numbers: Int64, Float64, boolean
        data, mask = encoder.convert(np.asarray(array._data)), encoder.convert(np.asarray(array._mask))
        return ["masked", str(dtype), data, mask]
    raise _refused(array, f"a column of type {dtype} is not carried", "astype() makes another of it")


def _pandas_from_ext(code: int, content: list[Any]) -> Any:
    import pandas as pd  # noqa: PLC0415 - optional

    if code == 27:
        columns, index, parts = content
        data = parts if isinstance(parts, np.ndarray) else {n: _read_column(p) for n, p in enumerate(parts)}
        frame = pd.DataFrame(data, index=index, copy=False)
        frame.columns = columns
        return frame
    if code == 28:
        part, index, name = content
        return pd.Series(_read_column(part), index=index, name=name, copy=False)
    if code == 29:
        return _read_index(*content)
    kind, *rest = content
    if kind == "timestamp":
        value, unit, zone = rest
        made = pd.Timestamp(np.datetime64(value, unit))
        return made.tz_localize("UTC").tz_convert(zone) if zone is not None else made
    if kind == "timedelta":
        return pd.Timedelta(np.timedelta64(rest[0], rest[1]))
    return {"NaT": pd.NaT, "NA": pd.NA}[kind]


def _read_index(kind: str, *rest: Any) -> Any:
    import pandas as pd  # noqa: PLC0415 - as above

    if kind == "range":
        start, stop, step, name = rest
        return pd.RangeIndex(start, stop, step, name=name)
    if kind == "multi":
        levels, codes, names = rest
        return pd.MultiIndex(levels=levels, codes=codes, names=names)
    part, name, freq = rest
    column = _read_column(part)
    index = pd.Index(column, dtype=column.dtype.numpy_dtype if part[0] == "objects" else None, name=name, copy=False)
    if freq is not None:
        index.freq = freq
    return index


def _read_column(part: list[Any]) -> Any:
    import pandas as pd  # noqa: PLC0415 - as above

    kind, *rest = part
    if kind == "array":
        return rest[0]
    if kind == "objects":
        made = np.empty(len(rest[0]), dtype=object)
        made[:] = rest[0]
        return pd.arrays.NumpyExtensionArray(made)  # of a bare array pandas would guess the type anew
    if kind == "text":
        return pd.array(rest[1], dtype=pd.StringDtype(na_value=pd.NA if rest[0] else np.nan))
    if kind == "zoned":
        unit, zone, values = rest
        return pd.DatetimeIndex(values.view(f"M8[{unit}]")).tz_localize("UTC").tz_convert(zone).array
    if kind == "categories":
        index, ordered, codes = rest
        return pd.Categorical.from_codes(codes, categories=index, ordered=ordered)
    if kind == "period":
        dtype, ordinals = rest
        return pd.arrays.PeriodArray(ordinals, dtype=pd.PeriodDtype(dtype))
    if kind == "masked":
        dtype, data, mask = rest
        made = pd.array(data, dtype=dtype)
        made[mask.astype(bool)] = pd.NA
        return made
    raise ValueError(f"a column of kind {kind!r:.20} is not known here")


def _refused(value: Any, reason: str, hint: str) -> Exception:
    from znb.rpc.values import _Refused  # noqa: PLC0415 - the two modules are one concept, split for size

    return _Refused(value, reason, hint)
