"""The trace explorer's kernel side: sends what a trace holds, live while it grows, and answers what the page asks.

Data goes as numbered chunks (``columns``) in custom messages, at most ``RATE`` times a second, from a thread of the
explorer, so that neither the cell that runs nor its outputs wait for it. A page that missed something asks for a new
run. Where the kernel is busy and does not hear it, runs that begin anew by themselves at growing intervals let a page
that came late, or missed something, catch up.

When a trace has ended, its display becomes a static picture, which is what a saved notebook keeps. The page that
showed it goes on showing the explorer in the picture's place (``js/src/explorer/settle.ts``).

Threads: the thread that displays makes it; ``znb-explorer`` sends; questions come on the kernel's main thread or, where
it has subshells, on one of these while a cell runs.
"""

from __future__ import annotations

import contextlib
import linecache
import logging
import threading
import time
import uuid
from typing import Any, Final

import anywidget
import msgspec
import traitlets
from IPython.core.getipython import get_ipython

from znb.errors import ZnbError
from znb.export import flame_svg
from znb.locks import Event
from znb.sinks import NotebookCell
from znb.spans import Span
from znb.traces import Parts, TraceData, analysis
from znb.traces.assemble import clock_of
from znb.traces.clock import Interval
from znb.traces.unseen import unseen_ns, unseen_text
from znb.tracing import TRACES, LiveTrace, Trace
from znb.widgets.bundles import BundleMissing, read_bundle
from znb.widgets.columns import Chunk, Encoder, Source, source_of
from znb.widgets.comms import hear_while_busy

__all__ = ["Explorer", "show"]

logger = logging.getLogger("znb.widgets")

#: Messages a second while a trace grows.
RATE: Final = 10
#: Part of the time that the thread may be busy encoding.
BUSY_MAX: Final = 0.1
#: Seconds after which a run begins anew while a trace grows: for pages that missed the first one.
FIRST_REPEAT: Final = 0.5
#: Spans up to which that is done; beyond, pages have to ask.
REPEAT_ROWS_MAX: Final = 50_000
#: Seconds that a page has to show the explorer before its display becomes a picture anyway; slow machines take long to
#: load a page.
MOUNT_TIMEOUT: Final = 60.0
#: Lines of source shown before and after one.
CONTEXT_LINES: Final = 8
#: Traces offered to compare with.
OTHERS_MAX: Final = 20

_WIDGET_VIEW: Final = "application/vnd.jupyter.widget-view+json"


