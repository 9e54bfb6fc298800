"""The runner belongs to a main thread and gets signals, so each test has a process of its own."""

import subprocess
import sys
import textwrap

PRELUDE = """
import queue, signal, sys, threading, time
from znb.runner import Failure, Runner, Success, Task

runner = Runner()
outcomes = queue.SimpleQueue()

def task(execute, owner="a", label="t", guard=None):
    made = Task(execute, lambda outcome: outcomes.put((label, outcome)), owner=owner, label=label, guard=guard)
    runner.submit(made)
    return made

def in_background(script):
    def run():
        try:
            script()
        finally:
            runner.stop()
    thread = threading.Thread(target=run)
    thread.start()
    runner.run()
    thread.join()
"""


def run(script):
    code = PRELUDE + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_outcomes_come_in_order_for_one_owner():
    out = run("""
        def script():
            for n in range(5):
                task(lambda n=n: n, label=str(n))
            print([outcomes.get() for _ in range(5)] == [(str(n), Success(n)) for n in range(5)])
        in_background(script)
    """)
    assert out == "True\n"


def test_owners_take_turns():
    out = run("""
        order = []
        def script():
            gate = threading.Event()
            task(gate.wait, owner="gate")
            for n in range(3):
                task(lambda n=n: order.append(f"a{n}"), owner="a")
            for n in range(3):
                task(lambda n=n: order.append(f"b{n}"), owner="b")
            gate.set()
            for _ in range(7):
                outcomes.get()
            print(*order)
        in_background(script)
    """)
    assert out == "a0 b0 a1 b1 a2 b2\n"


def test_whatever_a_task_raises_is_its_outcome():
    out = run("""
        def script():
            for error in (ValueError("v"), SystemExit(3), KeyboardInterrupt(), MemoryError()):
                def execute(error=error):
                    raise error
                task(execute)
                print(type(outcomes.get()[1].error).__name__)
        in_background(script)
    """)
    assert out.split() == ["ValueError", "SystemExit", "KeyboardInterrupt", "MemoryError"]


def test_an_interrupt_ends_a_sleep_and_leaves_the_runner_in_order():
    out = run("""
        def script():
            started = threading.Event()
            def execute():
                started.set()
                time.sleep(60)
            sleeping = task(execute, label="sleep")
            started.wait()
            runner.interrupt(sleeping)
            print(outcomes.get())
            task(lambda: 7, label="next")
            print(outcomes.get())
        in_background(script)
    """)
    assert out == "('sleep', Failure(error=KeyboardInterrupt()))\n('next', Success(value=7))\n"


def test_an_interrupt_for_a_task_that_has_ended_hits_nobody():
    out = run("""
        def script():
            first = task(lambda: 1)
            outcomes.get()
            runner.interrupt(first)
            second = task(lambda: time.sleep(0.05) or 2)
            print(outcomes.get()[1].value)
        in_background(script)
    """)
    assert out == "2\n"


def test_an_interrupt_for_a_queued_task_ends_it_before_it_begins():
    out = run("""
        def script():
            gate = threading.Event()
            task(gate.wait, label="gate")
            ran = []
            queued = task(lambda: ran.append(1), label="queued")
            runner.interrupt(queued)
            gate.set()
            outcomes.get()
            print(type(outcomes.get()[1].error).__name__, ran)
        in_background(script)
    """)
    assert out == "KeyboardInterrupt []\n"


def test_an_interrupt_storm_never_loses_or_doubles_an_outcome():
    out = run("""
        def script():
            for n in range(300):
                working = task(lambda: sum(range(2000)), label=str(n))
                for _ in range(3):
                    runner.interrupt(working)
                label, outcome = outcomes.get()
                assert label == str(n), (label, n)
                assert isinstance(outcome, (Success, Failure))
            print(outcomes.empty())
        in_background(script)
    """)
    assert out == "True\n"


def test_a_guard_decides_whether_an_interrupt_may_hit():
    out = run("""
        def script():
            started, going_on = threading.Event(), threading.Event()
            def execute():
                started.set()
                going_on.wait(60)
                return "unhurt"
            guarded = task(execute, guard=lambda: False)
            started.wait()
            runner.interrupt(guarded)
            going_on.set()
            print(outcomes.get()[1].value)
        in_background(script)
    """)
    assert out == "unhurt\n"


def test_a_snapshot_tells_what_runs():
    out = run("""
        def script():
            print(runner.snapshot())
            gate, started = threading.Event(), threading.Event()
            task(lambda: (started.set(), gate.wait()), label="cell 1", owner="nb")
            task(lambda: None, owner="nb")
            started.wait()
            running = runner.snapshot()
            print(running.label, running.owner, running.queued, time.monotonic() - running.since < 60)
            gate.set()
        in_background(script)
    """)
    assert out == "None\ncell 1 nb 1 True\n"


