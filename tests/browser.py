"""Real JupyterLab and Notebook 7 in a real browser, for tests of what people see.

    with server(folder) as jupyter, browser(folder) as chromium:
        notebook = jupyter.open(chromium, ["import znb", "znb.stream('loss')"])
        notebook.run_all()
        notebook.page.wait_for_selector(".znb-stream canvas")
        notebook.picture("stream")

The page may reach nothing but this machine, so that anything loaded from elsewhere fails the test. Pictures go to
``artifacts/``, which git ignores. Without Playwright or Chromium the tests that import this are skipped, and say so.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playwright.sync_api import BrowserContext, ConsoleMessage, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright for Python: `make test` installs it")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium: apt-get install chromium fonts-dejavu-core", allow_module_level=True)

#: Seconds for anything that a page does; generous, for busy machines.
TIMEOUT = 60.0
PICTURES = Path(__file__).resolve().parent.parent / "artifacts"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
#: What the front end asks a newcomer, and where the page would then look for news.
SETTINGS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
#: Errors of Notebook 7 itself: it looks for the settings of a plugin that it leaves out.
NOT_OURS = ("reading 'schema'",)
APPS = {"lab": "lab/tree", "notebook": "notebooks"}


@dataclass
class Notebook:
    """An open notebook."""

    page: Page
    path: Path
    errors: list[str] = field(default_factory=list)

    def command(self, name: str, **args: Any) -> None:
        """Do what a menu does; does not wait for it."""
        self.page.evaluate("([name, args]) => { void window.jupyterapp.commands.execute(name, args) }", [name, args])

    def wait_kernel(self) -> None:
        """Wait until the kernel is idle."""
        self.page.wait_for_function(
            "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=TIMEOUT * 1000,
        )

    def run_all(self) -> None:
        """Begin to run all cells."""
        self.wait_kernel()
        self.command("notebook:run-all-cells")

    def save(self) -> nbformat.NotebookNode:
        """Save it, and return what is in the file."""
        before = self.path.stat().st_mtime_ns
        self.command("docmanager:save")
        deadline = time.monotonic() + TIMEOUT
        while self.path.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline, "the notebook was not saved"
            self.page.wait_for_timeout(20)
        self.page.wait_for_timeout(100)
        return nbformat.read(self.path, 4)

    def picture(self, name: str, selector: str = "") -> Path:
        """Take a picture of the page, or of one element."""
        PICTURES.mkdir(exist_ok=True)
        path = PICTURES / f"{name}.png"
        if selector:
            self.page.locator(selector).first.screenshot(path=path)
        else:
            self.page.screenshot(path=path)
        return path

    def count_frames(self) -> None:
        """Note how long each frame of the screen takes from now on."""
        self.page.evaluate("""() => {
            const times = (window.znbFrames = []);
            let last = performance.now();
            const step = (now) => { times.push(now - last); last = now; requestAnimationFrame(step); };
            requestAnimationFrame(step);
        }""")

    def frames(self) -> list[float]:
        """Return the milliseconds of each frame since ``count_frames``, sorted."""
        return sorted(self.page.evaluate("window.znbFrames"))


@dataclass
class Jupyter:
    """A running server."""

    url: str
    folder: Path
    app: str

    def open(
        self, browser: BrowserContext, cells: Sequence[str], name: str = "test.ipynb", *, dark: bool = False
    ) -> Notebook:
        """Open a new notebook with these cells in a page of its own."""
        path = self.folder / name
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(made, path)
        return self.reopen(browser, name, dark=dark)

    def reopen(self, browser: BrowserContext, name: str = "test.ipynb", *, dark: bool = False) -> Notebook:
        """Open a notebook that is there."""
        page = browser.new_page()
        notebook = Notebook(page, self.folder / name)

        def note(text: str) -> None:
            if not any(known in text for known in NOT_OURS):
                notebook.errors.append(text)

        def note_console(message: ConsoleMessage) -> None:
            if message.type == "error":
                note(message.text)

        page.on("console", note_console)
        page.on("pageerror", lambda error: note(str(error)))
        page.set_default_timeout(TIMEOUT * 1000)
        # Without the notebooks that were open before, which JupyterLab would open again.
        page.goto(f"{self.url}/{APPS[self.app]}/{name}{'?reset' if self.app == 'lab' else ''}")
        page.wait_for_selector(".jp-Notebook")
        page.wait_for_function("window.jupyterapp !== undefined")
        if dark:
            notebook.command("apputils:change-theme", theme="JupyterLab Dark")
            page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
        return notebook


@contextlib.contextmanager
def server(folder: Path, app: str = "lab") -> Iterator[Jupyter]:
    """Start a server with folders of its own; stop it and its kernels."""
    work, settings = folder / "notebooks", folder / "lab-settings"
    work.mkdir(parents=True)
    for name, values in SETTINGS.items() if app == "lab" else ():
        path = settings / f"{name.replace(':', '/')}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter", app, "--no-browser", "--allow-root", f"--ServerApp.port={port}",
         "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=",
         f"--ServerApp.root_dir={work}", "--LabApp.expose_app_in_browser=True",
         "--JupyterNotebookApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
         f"--LabApp.user_settings_dir={settings}", f"--JupyterNotebookApp.user_settings_dir={settings}"],
        cwd=work, stdout=log, stderr=log, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2])), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                urllib.request.urlopen(f"{url}/api", timeout=TIMEOUT).close()
                break
            except OSError:
                gone = process.poll() is not None or time.monotonic() > deadline
                assert not gone, (folder / "server.log").read_text()
                time.sleep(0.05)
        yield Jupyter(url, work, app)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(TIMEOUT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            log.close()


@contextlib.contextmanager
def browser(folder: Path, width: int = 1100, height: int = 900) -> Iterator[BrowserContext]:
    """Start a browser with a profile of its own."""
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder / "profile",
            executable_path=CHROMIUM,
            args=FLAGS,
            headless=True,
            viewport={"width": width, "height": height},
        )
        yield context
        context.close()
