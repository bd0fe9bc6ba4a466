"""What Python 3.12 brought: f-strings that nest anything, and type parameters."""

from tests.corpus import add, case

TYPES = {"since": (3, 12), "why": "type"}


@case(["b", "a\nb", "x y", "1 2", "3"])
def nested_quotes():
    table = {"a": "b"}
    words = ["x", "y"]
    return [
        f"{table["a"]}",
        f"{"\n".join(["a", "b"])}",
        f"{" ".join(words)}",
        f"{1} {
            2  # two
        }",
        f"{f"{f"{3}"}"}",
    ]


@case(["table['a']='b'", "  b"])
def nested_and_shown():
    table = {"a": "b"}
    width = {"w": 3}
    return [f"{table['a']=}", f"{table["a"]:>{width["w"]}}"]


@case("  1", since=(3, 12), why="an f-string with such a format")
def deeply_nested():
    width = {"w": 3}
    return f"{1:{width["w"]:{1}}}"


@case([1, "T"], 1)
def generic[T](x: T) -> list[T]:
    return [x, "T"]


@case("T")
def uses_its_parameter[T]():
    return T.__name__


@case(3, **TYPES)
def type_statement():
    type Numbers = list[int]
    return 3 if Numbers.__name__ else 0


@case(4, **TYPES)
def inner_generic():
    def inner[T](x: T) -> T:
        return x

    return inner(4)


class Box[T]:
    def __init__(self, item: T):
        self.item = item

    def get(self) -> T:
        return self.item

    def name(self):
        return T.__name__

    def __eq__(self, other):
        return type(other) is type(self) and other.item == self.item

    __hash__ = None


class Deep[T](Box[T]):
    def get[U](self, other: U = None) -> T | U:
        return super().get()


add("generic class", Box(3).get, 3)
add("generic class's parameter", Box(3).name, "T")
add("generic class's instance", lambda box: box, Box(4), Box(4))
add("generic method", Deep(5).get, 5)
