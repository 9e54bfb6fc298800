"""``znb demo``: the standard library of the running Python, measured on local workers and again serially here.

The two runs must agree item by item; their times and what was found are printed. Runs on the caller's thread.
"""

from __future__ import annotations

import platform
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from znb.cluster import Cluster
from znb.rundir import runtime_dir
from znb.sourcestats import FileStats, Summary, measure_file, standard_library, summarize
from znb.tracing import Trace, trace

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Outcome", "compare", "render", "run_demo"]

#: Name of the file with its trace, in the runtime directory.
TRACE_NAME = "demo-trace.html"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the two runs took and found.

    Attributes:
        workers: Number of workers.
        start: Seconds until the workers were there.
        parallel: Seconds that the workers took.
        serial: Seconds that this process took alone.
        summary: What was found.
        differences: What the workers made of a file, where that is not what the serial run did.
        trace: Of the parallel run.
    """

    workers: int
    start: float
    parallel: float
    serial: float
    summary: Summary
    differences: tuple[tuple[str, FileStats | BaseException], ...]
    trace: Trace | None = None


def run_demo(workers: int | None = None) -> int:
    """Run the demo and print what came of it.

    Args:
        workers: How many to start; ``None`` for one on each usable CPU.

    Returns:
        Exit status: 0 if both runs agree, else 1.
    """
    files = standard_library()
    print(f"{len(files):,} files of Python {platform.python_version()}'s standard library, parsed and measured:")
    outcome = compare(files, workers)
    if outcome.trace is not None:
        file = outcome.trace.save(runtime_dir() / TRACE_NAME)
        print(f"\nWhere the time went, job by job: {file} (for a browser, or `znb trace`)")
    print(render(outcome, sysconfig.get_path("stdlib")))
    return 1 if outcome.differences else 0


def compare(files: Sequence[str], workers: int | None = None) -> Outcome:
    """Measure files on a cluster of their own, then serially; progress goes to stderr."""
    began = time.perf_counter()
    with Cluster.start(workers) as cluster:
        count = len(cluster.workers)
        started = time.perf_counter()
        with trace("znb demo", workers=count) as traced:
            found = list(cluster.map(measure_file, files, errors="return", progress=f"on {count} workers"))
            mapped = time.perf_counter()
    serial_began = time.perf_counter()
    expected = [measure_file(path) for path in tqdm(files, desc="serially, here", unit="job")]
    ended = time.perf_counter()
    pairs = zip(files, found, expected, strict=True)
    return Outcome(
        workers=count,
        start=started - began,
        parallel=mapped - started,
        serial=ended - serial_began,
        summary=summarize(expected),
        differences=tuple((path, remote) for path, remote, local in pairs if remote != local),
        trace=traced,
    )


def render(outcome: Outcome, root: str) -> str:
    """Return the report as plain text, with paths relative to ``root``."""
    summary = outcome.summary
    width = max((len(_place(f.path, root, f.line)) for f in summary.most_complex), default=0)
    lines = [
        "",
        f"  on {outcome.workers} workers   {outcome.parallel:6.2f} s   after {outcome.start:.2f} s to start them",
        f"  serially       {outcome.serial:6.2f} s   {outcome.serial / outcome.parallel:.2f} times as long",
        "",
        f"  files {summary.files:,} · lines {summary.lines:,} · functions {summary.functions:,}",
        "",
        "The most complex functions, by cyclomatic complexity:",
        "",
        *(f"  {f.complexity:4}  {_place(f.path, root, f.line):{width}}  {f.name}" for f in summary.most_complex),
        "",
        f"Files that do not parse, and are no part of these figures ({len(summary.unparsed)}):",
        "",
        *(f"  {_place(stats.path, root)}: {stats.error}" for stats in summary.unparsed),
        "",
    ]
    if outcome.differences:
        lines += [f"THE RUNS DIFFER, in {len(outcome.differences)} of the files. What the workers made of them:", ""]
        lines += [f"  {_place(path, root)}: {remote!r}" for path, remote in outcome.differences]
    else:
        lines += ["Both runs gave the same result for every file."]
    return "\n".join(lines)


def _place(path: str, root: str, line: int | None = None) -> str:
    """Return a path, relative to ``root`` if it is below, with its line."""
    place = Path(path)
    if place.is_relative_to(root):
        place = place.relative_to(root)
    return f"{place}:{line}" if line else str(place)
