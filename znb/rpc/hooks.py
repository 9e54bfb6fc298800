"""What may watch and steer calls: before and after each, on both sides, and when one is lost.

Tracing is a hook; so are auth and metrics of users::

    class Allow(znb.rpc.Hook):
        def before_serving(self, call):
            if call.headers.get("token") != "secret":
                raise PermissionError("a token, please")

    znb.expose(thing, hooks=[Allow()])

    class Token(znb.rpc.Hook):
        def before_calling(self, call):
            call.headers["token"] = "secret"

    znb.connect("thing", hooks=[Token()])

Guarantees: ``after_…`` follows its ``before_…`` exactly once, on any thread, in the reverse order of the hooks. What
``before_…`` raises is the outcome of the call, which then is not made; what ``after_…`` raises is logged. Headers are
plain values; their names must not be those of ``znb.wire``. A call without hooks pays for one comparison.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["CallInfo", "Hook", "Hooks", "check_hooks", "current_call", "process_hooks"]

logger = logging.getLogger("znb.rpc")


class CallInfo:
    """A call, as hooks and the code that serves it see it.

    Attributes:
        service: Name of the service, or the address that was dialled.
        method: Name of the method.
        headers: What travels with the request; ``before_calling`` may add to it.
        deadline: Monotonic time after which nobody waits for the answer; ``None`` for never.
        peer: On the serving side the caller's routing id, equal for all calls of a connection; else ``b""``.
    """

    __slots__ = ("_notes", "deadline", "headers", "method", "peer", "service")

    def __init__(
        self, service: str, method: str, headers: dict[str, Any], deadline: float | None, peer: bytes = b""
    ) -> None:
        self.service = service
        self.method = method
        self.headers = headers
        self.deadline = deadline
        self.peer = peer
        self._notes: dict[Any, Any] | None = None

    @property
    def notes(self) -> dict[Any, Any]:
        """Whatever hooks want to remember from before to after."""
        if self._notes is None:
            self._notes = {}
        return self._notes

    def __repr__(self) -> str:
        return f"<CallInfo {self.service}.{self.method}>"


class Hook:
    """Does nothing; override what you need."""

    def before_calling(self, call: CallInfo) -> None:
        """The request is about to be sent; may add headers. On the calling thread."""

    def after_calling(self, call: CallInfo, error: BaseException | None) -> None:
        """The reply is in, the stream has ended, or the call failed."""

    def before_serving(self, call: CallInfo) -> None:
        """The method is about to run, on this thread and in this context; raise to refuse the call."""

    def after_serving(self, call: CallInfo, error: BaseException | None) -> None:
        """The method has returned, or raised ``error``."""

    def on_lost(self, call: CallInfo, error: BaseException) -> None:
        """The call will not be answered, or its caller has gone."""


class Hooks:
    """An ordered choice of hooks.

    Args:
        hooks: The first are asked first.
        more: Others that are asked before these.
    """

    def __init__(self, hooks: Iterable[Hook] = (), more: Hooks | None = None) -> None:
        self._own = tuple(hooks)
        self._more = more

    @property
    def own(self) -> tuple[Hook, ...]:
        """Those that are asked last, in order."""
        return self._own

    @property
    def all(self) -> tuple[Hook, ...]:
        """The hooks, in order."""
        return self._own if self._more is None else self._more._own + self._own

    def add(self, hook: Hook) -> None:
        """Ask a hook for calls that begin from now on."""
        self._own += (hook,)

    def remove(self, hook: Hook) -> None:
        """Ask a hook no more. May be called twice."""
        self._own = tuple(other for other in self._own if other is not hook)


def check_hooks(hooks: Iterable[Hook]) -> tuple[Hook, ...]:
    """Return hooks if they are such.

    Raises:
        TypeError: One is something else, such as a class.
    """
    found = tuple(hooks)
    for hook in found:
        if not isinstance(hook, Hook):
            raise TypeError(f"hooks must be instances of znb.Hook, got {hook!r:.100}")
    return found


def run_before(hooks: tuple[Hook, ...], moment: str, call: CallInfo) -> None:
    """Ask each hook; if one raises, those before it hear the end."""
    for number, hook in enumerate(hooks):
        try:
            getattr(hook, f"before_{moment}")(call)
        except BaseException as error:
            run_after(hooks[:number], moment, call, error)
            raise


def run_after(hooks: tuple[Hook, ...], moment: str, call: CallInfo, error: BaseException | None) -> None:
    """Tell each hook how it ended."""
    for hook in reversed(hooks):
        try:
            getattr(hook, f"after_{moment}")(call, error)
        except Exception:
            logger.exception("%r failed after %r", hook, call)


def run_lost(hooks: tuple[Hook, ...], call: CallInfo, error: BaseException) -> None:
    """Tell each hook that the call was lost."""
    for hook in hooks:
        try:
            hook.on_lost(call, error)
        except Exception:
            logger.exception("%r failed on the loss of %r", hook, call)


#: Hooks of every service and proxy of this process. The one place that tracing needs; it is a registry, not state.
process_hooks = Hooks()

#: The call that is served, or what makes its ``CallInfo`` when somebody asks.
_current: contextvars.ContextVar[CallInfo | Callable[[], CallInfo] | None] = contextvars.ContextVar(
    "znb-call", default=None
)


def current_call() -> CallInfo | None:
    """Return the call that this code serves, or ``None``."""
    found = _current.get()
    return found if found is None or isinstance(found, CallInfo) else found()
