"""The command line of services: real ``znb serve`` processes, called in this process and from others."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time
from ast import literal_eval

import numpy as np
import pytest

from znb.cli import main
from znb.cli.calls import read_json, read_literal, to_json
from znb.cli.commands import WrongUsage
from znb.cli.services import load_object
from znb.errors import ZnbError
from znb.rpc import connect, service_stats

ZNB = [sys.executable, "-m", "znb"]

SHOP = """
'''A shop.

It sells things.'''
import datetime, threading, time

class Cart:
    "What somebody wants."
    def __init__(self):
        self.items = {}
    def add(self, name: str, count: int = 1) -> dict:
        "Put something in.\\n\\nReturns what is in it."
        self.items[name] = self.items.get(name, 0) + count
        return dict(self.items)
    def fail(self):
        raise ZeroDivisionError("nothing to share")

class Oops(Exception):
    pass

class Needy:
    def __init__(self, what):
        pass
    def method(self):
        pass

def prices(n: int = 3):
    "A stream."
    for number in range(n):
        yield {"price": number, "when": datetime.date(2024, 1, number + 1)}

def forever():
    number = 0
    while True:
        yield number
        number += 1

def lines():
    yield from ["a\\n", "b"]

def oops():
    raise Oops("mine")

def leave():
    raise SystemExit(3)

def nap():
    for _ in range(6000):  # so that it can be stopped
        time.sleep(0.01)

def same(value):
    return value
"""


class Serving:
    """A ``znb serve`` process."""

    def __init__(self, *words, cwd, **env):
        self.process = subprocess.Popen(
            [*ZNB, "serve", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, **env},
        )
        self.lines = []
        while not self.lines or self.lines[-1] != "Ctrl-C ends it.\n":
            self.lines.append(self.process.stdout.readline())
            assert self.lines[-1], self.process.communicate()

    def end(self, number=signal.SIGINT):
        """Send a signal; return the exit status and what was said on stderr."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.returncode is None:
            self.process.terminate()
            self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def shop(module_world):
    """A server of ``shop`` and ``Cart``, in the module's runtime directory."""
    (module_world.home / "shop.py").write_text(textwrap.dedent(SHOP))
    with Serving("shop", "shop:Cart", cwd=module_world.home, ZNB_RUNTIME_DIR=str(module_world.runtime)) as serving:
        yield serving
        assert serving.end() == (0, "")


@pytest.fixture
def at_shop(shop, module_world, monkeypatch):
    """This process, with the shop's runtime directory."""
    monkeypatch.setenv("ZNB_RUNTIME_DIR", str(module_world.runtime))
    return shop


@pytest.fixture
def znb(capsys):
    """A function that runs a command in this process and returns its status, output and errors."""

    def run(*words):
        status = main([str(word) for word in words])
        return (status, *capsys.readouterr())

    return run


def wait_for_running(name, count):
    """Wait until as many calls run there."""
    deadline = time.monotonic() + 30
    with connect(name) as proxy:
        while service_stats(proxy)["running"] != count:
            assert time.monotonic() < deadline


# -- values as text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-1.5", -1.5), ("[1, 'a']", [1, "a"]), ("{'a': (1,)}", {"a": (1,)}), ("None", None), ("b'x'", b"x"),
        ("abc", "abc"), ("'1'", "1"), ("2024-01-31", "2024-01-31"), ("2024-11-12", "2024-11-12"), ("", ""), ("1 + 1", "1 + 1"),
        ("[draft]", "[draft]"), ("__import__('os')", "__import__('os')"), ("(" * 500 + ")" * 500, "(" * 500 + ")" * 500),
    ],
)  # fmt: skip
def test_arguments_are_literals_or_else_strings(text, value):
    assert read_literal(text) == value


def test_what_a_shell_has_cut_is_told():
    with pytest.raises(WrongUsage, match=r"\[1, begins a list that does not end"):
        read_literal("[1,")
    with pytest.raises(WrongUsage, match="an argument is JSON"):
        read_json("abc")


def test_results_as_json():
    assert json.loads(to_json({"a": np.arange(3), "b": {1}, "c": b"x", 4: None})) == {
        "a": [0, 1, 2], "b": [1], "c": "eA==", "4": None
    }  # fmt: skip
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1, 2]})
    assert json.loads(to_json([frame, frame.x])) == [[{"x": 1}, {"x": 2}], {"0": 1, "1": 2}]
    with pytest.raises(ZnbError, match="leave --json out"):
        to_json({(1, 2): 1j})


# -- call


