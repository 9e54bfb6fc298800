"""The stream widget in a real kernel: what the page is sent, and what it may ask for."""

import pytest

from pages import need_bundle, say, sent, states, wait_for

need_bundle("stream")


@pytest.fixture(scope="module")
def notebook(shared_kernel):
    shared_kernel.run("%load_ext znb\nimport znb\nfrom znb.widgets.sources import sources").ok()
    return shared_kernel


def test_a_page_is_sent_numbered_frames_and_a_full_one_for_latecomers(notebook):
    notebook.messages.clear()
    cell = notebook.run("view = znb.stream('one')\nview").ok()
    assert "application/vnd.jupyter.widget-view+json" in cell.data
    assert "stream of one" in cell.value
    notebook.run("for i in range(50): znb.publish('one', {'a': i})").ok()
    wait_for(notebook, lambda: sum(n for frame in sent(notebook, "frame") for _, n in frame["counts"]) == 50)
    frames = sent(notebook, "frame")
    assert [frame["number"] for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[0]["series"][0][1] == "one.a"
    assert frames[-1]["received"] == 50
    assert any(state.get("kind") == "line" for state in states(notebook))
    assert any("keyframe" in state for state in states(notebook))
    assert len(frames) < 25  # coalesced

    asked = len(states(notebook))
    say(notebook, "view", type="resync", view="v")
    wait_for(notebook, lambda: any("keyframe" in state for state in states(notebook)[asked:]))
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
    assert sent(notebook, "frame") == []
    say(notebook, "view", type="view", view="v", visible=True)
    wait_for(notebook, lambda: sent(notebook, "frame"))
    assert len(sent(notebook, "frame")[-1]["lines"]) == 10

    # The last view is gone: the subscription ends. One that comes back begins it anew.
    say(notebook, "view", type="view", view="v", visible=False, gone=True)
    assert notebook.run("len(sources)").value == "0"
    say(notebook, "view", type="view", view="w", visible=True)
    assert notebook.run("len(sources)").value == "1"
    notebook.run("znb.publish('two', 'again')").ok()
    wait_for(notebook, lambda: len(sent(notebook, "frame")[-1]["lines"]) == 1)
    notebook.run("view.close()").ok()
    assert notebook.run("len(sources)").value == "0"


def test_views_of_one_topic_share_what_is_read(notebook):
    notebook.run(
        """
        import threading
        from znb.pubsub import subscriber

        def names():
            return sorted(t.name for t in threading.enumerate() if t.name in ("znb-stream", "znb-subscribe"))

        reads, decode = [], subscriber.decode_value
        subscriber.decode_value = lambda *args, **more: reads.append(1) or decode(*args, **more)
        before = names()
        views = [znb.stream("shared") for _ in range(20)]
        for i in range(30): znb.publish("shared", {"a": i})
        """
    ).ok()
    wait_for(notebook, lambda: notebook.run("all(view._received == 30 for view in views)").value == "True")
    assert notebook.run("len(reads)").value == "30"
    assert notebook.run("[name for name in names() if name not in before], before").value == (
        "(['znb-stream', 'znb-subscribe'], [])"
    )
    # One that comes later begins with the last value, and is told of what it has lost itself.
    notebook.run("views.append(znb.stream('shared'))").ok()
    wait_for(notebook, lambda: notebook.run("views[-1]._received").value == "1")
    assert notebook.run("views[-1]._dropped, len(reads)").value == "(0, 30)"
    notebook.run("for view in views[1:]: view.close()\nznb.publish('shared', {'a': 31})").ok()
    wait_for(notebook, lambda: notebook.run("views[0]._received").value == "31")
    assert notebook.run("{view._received for view in views[1:-1]}").value == "{30}"
    notebook.run("views[0].close(); subscriber.decode_value = decode").ok()
    assert notebook.run("len(sources), names()").value == "(0, [])"


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


def test_a_value_that_cannot_be_shown_is_counted_and_others_follow(notebook):
    notebook.messages.clear()
    notebook.run(
        """
        view = znb.stream("odd", kind="line")
        for value in (1, 10**400, "text", {"a": "x"}, float("nan"), {"\\ud800": 1}, 2): znb.publish("odd", value)
        """
    ).ok()
    wait_for(notebook, lambda: sent(notebook, "frame") and sent(notebook, "frame")[-1]["received"] == 7)
    assert sent(notebook, "frame")[-1]["unfit"] == 4
    notebook.run("view.close()").ok()


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
    wait_for(notebook, lambda: sum(len(frame["series"]) for frame in sent(notebook, "frame")) == 2)
    found = {series[2] for frame in sent(notebook, "frame") for series in frame["series"]}
    assert found in ({"w0", "two/w0"}, {"w0", "one/w0"})
    notebook.run("seven.close()").ok()
