"""Everything a process writes arrives once, in order, at whoever listens, and never blocks what must not be."""

from __future__ import annotations

import pytest

from shells import run_captured, text_of


def captured(body: str) -> list:
    """Run statements under a route to ``emit``."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    return run_captured(f"with capture.route(emit):\n{lines}")


class TestOrder:
    def test_python_writes_come_in_order_across_streams(self):
        outputs = captured("print('a')\nprint('b', file=sys.stderr)\nprint('c')")
        assert [(o.stream, o.text) for o in outputs] == [("stdout", "a\n"), ("stderr", "b\n"), ("stdout", "c\n")]

    def test_descriptor_writes_before_a_print_come_before_it(self):
        outputs = captured(
            "for i in range(50):\n    os.write(1, b'a%d ' % i)\n    print('b', i)\n    os.write(2, b'!')"
        )
        assert text_of(outputs, "stdout") == "".join(f"a{i} b {i}\n" for i in range(50))

    def test_what_was_flushed_comes_before_later_descriptor_writes(self):
        outputs = captured(
            "for i in range(50):\n    print('a', end='', flush=True)\n    os.write(1, b'b')\n    print('c')"
        )
        assert text_of(outputs) == "abc\n" * 50

    def test_a_childs_output_does_not_tear_a_line(self):
        outputs = captured(
            """
import subprocess
child = subprocess.Popen(["sh", "-c", "while echo child; do :; done"])
for i in range(3000):
    print("a", "line", "of", "many", "pieces", i)
child.kill()
child.wait()
"""
        )
        lines = text_of(outputs).split("\n")
        assert [line for line in lines if line not in {"child", ""}][:3000] == [
            f"a line of many pieces {i}" for i in range(3000)
        ]

    def test_a_line_that_is_not_finished_is_live(self):
        run_captured(
            """
            heard = threading.Event()
            with capture.route(lambda output: output.text == "working..." and heard.set()):
                print("working", end="")
                print("...", end="")
                assert heard.wait(30)
                print("done")
            """
        )

    def test_dots_without_end_are_live_and_bounded(self):
        outputs = captured("for i in range(600_000):\n    sys.stdout.write('.')")
        assert text_of(outputs) == "." * 600_000

    def test_displays_come_in_order_with_text(self):
        outputs = captured(
            "print('a', end='', flush=True)\nos.write(1, b'b')\ncapture.post(Display({'text/plain': 'd'}))\nprint('c')"
        )
        assert [getattr(o, "text", "display") for o in outputs] == ["ab", "display", "c\n"]

    def test_child_processes_are_heard(self):
        outputs = captured(
            "import subprocess\nprint('before')\nsubprocess.run(['sh', '-c', 'echo out; echo err >&2'])\nprint('after')"
        )
        assert text_of(outputs, "stdout") == "before\nout\nafter\n"
        assert text_of(outputs, "stderr") == "err\n"

    def test_a_child_given_our_stream_objects_is_heard(self):
        outputs = captured("import subprocess\nsubprocess.run(['echo', 'x'], stdout=sys.stderr, stderr=sys.stdout)")
        assert text_of(outputs, "stderr") == "x\n"

    def test_c_stdio_is_flushed_at_the_end(self):
        outputs = captured("import ctypes\nlibc = ctypes.CDLL(None)\nlibc.printf(b'no newline')")
        assert text_of(outputs) == "no newline"

    def test_c_stdio_lines_are_live(self):
        outputs = captured("import ctypes\nctypes.CDLL(None).puts(b'c')\nprint('python')")
        assert text_of(outputs) == "c\npython\n"

    def test_stream_objects_that_others_kept_are_heard(self):
        outputs = captured("sys.__stdout__.write('kept\\n')\nprint('new')")
        assert text_of(outputs) == "kept\nnew\n"

    def test_what_others_have_not_finished_is_heard_at_the_end(self):
        outputs = captured("sys.__stdout__.write('kept')")
        assert text_of(outputs) == "kept"


class TestText:
    def test_utf8_split_between_reads_is_decoded_whole(self):
        outputs = captured(
            "data = 'héé€𝄞'.encode()\nfor i in range(len(data)):\n    os.write(1, data[i:i + 1])\n    sys.stdout.write('\\r')"
        )
        assert text_of(outputs).replace("\r", "") == "héé€𝄞"

    def test_bytes_that_are_no_utf8_are_replaced(self):
        assert text_of(captured("os.write(1, b'a\\xffb')")) == "a\ufffdb"

    def test_lone_surrogates_are_escaped(self):
        assert text_of(captured("print('\\ud800')")) == "\\ud800\n"

    def test_large_texts_are_cut_to_pieces_that_can_travel(self):
        outputs = captured("print('x' * 1_000_000)")
        assert text_of(outputs) == "x" * 1_000_000 + "\n"
        assert max(len(o.text) for o in outputs) <= 65_536

    def test_carriage_returns_pass_unchanged(self):
        assert text_of(captured("print('a\\rb\\r\\n', end='')")) == "a\rb\r\n"

    def test_many_writes_make_few_records(self):
        outputs = captured("for i in range(20_000):\n    print(i)")
        assert text_of(outputs) == "".join(f"{i}\n" for i in range(20_000))
        assert len(outputs) < 1000


class TestStreamObjects:
    def test_they_are_what_libraries_expect(self):
        outputs = captured(
            """
