"""The explorer's kernel side, in a real kernel whose messages are looked at."""

import pytest

from made_traces import Made, make_trace
from znb import export

SETUP = """
import time
from pathlib import Path
from znb.spans import span
from znb.tracing import trace
%load_ext znb
from znb.widgets.explorer import Explorer, show
"""
WIDGET = "application/vnd.jupyter.widget-view+json"


def chunks(kernel, key=None):
    """Return the headers of all chunks sent so far, by comm."""
    found = {}
    for message in list(kernel.messages):
        data = message.content.get("data") if message.kind == "comm_msg" else None
        content = data.get("content") if isinstance(data, dict) and data.get("method") == "custom" else None
        if content and content.get("kind") == "chunk":
            found.setdefault(message.content["comm_id"], []).append(content)
    return found if key is None else found.get(key, [])


def answers(kernel):
    found = []
    for message in list(kernel.messages):
        data = message.content.get("data") if message.kind == "comm_msg" else None
        if isinstance(data, dict) and isinstance(data.get("content"), dict) and data["content"].get("kind") == "answer":
            found.append(data["content"])
    return found


def say(kernel, comm, **content):
    """Say something as the page does."""
    message = {"comm_id": comm, "data": {"method": "custom", "content": content}}
    kernel._client.shell_channel.send(kernel._client.session.msg("comm_msg", message))


@pytest.fixture(scope="module")
def k(shared_kernel):
    shared_kernel.run(SETUP).ok()
    shared_kernel.run("with trace('earlier') as earlier:\n    pass").ok()
    return shared_kernel


def test_a_trace_is_shown_live_in_numbered_chunks_and_its_display_becomes_a_picture(k):
    cell = k.start(
        """
        with trace("live") as t:
            explorer = show(t)
            while not Path("enough").exists():
                with span("step"):
                    time.sleep(0.001)
        """
    )
    cell.wait_until(lambda c: c.displays)
    comm = cell.displays[0][WIDGET]["model_id"]
    cell.wait_until(lambda _: sum(header["spans"] for header in chunks(k, comm)) > 20)
    sent = chunks(k, comm)
    assert sent[0]["seq"] == 0
    assert sent[0]["head"]["title"] == "live"
    assert sent[0]["live"]
    (k.cwd / "enough").touch()
    cell.wait().ok()
    identity = next(m for m in cell.messages if m.kind == "display_data").content["transient"]["display_id"]

    def updates():
        return [
            m.content["data"]
            for m in k.messages
            if m.kind == "update_display_data" and m.content["transient"]["display_id"] == identity
        ]

    # A page that has everything says so; before, the picture stands beside the widget.
    cell.wait_until(lambda _: any(WIDGET in bundle for bundle in updates()))
    say(k, comm, kind="mounted")
    cell.wait_until(lambda _: any(WIDGET not in bundle for bundle in updates()))
    assert sorted(updates()[-1]) == ["image/svg+xml", "text/plain"]
    assert "step" in updates()[-1]["text/plain"]
    # Runs are numbered upwards, chunks within a run from 0, and the last run is all of the trace, once.
    headers = chunks(k, comm)
    for run in {header["run"] for header in headers}:
        assert [h["seq"] for h in headers if h["run"] == run] == list(range(sum(h["run"] == run for h in headers)))
    last = [header for header in headers if header["run"] == headers[-1]["run"]]
    assert not last[-1]["live"]
    assert str(sum(header["spans"] for header in last)) == k.run("len(t.spans)").value


def test_a_page_that_missed_something_gets_everything_again(k):
    cell = k.run("with trace('short') as short:\n    with span('a'):\n        pass\nshort").ok()
    comm = cell.displays[0][WIDGET]["model_id"]
    cell.wait_until(lambda _: chunks(k, comm))
    before = len(chunks(k, comm))
    say(k, comm, kind="resync")
    cell.wait_until(lambda _: len(chunks(k, comm)) > before)
    first = chunks(k, comm)[before]
    assert first["seq"] == 0
    assert first["run"] > chunks(k, comm)[0]["run"]
    assert str(first["spans"]) == k.run("len(short.spans)").value


