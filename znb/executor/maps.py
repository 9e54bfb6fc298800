"""``map``: a lazy, bounded stream of jobs and their results (``znb.executor.mapflow``) as its user holds it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Literal

from znb.executor.client import JobClient
from znb.executor.companions import Keeper, Progress
from znb.executor.frames import CALL_ONE, CALL_STAR
from znb.executor.groups import Group
from znb.executor.mapflow import MapFlow
from znb.executor.source import Source, is_container
from znb.spans import begin_remote

__all__ = ["MapResult", "Progress", "start_map"]


class MapResult(Iterator[Any]):
    """The results of ``cluster.map``, in the order of the items unless asked otherwise.

    Iterate over it, or ``cancel`` it. Breaking out of the loop, or dropping it, cancels what is left.

    Attributes:
        group: The jobs.
    """

    def __init__(self, flow: MapFlow) -> None:
        self.group = flow.group
        self._flow = flow
        self._slices = flow.slices()
        next(self._slices)  # begun, so that it is also ended when nobody ever iterates
        self._results = itertools.chain.from_iterable(self._slices)

    def __iter__(self) -> Iterator[Any]:  # noqa: PYI034 - an iterator of C, which costs little per result
        return self._results

    def __reduce__(self) -> str:
        raise TypeError("the results of a map come in this process: pass what they are, as list(results)")

    def __repr__(self) -> str:
        flow = self._flow
        return f"<map of {self.group.label}, {flow.taken:,} results taken{', ended' if flow.over else ''}>"

    def _ipython_display_(self) -> None:
        if not self._flow.show_progress():
            raise NotImplementedError  # so IPython shows the line above

    def __next__(self) -> Any:
        return next(self._results)

    def cancel(self) -> None:
        """Cancel what is left: queued jobs never run, running ones are interrupted.

        May be called twice, and on any thread: one that takes results gets no more, as at their end.
        """
        try:
            self._slices.close()
        except ValueError:  # it runs: in another thread, or in the source that calls this
            self._flow.stop()

    close = cancel


def start_map(
    client: JobClient,
    function: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    *,
    ordered: bool = True,
    errors: Literal["raise", "return"] = "raise",
    timeout: float | None = None,
    progress: Callable[[int], Progress],
    show: bool = False,
    keeper: Keeper | None = None,
    **options: Any,
) -> MapResult:
    """Start a map; ``options`` are those of ``groups.Group``.

    Args:
        client: Runs the jobs.
        function: What to call.
        iterables: With what.
        ordered: See ``Cluster.map``, also for the next two.
        errors: See there.
        timeout: See there.
        progress: Makes what shows the progress, when that is wanted, of so many results taken before.
        show: Whether it is wanted from the beginning.
        keeper: Knows which items have a result already, and keeps those of the others.
        options: Of the group.

    Raises:
        SerializationError: The function cannot travel.
    """
    call = CALL_ONE if len(iterables) == 1 else CALL_STAR
    label = getattr(function, "__qualname__", None) or type(function).__qualname__
    items: Iterable[Any] = iterables[0] if call == CALL_ONE else zip(*iterables, strict=False)
    if keeper is not None:
        items = keeper.select(items)
    ends = any(isinstance(iterable, Sized) for iterable in iterables)
    contained = all(map(is_container, iterables))
    source = Source(client.codec, items, contained=contained, keep_going=errors == "return")
    flow = MapFlow(client, source, ends, ordered=ordered, errors=errors, timeout=timeout, progress=progress, show=show)
    flow.span = begin_remote(label, "map")
    flow.keeper = keeper
    try:
        flow.group = Group(client.codec.encode(function), call, label, flow, show=client.view(), pulled=True, **options)
        parts = flow.pull_ahead()
    except BaseException as error:
        flow.span.end(error)
        raise
    results = MapResult(flow)
    try:
        client.open_group(flow.group, parts, last=flow.source.exhausted)
    except BaseException as error:  # an interrupt: nobody will hold the results, and the traceback keeps them
        flow.span.error(error)
        results.cancel()
        raise
    return results
