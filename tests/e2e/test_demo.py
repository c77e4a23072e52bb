"""The demo, as somebody new runs it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.processes import running_with
from tests.support.waiting import PATIENCE, WHOLE, until


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A person with an empty home, an empty scratch directory, and no Ollama."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(scratch), "OLLAMA_HOST": "127.0.0.1:9"}


def is_clean(environ: dict[str, str]) -> bool:
    """Whether neither a file nor a process is left of a demo."""
    return not list(Path(environ["TMPDIR"]).iterdir()) and not running_with(TMPDIR=environ["TMPDIR"])


def test_the_demo_shows_the_main_job_and_cleans_up(tmp_path: Path, environ: dict[str, str]) -> None:
    """The demo pulls, verifies, warms and asks, prints the job's story, exits 0, and leaves nothing behind."""
    done = subprocess.run(
        [ROOT / "scripts" / "demo", "--simulate"],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WHOLE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for told in ("ready http://127.0.0.1:", "pull done: llama3.2:latest", "warm done: llama3.2:latest", "You said:"):
        assert told in done.stdout
    assert "pull of llama3.2:latest: succeeded" in done.stdout
    assert is_clean(environ)
    assert list(tmp_path.iterdir()) == [tmp_path / "scratch"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(tmp_path: Path, environ: dict[str, str], number: signal.Signals) -> None:
    """Ctrl-C in the middle of a demo, or a polite kill, exits 130 and leaves no process and no file."""
    demo = subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "demo.py", "--simulate"],
        env=environ,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert demo.stdout is not None
    assert any(line.startswith("2. ") for line in demo.stdout)
    demo.send_signal(number)
    demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 130
    until(lambda: is_clean(environ), "the end of a command that had just begun")


def test_a_demo_that_fails_says_why_and_cleans_up(tmp_path: Path, environ: dict[str, str]) -> None:
    """With an Ollama that does not start, the demo exits 1, shows what it said last, and leaves nothing behind."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ollama").write_text("#!/bin/sh\necho no such GPU >&2\nexit 3\n")
    (programs / "ollama").chmod(0o755)
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "demo.py"],
        env={**environ, "PATH": f"{programs}:{environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "error: `up` did not become ready" in done.stderr
    assert "ended with exit code 3" in done.stderr
    assert "no such GPU" in done.stderr
    assert is_clean(environ)
