"""What is shown of the outputs of several workers: labels, folding, order, live lines, clears; and the pace."""

from __future__ import annotations

import io
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from znb.console import BLOCK_LINES, HELD_LINES, HOLD, LIVE_EVERY, TAIL_CHARS, UNFINISHED, OutputView
from znb.outputs import Clear, Display, Text
from znb.sinks import BURST_BYTES, NotebookSink, Pace, TerminalSink, make_sink


class FakeSink:
    """Notes what it is asked to show."""

    def __init__(self, *, color=False):
        self.color = color
        self.log = []

    def write(self, stream, text):
        self.log.append((stream, text))

    def display(self, data, metadata, display_id, *, update):
        self.log.append(("display", data, display_id, update))

    def clear(self, *, wait):
        self.log.append(("clear", wait))

    def live(self, lines):
        self.log.append(("live", list(lines)))

    def notice(self, text):
        if text:
            self.log.append(("notice", text))

    def text(self, stream=None):
        return "".join(entry[1] for entry in self.log if entry[0] in ({stream} if stream else {"stdout", "stderr"}))

    @property
    def lives(self):
        return [entry[1] for entry in self.log if entry[0] == "live"]

    @property
    def displays(self):
        return [entry[1:] for entry in self.log if entry[0] == "display"]


class Bench:
    """A view with a clock and a sink."""

    def __init__(self, workers=2, *, color=False, **options):
        self.now = 100.0
        self.sink = FakeSink(color=color)
        self.view = OutputView([f"w{i}" for i in range(workers)], self.sink, lambda: self.now, **options)

    def out(self, worker, text, stream="stdout"):
        self.view.feed(f"w{worker}", Text(stream, text))

    def later(self, seconds):
        self.now += seconds
        return self.view.tick()


class TestOneWorker:
    def test_its_output_passes_as_it_is(self):
        bench = Bench(1)
        for text in ("a\nb", "\r50%", "\r100%\n"):
            bench.out(0, text, "stderr")
        assert bench.sink.log == [("stderr", "a\nb"), ("stderr", "\r50%"), ("stderr", "\r100%\n")]
        assert bench.view.tick() is None

    def test_its_displays_and_clears_pass(self):
        bench = Bench(1)
        bench.view.feed("w0", Display({"text/plain": "x"}))
        bench.view.feed("w0", Clear(True))
        assert bench.sink.log == [("display", {"text/plain": "x"}, None, False), ("clear", True)]

    def test_it_is_labelled_if_asked_for(self):
        bench = Bench(1, label=True)
        bench.out(0, "a\nb\n")
        assert bench.sink.text() == "w0 │ a\nw0 │ b\n"


class TestLabels:
    def test_each_line_says_whose_it_is_and_lines_are_never_torn(self):
        bench = Bench(2)
        bench.out(0, "from ")
        bench.out(1, "from w1\n")
        bench.out(0, "w0\n")
        bench.view.close()
        assert bench.sink.text() == "w1 │ from w1\nw0 │ from w0\n"

    def test_names_are_aligned(self):
        sink = FakeSink()
        view = OutputView(["w9", "w10"], sink)
        view.feed("w9", Text("stdout", "a\n"))
        view.feed("w10", Text("stdout", "b\n"))
        view.close()
        assert sink.text() == "w9  │ a\nw10 │ b\n"

    def test_names_have_colours_where_these_are_understood(self):
        bench = Bench(2, color=True)
        bench.out(0, "a\n")
        bench.out(1, "b\n")
        bench.view.close()
        assert bench.sink.text() == "\x1b[36mw0\x1b[0m │ a\n\x1b[35mw1\x1b[0m │ b\n"

    def test_stderr_stays_stderr(self):
        bench = Bench(2)
        bench.out(0, "a\n")
        bench.out(0, "b\n", "stderr")
        bench.out(0, "c\n")
        bench.view.close()
        assert bench.sink.log[:3] == [("stdout", "w0 │ a\n"), ("stderr", "w0 │ b\n"), ("stdout", "w0 │ c\n")]

    def test_a_worker_that_joins_is_labelled_too(self):
        bench = Bench(1)
        bench.view.feed("w7", Text("stdout", "new\n"))
        bench.view.close()
        assert bench.sink.text() == "w7 │ new\n"

    def test_text_without_a_newline_ends_as_a_line(self):
        bench = Bench(2)
        bench.out(0, "a")
        bench.out(1, "b")
        bench.view.close()
        assert bench.sink.text() == "w0 │ a\nw1 │ b\n"


