"""The same everywhere: ipykernel 6 and 7, plain IPython, plain Python, a running asyncio loop, threads, workers."""

from __future__ import annotations

import re
import sys

import pexpect
import pytest

from notebooks import lines_of, notices, open_gate, plain, remote, run_script, with_cluster, without_colours

# -- kernels: one story, told in both major versions of ipykernel


def test_the_whole_story_in_a_notebook(each_kernel):
    notebook = with_cluster(each_kernel(), 2)
    run = notebook.run
    cell = run(remote("import os\nprint('hello')\nprint(os.getpid())\n6 * 7")).ok()
    assert cell.value == "{'w0': 42, 'w1': 42}"
    assert lines_of(cell, "w0")[0] == lines_of(cell, "w1")[0] == "hello"
    run("data = list(range(5))\n%znb push data").ok()
    assert run(remote("total = sum(data)\ntotal", "--on 0")).ok().value == "10"
    run("%znb pull total --on 0").ok()
    assert run("total").value == "10"
    assert run("list(cluster.map(lambda x: x * x, data))").ok().value == "[0, 1, 4, 9, 16]"
    assert run("cluster.submit(divmod, 7, 2).result()").ok().value == "(3, 1)"
    failed = run(remote("1 / 0"))
    assert failed.error.name == "ZeroDivisionError"
    assert "----> 2 1 / 0" in failed.error.plain
    assert run("await cluster.submit(pow, 2, 10)").ok().value == "1024"
    cell = notebook.start(remote("print('begun')\nwait_for('never')"))
    cell.wait_until(lambda cell: "begun" in plain(cell))
    notebook.interrupt()
    assert cell.wait().error.name == "KeyboardInterrupt"
    assert run(remote("import os\nos._exit(3)", "--on 0")).error.name == "WorkerLost"
    assert run(remote("1")).ok().value == "{'w0': 1, 'w1': 1}"


def test_workers_go_on_while_the_kernel_s_main_thread_is_busy(each_kernel):
    notebook = with_cluster(each_kernel(), 2)
    notebook.run(
        remote("for n in range(2000): print(n)\nwait_for('go')\nopen('done', 'w').close()\n'value'", "--bg --out later")
    ).ok()
    busy = notebook.start(
        "import os\nprint('busy')\nwhile not os.path.exists('done'): pass\nlater.done() or later.result(30)"
    )
    busy.wait_until(lambda cell: "busy" in cell.stdout)
    open_gate(notebook, "go")
    busy.wait().ok()
    assert notebook.run("later.result()").ok().value == "{'w0': 'value', 'w1': 'value'}"


def test_native_code_that_holds_the_kernel_s_interpreter_loses_no_worker(kernel):
    """ZMTP's heartbeats do not need Python; nobody may be declared dead because the kernel was held."""
    notebook = with_cluster(kernel(), 1)
    pid = notebook.run("cluster.workers[0].pid").value
    notebook.run("import ctypes\nctypes.PyDLL(None).sleep(2);").ok()
    assert notebook.run(remote("import os\nos.getpid()")).ok().value == pid


def test_a_running_loop_stalls_nothing_in_a_notebook(each_kernel):
    notebook = with_cluster(each_kernel(), 2)
    cell = notebook.run(
        """
        import asyncio
        ticks = []

        async def tick():
            while True:
                ticks.append(1)
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        loop = asyncio.get_running_loop()
        one = await cluster.submit(pow, 2, 3)
        two = await asyncio.wrap_future(cluster[0].run_nowait("2 * 3"))
        three = await loop.run_in_executor(cluster, pow, 3, 2)
        four = await asyncio.to_thread(cluster[1].run, "3 * 4")
        five = cluster.run("5")  # blocks the loop, and works all the same
        before = len(ticks)
        await asyncio.gather(*(cluster.submit(pow, n, 2) for n in range(50)))
        ticking.cancel()
        one, two, three, four, five, before > 1
        """
    )
    assert cell.ok().value == "(8, 6, 9, 12, {'w0': 5, 'w1': 5}, True)"


def test_other_threads_of_a_kernel_use_the_cluster(each_kernel):
    notebook = with_cluster(each_kernel(), 2)
    cell = notebook.run(
        """
        import threading
        found = {}

        def use(n):
            try:
                found[n] = cluster[n % 2].run(f"{n} + 1"), list(cluster.map(abs, [-n])), cluster.submit(abs, -n).result()
            except BaseException as error:
                found[n] = error

        threads = [threading.Thread(target=use, args=(n,)) for n in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        found == {n: (n + 1, [n], n) for n in range(8)} or found
        """
    )
    assert cell.ok().value == "True"


