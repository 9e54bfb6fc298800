"""``df.apply(f, engine=cluster)`` and ``series.map(f, engine=cluster)``, for pandas 3 and later.

pandas asks ``engine.__pandas_udf__`` for ``map`` and ``apply``. Pieces of the data go to the workers, which call the
function as pandas itself does; the plain results come back, and become a Series or DataFrame here by pandas' own rules
for the whole, so that a result does not depend on where the data was cut.

Source: pandas' ``BaseExecutionEngine`` (``pandas/core/apply.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pandas.api.executors import BaseExecutionEngine
from pandas.core.apply import frame_apply

if TYPE_CHECKING:
    from znb.cluster import Cluster

__all__ = ["Engine"]

#: Pieces for each worker: uneven ones even out, and a piece still is much longer than a message.
PIECES_PER_WORKER = 8


class Engine(BaseExecutionEngine):  # type: ignore[misc]
    """What pandas calls; ``decorator`` is the cluster."""

    @staticmethod
    def map(
        data: Any,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        decorator: Cluster,
        skip_na: bool,  # noqa: FBT001 - pandas' signature
    ) -> Any:
        """Call a function with each element."""
        option = {"na_action": "ignore"} if skip_na else {}
        call = functools.partial(func, *args, **kwargs) if args or kwargs else func
        if isinstance(data.dtype, pd.CategoricalDtype):
            return data.map(call, **option)  # once for each category, and those are few
        inputs: list[Any] = []
        data.map(inputs.append, **option)  # exactly what pandas would call it with
        results = decorator.map(call, inputs)
        return data.map(lambda _: next(results), **option)

    @staticmethod
    def apply(
        data: Any,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        decorator: Cluster,
        axis: Any,
    ) -> Any:
        """Call a function with each row, or each column."""
        if not callable(func) or isinstance(func, np.ufunc):  # names and the like, which pandas is quick at itself
            return data.apply(func, axis=axis, args=args, **kwargs)
        by_row = axis in {1, "columns"}
        pieces = list(_pieces(data, by_row=by_row, count=PIECES_PER_WORKER * max(1, len(decorator))))
        raw = isinstance(data, np.ndarray)
        apply_piece = functools.partial(_apply_raw if raw else _apply, func, args, kwargs, by_row)
        results = [result for piece in decorator.map(apply_piece, pieces, chunksize=1) for result in piece]
        if raw:
            return _stack(results, by_row=by_row)
        operation: Any = frame_apply(data, func, axis=1 if by_row else 0, args=args, kwargs=kwargs)
        return operation.wrap_results(dict(enumerate(results)), operation.result_index)


def _pieces(data: Any, *, by_row: bool, count: int) -> Iterator[Any]:
    length = data.shape[0 if by_row else 1]
    size = max(1, -(-length // count))
    whole = data if isinstance(data, np.ndarray) else data.iloc
    for start in range(0, length, size):
        yield whole[start : start + size] if by_row else whole[:, start : start + size]


def _apply(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    by_row: bool,  # noqa: FBT001 - through partial
    piece: pd.DataFrame,
) -> list[Any]:
    """Call a function with each row or column of a piece, on a worker."""
    results: list[Any] = []

    def call(series: pd.Series) -> int:
        result = func(series, *args, **kwargs)
        results.append(result.copy(deep=False) if isinstance(result, pd.Series) else result)  # rows share one object
        return 0

    piece.apply(call, axis=1 if by_row else 0)
    return results


def _apply_raw(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    by_row: bool,  # noqa: FBT001 - through partial
    piece: Any,
) -> list[Any]:
    return [func(row, *args, **kwargs) for row in (piece if by_row else piece.T)]


def _stack(results: list[Any], *, by_row: bool) -> Any:
    stacked = np.array(results)
    return stacked if by_row or stacked.ndim < 2 else stacked.T
