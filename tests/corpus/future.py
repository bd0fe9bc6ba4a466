"""Code under ``from __future__ import annotations``."""

from __future__ import annotations

import typing

from tests.corpus import add, case


@case({"x": "int | None", "return": "list[int]"}, 1)
def own_annotations(x: int | None) -> list[int]:
    return own_annotations.__annotations__


@case({"x": "Undefined | int"}, since=(3, 6))
def inner_annotations():
    def inner(x: Undefined | int):
        return x

    return inner.__annotations__


@case([5])
def annotated_variables() -> list[int]:
    x: dict[str, Undefined] = {}
    y: int = 5
    x["y"] = y
    return list(x.values())


class Box:
    items: list[int]
    other: typing.Optional[int] = None

    def first(self) -> int | None:
        return self.other


add("a class with annotations", Box().first, None)
add("annotations of a class", lambda: Box.__annotations__["items"], "list[int]")
