"""Code reaches any version of Python as source: what runs there, what is refused, what shows."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import json
import linecache
import os
import subprocess
import sys
import textwrap
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from fabremote import ShippingError, wrap
from fabremote.bootstrap import RemotePython, this_python
from fabremote.options import Options
from fabremote.shipping import code, payload, source, source_files, source_syntax
from tests import interpreters
from tests.packages import make_environment

ROOT = Path(__file__).parent.parent
HERE = "{}.{}".format(*sys.version_info)
REMOTES = [version for version in interpreters.found() if version != "2.7"]
LOCALS = [version for version in REMOTES if tuple(map(int, version.split("."))) >= (3, 10)]
# The oldest, the newest and this one.
SOME = sorted({REMOTES[0], REMOTES[-1], HERE})
OLDEST = REMOTES[0]


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    """A context whose interpreters are this machine's."""
    made = wrap(Context())
    for version in SOME:
        made.python(python=interpreters.found()[version]).call(abs, -1)
    yield made
    made.close()


@pytest.fixture(params=SOME)
def remote(request: pytest.FixtureRequest, context: Any) -> Any:
    """An interpreter of the oldest, the newest and this version in turn."""
    return context.python(python=interpreters.found()[request.param])


def python_of(version: str) -> RemotePython:
    """What an agent of a version says it is."""
    major, minor = map(int, version.split("."))
    return RemotePython((major, minor, 0), "cpython", sys.flags.optimize, 1, f"python{version}")


def dumped(fn: Callable[..., Any], version: str, *args: Any) -> payload.Payload:
    """The payload of a call for a version."""
    return payload.dump(fn, args, {}, Options(), python_of(version))


def written(text: str, file: str) -> dict[str, Any]:
    """The names that a text defines as a cell of a notebook: its file is nowhere."""
    text = textwrap.dedent(text)
    names: dict[str, Any] = {"__name__": "cell", "__file__": file}
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    exec(compile(text, file, "exec", dont_inherit=True), names)
    return names


# Every kind of function, from every version to every version


