"""Every kind of class that a notebook may define."""

import pytest

from znb.serialize import Codec

pytest_plugins = ("serialize_fixtures",)


def test_dataclasses(notebook, ident, peer):
    notebook.cell(
        "import dataclasses\nfrom typing import ClassVar\n"
        "@dataclasses.dataclass\nclass Plain:\n    x: int\n    tags: list = dataclasses.field(default_factory=list)\n    k: ClassVar[int] = 3\n"
        "@dataclasses.dataclass(frozen=True, order=True)\nclass Frozen:\n    x: int\n"
        "@dataclasses.dataclass(slots=True, kw_only=True)\nclass Slots:\n    x: int\n    y: int = 2\n"
        "@dataclasses.dataclass(frozen=True, slots=True)\nclass Both:\n    x: int\n"
        "def f(p):\n"
        "    return dataclasses.asdict(p), dataclasses.replace(p, x=9), [f.name for f in dataclasses.fields(p)], repr(p), "
        "[f.default is dataclasses.MISSING for f in dataclasses.fields(p)]\n"
        "def make(): return Plain(1), Slots(x=1), {Frozen(1), Frozen(1)}, Frozen(1) < Frozen(2)"
    )
    for value in (notebook.Plain(1), notebook.Frozen(1), notebook.Slots(x=1), notebook.Both(1)):
        assert ident(value) == value
        as_dict, replaced, names, text, missing = peer.call(notebook.f, value)
        assert as_dict["x"] == 1
        assert type(replaced) is type(value)
        assert replaced.x == 9
        assert names[0] == "x"
        assert text == repr(value)
        assert missing[0] is True
    plain, slots, frozen, is_less = peer.call(notebook.make)
    assert (plain, slots, frozen, is_less) == (notebook.Plain(1), notebook.Slots(x=1), {notebook.Frozen(1)}, True)


def test_enums(notebook, ident, peer):
    notebook.cell(
        "import enum\n"
        "class Color(enum.Enum):\n    RED = 1\n    CRIMSON = 1\n    BLUE = 'b'\n    def low(self): return self.name.lower()\n"
        "class Level(enum.IntEnum):\n    LOW = enum.auto()\n    HIGH = enum.auto()\n"
        "class Word(enum.StrEnum):\n    A = enum.auto()\n"
        "class Perm(enum.Flag):\n    R = 4\n    W = 2\n    X = 1\n    RW = R | W\n"
        "class IPerm(enum.IntFlag):\n    R = 4\n    W = 2\n"
        "made = []\n"
        "class Planet(enum.Enum):\n"
        "    EARTH = (5.9, 6.3)\n"
        "    def __init__(self, mass, radius):\n        made.append(mass)\n        self.mass = mass\n        self.radius = radius\n"
        "class Coord(bytes, enum.Enum):\n"
        "    def __new__(cls, value, label):\n        obj = bytes.__new__(cls, [value])\n        obj._value_ = value\n        obj.label = label\n        return obj\n"
        "    PX = (0, 'P.X')\n    PY = (1, 'P.Y')\n"
        "def check():\n"
        "    return (list(Color) == [Color.RED, Color.BLUE], Color.CRIMSON is Color.RED, Color(1) is Color.RED, Color['BLUE'].low(),\n"
        "            Level.HIGH > Level.LOW, int(Level.HIGH), Word.A == 'a', f'{Word.A}', Perm.RW == Perm.R | Perm.W, Perm.R in Perm.RW,\n"
        "            Perm(5).name, IPerm.R | IPerm.W, Planet.EARTH.radius, Planet((5.9, 6.3)) is Planet.EARTH, made,\n"
        "            Coord.PY.label, Coord(1) is Coord.PY, bytes(Coord.PY), repr(Color.RED), len(Color.__members__))\n"
        "def fails():\n    try: Color(7)\n    except ValueError as e: return str(e)\n"
    )
    for value in (
        notebook.Color.BLUE,
        notebook.Level.HIGH,
        notebook.Word.A,
        notebook.Perm.RW,
        notebook.Perm.R | notebook.Perm.X,
        notebook.Planet.EARTH,
        notebook.Coord.PY,
    ):
        assert ident(value) is value
    assert peer.call(notebook.check) == notebook.check()
    assert peer.call(notebook.fails) == "7 is not a valid Color"


