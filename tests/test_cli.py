"""The command line: as data, and as processes with real clusters."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import znb
from znb.cli import clusters, main
from znb.cli.commands import Command, CommandTable, HelpWanted, Parser, WrongUsage
from znb.cli.main import COMMANDS, run
from znb.cli.tables import cluster_table
from znb.cli.values import add_place_options, add_target_option, not_negative, seconds, variable, variables
from znb.connection import ClusterEntry, ClusterFile

# -- commands as data


def add_names(parser: Parser) -> None:
    parser.argument("names", metavar="NAME", nargs="+", type=variables)
    add_target_option(parser)


TABLE = CommandTable(
    "%znb",
    [
        Command("cluster start", "start workers", print, add_place_options, "Long text.", "%znb cluster start 4"),
        Command("cluster stop", "end them", print),
        Command("push", "copy variables", print, add_names),
    ],
)


def parsed(line: str) -> dict:
    return vars(TABLE.parse(line.split())[1])


def test_a_command_is_found_by_its_longest_name():
    command, rest = TABLE.find(["cluster", "start", "4"])
    assert command is TABLE.commands["cluster start"]
    assert rest == ["4"]
    assert TABLE.find(["cluster"]) == (None, ["cluster"])


def test_arguments_and_options_mix_in_any_order():
    assert parsed("push a,b --on -1,0 c")["names"] == [("a", "b"), ("c",)]
    assert parsed("push --on=1:3 a")["on"] == "1:3"
    assert parsed("push a")["on"] == "all"


@pytest.mark.parametrize("target", ["-1", "-2:", "-1,0", "0,2", "w0", "1:3", "any"])
def test_every_target_can_be_an_option_s_value(target):
    assert parsed(f"push a --on {target}")["on"] == target


def test_options_of_a_start():
    given = parsed(
        "cluster start 3 --name n --env A=1 --env B=x=y --cwd /tmp --python py --bind tcp://a:1-9 --listen tcp://a --deploy"
    )
    assert given | {"help": False} == {
        "help": False, "n": 3, "name": "n", "on": "local", "env": [("A", "1"), ("B", "x=y")], "cwd": "/tmp", "python": "py",
        "bind": "tcp://a:1-9", "listen": "tcp://a:*",
        "deploy": True,
    }  # fmt: skip
    assert parsed("cluster start")["n"] is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cluster start --nmae x", "unknown option --nmae; did you mean --name?"),
        (
            "cluster start --wokers 4",
            "unknown option --wokers; there are --on, --name, --env, --cwd, --python, --bind, --listen, --deploy, --help",
        ),
        ("cluster start x", "N: expected a whole number from 1 on, got 'x'"),
        ("cluster start 0", "N: expected a whole number from 1 on, got '0'"),
        ("cluster start 2 3", "unexpected '3'"),
        ("cluster start --env A", "--env: expected K=V, such as OMP_NUM_THREADS=1, got 'A'"),
        ("cluster start --name a/b", "--name: 'a/b' cannot name a cluster"),
        ("cluster start --on locla", "--on: there is no launcher 'locla'; did you mean local?"),
        ("cluster start --on moon:base", "--on: there is no launcher 'moon'; there are dask, local"),
        ("cluster start --name", "--name: expected one argument"),
        ("push", "missing: NAME"),
        ("push 1a", "NAME: expected a variable's name, got '1a'"),
        ("push ,", "NAME: expected a variable's name, got ','"),
        ("push class", "NAME: expected a variable's name, got 'class'"),
    ],
)
def test_wrong_arguments_name_the_nearest_and_the_usage(line, said):
    with pytest.raises(WrongUsage) as caught:
        parsed(line)
    first, usage = str(caught.value).split("\n")
    assert first.startswith(said)
    expected = TABLE.find(line.split())[0].parser("%znb").usage_line
    assert usage == f"usage: {expected}"


@pytest.mark.parametrize(
    ("line", "said", "usage"),
    [
        (
            "cluster strt",
            "there is no %znb cluster strt; did you mean %znb cluster start?",
            "%znb cluster start|stop …",
        ),
        ("start", "there is no %znb start; did you mean %znb cluster start?", "%znb cluster|push …"),
        ("pusj x", "there is no %znb pusj; did you mean %znb push?", "%znb cluster|push …"),
        ("xyz", "there is no %znb xyz", "%znb cluster|push …"),
    ],
)
def test_a_wrong_command_names_the_nearest(line, said, usage):
    with pytest.raises(WrongUsage) as caught:
        parsed(line)
    assert str(caught.value) == f"{said}\nusage: {usage}"


@pytest.mark.parametrize(
    "line",
    ["cluster start --help", "cluster start -h", "cluster start 4 --wrong --help", "help cluster start",
     "cluster start?", "cluster start ?", "cluster start 4 ??"],
)  # fmt: skip
def test_every_way_to_ask_for_a_command_s_help(line):
    with pytest.raises(HelpWanted) as caught:
        parsed(line)
    assert caught.value.text.startswith("usage: %znb cluster start [N] [--on WHERE] [--name NAME] [--env K=V]…")
    assert "Start workers.\n\nLong text." in caught.value.text
    assert "  %znb cluster start 4\n" in caught.value.text


@pytest.mark.parametrize("line", ["cluster", "cluster --help", "cluster help", "help cluster", "cluster?"])
def test_an_incomplete_command_lists_what_may_follow(line):
    with pytest.raises(HelpWanted) as caught:
        parsed(line)
    assert "%znb cluster start" in caught.value.text
    assert "end them" in caught.value.text
    assert "%znb push" not in caught.value.text


def test_a_variable_may_be_called_help():
    assert parsed("push help")["names"] == [("help",)]


@pytest.mark.parametrize(
    ("convert", "text", "value"),
    [
        (not_negative, "0", 0), (seconds, "2.5", 2.5), (seconds, "1e3", 1000.0), (variable, "größe", "größe"),
        (variables, "a, b,", ("a", "b")),
    ],
)  # fmt: skip
def test_values(convert, text, value):
    assert convert(text) == value


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", ""])
def test_what_is_no_duration(text):
    with pytest.raises(Exception, match="expected seconds"):
        seconds(text)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (znb.RemoteError("Oops", "it broke"), 1),
        (WrongUsage("no", "znb x"), 2),
        (znb.ServiceUnavailable("x", "nobody there", hint="`%znb cluster list` shows what runs"), 3),
        (znb.CallTimeout("it", 2.0), 3),
        (znb.AuthError("others can read it"), 4),
        (znb.ProtocolError("another version"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_status(error, status, capsys):
    def fail(_args):
        raise error

    assert run(["x"], CommandTable("znb", [Command("x", "fail", fail)])) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("znb: ") == (status != 130)
    assert "%znb" not in err


def test_a_table_of_clusters_tells_ages_and_reasons():
    file = ClusterFile(
        format=1, wire_version=1, name="a", launcher="local", cluster_dir="/r/a", control="/r/a/control", zygote_pid=7,
        zygote_start="", created=1000.0, host="h", cwd="/home", znb_version="0", python_version="3", keep=True, grace=1.0,
    )  # fmt: skip
    entries = [
        ClusterEntry("a", Path("/r/a"), "alive", file, "it answers"),
        ClusterEntry("bb", Path("/r/bb"), "dead", None, "its start was broken off"),
    ]
    assert cluster_table(entries, now=1000.0 + 7300).split("\n") == [
        "name  state  where  pid  age  keep  directory",
        "a     alive  local  7    2 h  yes   /home",
        "bb    dead",
        "bb: its start was broken off; cleaned up",
    ]
    assert cluster_table([]) == ""
    assert " 0 s " in cluster_table(entries[:1], now=1000.0)


# -- the process


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "znb", *words], capture_output=True, text=True, timeout=60, check=False
    )


def done(*words: str) -> str:
    """Return what a command prints; it must succeed and say nothing else."""
    ended = call(*words)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\x1b" not in ended.stdout
    return ended.stdout


@pytest.fixture
def stopping():
    """End the clusters that a test started, also when it fails."""
    yield
    done("stop", "--all")


def test_alone_it_prints_help():
    assert done() == done("--help") == done("help")
    for command in COMMANDS:
        assert f"znb {command.name}" in done()
    assert done("--version") == f"znb {znb.__version__}\n"


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_has_help(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: znb {command}")
    assert err == ""


def test_a_wrong_option_is_told_on_stderr_and_does_nothing():
    wrong = call("start", "2", "--nmae", "x")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith(
        "znb: unknown option --nmae; did you mean --name?\nusage: znb start [N] [--on WHERE]"
    )
    assert done("list") == "No clusters. `znb start` starts one.\n"


def test_what_is_not_there_is_not_reachable():
    for words in (["status"], ["status", "ghost"], ["stop", "ghost"]):
        ended = call(*words)
        assert (ended.returncode, ended.stdout) == (3, "")
        assert ended.stderr.startswith("znb: ")
    assert done("stop") == done("stop", "--all") == "No cluster was running.\n"


@pytest.mark.usefixtures("stopping")
def test_a_cluster_from_start_to_stop(world):
    assert done("start", "2", "--name", "night", "--env", "ZNB_TEST=on", "--cwd", str(world.home)).split("\n") == [
        "Started night with 2 workers.",
        "From a notebook:  %znb cluster connect night",
        'From Python:      znb.Cluster.connect("night")',
        "To end it:        znb stop night",
        "",
    ]
    with znb.Cluster.connect("night") as cluster:
        seen = cluster["w1"].run("import os; os.environ['ZNB_TEST'], os.getcwd()")
    assert seen == ("on", str(world.home))

    assert done("start", "--name", "night").startswith("night was running already, with 2 workers.\n")
    assert done("list").split("\n")[1].split()[:3] == ["night", "alive", "local"]
    for shown in (done("status", "night"), done("status")):
        assert shown.startswith("cluster 'night' on local, 2 workers\n")
        assert [line.split()[:2] for line in shown.split("\n")[2:4]] == [["w0", "idle"], ["w1", "idle"]]
    status = json.loads(done("status", "night", "--json"))
    assert [worker["name"] for worker in status["workers"]] == ["w0", "w1"]
    assert done("stop", "night") == "Stopped night.\n"
    assert done("list").startswith("No clusters.")


@pytest.mark.usefixtures("stopping")
def test_stop_asks_which_of_several():
    done("start", "1", "--name", "a")
    done("start", "1", "--name", "b")
    which = call("stop")
    assert (which.returncode, which.stdout) == (2, "")
    assert which.stderr == "znb: which one? There run a, b\nusage: znb stop [NAME|--all]\n"
    assert call("stop", "a", "--all").returncode == 2
    assert done("stop", "a") == "Stopped a.\n"
    assert done("stop") == "Stopped b.\n"


@pytest.mark.usefixtures("stopping")
def test_a_connection_file_that_others_can_read_is_refused(runtime_dir):
    done("start", "1", "--name", "open")
    file = runtime_dir / "open" / "connection.json"
    file.chmod(0o644)
    refused = call("status", "open")
    assert (refused.returncode, refused.stdout) == (4, "")
    assert f"chmod 600 {file}" in refused.stderr
    file.chmod(0o600)


@pytest.mark.usefixtures("stopping")
def test_watch_goes_on_until_it_is_interrupted(monkeypatch):
    done("start", "1")
    words = [sys.executable, "-m", "znb", "status", "--watch", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        for _ in range(2):
            assert json.loads(watching.stdout.readline())["name"] == "default"
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=60)
    assert (watching.returncode, err) == (0, "")


@pytest.mark.usefixtures("stopping")
def test_watch_redraws_a_terminal():
    done("start", "1")
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-m", "znb", "status", "--watch"], stdout=theirs) as watching:
        os.close(theirs)
        seen, deadline = b"", time.monotonic() + 60
        while seen.count(clusters.CLEAR_SCREEN.encode()) < 2 and time.monotonic() < deadline:
            seen += os.read(ours, 4096)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 0
    os.close(ours)
    assert b"Ctrl-C ends this." in seen


def test_a_reader_that_goes_away_is_no_error():
    read_end, write_end = os.pipe()
    os.close(read_end)
    ended = subprocess.run(
        [sys.executable, "-m", "znb", "--help"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(write_end)
    assert (ended.returncode, ended.stderr) == (0, "")
