"""Measure everything and write ``docs/benchmarks.md``: ``run.py [--rounds N] [TOPIC…]``.

With topics named, the others' sections are left as they are.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import re
from pathlib import Path

import psutil
from harness import measure, render

REPORT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"

#: Modules of this folder with topics, in the order of the report.
MODULES = ("startup", "jobs", "libraries", "rpc", "far", "tracing", "explorer", "streams")

#: Packages whose versions the report names.
PEERS = ("pyzmq", "loky", "joblib", "distributed", "ipyparallel", "Pyro5", "rpyc")

INTRODUCTION = """\
# Benchmarks

Written by `make bench`; to be read as ratios. Figures are medians over rounds, in each of which all \
contenders took turns, each in a fresh process. `×`: times znb's figure in the same run.

{machine}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("topics", nargs="*", choices=[[], *MODULES], metavar="TOPIC", help=", ".join(MODULES))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    sections = read_sections()
    for name in MODULES:
        for topic in importlib.import_module(name).TOPICS:
            if name in (options.topics or MODULES):
                sections[topic.title] = render(topic, measure(topic, options.rounds), options.rounds)
    introduction = INTRODUCTION.format(machine=machine())
    REPORT.write_text("\n".join([introduction, *sections.values()]))


def read_sections() -> dict[str, str]:
    """Return the report's sections as they are, by title."""
    if not REPORT.exists():
        return {}
    _, *sections = re.split(r"^(?=## )", REPORT.read_text(), flags=re.MULTILINE)
    return {section.splitlines()[0].removeprefix("## "): section.rstrip() + "\n" for section in sections}


def machine() -> str:
    """Return what the figures depend on, in a sentence."""
    cpus = len(os.sched_getaffinity(0))
    memory_gigabytes = round(psutil.virtual_memory().total / 2**30)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PEERS)
    where = f"{platform.system()} on {platform.machine()}, {cpus} cores, {memory_gigabytes} GB"
    return f"{where}; Python {platform.python_version()}; {versions}"


if __name__ == "__main__":
    main()
