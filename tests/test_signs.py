"""Signs of workers elsewhere: told through a pipe, put up as files, and found by who looks for streams and services."""

import json
import os
import socket
import stat
import time

import pytest
import zmq

from znb import connect
from znb.child import Child
from znb.connection import WorkerSpec
from znb.control import FrameDecoder, encode_frame
from znb.errors import ServiceUnavailable
from znb.launchers.board import Board
from znb.pubsub import places
from znb.pubsub.publisher import CLOCKS_DIFFER, clock_offset
from znb.rpc import registry
from znb.signs import Outside, Place, Sign

OWNER = ("w0", 1)


@pytest.fixture
def board(runtime_dir):
    folder = runtime_dir / "far"
    folder.mkdir(mode=0o700)
    made = Board("far", folder)
    yield made
    made.take_down(OWNER)


def service(url, **more):
    record = {"format": 1, "name": "add", "url": url, "group": "g", "pid": 7, "host": "alpha", "created": time.time()}
    return Sign("service", "add.7", url.partition("#")[0], json.dumps({**record, **more}).encode())


def test_a_process_of_this_machine_tells_nothing():
    outside = Outside()
    assert outside.place is None
    outside.tell(Sign("events", "k", "tcp://127.0.0.1:1"))


def test_signs_arrive_whole_and_in_order():
    read, write = os.pipe()
    outside = Outside()
    outside.settle(Place("tcp://127.0.0.1:*", gate=None), write)
    told = [Sign("service", f"s{i}", f"tcp://127.0.0.1:{i}", b"x" * 10_000) for i in range(1, 5)]
    for sign in told:
        outside.tell(sign)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert FrameDecoder().feed(pipe.read()) == [encode_frame(sign)[4:] for sign in told]


def test_an_agent_that_is_gone_is_no_error():
    read, write = os.pipe()
    os.close(read)
    outside = Outside()
    outside.settle(Place("tcp://127.0.0.1:*", gate=None), write)
    outside.tell(Sign("events", "k"))
    os.close(write)


def test_streams_are_found_where_their_sign_says(board, runtime_dir):
    board.put_up(OWNER, Sign("events", "k", "tcp://10.0.0.7:4000"))
    assert places.find_sockets() == {"tcp://10.0.0.7:4000#far"}
    (path,) = (runtime_dir / "far").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    board.put_up(OWNER, Sign("events", "k"))
    assert places.find_sockets() == set()


def test_a_worker_takes_its_signs_along(board):
    board.put_up(OWNER, Sign("events", "k", "tcp://10.0.0.7:4000"))
    board.put_up(OWNER, service("tcp://10.0.0.7:4001#" + "ab" * 32))
    board.put_up(("w1", 1), Sign("events", "k", "tcp://10.0.0.7:4002"))
    board.take_down(OWNER)
    assert places.find_sockets() == {"tcp://10.0.0.7:4002#far"}
    assert registry.list_services() == []
    board.take_down(("w1", 1))


def test_a_service_is_found_with_its_key_at_the_address_that_leads_there(board, tmp_path):
    key = "cd" * 32
    with socket.socket(socket.AF_UNIX) as forward:
        forward.bind(str(tmp_path / "f"))
        forward.listen()
        sign = service(f"tcp://127.0.0.1:4001#{key}")
        board.put_up(OWNER, Sign("service", sign.key, f"ipc://{tmp_path}/f", sign.record))
        (found,) = registry.find_service("add")
        assert found.url == f"ipc://{tmp_path}/f#{key}"
        assert (found.worker, found.pid) == ("w0 on alpha", os.getpid())
    board.put_up(OWNER, Sign("service", sign.key))
    with pytest.raises(ServiceUnavailable):
        connect("add")


def test_a_service_with_two_files_is_one(board, runtime_dir):
    """A worker that an engine has started on this machine has its own, and one of its head's."""
    sign = service("tcp://127.0.0.1:4001#" + "ab" * 32, host=os.uname().nodename, pid=os.getpid())
    board.put_up(OWNER, sign)
    own = registry.publish("add", "tcp://127.0.0.1:4001#" + "ab" * 32, group="g", doc="", methods=[])
    assert len(registry.find_service("add")) == 1
    registry.withdraw(own)


def test_a_full_disk_is_written_down(board, capfd, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("znb.launchers.board.write_private", full)
    board.put_up(OWNER, Sign("events", "k", "tcp://10.0.0.7:4000"))
    assert "No space left" in capfd.readouterr().err


def test_a_record_that_is_none_harms_nobody(board, capfd):
    board.put_up(OWNER, Sign("service", "s", "tcp://10.0.0.7:4000", b"nonsense"))
    board.put_up(OWNER, Sign("service", "t", "tcp://10.0.0.7:4000", b"{}"))
    assert capfd.readouterr().err.count(".service: ") == 2
    assert registry.list_services() == []


def test_what_a_worker_writes_there_by_mistake_harms_nobody(capfd):
    read, write = os.pipe()
    os.set_blocking(read, False)
    urls = dict.fromkeys(("calls", "jobs", "events"), "tcp://127.0.0.1:1")
    spec = WorkerSpec(
        name="w0", generation=1, cluster="c", cluster_dir="", parent_fd=-1, ready_fd=-1, crash_fd=-1, **urls
    )
    child = Child(spec, os.getpid(), read, -1)
    os.write(write, b"\1")
    assert child.read_ready() == []
    assert child.ready
    sign = Sign("events", "k", "tcp://127.0.0.1:2")
    frame = encode_frame(sign)
    os.write(write, frame[:5])
    assert child.read_ready() == []
    os.write(write, frame[5:] + b"\0\0\0\4what")
    assert child.read_ready() == []
    assert "w0 has told nonsense" in capfd.readouterr().err
    os.close(write)
    assert child.read_ready() == []
    assert child.ready_fd == -1


def test_who_is_not_found_in_time_is_spoken_of(runtime_dir, monkeypatch, caplog):
    monkeypatch.setattr(registry, "FOUND_TIMEOUT", 0.02)
    registry.wait_found("add", ["tcp://10.0.0.7:1#" + "ab" * 32, "ipc:///somewhere"])
    assert "1 of the replicas of add cannot be found by name yet" in caplog.text


def test_a_sign_of_a_cluster_that_has_ended_leads_nowhere(board, runtime_dir):
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        assert places.dial(dealer, "tcp://127.0.0.1:9#gone") is False


def test_clocks():
    assert clock_offset(100.0, 100.0 + CLOCKS_DIFFER / 2) == 0.0, "that is the message's way"
    assert clock_offset(100.0, 160.0) == 60.0
    assert clock_offset(160.0, 100.0) == -60.0
