"""The cluster panel: what each worker does, twice a second, with buttons; the display of a ``Cluster``.

The panel holds no cluster: it is given what looks at one (``Watched``), which holds it weakly, so that a cluster that
its user lets go of ends although its panel is still on a page. One panel serves all displays of a cluster.

Invariants: workers are only asked while a page can be seen, by a thread of the panel's own; actions run on threads of
their own, because a restart takes its time. Messages of the page come on the kernel's main thread, or on that of a
subshell while a cell runs.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from znb.cluster import Cluster
from znb.errors import ZnbError
from znb.locks import Condition
from znb.status import ClusterStatus, WorkerStatus
from znb.widgets.bundles import read_bundle
from znb.widgets.comms import hear_while_busy

__all__ = ["ClusterPanel", "Watched", "bundle_of", "panel_of"]

logger = logging.getLogger("znb.widgets")

#: Seconds between two looks at the workers.
INTERVAL = 0.5
#: Looks that the sparklines show: a minute.
HISTORY = 120
#: Seconds for which a page is assumed that has not spoken yet: a kernel that is busy may not hear it.
SILENT_PAGE = 30.0
#: What stands for that page.
UNHEARD = "?"
#: Seconds that a worker has to tell its stacks.
STACK_TIMEOUT = 3.0
#: Characters of a stack that are shown, from its end.
STACK_LENGTH = 20_000
#: Frames that no user has written: those of znb, of IPython, and of how Python starts threads and modules.
FRAMEWORK = re.compile(
    r'  File "(<string>|<frozen [^"]*>|[^"]*/(znb|IPython|asyncio|concurrent)/[^"]*'
    r'|[^"]*/(threading|runpy|codeop|selectors)\.py)"'
)


class Watched:
    """A cluster, as its panel sees it.

    Args:
        cluster: It; held weakly.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.name = cluster.name
        self._cluster = weakref.ref(cluster)

    def status(self) -> ClusterStatus | None:
        """Return what the workers do; ``None`` when the cluster has ended, or been let go of."""
        cluster = self._cluster()
        if cluster is None or cluster.closed:
            return None
        return cluster.status()

    def act(self, action: str, worker: str, number: int) -> str:
        """Do what a button says; return text to show, if that is what it is for.

        Raises:
            ZnbError: It could not be done.
            ValueError: There is no such action.
        """
        cluster = self._cluster()
        if cluster is None or cluster.closed:
            raise ZnbError(f"the cluster {self.name!r} has ended")
        if action == "interrupt":
            cluster.interrupt(worker)
        elif action == "restart":
            cluster.restart(worker or "all")
        elif action == "retire":
            cluster.retire(worker)
        elif action == "scale":
            cluster.scale(number)
        elif action == "stop":
            cluster.stop()
        elif action == "stack":
            (link,) = cluster.wait_links([worker])
            stacks = tidy_stacks(str(link.control("_znb_stacks", timeout=STACK_TIMEOUT)))
            running = next((each.running for each in cluster.status().workers if each.name == worker), "")
            return stacks[-STACK_LENGTH:] or _without_stack(running)
        else:
            raise ValueError(f"there is no action {action!r}")
        return ""


class Usage:
    """CPU and memory of each worker over the last minute."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, float, float]] = {}
        self._rows: dict[str, deque[tuple[float, float]]] = {}

    def add(self, status: ClusterStatus, now: float) -> None:
        """Take a look's figures."""
        names = {worker.name for worker in status.workers}
        for gone in self._rows.keys() - names:
            del self._rows[gone]
            self._before.pop(gone, None)
        for worker in status.workers:
            pid, then, cpu_time = self._before.get(worker.name, (0, now, 0.0))
            share = 0.0
            if pid == worker.pid and now > then and worker.jobs is not None:
                share = max(0.0, (worker.cpu_time - cpu_time) / (now - then))
            if worker.jobs is not None:  # it has answered
                self._before[worker.name] = (worker.pid, now, worker.cpu_time)
            rows = self._rows.setdefault(worker.name, deque(maxlen=HISTORY))
            rows.append((round(share, 3), worker.memory_bytes))

    def last(self, name: str) -> float:
        """Return a worker's share of a CPU since the look before."""
        return self._rows[name][-1][0] if name in self._rows else 0.0

    def history(self) -> dict[str, list[tuple[float, float]]]:
        """Return the figures of each worker, oldest first."""
        return {name: list(rows) for name, rows in self._rows.items()}


