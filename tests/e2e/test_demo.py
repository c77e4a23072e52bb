"""The demo, as somebody new runs it."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.core.model_name import ModelName
from jobs.testing.registry.server import RegistryDouble
from jobs.testing.toy_models import toy
from jobs.testing.toy_weights import PHRASE, embedder, speaker
from tests.support.checkout import ROOT
from tests.support.llama_hosts import needs_engine
from tests.support.processes import running_with
from tests.support.waiting import PATIENCE, WHOLE

TOYS = (toy("toy", speaker(), "completion"), toy("toy-embed", embedder(), "embedding"))
"""What a registry has in place of the real models: other weights, under their names."""


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


def run_demo(environ: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "demo"],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@needs_engine
def test_the_demo_is_real_by_default(tmp_path: Path, environ: dict[str, str]) -> None:
    """Without an Ollama, the built-in engine runs what the registry has: it chats, tells its speed, and embeds."""
    small = [
        replace(model, name=ModelName.parse(name))
        for model, name in zip(TOYS, ("smollm2:135m", "all-minilm:22m"), strict=True)
    ]
    with RegistryDouble(small) as registry:
        done = run_demo({**environ, "OLLAMA_MODAL_REGISTRY": registry.url}, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "With the built-in engine, llama.cpp, on this machine's processor." in done.stdout
    assert f"smollm2:135m, on tier local: {PHRASE}\n9 tokens, " in done.stdout
    assert " tokens a second" in done.stdout
    assert "   1.000  The GPU sleeps at night." in done.stdout
    assert is_clean(environ)


@needs_engine
def test_the_demo_without_a_registry_has_toys(tmp_path: Path, environ: dict[str, str]) -> None:
    """Where no registry can be reached it says so in one line; the engine is real, and what it runs are toys."""
    done = run_demo({**environ, "OLLAMA_MODAL_REGISTRY": "http://127.0.0.1:9"}, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(
        "http://127.0.0.1:9 cannot be reached for a model, so toy weights stand in: real engine.\n"
    )
    assert f"toy, on tier local: {PHRASE}\n9 tokens, " in done.stdout
    ranked = done.stdout.partition("/v1/rerank")[2].splitlines()[1]
    assert ranked.endswith("A panda eats bamboo in the garden.")
    assert "SIMULATED" not in done.stdout + done.stderr
    assert is_clean(environ)


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
    assert is_clean(environ)


STARTING = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from demo import Interrupts

interrupts = Interrupts()
interrupts.listen()
try:
    with interrupts.waiting():
        os.kill(os.getpid(), signal.SIGINT)
        print("started", flush=True)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGINT)
    print("cleaned up", flush=True)
"""


def test_an_interrupt_waits_until_a_process_has_started() -> None:
    """One that comes while the demo starts a process is heard once that is known, to be ended; none comes after it."""
    words = [sys.executable, "-c", STARTING, str(ROOT / "scripts")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\ncleaned up\n", "")


def test_a_demo_that_fails_says_why_and_cleans_up(tmp_path: Path, environ: dict[str, str]) -> None:
    """With an Ollama that does not start, the demo exits 1, shows what it said last, and leaves nothing behind."""
    chats, _ = TOYS
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ollama").write_text("#!/bin/sh\necho no such GPU >&2\nexit 3\n")
    (programs / "ollama").chmod(0o755)
    with RegistryDouble([replace(chats, name=ModelName.parse("smollm2:135m"))]) as registry:
        own = {"PATH": f"{programs}:{environ['PATH']}", "OLLAMA_MODAL_REGISTRY": registry.url}
        done = run_demo({**environ, **own}, tmp_path)
    assert done.returncode == 1
    assert "error: `up` did not become ready" in done.stderr
    assert "ended with exit code 3" in done.stderr
    assert "no such GPU" in done.stderr
    assert is_clean(environ)
