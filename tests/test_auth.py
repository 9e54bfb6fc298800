"""Workers on tcp: who gets in, and what others on the network see."""

import contextlib
import os
import re
import socket
import stat
import sys
import threading
from pathlib import Path

import pytest
import zmq

from cluster_harness import PATIENCE, wait_until
from znb import Cluster
from znb.auth import client_options
from znb.connection import read_cluster_file
from znb.keys import make_cluster_keys
from znb.transport import Reactor, bind_socket
from znb.wire import encode_event


@pytest.fixture(scope="module")
def cluster(module_world):
    with Cluster.start(1, on="local:tcp", name="keys") as made:
        wait_until(lambda: len(made._attached.jobs._peers) == len(made), "every connection")
        yield made


@pytest.fixture
def keys(cluster):
    return read_cluster_file(cluster.connection_file).keys


@pytest.fixture
def ask(cluster):
    """A function that pings the worker with a socket as prepared, and returns whether there was an answer."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())

        def ask(prepare, patience=1000):
            url = cluster._attached.membership.members["w0"].calls
            assert url.startswith("tcp://127.0.0.1:")
            events = []
            with context.socket(zmq.DEALER) as peer:
                peer.linger = 0
                prepare(peer)
                with peer.get_monitor_socket() as monitor:
                    peer.connect(url)
                    peer.send_multipart([b"", encode_event({"message_id": 1, "znb": 1}, "_znb_ping", None)])
                    answered = bool(peer.poll(patience))
                    while monitor.poll(0):
                        events.append(int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder))
                    peer.disable_monitor()
            return answered, events

        yield ask


def with_keys(server, public, secret):
    def prepare(socket):
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, server)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, secret)

    return prepare


def test_who_holds_the_keys_gets_in(ask, keys):
    assert ask(client_options(keys), PATIENCE * 1000)[0]


def test_who_has_no_key_is_told_nothing(ask):
    answered, events = ask(lambda _socket: None)
    assert not answered
    assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in events


def test_who_knows_only_the_address_is_told_nothing(ask):
    strangers, _ = make_cluster_keys()
    answered, events = ask(client_options(strangers))
    assert not answered
    assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in events


def test_who_knows_only_the_workers_key_is_refused(ask, keys):
    strangers, _ = make_cluster_keys()
    answered, events = ask(with_keys(keys.server, strangers.public, strangers.secret))
    assert not answered
    assert zmq.EVENT_HANDSHAKE_FAILED_AUTH in events
    assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in events


def test_a_worker_of_another_cluster_cannot_pose_as_one(keys):
    """A client sends nothing to who does not hold the workers' key."""
    _, wrong = make_cluster_keys()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as impostor, context.socket(zmq.DEALER) as client:
        impostor.curve_server = True
        impostor.setsockopt_string(zmq.CURVE_SECRETKEY, wrong.secret)
        port = impostor.bind_to_random_port("tcp://127.0.0.1")
        client.linger = 0
        client_options(keys)(client)
        client.connect(f"tcp://127.0.0.1:{port}")
        client.send(b"secret")
        assert not impostor.poll(500)


def test_keys_are_only_in_the_connection_file(cluster, keys):
    assert stat.S_IMODE(cluster.connection_file.stat().st_mode) == 0o600
    assert keys.secret not in repr(keys)
    assert keys.secret not in repr(read_cluster_file(cluster.connection_file))
    for pid in (os.getpid(), cluster.workers[0].pid, cluster._attached.launcher.file.zygote_pid):
        for name in ("cmdline", "environ"):
            seen = Path(f"/proc/{pid}/{name}").read_bytes()
            assert not any(key.encode() in seen for key in (keys.secret, keys.public, keys.server))
    others = [
        path for path in cluster.connection_file.parent.iterdir() if path.is_file() and path != cluster.connection_file
    ]
    assert not any(keys.secret in path.read_text() for path in others)


def test_each_cluster_has_its_own_keys(cluster, keys):
    with Cluster.start(0, on="local:tcp", name="other") as other:
        theirs = read_cluster_file(other.connection_file).keys
        assert {keys.server, keys.public, keys.secret}.isdisjoint({theirs.server, theirs.public, theirs.secret})


def test_a_cluster_on_this_machine_alone_has_none():
    with Cluster.start(1, name="plain") as plain:
        assert read_cluster_file(plain.connection_file).keys is None
        assert plain._attached.membership.members["w0"].calls.startswith("ipc://")


def test_keys_that_a_worker_does_not_know_are_refused(cluster, keys, monkeypatch):
    import msgspec

    from znb.errors import AuthError
    from znb.launchers import local

    strangers, _ = make_cluster_keys()
    stale = msgspec.structs.replace(strangers, server=keys.server)
    real = local.client_options
    monkeypatch.setattr(local, "client_options", lambda _keys: real(stale))
    with Cluster.connect(cluster.connection_file, observe=True) as other:
        with pytest.raises(AuthError, match="w0 refused this client's keys"):
            other["w0"].run("1")


def test_nothing_on_the_wire_can_be_read(cluster, keys):
    """Everything that passes loopback while a secret travels there and back, in cells and in jobs."""
    if not hasattr(socket, "AF_PACKET") or os.geteuid() != 0:
        pytest.skip("NO CAPTURE: it needs Linux and root")
    marker = b"plain text that nobody shall see"
    seen = bytearray()
    done = threading.Event()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3)) as capture:
        capture.bind(("lo", 0))
        capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        capture.settimeout(0.1)

        def listen():
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    seen.extend(capture.recv(1 << 17))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            with Cluster.connect(cluster.connection_file, observe=True) as other:  # a new handshake
                other["w0"].push(secret=marker)
                assert other["w0"].pull("secret") == marker
                assert other.submit(lambda value: value, marker).result() == marker
                assert list(other.map(bytes.upper, [marker] * 3)) == [marker.upper()] * 3
        finally:
            done.set()
            thread.join()
    assert b"CURVE" in seen, "the capture has seen the handshake"
    for text in (marker, marker.upper(), b"_znb_ping", b"secret"):
        assert text not in seen
    worker_secret = zmq.utils.z85.decode(keys.secret.encode())
    assert worker_secret not in seen
    assert keys.secret.encode() not in seen


def test_ports_can_be_given(monkeypatch):
    with Cluster.start(2, on="local:tcp", name="ports", bind="tcp://127.0.0.1:42100-42109") as cluster:
        ports = [
            int(re.fullmatch(r"tcp://127\.0\.0\.1:(\d+)", url)[1])
            for member in cluster._attached.membership.members.values()
            for url in (member.calls, member.jobs)
        ]
        assert len(set(ports)) == 4
        assert all(42100 <= port <= 42109 for port in ports)
        assert cluster.submit(pow, 2, 2).result() == 4


def test_a_range_that_is_full_says_so():
    reactor = Reactor()
    first = reactor.socket(zmq.ROUTER)
    port = first.bind_to_random_port("tcp://127.0.0.1")
    second = reactor.socket(zmq.ROUTER)
    with pytest.raises(zmq.ZMQError, match=rf"every port of tcp://127.0.0.1:{port}-{port} is in use"):
        bind_socket(second, f"tcp://127.0.0.1:{port}-{port}")
    with pytest.raises(zmq.ZMQError, match=r"Cannot assign|No such device"):
        bind_socket(second, "tcp://192.0.2.1:5000-5010")
    reactor.stop()
