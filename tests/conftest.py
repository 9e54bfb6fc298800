"""What every test gets without asking: a world of its own, and a check that it leaves nothing behind.

A *world* is a home, Jupyter and IPython folders, and a short runtime directory for znb (socket paths end at
107 bytes). Each module has one, for fixtures of module scope, and each test has one of its own.

When a test or a module ends, whatever it began must have ended: threads named ``znb…``, processes (children,
and others that were started with this world's runtime directory in their environment), ZeroMQ sockets, shared
memory named ``znb…`` and files in the runtime directory. A leak fails the test that leaked, and is removed so
that the next test does not suffer from it. What ends by itself within ``GRACE`` seconds is no leak.

A cluster or client shared by a module must not open new sockets or threads during a test; start one per test
where workers are killed or added.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import shutil
import signal
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import zmq
from hypothesis import settings
from zmq.utils.garbage import gc as zero_copy

from kernels import Kernel, interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Seconds that threads and processes have to end by themselves after a test; loaded machines are slow to reap.
GRACE = 5.0

#: Processes that Python or a peer keeps for as long as the test process lives, and those of a browser (``--type=renderer``
#: and others), which come and go as it likes and end with it; they are nobody's leak.
HELPERS = ("resource_tracker", "multiprocessing.forkserver", "--type=")

SHARED_MEMORY = Path("/dev/shm")

_sockets: weakref.WeakSet[zmq.Socket[Any]] = weakref.WeakSet()


#: No example of a property test has a deadline: how long one takes says how busy the machine is.
settings.register_profile("znb", deadline=None)
settings.load_profile("znb")


def pytest_configure() -> None:
    """Let the interrupt key work, and keep track of every ZeroMQ socket: a context does not tell which it has."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell that runs a command in the background sets that, and everything that tests start would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    original = zmq.Socket.__init__

    @functools.wraps(original)
    def recording(self: zmq.Socket[Any], *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        _sockets.add(self)

    zmq.Socket.__init__ = recording


# -- worlds


@dataclass(frozen=True, slots=True)
class World:
    """The folders of a test or a module."""

    runtime: Path
    home: Path


@contextlib.contextmanager
def new_world(cache: Path) -> Iterator[World]:
    """Point the environment to new, empty folders; put it back and remove them."""
    folder = Path(tempfile.mkdtemp(prefix="zw-", dir="/tmp" if os.name == "posix" else None))
    world = World(runtime=folder / "run", home=folder / "home")
    world.runtime.mkdir(mode=0o700)
    world.home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in [
            n for n in os.environ if n.startswith(("XDG_", "JUPYTER_", "JPY_", "IPYTHON", "ZNB_", "PYTHONUNBUFFERED"))
        ]:
            patch.delenv(name)
        patch.setenv("ZNB_RUNTIME_DIR", str(world.runtime))
        patch.setenv("HOME", str(world.home))
        patch.setenv("IPYTHONDIR", str(world.home / "ipython"))
        for kind in ("CONFIG", "DATA", "RUNTIME"):
            patch.setenv(f"JUPYTER_{kind}_DIR", str(world.home / f"jupyter-{kind.lower()}"))
        patch.setenv("MPLCONFIGDIR", str(cache))  # shared: matplotlib takes seconds to list the fonts
        patch.setenv("MPLBACKEND", "agg")
        yield world
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _matplotlib_cache(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.cache.mkdir("matplotlib"))


@pytest.fixture(scope="module", autouse=True)
def module_world(_matplotlib_cache: Path) -> Iterator[World]:
    """The world of the module's own fixtures."""
    with new_world(_matplotlib_cache) as world:
        watch = Watch(world, outer=None)
        yield world
        watch.check()


@pytest.fixture(autouse=True)
def world(_matplotlib_cache: Path, module_world: World, request: pytest.FixtureRequest) -> Iterator[World]:
    """The world of one test."""
    with new_world(_matplotlib_cache) as world:
        watch = Watch(world, outer=module_world)
        yield world
        watch.check(files=request.node.get_closest_marker("leaves_files") is None)


@pytest.fixture
def runtime_dir(world: World) -> Path:
    """The test's own ``ZNB_RUNTIME_DIR``: empty, 0700, with a short path."""
    return world.runtime


# -- leaks


class Watch:
    """What there was when a world began, and what has come since and stayed."""

    def __init__(self, world: World, outer: World | None) -> None:
        self.world = world
        self.outer = outer
        self.began = time.time()
        self.threads = set(threading.enumerate())
        self.sockets = set(_sockets)
        self.shared = set(_shared_memory())

    def check(self, *, files: bool = True) -> None:
        """Fail if something has stayed, after removing it."""
        deadline = time.monotonic() + GRACE
        while (leaks := self.leaks(files=files)) and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.02)
        if leaks:
            self.remove()
            pytest.fail("left behind:\n  " + "\n  ".join(leaks), pytrace=False)

    def leaks(self, *, files: bool) -> list[str]:
        """Describe everything that has stayed."""
        return [
            *(f"thread {t.name}" for t in self.new_threads()),
            *(f"process {_describe(p)}" for p in self.new_processes()),
            *(f"socket {s!r}" for s in self.new_sockets()),
            *(f"shared memory {p}" for p in self.new_shared_memory()),
            *(f"file {p}" for p in self.new_files() if files),
        ]

    def remove(self) -> None:
        """End and remove what can be: threads cannot."""
        for process in self.new_processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for socket in self.new_sockets():
            socket.close(linger=0)
        for path in self.new_shared_memory():
            path.unlink(missing_ok=True)

    def new_threads(self) -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t not in self.threads and t.name.startswith("znb")]

    def new_sockets(self) -> list[zmq.Socket[Any]]:
        # pyzmq has sockets of its own, for messages sent without a copy; they live as long as the process.
        own = zero_copy._context
        return [
            s
            for s in set(_sockets)
            if s not in self.sockets and not s.closed and not s._shadow and s.context is not own
        ]

    def new_files(self) -> list[Path]:
        return [path for path in sorted(self.world.runtime.rglob("*")) if not path.is_dir()]

    def new_processes(self) -> list[psutil.Process]:
        """Return processes that began in this world.

        Those of the enclosing world are not ours; one without a world of its own is, if it is a descendant
        that began after us.
        """
        descendants = set(psutil.Process().children(recursive=True))
        found = []
        for process in descendants.union(psutil.process_iter()):
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                runtime = process.environ().get("ZNB_RUNTIME_DIR")
                ours = runtime == str(self.world.runtime)
                stray = process in descendants and process.create_time() > self.began
                outer = self.outer is not None and runtime == str(self.outer.runtime)
                if (ours or (stray and not outer)) and not _is_helper(process):
                    found.append(process)
        return found

    def new_shared_memory(self) -> list[Path]:
        """Return new shared memory that no process of another world has open (tests run side by side)."""
        candidates = [path for path in _shared_memory() if path not in self.shared]
        if not candidates:
            return []
        ours = {p.pid for p in self.new_processes()} | {os.getpid()}
        return [path for path in candidates if not _users(path) - ours]


