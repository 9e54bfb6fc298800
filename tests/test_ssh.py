"""Workers on hosts that ssh leads to: two network namespaces, each with an sshd of its own."""

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import psutil
import pytest
import zmq.utils.z85

import engines
import znb
from cluster_harness import PATIENCE, is_gone, wait_gone, wait_until
from farhosts import far_hosts
from kernels import Kernel
from znb import Cluster, cluster
from znb.connection import list_clusters, read_cluster_file, write_cluster_file
from znb.errors import AuthError, NoWorkers, ServiceUnavailable, ZnbError
from znb.launchers import StartOptions
from znb.launchers.ssh import parse_hosts
from znb.pubsub.messages import Hello, encode_message
from znb.pubsub.places import find_sockets
from znb.rpc.registry import find_service

HERE = {"PYTHONPATH": str(Path(__file__).parent)}

on_hosts = pytest.mark.skipif(bool(engines.ssh_missing()), reason=f"NO TEST OF SSH: {engines.ssh_missing()}")


@pytest.fixture(scope="module")
def network(module_world):
    with pytest.MonkeyPatch.context() as patch, far_hosts(module_world.home.parent / "far", "alpha", "beta") as found:
        hosts, bin_ = found
        patch.setenv("PATH", str(bin_), prepend=":")
        yield hosts


@pytest.fixture
def hosts(network):
    """The hosts, on which nothing of a test must stay."""
    before = {host.name: set(host.pids()) for host in network}
    yield network
    for host in network:
        wait_until(lambda: set(host.pids()) <= before[host.name], f"the end of everything on {host.name}")


@pytest.fixture
def impatient(monkeypatch):
    """A host counts as gone after 3 seconds."""
    monkeypatch.setattr(cluster, "StartOptions", functools.partial(StartOptions, lease=3.0))


def agents(host):
    return [pid for pid in host.pids() if b"znb-agent" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]


# -- places


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("alpha", {"alpha": 0}),
        ("alpha*4, me@beta.example.org*12", {"alpha": 4, "me@beta.example.org": 12}),
        ("10.0.0.7*2", {"10.0.0.7": 2}),
    ],
)
def test_hosts(place, expected):
    assert parse_hosts(place) == expected


@pytest.mark.parametrize("place", ["", "alpha,", "alpha*0", "alpha*x", "-oProxyCommand=x", "alpha beta", "a*2*3"])
def test_what_is_no_host(place):
    with pytest.raises(ZnbError, match=r"is no host: expected ssh:HOST"):
        parse_hosts(place)


def test_a_host_that_is_named_twice():
    with pytest.raises(ZnbError, match="alpha is twice"):
        parse_hosts("alpha,alpha*2")


# -- starting


@on_hosts
def test_each_host_gets_its_workers(hosts):
    with Cluster.start(on="ssh:alpha*1,beta*2") as started:
        assert [worker.host for worker in started.workers] == ["alpha", "beta", "beta"]
        for host, worker in zip([hosts[0], hosts[1], hosts[1]], started.workers, strict=True):
            assert worker.pid in host.pids()
            assert started._attached.membership.members[worker.name].calls.startswith(f"tcp://{host.address}:")
        assert [entry.file.launcher for entry in list_clusters()] == ["ssh:alpha*1,beta*2"]


@on_hosts
def test_without_a_number_a_host_has_one_worker_for_each_cpu(hosts):
    with Cluster.start(on="ssh:alpha") as started:
        assert len(started) == len(os.sched_getaffinity(0))


@on_hosts
def test_more_workers_than_places(hosts):
    with Cluster.start(3, on="ssh:alpha*1,beta*1") as started:
        assert sorted(worker.host for worker in started.workers) in (
            ["alpha", "alpha", "beta"],
            ["alpha", "beta", "beta"],
        )


@on_hosts
def test_keys_are_nowhere_on_the_other_host(hosts, world):
    with Cluster.start(on="ssh:alpha*1") as started:
        keys = read_cluster_file(started.connection_file).keys
        for pid in hosts[0].pids():
            for name in ("cmdline", "environ"):
                seen = Path(f"/proc/{pid}/{name}").read_bytes()
                assert not any(key.encode() in seen for key in (keys.secret, keys.public, keys.server))
        everywhere = [path for path in world.runtime.rglob("*") if path.is_file() and path != started.connection_file]
        assert not any(keys.secret.encode() in path.read_bytes() for path in everywhere)