class Environments:
    """Interpreters with what the library needs, one per local version, made when asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._results: dict[str, dict[str, Any]] = {}

    @functools.cached_property
    def newest(self) -> str:
        """The newest local version's interpreter, with IPython."""
        return self.python(LOCALS[-1])

    def python(self, version: str) -> str:
        """The interpreter of a version, in an environment of its own unless it is this one."""
        if version == HERE:
            return sys.executable
        place = self._folder / version
        if not place.exists():
            packages = ["fabric", "cloudpickle"] + ["ipython"] * (version == LOCALS[-1])
            try:
                make_environment(place, interpreters.found()[version], *packages)
            except OSError as error:
                pytest.skip(str(error))
        return str(place / "bin" / "python")

    def run(self, version: str, *command: str) -> str:
        """What a command line of a version's interpreter prints."""
        done = subprocess.run(
            [self.python(version), *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def results(self, version: str) -> dict[str, Any]:
        """What came of the corpus, sent from a version to all."""
        if version not in self._results:
            paths = [interpreters.found()[remote] for remote in REMOTES]
            printed = self.run(version, "-m", "tests.corpus.run", *paths)
            self._results[version] = json.loads(printed.splitlines()[-1])
        return self._results[version]


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Environments:
    """Environments for the other local versions."""
    return Environments(tmp_path_factory.mktemp("environments"))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("remote_version", REMOTES)
@pytest.mark.parametrize("local_version", LOCALS)
def test_every_kind_of_function_travels(
    environments: Environments,
    local_version: str,
    remote_version: str,
    record_property: Callable[[str, object], None],
) -> None:
    found = environments.results(local_version)[interpreters.found()[remote_version]]
    counts = f"{found['right']} right, {found['refused']} refused, {len(found['wrong'])} wrong"
    record_property("counted", f"{local_version} to {remote_version}: {counts}")
    # What is refused must be, see `tests.corpus.run`: so these are all that there are.
    assert found["wrong"] == []
    assert found["right"] + found["refused"] == found["cases"] >= 200
    newer = tuple(map(int, remote_version.split("."))) >= tuple(map(int, local_version.split(".")))
    assert not (newer and found["refused"]), "nothing is too new for the same version or a newer"


# What tracebacks, inspect and warnings show there

CELL = """
    import inspect, traceback, warnings

    def decorated(fn):
        return fn

    @decorated
    def failing(
        x,
    ):
        text = '''of several
    lines'''
        return 1 / x  # the very line

    LAMBDAS = [lambda x: x, lambda x: 1 / x]  # lambdas

    def formatted(fn):
        try:
            fn(0)
        except ZeroDivisionError:
            return traceback.format_exc()

    def source_of(fn):
        return inspect.getsource(fn)

    def warned():
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            warnings.warn("careful")  # warned here
        return warnings.formatwarning(
            found[0].message, found[0].category, found[0].filename, found[0].lineno
        )
"""


@pytest.fixture(params=["/no/such/folder/user.py", "<cell 7>"])
def cell(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Functions whose file isn't there, as on a host."""
    names = written(CELL, request.param)
    yield {**names, "file": request.param}
    del linecache.cache[request.param]


def test_a_traceback_there_shows_the_users_lines(remote: Any, cell: dict[str, Any]) -> None:
    text = remote.call(cell["formatted"], cell["failing"])
    assert (
        f'File "{cell["file"]}", line 13, in failing\n    return 1 / x  # the very line\n' in text
    )
    text = remote.call(cell["formatted"], cell["LAMBDAS"][1])
    assert (
        "line 15, in <lambda>\n    LAMBDAS = [lambda x: x, lambda x: 1 / x]  # lambdas\n" in text
    )


def test_inspect_there_finds_the_source(remote: Any, cell: dict[str, Any]) -> None:
    lines = textwrap.dedent(CELL).splitlines(True)
    assert remote.call(cell["source_of"], cell["failing"]) == "".join(lines[6:13])
    assert remote.call(cell["source_of"], cell["LAMBDAS"][0]) == lines[14]
    assert remote.call(cell["source_of"], cell["source_of"]) == "".join(lines[22:24])


def marked(cls: type) -> type:
    return cls


@marked
class Thing:
    """Not the only class of this name here."""

    # With a comment.
    kind = "thing"

    def name(self) -> str:
        return self.kind

    class Inner:
        def one(self) -> int:
            return 1


class Lost(Exception):
    pass


class Mode(enum.Enum):
    ON = 1


def local_class() -> type:
    class Thing(Lost):
        @property
        def two(self) -> int:
            return 2

    return Thing


def test_inspect_there_finds_the_source_of_classes(remote: Any) -> None:
    classes = [Thing, Thing.Inner, Lost, Mode, local_class()]

    def sources(classes: list[Any]) -> Any:
        import inspect

        found = [inspect.getsourcelines(each) for each in classes]
        return found, inspect.getsource(classes[0].name), inspect.getsource(sources)

    assert remote.call(sources, classes) == sources(classes)


def test_a_warning_there_shows_its_line(remote: Any, cell: dict[str, Any]) -> None:
    text = remote.call(cell["warned"])
    assert text == f"{cell['file']}:29: UserWarning: careful\n" + (
        '  warnings.warn("careful")  # warned here\n'
    )


def test_a_traceback_here_names_the_users_line(remote: Any) -> None:
    def failing() -> None:
        raise ValueError("there")  # this line

    with pytest.raises(ValueError, match="there") as caught:
        remote.call(failing)
    text = str(caught.value.__cause__)
    assert f'File "{__file__}", line {failing.__code__.co_firstlineno + 1}, in failing' in text
    assert 'raise ValueError("there")  # this line' in text


def test_lines_come_from_here_even_if_that_file_is_another_there(
    remote: Any, tmp_path: Path
) -> None:
    file = tmp_path / "deployed.py"
    text = textwrap.dedent(CELL)
    file.write_text("# another line\n" * 40)
    names = written(text, str(file))
    assert "return 1 / x  # the very line" in remote.call(names["formatted"], names["failing"])
    found = remote.call(lambda file: __import__("linecache").getlines(file)[38:], str(file))
    assert found == ["# another line\n"] * 2


def test_nothing_is_imported_for_lines_that_nobody_asks_for(context: Any) -> None:
    python = context.python(python=interpreters.found()[OLDEST])
    loaded = python.call(lambda: sorted(__import__("sys").modules))
    assert not {"linecache", "tokenize", "inspect", "ast", "re"} & set(loaded)


@pytest.mark.parametrize("version", SOME)
def test_compiling_there_and_here_warns_of_nothing(version: str) -> None:
    python = interpreters.found()[version]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fn = written("def odd(x):\n    return '\\d' if x is 1 else x\n", "/no/odd.py")["odd"]
    own = wrap(Context())
    result = own.python(python=python, py_options="-W error").run(fn, 1)
    own.close()
    assert (result.value, result.stderr) == ("\\d", "")


# What has no source any more


def edited(tmp_path: Path) -> Callable[[], Any]:
    """A function whose file was edited after it was loaded."""
    file = tmp_path / "edited.py"
    text = "def answer():\n    return 'loaded'\n"
    file.write_text(text)
    names: dict[str, Any] = {"__name__": "edited"}
    exec(compile(text, str(file), "exec"), names)
    file.write_text(text.replace("loaded", "edited"))
    answer: Callable[[], Any] = names["answer"]
    return answer


def test_an_edited_file_is_noticed(context: Any, tmp_path: Path) -> None:
    answer = edited(tmp_path)
    assert context.python(python=interpreters.found()[HERE]).call(answer) == "loaded"
    version = next(each for each in SOME if each != HERE)
    with pytest.raises(ShippingError) as caught:
        context.python(python=interpreters.found()[version]).call(answer)
    text = str(caught.value)
    assert f"{tmp_path / 'edited.py'} has changed since it was loaded" in text
    assert "answer()" in text
    assert f"Python {version}." in text
    assert "Nothing of the call was sent" in text
    assert f"Python {HERE} with python=" in text
    assert isinstance(caught.value, TypeError)


EDITS = [
    ("return ('a', 'b', 'rm')", "return ('rm', 'b', 'a')"),
    ("return x.startswith(('rm', 'ls'))", "return x.startswith(('ls', 'rm'))"),
    ("return x(a=1, b=2)", "return x(b=1, a=2)"),
    ("return {'x': 1, 'y': 2}", "return {'y': 1, 'x': 2}"),
    ("return x in {1, 2}", "return x in {1.0, 2}"),
    ("return x in {(1, 2)}", "return x in {(1, True)}"),
    ("return 0.0", "return -0.0"),
    ("return (1, 2)", "return (1, 2.0)"),
    ("return lambda *a: a", "return lambda **a: a"),
    ("return lambda: ('a', 'b')", "return lambda: ('b', 'a')"),
    ("from os import sep, path", "from os import path, sep"),
    ("global y; y = ('a', 'b')", "global y; y = ('b', 'a')"),
    ("class C: y = ('a', 'b')", "class C: y = ('b', 'a')"),
    ("class C: __slots__ = ('a', 'b')", "class C: __slots__ = ('b', 'a')"),
]


@pytest.mark.parametrize(("loaded", "edited"), EDITS)
def test_no_edit_passes_for_the_code_that_was_loaded(loaded: str, edited: str) -> None:
    text = f"def spelt(x):\n    {loaded}\n"
    file = f"/no/{hash(loaded)}.py"
    code = written(text, file)["spelt"].__code__
    assert source.locate(code).body == text
    linecache.cache[file] = (0, None, text.replace(loaded, edited).splitlines(True), file)
    with pytest.raises(source.Unknown, match="has changed"):
        source.locate(code)
    del linecache.cache[file]


def test_other_parameters_and_another_guard_are_not_the_same_code() -> None:
    def one(text: str) -> Any:
        return written(text, "/no/one.py")["f"].__code__

    assert not source.same_code(one("def f(*a): pass"), one("def f(**a): pass"))
    guarded = one("def f(a):\n  try: a(0)\n  except E: pass\n  return 1")
    same = one("def f(a):\n  try: a(0)\n  except E: pass\n  return 1")
    assert source.same_code(guarded, same)
    if sys.version_info >= (3, 11):
        assert not source.same_code(guarded, guarded.replace(co_exceptiontable=b""))


def test_an_edit_of_an_order_is_noticed(context: Any, tmp_path: Path) -> None:
    file = tmp_path / "ordered.py"
    text = "def answer():\n    return ('a', 'b', 'rm')\n"
    file.write_text(text)
    names: dict[str, Any] = {"__name__": "ordered"}
    exec(compile(text, str(file), "exec"), names)
    file.write_text(text.replace("'a', 'b', 'rm'", "'rm', 'b', 'a'"))
    for version in SOME:
        python = context.python(python=interpreters.found()[version])
        if version == HERE:
            assert python.call(names["answer"]) == ("a", "b", "rm")
        else:
            with pytest.raises(ShippingError, match="has changed since it was loaded"):
                python.call(names["answer"])


def test_what_types_coroutine_marked_can_be_awaited_there(remote: Any) -> None:
    factor = 2

    @types.coroutine
    def nap(x: int) -> Any:
        yield
        return factor * x

    def main(x: int) -> Any:
        async def inner() -> Any:
            return await nap(x)

        running = inner()
        running.send(None)
        try:
            running.send(None)
        except StopIteration as stop:
            return stop.value

    assert remote.call(main, 3) == 6


def test_a_file_that_is_edited_after_a_call_is_still_the_one_that_was_loaded(
    context: Any, tmp_path: Path
) -> None:
    file = tmp_path / "kept.py"
    text = "def first():\n    return 1\n\ndef second():\n    return 'loaded'\n"
    file.write_text(text)
    names: dict[str, Any] = {"__name__": "kept"}
    exec(compile(text, str(file), "exec"), names)
    python = context.python(python=interpreters.found()[OLDEST])
    assert python.call(names["first"]) == 1
    file.write_text("# nothing\n")
    assert python.call(names["second"]) == "loaded"


def test_code_without_a_source_runs_only_under_the_same_version(context: Any) -> None:
    names: dict[str, Any] = {}
    exec("def made(x): return helper(x) * 2\ndef helper(x): return x + 1", names)
    assert context.python(python=interpreters.found()[HERE]).call(names["made"], 3) == 8
    with pytest.raises(ShippingError, match=r"made\(\).*no file '<string>'.*Define it in a file"):
        dumped(names["made"], "3.20", 3)


def test_a_wrapper_of_a_generated_method_stays_and_needs_the_same_version(context: Any) -> None:
    @dataclasses.dataclass
    class Doubled:
        x: int

    made = Doubled.__init__

    @functools.wraps(made)
    def init(self: Any, x: int) -> None:
        made(self, 2 * x)

    Doubled.__init__ = init  # type: ignore[method-assign]
    here = context.python(python=interpreters.found()[HERE])
    assert here.call(lambda: Doubled(2).x) == 4
    with pytest.raises(ShippingError, match=r"__init__\(\).*no file '<string>'"):
        dumped(Doubled, "3.20", 2)


def test_equal_functions_of_two_files_keep_their_own_files() -> None:
    text = "def same():\n    return __name__\n"
    first, second = (written(text, f"/no/{name}.py")["same"] for name in "ab")
    assert first.__code__ == second.__code__
    files = [code.dump(fn.__code__, python_of("3.20")).args[1] for fn in (first, second)]
    assert files == ["/no/a.py", "/no/b.py"]


# Syntax that is newer than the remote


def walrus() -> int:
    return (n := 1) + n


def positional_only(a: int, /) -> int:
    return a


def inner_positional_only() -> Any:
    return lambda a, /: a


def matching(x: Any) -> Any:
    match x:
        case [y]:
            return y


def continuing() -> None:
    for _ in ():
        try:
            pass
        finally:
            continue  # noqa: B012


def decorating() -> Any:
    @[lambda fn: fn][0]
    def inner() -> None:
        pass

    return inner


NEWER = """
    async def comprehending(ticks):
        return [[i async for i in ticks] for _ in range(2)]

    def grouping():
        try:
            pass
        except* ValueError:
            pass

    def starring(x):
        return x[*x]
"""
NEWEST = """
    def aliasing():
        type Alias = int

    def generic():
        def inner[T](x: T): pass

    def classy():
        class Inner[T]: pass
"""
REFUSED: list[tuple[Any, str, str, int]] = [
    (walrus, "an assignment expression (:=)", "3.8", 1),
    (positional_only, "a positional-only parameter (/)", "3.8", 0),
    (inner_positional_only, "a positional-only parameter (/)", "3.8", 1),
    (continuing, "continue in a finally clause", "3.8", 5),
    (decorating, "a decorator that is more than a dotted name or its call", "3.9", 2),
    (matching, "a match statement", "3.10", 1),
]
if sys.version_info >= (3, 11):
    names = written(NEWER, "/no/newer.py")
    REFUSED += [
        (names["comprehending"], "an asynchronous comprehension inside another", "3.11", 1),
        (names["grouping"], "an except* clause", "3.11", 1),
    ]
if sys.version_info >= (3, 12):
    names = written(NEWEST, "/no/newest.py")
    REFUSED += [
        (names["aliasing"], "a type statement", "3.12", 1),
        (names["generic"], "a type parameter list", "3.12", 1),
        (names["classy"], "a type parameter list", "3.12", 1),
    ]


@pytest.mark.parametrize(
    ("fn", "what", "since", "line"), REFUSED, ids=[case[0].__name__ for case in REFUSED]
)
def test_syntax_that_is_not_there_is_refused_by_name(
    fn: Any, what: str, since: str, line: int
) -> None:
    older = f"3.{int(since.split('.')[1]) - 1}"
    with pytest.raises(ShippingError) as caught:
        dumped(fn, older)
    text = str(caught.value)
    number = fn.__code__.co_firstlineno + line
    file = fn.__code__.co_filename
    assert text.startswith(f"{fn.__name__}() can't be sent to Python {older}.0 (python{older})")
    assert f"{what}, at {file}, line {number}, needs Python {since}" in text
    assert "Nothing of the call was sent" in text
    assert "python=" in text
    assert dumped(fn, since).parcel.size > 0


SPELLINGS = [
    ('return f"{x=}"', "return ('x={!r}'.format(x))", "3.7"),
    ('return f"a {x = !s:>{x}}"', "return ('a x = {!s:>{}}'.format(x, x))", "3.7"),
    ("return 1, *x", "return (1, *x)", "3.7"),
    ("for y in *x, 1: pass", "for y in (*x, 1): pass", "3.8"),
    ("y: int = 1, *x", "y: int = (1, *x)", "3.7"),
    ("y: int = 1, 2", "y: int = (1, 2)", "3.7"),
    ("return x[y := 0]", "return x[(y := 0)]", "3.9"),
    ("return x[y := 0, 1]", "return x[(y := 0), 1]", "3.9"),
    ("return {y := 0, 1}", "return {(y := 0), 1}", "3.9"),
    ("with (open(x) as f, x): pass", "with (open(x)) as f, (x): pass", "3.8"),
    ("def g(a: list[int] = []) -> int | None: pass", None, "3.8"),
]


@pytest.mark.parametrize(("line", "older", "version"), SPELLINGS)
def test_newer_spellings_are_rewritten_for_an_older_version(
    line: str, older: str | None, version: str
) -> None:
    older = older or "def g(a: ('list[int]') = []) -> ('int | None'): pass"
    fn = written(f"def spelt(x):\n    {line}\n", f"/no/{hash(line)}.py")["spelt"]
    found = source.locate(fn.__code__)
    body, shown = source_syntax.adapted(found, python_of(version))
    assert body == f"def spelt(x):\n    {older}\n"
    assert shown == found.body
    assert source_syntax.adapted(found, python_of("3.20")) == (found.body, None)


@pytest.mark.parametrize(
    "name", ["enum.StrEnum", "itertools.batched", "math.sumprod", "typing.Self", "tomllib.loads"]
)
def test_what_the_library_there_lacks_is_named_with_its_version(context: Any, name: str) -> None:
    module, _, attribute = name.partition(".")
    found = getattr(pytest.importorskip(module), attribute, None)
    if found is None:
        pytest.skip("not here either")
    python = context.python(python=interpreters.found()[OLDEST])
    with pytest.raises(ShippingError) as caught:
        python.call(lambda: found)
    assert f"{module}" in str(caught.value)
    assert attribute in str(caught.value)
    said = str(caught.value)
    assert f"isn't there in Python {OLDEST}." in said or "other Pythons' standard library" in said


def test_a_union_stays_one_where_there_are_unions(context: Any) -> None:
    union = int | str
    here = context.python(python=interpreters.found()[HERE])
    assert here.call(lambda: type(union).__name__) == type(union).__name__
    assert here.call(lambda: isinstance(1, union))
    older = context.python(python=interpreters.found()[OLDEST])
    assert older.call(lambda: str(union)) == "typing.Union[int, str]"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement is of 3.12")
def test_a_type_alias_travels_by_value(context: Any) -> None:
    text = "type Al = list[int]\ntype Of[T] = list[T]\ndef n(): return repr((Al, Of[int]))\n"
    fn = written(text, "/no/aliases.py")["n"]
    here = context.python(python=interpreters.found()[HERE])
    assert here.call(fn) == "(Al, Of[int])"
    with pytest.raises(ShippingError, match=r"typing\.TypeAliasType isn't there"):
        context.python(python=interpreters.found()[OLDEST]).call(fn)


# Where functions are written


def test_a_function_with_asserts_that_pytest_rewrote_travels(remote: Any) -> None:
    def checked(x: int, *, limit: int = 3) -> str:
        numbers = [y for y in range(x)]  # noqa: C416
        assert numbers, f"no numbers: {x}"
        assert len(numbers) < limit
        return "checked"

    assert remote.call(checked, 2) == "checked"
    with pytest.raises(AssertionError, match="no numbers: 0"):
        remote.call(checked, 0)
    with pytest.raises(AssertionError):
        remote.call(checked, 5)


REWRITTEN = """
    def checked(x):
        assert x > 1, f"small: {x}"
        return ["old", x * 2]

    def nested(x):
        def inner(y):
            assert y in [1, 2, 3] and y
            return y + 4
        assert inner(x)
        return inner(x)
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [('"old"', '"new"'), ("x * 2", "x * 3"), ("x > 1", "x > 0"), ("small", "short"), ("+", "-")],
)
def test_an_edited_file_is_noticed_though_pytest_rewrote_it(
    remote: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    name = f"rewritten{abs(hash(str(tmp_path)))}"
    pytest.register_assert_rewrite(name)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / f"{name}.py"
    file.write_text(textwrap.dedent(REWRITTEN))
    module = importlib.import_module(name)
    assert "@py_assert" in str(module.checked.__code__.co_varnames)
    fn, wanted = (module.nested, 6) if old == "+" else (module.checked, ["old", 4])
    text = file.read_text()
    file.write_text(text.replace(old, new))
    version = remote.call(lambda: "{}.{}".format(*__import__("sys").version_info))
    by_value = types.FunctionType(fn.__code__, {**vars(module), "__name__": "__main__"})
    if version == HERE:
        assert remote.call(by_value, 2) == wanted
    else:
        with pytest.raises(ShippingError, match=r"has changed since it was loaded"):
            remote.call(by_value, 2)
    file.write_text(text)
    assert (
        remote.call(types.FunctionType(fn.__code__.replace(), by_value.__globals__), 2) == wanted
    )


def run_there(script: str, tmp_path: Path, python: str = sys.executable, *options: str) -> str:
    """What a script prints that has an interpreter of the oldest version as ``py``."""
    text = f"""
import sys
from invoke import Context
from fabremote import wrap
py = wrap(Context()).python(python={interpreters.found()[OLDEST]!r})
{textwrap.dedent(script)}
"""
    (tmp_path / "main.py").write_text(text)
    done = subprocess.run(
        [python, *(options or ["main.py"])] + ([text] if options == ("-c",) else []),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SCRIPT = """
class Thing:
    def __init__(self, x):
        self.x = x
    def twice(self):
        return Thing(2 * self.x)

def work(thing):
    return [thing.twice(), sys.version_info[:2], __name__]

thing, version, name = py.call(work, Thing(2))
print(type(thing) is Thing, thing.x, "%d.%d" % version, name)
"""


def test_a_script_reaches_another_version(tmp_path: Path) -> None:
    assert run_there(SCRIPT, tmp_path) == f"True 4 {OLDEST} __main__\n"


HELPER = """
from __future__ import annotations
import dataclasses, enum

class Mode(enum.Enum):
    ON = 1

class Thing:
    def __init__(self, x: int | None) -> None:
        self.x = x

def work(x):
    return [Thing(x), Mode.ON, __name__]

def newer(x):
    return (y := x)
"""


def test_a_module_that_the_other_version_does_not_read_goes_by_value(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text(HELPER)
    script = """
        import helper
        from helper import work

        for fn in (work, helper.work, lambda x: work(x), lambda x: helper.work(x)):
            thing, mode, name = py.call(fn, 2)
            print(type(thing) is helper.Thing, thing.x, mode is helper.Mode.ON, name)
    """
    assert run_there(script, tmp_path) == "True 2 True helper\n" * 4


READ = [
    ("x = [1]\ndef f(a: list): pass\n", (3, 6)),
    ("def f(): return (x := 1)\n", (3, 8)),
    ("with (a as b, c as d): pass\n", (3, 9)),
    ("x: list[int] = []\n", (3, 9)),
    ("x: tuple = 1, 2\n", (3, 8)),
    ("x = y[z := 0]\n", (3, 10)),
    ("def f(x: int | None): pass\n", (3, 10)),
    ("from __future__ import annotations\ndef f(x: int | None): pass\n", (3, 7)),
    ("match x:\n    case 1: pass\n", (3, 10)),
    ("x = f'{y=}'\n", (3, 8)),
]


@pytest.mark.parametrize(("text", "since"), READ)
def test_whether_a_version_reads_a_module_is_known_here(text: str, since: tuple[int, int]) -> None:
    assert source_syntax.reads(text, since)
    if since > (3, 6):
        assert not source_syntax.reads(text, (3, since[1] - 1))


def test_a_fabfile_reaches_another_version(tmp_path: Path) -> None:
    fabfile = f"""
        import sys
        from fabric import task
        from fabremote import wrap

        LIMIT = 3

        def measure(x):
            return [x * LIMIT, sys.version_info[1]]

        @task
        def deploy(c):
            print(wrap(c).python(python={interpreters.found()[OLDEST]!r}).call(measure, 2))
    """
    (tmp_path / "fabfile.py").write_text(textwrap.dedent(fabfile))
    printed = run_there("", tmp_path, sys.executable, "-m", "fabric", "deploy")
    assert printed == f"[6, {OLDEST.split('.')[1]}]\n"


def test_a_doctest_reaches_another_version(tmp_path: Path) -> None:
    script = '''
        import doctest

        def documented():
            """
            >>> def double(x): return 2 * x
            >>> py.call(double, 4)
            8
            >>> py.call(lambda: [i for i in range(2)])
            [0, 1]
            """

        print(doctest.testmod())
    '''
    assert run_there(script, tmp_path) == "TestResults(failed=0, attempted=3)\n"


def test_code_from_the_command_line_reaches_another_version(tmp_path: Path) -> None:
    assert run_there(SCRIPT, tmp_path, sys.executable, "-c") == f"True 4 {OLDEST} __main__\n"


@pytest.mark.timeout(200)
def test_cells_of_ipython_reach_another_version(
    environments: Environments, tmp_path: Path
) -> None:
    if LOCALS[-1] == HERE:
        pytest.importorskip("IPython")
    script = """
        from IPython.core.interactiveshell import InteractiveShell

        shell = InteractiveShell.instance()
        shell.user_ns["py"] = py
        for cell in (
            "import sys\\ndef f(x):\\n    return [x, [lambda y: y + 1, lambda y: y + 2][1](x)]",
            "class C:\\n    def m(self): return f(1)",
            "print(py.call(f, 2), py.call(lambda: f(3)), py.call(C().m))",
        ):
            shell.run_cell(cell, store_history=True).raise_error()
    """
    printed = run_there(script, tmp_path, environments.newest)
    assert printed.splitlines()[-1] == "[2, 4] [3, 5] [1, 3]"


# What it costs


def increment(x: int) -> int:
    return x + 1


def test_a_trivial_function_is_small() -> None:
    for python in (this_python(), python_of(OLDEST)):
        assert payload.dump(increment, (1,), {}, Options(), python).size(python.coded) < 1024


def test_a_function_of_a_large_file_is_found_without_parsing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = "".join(f"def f{n}(x):\n    return [x, {n}]\n\n" for n in range(1000))
    names = written("import os\n" + lines, "/no/large.py")
    parsed: list[int] = []
    whole = source_files.ast.parse

    def parse(text: str) -> Any:
        parsed.append(len(text.strip()))
        return whole(text)

    monkeypatch.setattr(source_files.ast, "parse", parse)
    source.locate(names["f700"].__code__)
    source.locate(names["f700"].__code__)
    assert parsed == [len("def f700(x):\n    return [x, 700]")]
