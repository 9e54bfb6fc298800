import json
import os
import socket
import stat
import threading
import time

import msgspec
import pytest

from znb import connection
from znb.connection import (
    ClusterFile,
    claim_cluster,
    clean_dead,
    find_cluster,
    inspect_cluster,
    list_clusters,
    process_start,
    read_cluster_file,
    remove_cluster,
    write_cluster_file,
)
from znb.errors import AuthError, CallTimeout, ProtocolError, ServiceUnavailable, ZnbError
from znb.rundir import lock_dir


def make_file(directory, **changes):
    """Return a connection file of this process, whose directory is made."""
    directory.mkdir(mode=0o700, exist_ok=True)
    file = ClusterFile(
        wire_version=1,
        name=directory.name,
        launcher="local",
        cluster_dir=str(directory),
        control=str(directory / "control"),
        zygote_pid=os.getpid(),
        zygote_start=process_start(os.getpid()),
        created=time.time(),
        host=os.uname().nodename,
        cwd="/",
        znb_version="0",
        python_version="3",
        keep=False,
        grace=300.0,
    )
    return msgspec.structs.replace(file, **changes)


@pytest.fixture
def running():
    """A function that makes a cluster which answers; nothing is accepted."""
    sockets = []

    def make(directory, **changes):
        file = make_file(directory, **changes)
        write_cluster_file(file)
        sockets.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sockets[-1].bind(file.control)
        sockets[-1].listen(1)
        return file

    yield make
    for opened in sockets:
        opened.close()


@pytest.fixture(autouse=True)
def _clean(runtime_dir):
    yield
    for entry in runtime_dir.iterdir():
        connection.remove_cluster_dir(entry)


def dead(directory, **changes):
    """Make what a cluster leaves behind that was killed."""
    file = make_file(directory, zygote_start="long ago", **changes)
    write_cluster_file(file)
    return file


# -- files


def test_a_connection_file_is_whole_and_private(runtime_dir):
    file = make_file(runtime_dir / "a")
    path = write_cluster_file(file)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_cluster_file(path) == file
    write_cluster_file(msgspec.structs.replace(file, keep=True))
    assert read_cluster_file(path).keep
    assert [entry.name for entry in (runtime_dir / "a").iterdir()] == ["connection.json"]


def test_a_failed_write_leaves_nothing(runtime_dir, monkeypatch):
    file = make_file(runtime_dir / "a")
    monkeypatch.setattr(connection.os, "fdopen", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_cluster_file(file)
    assert list((runtime_dir / "a").iterdir()) == []


def test_a_file_that_others_can_read_is_refused_with_the_command_that_mends_it(runtime_dir):
    path = write_cluster_file(make_file(runtime_dir / "a"))
    path.chmod(0o644)
    with pytest.raises(AuthError, match=f"mode 644, expected 600.* chmod 600 {path}"):
        read_cluster_file(path)


def test_a_file_that_cannot_be_opened_is_an_auth_error(runtime_dir, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(connection.os, "open", refuse)
    with pytest.raises(AuthError, match="cannot be read by user"):
        read_cluster_file(runtime_dir / "a/connection.json")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"format": 1}', b'{"format": 1, "name": 3}']
)
def test_a_damaged_file_is_named_with_what_is_wrong(runtime_dir, content):
    path = write_cluster_file(make_file(runtime_dir / "a"))
    path.write_bytes(content)
    with pytest.raises(ProtocolError, match="is no connection file: "):
        read_cluster_file(path)


@pytest.mark.parametrize("found", [2, "1", None])
def test_a_file_of_another_format_is_refused_with_both_numbers(runtime_dir, found):
    path = write_cluster_file(make_file(runtime_dir / "a"))
    content = json.loads(path.read_text())
    content["format"] = found
    path.write_text(json.dumps(content))
    with pytest.raises(ProtocolError, match=r"has format .*, expected 1: another version of znb"):
        read_cluster_file(path)