def test_stop_interrupts_what_runs_and_run_returns():
    out = run("""
        def script():
            started = threading.Event()
            task(lambda: (started.set(), time.sleep(60)))
            started.wait()
        in_background(script)
        print(type(outcomes.get()[1].error).__name__)
    """)
    assert out == "KeyboardInterrupt\n"


def test_an_interrupt_hits_the_children_that_a_task_waits_for():
    out = run("""
        import os, subprocess
        from znb.commands import find_children, interrupt_children
        runner.__init__(find_children, interrupt_children)
        def script():
            started = threading.Event()
            def execute():
                started.set()
                return os.system("sleep 60")  # which ignores interrupts itself
            waiting = task(execute)
            started.wait()
            while not any(child.name() == "sleep" for child in find_children()):  # before its exec it would not hear
                pass
            runner.interrupt(waiting)
            outcomes.get()
            print(find_children())
        in_background(script)
    """)
    assert out == "[]\n"


def test_an_interrupt_leaves_alone_the_children_of_a_task_that_it_may_not_hit():
    out = run("""
        import subprocess
        from znb.commands import find_children, interrupt_children
        runner.__init__(find_children, interrupt_children)
        def script():
            started = threading.Event()
            children = []
            def execute():
                children.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))
                started.set()
                while guarded.interrupting:
                    pass
                children[0].stdin.close()
                return children[0].wait()
            guarded = Task(execute, outcomes.put, owner="a", label="t", guard=lambda: False)
            guarded.interrupting = True
            runner.submit(guarded)
            started.wait()
            runner.interrupt(guarded)
            print(outcomes.get())
        in_background(script)
    """)
    assert out == "Success(value=0)\n"


def test_an_interrupt_that_has_not_been_noticed_is_repeated():
    out = run("""
        def script():
            begun, sent = threading.Event(), []
            made = task(lambda: (begun.set(), time.sleep(600)))
            begun.wait()
            signal_now, runner._signal = runner._signal, lambda: sent.append(len(sent) == 2 and signal_now())
            runner.interrupt(made)  # the first two are lost
            print(type(outcomes.get()[1].error).__name__, len(sent))
        in_background(script)
    """)
    assert out == "KeyboardInterrupt 3\n"


def test_handlers_and_masks_that_a_task_leaves_behind_do_not_keep_interrupts_from_the_next():
    out = run("""
        def ignore():
            signal.signal(signal.SIGINT, signal.SIG_IGN)

        def block():
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])

        def script():
            for leave in (ignore, block):
                task(leave)
                outcomes.get()
                started = threading.Event()
                def execute():
                    started.set()
                    time.sleep(60)
                sleeping = task(execute, label=leave.__name__)
                started.wait()
                runner.interrupt(sleeping)
                print(outcomes.get())
        in_background(script)
    """)
    assert out == "('ignore', Failure(error=KeyboardInterrupt()))\n('block', Failure(error=KeyboardInterrupt()))\n"


def test_owners_get_the_same_time_whatever_their_tasks_take():
    out = run("""
        import types, znb.runner
        clock = [0.0]
        znb.runner.time = types.SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep)
        used = {"short": 0.0, "long": 0.0, "late": 0.0}
        shares = []

        def job(owner, seconds):
            clock[0] += seconds
            used[owner] += seconds
            if owner == "short" and used["short"] < 2.0:
                task(lambda: job("short", 0.01), owner="short")
            if owner == "long":
                shares.append(used["short"] / used["long"])
                if len(shares) == 10:
                    task(lambda: job("late", 0.05), owner="late")
            if owner == "late":
                shares.append("late")

        def script():
            gate = threading.Event()
            task(gate.wait, owner="gate")
            task(lambda: job("short", 0.01), owner="short")
            for _ in range(20):
                task(lambda: job("long", 0.05), owner="long")
            gate.set()
            while outcomes.get() and len(shares) < 21:
                pass
            print(*(share if share == "late" else round(share, 1) for share in shares))
        in_background(script)
    """)
    shares = out.split()
    assert shares[10] == "late" or shares[11] == "late", "one who comes late need not wait for those there, nor they"
    shares.remove("late")
    assert all(0.7 <= float(share) <= 1.3 for share in shares[4:])


def test_one_who_was_alone_is_not_held_back_by_one_who_comes():
    out = run("""
        import types, znb.runner
        clock = [0.0]
        znb.runner.time = types.SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep)
        order = []

        def job(owner):
            clock[0] += 1.0
            order.append(owner)

        def script():
            for _ in range(100):
                task(lambda: job("a"), owner="a")
            for _ in range(100):
                outcomes.get()
            gate = threading.Event()
            task(gate.wait, owner="a")
            for _ in range(4):
                task(lambda: job("b"), owner="b")
                task(lambda: job("a"), owner="a")
            gate.set()
            for _ in range(9):
                outcomes.get()
            print("".join(order[100:]))
        in_background(script)
    """)
    assert out[:6].count("a") in {2, 3}
