"""``binder/``: its steps as repo2docker takes them, in a bare virtual environment; then the tour, in what came of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from executed import failed, text

ROOT = Path(__file__).resolve().parent.parent
#: Where Debian keeps the certificates that a machine trusts.
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
#: Seconds for the installation; it depends on the network.
PATIENCE = 400

pytestmark = pytest.mark.timeout(2 * PATIENCE)


def reachable() -> bool:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", "pip-probe", "msgspec"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    return False


@pytest.fixture(scope="module")
def clone(module_world):
    """A clone with the environment that repo2docker would make of it: the folder, and the variables of its processes."""
    folder = module_world.home / "clone"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if tracked.returncode:
        pytest.skip("this is no clone")
    for name in filter(None, tracked.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    with contextlib.chdir(module_world.home):
        if not reachable():
            pytest.skip("no package index can be reached from here")
    subprocess.run([sys.executable, "-m", "venv", module_world.home / "env"], check=True)
    programs = module_world.home / "env" / "bin"
    environ = {**os.environ, "PATH": f"{programs}:/usr/bin:/bin", "REPO_DIR": str(folder)}
    if CERTIFICATES.exists():  # a Node from a wheel knows its own only, not those that this machine has been given
        environ.setdefault("NODE_EXTRA_CA_CERTS", str(CERTIFICATES))
    for command in ([programs / "pip", "install", "-q", "-r", "binder/requirements.txt"], ["binder/postBuild"]):
        done = subprocess.run(
            command,
            cwd=folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout.decode()
    return folder, environ


def test_the_address_opens_the_tour(clone):
    folder, environ = clone
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--IdentityProvider.token=",
    ]
    server = subprocess.Popen(
        ["binder/start", "jupyter", "lab", *options],
        cwd=folder,
        env=environ,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
                    assert answer.url.endswith("/lab/tree/notebooks/tour.ipynb")
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(PATIENCE)


def test_the_tour_runs_there_with_its_widgets(clone):
    folder, environ = clone
    command = ["jupyter", "nbconvert", "--to", "notebook", "--execute", "--output", "done", "notebooks/tour.ipynb"]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr.decode()
    cells = {cell.id: cell for cell in nbformat.read(folder / "notebooks" / "done.ipynb", 4).cells}
    assert failed(cells) == ["error"]
    assert "equal, item by item" in text(cells["serial"])
    shown = [output.data for output in cells["start"].outputs if "data" in output]
    assert any("application/vnd.jupyter.widget-view+json" in data for data in shown)
    source = subprocess.run(
        ["python", "-c", "import znb; print(znb.__file__)"], cwd="/", env=environ, capture_output=True, check=True
    )
    assert re.search(rb"/env/lib/python[\d.]+/site-packages/znb/", source.stdout)
