"""CPython's own tests of executors, run on a cluster: ``python cpython_executor.py``.

Needs a Python whose standard library has them (``test.test_concurrent_futures``, 3.12.1 and later; many distributions
leave them out). Those about the constructor of CPython's pools, and those that print the pool's name into a program, have
no meaning here; ``test_executor_contract.py`` has their equivalents.
"""

import itertools
import time
import unittest
import weakref

from test.test_concurrent_futures.executor import ExecutorTest
from test.test_concurrent_futures.test_as_completed import AsCompletedTests
from test.test_concurrent_futures.test_shutdown import ExecutorShutdownTest
from test.test_concurrent_futures.test_wait import WaitTests
from test.test_concurrent_futures.util import BaseTestCase, ExecutorMixin

import znb

numbers = itertools.count()


def start(max_workers):
    """Start a cluster, as the constructor of a pool would."""
    return znb.Cluster.start(max_workers, name=f"contract-{next(numbers)}")


class OnCluster(ExecutorMixin):
    worker_count = 2
    executor_type = staticmethod(start)


class Executor(OnCluster, ExecutorTest, BaseTestCase):
    test_max_workers_negative = None


class Wait(OnCluster, WaitTests, BaseTestCase):
    pass


class AsCompleted(OnCluster, AsCompletedTests, BaseTestCase):
    pass


class Shutdown(OnCluster, ExecutorShutdownTest, BaseTestCase):
    test_interpreter_shutdown = None
    test_submit_after_interpreter_shutdown = None
    test_hang_gh83386 = None

    def test_context_manager_shutdown(self):
        with start(2) as executor:
            self.assertEqual(list(executor.map(abs, range(-5, 5))), [5, 4, 3, 2, 1, 0, 1, 2, 3, 4])
        self.assertTrue(executor.closed)

    def test_del_shutdown(self):
        executor = start(2)
        results = executor.map(abs, range(-5, 5))
        gone = weakref.ref(executor)
        del executor
        self.assertEqual(list(results), [5, 4, 3, 2, 1, 0, 1, 2, 3, 4])
        del results
        if (left := gone()) is not None:
            left.close()

    def test_shutdown_no_wait(self):
        executor = start(2)
        results = executor.map(abs, range(-5, 5))
        executor.shutdown(wait=False)
        self.assertEqual(list(results), [5, 4, 3, 2, 1, 0, 1, 2, 3, 4])
        executor.close()

    def test_results_of_a_map_after_shutdown(self):
        executor = start(2)
        results = executor.map(time.sleep, [0.01] * 20)
        executor.shutdown()
        self.assertEqual(list(results), [None] * 20)


if __name__ == "__main__":
    unittest.main(verbosity=2)
