"""How many workers the jobs there are could use: what an engine that scales by need is told.

Pure.
"""

from __future__ import annotations

import math

from znb.schedule import SchedulerStats

__all__ = ["TARGET_DURATION", "demand_of"]

#: Seconds that the jobs there are should take; only for longer more workers are worth their start (Dask's figure).
TARGET_DURATION = 5.0


def demand_of(stats: SchedulerStats) -> int:
    """Return how many workers would be done in ``TARGET_DURATION``; at most one for each job that has not ended."""
    demand = 0
    for group in stats.groups:
        jobs = group.queued + group.running
        needed = math.ceil(jobs * group.job_time / TARGET_DURATION) if group.job_time else jobs
        demand += min(jobs, max(1, needed)) if jobs else 0
    return demand
