"""Other libraries on a cluster: what they compute is what they compute alone."""

import dask
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

import job_functions as jobs
import znb
from job_functions import Gate
from test_rpc_channels import keep_zero_copy_warm
from znb.doors.joblib import Backend, register

keep_zero_copy_warm()


@pytest.fixture(scope="module")
def cluster(module_world):
    with znb.Cluster.start(2, name="doors") as cluster:
        jobs.start_callbacks(cluster)
        yield cluster


# -- joblib


def test_joblib_by_name(cluster):
    with joblib.parallel_config("znb"):
        found = joblib.Parallel()(joblib.delayed(jobs.pid)(x) for x in range(200))
    assert set(found) <= {worker.pid for worker in cluster.workers}


def test_joblib_by_instance(cluster):
    with joblib.parallel_config(Backend(cluster), n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(jobs.square)(x) for x in range(500)) == [x * x for x in range(500)]


def test_joblib_counts_workers(cluster):
    backend = Backend(cluster)
    assert [backend.effective_n_jobs(n) for n in (None, -1, -2, 1, 7)] == [2, 2, 2, 1, 7]
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)


def test_joblib_runs_nothing_here_though_there_is_one_worker(cluster):
    try:
        with znb.Cluster.start(1, name="one") as one, joblib.parallel_config(Backend(one)):
            assert set(joblib.Parallel()(joblib.delayed(jobs.pid)(x) for x in range(5))) == {one.workers[0].pid}
    finally:
        register(cluster)


def test_joblib_names_the_backend(cluster, capfd):
    with joblib.parallel_config("znb"):
        joblib.Parallel(verbose=10)(joblib.delayed(abs)(x) for x in range(3))
    shown = capfd.readouterr()
    assert "Using backend ZnbBackend" in shown.out + shown.err


def test_joblib_raises_what_a_job_raises_and_cancels_the_rest(cluster, tmp_path):
    gate = Gate(tmp_path)
    tasks = [joblib.delayed(jobs.fail)("broken"), *[joblib.delayed(gate)(1)] * 3]
    with joblib.parallel_config("znb"), pytest.raises(ValueError, match="broken"):
        joblib.Parallel(batch_size=1)(tasks)
    assert cluster.submit(pow, 2, 3).result() == 8


def test_joblib_yields_results_as_they_come(cluster):
    with joblib.parallel_config("znb"):
        found = joblib.Parallel(return_as="generator_unordered")(joblib.delayed(jobs.square)(x) for x in range(50))
        assert sorted(found) == [x * x for x in range(50)]


def inner(x):
    return sum(joblib.Parallel(n_jobs=2)(joblib.delayed(jobs.square)(x + i) for i in range(3)))


def outer(x):
    return sum(joblib.Parallel(n_jobs=2)(joblib.delayed(inner)(x * i) for i in range(3)))


def test_joblib_nested_does_not_deadlock(cluster):
    with joblib.parallel_config("znb"):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(outer)(x) for x in range(8))
    assert found == [sum((x * i + j) ** 2 for i in range(3) for j in range(3)) for x in range(8)]


def test_grid_search_gives_the_serial_answer(cluster):
    data, target = load_digits(return_X_y=True)
    search = GridSearchCV(SVC(), {"C": [1, 10], "gamma": [0.001, 0.0001]}, cv=3)
    serial = search.fit(data[:600], target[:600])
    expected, best = serial.cv_results_["mean_test_score"], serial.best_params_
    with joblib.parallel_config("znb"):
        parallel = search.fit(data[:600], target[:600])
    assert np.array_equal(parallel.cv_results_["mean_test_score"], expected)
    assert parallel.best_params_ == best


def test_joblib_without_a_cluster():
    backend = Backend()
    with pytest.raises(znb.ServiceUnavailable):
        backend.effective_n_jobs(-1)


# -- dask


