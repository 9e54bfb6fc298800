"""Some of a cluster's workers, chosen by index: run cells on them, copy variables, call functions.

``cluster["w0"]``, ``cluster[0:2]`` and ``cluster[:]`` are ``Workers``. Everything here blocks the caller until every
chosen worker is done, shows outputs as they come, and can be interrupted.
"""

from __future__ import annotations

import concurrent.futures
import html
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from znb import tracebacks
from znb.checks import check_mapping, check_seconds
from znb.console import OutputView, Sink, make_sink
from znb.gather import Gather
from znb.link import Failed, Outcome, Value
from znb.locks import Event, Future
from znb.serialize.settled import copied

if TYPE_CHECKING:
    from znb.cluster import Cluster

__all__ = ["ByWorker", "Workers"]


class ByWorker(dict[str, Any]):
    """What each of several workers returned, by the worker's name."""

    def _repr_html_(self) -> str | None:
        """Return each worker's value in HTML, if one of them has such a form."""
        forms = {name: getattr(value, "_repr_html_", lambda: None)() for name, value in self.items()}
        if not any(forms.values()):
            return None
        parts = [
            f"<div><b>{html.escape(name)}</b></div>{form or f'<pre>{html.escape(repr(self[name]))}</pre>'}"
            for name, form in forms.items()
        ]
        return "".join(parts)


