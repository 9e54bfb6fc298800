import contextlib
import os
import signal
import socket
import stat
import struct

import pytest

from cluster_harness import PATIENCE, Harness, harness, is_gone, wait_gone, wait_until
from znb import zygote
from znb.connection import find_cluster, list_clusters, read_cluster_file
from znb.control import CONTROL_VERSION, ControlClient, Reply, encode_frame
from znb.control import Request as ControlRequest
from znb.errors import NoWorkers, ProtocolError, ServiceUnavailable, ZnbError


@pytest.fixture
def cluster():
    with harness(2) as made:
        yield made


@contextlib.contextmanager
def client_of(cluster):
    client = ControlClient(cluster.launcher.file.control)
    client.connect()
    try:
        yield client
    finally:
        client.close()


def reply_to(client, op, **arguments):
    """Return the reply to a request, and the events before it."""
    identifier = client.request_nowait(op, **arguments)
    events = []
    while True:
        for message in client.receive(PATIENCE):
            if isinstance(message, Reply) and message.id == identifier:
                return message, events
            events.append(message)


def hung_up(client):
    """Wait until the zygote hangs up on a client."""
    with pytest.raises(ServiceUnavailable):
        while True:
            assert client.receive(PATIENCE)
    return True


def pids(cluster):
    return [cluster.launcher.file.zygote_pid, *(worker.pid for worker in cluster.launcher.workers().workers)]


# -- clients


def test_every_client_gets_events_from_its_hello_on(cluster):
    with client_of(cluster) as second, client_of(cluster) as silent:
        assert reply_to(second, "hello")[0].unwrap().clients == 2
        assert reply_to(silent, "workers")[0].unwrap().clients == 2
        cluster.launcher.scale(3)
        reply, events = reply_to(second, "workers")
        assert [event.event for event in events] == ["started", "scaled", "ready"]
        assert len(reply.unwrap().workers) == 3
        assert reply_to(silent, "workers")[1] == []


def test_a_snapshot_says_what_there_is(cluster):
    snapshot = cluster.launcher.workers()
    assert snapshot.cluster == "default"
    assert snapshot.pid == cluster.launcher.file.zygote_pid
    assert (snapshot.clients, snapshot.keep, snapshot.stopping) == (1, False, False)
    assert [worker.name for worker in snapshot.workers] == ["w0", "w1"]
    directory = cluster.launcher.file.cluster_dir
    for worker in snapshot.workers:
        for kind in ("calls", "jobs", "events"):
            assert getattr(worker, kind).startswith(f"ipc://{directory}/{worker.name}.1.")
            assert getattr(worker, kind).endswith(f".{kind}")


def test_another_version_of_the_protocol_is_refused_with_both_numbers(cluster):
    with client_of(cluster) as client:
        reply, _ = reply_to(client, "hello", version=99)
        with pytest.raises(ProtocolError, match=rf"speaks version 99 .* version {CONTROL_VERSION}: use znb"):
            reply.unwrap()


def test_unknown_and_incomplete_requests_are_answered(cluster):
    with client_of(cluster) as client:
        with pytest.raises(ProtocolError, match="knows no 'dance'; it knows hello, workers, start"):
            reply_to(client, "dance")[0].unwrap()
        with pytest.raises(ProtocolError, match="does not say to how many"):
            reply_to(client, "scale")[0].unwrap()
        with pytest.raises(ZnbError, match="there is no worker w9; there are w0, w1"):
            reply_to(client, "kill", names=("w9",))[0].unwrap()
        with pytest.raises(ZnbError, match=r"the zygote failed at 'signal'.*this is a defect"):
            reply_to(client, "signal", names=("w0",), signum=10**6)[0].unwrap()
    assert cluster.worker().generation == 1


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\5\x81\xa2id\xa1"]
)
def test_garbage_costs_its_sender_the_connection_and_nobody_else_anything(cluster, garbage):
    with client_of(cluster) as rude, client_of(cluster) as polite:
        rude._socket.sendall(garbage)
        assert hung_up(rude)
        assert reply_to(polite, "workers")[0].unwrap().workers
    assert cluster.launcher.workers()


