"""What a publisher notes for the case that it is killed."""

from __future__ import annotations

import os

import pytest

from znb.pubsub.ledger import SIZE_BYTES, STEP_BYTES, Ledger, ledger_path, open_ledger, read_ledger


@pytest.fixture
def url(tmp_path):
    return f"ipc://{tmp_path}/p.events"


@pytest.fixture
def ledger(url):
    made = Ledger(ledger_path(url))
    yield made
    made.close()


def test_a_reader_sees_the_last_number_of_each_topic(ledger, url):
    with open_ledger(url) as file:
        assert read_ledger(file).numbers == {}
        for topic, number in (("loss", 1), ("größe", 7), ("loss", 2)):
            ledger.note(topic, number)
        found = read_ledger(file)
    assert found.numbers == {"loss": 2, "größe": 7}
    assert not found.full
    assert found.made > 0


def test_it_is_read_after_it_is_closed_and_removed(ledger, url):
    ledger.note("loss", 3)
    with open_ledger(url) as file:
        ledger.close()
        ledger.close()
        ledger.note("loss", 4)
        ledger.note("other", 1)
        assert read_ledger(file).numbers.keys() == {"loss"}
    assert open_ledger(url) is None


def test_topics_that_find_no_room_in_it_are_told_of(ledger, url):
    count = SIZE_BYTES // 200
    for number in range(count):
        ledger.note(f"{number:0200}", 1)
    with open_ledger(url) as file:
        found = read_ledger(file)
    assert found.full
    assert 0 < len(found.numbers) < count


def test_a_full_disk_is_no_bus_error(url, monkeypatch):
    room = [STEP_BYTES, 100]

    def write(descriptor, data, offset):
        if not room:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: room.pop(0)], offset)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", write)
    ledger = Ledger(ledger_path(url))
    for number in range(2000):
        ledger.note(f"topic/{number}", 1)
    ledger.note("topic/0", 2)
    with open_ledger(url) as file:
        found = read_ledger(file)
    assert found.full
    assert found.numbers["topic/0"] == 2
    assert os.stat(ledger_path(url)).st_blocks * 512 <= STEP_BYTES + 4096
    ledger.close()
    with pytest.raises(OSError, match="No space left"):
        Ledger(ledger_path(url))
    assert not ledger_path(url).exists()


def test_one_that_is_cut_off_tells_what_it_has(tmp_path):
    (tmp_path / "cut").write_bytes(b"\0" * 7)
    with (tmp_path / "cut").open("rb") as file:
        assert read_ledger(file) == (0.0, True, {})


def test_there_is_none_of_another_machine():
    assert ledger_path("tcp://127.0.0.1:1") is None
    assert open_ledger("tcp://127.0.0.1:1") is None