def test_calls_and_results(at_shop, znb):
    status, shown, said = znb("call", "Cart", "add", "pear", "-3")
    assert (status, literal_eval(shown)["pear"], said) == (0, -3, "")
    assert literal_eval(znb("call", "Cart", "add", "pear", "--kw", "count=-.5")[1])["pear"] == -3.5
    assert znb("call", "shop", "same", "text") == (0, "text\n", "")
    assert znb("call", "shop", "same", "None") == (0, "", "")
    assert znb("call", "shop", "same", "--json", '{"a": [1, null]}') == (0, '{"a": [1, null]}\n', "")
    assert znb("call", "shop", "same", "--json", "null") == (0, "null\n", "")
    assert znb("call", "shop", "same", "--", "--json") == (0, "--json\n", "")


def test_streams_are_printed_item_by_item(at_shop, znb):
    assert znb("call", "shop", "prices", "2", "--json") == (
        0, '{"price": 0, "when": "2024-01-01"}\n{"price": 1, "when": "2024-01-02"}\n', ""
    )  # fmt: skip
    assert znb("call", "shop", "lines") == (0, "a\nb\n", "")
    running = subprocess.Popen([*ZNB, "call", "shop", "forever"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with running:
        assert [running.stdout.readline() for _ in range(3)] == [b"0\n", b"1\n", b"2\n"]
        running.stdout.close()
        assert (running.wait(30), running.stderr.read()) == (0, b"")


def test_an_interrupted_call_is_stopped_there(at_shop, znb):
    with subprocess.Popen([*ZNB, "call", "shop", "forever"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout.readline() == b"0\n"
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert (running.returncode, said) == (130, b"")
    wait_for_running("shop", 0)


def test_without_a_method_it_lists_them(at_shop, znb):
    status, shown, _ = znb("call", "Cart")
    assert (status, shown.splitlines()) == (
        0, ["add(name: str, count: int = 1) -> dict  Put something in.", "fail()"]
    )  # fmt: skip
    assert json.loads(znb("call", "Cart", "--json")[1])["methods"]["add"]["signature"].startswith("(name: str")


def test_what_the_method_raises_is_status_1_with_its_traceback(at_shop, znb):
    status, shown, said = znb("call", "Cart", "fail")
    assert (status, shown) == (1, "")
    assert said.startswith("Traceback (most recent call last):\n")
    assert 'raise ZeroDivisionError("nothing to share")' in said
    assert "ZeroDivisionError: nothing to share" in said
    assert "/znb/" not in said
    assert znb("call", "shop", "oops")[0] == znb("call", "shop", "leave")[0] == 1


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["call", "shop", "pricse"], 2, "shop has no method 'pricse'; did you mean 'prices'?"),
        (["call", "shop", "same"], 2, "same(value): missing a required argument: 'value'"),
        (["call", "shop", "same", "1", "--kw", "x=1"], 2, "same(value): got an unexpected keyword argument 'x'"),
        (["call", "shop", "same", "[1,", "2]"], 2, "[1, begins a list that does not end"),
        (["call", "shop", "same", "x", "--json"], 2, "with --json an argument is JSON"),
        (["call", "shop", "same", "1", "--kw", "1=1"], 2, "--kw: expected NAME=VALUE, such as b=2, got '1=1'"),
        (["call", "shop", "same", "1", "--timeout", "0"], 2, "--timeout: expected seconds"),
        (["call", "shop", "--jsn"], 2, "unknown option --jsn; did you mean --json?"),
        (["call"], 2, "missing: URL\n"),
        (["call", "127.0.0.1:444", "x"], 2, "cannot connect to 127.0.0.1:444: expected an address such as tcp://127"),
        (["call", "tcp://127.0.0.1:70000", "x"], 2, "cannot connect to tcp://127.0.0.1:70000: expected a port from 0"),
        (["call", "tcp://nobody", "x"], 2, "cannot connect to tcp://nobody: expected an address such as"),
        (["call", "shop", "nap", "--timeout", "0.2"], 3, "shop.nap took longer than the 0.2 s allowed"),
        (["call", "nobody", "x"], 3, "nobody: there is no service of this name. Running: Cart, shop"),
        (["call", "ipc:///no/where", "x"], 3, "ipc:///no/where: nobody answered within 0.8 s"),
        (["inspect", "shop", "pricse"], 2, "shop has no method 'pricse'; did you mean prices?"),
        (["ping", "nobody"], 3, "nobody: there is no service of this name"),
        (["ping", "shop", "--count", "0"], 2, "--count: expected a whole number from 1 on"),
    ],
)
def test_what_goes_wrong_has_its_status(at_shop, znb, words, status, said):
    found, shown, errors = znb(*words)
    assert (found, shown) == (status, "")
    assert errors.startswith(f"znb: {said}")


# -- look


def test_inspect(at_shop, znb):
    status, shown, _ = znb("inspect", "shop")
    assert status == 0
    assert shown.startswith("Service shop\nA shop.\n\nIt sells things.\n\nforever() → items\n")
    assert "prices(n: int = 3) → items\n    A stream.\n" in shown
    assert znb("inspect", "Cart", "add") == (
        0, "add(name: str, count: int = 1) -> dict\n    Put something in.\n\n    Returns what is in it.\n", ""
    )  # fmt: skip
    assert list(json.loads(znb("inspect", "Cart", "add", "--json")[1])["methods"]) == ["add"]


def test_ping(at_shop, znb):
    status, shown, _ = znb("ping", "shop", "--count", 3)
    *each, last = shown.splitlines()
    assert status == 0
    assert [line.partition(" ms")[0].rpartition(" ")[0] for line in each] == ["shop answered in"] * 3
    assert last.startswith("3 round trips: ")


def test_services(at_shop, znb):
    status, shown, _ = znb("services")
    assert status == 0
    pid = at_shop.process.pid
    assert f"Cart  ipc://{os.environ['ZNB_RUNTIME_DIR']}/Cart.{pid}." in shown
    assert "  add(name: str, count: int = 1) -> dict  Put something in.\n" in shown
    found = json.loads(znb("services", "--json")[1])
    assert [(record["name"], record["pids"], record["error"]) for record in found] == [
        ("Cart", [pid], ""),
        ("shop", [pid], ""),
    ]


def test_no_services(znb):
    assert znb("services") == (0, "No services. `znb serve statistics` would start one.\n", "")
    assert znb("services", "--json") == (0, "[]\n", "")


def test_a_service_that_does_not_answer_is_listed_as_such(znb, world, monkeypatch):
    monkeypatch.setattr("znb.cli.listing.PATIENCE", 0.3)
    with Serving("statistics", cwd=world.home) as serving:
        serving.process.send_signal(signal.SIGSTOP)
        status, shown, _ = znb("services")
        serving.process.send_signal(signal.SIGCONT)
        assert status == 0
        assert "  It does not answer: " in shown
        assert "  mean(…)\n" in shown
        assert serving.end() == (0, "")


def test_a_shell_in_a_terminal(at_shop):
    ours, theirs = pty.openpty()
    words = [*ZNB, "shell", "Cart"]
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "dumb"}
    ) as shell:
        os.close(theirs)
        seen = b""

        def wait_for(text):
            nonlocal seen
            deadline = time.monotonic() + 60
            while text not in seen and time.monotonic() < deadline:
                if select.select([ours], [], [], 0.1)[0]:
                    seen += os.read(ours, 65536)
            assert text in seen

        wait_for(b"In [1]")
        os.write(ours, b"svc.add('nut', 41 + 1)['nut']\r")
        wait_for(b"42")
        os.write(ours, b"exit\r")
        with contextlib.suppress(OSError):  # Linux says EIO when the last writer has gone
            while shell.poll() is None:
                if select.select([ours], [], [], 0.1)[0]:
                    seen += os.read(ours, 65536)
        assert shell.wait(30) == 0
    os.close(ours)
    assert b"It is `svc` here" in seen


