"""What a notebook has to do with clusters: those it holds, the one it means, and its variables.

Invariants: a session holds at most one live client of each cluster. The current cluster is the one that the notebook's
variable ``cluster`` holds, if it is one; else, of those still open, the one last started or connected. Owned by the
kernel's main thread; ``bind`` may be called from any.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from znb.cli.commands import WrongUsage
from znb.cluster import Cluster
from znb.connection import list_clusters
from znb.current import current

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from znb.workers import Workers

__all__ = ["VARIABLE", "Session"]

#: Name under which the notebook finds its cluster.
VARIABLE = "cluster"

#: Stands for a variable that did not exist.
_MISSING = object()


class Session:
    """The clusters and variables of one notebook.

    Args:
        shell: The IPython shell whose namespace is the notebook's.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self._held: list[Cluster] = []
        self._bound: Cluster | None = None
        self._before: Any = _MISSING

    # -- clusters ------------------------------------------------------------------------------------------

    @property
    def current(self) -> Cluster | None:
        """The cluster that commands mean; ``None`` if there is none."""
        named = self.namespace.get(VARIABLE)
        if isinstance(named, Cluster) and not named.closed:
            return named
        return next((cluster for cluster in reversed(self._held) if not cluster.closed), None)

    def cluster(self) -> Cluster:
        """Return the current cluster.

        Raises:
            WrongUsage: There is none; the message says how to get one.
        """
        current = self.current
        if current is not None:
            return current
        running = [entry.name for entry in list_clusters() if entry.state == "alive"]
        found = f", or `%znb cluster connect {running[-1]}`: it is running" if running else ""
        raise WrongUsage(f"this notebook has no cluster; start one with `%znb cluster start`{found}")

    def held(self, name: str) -> Cluster | None:
        """Return the live client of the cluster of this name, if this notebook has one."""
        named = self.namespace.get(VARIABLE)
        known = [*reversed(self._held), *([named] if isinstance(named, Cluster) else [])]
        return next((cluster for cluster in known if cluster.name == name and not cluster.closed), None)

    def adopt(self, cluster: Cluster) -> str:
        """Make a cluster the current one, and bind it to the notebook's variable.

        Returns:
            What to tell the user if the variable is theirs; else nothing.
        """
        self._held = [held for held in self._held if held is not cluster and not held.closed]
        self._held.append(cluster)
        current.choose(cluster)
        before = self.namespace.get(VARIABLE, _MISSING)
        if before is cluster:
            return ""
        if before is not _MISSING and not isinstance(before, Cluster):
            return (
                f"Your variable `{VARIABLE}` ({_kind(before)}) is left as it is. To have the cluster in another: "
                f'`import znb; c = znb.Cluster.connect("{cluster.name}")`.'
            )
        if before is not self._bound or self._bound is None:
            self._before = before
        self._bound = cluster
        self.namespace[VARIABLE] = cluster
        return ""

    def close(self) -> list[str]:
        """Let go of all clusters, as at the end of the process, and give the variable back.

        Returns:
            The names of those that were open.
        """
        if self._bound is not None and self.namespace.get(VARIABLE) is self._bound:
            if self._before is _MISSING:
                del self.namespace[VARIABLE]
            else:
                self.namespace[VARIABLE] = self._before
        opened = [cluster for cluster in self._held if not cluster.closed]
        for cluster in opened:
            cluster.close()
        self._held.clear()
        self._bound = None
        return [cluster.name for cluster in opened]

    def workers(self, target: str) -> Workers:
        """Return the workers of the current cluster that ``target`` means.

        Raises:
            WrongUsage: There is no cluster, or it has no such worker.
        """
        try:
            return self.cluster()[target]
        except (IndexError, KeyError) as error:
            raise WrongUsage(f"--on {target}: {error.args[0]}") from error

    # -- variables -----------------------------------------------------------------------------------------

    @property
    def namespace(self) -> dict[str, Any]:
        """The notebook's variables."""
        namespace: dict[str, Any] = self.shell.user_ns
        return namespace

    def cell_number(self) -> int:
        """Return the number of the running cell."""
        # The shell's counter is one ahead while a cell runs, or not, depending on IPython's version.
        history = self.shell.history_manager
        return len(history.input_hist_parsed) - 1 if history is not None else self.shell.execution_count

    def cell_label(self) -> str:
        """Return what the running cell is called, as in ``In[3]``."""
        return f"In[{self.cell_number()}]"

    def own_variables(self) -> list[str]:
        """Return the names that the user has given, modules left out."""
        hidden = self.shell.user_ns_hidden
        return sorted(
            name
            for name, value in self.namespace.items()
            if not name.startswith("_") and name not in hidden and not isinstance(value, types.ModuleType)
        )

    def values(self, names: Iterable[str]) -> dict[str, Any]:
        """Return variables by name.

        Raises:
            WrongUsage: One does not exist.
        """
        values = {name: self.namespace.get(name, _MISSING) for name in names}
        for name, value in values.items():
            if value is _MISSING:
                raise WrongUsage(f"there is no variable {name!r} here", "") from NameError(name)
        return values

    def bind(self, values: Mapping[str, Any]) -> None:
        """Set variables."""
        self.namespace.update(values)


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
