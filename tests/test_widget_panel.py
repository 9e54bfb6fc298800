"""The cluster panel in a real kernel: what the page is sent, and what its buttons do."""

import pytest

from pages import need_bundle, say, sent, wait_for
from znb.status import ClusterStatus, JobStats, WorkerJobs, WorkerStatus

need_bundle("panel")


@pytest.fixture(scope="module")
def notebook(shared_kernel):
    shared_kernel.run("%load_ext znb\nimport znb\n%znb cluster start 2 --name shown").ok()
    shared_kernel.run("from znb.widgets.panel import panel_of\npanel = panel_of(cluster)").ok()
    yield shared_kernel
    shared_kernel.run("cluster.stop()").ok()


def test_a_cluster_is_displayed_as_its_panel_with_text_for_everybody_else(notebook):
    cell = notebook.run("cluster").ok()
    assert "application/vnd.jupyter.widget-view+json" in cell.data
    assert "<table" in cell.data["text/html"]
    assert "w1" in cell.value
    shown = notebook.run("%znb cluster status").ok().displays[0]
    mime = "application/vnd.jupyter.widget-view+json"
    assert shown[mime]["model_id"] == cell.data[mime]["model_id"]  # one panel, however often it is shown
    assert notebook.run("[w['name'] for w in panel.snapshot['workers']]").value == "['w0', 'w1']"


def test_it_looks_at_workers_while_it_is_looked_at(notebook):
    notebook.messages.clear()
    say(notebook, "panel", type="view", view="a", visible=True)
    wait_for(notebook, lambda: len(sent(notebook, "look")) > 2)
    looks = sent(notebook, "look")
    assert set(looks[0]["history"]) == {"w0", "w1"}
    assert "history" not in looks[1]
    assert {worker["state"] for worker in looks[1]["workers"]} == {"idle"}
    say(notebook, "panel", type="view", view="b", visible=True)
    say(notebook, "panel", type="view", view="a", visible=False)
    assert notebook.run("panel._thread is None").value == "False"
    say(notebook, "panel", type="view", view="b", visible=False)
    wait_for(notebook, lambda: notebook.run("panel._thread is None").value == "True")


def test_buttons(notebook):
    notebook.messages.clear()
    say(notebook, "panel", type="view", view="a", visible=True)
    notebook.run("import time")
    notebook.run("%%znb remote --on 0 --bg --out sleeping\nimport time\ntime.sleep(600)").ok()

    def state(worker):
        return sent(notebook, "look")[-1]["workers"][worker] if sent(notebook, "look") else {"state": ""}

    wait_for(notebook, lambda: state(0)["state"] == "busy")
    assert state(0)["runs"].startswith("In[")

    say(notebook, "panel", type="do", id=1, action="stack", worker="w0")
    wait_for(notebook, lambda: sent(notebook, "done"))
    assert "time.sleep(600)" in sent(notebook, "done")[0]["text"]

    say(notebook, "panel", type="do", id=2, action="interrupt", worker="w0")
    wait_for(notebook, lambda: state(0)["state"] == "idle")
    notebook.run("type(sleeping.exception()).__name__").ok()

    say(notebook, "panel", type="do", id=3, action="restart", worker="w1")
    wait_for(notebook, lambda: state(1).get("restarts") == 1)

    say(notebook, "panel", type="do", id=4, action="scale", number=3)
    wait_for(notebook, lambda: len(sent(notebook, "look")[-1]["workers"]) == 3)
    say(notebook, "panel", type="do", id=5, action="retire", worker="w1")
    wait_for(notebook, lambda: [worker["name"] for worker in sent(notebook, "look")[-1]["workers"]] == ["w0", "w2"])
    say(notebook, "panel", type="do", id=5, action="scale", number=3)
    wait_for(notebook, lambda: len(sent(notebook, "look")[-1]["workers"]) == 3)
    say(notebook, "panel", type="do", id=5, action="scale", number=2)
    wait_for(notebook, lambda: [worker["name"] for worker in sent(notebook, "look")[-1]["workers"]] == ["w0", "w1"])

    # a job: its function is built in, so there is no frame of the user's; an interrupt ends it
    notebook.run("job = cluster.submit(time.sleep, 600)").ok()
    wait_for(notebook, lambda: "busy" in {worker["state"] for worker in sent(notebook, "look")[-1]["workers"]})
    (busy,) = (worker for worker in sent(notebook, "look")[-1]["workers"] if worker["state"] == "busy")
    (idle,) = {"w0", "w1"} - {busy["name"]}
    said = len(sent(notebook, "done"))
    for worker in (busy["name"], idle):
        say(notebook, "panel", type="do", id=8, action="stack", worker=worker)
        wait_for(notebook, lambda: len(sent(notebook, "done")) > said)
        said += 1
    assert [answer["text"].partition(":")[0] for answer in sent(notebook, "done")[-2:]] == [
        "sleep runs",
        "it waits for work",
    ]
    say(notebook, "panel", type="do", id=9, action="interrupt", worker=busy["name"])
    assert notebook.run("type(job.exception()).__name__").value == "'Cancelled'"

    say(notebook, "panel", type="do", id=6, action="dance")
    say(notebook, "panel", type="do", id=7, action="restart", worker="w9")
    wait_for(notebook, lambda: {6, 7} <= {answer["id"] for answer in sent(notebook, "done")})
    problems = {answer["id"]: answer["problem"] for answer in sent(notebook, "done")}
    assert {number for number, problem in problems.items() if problem} == {6, 7}
    assert "there is no action" in problems[6]
    assert "w9" in problems[7]
    say(notebook, "panel", type="view", view="a", visible=False)