def test_half_a_frame_hurts_nobody(cluster):
    with client_of(cluster) as slow, client_of(cluster) as other:
        frame = encode_frame(ControlRequest(id=7, op="workers"))
        slow._socket.sendall(frame[:3])
        assert reply_to(other, "workers")[0].unwrap()
        slow._socket.sendall(frame[3:])
        (reply,) = slow.receive(PATIENCE)
        assert reply.id == 7


def test_many_requests_at_a_time_are_answered_in_order(cluster):
    with client_of(cluster) as client:
        frames = b"".join(encode_frame(ControlRequest(id=number, op="workers")) for number in range(2000))
        client._socket.setblocking(False)
        ids, sent = [], 0
        while len(ids) < 2000:
            with contextlib.suppress(BlockingIOError):
                sent += client._socket.send(frames[sent : sent + 10_000]) if sent < len(frames) else 0
            ids += [reply.id for reply in client.receive(0.01)]
        assert ids == list(range(2000))


def test_a_client_that_does_not_read_is_dropped_and_the_others_go_on(cluster):
    with client_of(cluster) as deaf:
        reply_to(deaf, "hello")
        frames = b"".join(encode_frame(ControlRequest(id=number, op="workers")) for number in range(40_000))
        with contextlib.suppress(OSError):
            deaf._socket.sendall(frames)
        wait_until(lambda: cluster.launcher.workers().clients == 1, "the end of the deaf client")


# -- the end


def test_stop_leaves_nothing(runtime_dir, cluster):
    everybody = pids(cluster)
    cluster.launcher.stop()
    assert all(is_gone(pid) for pid in everybody)
    assert list(runtime_dir.iterdir()) == []
    assert cluster.names().count("stopping") == 1
    assert cluster.names().count("stopped") == 2
    assert "lost" not in cluster.names()
    cluster.launcher.stop()


def test_stop_by_one_client_is_told_to_the_other(cluster):
    with client_of(cluster) as other:
        reply_to(other, "hello")
        cluster.launcher.stop()
        events = []
        with contextlib.suppress(ServiceUnavailable):
            while True:
                events += other.receive(PATIENCE)
        assert [event.event for event in events] == ["stopping", "stopped", "stopped"]
        assert events[0].reason == "a client asked for it"


def test_workers_that_do_not_obey_are_killed():
    with harness(2, stop_grace=0.05) as cluster:
        cluster.tell("w0", "signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.Popen(['sleep', '1000'])")
        cluster.launcher.signal(["w1"], signal.SIGSTOP)
        everybody = pids(cluster)
        cluster.launcher.stop()
        assert all(is_gone(pid) for pid in everybody)


def test_requests_while_it_stops_fail_and_those_before_are_answered(cluster):
    cluster.tell("w0", "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ignoring', flush=True)")
    with client_of(cluster) as client:
        reply_to(client, "hello")
        waiting = [client.request_nowait("restart", names=("w0",)), client.request_nowait("stop")]
        late = client.request_nowait("scale", n=5)
        replies = {}
        with contextlib.suppress(ServiceUnavailable):
            while True:
                for message in client.receive(PATIENCE):
                    if isinstance(message, Reply):
                        replies[message.id] = message
    with pytest.raises(NoWorkers, match="w0 was stopped before it was ready"):
        replies[waiting[0]].unwrap()
    assert replies[waiting[1]].unwrap().stopping
    with pytest.raises(NoWorkers, match="is stopping; start it again"):
        replies[late].unwrap()


def test_sigterm_to_the_zygote_stops_everything_in_order(runtime_dir, cluster):
    everybody = pids(cluster)
    os.kill(everybody[0], signal.SIGTERM)
    assert cluster.wait_event("stopping").reason == "its zygote was asked to end (SIGTERM)"
    wait_gone(*everybody)
    assert list(runtime_dir.iterdir()) == []


