"""Values folded into pictures: what each kind shows, and what it keeps."""

import json
import math
from array import array

import numpy as np
import pandas as pd
import pytest

from znb.widgets.kinds import (
    COLUMNS,
    FULL_POINTS,
    IMAGES,
    LINES,
    LINES_SENT,
    POINTS,
    ROWS,
    SERIES,
    Seen,
    guess_kind,
    make_picture,
)

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20


def seen(value, topic="t", source="w0", time=1.0):
    return Seen(topic, source, time, value)


def doubles(buffer):
    return list(array("d", buffer))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, "line"),
        (0.5, "line"),
        (np.float32(2), "line"),
        ({"loss": 1.0}, "line"),
        ({"epoch": 1, "loss": 1.0}, "line"),
        ({"file": "a.py", "lines": 3}, "table"),
        ([{"a": 1}, {"a": 2}], "table"),
        (pd.DataFrame({"a": [1]}), "table"),
        ({"level": "info", "message": "hello"}, "log"),
        ("hello", "log"),
        (True, "log"),
        ([1, 2], "log"),
        (None, "log"),
        (PNG, "image"),
        (b"RIFF0000WEBPVP8 ", "image"),
        (b"bytes", "log"),
    ],
    ids=repr,
)
def test_kinds_follow_from_the_data(value, kind):
    assert guess_kind(value) == kind


def test_lines_are_one_per_key_and_source():
    lines = make_picture("line")
    lines.add(seen({"loss": 1.0, "note": "x", "ok": True}, time=5.0))
    lines.add(seen({"loss": 2.0}, source="w1", time=6.0))
    content, (x, y) = lines.frame(full=False)
    assert content["x"] == "time"
    assert content["series"] == [[0, "t.loss", "w0"], [1, "t.loss", "w1"]]
    assert content["counts"] == [[0, 1], [1, 1]]
    assert (doubles(x), doubles(y)) == ([5.0, 6.0], [1.0, 2.0])
    lines.add(seen(7, time=8.0))
    content, (x, y) = lines.frame(full=False)
    assert (content["series"], content["counts"], doubles(x), doubles(y)) == ([[2, "t", "w0"]], [[2, 1]], [8.0], [7.0])
    content, (x, y) = lines.frame(full=True)
    assert len(content["series"]) == 3
    assert sorted(doubles(y)) == [1.0, 2.0, 7.0]
    assert lines.frame(full=False).content["counts"] == []
    assert "t.loss (w1): 2, 1 points" in lines.text()


def test_a_key_that_counts_is_the_axis():
    lines = make_picture("line")
    for epoch in range(3):
        lines.add(seen({"epoch": epoch, "loss": -epoch}))
    lines.add(seen({"loss": 9}))  # has no place on that axis
    content, (x, y) = lines.frame(full=True)
    assert (content["x"], doubles(x), doubles(y)) == ("epoch", [0.0, 1.0, 2.0], [0.0, -1.0, -2.0])
    chosen = make_picture("line", x="loss")
    chosen.add(seen({"epoch": 1, "loss": 5}))
    assert chosen.frame(full=True).content["series"] == [[0, "t.epoch", "w0"]]


def test_lines_are_bounded_and_a_full_frame_keeps_their_peaks():
    lines = make_picture("line")
    for number in range(3 * POINTS):
        lines.add(seen(1000.0 if number == 3 * POINTS - 777 else number % 7, time=float(number)))
    (_, count), (x, y) = lines.frame(full=True).content["counts"][0], lines.frame(full=True).buffers
    assert count == len(doubles(x)) <= FULL_POINTS + 2
    assert doubles(x) == sorted(doubles(x))
    assert max(doubles(y)) == 1000.0
    assert doubles(x)[-1] == 3 * POINTS - 1
    for number in range(SERIES + 5):
        lines.add(seen(1, topic=f"t{number}"))
    content = lines.frame(full=True).content
    assert (len(content["series"]), content["hidden"]) == (SERIES, 6)


def test_a_table_holds_the_latest_of_each_topic_and_source():
    table = make_picture("table")
    table.add(seen({"file": "a.py", "n": 1}))
    table.add(seen({"file": "b.py", "n": 2, "more": None}))
    table.add(seen({"file": "c.py"}, source="w1"))
    content, _ = table.frame(full=False)
    assert content["columns"] == ["file", "n", "more"]
    assert content["rows"] == [["t w0", 1.0, "w0", "t", "b.py", 2, None], ["t w1", 1.0, "w1", "t", "c.py", None, None]]
    assert table.frame(full=False).content["rows"] == []
    assert len(table.frame(full=True).content["rows"]) == 2
    assert "t (w1): file c.py" in table.text()


