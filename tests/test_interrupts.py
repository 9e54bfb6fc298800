"""The interrupt key while something remote runs: the code stops there, the cell fails here, the next cell works."""

from __future__ import annotations

import time

import pytest

from notebooks import Frozen, connect_to, notices, open_gate, pids, plain, remote, run_script, with_cluster

#: Seconds after which an interrupted cell must have ended; the promise is 1 s, and test machines are busy.
SOON = 5.0


@pytest.fixture(scope="module")
def notebook(shared_kernel):
    notebook = with_cluster(shared_kernel, 2)
    # Modules of C may swallow an interrupt while they are imported, or cannot be imported again after it.
    notebook.run(remote("import numpy\nnumpy.linalg.eig(numpy.random.rand(2, 2))")).ok()
    return notebook


def interrupt(kernel, cell):
    """Press the key, and check that the cell ends soon as an interrupted one."""
    pressed = time.monotonic()
    kernel.interrupt()
    cell.wait()
    assert cell.error is not None, f"the interrupted cell ended as if nothing had been: {cell.shown}"
    assert cell.error.name == "KeyboardInterrupt"
    assert time.monotonic() - pressed < SOON


def works(kernel):
    """Check that the next cell runs normally on all workers."""
    cell = kernel.run(remote("'as before'")).ok()
    assert cell.value == "{'w0': 'as before', 'w1': 'as before'}"
    assert plain(cell) == ""


def test_twenty_in_a_row(each_kernel):
    notebook = with_cluster(each_kernel())
    before = pids(notebook)
    for number in range(20):
        cell = notebook.start(remote(f"print('begun {number}')\nimport time\ntime.sleep(600)"))
        cell.wait_until(lambda cell, number=number: f"all │ begun {number}\n" in plain(cell))
        interrupt(notebook, cell)
        assert notebook.run(remote(f"{number}")).ok().value == f"{{'w0': {number}, 'w1': {number}}}"
    assert pids(notebook) == before


BLOCKING = {
    "sleeping": "import time\ntime.sleep(600)",
    "computing": "while True: pass",
    "printing": "while True: print('more')",
    "printing without line ends": "while True: print('more', end='')",
    "awaiting": "import asyncio\nawait asyncio.sleep(600)",
    "gathering": "import asyncio\nawait asyncio.gather(*(asyncio.sleep(600) for _ in range(3)))",
    "waiting for a lock": "import threading\nthreading.Event().wait()",
    "waiting for a thread": "import threading\nt = threading.Thread(target=threading.Event().wait, daemon=True)\nt.start()\nt.join()",
    "waiting for a queue": "import queue\nqueue.SimpleQueue().get()",
    "reading a socket": "import socket\na, b = socket.socketpair()\na.recv(1)",
    "waiting for a command": "!sleep 600",
    "waiting for a child": "import subprocess\nsubprocess.run(['sleep', '600'])",
    "in a shell cell": "%%bash\nsleep 600",
    "in NumPy": "import numpy\na = numpy.ones((300, 300))\nwhile True: a = a @ a; a /= a.max()",
    "in many small NumPy calls": "import numpy\nwhile True: numpy.linalg.eig(numpy.random.rand(60, 60))",
    "in exec": "exec('import time; time.sleep(600)')",
    "in %time": "%time import time; time.sleep(600)",
    "in a finally": "import time\ntry:\n    pass\nfinally:\n    time.sleep(600)",
}  # fmt: skip


@pytest.mark.parametrize("source", BLOCKING.values(), ids=BLOCKING.keys())
def test_code_stops_wherever_it_is(notebook, source):
    if source.startswith("%%"):
        cell = notebook.start(remote(source.replace("\n", "\necho begun\n", 1)))
    else:
        cell = notebook.start(remote(f"print('begun')\n{source}"))
    cell.wait_until(lambda cell: plain(cell).count("begun") or notices(cell).count("begun"))
    interrupt(notebook, cell)
    works(notebook)


