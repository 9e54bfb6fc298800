"""What a notebook defines behaves on workers as if it were a module that they can import."""

from __future__ import annotations

from ast import literal_eval

import pytest

from notebooks import plain, remote, with_cluster


@pytest.fixture(scope="module")
def notebook(shared_kernel):
    return with_cluster(shared_kernel, 2)


@pytest.fixture
def run(notebook):
    """Run a cell that must work; return its value."""

    def run(source):
        return notebook.run(source).ok().value

    return run


# -- functions


def test_a_function_reads_globals_as_they_are_at_the_moment_of_the_call(run):
    run("factor = 2\ndef scale(x): return factor * x")
    assert run("cluster[0].call(scale, 10)") == "20"
    assert run("factor = 3\ncluster[0].call(scale, 10)") == "30"
    assert (
        run(
            "first = cluster.submit(scale, 10)\nfactor = 4\nsecond = cluster.submit(scale, 10)\nfirst.result(), second.result()"
        )
        == "(30, 40)"
    )
    assert run("mapped = cluster.map(scale, range(4))\nfactor = 5\nlist(mapped)") == "[0, 4, 8, 12]"
    assert run("factor") == "5"


def test_a_function_sees_the_change_of_a_mutable_global(run):
    run("table = {'a': 1}\ndef look(key): return table[key]")
    assert run("cluster[0].call(look, 'a')") == "1"
    assert run("table['a'] = 2\ncluster[0].call(look, 'a')") == "2"
    assert run("table.clear(); table['b'] = 3\ncluster[0].call(look, 'b')") == "3"


def test_functions_call_each_other_and_themselves(run):
    run(
        """
        def helper(x): return x + 1
        def caller(x): return helper(x) * 2
        def factorial(n): return 1 if n < 2 else n * factorial(n - 1)
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
        """
    )
    assert run("cluster[0].call(caller, 1), cluster[0].call(factorial, 10)") == "(4, 3628800)"
    assert run("list(cluster.map(even, range(5)))") == "[True, False, True, False, True]"
    assert run("def helper(x): return x + 100\ncluster[0].call(caller, 1)") == "202"


def test_closures_lambdas_and_nested_functions_travel(run):
    run(
        """
        def adder(n):
            def add(x): return x + n
            return add
        def counter():
            count = 0
            def bump():
                nonlocal count
                count += 1
                return count
            return bump
        bump = counter()
        """
    )
    assert run("list(cluster.map(adder(10), range(3)))") == "[10, 11, 12]"
    assert run("cluster[0].call(lambda x, y=2, *, z=3: (x, y, z), 1)") == "(1, 2, 3)"
    assert run("bump(), cluster[0].call(bump), bump()") == "(1, 2, 2)"
    assert run("[f(1) for f in cluster[0].call(lambda: [lambda x, n=n: x + n for n in range(3)])]") == "[1, 2, 3]"


def test_decorated_partial_and_bound_functions_travel(run):
    run(
        """
        import functools
        def twice(function):
            @functools.wraps(function)
            def wrapper(*args): return 2 * function(*args)
            return wrapper
        @twice
        def one(): "Return two."; return 1
        @functools.lru_cache
        def cached(x): return x * x
        class Scale:
            factor = 3
            def __init__(self, offset): self.offset = offset
            def apply(self, x): return self.factor * x + self.offset
            @classmethod
            def of_class(cls, x): return cls.factor * x
            @staticmethod
            def of_nobody(x): return -x
            def __call__(self, x): return self.apply(x)
        """
    )
    assert run("cluster[0].call(one), cluster[0].call(cached, 4)") == "(2, 16)"
    assert run("list(cluster.map(functools.partial(pow, 2), range(4)))") == "[1, 2, 4, 8]"
    assert (
        run("list(cluster.map(Scale(1).apply, range(3))), list(cluster.map(Scale(2), range(3)))")
        == "([1, 4, 7], [2, 5, 8])"
    )
    assert run("cluster[0].call(Scale.of_class, 2), cluster[0].call(Scale.of_nobody, 2)") == "(6, -2)"


