"""Run measurements in fresh processes, interleaved, and make tables of their medians.

A *topic* is a module of this folder that can do two things: imported, it has a ``TOPIC``; run as a script with a
contender's name, it measures once and prints one line of JSON, ``{column: value}``. Contenders take turns in an order
that rotates, so that a machine that slows down is unfair to all of them alike.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Seconds that one measurement may take; ipyparallel's start alone can take ten on a busy machine.
TIMEOUT = 300.0

#: By this variable a measurement's processes are found, wherever they were re-parented to.
MARK = "ZNB_BENCHMARK"

Values = dict[str, dict[str, list[float]]]


@dataclass(frozen=True, slots=True)
class Column:
    """A figure to measure; ``show`` turns a value into text with its unit."""

    title: str
    show: Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Topic:
    """What is compared.

    ``contenders`` are titles by name, in the order of the rows; the first is the one that ratios refer to.
    """

    title: str
    text: str
    script: Path
    contenders: dict[str, str]
    columns: dict[str, Column]


def measure(topic: Topic, rounds: int) -> Values:
    """Run all contenders ``rounds`` times; return the values by contender and column."""
    values: Values = {name: defaultdict(list) for name in topic.contenders}
    names = list(topic.contenders)
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            result = run_once(topic.script, name)
            print(f"{topic.title}, round {turn + 1} of {rounds}: {name} {result}", file=sys.stderr, flush=True)
            for column, value in result.items():
                values[name][column].append(value)
    return values


def run_once(script: Path, name: str) -> dict[str, float]:
    """Measure one contender once, in a fresh process with folders of its own; leave no process behind.

    Raises:
        RuntimeError: It failed; the message has what it wrote.
    """
    mark = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="zb-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        environ = {**os.environ, MARK: mark, "HOME": folder, "IPYTHONDIR": folder, "ZNB_RUNTIME_DIR": f"{folder}/run"}
        Path(folder, "run").mkdir(mode=0o700)
        try:
            done = subprocess.run(
                [sys.executable, script, name],
                env=environ,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        finally:
            for pid in marked(mark):
                os.kill(pid, signal.SIGKILL)
    if done.returncode != 0:
        raise RuntimeError(f"{script.name} {name} failed with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def marked(mark: str) -> Iterator[int]:
    """Yield the processes of one measurement: those that have its mark in their environment (Linux)."""
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environ = (entry / "environ").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if wanted in environ.split(b"\0"):
            yield int(entry.name)


def footprint() -> tuple[int, float]:
    """Return the number of this measurement's processes and their memory (PSS, shared pages divided), in MB."""
    pids = list(marked(os.environ[MARK]))
    pss_kilobytes = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                pss_kilobytes += int(line.split()[1])
    return len(pids), pss_kilobytes / 1024


def render(topic: Topic, values: Values, rounds: int) -> str:
    """Return the topic as Markdown: text, then a table of medians, with ratios to the first contender."""
    reference = next(iter(topic.contenders))
    lines = [f"## {topic.title}", "", f"{topic.text} ({rounds} rounds.)", ""]
    lines.append("| |" + "".join(f" {column.title} |" for column in topic.columns.values()))
    lines.append("|---|" + "---|" * len(topic.columns))
    for name, title in topic.contenders.items():
        cells = []
        for key, column in topic.columns.items():
            if not values[name][key]:
                cells.append("")
                continue
            median = statistics.median(values[name][key])
            base = statistics.median(values[reference][key])
            ratio = "" if name == reference else f" · {median / base:.2g}×"
            cells.append(column.show(median) + ratio)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def frame_times(milliseconds: Sequence[float]) -> dict[str, float]:
    """Return what a page's frames took: the figures of ``frame_columns``, in milliseconds."""
    times = sorted(milliseconds)
    return {"median": times[len(times) // 2], "slow": times[int(len(times) * 0.95)]}


def frame_columns() -> dict[str, Column]:
    """Return the columns of a page's frames, which are measured in milliseconds."""
    return {"median": Column("frame, median", page_time), "slow": Column("frame, 95 %", page_time)}


def answer(module: dict[str, Any]) -> None:
    """Measure what the command line names, by the function of a script that is called so, and print the figures."""
    print(json.dumps(module[f"measure_{sys.argv[1]}"]()))


def seconds(value: float) -> str:
    return f"{value:.3f} s" if value < 1 else f"{value:.2f} s"


def milliseconds(value: float) -> str:
    return f"{value * 1000:.1f} ms"


def page_time(value: float) -> str:
    """Show milliseconds, the unit of a page's clock."""
    return f"{value:.1f} ms"


def microseconds(value: float) -> str:
    return f"{value:.1f} µs"


def count(value: float) -> str:
    return f"{value:,.0f}"


def per_second(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.0f}/s"


def megabytes(value: float) -> str:
    return f"{value:.0f} MB"
