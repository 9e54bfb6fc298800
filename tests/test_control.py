import marshal
import socket
import struct
import threading
from io import BytesIO
from pathlib import Path

import msgspec
import pytest

from znb import control
from znb.control import (
    ClusterEvent,
    ControlClient,
    ControlPeer,
    FrameDecoder,
    Problem,
    Reply,
    Request,
    Snapshot,
    encode_frame,
    read_frame,
)
from znb.errors import NoWorkers, ProtocolError, ServiceUnavailable, ZnbError

SNAPSHOT = Snapshot(cluster="c", pid=1, wire_version=1, workers=(), clients=1, keep=False, stopping=False)


@pytest.fixture
def ends(tmp_path):
    """A client and its peer, connected."""
    path = f"/tmp/znb-test-{threading.get_native_id()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        client = ControlClient(path)
        client.connect()
        connection, _ = listener.accept()
    peer = ControlPeer(connection)
    yield client, peer
    client.close()
    peer.socket.close()
    Path(path).unlink()


@pytest.mark.parametrize("size", [1, 3, 5, 1000])
def test_frames_survive_any_cutting(size):
    requests = [Request(id=number, op="start", names=("w0",) * number) for number in range(20)]
    stream = b"".join(encode_frame(request) for request in requests)
    decoder = FrameDecoder()
    frames = [frame for at in range(0, len(stream), size) for frame in decoder.feed(stream[at : at + size])]
    assert [msgspec.msgpack.decode(frame, type=Request) for frame in frames] == requests


def test_a_frame_that_is_too_large_is_refused_before_it_is_kept():
    with pytest.raises(ProtocolError, match="announces 4194305 bytes, expected at most 4194304"):
        FrameDecoder().feed(struct.pack(">I", control.FRAME_MAX_BYTES + 1))


@pytest.mark.parametrize("stream", [b"", b"\0\0", b"\0\0\0\5abc", b"\0\0\0\0"])
def test_a_config_that_is_cut_off_is_refused(stream):
    with pytest.raises(ProtocolError, match="on standard input"):
        read_frame(BytesIO(stream))


def test_a_fresh_interpreter_gets_its_path_and_a_frame():
    stream = BytesIO(control.bootstrap_input(["/a"], Request(id=1, op="x")))
    assert marshal.load(stream) == ["/a"]
    assert msgspec.msgpack.decode(read_frame(stream), type=Request) == Request(id=1, op="x")
    command = control.bootstrap_command("/bin/python", "znb.zygote:main", "label")
    assert command[0] == "/bin/python"
    assert "from znb.zygote import main as main" in command[2]
    assert command[3:] == ["label"]


def test_requests_replies_and_events_arrive_in_order(ends):
    client, peer = ends
    assert peer.receive() == []
    ids = [client.request_nowait("hello"), client.request_nowait("scale", n=3)]
    assert [(request.id, request.op, request.n) for request in peer.receive()] == [
        (ids[0], "hello", None),
        (ids[1], "scale", 3),
    ]
    messages = [
        Reply(id=ids[0], ok=SNAPSHOT),
        ClusterEvent(event="stopping", reason="so"),
        Reply(id=ids[1], error=Problem("NoWorkers", "none")),
    ]
    for message in messages:
        peer.send(message)
    received = []
    while len(received) < 3:
        received += client.receive(timeout=5)
    assert received == messages
    assert client.receive() == []
    assert received[0].unwrap() == SNAPSHOT
    with pytest.raises(NoWorkers, match="none"):
        received[2].unwrap()


def test_a_reply_that_says_nothing_and_an_unknown_problem_are_errors():
    with pytest.raises(ProtocolError, match="says nothing"):
        Reply(id=1).unwrap()
    with pytest.raises(ZnbError, match="odd"):
        Reply(id=1, error=Problem("OddError", "odd")).unwrap()


@pytest.mark.parametrize("frame", [b"\xc1", b"\x93\1\2\3", b"\x81\xa2id\xa1x", b"\xff" * 9])
def test_what_is_no_request_is_a_protocol_error(ends, frame):
    client, peer = ends
    client._socket.sendall(struct.pack(">I", len(frame)) + frame)
    with pytest.raises(ProtocolError, match="no request"):
        peer.receive()


@pytest.mark.parametrize("frame", [b"\xc1", b"\x81\xa5event\xa6foobar", b"\x81\xa2ok\1"])
def test_what_is_neither_reply_nor_event_is_one_too(ends, frame):
    client, peer = ends
    peer.socket.sendall(struct.pack(">I", len(frame)) + frame)
    with pytest.raises(ProtocolError, match="neither reply nor event"):
        client.receive(timeout=5)


def test_both_ends_notice_that_the_other_hangs_up(ends):
    client, peer = ends
    peer.send(Reply(id=1, ok=SNAPSHOT))
    peer.flush_and_close(1.0)
    assert client.receive(timeout=5) == [Reply(id=1, ok=SNAPSHOT)]
    with pytest.raises(ServiceUnavailable, match="hung up"):
        client.receive(timeout=5)
    with pytest.raises(ServiceUnavailable, match="is gone"):
        client.request_nowait("hello")
    client.close()
    client.close()
    with pytest.raises(ServiceUnavailable, match="closed"):
        client.request_nowait("hello")


def test_a_client_that_leaves_is_a_connection_error(ends):
    client, peer = ends
    client.close()
    with pytest.raises(ConnectionResetError):
        peer.receive()


def test_a_client_that_does_not_read_is_refused_more(ends, monkeypatch):
    _, peer = ends
    monkeypatch.setattr(control, "BACKLOG_MAX_BYTES", 10_000)

    def flood():
        for _ in range(10_000):
            peer.send(ClusterEvent(event="stopping", reason="x" * 1000))

    with pytest.raises(ConnectionAbortedError, match="bytes unread"):
        flood()
    assert peer.backlog < 12_000
    peer.flush_and_close(0.01)


def test_nobody_there_is_said_with_the_path(tmp_path):
    client = ControlClient(str(tmp_path / "none"))
    with pytest.raises(ServiceUnavailable, match="none: the cluster does not answer"):
        client.connect()
    assert client.fileno() == -1


def test_a_zygote_that_does_not_read_is_said(ends):
    client, _ = ends

    def flood():
        for _ in range(100_000):
            client.request_nowait("restart", names=("w0",) * 1000)

    with pytest.raises(ServiceUnavailable, match="the zygote is gone"):
        flood()
