"""The source lines that frames need: collected where they were raised, put into ``linecache`` where they are shown.

A cell is no file, so its whole text travels. Of a file, the lines around each frame travel: enough to tell whether the
file of that name here is the same, and to show something where it is not.

Invariants: at most ``MAX_BYTES`` travel with one record; a file or cell that is known here is never replaced by another
text of the same name, the other one is shown under ``name (worker)``.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator
from typing import Any

from znb.tracebacks.record import ErrorRecord, Excerpt

__all__ = ["Sources", "clean", "place_sources"]

#: Bytes of source text sent with one record; a notebook's cells are some kB each.
MAX_BYTES = 256 * 1024
#: Bytes up to which a text that is no file is sent whole.
_MAX_WHOLE = 64 * 1024
#: Lines sent above and below a frame's line; IPython shows two, pytest a function.
_AROUND = 5
#: Characters sent of one line; longer ones are generated data.
_MAX_LINE = 1000
#: Highest line number that is put into linecache: below it, unknown lines are filled with empty ones.
_MAX_LINENO = 200_000
#: Texts of other processes kept in linecache; the oldest go first.
_MAX_PLACED = 256
#: Marks our entries in linecache, in the field for the full path (nothing reads it back).
_OURS = "znb source: "


def clean(text: str) -> str:
    """Return ``text`` with lone surrogates escaped, which msgpack cannot carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


class Sources:
    """Collects the sources of the frames of one record."""

    def __init__(self) -> None:
        self._needed: dict[str, set[int]] = {}
        self._lines: dict[str, list[str]] = {}

    def need(self, filename: str, lineno: int, globals_: dict[str, Any] | None = None) -> str:
        """Note that a line will be shown, and return it; empty where there is no source."""
        lines = self._lines.get(filename)
        if lines is None:
            lines = self._lines[filename] = _lines_here(filename, globals_)
        if not 0 < lineno <= len(lines):
            return ""
        self._needed.setdefault(filename, set()).add(lineno)
        return clean(lines[lineno - 1].rstrip("\n")[:_MAX_LINE])

    def collect(self) -> tuple[dict[str, str], tuple[Excerpt, ...]]:
        """Return whole texts by file name, and excerpts of files, within the bound."""
        left = MAX_BYTES
        texts: dict[str, str] = {}
        excerpts: list[Excerpt] = []
        for filename, numbers in self._needed.items():
            lines = self._lines[filename]
            if _is_no_file(filename) and sum(map(len, lines)) <= min(left, _MAX_WHOLE):
                text = clean("".join(lines))
                if len(text.encode()) <= left:
                    texts[filename] = text
                    left -= len(text.encode())
                    continue
            for start, stop in _windows(numbers, len(lines)):
                text = clean("".join(_cut(line) for line in lines[start - 1 : stop]))
                if len(text.encode()) <= left:
                    excerpts.append(Excerpt(filename, start, text))
                    left -= len(text.encode())
        return texts, tuple(excerpts)


def _lines_here(filename: str, globals_: dict[str, Any] | None = None) -> list[str]:
    try:
        linecache.checkcache(filename)
        return linecache.getlines(filename, globals_)
    except (OSError, ValueError):  # no name of a file: an embedded null character, say
        return []


def _split(text: str) -> list[str]:
    # Not splitlines: it also splits at form feeds, which Python's line numbers do not count.
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _cut(line: str) -> str:
    return line if len(line) <= _MAX_LINE else line[:_MAX_LINE] + "\n"


def _is_no_file(filename: str) -> bool:
    entry = linecache.cache.get(filename)
    # linecache knows no time of change for what was put into it by hand.
    return entry is not None and len(entry) == 4 and entry[1] is None


def _windows(numbers: Iterable[int], last: int) -> Iterator[tuple[int, int]]:
    """Yield first and last line of each stretch around ``numbers``, overlapping ones joined."""
    start = stop = 0
    for number in sorted(numbers):
        if start and number - _AROUND <= stop + 1:
            stop = min(number + _AROUND, last)
            continue
        if start:
            yield start, stop
        start, stop = max(number - _AROUND, 1), min(number + _AROUND, last)
    if start:
        yield start, stop


def place_sources(record: ErrorRecord) -> dict[str, str]:
    """Make the sources of a record known here; return the names to show, where they differ from the sent ones."""
    known: dict[str, dict[int, str]] = {
        filename: dict(enumerate(_split(text), 1)) for filename, text in record.sources.items()
    }
    for excerpt in record.excerpts:
        lines = known.setdefault(excerpt.filename, {})
        lines.update(enumerate(_split(excerpt.text), excerpt.start))
    renamed = {}
    for filename, lines in known.items():
        name = _place(filename, lines, record.place.name, whole=filename in record.sources)
        if name != filename:
            renamed[filename] = name
    return renamed


def _place(filename: str, lines: dict[int, str], worker: str, *, whole: bool) -> str:
    if not lines or max(lines) > _MAX_LINENO:
        return filename
    here = _lines_here(filename)
    if here and _agree(here, lines):
        return filename
    # Not under its own name if it is a file that is missing here: IPython would try to open it.
    name = filename if whole and not here else f"{filename} ({worker})"
    for number in range(2, 100):
        present = _ours(name)
        if present is None and name not in linecache.cache:
            break
        if present is not None and _agree(present, lines, blanks=True):
            break
        name = f"{filename} ({worker}, {number})"
    _register(name, lines)
    return name


def _agree(here: list[str], lines: dict[int, str], *, blanks: bool = False) -> bool:
    """Tell whether the known lines stand in the text that is here; ``blanks`` may be filled by known lines."""
    for number, line in lines.items():
        if number > len(here):
            if blanks:
                continue
            return False
        present = here[number - 1].rstrip()
        if present[:_MAX_LINE] != line.rstrip()[:_MAX_LINE] and not (blanks and not present):
            return False
    return True


def _ours(name: str) -> list[str] | None:
    entry = linecache.cache.get(name)
    if entry is None or len(entry) != 4 or not entry[3].startswith(_OURS):
        return None
    return entry[2]


def _register(name: str, lines: dict[int, str]) -> None:
    text = list(_ours(name) or ())
    text.extend(["\n"] * (max(lines) - len(text)))
    for number, line in lines.items():
        text[number - 1] = line + "\n"
    placed = [key for key in list(linecache.cache) if _ours(key) is not None and key != name]
    for key in placed[: max(len(placed) - _MAX_PLACED + 1, 0)]:
        linecache.cache.pop(key, None)
    linecache.cache[name] = (sum(map(len, text)), None, text, _OURS + name)
