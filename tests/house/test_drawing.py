"""The drawing shows what is there: made-up houses with a circle, an arrow up, an import inside a function."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.drawing import Drawing, circles, code_lines, floors
from tests.support.checkout import ROOT

HOUSE = {
    "app/__init__.py": "",
    "app/deploy.py": "import modal\nfrom app.gateway import proxy\n",
    "app/gateway/__init__.py": "",
    "app/gateway/proxy.py": "def late():\n    from jobs.core.errors import NotFound\n",
    "jobs/__init__.py": "",
    "jobs/core/__init__.py": "",
    "jobs/core/errors.py": "",
    "jobs/core/units.py": "from jobs.core import errors\n",
}


def test_rooms_and_floors() -> None:
    """A folder is a room, a file in a package's root is one; an arrow is an import, wherever it is written."""
    drawing = Drawing(HOUSE)

    assert drawing.rooms == {
        "app/deploy.py": ["app.deploy"],
        "app/gateway": ["app.gateway.proxy"],
        "jobs/core": ["jobs.core.errors", "jobs.core.units"],
    }
    assert drawing.arrows == {"app/deploy.py": {"app/gateway"}, "app/gateway": {"jobs/core"}, "jobs/core": set()}
    assert floors(drawing.arrows) == {"app/deploy.py": 2, "app/gateway": 1, "jobs/core": 0}
    assert floors(drawing.inside("jobs/core")) == {"jobs.core.errors": 0, "jobs.core.units": 1}
    assert drawing.all_imports["app.deploy"] == {"modal", "app.gateway.proxy"}


@pytest.mark.parametrize(
    ("wrong", "rooms", "inside"),
    [
        ({}, [], []),
        ({"jobs/core/errors.py": "import jobs.core.units"}, [], [["jobs.core.errors", "jobs.core.units"]]),
        ({"jobs/core/errors.py": "from app.gateway.proxy import late"}, [["app/gateway", "jobs/core"]], []),
    ],
)
def test_circles_are_found(wrong: dict[str, str], rooms: list[list[str]], inside: list[list[str]]) -> None:
    """Between folders as well as among the files of one; what is in no circle is not called so."""
    drawing = Drawing(HOUSE | wrong)

    assert circles(drawing.arrows) == rooms
    assert circles(drawing.inside("jobs/core")) == inside
    assert len(circles(drawing.imports)) == len(rooms) + len(inside)
    assert len(floors(drawing.arrows)) == len(drawing.rooms)


def test_lines_of_code() -> None:
    """Empty lines, comments and docstrings are none; a string that is used is."""
    text = '"""What\n\nit is."""\n\n# why\ndef one(\n    two,\n):\n    """Adds."""\n    return """\n\n"""  # here\n'

    assert code_lines(text) == 6


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_it_is_printed(tmp_path: Path) -> None:
    """`python -m tests.house.draw` draws a checkout, and what it was at a revision."""
    for path, text in HOUSE.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=me", "-c", "user.email=me@example.com"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "Begin"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "jobs/core/more.py").write_text("import app.deploy\n")

    now, before = (
        subprocess.run(
            [sys.executable, "-m", "tests.house.draw", str(tmp_path), *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for words in ([], ["--at", "HEAD"])
    )

    assert before[:3] == [
        "4 modules, 3 imports among them, 5 lines of code",
        "3 rooms, 2 arrows between them",
        "no circle",
    ]
    assert "    2  app/deploy.py        1       2  app/gateway" in before
    assert "jobs/core      errors | units" in before
    assert now[0] == "5 modules, 4 imports among them, 6 lines of code"
    assert "a circle of rooms: app/deploy.py, app/gateway, jobs/core" in now