def _shared_memory() -> list[Path]:
    return list(SHARED_MEMORY.glob("znb*")) if SHARED_MEMORY.is_dir() else []


def _users(path: Path) -> set[int]:
    """Return the processes that have a file mapped or open."""
    users = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            opened = any(f.path == str(path) for f in process.open_files())
            if opened or str(path) in Path(f"/proc/{process.pid}/maps").read_text():
                users.add(process.pid)
    return users


def _is_helper(process: psutil.Process) -> bool:
    return any(name in argument for argument in process.cmdline() for name in HELPERS)


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:200]}"
    except psutil.Error as error:
        return str(error)


# -- kernels


@contextlib.contextmanager
def _kernels(world: World) -> Iterator[Callable[..., Kernel]]:
    """Yield a function that starts kernels in this world; close them all."""
    with contextlib.ExitStack() as stack:
        started: list[Kernel] = []

        def start(**options: Any) -> Kernel:
            folder = world.home.parent / f"k{len(started)}"
            started.append(stack.enter_context(Kernel(folder, **options)))
            return started[-1]

        yield start


@pytest.fixture
def kernel(world: World) -> Iterator[Callable[..., Kernel]]:
    """A function that starts a kernel: ``k = kernel()``, with ``python`` and ``env`` as options."""
    with _kernels(world) as start:
        yield start


@pytest.fixture(params=["ipykernel7", "ipykernel6"])
def each_kernel(world: World, request: pytest.FixtureRequest) -> Iterator[Callable[..., Kernel]]:
    """As ``kernel``; the test runs once with each major version of ipykernel."""
    options = {} if request.param == "ipykernel7" else {"python": interpreter(request.param)}
    with _kernels(world) as start:
        yield functools.partial(start, **options)


@pytest.fixture(scope="module")
def shared_kernel(module_world: World) -> Iterator[Kernel]:
    """One kernel for all tests of a module that do not mind each other's variables."""
    with _kernels(module_world) as start:
        yield start()