def test_enum_members_as_defaults_keys_and_attributes(notebook, peer):
    notebook.cell(
        "import enum\nclass E(enum.Enum):\n    A = 1\n    B = 2\n    __order__ = 'A B'\n"
        "table = {E.A: 'a'}\nclass Uses:\n    default = E.B\n    def get(self, e=E.A): return table[e], self.default is E.B\ndef f(): return Uses().get()"
    )
    assert peer.call(notebook.f) == ("a", True)


def test_named_tuples(notebook, ident, peer):
    notebook.cell(
        "from collections import namedtuple\nfrom typing import NamedTuple\n"
        "P = namedtuple('P', 'x y', defaults=[5])\n"
        "class Q(NamedTuple):\n    a: int\n    b: str = 'z'\n    def both(self): return (self.a, self.b)\n"
        "class R(P):\n    __slots__ = ()\n    @property\n    def s(self): return self.x + self.y\n"
        "def f(): return P(1)._replace(x=2), P._make([1, 2]), Q(1).both(), R(1, 2).s, Q(1)._asdict(), P._fields, P(3) == (3, 5)"
    )
    for value in (notebook.P(1), notebook.Q(1), notebook.R(1, 2)):
        assert ident(value) == value
        assert type(ident(value)) is type(value)
    assert peer.call(notebook.f) == notebook.f()


def test_abstract_base_classes(notebook, peer):
    notebook.cell(
        "import abc\n"
        "class Base(abc.ABC):\n    @abc.abstractmethod\n    def m(self): ...\n    @property\n    @abc.abstractmethod\n    def p(self): ...\n"
        "    @classmethod\n    def __subclasshook__(cls, other): return True if hasattr(other, 'quacks') else NotImplemented\n"
        "class Good(Base):\n    def m(self): return 1\n    p = 2\n"
        "class Virtual: pass\nBase.register(Virtual)\nBase.register(int)\nclass Duck:\n    quacks = 1\n"
        "def f():\n"
        "    try: Base()\n    except TypeError as e: text = 'abstract' in str(e)\n"
        "    return text, Good().m(), issubclass(Virtual, Base), isinstance(3, Base), issubclass(str, Base), issubclass(Duck, Base), sorted(Base.__abstractmethods__)"
    )
    assert peer.call(notebook.f) == (True, 1, True, True, False, True, ["m", "p"])


def test_a_virtual_subclass_registered_later(notebook, peer):
    notebook.cell("import abc\nclass Base(abc.ABC): pass\nclass V: pass\ndef f(): return issubclass(V, Base)")
    assert peer.call(notebook.f) is False
    notebook.Base.register(notebook.V)
    assert peer.call(notebook.f) is True


def test_generic_classes(notebook, ident, peer):
    notebook.cell(
        "from typing import Generic, TypeVar, get_args\nT = TypeVar('T', bound=object)\nK = TypeVar('K', int, str)\n"
        "class Box(Generic[T]):\n    def __init__(self, x): self.x = x\n"
        "class IntBox(Box[int]): pass\n"
        "class Two(Generic[T, K]): pass\n"
        "def f(): return Box[int](1).x, IntBox(2).x, get_args(IntBox.__orig_bases__[0]), Box.__parameters__[0].__name__, Two[int, str].__args__, Box[T].__parameters__[0] is Box.__parameters__[0]"
    )
    assert peer.call(notebook.f) == (1, 2, (int,), "T", (int, str), True)
    assert type(ident(notebook.Box[int](1))) is notebook.Box
    assert ident(notebook.Box[int]) == notebook.Box[int]


def test_protocols(notebook, peer):
    notebook.cell(
        "from typing import Protocol, runtime_checkable\n"
        "@runtime_checkable\nclass HasLen(Protocol):\n    def size(self) -> int: ...\n"
        "class Impl:\n    def size(self): return 1\nclass Explicit(HasLen):\n    def size(self): return 2\n"
        "def f():\n    try: HasLen()\n    except TypeError: refused = True\n    return isinstance(Impl(), HasLen), isinstance(3, HasLen), Explicit().size(), refused"
    )
    assert peer.call(notebook.f) == (True, False, 2, True)