@on_hosts
def test_environment_and_folder(hosts, tmp_path):
    with Cluster.start(on="ssh:alpha*1", env={"GREETING": "hello there"}, cwd=tmp_path) as started:
        assert started["w0"].run("import os; os.environ['GREETING'], os.getcwd()") == ("hello there", str(tmp_path))
        assert b"hello there" not in b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in hosts[0].pids())


# -- starts that fail


@on_hosts
@pytest.mark.parametrize(
    ("where", "python", "said"),
    [
        ("ssh:nowhere.invalid*1", None, r"the line to nowhere.invalid ended:\s*ssh: Could not resolve hostname"),
        ("ssh:stranger*1", None, r"Permission denied \(publickey"),
        ("ssh:unknown*1", None, r"Host key verification failed"),
        ("ssh:alpha*1", "/no/python", r"there is no Python there: tried /no/python"),
        ("ssh:alpha*1,nowhere.invalid*1", None, r"the line to nowhere.invalid ended"),
    ],
)
def test_a_start_that_fails_says_what_ssh_said(hosts, where, python, said, runtime_dir):
    with pytest.raises(NoWorkers, match=said):
        Cluster.start(on=where, python=python)
    assert list(runtime_dir.iterdir()) == []


@on_hosts
def test_a_python_without_znb_says_what_to_install(hosts, tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(NoWorkers, match=r"(?s)Python 3\.\d+\.\d+ at .* cannot be a worker: znb is not installed there"):
        Cluster.start(on="ssh:alpha*1", python=bare)


def wrapped(folder, code):
    """Return an interpreter that runs some code first."""
    (folder / "sitecustomize.py").write_text(code)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


@on_hosts
def test_another_wire_version_is_refused_with_both_numbers(hosts, tmp_path):
    python = wrapped(tmp_path, "import znb.wire; znb.wire.WIRE_VERSION += 1")
    with pytest.raises(NoWorkers, match=r"alpha has znb .* speaks version \d+ .* which speaks \d+: install znb"):
        Cluster.start(on="ssh:alpha*1", python=python)


@on_hosts
def test_another_python_is_told_with_what_will_not_work(hosts, tmp_path, capfd):
    python = wrapped(tmp_path, "import platform; platform.python_version = lambda: '3.99.1'")
    with Cluster.start(on="ssh:alpha*1", python=python):
        told = capfd.readouterr().err
    assert "alpha runs Python 3.99.1" in told
    assert "defined in a notebook cannot go there" in told


OTHERS = """
import importlib.metadata, znb
real = importlib.metadata.version
importlib.metadata.version = lambda name: "0.0.1" if name == "dill" else real(name)
znb.__version__ = "99.0"
"""


@on_hosts
def test_another_znb_and_another_dill_are_told(hosts, tmp_path, capfd):
    with Cluster.start(on="ssh:alpha*1", python=wrapped(tmp_path, OTHERS)) as started:
        told = capfd.readouterr().err
        assert started.run("6 * 7") == 42
    assert f"alpha has znb 99.0, this process {znb.__version__}: use the same" in told
    assert "alpha has dill 0.0.1, this process" in told
    assert "functions and classes that are defined in a notebook may not be understood there; install dill" in told


# -- what is sent


def bare_python(folder, *lines):
    """Return an interpreter that has no packages, on a host whose cache is empty."""
    python = folder / "python"
    cache = f"export XDG_CACHE_HOME={folder}/cache"
    python.write_text("\n".join(["#!/bin/sh", cache, *lines, f'exec {sys.executable} -I -S "$@"\n']))
    python.chmod(0o755)
    return python


@on_hosts
def test_a_python_without_packages_is_sent_what_it_needs_once(hosts, tmp_path, capfd):
    python = bare_python(tmp_path)
    for start in range(2):
        with Cluster.start(on="ssh:alpha*1", python=python, deploy=True) as started:
            assert started.run("import znb; znb.__file__").startswith(f"{tmp_path}/cache")
            assert list(started.map(abs, [-1, 2])) == [1, 2]
        told = capfd.readouterr().err
        assert ("sending znb and what it needs to alpha" in told) == (start == 0)
    (kept,) = (tmp_path / "cache" / "znb").iterdir()
    assert (kept / "znb" / "worker.py").exists()


@on_hosts
def test_what_is_sent_fits_or_says_why_not(hosts, tmp_path):
    code = "import sys; sys.version_info = (3, 8, 1)"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift\nscript=$1\nshift\nexec {sys.executable} -c "{code}\n$script" "$@"\n')
    python.chmod(0o755)
    with pytest.raises(
        NoWorkers, match=r"(?s)alpha cannot be given what it needs:.* is Python 3\.8 linux .*, and what is"
    ):
        Cluster.start(on="ssh:alpha*1", python=python, deploy=True)


def test_nothing_is_sent_to_this_machine():
    with pytest.raises(ZnbError, match="nothing can be deployed on 'local': that is for hosts that ssh leads to"):
        Cluster.start(1, deploy=True)


@on_hosts
def test_an_interrupted_start_leaves_nothing(hosts, runtime_dir):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        Cluster.start(on="ssh:alpha*1,10.255.255.1*1")
    wait_until(lambda: not any(path.name == "connection.json" for path in runtime_dir.rglob("*")), "nothing left")


# -- tunnels


@on_hosts
def test_a_host_that_cannot_be_reached_directly_is_reached_through_its_ssh(hosts):
    with Cluster.start(on="ssh:hidden*2", env=HERE) as started:
        assert {member.calls.partition(":")[0] for member in started._attached.membership.members.values()} == {"ipc"}
        assert list(started.map(abs, range(-50, 0))) == list(range(50, 0, -1))
        data = os.urandom(2_000_000)
        assert started.submit(bytes.upper, data).result() == data.upper()
        started.restart("w0")
        assert started.run("1 + 1") == {"w0": 2, "w1": 2}
        assert all(pid in hosts[0].pids() for pid in [worker.pid for worker in started.workers])


@on_hosts
def test_streams_and_services_of_a_hidden_host_come_through_its_ssh(hosts):
    with Cluster.start(on="ssh:hidden*2", env=HERE) as started:
        with znb.subscribe("hidden", timeout=PATIENCE) as stream:
            started.run("import znb; znb.publish('hidden', 5)")
            assert {next(stream).source, next(stream).source} == {"w0", "w1"}
        znb.expose(reverse, name="hidden-reverse", on=started[:])
        assert {service.url.partition(":")[0] for service in find_service("hidden-reverse")} == {"ipc"}
        with znb.connect("hidden-reverse") as service:
            assert service.reverse(b"abc") == b"cba"
        folder = Path(read_cluster_file(started.connection_file).control).parent
        assert len(list(folder.glob("forward.*"))) == 2 * 2 + 2 + 2, "calls and jobs, streams, services"
        znb.unexpose("hidden-reverse")
        started.restart()
        wait_until(lambda: len(list(folder.glob("forward.*"))) == 2 * 2, "that what nobody needs is taken back")


@on_hosts
def test_an_ssh_that_is_frozen_holds_up_nobody_else(hosts, impatient):
    with Cluster.start(on="ssh:hidden*1,beta*1", env=HERE) as started:
        head = psutil.Process(read_cluster_file(started.connection_file).zygote_pid)
        ssh = [child for child in head.children() if "hidden" in child.cmdline()]
        generations = [worker.generation for worker in started.workers]
        started["w0"].run("import znb, threading; say = threading.Timer(0.5, znb.publish, ('late', 1)); say.start()")
        for process in ssh:
            process.suspend()
        try:
            wait_until(lambda: started.workers[0].generation > generations[0], "that hidden counts as gone")
            assert started["w1"].run("1 + 1") == 2
            assert started.workers[1].generation == generations[1]
        finally:
            for process in ssh:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
        wait_until(lambda: started.workers[0].state == "idle", "that hidden is back")


def reverse(data):
    return data[::-1]


@on_hosts
def test_streams_ask_for_the_keys_that_hold_now(hosts):
    with Cluster.start(on="ssh:alpha*1", env=HERE) as started:
        started.run("import znb; znb.publish('keyed', 1)")
        wait_until(lambda: find_sockets("default"), "a sign")
        (place,) = find_sockets("default")
        url, _, cluster = place.partition("#")
        assert (url[:6], cluster) == ("tcp://", "default")
        started.rotate_keys()
        with znb.subscribe("keyed", timeout=PATIENCE) as stream:
            assert next(stream).value == 1
        with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
            stranger.linger = 0
            stranger.connect(url)
            stranger.send(encode_message(Hello(("",), 0.0)))
            assert not stranger.poll(500), "who has no keys is told nothing"


# -- what is put


def counted(host):
    """Return the bytes that have gone from here to a host."""
    return int(Path(f"/sys/class/net/{host.device}/statistics/tx_bytes").read_text())


@on_hosts
def test_what_is_put_goes_to_each_host_once(hosts):
    data = os.urandom(20_000_000)
    with Cluster.start(on="ssh:alpha*2", env=HERE) as started:
        before = counted(hosts[0])
        with started.put(data) as shared:
            assert list(started.map(functools.partial(length_of, shared), range(40))) == [len(data)] * 40
            assert 20_000_000 < counted(hosts[0]) - before < 25_000_000
            started.kill("w0")  # which may be who holds it
            started.kill("w1")
            started.scale(3)
            assert started.run("1 + 1") == {"w0": 2, "w1": 2, "w2": 2}
            assert list(started.map(functools.partial(length_of, shared), range(40))) == [len(data)] * 40
            assert started.submit(bytes.count, shared, b"\0").result() == data.count(b"\0")
        with pytest.raises(ZnbError, match="cannot be used any more"):
            started.submit(len, shared)


def length_of(shared, _number):
    return len(shared)


@on_hosts
def test_what_is_put_goes_on_from_host_to_host(hosts):
    """Each host's way here is a link of its own: what alpha sends to beta passes both, but is not read from here."""
    with Cluster.start(on="ssh:alpha*1,beta*1", env=HERE) as started, forwarding(hosts):
        with started.put(bytes(10_000_000)) as shared:
            spread = started._attached._spread
            wait_until(lambda: [len(item.places) for item in spread._items.values()] == [2], "both hosts")
            assert not spread._apart, "one has it from the other"
            assert started.submit(len, shared).result() == 10_000_000
            assert started.run("1 + 1") == {"w0": 2, "w1": 2}


@contextlib.contextmanager
def forwarding(hosts):
    """Have this machine pass on what hosts say to each other."""
    switch = Path("/proc/sys/net/ipv4/ip_forward")
    before = switch.read_text()
    switch.write_text("1")
    for host in hosts:
        host.inside("ip", "route", "add", "default", "via", host.gateway)
    try:
        yield
    finally:
        for host in hosts:
            host.inside("ip", "route", "delete", "default")
        switch.write_text(before)


@on_hosts
def test_what_is_put_comes_from_here_where_hosts_cannot_reach_each_other(hosts):
    with Cluster.start(on="ssh:alpha*1,hidden*1", env=HERE) as started, started.put(list(range(100_000))) as shared:
        assert [started.submit(sum, shared).result() for _ in range(4)] == [sum(range(100_000))] * 4


@on_hosts
def test_a_line_with_a_delay(hosts, capfd):
    """50 ms each way."""
    with Cluster.start(on="ssh:slow*2", env=HERE) as started:
        assert list(started.map(abs, range(-2000, 0))) == list(range(2000, 0, -1))
        started["w0"].run("for i in range(500): print('line', i)")
        assert "line 499" in "".join(capfd.readouterr())
        data = os.urandom(1_000_000)
        assert started.submit(bytes.upper, data).result() == data.upper()
        generation = started.workers[0].generation
        started.kill("w0")
        wait_until(lambda: started.workers[0].generation > generation, "the replacement")
        assert started.run("1 + 1") == {"w0": 2, "w1": 2}


# -- ends


@on_hosts
def test_nothing_is_left_when_a_cluster_stops(hosts, runtime_dir):
    started = Cluster.start(on="ssh:alpha*2,beta*2")
    pids = [worker.pid for worker in started.workers]
    heads = [started._attached.launcher.file.zygote_pid, *agents(hosts[0]), *agents(hosts[1])]
    assert len(heads) >= 3
    started.stop()
    assert all(is_gone(pid) for pid in pids)
    wait_gone(*heads)
    assert list(runtime_dir.iterdir()) == []


@on_hosts
def test_workers_end_with_their_head(hosts):
    with Cluster.start(on="ssh:alpha*1,beta*1") as started:
        pids = [worker.pid for worker in started.workers]
        os.kill(started._attached.launcher.file.zygote_pid, signal.SIGKILL)
        wait_gone(*pids)


@on_hosts
def test_workers_end_with_their_ssh_and_come_back(hosts):
    with Cluster.start(on="ssh:alpha*1,beta*1") as started:
        before = {worker.name: worker.pid for worker in started.workers}
        (line,) = [
            process for process in agents(hosts[0]) if b"/bin/sh" not in Path(f"/proc/{process}/cmdline").read_bytes()
        ][-1:]
        os.kill(line, signal.SIGKILL)
        wait_gone(before["w0"])
        wait_until(lambda: started.workers[0].generation == 2, "w0 again")
        assert started["w0"].run("1 + 1") == 2
        assert started.workers[0].host == "alpha"
        assert started.workers[1].pid == before["w1"]


# -- partitions


@on_hosts
def test_a_short_partition_is_not_noticed(hosts):
    with Cluster.start(on="ssh:alpha*1,beta*1", env=HERE) as started:
        before = [worker.pid for worker in started.workers]
        started["w0"].push(kept=1)
        results = started.map(slowly, range(60))
        hosts[0].cut(cut=True)
        threading.Timer(3.0, lambda: hosts[0].cut(cut=False)).start()
        assert list(results) == list(range(60))
        assert started["w0"].pull("kept") == 1
        assert [worker.pid for worker in started.workers] == before


def slowly(number):
    time.sleep(0.05)
    return number


@on_hosts
def test_a_long_partition_moves_the_jobs_and_the_worker_comes_back(hosts, impatient, tmp_path):
    with Cluster.start(on="ssh:alpha*1,beta*1", env=HERE) as started:
        alpha = started.workers[0].pid
        log = tmp_path / "log"
        results = started.map(functools.partial(noted, str(log)), range(80), chunksize=4)
        wait_until(lambda: log.exists() and f" {alpha}\n" in log.read_text(), "jobs on alpha")
        hosts[0].cut(cut=True)
        assert list(results) == list(range(80)), "each result once, in order"
        wait_gone(alpha)
        hosts[0].cut(cut=False)
        wait_until(lambda: started.workers[0].generation > 1 and started.workers[0].state == "idle", "w0 again")
        assert started["w0"].run("'x' in globals()") is False
        assert started.workers[0].host == "alpha"


@on_hosts
def test_a_partition_of_a_minute(hosts, tmp_path):
    """As long as it really takes, with everything at its defaults."""
    with Cluster.start(on="ssh:alpha*1,beta*1", env=HERE) as started:
        alpha, log = started.workers[0].pid, tmp_path / "log"
        results = started.map(functools.partial(noted, str(log)), range(1100))
        wait_until(lambda: log.exists() and f" {alpha}\n" in log.read_text(), "jobs on alpha")
        hosts[0].cut(cut=True)
        back = threading.Timer(60.0, lambda: hosts[0].cut(cut=False))
        back.start()
        assert list(results) == list(range(1100)), "each result once, in order"
        back.join()
        wait_until(lambda: started.workers[0].generation > 1 and started.workers[0].state == "idle", "w0 again")
        assert is_gone(alpha)
        assert started.run("1 + 1") == {"w0": 2, "w1": 2}
        runs = [line.split()[0] for line in log.read_text().splitlines()]
        assert len(runs) - len(set(runs)) <= 64, "what alpha had, and no more, has run again"


def noted(path, number):
    time.sleep(0.05)
    with Path(path).open("a") as log:
        log.write(f"{number} {os.getpid()}\n")
    return number


# -- clients elsewhere


@on_hosts
def test_a_copied_connection_file_and_ssh_lead_to_a_cluster(hosts, tmp_path):
    with Cluster.start(2, name="there") as there:
        copy = tmp_path / "there.json"
        copy.write_bytes(there.connection_file.read_bytes())
        copy.chmod(0o600)
        with Cluster.connect(copy, ssh="alpha", observe=True) as here:
            assert here.run("6 * 7") == {"w0": 42, "w1": 42}
            assert {member.calls for member in here._attached.membership.members.values()}.isdisjoint(
                member.calls for member in there._attached.membership.members.values()
            )
            assert list(here.map(abs, range(-100, 0))) == list(range(100, 0, -1))
            here.kill("w0")
            wait_until(lambda: here.workers[0].generation == 2, "the replacement")
            here.scale(3)
            assert here.run("1 + 1") == {"w0": 2, "w1": 2, "w2": 2}
            assert len(here._attached.launcher._tunnel._local) == 1 + 2 * 3, "and none of the process that was killed"
            assert [worker.host for worker in here.workers] == [os.uname().nodename] * 3
        assert there["w1"].run("'still there'") == "still there"


@on_hosts
def test_magics_and_commands_lead_there_too(hosts, tmp_path):
    """In a notebook that has a cluster of the same name already."""
    with Cluster.start(1, name="same") as there:
        copy = tmp_path / "there.json"
        copy.write_bytes(there.connection_file.read_bytes())
        copy.chmod(0o600)
        pid = there.workers[0].pid
        command = [sys.executable, "-m", "znb", "status", str(copy), "--ssh", "alpha", "--json"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr
        assert [worker["pid"] for worker in json.loads(told.stdout)["workers"]] == [pid]
        with tempfile.TemporaryDirectory(prefix="znb") as name:
            folder = Path(name)
            with Kernel(folder, env={"ZNB_RUNTIME_DIR": str(folder / "run")}) as kernel:
                kernel.run("%load_ext znb\n%znb cluster start 2 --name same").ok()
                kernel.run(f"%znb cluster connect {copy} --ssh alpha").ok()
                assert kernel.run("[worker.pid for worker in cluster.workers]").value == f"[{pid}]"
                assert kernel.run("cluster.run('6 * 7')").value == "42"


@on_hosts
def test_a_connection_through_ssh_that_fails_says_what_ssh_said(hosts, tmp_path):
    with Cluster.start(0, name="there") as there:
        with pytest.raises(ServiceUnavailable, match="Permission denied"):
            Cluster.connect(there.connection_file, ssh="stranger")
        others = there.connection_file
        others.chmod(0o644)
        with pytest.raises(AuthError, match=r"has mode 644, expected 600.*chmod 600"):
            Cluster.connect(others, ssh="alpha")
        others.chmod(0o600)


def test_a_file_of_another_machine_says_what_leads_there(tmp_path):
    with Cluster.start(0, name="there") as there:
        file = read_cluster_file(there.connection_file)
    moved = msgspec.structs.replace(file, host="elsewhere", cluster_dir=str(tmp_path))
    path = write_cluster_file(moved)
    with pytest.raises(ServiceUnavailable, match=r"it runs on elsewhere, and this is .*ssh='elsewhere'"):
        Cluster.connect(path)


# -- the wire


@on_hosts
def test_nothing_on_the_wire_can_be_read(hosts):
    """Everything that passes the link to a host, from the start of a cluster to its end."""
    marker = b"plain text that nobody shall see"
    seen, done = bytearray(), threading.Event()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3)) as capture:
        capture.bind((hosts[0].device, 0))
        capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        capture.settimeout(0.1)

        def listen():
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    seen.extend(capture.recv(1 << 17))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            with Cluster.start(on="ssh:alpha*1") as started:
                keys = read_cluster_file(started.connection_file).keys
                started["w0"].push(hidden=marker)
                assert started["w0"].pull("hidden") == marker
                assert started.submit(bytes.upper, marker).result() == marker.upper()
        finally:
            done.set()
            thread.join()
    assert b"CURVE" in seen, "the capture has seen the handshake of a worker"
    assert b"SSH-2.0" in seen, "and that of ssh"
    for text in (marker, marker.upper(), b"_znb_", b"znb-agent"):
        assert text not in seen
    for key in (keys.secret, keys.server, keys.public):
        assert key.encode() not in seen
    assert zmq.utils.z85.decode(keys.secret.encode()) not in seen
