from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings

from explorer_traces import pipeline
from made_traces import BASE, PROCESSES, Made, make_samples, make_trace, random_spans
from znb.errors import ZnbError
from znb.spans import SpanTable
from znb.traces import Parts
from znb.traces.clock import Interval
from znb.tracing import TRACES
from znb.widgets import columns
from znb.widgets.bundles import BundleMissing, read_bundle
from znb.widgets.columns import MARKS, Encoder, Source, source_of
from znb.widgets.explorer import live_sources


class Page:
    """What a page makes of chunks."""

    def __init__(self) -> None:
        self.names, self.processes, self.threads, self.frames = [], [], [], []
        self.spans: dict[int, dict] = {}
        self.samples: list[tuple] = []
        self.nodes: list[tuple[int, int]] = []
        self.base = 0
        self.seq = 0

    def take(self, chunk) -> Page:
        header, buffers = chunk
        assert header["seq"] == self.seq
        self.seq += 1
        if "head" in header:
            assert header["seq"] == 0
            self.base = int(header["head"]["base"])
        for kind in ("names", "processes", "threads", "frames"):
            getattr(self, kind).extend(header[kind])
        left = list(buffers)

        def column(code):
            found = array(code)
            found.frombytes(left.pop(0))
            return found

        count = header["spans"] + header["open"]
        rows = []
        if count:
            parts = [column(code) for code in ("Q", "Q", "q", "q", "I", "B", "B", "I")]
            assert {len(part) for part in parts} == {count}
            rows = list(zip(*parts, strict=True))
        marks = list(zip(column("I"), column("B"), column("d"), strict=True)) if header["marks"] else []
        for at, (span_id, parent, start, end, name, kind, status, thread) in enumerate(rows):
            offset = self.threads[thread][2]
            self.spans[span_id] = {
                "parent": parent, "start": start - offset, "end": end and end - offset, "name": self.names[name], "kind": kind,
                "status": status, "thread": (self.processes[self.threads[thread][0]][3], self.threads[thread][1]),
                "marks": {MARKS[key]: value for row, key, value in marks if row == at},
            }  # fmt: skip
        if header["samples"]:
            self.samples += list(zip(*[column(code) for code in ("Q", "q", "I", "I", "I", "I")], strict=True))
        if header["nodes"]:
            self.nodes += list(zip(column("i"), column("I"), strict=True))
        assert left == []
        return self

    def stack(self, node: int) -> list[str]:
        found = []
        while node >= 0:
            found.append(self.frames[self.nodes[node][1]][0])
            node = self.nodes[node][0]
        return found[::-1]


def page_of(data, **options) -> Page:
    page = Page()
    encoder = Encoder(1, "title", data.trace_id, data.start_ns)
    for chunk in encoder.chunks([source_of(data)], live=False, length_ns=data.end_ns - data.start_ns, **options):
        page.take(chunk)
    return page


def expected(data) -> dict[int, dict]:
    found = {}
    for row in range(len(data)):
        span = data.span(row)
        found[int(span.span_id, 16)] = {
            "parent": int(span.parent_id or "0", 16), "start": span.start_ns, "end": span.end_ns or 0, "name": span.name,
            "kind": data.table.kind[row], "status": data.table.status[row], "thread": (span.worker, span.thread),
            "marks": {key: value for key, value in span.attributes.items() if key in MARKS},
        }  # fmt: skip
    return found


@settings(max_examples=60)
@given(random_spans())
def test_a_trace_arrives_as_it_is(spans):
    data = make_trace(spans)
    assert page_of(data).spans == expected(data)


def test_marks_and_samples_arrive(monkeypatch):
    data = pipeline(jobs=12)
    page = page_of(data, notes=["w1 is gone"])
    assert page.spans == expected(data)
    assert any(span["marks"] for span in page.spans.values())
    samples = data.samples
    assert [(row[0], row[1], row[2], page.stack(row[5])) for row in page.samples] == [
        (
            samples.span_id[row],
            samples.time_ns[row],
            samples.wall_ns[row],
            [f.name for f in samples.stack_of(samples.stack[row])],
        )
        for row in range(len(samples))
    ]
    # In many chunks it is the same.
    monkeypatch.setattr(columns, "ROWS_MAX", 7)
    again = page_of(data)
    assert again.seq > 5
    assert (again.spans, again.samples) == (page.spans, page.samples)


def test_only_what_is_new_is_sent_and_open_spans_each_time():
    data = make_trace([Made("a", 0, 10), Made("b", 1, 5, 0), Made("c", 6, 9, 0, 1)], make_samples())
    grown, opened = SpanTable(), make_trace([Made("a", 0, 0, status="open")]).table
    encoder = Encoder(3, "t", 1, BASE)
    source = Source("p", grown, opened, data.samples, 5)
    (first, samples) = encoder.chunks([source], live=True, length_ns=7)
    assert (first.header["run"], first.header["spans"], first.header["open"], first.header["live"]) == (3, 0, 1, True)
    assert (first.header["more"], samples.header["more"]) == (True, False)
    assert first.header["threads"][0][2] == 5
    grown.append(data.table)
    page = Page().take(first).take(samples)
    (second,) = encoder.chunks([source._replace(opened=None)], live=True, length_ns=9)
    page.take(second)
    assert second.header["spans"] == 3
    assert {span["name"] for span in page.spans.values()} == {"a", "b", "c"}
    assert all(span["end"] for span in page.spans.values())
    (third,) = encoder.chunks([source._replace(opened=None)], live=False, length_ns=9)
    assert third.buffers == []
    assert "head" not in third.header


def test_two_processes_share_names_and_have_threads_of_their_own():
    tables = [make_trace([Made("a", n, 10 + n, process=n)]).table for n in (0, 1)]
    tables[1].span_id[0] = 99
    encoder = Encoder(1, "t", 1, BASE)
    page = Page()
    for chunk in encoder.chunks([Source(str(n), table) for n, table in enumerate(tables)], live=True, length_ns=1):
        page.take(chunk)
    assert page.names == ["a"]
    assert [process[3] for process in page.processes] == [PROCESSES[0].label, "w0"]
    assert {span["thread"][0] for span in page.spans.values()} == {PROCESSES[0].label, "w0"}


def test_a_front_end_that_is_not_built_is_told(monkeypatch):
    with pytest.raises(BundleMissing, match="no-such") as failure:
        read_bundle("no-such.js")
    assert isinstance(failure.value, ZnbError)
    assert "make .stamps/bundles" in str(failure.value)


def test_what_other_machines_record_is_put_on_this_clock():
    parts = Parts(1)
    here, there = TRACES.process, PROCESSES[2]
    for process, start in ((here, 100), (there, 5_000_100)):
        table = SpanTable()
        table.strings = ["a"]
        table.add(start, 0, start, start + 10, 0, table.place(process, 1, "MainThread"))
        parts.tables[process] = table
    sources = live_sources(parts, {there.key: Interval(4_999_000, 5_001_000)})
    assert {source.key: source.offset_ns for source in sources} == {here.key: 0, there.key: 5_000_000}
    page = Page()
    for chunk in Encoder(1, "t", 1, 0).chunks(sources, live=True, length_ns=1):
        page.take(chunk)
    assert sorted(span["start"] for span in page.spans.values()) == [100, 100]