class Workers:
    """A choice of workers.

    Args:
        cluster: Whose they are.
        names: Their names, in order.
        everyone: Whether all were chosen, so that those that join later belong to what stays with them.

    Attributes:
        names: The workers' names, in order.
    """

    def __init__(self, cluster: Cluster, names: tuple[str, ...], *, everyone: bool = False) -> None:
        self._cluster = cluster
        self._everyone = everyone
        self._begun: Event | None = None  # of a call that nobody blocks for; is set when it has been sent
        self.names = names

    def __repr__(self) -> str:
        return f"<Workers {', '.join(self.names)} of {self._cluster.name!r}>"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def headed_here(self) -> bool:
        """Whether the cluster was started on this machine, where its streams and services are found by name."""
        return self._cluster.connection_file.exists()

    def run(
        self,
        source: str,
        *,
        timeout: float | None = None,
        label: str = "",
        first_line: int = 1,
        sink: Sink | None = None,
        push: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run source code as a cell.

        Outputs appear live and in order for each worker, labelled if there are several. Cells of one notebook run
        in the order sent.

        Args:
            source: Anything that a notebook cell may hold: magics, ``!shell``, ``await``.
            timeout: Seconds after which the cell is interrupted; ``None`` for never.
            label: What the cell is called in tracebacks and in ``status``; empty for a numbered one.
            first_line: Number of its first line in tracebacks.
            sink: Where to show the outputs; ``None`` for this process's own.
            push: Variables to set before the cell begins.

        Returns:
            The value of the last expression; from several workers a dict by name, or ``None`` if all are ``None``.

        Raises:
            Exception: What the cell raised, of its own type; an ``ExceptionGroup`` if workers raised differently.
            CallTimeout: It took longer than ``timeout``.
            WorkerLost: A worker died while it ran.
            KeyboardInterrupt: The wait was interrupted, and the cell with it.
        """
        if not isinstance(source, str):
            raise TypeError(f"run takes source text, got {source!r}; for a function use call, or cluster.submit")
        if timeout is not None:
            check_seconds("timeout", timeout)
        label = label or self._cluster.next_label()
        options = {
            "source": source,
            "label": label,
            "first_line": first_line,
            "variables": dict(check_mapping("push", push, "{'x': 1}")),
        }
        shown = sink or make_sink()
        view = OutputView(self.names, shown, scope=self._cluster.name)
        outcomes = self._ask("cell", options, view=view, timeout=timeout, label=label, sink=shown)
        return self._combine(outcomes)

    def run_nowait(self, source: str, **options: Any) -> concurrent.futures.Future[Any]:
        """Run source code as a cell without waiting; the options are those of ``run``.

        It has been sent when this returns, unless there are no workers yet: cells run in the order of the calls.

        Returns:
            A future of what ``run`` returns.
        """
        future: concurrent.futures.Future[Any] = Future()
        future.set_running_or_notify_cancel()
        options.setdefault("sink", make_sink(detached=True))
        workers = Workers(self._cluster, self.names)
        workers._begun = begun = Event()

        def wait() -> None:
            try:
                future.set_result(workers.run(source, **options))
            except BaseException as error:  # noqa: BLE001 - it belongs to the future
                future.set_exception(error)
            finally:
                begun.set()

        threading.Thread(target=wait, name="znb-background-cell", daemon=True).start()
        begun.wait()
        return future

    def push(self, variables: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Copy variables into the workers' namespaces.

        Raises:
            SerializationError: One cannot travel; then none was copied.
        """
        self._combine(self._ask("push", {**check_mapping("push", variables, "{'x': 1}"), **more}, label="push"))

    def pull(self, *names: str) -> Any:
        """Copy variables from the workers.

        Returns:
            For one name its value, for several a tuple of them; from several workers a dict of that by worker.

        Raises:
            NameError: A worker has no such variable.
        """
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError('pull what? Name at least one variable: cluster[0].pull("x")')
        values = self._outcomes("pull", list(names))
        flat = {worker: found[names[0]] if len(names) == 1 else tuple(found[n] for n in names)
                for worker, found in values.items()}  # fmt: skip
        return flat[self.names[0]] if len(self.names) == 1 else ByWorker(flat)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function on each worker, and show what it prints.

        Returns:
            Its result; from several workers a dict by name.
        """
        shown = make_sink()
        view = OutputView(self.names, shown, scope=self._cluster.name)
        return self._combine(self._ask("apply", (function, args, kwargs), view=view, label="apply", sink=shown))

    def call_anew(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function on each worker, now and on each process that replaces one, and return what ``call`` does.

        If all workers were chosen, those that join later call it as well.

        Args:
            name: Stands for the call: another one of this name takes its place.
            function: What to call.
            args: Its arguments, encoded now.
        """
        standing = self._cluster.standing
        payload = self._cluster.codec.encode((function, args, {}))
        standing.keep(name, self.names, payload, everyone=self._everyone)
        try:
            return self.call(function, *args)
        except BaseException:
            standing.forget(name, self.names)
            raise

    def forget_call(self, name: str) -> None:
        """Have the processes that replace these workers make a call no more (``call_anew``)."""
        self._cluster.standing.forget(name, self.names)

    # -- how -----------------------------------------------------------------------------------------------

    def _outcomes(self, method: str, obj: Any) -> dict[str, Any]:
        outcomes = self._ask(method, obj, label=method)
        self._raise(outcomes)
        return {name: outcome.value for name, outcome in outcomes.items() if isinstance(outcome, Value)}

    def _ask(
        self,
        method: str,
        obj: Any,
        *,
        label: str,
        view: OutputView | None = None,
        timeout: float | None = None,
        sink: Sink | None = None,
    ) -> dict[str, Outcome]:
        begun = self._begun
        payload = self._cluster.codec.encode(obj)
        if begun is not None:  # the caller goes on while it is sent
            payload = copied(payload)
        announcer = sink or make_sink()
        for news in self._cluster.take_news(self.names):
            announcer.write("stderr", f"{news}\n")

        def notice(text: str) -> None:
            if begun is not None:
                begun.set()
            announcer.notice(text)

        links = self._cluster.wait_links(self.names, notice)
        sent = begun.set if begun is not None else None
        gather = Gather(view, announcer, self._cluster.kill)
        outcomes = gather.ask(links, method, payload, label=label, timeout=timeout, sent=sent)
        return {name: outcomes[name] for name in self.names if name in outcomes}

    def _combine(self, outcomes: dict[str, Outcome]) -> Any:
        self._raise(outcomes)
        return self._fold({name: o.value for name, o in outcomes.items() if isinstance(o, Value)})

    def _fold(self, values: dict[str, Any]) -> Any:
        if len(self.names) == 1:
            return values[self.names[0]]
        if all(value is None for value in values.values()):
            return None
        return ByWorker(values)

    def _raise(self, outcomes: dict[str, Outcome]) -> None:
        """Raise what went wrong, each distinct error once."""
        failures = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Failed)}
        if failures:
            self._cluster.take_news(tuple(failures))  # the errors say it
            raise tracebacks.combine(failures, of=len(self.names))