def test_no_file_is_said(runtime_dir):
    with pytest.raises(ServiceUnavailable, match="no such connection file"):
        read_cluster_file(runtime_dir / "a/connection.json")


@pytest.mark.parametrize("name", ["", "-x", ".x", "a/b", "a b", "a" * 33, "ä", "a\n"])
def test_what_cannot_name_a_cluster_is_refused(name):
    with pytest.raises(ZnbError, match="cannot name a cluster"):
        connection.check_name(name)


@pytest.mark.parametrize("name", ["a", "default", "a.b-c_d", "0", "a" * 32])
def test_names(name):
    assert connection.check_name(name) == name


# -- processes


def test_a_process_is_told_from_others_of_its_id():
    mine = process_start(os.getpid())
    assert mine == process_start(os.getpid()) != process_start(1)
    assert process_start(2**22 + 1) == ""


def test_a_zombie_is_gone():
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert process_start(pid) == ""
    os.waitpid(pid, 0)


def test_processes_without_proc(monkeypatch):
    mine = connection._process_start_portably(os.getpid())
    assert mine
    assert connection._process_start_portably(2**22 + 1) == ""


# -- what is there


def test_states(runtime_dir, running):
    running(runtime_dir / "alive", created=3.0)
    write_cluster_file(make_file(runtime_dir / "stopping", created=2.0))
    dead(runtime_dir / "dead", created=1.0)
    running(runtime_dir / "elsewhere", created=4.0, host="another")
    running(runtime_dir / "readable")
    (runtime_dir / "readable/connection.json").chmod(0o640)
    running(runtime_dir / "lost")
    (runtime_dir / "lost/connection.json").unlink()
    (runtime_dir / "empty").mkdir()
    (runtime_dir / "starting").mkdir()
    with lock_dir(runtime_dir / "starting"):
        entries = list_clusters()
    assert {entry.name: entry.state for entry in entries} == {
        "alive": "alive",
        "dead": "dead",
        "elsewhere": "elsewhere",
        "empty": "dead",
        "lost": "damaged",
        "readable": "damaged",
        "starting": "starting",
        "stopping": "stopping",
    }
    assert [entry.name for entry in entries][-4:] == ["dead", "stopping", "alive", "elsewhere"]
    assert all(entry.reason for entry in entries)
    (runtime_dir / "lost/control").unlink()


def test_a_cluster_that_is_too_busy_to_accept_is_alive(runtime_dir, running, monkeypatch):
    monkeypatch.setattr(connection, "PROBE_TIMEOUT", 0.05)
    running(runtime_dir / "busy")
    for _ in range(5):
        assert inspect_cluster(runtime_dir / "busy").state == "alive"


def test_the_dead_are_cleaned_and_nobody_else(runtime_dir, running):
    running(runtime_dir / "alive")
    dead(runtime_dir / "dead")
    (runtime_dir / "dead/w0.1.abcd.calls").write_text("")
    (runtime_dir / "broken_off").mkdir()
    (runtime_dir / "damaged").mkdir()
    (runtime_dir / "damaged/connection.json").write_text("{")
    write_cluster_file(make_file(runtime_dir / "stopping"))
    assert [entry.name for entry in clean_dead()] == ["broken_off", "damaged", "dead"]
    assert sorted(entry.name for entry in runtime_dir.iterdir()) == ["alive", "stopping"]
    assert clean_dead() == []


def test_what_is_being_started_is_not_cleaned(runtime_dir):
    dead(runtime_dir / "a")
    with lock_dir(runtime_dir / "a"):
        assert clean_dead() == []
    assert (runtime_dir / "a").exists()


