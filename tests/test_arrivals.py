"""Import hooks change a whole process, so each test has one of its own."""

import subprocess
import sys
import textwrap


def run(script):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_called_once_when_the_module_has_been_imported():
    out = run("""
        import sys
        from znb.arrivals import Arrival
        before = list(sys.meta_path)
        first = Arrival("colorsys", lambda: print("first", "colorsys" in sys.modules))
        second = Arrival("colorsys", lambda: print("second", sys.modules["colorsys"].rgb_to_hls is not None))
        first.start()
        second.start()
        import json
        import colorsys
        assert sys.meta_path == before
        assert colorsys.__spec__.loader.exec_module.__name__ == "exec_module"
        import importlib
        importlib.reload(colorsys)
        Arrival("colorsys", lambda: print("at once")).start()
    """)
    assert out == "first True\nsecond True\nat once\n"


def test_a_module_that_is_not_there_may_come_later(tmp_path):
    out = run(f"""
        import importlib, pathlib, sys
        from znb.arrivals import Arrival
        arrival = Arrival("latecomer", lambda: print("here"))
        arrival.start()
        try:
            import latecomer
        except ModuleNotFoundError:
            print("not there")
        pathlib.Path({str(tmp_path)!r}, "latecomer.py").touch()
        sys.path.insert(0, {str(tmp_path)!r})
        importlib.invalidate_caches()
        import latecomer
    """)
    assert out == "not there\nhere\n"


def test_a_cancelled_one_is_not_called():
    out = run("""
        import sys
        from znb.arrivals import Arrival
        arrival = Arrival("colorsys", lambda: print("called"))
        arrival.start()
        arrival.cancel()
        arrival.cancel()
        import colorsys
    """)
    assert out == ""


def test_joblib_that_is_imported_after_the_cluster_has_started(world):
    out = run("""
        import sys
        import znb
        with znb.Cluster.start(2, name="late") as cluster:
            assert "joblib" not in sys.modules
            from joblib import Parallel, delayed, parallel_config
            import os
            with parallel_config("znb"):
                found = set(Parallel()(delayed(os.getpid)() for _ in range(100)))
            print(found <= {worker.pid for worker in cluster.workers})
    """)
    assert out == "True\n"
