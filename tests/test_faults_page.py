"""docs/faults.md: every row is there, and every test that it names exists."""

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: The numbers of the rows: gaps are left between the groups.
EXPECTED = [
    f"{letter}{number}"
    for letter, first, last in (("F", 1, 12), ("F", 20, 27), ("F", 30, 34), ("F", 40, 45), ("F", 50, 54), ("S", 1, 10))
    for number in range(first, last + 1)
]


def rows() -> dict[str, str]:
    """The last cell of each row, by its number."""
    page = (ROOT / "docs" / "faults.md").read_text()
    found = re.findall(r"^\| ([FS]\d+) \|.*\| ([^|]*) \|$", page, re.MULTILINE)
    assert len(found) == len(dict(found))
    return dict(found)


def named(cell: str) -> list[str]:
    return re.findall(r"`(tests/[^`]+)`", cell)


def exists(name: str) -> bool:
    file, _, test = name.partition("::")
    path = ROOT / file
    return path.is_file() and test in functions(path)


@functools.cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_its_row():
    """In order, once."""
    assert list(rows()) == EXPECTED


def test_every_test_that_is_named_exists():
    """A renamed test takes its row along."""
    names = [name for cell in rows().values() for name in named(cell)]
    assert len(names) > len(EXPECTED)
    assert [name for name in names if not exists(name)] == []


def test_a_row_without_a_test_says_why():
    """An empty cell would look like an oversight."""
    bare = {number: cell for number, cell in rows().items() if not named(cell)}
    assert all(cell.startswith("no test: ") for cell in bare.values())


def test_a_test_that_does_not_exist_is_found_out():
    """The check above can fail: a wrong file, a wrong name, a file without a name."""
    assert exists("tests/test_faults_page.py::test_every_fault_has_its_row")
    assert not exists("tests/test_faults_page.py::test_of_something_else")
    assert not exists("tests/test_no_such_file.py::test_every_fault_has_its_row")
    assert not exists("tests/test_faults_page.py")
