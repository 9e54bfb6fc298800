"""The test tools themselves: kernels, and the check for leaks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import zmq

from conftest import Watch, World


def test_a_cell_has_value_streams_displays_and_error(shared_kernel):
    cell = shared_kernel.run(
        """
        import sys
        from IPython.display import HTML, display
        print("out")
        print("err", file=sys.stderr)
        display(HTML("<b>x</b>"))
        6 * 7
        """
    ).ok()
    assert (cell.value, cell.stdout, cell.stderr) == ("42", "out\n", "err\n")
    assert cell.displays[0]["text/html"] == "<b>x</b>"
    failed = shared_kernel.run("1 / 0")
    assert failed.error.name == "ZeroDivisionError"
    assert "1 / 0" in failed.error.plain


def test_outputs_are_shown_as_in_a_notebook(shared_kernel):
    cell = shared_kernel.run(
        """
        from IPython.display import clear_output, display
        print("gone"); clear_output(wait=True)
        print("a"); print("b")
        handle = display("old", display_id=True)
        handle.update("new")
        """
    ).ok()
    text, shown = cell.shown
    assert text["text"] == "a\nb\n"
    assert shown["data"]["text/plain"] == "'new'"


def test_a_running_cell_can_be_watched_and_interrupted(kernel):
    kernel = kernel()
    cell = kernel.start("print('on', flush=True)\nimport time\ntime.sleep(600)")
    cell.wait_until(lambda c: c.stdout == "on\n")
    assert not cell.idle
    kernel.interrupt()
    assert cell.wait().error.name == "KeyboardInterrupt"
    assert kernel.run("1 + 1").value == "2"


def test_a_kernel_restarts_and_dies(kernel):
    kernel = kernel()
    first = kernel.pid
    kernel.run("x = 1").ok()
    kernel.restart()
    assert kernel.pid != first
    assert kernel.run("x").error.name == "NameError"
    kernel.kill()
    with pytest.raises(ChildProcessError, match="the kernel died"):
        kernel.run("1")


def test_each_ipykernel_is_what_it_says(each_kernel, request):
    wanted = request.node.callspec.params["each_kernel"].removeprefix("ipykernel")
    assert each_kernel().run("import ipykernel; ipykernel.__version__.split('.')[0]").value == repr(wanted)


def test_a_test_has_its_own_short_runtime_directory(runtime_dir, module_world, kernel):
    assert os.environ["ZNB_RUNTIME_DIR"] == str(runtime_dir) != str(module_world.runtime)
    assert len(str(runtime_dir)) < 30
    seen = kernel().run("import os; os.environ['ZNB_RUNTIME_DIR'], os.environ['HOME']").value
    assert seen == repr((str(runtime_dir), os.environ["HOME"]))


# -- leaks: each is made on purpose and ended by the test itself


@pytest.fixture
def watch(world: World) -> Watch:
    return Watch(world, outer=None)


def test_a_thread_is_noticed(watch):
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="znb-io")
    thread.start()
    assert watch.leaks(files=True) == ["thread znb-io"]
    end.set()
    thread.join()
    assert watch.leaks(files=True) == []


def test_a_socket_is_noticed_and_closed(watch):
    with zmq.Context() as context:
        socket = context.socket(zmq.PUSH)
        assert watch.new_sockets() == [socket]
        watch.remove()
        assert socket.closed


def test_a_file_is_noticed(watch, runtime_dir):
    (runtime_dir / "c").mkdir()
    left = runtime_dir / "c" / "connection.json"
    left.touch()
    assert watch.leaks(files=True) == [f"file {left}"]
    left.unlink()


def test_shared_memory_is_noticed_and_removed(watch):
    path = Path("/dev/shm") / f"znb-test-{os.getpid()}"
    path.write_bytes(b"x")
    assert watch.new_shared_memory() == [path]
    watch.remove()
    assert not path.exists()


def test_shared_memory_of_another_world_is_left_alone(watch):
    path = Path("/dev/shm") / f"znb-test-{os.getpid()}"
    hold = f"import time; f = open({str(path)!r}, 'w'); print(1, flush=True); time.sleep(600)"
    environ = {**os.environ, "ZNB_RUNTIME_DIR": "/elsewhere"}
    holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, env=environ)
    with holder:
        holder.stdout.readline()
        outside = Watch(World(Path("/nowhere"), Path("/nowhere")), World(Path("/elsewhere"), Path("/elsewhere")))
        outside.shared.clear()
        assert outside.new_shared_memory() == []
        holder.kill()
    path.unlink()


def test_an_orphan_is_noticed_by_its_runtime_directory_and_ended(watch):
    orphan = "import time; time.sleep(600)"
    start = f"subprocess.Popen([sys.executable, '-c', {orphan!r}], stdout=subprocess.DEVNULL)"
    parent = f"import subprocess, sys; print({start}.pid)"
    done = subprocess.run([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, check=True)
    (leak,) = watch.new_processes()
    assert leak.pid == int(done.stdout)
    watch.remove()
    gone, _ = psutil.wait_procs([leak], timeout=10)
    assert gone or leak.status() == psutil.STATUS_ZOMBIE
