"""docs/faults.md: every row is there, every test that it names exists, and it says where that test runs."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: The numbers of the rows: gaps are left between the groups.
EXPECTED = [
    f"{letter}{number}"
    for letter, first, last in (
        ("F", 1, 12),
        ("F", 20, 29),
        ("F", 30, 36),
        ("F", 39, 46),
        ("F", 50, 54),
        ("F", 60, 77),
        ("F", 80, 87),
        ("S", 1, 12),
    )
    for number in range(first, last + 1)
]

#: From the quickest to the longest.
CIRCLES = ("unit", "test", "chaos")


def rows() -> dict[str, tuple[str, str]]:
    """Where each row's tests run, and which they are, by its number."""
    page = (ROOT / "docs" / "faults.md").read_text()
    found = re.findall(r"^\| ([FS]\d+) \|.*\| ([^|]*) \| ([^|]*) \|$", page, re.MULTILINE)
    assert len(found) == len({number for number, *_ in found})
    return {number: (circles, shown) for number, circles, shown in found}


def named(cell: str) -> list[str]:
    return re.findall(r"`(tests/[^`]+)`", cell)


def circle(name: str) -> str | None:
    """Which command runs a test: `script/test unit`, `script/test` or `script/chaos`; None for no such test."""
    file, _, test = name.partition("::")
    path = ROOT / file
    if not path.is_file():
        return None
    body = ast.parse(path.read_text()).body
    found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == test]
    if not found:
        return None
    marks = [ast.unparse(decorator) for decorator in found[0].decorator_list]
    marks += [ast.unparse(node.value) for node in body if isinstance(node, ast.Assign) and is_mark(node)]
    if "mark.long" in " ".join(marks):
        return "chaos"
    return "test" if re.search(r"mark\.(rabbitmq|system)", " ".join(marks)) else "unit"


def is_mark(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)


def circles(shown: str) -> str:
    """Where the tests of a row run, by their marks; the word "chaos" stands for the rounds."""
    found = {circle(name) for name in named(shown)} | ({"chaos"} if shown.endswith("chaos") else set())
    return ", ".join(name for name in CIRCLES if name in found)


def test_every_fault_has_its_row():
    """In order, once."""
    assert list(rows()) == EXPECTED


def test_every_test_that_is_named_exists():
    """A renamed test takes its row along."""
    names = [name for _, shown in rows().values() for name in named(shown)]
    assert len(names) > len(EXPECTED)
    assert [name for name in names if circle(name) is None] == []


def test_every_row_says_where_its_tests_run():
    """A test that moves to another circle takes its row along."""
    assert {number: told for number, (told, _) in rows().items()} == {
        number: circles(shown) for number, (_, shown) in rows().items()
    }


def test_every_row_names_a_test_of_every_day():
    """A promise that only the long suites keep would be broken for days before anybody knew."""
    assert [number for number, (told, _) in rows().items() if told == "chaos"] == []


def test_a_row_without_a_test_says_why():
    """An empty cell would look like an oversight."""
    bare = {number: shown for number, (_, shown) in rows().items() if not named(shown)}
    assert all(shown.startswith("no test: ") for shown in bare.values())


def test_a_test_that_does_not_exist_is_found_out():
    """The checks above can fail: a wrong file, a wrong name, a file without a name; each circle is known."""
    assert circle("tests/test_faults_page.py::test_every_fault_has_its_row") == "unit"
    assert circle("tests/system/test_fuzz.py::test_forged_messages_are_kept_and_run_nothing") == "test"
    assert circle("tests/long/test_fuzz.py::test_six_hundred_forged_messages_are_kept_and_run_nothing") == "chaos"
    assert circle("tests/test_faults_page.py::test_of_something_else") is None
    assert circle("tests/test_no_such_file.py::test_every_fault_has_its_row") is None
    assert circle("tests/test_faults_page.py") is None