def test_a_table_of_rows_is_replaced_as_a_whole():
    table = make_picture("table")
    table.add(seen([{"a": 1}, {"a": 2}, {"a": 3}]))
    table.frame(full=False)
    table.add(seen(pd.DataFrame({"a": [np.int64(4)], "b": [float("nan")]})))
    content, _ = table.frame(full=False)
    assert content["gone"] == ["t w0 #1", "t w0 #2"]
    assert content["columns"] == ["a", "", "b"]
    assert content["rows"] == [["t w0 #0", 1.0, "w0", "t", 4, 0, "nan"]]
    assert table.frame(full=False).content["gone"] == []


def test_tables_are_bounded():
    table = make_picture("table")
    for number in range(ROWS + 10):
        table.add(seen({"text": "x" * 1000, f"c{number}": 2**80}, topic=f"t{number}"))
    content, _ = table.frame(full=False)
    assert (len(content["rows"]), len(content["columns"]), len(content["gone"])) == (ROWS, COLUMNS, 10)
    assert len(content["rows"][0][4]) < 200


def test_a_log_knows_levels():
    log = make_picture("log")
    values = ["plain", "2026 ERROR it broke", {"level": "WARNING", "msg": "hot", "n": 1}, {"message": "m"}, [1, 2]]
    for value in values:
        log.add(seen(value))
    assert [line[3:] for line in log.frame(full=False).content["lines"]] == [
        ["info", "plain"],
        ["error", "2026 ERROR it broke"],
        ["warning", "hot  {'n': 1}"],
        ["info", "m"],
        ["info", "[1, 2]"],
    ]
    assert "w0: plain" in log.text()


def test_a_log_is_bounded_and_says_what_it_skipped():
    log = make_picture("log")
    for number in range(LINES + 5):
        log.add(seen(str(number)))
    content = log.frame(full=False).content
    assert (len(content["lines"]), content["skipped"]) == (LINES_SENT, LINES + 5 - LINES_SENT)
    assert content["lines"][-1][4] == str(LINES + 4)
    assert len(log.frame(full=True).content["lines"]) == LINES
    assert log.frame(full=False).content == {"lines": [], "skipped": 0}


def test_pictures_are_the_latest_of_each_topic_and_source():
    images = make_picture("image")
    images.add(seen(b"GIF89a"))
    images.add(seen(PNG))
    images.add(seen("no picture"))
    content, buffers = images.frame(full=False)
    assert content["images"] == [["t", "w0", 1.0, "image/png"]]
    assert buffers == [PNG]
    for number in range(IMAGES + 3):
        images.add(seen(PNG, topic=f"t{number}"))
    assert len(images.frame(full=True).buffers) == IMAGES
    assert images.frame(full=False) == ({"images": []}, [])


def test_pil_images_are_pictures():
    image = pytest.importorskip("PIL.Image").new("P", (3, 2))
    images = make_picture(guess_kind(image))
    images.add(seen(image))
    assert images.frame(full=True).buffers[0].startswith(b"\x89PNG")


def test_what_cannot_be_shown_is_told_and_hurts_nothing():
    lines = make_picture("line")
    odd = ["text", None, [1], {"a": "x"}, {"a": {"b": 1}}, 10**400, {"a": 10**400}, math.nan, {"a": -math.inf}]
    assert [lines.add(seen(value)) for value in odd] == [False] * len(odd)
    assert lines.add(seen({"\ud800": 1, "b": math.nan}))
    content = lines.frame(full=False).content
    assert [name for _, name, _ in content["series"]] == ["t.\\ud800"]
    table, log = make_picture("table"), make_picture("log")
    assert table.add(seen({"\ud800": "\ud801", **{f"c{k}": k for k in range(COLUMNS + 9)}}))
    assert table.frame(full=True).content["hidden"] == 10
    assert table.add(seen({"big": 10**400}, topic="big"))
    assert log.add(seen({"level": "L" * 100, "message": "\ud800"}))
    json.dumps([table.frame(full=True).content, log.frame(full=True).content], ensure_ascii=False).encode()
    assert not make_picture("image").add(seen(b"no picture"))


class Awkward:
    def __repr__(self):
        raise RuntimeError("not today")


@pytest.mark.parametrize("kind", ["table", "log"])
def test_what_has_no_text_is_said_to_have_none(kind):
    picture = make_picture(kind)
    for number, value in enumerate((10**5000, Awkward(), {"\ud800": 1})):
        assert picture.add(seen(value, topic=f"t{number}"))
    text = json.dumps(picture.frame(full=True).content, allow_nan=False)
    assert "cannot be shown: RuntimeError: not today" in text
    assert "ud800" in text
