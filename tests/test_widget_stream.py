"""The stream widget in a real kernel: what the page is sent, and what it may ask for."""

import time

import pytest

import znb
from znb.pubsub import streams
from znb.widgets.bundles import BundleMissing, read_bundle

try:
    read_bundle("stream.js")
except BundleMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)

PATIENCE = 30.0


@pytest.fixture(scope="module")
def notebook(shared_kernel):
    shared_kernel.run("%load_ext znb\nimport znb").ok()
    return shared_kernel


def frames(notebook):
    """Return the frames sent to pages, in order, and the states."""
    sent, states = [], []
    for message in list(notebook.messages):
        if message.kind != "comm_msg":
            continue
        data = message.content["data"]
        if data["method"] == "custom" and data["content"].get("type") == "frame":
            sent.append((data["content"], message.buffers))
        elif data["method"] == "update":
            states.append(data["state"])
    return sent, states


def wait_for(notebook, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, notebook.log
        notebook.run("")


def test_a_page_is_sent_numbered_frames_and_a_full_one_for_latecomers(notebook):
    notebook.messages.clear()
    cell = notebook.run("view = znb.stream('one')\nview").ok()
    assert "application/vnd.jupyter.widget-view+json" in cell.data
    assert "stream of one" in cell.value
    notebook.run("for i in range(50): znb.publish('one', {'a': i})").ok()
    wait_for(notebook, lambda: sum(n for f, _ in frames(notebook)[0] for _, n in f["counts"]) == 50)
    sent, states = frames(notebook)
    assert [frame["number"] for frame, _ in sent] == list(range(1, len(sent) + 1))
    assert sent[0][0]["series"][0][1] == "one.a"
    assert sent[-1][0]["received"] == 50
    assert any(state.get("kind") == "line" for state in states)
    assert any("keyframe" in state for state in states)
    assert len(frames(notebook)[0]) < 25  # coalesced

    asked = len(frames(notebook)[1])
    notebook.run("view._handle_custom_msg({'type': 'resync', 'view': 'v'}, [])").ok()
    wait_for(notebook, lambda: any("keyframe" in state for state in frames(notebook)[1][asked:]))
    assert "50 messages, 0 dropped" in notebook.run("view").value
    notebook.run("view.close(); view.close()").ok()


def test_nothing_is_sent_to_a_page_that_is_not_looked_at(notebook):
    notebook.messages.clear()
    notebook.run(
        """
        view = znb.stream("two")
        view._handle_custom_msg({"type": "view", "view": "v", "visible": False}, [])
        for i in range(10): znb.publish("two", "line")
        """
    ).ok()
    wait_for(notebook, lambda: notebook.run("view._received").value == "10")
    notebook.run("").ok()
    assert frames(notebook)[0] == []
    notebook.run("view._handle_custom_msg({'type': 'view', 'view': 'v', 'visible': True}, [])").ok()
    wait_for(notebook, lambda: frames(notebook)[0])
    assert len(frames(notebook)[0][-1][0]["lines"]) == 10

    # The last view is gone: the subscription ends. One that comes back begins it anew.
    notebook.run("view._handle_custom_msg({'type': 'view', 'view': 'v', 'visible': False, 'gone': True}, [])").ok()
    assert notebook.run("view._thread, view._subscription").value == "(None, None)"
    notebook.run("view._handle_custom_msg({'type': 'view', 'view': 'w', 'visible': True}, [])").ok()
    assert notebook.run("view._thread.is_alive()").value == "True"
    notebook.run("view.close()").ok()


def test_the_magic(notebook):
    cell = notebook.run("%znb stream three four --kind log --at local").ok()
    assert "stream of three, four" in cell.value
    assert "KIND" in notebook.run("%znb stream --help").ok().stdout
    assert "invalid choice" in notebook.run("%znb stream x --kind pie").stderr
    assert "nowhere" in notebook.run("%znb stream x --at nowhere").error.message


@pytest.mark.parametrize(
    ("call", "error"),
    [("znb.stream('x', kind='pie')", "kind must be one of"), ("znb.stream(['x'])", "several")],
)
def test_wrong_calls_say_what_is_right(notebook, call, error):
    assert error in notebook.run(call).error.message


def test_a_value_that_cannot_be_read_is_counted(notebook):
    notebook.run(
        """
        from znb.pubsub.process import streams
        from znb.pubsub.messages import Content
        view = znb.stream("five")
        streams.publisher.post("five", Content(b"\\xc1"), (), 1)
        znb.publish("five", 1)
        """
    ).ok()
    wait_for(notebook, lambda: notebook.run("view._received").value == "2")
    assert notebook.run("view._unreadable, view.kind").value == "(1, 'line')"
    notebook.run("view.close()").ok()


def test_a_value_that_no_page_can_be_sent_ends_nothing(notebook):
    notebook.messages.clear()
    notebook.run(
        """
        class Awkward:
            @property
            def columns(self): raise RuntimeError("not today")
            def to_dict(self): pass
        view = znb.stream("six", kind="table")
        view
        for value in (10**400, {"\\ud800": 1}, Awkward(), 10**5000): znb.publish("six", value)
        znb.publish("six", {"good": 1})
        """
    ).ok()
    wait_for(notebook, lambda: any(frame["received"] == 5 for frame, _ in frames(notebook)[0]))
    frame = frames(notebook)[0][-1][0]
    assert (frame["rows"][-1][-1], frame["unreadable"]) == (1, 1)
    assert notebook.run("view._thread.is_alive()").value == "True"
    notebook.run("view.close()").ok()


def test_the_same_worker_of_two_clusters_is_two_sources(notebook):
    notebook.messages.clear()
    notebook.run(
        """
        seven = znb.stream("seven")
        with znb.Cluster.start(1, name="one") as one, znb.Cluster.start(1, name="two") as two:
            for cluster in (one, two):
                cluster.run("import znb; znb.publish('seven', 1)")
        """
    ).ok()
    wait_for(notebook, lambda: sum(len(frame["series"]) for frame, _ in frames(notebook)[0]) == 2)
    found = {series[2] for frame, _ in frames(notebook)[0] for series in frame["series"]}
    assert found in ({"w0", "two/w0"}, {"w0", "one/w0"})
    notebook.run("seven.close()").ok()


def test_without_a_notebook_it_says_where_to_look():
    znb.publish("loss", 0.25)
    view = znb.stream("loss", at="local")
    try:
        text = repr(view)
    finally:
        view.close()
        streams.close()
    assert "1 messages" in text
    assert "loss (" in text
    assert "for message in znb.subscribe('loss'): print(message)" in text
    assert "znb subscribe local loss" in text
