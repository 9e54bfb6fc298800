"""One call of a service, from its arguments to its answer: on a thread, on the event loop, or stopped on the way.

=============== =======================================================================================
result           answer
=============== =======================================================================================
a value          OK
an iterator      a stream, item by item as the caller has room; the iterator is closed when it is over
a coroutine      what it returns, on the service's event loop
an async iterator  a stream, on the event loop
an exception     ERR, whatever it is: ``SystemExit`` and its like end the call, not the server
=============== =======================================================================================

A call that is stopped (cancelled, timed out, its caller gone) gets ``CallStopped`` raised where it is: at its next
bytecode in a thread, at its ``await`` on the loop. Code that waits in C for long hears it when it returns.

Invariants: a call is answered at most once; ``CallStopped`` is raised in the code of the call that it is meant for
or not at all. The thread that runs the call owns it; ``cancel`` comes from the server's reactor.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from znb.errors import ProtocolError, SerializationError
from znb.rpc import failures, values
from znb.rpc.hooks import CallInfo, Hook, _current, run_after, run_before, run_lost
from znb.rpc.request import GateClosed, Request
from znb.serialize.settled import copy_buffer, is_settled
from znb.spans import OpenSpan, mark, serving

if TYPE_CHECKING:
    from znb.rpc.describe import Method
    from znb.rpc.service import Service

__all__ = ["CallStopped", "Entry", "Work", "pack_owned", "pack_value", "read_arguments"]

#: Average seconds up to which a method runs on the thread that received the call; a hop costs about 20 µs.
AT_ONCE = 0.0005
#: Weight of a method's latest run time in its average.
LATEST_WEIGHT = 0.2

_encode = msgspec.msgpack.Encoder().encode


class CallStopped(BaseException):
    """Nobody waits for this call any more. No ``Exception``, so that ``except Exception`` does not keep it going."""


class Entry:
    """A method of a service, and how long it takes.

    Attributes:
        method: What runs.
        seconds: Average run time; infinite until it has run.
        calls: Calls that have ended.
        quick: Whether it is worth running on the thread that received the call.
    """

    __slots__ = ("_at_once", "calls", "method", "quick", "seconds")

    def __init__(self, method: Method) -> None:
        self.method = method
        self.seconds = float("inf")
        self.calls = 0
        self.quick = False
        self._at_once = AT_ONCE if method.kind == "call" else -1.0

    def took(self, seconds: float) -> None:
        """Note the run time of a call."""
        self.calls += 1
        known = self.seconds < float("inf")
        self.seconds = self.seconds + LATEST_WEIGHT * (seconds - self.seconds) if known else seconds
        self.quick = self.seconds < self._at_once


class Work:
    """One call under way.

    Args:
        service: Whose method it is.
        request: What was asked.
        entry: The method.
        span: Of the call, if it has one already.
    """

    __slots__ = (
        "_hooks",
        "_info",
        "_injected",
        "_iterator",
        "_lock",
        "_task",
        "_thread",
        "cancelled",
        "entry",
        "request",
        "service",
        "span",
    )

    def __init__(self, service: Service, request: Request, entry: Entry, span: OpenSpan | None = None) -> None:
        self.service = service
        self.request = request
        self.entry = entry
        self.cancelled = False
        self._iterator: Iterator[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self._thread = 0
        self._injected = False
        self._hooks: tuple[Hook, ...] = ()
        headers = request.headers
        name = f"{service.name}.{request.method}"
        self.span = span or serving(name, headers, request.received_ns, service=service.name, method=request.method)
        self._info = CallInfo(service.name, request.method, headers, request.deadline, request.peer)

    # -- on a thread ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Make the call and answer it; a stream is sent to its end. On a thread of the pool."""
        answer = self.make()
        if answer is not None:
            answer()
        if self._iterator is not None:
            self.stream()

    def make(self) -> Callable[[], object] | None:
        """Make the call, and return what sends the answer; ``None`` if there is none, or it is ``stream``'s to give."""
        error: BaseException | None = None
        goes_on = False
        token = _current.set(self._info)
        span = self.span
        span.enter()
        mark(span, "taken_ns")
        try:
            args, kwargs = read_arguments(self.request)
            mark(span, "decoded_ns")
            self._enter()
            try:
                self._before()
                started = time.perf_counter()
                result = [self.entry.method.function(*args, **kwargs)]
                self.entry.took(time.perf_counter() - started)
                del args, kwargs
            finally:
                self._leave()
            mark(span, "ran_ns")
            goes_on = self.resume(result[0])
            return None if goes_on else self._answer(result)
        except BaseException as caught:  # noqa: BLE001 - whatever it is, it is the outcome
            self._leave()
            error = caught
            return self.failure(caught)
        finally:
            span.leave()
            _current.reset(token)
            if not goes_on:
                self._after(error)

    def _before(self) -> None:
        """Ask the hooks; those asked hear the end, by ``_after``."""
        hooks = self.service.hooks.all
        if hooks:
            run_before(hooks, "serving", self._info)
            self._hooks = hooks

    def _after(self, error: BaseException | None) -> None:
        """Tell the hooks that were asked before how it ended; once."""
        hooks, self._hooks = self._hooks, ()
        if hooks:
            run_after(hooks, "serving", self._info, error)

    def resume(self, result: Any) -> bool:
        """Go on with what the method returned, if that is not its result yet; return whether that is so."""
        kind = type(result)
        if hasattr(kind, "__next__"):
            self._iterator = result
        elif hasattr(kind, "__anext__") or inspect.isawaitable(result):
            self.service.loop.submit(self.run_async(result))
        else:
            return False
        return True

    @property
    def streams(self) -> bool:
        """Whether the call was made, and returned a stream that is still to be sent."""
        return self._iterator is not None

    def stream(self) -> None:
        """Send the items of the result, and the end."""
        assert self._iterator is not None  # noqa: S101 - the caller has looked at ``streams``
        iterator, self._iterator = self._iterator, None
        error: BaseException | None = None
        token = _current.set(self._info)
        self.span.enter()
        count = 0
        try:
            try:
                self._enter()
                item: list[Any] = [None]
                for item[0] in iterator:
                    buffers: list[Any] = []
                    data = pack_owned(item, buffers if self.request.from_znb else None, where="item")
                    self.request.put_item(data, buffers)
                    count += 1
            finally:
                self._leave()
            self._end_span(items=count)
            self.request.end()
        except GateClosed:
            error = CallStopped("the caller has gone")
            self._end_span(error, items=count)
        except BaseException as caught:  # noqa: BLE001 - as above
            self._leave()
            error = caught
            answer = self.failure(caught)
            if answer is not None:
                answer()
        finally:
            self._close(iterator)
            self.span.leave()
            _current.reset(token)
            self._after(error)

    def _close(self, iterator: Any) -> None:
        close = getattr(iterator, "close", None)
        if close is not None and inspect.isgenerator(iterator):
            try:
                close()
            except BaseException:  # it is over; what its cleaning up raises has nobody to go to
                self.service.log.exception("closing the stream of %s failed", self.request.method)

    # -- on the event loop ---------------------------------------------------------------------------------

    async def run_async(self, result: Any = None) -> None:
        """Make the call, if ``result`` is not what it returned already, and answer it."""
        self._task = asyncio.current_task()
        error: BaseException | None = None
        _current.set(self._info)
        self.span.enter()
        if result is None:
            mark(self.span, "taken_ns")
        try:
            if self.cancelled:
                return
            if result is None:
                self._before()
                args, kwargs = read_arguments(self.request)
                result = self.entry.method.function(*args, **kwargs)
            if hasattr(result, "__anext__"):
                await self._stream_async(result)
                self._end_span()
                self.request.end()
            else:
                answer = self._answer([await result])
                answer()
        except (GateClosed, asyncio.CancelledError) as caught:
            error = caught
            self._end_span(caught)
            if not self.cancelled and not self.request.closed:
                failures.fail(self.request, caught, service=self.service.name)
        except BaseException as caught:  # noqa: BLE001 - as above
            error = caught
            failed = self.failure(caught)
            if failed is not None:
                failed()
        finally:
            self._task = None
            self.span.leave()
            self._end_span()
            self._after(error)

    async def _stream_async(self, items: AsyncIterator[Any]) -> None:
        loop = asyncio.get_running_loop()
        room = asyncio.Event()
        self.request.on_grant = lambda: loop.call_soon_threadsafe(room.set)
        try:
            item: list[Any] = [None]
            async for item[0] in items:
                buffers: list[Any] = []
                data = pack_owned(item, buffers if self.request.from_znb else None, where="item")
                while True:
                    room.clear()
                    if self.request.put_item_nowait(data, buffers):
                        break
                    await room.wait()
        finally:
            if hasattr(items, "aclose"):
                await items.aclose()

    # -- the answer ----------------------------------------------------------------------------------------

    def _answer(self, result: list[Any]) -> Callable[[], object]:
        buffers: list[Any] = []
        packed = pack_owned(result, buffers if self.request.from_znb else None, where="result")
        self._end_span()
        return lambda: self.request.reply(msgspec.Raw(packed), buffers)

    def failure(self, error: BaseException) -> Callable[[], object] | None:
        """Return what tells the caller of an error; ``None`` if there is nobody to tell. Ends the span."""
        self._end_span(error)
        if isinstance(error, CallStopped) and (self.cancelled or self.request.closed):
            return None
        return lambda: failures.fail(self.request, error, service=self.service.name)

    def _end_span(self, error: BaseException | None = None, **attributes: Any) -> None:
        """End the span, before the answer leaves: whoever has the answer can have the span. May be called again."""
        if attributes:
            self.span.set(**attributes)
        if isinstance(error, CallStopped):
            self.span.status = "cancelled"
        self.span.end(error)

    # -- being stopped -------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop: nobody waits for the answer. On the server's reactor."""
        self.cancelled = True
        self.span.event("cancelled", reason="nobody waits for the answer")
        if hooks := self.service.hooks.all:
            run_lost(hooks, self._info, CallStopped("the caller has gone"))
        task = self._task
        if task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the task with it
                task.get_loop().call_soon_threadsafe(task.cancel)
            return
        if self.service.pool.remove(self.run):
            self._end_span(CallStopped())
            return
        with self._lock:
            if self._thread:
                self._injected = True
                _raise_in(self._thread, CallStopped)

    def _enter(self) -> None:
        """From here on the call may be stopped on this thread."""
        with self._lock:
            if self.cancelled:
                raise CallStopped
            self._thread = threading.get_ident()

    def _leave(self) -> None:
        """From here on it may not; what was on its way has come. May be called twice."""
        with self._lock:
            if not self._thread:
                return
            self._thread = 0
            if self._injected:
                _take_injected()


