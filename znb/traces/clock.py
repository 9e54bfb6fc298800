"""One clock for a trace: how far the clocks of machines are apart, and how sure that is.

An *interval* says that a remote clock minus ours lies between two bounds. Every round trip gives one: what was read
there was read between our sending and our receiving. A call gives one as well: it was served within the time that its
caller saw. Intervals of one pair of clocks are intersected, so the bound gets tighter with every trip; its half width
is the error.

Invariants: if the clocks run at one rate within ``DRIFT``, the true offset is within ``error`` of the estimate. Pure.
Source: Marzullo's algorithm as NTP has it (RFC 5905, section 11.2.1), here for one source.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Estimate", "Interval", "RoundTrips", "chain"]

#: How far two clocks may drift apart: parts of a second, each second (a poor quartz).
DRIFT = 50e-6
#: Round trips that are remembered for one process.
TRIPS_MAX = 64


class Estimate(NamedTuple):
    """The offset of a clock.

    Attributes:
        offset_ns: What it shows, minus what ours shows.
        error_ns: How far that may be off.
        consistent: Whether what it was made of agreed.
    """

    offset_ns: int
    error_ns: int
    consistent: bool = True


class Interval(NamedTuple):
    """Bounds for what a clock shows, minus what ours shows, in nanoseconds; ``None`` for no bound."""

    low: int | None = None
    high: int | None = None

    def narrowed(self, low: int | None, high: int | None) -> Interval:
        """Return the intersection with other bounds."""
        lows = [bound for bound in (self.low, low) if bound is not None]
        highs = [bound for bound in (self.high, high) if bound is not None]
        return Interval(max(lows, default=None), min(highs, default=None))

    def estimate(self) -> Estimate | None:
        """Return its middle; ``None`` if a bound is missing."""
        if self.low is None or self.high is None:
            return None
        half = (self.high - self.low) // 2
        return Estimate(self.low + half, abs(half) + 1, self.low <= self.high)


class RoundTrips:
    """The latest round trips to one process."""

    def __init__(self) -> None:
        self._trips: deque[tuple[int, int, int]] = deque(maxlen=TRIPS_MAX)

    def add(self, sent_ns: int, received_ns: int, remote_ns: int) -> None:
        """Add a trip: our clock when it began and when it ended, and what the other clock showed between."""
        self._trips.append((sent_ns, received_ns, remote_ns))

    def interval(self, now_ns: int) -> Interval:
        """Return the bounds that all trips agree on, each widened by what the clocks may have drifted since."""
        found = Interval()
        for sent, received, remote in self._trips:
            drifted = int(abs(now_ns - received) * DRIFT)
            narrowed = found.narrowed(remote - received - drifted, remote - sent + drifted)
            if narrowed.low is not None and narrowed.high is not None and narrowed.low > narrowed.high:
                narrowed = Interval(remote - received - drifted, remote - sent + drifted)  # the clock was set since
            found = narrowed
        return found


def chain(root: str, intervals: Mapping[tuple[str, str], Interval]) -> dict[str, Estimate]:
    """Return the offset of each clock from that of ``root``, along the pairs with the smallest errors.

    Args:
        root: The clock that all are compared to.
        intervals: For a pair ``(a, b)``, bounds for the clock of b minus that of a.
    """
    edges: dict[str, dict[str, Estimate]] = {}
    for (first, second), interval in intervals.items():
        estimate = interval.estimate()
        if estimate is None or first == second:
            continue
        edges.setdefault(first, {})[second] = estimate
        edges.setdefault(second, {})[first] = estimate._replace(offset_ns=-estimate.offset_ns)
    known = {root: Estimate(0, 0)}
    while True:
        best: tuple[Estimate, str] | None = None
        for first, estimate in known.items():
            for second, step in edges.get(first, {}).items():
                if second in known:
                    continue
                reached = Estimate(
                    estimate.offset_ns + step.offset_ns,
                    estimate.error_ns + step.error_ns,
                    estimate.consistent and step.consistent,
                )
                if best is None or reached.error_ns < best[0].error_ns:
                    best = (reached, second)
        if best is None:
            return known
        known[best[1]] = best[0]
