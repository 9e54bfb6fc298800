"""What the tests of jobs have workers run; workers import this module, so it imports little."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

#: Seconds for anything that takes milliseconds.
PATIENCE = 30.0
#: Seconds between two looks at a condition.
LOOK = 0.005


def wait_until(condition, what="a condition"):
    """Return what ``condition()`` returns once that is true."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        pause.wait(LOOK)
    return found


def start_callbacks(cluster):
    """Have a cluster's client start its thread for callbacks, so that no test seems to leak it."""
    called = threading.Event()
    cluster.submit(abs, -1).add_done_callback(lambda _: called.set())
    assert called.wait(PATIENCE)


class Gate:
    """A job that waits for the test, and that the test waits for."""

    def __init__(self, folder, name="gate"):
        self.path = Path(folder) / name

    def __call__(self, value=None):
        """Be the job: say that it runs, and go on when told."""
        with self.path.with_suffix(".runs").open("a") as file:
            file.write(f"{os.getpid()}\n")
        while not self.path.with_suffix(".open").exists():
            time.sleep(LOOK)
        return value

    def open(self):
        """Let the job go on."""
        self.path.with_suffix(".open").touch()

    def runs(self):
        """Return the processes in which it has begun."""
        try:
            return [int(line) for line in self.path.with_suffix(".runs").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def wait_running(self):
        """Wait until it has begun; return the process of the last one."""
        return wait_until(self.runs, f"{self.path.name} runs")[-1]

    @contextlib.contextmanager
    def interrupting(self):
        """Press the interrupt key, in the main thread, once it has begun."""

        def interrupt():
            self.wait_running()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        yield
        thread.join()


def gate_if(gate, x):
    return gate(x) if x else x


def capture(*args, **kwargs):
    return args, kwargs


def square(x):
    return x * x


def pid(_=None):
    return os.getpid()


def fail(message="no"):
    raise ValueError(message)


def fail_at(x, bad):
    if x == bad:
        raise ValueError(f"bad {x}")
    return x


class Thing:
    """Can be referred to weakly."""

    def method(self):
        return 1


def thing(_=None):
    return Thing()


def die_at(x, bad, how=signal.SIGKILL):
    """Kill this worker at some items."""
    if x in bad:
        os.kill(os.getpid(), how)
        time.sleep(PATIENCE)
    return x


def exit_at(x, bad):
    if x in bad:
        os._exit(7)
    return x


def note(path, x):
    """Append a line for each run: short appends are atomic."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{x}\n".encode())
    os.close(fd)
    return x


def fail_first(path, x, times=1):
    """Raise ``OSError`` the first times that it is run for ``x``."""
    note(path, x)
    if Path(path).read_text().split().count(str(x)) <= times:
        raise OSError(f"try {x} again")
    return x


def sleep(seconds, value=None):
    time.sleep(seconds)
    return value


def sleep_and_print(seconds, text):
    time.sleep(seconds)
    print(text)


def stubborn(folder):
    """Ignore every interrupt."""
    while True:
        try:
            Path(folder, "stubborn").write_text(str(os.getpid()))  # in here: an interrupt may follow at once
            while True:
                time.sleep(LOOK)
        except KeyboardInterrupt:
            continue


def work(x):
    """Take long enough for a storm to hit it: about 0.5 ms."""
    end = time.perf_counter() + 0.0005
    while time.perf_counter() < end:
        pass
    return x * 2 + 1


def ignore_interrupts():
    """Leave a handler behind that drops interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def ignore_then_sleep(seconds):
    """Ignore interrupts from the first item on, which is 0."""
    if seconds == 0:
        ignore_interrupts()
    time.sleep(seconds)
    return os.getpid()


def print_and_die(text):
    print(text)
    os.kill(os.getpid(), signal.SIGKILL)


def adder(n):
    """Return a function that is like no other."""
    namespace = {"__name__": "__main__"}
    exec(f"def add(x):\n    return x + {n}", namespace)
    return namespace["add"]


def spin(seconds):
    """Use the processor for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def note_and_die(path, x):
    note(path, x)
    return die_at(x, {x})


def note_then_die(path, gate, x):
    """The last one waits and dies."""
    note(path, x)
    return die_at(gate(x), {9}) if x == 9 else x


def blob(size):
    return bytes(size)


def nest(cluster_name, x):
    """Use the cluster that runs this, from inside."""
    import znb

    with znb.Cluster.connect(cluster_name) as cluster:
        return cluster.submit(square, x).result()


def fill(array, value):
    """Return the same array again and again, filled anew."""
    array[...] = value
    return array


def collect(found, value):
    """Return the same list again and again, grown by one."""
    found.append(value)
    return found


def identity(value):
    return value