def test_typed_dicts(notebook, peer):
    notebook.cell(
        "from typing import TypedDict\nclass Movie(TypedDict, total=False):\n    name: str\n"
        "def f(): return Movie(name='x'), Movie.__total__, Movie.__annotations__, Movie.__optional_keys__"
    )
    assert peer.call(notebook.f) == ({"name": "x"}, False, {"name": str}, frozenset({"name"}))


def test_new_types_and_literals(notebook, peer):
    notebook.cell(
        "from typing import NewType, Literal, Optional, ParamSpec, Callable\nUserId = NewType('UserId', int)\nPS = ParamSpec('PS')\n"
        "def g(x: UserId, y: Optional['int'] = None) -> Literal['a']: return UserId(x)\ndef f(): return g(3), UserId.__supertype__, UserId.__name__, PS.__name__"
    )
    assert peer.call(notebook.f) == (3, int, "UserId", "PS")


def test_exceptions(notebook, peer):
    notebook.cell(
        "class AppError(Exception): pass\n"
        "class Detailed(AppError):\n    def __init__(self, code, *, where):\n        super().__init__(f'{code} at {where}')\n        self.code = code\n        self.where = where\n"
        "class Wide(AppError, ValueError): pass\n"
        "def f(kind):\n    if kind == 0: raise AppError('x')\n    if kind == 1: raise Detailed(3, where='here')\n    e = Wide('w')\n    e.add_note('noted')\n    raise e\n"
    )
    with pytest.raises(notebook.AppError, match="x"):
        peer.call(notebook.f, 0)
    with pytest.raises(notebook.Detailed, match="3 at here") as caught:
        peer.call(notebook.f, 1)
    assert (caught.value.code, caught.value.where) == (3, "here")
    with pytest.raises(notebook.AppError) as caught:
        peer.call(notebook.f, 2)
    assert type(caught.value) is notebook.Wide
    assert caught.value.__notes__ == ["noted"]


def test_nested_and_local_classes(notebook, ident, peer):
    notebook.cell(
        "class Outer:\n    class Inner:\n        class Deep: v = 7\ndef make():\n    class Local:\n        def __init__(self): self.k = 1\n        def same(self, o): return type(o) is Local\n    return Local\nL = make()\n"
        "def f(): return Outer.Inner.Deep.v, Outer.Inner.__qualname__"
    )
    assert peer.call(notebook.f) == (7, "Outer.Inner")
    assert type(ident(notebook.Outer.Inner())) is notebook.Outer.Inner
    assert type(ident(notebook.L())) is notebook.L
    assert peer.call(notebook.L().same, notebook.L()) is True


def test_metaclasses(notebook, peer):
    notebook.cell(
        "calls = []\n"
        "class Meta(type):\n"
        "    def __new__(m, name, bases, ns, **kw):\n        calls.append(name)\n        ns['stamp'] = name.lower()\n        return super().__new__(m, name, bases, ns)\n"
        "    def __init__(cls, name, bases, ns, *, need): super().__init__(name, bases, ns)\n"
        "    def __call__(cls, *a):\n        made = super().__call__(*a)\n        made.via = 'meta'\n        return made\n"
        "    def __len__(cls): return 42\n"
        "    def __setattr__(cls, name, value): raise AttributeError('closed')\n"
        "class A(metaclass=Meta, need=1): pass\nclass B(A, need=2): pass\n"
        "def f(): return A().via, len(B), B.stamp, calls, type(B).__name__, isinstance(B(), A)"
    )
    assert peer.call(notebook.f) == ("meta", 42, "b", ["A", "B"], "Meta", True)


