"""A cluster that others reach over tcp, with a copy of its connection file: from a host of its own name and network."""

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys

import msgspec
import psutil
import pytest

import engines
from cluster_harness import wait_until
from farhosts import far_hosts
from znb import Cluster, cluster
from znb.auth import DOMAIN
from znb.connection import read_cluster_file
from znb.errors import AuthError, NoWorkers, ZnbError
from znb.keys import make_cluster_keys
from znb.launchers import StartOptions

on_hosts = pytest.mark.skipif(bool(engines.ssh_missing()), reason=f"NO TEST OF OTHER HOSTS: {engines.ssh_missing()}")

#: Attaches, does what clients do, and tells what it saw.
CLIENT = """
import json, sys, time
import znb
with znb.Cluster.connect(sys.argv[1], observe=True) as cluster:
    seen = {"cells": cluster.run("6 * 7"), "hosts": [worker.host for worker in cluster.workers]}
    seen["jobs"] = list(cluster.map(abs, range(-100, 0))) == list(range(100, 0, -1))
    before = cluster.workers[0].generation
    cluster.kill("w0")
    while cluster.workers[0].generation == before:
        time.sleep(0.01)
    seen["after"] = cluster["w0"].run("'back'")
    cluster.scale(3)
    seen["names"] = cluster.names
    seen["file"] = cluster["w1"].run("kept")
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def elsewhere(module_world):
    """A function that runs Python on another host."""
    with far_hosts(module_world.home.parent / "far", "alpha") as ((host,), _):

        def run(code, *arguments):
            named = ["unshare", "--uts", "sh", "-c", 'hostname far-away; exec "$@"', "sh"]
            inside = ["ip", "netns", "exec", host.space, *named, sys.executable, "-c", code, *map(str, arguments)]
            return subprocess.run(inside, capture_output=True, text=True, check=False, timeout=60)

        run.gateway = host.gateway
        yield run


def copy_of(cluster, folder, **changes):
    """Return a copy of a connection file, as somebody else would have it."""
    path = folder / "copy.json"
    file = msgspec.structs.replace(read_cluster_file(cluster.connection_file), cluster_dir="/gone", **changes)
    path.touch(0o600)
    path.write_bytes(msgspec.json.encode(file))
    return path


@on_hosts
def test_a_copied_file_leads_there_without_ssh(elsewhere, tmp_path):
    with Cluster.start(2, listen=f"tcp://{elsewhere.gateway}:*") as there:
        there["w1"].push(kept="kept")
        told = elsewhere(CLIENT, copy_of(there, tmp_path))
        assert told.returncode == 0, told.stderr
        assert json.loads(told.stdout) == {
            "cells": {"w0": 42, "w1": 42},
            "hosts": [os.uname().nodename] * 2,
            "jobs": True,
            "after": "back",
            "names": ["w0", "w1", "w2"],
            "file": "kept",
        }
        assert there["w1"].run("kept") == "kept"


ASK = "import sys, znb; znb.Cluster.connect(sys.argv[1])"


@on_hosts
def test_keys_of_another_cluster_are_refused(elsewhere, tmp_path):
    with Cluster.start(1, listen=f"tcp://{elsewhere.gateway}:*") as there:
        own = read_cluster_file(there.connection_file).keys
        others, _ = make_cluster_keys()
        for keys in (others, msgspec.structs.replace(others, server=own.server)):
            told = elsewhere(ASK, copy_of(there, tmp_path, keys=keys))
            assert "refuses the keys for 'default': this connection file is of another start" in told.stderr


@on_hosts
def test_nobody_there_is_said_with_the_way_round(elsewhere, tmp_path):
    with Cluster.start(1, listen=f"tcp://{elsewhere.gateway}:*") as there:
        told = elsewhere(ASK, copy_of(there, tmp_path, door=f"tcp://{elsewhere.gateway}:9"))
        assert f"tcp://{elsewhere.gateway}:9 cannot be reached (" in told.stderr
        assert f"Cluster.connect(FILE, ssh='{os.uname().nodename}')" in told.stderr
        told = elsewhere(ASK, copy_of(there, tmp_path, door="", control="/nobody/there"))
        assert "and this is far-away" in told.stderr
        assert "listen=" in told.stderr


@on_hosts
def test_a_client_that_vanishes_is_noticed(elsewhere, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "StartOptions", functools.partial(StartOptions, lease=3.0))
    with Cluster.start(1, listen=f"tcp://{elsewhere.gateway}:*") as there:
        vanish = "import os, sys, znb; znb.Cluster.connect(sys.argv[1], observe=True).run('1'); os._exit(7)"
        assert elsewhere(vanish, copy_of(there, tmp_path)).returncode == 7
        assert there._attached.launcher.workers().clients == 2, "it may be back"
        wait_until(lambda: there._attached.launcher.workers().clients == 1, "that it is given up")


def test_an_address_that_is_taken_or_foreign_fails_the_start():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NoWorkers, match=f"cannot listen at tcp://127.0.0.1:{port}: Address already in use"):
            Cluster.start(1, listen=f"tcp://127.0.0.1:{port}")
    with pytest.raises(NoWorkers, match=r"cannot listen at tcp://192\.0\.2\.1:"):
        Cluster.start(1, listen="tcp://192.0.2.1:7000")


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "[::]"])
def test_every_address_at_once_is_refused(host):
    with pytest.raises(ValueError, match="must name the address at which others reach this machine"):
        Cluster.start(1, listen=f"tcp://{host}:7000")


def test_an_address_of_ipv6():
    with Cluster.start(1, listen="tcp://[::1]:*") as there:
        assert read_cluster_file(there.connection_file).door.startswith("tcp://[::1]:")
        assert there.run("1 + 1") == 2


@on_hosts
def test_a_door_that_is_killed_opens_again_at_its_address(elsewhere, tmp_path):
    with Cluster.start(1, listen=f"tcp://{elsewhere.gateway}:*") as there:
        head = psutil.Process(read_cluster_file(there.connection_file).zygote_pid)

        def doors():
            found = []
            for child in head.children():
                with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, or none any more
                    found += [child] if "znb-door" in child.cmdline() else []
            return found

        (door,) = doors()
        there.rotate_keys()
        door.kill()
        wait_until(lambda: doors() and doors() != [door], "another one")
        told = elsewhere(
            "import sys, znb; print(znb.Cluster.connect(sys.argv[1], observe=True).run('6 * 7'))",
            copy_of(there, tmp_path),
        )
        assert told.stdout == "42\n", told.stderr


def test_an_old_copy_is_refused_here_too(tmp_path):
    with Cluster.start(1, on="local:tcp") as there:
        old = tmp_path / "old.json"
        shutil.copy(there.connection_file, old)
        there.rotate_keys()
        with pytest.raises(AuthError, match="refuses the keys for 'default': this connection file is of another start"):
            Cluster.connect(old)


@on_hosts
def test_changed_keys_lock_old_copies_out(elsewhere, tmp_path):
    with Cluster.start(2, listen=f"tcp://{elsewhere.gateway}:*") as there:
        old = copy_of(there, tmp_path).rename(tmp_path / "old.json")
        with Cluster.connect(there.connection_file, observe=True) as other:
            there.rotate_keys()
            assert "refuses the keys for 'default'" in elsewhere(ASK, old).stderr
            kept = read_cluster_file(old).keys
            new = copy_of(there, tmp_path)
            assert read_cluster_file(new).keys.secret != kept.secret
            told = elsewhere("import sys, znb; print(znb.Cluster.connect(sys.argv[1], observe=True).run('6 * 7'))", new)
            assert told.stdout == "{'w0': 42, 'w1': 42}\n", told.stderr
            stale = elsewhere(ASK, copy_of(there, tmp_path, keys=kept))
            assert "refuses the keys" in stale.stderr
            for client in (there, other):  # also what is made, and dialled, later
                client.kill("w0")
                assert client.run("1 + 1") == {"w0": 2, "w1": 2}
                assert list(client.map(abs, [-1, 2])) == [1, 2]


def test_without_keys_there_are_none_to_change():
    with (
        Cluster.start(1) as there,
        pytest.raises(ZnbError, match="has no keys: its workers listen in a private folder"),
    ):
        there.rotate_keys()


def test_a_stranger_is_told_nothing():
    with Cluster.start(1, listen="tcp://127.0.0.1:*") as there:
        port = int(read_cluster_file(there.connection_file).door.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 5) as stranger, contextlib.suppress(ConnectionError):
            greeting = stranger.recv(64)
            stranger.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48))
            answer = greeting + stranger.recv(4096)
            assert DOMAIN.encode() not in answer
            assert b"znb" not in answer
        assert there.run("6 * 7") == 42