def test_questions_are_answered_also_wrong_ones(k):
    cell = k.run(
        """
        with trace("asked") as asked:
            try:
                with span("fails", rows=3):
                    raise ValueError("no luck")
            except ValueError:
                pass
        explorer = show(asked)
        print(asked.find("fails")[0].span_id)
        """
    ).ok()
    comm, span_id = cell.displays[0][WIDGET]["model_id"], cell.stdout.strip()
    questions = [
        {"kind": "details", "id": span_id},
        {"kind": "details", "id": "123"},
        {"kind": "source", "file": "nowhere.py", "line": 3},
        {"kind": "others"},
        {"kind": "diff", "id": "zzz"},
        {"kind": "nonsense"},
    ]
    for number, question in enumerate(questions, 100):
        say(k, comm, number=number, **question)
    cell.wait_until(lambda _: {a["number"] for a in answers(k)} >= set(range(100, 100 + len(questions))))
    found = {answer["number"]: answer for answer in answers(k)}
    assert found[100]["value"]["attributes"] == {"rows": 3}
    assert found[100]["value"]["events"][0][2]["exception.message"] == "no luck"
    assert "there is no span '123'" in found[101]["error"]
    assert found[102]["value"]["lines"] == []
    assert "earlier" in [other["title"].partition(" ")[0] for other in found[103]["value"]]
    assert "expected the id of one trace" in found[104]["error"]
    assert "nonsense" in found[105]["error"]
    say(k, comm, kind="select", id=span_id)
    assert k.run("explorer.selected.name").value == "'fails'"
    say(k, comm, kind="select", id="")
    assert k.run("explorer.selected").value is None


def test_a_trace_inside_of_another_is_shown_by_itself_and_settles_when_it_ends(k):
    cell = k.start(
        """
        with trace("whole") as whole:
            with trace("part") as part:
                explorer = show(part)
                with span("step"):
                    while not Path("part.enough").exists():
                        time.sleep(0.001)
            while not Path("whole.enough").exists():
                time.sleep(0.001)
        """
    )
    cell.wait_until(lambda c: c.displays)
    comm = cell.displays[0][WIDGET]["model_id"]
    cell.wait_until(lambda _: any(header["live"] and header["spans"] == 2 for header in chunks(k, comm)))
    say(k, comm, kind="mounted")
    (k.cwd / "part.enough").touch()
    cell.wait_until(lambda _: any(not header["live"] for header in chunks(k, comm)))
    assert cell.reply is None  # the whole goes on
    (k.cwd / "whole.enough").touch()
    cell.wait().ok()
    assert {name for header in chunks(k, comm) for name in header["names"]} == {"part", "step"}


def test_details_say_what_the_sampler_did_not_see(k, tmp_path):
    held = [Made("t", 0, 400_000_000, kind="trace"), Made("held", 0, 400_000_000, 0)]
    saved = export.save(make_trace(held), tmp_path / "held.html")
    cell = k.run(f"from znb.tracing import Trace; explorer = show(Trace.load({str(saved)!r}))").ok()
    comm = cell.displays[0][WIDGET]["model_id"]
    say(k, comm, number=250, kind="details", id=f"{2:016x}")
    cell.wait_until(lambda _: any(a["number"] == 250 for a in answers(k)))
    answer = next(a for a in answers(k) if a["number"] == 250)
    assert answer["value"]["attributes"] == {"not sampled": "400 ms not seen by the sampler: C code that held the GIL"}
    assert '"unseen":{"1":"400 ms not seen' in saved.read_text()


def test_source_lines_of_cells_are_found(k):
    cell = k.run("def here():\n    return __import__('sys')._getframe()\nprint(here().f_code.co_filename)").ok()
    k.run("explorer = show(earlier)").ok()
    comm = k.run("print(explorer.model_id)").stdout.strip()
    say(k, comm, kind="source", number=200, file=cell.stdout.strip(), line=2)
    cell.wait_until(lambda _: any(answer["number"] == 200 for answer in answers(k)))
    value = next(answer for answer in answers(k) if answer["number"] == 200)["value"]
    assert value["lines"][2 - value["first"]] == "    return __import__('sys')._getframe()"


def test_without_the_extension_traces_show_their_picture(k):
    try:
        cell = k.run("%unload_ext znb\nearlier").ok()
        assert sorted(cell.data) == ["image/svg+xml", "text/plain"]
    finally:
        k.run("%load_ext znb").ok()
    assert WIDGET in k.run("earlier").ok().displays[0]


def test_outside_of_a_notebook_it_prints_the_text(capsys):
    from znb.tracing import trace
    from znb.widgets.explorer import show

    with trace("plain") as t:
        pass
    assert show(t) is None
    assert "plain" in capsys.readouterr().out