class ClusterPanel(anywidget.AnyWidget):
    """A panel of one cluster.

    Attributes:
        snapshot: What the workers did when the panel was made, for pages that open it before the first look.
        key: Its model's id, for pages.
    """

    snapshot = traitlets.Dict().tag(sync=True)
    key = traitlets.Unicode("").tag(sync=True)

    def __init__(self, watched: Watched) -> None:
        self._esm = read_bundle("panel.js")
        self._css = read_bundle("panel.css")
        self._watched = watched
        self._usage = Usage()
        self._views: dict[str, float] = {}
        self._changed = Condition()
        self._thread: threading.Thread | None = None
        self._fresh = True
        key = uuid.uuid4().hex
        super().__init__(snapshot=self.look(), key=key, model_id=key)
        self.on_msg(self._on_page)
        hear_while_busy(self)

    def look(self) -> dict[str, Any]:
        """Return what the page shows of this moment."""
        status = self._watched.status()
        if status is None:
            return {"name": self._watched.name, "ended": True, "workers": []}
        self._usage.add(status, time.monotonic())
        return {
            "name": status.name,
            "where": status.where,
            "jobs": str(status.jobs) if any(status.jobs.counts().values()) else "",
            "workers": [_row(worker, self._usage.last(worker.name)) for worker in status.workers],
        }

    def close(self) -> None:
        """End it. May be called twice."""
        with self._changed:
            self._views.clear()
            self._changed.notify_all()
        super().close()

    # -- the page ----------------------------------------------------------------------------------------------

    def _on_page(self, _widget: Any, content: dict[str, Any], _buffers: list[Any]) -> None:
        if content.get("type") == "view":
            self._note_view(str(content.get("view")), visible=bool(content.get("visible")))
        elif content.get("type") == "do":
            threading.Thread(target=self._act, args=(content,), name="znb-panel-action", daemon=True).start()

    def shown(self) -> None:
        """Take note that a page will show it, and look for it until it speaks."""
        self._note_view(UNHEARD, visible=True)

    def _note_view(self, view: str, *, visible: bool) -> None:
        with self._changed:
            self._views.pop(view, None)
            self._views.pop(UNHEARD, None)
            if visible:
                self._views[view] = time.monotonic() + (SILENT_PAGE if view == UNHEARD else math.inf)
                self._fresh = True
                if self._thread is None:
                    self._thread = threading.Thread(target=self._watch, name="znb-panel", daemon=True)
                    self._thread.start()
            self._changed.notify_all()

    def _act(self, content: dict[str, Any]) -> None:
        answer = {"type": "done", "id": content.get("id"), "text": "", "problem": ""}
        try:
            answer["text"] = self._watched.act(
                str(content.get("action")), str(content.get("worker", "")), int(content.get("number", 0))
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the page shows it
            answer["problem"] = f"{type(error).__name__}: {error}"
        self.send(answer)
        with self._changed:
            self._changed.notify_all()  # the next look is due: something has changed

    # -- the panel's thread ------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look at the workers for as long as somebody looks at the panel."""
        try:
            while True:
                with self._changed:
                    if self._views.get(UNHEARD, math.inf) < time.monotonic():
                        del self._views[UNHEARD]
                    if not self._views:
                        self._thread = None
                        return
                    fresh, self._fresh = self._fresh, False
                content = {"type": "look", **self.look()}
                if fresh:
                    content["history"] = self._usage.history()
                self.send(content)
                if content.get("ended"):
                    with self._changed:
                        self._thread = None
                    return
                with self._changed:
                    self._changed.wait(INTERVAL)
        except Exception:
            logger.exception("the panel of the cluster %r has ended", self._watched.name)
            with self._changed:
                self._thread = None


def _row(worker: WorkerStatus, cpu: float) -> dict[str, Any]:
    jobs = worker.jobs
    return {
        "name": worker.name,
        "state": worker.state,
        "pid": worker.pid,
        "host": worker.host,
        "runs": worker.running,
        "seconds": round(worker.seconds, 1),
        "queued": worker.queued + (jobs.queued if jobs is not None else 0),
        "done": jobs.done if jobs is not None else None,
        "failed": jobs.failed if jobs is not None else None,
        "cancelled": jobs.cancelled if jobs is not None else None,
        "restarts": worker.restarts,
        "memory": worker.memory_bytes,
        "cpu": cpu,
    }


def tidy_stacks(text: str) -> str:
    """Return the stacks that a worker told as its user wants them: the main thread first, without the framework.

    Frames of the framework are those up to the first of somebody else; a thread that has no other is left out. Empty if
    none is left.
    """
    threads = re.split(r"(?m)^(?=thread .*:$)", text)
    shown = []
    for thread in threads:
        title, _, body = thread.partition("\n")
        frames = re.split(r"(?m)^(?=  File )", body)
        own = list(itertools.dropwhile(lambda frame: not frame.strip() or FRAMEWORK.match(frame), frames))
        if own:
            shown.append((not title.startswith("thread MainThread"), f"{title}\n{''.join(own).rstrip()}\n"))
    return "".join(text for _, text in sorted(shown, key=lambda entry: entry[0]))


def _without_stack(running: str) -> str:
    """Return what to say of a worker in which no code of its user has a frame."""
    if running:
        return f"{running} runs: no line of yours was running just then; it is built in, or was between two jobs\n"
    return "it waits for work: no code of yours is running\n"


class Panels:
    """The panels of this process: one for each cluster that has been displayed."""

    def __init__(self, make: Callable[[Watched], ClusterPanel]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._panels: weakref.WeakKeyDictionary[Cluster, ClusterPanel] = weakref.WeakKeyDictionary()

    def of(self, cluster: Cluster) -> ClusterPanel:
        """Return the panel of a cluster."""
        with self._lock:
            panel = self._panels.get(cluster)
            if panel is None or panel.comm is None:
                panel = self._panels[cluster] = self._make(Watched(cluster))
            return panel


#: The panels of this process. A cluster is below widgets, and cannot hold its own.
panels = Panels(ClusterPanel)


def panel_of(cluster: Cluster) -> ClusterPanel:
    """Return the panel of a cluster, made if it has none."""
    return panels.of(cluster)


def bundle_of(cluster: Cluster, plain: dict[str, str]) -> dict[str, Any]:
    """Return a cluster's display: its panel, and what is shown where there are no widgets."""
    panel = panel_of(cluster)
    panel.shown()
    bundle = panel._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    return {**(data or {}), **plain}
