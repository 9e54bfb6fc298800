"""The worker's main: an IPython shell and a job runner on the main thread, sockets on the I/O thread.

Calls that a worker answers itself, at once and on the I/O thread, even while user code runs:

================== ============================== =====================================================
method              arguments                      result
================== ============================== =====================================================
_znb_ping           the client's id, or null      what runs now, or null
_znb_interrupt      [call ids of this connection]  null; they end with ``KeyboardInterrupt``; null: what runs
_znb_stats          none                           pid, memory, times, what runs
_znb_spans          a ``traces.feed.Request``      new spans and samples, a ``Batch`` as msgpack
_znb_stacks         none                           text: the stack of every thread
_znb_definitions    [keys]                         the definitions' frames
_znb_release        key of shared memory           null; its mapping is let go
_znb_admit          keys of clients                null; lets in who holds one of them, and nobody else
_znb_exit           none                           null; the worker ends
_znb_hold           see ``znb.holdings``           an object that was put elsewhere
_znb_results        [the client's id, its link]    a stream, in place of a sink (``znb.executor.results``)
================== ============================== =====================================================

Calls that run on the main thread, in turn: ``cell`` (a stream of outputs, then the value), ``push``, ``pull``
and ``apply``. Their arguments are one object each, encoded by ``znb.serialize`` and laid out by ``znb.shipping``.

Invariants: the main thread runs user code and nothing else does; the I/O thread never unpickles. A worker whose
zygote is gone ends itself.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sized
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import psutil
import zmq

from znb import tracebacks
from znb.auth import Gate
from znb.commands import find_children, interrupt_children
from znb.connection import WorkerSpec
from znb.errors import SerializationError
from znb.executor.results import RESULTS
from znb.executor.server import JobServer
from znb.executor.waits import awaited_folder
from znb.holdings import HOLD, Holdings
from znb.journal import Journal
from znb.outputs import Output, Text, encode_output
from znb.profiler import SAMPLER
from znb.pubsub.home import home
from znb.routes import Mark, MarkedEmit
from znb.rpc import Request, Server
from znb.runner import Failure, Runner, Success, Task
from znb.serialize import Codec, MissingDefinitions, Payload
from znb.serialize.settled import copied, is_settled
from znb.shared import drop
from znb.shell import Shell
from znb.shipping import pack, unpack
from znb.signs import OUTSIDE, Place
from znb.spans import RECORDER, OpenSpan, follow_threads, mark, serving
from znb.traces import FEED
from znb.traces.errors import describer
from znb.transport import Reactor
from znb.wire import WIRE_VERSION

__all__ = ["Worker", "main"]

#: Connections whose definitions are remembered; an older one is sent definitions again.
PEERS_REMEMBERED = 64
#: Environment variable that has variables of frames kept with exceptions: in traces, and for ``%debug``.
LOCALS_VARIABLE = "ZNB_TRACE_LOCALS"
#: First item of the stream of a call that had to wait for its turn: it runs now.
STARTED = b""


class Worker:
    """One worker process.

    Args:
        spec: Who it is and where it listens.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        RECORDER.worker = spec.name
        self.codec = Codec()
        self.reactor = Reactor()
        self.runner = Runner(find_children, interrupt_children)
        self._gate = Gate(spec.keys) if spec.keys is not None else None
        self._holdings = Holdings(self.reactor, self._gate.dial if self._gate is not None else None)
        self._journal = Journal(spec.crash_fd)
        self.shell = Shell(spec.name, journal=self._journal)
        self._strays: dict[bytes, str] = {}
        self._last_peer: bytes | None = None
        self._calls = Server(self.reactor, self._dispatch)
        self._jobs = JobServer(self)
        self._tasks: dict[tuple[bytes, Any], tuple[Task, Request]] = {}
        self._known: dict[bytes, set[bytes]] = {}
        self._host = platform.node()
        self._main_thread = threading.get_ident()
        self._started = time.monotonic()

    def run(self) -> None:
        """Bind, say so, and serve until told to end."""
        RECORDER.describe = describer(self.codec, self.place, with_locals=self.with_locals)
        SAMPLER.install()
        follow_threads()
        self.reactor.start()
        try:
            urls = self.reactor.wait_call(self._bind)
        except zmq.ZMQError as error:
            self.reactor.stop()
            needs = (
                "; a worker takes two ports, and one more for its streams and for each service" if self._gate else ""
            )
            raise SystemExit(f"cannot listen at {self.spec.calls}: {error}{needs}") from None
        os.write(self.spec.ready_fd, b"\1" + "".join(f"{url}\n" for url in urls).encode())
        if self._gate is not None and self.spec.events.startswith("tcp://"):
            OUTSIDE.settle(Place(self.spec.events, self._gate), self.spec.ready_fd)
        else:
            os.close(self.spec.ready_fd)
        self.shell.start()
        try:
            self.runner.run(self.shell.idle)
        finally:
            self.reactor.stop()

    @property
    def with_locals(self) -> bool:
        """Whether exceptions are sent with the variables of their frames."""
        return bool(os.environ.get(LOCALS_VARIABLE))

    def place(self) -> dict[str, Any]:
        """Return who and where this is, as ``tracebacks.capture`` takes it."""
        return {"worker": self.spec.name, "host": self._host, "pid": os.getpid()}

    def capture(self, emit: MarkedEmit, mark: Mark, ended: Sized) -> AbstractContextManager[None]:
        """Return a context in which what this process writes goes to ``emit``; ``flush`` belongs before its end."""
        return self.shell.capture(emit, mark=mark, ended=ended, flush=False)

    def settle(self) -> None:
        """Mark what has been written so far: another job is about to begin."""
        self.shell.settle()

    def begin(self) -> None:
        """Take note that a cell or job begins, or has ended: what was written before is not its last words."""
        self._journal.begin()

    def flush(self) -> None:
        """Wait until what this process has written has been emitted."""
        self.shell.flush()

    # -- the I/O thread ------------------------------------------------------------------------------------

    def _bind(self) -> tuple[str, ...]:
        """Listen; return the addresses for calls, jobs and events."""
        self.shell.exempt()  # what is printed here must not wait for credits that this thread brings
        if self._gate is not None:
            self._gate.guard(self.reactor)
        calls = self._calls.bind(self.spec.calls)
        jobs = self._jobs.bind(self.spec.jobs)
        self.reactor.add_reader(self.spec.parent_fd, self._orphaned)
        return calls, jobs, self.spec.events

    def _orphaned(self) -> None:
        """End at once, with every child: the zygote is gone, so nobody would replace or stop this worker."""
        os.killpg(0, signal.SIGKILL)

    def _dispatch(self, request: Request) -> None:
        if request.method == RESULTS:
            self._jobs.open_results(request)
            return
        if request.method == HOLD:
            self._holdings.on_request(request)
            return
        handler = self._IMMEDIATE.get(request.method)
        if handler is not None:
            try:
                request.reply(handler(self, request))
            except (TypeError, ValueError, KeyError, IndexError) as error:
                request.fail(type(error).__name__, str(error))
            return
        queued = self._QUEUED.get(request.method)
        if queued is None:
            known = ", ".join(sorted([*self._IMMEDIATE, *self._QUEUED]))
            request.fail("NameError", f"a worker has no method {request.method!r}; it has {known}")
            return
        self._queue(request, queued)

    def _queue(self, request: Request, method: Callable[[Worker, Request, Any], Any]) -> None:
        key = (request.peer, request.id)
        label = str(request.headers.get("label", request.method))
        span = serving(label, request.headers, request.received_ns, method=request.method)

        def execute() -> Any:
            span.enter()
            mark(span, "taken_ns")
            self._begin_call(request.peer)
            buffers = unpack(request.headers.get("cargo"), request.buffers, self.codec, self._known_by(request.peer))
            arguments = self.codec.decode(request.args, buffers)
            request.send_item(STARTED)
            mark(span, "decoded_ns")
            return method(self, request, arguments)

        def finish(outcome: Success | Failure) -> None:
            self._tasks.pop(key, None)
            span.leave()
            mark(span, "ran_ns")
            self._answer(request, outcome, span)
            self.begin()

        task = Task(execute, finish, owner=request.peer, label=label)
        self._tasks[key] = (task, request)
        self.runner.submit(task)

    def _ping(self, request: Request) -> dict[str, Any] | None:
        running = self.runner.snapshot()
        if running is None:
            return None
        now = time.monotonic()
        return {
            "label": running.label,
            "yours": running.owner in {request.peer, request.args},
            "seconds": now - running.since,
            "queued": running.queued,
            "waits": awaited_folder(self._main_thread) == self.spec.jobs.rpartition("/")[0],
        }

    def _interrupt(self, request: Request) -> None:
        if request.args is None:
            self.runner.interrupt_current()
            return
        for identifier in request.args:
            task, call = self._tasks.get((request.peer, identifier), (None, None))
            if task is not None and call is not None:
                self.runner.interrupt(task)
                if not task.started:  # it never will be, and its caller need not wait for its turn
                    call.fail("Cancelled", "it was interrupted before it began")

    def _stats(self, request: Request) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "name": self.spec.name,
            "pid": os.getpid(),
            "host": self._host,
            "python": platform.python_version(),
            "wire": WIRE_VERSION,
            "uptime": time.monotonic() - self._started,
            "user_time": usage.ru_utime,
            "system_time": usage.ru_stime,
            "rss_bytes": psutil.Process().memory_info().rss,
            "max_rss_bytes": usage.ru_maxrss * 1024,
            "running": self._ping(request),
            **self._jobs.stats(),
        }

    def _spans(self, request: Request) -> bytes:
        return FEED.answer_encoded(request.args)

    def _stacks(self, _request: Request) -> str:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        parts: list[str] = []
        for ident, frame in sys._current_frames().items():
            parts.append(f"thread {names.get(ident, ident)}:\n")
            parts.extend(traceback.format_stack(frame))
        return "".join(parts)

    def _definitions(self, request: Request) -> list[list[bytes]]:
        return [[bytes(part) for part in self.codec.definition(key)] for key in request.args]

    def _release(self, request: Request) -> None:
        self._holdings.release(request.args)
        drop(request.args)

    def _admit(self, request: Request) -> None:
        if self._gate is not None:
            self._gate.admit(request.args)

    def _exit(self, _request: Request) -> None:
        self.runner.stop()

    # -- the main thread -----------------------------------------------------------------------------------

    def _cell(self, request: Request, options: dict[str, Any]) -> Any:
        emit = _emitter(request)
        self._show_strays(request.peer, emit)
        self.shell.namespace.update(options.pop("variables"))
        value = self.shell.run_cell(emit=emit, **options)
        try:
            return self.codec.encode(value)
        except SerializationError as error:
            emit(self.shell.describe(value))
            emit(Text("stderr", f"(the value stays there: {error})\n"))
            return self.codec.encode(None)

    def _begin_call(self, peer: bytes) -> None:
        """Begin a call; what was written since the last one ended is kept for the client that made that."""
        if peer != self._last_peer:
            if self._last_peer is not None:
                text = self._strays.pop(self._last_peer, "") + self._stray()
                self._strays = {**dict(list(self._strays.items())[1 - PEERS_REMEMBERED :]), self._last_peer: text}
            self._last_peer = peer
        self.begin()

    def _show_strays(self, peer: bytes, emit: Callable[[Output], None]) -> None:
        """Show what threads and tasks of a client's earlier calls have written when those had ended."""
        text = self._strays.pop(peer, "") + self._stray()
        if text:
            end = "" if text.endswith("\n") else "\n"
            emit(Text("stderr", f"[written after its cell had ended:]\n{text}{end}"))

    def _stray(self) -> str:
        self.shell.flush()
        return self.shell.stray(take=True)

    def _push(self, _request: Request, variables: dict[str, Any]) -> None:
        self.shell.namespace.update(variables)

    def _pull(self, _request: Request, names: list[str]) -> dict[str, Any]:
        missing = [name for name in names if name not in self.shell.namespace]
        if missing:
            raise NameError(f"not defined there: {', '.join(missing)}")
        return {name: self.shell.namespace[name] for name in names}

    def _apply(self, request: Request, call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> Any:
        function, args, kwargs = call
        with self.shell.capture(_emitter(request)):
            return function(*args, **kwargs)

    def _payload(self, owner: list[Any]) -> Payload:
        """Return the value in a list encoded; what the next call can change is copied."""
        payload = owner[0] if isinstance(owner[0], Payload) else self.codec.encode(owner[0])
        settled = not payload.buffers or is_settled(list(owner), references=1, exported=1)  # its outcome has it as well
        return payload if settled else copied(payload)

    def _answer(self, request: Request, outcome: Success | Failure, span: OpenSpan) -> None:
        # The span ends before the answer leaves, so that whoever has the answer can have the span.
        known = self._known_by(request.peer)
        if isinstance(outcome, Failure) and isinstance(outcome.error, MissingDefinitions):
            span.status = "cancelled"  # it comes again
            span.end()
            request.need(list(outcome.error.keys))
            return
        if isinstance(outcome, Success):
            try:
                shipment = pack(self._payload([outcome.value]), self.codec, known)
            except Exception as failure:  # noqa: BLE001 - any failure to encode is the caller's to see
                outcome = Failure(failure)
            else:
                span.end()
                request.reply(shipment.body, shipment.frames, cargo=shipment.cargo)
                return
        error = outcome.error
        record = tracebacks.capture(error, self.codec, **self.place(), with_locals=self.with_locals)
        cargo, _, frames = pack(Payload(b"", (), record.definitions), self.codec, known)
        span.end(error)
        request.fail(
            record.type_name,
            record.message,
            record.traceback_text,
            buffers=frames,
            cargo=cargo,
            error=tracebacks.encode_record(record),
        )

    def _known_by(self, peer: bytes) -> set[bytes]:
        """Return the definitions that a connection has been sent; remembered for the latest connections only."""
        known = self._known.pop(peer, None) or set()
        self._known[peer] = known
        while len(self._known) > PEERS_REMEMBERED:
            del self._known[next(iter(self._known))]
        return known

    _IMMEDIATE: ClassVar[dict[str, Callable[[Worker, Request], Any]]] = {
        "_znb_ping": _ping,
        "_znb_interrupt": _interrupt,
        "_znb_stats": _stats,
        "_znb_spans": _spans,
        "_znb_stacks": _stacks,
        "_znb_definitions": _definitions,
        "_znb_release": _release,
        "_znb_admit": _admit,
        "_znb_exit": _exit,
    }
    _QUEUED: ClassVar[dict[str, Callable[[Worker, Request, Any], Any]]] = {
        "cell": _cell,
        "push": _push,
        "pull": _pull,
        "apply": _apply,
    }


def _emitter(request: Request) -> Callable[[Output], None]:
    """Return what sends outputs to the caller."""

    def emit(output: Output) -> None:
        request.send_item(encode_output(output))

    return emit


def main(spec: WorkerSpec) -> None:
    """Be the worker that ``spec`` describes, until told to end."""
    faulthandler.enable(spec.crash_fd)
    worker = Worker(spec)
    home.settle(spec.events, spec.name, worker.codec, spec.cluster)
    worker.run()
