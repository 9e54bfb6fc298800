"""What a stream looks like: values folded into lines, a table, a log or pictures, and the frames that a page is sent.

A *frame* is a dict of plain values and a list of binary buffers. A *full* frame holds everything there is to see, any
other one what is new since the frame before. Frames are numbered by whoever sends them.

============ ============================================== ====================================================
kind          values                                         content of a frame (buffers)
============ ============================================== ====================================================
line          numbers, dicts with numbers                    ``series`` [[id, name, source] …], ``counts``
                                                             [[id, n] …] (x values, y values: float64)
table         dicts, lists of dicts, pandas                  ``columns``, ``rows`` [[key, time, source, cell …] …],
                                                             ``gone`` [key …]
log           text, dicts with a message, anything else      ``lines`` [[time, source, topic, level, text] …],
                                                             ``skipped``
image         PNG, JPEG, GIF or WebP bytes, PIL images       ``images`` [[name, source, time, type] …] (each image)
============ ============================================== ====================================================

Invariants: what is kept is bounded, and what is not shown for that is counted. Pure: no widget, no thread.
"""

from __future__ import annotations

import io
import itertools
import math
import numbers
from array import array
from collections import deque
from collections.abc import Callable
from math import isfinite
from typing import Any, Literal, NamedTuple, Protocol

__all__ = ["KINDS", "Frame", "Kind", "Picture", "Seen", "guess_kind", "make_picture"]

Kind = Literal["line", "table", "log", "image"]
KINDS: tuple[Kind, ...] = ("line", "table", "log", "image")

#: Points of one line that are kept; a page is a thousand pixels wide.
POINTS = 20_000
#: Points from which on the oldest are dropped, many at a time.
KEPT_POINTS = 2 * POINTS
#: Points of one line in a full frame: its lowest and highest in each of half as many stretches.
FULL_POINTS = 2_000
#: Lines in one plot.
SERIES = 40
#: Rows of a table.
ROWS = 1_000
#: Columns of a table.
COLUMNS = 40
#: Lines of a log that are kept.
LINES = 2_000
#: Lines of a log in one frame; twenty frames a second are more than anybody reads.
LINES_SENT = 200
#: Pictures side by side.
IMAGES = 8
#: Characters of one cell, and of one line.
CELL_WIDTH, LINE_WIDTH = 120, 2_000
#: Characters of a log's level.
LEVEL_WIDTH = 8
#: Keys that count something else than time, and so are an axis rather than a line.
AXES = ("step", "epoch", "iteration", "batch")
#: Keys of a dict that is a log record.
MESSAGE_KEYS = ("message", "msg", "text")
#: First bytes of pictures, and what they are.
IMAGE_TYPES = ((b"\x89PNG\r\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


#: No lines.
_NONE: dict[Any, Any] = {}
#: Types of most numbers.
_PLAIN = frozenset((int, float))


class Seen(NamedTuple):
    """A message, its value read."""

    topic: str
    source: str
    time: float
    value: Any


class Frame(NamedTuple):
    """What a page is sent."""

    content: dict[str, Any]
    buffers: list[Any]


class Picture(Protocol):
    """A stream as something to look at."""

    kind: Kind

    def add(self, seen: Seen) -> bool:
        """Fold a message in; return whether there was anything in it that this kind can show."""

    def frame(self, *, full: bool) -> Frame:
        """Return what there is to see, or what is new since the last call."""

    def text(self) -> str:
        """Return it for those who cannot see."""


def guess_kind(value: Any) -> Kind:
    """Return how values such as this one are best shown."""
    if _is_number(value):
        return "line"
    if isinstance(value, dict):
        if any(isinstance(value.get(key), str) for key in MESSAGE_KEYS):
            return "log"
        return "line" if any(_is_number(item) for item in value.values()) and not _has_text(value) else "table"
    if _records(value) is not None:
        return "table"
    return "image" if _image_type(value) or hasattr(value, "_repr_png_") else "log"


def make_picture(kind: Kind, x: str | None = None) -> Picture:
    """Return an empty picture.

    Args:
        kind: Which.
        x: The key that is the horizontal axis of lines; ``None`` to guess it.
    """
    if kind == "line":
        return Lines(x)
    others: dict[str, Callable[[], Picture]] = {"table": Table, "log": Log, "image": Images}
    return others[kind]()


def _is_number(value: Any) -> bool:
    if type(value) in _PLAIN:  # the usual case, in a tenth of the time
        return True
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _finite(value: Any) -> float | None:
    """Return a number that can be drawn; ``None`` if the value is none."""
    try:
        number = float(value) if _is_number(value) else math.nan
    except (OverflowError, ValueError, TypeError):  # 10**400; whatever else calls itself real
        return None
    return number if isfinite(number) else None


def _has_text(value: dict[Any, Any]) -> bool:
    return any(isinstance(item, str) for item in value.values())


def _records(value: Any) -> list[dict[Any, Any]] | None:
    """Return the rows of a table; ``None`` if the value is none."""
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a pandas frame
        return [{"": index, **row} for index, row in zip(value.index, value.to_dict("records"), strict=True)]
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return value
    return None


def _image_type(value: Any) -> str:
    if not isinstance(value, bytes | bytearray | memoryview):
        return ""
    head = bytes(value[:12])
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in IMAGE_TYPES if head.startswith(magic)), "")


