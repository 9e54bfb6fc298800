"""What launchers have in common that attach to a cluster whose head is on another machine.

They can only connect. What is left of a cluster when it ends is on that machine, and for its head to remove.

Invariants: those of ``znb.launchers``; workers are told of with addresses that can be dialled from here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from znb.control import Reply
from znb.launchers import EventHandler, ReactorLike
from znb.launchers.local import LocalLauncher
from znb.lifecycle import ClusterEvent, WorkerStatus

__all__ = ["AfarLauncher"]


class AfarLauncher(LocalLauncher):
    """The launcher of a cluster whose head is on another machine; its children say how that is reached.

    Args:
        reactor: The I/O thread.
        on_event: Called on the reactor's thread with every event.
    """

    advice = "if it goes on there, connect to it again"

    def __init__(self, reactor: ReactorLike, on_event: EventHandler) -> None:
        super().__init__("", reactor, on_event)
        self._tell = on_event
        self._on_event = self._translate_event

    def _translate_event(self, event: ClusterEvent) -> None:
        workers = None if event.workers is None else self._translate(event.workers)
        worker = None if event.worker is None else self._translate((event.worker,))[0]
        self._tell(msgspec.structs.replace(event, workers=workers, worker=worker))

    def _on_reply(self, reply: Reply) -> None:
        if reply.ok is not None:
            snapshot = msgspec.structs.replace(reply.ok, workers=self._translate(reply.ok.workers))
            reply = msgspec.structs.replace(reply, ok=snapshot)
        super()._on_reply(reply)

    def _translate(self, workers: Sequence[WorkerStatus]) -> tuple[WorkerStatus, ...]:
        """Return workers as they are seen from here."""
        return tuple(msgspec.structs.replace(worker, host=self._host_of(worker)) for worker in workers)

    def _host_of(self, worker: WorkerStatus) -> str:
        return worker.host or (self.file.host if self.file is not None else "?")

    def _release(self) -> None:
        """Let go of what leads there. May be called twice."""

    def _leave(self, *, ended: bool) -> None:  # noqa: ARG002 - what is left is there, and its head's
        self._close()
        self._release()

    def _wait_exit(self) -> bool:
        return True
