"""A real JupyterLab (or Notebook 7) in a real browser, for tests.

    with Lab(folder) as lab, Browser() as browser:
        page = lab.open(browser, notebook(["1 + 1"]))
        page.run(0)
        page.shot("name")

The server and its kernels live in a session of their own, which ends with the block. The browser reaches nothing but
this machine: whatever a page wants from elsewhere fails, and is remembered in ``Page.requests``. Pictures go into
``artifacts/screenshots``, which git ignores.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import nbformat
import pytest

#: Seconds that anything in a page may take, for busy machines.
TIMEOUT = 60.0
SHOTS = Path(__file__).resolve().parent.parent / "artifacts" / "screenshots"
STATIC = Path(__file__).resolve().parent.parent / "znb" / "widgets" / "static"

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip


def needs_browser() -> str:
    """Return the browser's path; skip the tests if there is none, or nothing to show in it."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        pytest.skip(
            f"no browser on this machine: expected one of {', '.join(_BROWSERS)} (`make test` installs it as root)"
        )
    if not (STATIC / "explorer.js").exists():
        pytest.skip("the widgets have not been built: make .stamps/bundles")
    return found


def notebook(cells: Sequence[str]) -> nbformat.NotebookNode:
    """Return a notebook of these code cells."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


class Browser:
    """A headless Chromium."""

    def __init__(self) -> None:
        from playwright.sync_api import sync_playwright

        path = needs_browser()
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=path, args=_FLAGS, headless=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.close()
        self._playwright.stop()

    def page(self, url: str, *, dark: bool = False, width: int = 1200, height: int = 900) -> Page:
        """Open a page."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        return Page(context, url)


class Page:
    """A page of the browser.

    Attributes:
        raw: Playwright's.
        requests: What it wanted from elsewhere.
        errors: Exceptions that nobody caught in it.
    """

    def __init__(self, context: Any, url: str) -> None:
        self._context = context
        self.raw = context.new_page()
        self.raw.set_default_timeout(TIMEOUT * 1000)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.raw.on("request", self._asked)
        self.raw.on("pageerror", lambda error: self.errors.append(str(error)))
        self.raw.goto(url)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:", "file:", "about:", "ws://127.0.0.1:")):
            self.requests.append(request.url)

    def close(self) -> None:
        self._context.close()

    def shot(self, name: str, selector: str | None = None) -> Path:
        """Take a picture of the page or of an element."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        path = SHOTS / f"{name}.png"
        (self.raw.locator(selector).first if selector else self.raw).screenshot(path=path)
        return path

    def wait(self, expression: str, argument: Any = None) -> Any:
        """Wait until a JavaScript expression, or function of ``argument``, is true; return its value."""
        return self.raw.wait_for_function(expression, arg=argument, timeout=TIMEOUT * 1000).json_value()


class NotebookPage(Page):
    """A notebook, opened in JupyterLab or Notebook 7."""

    def command(self, name: str) -> None:
        """Run a command of the application."""
        self.raw.evaluate("name => window.jupyterapp.commands.execute(name)", name)

    def wait_kernel(self) -> None:
        """Wait until its kernel is there and idle."""
        self.wait(
            """() => { const app = window.jupyterapp; const w = app && app.shell.currentWidget;
            const k = w && w.sessionContext && w.sessionContext.session && w.sessionContext.session.kernel;
            return k && k.status === 'idle' && k.connectionStatus === 'connected'; }"""
        )

    def start(self, index: int) -> None:
        """Begin to run a cell."""
        self.raw.evaluate(
            """index => { const n = window.jupyterapp.shell.currentWidget.content;
            n.activeCellIndex = index; n.deselectAll(); }""",
            index,
        )
        self.command_nowait("notebook:run-cell")

    def command_nowait(self, name: str) -> None:
        self.raw.evaluate("name => { window.jupyterapp.commands.execute(name); }", name)

    def run(self, index: int) -> None:
        """Run a cell and wait until it has ended."""
        before = self.count(index)
        self.start(index)
        self.wait(
            """([index, before]) => { const m = window.jupyterapp.shell.currentWidget.content.widgets[index].model;
            return m.executionCount !== null && m.executionCount !== before && m.executionState !== 'running'; }""",
            [index, before],
        )

    def count(self, index: int) -> int | None:
        """Return a cell's execution count."""
        return self.raw.evaluate(
            "index => window.jupyterapp.shell.currentWidget.content.widgets[index].model.executionCount", index
        )

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """Return a cell's outputs as they would be saved."""
        return self.raw.evaluate(
            "index => window.jupyterapp.shell.currentWidget.content.widgets[index].model.outputs.toJSON()", index
        )

    def text(self, index: int) -> str:
        """Return what a cell has printed or returned as text."""
        found = []
        for output in self.outputs(index):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            found.append(text if isinstance(text, str) else "".join(text))
            found += output.get("traceback", [])
        return "".join(found)

    def save(self) -> None:
        self.raw.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")


class Lab:
    """A Jupyter server.

    Args:
        folder: Where it keeps everything; notebooks are in ``folder/work``.
        env: Changes to the environment.
    """

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        settings = [
            "--no-browser", "--allow-root", f"--port={self.port}", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=",
            "--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
            "--JupyterNotebookApp.expose_app_in_browser=True", f"--ServerApp.root_dir={self.work}",
        ]  # fmt: skip
        page = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "labconfig"
        page.mkdir(parents=True, exist_ok=True)
        quiet = {"@jupyterlab/apputils-extension:announcements": True}
        (page / "page_config.json").write_text(json.dumps({"disabledExtensions": quiet}))
        self._log = (folder / "server.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *settings],
            cwd=self.work,
            env={**os.environ, **(env or {}), "PYTHONPATH": str(Path(__file__).parent)},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/api/status", timeout=5):
                return self
            time.sleep(0.05)
        self.close()
        raise AssertionError(f"the server does not answer:\n{self.log}")

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")[-5000:]

    def close(self) -> None:
        """End the kernels, then the server."""
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"{self.url}/api/kernels", timeout=10) as answer:
                kernels = json.load(answer)
            for kernel in kernels:
                request = urllib.request.Request(f"{self.url}/api/kernels/{kernel['id']}", method="DELETE")
                with urllib.request.urlopen(request, timeout=30):
                    pass
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()

    def open(
        self, browser: Browser, made: Any, name: str = "test.ipynb", *, app: str = "lab", dark: bool = False
    ) -> NotebookPage:
        """Write a notebook, open it, and wait for its kernel."""
        nbformat.write(made, self.work / name)
        return self.reopen(browser, name, app=app, dark=dark)

    def reopen(self, browser: Browser, name: str, *, app: str = "lab", dark: bool = False) -> NotebookPage:
        """Open a notebook that is there."""
        if dark:
            themes = (
                Path(os.environ["JUPYTER_CONFIG_DIR"]) / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
            )
            themes.mkdir(parents=True, exist_ok=True)
            (themes / "themes.jupyterlab-settings").write_text('{"theme": "JupyterLab Dark"}')
        where = f"lab/tree/{name}?reset" if app == "lab" else f"notebooks/{name}"
        plain = browser.page(f"{self.url}/{where}", dark=dark)
        page = NotebookPage.__new__(NotebookPage)
        page.__dict__.update(plain.__dict__)
        page.wait_kernel()
        return page
