"""A head and its hosts, with an engine of the tests' own: by entry point, as other packages add theirs."""

import functools
import os
import re
import signal
from pathlib import Path

import pytest

from cluster_harness import is_gone, wait_gone, wait_until
from znb import Cluster, cluster
from znb.errors import CallTimeout, NoWorkers, ProtocolError, ZnbError
from znb.launchers import GROUP, PlaceError, StartOptions, line

HERE = {"PYTHONPATH": str(Path(__file__).parent)}


@pytest.fixture(autouse=True)
def toys(tmp_path, monkeypatch):
    """A package that adds launchers."""
    info = tmp_path / "site" / "toys-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1\n")
    points = "toy = toy_engine:ToyLauncher\nelastic = toy_engine:ElasticLauncher\n"
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.fixture
def quick(monkeypatch):
    """A host has 2 seconds to answer."""
    monkeypatch.setattr(cluster, "StartOptions", functools.partial(StartOptions, timeout=2.0))


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_an_engine_by_entry_point():
    with Cluster.start(on="toy:a*1,b*2", env=HERE) as started:
        assert [worker.host for worker in started.workers] == ["a", "b", "b"]
        assert list(started.map(abs, range(-20, 0))) == list(range(20, 0, -1))
        assert re.fullmatch(r"<Cluster 'default' on toy:a\*1,b\*2: w0 w1 w2>", repr(started))
        head = started._attached.launcher.file.zygote_pid
        assert len(children(head)) == 2
    wait_gone(head)


def test_what_a_login_shell_prints_is_skipped():
    with Cluster.start(on="toy:a=noisy") as started:
        assert started["w0"].run("1 + 1") == 2


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("a=ends", r"w0 could not be started: the line to a ended:\s*no such luck"),
        ("a=chatty", r"the line to a ended:\s*this is no agent"),
        ("a=impossible", r"a: the toy has lost its battery"),
        ("a=refused", r"the toy is broken"),
        ("a=garbage", r"a frame on the line cannot be read"),
        ("a=flood", r"expected an agent's greeting, got b'y"),
        ("a,b=ends", r"the line to b ended:\s*no such luck"),
        ("", r"a toy needs hosts"),
    ],
)
def test_a_start_that_fails_leaves_nothing_and_says_why(place, said, runtime_dir):
    with pytest.raises(NoWorkers, match=said):
        Cluster.start(2, on=f"toy:{place}" if place else "toy")
    assert list(runtime_dir.iterdir()) == []


def test_a_host_that_does_not_answer(quick, runtime_dir):
    with pytest.raises((NoWorkers, CallTimeout)):
        Cluster.start(1, on="toy:a=silent")
    assert list(runtime_dir.iterdir()) == []


def test_an_agent_that_dies_takes_its_workers_along_and_is_replaced(capfd):
    with Cluster.start(on="toy:a*2,b*1", env=HERE) as started:
        assert [worker.host for worker in started.workers] == ["a", "b", "a"]
        before = [worker.pid for worker in started.workers]
        (agent,) = [
            pid for pid in children(started._attached.launcher.file.zygote_pid) if str(before[0]) in children(pid)
        ]
        os.kill(int(agent), signal.SIGKILL)
        wait_gone(before[0], before[2])
        wait_until(lambda: [worker.generation for worker in started.workers] == [2, 1, 2], "new workers")
        assert list(started.run("1 + 1").values()) == [2, 2, 2]
        assert started.workers[1].pid == before[1]
        assert "was lost: the line to a ended" in capfd.readouterr().err


def test_an_agent_that_is_silent_is_given_up(monkeypatch):
    monkeypatch.setattr(cluster, "StartOptions", functools.partial(StartOptions, lease=1.0))
    with Cluster.start(on="toy:a*1,b*1", env=HERE) as started:
        worker = started.workers[0].pid
        (agent,) = [pid for pid in children(started._attached.launcher.file.zygote_pid) if str(worker) in children(pid)]
        os.kill(int(agent), signal.SIGSTOP)
        wait_gone(worker)
        wait_until(lambda: started.workers[0].generation == 2, "another w0")
        assert started["w0"].run("1 + 1") == 2
        assert is_gone(int(agent))


