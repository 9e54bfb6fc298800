"""What tests of launchers and the zygote share: a launcher with its reactor, and the events that it told."""

import contextlib
import threading
import time

import toy_worker
from znb.connection import process_start
from znb.launchers import StartOptions
from znb.launchers.local import LocalLauncher
from znb.transport import Reactor

#: Seconds for anything that takes milliseconds.
PATIENCE = 20.0


class Harness:
    """A launcher, attached to a cluster of toy workers."""

    def __init__(self):
        self.events = []
        self.changed = threading.Condition()
        self.reactor = Reactor()
        self.reactor.start()
        self.launcher = LocalLauncher("", self.reactor, self.note)

    def note(self, event):
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def start(self, n=1, **options):
        options = {"entry": "toy_worker:main", "preload": (), **options}
        return self.launcher.start(n, StartOptions(**options))

    def wait_event(self, name, worker=None, generation=None):
        """Return the first event of this kind."""

        def find():
            for event in self.events:
                if event.event == name and (worker is None or event.worker.name == worker):
                    found = event.certificate or event.worker
                    if generation is None or found.generation == generation:
                        return event
            return None

        with self.changed:
            assert self.changed.wait_for(find, PATIENCE), f"no {name} of {worker} in {self.events}"
            return find()

    def names(self):
        with self.changed:
            return [event.event for event in self.events]

    def worker(self, name="w0"):
        return next(status for status in self.launcher.workers().workers if status.name == name)

    def tell(self, name, code):
        toy_worker.tell(self.worker(name), code)

    def vanish(self):
        """Hang up without a word, as a process that is killed does."""
        self.launcher._close()

    def close(self):
        self.launcher.stop()
        process = self.launcher._process
        if process is not None:
            process.wait(PATIENCE)
        self.reactor.stop()


@contextlib.contextmanager
def harness(n=None, **options):
    made = Harness()
    try:
        if n is not None:
            made.start(n, **options)
        yield made
    finally:
        made.close()


def is_gone(pid):
    return process_start(pid) == ""


def wait_until(condition, what, patience=PATIENCE):
    deadline = time.monotonic() + patience
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        pause.wait(0.005)


def wait_gone(*pids):
    for pid in pids:
        wait_until(lambda: is_gone(pid), f"the end of process {pid}")