class TestFolding:
    def test_what_all_print_is_shown_once_and_at_once(self):
        bench = Bench(3)
        for worker in range(3):
            bench.out(worker, "hello\n")
        assert bench.sink.text() == "all │ hello\n"

    @pytest.mark.parametrize(
        ("who", "label"),
        [
            ((0, 1), "w0,w1"),
            ((0, 2), "w0,w2"),
            ((0, 1, 2), "w0\N{EN DASH}w2"),
            ((1, 2, 3, 5), "w1\N{EN DASH}w3,w5"),
            ((4,), "w4"),
        ],
    )
    def test_what_some_print_names_them(self, who, label):
        bench = Bench(6)
        for worker in who:
            bench.out(worker, "hello\n")
        assert bench.sink.text() == ""
        bench.later(HOLD)
        assert bench.sink.text().strip() == f"{label} │ hello".strip()

    def test_common_lines_around_own_ones_are_folded(self):
        bench = Bench(2)
        for worker in range(2):
            bench.out(worker, f"begin\nrank {worker}\nend\n")
        bench.later(HOLD)
        assert bench.sink.text() == "all │ begin\nw0  │ rank 0\nw1  │ rank 1\nall │ end\n"

    def test_lines_that_come_a_little_later_are_folded(self):
        bench = Bench(2)
        bench.out(0, "begin\nrank 0\nend\n")
        bench.later(HOLD / 2)
        bench.out(1, "begin\nrank 1\nend\n")
        bench.later(HOLD / 2)
        assert bench.sink.text() == "all │ begin\nw0  │ rank 0\nw1  │ rank 1\nall │ end\n"

    def test_lines_that_come_much_later_are_not(self):
        bench = Bench(2)
        bench.out(0, "hello\n")
        bench.later(HOLD)
        assert bench.sink.text() == "w0 │ hello\n"
        bench.out(1, "hello\n")
        bench.later(HOLD)
        assert bench.sink.text() == "w0 │ hello\nw1 │ hello\n"

    def test_nothing_waits_for_workers_that_are_done(self):
        bench = Bench(3)
        bench.view.done("w2")
        bench.out(0, "hello\n")
        bench.out(1, "hello\n")
        assert bench.sink.text() == "w0,w1 │ hello\n"
        bench.view.done("w1")
        bench.out(0, "alone\n")
        assert bench.sink.text().endswith("w0    │ alone\n")

    def test_a_worker_that_ends_releases_what_waited_for_it(self):
        bench = Bench(2)
        bench.out(0, "hello\n")
        assert bench.sink.text() == ""
        bench.view.done("w1")
        assert bench.sink.text() == "w0 │ hello\n"

    def test_the_same_line_on_different_streams_is_not_the_same(self):
        bench = Bench(2)
        bench.out(0, "a\n")
        bench.out(1, "a\n", "stderr")
        bench.view.close()
        assert (bench.sink.text("stdout"), bench.sink.text("stderr")) == ("w0 │ a\n", "w1 │ a\n")

    def test_a_line_that_one_worker_repeats_is_not_folded(self):
        bench = Bench(2)
        bench.out(0, "a\na\na\n")
        bench.out(1, "a\n")
        bench.view.close()
        assert bench.sink.text() == "all │ a\nw0  │ a\nw0  │ a\n"

    def test_blank_lines_do_not_hurry_others(self):
        bench = Bench(2)
        bench.out(0, "\nlast of 0\n")
        bench.later(HOLD / 2)
        bench.out(1, "first of 1\n\nlast of 1\n")
        bench.later(HOLD / 2)
        assert bench.sink.text() == "w0 │ \nw0 │ last of 0\n"

    def test_progress_that_has_ended_is_compared_as_it_looks(self):
        bench = Bench(2)
        bench.out(0, "\r10%")
        bench.out(0, "\r100%\n")
        bench.out(1, "\r30%\r100%\n")
        assert bench.sink.text() == "all │ 100%\n"

    def test_long_repetitions_do_not_take_long(self):
        bench = Bench(2)
        for _ in range(10):
            bench.out(0, "same\n" * 3000)
        bench.view.close()
        assert bench.sink.text() == "w0 │ same\n" * 30_000