def test_dask(cluster):
    total = dask.delayed(sum)([dask.delayed(jobs.square)(x) for x in range(50)])
    assert dask.compute(total, scheduler=cluster) == (sum(x * x for x in range(50)),)
    pids = dask.compute(*[dask.delayed(jobs.pid)(x) for x in range(20)], scheduler=cluster)
    assert set(pids) <= {worker.pid for worker in cluster.workers}
    with dask.config.set(scheduler=cluster):
        assert dask.delayed(pow)(2, 5).compute() == 32


def test_dask_raises_what_a_task_raises(cluster):
    with pytest.raises(ValueError, match="no"):
        dask.compute(dask.delayed(jobs.fail)(), scheduler=cluster)


# -- pandas


FRAME = pd.DataFrame({"a": range(100), "b": np.arange(100) / 4, "c": ["x", "yy"] * 50}, index=range(7, 107))


@pytest.mark.parametrize(
    "function",
    [
        lambda row: row["a"] + row["b"],
        lambda row: row["c"] * 2,
        lambda row: None if row["a"] % 2 else row["a"],
        lambda row: row,
        lambda row: pd.Series({"sum": row["a"] + row["b"], "text": row["c"]}),
        lambda row: [row["a"], 1],
        lambda row: row["a"] > 50,
    ],
)
def test_apply_to_rows(cluster, function):
    expected = FRAME.apply(function, axis=1)
    found = FRAME.apply(function, axis=1, engine=cluster)
    assert type(found) is type(expected)
    (pd.testing.assert_frame_equal if isinstance(found, pd.DataFrame) else pd.testing.assert_series_equal)(
        found, expected
    )


@pytest.mark.parametrize("function", [lambda column: column.iloc[0], lambda column: column.iloc[::2], len])
def test_apply_to_columns(cluster, function):
    expected, found = FRAME.apply(function), FRAME.apply(function, engine=cluster)
    (pd.testing.assert_frame_equal if isinstance(found, pd.DataFrame) else pd.testing.assert_series_equal)(
        found, expected
    )


def test_apply_with_arguments_and_raw(cluster):
    numbers = FRAME[["a", "b"]]
    expected = numbers.apply(lambda row, n, k=0: row["a"] * n + k, axis=1, args=(3,), k=5)
    found = numbers.apply(lambda row, n, k=0: row["a"] * n + k, axis=1, args=(3,), k=5, engine=cluster)
    pd.testing.assert_series_equal(found, expected)
    for axis in (0, 1):
        for function in (lambda values: values.sum(), lambda values: values * 2):
            expected = numbers.apply(function, axis=axis, raw=True)
            found = numbers.apply(function, axis=axis, raw=True, engine=cluster)
            check = pd.testing.assert_frame_equal if isinstance(found, pd.DataFrame) else pd.testing.assert_series_equal
            check(found, expected)


def test_apply_by_name_and_by_ufunc(cluster):
    numbers = FRAME[["a", "b"]]
    pd.testing.assert_frame_equal(numbers.apply(np.sqrt, engine=cluster), numbers.apply(np.sqrt))
    pd.testing.assert_series_equal(numbers.apply("sum", axis=1, engine=cluster), numbers.apply("sum", axis=1))


@pytest.mark.parametrize(
    "series",
    [
        pd.Series(range(200)),
        pd.Series([1.5, None, 3] * 30),
        pd.Series(["a", "b", None] * 30, dtype="category"),
        pd.Series(["a", "bb"] * 30, index=range(100, 160), name="text"),
        pd.Series([], dtype=float),
    ],
)
@pytest.mark.parametrize("na_action", [None, "ignore"])
def test_map(cluster, series, na_action):
    def function(value):
        return f"<{value}>" if isinstance(value, str) else value

    expected = series.map(function, na_action=na_action)
    pd.testing.assert_series_equal(series.map(function, na_action=na_action, engine=cluster), expected)


def test_an_error_in_a_row_is_raised(cluster):
    with pytest.raises(KeyError, match="missing"):
        FRAME.apply(lambda row: row["missing"], axis=1, engine=cluster)