def test_slots(notebook, ident, peer):
    notebook.cell(
        "class S:\n    __slots__ = ('a', '__b', '__weakref__')\n    def __init__(self, a):\n        self.a = a\n        self.__b = 2\n    def b(self): return self.__b\n"
        "class T(S):\n    __slots__ = 'c'\nclass U(S): pass\ndef f():\n    t = T(1)\n    t.c = 3\n    u = U(1)\n    u.any = 4\n    return t.a, t.b(), t.c, hasattr(t, '__dict__'), u.any"
    )
    assert peer.call(notebook.f) == (1, 2, 3, False, 4)
    back = ident(notebook.S(5))
    assert (back.a, back.b(), type(back)) == (5, 2, notebook.S)


def test_properties_and_descriptors(notebook, peer):
    notebook.cell(
        "import functools\n"
        "class D:\n    def __set_name__(self, owner, name):\n        self.name = name\n        self.times = getattr(self, 'times', 0) + 1\n    def __get__(self, obj, kind=None): return (self.name, self.times)\n"
        "class A:\n    d = D()\n    _x = 1\n    @property\n    def x(self): 'doc'; return self._x\n    @x.setter\n    def x(self, v): self._x = v\n"
        "    @functools.cached_property\n    def slow(self): return [self._x]\n"
        "    @functools.lru_cache\n    def cached(self, n): return n + 1\n"
        "    part = functools.partialmethod(lambda self, a, b: (a, b), 1)\n"
        "    @functools.singledispatchmethod\n    def show(self, v): return 'any'\n    @show.register\n    def _(self, v: int): return 'int'\n"
        "def f():\n    a = A()\n    a.x = 5\n    return a.x, A.x.__doc__, a.slow, a.slow is a.slow, a.d, a.cached(1), a.part(2), a.show(1), a.show('')"
    )
    assert peer.call(notebook.f) == (5, "doc", [5], True, ("d", 1), 2, (1, 2), "int", "any")


def test_class_variables_that_refer_to_the_class(notebook, peer):
    notebook.cell(
        "class Node:\n    registry = {}\n    default = None\nNode.registry['Node'] = Node\nNode.default = Node()\nNode.itself = Node\n"
        "def f(): return Node.registry['Node'] is Node, type(Node.default) is Node, Node.itself is Node"
    )
    assert peer.call(notebook.f) == (True, True, True)


def test_classes_and_functions_that_refer_to_each_other(notebook, peer):
    notebook.cell(
        "class A:\n    def other(self): return B()\n    def via(self): return helper(self)\nclass B:\n    def other(self): return A()\n"
        "def helper(x): return type(x) is A, isinstance(make(), B)\ndef make(): return A().other()"
    )
    assert peer.call(notebook.A().via) == (True, True)
    assert type(peer.call(notebook.make)) is notebook.B


def test_a_base_that_knows_its_subclasses(notebook, peer):
    notebook.cell(
        "class Base:\n    plugins = {}\n    hooked = []\n"
        "    def __init_subclass__(cls, *, name, **kw):\n        super().__init_subclass__(**kw)\n        Base.plugins[name] = cls\n        Base.hooked.append(name)\n"
        "class One(Base, name='one'): pass\nclass Two(One, name='two'): pass\n"
        "def f(): return sorted(Base.plugins), Base.plugins['two'] is Two, Base.hooked, Two.__mro__[1] is One"
    )
    assert peer.call(notebook.f) == (["one", "two"], True, ["one", "two"], True)
    notebook.cell("class Three(Base, name='three'): pass")
    assert peer.call(notebook.f) == (["one", "three", "two"], True, ["one", "two", "three"], True)


def test_inheritance_between_cell_classes(notebook, peer):
    notebook.cell("class A:\n    def who(self): return 'A'")
    notebook.cell("class B(A):\n    def who(self): return 'B' + super().who()")
    notebook.cell(
        "class M: mixed = 1\nclass C(B, M, dict): pass\ndef f(): return C(a=1), C().who(), C.mixed, [k.__name__ for k in C.__mro__]"
    )
    back, *rest = peer.call(notebook.f)
    assert type(back) is notebook.C
    assert back == {"a": 1}
    assert rest == ["BA", 1, ["C", "B", "A", "M", "dict", "object"]]


