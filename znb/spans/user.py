"""``znb.span`` and ``znb.traced``: how users name what their code does.

Invariants: what they wrap behaves as before: values, exceptions, generators' ``send``, ``throw`` and ``close``,
signatures. A generator's span lasts from its first item to its end; between items its caller is not inside of it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from time import perf_counter_ns
from typing import Any, Final, TypeVar, overload

from znb.spans.plain import clean
from znb.spans.recorder import RECORDER, OpenSpan, Parent, current, set_current

__all__ = ["span", "traced"]

F = TypeVar("F", bound=Callable[..., Any])


class UserSpan(OpenSpan):
    """Name a block of code, so that traces show it: ``with znb.span("load", rows=10): ...``.

    It costs about a microsecond, so it may stay in the code. Outside of a trace it begins one.

    Args:
        name: What to call it; spans of one name are added up.
        attributes: What to know about it; anything but numbers and text is kept as a short ``repr``.

    Example:
        >>> with span("load", rows=10) as loading:
        ...     loading.set(bytes=4096)
    """

    __slots__ = ()

    def __init__(self, name: str, /, **attributes: Any) -> None:  # as OpenSpan's, which would be one call more
        self.recorder = RECORDER
        self.name = name
        self.kind = "span"
        self.attributes = clean(attributes) if attributes else None
        self.events = None
        self.status = "ok"
        self.live = 0
        self.special = self.used = self.entered = self.kept = False
        self.outer = None
        self.span_id = 0

    def __repr__(self) -> str:
        state = "ended" if self.span_id else "not begun"
        return f"<span {self.name!r}, {'active' if self.entered else state}>"


#: What users write.
span: Final = UserSpan


@overload
def traced(function: F, /) -> F: ...
@overload
def traced(name: str = "", /, **attributes: Any) -> Callable[[F], F]: ...
def traced(function: Any = "", /, **attributes: Any) -> Any:
    """Make each call of a function a span. For functions, coroutines, generators and methods.

    Example:
        >>> @traced
        ... def double(x):
        ...     return 2 * x
        >>> double(4)
        8
        >>> @traced("thrice", unit="cm")
        ... def triple(x):
        ...     return 3 * x
    """
    if callable(function) or isinstance(function, classmethod | staticmethod):
        return _wrap(function, function.__qualname__, {})
    name = function or attributes.pop("name", "")
    return lambda wrapped: _wrap(wrapped, name or wrapped.__qualname__, attributes)


def _wrap(function: Any, name: str, attributes: dict[str, Any]) -> Any:
    if isinstance(function, classmethod | staticmethod):
        return type(function)(_wrap(function.__func__, name, attributes))

    def begin() -> OpenSpan:
        return OpenSpan(RECORDER, name, "span", dict(attributes) if attributes else None)

    if inspect.isasyncgenfunction(function):
        return _wrap_async_generator(function, begin)
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            return (yield from _step(begin().start(), function(*args, **kwargs)))

        return generator
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            with begin():
                return await function(*args, **kwargs)

        return coroutine

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # IPython leaves such frames out
        with begin():
            return function(*args, **kwargs)

    return plain


class _Stepping:
    """A generator's span.

    It is inside while it runs, and with it what it has opened and not closed; its caller never is.

    Attributes:
        opened: Its span.
    """

    __slots__ = ("_before", "_inside", "_left_ns", "_suspended_ns", "opened")

    def __init__(self, opened: OpenSpan) -> None:
        self.opened = opened
        self._inside: Parent = opened
        self._before: Parent | None = None
        self._left_ns = opened.start_ns
        self._suspended_ns = 0

    def __enter__(self) -> None:
        self._suspended_ns += perf_counter_ns() - self._left_ns
        self._before = current()
        set_current(self._inside)
        for span in reversed(self._path()):
            span.resume()

    def __exit__(self, *_: object) -> None:
        self._inside = current() or self.opened
        for span in self._path():
            span.entered = False
        set_current(self._before)
        self._left_ns = perf_counter_ns()

    def _path(self) -> list[OpenSpan]:
        """Return the spans from the innermost to its own."""
        found = []
        step: Any = self._inside
        while isinstance(step, OpenSpan):
            found.append(step)
            step = step.outer if step is not self.opened else None
        return found

    def end(self, error: BaseException | None) -> None:
        """End the span."""
        if isinstance(error, GeneratorExit):
            self.opened.status = "cancelled"
        elif error is not None:
            self.opened.error(error)
        self.opened.set(suspended_ns=self._suspended_ns)
        self.opened.end()


def _step(opened: OpenSpan, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a generator so that it is inside its span, and whoever takes its items is not."""
    stepping = _Stepping(opened)
    advance: Callable[[], Any] = functools.partial(next, generator)
    failure: BaseException | None = None
    try:
        while True:
            with stepping:
                item = advance()
            try:
                sent = yield item
            except GeneratorExit:
                with stepping:
                    generator.close()
                raise
            except BaseException as error:  # noqa: BLE001 - it is thrown on into the generator
                advance = functools.partial(generator.throw, error)
            else:
                advance = functools.partial(generator.send, sent)
    except StopIteration as stop:
        return stop.value
    except BaseException as error:
        failure = error
        raise
    finally:
        stepping.end(failure)
        del failure  # no cycle through this frame


def _wrap_async_generator(function: Callable[..., Any], begin: Callable[[], OpenSpan]) -> Callable[..., Any]:
    """The same as ``_step`` for asynchronous generators; one function, because the wrapper has to be one as well."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        stepping = _Stepping(begin().start())
        generator = function(*args, **kwargs)
        advance: Callable[[], Any] = generator.__anext__
        failure: BaseException | None = None
        try:
            while True:
                with stepping:
                    item = await advance()
                try:
                    sent = yield item
                except GeneratorExit:
                    raise
                except BaseException as error:  # noqa: BLE001 - it is thrown on into the generator
                    advance = functools.partial(generator.athrow, error)
                else:
                    advance = functools.partial(generator.asend, sent)
        except StopAsyncIteration:
            return
        except BaseException as error:
            failure = error
            raise
        finally:
            with stepping:
                await generator.aclose()
            stepping.end(failure)
            del failure

    return wrapper