# -- lines ---------------------------------------------------------------------------------------------------


class _Series:
    """One line: points, and how many of them the page has."""

    __slots__ = ("name", "new", "number", "source", "x", "y")

    def __init__(self, number: int, name: str, source: str) -> None:
        self.number = number
        self.name = name
        self.source = source
        self.x = array("d")
        self.y = array("d")
        self.new = 0

    def add(self, x: float, y: float) -> None:
        xs = self.x
        xs.append(x)
        self.y.append(y)
        self.new += 1
        if len(xs) > KEPT_POINTS:
            del xs[:POINTS], self.y[:POINTS]
            self.new = min(self.new, len(xs))


class Lines:
    """Numbers over time, or over a key that counts; one line per key and source."""

    kind: Kind = "line"

    def __init__(self, x: str | None = None) -> None:
        self._x = x
        self._series: dict[tuple[str, str, str], _Series] = {}
        #: The same, by topic and source and then by key: what most messages need, without making a name first.
        self._known: dict[tuple[str, str], dict[Any, _Series]] = {}
        self._told = 0
        self._hidden: set[tuple[str, str, str]] = set()

    def add(self, seen: Seen) -> bool:
        """Fold a message in; what is no finite number is left out."""
        value = seen.value
        if not isinstance(value, dict):
            number = _finite(value)
            if number is not None:
                self._add(seen, "", seen.time, number)
            return number is not None
        if self._x is None:
            self._x = next((key for key in AXES if _is_number(value.get(key))), "time")
        axis = self._x
        position = seen.time if axis == "time" else value.get(axis)
        if type(position) is not float or not isfinite(position):
            position = _finite(position)
        if position is None:
            return False
        found = False
        known = self._known.get((seen.topic, seen.source), _NONE)
        for key, item in value.items():
            number = item if type(item) is float and isfinite(item) else _finite(item)
            if number is not None and key != axis:
                series = known.get(key)
                if series is not None:
                    series.add(position, number)
                else:
                    self._add(seen, key, position, number)
                found = True
        return found

    def _add(self, seen: Seen, original: Any, x: float, y: float) -> None:
        key = str(original)
        name = (seen.topic, key, seen.source)
        series = self._series.get(name)
        if series is None:
            if len(self._series) >= SERIES:
                if len(self._hidden) < ROWS:
                    self._hidden.add(name)
                return
            label = _short(f"{seen.topic}.{key}" if key else seen.topic, CELL_WIDTH)
            series = self._series[name] = _Series(len(self._series), label, seen.source)
        if type(original) is str:  # other keys may be equal and have another text
            self._known.setdefault((seen.topic, seen.source), {})[key] = series
        series.add(x, y)

    def frame(self, *, full: bool) -> Frame:
        """Return the points."""
        lines = list(self._series.values())
        told = 0 if full else self._told
        self._told = len(lines)
        counts, xs, ys = [], array("d"), array("d")
        for series in lines:
            count = min(len(series.x), POINTS) if full else series.new
            series.new = 0
            if not count:
                continue
            x, y = series.x[-count:], series.y[-count:]
            if full:
                x, y = _thinned(x, y)
            counts.append([series.number, len(x)])
            xs.extend(x)
            ys.extend(y)
        content = {
            "x": self._x or "time",
            "series": [[series.number, series.name, series.source] for series in lines[told:]],
            "counts": counts,
            "hidden": len(self._hidden),
        }
        return Frame(content, [xs.tobytes(), ys.tobytes()])

    def text(self) -> str:
        """Return the last value of each line."""
        rows = [f"{s.name} ({s.source}): {s.y[-1]:g}, {len(s.y)} points" for s in self._series.values() if s.y]
        return "\n".join(rows)


