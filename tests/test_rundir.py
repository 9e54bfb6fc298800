import os
import stat
from pathlib import Path

import pytest

from znb import rundir
from znb.errors import AuthError, ZnbError


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    for name in ("ZNB_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_runtime_dir_is_the_one_asked_for(nowhere, monkeypatch):
    monkeypatch.setenv("ZNB_RUNTIME_DIR", str(nowhere / "a/b"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(nowhere))
    assert rundir.runtime_dir() == nowhere / "a/b"
    assert stat.S_IMODE((nowhere / "a/b").stat().st_mode) == 0o700


def test_runtime_dir_is_in_the_session_s(nowhere, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(nowhere))
    assert rundir.runtime_dir() == nowhere / "znb"


def test_runtime_dir_is_in_the_temporary_one_otherwise(nowhere, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(nowhere / "missing"))
    assert rundir.runtime_dir() == nowhere / f"znb-{os.getuid()}"
    assert rundir.runtime_dir() == nowhere / f"znb-{os.getuid()}", "a second time it is there"


def test_without_a_temporary_directory_it_is_in_tmp(nowhere, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(nowhere / "missing"))
    assert rundir._temp_root() == "/tmp"
    monkeypatch.setenv("TMPDIR", "")
    assert rundir._temp_root() == "/tmp"


def test_a_runtime_dir_that_others_can_enter_is_refused_with_the_command_that_mends_it(nowhere, monkeypatch):
    path = nowhere / "open"
    path.mkdir()
    path.chmod(0o750)
    monkeypatch.setenv("ZNB_RUNTIME_DIR", str(path))
    with pytest.raises(AuthError, match=f"mode 750, expected 700.*: chmod 700 {path}"):
        rundir.runtime_dir()


def test_a_link_in_a_shared_directory_is_refused(nowhere):
    (nowhere / "elsewhere").mkdir(mode=0o700)
    (nowhere / f"znb-{os.getuid()}").symlink_to(nowhere / "elsewhere")
    with pytest.raises(AuthError, match="no directory"):
        rundir.runtime_dir()


def test_a_file_in_its_place_is_refused(nowhere):
    (nowhere / f"znb-{os.getuid()}").write_text("")
    with pytest.raises(AuthError, match="no directory"):
        rundir.runtime_dir()


def test_a_runtime_dir_of_somebody_else_is_refused(nowhere, monkeypatch):
    rundir.runtime_dir()
    other = os.getuid() + 1
    path = nowhere / f"znb-{os.getuid()}"
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(AuthError, match=f"belongs to user {other - 1}, not to {other}"):
        rundir.check_private(path, path.lstat(), directory=True)


def test_sockets_are_in_the_cluster_s_directory_if_they_fit():
    path = Path("/tmp/znb-0/default")
    assert rundir.make_socket_dir(path) == path
    longest = rundir.socket_path(path, "w9999", 999999, "ffff", "events")
    assert len(os.fsencode(longest)) <= rundir.PATH_MAX_BYTES


def test_sockets_of_a_deep_directory_are_in_a_short_one(nowhere, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/tmp")
    cluster = nowhere / ("deep" * 20) / "default"
    cluster.mkdir(parents=True)
    sockets = rundir.make_socket_dir(cluster)
    assert sockets.parent == Path("/tmp")
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert rundir.socket_dir(cluster) == sockets
    (sockets / "w0").write_text("")
    (cluster / "deeper").mkdir()
    (cluster / "deeper/file").write_text("")
    rundir.remove_cluster_dir(cluster)
    assert not sockets.exists()
    assert not cluster.exists()
    rundir.remove_cluster_dir(cluster)


def test_no_short_directory_is_an_error_that_says_how_long_it_may_be(nowhere, monkeypatch):
    monkeypatch.setattr(rundir, "PATH_MAX_BYTES", 30)
    with pytest.raises(ZnbError, match="at most 5 bytes; set ZNB_RUNTIME_DIR"):
        rundir.make_socket_dir(nowhere)


def test_removing_leaves_what_a_link_points_to(nowhere):
    (nowhere / "mine").mkdir()
    (nowhere / "mine/file").write_text("precious")
    cluster = nowhere / "default"
    cluster.mkdir()
    (cluster / "link").symlink_to(nowhere / "mine")
    rundir.remove_cluster_dir(cluster)
    assert (nowhere / "mine/file").read_text() == "precious"


def test_a_directory_has_one_holder(nowhere):
    with rundir.lock_dir(nowhere) as first, rundir.lock_dir(nowhere) as second:
        assert (first, second) == (True, False)
        assert rundir.is_locked(nowhere)
    assert not rundir.is_locked(nowhere)
    with rundir.lock_dir(nowhere / "missing") as held:
        assert not held
    assert not rundir.is_locked(nowhere / "missing")


def test_the_lock_of_a_directory_that_was_replaced_is_worth_nothing(nowhere, monkeypatch):
    path = nowhere / "default"
    path.mkdir()
    original = rundir.fcntl.flock

    def replace_and_lock(descriptor, operation):
        path.rename(nowhere / "old")
        path.mkdir()
        original(descriptor, operation)

    monkeypatch.setattr(rundir.fcntl, "flock", replace_and_lock)
    with rundir.lock_dir(path) as held:
        assert not held


def test_a_runtime_directory_that_cannot_be_made_is_told(monkeypatch):
    monkeypatch.setenv("ZNB_RUNTIME_DIR", "/proc/nope/znb")
    with pytest.raises(ZnbError, match=r"cannot be made: .*ZNB_RUNTIME_DIR"):
        rundir.runtime_dir()
