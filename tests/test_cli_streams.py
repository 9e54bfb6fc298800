"""``znb publish`` and ``znb subscribe`` as a shell runs them."""

import json
import subprocess
import sys

import pytest

import znb
from znb.cli.streams import _as_json, _as_line, literal
from znb.pubsub import streams

PATIENCE = 60


@pytest.fixture(autouse=True)
def _end_streams():
    yield
    streams.close()


def start(*words):
    command = [sys.executable, "-m", "znb", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*words):
    process = start(*words)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def test_what_is_published_in_a_shell_is_heard():
    with znb.subscribe("loss") as losses:
        assert run("publish", "local", "loss/x", "{'epoch': 3, 'loss': 0.12}") == (0, "", "")
        message = losses.wait_message(PATIENCE)
    assert (message.topic, message.value) == ("loss/x", {"epoch": 3, "loss": 0.12})
    assert "nobody subscribes to 'loss'" in run("publish", "local", "loss", "1")[2]
    with znb.subscribe("other"):
        assert "nobody subscribes to 'loss'" in run("publish", "local", "loss", "1")[2]


def test_what_was_said_before_comes_in_the_order_of_time():
    source = "import sys, znb; znb.publish({!r}, 1); print(flush=True); sys.stdin.readline(); znb.publish({!r}, 2)"
    source += "; print(flush=True); sys.stdin.readline()"
    others = []
    try:
        for name in ("a", "b", "c"):
            command = [sys.executable, "-c", source.format(f"n/{name}1", f"n/{name}2")]
            others.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            others[-1].stdout.readline()
        for other in others:
            other.stdin.write("\n")
            other.stdin.flush()
            other.stdout.readline()
        _, out, _ = run("subscribe", "local", "n", "--count", "6")
    finally:
        for other in others:
            other.communicate("\n")
    assert [line.split("  ")[1] for line in out.splitlines()] == ["n/a1", "n/b1", "n/c1", "n/a2", "n/b2", "n/c2"]
    with znb.subscribe("other"):
        assert "nobody subscribes to 'loss'" in run("publish", "local", "loss", "1")[2]


def test_what_is_published_elsewhere_is_printed_in_a_shell():
    znb.publish("note", "hello")
    znb.publish("loss", 0.5)
    process = start("subscribe", "local", "note", "loss", "--count", "2")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    lines = sorted(line.split("  ")[1:] for line in out.splitlines())
    assert [(topic, text) for topic, _, text in lines] == [("loss", "0.5"), ("note", "hello")]


def test_json_for_programs():
    znb.publish("note", {"a": [1, 2]})
    status, out, _ = run("subscribe", streams.publisher.url, "--json", "--count", "1")
    found = json.loads(out)
    assert status == 0
    assert (found["topic"], found["value"], found["number"], found["dropped"]) == ("note", {"a": [1, 2]}, 1, 0)


class Box:
    pass


@pytest.mark.parametrize(
    "value", [Box(), {(1, 2): 3}, float("nan"), "\ud800", {"\ud800": 1}], ids=["object", "keys", "nan", "text", "key"]
)
def test_what_json_has_nothing_like_is_text_and_marked(value):
    znb.publish("odd", value)
    message = next(znb.subscribe("odd"))
    found = json.loads(_as_json(message))
    assert found["value_is"] == "repr"
    assert isinstance(found["value"], str)
    _as_line(message).encode()


def test_a_value_that_cannot_be_shown_does_not_end_it():
    znb.publish("odd", 10**5000)
    message = next(znb.subscribe("odd"))
    assert "a value that cannot be shown: ValueError" in _as_line(message)
    assert "cannot be shown" in _as_json(message)


def test_what_cannot_be_published_is_wrong_usage():
    status, out, err = run("publish", "local", "", "1")
    assert (status, out) == (2, "")
    assert "a topic has at least one character" in err
    assert run("subscribe", "local", "x" * 1000)[0] == 2
    status, _, err = run("subscribe", "http://x", "y")
    assert status == 3
    assert "this is no address" in err


def test_exit_statuses():
    assert run("subscribe", "local", "silence", "--timeout", "0.1")[0] == 0
    assert run("subscribe", "local", "silence", "--timeout", "0.1", "--count", "1")[0] == 3
    status, _, err = run("subscribe", "nowhere")
    assert status == 3
    assert "no cluster and no service" in err
    assert run("subscribe")[0] == 2
    assert run("publish", "local", "loss")[0] == 2
    status, _, err = run("publish", "local", "", "1")
    assert (status, err.splitlines()[0]) == (2, "znb: a topic has at least one character, got ''")
    status, _, err = run("subscribe", "http://x", "y")
    assert status == 3
    assert "this is no address" in err
    status, _, err = run("publish", "ipc:///nowhere.events", "loss", "1")
    assert status == 3
    assert "no such socket" in err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("'1'", "1"),
        ("[1, {'a': None}]", [1, {"a": None}]),
        ("hello world", "hello world"),
        ("a.b()", "a.b()"),
    ],
)
def test_values_are_literals_else_text(text, value):
    assert literal(text) == value
