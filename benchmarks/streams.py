"""A stream in JupyterLab under load: what it costs the kernel, and how smoothly the page goes on.

Four workers publish 1,250 dicts of two numbers a second each. Headless Chromium draws in software, on the same machine.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

#: Seconds that workers publish, and that are measured of them.
SECONDS, MEASURED = 9, 5


def measure_line() -> dict[str, float]:
    return measure_view("znb.stream('load')")


def measure_table() -> dict[str, float]:
    return measure_view("znb.stream('load', kind='table')")


def measure_log() -> dict[str, float]:
    return measure_view("znb.stream('load', kind='log')")


def measure_view(view: str) -> dict[str, float]:
    from harness import frame_times

    import browser as web
    from test_browser_streams import PUBLISH

    cells = [
        f"import time, znb\n{PUBLISH}\ncluster = znb.Cluster.start(4, name='streams')",
        view,
        f"jobs = [cluster.submit(publish, number, 1250, {SECONDS}) for number in range(4)]\ntime.sleep(2)",
        f"began = time.process_time()\ntime.sleep({MEASURED})\nused = (time.process_time() - began) / {MEASURED}",
        "print('sent', sum(job.result() for job in jobs), 'used', used)\ncluster.stop()",
    ]
    with tempfile.TemporaryDirectory(prefix="zb-", dir="/tmp") as folder:
        os.environ.update({f"JUPYTER_{kind}_DIR": folder for kind in ("DATA", "CONFIG", "RUNTIME")})
        with web.server(Path(folder) / "lab") as lab, web.browser(Path(folder) / "browser") as chromium:
            notebook = lab.open(chromium, cells, "load.ipynb")
            page = notebook.page
            notebook.run_all()
            page.wait_for_selector(".znb-stream canvas, .znb-stream tbody td, .znb-stream .znb-line")
            page.wait_for_timeout(3000)
            notebook.count_frames()
            page.wait_for_timeout(4000)
            frames = notebook.frames()
            page.wait_for_selector("text=/sent \\d+ used/")
            sent, used = re.search(r"sent (\d+) used ([\d.]+)", page.inner_text("text=/sent \\d+ used/")).groups()
            page.close()
    return {"rate": int(sent) / SECONDS, "kernel": float(used), **frame_times(frames)}


if __name__ == "__main__":
    from harness import answer

    answer(globals())
else:
    from harness import Column, Topic, count, frame_columns

    TOPICS = [
        Topic(
            title="A stream under load",
            text="Four workers publish 5,000 messages a second, in all; JupyterLab shows them. The kernel's share of a "
            "core, and frames of the page, whose browser draws in software and shares the cores with the workers.",
            script=Path(__file__),
            contenders={"line": "lines", "table": "table", "log": "log"},
            columns={
                "rate": Column("messages/s", count),
                "kernel": Column("kernel", lambda value: f"{100 * value:.1f} % of a core"),
                **frame_columns(),
            },
        )
    ]
