from __future__ import annotations

import http.server
import json
import re
import stat
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer_traces import pipeline
from made_traces import BASE, PROCESSES, Made, make_samples, make_trace, random_spans, text
from znb.errors import ServiceUnavailable, ZnbError
from znb.export import FORMATS, TraceFileError, flame_svg, load_all, render, save
from znb.export.collector import send_otlp
from znb.export.folded import folded_sums
from znb.export.lanes import lanes
from znb.export.otlp import attribute, read_otlp, value_of
from znb.export.page import PAGE_START
from znb.spans.samples import Frame, SampleTable
from znb.spans.table import Event
from znb.traces import TraceData
from znb.traces.model import ClockError, SpanList
from znb.tracing import Trace

SCHEMA = Path(__file__).parent / "data" / "speedscope-schema.json"
READABLE = (".json", ".otlp.json", ".html")


def spans_of(data: TraceData):
    return sorted(SpanList(data, data.by_start), key=lambda span: span.span_id)


def samples_of(data: TraceData):
    s = data.samples
    return [
        (
            s.span_id[row],
            s.time_ns[row],
            s.wall_ns[row],
            s.cpu_ns[row],
            s.threads[s.thread[row]][1:],
            s.stack_of(s.stack[row]),
        )
        for row in range(len(s))
    ]


def load(path):
    """Return the one trace of a file, and its title."""
    [found] = load_all(path)
    return found


@pytest.fixture
def known():
    """A trace with a bit of everything."""
    return make_trace(
        [
            Made("cell </script>", 0, 1000, attributes={"x": 1, "none": None, "list": [1, "a"], "f": 0.5, "b": True}),
            Made("call svc.f", 100, 700, 0, 0, "call", "error"),
            Made(
                "svc.f", 200, 600, 1, 1, "serve", "error",
                events=(Event(BASE + 599, "exception", {"exception.type": "ValueError", "exception.message": "<bad> & \x00"}),),
            ),
            Made("job", 250, 0, 1, 2, "job", "lost"),
            Made("job", 260, 0, 1, 2, "job", "open"),
            Made("stopped", 300, 310, 2, 1, "span", "cancelled"),
            Made("overlaps", 305, 320, 2, 1),
        ],
        make_samples(),
        notes=["w1 is gone"],
        clocks=[ClockError(PROCESSES[2], 5, 7)],
    )  # fmt: skip


# -- reading back


@pytest.mark.parametrize("suffix", READABLE)
def test_what_was_saved_is_read_back_without_loss(known, tmp_path, suffix):
    path = save(known, tmp_path / f"t{suffix}", "title <1>")
    data, title = load(path)
    assert title == "title <1>"
    assert spans_of(data) == spans_of(known)
    assert data.trace_id == known.trace_id
    assert data.notes == known.notes
    assert data.table.process(0) == known.table.process(0)
    if suffix != ".otlp.json":
        assert samples_of(data) == samples_of(known)
        assert data.clocks == known.clocks


@pytest.mark.parametrize("suffix", READABLE)
@settings(max_examples=50)
@given(made=random_spans(), title=text)
def test_random_traces_are_read_back_without_loss(suffix, made, title, tmp_path_factory):
    data = make_trace(made)
    path = tmp_path_factory.mktemp("t") / f"t{suffix}"
    back, found = load(save(data, path, title))
    assert spans_of(back) == spans_of(data)
    assert found == title


def test_a_conversion_changes_nothing(known, tmp_path):
    first = save(known, tmp_path / "a.json")
    second = save(load(first)[0], tmp_path / "b.html")
    third = save(load(second)[0], tmp_path / "c.json")
    assert json.loads(first.read_text()) == json.loads(third.read_text())


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_empty_trace_can_be_saved(suffix):
    render(make_trace([]), suffix)