def test_generators_and_coroutines_travel_as_functions(run):
    run(
        """
        def numbers(n):
            for x in range(n): yield x
        async def later(x): return x + 1
        async def several(n):
            for x in range(n): yield x
        """
    )
    assert run("cluster[0].call(lambda: list(numbers(3)))") == "[0, 1, 2]"
    assert run("import asyncio\ncluster[0].call(lambda: asyncio.run(later(1)))") == "2"
    run("cluster.push(numbers=numbers, later=later, several=several)")
    assert (
        run(remote("list(numbers(2)), await later(2), [x async for x in several(3)]", "--on 0"))
        == "([0, 1], 3, [0, 1, 2])"
    )


def test_imports_of_the_notebook_are_found(run):
    run("import math, os.path\nfrom collections import Counter as Count\nimport numpy as np")
    assert (
        run(
            "cluster[0].call(lambda: (math.floor(2.5), os.path.basename('a/b'), Count('aab')['a'], float(np.sum([1, 2]))))"
        )
        == "(2, 'b', 2, 3.0)"
    )


def test_a_function_that_is_redefined_takes_effect_at_the_next_call(run):
    for number in range(5):
        run(f"def versioned(): return {number}")
        assert (
            run("cluster.run('0'), cluster[:].call(versioned)")
            == f"({{'w0': 0, 'w1': 0}}, {{'w0': {number}, 'w1': {number}}})"
        )


def test_a_function_that_was_pushed_is_there_as_any_other(run):
    run("base = 7\ndef pushed(x): return x + base\n%znb push pushed")
    assert run(remote("pushed(1)", "--on 0")) == "8"
    assert run(remote("import inspect\n'base' in inspect.getsource(pushed)", "--on 0")) == "True"
    assert run(remote("def made_there(x): return x * 2", "--on 0")) is None
    assert run("%znb pull made_there --on 0") is None
    assert run("made_there(4)") == "8"


# -- classes

CLASSES = """
import abc, collections, dataclasses, enum, typing

class Point:
    dimensions = 2
    def __init__(self, x, y): self.x, self.y = x, y
    def __eq__(self, other): return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)
    def __hash__(self): return hash((self.x, self.y))
    def moved(self, dx): return Point(self.x + dx, self.y)

class Pixel(Point):
    def __init__(self, x, y, color):
        super().__init__(x, y)
        self.color = color

@dataclasses.dataclass(frozen=True)
class Record:
    name: str
    tags: list = dataclasses.field(default_factory=list)

@dataclasses.dataclass(slots=True)
class Slotted:
    value: int

class Color(enum.Enum):
    RED = 1
    GREEN = 2

class Flags(enum.Flag):
    A = enum.auto()
    B = enum.auto()

Pair = collections.namedtuple("Pair", "left right")

class Triple(typing.NamedTuple):
    a: int
    b: int = 2

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

class Square(Shape):
    def __init__(self, side): self.side = side
    def area(self): return self.side ** 2

class Trouble(Exception):
    def __init__(self, code, *, hint=""):
        super().__init__(f"trouble {code}")
        self.code, self.hint = code, hint

class Slots:
    __slots__ = ("a", "__weakref__")
    def __init__(self, a): self.a = a

class Meta(type):
    def __new__(mcls, name, bases, namespace):
        cls = super().__new__(mcls, name, bases, namespace)
        cls.made_by = "Meta"
        return cls

class WithMeta(metaclass=Meta): pass
"""

INSTANCES = {
    "Point(1, 2)": "Point",
    "Pixel(1, 2, Color.RED)": "Pixel",
    "Record('n', [1])": "Record",
    "Slotted(3)": "Slotted",
    "Color.RED": "Color",
    "Flags.A | Flags.B": "Flags",
    "Pair(1, 2)": "Pair",
    "Triple(1)": "Triple",
    "Square(3)": "Shape",
    "Trouble(7, hint='h')": "Trouble",
    "Slots(4)": "Slots",
    "WithMeta()": "WithMeta",
}


@pytest.fixture(scope="module")
def classes(notebook):
    notebook.run(CLASSES).ok()


@pytest.mark.parametrize(("instance", "kind"), INSTANCES.items())
def test_isinstance_holds_on_both_sides_and_across_calls(run, classes, instance, kind):
    run(f"thing = {instance}")
    assert run(f"cluster[:].call(lambda t: isinstance(t, {kind}), thing)") == "{'w0': True, 'w1': True}"
    run("cluster.push(thing=thing)")
    assert (
        run(f"cluster[:].call(lambda: isinstance(__import__('__main__').thing, {kind}))") == "{'w0': True, 'w1': True}"
    )
    assert (
        run(f"back = cluster[0].call(lambda t: t, thing)\ntype(back) is type(thing), isinstance(back, {kind})")
        == "(True, True)"
    )
    assert run(f"isinstance(cluster[1].pull('thing'), {kind})") == "True"
    assert run(f"[isinstance(t, {kind}) for t in cluster.map(lambda t: t, [thing] * 3)]") == "[True, True, True]"


