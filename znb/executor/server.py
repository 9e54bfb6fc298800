"""The worker's end of jobs: chunks come in over PULL, run on the main thread, and outcomes go out over PUSH.

Invariants: the jobs of one client run in the order sent; each job that is begun has one outcome, unless the process
dies; a job is given back or begun, never both; an interrupt hits the job it names or none. The I/O thread owns the
sockets and the tables; the main thread runs ``Work``; what both touch is under ``Work.lock``.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Hashable, Sized
from contextlib import AbstractContextManager
from typing import Any, Protocol

import zmq

from znb import shared, tracebacks
from znb.errors import ProtocolError
from znb.executor import frames
from znb.executor.flusher import Flusher
from znb.executor.results import ResultsStream
from znb.executor.work import Function, Outcomes, Peer, Work, bases_of, exit_status
from znb.flow import GateClosed
from znb.outputs import Output, encode_output
from znb.routes import Mark, MarkedEmit
from znb.rpc import Request
from znb.runner import Failure, Runner, Success, Task
from znb.serialize import Codec, MissingDefinitions, Payload
from znb.serialize.settled import copied, is_settled
from znb.shipping import pack, payload_bytes, size_of, unpack
from znb.transport import Reactor
from znb.wire import WIRE_VERSION

__all__ = ["JobServer"]

logger = logging.getLogger("znb.jobs")

#: Exit status of a worker whose own code failed (EX_SOFTWARE of sysexits.h).
OWN_FAULT = 70

#: Seconds of work after which outcomes that are ready are sent, though the chunk goes on.
FLUSH_AFTER = 0.02
#: Bytes of results up to which a client may hold on to some that it has yielded.
PLAIN_BYTES = 1 << 20
_PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None)))
#: Seconds after which a client that cannot be reached is taken for dead.
VANISHED_AFTER = 2.0


class Host(Protocol):
    """What a job server needs of the worker around it."""

    reactor: Reactor
    runner: Runner
    codec: Codec

    @property
    def with_locals(self) -> bool:
        """Whether exceptions are sent with the variables of their frames."""

    def place(self) -> dict[str, Any]:
        """Return worker, host and pid, as ``tracebacks.capture`` takes them."""

    def capture(self, emit: MarkedEmit, mark: Mark, ended: Sized) -> AbstractContextManager[None]:
        """Return a context in which what this process writes goes to ``emit``, with its mark (``Capture.route``)."""

    def settle(self) -> None:
        """Mark what has been written so far."""

    def begin(self) -> None:
        """Take note that other jobs begin, or none runs any more: what was written before is not their last words."""

    def flush(self) -> object:
        """Wait until what this process has written has been emitted."""


class JobServer:
    """Runs the jobs that clients push to this worker.

    Args:
        host: The worker.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._reactor = host.reactor
        self._codec = host.codec
        self._clients: dict[bytes, Peer] = {}
        self._streams: dict[bytes, ResultsStream] = {}
        self._socket: zmq.Socket[bytes] | None = None
        self._flusher = Flusher(self._flush)
        self._owner: Hashable = None
        self._pid = os.getpid()
        self._running: Work | None = None
        os.register_at_fork(after_in_child=self._in_child)
        self._telling = False
        host.runner.on_turn = self._on_turn
        self._done = 0
        self._failed = 0
        self._cancelled = 0
        self._retried = 0
        self._sent_bytes = 0
        self._received_bytes = 0

    def stats(self) -> dict[str, Any]:
        """Return counts for ``_znb_stats``: jobs here since this process began, their bytes, and clients."""
        works = [work for client in self._clients.values() for work in list(client.work.values())]
        return {
            "jobs_queued": sum(work.waiting() for work in works),
            "jobs_running": int(self._running is not None),
            "jobs_done": self._done,
            "jobs_failed": self._failed,
            "jobs_cancelled": self._cancelled,
            "jobs_retried": self._retried,
            "sent_bytes": self._sent_bytes,
            "received_bytes": self._received_bytes,
            "chunks": len(works),
            "clients": len(self._clients),
        }

    # -- the I/O thread ------------------------------------------------------------------------------------

    def bind(self, url: str) -> str:
        """Take jobs at ``url``; return the address with its port filled in."""
        self._socket = self._reactor.socket(zmq.PULL, url)
        bound = self._reactor.bind(self._socket, url)
        self._reactor.add_socket(self._socket, self._on_message)
        return bound

    def open_results(self, request: Request) -> None:
        """Take a client's call for results, which stands for a sink (see ``znb.executor.results``)."""
        identifier = request.args[0]
        stream = self._streams[identifier] = ResultsStream(request)

        def gone() -> None:
            if self._streams.get(identifier) is stream:
                del self._streams[identifier]
            client = self._clients.get(identifier)
            if client is not None and client.sink is stream:
                self._drop(client)

        request.on_cancel = gone

    def _on_message(self, parts: list[Any]) -> None:
        self._received_bytes += sum(map(len, parts))
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
                client.functions[message.group] = Function(message, parts[1:])
            case frames.Chunk():
                self._on_chunk(client, message, parts[1:])
            case frames.Revoke():
                self._give_back(client, message.chunk, message.start, message.stop)
            case frames.Stop():
                self._on_stop(client, message)
            case frames.Consumed():
                (client.print_gate if message.printed else client.gate).grant(message.count_bytes)
            case frames.Supply():
                unpack(message.cargo, parts[1:], self._codec)
                client.supplied.put(None)
            case frames.Forget():
                client.functions.pop(message.group, None)
            case frames.Bye():
                self._drop(client)

    def _on_hello(self, hello: frames.Hello) -> None:
        if hello.wire != WIRE_VERSION:
            logger.error("a client speaks wire version %d, this worker %d; it is ignored", hello.wire, WIRE_VERSION)
            return
        if not hello.sink:
            if hello.client in self._streams:  # else it has gone meanwhile
                if hello.client in self._clients:  # over a connection that broke
                    self._drop(self._clients[hello.client])
                self._clients[hello.client] = Peer(hello, self._streams[hello.client])
                self._tell_busy()
            return
        sink = self._reactor.socket(zmq.PUSH)
        sink.connect(hello.sink)
        client = self._clients[hello.client] = Peer(hello, sink)
        events = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
        self._reactor.add_monitor(sink, events, functools.partial(self._on_contact, client))
        self._tell_busy()

    def _on_contact(self, client: Peer, event: int) -> None:
        """Drop a client that went without a goodbye, unless it is back soon."""
        if client.vanishing is not None:
            client.vanishing.cancel()
            client.vanishing = None
        if event == zmq.EVENT_DISCONNECTED and client.id in self._clients:
            client.vanishing = self._reactor.call_later(VANISHED_AFTER, self._drop, client)

    def _tell_busy(self) -> None:
        """Tell every client whether somebody else's work runs here now, if that is news to it."""
        self._telling = False
        for client in self._clients.values():
            busy = self._owner not in {None, client.id}
            if busy != client.told_busy:
                client.told_busy = busy
                self._send(client, frames.Busy(client.link, busy))

    def _on_chunk(self, client: Peer, chunk: frames.Chunk, parts: list[Any]) -> None:
        function = client.functions.get(chunk.group)
        if function is None:
            logger.error("a chunk came for a group that was not defined")
            return
        work = Work(client, function, chunk, parts)
        client.work[chunk.chunk] = work
        work.task = Task(
            functools.partial(self._run, work),
            functools.partial(self._end, work),
            owner=client.id,
            label=function.define.label,
            guard=work.may_stop,
            aim=work.stop_running,
        )
        self._host.runner.submit(work.task)

    def _on_stop(self, client: Peer, message: frames.Stop) -> None:
        work = client.work.get(message.chunk)
        task = work.task if work is not None else None
        if work is None or task is None:
            return
        if work.stop_job(message.index):
            if not message.late:
                work.cancelled.add(message.index)
            self._host.runner.interrupt(task)
            return
        # If it was claimed, but has not begun:
        self._give_back(client, message.chunk, message.index, message.index + 1, tell_nothing=False)

    def _give_back(self, client: Peer, chunk: int, start: int, stop: int, *, tell_nothing: bool = True) -> None:
        """Take jobs out of a chunk, and say so before the main thread can send outcomes of what comes behind them."""
        with client.lock:
            work = client.work.get(chunk)
            start, stop = work.give_back(start, stop) if work is not None else (stop, stop)
            if start < stop or tell_nothing:
                self._send(client, frames.Revoked(client.link, chunk, start, stop))

    def _drop(self, client: Peer) -> None:
        """Forget a client, and end what runs for it."""
        if self._clients.pop(client.id, None) is None:
            return
        if client.vanishing is not None:
            client.vanishing.cancel()
        client.gate.close()
        client.print_gate.close()
        client.supplied.put(None)
        for work in list(client.work.values()):
            work.give_back(work.chunk.first, work.stop)
            task = work.task
            if task is not None and work.stop_running():
                self._host.runner.interrupt(task)
        with client.lock:
            if isinstance(client.sink, ResultsStream):
                client.sink.close()
            else:
                self._reactor.close_socket(client.sink)
        shared.sweep()

    def _send(self, client: Peer, message: frames.FromWorker, parts: list[Any] | None = None) -> None:
        """Send to a client's sink. From any thread: the lock makes up for the hop to the I/O thread."""
        encoded = [frames.encode(message), *(parts or ())]
        with client.lock:
            if not client.sink.closed:
                self._sent_bytes += size_of(encoded)
                client.sink.send_multipart(encoded, copy=len(encoded) == 1)

    # -- the main thread -----------------------------------------------------------------------------------

    def _on_turn(self, owner: Hashable) -> None:
        """Note whose work begins, or ``None`` when there is none; tell it where it makes a difference."""
        before, self._owner = self._owner, owner
        if len(self._clients) == 1 and before in {None, *self._clients} and owner in {None, *self._clients}:
            return  # the usual case: all work is of one client, which knows
        if not self._telling:
            self._telling = True
            self._reactor.call_soon(self._tell_busy)

    def _in_child(self) -> None:
        """See to it that a forked child begins no other job."""
        if self._running is not None:
            del self._running.items[len(self._running.values) + 1 :]

    def _run(self, work: Work) -> None:
        """Run a chunk's jobs and send their outcomes as they come."""
        self._running = work
        client, chunk = work.peer, work.chunk
        try:
            function = self._decode(client, lambda: work.function.load(self._codec))
            items = self._decode(client, lambda: self._items(work))
        except Exception as error:  # noqa: BLE001 - what cannot be decoded fails each job that needs it
            function, items = functools.partial(_raise, error), [None] * (work.stop - chunk.first)
        work.frames = []
        with self._host.capture(functools.partial(self._printed, work), work.mark, work.values):
            try:
                self._run_items(work, function, items)
            finally:
                self._flusher.unwatch()
                self._running = None
                work.items = []

    def _decode(self, client: Peer, decode: Callable[[], Any]) -> Any:
        """Decode something, asking the client for definitions that have been dropped here."""
        while True:
            try:
                return decode()
            except MissingDefinitions as missing:
                self._send(client, frames.Need(client.link, list(missing.keys)))
                client.supplied.get()
                if client.id not in self._clients:
                    raise

    def _run_items(self, work: Work, function: Callable[[Any], Any], items: list[Any]) -> None:
        tell = work.function.define.tell_starts
        if len(items) > 1:
            self._flusher.watch(work)
        while True:
            with work.sending:
                if not work.claim(items, single=tell or not work.function.trusted):
                    break
                self._send_outcomes(work, work.begin())
            self._host.begin()
            self._host.runner.listen()
            if tell:
                self._send(work.peer, frames.Started(work.peer.link, work.chunk.chunk, work.batch, 0.0))
            work.run_batch(function)
            if os.getpid() != self._pid:  # a child that a job has forked, and that has left the job: it ends here
                sys.stdout.flush()
                os._exit(exit_status(work.errors))
            self._host.settle()
            work.forget(items)
            with work.sending:
                self._send_outcomes(work, work.collect(FLUSH_AFTER if work.function.trusted else 0.0))
        self._flush(work)

    def _flush(self, work: Work) -> None:
        """Send the outcomes that a chunk has. On the main thread or the flusher's."""
        with work.sending:
            self._send_outcomes(work, work.take())

    def _items(self, work: Work) -> list[Any]:
        """Decode a chunk's items."""
        items: list[Any] = []
        position = 0
        for segment in work.chunk.segments:
            cargo = segment.cargo
            count = cargo.buffers + sum(parts for _, parts in cargo.shipped)
            buffers = unpack(cargo, work.frames[position : position + count], self._codec, work.peer.known)
            position += count
            decoded = self._codec.decode(segment.body, buffers)
            items += decoded[segment.start : segment.stop]
        return items

    def _end(self, work: Work, outcome: Success | Failure) -> None:
        """Forget a chunk. If this code is at fault, end the process: its client then knows, and runs the jobs again."""
        work.peer.work.pop(work.chunk.chunk, None)
        self._host.begin()
        work.task = None  # they refer to each other, and so would hold the jobs' data until the collector comes
        if isinstance(outcome, Failure) and not isinstance(outcome.error, GateClosed) and work.peer.id in self._clients:
            traceback.print_exception(outcome.error)
            self._host.flush()
            os._exit(OWN_FAULT)

    def _send_outcomes(self, work: Work, outcomes: Outcomes | None) -> None:
        """Send outcomes, once there is credit for them."""
        if outcomes is None:
            return
        peer, (first, values, errors, run_time) = work.peer, outcomes
        self._host.flush()  # so that what a job printed is shown before its result
        settled = is_settled(list(values))
        if not work.inside:  # or the last of them is also where the loop over the jobs keeps it
            work.function.note(values, settled=settled)
        payload = self._encode_values(values, errors, first)
        if not settled:
            payload = copied(payload)
        options = {**self._host.place(), "with_locals": self._host.with_locals} if errors else {}
        records = [(index, tracebacks.capture(error, self._codec, **options)) for index, error in errors.items()]
        definitions = dict.fromkeys(
            (*payload.definitions, *(key for _, record in records for key in record.definitions))
        )
        size = payload_bytes(payload)
        peer.gate.wait_take(count=size)
        cargo, body, parts = pack(Payload(payload.body, payload.buffers, tuple(definitions)), self._codec, peer.known)
        failed = [
            frames.Failed(index, record.type_name, bases_of(errors[index]), tracebacks.encode_record(record))
            for index, record in records
        ]
        cancelled = {index for index in work.cancelled if first <= index < first + len(values)}
        errors_told = sum(index not in cancelled for index in errors)
        self._cancelled += len(cancelled)
        self._failed += errors_told
        self._done += len(values) - len(cancelled) - errors_told
        if work.chunk.attempt > 1:
            self._retried += len(values)
        plain = not failed and size < PLAIN_BYTES and _PLAIN.issuperset(map(type, values))
        chunk = work.chunk
        message = frames.Results(
            peer.link, chunk.chunk, chunk.group, first, len(values), run_time, size, body, cargo, failed, plain
        )
        self._send(peer, message, parts)

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

    def _printed(self, work: Work, output: Output, index: int) -> None:
        client = work.peer
        encoded = encode_output(output)
        client.print_gate.wait_take(count=len(encoded))
        self._send(client, frames.Printed(client.link, work.chunk.group, index, work.chunk.attempt, encoded))


def _raise(error: BaseException, _item: Any) -> None:
    raise error