@pytest.mark.parametrize("suffix", READABLE)
def test_a_truncated_file_is_told_at_any_length(known, tmp_path, suffix):
    path = save(known, tmp_path / f"t{suffix}")
    whole = path.read_bytes()
    end = whole.rfind(b"}") if suffix != ".html" else whole.rfind(b"<!-- end of the trace -->")
    for length in {0, 1, 10, 100, end // 3, end // 2, end - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(TraceFileError) as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert caught.value.path == str(path)
    path.write_bytes(whole[: end // 2])
    with pytest.raises(TraceFileError, match="cut off"):
        load(path)


FOREIGN = {
    "a Chrome trace": ('{"traceEvents": []}', "not saved by znb"),
    "an array": ("[]", "JSON list"),
    "an array of Chrome events": ('[{"ph": "X"}]', "ui.perfetto.dev"),
    "speedscope": ('{"profiles": [], "shared": {}}', "no span ids"),
    "other JSON": ('{"cells": [], "nbformat": 4}', "'cells', 'nbformat'"),
    "nothing in it": ("{}", "nothing in it"),
    "HTML": ("<!doctype html><p>hello", "no trace in this page"),
    "text": ("hello", "begins with"),
    "binary": ("\x7fELF\x00\x01", "begins with"),
    "empty": ("", "empty"),
    "a later version": ('{"traceEvents": [], "otherData": {"format": "znb trace 2"}}', "another znb"),
    "no spans": ('{"resourceSpans": []}', "no span"),
    "broken JSON": ('{"a": }', "expected JSON"),
    "deep JSON": ('{"a":' * 2000 + "1" + "}" * 2000, "t.json"),
    "a page of something else": (PAGE_START.decode() + "{}</script><!-- end of the trace -->", "nothing in it"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_told(tmp_path, kind):
    content, message = FOREIGN[kind]
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(TraceFileError, match=re.escape(message)):
        load(path)


def damaged(value, path=()):
    """Yield paths to everything in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from damaged(below, (*path, key))


@pytest.mark.parametrize("suffix", READABLE)
@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_is_told_or_read(suffix, data, tmp_path_factory):
    trace = make_trace(
        [Made("a", 0, 9, attributes={"x": 1}), Made("b", 1, 2, 0, 1, events=(Event(BASE, "e", {"y": 2}),))],
        make_samples(),
    )
    content = render(trace, suffix)
    if suffix == ".html":
        content = content.partition(PAGE_START)[2].partition(b"</script>")[0]
    document = json.loads(content)
    path = data.draw(st.sampled_from(sorted(damaged(document), key=str)))
    value = data.draw(st.sampled_from([None, -1, 1 << 70, "x", [], {}, [[]], 1.5, True]))
    if not path:
        document = value
    else:
        at = document
        for key in path[:-1]:
            at = at[key]
        if data.draw(st.booleans()):
            del at[path[-1]]
        else:
            at[path[-1]] = value
    file = tmp_path_factory.mktemp("d") / "t.json"
    file.write_text(json.dumps(document))
    try:
        found, _ = load(file)
    except TraceFileError:
        return
    spans_of(found)
    for suffix_out in FORMATS:
        render(found, suffix_out)


# -- saving


def test_the_suffix_says_the_format(known, tmp_path):
    with pytest.raises(TraceFileError, match=re.escape(".speedscope.json, .otlp.json, .json")):
        save(known, tmp_path / "t.txt")
    with pytest.raises(TraceFileError):
        render(known, "")
    assert list(tmp_path.iterdir()) == []
    assert save(known, tmp_path / "T.JSON").exists()


def test_a_file_is_complete_or_not_there(known, tmp_path, monkeypatch):
    def fails(data, title):
        yield b"half"
        raise OSError("disk full")

    monkeypatch.setitem(FORMATS, ".svg", fails)
    with pytest.raises(OSError, match="disk full"):
        save(known, tmp_path / "t.svg")
    assert list(tmp_path.iterdir()) == []


def test_a_file_has_the_permissions_of_others(known, tmp_path):
    path = save(known, tmp_path / "t.json")
    other = tmp_path / "other"
    other.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


# -- lanes


@given(random_spans())
def test_in_a_lane_spans_nest(made):
    data = make_trace(made)
    found = lanes(data)
    assert sorted(row for lane in found for row in lane.rows) == list(range(len(made)))
    for lane in found:
        stack: list[tuple[int, int]] = []
        last = -1
        for row in lane.rows:
            start, end = data.table.start_ns[row], data.end(row)
            assert start >= last
            last = start
            assert data.table.threads[data.table.thread[row]][0] == lane.process
            while stack and stack[-1][1] <= start:
                stack.pop()
            assert all(end <= above for _, above in stack)
            stack.append((start, end))


def test_what_overlaps_takes_lanes_and_gives_them_back():
    data = make_trace(
        [Made("a", 0, 10), Made("b", 1, 9), Made("c", 2, 8), Made("d", 10, 20), Made("e", 11, 25), Made("f", 30, 40)]
    )
    assert [len(lane.rows) for lane in lanes(data)] == [2, 2, 2]


def test_spans_of_two_threads_that_are_no_relatives_have_lanes_of_their_own():
    data = pipeline()
    table = data.table
    for lane in lanes(data):
        assert {table.threads[table.thread[row]][2] for row in lane.rows} == {table.threads[lane.thread][2]}
        assert lane.nth == 0


# -- speedscope


def check_speedscope(document):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    frames = document["shared"]["frames"]
    for profile in document["profiles"]:
        if profile["type"] == "sampled":
            assert len(profile["samples"]) == len(profile["weights"])
            assert all(0 <= frame < len(frames) for stack in profile["samples"] for frame in stack)
            continue
        stack, at = [], profile["startValue"]
        for event in profile["events"]:
            assert at <= event["at"] <= profile["endValue"]
            at = event["at"]
            if event["type"] == "O":
                stack.append(event["frame"])
            else:
                assert stack.pop() == event["frame"]
        assert stack == []


def test_speedscope_holds_its_schema(known):
    document = json.loads(render(known, ".speedscope.json", "t"))
    check_speedscope(document)
    assert document["name"] == "t"
    assert {profile["type"] for profile in document["profiles"]} == {"evented", "sampled"}
    assert len({json.dumps(frame) for frame in document["shared"]["frames"]}) == len(document["shared"]["frames"])
    (sampled,) = [profile for profile in document["profiles"] if profile["type"] == "sampled"]
    names = [[document["shared"]["frames"][frame]["name"] for frame in stack] for stack in sampled["samples"]]
    assert names == [
        ["<module>"],
        ["<module>", "loop"],
        ["<module>", "loop", "(waiting)"],
        ["<module>", "loop", "call", "(waiting)"],
    ]
    assert sampled["weights"] == [10, 4, 6, 10]


@settings(max_examples=50)
@given(random_spans())
def test_random_traces_hold_the_schema_of_speedscope(made):
    document = json.loads(render(make_trace(made), ".speedscope.json"))
    check_speedscope(document)
    opened = sum(event["type"] == "O" for profile in document["profiles"] for event in profile["events"])
    assert opened == len(made)


# -- Chrome


def check_chrome(document):
    """The rules of the format that viewers rely on."""
    names, intervals, arrows = {}, {}, {}
    for event in document["traceEvents"]:
        assert event["ph"] in set("MXisf")
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "M":
            names[event["name"], event["pid"], event["tid"]] = event["args"]
            continue
        assert event["ts"] >= 0
        assert event["name"] is not None
        if event["ph"] == "X":
            assert event["dur"] >= 0
            intervals.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] in "sf":
            arrows.setdefault(event["id"], []).append(event)
        else:
            assert event["s"] in set("gpt")
    for pid, tid in intervals:
        assert ("process_name", pid, 0) in names
        assert ("thread_name", pid, tid) in names
    for start, finish in arrows.values():
        assert (start["ph"], finish["ph"], finish["bp"]) == ("s", "f", "e")
        assert start["pid"] != finish["pid"]
        assert (start["name"], start["cat"]) == (finish["name"], finish["cat"])
        for end in (start, finish):  # an arrow is bound to the slice around it
            assert any(low - 1e-6 <= end["ts"] <= high + 1e-6 for low, high in intervals[end["pid"], end["tid"]])
    for sample in document.get("samples", ()):
        assert sample["sf"] in document["stackFrames"]
    for frame in document.get("stackFrames", {}).values():
        assert "parent" not in frame or frame["parent"] in document["stackFrames"]
    return arrows


def test_chrome_holds_the_rules_of_its_format(known):
    document = json.loads(render(known, ".json", "t"))
    arrows = check_chrome(document)
    assert len(arrows) == 3
    labels = [event["args"]["name"] for event in document["traceEvents"] if event["name"] == "process_name"]
    assert labels == ["pid 100 (here, pid 100)", "w0 (here, pid 101)", "w1 (there, pid 102)"]
    (instant,) = [event for event in document["traceEvents"] if event["ph"] == "i"]
    assert instant["args"]["attributes"]["exception.type"] == "ValueError"


@settings(max_examples=50)
@given(random_spans())
def test_random_traces_hold_the_rules_of_chrome(made):
    check_chrome(json.loads(render(make_trace(made), ".json")))


# -- OTLP


def parse_otlp(content: bytes):
    json_format = pytest.importorskip("google.protobuf.json_format")
    trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    document = json.loads(content)
    # In OTLP's JSON ids are hexadecimal, where protobuf's own JSON has base64.
    for resource in document["resourceSpans"]:
        for span in resource["scopeSpans"][0]["spans"]:
            for key in {"traceId", "spanId", "parentSpanId"} & set(span):
                assert re.fullmatch("[0-9a-f]{32}" if key == "traceId" else "[0-9a-f]{16}", span[key])
                span[key] = __import__("base64").b64encode(bytes.fromhex(span[key])).decode()
    return json_format.ParseDict(document, trace_service.ExportTraceServiceRequest())


@settings(max_examples=50)
@given(random_spans())
def test_otlp_is_what_protobuf_reads(made):
    data = make_trace(made)
    request = parse_otlp(render(data, ".otlp.json"))
    found = [span for resource in request.resource_spans for span in resource.scope_spans[0].spans]
    assert sorted(int.from_bytes(span.span_id, "big") for span in found) == list(range(1, len(made) + 1))
    for span in found:
        row = int.from_bytes(span.span_id, "big") - 1
        assert span.name == made[row].name
        assert span.start_time_unix_nano == BASE + made[row].start
        assert span.end_time_unix_nano == BASE + made[row].end
        assert int.from_bytes(span.parent_span_id, "big") == made[row].parent + 1
        assert span.status.code == (2 if made[row].status == "error" else 1)
        assert len(span.events) == len(made[row].events)


def test_otlp_has_the_names_of_opentelemetry(known):
    request = parse_otlp(render(known, ".otlp.json"))
    resource = {item.key: item.value for item in request.resource_spans[1].resource.attributes}
    assert resource["service.name"].string_value == "znb"
    assert resource["host.name"].string_value == "here"
    assert resource["process.pid"].int_value == 101
    (span,) = [span for span in request.resource_spans[1].scope_spans[0].spans if span.name == "svc.f"]
    assert span.kind == 2
    assert span.status.message.startswith("<bad>")
    assert span.events[0].name == "exception"


def test_an_otlp_file_of_somebody_else_is_read():
    document = {"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
        "scopeSpans": [{"spans": [
            {"traceId": "AB" * 16, "spanId": "01" * 8, "name": "GET /", "kind": "SPAN_KIND_SERVER", "startTimeUnixNano": "5",
             "endTimeUnixNano": 9, "status": {"code": "STATUS_CODE_ERROR"},
             "attributes": [{"key": "map", "value": {"kvlistValue": {"values": [{"key": "a", "value": {"intValue": "1"}}]}}}]},
            {"traceId": "cd" * 16, "spanId": "02" * 8, "name": "x", "startTimeUnixNano": "5", "endTimeUnixNano": "9"},
            {"traceId": "ab" * 16, "spanId": "03" * 8, "parentSpanId": "01" * 8, "name": "y", "kind": 3, "startTimeUnixNano": "5",
             "endTimeUnixNano": "9", "events": [{"timeUnixNano": "6", "name": "e"}]},
        ]}]}]}  # fmt: skip
    (data, title), (other, _) = read_otlp(document)
    first, second = spans_of(data)
    assert (first.name, first.kind, first.status, first.worker, first.attributes) == (
        "GET /",
        "serve",
        "error",
        "shop",
        {"map": {"a": 1}},
    )
    assert (second.kind, second.parent_id, second.events[0].name) == ("call", "01" * 8, "e")
    assert [span.name for span in spans_of(other)] == ["x"]
    assert (data.notes, title) == ([], "")


def otlp_of(*traces):
    """Return an OTLP document of traces: pairs of an id and the names of its spans, a millisecond each."""
    spans = [
        {
            "traceId": trace_id * 16, "spanId": f"{number:016x}", "name": name,
            "startTimeUnixNano": str(BASE + number * 10**6), "endTimeUnixNano": str(BASE + (number + 1) * 10**6),
        }
        for trace_id, names in traces
        for number, name in enumerate(names, int(trace_id, 16))
    ]  # fmt: skip
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]} for span in spans]}


def test_each_trace_of_an_otlp_file_is_had(tmp_path):
    path = tmp_path / "two.otlp.json"
    path.write_text(json.dumps(otlp_of(("bb", ["late"]), ("aa", ["early", "inside"]))))
    found = Trace.load_all(path)
    assert [(one.title, one.trace_id[:2], [span.name for span in one.spans]) for one in found] == [
        ("early", "aa", ["early", "inside"]),
        ("late", "bb", ["late"]),
    ]
    assert "early" in repr(found)
    one = Trace.load(path)
    assert len(one.spans) == 2
    assert one.notes == [f"the file holds 1 more: znb.Trace.load_all({str(path)!r}) returns all 2"]


def test_attributes_named_as_otlp_names_what_znb_knows_are_kept_apart(tmp_path):
    mine = {"znb.status": None, "znb.kind": "mine", "thread.id": "x", "thread.name": 3, "znb.own.thread.id": 4}
    data, _ = load(save(make_trace([Made("a", 0, 9, attributes=mine)]), tmp_path / "a.otlp.json"))
    [span] = spans_of(data)
    assert (span.attributes, span.kind, span.thread) == (mine, "span", "MainThread")


def test_otlp_in_lines_is_read(tmp_path):
    path = tmp_path / "collected.json"
    lines = [
        json.dumps(otlp_of((trace_id, [name])), separators=(",", ":")) for trace_id, name in (("aa", "a"), ("bb", "b"))
    ]
    path.write_text("\n".join(lines) + "\n")
    assert [one.title for one in Trace.load_all(path)] == ["a", "b"]
    path.write_text("\n".join(lines)[:-20])
    with pytest.raises(TraceFileError, match="cut off"):
        Trace.load_all(path)


@pytest.mark.parametrize("value", [None, True, 5, -1.5, float("inf"), float("-inf"), "x", [1, ["a"]], {"a": {"b": 1}}])
def test_values_survive_otlp(value):
    assert value_of(json.loads(json.dumps(attribute(value)))) == value


def test_nan_survives_otlp():
    assert str(value_of(attribute(float("nan")))) == "nan"


class Collector(http.server.ThreadingHTTPServer):
    """Takes what an exporter sends, as a collector does."""

    def __init__(self, status=200):
        self.bodies: list[bytes] = []
        self.headers: list[dict] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append(body)
                outer.headers.append(dict(self.headers))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1/traces"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()


def test_a_collector_receives_what_the_trace_holds(known):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    with Collector() as collector:
        assert send_otlp(known, collector.url, headers={"x-key": "k"}) == len(known)
    (body,) = collector.bodies
    assert collector.headers[0]["x-key"] == "k"
    request = service.ExportTraceServiceRequest.FromString(body)
    found = {
        int.from_bytes(span.span_id, "big"): span
        for r in request.resource_spans
        for s in r.scope_spans
        for span in s.spans
    }
    assert sorted(found) == list(range(1, len(known) + 1))
    assert found[3].name == "svc.f"
    assert int.from_bytes(found[3].parent_span_id, "big") == 2
    assert found[3].start_time_unix_nano == BASE + 200
    assert found[3].status.code == 2
    assert {item.key for item in found[1].attributes} >= {"x", "list", "znb.kind"}


def test_a_collector_that_refuses_is_told(known, caplog):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with Collector(400) as collector, pytest.raises(ServiceUnavailable, match="took 0 of 7 spans"):
        send_otlp(known, collector.url, timeout=1)


def test_where_no_collector_listens_is_told_at_once(known):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with Collector() as collector:
        url = collector.url
    with pytest.raises(ServiceUnavailable, match="no collector listens there: Connection refused") as caught:
        send_otlp(known, url)
    assert url in str(caught.value)


def test_an_address_that_cannot_be_reached_is_told_as_one(known):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with pytest.raises(ServiceUnavailable, match="no collector listens there: "):
        send_otlp(known, "http://255.255.255.255:4318/v1/traces")  # was an OSError: Network is unreachable


def test_a_folder_that_is_not_there_is_named_and_a_home_is_found(known, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no such folder") as caught:
        save(known, tmp_path / "none" / "t.json")
    assert caught.value.filename == str(tmp_path / "none")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert save(known, "~/t.json") == tmp_path / "t.json"
    assert load("~/t.json")[0].trace_id == known.trace_id


def test_without_the_extra_it_says_what_to_install(known, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ZnbError, match=re.escape("znb[otlp]")):
        send_otlp(known, "http://127.0.0.1:1")


# -- folded, SVG, HTML


def test_folded_stacks(known):
    lines = (
        render(make_trace([Made("a;b\n", 0, 9_000_000), Made("c", 0, 4_000_000, 0)]), ".folded").decode().splitlines()
    )
    assert lines == ["a:b  5000", "a:b ;c 4000"]
    for line in render(known, ".folded").decode().splitlines():
        assert re.fullmatch(r".+ \d+", line)


def test_folded_samples_stand_below_their_spans_and_nothing_is_counted_twice():
    data = make_trace([Made("a", 0, 100), Made("b", 10, 60, 0)], make_samples())
    sums = folded_sums(data)
    assert sums["a", "b", "<module>", "loop"] == 20
    assert sums["a", "<module>"] == 10
    assert sum(sums.values()) == 100
    assert folded_sums(data, frozenset())["a", "b", "<module>", "loop", "call"] == 10


@settings(max_examples=50)
@given(random_spans(), st.text())
def test_the_picture_is_well_formed_whatever_the_names(made, title):
    made[0].name = title
    root = ET.fromstring(flame_svg(make_trace(made), title))
    assert root.tag.endswith("svg")


def test_the_picture_is_bounded():
    many = make_trace([Made("root", 0, 10**6), *(Made(f"n{n % 7}", 50 * n, 50 * n + 49, 0) for n in range(20_000))])
    svg = flame_svg(many)
    assert len(svg) < 700_000
    ET.fromstring(svg)
    deep = flame_svg(make_trace([Made("a", n, 1000 - n, n - 1) for n in range(200)]))
    assert "140 not drawn" in deep


def test_the_picture_has_no_script_and_loads_nothing(known):
    svg = flame_svg(known)
    assert "<script" not in svg
    assert set(re.findall(r'https?://[^"]*', svg)) == {"http://www.w3.org/2000/svg"}
    assert "1 failed · 1 lost" in svg


def test_the_picture_tells_what_was_cancelled():
    svg = flame_svg(make_trace([Made("a", 0, 100), Made("sleep", 10, 90, 0, status="cancelled")]))
    assert "sleep (cancelled)" in svg
    assert "1 cancelled" in svg
    assert "#d8d8d8" in svg


def test_folded_stacks_begin_with_the_users_code_and_tell_jobs_from_calls():
    samples = SampleTable()
    thread = samples.place(PROCESSES[1], 8, "MainThread")
    worker = samples.node(-1, Frame("<module>", "<string>", 1, 1, "user"))
    inside = samples.node(worker, Frame("run", "/x/znb/runner.py", 1, 1, "znb"))
    burn = samples.node(inside, Frame("burn", "/home/u/cell.py", 1, 1, "user"))
    launcher = samples.node(-1, Frame("start", "/lib/ipykernel.py", 1, 1, "library"))
    cell = samples.node(launcher, Frame("<module>", "/home/u/cell.py", 1, 1, "user"))
    samples.add(3, BASE + 50, 20, 20, thread, burn)
    samples.add(1, BASE + 90, 10, 0, thread, samples.node(cell, Frame("sleep", "/lib/time.py", 1, 1, "library")))
    data = make_trace([
        Made("burn", 0, 100, kind="map"), Made("burn", 20, 70, 0, 0, "submit"), Made("burn", 30, 60, 1, 1, "job"),
    ], samples)  # fmt: skip
    sums = folded_sums(data)
    assert sums["burn [map]", "burn [submit]", "burn [job]", "burn"] == 20
    assert sums["burn [map]", "<module>", "sleep"] == 10


def test_the_page_loads_nothing_and_no_name_ends_its_script(known):
    page = render(known, ".html", "<title>").decode()
    assert not re.findall(r"""(?:src|href)\s*=|@import|url\(|https?:""", page)
    assert page.count("</script>") == 2
    assert "<title>&lt;title&gt;</title>" in page


def test_the_page_has_the_sources_that_its_trace_names(tmp_path):
    cell = tmp_path / "cell.py"
    cell.write_text("".join(f"line {number}\n" for number in range(1, 41)))
    stack = f'Traceback:\n  File "{cell}", line 20, in f\n    line 20\nValueError'
    failed = Event(BASE, "exception", {"exception.stacktrace": stack})
    page = render(make_trace([Made("a", 0, 9, status="error", events=(failed,))]), ".html").partition(PAGE_START)[2]
    first, lines = json.loads(page.partition(b"</script>")[0])["sources"][str(cell)]
    assert (first, lines[0], lines[-1]) == (12, "line 12", "line 28")


def test_without_the_explorer_the_page_shows_a_picture(known, monkeypatch, tmp_path):
    monkeypatch.setattr("znb.export.page._built", lambda _file: "")
    page = render(known, ".html", "t").decode()
    assert "<svg" in page.partition(PAGE_START.decode())[0]
    (tmp_path / "t.html").write_text(page)
    assert len(load(tmp_path / "t.html")[0]) == len(known)


def test_where_the_format_is_not_writable(known, tmp_path):
    with pytest.raises(FileNotFoundError):
        save(known, tmp_path / "no" / "t.json")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.json")
    assert list(tmp_path.iterdir()) == []
