"""The real `modal` command, given the path of a file as its own documentation does: it says what was meant."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from modal import App

from app.file_start import meant
from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE

MODAL = Path(sys.executable).with_name("modal")

STARTED = ("deploy", "endpoint", "endpoint_v2", "jobs", "resources")
"""The files that have an app for `modal`."""


def modal(folder: Path, *words: str, at: Path) -> "subprocess.CompletedProcess[str]":
    nobody = {"MODAL_CONFIG_PATH": str(folder / "none.toml"), "MODAL_TOKEN_ID": "", "HOME": str(folder)}
    environ = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ} | nobody
    return subprocess.run(
        [str(MODAL), *words], cwd=at, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_the_files_that_can_be_started_are_known() -> None:
    """None of them is forgotten below."""
    names = sorted(path.stem for path in (ROOT / "app").glob("[a-z]*.py"))
    apps = {name: getattr(importlib.import_module(f"app.{name}"), "app", None) for name in names}
    assert tuple(name for name in names if isinstance(apps[name], App)) == STARTED


@pytest.mark.parametrize("name", STARTED)
def test_a_path_is_answered_by_the_module(tmp_path: Path, name: str) -> None:
    """`modal deploy app/NAME.py` exits 2 with two lines, the second of which has the command with -m; no trace."""
    done = modal(tmp_path, "deploy", f"app/{name}.py", at=ROOT)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert error.startswith("error: ")
    assert hint == f"hint: use -m, in the root of the checkout: `modal deploy -m app.{name}`"


def test_a_pull_by_path_is_answered_with_all_that_was_typed(tmp_path: Path) -> None:
    """Also when it is typed in the folder of the file."""
    for path, at in (("app/jobs.py::pull", ROOT), ("jobs.py::pull", ROOT / "app")):
        done = modal(tmp_path, "run", "-q", path, "--model", "llama3.2", at=at)
        assert done.returncode == 2
        assert done.stderr.endswith("`modal run -q -m app.jobs::pull --model llama3.2`\n")
        assert "Traceback" not in done.stdout + done.stderr


def test_what_was_meant_can_be_typed_as_it_is() -> None:
    """Words that a shell would take apart stay in one piece."""
    assert (
        meant(["/x/bin/modal", "run", "./app/jobs.py::job", "--id", "a b"]) == "modal run -m app.jobs::job --id 'a b'"
    )
