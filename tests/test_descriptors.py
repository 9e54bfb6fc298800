"""A limit of file descriptors that is too low is raised, or told: ZeroMQ would abort the process."""

from __future__ import annotations

import subprocess
import sys


def under_limit(soft: int, hard: int, body: str) -> subprocess.CompletedProcess[str]:
    """Run statements in a process with these limits."""
    script = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n{body}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


def test_a_soft_limit_that_is_too_low_is_raised():
    done = under_limit(
        40,
        4096,
        "import znb\nwith znb.Cluster.start(2) as cluster:\n    print(sum(cluster.map(abs, range(10))), cluster.submit(abs, -3).result())",
    )
    assert (done.stdout, done.returncode) == ("45 3\n", 0), done.stderr


def test_a_limit_that_may_not_be_raised_is_told():
    done = under_limit(90, 90, "import znb\nznb.Cluster.start(2)")
    assert done.returncode == 1
    assert "2 workers need about" in done.stderr
    assert "ulimit -n" in done.stderr


def test_a_high_limit_is_left_alone():
    done = under_limit(
        1000,
        4096,
        "from znb.descriptors import ensure_descriptors\nensure_descriptors(2)\nprint(resource.getrlimit(resource.RLIMIT_NOFILE)[0])",
    )
    assert done.stdout == "1000\n"