def test_sigkill_of_the_zygote_ends_the_workers(runtime_dir, cluster):
    cluster.tell("w0", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    everybody = pids(cluster)
    os.kill(everybody[0], signal.SIGKILL)
    wait_gone(*everybody)
    assert "hung up" in cluster.wait_event("lost").reason
    with pytest.raises(ServiceUnavailable, match="closed"):
        cluster.launcher.workers()
    assert [entry.state for entry in list_clusters()] == ["dead"]
    cluster.launcher.stop()
    assert list(runtime_dir.iterdir()) == []


# -- orphans


def test_without_a_client_it_ends_after_its_grace(runtime_dir):
    with harness(2, grace=0.3) as cluster:
        everybody = pids(cluster)
        cluster.vanish()
        wait_gone(*everybody)
        assert list(runtime_dir.iterdir()) == []


def test_a_client_that_comes_in_time_keeps_it_alive():
    with harness(1, grace=0.3) as cluster:
        zygote_pid = pids(cluster)[0]
        with client_of(cluster) as second:
            reply_to(second, "hello")
            cluster.vanish()
            assert second.receive(0.6) == []
            assert reply_to(second, "workers")[0].unwrap().clients == 1
        wait_gone(zygote_pid)


def test_looking_at_it_does_not_count(runtime_dir):
    with harness(1, grace=0.3) as cluster:
        zygote_pid = pids(cluster)[0]
        cluster.vanish()
        wait_until(lambda: [find_alive() for _ in range(3)] and is_gone(zygote_pid), "its end")


def find_alive():
    with contextlib.suppress(ServiceUnavailable):
        return find_cluster("default")
    return None


def test_keep_keeps_it(runtime_dir):
    with harness(1, grace=0.05, keep=True) as cluster:
        file = cluster.launcher.file
        assert file.keep
        cluster.vanish()
        with Connected(file) as second:
            assert second.launcher.workers().keep
            assert not second.launcher.keep(keep=False).keep
            assert not read_cluster_file(runtime_dir / "default/connection.json").keep
            second.launcher.keep(keep=True)
            second.vanish()
        with Connected(file) as third:
            third.launcher.keep(keep=False)
            third.vanish()
        wait_gone(file.zygote_pid)


class Connected(Harness):
    def __init__(self, file):
        super().__init__()
        self.launcher.connect(file)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reactor.stop()


def test_the_last_client_may_end_it_when_it_leaves(runtime_dir, cluster):
    everybody = pids(cluster)
    with client_of(cluster) as second:
        reply_to(second, "hello")
        reply, _ = reply_to(second, "detach", stop=True)
        assert not reply.unwrap().stopping
        assert reply_to(second, "hello")[0].unwrap().clients == 2
        second.close()
        wait_until(lambda: cluster.launcher.workers().clients == 1, "the end of the second client")
    assert not any(is_gone(pid) for pid in everybody)
    cluster.launcher.detach(stop=True)
    assert all(is_gone(pid) for pid in everybody)
    assert list(runtime_dir.iterdir()) == []
    cluster.launcher.detach()


# -- its own files


def test_what_it_writes_is_private(runtime_dir, cluster):
    assert stat.S_IMODE((runtime_dir / "default").stat().st_mode) == 0o700
    for name in ("connection.json", "zygote.log"):
        assert stat.S_IMODE((runtime_dir / "default" / name).stat().st_mode) == 0o600
    assert stat.S_ISSOCK((runtime_dir / "default/control").stat().st_mode)
    assert read_cluster_file(runtime_dir / "default/connection.json") == cluster.launcher.file


def test_modules_are_loaded_once_and_failures_are_written_down(capsys):
    zygote.preload(("json", "os:getpid", "no_such_module", "os:no_such_function"))
    written = capsys.readouterr().err
    assert "cannot preload no_such_module" in written
    assert "cannot preload os:no_such_function" in written
    assert "cannot preload json" not in written


def test_threads_of_preloaded_modules_are_written_down(capsys, monkeypatch):
    monkeypatch.setattr(zygote, "is_single_threaded", lambda: False)
    zygote.preload(("json",))
    assert "one of json has started a thread" in capsys.readouterr().err


def test_two_frames_may_come_in_one_piece_and_the_second_be_garbage(cluster):
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(cluster.launcher.file.control)
        raw.settimeout(PATIENCE)
        raw.sendall(encode_frame(ControlRequest(id=1, op="workers")) + struct.pack(">I", 2**31))
        while raw.recv(65536):
            pass
    assert cluster.launcher.workers()


def test_two_who_start_it_at_once_mean_the_same_workers():
    with harness(0) as cluster:
        starts = [cluster.launcher.request_nowait("start", n=2, first=True) for _ in range(2)]
        assert [len(start.result(PATIENCE).workers) for start in starts] == [2, 2]
        assert [worker.name for worker in cluster.launcher.workers().workers] == ["w0", "w1"]