for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
    assert stream.fileno() == fd and stream.buffer.fileno() == fd
    assert stream.encoding == "utf-8" and stream.errors == "backslashreplace"
    assert stream.writable() and not stream.readable() and not stream.isatty()
    stream.reconfigure(line_buffering=True)
    stream.close()
    stream.buffer.close()
    assert not stream.closed
    stream.writelines(["still ", "open\\n"])
    stream.buffer.flush()
"""
        )
        assert text_of(outputs) == "still open\nstill open\n"

    def test_bytes_are_written_through_buffer(self):
        outputs = captured(
            "sys.stdout.buffer.write('é'.encode()[:1])\nsys.stdout.buffer.write('é'.encode()[1:] + b'\\n')\nprint('x')"
        )
        assert text_of(outputs) == "é\nx\n"

    def test_only_text_can_be_written(self):
        captured(
            """
for wrong in (b"bytes", 1, None):
    try:
        sys.stdout.write(wrong)
    except TypeError as error:
        assert type(wrong).__name__ in str(error), error
    else:
        raise AssertionError(wrong)
"""
        )

    def test_logging_tqdm_and_faulthandler_work(self):
        outputs = captured(
            """
import faulthandler, logging, tqdm
logging.warning("careful")
for _ in tqdm.tqdm(range(3)): pass
faulthandler.dump_traceback()
"""
        )
        text = text_of(outputs, "stderr")
        assert "WARNING:root:careful" in text
        assert "100%|██████████| 3/3" in text
        assert "most recent call first" in text


class TestRoutes:
    def test_what_was_written_has_been_emitted_when_the_route_ends(self):
        run_captured(
            """
            for i in range(200):
                with capture.route(emit):
                    print(i)
                    os.write(1, b"x\\n")
                assert text_of(outputs).endswith(f"{i}\\nx\\n"), outputs
            """
        )

    def test_an_empty_route_emits_nothing(self):
        assert captured("pass") == []

    def test_routes_nest(self):
        outputs = run_captured(
            """
            inner = []
            with capture.route(emit):
                print("a")
                with capture.route(inner.append):
                    print("b")
                print("c")
            assert text_of(inner) == "b\\n"
            """
        )
        assert text_of(outputs) == "a\nc\n"

    def test_routes_without_flush_get_their_own_output_later(self):
        run_captured(
            """
            first, second = [], []
            for i in range(100):
                with capture.route((first, second)[i % 2].append, flush=False):
                    print(i)
            capture.flush()
            assert text_of(first) == "".join(f"{i}\\n" for i in range(0, 100, 2))
            assert text_of(second) == "".join(f"{i}\\n" for i in range(1, 100, 2))
            """
        )

    def test_unheard_output_is_kept_in_a_ring(self):
        outputs = run_captured(
            """
            print("nobody hears this")
            with capture.route(emit):
                print("heard")
            os.write(2, b"nor this")
            capture.flush()
            assert capture.stray() == "nobody hears this\\nnor this", capture.stray()
            print("y" * 100_000 + "end", end="")
            capture.flush()
            assert len(capture.stray()) == 65_536 and capture.stray().endswith("yend")
            """
        )
        assert text_of(outputs) == "heard\n"

    def test_a_thread_of_an_earlier_route_writes_to_the_current_one(self):
        outputs = run_captured(
            """
            go, gone = threading.Event(), threading.Event()
            def late():
                go.wait()
                print("late")
                gone.set()
            with capture.route(lambda output: None):
                threading.Thread(target=late).start()
            with capture.route(emit):
                go.set()
                gone.wait()
            """
        )
        assert text_of(outputs) == "late\n"

    def test_another_threads_route_takes_its_own_writes_only(self):
        outputs = run_captured(
            """
            service = []
            inside, leave = threading.Event(), threading.Event()
            def serve():
                with capture.route(service.append):
                    print("service")
                    inside.set()
                    leave.wait()
                    print("service again")
            with capture.route(emit):
                thread = threading.Thread(target=serve)
                thread.start()
                inside.wait()
                print("main")
                leave.set()
                thread.join()
                os.write(1, b"descriptor\\n")
            assert text_of(service) == "service\\nservice again\\n"
            """
        )
        assert text_of(outputs) == "main\ndescriptor\n"

    def test_a_listener_that_has_gone_is_forgotten_quietly(self):
        run_captured(
            """
            calls = []
            def gone(output):
                calls.append(output)
                raise GateClosed
            with capture.route(gone):
                print("a")
                capture.flush()
                print("b")
            assert len(calls) == 1
            assert capture.stray() == "a\\nb\\n"
            """
        )

    def test_a_listener_that_fails_is_logged_and_forgotten(self):
        outputs = run_captured(
            """
            def broken(output):
                raise ValueError("broken")
            with capture.route(broken):
                print("a")
            with capture.route(emit):
                print("b")
            assert "its listener failed" in capture.stray() and "ValueError: broken" in capture.stray()
            """
        )
        assert text_of(outputs) == "b\n"


class TestMarks:
    """Each write goes under the mark of its moment, which ``ended`` tells to have changed."""

    def test_each_write_has_the_mark_of_its_moment(self):
        run_captured(
            """
            found, ended = [], []
            with capture.route(lambda *got: found.append(got), mark=lambda: len(ended), ended=ended):
                for job in range(100):
                    print("job", job)
                    print("err", job, file=sys.stderr)
                    ended.append(None)
            expected = [(Text(s, f"{t} {n}\\n"), n) for n in range(100) for s, t in (("stdout", "job"), ("stderr", "err"))]
            assert found == expected, found
            """
        )

    def test_a_line_that_is_not_finished_ends_with_its_job(self):
        run_captured(
            """
            found, ended = [], []
            with capture.route(lambda *got: found.append(got), mark=lambda: len(ended), ended=ended):
                for job in range(5):
                    print(job, end=" ")
                    print("more", end="")
                    ended.append(None)
                print("whole")
            assert found == [(Text("stdout", f"{n} more"), n) for n in range(5)] + [(Text("stdout", "whole\\n"), 5)], found
            """
        )

    def test_displays_are_marked_too(self):
        run_captured(
            """
            found, ended = [], [1, 2]
            with capture.route(lambda *got: found.append(got), mark=lambda: len(ended), ended=ended):
                capture.post(Display({"text/plain": "d"}))
            assert found == [(Display({"text/plain": "d"}), 2)], found
            """
        )

    def test_descriptor_output_is_marked_when_settled(self):
        run_captured(
            """
            found, ended = [], []
            with capture.route(lambda *got: found.append(got), mark=lambda: len(ended), ended=ended):
                for job in range(5):
                    os.write(1, b"fd %d\\n" % job)
                    capture.settle()
                    ended.append(None)
            assert found == [(Text("stdout", f"fd {n}\\n"), n) for n in range(5)], found
            """
        )

    def test_another_threads_route_has_its_own_mark(self):
        run_captured(
            """
            found, service = [], []
            def serve():
                with capture.route(lambda *got: service.append(got), mark=lambda: 7):
                    print("service")
            with capture.route(lambda *got: found.append(got), mark=lambda: 1):
                thread = threading.Thread(target=serve)
                thread.start()
                thread.join()
                print("job")
            assert service == [(Text("stdout", "service\\n"), 7)], service
            assert found == [(Text("stdout", "job\\n"), 1)], found
            """
        )


class TestBackPressure:
    def test_a_blocked_listener_holds_writers_back_and_loses_nothing(self):
        run_captured(
            """
            gate, written, held = threading.Event(), [], []
            def slow(output):
                gate.wait()
                emit(output)
            def write():
                for i in range(100_000):
                    print("0123456789")
                    written.append(i)
            with capture.route(slow):
                thread = threading.Thread(target=write)
                thread.start()
                while len(held) < 5:  # no progress, five times in a row
                    before = len(written)
                    thread.join(0.05)
                    held = [*held, before] if len(written) == before and before else []
                assert len(written) < 70_000
                gate.set()
                thread.join()
            assert text_of(outputs) == "0123456789\\n" * 100_000
            """
        )

    def test_an_interrupt_frees_the_main_thread(self):
        run_captured(
            """
            import signal
            gate = threading.Event()
            def slow(output):
                os.kill(os.getpid(), signal.SIGINT)
                gate.wait()
            try:
                with capture.route(slow):
                    try:
                        while True:
                            print("x" * 1000)
                    finally:
                        gate.set()
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError
            with capture.route(emit):
                print("goes on")
            assert text_of(outputs) == "goes on\\n"
            """
        )

    def test_exempt_threads_never_wait(self):
        run_captured(
            """
            gate = threading.Event()
            def carry():
                capture.exempt()
                for _ in range(2000):
                    print("y" * 1000)
                gate.set()
            def slow(output):
                gate.wait()
            with capture.route(slow):
                print("x" * 300_000)
                carrier = threading.Thread(target=carry)
                carrier.start()
                carrier.join()
            """
        )

    def test_a_child_that_writes_much_loses_nothing(self):
        outputs = captured(
            'import subprocess\nsubprocess.run([sys.executable, \'-c\', \'print("z" * 99 + "\\\\n", end="")\\nfor i in range(30000): print("z" * 99)\'])'
        )
        assert text_of(outputs) == ("z" * 99 + "\n") * 30_001

    def test_flush_says_when_it_was_too_late(self):
        run_captured(
            """
            gate = threading.Event()
            with capture.route(lambda output: gate.wait()):
                print("x")
                assert capture.flush(0.05) is False
                gate.set()
                assert capture.flush(10) is True
            """
        )


class TestForks:
    def test_a_forked_childs_output_is_neither_lost_nor_doubled(self):
        outputs = captured(
            """
