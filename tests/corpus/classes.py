"""Classes by value: inheritance, super, slots, private names, metaclasses, descriptors."""

import abc
import collections.abc
import functools

from tests.corpus import add, case


class Meter:
    """Methods of every kind."""

    unit = "m"
    __hidden = 5

    def __init__(self, start):
        self.start = start
        self.__private = start

    def plus(self, x):
        return self.start + x

    def hidden(self):
        return [self.__hidden, self.__private, self.__secret()]

    def __secret(self):
        return "secret"

    def inner_private(self):
        def read():
            return self.__private

        return [read(), (lambda: self.__hidden)(), [self.__hidden for _ in range(1)]]

    @property
    def doubled(self):
        return 2 * self.start

    @doubled.setter
    def doubled(self, value):
        self.start = value // 2

    @functools.cached_property
    def tripled(self):
        return 3 * self.start

    @classmethod
    def named(cls, x):
        return f"{x} {cls.unit} {cls.__name__}"

    @staticmethod
    def negated(x):
        return -x

    def __call__(self, x):
        return self.start * x

    def __eq__(self, other):
        return type(other) is type(self) and other.start == self.start

    def __hash__(self):
        return hash(self.start)


class LongMeter(Meter):
    unit = "km"

    def plus(self, x):
        return 1000 * super().plus(x)

    @classmethod
    def named(cls, x):
        return "long " + super().named(x)

    def inner_super(self, x):
        def deeper():
            return super(LongMeter, self).plus(x)

        return [deeper(), __class__.__name__]

    def super_in_a_lambda(self, x):
        return (lambda: super(LongMeter, self).plus(x))()


class VeryLong(LongMeter):
    plus = lambda self, x: [super(VeryLong, self).plus(x), __class__.unit]


@case([6, 9, 9, 10])
def properties():
    meter = Meter(3)
    found = [meter.doubled, meter.tripled, meter.tripled]
    meter.doubled = 10
    return [*found, meter.doubled]


class Slotted:
    __slots__ = ("__own", "a")

    def __init__(self, a):
        self.a = a
        self.__own = a

    def own(self):
        return self.__own

    def __eq__(self, other):
        return type(other) is type(self) and self.a == other.a and self.own() == other.own()

    __hash__ = None


class MoreSlots(Slotted):
    __slots__ = ("c",)


class Left:
    def who(self):
        return ["left"]


class Base(Left):
    def who(self):
        return ["base", *super().who()]


class Right(Left):
    def who(self):
        return ["right", *super().who()]


class Diamond(Base, Right):
    def who(self):
        return ["diamond", *super().who()]


class Meta(type):
    def __new__(mcs, name, bases, namespace, **kwargs):
        namespace["made_by"] = kwargs.get("label", "meta")
        return super().__new__(mcs, name, bases, namespace)

    def __init__(cls, name, bases, namespace, label="x"):
        super().__init__(name, bases, namespace)
        cls.label = label

    def __len__(cls):
        return 42

    @property
    def shout(cls):
        return cls.__name__.upper()


class WithMeta(metaclass=Meta, label="given"):
    pass


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self):
        """Return the area."""

    @property
    @abc.abstractmethod
    def name(self):
        """Return the name."""

    def doubled(self):
        return 2 * self.area()


class Square(Shape):
    name = "square"

    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side**2


@Shape.register
class Virtual:
    pass


@case("TypeError")
def abstract():
    try:
        Shape()
    except TypeError as error:
        return type(error).__name__


@case([True, True, False])
def registered():
    return [isinstance(Virtual(), Shape), issubclass(Square, Shape), isinstance(1, Shape)]


class Items(collections.abc.Sequence):
    def __init__(self, *items):
        self.items = items

    def __getitem__(self, index):
        return self.items[index]

    def __len__(self):
        return len(self.items)


class Positive:
    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner):
        return self if instance is None else instance.__dict__[self.name]

    def __set__(self, instance, value):
        if value < 0:
            raise ValueError(self.name)
        instance.__dict__[self.name] = value


class Account:
    balance = Positive()

    def __init__(self, balance):
        self.balance = balance


@case([5, "balance"])
def descriptors():
    try:
        Account(-1)
    except ValueError as error:
        return [Account(5).balance, str(error)]