def _thinned(x: array[float], y: array[float]) -> tuple[array[float], array[float]]:
    """Return a line with fewer points that looks the same: the extremes of each stretch, where it begins and ends."""
    if len(x) <= FULL_POINTS:
        return x, y
    step = -(-len(x) // (FULL_POINTS // 2))
    thin_x, thin_y = array("d"), array("d")
    for start in range(0, len(x), step):
        part = y[start : start + step]
        low, high = min(part), max(part)
        rises = part.index(low) <= part.index(high)
        thin_x.extend((x[start], x[min(start + step, len(x)) - 1]))
        thin_y.extend((low, high) if rises else (high, low))
    return thin_x, thin_y


# -- tables --------------------------------------------------------------------------------------------------


class Table:
    """The latest row of each topic and source; or the rows of the latest table of each."""

    kind: Kind = "table"

    def __init__(self) -> None:
        self._columns: dict[str, None] = {}
        self._more: set[str] = set()
        self._rows: dict[str, list[Any]] = {}
        self._changed: dict[str, None] = {}
        self._gone: list[str] = []

    def add(self, seen: Seen) -> bool:
        """Fold a message in."""
        begin = f"{seen.topic} {seen.source}"
        records = _records(seen.value)
        if records is None:
            value = seen.value if isinstance(seen.value, dict) else {"value": seen.value}
            self._set(begin, seen, value)
            return True
        for key in [key for key in self._rows if key.startswith(f"{begin} #")]:
            if int(key.rpartition("#")[2]) >= len(records):
                self._remove(key)
        for number, record in enumerate(records[:ROWS]):
            self._set(f"{begin} #{number}", seen, record)
        return True

    def _set(self, key: str, seen: Seen, record: dict[Any, Any]) -> None:
        cells = {_short(_as_text(name, str), CELL_WIDTH): _cell(value) for name, value in record.items()}
        for name in cells:
            if len(self._columns) < COLUMNS:
                self._columns.setdefault(name)
            elif name not in self._columns and len(self._more) < ROWS:
                self._more.add(name)
        self._rows.pop(key, None)
        self._rows[key] = [seen.time, seen.source, seen.topic, cells]
        self._changed[key] = None
        while len(self._rows) > ROWS:
            self._remove(next(iter(self._rows)))

    def _remove(self, key: str) -> None:
        self._rows.pop(key, None)
        self._changed.pop(key, None)
        self._gone.append(key)
        del self._gone[:-ROWS]

    def frame(self, *, full: bool) -> Frame:
        """Return the rows."""
        columns = list(self._columns)
        keys = list(self._rows if full else self._changed)
        rows = []
        for key in keys:
            time, source, topic, cells = self._rows[key]
            rows.append([key, time, source, topic, *(cells.get(column) for column in columns)])
        content = {"columns": columns, "rows": rows, "gone": [] if full else self._gone, "hidden": len(self._more)}
        self._changed, self._gone = {}, []
        return Frame(content, [])

    def text(self) -> str:
        """Return the rows, one a line."""
        rows = []
        for _, source, topic, cells in self._rows.values():
            rows.append(f"{topic} ({source}): " + ", ".join(f"{name} {value}" for name, value in cells.items()))
        return "\n".join(rows)


def _cell(value: Any) -> Any:
    """Return what JSON carries: a finite number, or short text."""
    if value is None or isinstance(value, bool):
        return value
    if _is_number(value):
        try:
            number = float(value)
        except OverflowError:
            return _short(_as_text(value), CELL_WIDTH)
        if not isfinite(number):
            return str(number)
        return int(value) if isinstance(value, numbers.Integral) and abs(int(value)) < 2**53 else number
    return _short(_as_text(value), CELL_WIDTH)


def _as_text(value: Any, write: Callable[[Any], str] = repr) -> str:
    """Return a value as text, whatever it is."""
    try:
        return value if isinstance(value, str) else write(value)
    except Exception as error:  # noqa: BLE001 - a value of any class, or a number of too many digits
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}: {error}>"


