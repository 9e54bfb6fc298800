"""The worker's end of jobs: chunks come in over PULL, run on the main thread, and outcomes go out over PUSH.

Invariants: the jobs of one client run in the order sent; each job that is begun has one outcome, unless the process
dies; a job is given back or begun, never both; an interrupt hits the job it names or none. The I/O thread owns the
sockets and the tables; the main thread runs ``_Work``; what both touch is under ``_Work.lock``.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import zmq

from znb import tracebacks
from znb.errors import ProtocolError
from znb.executor import frames
from znb.executor.frames import CALL_BOTH, CALL_STAR
from znb.flow import CreditGate, GateClosed
from znb.outputs import Output, encode_output
from znb.runner import Failure, Runner, Success, Task
from znb.serialize import Codec, MissingDefinitions, Payload
from znb.shipping import pack, payload_bytes, unpack
from znb.transport import Reactor
from znb.wire import WIRE_VERSION

__all__ = ["JobServer"]

logger = logging.getLogger("znb.jobs")

#: Seconds of work after which outcomes that are ready are sent, though the chunk goes on.
FLUSH_AFTER = 0.02
#: Seconds of work for which jobs are claimed at a time: what a revocation or a flush may be late by.
CLAIM_TIME = 0.001
#: Jobs claimed at a time, at most.
CLAIM_MAX = 4096


class Host(Protocol):
    """What a job server needs of the worker around it."""

    reactor: Reactor
    runner: Runner
    codec: Codec

    def place(self) -> dict[str, Any]:
        """Return worker, host and pid, as ``tracebacks.capture`` takes them."""

    def capture(self, emit: Callable[[Output], None]) -> AbstractContextManager[None]:
        """Return a context in which what this process writes goes to ``emit``."""

    def flush(self) -> object:
        """Wait until what this process has written has been emitted."""


class _Group:
    """A function that a client has defined, decoded at its first job."""

    __slots__ = ("define", "frames", "function")

    def __init__(self, define: frames.Define, parts: list[Any]) -> None:
        self.define = define
        self.frames = parts
        self.function: Callable[[Any], Any] | None = None

    def load(self, codec: Codec) -> Callable[[Any], Any]:
        """Return a function of one item. On the main thread: it runs code.

        Raises:
            MissingDefinitions: The worker has lost some.
        """
        if self.function is None:
            function = codec.decode(self.define.body, unpack(self.define.cargo, self.frames, codec))
            if self.define.call == CALL_STAR:
                function = functools.partial(_call_star, function)
            elif self.define.call == CALL_BOTH:
                function = functools.partial(_call_both, function)
            self.function = function
            self.frames = []
        return self.function  # type: ignore[no-any-return]


def _call_star(function: Callable[..., Any], item: tuple[Any, ...]) -> Any:
    return function(*item)


def _call_both(function: Callable[..., Any], item: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    return function(*item[0], **item[1])


class _Client:
    """One client of this worker: its sink, its groups, what it holds.

    Attributes:
        known: Definitions that its sink has been sent.
        supplied: An entry for each answer to ``Need``, or for the client's end.
        gate: Bytes of results that may be under way.
        print_gate: The same for what jobs print.
    """

    def __init__(self, hello: frames.Hello, sink: zmq.Socket[bytes]) -> None:
        self.id = hello.client
        self.link = hello.link
        self.sink = sink
        self.gate = CreditGate(hello.credit)
        self.print_gate = CreditGate(hello.print_credit)
        self.known: set[bytes] = set()
        self.supplied: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.groups: dict[int, _Group] = {}
        self.work: dict[int, _Work] = {}


class _Work:
    """One chunk, from its arrival to its last outcome.

    Attributes:
        next: The first job not claimed by the main thread.
        stop: One past the last job that is to run here.
        batch: First job of those claimed; ``values`` counts how many of them have ended.
    """

    __slots__ = (
        "batch", "chunk", "client", "frames", "group", "holes", "inside", "lock", "next", "stop", "stopping", "task", "values",
    )  # fmt: skip

    def __init__(self, client: _Client, group: _Group, chunk: frames.Chunk, parts: list[Any]) -> None:
        self.client = client
        self.group = group
        self.chunk = chunk
        self.frames = parts
        self.lock = threading.Lock()
        self.next = chunk.first
        self.stop = chunk.first + sum(segment.stop - segment.start for segment in chunk.segments)
        self.batch = chunk.first
        self.values: list[Any] = []
        self.holes: set[int] = set()
        self.inside = False
        self.stopping = -1
        self.task: Task | None = None

    @property
    def running(self) -> int:
        """The job that runs now, if any does."""
        return self.batch + len(self.values)

    def claim(self, count: int) -> int:
        """Begin up to ``count`` more jobs, consecutive ones; return how many. They can no longer be given back."""
        with self.lock:
            while self.next in self.holes:
                self.next += 1
            end = min(self.next + count, self.stop)
            if self.holes:
                end = min((hole for hole in self.holes if hole >= self.next), default=end)
            self.batch, self.next = self.next, end
            return end - self.batch

    def give_back(self, start: int, stop: int) -> tuple[int, int]:
        """Take out what has not begun of jobs ``start`` up to ``stop``; return what was taken out."""
        with self.lock:
            start, end = max(start, self.next), min(stop, self.stop)
            if start >= end:
                return (stop, stop)
            if end == self.stop:
                self.stop = start
            else:
                self.holes.update(range(start, end))
            return (start, end)

    def may_stop(self) -> bool:
        """Whether an interrupt that comes now hits the job it was meant for. On the main thread."""
        return self.inside and self.stopping == self.running < self.next


class JobServer:
    """Runs the jobs that clients push to this worker.

    Args:
        host: The worker.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._reactor = host.reactor
        self._codec = host.codec
        self._clients: dict[bytes, _Client] = {}
        self._socket: zmq.Socket[bytes] | None = None
        self._done = 0
        self._failed = 0

    def stats(self) -> dict[str, Any]:
        """Return counts for ``_znb_stats``: jobs done and failed here, chunks that wait, clients."""
        waiting = sum(len(client.work) for client in self._clients.values())
        return {"jobs_done": self._done, "jobs_failed": self._failed, "chunks": waiting, "clients": len(self._clients)}

    # -- the I/O thread ------------------------------------------------------------------------------------

    def bind(self, url: str) -> None:
        """Take jobs at ``url``."""
        self._socket = self._reactor.socket(zmq.PULL)
        self._socket.bind(url)
        self._reactor.add_socket(self._socket, self._on_message)

    def _on_message(self, parts: list[Any]) -> None:
        try:
            message = frames.decode_to_worker(parts[0].buffer)
        except ProtocolError:
            logger.exception("a client of this worker sent what is no job message")
            return
        if isinstance(message, frames.Hello):
            self._on_hello(message)
            return
        client = self._clients.get(message.client)
        if client is None:
            return  # it has said goodbye
        match message:
            case frames.Define():
                client.groups[message.group] = _Group(message, parts[1:])
            case frames.Chunk():
                self._on_chunk(client, message, parts[1:])
            case frames.Revoke():
                work = client.work.get(message.chunk)
                start, stop = work.give_back(message.start, message.stop) if work else (message.stop, message.stop)
                self._send(client, frames.Revoked(client.link, message.chunk, start, stop))
            case frames.Stop():
                self._on_stop(client, message)
            case frames.Consumed():
                (client.print_gate if message.printed else client.gate).grant(message.count_bytes)
            case frames.Supply():
                unpack(message.cargo, parts[1:], self._codec)
                client.supplied.put(None)
            case frames.Forget():
                client.groups.pop(message.group, None)
            case frames.Bye():
                self._drop(client)

    def _on_hello(self, hello: frames.Hello) -> None:
        if hello.wire != WIRE_VERSION:
            logger.error("a client speaks wire version %d, this worker %d; it is ignored", hello.wire, WIRE_VERSION)
            return
        sink = self._reactor.socket(zmq.PUSH)
        sink.connect(hello.sink)
        self._clients[hello.client] = _Client(hello, sink)

    def _on_chunk(self, client: _Client, chunk: frames.Chunk, parts: list[Any]) -> None:
        group = client.groups.get(chunk.group)
        if group is None:
            logger.error("a chunk came for a group that was not defined")
            return
        work = _Work(client, group, chunk, parts)
        client.work[chunk.chunk] = work
        work.task = Task(
            functools.partial(self._run, work),
            functools.partial(self._end, work),
            owner=client.id,
            label=group.define.label,
            guard=work.may_stop,
        )
        self._host.runner.submit(work.task)

    def _on_stop(self, client: _Client, message: frames.Stop) -> None:
        work = client.work.get(message.chunk)
        if work is not None and work.task is not None and work.running == message.index:
            work.stopping = message.index
            self._host.runner.interrupt(work.task)

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.id, None)
        client.gate.close()
        client.print_gate.close()
        client.supplied.put(None)
        for work in client.work.values():
            with work.lock:
                work.stop = work.next
            if work.task is not None:
                work.stopping = work.running
                self._host.runner.interrupt(work.task)
        self._reactor.close_socket(client.sink)

    def _send(self, client: _Client, message: frames.FromWorker, parts: list[Any] | None = None) -> None:
        """Send to a client's sink. From any thread."""
        encoded = [frames.encode(message), *(parts or ())]
        if self._reactor.on_thread:
            self._send_nowait(client, encoded)
        else:
            self._reactor.call_soon(self._send_nowait, client, encoded)

    def _send_nowait(self, client: _Client, encoded: list[Any]) -> None:
        if not client.sink.closed:
            client.sink.send_multipart(encoded, copy=len(encoded) == 1)

    # -- the main thread -----------------------------------------------------------------------------------

    def _run(self, work: _Work) -> None:
        """Run a chunk's jobs and send their outcomes as they come."""
        client, chunk = work.client, work.chunk
        try:
            function = self._decode(client, lambda: work.group.load(self._codec))
            items = self._decode(client, lambda: self._items(work))
        except Exception as error:  # noqa: BLE001 - what cannot be decoded fails each job that needs it
            function, items = functools.partial(_raise, error), [None] * (work.stop - chunk.first)
        work.frames = []
        with self._host.capture(functools.partial(self._printed, work)):
            self._run_items(work, function, items)

    def _decode(self, client: _Client, decode: Callable[[], Any]) -> Any:
        """Decode something, asking the client for definitions that have been dropped here."""
        while True:
            try:
                return decode()
            except MissingDefinitions as missing:
                self._send(client, frames.Need(client.link, list(missing.keys)))
                client.supplied.get()
                if client.id not in self._clients:
                    raise

    def _run_items(self, work: _Work, function: Callable[[Any], Any], items: list[Any]) -> None:
        first, claim = work.chunk.first, 1
        tell = work.group.define.tell_starts
        values: list[Any] = []
        errors: dict[int, BaseException] = {}
        unsent, since = work.next, time.perf_counter()
        while count := work.claim(1 if tell else claim):
            if values and work.batch != unsent + len(values):  # jobs in between were given back
                self._send_results(work, unsent, values, errors, time.perf_counter() - since)
                values, errors = [], {}
            if not values:
                unsent, since = work.batch, time.perf_counter()
            if tell:
                self._send(work.client, frames.Started(work.client.link, work.chunk.chunk, work.batch, 0.0))
            began = time.perf_counter()
            values += _run_batch(work, function, items[work.batch - first : work.batch - first + count], errors)
            now = time.perf_counter()
            took = now - began
            claim = min(CLAIM_MAX, claim * 4) if took < CLAIM_TIME / 4 else max(1, int(count * CLAIM_TIME / took))
            if now - since > FLUSH_AFTER and work.next < work.stop:
                self._send_results(work, unsent, values, errors, now - since)
                values, errors = [], {}
        if values:
            self._send_results(work, unsent, values, errors, time.perf_counter() - since)

    def _items(self, work: _Work) -> list[Any]:
        """Decode a chunk's items."""
        items: list[Any] = []
        position = 0
        for segment in work.chunk.segments:
            cargo = segment.cargo
            count = cargo.buffers + sum(parts for _, parts in cargo.shipped)
            buffers = unpack(cargo, work.frames[position : position + count], self._codec)
            position += count
            decoded = self._codec.decode(segment.body, buffers)
            items += decoded[segment.start : segment.stop]
        return items

    def _end(self, work: _Work, outcome: Success | Failure) -> None:
        """Forget a chunk; nothing of it is left to say unless this code is at fault."""
        self._reactor.call_soon(work.client.work.pop, work.chunk.chunk, None)
        if isinstance(outcome, Failure) and not isinstance(outcome.error, KeyboardInterrupt | GateClosed):
            logger.error("running a chunk failed", exc_info=outcome.error)

    def _send_results(
        self, work: _Work, first: int, values: list[Any], errors: dict[int, BaseException], run_time: float
    ) -> None:
        client = work.client
        self._host.flush()  # so that what a job printed is shown before its result
        payload = self._encode_values(values, errors, first)
        records = [
            (index, tracebacks.capture(error, self._codec, **self._host.place())) for index, error in errors.items()
        ]
        definitions = dict.fromkeys(
            (*payload.definitions, *(key for _, record in records for key in record.definitions))
        )
        size = payload_bytes(payload)
        client.gate.wait_take(count=size)
        cargo, body, parts = pack(Payload(payload.body, payload.buffers, tuple(definitions)), self._codec, client.known)
        failed = [
            frames.Failed(index, record.type_name, _bases(errors[index]), tracebacks.encode_record(record))
            for index, record in records
        ]
        self._done += len(values) - len(failed)
        self._failed += len(failed)
        message = frames.Results(
            client.link, work.chunk.chunk, work.chunk.group, first, len(values), run_time, size, body, cargo, failed
        )
        self._send(client, message, parts)

    def _encode_values(self, values: list[Any], errors: dict[int, BaseException], first: int) -> Payload:
        """Encode outcomes together; those that cannot be encoded become errors."""
        try:
            return self._codec.encode(values)
        except Exception:  # noqa: BLE001 - found out one by one below
            for position, value in enumerate(values):
                try:
                    self._codec.encode(value)
                except Exception as error:  # noqa: BLE001 - it is the outcome of that job
                    errors[first + position] = error
                    values[position] = None
        return self._codec.encode(values)

    def _printed(self, work: _Work, output: Output) -> None:
        index = min(work.running, work.next - 1)
        client = work.client
        encoded = encode_output(output)
        client.print_gate.wait_take(count=len(encoded))
        self._send(client, frames.Printed(client.link, work.chunk.group, index, work.chunk.attempt, encoded))