# -- serve


def test_it_says_what_it_serves_and_how_to_call_it(shop):
    said = "".join(shop.lines)
    assert "Serving shop at ipc://" in said
    assert "  methods:     add, fail\n" in said
    assert "znb call Cart METHOD ARG…" in said
    assert 'svc = znb.connect("Cart")' in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_and_nothing_is_left(world, number, znb):
    with Serving("json", "statistics", "--name", "both", "--threads", "1", cwd=world.home) as serving:
        assert znb("call", "both", "statistics.mean", "[1, 3]") == (0, "2\n", "")
        assert znb("call", "both", "json") == (
            2,
            "",
            "znb: json is a group of methods: json.dump, json.dumps, json.load, json.loads\n",
        )
        assert serving.end(number) == (0, "")
    assert list(world.runtime.iterdir()) == []


def test_it_ends_while_a_call_runs(world):
    (world.home / "sleepy.py").write_text("import threading\ndef nap(): threading.Event().wait(60)\n")
    with Serving("sleepy", cwd=world.home) as serving:
        with subprocess.Popen([*ZNB, "call", "sleepy", "nap"], stderr=subprocess.PIPE, text=True) as calling:
            wait_for_running("sleepy", 1)
            assert serving.end() == (0, "")
            _, said = calling.communicate(timeout=30)
        assert calling.returncode == 3
        assert "the process behind it ended, or closed the connection" in said


def test_an_address_of_its_own_and_one_that_is_taken(world, znb):
    with Serving("statistics", "--bind", "tcp://127.0.0.1:*", cwd=world.home) as serving:
        url = serving.lines[0].split()[-1]
        assert znb("call", url, "mean", "[1, 3]") == (0, "2\n", "")
        status, _, said = znb("serve", "json", "--bind", url)
        assert (status, said) == (3, f"znb: json cannot listen at {url}: Address already in use (addr='{url}')\n")
        assert serving.end() == (0, "")