def _short(text: str, width: int) -> str:
    """Return text that fits, and that can be sent: half of a surrogate pair cannot."""
    shown = text if len(text) <= width else f"{text[: width - 1]}…"
    return shown if shown.isascii() else shown.encode(errors="backslashreplace").decode()


# -- logs ----------------------------------------------------------------------------------------------------


class Log:
    """Lines of text, with their levels."""

    kind: Kind = "log"

    def __init__(self) -> None:
        self._lines: deque[list[Any]] = deque(maxlen=LINES)
        self._new = 0
        self._skipped = 0

    def add(self, seen: Seen) -> bool:
        """Fold a message in."""
        level, text = _log_line(seen.value)
        self._lines.append([seen.time, seen.source, seen.topic, _short(level, LEVEL_WIDTH), _short(text, LINE_WIDTH)])
        self._new += 1
        return True

    def frame(self, *, full: bool) -> Frame:
        """Return the lines."""
        count = len(self._lines) if full else min(self._new, LINES_SENT, len(self._lines))
        skipped = 0 if full else self._new - count
        self._new = 0
        lines = list(itertools.islice(self._lines, len(self._lines) - count, None))
        return Frame({"lines": lines, "skipped": skipped}, [])

    def text(self) -> str:
        """Return the latest lines."""
        return "\n".join(f"{source}: {text}" for _, source, _, _, text in list(self._lines)[-20:])


def _log_line(value: Any) -> tuple[str, str]:
    """Return level and text of a log record."""
    if isinstance(value, dict):
        key = next((key for key in MESSAGE_KEYS if isinstance(value.get(key), str)), None)
        if key is not None:
            level = str(value.get("level", value.get("levelname", "info"))).lower()
            rest = {name: item for name, item in value.items() if name not in {key, "level", "levelname"}}
            return level, f"{value[key]}{f'  {_as_text(rest)}' if rest else ''}"
    text = _as_text(value)
    return _level_of(text), text


def _level_of(text: str) -> str:
    """Return the level that a line begins with, as ``logging`` writes it."""
    head = text[:40].lower()
    for level in ("critical", "error", "warning", "debug"):
        if level in head:
            return level
    return "info"


# -- pictures ------------------------------------------------------------------------------------------------


class Images:
    """The latest picture of each topic and source."""

    kind: Kind = "image"

    def __init__(self) -> None:
        self._images: dict[tuple[str, str], tuple[float, str, bytes]] = {}
        self._changed: set[tuple[str, str]] = set()

    def add(self, seen: Seen) -> bool:
        """Fold a message in; what is no picture is left out."""
        data = _picture_bytes(seen.value)
        if data is None:
            return False
        key = (seen.topic, seen.source)
        self._images.pop(key, None)
        self._images[key] = (seen.time, _image_type(data), data)
        self._changed.add(key)
        while len(self._images) > IMAGES:
            self._changed.discard(next(iter(self._images)))
            del self._images[next(iter(self._images))]
        return True

    def frame(self, *, full: bool) -> Frame:
        """Return the pictures."""
        keys = [key for key in self._images if full or key in self._changed]
        self._changed = set()
        chosen = [(key, *self._images[key]) for key in keys]
        return Frame(
            {"images": [[topic, source, time, kind] for (topic, source), time, kind, _ in chosen]},
            [data for *_, data in chosen],
        )

    def text(self) -> str:
        """Return what they are called."""
        return "\n".join(f"{topic} ({source}): a picture" for topic, source in self._images)


def _picture_bytes(value: Any) -> bytes | None:
    if _image_type(value):
        return bytes(value)
    if hasattr(value, "save") and hasattr(value, "mode"):  # PIL's; its _repr_png_ gives nothing for some modes
        file = io.BytesIO()
        value.convert("RGBA" if "A" in value.mode else "RGB").save(file, "PNG")
        return file.getvalue()
    made = value._repr_png_() if hasattr(value, "_repr_png_") else None
    return made if isinstance(made, bytes) else None
