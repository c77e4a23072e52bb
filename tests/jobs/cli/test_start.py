"""What starts: only what a command needs, and Ctrl-C is quiet from the first import on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.local_stack import COMMAND, Shell, Up, up
from tests.support.waiting import PATIENCE

HEAVY = {
    "httpx", "loguru", "rich", "pydantic", "fastapi", "uvicorn", "modal", "prometheus_client", "asyncio",
    "cryptography", "cronsim", "encodings.idna", "jobs.weights.directory", "jobs.weights.prune_plan",
    "jobs.ledger.ledger",
}  # fmt: skip
"""Each takes from a twentieth to a fifth of a second of processor time; a command that reads takes less in all."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A simulated stack with a fleet and a model."""
    folder = tmp_path_factory.mktemp("start")
    shell = Shell(folder)
    with up(shell, "--simulate", "--tier", "a10g", "--fleet", str(Path("app/fleet.toml").absolute())) as running:
        shell.ask("pull", "tiny")
        yield running


READING = ("jobs", "jobs --dead", "status", "route tiny", "plan", "ps", "night")


@pytest.mark.parametrize("line", READING)
def test_what_only_reads_imports_little(stack: Up, line: str) -> None:
    """No HTTP client but the standard library's, no validator, no logger, no event loop: it is to feel instant."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "app.local", *line.split()],
        env=stack.shell.environ, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    imported = imported_by(done.stderr)
    assert "jobs.cli.main" in imported
    assert not imported & HEAVY


def imported_by(said: str) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")}


def test_a_plan_by_a_fleet_file_imports_what_checks_it_and_no_more(stack: Up, tmp_path: Path) -> None:
    """The validator, the cron lines and what plans; no HTTP client where no registry is asked."""
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(re.sub(r"\[\[models\]\]\n(?:\w.*\n)+", "", Path("app/fleet.toml").read_text("utf-8")))
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "app.local", "plan", "--fleet", str(fleet)],
        env=stack.shell.environ, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    imported = imported_by(done.stderr)
    assert "app.fleet.schema" in imported
    assert sorted(imported & HEAVY) == ["cronsim", "jobs.weights.prune_plan", "pydantic"]


INTERRUPTING = """
import os, signal, sys
count = 0
def see(event, args):
    global count
    if event == "import" and (count or args[0] == "jobs.cli.interrupt"):
        count += 1
        if count == {at}:
            os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(see)
"""
"""As `sitecustomize`: Ctrl-C comes in the moment of an import, counted from the first that is ours on."""


def interrupted_at(folder: Path, at: int, command: list[str]) -> "subprocess.CompletedProcess[str]":
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(INTERRUPTING.format(at=at))
    environ = {**Shell(folder).environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize("line", ["app.local jobs", "app.local up --port 0", "jobs jobs"])
@pytest.mark.parametrize("at", [8, 30, 90, 170])
def test_ctrl_c_while_modules_are_imported_is_quiet(tmp_path: Path, line: str, at: int) -> None:
    """It exits 130 and says nothing, however far the start has come."""
    done = interrupted_at(tmp_path / "site", at, [sys.executable, "-m", *line.split()])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("at", [200, 400])
def test_ctrl_c_while_up_is_imported_is_quiet(tmp_path: Path, at: int) -> None:
    """`up` imports several times as much as other commands; it is as quiet about it."""
    done = interrupted_at(tmp_path / "site", at, [*COMMAND, "up", "--simulate", "--port", "0"])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


SECONDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
BEFORE_US = re.compile(r"init_import_site|import runpy|import leave_at_once|sitecustomize")
"""Python was still starting, or at our first import, which brings next to nothing."""
LOST = re.compile(r"'import warnings' failed|Exception ignored in: <function _get_module_lock")
"""Python was still starting, said so, and went on: nobody was told."""


@pytest.mark.parametrize("line", ["app.local jobs", "jobs status", "app.local up --port 0"])
def test_ctrl_c_in_the_first_half_second_is_quiet(tmp_path: Path, line: str) -> None:
    """At any moment a command ends without a traceback: interrupted, or done before."""
    began = _python_starts_in()
    for seconds in SECONDS * 2:
        process = subprocess.Popen(
            [sys.executable, "-m", *line.split()],
            env=Shell(tmp_path).environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(began + seconds)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        is_ready = any(line.startswith("ready ") for line in process.stdout)  # of `up`, which then goes on
        if is_ready:
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
        assert not is_ready or LOST.search(said) or "stopping on SIGINT" in said, said
        if f'File "{ROOT}' in said and not BEFORE_US.search(said):  # a traceback through code of ours
            pytest.fail(f"after {seconds} s it shows {said}")
        assert process.returncode in {130, 0, 1, -signal.SIGINT}


def _python_starts_in() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], env={"PATH": os.environ["PATH"]}, check=True)
    return time.monotonic() - began


def test_what_ignores_ctrl_c_goes_on_ignoring_it(tmp_path: Path) -> None:
    """A command that was started so that Ctrl-C does not reach it, as in the background of a script, is not ended."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        INTERRUPTING.format(at=30).replace("count = 0", "signal.signal(signal.SIGINT, signal.SIG_IGN); count = 0")
    )
    environ = {**Shell(tmp_path).environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [*COMMAND, "jobs"], env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "no jobs\n")
