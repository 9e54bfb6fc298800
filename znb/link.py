"""The client's end of one worker: a connection, what the worker has been sent, and whether it answers.

A *link* belongs to one incarnation of a worker; when the worker is replaced, its link ends and a new one is made.
Objects are encoded on the caller's thread and decoded on the thread that takes the result, never on the I/O thread,
because unpickling runs code.

Invariants: each ``ObjectCall`` hears one ending; a worker that lost a definition is sent it again without the caller
noticing.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil
import zmq

from znb import tracebacks, wire
from znb.errors import AuthError, CallTimeout, WorkerLost, ZnbError
from znb.lifecycle import WorkerStatus
from znb.rpc import Call, Connection, Lost, Reply
from znb.serialize import Codec, MissingDefinitions, Payload
from znb.shipping import forget, pack, unpack
from znb.spans import calling, mark
from znb.transport import Reactor

__all__ = ["LEFT", "Failed", "Link", "ObjectCall", "Outcome", "Value"]

#: Why the work of a worker ends that is not replaced: the cluster was scaled down.
LEFT = "has left the cluster"
#: Seconds for news of a worker's death to arrive after its connection broke.
NEWS_PATIENCE = 2.0
#: Seconds to wait for a definition that a worker holds and this process has lost.
DEFINITION_TIMEOUT = 30.0


class Value(NamedTuple):
    """A call's result."""

    value: Any


class Failed(NamedTuple):
    """A call's failure.

    Attributes:
        error: What to raise here.
        record: The remote exception as it was captured; ``None`` where the failure is not the remote code's.
    """

    error: BaseException
    record: tracebacks.ErrorRecord | None = None


Outcome = Value | Failed


class ObjectCall:
    """A call whose arguments and result are pickled objects.

    Attributes:
        link: The worker's link.
        call: The call underneath.
        started: Whether the worker has begun it.
    """

    __slots__ = ("_handler", "_method", "_payload", "call", "headers", "link", "span", "started")

    def __init__(
        self,
        link: Link,
        method: str,
        payload: Payload,
        handler: Callable[[ObjectCall, Reply | Lost], object],
        headers: dict[str, Any],
    ) -> None:
        self.link = link
        self.headers = headers
        self.span = calling(str(headers.get("label", method)), headers, worker=link.name, method=method)
        self.started = False
        self._method = method
        self._payload: Payload | None = payload
        self._handler = handler
        try:
            cargo, body, frames = pack(payload, link.codec, link.known)
            self.call = link.connection.call(
                method, body, self._on_event, buffers=frames, headers={**headers, "cargo": cargo}
            )
        except BaseException as error:
            self.span.end(error)
            raise
        mark(self.span, "sent_ns")

    def cancelled(self) -> None:
        """Note that nobody waits for it any more. May be called again, also when it has ended."""
        self.span.status = "cancelled"
        self.span.end()

    def note_kill(self, reason: str) -> None:
        """Note on the span that its worker was killed, once."""
        if not any(name == "kill" for _, name, _ in self.span.events or ()):
            self.span.event("kill", worker=self.link.name, reason=reason)

    def outcome(self, reply: Reply | Lost) -> Outcome:
        """Decode the ending. On the caller's thread: it runs code, and may ask the worker for definitions."""
        mark(self.span, "decoding_ns")
        outcome = self._outcome(reply)
        self.span.end(outcome.error if isinstance(outcome, Failed) else None)
        return outcome

    def _outcome(self, reply: Reply | Lost) -> Outcome:
        if isinstance(reply, Lost):
            if isinstance(reply.error, WorkerLost):
                self.note_kill(reply.error.reason)
            return Failed(self._lost(reply.error))
        try:
            if reply.name == wire.OK:
                return Value(self._decode(reply.args[0], reply))
            return self._failure(reply)
        except Exception as error:  # noqa: BLE001 - user code runs in unpickling; its error is the outcome
            error.add_note(f"raised here, while the result of {self._method} from {self.link.name} was decoded")
            return Failed(error)

    def _lost(self, error: ZnbError) -> ZnbError:
        """Return the worker's end as the end of this call: each call has an error of its own, and says what ran."""
        if not isinstance(error, WorkerLost):
            return error
        label = str(self.headers.get("label", self._method))
        lost = WorkerLost(
            error.worker,
            error.reason if self.started else f"{error.reason} before it was done with {label}",
            running=label if self.started else "",
            hint="" if error.reason == LEFT else "A new process takes its place, without its variables",
        )
        for note in getattr(error, "__notes__", ()):
            lost.add_note(note)
        return lost

    def _decode(self, body: bytes, reply: Reply) -> Any:
        codec = self.link.codec
        buffers = unpack(reply.headers.get("cargo"), reply.buffers, codec, self.link.known)
        return self.link.with_definitions(lambda: codec.decode(body, buffers))

    def _failure(self, reply: Reply) -> Failed:
        name, message, _text = reply.args
        encoded = reply.headers.get("error")
        if encoded is None:
            if name == "Cancelled":
                self.span.status = "cancelled"
            return Failed(ZnbError(f"{self.link.name} refused the call: {name}: {message}"))
        record = tracebacks.decode_record(encoded)
        unpack(reply.headers.get("cargo"), reply.buffers, self.link.codec)
        return Failed(self.link.with_definitions(lambda: tracebacks.restore(record, self.link.codec)), record)

    def _on_event(self, call: Call, reply: Reply | Lost) -> None:
        self.call = call  # this thread may be ahead of the one that is still making the call
        self.started = self.started or (isinstance(reply, Reply) and reply.name == wire.STREAM)
        if isinstance(reply, Reply) and reply.name == wire.NEED and self._payload is not None:
            forget(self.link.known, reply.args)
            cargo, body, frames = pack(self._payload, self.link.codec, self.link.known)
            self.link.connection.resend(call, body, frames, {**self.headers, "cargo": cargo})
            return
        if isinstance(reply, Lost) or reply.is_last:
            self._payload = None
            mark(self.span, "replied_ns")
        self._handler(self, reply)


