"""A progress bar for ``map``: tqdm's, in a notebook, a terminal or a log file.

Invariants: shown on the consumer's thread, at most ten times a second; closed with the map. Source: tqdm's own choice
between notebook and terminal (``tqdm.auto``); it is loaded when the first bar is wanted.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import Any

__all__ = ["TqdmProgress"]

#: Seconds between two looks of a bar.
INTERVAL = 0.1
#: Seconds between two lines where a bar would be many lines: a log file.
LOG_INTERVAL = 10.0


class TqdmProgress:
    """A bar that counts results, failures and retries.

    Args:
        title: What stands before the bar; empty for nothing.
        total: Number of results; ``None`` if that is not known.
        begun: How many of them have been taken before it is shown.
    """

    def __init__(self, title: str, total: int | None, begun: int = 0) -> None:
        self._title = title
        self._begun = begun
        self._total = total
        self._bar: Any = None
        self._failed = 0
        self._retried = 0

    def update(self, done: int, failed: int, retried: int) -> None:
        """So many more results have been taken, so many of them failures; so many runs were repeated in all."""
        if self._bar is None:
            self._bar = _make_bar(self._title, self._total, self._begun)
        if failed or retried != self._retried:
            self._failed += failed
            self._retried = retried
            counts = {"failed": self._failed, "retried": retried}
            self._bar.set_postfix({name: count for name, count in counts.items() if count}, refresh=False)
        self._bar.update(done)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def total_of(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """Return how many items there are to map over, where that is known without pulling them."""
    lengths = []
    for iterable in iterables:
        try:
            lengths.append(len(iterable))  # type: ignore[arg-type]
        except TypeError:
            continue
    return min(lengths, default=None)


def _make_bar(title: str, total: int | None, begun: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm warns where its own choice is experimental
        from tqdm.auto import tqdm  # noqa: PLC0415 - 30 ms that only a bar needs
    is_notebook = any(cls.__module__ == "tqdm.notebook" for cls in tqdm.__mro__)
    is_log = not is_notebook and not sys.stderr.isatty()
    interval = LOG_INTERVAL if is_log else INTERVAL
    return tqdm(
        desc=title or None,
        total=total,
        initial=begun,
        unit="job",
        mininterval=interval,
        maxinterval=interval,
        dynamic_ncols=not is_log,
    )