class TestHolding:
    def test_a_lone_line_is_shown_when_its_time_has_come(self):
        bench = Bench(2)
        bench.out(0, "a\n")
        assert bench.view.tick() == pytest.approx(HOLD)
        assert bench.sink.text() == ""
        assert bench.later(HOLD) is None
        assert bench.sink.text() == "w0 │ a\n"

    def test_what_is_held_is_bounded(self):
        bench = Bench(2)
        bench.out(0, "".join(f"{i}\n" for i in range(HELD_LINES + 5)))
        assert bench.sink.text() == "".join(f"w0 │ {i}\n" for i in range(5))

    def test_a_line_that_does_not_end_is_cut(self):
        bench = Bench(2)
        for _ in range(3):
            bench.out(0, "x" * (TAIL_CHARS // 2 + 1))
        bench.view.close()
        assert bench.sink.text() == f"w0 │ {'x' * (TAIL_CHARS + 2)}\nw0 │ {'x' * (TAIL_CHARS // 2 + 1)}\n"

    def test_everything_is_shown_at_the_end(self):
        bench = Bench(3)
        bench.out(0, "a\nb")
        bench.out(1, "a\n")
        bench.view.close()
        bench.view.close()
        assert bench.sink.text() == "w0,w1 │ a\nw0    │ b\n"

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 2),
                st.sampled_from(["a\n", "b\n", "\n", "a", "b", "\ra", "a\nb\nc\n", "c\na\n"]),
                st.sampled_from(["stdout", "stderr"]),
                st.sampled_from([0.0, 0.01, HOLD, 0.3]),
            ),
            max_size=40,
        ),
        st.lists(st.integers(0, 2), max_size=3),
    )
    def test_each_workers_lines_are_all_shown_once_in_order(self, events, done):
        bench = Bench(3)
        expected = {(worker, stream): "" for worker in range(3) for stream in ("stdout", "stderr")}
        for worker, text, stream, pause in events:
            bench.out(worker, text, stream)
            expected[worker, stream] += text
            bench.later(pause)
        for worker in done:
            bench.view.done(f"w{worker}")
        bench.view.close()
        seen = {key: [] for key in expected}
        names = {"all": [0, 1, 2], "w0": [0], "w1": [1], "w2": [2], "w0,w1": [0, 1], "w0,w2": [0, 2], "w1,w2": [1, 2]}
        for stream in ("stdout", "stderr"):
            for line in bench.sink.text(stream).split("\n")[:-1]:
                label, _, text = line.partition(" │ ")
                for worker in names[label.strip()]:
                    seen[worker, stream].append(text)
        for key, text in expected.items():
            lines = text.split("\n")
            if not lines[-1]:
                lines.pop()
            assert seen[key] == [_overwritten(line) for line in lines]


def _overwritten(line):
    screen = ""
    for part in line.split("\r"):
        screen = part + screen[len(part) :]
    return screen


class TestLiveLines:
    def test_a_line_that_does_not_end_soon_is_shown_live(self):
        bench = Bench(2)
        bench.out(0, "working...")
        assert bench.view.tick() == pytest.approx(UNFINISHED)
        assert bench.sink.lives == []
        bench.later(UNFINISHED)
        assert bench.sink.lives == [["w0 │ working..."]]
        bench.out(0, "done\n")
        bench.later(LIVE_EVERY)
        assert bench.sink.lives == [["w0 │ working..."], []]
        assert bench.sink.text() == "w0 │ working...done\n"

    def test_progress_bars_of_several_workers_have_a_line_each(self):
        bench = Bench(2)
        for percent in range(0, 100, 10):
            for worker in range(2):
                bench.out(worker, f"\r{percent + worker}%", "stderr")
            bench.later(0.05)
        assert bench.sink.lives[-1] == ["w0 │ 90%", "w1 │ 91%"]
        assert bench.sink.text() == ""
        bench.view.close()
        assert bench.sink.text("stderr") == "w0 │ 90%\nw1 │ 91%\n"
        assert bench.sink.lives[-1] == []

    def test_live_lines_change_ten_times_a_second_at_most(self):
        bench = Bench(2)
        for i in range(1000):
            bench.out(0, f"\r{i}")
            bench.later(0.001)
        assert len(bench.sink.lives) <= 1 / LIVE_EVERY + 1

    def test_a_live_line_is_not_waited_for_in_vain(self):
        bench = Bench(2)
        bench.out(0, "prompt> ")
        bench.later(UNFINISHED)
        assert bench.later(1) is None

    def test_a_progress_bar_does_not_grow(self):
        bench = Bench(2)
        for i in range(5000):
            bench.out(0, f"\r{i % 10}{'#' * 70}")
        assert max(len(s.tails["stdout"]) for s in bench.view._sources.values()) < 500


