"""The wheel is whole, and the command that it brings works far from any checkout, in an environment of its own."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from jobs.version import VERSION
from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE

LEFT_BEHIND = {"__pycache__"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `uv tool install .` and its like build it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def tool(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a new environment's programs: ours is installed there, what it needs is lent by the suite's own."""
    folder = tmp_path_factory.mktemp("a tool") / "environment"
    subprocess.run(
        [ROOT / "scripts" / "setup", folder, sys.executable, "--no-deps", "--offline", wheel],
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


def environ(home: Path) -> dict[str, str]:
    """Somebody's who has no checkout and no Ollama."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "OLLAMA_HOST": "127.0.0.1:9", "UV_OFFLINE": "1"}


def said(home: Path, *command: str | Path) -> str:
    """What a command prints, started elsewhere."""
    done = subprocess.run(
        command, env=environ(home), cwd=home, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_all_of_app_and_jobs(wheel: Path) -> None:
    """Every file of the two packages is in it, data as well as code, and nothing that is not theirs."""
    there = {
        path.relative_to(ROOT).as_posix()
        for package in ("app", "jobs")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and not LEFT_BEHIND & set(path.parts)
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert packed == there
    assert {"app/fleet.toml", "app/gateway/dashboard/ui/index.html", "app/py.typed", "jobs/py.typed"} <= packed


def test_the_command_is_the_wheels_own(tool: Path, tmp_path: Path) -> None:
    """It tells its version from another folder, and its code is what was installed, not the checkout's."""
    where = "import app, jobs; print(app.__file__, jobs.__file__)"

    assert said(tmp_path, tool / "ollama-modal", "--version") == f"ollama-modal {VERSION}\n"
    assert said(tmp_path, tool / "python", "-c", where).count(str(tool.parent)) == 2


@contextmanager
def stack(tool: Path, home: Path) -> Iterator[str]:
    """`ollama-modal up`, installed; its address."""
    process = subprocess.Popen(
        [tool / "ollama-modal", "up", "--simulate", "--port", "0"],
        env=environ(home),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        assert line.startswith("ready "), process.communicate(timeout=PATIENCE)[1]
        yield line.split()[1]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE)


def test_an_installed_stack_serves_its_page_and_plans(tool: Path, tmp_path: Path) -> None:
    """Whatever is read beside the code came along: the stack comes up, serves the page, and plans by the fleet file."""
    [fleet] = tool.parent.glob("lib/python*/site-packages/app/fleet.toml")
    with stack(tool, tmp_path) as url:
        page = httpx.get(f"{url}/ui", timeout=PATIENCE)
        style = httpx.get(f"{url}/ui/page.css", timeout=PATIENCE)
        plan = said(tmp_path, tool / "ollama-modal", "plan", "--fleet", fleet)

    assert (page.status_code, style.status_code) == (200, 200)
    assert "deepseek-r1:32b" in plan


def uv() -> str | None:
    """The one that set this checkout up."""
    fetched = ROOT / ".tools" / "uv" / "bin" / "uv"
    return shutil.which("uv") or (str(fetched) if fetched.exists() else None)


@pytest.mark.skipif(uv() is None, reason="no uv is on PATH or in .tools; with one this runs")
def test_uv_installs_it_as_a_tool(tmp_path: Path) -> None:
    """`uv tool install .`, as README says, brings the command in an environment of its own."""
    own = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    cache = os.environ.get("UV_CACHE_DIR", str(ROOT / ".tools" / "cache"))
    done = subprocess.run(
        [str(uv()), "tool", "install", "--python", sys.executable, "."],
        env={**environ(tmp_path), **own, "UV_CACHE_DIR": cache},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode and "network was disabled" in done.stderr.replace("\n", " "):
        pytest.skip("what uv fetched for this checkout is no longer in its cache")
    assert done.returncode == 0, done.stderr
    assert said(tmp_path, tmp_path / "bin" / "ollama-modal", "--version") == f"ollama-modal {VERSION}\n"