def test_a_cluster_that_has_ended_says_so_and_is_not_kept_by_its_panel(notebook):
    notebook.run("%znb cluster start 1 --name short\nother = cluster\nshort = panel_of(other)").ok()
    say(notebook, "short", type="do", id=1, action="stop")
    wait_for(notebook, lambda: notebook.run("other.closed").value == "True")
    assert notebook.run("short.look()").value == "{'name': 'short', 'ended': True, 'workers': []}"
    say(notebook, "short", type="do", id=21, action="scale", number=1)
    wait_for(notebook, lambda: 21 in {answer["id"] for answer in sent(notebook, "done")})
    assert "has ended" in next(answer["problem"] for answer in sent(notebook, "done") if answer["id"] == 21)
    notebook.run("cluster = znb.Cluster.connect('shown')\npanel = panel_of(cluster)").ok()


def test_usage_is_the_share_of_a_cpu_between_two_looks():
    from znb.widgets.panel import Usage

    answers = WorkerJobs(name="w0")

    def status(cpu_time, pid=1, jobs=answers):
        worker = WorkerStatus(name="w0", pid=pid, host="h", state="idle", cpu_time=cpu_time, memory_bytes=5, jobs=jobs)
        return ClusterStatus(name="c", where="local", workers=(worker,), jobs=JobStats())

    usage = Usage()
    usage.add(status(10.0), 100.0)
    usage.add(status(10.25), 100.5)
    assert usage.last("w0") == 0.5
    usage.add(status(0.0, jobs=None), 101.0)  # it does not answer
    assert usage.last("w0") == 0.0
    usage.add(status(10.5), 101.5)
    assert usage.last("w0") == 0.25
    usage.add(status(0.1, pid=2), 102.0)  # another process
    assert usage.last("w0") == 0.0
    assert usage.history()["w0"] == [(0.0, 5), (0.5, 5), (0.0, 5), (0.25, 5), (0.0, 5)]
    usage.add(ClusterStatus(name="c", where="local", workers=()), 103.0)
    assert usage.history() == {}


def test_stacks_show_the_main_thread_first_and_none_of_the_framework():
    from znb.widgets.panel import tidy_stacks

    told = (
        'thread znb-io:\n  File "/usr/lib/python3.11/threading.py", line 1, in run\n    self.run()\n'
        '  File "/x/znb/transport/reactor.py", line 2, in _run\n    self._turn()\n'
        'thread mine:\n  File "/usr/lib/python3.11/threading.py", line 1, in run\n    self.run()\n'
        '  File "/home/me/code.py", line 3, in work\n    time.sleep(1)\n'
        'thread MainThread:\n  File "<string>", line 1, in <module>\n  File "/x/znb/worker.py", line 1, in main\n    go()\n'
        '  File "/tmp/cell.py", line 2, in <module>\n    f()\n  File "/x/znb/spans/user.py", line 9, in f\n    g()\n'
    )
    assert tidy_stacks(told) == (
        'thread MainThread:\n  File "/tmp/cell.py", line 2, in <module>\n    f()\n'
        '  File "/x/znb/spans/user.py", line 9, in f\n    g()\n'
        'thread mine:\n  File "/home/me/code.py", line 3, in work\n    time.sleep(1)\n'
    )
    assert tidy_stacks(told[: told.index("thread mine")]) == ""