def test_hosts_that_come_are_used_and_those_that_go_lose_nothing(tmp_path, capfd):
    hosts = tmp_path / "hosts"
    hosts.mkdir()
    (hosts / "first").touch()
    with Cluster.start(1, on=f"elastic:{hosts}", env=HERE) as started:
        started.scale(2)
        assert len(started) == 1
        assert "has 1 place now; more workers come with more places" in capfd.readouterr().err
        (hosts / "second").touch()
        wait_until(lambda: [worker.state for worker in started.workers] == ["idle", "idle"], "w1")
        assert [worker.host for worker in started.workers] == ["first", "second"]
        results = started.map(functools.partial(wait_for, str(tmp_path / "go")), range(20), buffersize=20)
        wait_until(lambda: all(worker.state == "busy" for worker in started.workers), "work on both")
        (hosts / "second").unlink()
        wait_until(lambda: len(started) == 1, "the end of w1")
        (tmp_path / "go").touch()
        assert list(results) == list(range(20))
        (hosts / "third").touch()
        wait_until(lambda: [worker.state for worker in started.workers] == ["idle", "idle"], "w1 on another host")
        assert started.workers[1].host == "third"


def test_a_host_that_comes_and_cannot_be_used_harms_nobody(tmp_path, capfd):
    hosts = tmp_path / "hosts"
    hosts.mkdir()
    (hosts / "first").touch()
    with Cluster.start(1, on=f"elastic:{hosts}", env=HERE) as started:
        started.scale(2)
        (hosts / "bad").touch()
        told = []
        wait_until(lambda: told.append(capfd.readouterr().err) or "bad cannot be used" in "".join(told), "a notice")
        (hosts / "second").touch()
        wait_until(lambda: [worker.state for worker in started.workers] == ["idle", "idle"], "w1")
        assert [worker.host for worker in started.workers] == ["first", "second"]


def wait_for(path, number):
    import time

    while not os.path.exists(path):
        time.sleep(0.01)
    return number


def test_no_number_of_workers_where_there_are_as_many_as_asked_for(runtime_dir, monkeypatch):
    with pytest.raises(NoWorkers, match=r"how many workers\? slurm gives as many as it is asked for"):
        Cluster.start(on="slurm")
    with pytest.raises(PlaceError, match="which Dask cluster"):
        Cluster.start(1, on="dask")
    with pytest.raises(PlaceError, match="'' in 'ssh:' is no host"):
        Cluster.start(1, on="ssh")
    assert list(runtime_dir.iterdir()) == []


# -- the line


@pytest.fixture
def ends():
    """Both ends of a line."""
    import socket

    a, b = socket.socketpair()
    head = line.LineEnd(a.fileno(), a.detach(), line.FromAgent, greeting=line.GREETING)
    agent = line.LineEnd(b.fileno(), b.detach(), line.ToAgent)
    yield head, agent
    head.close()
    agent.close()


def test_messages_arrive_in_order_behind_the_noise(ends):
    head, agent = ends
    os.write(agent.write_fd, b"Last login: yesterday\n")
    assert head.receive() == []
    agent.send(line.Made("w0", 1, 7), before=line.GREETING)
    agent.send(line.Beat())
    assert head.receive() == [line.Made("w0", 1, 7), line.Beat()]
    assert head.noise == "Last login: yesterday"
    head.send(line.End("w0", 1, "stop", 2.5))
    assert agent.receive() == [line.End("w0", 1, "stop", 2.5)]


def test_a_line_whose_other_side_does_not_read_is_given_up(ends):
    head, _ = ends
    with pytest.raises(ConnectionAbortedError, match=r"has left \d+ bytes unread"):
        for _ in range(100_000):
            head.send(line.End("w0", 1, "x" * 10_000, 1.0))


def test_what_is_no_message_ends_the_line(ends):
    head, agent = ends
    head.send(line.Made("w0", 1, 7))  # what only agents say
    with pytest.raises(ProtocolError, match="a frame on the line cannot be read"):
        agent.receive()
    agent.close()
    agent.close()
    with pytest.raises(ConnectionError):
        head.receive()


def test_an_engine_that_is_not_installed(monkeypatch, runtime_dir):
    from znb.launchers.local import LocalLauncher

    monkeypatch.setattr(LocalLauncher, "engine", "no_such_module:Engine")
    with pytest.raises(ZnbError, match="needs a package that is not installed here: No module named 'no_such_module'"):
        Cluster.start(1)
    assert list(runtime_dir.iterdir()) == []
