"""The board without sockets: what each reader gets, however slow it is."""

import hypothesis.strategies as st
from hypothesis import given, settings

from znb.pubsub.board import WINDOW_BYTES, Board
from znb.pubsub.messages import Content

TOPICS = ("a", "a/b", "c")


class Reading:
    """A reader, and what a subscriber makes of what it is sent."""

    def __init__(self, board, topics, since):
        self.reader, self.numbers = board.open(topics, since)
        self.got = []
        self.lost = 0

    def read(self, board, *, take=True):
        for posted in board.take(self.reader):
            item = posted.item
            self.lost += item.number - self.numbers.get(item.topic, 0) - 1
            self.numbers[item.topic] = item.number
            self.got.append(item)
        if take:
            self.reader.taken_bytes = self.reader.sent_bytes

    def values(self, topic):
        return [item.number for item in self.got if item.topic == topic]


def post(board, topic, time, size=10):
    board.post(topic, Content(b"x" * size), (), size, time=time, source="w0")


def test_a_late_reader_gets_the_last_value_of_each_topic_and_no_gap():
    board = Board()
    for number in range(5):
        post(board, "a", number)
    post(board, "c", 5)
    reading = Reading(board, ("a",), 100)
    reading.read(board)
    assert [(item.topic, item.number, item.late) for item in reading.got] == [("a", 5, True)]
    post(board, "a", 101)
    reading.read(board)
    assert reading.values("a") == [5, 6]
    assert reading.lost == 0


def test_a_reader_that_was_waiting_gets_everything_since_it_began():
    board = Board()
    post(board, "a", 1)
    for number in range(5):
        post(board, "a", 10 + number)
        post(board, "c", 10 + number)
    reading = Reading(board, (), 10)
    reading.read(board)
    assert reading.values("a") == [2, 3, 4, 5, 6]
    assert reading.values("c") == [1, 2, 3, 4, 5]
    assert reading.lost == 0


def test_a_reader_that_is_overtaken_gets_the_last_of_silent_topics_and_counts_the_rest():
    board = Board(messages=10)
    reading = Reading(board, (), 0)
    post(board, "c", 1)
    post(board, "c", 1)
    for number in range(50):
        post(board, "a", number)
    reading.read(board)
    assert reading.values("c") == [2]
    assert reading.values("a") == list(range(41, 51))
    assert reading.lost == 1 + 40


def test_a_reader_that_takes_nothing_is_sent_no_more_than_its_window():
    board = Board()
    reading = Reading(board, (), 0)
    for _ in range(100):
        post(board, "a", 1, size=100_000)
    for _ in range(5):
        reading.read(board, take=False)
    assert reading.reader.sent_bytes <= WINDOW_BYTES + 100_001
    while not board.is_done(reading.reader):
        reading.read(board)
    assert reading.values("a") == list(range(1, 101))


def test_a_message_larger_than_everything_arrives():
    board = Board(size_bytes=100)
    reading = Reading(board, (), 0)
    post(board, "a", 1, size=3 * WINDOW_BYTES)
    reading.read(board)
    assert reading.values("a") == [1]


def test_what_is_held_is_bounded():
    board = Board(messages=50, size_bytes=10_000, topics=20, topics_bytes=5_000)
    for number in range(1000):
        post(board, f"t{number}", number, size=400)
    stats = board.stats()
    assert stats.published == 1000
    assert stats.held_bytes <= 10_000
    assert stats.topics <= 20
    assert board._last_bytes <= 5_000
    assert set(board._born) == set(board._last)


def test_a_reader_goes_on_after_a_pause():
    board = Board()
    reading = Reading(board, (), 0)
    for number in range(3):
        post(board, "a", number)
    reading.read(board)
    cursor = reading.reader.cursor
    for number in range(3):
        post(board, "a", number)
    reading.reader = board.resume((), cursor)
    reading.read(board)
    assert reading.values("a") == [1, 2, 3, 4, 5, 6]


@settings(max_examples=200)
@given(
    st.lists(st.one_of(st.sampled_from(TOPICS), st.sampled_from(["read", "read and take"])), max_size=120),
    st.integers(1, 12),
)
def test_every_message_is_received_or_counted_and_the_last_arrives(steps, messages):
    board = Board(messages=messages)
    everything, some = Reading(board, (), 0), Reading(board, ("a",), 0)
    posted = dict.fromkeys(TOPICS, 0)
    for step in steps:
        if step in posted:
            posted[step] += 1
            post(board, step, 1, size=WINDOW_BYTES // 3)
        else:
            for reading in (everything, some):
                reading.read(board, take=step == "read and take")
    for reading in (everything, some):
        while not board.is_done(reading.reader):
            reading.reader.taken_bytes = reading.reader.sent_bytes
            reading.read(board)
    for topic, count in posted.items():
        assert everything.values(topic) == sorted(set(everything.values(topic)))
        assert everything.values(topic)[-1:] == ([count] if count else [])
    assert len(everything.got) + everything.lost == sum(posted.values())
    assert len(some.got) + some.lost == posted["a"] + posted["a/b"]
    indexes = [item.index for item in everything.got]
    assert indexes == sorted(indexes)
