"""``joblib.parallel_config("znb")``: joblib, and scikit-learn with it, runs on a cluster.

joblib finds a backend by a name that was registered before. A cluster registers itself when it starts, or as soon as
joblib is imported (``znb.arrivals``); importing this module does so at any time. Without a cluster of this process the
newest one that runs is connected to.

Invariants: a batch of joblib's is one job of the cluster, so it is retried, interrupted and cancelled as others. What
is parallel inside a job runs in threads there, and in turn further inside, so that no job waits for a worker. Source:
joblib's ``ParallelBackendBase``, whose docstrings are its specification.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import joblib
from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend

from znb.cluster import Cluster

if TYPE_CHECKING:
    from znb.executor.futures import Future

__all__ = ["Backend", "ZnbBackend", "register"]

#: What users call the backend.
NAME = "znb"


class ZnbBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs joblib's batches on a cluster.

    Args:
        cluster: Which; ``None`` for the one that was registered last, or else the newest that runs.
        registered: Returns the cluster that was registered, while it lives.
        options: For joblib.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        cluster: Cluster | None = None,
        *,
        registered: Callable[[], Cluster | None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._chosen = cluster
        self._registered = registered
        self._futures: weakref.WeakSet[Future] = weakref.WeakSet()

    @property
    def cluster(self) -> Cluster:
        """Where the jobs run.

        Raises:
            ServiceUnavailable: None was given, and none runs.
        """
        found = self._chosen or (self._registered() if self._registered is not None else None)
        if found is None or found.closed:
            found = self._chosen = Cluster.connect()
        return found

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many jobs run at once: what is asked for, where -1 is all workers, and two at least.

        Of those two one waits if there is one worker: what is to run one at a time joblib runs in this process.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 has no meaning: give a number of jobs, or -1 for all workers")
        workers = len(self.cluster)
        if n_jobs is None:
            n_jobs = -1
        return n_jobs if n_jobs > 0 else max(2, workers + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Prepare for a call of ``Parallel``; one job at a time is run here."""
        count = self.effective_n_jobs(n_jobs)
        if count == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        return count

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None) -> Future:
        """Have a batch run."""
        future = self.cluster.submit(func)
        self._futures.add(future)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future) -> Any:
        """Return the result of a batch, or raise what it raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 - joblib's signature
        """Cancel what has not ended."""
        for future in list(self._futures):
            future.cancel()

    def terminate(self) -> None:
        """Forget what was learnt about the jobs of this call."""
        self.reset_batch_stats()


#: joblib shows the class's own name.
Backend = ZnbBackend


def register(cluster: Cluster | None = None) -> None:
    """Make ``"znb"`` a name that joblib knows, and ``cluster`` what it means."""
    if cluster is None:
        joblib.register_parallel_backend(NAME, Backend)
    else:
        joblib.register_parallel_backend(NAME, functools.partial(Backend, registered=weakref.ref(cluster)))


if NAME not in joblib.parallel.BACKENDS:
    register()