# -- plain IPython in a terminal


@pytest.fixture
def ipython(world):
    """A terminal with IPython in it, and the extension loaded."""
    command = [
        "-m",
        "IPython",
        "--simple-prompt",
        "--colors=NoColor",
        "--no-banner",
        "--no-confirm-exit",
        "--HistoryManager.enabled=False",
    ]
    terminal = pexpect.spawn(
        sys.executable, command, encoding="utf-8", timeout=60, dimensions=(50, 200), cwd=str(world.home)
    )
    try:
        terminal.expect_exact("In [1]: ")
        terminal.sendline("%load_ext znb")
        terminal.expect_exact("In [2]: ")
        terminal.sendline("%znb cluster start 2")
        terminal.expect_exact("In [3]: ")
        yield terminal
        terminal.sendline("exit")
        terminal.expect(pexpect.EOF)
        terminal.wait()
    finally:
        terminal.close(force=True)


def say(terminal, *lines):
    """Type lines, and return what is shown until the next prompt."""
    for line in lines:
        terminal.sendline(line)
        terminal.expect_exact(line)
    terminal.expect(r"\r\nIn \[\d+\]: $")
    return without_colours(terminal.before).replace("\r", "")


def said_by_all(text, line="hello"):
    """Whether both workers are shown to have printed a line: in one, unless the machine was too busy for that."""
    return f"all │ {line}\n" in text or all(f"{name} │ {line}\n" in text for name in ("w0", "w1"))


def test_plain_ipython_in_a_terminal(ipython):
    assert "Out[3]: {'w0': 42, 'w1': 42}" in say(ipython, "cluster.run('6 * 7')")
    said = say(ipython, "%%znb remote", "import os", "print('hello')", "os.getpid() > 1", "", "")
    assert said_by_all(said)
    assert "{'w0': True, 'w1': True}" in said
    said = say(ipython, "%%znb remote --on 0", "x = 1", "x / 0", "", "")
    assert "----> 3 x / 0" in said
    assert "ZeroDivisionError: division by zero" in said
    assert "on w0 (" in said
    assert "[0, 1, 4]" in say(ipython, "list(cluster.map(lambda x: x * x, range(3)))")


def test_control_c_in_a_terminal(ipython):
    ipython.sendline("cluster.run('print(\"begun\"); import time; time.sleep(600)')")
    ipython.expect_exact("│ begun")
    ipython.sendintr()
    ipython.expect_exact("KeyboardInterrupt")
    ipython.expect(r"\r\nIn \[\d+\]: $")
    assert "{'w0': 1, 'w1': 1}" in say(ipython, "cluster.run('1')")


def test_progress_in_a_terminal_is_drawn_in_place(ipython):
    say(ipython, "source = '[print(end=chr(13) + str(n)) for n in range(101)]; import time; time.sleep(600)'")
    ipython.sendline("cluster.run(source)")
    ipython.expect(r"w0\S* │ 100\r\n\S*w1\S* │ 100\r\n")
    ipython.sendintr()
    ipython.expect(r"\r\nIn \[\d+\]: $")


def test_the_shell_without_a_terminal(world):
    source = """
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.testing.globalipapp import get_ipython
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "znb")
    shell.run_line_magic("znb", "cluster start 2")
    shell.run_cell("%%znb remote\\nprint('hello')\\n6 * 7")
    result = shell.run_cell("%%znb remote\\nx = 1\\nx / 0")
    print(type(result.error_in_exec).__name__)
    shell.run_cell("cluster.stop()")
    """
    printed = without_colours(run_script(source, world))
    assert said_by_all(printed)
    assert "{'w0': 42, 'w1': 42}" in printed
    assert "----> 3 x / 0" in printed
    assert printed.endswith("ZeroDivisionError\n")


# -- plain Python