def test_other_machines_need_keys_or_insecure(world, znb):
    status, _, said = znb("serve", "json", "--bind", "tcp://0.0.0.0:*")
    assert status == 4
    assert "Give --keys FILE" in said
    file = world.home / "keys"
    with Serving("json", "--bind", "tcp://0.0.0.0:*", "--keys", str(file), cwd=world.home) as serving:
        address = serving.lines[0].split()[-1]
        url, _, key = address.partition("#")
        url = f"tcp://127.0.0.1:{url.rpartition(':')[2]}"
        assert file.stat().st_mode & 0o777 == 0o600
        assert f"znb call '{address}' METHOD" in "".join(serving.lines)
        assert znb("call", f"{url}#{key}", "loads", "[1]") == (1, "", znb("call", "json", "loads", "[1]")[2])
        assert znb("call", f"{url}#{key}", "dumps", "[1]") == (0, "[1]\n", "")
        assert znb("call", "json", "dumps", "[1]") == (0, "[1]\n", "")
        status, _, said = znb("call", url, "dumps", "[1]")
        assert status == 4
        assert said.startswith(f"znb: {url} ")
        assert "keys" in said
        assert serving.end() == (0, "")
    with Serving("json", "--bind", "tcp://0.0.0.0:*", "--insecure", cwd=world.home) as serving:
        status, said = serving.end()
        assert status == 0
        assert said.startswith("znb: insecure: whoever can reach tcp://0.0.0.0:* may call this")


def test_what_is_left_out_of_a_dict_is_noted(world):
    (world.home / "shop.py").write_text("prices = {'apple': 3, 'total': len}")
    with Serving("shop:prices", cwd=world.home) as serving:
        assert "  methods:     total\n" in serving.lines
        said = serving.end()[1]
    assert said == "znb: left out of prices: apple (numbers, texts and the like have nothing to call)\n"


def test_a_namesake_is_noted(world):
    with Serving("json", cwd=world.home) as first, Serving("json", cwd=world.home) as second:
        assert second.end()[1].startswith(f"znb: another service 'json' runs (pid {first.process.pid})")
        assert first.end() == (0, "")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["nosuchmodule"], 2, "there is no module nosuchmodule; looked for in this directory"),
        (["json.py"], 2, "there is no module json.py; did you mean json?"),
        (["json:dmups"], 2, "json has no 'dmups'; did you mean dumps?"),
        (["json:"], 2, "'json:' is no MODULE or MODULE:OBJECT"),
        ([""], 2, "'' is no MODULE or MODULE:OBJECT"),
        ([".json"], 2, "'.json' is no MODULE or MODULE:OBJECT"),
        (["string:digits"], 2, "'0123456789' has no public methods to expose"),
        (["threading:Timer"], 2, "Timer cannot be made without arguments"),
        (["json", "statistics", "--bind", "tcp://127.0.0.1:1"], 2, "one address for several objects: give --name"),
        (["json", "--bind", "localhost"], 2, "--bind: expected an address such as tcp://127.0.0.1:4242"),
        (["json", "decimal:Decimal", "fractions:Decimal"], 2, "two of these are called Decimal"),
        (["json", "--name", "a b"], 2, "'a b' cannot name a service"),
        (["json", "--threads", "0"], 2, "--threads: expected a whole number from 1 on"),
    ],
)  # fmt: skip
def test_what_cannot_be_served(znb, words, status, said):
    found, shown, errors = znb("serve", *words)
    assert (found, shown) == (status, "")
    assert errors.startswith(f"znb: {said}")


@pytest.mark.parametrize(
    ("target", "source", "said"),
    [
        (
            "mine",
            "import something_that_is_not_there",
            [
                "line 1, in <module>",
                "    import something_that_is_not_there",
                "ModuleNotFoundError: No module named 'something_that_is_not_there'",
            ],
        ),
        (
            "mine:Mine",
            "class Mine:\n    def __init__(self):\n        raise TypeError('not today')\n",
            ["line 3, in __init__", "    raise TypeError('not today')", "TypeError: not today"],
        ),
    ],
)
def test_what_fails_when_it_is_made_shows_its_own_lines(world, znb, monkeypatch, target, source, said):
    monkeypatch.chdir(world.home)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("mine", None)
    (world.home / "mine.py").write_text(source)
    status, _, errors = znb("serve", target)
    assert status == 1
    shown = errors.splitlines()[1:]
    assert shown == [f'  File "{world.home}/mine.py", {said[0]}', *said[1:]]


def test_names_of_objects():
    assert load_object("json")[0] == "json"
    assert load_object("os.path")[0] == "os.path"
    assert load_object("json:decoder.JSONDecoder")[0] == "JSONDecoder"