def _run_batch(
    work: _Work, function: Callable[[Any], Any], items: list[Any], errors: dict[int, BaseException]
) -> list[Any]:
    """Run a function on the items of claimed jobs; return its values, ``None`` where ``errors`` has an entry."""
    values: list[Any] = []
    work.values = values
    while len(values) < len(items):
        try:
            work.inside = True
            _run_jobs(function, items[len(values) :] if values else items, values, errors, work.batch)
            work.inside = False
        except KeyboardInterrupt as error:  # it hit between two jobs, and was meant for the second
            errors[work.running] = error
            values.append(None)
    work.inside = False
    return values


def _run_jobs(
    function: Callable[[Any], Any],
    items: list[Any],
    values: list[Any],
    errors: dict[int, BaseException],
    batch: int,
) -> None:
    """Call a function with each item; ``values`` grows by one as each job ends, which tells what runs now."""
    append = values.append
    for item in items:
        try:
            value = function(item)
        except BaseException as error:  # noqa: BLE001 - whatever it raises is the job's outcome
            errors[batch + len(values)] = error
            value = None
        append(value)


def _raise(error: BaseException, _item: Any) -> None:
    raise error


def _bases(error: BaseException) -> list[str]:
    """Return the qualified names of an exception's type and its bases, for ``retry_on``."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__]