def test_bases_changed_in_place(notebook, peer):
    notebook.cell("class A:\n    v = 1\nclass B:\n    v = 2\nclass C(A): pass\ndef f(): return C.v")
    assert peer.call(notebook.f) == 1
    notebook.C.__bases__ = (notebook.B,)
    assert peer.call(notebook.f) == 2


def test_subclasses_of_builtins(notebook, ident):
    notebook.cell(
        "class I(int): pass\nclass L(list): pass\nclass D(dict): pass\nclass S(str): pass\nclass T(tuple): pass\nclass Y(bytes): pass\nclass F(float): pass"
    )
    for value in (
        notebook.I(3),
        notebook.L([1]),
        notebook.D(a=1),
        notebook.S("x"),
        notebook.T((1, 2)),
        notebook.Y(b"q"),
        notebook.F(1.5),
    ):
        assert type(ident(value)) is type(value)
        assert ident(value) == value


def test_instances_with_getstate_reduce_and_copyreg(notebook, ident):
    notebook.cell(
        "class G:\n    def __getstate__(self): return {'k': 1}\n    def __setstate__(self, s): self.got = s\n"
        "def rebuild(x): return R(x)\nclass R:\n    def __init__(self, x): self.x = x\n    def __reduce__(self): return rebuild, (self.x,)\n"
        "class N:\n    def __new__(cls, x):\n        self = super().__new__(cls)\n        self.x = x\n        return self\n    def __getnewargs__(self): return (self.x,)\n"
    )
    assert ident(notebook.G()).got == {"k": 1}
    assert ident(notebook.R(4)).x == 4
    assert ident(notebook.N(5)).x == 5


def test_ctypes_structures(notebook, peer):
    notebook.cell(
        "import ctypes\nclass P(ctypes.Structure):\n    _fields_ = [('x', ctypes.c_int), ('y', ctypes.c_int)]\ndef f():\n    p = P(1, 2)\n    return p.x + p.y"
    )
    assert peer.call(notebook.f) == 3


def test_metaclasses_that_lay_out_classes_themselves_are_refused_at_once(notebook, codec, monkeypatch):
    from znb.errors import SerializationError
    from znb.serialize import classes

    monkeypatch.setattr(classes, "is_struct", lambda _cls: False)  # as for any other such metaclass
    notebook.cell("import msgspec\nclass S(msgspec.Struct):\n    x: int\ndef f(): return S(1)")
    with pytest.raises(
        SerializationError, match="its metaclass StructMeta lays out classes in a way of its own"
    ) as caught:
        codec.encode(notebook.f)
    assert caught.value.path == "global 'S' of function f"


def test_a_definition_that_was_not_named_is_an_error(notebook, codec):
    from znb.errors import SerializationError
    from znb.serialize.records import join_prefix, split_prefix

    notebook.cell("class A: pass\ndef f(): return A")
    payload = codec.encode(notebook.f)
    receiver = Codec()
    for key in payload.definitions:
        receiver.learn(key, codec.definition(key))
    rows, start = split_prefix(payload.body)
    with pytest.raises(SerializationError, match="was not named by the message that needs it"):
        receiver.decode(join_prefix(rows[:1], payload.body[start:]))


def test_msgspec_structs(notebook, ident, peer):
    notebook.cell(
        "import msgspec\nclass Base(msgspec.Struct, frozen=True, tag='s', rename='camel'):\n    x_y: int\n    y: str = 'd'\n    z: list = []\n"
        "    def both(self): return self.x_y, self.y\n"
        "class Sub(Base, kw_only=True):\n    w: float = 1.5\n    v: int\n"
        "class Node(msgspec.Struct):\n    next: 'Node | None' = None\n"
        "def f():\n    s = Sub(1, v=2)\n"
        '    return s, s.both(), msgspec.json.encode(s), msgspec.json.decode(b\'{"type":"s","xY":5}\', type=Base).x_y, Base(1) == Base(1), Node(Node()).next'
    )
    assert peer.call(notebook.f)[:5] == notebook.f()[:5]
    assert type(peer.call(notebook.f)[5]) is notebook.Node
    assert ident(notebook.Sub(1, v=2)) == notebook.Sub(1, v=2)