def test_a_long_call_of_numpy_stops_at_its_return(notebook):
    source = """
    import numpy
    a = numpy.ones((700, 700))
    print("begun")
    for _ in range(10_000): a @ a
    """
    cell = notebook.start(remote(source))
    cell.wait_until(lambda cell: "begun" in plain(cell))
    interrupt(notebook, cell)
    works(notebook)


def test_a_flood_of_output_stops_at_once_and_says_what_is_left_out(notebook):
    cell = notebook.start(remote("import itertools\nfor n in itertools.count(): print(n)"))
    cell.wait_until(lambda cell: "1000\n" in plain(cell))
    interrupt(notebook, cell)
    works(notebook)
    cell = notebook.start(remote("while True: print('x' * 100_000)", "--on 0"))
    cell.wait_until(lambda cell: len(plain(cell)) > 500_000)
    interrupt(notebook, cell)
    works(notebook)


def test_run_all_stops(notebook):
    cell = notebook.start(remote("print('begun')\nimport time\ntime.sleep(600)"), stop_on_error=True)
    behind = notebook.start("went_on = True", stop_on_error=True)
    cell.wait_until(lambda cell: "begun" in plain(cell))
    interrupt(notebook, cell)
    assert behind.wait().reply["status"] == "aborted"
    assert notebook.run("went_on").error.name == "NameError"


def test_what_the_cell_printed_and_bound_before_stays(notebook):
    cell = notebook.start(remote("kept = 7\nprint('kept')\nimport time\ntime.sleep(600)"))
    cell.wait_until(lambda cell: "kept" in plain(cell))
    interrupt(notebook, cell)
    assert notebook.run(remote("kept")).ok().value == "{'w0': 7, 'w1': 7}"


def test_code_that_cleans_up_may_do_so(notebook):
    source = "import time\ntry:\n    print('begun')\n    time.sleep(600)\nfinally:\n    print('cleaned up')"
    cell = notebook.start(remote(source))
    cell.wait_until(lambda cell: "begun" in plain(cell))
    interrupt(notebook, cell)
    assert "cleaned up" in plain(cell)
    works(notebook)


def test_calls_copies_and_maps_are_interrupted_too(notebook):
    sleep = "import time\ndef sleep(*_):\n    print('begun', flush=True)\n    time.sleep(600)\n"
    # An interrupt between `submit` and `result` would leave the job alone, as with any executor.
    for line in ("cluster[:].call(sleep)", "list(cluster.map(sleep, range(8)))", "cluster.submit(sleep).result()"):
        until = "begun" if "submit" in line else "asked"
        cell = notebook.start(f"{sleep}print('asked', flush=True)\n{line}")
        cell.wait_until(lambda cell, until=until: until in plain(cell))
        interrupt(notebook, cell)
        works(notebook)


STUBBORN = """
import time
print("begun")
while True:
    try:
        wait_for("never")
    except KeyboardInterrupt:
        print("ignored")
"""


EVENTS_OF_W0 = """
from znb import Trace
calls = [span for span in Trace.latest()[-1].spans if span.kind == "call" and span.attributes["worker"] == "w0"]
[event.name for span in calls for event in span.events if event.name != "exception"]
"""


def test_a_worker_that_ignores_two_interrupts_is_killed_by_the_third_and_replaced(kernel):
    notebook = with_cluster(kernel(), 2)
    before = pids(notebook)
    notebook.run(remote("kept = 1")).ok()
    cell = notebook.start(remote(STUBBORN, "--on 0"))
    cell.wait_until(lambda cell: "begun" in plain(cell))
    interrupt(notebook, cell)
    assert "w0" in cell.stderr
    assert "has not stopped yet" in cell.stderr
    assert "%znb cluster restart w0" in cell.stderr
    for number, said in ((2, "so does the next interrupt"), (3, "ignored 2 interrupts: it is killed")):
        cell = notebook.start(remote("1"))
        cell.wait_until(lambda cell: "w0 is busy with In[" in notices(cell))
        interrupt(notebook, cell)
        assert said in cell.stderr, number
        expected = "['interrupt']" if number == 2 else "['interrupt', 'kill']"
        deadline = time.monotonic() + SOON  # that a process is gone is heard of a little later
        while notebook.run(EVENTS_OF_W0).value != expected:
            assert time.monotonic() < deadline, (number, notebook.run(EVENTS_OF_W0).value)
    assert notebook.run(remote("1")).ok().value == "{'w0': 1, 'w1': 1}"
    after = pids(notebook)
    assert after["w0"] != before["w0"]
    assert after["w1"] == before["w1"]
    assert notebook.run(remote("kept", "--on w1")).ok().value == "1"
    assert notebook.run(remote("kept", "--on w0")).error.name == "NameError"