class Plugin:
    known = {}

    def __init_subclass__(cls, key=None, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.known[key] = cls


class First(Plugin, key="one"):
    pass


@case([["one"], ["one", "two"]])
def subclasses():
    before = list(First.known)

    class Second(Plugin, key="two"):
        pass

    return [before, list(Plugin.known)]


class Outer:
    class Inner:
        def __init__(self, x):
            self.x = x

        def outer(self):
            return Outer.Inner(self.x + 1).x

    class Other(Inner):
        pass


class Tree:
    root = None

    def __init__(self, *kids):
        self.kids = kids

    def size(self):
        return 1 + sum(kid.size() for kid in self.kids)

    def copy(self):
        return Tree(*(kid.copy() for kid in self.kids))


Tree.root = Tree()


class Number(int):
    def half(self):
        return self / 2


class Text(str):
    def shout(self):
        return Text(self.upper() + "!")


class Table(dict):
    def __missing__(self, key):
        return key * 2


class Stack(list):
    def push(self, x):
        self.append(x)
        return self


class Compared:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x == other.x

    def __lt__(self, other):
        return self.x < other.x

    __hash__ = None


Compared = functools.total_ordering(Compared)


def local_class(base):
    class Local:
        """Local."""

        offset = base

        def __init__(self, x):
            self.x = x

        def total(self):
            return self.x + base + self.offset

        def me(self):
            return [Local.__name__, __class__ is Local, type(self).__qualname__.split(".")[-1]]

    return Local


@case([["Made", 3], "Made.Deep", 4])
def classes_inside():
    y = 4

    class Made:
        x = 3

        class Deep:
            z = y

        def both(self):
            return [type(self).__name__, self.x]

    return [Made().both(), Made.Deep.__qualname__.split("<locals>.")[1], Made.Deep.z]


@case([1, 2, {"a": 1}])
def class_with_namespace_code():
    class Made:
        items = [x for x in (1, 2)]
        first = items[0]
        if first:
            second = items[1]
        table = {name: number for name, number in zip("a", items)}

    return [Made.first, Made.second, Made.table]


class Context:
    def __enter__(self):
        return "inside"

    def __exit__(self, *args):
        return True


class Attributes:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name.upper()

    def __getitem__(self, key):
        return [key]

    def __len__(self):
        return 3

    def __bool__(self):
        return False


Local = local_class(10)
add("bound method", Meter(3).plus, 7, 4)
add("super()", LongMeter(3).plus, 7000, 4)
add("super() in a class method", LongMeter.named, "long 4 km LongMeter", 4)
add("super in an inner function", LongMeter(3).inner_super, [4, "LongMeter"], 1)
add("super in a lambda", LongMeter(3).super_in_a_lambda, 4, 1)
add("a lambda as a method", VeryLong(3).plus, [4000, "km"], 1)
add("private names", Meter(3).hidden, [5, 3, "secret"])
add("private names inside", Meter(3).inner_private, [3, 5, [5]])
add("class method", Meter.named, "4 m Meter", 4)
add("static method", Meter.negated, -4, 4)
add("callable instance", Meter(3), 12, 4)
add("a class", Meter, Meter(4), 4)
add("an instance", lambda m: m, LongMeter(4), LongMeter(4))
add("slots", lambda s: s, MoreSlots(3), MoreSlots(3))
add("private slots", Slotted(3).own, 3)
add("diamond", Diamond().who, ["diamond", "base", "right", "left"])
add("metaclass", lambda: [WithMeta.made_by, WithMeta.label, len(WithMeta)], ["given", "given", 42])
add("property of a metaclass", lambda: WithMeta.shout, "WITHMETA")
add("abc", Square(3).doubled, 18)
add("abstract property", lambda: Square(3).name, "square")
add("sequence", lambda: [3 in Items(1, 3), list(reversed(Items(1, 3)))], [True, [3, 1]])
add("nested class", Outer.Inner(3).outer, 4)
add("subclass of a nested class", lambda: isinstance(Outer.Other(1), Outer.Inner), True)
add("a class that refers to itself", Tree(Tree(), Tree(Tree())).size, 4)
add("an attribute of its own type", lambda: type(Tree.root) is Tree, True)
add("subclass of int", Number(5).half, 2.5)
add("subclass of str", Text("a").shout, Text("A!"))
add("subclass of dict", lambda: Table(a=1)["b"], "bb")
add("subclass of list", Stack([1]).push, Stack([1, 2]), 2)
add(
    "total_ordering", lambda: [Compared(1) <= Compared(2), Compared(3) > Compared(2)], [True, True]
)
add("class of a function", Local(5).total, 25)
add("class of a function, itself", Local(5).me, ["Local", True, "Local"])
add(
    "docstring of a class",
    lambda: [Meter.__doc__, Local.__doc__],
    ["Methods of every kind.", "Local."],
)
add(
    "names of a class",
    lambda: [Outer.Inner.__qualname__, Meter.__name__],
    ["Outer.Inner", "Meter"],
)
add("special methods", lambda a: [a.x, a[1], len(a), bool(a)], ["X", [1], 3, False], Attributes())
add("type()", lambda: type("Made", (Meter,), {"z": 1})(4).plus(1), 5)
