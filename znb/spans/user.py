"""``znb.span`` and ``znb.traced``: how users name what their code does.

Invariants: what they wrap behaves as before: values, exceptions, generators' ``send``, ``throw`` and ``close``,
signatures. A generator's span lasts from its first item to its end; between items its caller is not inside of it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Final, TypeVar, overload

from znb.spans.plain import clean
from znb.spans.recorder import RECORDER, OpenSpan

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
        self.optional = self.used = self.entered = False
        self._outer = None


#: What users write.
span: Final = UserSpan


@overload
def traced(function: F, /) -> F: ...
@overload
def traced(name: str = "", /, **attributes: Any) -> Callable[[F], F]: ...
def traced(function: Callable[..., Any] | str = "", /, **attributes: Any) -> Any:
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
    if callable(function):
        return _wrap(function, function.__qualname__, {})
    return lambda wrapped: _wrap(wrapped, function or wrapped.__qualname__, attributes)


def _wrap(function: Callable[..., Any], name: str, attributes: dict[str, Any]) -> Callable[..., Any]:
    def begin() -> OpenSpan:
        return OpenSpan(RECORDER, name, "span", dict(attributes) if attributes else None)

    if inspect.isasyncgenfunction(function):
        return _wrap_async_generator(function, begin)
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Any:
            return (yield from _step(begin().start(), function(*args, **kwargs)))

        return generator
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            with begin():
                return await function(*args, **kwargs)

        return coroutine

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with begin():
            return function(*args, **kwargs)

    return plain


def _step(opened: OpenSpan, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a generator so that it is inside its span, and whoever takes its items is not."""
    advance: Callable[[], Any] = functools.partial(next, generator)
    try:
        while True:
            opened.enter()
            try:
                item = advance()
            finally:
                opened.leave()
            try:
                sent = yield item
            except GeneratorExit:
                opened.enter()
                try:
                    generator.close()
                finally:
                    opened.leave()
                raise
            except BaseException as error:  # noqa: BLE001 - it is thrown on into the generator
                advance = functools.partial(generator.throw, error)
            else:
                advance = functools.partial(generator.send, sent)
    except StopIteration as stop:
        return stop.value
    except GeneratorExit:
        opened.status = "cancelled"
        raise
    except BaseException as error:
        opened.error(error)
        raise
    finally:
        opened.end()


def _wrap_async_generator(function: Callable[..., Any], begin: Callable[[], OpenSpan]) -> Callable[..., Any]:
    """The same as ``_step`` for asynchronous generators; one function, because the wrapper has to be one as well."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        opened = begin().start()
        generator = function(*args, **kwargs)
        advance: Callable[[], Any] = generator.__anext__
        try:
            while True:
                opened.enter()
                try:
                    item = await advance()
                finally:
                    opened.leave()
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
        except GeneratorExit:
            opened.status = "cancelled"
            raise
        except BaseException as error:
            opened.error(error)
            raise
        finally:
            opened.enter()
            try:
                await generator.aclose()
            finally:
                opened.leave()
                opened.end()

    return wrapper