def test_code_that_ignores_an_interrupt_and_ends_later_is_forgotten(kernel):
    notebook = with_cluster(kernel(), 2)
    source = """
    print("begun")
    try:
        wait_for("never")
    except KeyboardInterrupt:
        for n in range(100_000): print("nobody looks")
        wait_for("end")
    """
    cell = notebook.start(remote(source))
    cell.wait_until(lambda cell: "begun" in plain(cell))
    interrupt(notebook, cell)
    waiting = notebook.start(remote("'next'"))
    waiting.wait_until(lambda cell: "busy with In[" in notices(cell))
    open_gate(notebook, "end")
    assert waiting.wait().ok().value == "{'w0': 'next', 'w1': 'next'}"
    assert "nobody looks" not in plain(waiting)
    works(notebook)


def test_a_cell_that_waits_for_another_notebook_is_taken_out_of_the_queue(notebook, kernel):
    second = kernel()
    connect_to(second, notebook)
    running = notebook.start(remote("print('begun')\nwait_for('first')\n'undisturbed'"))
    running.wait_until(lambda cell: "begun" in plain(cell))
    queued = second.start(remote("ran = 1"))
    queued.wait_until(lambda cell: "of another notebook" in notices(cell))
    interrupt(second, queued)
    open_gate(notebook, "first")
    assert running.wait().ok().value == "{'w0': 'undisturbed', 'w1': 'undisturbed'}"
    assert second.run(remote("'ran' in globals()")).ok().value == "{'w0': False, 'w1': False}"


def test_a_frozen_worker_does_not_hold_the_interrupt_up(notebook):
    with Frozen(pids(notebook)["w0"]):
        cell = notebook.start(remote("'too late'"))
        cell.wait_until(lambda cell: "w0 is frozen" in notices(cell))
        interrupt(notebook, cell)
    works(notebook)


IMPATIENT = """
import signal, znb
signal.signal(signal.SIGALRM, signal.default_int_handler)
with znb.Cluster.start(2) as cluster:
    for number in range(5):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.1, 0.02 + number / 50)
                cluster.run(STUBBORN)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            cluster.restart()
            print(cluster.run(f"'works {number}'"))
"""


def test_an_impatient_user_may_press_the_key_again_and_again(world):
    stubborn = STUBBORN.replace('wait_for("never")', "time.sleep(600)")
    printed = run_script(IMPATIENT.replace("STUBBORN", repr(stubborn)), world).splitlines()
    works = [f"{{'w0': 'works {number}', 'w1': 'works {number}'}}" for number in range(5)]
    assert [line for line in printed if line.startswith("{")] == works, printed


def test_a_cell_in_the_background_is_interrupted_by_name(notebook):
    notebook.run(remote("print('begun')\nimport time\ntime.sleep(600)", "--bg --out later")).ok()
    notebook.run("while {w.state for w in cluster.workers} != {'busy'}: pass").ok()
    notebook.run("cluster.interrupt()").ok()
    failed = notebook.run("later.result()")
    assert failed.error.name == "Cancelled"
    works(notebook)