def test_what_instances_hold_and_do_travels(run, classes):
    assert run("cluster[0].call(Point(1, 2).moved, 5) == Point(6, 2)") == "True"
    assert run("p = cluster[0].call(lambda: Pixel(1, 2, Color.GREEN))\n(p.x, p.color is Color.GREEN)") == "(1, True)"
    assert run("cluster[0].call(lambda: Record('made there', [2])) == Record('made there', [2])") == "True"
    assert (
        run(
            "cluster[0].call(lambda c: c is Color.RED, Color.RED), cluster[0].call(lambda: Color['GREEN']) is Color.GREEN"
        )
        == "(True, True)"
    )
    assert (
        run("cluster[0].call(lambda s: s.area(), Square(4)), cluster[0].call(lambda: WithMeta.made_by)")
        == "(16, 'Meta')"
    )
    assert run("{cluster[0].call(lambda: Point(1, 1)), Point(1, 1)} == {Point(1, 1)}") == "True"
    assert run("cluster[0].call(lambda: Triple(1, b=5))") == "Triple(a=1, b=5)"


def test_a_class_made_in_a_call_is_the_notebook_s(run, classes):
    assert run("cluster[0].call(lambda: Point) is Point") == "True"
    assert run("cluster[0].call(lambda c: c is Point, Point)") == "True"
    assert run("cluster[0].call(lambda: issubclass(Pixel, Point))") == "True"


def test_an_exception_class_of_the_notebook_is_caught_by_its_own_except(run, classes):
    caught = run(
        """
        def fail(): raise Trouble(7, hint="look there")
        found = []
        for attempt in (lambda: cluster[0].call(fail), lambda: cluster.submit(fail).result(),
                        lambda: list(cluster.map(lambda n: fail(), range(3))), lambda: cluster[:].call(fail)):
            try:
                attempt()
            except Trouble as error:
                found.append((error.code, error.hint, str(error)))
        found
        """
    )
    assert literal_eval(caught) == [(7, "look there", "trouble 7")] * 4
    assert run("cluster[0].call(lambda: isinstance(Trouble(1), Exception))") == "True"
    cell = run(
        "cluster.push(fail=fail, Trouble=Trouble)\ncluster[0].run('''try:\n    fail()\nexcept Trouble as e:\n    code = e.code\ncode''')"
    )
    assert cell == "7"


def test_a_class_that_is_redefined_takes_effect_at_the_next_call(run):
    for number in range(4):
        run(f"class Versioned:\n    def version(self): return {number}")
        assert run("cluster[:].call(lambda: Versioned().version())") == f"{{'w0': {number}, 'w1': {number}}}"
        assert run("isinstance(cluster[0].call(Versioned), Versioned)") == "True"
    run("old = Versioned()\nclass Versioned:\n    def version(self): return 'new'")
    assert (
        run("cluster[0].call(lambda o: o.version(), old), cluster[0].call(lambda: Versioned().version())")
        == "(3, 'new')"
    )


def test_class_attributes_are_those_of_the_moment_of_the_call(run, classes):
    run("Point.dimensions = 3")
    assert run("cluster[0].call(lambda: Point.dimensions)") == "3"
    run("Point.dimensions = 2")
    assert run("cluster[0].call(lambda: Point.dimensions)") == "2"


def test_a_class_defined_on_workers_comes_home(run):
    run(remote("class Remote:\n    def __init__(self, x): self.x = x\n    def double(self): return 2 * self.x"))
    run("found = cluster[0].run('Remote(4)')")
    assert run("found.double(), type(found).__name__") == "(8, 'Remote')"
    assert run("cluster[0].call(lambda r: r.double(), found)") == "8"


# -- data