class TestDisplays:
    def test_several_workers_displays_are_labelled(self):
        bench = Bench(2)
        bench.out(0, "before\n")
        bench.view.feed("w0", Display({"image/png": "0"}))
        bench.out(0, "after\n")
        bench.view.close()
        assert bench.sink.log[:3] == [
            ("stdout", "w0 │ before\nw0 │\n"),
            ("display", {"image/png": "0"}, None, False),
            ("stdout", "w0 │ after\n"),
        ]

    def test_equal_displays_are_folded(self):
        bench = Bench(2)
        for worker in range(2):
            bench.view.feed(f"w{worker}", Display({"text/html": "<b>"}))
        assert bench.sink.log == [("stdout", "all │\n"), ("display", {"text/html": "<b>"}, None, False)]

    def test_ids_of_workers_do_not_clash_and_work_in_later_cells(self):
        first, second = Bench(2), Bench(2)
        for worker in range(2):
            first.view.feed(f"w{worker}", Display({"text/plain": "x"}, {}, "mine"))
        first.view.close()
        ids = [shown[1] for shown in first.sink.displays]
        assert len(set(ids)) == 2
        second.view.feed("w1", Display({"text/plain": "y"}, {}, "mine", True))
        second.view.close()
        assert second.sink.displays == [({"text/plain": "y"}, ids[1], True)]
        assert second.sink.text() == ""

    def test_ids_of_clusters_do_not_clash(self):
        ids = set()
        for scope in ("", "other"):
            bench = Bench(1, scope=scope)
            bench.view.feed("w0", Display({"text/plain": "x"}, {}, "mine"))
            ids.add(bench.sink.displays[0][1])
        assert len(ids) == 2


class TestClears:
    def test_what_all_clear_is_cleared(self):
        bench = Bench(2)
        for worker in range(2):
            bench.view.feed(f"w{worker}", Clear(True))
        assert bench.sink.log == [("clear", True)]

    def test_what_one_clears_is_its_own(self):
        bench = Bench(2)
        bench.out(0, "stays\n")
        bench.out(1, "stays too\n")
        for step in range(3):
            bench.view.feed("w0", Clear(True))
            bench.out(0, f"step {step}\nof 3\n")
            bench.later(0.2)
        bench.view.close()
        assert bench.sink.lives[:3] == [[f"w0 │ step {step}", "w0 │ of 3"] for step in range(3)]
        assert bench.sink.text() == "w0 │ stays\nw1 │ stays too\nw0 │ step 2\nw0 │ of 3\n"

    def test_clearing_at_once_removes_before_the_next_output(self):
        bench = Bench(2)
        bench.view.feed("w0", Clear(False))
        bench.out(0, "x\n")
        bench.later(0.2)
        bench.view.feed("w0", Clear(False))
        bench.later(0.2)
        assert bench.sink.lives == [["w0 │ x"], []]

    def test_displays_after_a_clear_take_the_place_of_those_before(self):
        bench = Bench(2)
        for step in range(3):
            bench.view.feed("w0", Clear(True))
            bench.view.feed("w0", Display({"image/png": str(step)}))
            bench.later(0.2)
        ids = {shown[1] for shown in bench.sink.displays}
        assert len(ids) == 1
        assert [shown[2] for shown in bench.sink.displays] == [False, True, True]
        assert bench.sink.text() == "w0 │\n"

    def test_what_is_kept_live_is_bounded(self):
        bench = Bench(2)
        bench.view.feed("w0", Clear(True))
        bench.out(0, "".join(f"{i}\n" for i in range(100)))
        bench.later(0.2)
        assert len(bench.sink.lives[-1]) == BLOCK_LINES