def test_a_plain_script(world):
    source = """
    import sys, znb

    def square(x):
        return x * x

    class Point:
        def __init__(self, x): self.x = x
        def __eq__(self, other): return isinstance(other, Point) and self.x == other.x
        def __hash__(self): return self.x

    with znb.Cluster.start(2) as cluster:
        assert not {"IPython", "ipywidgets", "dill"} & set(sys.modules), "not before they are needed"
        print(cluster.run("6 * 7"))
        print(list(cluster.map(square, range(5))))
        cluster.push(p=Point(3))
        print(cluster[0].pull("p") == Point(3), cluster[0].run("p.x"))
        print(cluster[1].run("import asyncio; await asyncio.sleep(0, 'awaited')"))
        print(cluster[0].run("!echo by a shell"))
        try:
            cluster.run("int('x')")
        except ValueError as error:
            print(type(error).__name__, error.znb_origin.worker)
    """
    assert run_script(source, world).splitlines() == [
        "{'w0': 42, 'w1': 42}",
        "[0, 1, 4, 9, 16]",
        "True 3",
        "awaited",
        "by a shell",
        "None",
        "ValueError w0",
    ]


def test_an_error_that_nobody_catches_in_a_script_says_where_it_was_raised(world):
    source = """
    import znb
    with znb.Cluster.start(1) as cluster:
        cluster.run("x = 1\\nx / 0")
    """
    printed = run_script(source, world)
    assert "ZeroDivisionError: division by zero" in printed
    assert re.search(r"<cell run 1>.*, line 2, in <module>", printed)
    assert "raised on w0" in printed
    assert "IPython" not in printed


def test_a_script_with_a_running_loop(world):
    source = """
    import asyncio, znb

    async def main():
        with znb.Cluster.start(2) as cluster:
            ticks = []
            async def tick():
                while True:
                    ticks.append(1)
                    await asyncio.sleep(0.001)
            ticking = asyncio.create_task(tick())
            print(await cluster.submit(pow, 2, 3))
            print(await asyncio.get_running_loop().run_in_executor(cluster, pow, 3, 2))
            print(await asyncio.wrap_future(cluster[0].run_nowait("2 * 3")))
            print(await asyncio.to_thread(cluster.run, "5"))
            await asyncio.wrap_future(cluster[0].run_nowait("import time; time.sleep(0.1)"))
            print(cluster.run("6"), len(ticks) > 5)
            ticking.cancel()

    asyncio.run(main())
    """
    assert run_script(source, world).splitlines() == ["8", "9", "6", "{'w0': 5, 'w1': 5}", "{'w0': 6, 'w1': 6} True"]


def test_a_cluster_that_another_thread_starts_uses_and_stops(world):
    source = """
    import threading, znb

    def work():
        with znb.Cluster.start(2) as cluster:
            print(cluster.run("6 * 7"))
            print(list(cluster.map(abs, [-1, -2])))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    """
    assert run_script(source, world) == "{'w0': 42, 'w1': 42}\n[1, 2]\n"


def test_a_forked_child_leaves_the_parent_s_cluster_alone(world):
    source = """
    import os, znb
    cluster = znb.Cluster.start(1)
    if os.fork() == 0:
        try:
            cluster.run("1")
        except znb.ZnbError as error:
            print("refused", flush=True)
        os._exit(0)
    os.wait()
    print(cluster.run("6 * 7"))
    """
    assert run_script(source, world) == "refused\n42\n"


# -- from another worker


def test_a_worker_uses_the_cluster_as_a_notebook_does(kernel):
    notebook = with_cluster(kernel(), 2)
    source = """
    import znb
    mine = znb.Cluster.connect()
    print(mine["w1"].run("print('nested'); import os; os.getpid()"))
    print(list(mine.map(abs, [-1, -2, -3])))
    mine.close()
    """
    cell = notebook.run(remote(source, "--on 0")).ok()
    pid = notebook.run(remote("import os\nos.getpid()", "--on 1")).value
    assert cell.stdout == f"nested\n{pid}\n[1, 2, 3]\n"


def test_magics_work_on_a_worker(kernel):
    notebook = with_cluster(kernel(), 2)
    cell = notebook.run(remote("%load_ext znb\n%znb cluster connect\n%znb cluster status", "--on 0")).ok()
    assert "w1" in plain(cell) + notices(cell)
    cell = notebook.run(remote("get_ipython().run_cell_magic('znb', 'remote --on 1', 'print(1 + 1)')", "--on 0")).ok()
    assert cell.stdout == "2\n"
    notebook.run(remote("%unload_ext znb", "--on 0")).ok()