class Explorer(anywidget.AnyWidget):
    """A trace explorer, as a widget.

    Args:
        trace: What it shows.
        cell: Id of the cell that was traced; empty if that is not known.

    Attributes:
        trace: What it shows.
        selected: The span that is selected in the page, a ``Span``; ``None`` for none. Can be observed.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    _css = traitlets.Unicode().tag(sync=True)
    cell = traitlets.Unicode("").tag(sync=True)
    key = traitlets.Unicode("").tag(sync=True)
    selected = traitlets.Any(None, allow_none=True)

    def __init__(self, trace: Trace, *, cell: str = "", **options: Any) -> None:
        self.trace = trace
        self._run = 0
        self._lock = threading.Lock()
        self._mounted = Event()
        self._wanted = Event()
        self._thread: threading.Thread | None = None
        self._shown: tuple[NotebookCell, str] | None = None
        self._finished = False
        self._shown_in = -1
        #: Whether pages are heard while a cell runs, so that they can ask for what they missed.
        self._heard = False
        key = uuid.uuid4().hex
        super().__init__(
            _esm=read_bundle("explorer.js"),
            _css=read_bundle("explorer.css"),
            cell=cell,
            key=key,
            model_id=key,
            **options,
        )
        self.on_msg(self._received)
        hear_while_busy(self)

    @property
    def live(self) -> bool:
        """Whether the trace still goes on here."""
        if isinstance(self.trace, LiveTrace):  # which may be part of one that goes on
            return self.trace in TRACES.live
        return any(one.trace_id == self.trace.trace_id for one in TRACES.live)

    # -- what is asked

    def _received(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        kind = content.get("kind")
        if kind in {"hello", "resync"}:
            self._heard = self.live
            self._wanted.set()
            self.start()
        elif kind == "mounted":
            self._mounted.set()
        elif kind == "select":
            self.selected = self._span(str(content.get("id", "")))
        else:
            self._answer(content)

    def _answer(self, question: dict[str, Any]) -> None:
        number = question.get("number")
        try:
            ask = {"details": self._details, "source": _source, "others": self._others, "diff": self._diff}
            value = ask[question["kind"]](question)
        except (KeyError, TypeError, ValueError, OSError, ZnbError) as error:
            self.send({"kind": "answer", "number": number, "error": f"{type(error).__name__}: {error}"})
            return
        self.send({"kind": "answer", "number": number, "value": msgspec.to_builtins(value, str_keys=True)})

    def _span(self, span_id: str) -> Span | None:
        data = self.trace.data
        try:
            return data.span(data.row_of(span_id)) if span_id else None
        except (KeyError, ValueError):
            return None

    def _details(self, question: dict[str, Any]) -> dict[str, Any]:
        data = self.trace.data
        row = data.row_of(str(question["id"]))
        unseen = None if self.live else unseen_ns(data).get(row)
        note = {"not sampled": unseen_text(unseen)} if unseen else {}
        return {
            "attributes": {**note, **data.table.attributes(row)},
            "events": [[event.time_ns - data.start_ns, event.name, event.attributes] for event in data.events(row)],
        }

    def _others(self, _question: dict[str, Any]) -> list[dict[str, Any]]:
        others = [one for one in TRACES if one.trace_id != self.trace.trace_id and one.title][::-1]
        # Earlier runs of the same cell come first.
        others.sort(key=lambda one: one.title != self.trace.title)
        return [
            {
                "id": one.trace_id,
                "title": f"{one.title} ({one.seconds:.3g} s, {one.trace_id[:6]})",
                "same": one.title == self.trace.title,
            }
            for one in others[:OTHERS_MAX]
        ]

    def _diff(self, question: dict[str, Any]) -> list[dict[str, Any]]:
        changes = analysis.diff(TRACES[str(question["id"])].data, self.trace.data)
        return [
            {"path": change.path, "before": _totals(change.before), "after": _totals(change.after)}
            for change in changes
        ]

    # -- what is sent

    def start(self) -> None:
        """Send what there is, and go on while the trace does. Does nothing if that is under way."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = threading.Thread(target=self._send_all, name="znb-explorer", daemon=True)
            self._thread.start()

    def wait_sent(self, timeout: float | None = None) -> bool:
        """Wait until everything of a trace that has ended has been sent; return whether it has."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _send_all(self) -> None:
        try:
            if self.live:
                if isinstance(self.trace, LiveTrace) and self.trace.inside:
                    self._send_part()
                else:
                    self._send_live()
            while True:
                self._wanted.clear()
                self._send_ended()
                with self._lock:
                    if not self._wanted.is_set():
                        self._thread = None
                        return
        except Exception:
            logger.exception("the trace explorer stops: what it could not send is missing in the page")

    def _send_ended(self) -> None:
        self._send_all_of(self.trace.data, live=False)

    def _send_all_of(self, data: TraceData, *, live: bool) -> None:
        encoder = self._begin(data.start_ns)
        length = data.end_ns - data.start_ns
        for chunk in encoder.chunks([source_of(data)], live=live, length_ns=length, notes=data.notes):
            self._send_chunk(chunk)

    def _send_part(self) -> None:
        """Send a part of a trace that goes on, all of it now and then, until that part has ended."""
        while self.live:
            began = time.monotonic()
            TRACES.collect(0.5)
            self._wanted.clear()
            self._send_all_of(self.trace.data, live=True)
            spent = time.monotonic() - began
            self._wanted.wait(max(FIRST_REPEAT, spent / BUSY_MAX) - spent)

    def _send_live(self) -> None:
        """Send what comes, until the trace has ended."""
        trace_id = int(self.trace.trace_id, 16)
        encoder: Encoder | None = None
        repeat = FIRST_REPEAT
        next_repeat = 0.0
        while self.live:
            began = time.monotonic()
            TRACES.collect(0.5)
            if encoder is None or self._wanted.is_set() or (0 < next_repeat < began):
                self._wanted.clear()
                encoder = self._begin(_first_start(trace_id))
                next_repeat, repeat = began + repeat, repeat * 2
            rows = self._send_parts(trace_id, encoder)
            if rows > REPEAT_ROWS_MAX or self._heard:
                next_repeat = 0.0
            spent = time.monotonic() - began
            time.sleep(max(1 / RATE, spent / BUSY_MAX) - spent)

    def _send_parts(self, trace_id: int, encoder: Encoder) -> int:
        """Send what has come since the last time; return how many spans there are."""

        def look(parts: Parts, intervals: Any) -> tuple[list[Chunk], int]:
            length = time.perf_counter_ns() - encoder.base_ns
            chunks = list(encoder.chunks(live_sources(parts, intervals), live=True, length_ns=length))
            return chunks, sum(len(table) for table in parts.tables.values())

        chunks, rows = TRACES.store.look(trace_id, look) or ([], 0)
        for chunk in chunks:
            self._send_chunk(chunk)
        return rows

    def _begin(self, base_ns: int) -> Encoder:
        self._run += 1
        return Encoder(self._run, self.trace.title, int(self.trace.trace_id, 16), base_ns)

    def _send_chunk(self, chunk: Chunk) -> None:
        self.send(chunk.header, list(chunk.buffers))

    # -- how it is displayed

    def _ipython_display_(self) -> None:
        """Display it as a cell's value, unless this cell has displayed it already: ``show`` is often its last line."""
        shell: Any = get_ipython()
        if self._shown_in != shell.execution_count:
            self.show()

    def show(self) -> None:
        """Display it here; when the trace has ended, the display becomes a picture, which a saved notebook keeps."""
        shell: Any = get_ipython()
        self._shown_in = shell.execution_count
        identity = f"znb-{self.trace.trace_id}-{id(self):x}"
        publisher: Any = shell.display_pub
        publisher.publish(self._bundle(), transient={"display_id": identity})
        self.start()
        self._shown = (NotebookCell(publisher), identity)
        threading.Thread(target=self._settle, args=self._shown, name="znb-explorer", daemon=True).start()

    def finish(self) -> None:
        """Complete the display at the end of the traced cell, for those who execute notebooks without a page.

        They take what a cell shows until it has ended, and nothing after that.
        """
        if self._shown is not None and not self._mounted.is_set() and not self._finished:
            self._finished = True
            _update(*self._shown, self._bundle())

    def _bundle(self, *, widget: bool = True) -> dict[str, Any]:
        data = self.trace.data
        found: dict[str, Any] = {"text/plain": self.trace.text(), "image/svg+xml": flame_svg(data, self.trace.title)}
        if widget:
            found[_WIDGET_VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return found

    def _settle(self, cell: NotebookCell, identity: str) -> None:
        """Replace the display by a picture when the trace has ended and the page has everything."""
        grew = self.live
        while self.live:
            time.sleep(0.05)
        self.wait_sent()
        if grew:
            self.finish()
        self._mounted.wait(MOUNT_TIMEOUT)
        self.send({"kind": "settled"})
        _update(cell, identity, self._bundle(widget=False))


def show(trace: Trace) -> Explorer | None:
    """Display a trace: the explorer in a notebook, its text elsewhere; return the explorer.

    Args:
        trace: One that has ended, or one that goes on: the explorer grows with it.
    """
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        print(trace.text())
        return None
    try:
        explorer = Explorer(trace, cell=_calling_cell(shell))
    except BundleMissing:  # a source tree that was not built: its picture will do
        pictures = {"text/plain": trace.text(), "image/svg+xml": flame_svg(trace.data, trace.title)}
        shell.display_pub.publish(pictures)
        return None
    explorer.show()
    return explorer


def _calling_cell(shell: Any) -> str:
    """Return the id of the cell that runs; empty where the front end does not tell."""
    with contextlib.suppress(AttributeError, KeyError, LookupError, TypeError):
        return str(shell.kernel.get_parent()["metadata"]["cellId"])
    return ""


def _update(cell: NotebookCell, identity: str, bundle: dict[str, Any]) -> None:
    cell.send("update_display_data", {"data": bundle, "metadata": {}, "transient": {"display_id": identity}})


def _first_start(trace_id: int) -> int:
    """Return when a trace began, by this process's clock."""

    def look(parts: Parts, _intervals: Any) -> int:
        tables = [*parts.tables.values(), *parts.opened.values()]
        ours = [table for process, table in ((t.processes[0], t) for t in tables if t.processes) if _is_here(process)]
        return min((min(table.start_ns) for table in ours if len(table)), default=time.perf_counter_ns())

    return TRACES.store.look(trace_id, look) or time.perf_counter_ns()


def _is_here(process: Any) -> bool:
    return clock_of(process) == clock_of(TRACES.process)


def live_sources(parts: Parts, intervals: Any) -> list[Source]:
    """Return what has come of a trace, by process, on this process's clock."""
    ours = clock_of(TRACES.process)
    found = []
    for process in dict.fromkeys((*parts.tables, *parts.opened, *parts.samples)):
        estimate = None
        if clock_of(process) != ours:
            estimate = intervals.get(process.key, Interval()).estimate()
        found.append(
            Source(
                process.key,
                parts.tables.get(process),
                parts.opened.get(process),
                parts.samples.get(process),
                estimate.offset_ns if estimate else 0,
            )
        )
    return found


def _totals(totals: Any) -> dict[str, float] | None:
    if totals is None:
        return None
    return {"calls": totals.calls, "total": totals.total * 1e9, "own": totals.own * 1e9}


def _source(question: dict[str, Any]) -> dict[str, Any]:
    """Return the lines around one."""
    file, line = str(question["file"]), int(question["line"])
    linecache.checkcache(file)
    lines = linecache.getlines(file)
    first = max(1, line - CONTEXT_LINES)
    return {
        "file": file,
        "first": first,
        "lines": [text.rstrip("\n") for text in lines[first - 1 : line + CONTEXT_LINES]],
    }
