"""``cluster.map`` put together: its options checked, and the jobs with their progress bar and their checkpoint."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

from znb.checkpoint import Checkpoint, CheckpointedMap
from znb.errors import CallTimeout
from znb.executor.client import JobClient
from znb.executor.maps import MapResult, start_map
from znb.executor.options import check_map_options
from znb.progress import TqdmProgress, total_of

__all__ = ["begin_map"]


def begin_map(
    jobs: JobClient,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    *,
    progress: bool | str,
    checkpoint: str | os.PathLike[str] | None,
    ordered: bool,
    retry_on: tuple[type[BaseException], ...] | type[BaseException],
    **options: Any,
) -> MapResult | CheckpointedMap:
    """Start a map; the arguments are those of ``Cluster.map``.

    Raises:
        SerializationError: Something cannot travel.
        ValueError: An option is out of its range.
        TypeError: An option is of another type, or there is nothing to map over.
    """
    if not iterables:
        raise TypeError("map over what? Give at least one iterable: cluster.map(f, items)")
    check_map_options(retry_on=retry_on, **options)
    types = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    file = Checkpoint(checkpoint, fn) if checkpoint is not None else None
    title = progress if isinstance(progress, str) else ""
    start = functools.partial(
        start_map,
        jobs,
        fn,
        iterables,
        ordered=ordered,
        progress=functools.partial(TqdmProgress, title, total_of(iterables)),
        show=bool(progress),
        retry_on=frozenset(f"{cls.__module__}.{cls.__qualname__}" for cls in types),
        retry_timeouts=any(issubclass(CallTimeout, cls) for cls in types),
        keeper=file,
        **options,
    )
    return start() if file is None else CheckpointedMap(file, start, ordered=ordered)
