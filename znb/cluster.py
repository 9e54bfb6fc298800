"""A cluster as the user holds it: start, connect, scale, stop, and the workers by index.

Invariants: usable from any thread; what blocks can be interrupted. It holds no state of its own: its ``Attachment``
knows the launcher, the links and the jobs.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import functools
import importlib
import itertools
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from znb.arrivals import Arrival
from znb.attachment import Attachment
from znb.checkpoint import CheckpointedMap
from znb.checks import check_bind, check_listen, check_mapping, check_seconds, check_text, check_workers
from znb.connection import ClusterEntry, clean_dead, find_cluster, list_clusters
from znb.current import current
from znb.descriptors import ensure_descriptors
from znb.errors import NoWorkers, ServiceUnavailable, ZnbError
from znb.executor.futures import Future
from znb.executor.groups import Show
from znb.executor.maps import MapResult
from znb.host import kernel_at_exit, kernel_of_this_process, usable_cpus
from znb.jobview import JobViews
from znb.launchers import EventHandler, Launcher, ReactorLike, StartOptions, make_connector, make_launcher, place_text
from znb.lifecycle import Snapshot
from znb.link import Link
from znb.mapping import begin_map
from znb.rundir import FILE_NAME
from znb.shared import Shared, put
from znb.spans import RECORDER, OpenSpan
from znb.status import ClusterStatus, JobStats, WorkerInfo
from znb.targets import Target, select
from znb.workers import Workers

__all__ = ["Cluster"]

#: Name of a cluster whose user gave none.
DEFAULT_NAME = "default"


class Cluster(concurrent.futures.Executor):
    """Workers that run cells, jobs and services for this process.

    Made by ``start`` or ``connect``; ends with the ``with`` block, ``stop`` or the end of the process. A process that
    vanishes without a word leaves its workers for ``grace`` seconds, so that it can ``connect`` again.

    Attributes:
        reused: Whether ``start`` found it running.
        codec: Encodes what is sent.
        standing: Calls that are made again on each process that replaces a worker.

    Examples:
        >>> with Cluster.start(2, name="doc") as cluster:
        ...     cluster["w0"].run("6 * 7")
        42
    """

    def __init__(self, make: Callable[[ReactorLike, EventHandler], Launcher]) -> None:
        self.reused = False
        self._labels = itertools.count(1)
        self._pid = os.getpid()
        self._job_views = JobViews()
        self._attached = Attachment(make, notify=self.notify, view=self._job_view)
        self.codec = self._attached.codec
        self.standing = self._attached.standing
        self._joblib = Arrival("joblib", functools.partial(_register, weakref.ref(self)))

    # -- life ----------------------------------------------------------------------------------------------

    @classmethod
    def start(
        cls,
        n: int | None = None,
        *,
        on: Any = "local",
        name: str | None = None,
        keep: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        python: str | None = None,
        grace: float = 300.0,
        bind: str | None = None,
        listen: str | None = None,
        deploy: bool = False,
    ) -> Self:
        """Start a cluster, or attach to the one of that name that runs.

        Args:
            n: Number of workers; ``None`` for as many as there are places: on this machine, one per usable CPU.
            on: Where: ``local``, or what another launcher understands; or a Dask ``Client``.
            name: Name of the cluster; ``None`` for ``default``.
            keep: Whether it goes on when this process has ended.
            env: Environment variables to add for the workers.
            cwd: Their working directory; ``None`` for this process's.
            python: Their interpreter; ``None`` for this process's.
            grace: Seconds that workers wait for a client that vanished without a word.
            bind: Address at which workers on other machines listen, and a range of ports for it, such as
                ``tcp://10.0.0.5:20000-20100``; ``None`` for the one that leads here.
            listen: Address of this machine, such as ``tcp://10.0.0.5:7000``, where copies of the connection file lead.
            deploy: Whether hosts that ssh leads to are sent znb and what it needs; they need Python alone then.

        Raises:
            ZnbError: It could not be started; the message has what the workers wrote.
            TypeError: An argument is of another type.
            ValueError: An argument is out of its range.
        """
        options = StartOptions(
            name=DEFAULT_NAME if name is None else check_text("name", name, DEFAULT_NAME),
            keep=bool(keep),
            env=dict(check_mapping("env", env, "{'OMP_NUM_THREADS': '1'}")),
            cwd=os.fspath(cwd or Path.cwd()),
            python=os.fspath(python or ""),
            bind="" if bind is None else check_bind("bind", bind),
            listen="" if listen is None else check_listen(listen),
            deploy=bool(deploy),
            grace=check_seconds("grace", grace),
        )
        number = None if n is None else check_workers(n)
        ensure_descriptors(usable_cpus() if number is None else number)
        cluster = cls(functools.partial(make_launcher, place_text(on)))
        cluster._attached.owner = not keep
        cluster._begin(lambda: cluster._attached.launcher.start(number, options))
        cluster.reused = cluster._attached.launcher.reused
        return cluster

    @classmethod
    def connect(
        cls, which: str | os.PathLike[str] | None = None, *, observe: bool = False, ssh: str | None = None
    ) -> Self:
        """Attach to a running cluster.

        If nobody else is attached to it (its notebook was restarted, say), it is this process's from now on: it ends
        with it, unless it was started with ``keep``.

        Args:
            which: Its name, or the path of its connection file; ``None`` for the newest.
            observe: Whether it stays nobody's: for a look from outside.
            ssh: The machine that it was started on, as ssh calls it, if that is another one; ``which`` is then a copy
                of its connection file.

        Raises:
            ServiceUnavailable: It does not run.
            AuthError: Others can read its connection file.
        """
        file = find_cluster(os.fspath(which) if which is not None else None)
        through = None if ssh is None else check_text("ssh", ssh, "alpha")
        cluster = cls(functools.partial(make_connector, file, through))
        snapshot = cluster._begin(lambda: cluster._attached.launcher.connect(file))
        cluster._attached.owner = not (observe or snapshot.keep) and snapshot.clients == 1
        return cluster

    @staticmethod
    def list() -> Sequence[ClusterEntry]:
        """Return the clusters of this user on this machine, dead ones included, and clean up after those."""
        entries = list_clusters()
        clean_dead()
        return entries

    def _begin(self, launch: Callable[[], Snapshot]) -> Snapshot:
        atexit.register(self._at_exit)
        try:
            snapshot = self._attached.begin(launch)
        except BaseException:
            atexit.unregister(self._at_exit)
            raise
        current.choose(self)
        self._joblib.start()
        return snapshot

    def stop(self) -> None:
        """End every worker and remove what belongs to the cluster. May be called twice."""
        self._leave(self._attached.stop)

    def rotate_keys(self) -> None:
        """Change the keys that clients need; copies of the connection file that were made before are of no use then."""
        self._attached.rotate_keys()

    def close(self) -> None:
        """Let go of the cluster. It ends if it is this process's (not with ``keep``), with the last who uses it."""
        self._leave(self._attached.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.shutdown()
        else:  # an interrupt, or the end of the process
            self.close()

    def _leave(self, leave: Callable[[], None]) -> None:
        self._joblib.cancel()
        try:
            leave()
        finally:
            atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        """Let the jobs there finish, as the pools of ``concurrent.futures`` do, unless the user wants to be gone."""
        kernel = kernel_at_exit()
        if kernel == "restarts" or os.getpid() != self._pid:
            return
        try:
            if not kernel and not isinstance(getattr(sys, "last_value", None), KeyboardInterrupt):
                self.shutdown()
        finally:
            self.close()

    # -- jobs ----------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Have ``fn(*args, **kwargs)`` run on a worker.

        Everything is encoded at once, so the job computes with the values of this moment. It is run again if its
        worker dies under it, at most twice.

        Raises:
            SerializationError: Something cannot travel; the message says what, and where it sits.
            RuntimeError: The executor has been shut down.
        """
        return self._attached.submits.submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        retries: int = 2,
        retry_on: tuple[type[BaseException], ...] | type[BaseException] = (),
        job_timeout: float | None = None,
        errors: Literal["raise", "return"] = "raise",
        progress: bool | str = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> MapResult | CheckpointedMap:
        """Run ``fn`` on each item, on all workers; yields the results.

        Starts at once, and pulls from the iterables only as fast as results are taken, so they may be infinite.

        Args:
            fn: Called with one item of each iterable; stops at the shortest.
            iterables: Where the items come from. Pulled on the thread that takes the results.
            timeout: Seconds from now after which waiting for a result raises ``TimeoutError``.
            chunksize: Jobs sent together; ``None`` to follow measured run times, or with ``retries=0`` for one at a
                time, so that a death says for sure which job ran and costs no other.
            buffersize: Jobs pulled ahead of the consumer; ``None`` to follow the pace of the workers.
            ordered: Whether results come in the order of the items, or as they are ready.
            retries: How often a job is run again after its worker died under it, or after ``retry_on``.
            retry_on: Exception types after which a job is run again; ``CallTimeout`` for one that overran.
            job_timeout: Seconds that one job may run; it is then interrupted, and its worker replaced if that
                does not help.
            errors: ``"return"`` yields failures in place, as exceptions; ``"raise"`` raises the first.
            progress: Whether to show a progress bar, or its title.
            checkpoint: File that keeps finished results; the same call resumes from it.

        Raises:
            SerializationError: Something cannot travel; the message says what, and where it sits.
            RuntimeError: The executor has been shut down.
            ValueError: An option is out of its range.
            TypeError: An option is of another type.
        """
        self._attached.reactor.check_pid()
        self._attached.submits.check_open()
        return begin_map(
            self._attached.jobs,
            fn,
            iterables,
            progress=progress,
            checkpoint=checkpoint,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            ordered=ordered,
            retries=retries,
            retry_on=retry_on,
            job_timeout=job_timeout,
            errors=errors,
        )

    def put(self, obj: Any) -> Shared:
        """Copy an object into memory that all workers of a machine share; pass the handle to jobs in its place.

        Where workers are on other machines it is copied to each once, and on from there; jobs wait for it.

        Raises:
            SerializationError: Something in it cannot travel.
        """
        reference = weakref.ref(self)

        def closed(key: bytes) -> None:
            cluster = reference()
            if cluster is not None:
                cluster._attached.release(key)

        with OpenSpan(RECORDER, "put", "put", None, RECORDER.caller()) as span:
            shared = put(self.codec, obj, closed=closed)
            span.set(bytes=shared.nbytes)
        self._attached.spread_out(shared)
        return shared

    @property
    def __pandas_udf__(self) -> Any:
        return importlib.import_module("znb.doors.pandas").Engine

    @property
    def _max_workers(self) -> int:
        """What ``dask.compute(scheduler=cluster)`` asks an executor for."""
        return max(1, len(self))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Take no more jobs; let those there are finish, and then let go of the cluster.

        Args:
            wait: Whether to return only when the jobs are done.
            cancel_futures: Whether to cancel those that no worker has begun.
        """
        if os.getpid() != self._pid:
            return  # a forked child has no part in it
        self._attached.submits.shutdown(cancel=cancel_futures)
        if wait:
            self._attached.submits.wait_finished()
            self.close()

    def notify(self, text: str) -> None:
        """Show a line to the user."""
        print(text, file=sys.stderr)

    def _job_view(self) -> Show:
        """Return what shows the output of jobs that the present cell starts."""
        return self._job_views.current()

    # -- workers -------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self._attached.name

    @property
    def connection_file(self) -> Path:
        """Path of the file with which others attach to the cluster; it is for its owner's eyes alone."""
        if self._attached.launcher.file is None:
            raise ServiceUnavailable(self.name, "this cluster has ended, and its connection file with it")
        return Path(self._attached.launcher.file.cluster_dir, FILE_NAME)

    @property
    def identity(self) -> tuple[str, int, str] | None:
        """What tells it from every other, also from earlier ones of its name; ``None`` when it has ended."""
        return getattr(self._attached.launcher.file, "identity", None)

    @property
    def closed(self) -> bool:
        """Whether this process has let go of it, or it has ended."""
        return self._attached.closed or bool(self._attached.ended)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the workers, in order."""
        return tuple(self._attached.membership.members)

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        """The workers, in order."""
        membership = self._attached.membership
        return tuple(WorkerInfo(membership.link_of, member) for member in membership.members.values())

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> str:
        raise TypeError("a cluster stays in its process; a job that needs one uses znb.Cluster.connect(name)")

    def __repr__(self) -> str:
        if self.closed:
            return f"<Cluster {self.name!r}, {'ended' if self._attached.ended else 'closed'}>"
        return f"<Cluster {self.name!r} on {self._attached.launcher.where}: {' '.join(self.names) or 'no workers'}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        if self.closed:
            return {"text/plain": repr(self)}
        status = self.status()
        plain = {"text/plain": str(status), "text/html": status.to_html()}
        if kernel_of_this_process() is None:
            return plain
        with contextlib.suppress(ZnbError):  # the front end has not been built
            # By name, because widgets are above clusters, and take long to load.
            return dict(importlib.import_module("znb.widgets.panel").bundle_of(self, plain))
        return plain

    def __getitem__(self, target: Target) -> Workers:
        """Return the workers that ``target`` means: a number, name, slice, or text such as ``"0,2"``."""
        if self._attached.ended:
            raise NoWorkers(self._attached.ended)
        everyone = target in ("all", slice(None))
        return Workers(self, select(target, self.names, self._least_busy), everyone=everyone)

    def placed(self, name: str) -> Workers | None:
        """Return the workers on which a service was exposed; ``None`` if there are none."""
        names = tuple(worker for worker in self.names if worker in self.standing.workers(name))
        return Workers(self, names) if names else None

    def run(self, source: str, **options: Any) -> Any:
        """Run source code as a cell on every worker (see ``Workers.run``)."""
        return self[:].run(source, **options)

    def push(self, variables: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Copy variables to every worker (see ``Workers.push``)."""
        self[:].push(variables, **more)

    def pull(self, *names: str) -> Any:
        """Copy variables from every worker (see ``Workers.pull``)."""
        return self[:].pull(*names)

    def scale(self, n: int) -> None:
        """Have ``n`` workers: new ones are ready, superfluous ones gone, when this returns."""
        number = check_workers(n)
        ensure_descriptors(number)
        with self._told_if_interrupted(f"scaling to {number} workers"):
            self._attached.follow(self._attached.launcher.scale(number))

    def restart(self, target: Target = "all") -> None:
        """Replace workers by new processes of the same names, killing what they run."""
        names = self[target].names
        with self._told_if_interrupted(f"the restart of {', '.join(names)}"):
            self._attached.follow(self._attached.launcher.restart(names))

    def retire(self, target: Target) -> None:
        """End workers for good, killing what they run; their jobs go to others. Those that stay keep their names."""
        names = self[target].names
        with self._told_if_interrupted(f"the end of {', '.join(names)}"):
            self._attached.follow(self._attached.launcher.retire(names))

    @contextlib.contextmanager
    def _told_if_interrupted(self, what: str) -> Iterator[None]:
        """Say that a request goes on though nobody waits for it any more: the next cell may meet it."""
        try:
            yield
        except KeyboardInterrupt:
            self.notify(f"{what} was asked for and goes on, though you no longer wait for it; see cluster.status()")
            raise

    def kill(self, name: str) -> None:
        """Kill a worker's process; it is replaced under its name."""
        self._attached.kill(name)

    def interrupt(self, target: Target = "all") -> None:
        """Raise ``KeyboardInterrupt`` in whatever the workers run, whoever's it is."""
        for link in self.wait_links(self[target].names):
            link.control_nowait("_znb_interrupt", None, lambda _answer: None)

    def status(self) -> ClusterStatus:
        """Return what each worker does now."""
        return ClusterStatus.take(self.name, self._attached.launcher.where, self.workers, self.stats())

    def stats(self) -> JobStats:
        """Return what has become of the jobs that this process has given to the cluster, in all and by worker."""
        return JobStats.of(self._attached.jobs.stats())

    def next_label(self) -> str:
        """Return a name for a piece of code that came without one."""
        return f"run {next(self._labels)}"

    def wait_links(self, names: Sequence[str], notify: Callable[[str], None] | None = None) -> Sequence[Link]:
        """Return a live link to each worker, waiting for those that are being started or replaced.

        Raises:
            NoWorkers: One of them is gone for good.
            ZnbError: The cluster is closed.
        """
        return self._attached.membership.wait_links(names, notify)

    def take_news(self, names: Sequence[str]) -> Sequence[str]:
        """Return, once, what happened to these workers that their user has not been told."""
        return self._attached.membership.take_news(names)

    def _least_busy(self, names: Sequence[str]) -> str:
        workers = {worker.name: worker for worker in self.workers}
        return min(names, key=lambda name: workers[name].load())


def _register(reference: weakref.ref[Cluster]) -> None:
    """Make a cluster what joblib knows as ``"znb"``."""
    cluster = reference()
    if cluster is not None:
        importlib.import_module("znb.doors.joblib").register(cluster)
