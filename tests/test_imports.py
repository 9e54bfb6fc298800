"""What ``import znb`` costs, and that what it promises is there."""

from __future__ import annotations

import subprocess
import sys

import znb

#: What must not be imported before it is needed: each takes longer than all of znb should.
HEAVY = ("IPython", "ipykernel", "ipywidgets", "anywidget", "dill", "zmq", "numpy", "pandas", "asyncio")


def test_importing_znb_imports_nothing_heavy():
    code = "import sys, znb; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()).intersection(HEAVY)


def test_every_exported_name_can_be_had_and_is_listed():
    for name in znb.__all__:
        assert getattr(znb, name) is not None
        assert name in dir(znb)
