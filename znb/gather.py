"""One request on several workers, watched from the thread that asked.

``Gather`` sends a request to each worker, shows the outputs that come back as they come, says what it waits for when
nothing happens, turns an interrupt here into an interrupt there, and returns every worker's outcome.

Invariants: nothing waits in silence for more than ``NOTICE_AFTER`` seconds unless the user's own code runs; an
interrupt returns within ``INTERRUPT_PATIENCE`` seconds; outputs are granted only after they have been shown, so a slow
display holds the workers back. The asking thread owns a ``Gather``; the I/O thread only puts events into its queue.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from znb import wire
from znb.errors import CallTimeout, Cancelled
from znb.link import Failed, Link, ObjectCall, Outcome
from znb.outputs import Output, decode_output
from znb.rpc import Lost, Reply
from znb.serialize import Payload

__all__ = ["Gather", "View"]

#: Seconds without a sign of life after which the user is told what is being waited for (API.md §2).
NOTICE_AFTER = 1.0
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

    def close(self) -> None:
        """Show everything that is still held."""


class _Pending:
    """One worker's part of a request.

    Attributes:
        heard: Monotonic time of its last sign of life.
        started: Whether the worker has begun it.
        ping: ``None``, or what the worker last said it was doing, ``...`` while an answer is awaited.
    """

    __slots__ = ("call", "heard", "notice", "pinged", "started")

    def __init__(self, call: ObjectCall, now: float) -> None:
        self.call = call
        self.heard = now
        self.pinged = 0.0
        self.started = False
        self.notice = ""


class Gather:
    """A request to several workers.

    Args:
        view: Shows outputs; ``None`` where there are none.
        notify: Shows a line about what is being waited for; an empty one takes it back.
        kill: Ends a worker that ignores interrupts, so that it is replaced.
        notices: Whether a request that has not started is worth a notice.
    """

    def __init__(self, view: View | None, notify: Callable[[str], None], kill: Callable[[str], None]) -> None:
        self._view = view
        self._notify = notify
        self._kill = kill
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._pending: dict[str, _Pending] = {}
        self.outcomes: dict[str, Outcome] = {}

    def send(self, links: Iterable[Link], method: str, payload: Payload, *, label: str) -> None:
        """Send the request to each worker."""
        for link in links:
            call = link.request(method, payload, self._on_event, label=label)
            self._pending[link.name] = _Pending(call, time.monotonic())

    def wait(self, timeout: float | None = None) -> dict[str, Outcome]:
        """Wait until every worker is done.

        Raises:
            KeyboardInterrupt: The wait was interrupted; the workers' code has been interrupted too.
            CallTimeout: It took longer than ``timeout`` seconds; the workers' code has been interrupted.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._wait(deadline)
        except KeyboardInterrupt:
            self._interrupt()
            raise
        finally:
            if self._view is not None:
                self._view.close()
        if self._pending:
            waited_for = ", ".join(self._pending)
            self._interrupt()
            raise CallTimeout(f"the cell on {waited_for}", timeout or 0.0)
        return self.outcomes

    # -- the I/O thread ------------------------------------------------------------------------------------

    def _on_event(self, call: ObjectCall, reply: Reply | Lost) -> None:
        stubborn = call.link.stubborn
        if call.call.id not in stubborn:
            self._events.put((call.link.name, reply))
        elif isinstance(reply, Lost) or reply.is_last:
            del stubborn[call.call.id]
        else:
            call.call.consumed()  # nobody shows it any more

    # -- the asking thread ---------------------------------------------------------------------------------

    def _wait(self, deadline: float | None) -> None:
        while self._pending:
            pause = self._view.tick() if self._view is not None else None
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return
            due = [NOTICE_AFTER / 4, *([pause] if pause is not None else [])]
            if deadline is not None:
                due.append(deadline - now)
            try:
                worker, event = self._events.get(timeout=max(0.0, min(due)))
            except queue.Empty:
                self._look_after_silent()
                continue
            self._take(worker, event)

    def _take(self, worker: str, event: Any) -> None:
        pending = self._pending.get(worker)
        if pending is None:
            return
        pending.heard = time.monotonic()
        if pending.notice:
            pending.notice = ""
            self._say()
        if isinstance(event, Reply) and event.name == wire.STREAM:
            if event.args and self._view is not None:
                self._view.feed(worker, decode_output(event.args))
            pending.started = True
            pending.call.call.consumed()
        elif isinstance(event, Reply | Lost):
            del self._pending[worker]
            self.outcomes[worker] = pending.call.outcome(event)
            if self._view is not None:
                self._view.done(worker)
            self._say()
        else:
            self._on_ping(pending, event[0])

    def _look_after_silent(self) -> None:
        """Ask workers that have not been heard of for a while what they are doing."""
        now = time.monotonic()
        for worker, pending in self._pending.items():
            if now - pending.heard < NOTICE_AFTER or now - pending.pinged < NOTICE_AFTER:
                continue
            link = pending.call.link
            if pending.pinged > pending.heard and link.frozen():
                self._notice(
                    pending,
                    f"{worker} is frozen (stopped by a signal); `kill -CONT {link.pid}` lets it go on",
                )
            elif pending.pinged > pending.heard and not pending.started:
                self._notice(pending, f"{worker} does not answer: its interpreter is held by native code")
            pending.pinged = now

            def answered(answer: Any, name: str = worker) -> None:
                self._events.put((name, answer if isinstance(answer, Lost) else (answer,)))

            link.control_nowait("_znb_ping", None, answered)

    def _on_ping(self, pending: _Pending, running: dict[str, Any] | None) -> None:
        pending.pinged = time.monotonic()
        if pending.started or running is None:
            return
        whose = "" if running["yours"] else " of another notebook"
        name = pending.call.link.name
        self._notice(pending, f"{name} is busy with {running['label']}{whose} for {running['seconds']:.0f} s")

    def _notice(self, pending: _Pending, text: str) -> None:
        pending.notice = text
        self._say()

    def _say(self) -> None:
        waiting = [pending.notice for pending in self._pending.values() if pending.notice]
        self._notify("waiting: " + "; ".join(waiting) if waiting else "")

    def _interrupt(self) -> None:
        """Interrupt the workers' code, and give it a moment to end."""
        for worker, pending in list(self._pending.items()):
            link = pending.call.link
            if pending.started:
                link.interrupt([pending.call.call.id])
            else:
                pending.call.call.abandon()
                del self._pending[worker]
                self.outcomes[worker] = Failed(Cancelled("it had not started"))
                self._press_stubborn(link)
        deadline = time.monotonic() + INTERRUPT_PATIENCE
        while self._pending and (left := deadline - time.monotonic()) > 0:
            try:
                worker, event = self._events.get(timeout=left)
            except queue.Empty:
                break
            self._take(worker, event)
        for pending in self._pending.values():
            pending.call.link.stubborn[pending.call.call.id] = 1
            self._notify(_stubborn_notice(pending.call.link, 1))
        self._pending.clear()

    def _press_stubborn(self, link: Link) -> None:
        """Interrupt again what ignored an earlier interrupt; kill its worker if it did so twice."""
        for call, ignored in list(link.stubborn.items()):
            if ignored >= INTERRUPTS_BEFORE_KILL:
                self._kill(link.name)
                self._notify(f"{link.name} ignored {ignored} interrupts: it is killed and replaced")
                return
            link.interrupt([call])
            link.stubborn[call] = ignored + 1
            self._notify(_stubborn_notice(link, ignored + 1))


def _stubborn_notice(link: Link, ignored: int) -> str:
    times = "once" if ignored == 1 else f"{ignored} times"
    return (
        f"{link.name} (pid {link.pid}) was interrupted {times} and has not stopped yet; its code goes on until it "
        f"looks. `%znb cluster restart {link.name}` kills and replaces it"
        + (", and so does the next interrupt." if ignored >= INTERRUPTS_BEFORE_KILL else ".")
    )
