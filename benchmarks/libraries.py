"""Other libraries on two workers: pandas, scikit-learn, and results kept in a file."""

import json
import sys
import tempfile
import time
from pathlib import Path

WORKERS = 2
#: Rows of the data frame, each of which is worked on for about 50 µs.
ROWS = 40_000
#: Results that are kept in a checkpoint.
KEPT = 20_000


def distance(row) -> float:
    return (row["x"] ** 2 + row["y"] ** 2) ** 0.5 + sum(range(500))


def frame():
    import numpy as np
    import pandas as pd

    draw = np.random.default_rng(0)
    return pd.DataFrame({"x": draw.random(ROWS), "y": draw.random(ROWS)})


def search():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    data, target = load_digits(return_X_y=True)
    grid = {"C": [1, 10, 100], "gamma": [0.01, 0.001, 0.0001]}
    return lambda: GridSearchCV(SVC(), grid, cv=3, n_jobs=WORKERS).fit(data, target).best_score_


def timed(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def best(call) -> float:
    call()  # warm: imports on the workers
    return min(timed(call) for _ in range(3))


def measure_znb() -> dict[str, float]:
    import joblib

    import znb

    data, fit = frame(), search()
    with znb.Cluster.start(WORKERS) as cluster, tempfile.TemporaryDirectory() as folder:
        result = {"apply": best(lambda: data.apply(distance, axis=1, engine=cluster))}
        with joblib.parallel_config("znb"):
            result["search"] = best(fit)
        paths = (Path(folder, f"{n}.db") for n in range(10))
        keep = best(lambda: list(cluster.map(abs, range(KEPT), checkpoint=next(paths))))
        result["kept"] = KEPT / keep
        file = Path(folder, "0.db")
        result["resumed"] = KEPT / best(lambda: list(cluster.map(abs, range(KEPT), checkpoint=file)))
    return result


def measure_joblib() -> dict[str, float]:
    import pandas as pd
    from joblib import Parallel, delayed

    data, fit = frame(), search()
    size = -(-ROWS // (8 * WORKERS))
    pieces = [data.iloc[start : start + size] for start in range(0, ROWS, size)]
    with Parallel(n_jobs=WORKERS) as parallel:
        call = lambda: pd.concat(parallel(delayed(apply)(piece) for piece in pieces))  # noqa: E731
        return {"apply": best(call), "search": best(fit)}


def apply(piece):
    return piece.apply(distance, axis=1)


def measure_alone() -> dict[str, float]:
    from sklearn.utils.parallel import Parallel  # noqa: F401 - loaded as by the others

    data, fit = frame(), search()
    import joblib

    with joblib.parallel_config("sequential"):
        return {"apply": best(lambda: data.apply(distance, axis=1)), "search": best(fit)}


MEASURES = {"znb": measure_znb, "joblib": measure_joblib, "alone": measure_alone}


def topics():
    from harness import Column, Topic, per_second, seconds

    return [
        Topic(
            title=f"Libraries on {WORKERS} workers",
            text=(
                f"*apply*: `df.apply` over {ROWS:,} rows (joblib: 16 pieces by hand). *GridSearchCV*: a support vector "
                "machine on scikit-learn's digits, 27 fits. *kept*: results of a `map` with a checkpoint; *resumed*: "
                "when they are there already. The best of three."
            ),
            script=Path(__file__),
            contenders={"znb": "znb", "joblib": "joblib, loky", "alone": "one process"},
            columns={
                "apply": Column("apply", seconds),
                "search": Column("GridSearchCV", seconds),
                "kept": Column("kept", per_second),
                "resumed": Column("resumed", per_second),
            },
        )
    ]


if __name__ == "__main__":
    print(json.dumps(MEASURES[sys.argv[1]]()))
else:
    TOPICS = topics()
