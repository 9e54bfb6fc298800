"""The cluster that is meant where none is named."""

import gc

import pytest

from znb.current import Current
from znb.errors import NoWorkers


class Cluster:
    closed = False

    def __getitem__(self, target):
        return target


def test_it_is_the_one_chosen_last_of_those_that_are_open():
    current = Current()
    first, second = Cluster(), Cluster()
    current.choose(first)
    current.choose(second)
    assert current.cluster() is second
    current.choose(first)
    assert current.cluster() is first
    first.closed = True
    assert current.cluster() is second


def test_it_keeps_none_alive():
    current = Current()
    current.choose(Cluster())
    gc.collect()
    with pytest.raises(NoWorkers, match=r"this process has no cluster; start one with znb\.Cluster\.start\(\)"):
        current.cluster()