class TestHurry:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_after_an_interrupt_the_last_lines_are_shown_at_the_end(self, workers):
        bench = Bench(workers)
        bench.out(0, "shown\n")
        bench.later(HOLD)
        bench.view.hurry()
        before = list(bench.sink.log)
        for i in range(5000):
            bench.out(0, f"line {i} {'x' * 50}\n")
        bench.view.feed("w0", Display({"text/plain": "x"}))
        bench.view.feed("w0", Clear())
        assert bench.sink.log == before
        bench.view.close()
        assert "lines left out after the interrupt]" in bench.sink.text("stderr")
        assert len(bench.sink.text()) < 20_000
        assert bench.sink.text().rstrip("\n").endswith(f"line 4999 {'x' * 50}")

    @pytest.mark.parametrize("workers", [1, 2])
    def test_an_interrupt_while_the_sink_waits_hurries(self, workers):
        bench = Bench(workers)

        def interrupted(stream, text):
            raise KeyboardInterrupt

        write, bench.sink.write = bench.sink.write, interrupted
        with pytest.raises(KeyboardInterrupt):
            bench.out(0, "a\n" * (HELD_LINES + 1))
        bench.sink.write = write
        bench.out(0, "b\n")
        assert bench.sink.log == []
        bench.view.close()
        assert bench.sink.text().endswith("b\n")

    def test_an_interrupt_while_ticking_hurries(self):
        bench = Bench(2)

        def interrupted(stream, text):
            raise KeyboardInterrupt

        bench.out(0, "a\n")
        write, bench.sink.write = bench.sink.write, interrupted
        with pytest.raises(KeyboardInterrupt):
            bench.later(HOLD)
        bench.sink.write = write
        bench.out(0, "b\n")
        bench.later(HOLD)
        assert bench.sink.log == []
        bench.view.close()
        assert bench.sink.text() == "w0 │ b\n"


class Screen(io.StringIO):
    """A terminal that can be looked at."""

    def isatty(self):
        return True

    def lines(self):
        shown = [""]
        rest = self.getvalue()
        while rest:
            if rest.startswith("\x1b["):
                end = next(i for i, c in enumerate(rest) if c.isalpha())
                count, command, rest = rest[2:end], rest[end], rest[end + 1 :]
                if command == "A":
                    shown[-int(count) - 1 :] = ["", *shown[len(shown) - int(count) - 1 :][1:]]
                    self.row = len(shown) - 1 - int(count)
                elif command == "J":
                    del shown[self.row :]
                    shown.append("")
            elif rest[0] == "\n":
                shown.append("")
                rest = rest[1:]
            else:
                shown[-1] += rest[0]
                rest = rest[1:]
        return shown[:-1]