print("before")
pid = os.fork()
if not pid:
    print("child")
    print("err", file=sys.stderr)
    sys.stdout.buffer.write(b"bytes")
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
print("|after")
"""
        )
        assert text_of(outputs, "stdout") == "before\nchild\nbytes|after\n"
        assert text_of(outputs, "stderr") == "err\n"

    def test_a_fork_while_the_lock_is_held_does_not_deadlock(self):
        outputs = captured(
            """
stop = threading.Event()
def write():
    while not stop.is_set():
        sys.stderr.write("noise\\n")
thread = threading.Thread(target=write)
thread.start()
for i in range(20):
    pid = os.fork()
    if not pid:
        print("child", i)
        os._exit(0)
    os.waitpid(pid, 0)
stop.set()
thread.join()
"""
        )
        assert text_of(outputs, "stdout") == "".join(f"child {i}\n" for i in range(20))

    def test_multiprocessing_fork_works_and_lines_stay_whole(self):
        outputs = captured(
            """
import multiprocessing
def work(i):
    print("worker", i, "x" * 50)
    return i * i
globals()["work"] = work
with multiprocessing.get_context("fork").Pool(3) as pool:
    assert pool.map(abs, range(3)) == [0, 1, 2]
processes = [multiprocessing.get_context("fork").Process(target=work, args=(i,)) for i in range(5)]
for p in processes: p.start()
for p in processes: p.join()
"""
        )
        assert sorted(text_of(outputs).splitlines()) == [f"worker {i} {'x' * 50}" for i in range(5)]


class TestReentrance:
    def test_a_finalizer_or_signal_handler_may_print_while_a_print_is_under_way(self):
        outputs = captured(
            """
