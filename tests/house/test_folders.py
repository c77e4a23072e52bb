"""What each folder says of itself, how much it holds, and where its tests are."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

MOST_MODULES = 12
"""In one folder; one that holds more holds two ideas."""

TESTED_ELSEWHERE = {
    "app/local/commands": "tests/jobs/cli/terminal runs them, tests/app/gateway/auth what keys are made of",
    "jobs/testing": "tests/doubles: what stands in for the real thing is tried beside the real thing",
    "jobs/testing/ollama": "tests/doubles, where the same tests run against a real Ollama",
    "jobs/testing/registry": "tests/doubles, and tests/jobs/registry runs the client against it",
}
"""Folders of ours with no folder of that name under tests, with the reason."""


def folders(package: str) -> list[str]:
    """The folders below a package, the package itself left out, as paths below its parent."""
    found = {path.parent.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
    return sorted(str(folder) for folder in found - {Path(package)})


def modules(folder: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("folder", ["app", *folders("app"), "jobs", *folders("jobs"), "tests/support"])
def test_a_folder_says_what_it_holds(folder: str) -> None:
    """A folder's __init__.py says in a sentence what lives there, and in a line each what its files are for."""
    docstring = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text("utf-8"))) or ""
    sentence, _, lines = docstring.partition("\n\n")
    listed = re.findall(r"^(\w+) {2,}\S", lines, re.MULTILINE)

    assert sentence.endswith((".", ":"))
    assert sorted(listed) == modules(folder)


@pytest.mark.parametrize("folder", [*folders("app"), *folders("jobs")])
def test_a_folder_is_one_idea(folder: str) -> None:
    """It holds few files; only the simulator, which follows Ollama's own, holds more."""
    assert len(set(modules(folder)) - {"__main__"}) <= MOST_MODULES or folder == "jobs/testing/ollama"


def test_tests_mirror_the_packages() -> None:
    """Each folder of app and jobs has its folder under tests, and the other way round."""
    ours = {folder for package in ("app", "jobs") for folder in folders(package)}
    tested = {folder.removeprefix("tests/") for package in ("tests/app", "tests/jobs") for folder in folders(package)}

    assert tested == ours - set(TESTED_ELSEWHERE)
    assert set(TESTED_ELSEWHERE) <= ours


def test_every_test_states_its_promise() -> None:
    """Every test has a docstring."""
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]

    assert not bare, bare


def test_images_bring_our_data() -> None:
    """Of jobs only Python files go into an image, so there is no other file that could be read."""
    files = [path for path in (ROOT / "jobs").rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    others = {path.name for path in files if path.suffix != ".py"}

    assert others == {"README.md", "py.typed"}
