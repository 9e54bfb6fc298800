import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from znb.journal import SIZE, Journal, read_journal


@pytest.fixture
def crash_file():
    fd = os.memfd_create("znb-test")
    yield fd
    os.close(fd)


def test_a_file_without_a_journal_has_no_last_words(crash_file):
    assert read_journal(crash_file) == ""
    os.write(crash_file, b"Fatal Python error")
    assert read_journal(crash_file) == ""


def test_what_was_written_is_read_in_order(crash_file):
    journal = Journal(crash_file)
    assert read_journal(crash_file) == ""
    journal.write("one\n")
    journal.write("zwei ü\n")
    assert read_journal(crash_file) == "one\nzwei ü\n"


def test_on_a_full_disk_words_are_lost_and_not_the_process(crash_file, monkeypatch):
    Journal(crash_file)
    assert os.fstat(crash_file).st_blocks * 512 >= SIZE  # there is room for what is written: else it ends by SIGBUS

    def write(descriptor, data, offset):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", write)
    journal = Journal(crash_file)
    journal.begin()
    journal.write("words\n")
    assert read_journal(crash_file) == ""


def test_a_dump_at_the_beginning_of_the_file_is_left_alone(crash_file):
    os.write(crash_file, b"Fatal Python error")
    Journal(crash_file).write("words\n")
    assert os.pread(crash_file, 18, 0) == b"Fatal Python error"
    assert read_journal(crash_file) == "words\n"


def test_of_much_output_the_last_whole_lines_are_kept(crash_file):
    journal = Journal(crash_file)
    for number in range(10_000):
        journal.write(f"line {number}\n")
    lines = read_journal(crash_file).splitlines()
    assert lines == [f"line {number}" for number in range(10_000 - len(lines), 10_000)]
    assert SIZE - 20 < sum(len(line) + 1 for line in lines) <= SIZE


def test_one_piece_longer_than_the_ring_keeps_its_end(crash_file):
    journal = Journal(crash_file)
    journal.write("x" * (3 * SIZE) + "end")
    assert read_journal(crash_file) == "x" * (SIZE - 3) + "end"


def test_only_what_was_written_since_the_last_beginning_is_read(crash_file):
    journal = Journal(crash_file)
    journal.write("an earlier cell\n")
    journal.begin()
    assert read_journal(crash_file) == ""
    journal.write("this one\n")
    assert read_journal(crash_file) == "this one\n"
    journal.write("x" * 2 * SIZE)
    journal.begin()
    journal.write("after much\n")
    assert read_journal(crash_file) == "after much\n"


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=SIZE), max_size=12))
def test_the_ring_holds_the_end_of_everything_written(pieces):
    fd = os.memfd_create("znb-test")
    try:
        journal = Journal(fd)
        for piece in pieces:
            journal.write(piece)
        assert read_journal(fd) == "".join(pieces)[-SIZE:]
    finally:
        os.close(fd)