def _raise_in(thread: int, error: type[BaseException]) -> None:
    """Raise an exception in a thread at its next bytecode."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


def _take_injected() -> None:
    """Let what was to be raised in this thread be raised now, if it was not yet, so that it is not raised later.

    To take it back (with NULL) is possible, but CPython then goes on believing, until another one is raised somewhere,
    that one is pending: its evaluation loop is slow from then on, and under a debugger never ends (3.11).
    """
    try:
        _raise_in(threading.get_ident(), CallStopped)  # in place of it
        while True:
            time.sleep(0)  # an empty loop is not covered by ``except``
    except CallStopped:
        return


def read_arguments(request: Request) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and keyword arguments of a request.

    Raises:
        ProtocolError: They are not what they should be.
    """
    args = values.decode(request.args, request.buffers) if isinstance(request.args, msgspec.Raw) else request.args
    request.args = None  # large ones go when the method is done with them
    request.buffers.clear()
    return split_arguments(args, request.headers)


def split_arguments(args: Any, headers: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and keyword arguments that a request's arguments are made of.

    Raises:
        ProtocolError: They are not what they should be.
    """
    if not isinstance(args, list):
        args = [] if args is None else [args]  # some zerorpc clients send one argument bare
    if "kw" not in headers:
        return args, {}
    kwargs = args.pop() if args else None
    if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise ProtocolError(f"expected keyword arguments as a dict, got {kwargs!r:.50}")
    return args, kwargs


def pack_owned(owner: list[Any], buffers: list[Any] | None, *, where: str) -> bytes:
    """Return the msgpack bytes of a plain value that may change before it has been sent.

    Unless nobody else knows it, its buffers are copies.

    Args:
        owner: A list of that value, which nothing of ours refers to besides.
        buffers: Takes what travels out of band.
        where: What it is, for errors.

    Raises:
        SerializationError: It is not plain.
    """
    packed = pack_value(owner[0], buffers, where=where)
    if buffers and not is_settled(list(owner), exported=1):
        buffers[:] = map(copy_buffer, buffers)
    return packed


def pack_value(value: Any, buffers: list[Any] | None, *, where: str) -> bytes:
    """Return the msgpack bytes of a plain value.

    Raises:
        SerializationError: It is not plain.
    """
    try:
        return _encode(values.encode(value, buffers, where=where))
    except (OverflowError, UnicodeEncodeError):
        if buffers is not None:
            buffers.clear()
    try:
        return _encode(values.encode(value, buffers, where=where, careful=True))
    except RecursionError:
        raise SerializationError(where, "it is nested too deeply") from None