class TestTerminal:
    def test_text_goes_to_its_stream(self):
        out, err = io.StringIO(), io.StringIO()
        sink = TerminalSink(out, err)
        sink.write("stdout", "a\n")
        sink.write("stderr", "b\n")
        sink.write("stdout", "")
        assert (out.getvalue(), err.getvalue(), sink.color) == ("a\n", "b\n", False)

    def test_live_lines_stay_below_the_text(self):
        screen = Screen()
        sink = TerminalSink(screen, screen, columns=40)
        assert sink.color
        sink.write("stdout", "first\n")
        sink.live(["w0 │ 10%", "w1 │ 20%"])
        assert screen.lines() == ["first", "w0 │ 10%", "w1 │ 20%"]
        sink.write("stdout", "second\n")
        assert screen.lines() == ["first", "second", "w0 │ 10%", "w1 │ 20%"]
        sink.notice("waiting: w1 is busy")
        assert screen.lines()[-1] == "waiting: w1 is busy"
        sink.live(["w0 │ 90%"])
        assert screen.lines() == ["first", "second", "w0 │ 90%", "waiting: w1 is busy"]
        sink.notice("")
        sink.live([])
        assert screen.lines() == ["first", "second"]

    def test_live_lines_do_not_wrap(self):
        screen = Screen()
        sink = TerminalSink(screen, screen, columns=10)
        sink.live(["\x1b[36mw0\x1b[0m │ 0123456789"])
        assert screen.lines() == ["w0 │ 0123"]

    def test_a_line_that_has_not_ended_is_not_drawn_over(self):
        screen = Screen()
        sink = TerminalSink(screen, screen, columns=40)
        sink.live(["live"])
        sink.write("stdout", "unfinished")
        sink.write("stdout", " line\n")
        assert screen.lines() == ["unfinished line", "live"]

    def test_off_a_terminal_there_are_final_lines_only(self):
        out, err = io.StringIO(), io.StringIO()
        sink = TerminalSink(out, err)
        sink.live(["10%"])
        sink.notice("waiting: w0 is busy for 1 s")
        sink.notice("waiting: w0 is busy for 2 s")
        sink.notice("")
        sink.clear(wait=False)
        assert (out.getvalue(), err.getvalue()) == ("", "waiting: w0 is busy for 1 s\n")

    def test_displays_have_their_text_form(self):
        out = io.StringIO()
        sink = TerminalSink(out, out)
        sink.display({"text/plain": "a table", "text/html": "<table>"}, {}, None, update=False)
        sink.display({"image/png": "iVBOR"}, {}, None, update=False)
        assert out.getvalue() == "a table\n<image/png>\n"

    def test_it_is_the_sink_of_a_script(self, capsys, monkeypatch):
        import sys

        monkeypatch.delitem(sys.modules, "IPython", raising=False)
        sink = make_sink()
        assert isinstance(sink, TerminalSink)
        sink.write("stdout", "a\n")
        sink.write("stderr", "b\n")
        assert capsys.readouterr() == ("a\n", "b\n")

    @pytest.mark.parametrize("shell", [None, "TerminalInteractiveShell"])
    def test_it_is_the_sink_of_a_terminals_ipython(self, monkeypatch, shell):
        import sys

        instance = type(shell, (), {})() if shell else None
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: instance))
        assert isinstance(make_sink(), TerminalSink)

    def test_a_workers_shell_is_not_paced(self, monkeypatch):
        import sys

        shell = types.SimpleNamespace()
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
        sink = make_sink()
        assert isinstance(sink, NotebookSink)
        assert sink._pace is None


class FakeTime:
    def __init__(self):
        self.now = 1000.0

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds


class TestPace:
    def test_little_output_is_not_held_up(self):
        time = FakeTime()
        pace = Pace(lambda: time.now, time.sleep)
        for _ in range(100):
            pace.wait(1000)
        assert time.now == 1000.0

    def test_the_burst_comes_back(self):
        time = FakeTime()
        pace = Pace(lambda: time.now, time.sleep)
        pace.wait(BURST_BYTES)
        time.now += 10
        before = time.now
        pace.wait(BURST_BYTES)
        assert time.now == before

    def test_an_interrupt_gets_through(self):
        def interrupted(_):
            raise KeyboardInterrupt

        pace = Pace(lambda: 0.0, interrupted)
        with pytest.raises(KeyboardInterrupt):
            for _ in range(100):
                pace.wait(100_000)

    @pytest.mark.parametrize("size", [0, 10, 1_000, 65_536, 400_000])
    @pytest.mark.parametrize("stall", [0.0, 0.5])
    def test_a_jupyter_server_drops_nothing(self, monkeypatch, size, stall):
        channels = pytest.importorskip("jupyter_server.services.kernels.connection.channels")
        server = _ServersLimit(channels.ZMQChannelsWebsocketConnection)
        time = FakeTime()
        monkeypatch.setattr(channels.IOLoop, "current", lambda: types.SimpleNamespace(time=lambda: server.now))
        pace = Pace(lambda: time.now, time.sleep)
        stalled_until = 0.0
        for i in range(4000):
            pace.wait(size)
            if stall and i % 37 == 0 and time.now > stalled_until + 5:
                stalled_until = time.now + stall  # the server is busy and reads what has piled up in one go
            server.now = max(server.now, time.now, stalled_until)
            assert not server.drops(size), f"message {i} at {time.now - 1000:.1f} s"