def test_a_job_is_interrupted_by_the_name_of_its_worker_and_the_one_behind_it_is_not(notebook):
    notebook.run(
        """
        import time
        jobs = [cluster.submit(time.sleep, 600) for _ in range(2)]
        behind = [cluster.submit(pow, 2, number) for number in range(4)]
        while {w.running for w in cluster.status().workers} != {"sleep"}: pass
        cluster.interrupt()
        """
    ).ok()
    assert notebook.run("[type(job.exception()).__name__ for job in jobs]").value == str(["Cancelled"] * 2)
    assert notebook.run("[job.result() for job in behind]").value == "[1, 2, 4, 8]"
    works(notebook)


AT_ANY_MOMENT = """
import random, signal, znb
signal.signal(signal.SIGALRM, signal.default_int_handler)  # a kernel's own handling has its races; this has none
seed = random.Random(1)
with znb.Cluster.start(2) as cluster:
    workers = {w.pid for w in cluster.workers}
    for number in range(150):
        source = ("import time; time.sleep(600)", "while True: print('more')", "while True: pass")[number % 3]
        signal.setitimer(signal.ITIMER_REAL, seed.uniform(0.0001, 0.01))
        try:
            cluster.run(source)
        except KeyboardInterrupt:
            pass
        else:
            print("not interrupted")
        assert cluster.run(str(number)) == {"w0": number, "w1": number}
    assert {w.pid for w in cluster.workers} == workers
print("end")
"""


def test_an_interrupt_may_hit_at_any_moment(world):
    printed = run_script(AT_ANY_MOMENT, world).splitlines()
    assert [line for line in printed if "│ more" not in line and "left out" not in line] == ["end"]


AT_EVERY_STEP = """
import dis, os, sys, time, znb

CHECKED = {dis.opmap[name] for name in ("CALL", "RESUME")}  # after these the interpreter looks for signals
MAP = lambda: cluster.map(sleep, range(8)), ("executor/maps.py", "znb/cluster.py")
# Not `Cluster.submit`: once the future is on its way to the caller, nobody can tell whether it has been kept.
SUBMIT = lambda: cluster.submit(sleep, 0), ("executor/submits.py",)

class Interrupt:
    def __init__(self, number, files):
        self.left, self.files, self.before = number, files, {}
    def called(self, frame, event, arg):
        if frame.f_code.co_filename.endswith(self.files):
            frame.f_trace_opcodes = True
            return self.step
    def step(self, frame, event, arg):
        if event == "opcode":
            self.left -= self.before.get(frame) in CHECKED
            self.before[frame] = frame.f_code.co_code[frame.f_lasti]
            if not self.left:
                sys.settrace(None)
                self.before.clear()
                raise KeyboardInterrupt
        return self.step

def sleep(item):
    time.sleep(600)

cluster = znb.Cluster.start(2)
try:
    for start, files in (MAP, SUBMIT):
        number, over = 0, False
        while not over:
            number += 1
            sys.settrace(Interrupt(number, files).called)
            try:
                kept = start()
                over = True
            except KeyboardInterrupt as error:
                kept = error  # and with its traceback all that its frames hold, as in a notebook
            finally:
                sys.settrace(None)
            if not over:
                assert cluster.run("1", timeout=5) == {"w0": 1, "w1": 1}, number
        assert kept.cancel() is not False
        print(number > 15)
finally:
    cluster.stop()
"""


def test_a_map_or_job_that_was_interrupted_while_it_started_does_not_go_on(world):
    assert run_script(AT_EVERY_STEP, world).splitlines() == ["True", "True"]


def test_ctrl_c_in_a_script_stops_the_workers_and_the_script(world):
    source = """
    import os, signal, threading, znb
    with znb.Cluster.start(2) as cluster:
        class Sink:
            color = False
            def write(self, stream, text): os.kill(os.getpid(), signal.SIGINT)
            def notice(self, text): pass
            def live(self, lines): pass
        cluster.run("print('begun')\\nimport time; time.sleep(600)", sink=Sink())
    """
    assert run_script(source, world).splitlines()[-1] == "KeyboardInterrupt"
