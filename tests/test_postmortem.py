import pytest

from znb.postmortem import OomWatch, explain_exit


@pytest.mark.parametrize(
    ("code", "oom", "rss", "text"),
    [
        (0, False, 0, "exited with status 0 (os._exit or sys.exit)"),
        (1, False, 0, "exited with status 1 (an error that nobody caught, os._exit or sys.exit)"),
        (-6, False, 0, "was killed by SIGABRT: native code gave up (abort: a failed assertion, or damaged memory)"),
        (-9, False, 0, "was killed by SIGKILL: killed from outside"),
        (-9, True, 3_200_000_000, "was killed by SIGKILL: probably the kernel's out-of-memory killer; it held up to 3,200 MB"),
        (-9, None, 0, "was killed by SIGKILL: from outside, or by the kernel's out-of-memory killer"),
        (-10, False, 0, "was killed by SIGUSR1"),
        (-63, False, 0, "was killed by signal 63"),
    ],
)  # fmt: skip
def test_an_end_has_words(code, oom, rss, text):
    assert explain_exit(code, oom=oom, peak_rss_bytes=rss) == text


def make_proc(tmp_path, cgroup, mountinfo):
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text(cgroup)
    (proc / "self/mountinfo").write_text(mountinfo)
    return proc


def test_the_killer_is_seen_in_the_own_group_of_version_2(tmp_path):
    group = tmp_path / "cg/user/znb"
    group.mkdir(parents=True)
    proc = make_proc(tmp_path, "0::/user/znb\n", f"30 1 0:2 / {tmp_path}/cg rw - cgroup2 cgroup2 rw\n")
    events = group / "memory.events"
    events.write_text("low 0\noom 1\noom_kill 4\n")
    watch = OomWatch(proc)
    assert watch.look() is False
    events.write_text("low 0\noom 2\noom_kill 5\n")
    assert watch.look() is True
    assert watch.look() is False
    events.unlink()
    assert watch.look() is None


def test_and_in_that_of_version_1_inside_a_container(tmp_path):
    group = tmp_path / "memory/mine"
    group.mkdir(parents=True)
    (group / "memory.oom_control").write_text("under_oom 0\noom_kill 0\n")
    mounts = f"31 1 0:2 /box {tmp_path}/memory rw - cgroup cgroup rw,memory\n32 1 0:3 / /x rw - tmpfs tmpfs rw\n"
    watch = OomWatch(make_proc(tmp_path, "4:memory:/box/mine\n3:cpu:/\n", mounts))
    (group / "memory.oom_control").write_text("under_oom 1\noom_kill 1\n")
    assert watch.look() is True


def test_else_in_the_whole_machine(tmp_path):
    proc = make_proc(tmp_path, "0::/\n", "30 1 0:2 / /nowhere rw - cgroup2 cgroup2 rw\n")
    (proc / "vmstat").write_text("nr_free 7\noom_kill 3\n")
    watch = OomWatch(proc)
    (proc / "vmstat").write_text("nr_free 7\noom_kill 4\n")
    assert watch.look() is True


def test_without_counters_nothing_is_known(tmp_path):
    assert OomWatch(tmp_path / "missing").look() is None