class _ServersLimit:
    """The limiter of jupyter_server with its default settings, and nothing else of it."""

    def __init__(self, connection):
        self.now = 0.0
        self._connection = connection
        self.limit_rate = True
        for name in ("iopub_msg_rate_limit", "iopub_data_rate_limit", "rate_limit_window"):
            setattr(self, name, getattr(connection, name).default_value)
        self._iopub_window_msg_count = self._iopub_window_byte_count = 0
        self._iopub_window_byte_queue = []
        self._iopub_msgs_exceeded = self._iopub_data_exceeded = False

    def get_part(self, _field, value, _parts):
        return value

    def write_stderr(self, message, _parent):
        self.message = message

    def drops(self, size):
        message = {"header": {"msg_type": "stream"}, "parent_header": {}}
        return self._connection._limit_rate(self, "iopub", message, [b"x" * size])


SHOW = """
from znb.console import OutputView, make_sink
from znb.outputs import Clear, Display, Text
view = OutputView(["w0", "w1"], make_sink())
"""


class TestNotebook:
    def test_lines_displays_and_updates_are_shown_in_the_cell(self, shared_kernel):
        cell = shared_kernel.run(
            SHOW
            + """
for w in ("w0", "w1"):
    view.feed(w, Text("stdout", "hello\\n"))
view.feed("w0", Display({"text/html": "<b>x</b>"}, {}, "mine"))
view.feed("w0", Display({"text/html": "<b>y</b>"}, {}, "mine", True))
view.feed("w1", Text("stderr", "careful\\n"))
view.close()
"""
        ).ok()
        assert "hello" in cell.stdout
        assert cell.stdout.count("hello") == 1
        assert "careful" in cell.stderr
        assert [o["data"] for o in cell.shown if o["kind"] == "display_data"] == [{"text/html": "<b>y</b>"}]

    def test_updates_work_in_later_cells(self, shared_kernel):
        first = shared_kernel.run(
            SHOW + "view.feed('w0', Display({'text/plain': '1'}, {}, 'later'))\nview.close()"
        ).ok()
        shared_kernel.run(SHOW + "view.feed('w0', Display({'text/plain': '2'}, {}, 'later', True))\nview.close()").ok()
        assert [o["data"]["text/plain"] for o in first.shown if o["kind"] == "display_data"] == ["2"]

    def test_live_lines_and_notices_use_one_display(self, shared_kernel):
        cell = shared_kernel.run(
            """
            from znb.console import make_sink
            sink = make_sink()
            sink.live(["w0 │ 10%", "w1 │ 20%"])
            sink.notice("waiting")
            sink.live([])
            sink.notice("")
            sink.notice("again")
            """
        ).ok()
        shown = [o["data"]["text/plain"] for o in cell.shown]
        assert shown == ["again"]
        assert len(cell.displays) == 1

    def test_clear_clears(self, shared_kernel):
        cell = shared_kernel.run(
            "from znb.console import make_sink\nsink = make_sink()\nsink.write('stdout', 'a')\nsink.clear(wait=True)\nsink.write('stdout', 'b')"
        ).ok()
        assert [o["text"] for o in cell.shown] == ["b"]

    def test_output_is_shown_at_once(self, shared_kernel, tmp_path):
        flag = tmp_path / "go"
        cell = shared_kernel.start(
            f"import os\nfrom znb.console import make_sink\nmake_sink().write('stdout', 'now')\nwhile not os.path.exists({str(flag)!r}): pass"
        )
        cell.wait_until(lambda c: c.stdout == "now")
        flag.touch()
        cell.wait().ok()

    def test_a_detached_sink_shows_in_the_cell_that_made_it(self, each_kernel):
        kernel = each_kernel()
        first = kernel.run(
            """
            import threading
            from znb.console import make_sink
            go = threading.Event()
            sink = make_sink(detached=True)
            def later():
                go.wait()
                sink.write("stdout", "late\\n")
                sink.display({"text/plain": "shown late"}, {}, "x", update=False)
                sink.display({"text/plain": "and updated"}, {}, "x", update=True)
            thread = threading.Thread(target=later)
            thread.start()
            """
        ).ok()
        second = kernel.run("print('second')\ngo.set()\nthread.join()").ok()
        first.wait_until(lambda c: c.stdout == "late\n" and len(c.outputs) == 3)
        assert first.shown[1]["data"] == {"text/plain": "and updated"}
        assert second.stdout == "second\n"

    def test_cells_share_the_kernels_pace(self, shared_kernel):
        source = "from znb.console import make_sink\nmake_sink()._pace is make_sink()._pace is not None"
        assert shared_kernel.run(source).ok().value == "True"
