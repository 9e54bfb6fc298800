"""How well the scheduler balances, in virtual time: ``benchmarks/simulate.py`` with uneven jobs and workers."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def simulate():
    path = Path(__file__).parents[1] / "benchmarks" / "simulate.py"
    spec = importlib.util.spec_from_file_location("simulate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("workers", [2, 4, 16])
@pytest.mark.parametrize("where", ["random", "first", "last", "together"])
@pytest.mark.parametrize("seconds", [1e-5, 1e-4, 1e-3])
def test_uneven_jobs_end_within_a_fifth_of_the_ideal(simulate, workers, where, seconds):
    count = min(100_000, int(workers * 1.5 / seconds))
    long = max(2, count // 400)
    chosen = {
        "random": random.Random(3).sample(range(count), long),
        "first": range(long),
        "last": range(count - long, count),
        "together": range(count // 2, count // 2 + long),
    }[where]
    durations = [seconds] * count
    for index in chosen:
        durations[index] = 300 * seconds
    simulation = simulate.Simulation(simulate.Listed(durations), speeds=[1.0] * workers)
    makespan = simulation.run(count)
    ideal = max(sum(durations) / workers, 300 * seconds)
    assert makespan <= 1.2 * ideal


def test_slow_workers_get_less(simulate):
    simulation = simulate.Simulation(simulate.Even(0.001), speeds=[1.0, 1.0, 4.0])
    assert simulation.run(3000) <= 1.2 * 3000 * 0.001 / 2.25


def test_one_job_each_for_many_workers(simulate):
    simulation = simulate.Simulation(simulate.Even(0.1), speeds=[1.0] * 500)
    assert simulation.run(500, pulled=False) <= 0.1 + 3 * simulate.LATENCY


def test_the_table_is_printed(simulate, capsys):
    simulate.table(400, [4], [1, None], 0.001)
    assert len(capsys.readouterr().out.splitlines()) == 4
