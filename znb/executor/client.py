"""The client's end of jobs: drives the scheduler, sends chunks, and completes futures and maps.

Invariants: a job belongs to this side until its outcome is in; what is sent can be sent again. The reactor's thread
owns the scheduler, the sockets and the groups, so that an interrupt of the caller can cut nothing in half; callers
reach it through ``call_soon``. Callbacks and printed output run on the *delivery* thread, so that user code never runs
on the I/O thread.
"""

from __future__ import annotations

import functools
import logging
import os
import queue
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from znb.errors import CallTimeout, ProtocolError, WorkerLost, ZnbError
from znb.executor import frames
from znb.executor.delivery import Delivery
from znb.executor.demand import demand_of
from znb.executor.futures import Batch
from znb.executor.groups import NOTHING, Group, Part, Receiver, Show
from znb.executor.outcomes import decode_results
from znb.executor.peer import Peer
from znb.executor.results import RESULTS
from znb.executor.waits import explain_queue, explain_wait
from znb.link import Link
from znb.outputs import decode_output
from znb.rpc import Call, Lost, Reply
from znb.schedule import Scheduler, SchedulerStats
from znb.schedule.records import Command, Fail, Finished, Interrupt, Kill, Pull, Revoke, Send
from znb.serialize import Codec, Payload
from znb.shipping import pack, size_of
from znb.transport import Reactor, Timer
from znb.wire import WIRE_VERSION

__all__ = ["JobClient"]

logger = logging.getLogger("znb.jobs")

#: Bytes of results that a worker may have under way to this client: enough to hide the round trip of large ones.
RESULT_CREDIT = 64 << 20
#: Bytes of a group's results that are here and not taken, from which on no new jobs of it are sent. A worker that had
#: to wait until they are taken could run nothing of another group, which the consumer may wait for first.
RESULTS_HELD = 64 << 20
#: Bytes of printed output that a worker may have under way to this client; beyond that its jobs wait.
PRINT_CREDIT = 1 << 20


