"""How many workers are told to be of use."""

import pytest

from znb.executor.demand import demand_of
from znb.schedule import Scheduler
from znb.schedule.records import GroupStats


def told(*groups):
    rows = tuple(
        GroupStats(number, queued, running, 0, 0, 0, 0, 0, job_time, 1, 1)
        for number, (queued, running, job_time) in enumerate(groups)
    )
    stats = Scheduler().stats()
    return demand_of(type(stats)(0, 0, 0, 0, 0, 0, 0, 0, 0, rows, ()))


@pytest.mark.parametrize(
    ("groups", "demand"),
    [
        ([], 0),
        ([(0, 0, 1.0)], 0),
        ([(7, 0, 0.0)], 7),  # nobody knows how long they take
        ([(0, 1, 100.0)], 1),  # one job is for one worker
        ([(98, 2, 0.5)], 10),
        ([(1000, 0, 0.001)], 1),
        ([(98, 2, 0.5), (3, 0, 60.0)], 13),
    ],
)
def test_demand(groups, demand):
    assert told(*groups) == demand
