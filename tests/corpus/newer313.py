"""What Python 3.13 brought."""

from tests.corpus import add, case


@case(3)
def default_of_a_parameter[T = int]() -> T:
    return 3


@case(4, since=(3, 13), why="type parameter")
def inner_default():
    def inner[T = int](x: T) -> T:
        return x

    return inner(4)


class Box[T = int]:
    def get(self):
        return 3


add("class with a default", Box().get, 3)