class JobClient:
    """Runs jobs on a cluster's workers.

    Args:
        reactor: The I/O thread.
        codec: Encodes and decodes.
        kill: Kills the process of a worker that ignores its interrupt; called on the delivery thread.
        notify: Shows a line to the user; called from any thread.
        view: Returns what shows the output of jobs that the calling cell starts.
        absence: Says why there are no workers; empty if that is not known.

    Attributes:
        id: What its jobs are known by at the workers.
    """

    def __init__(
        self,
        reactor: Reactor,
        codec: Codec,
        *,
        kill: Callable[[str], object],
        notify: Callable[[str], None],
        view: Callable[[], Show],
        absence: Callable[[], str],
    ) -> None:
        self.view = view
        self.codec = codec
        self.notify = notify
        self._reactor = reactor
        self._kill = kill
        self._absence = absence
        self.id = os.urandom(8)
        self._scheduler = Scheduler()
        self._peers: dict[int, Peer] = {}
        self._groups: dict[int, Group] = {}
        self._sink: zmq.Socket[bytes] | None = None
        self._sink_url = ""
        self._timer: Timer | None = None
        self._ticking = False
        self._closed: ZnbError | None = None
        self._delivery = Delivery()
        #: Has the delivery thread run something, in the order given.
        self.later = self._delivery.later

    # -- any thread ----------------------------------------------------------------------------------------

    def open_group(self, group: Group, parts: Sequence[Part] = (), *, last: bool = False) -> None:
        """Add a group with its first jobs; more may be fed from now on, unless these are the ``last``."""
        self._reactor.call_soon(self._open_group, group, parts, last)

    def feed(self, group: Group, parts: Sequence[Part], *, last: bool = False) -> None:
        """Add jobs to a group, in the order of the calls; after ``last`` no more follow."""
        self._reactor.call_soon(self._feed, group, parts, last)

    def taken(self, group: Group, count: int, size_bytes: int = 0) -> None:
        """Say that the consumer has taken ``count`` more outcomes, and let go of so many bytes."""
        self._reactor.call_soon(self._taken, group, count, size_bytes)

    def cancel(self, group: Group, index: int | None = None) -> None:
        """Cancel one job, or a group with all its jobs."""
        self._reactor.call_soon(self._cancel, group, index)

    def explain(self, group: Group) -> str:
        """Say why nothing of a group runs; empty if something does.

        Raises:
            NoWorkers: Nothing of it ever will, because all workers wait.
        """
        answers: queue.SimpleQueue[tuple[str, Sequence[Link]]] = queue.SimpleQueue()
        self._reactor.call_soon(lambda: answers.put(self._explain(group)))
        try:
            reason, links = answers.get(timeout=1.0)
        except queue.Empty:
            return "the I/O thread is busy"
        return reason or explain_wait(links, [peer.link for peer in self._peers.values()], group.label)

    def folder(self) -> str:
        """Return the folder where this cluster's sockets are."""
        return self._sink_url.rpartition("/")[0]

    def receivers(self) -> list[Receiver]:
        """Return who still hears of jobs."""
        answers: queue.SimpleQueue[list[Receiver]] = queue.SimpleQueue()
        self._reactor.call_soon(lambda: answers.put([group.receiver for group in self._groups.values()]))
        return answers.get(timeout=10.0)

    def wait_delivered(self, timeout: float) -> bool:
        """Wait until callbacks have run and output is shown, after ``close``; return whether that is so."""
        return self._delivery.wait_closed(timeout)

    def stats(self) -> SchedulerStats:
        """Return the counts of this moment."""
        answers: queue.SimpleQueue[SchedulerStats] = queue.SimpleQueue()
        self._reactor.call_soon(lambda: answers.put(self._scheduler.stats()))
        return answers.get(timeout=10.0)

    def demand(self) -> int:
        """Return how many workers the jobs there are could use. On the reactor's thread."""
        return demand_of(self._scheduler.stats())

    # -- the reactor's thread: workers ---------------------------------------------------------------------

    def add_worker(self, link: Link) -> None:
        """Give work to a worker from now on."""
        if self._closed:
            return
        if link.far:
            link.connection.call(RESULTS, [self.id], functools.partial(self._on_stream, link))
            return
        if self._sink is None:
            self._sink = self._reactor.socket(zmq.PULL)
            self._sink_url = f"{link.jobs_url.rpartition('/')[0]}/{self.id.hex()}.sink"
            self._sink.bind(self._sink_url)
            self._reactor.add_socket(self._sink, self._on_message)
        self._admit(link, self._sink_url)

    def _on_stream(self, link: Link, _call: Call, event: Reply | Lost) -> None:
        """Take what a worker sends over the connection for calls, in place of the sink."""
        if isinstance(event, Lost) or event.is_last or not link.alive or self._closed:
            return
        if event.args:
            self._take(event.args, event.buffers)
        else:
            self._admit(link, "")

    def _admit(self, link: Link, sink_url: str) -> None:
        socket = self._reactor.socket(zmq.PUSH, link.jobs_url if link.far else "")
        if link.far:
            self._reactor.add_monitor(socket, zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH, link.on_change)
        socket.connect(link.jobs_url)
        number = self._scheduler.add_worker(link.name, time.monotonic())
        peer = self._peers[number] = Peer(link, number, socket)
        self._send(peer, frames.Hello(self.id, number, sink_url, RESULT_CREDIT, PRINT_CREDIT, WIRE_VERSION))
        self.tick()

    def lose_worker(self, link: Link, error: ZnbError, *, charge: bool) -> None:
        """Take a worker out: it died (``charge`` the job that ran), or was ended on purpose."""
        for peer in [peer for peer in self._peers.values() if peer.link is link]:
            del self._peers[peer.number]
            self._reactor.close_socket(peer.socket)
            self._end_lines(peer)
            reason = "\n".join((error.fields.get("reason", str(error)), *getattr(error, "__notes__", ())))
            loss = self._scheduler.lose_worker(peer.number, reason, time.monotonic(), charge=charge)
            if loss is not None and loss.group in self._groups:
                self._groups[loss.group].note_loss(loss, link.name, reason.partition("\n")[0])
        self.tick()

    def close(self, error: ZnbError) -> None:
        """Fail what is open, say goodbye to the workers, and stop the delivery thread. May be called twice."""
        if self._closed is not None:
            return
        self._closed = error
        for group in list(self._groups.values()):
            group.receiver.abort(error)
        self._groups.clear()
        for peer in self._peers.values():
            self._end_lines(peer)
            self._send(peer, frames.Bye(self.id))
        for peer in self._peers.values():
            peer.socket.setsockopt(zmq.LINGER, 200)
            self._reactor.close_socket(peer.socket)
        self._peers.clear()
        self._delivery.close()

    # -- the reactor's thread: jobs ------------------------------------------------------------------------

    def _open_group(self, group: Group, parts: Sequence[Part] = (), last: bool = False) -> None:  # noqa: FBT001, FBT002
        if group.number >= 0:
            return
        if self._closed is not None:
            group.receiver.abort(self._closed)
            return
        group.number = self._scheduler.add_group(**group.options)
        self._groups[group.number] = group
        self._feed(group, parts, last)
        self.tick()

    def _feed(self, group: Group, parts: Sequence[Part], last: bool) -> None:  # noqa: FBT001 - through call_soon
        if group.number not in self._groups:
            return
        for part in parts:
            group.add(part, self._scheduler.feed(group.number, part.count))
            if part.payload is NOTHING:
                self._cancel(group, part.first)
        if last:
            self._scheduler.exhausted(group.number)
        self._tick_soon()

    def _taken(self, group: Group, count: int, size_bytes: int) -> None:
        self._scheduler.taken(group.number, count)
        before = group.held_bytes
        group.held_bytes -= size_bytes
        if before >= RESULTS_HELD // 2 > group.held_bytes:
            self._scheduler.resume_group(group.number)
        self._tick_soon()

    def feed_nowait(self, group: Group, part: Part) -> int | None:
        """Add one job and return its number, or ``None`` if the group has ended; opens a new group.

        On the reactor's thread.
        """
        self._open_group(group)
        if group.number not in self._groups:
            return None
        first = self._scheduler.feed(group.number, part.count)
        group.add(part, first)
        self._tick_soon()
        return first

    def _cancel(self, group: Group, index: int | None) -> None:
        if group.number not in self._groups:
            return
        if index is None:
            self._scheduler.cancel_group(group.number)
        elif self._scheduler.cancel(group.number, index):
            group.drop(index, index + 1)
        self.tick()

    def _explain(self, group: Group) -> tuple[str, Sequence[Link]]:
        """Return why nothing of a group runs, as far as it is known here, and else which workers may tell."""
        if not self._peers:
            return self._absence() or "there are no workers", ()
        links = {number: peer.link for number, peer in self._peers.items()}
        return explain_queue(group.number, self._scheduler.stats(), links)

    def _tick_soon(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._reactor.call_soon(self._tick_if_due)

    def _tick_if_due(self) -> None:
        if self._ticking:
            self.tick()

    def tick_if_idle(self) -> None:
        """Hand out at once what there is if no worker has anything: a single job need not wait for another turn.

        If they are busy, more will come until the next turn, and go out together.
        """
        if self._ticking and not self._scheduler.outstanding:
            self.tick()

    def tick(self) -> None:
        """Have the scheduler hand out what it has, and do what it says. On the reactor's thread."""
        self._ticking = False
        if self._closed is not None:
            return
        for command in self._scheduler.tick(time.monotonic()):
            self._reactor.guard(self._carry_out, command)  # one that fails must not take the others along
        deadline = self._scheduler.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self._reactor.call_later(max(0.0, deadline - time.monotonic()), self.tick)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Send():
                self._send_chunk(command)
            case Revoke(worker, chunk, start, stop):
                self._send(self._peers[worker], frames.Revoke(self.id, chunk, start, stop))
            case Interrupt(worker, chunk, index, late):
                self._send(self._peers[worker], frames.Stop(self.id, chunk, index, late))
            case Kill():
                name, label = self._peers[command.worker].link.name, self._groups[command.group].label
                reason = f"{label} (job {command.index}) was to stop, and ignored its interrupt for {command.grace:g} s"
                receiver = self._groups[command.group].receiver
                receiver.event(command.index, "kill", job=command.index, worker=name, reason=reason)
                self.later(lambda: self.notify(f"{name} is killed, and replaced without its variables: {reason}"))
                self.later(lambda: self._kill(name))
            case Pull(group, count):
                self._groups[group].receiver.pull(count)
            case Fail():
                self._fail(command)
            case Finished(number):
                finished = self._groups.pop(number)
                for peer in self._peers.values():
                    if number in peer.defined:
                        peer.defined.discard(number)
                        self._send(peer, frames.Forget(self.id, number))
                finished.receiver.finished()
                finished.function = NOTHING  # its receiver refers to it, so it would wait for the collector

    def _send_chunk(self, command: Send) -> None:
        peer, group = self._peers[command.worker], self._groups[command.group]
        if command.group not in peer.defined:
            peer.defined.add(command.group)
            cargo, body, parts = pack(group.function, self.codec, peer.known)
            timed = group.options.get("job_timeout") is not None
            self._send(peer, frames.Define(self.id, command.group, body, cargo, group.call, timed, group.label), parts)
        segments: list[frames.Segment] = []
        buffers: list[Any] = []
        index = command.start
        while index < command.stop:
            part = group.find(index)
            end = min(command.stop, part.first + part.count)
            cargo, body, parts = pack(part.payload, self.codec, peer.known)
            start, end_in = index - part.first, end - part.first
            segments.append(frames.Segment(body, cargo, start, end_in, part.context, part.span))
            buffers += parts
            index = end
        if command.attempt > 1:
            group.note_retry(command, peer.link.name, self._scheduler.attempts(group.number, command.start))
        group.receiver.sent(command.start, command.stop, peer.link.name)
        chunk = frames.Chunk(self.id, command.chunk, command.group, command.start, command.attempt, segments)
        self._send(peer, chunk, buffers)

    def _fail(self, command: Fail) -> None:
        group = self._groups[command.group]
        if command.kind == "timeout":
            group.receiver.event(command.index, "interrupt", job=command.index, reason="it took too long")
            error: ZnbError = CallTimeout(f"{group.label} (job {command.index})", group.options["job_timeout"])
        else:
            last = command.attempts[-1]
            reason, _, details = last.reason.partition("\n")
            error = WorkerLost(last.worker, reason, running=f"{group.label} (job {command.index})")
            if details:
                error.add_note(details)
        for attempt in command.attempts[:-1] if command.kind == "lost" else command.attempts:
            error.add_note(f"attempt before: {attempt.worker} {attempt.reason.splitlines()[0]}")
        group.drop(command.index, command.index + 1)
        group.receiver.fail(command.index, error)

    def _send(self, peer: Peer, message: frames.ToWorker, parts: Sequence[Any] = ()) -> None:
        header = frames.encode(message)
        self._scheduler.count_bytes(peer.number, sent=len(header) + size_of(parts))
        if parts:
            peer.socket.send(header, zmq.SNDMORE)
            for part in parts[:-1]:
                peer.socket.send(part, zmq.SNDMORE, copy=False)
            peer.socket.send(parts[-1], copy=False)
        else:
            peer.socket.send(header)

    def _grant_print(self, peer: Peer, count: int) -> None:
        if peer.number in self._peers:
            self._send(peer, frames.Consumed(self.id, count, printed=True))

    # -- the reactor's thread: what workers say ------------------------------------------------------------

    def _on_message(self, parts: list[Any]) -> None:
        self._take(parts[0].buffer, parts[1:])

    def _take(self, header: Any, parts: list[Any]) -> None:
        message = frames.decode_from_worker(header)
        peer = self._peers.get(message.link)
        if peer is None:
            return  # a late word of a worker that was given up
        now = time.monotonic()
        self._scheduler.count_bytes(peer.number, received=len(header) + sum(map(len, parts)))
        match message:
            case frames.Results():
                self._on_results(peer, message, parts, now)
                return
            case frames.Started():
                self._scheduler.started(message.chunk, message.index, now, message.elapsed)
            case frames.Revoked():
                self._scheduler.revoked(message.chunk, message.start, message.stop, now)
            case frames.Busy():
                self._scheduler.set_busy(peer.number, message.busy, now)
            case frames.Need():
                peer.known.difference_update(message.keys)
                cargo, _, supplied = pack(Payload(b"", (), tuple(message.keys)), self.codec, peer.known)
                self._send(peer, frames.Supply(self.id, cargo), supplied)
            case frames.Printed():
                self._on_printed(peer, message)
        self._tick_soon()

    def _on_printed(self, peer: Peer, message: frames.Printed) -> None:
        group = self._groups.get(message.group)
        job = None if group is None else (group, message.index, message.attempt)
        if job != peer.printing:
            self._end_lines(peer)
            peer.printing = job
        self.later(functools.partial(self._show, peer, group, message))

    def _end_lines(self, peer: Peer) -> None:
        """Have what the job that printed last has not finished shown: it has ended."""
        if peer.printing is not None:
            group, index, attempt = peer.printing
            peer.printing = None
            self.later(functools.partial(group.show, peer.link.name, group.label, index, attempt, None))

    def _on_results(self, peer: Peer, message: frames.Results, parts: list[Any], now: float) -> None:
        group = self._groups.get(message.group)
        if peer.printing and peer.printing[0] is group and 0 <= peer.printing[1] - message.first < message.count:
            self._end_lines(peer)
        errors: list[int] = []
        retry: dict[int, str] = {}
        for failed in message.failed:
            if group is not None and group.retry_on.intersection(failed.bases):
                retry[failed.index] = f"raised {failed.type_name}"
            else:
                errors.append(failed.index)
        try:
            skip = self._scheduler.results(
                message.chunk, message.first, message.count, now, message.run_time, errors, retry
            )
        except ProtocolError:
            logger.exception("%s sent outcomes out of order", peer.link.name)
            name = peer.link.name
            self.later(lambda: self._kill(name))
            return

        self._acknowledge(peer, message.size_bytes)
        if skip is None or group is None:
            self._tick_soon()
            return
        if group.options.get("pulled"):
            group.held_bytes += message.size_bytes
            if group.held_bytes >= RESULTS_HELD:
                self._scheduler.pause_group(group.number)
        batch = Batch(
            message.first,
            functools.partial(decode_results, message, parts, self.codec, peer.link),
            {failed.index for failed in message.failed} if message.failed else (),
            plain=message.plain,
        )
        group.drop_all(message.first, message.count, skip)
        group.receiver.deliver(batch, message.count, skip, peer.link.name, message.size_bytes)
        self.tick()  # after it: a group that is finished has had all its outcomes

    def _acknowledge(self, peer: Peer, count_bytes: int) -> None:
        """Give a worker its credit back, when it is worth a message."""
        peer.unacknowledged += count_bytes
        if peer.unacknowledged >= RESULT_CREDIT // 4 and peer.number in self._peers:
            self._send(peer, frames.Consumed(self.id, peer.unacknowledged))
            peer.unacknowledged = 0

    # -- the delivery thread -------------------------------------------------------------------------------

    def _show(self, peer: Peer, group: Group | None, message: frames.Printed) -> None:
        """Show what a job printed, and let its worker go on printing."""
        if group is not None:
            group.show(peer.link.name, group.label, message.index, message.attempt, decode_output(message.output))
        self._reactor.call_soon(self._grant_print, peer, len(message.output))