import signal
signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
class Noisy:
    def __del__(self):
        print("gone")
for i in range(3000):
    cycle = [Noisy()]
    cycle.append(cycle)
    print("line")
signal.setitimer(signal.ITIMER_REAL, 0)
"""
        )
        lines = text_of(outputs).split("\n")
        assert sum(line.count("line") for line in lines) == 3000


class TestLife:
    def test_close_puts_everything_back(self, capfd):
        script = """
            import io
            from znb.capture import Capture
            kept = sys.stdout
            capture.close()
            assert sys.stdout is not kept
            print("to the original", flush=True)
            kept.write("through the old object\\n")
            kept.flush()
            capture.close()
            assert not [t for t in threading.enumerate() if t.name.startswith("znb")]
        """
        run_captured(script)
        assert capfd.readouterr().out == "to the original\nthrough the old object\n"

    @pytest.mark.parametrize("times", [3])
    def test_it_can_be_done_again(self, times):
        run_captured(
            f"""
            from znb.capture import Capture
            capture.close()
            before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
            for _ in range({times}):
                with Capture() as again:
                    with again.route(emit):
                        print("again")
            after = len(os.listdir("/proc/self/fd")) if before else 0
            assert before == after
            assert text_of(outputs) == "again\\n" * {times}
            """
        )
