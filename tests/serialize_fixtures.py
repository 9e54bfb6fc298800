"""Fixtures for tests of serialisation, as a plugin."""

import pytest

from serialize_peer import Peer, main_module
from znb.serialize import Codec


@pytest.fixture
def notebook():
    """A fresh main module in which cells run."""
    with main_module() as made:
        yield made


@pytest.fixture
def codec():
    """This process's codec."""
    return Codec()


@pytest.fixture
def peer(codec):
    """A worker process that exchanges with this one's codec."""
    made = Peer(codec)
    yield made
    made.close()


@pytest.fixture
def ident(notebook, peer):
    """Send something there and back."""
    notebook.cell("def ident(x): return x")
    return lambda x: peer.call(notebook.ident, x)
