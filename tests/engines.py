"""Places for workers, as tests want them: each launcher with what it needs, or the reason why it cannot be had here."""

import contextlib
import functools

import pytest

import farhosts

#: Every place that the shared suite runs on.
PLACES = ("local", "local:tcp", "ssh")


@functools.cache
def ssh_missing():
    return farhosts.missing()


@contextlib.contextmanager
def place(name, folder, monkeypatch):
    """Yield what to write for ``--on``."""
    if name.startswith("local"):
        yield name
    elif name == "ssh":
        if ssh_missing():
            pytest.skip(f"NO TEST OF SSH: {ssh_missing()}")
        with farhosts.far_hosts(folder / "far", "alpha", "beta") as (_, bin_), monkeypatch.context() as patch:
            patch.setenv("PATH", str(bin_), prepend=":")
            yield "ssh:alpha*2,beta*2"