def test_arrays_travel_without_a_copy_in_globals_too(run):
    run("import numpy as np\nbig = np.arange(2_000_000.0)\ndef total(): return float(big.sum())")
    assert run("cluster[:].call(total) == dict.fromkeys(('w0', 'w1'), float(big.sum()))") == "True"
    assert (
        run("back = cluster[0].call(lambda a: a * 2, big)\nbool((back == big * 2).all()), back.flags.writeable")
        == "(True, True)"
    )
    run("%znb push big")
    assert run(remote("big.shape, str(big.dtype), float(big[-1])", "--on 0")) == "((2000000,), 'float64', 1999999.0)"
    counted = run(
        """
        payload = cluster.codec.encode((total, big))
        len(payload.body) < 10_000, sum(memoryview(b).nbytes for b in payload.buffers) >= big.nbytes, any(
            np.shares_memory(np.frombuffer(b, dtype=np.uint8), big) for b in payload.buffers if memoryview(b).nbytes)
        """
    )
    assert counted == "(True, True, True)"


def test_an_array_that_changes_in_place_is_sent_as_it_is_now(run):
    run("import numpy as np\nchanging = np.zeros(1000)\ndef first(): return float(changing[0])")
    assert run("cluster[0].call(first)") == "0.0"
    assert run("changing[0] = 5\ncluster[0].call(first), float(cluster[0].call(lambda: changing)[0])") == "(5.0, 5.0)"


def test_data_frames_and_odd_objects_travel(run):
    run("import pandas as pd, datetime, decimal, fractions, pathlib, re, uuid, types")
    assert (
        run(
            "frame = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})\nbool(cluster[0].call(lambda f: f * 1, frame).equals(frame))"
        )
        == "True"
    )
    things = "[datetime.date(2020, 1, 1), decimal.Decimal('1.5'), fractions.Fraction(1, 3), pathlib.Path('/a'), {1: {2}}, b'b', 1j, ..., None, frozenset({1}), range(3), re.compile('a'), uuid.UUID(int=1), types.SimpleNamespace(a=1)]"
    assert run(f"things = {things}\ncluster[0].call(lambda t: t, things) == things") == "True"
    assert run("loop = []\nloop.append(loop)\nback = cluster[0].call(lambda l: l, loop)\nback[0] is back") == "True"


# -- what cannot be sent


@pytest.mark.parametrize(
    ("made", "path"),
    [
        ("import threading\nbad = {'inner': [1, threading.Lock()]}", "['inner'][1]"),
        ("bad = {'file': open('/dev/null')}", "['file']"),
        ("bad = (x for x in range(3))", ""),
        ("import socket\nclass Holder: pass\nbad = Holder()\nbad.socket = socket.socket()", ".socket"),
    ],
)
def test_what_cannot_be_sent_is_named_at_once_with_its_path(notebook, made, path):
    notebook.run(made).ok()
    notebook.run("good = 1\nbefore = cluster.run('sorted(globals())')").ok()
    for line in (
        "%znb push good bad",
        "cluster[:].call(print, bad)",
        "cluster.submit(print, bad)",
        "list(cluster.map(print, [bad]))",
    ):
        failed = notebook.run(line)
        assert failed.error.name == "SerializationError"
        assert path in failed.error.plain
        assert "cannot send" in failed.error.plain
    assert notebook.run(remote("'good' in globals()")).ok().value == "{'w0': False, 'w1': False}"
    notebook.run("getattr(bad, 'socket', None) and bad.socket.close()").ok()


def test_a_global_of_a_function_that_cannot_be_sent_is_named(notebook):
    notebook.run("import threading\nlock = threading.Lock()\ndef locked():\n    with lock: return 1").ok()
    failed = notebook.run("cluster[0].call(locked)")
    assert failed.error.name == "SerializationError"
    assert "lock" in failed.error.plain
    assert "locked" in failed.error.plain


def test_a_result_that_cannot_come_home_is_named_by_the_caller_s_error(notebook):
    failed = notebook.run("import threading\ncluster[0].call(lambda: {'inner': threading.Lock()})")
    assert failed.error.name == "SerializationError"
    assert "['inner']" in failed.error.plain
    assert notebook.run(remote("1")).ok().value == "{'w0': 1, 'w1': 1}"


def test_an_error_in_unpickling_is_shown_where_it_is(notebook):
    notebook.run(
        """
        class Spoilt:
            def __reduce__(self): return (explode, ())
        def explode(): raise RuntimeError("does not want to live there")
        """
    ).ok()
    failed = notebook.run("cluster[0].call(print, Spoilt())")
    assert failed.error.name == "RuntimeError"
    assert "does not want to live there" in failed.error.plain
    assert plain(notebook.run(remote("print('works')", "--on 0")).ok()) == "works\n"