class Link:
    """The client's end of one incarnation of a worker.

    Attributes:
        client: What this process's jobs are known by at the worker.
        name: The worker's name.
        generation: 1 for the first process of that name, counted up by each replacement.
        pid: Process id on its host.
        jobs_url: Where it takes jobs.
        alive: Whether it is still the worker of that name.
        condemned: Whether it is being killed, so that nothing more is to be sent to it.
        known: Keys of the definitions that this connection has carried.
        host: Its machine, if that is another one.
        far: Whether the connection may break, or be refused, while the worker goes on.
        on_broken: Called on the reactor's thread when that has happened, and the worker's end is not the reason.
        stubborn: Calls that went on after an interrupt, by id, with the number of interrupts they ignored.
    """

    def __init__(self, reactor: Reactor, codec: Codec, member: WorkerStatus, client: bytes) -> None:
        self.client = client
        self.reactor = reactor
        self.codec = codec
        self.name = member.name
        self.generation = member.generation
        self.pid = member.pid
        self.jobs_url = member.jobs
        self.alive = True
        self.condemned = False
        self.known: set[bytes] = set()
        self.stubborn: dict[int, int] = {}
        self.host = member.host
        self.far = reactor.credentials is not None
        self.on_broken: Callable[[Link], object] | None = None
        self._breaking = False
        self._credentials = reactor.credentials
        self.connection = Connection(reactor, member.calls, on_change=self.on_change if self.far else None)

    def open(self) -> None:
        """Dial the worker. On the reactor's thread."""
        self.connection.open()

    def close(self, error: ZnbError) -> None:
        """End every call with ``error``. On the reactor's thread; may be called twice."""
        self.alive = False
        self.connection.close(error)

    def on_change(self, event: int) -> None:
        """Take note that a connection to a worker far away has changed."""
        if event == zmq.EVENT_DISCONNECTED and not self._breaking:
            self._breaking = True  # what was under way is lost; the worker's death, if that is why, is told elsewhere
            self.reactor.call_later(NEWS_PATIENCE, self._on_broken)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and self.reactor.credentials is not self._credentials:
            self._breaking = True  # the keys were changed while it was dialling; libzmq does not dial again
            self.reactor.call_soon(self._on_broken)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            refused = f"{self.name} refused this client's keys: its connection file is of another start of the cluster"
            self.close(AuthError(refused))

    def _on_broken(self) -> None:
        if self.alive and self.on_broken is not None:
            self.on_broken(self)

    # -- any thread ----------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        payload: Payload,
        handler: Callable[[ObjectCall, Reply | Lost], object],
        **headers: Any,
    ) -> ObjectCall:
        """Call a method that runs on the worker's main thread."""
        return ObjectCall(self, method, payload, handler, headers)

    def control_nowait(self, method: str, args: Any, handler: Callable[[Any], object]) -> None:
        """Call a method that the worker's I/O thread answers; ``handler(result or Lost)`` on our I/O thread."""

        def on_event(_call: Call, reply: Reply | Lost) -> None:
            handler(reply if isinstance(reply, Lost) else reply.args[0])

        self.connection.call(method, args, on_event)

    def control(self, method: str, args: Any = None, *, timeout: float) -> Any:
        """Call a method that the worker's I/O thread answers, and wait for the result.

        Raises:
            CallTimeout: No answer within ``timeout`` seconds.
            WorkerLost: The worker is gone.
        """
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.control_nowait(method, args, answers.put)
        try:
            answer = answers.get(timeout=timeout)
        except queue.Empty:
            raise CallTimeout(f"{method} of {self.name}", timeout) from None
        if isinstance(answer, Lost):
            raise answer.error
        return answer

    def interrupt(self, calls: list[int]) -> None:
        """Raise ``KeyboardInterrupt`` in the code that these calls run."""
        self.control_nowait("_znb_interrupt", calls, lambda _answer: None)

    def with_definitions(self, decode: Callable[[], Any]) -> Any:
        """Decode something, asking the worker for definitions that it made and this process does not hold."""
        while True:
            try:
                return decode()
            except MissingDefinitions as missing:
                self.fetch_definitions(list(missing.keys))

    def fetch_definitions(self, keys: list[bytes]) -> None:
        """Ask the worker for definitions that it made and this process does not hold (any more)."""
        for key, parts in zip(keys, self.control("_znb_definitions", keys, timeout=DEFINITION_TIMEOUT), strict=True):
            self.codec.learn(key, tuple(parts))

    def explain_silence(self) -> str:
        """Return why the worker may not answer."""
        away = f", or {self.host} is out of reach" if self.host else ""
        return f"does not answer: its interpreter is held by native code{away}"

    def frozen(self) -> bool:
        """Whether the worker's process is on this machine and stopped (SIGSTOP, Ctrl-Z, a debugger)."""
        if self.host:
            return False
        try:
            return psutil.Process(self.pid).status() in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}
        except psutil.Error:
            return False

    def lost(self, reason: str) -> WorkerLost:
        """Return the error for work that was on this worker when it went."""
        return WorkerLost(self.name, reason)
