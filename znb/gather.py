"""One request on several workers, watched from the thread that asked.

``Gather`` sends a request to each worker, shows the outputs that come back as they come, says what it waits for when
nothing happens, turns an interrupt here into an interrupt there, and returns every worker's outcome.

Invariants: nothing waits in silence for more than ``NOTICE_AFTER`` seconds unless the user's own code runs; an
interrupt returns within ``INTERRUPT_PATIENCE`` seconds, and wherever it hits, no worker goes on with a request unknown
to its link; outputs are granted only after they have been shown, so a slow display holds the workers back, and those of
a request that was given up are granted without. The asking thread owns a ``Gather``, but for ``_calls``, which is the
I/O thread's: everything is sent, interrupted and given up there, in this order, and none of it can be cut in half.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from znb import wire
from znb.errors import CallTimeout, ZnbError
from znb.link import Failed, Link, ObjectCall, Outcome
from znb.outputs import Output, decode_output
from znb.rpc import Lost, Reply
from znb.serialize import Payload
from znb.spans import bound

__all__ = ["Announcer", "Gather", "View"]

#: Seconds without a sign of life after which the user is told what is being waited for (API.md §2).
NOTICE_AFTER = 1.0
#: Seconds without a sign of life after which a worker is asked what it does, so that there is an answer by then.
ASK_AFTER = 0.7
#: Seconds between two looks at who is silent.
LOOK_EVERY = 0.1
#: Seconds that an interrupted wait gives the workers to stop (issue: KeyboardInterrupt within 1 s).
INTERRUPT_PATIENCE = 0.8
#: Interrupts that a cell may ignore before the next one kills its worker.
INTERRUPTS_BEFORE_KILL = 2


class View(Protocol):
    """Shows the outputs of several workers (``znb.console.OutputView``)."""

    def feed(self, worker: str, output: Output) -> None:
        """Take an output; may block to hold the workers back."""

    def tick(self) -> float | None:
        """Show what is due; return seconds until something else is, or ``None``."""

    def done(self, worker: str) -> None:
        """This worker emits no more."""

    def hurry(self) -> None:
        """Block no more."""

    def close(self) -> None:
        """Show everything that is still held."""


class Announcer(Protocol):
    """Tells the user what is going on (``znb.sinks``)."""

    def notice(self, text: str) -> None:
        """Show a line about what is being waited for; an empty one takes it back."""

    def write(self, stream: Any, text: str) -> None:
        """Show text that stays."""


class _Pending:
    """One worker's part of a request.

    Attributes:
        link: The worker's link.
        heard: Monotonic time of its last sign of life.
        frozen: Monotonic time when it was last seen to be stopped by a signal; it needs a while to answer after that.
        asked: Monotonic time at which it was asked what it does; ``None`` once it has answered.
        started: Whether the worker has begun it.
        notice: What the user is told of it.
    """

    __slots__ = ("asked", "frozen", "heard", "link", "notice", "started")

    def __init__(self, link: Link, now: float) -> None:
        self.link = link
        self.heard = now
        self.frozen = 0.0
        self.asked: float | None = None
        self.started = False
        self.notice = ""


class Gather:
    """A request to several workers. Used once.

    Args:
        view: Shows outputs; ``None`` where there are none.
        announcer: Says what is being waited for, and which worker does not stop.
        kill: Ends a worker that ignores interrupts, so that it is replaced.
    """

    def __init__(self, view: View | None, announcer: Announcer, kill: Callable[[str], None]) -> None:
        self._view = view
        self._announcer = announcer
        self._kill = kill
        self._events: queue.SimpleQueue[tuple[str, ObjectCall | None, Any]] = queue.SimpleQueue()
        self._calls: dict[str, ObjectCall] = {}
        self._pending: dict[str, _Pending] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._label = ""
        self._notice = ""
        self._look_at = 0.0

    def ask(
        self,
        links: Sequence[Link],
        method: str,
        payload: Payload,
        *,
        label: str,
        timeout: float | None = None,
        sent: Callable[[], object] | None = None,
    ) -> dict[str, Outcome]:
        """Send the request to each worker, and wait until every one is done.

        Args:
            links: The workers, at least one, all of one reactor.
            method: What to call there.
            payload: Its arguments.
            label: What it is called where somebody asks what runs.
            timeout: Seconds after which it is interrupted; ``None`` for never.
            sent: Is called when what others send from now on comes behind it.

        Raises:
            KeyboardInterrupt: The wait was interrupted; the workers' code has been interrupted too.
            CallTimeout: It took longer than ``timeout`` seconds; the workers' code has been interrupted.
        """
        reactor = links[0].reactor
        reactor.check_pid()
        now = time.monotonic()
        self._label = label
        self._pending = {link.name: _Pending(link, now) for link in links}
        try:
            reactor.call_soon(bound(self._send), links, method, payload)
            if sent is not None:
                sent()
            self._wait(None if timeout is None else now + timeout)
            late = ", ".join(self._pending)
            if late:
                self._interrupt()
        except KeyboardInterrupt:
            self._interrupt()
            raise
        finally:
            if self._view is not None:
                self._view.close()
            if self._notice:
                self._announcer.notice("")
        if late:
            raise CallTimeout(f"the cell on {late}", timeout or 0.0)
        return self._outcomes

    # -- the I/O thread ------------------------------------------------------------------------------------

    def _send(self, links: Sequence[Link], method: str, payload: Payload) -> None:
        for link in links:
            try:
                self._calls[link.name] = link.request(method, payload, self._on_event, label=self._label)
            except Exception as error:  # noqa: BLE001 - the asking thread waits for an ending
                failed = Lost(ZnbError(f"{self._label} could not be sent to {link.name}: {error!r}"))
                self._events.put((link.name, None, failed))

    def _on_event(self, call: ObjectCall, reply: Reply | Lost) -> None:
        stubborn = call.link.stubborn
        if call.call.id not in stubborn:
            self._events.put((call.link.name, call, reply))
        elif isinstance(reply, Lost) or reply.is_last:
            del stubborn[call.call.id]
        else:
            call.call.consumed()  # nobody shows it any more

    def _interrupt_calls(self, doomed: Mapping[str, int]) -> None:
        """Interrupt what runs; ``doomed`` workers will be killed, after so many interrupts that they ignored."""
        for name, call in self._calls.items():
            if not call.call.ended:
                call.span.event("interrupt")
                if name in doomed:
                    call.note_kill(f"it ignored {doomed[name]} interrupts")
                call.link.interrupt([call.call.id])

    def _give_up(self, started: frozenset[str]) -> None:
        """Let the calls of workers that have ``started`` go on unseen, and cancel the others."""
        for name, call in self._calls.items():
            call.cancelled()
            if call.call.ended:
                continue
            if name in started:
                call.link.stubborn[call.call.id] = 1
            else:
                call.link.interrupt([call.call.id])  # it may have been on its way again, with definitions
                call.call.abandon()
        while not self._events.empty():  # the asking thread takes no more
            _, given_up, event = self._events.get_nowait()
            if given_up is not None and isinstance(event, Reply) and not event.is_last:
                given_up.call.consumed()

    # -- the asking thread ---------------------------------------------------------------------------------

    def _wait(self, deadline: float | None) -> None:
        while self._pending:
            pause = self._view.tick() if self._view is not None else None
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return
            if now >= self._look_at:
                self._look_at = now + LOOK_EVERY
                self._look_after_silent(now)
            due = [LOOK_EVERY, *([pause] if pause is not None else [])]
            if deadline is not None:
                due.append(deadline - now)
            try:
                event = self._events.get(timeout=max(0.0, min(due)))
            except queue.Empty:
                continue
            self._take(*event)

    def _take(self, worker: str, call: ObjectCall | None, event: Any) -> None:
        pending = self._pending.get(worker)
        if pending is None:
            return
        pending.heard = time.monotonic()
        if call is None and not isinstance(event, Lost):
            self._on_ping(pending, *event)
        elif isinstance(event, Reply) and event.name == wire.STREAM and call is not None:
            pending.started = True
            self._set_notice(pending, "")
            if event.args and self._view is not None:
                self._view.feed(worker, decode_output(event.args))
            call.call.consumed()
        else:
            del self._pending[worker]
            self._outcomes[worker] = call.outcome(event) if call is not None else Failed(event.error)
            if self._view is not None:
                self._view.done(worker)
            self._say()

    def _look_after_silent(self, now: float) -> None:
        """Ask workers that have not been heard of for a while what they are doing."""
        for worker, pending in self._pending.items():
            if now - pending.heard < ASK_AFTER:
                continue
            if pending.asked is None:
                self._ask_what_runs(worker, pending, now)
            elif now - pending.heard >= NOTICE_AFTER:
                if pending.link.frozen():
                    pid = pending.link.pid
                    pending.frozen = now
                    self._set_notice(
                        pending, f"{worker} is frozen (stopped by a signal); `kill -CONT {pid}` lets it go on"
                    )
                elif not pending.started and now - pending.frozen >= NOTICE_AFTER:
                    self._set_notice(pending, f"{worker} {pending.link.explain_silence()}")

    def _ask_what_runs(self, worker: str, pending: _Pending, now: float) -> None:
        pending.asked = now

        def answered(answer: Any) -> None:
            if not isinstance(answer, Lost):  # if it is lost, the request itself hears of it
                self._events.put((worker, None, (answer,)))

        pending.link.control_nowait("_znb_ping", pending.link.client, answered)

    def _on_ping(self, pending: _Pending, running: dict[str, Any] | None) -> None:
        pending.asked = None
        if pending.started or running is None or (running["yours"] and running["label"] == self._label):
            self._set_notice(pending, "")
            return
        whose = "" if running["yours"] else " of another notebook"
        seconds = f"{running['seconds']:.0f} s"
        self._set_notice(pending, f"{pending.link.name} is busy with {running['label']}{whose} for {seconds}")

    def _set_notice(self, pending: _Pending, text: str) -> None:
        if pending.notice != text:
            pending.notice = text
            self._say()

    def _say(self) -> None:
        waiting = [pending.notice for pending in self._pending.values() if pending.notice]
        text = "waiting: " + "; ".join(waiting) if waiting else ""
        if text != self._notice:
            self._notice = text
            self._announcer.notice(text)

    # -- the end by force ----------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        """Interrupt the workers' code, and give it a moment to end; another interrupt takes the moment away."""
        if not self._pending:
            return
        reactor = next(iter(self._pending.values())).link.reactor
        try:
            if self._view is not None:
                self._view.hurry()
            doomed = self._find_doomed()
            reactor.call_soon(self._interrupt_calls, doomed)
            self._press_stubborn(doomed)
            deadline = time.monotonic() + INTERRUPT_PATIENCE
            while self._pending and (left := deadline - time.monotonic()) > 0:
                try:
                    event = self._events.get(timeout=left)
                except queue.Empty:
                    break
                self._take(*event)
        except KeyboardInterrupt:
            pass  # the caller raises the first one
        finally:
            reactor.call_soon(self._give_up, frozenset(name for name, p in self._pending.items() if p.started))
        for pending in self._pending.values():
            if pending.started and pending.link.alive:
                self._tell(_stubborn_notice(pending.link, 1))
        self._pending.clear()

    def _find_doomed(self) -> dict[str, int]:
        """Return the workers that have ignored as many interrupts as they may, with the number."""
        ignored = {name: max(list(p.link.stubborn.values()), default=0) for name, p in self._pending.items()}
        return {name: count for name, count in ignored.items() if count >= INTERRUPTS_BEFORE_KILL}

    def _press_stubborn(self, doomed: Mapping[str, int]) -> None:
        """Interrupt again what ignored an earlier interrupt; kill the ``doomed`` workers."""
        for name, pending in self._pending.items():
            link = pending.link
            if name in doomed:
                self._kill(name)
                self._tell(
                    f"{name} (pid {link.pid}) ignored {doomed[name]} interrupts: it is killed, and a new process "
                    f"takes its place, without its variables"
                )
                continue
            for call, ignored in list(link.stubborn.items()):
                link.interrupt([call])
                link.stubborn[call] = ignored + 1
                self._tell(_stubborn_notice(link, ignored + 1))

    def _tell(self, text: str) -> None:
        self._announcer.write("stderr", f"{text}\n")


def _stubborn_notice(link: Link, ignored: int) -> str:
    times = "once" if ignored == 1 else f"{ignored} times"
    return (
        f"{link.name} (pid {link.pid}) was interrupted {times} and has not stopped yet; its code goes on until it "
        f"looks. `%znb cluster restart {link.name}` kills and replaces it"
        + (", and so does the next interrupt." if ignored >= INTERRUPTS_BEFORE_KILL else ".")
    )