def test_a_cluster_is_found_by_name_path_or_age(runtime_dir, running):
    first = running(runtime_dir / "first", created=1.0)
    second = running(runtime_dir / "second", created=2.0)
    dead(runtime_dir / "third", created=3.0)
    assert find_cluster() == second
    assert find_cluster("first") == first
    assert find_cluster(str(runtime_dir / "first")) == first
    assert find_cluster(str(runtime_dir / "first/connection.json")) == first
    with pytest.raises(ServiceUnavailable, match=r"this cluster is dead: .* are gone\. running: first, second"):
        find_cluster("third")
    with pytest.raises(ServiceUnavailable, match=r"there is no cluster of this name\. running: first, second"):
        find_cluster("fourth")
    with pytest.raises(ZnbError, match="cannot name"):
        find_cluster("no name")


def test_no_cluster_is_said_with_how_to_start_one():
    with pytest.raises(
        ServiceUnavailable, match=r"nothing runs here\. Start one: `%znb cluster start` in a notebook, znb"
    ):
        find_cluster()


def test_a_cluster_whose_file_cannot_be_trusted_is_found_with_the_reason(runtime_dir, running):
    running(runtime_dir / "a")
    (runtime_dir / "a/connection.json").chmod(0o666)
    with pytest.raises(AuthError, match="chmod 600"):
        find_cluster("a")


# -- making and removing


def test_a_claimed_directory_is_empty_private_and_goes_if_nothing_was_started(runtime_dir):
    dead(runtime_dir / "a")
    (runtime_dir / "a/leftover").write_text("")
    with claim_cluster("a", timeout=0) as path:
        assert path == runtime_dir / "a"
        assert list(path.iterdir()) == []
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert inspect_cluster(path).state == "starting"
        (path / "log").write_text("")
    assert not path.exists()


def test_a_claim_of_a_running_cluster_is_its_file(runtime_dir, running):
    file = running(runtime_dir / "a")
    with claim_cluster("a", timeout=0) as found:
        assert found == file
    assert read_cluster_file(runtime_dir / "a/connection.json") == file


def test_a_cluster_that_runs_and_cannot_be_trusted_is_not_replaced(runtime_dir, running):
    running(runtime_dir / "a")
    (runtime_dir / "a/connection.json").chmod(0o666)
    with pytest.raises(AuthError, match="chmod 600"), claim_cluster("a", timeout=0):
        pytest.fail("claimed")


def test_who_waits_for_a_start_gets_what_was_started(runtime_dir, running):
    results = []
    waiting = threading.Event()

    def second():
        waiting.set()
        with claim_cluster("a", timeout=20) as found:
            results.append(found)

    with claim_cluster("a", timeout=0) as path:
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        file = running(path)
    thread.join()
    assert results == [file]


def test_who_waits_too_long_is_told(runtime_dir):
    with claim_cluster("a", timeout=0):
        with pytest.raises(CallTimeout, match="another process is starting, took longer than"):
            with claim_cluster("a", timeout=0.05):
                pytest.fail("claimed twice")
    write_cluster_file(make_file(runtime_dir / "b"))
    with pytest.raises(CallTimeout, match="another process is stopping"):
        with claim_cluster("b", timeout=0.05):
            pytest.fail("claimed")


def test_of_many_that_start_one_does(runtime_dir, running):
    started, found = [], []
    barrier = threading.Barrier(8)

    def start():
        barrier.wait()
        with claim_cluster("a", timeout=20) as claimed:
            if isinstance(claimed, ClusterFile):
                found.append(claimed)
            else:
                started.append(running(claimed))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1
    assert found == started * 7


def test_a_cluster_is_removed_once_and_no_other_of_its_name(runtime_dir):
    file = dead(runtime_dir / "a")
    assert remove_cluster(file)
    assert not (runtime_dir / "a").exists()
    assert remove_cluster(file)
    write_cluster_file(make_file(runtime_dir / "a"))
    assert remove_cluster(file)
    assert (runtime_dir / "a/connection.json").exists()


def test_a_directory_that_somebody_holds_is_not_removed(runtime_dir):
    file = dead(runtime_dir / "a")
    with lock_dir(runtime_dir / "a"):
        assert not remove_cluster(file, timeout=0.05)
    assert remove_cluster(file)
