"""Saving and opening traces, by the suffix of the file.

Invariants: a file is written beside its place and moved there, so that it is complete or not there; whatever a file
holds, opening it gives a trace or a ``TraceFileError``.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from znb.errors import ZnbError
from znb.export import chrome, document
from znb.export.chrome import read_chrome, write_chrome
from znb.export.document import read_document
from znb.export.folded import write_folded
from znb.export.otlp import read_otlp, write_otlp
from znb.export.page import PAGE_END, PAGE_START, write_html
from znb.export.picture import write_svg
from znb.export.speedscope import write_speedscope
from znb.traces.model import TraceData

__all__ = ["FORMATS", "TraceFileError", "load_all", "parse_all", "render", "save"]

#: Writers by suffix; a longer suffix goes before a shorter one that it ends with.
FORMATS: Final[dict[str, Callable[[TraceData, str], Iterator[bytes]]]] = {
    ".speedscope.json": write_speedscope,
    ".otlp.json": write_otlp,
    ".json": write_chrome,
    ".html": write_html,
    ".folded": write_folded,
    ".svg": write_svg,
}


#: Traces and their titles.
Traces = list[tuple[TraceData, str]]


class TraceFileError(ZnbError, ValueError):
    """A file is no trace that can be opened, or has a suffix that no format has.

    Attributes:
        path: The file.
    """

    path: str

    def __init__(self, path: str | os.PathLike[str], problem: str) -> None:
        super().__init__(f"{os.fspath(path)}: {problem}", path=os.fspath(path))


def save(data: TraceData, path: str | os.PathLike[str], title: str = "") -> Path:
    """Write a trace to a file; return where it is.

    Raises:
        TraceFileError: No format has this suffix.
        OSError: The file cannot be written.
    """
    target = Path(path).expanduser()
    pieces = _writer(target)(data, title)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(target.parent))
    handle, beside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                file.write(piece)
        mask = os.umask(0)
        os.umask(mask)
        Path(beside).chmod(0o666 & ~mask)
        Path(beside).replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(beside).unlink()
        raise
    return target


def render(data: TraceData, suffix: str, title: str = "") -> bytes:
    """Return what ``save`` would write."""
    return b"".join(_writer(Path(f"trace{suffix}"))(data, title))


def _writer(path: Path) -> Callable[[TraceData, str], Iterator[bytes]]:
    for suffix, writer in FORMATS.items():
        if path.name.lower().endswith(suffix):
            return writer
    raise TraceFileError(path, f"a trace is saved by its suffix, which is one of {', '.join(FORMATS)}")


def load_all(path: str | os.PathLike[str]) -> Traces:
    """Return the traces in a file, and their titles: one, or in an OTLP file as many as there are, by their starts.

    Raises:
        TraceFileError: It is no such file, it is cut off or damaged, or its format does not hold enough.
        OSError: It cannot be read.
    """
    return parse_all(Path(path).expanduser().read_bytes(), path)


def parse_all(content: bytes, path: str | os.PathLike[str] = "trace") -> Traces:
    """Return the traces that are the content of a file, and their titles.

    Raises:
        TraceFileError: As for ``load_all``; it names ``path``.
    """
    if not content.strip():
        raise TraceFileError(path, "the file is empty")
    found = _parse(path, content)
    reader = _reader(path, found)
    try:
        traces = reader(found)
        for data, _ in traces:
            data.table.check()
            data.samples.check()
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        OverflowError,
        msgspec.ValidationError,
    ) as error:
        what = f"{type(error).__name__}: {error}"
        raise TraceFileError(path, f"the trace in it is damaged ({what}); save it again") from error
    return traces


def _parse(path: str | os.PathLike[str], content: bytes) -> dict[str, Any]:
    """Return the JSON of a file, which in HTML stands between two marks."""
    content = content.removeprefix(codecs.BOM_UTF8)
    start = content.find(PAGE_START)
    if start >= 0:
        end = content.find(PAGE_END, start)
        if end < 0:
            raise TraceFileError(path, f"the page is cut off after {len(content)} bytes: its trace has no end")
        content = content[start + len(PAGE_START) : end]
    elif content.lstrip()[:15].lower() == b"<!doctype html>":
        raise TraceFileError(path, "there is no trace in this page: it was cut off, or is one of something else")
    elif content.lstrip()[:1] not in {b"{", b"["}:
        raise TraceFileError(path, f"expected a saved trace ({_readable()}), got {_sight(content)}")
    try:
        found = _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        cut = "truncated" in str(error)
        problem = f"the file is cut off after {len(content)} bytes" if cut else f"expected JSON: {error}"
        raise TraceFileError(path, problem) from error
    if not isinstance(found, dict):
        foreign = isinstance(found, list) and all(isinstance(event, dict) and "ph" in event for event in found[:3])
        hint = ". If these are a Chrome trace's events, ui.perfetto.dev opens them" if foreign else ""
        raise TraceFileError(
            path, f"expected a trace that znb or OpenTelemetry saved, got a JSON {type(found).__name__}{hint}"
        )
    return found


def _decode(content: bytes) -> Any:
    """Return the JSON; of OTLP in lines, as OpenTelemetry's collector writes it, all lines as one document."""
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        lines = content.splitlines()
        if len(lines) == 1 or not content.lstrip().startswith(b'{"resourceSpans"'):
            raise
        documents = [msgspec.json.decode(line) for line in lines if line.strip()]
    return {"resourceSpans": [scopes for found in documents for scopes in found["resourceSpans"]]}


def _reader(path: str | os.PathLike[str], found: dict[str, Any]) -> Callable[[dict[str, Any]], Traces]:
    """Return what reads a document of this form."""
    if "resourceSpans" in found:
        return read_otlp
    if found.get("format") == document.FORMAT:
        return lambda one: [read_document(one)]
    other = found.get("otherData")
    if "traceEvents" in found and isinstance(other, dict) and other.get("format") == chrome.FORMAT:
        return lambda one: [read_chrome(one)]
    for known in (found.get("format"), other.get("format") if isinstance(other, dict) else None):
        if isinstance(known, str) and known.startswith("znb"):
            raise TraceFileError(
                path, f"expected {chrome.FORMAT!r} or {document.FORMAT!r}, got {known!r} of another znb"
            )
    if "traceEvents" in found:
        raise TraceFileError(
            path, "this Chrome trace was not saved by znb: it has no span ids. Open it in ui.perfetto.dev"
        )
    if "profiles" in found:
        raise TraceFileError(
            path, f"a speedscope file holds no span ids, so it cannot be opened again; {_readable()} can"
        )
    keys = ", ".join(map(repr, list(found)[:5]))
    raise TraceFileError(path, f"expected a saved trace ({_readable()}), got JSON with {keys or 'nothing in it'}")


def _readable() -> str:
    return ".json, .otlp.json or .html"


def _sight(content: bytes) -> str:
    return f"a file that begins with {content[:20]!r}"
