"""The benchmarks run, each at its smallest size, and print what they measure beside what they measure it against."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT, script_module
from tests.support.llama_hosts import needs_engine
from tests.support.waiting import PATIENCE, WHOLE

SMALLEST: dict[str, tuple[str, ...]] = {
    "bench_engine": ("--rounds", "1", "--tokens", "20", "--weights-mb", "0.1", "--requests", "8"),
    # The peers take environments of their own: they are for whoever wants figures, not for whether ours runs.
    "bench_gateway": (
        "--seconds", "0.1", "--rounds", "1", "--pieces", "2", "--requests", "50", "--only", "none,ours,nginx",
    ),
    "bench_import": ("--runs", "1"),
    "bench_jobs": (
        "--rounds", "1", "--paced", "3", "--rushed", "3",
        "--without", "huey", "--without", "huey, eager", "--without", "litequeue",
    ),
    "bench_pull": ("--rounds", "1", "--mib", "1"),
}  # fmt: skip


def python_scripts() -> list[str]:
    """What is Python among the scripts, whatever its name ends in."""
    return sorted(
        path.name
        for path in (ROOT / "scripts").iterdir()
        if path.is_file()
        if path.suffix == ".py" or path.read_text("utf-8").startswith("#!/usr/bin/env python3")
    )


COLD = {
    "ways": (
        "--only",
        "ways",
        "--gb",
        "0.2",
        "--runs",
        "1",
        "--background",
        "12",
        "--modes",
        "mmap",
        "--readers",
        "16",
    ),
    "wakes": ("--only", "wakes", "--wakes", "1", "--engine-seconds", "0.1", "--load-seconds", "0.1"),
    "other": (
        "--only",
        "other",
        "--others",
        "1",
        "--engine-seconds",
        "0.1",
        "--load-seconds",
        "0.1",
        "--warmed-seconds",
        "8",
    ),
}
"""The parts of `bench_cold`, which is no contest: it has tests of its own below."""


def test_each_benchmark_is_run_here() -> None:
    """No benchmark is left out of this file."""
    there = {path.name for path in (ROOT / "scripts").glob("bench_*") if path.is_file()}
    assert {*SMALLEST, "bench_cold", "bench_batch", "bench_batch_latency"} == there


def test_scripts_are_checked_as_the_rest_is() -> None:
    """Types and lint look at every script that is Python: one whose name has no ending is listed by name."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    scripts = {*python_scripts(), *(path.parent.name for path in (ROOT / "scripts").glob("*/__init__.py"))}
    assert {f"scripts/{name}" for name in scripts} <= set(tools["mypy"]["files"])
    asked = [sys.executable, "-m", "ruff", "check", "--show-files"]
    seen = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    parts = {str(path) for folder in scripts for path in (ROOT / "scripts" / folder).glob("*.py")}
    assert {str(ROOT / "scripts" / name) for name in python_scripts()} | parts <= set(seen)


SOME_TESTS = """
import pytest

@pytest.mark.skip(reason="no chromium is here")
@pytest.mark.parametrize("n", range(3))
def test_page(n): pass

def test_clients(): pytest.skip("CLIENTS_PYTHON is not set")

def test_well(): pass

def test_wrong(): assert False
"""


def test_a_run_ends_with_what_was_skipped(tmp_path: Path) -> None:
    """The last lines of `scripts/test`, and so of `.ci/run`: each reason with its count, then the counts of all."""
    (tmp_path / "test_some.py").write_text(SOME_TESTS)
    junit = tmp_path / "junit.xml"
    pytest_itself = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), "-c", "/dev/null"]
    subprocess.run([*pytest_itself, f"--junitxml={junit}", tmp_path], cwd=tmp_path, capture_output=True, check=False)
    told = subprocess.run(
        [ROOT / "scripts/count_tests.py", junit], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert told.stdout.splitlines() == [
        "skipped, by reason:",
        "      3  no chromium is here",
        "      1  CLIENTS_PYTHON is not set",
        "1 passed, 1 failed, 4 skipped",
    ]
    last = [line for line in (ROOT / "scripts/test").read_text("utf-8").splitlines() if line][-2:]
    assert last == [
        '[ ! -e "$TMPDIR/junit.xml" ] || python scripts/count_tests.py "$TMPDIR/junit.xml"',
        '[ -z "$wrong" ]',
    ]
    assert (ROOT / ".ci/run").read_text("utf-8").splitlines()[-1] == 'exec "$root/scripts/test"'


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_engine) if name == "bench_engine" else name for name in sorted(SMALLEST)]
)
def test_benchmarks_run(name: str, tmp_path: Path) -> None:
    """A benchmark runs to its end at its smallest size and names us and a figure; nothing is left in the checkout."""
    run(name, SMALLEST[name], tmp_path)


def test_the_gateway_is_measured_without_go(tmp_path: Path) -> None:
    """Where there is no Go the load comes from Python, and the table says that this is the limit."""
    shown = run("bench_gateway", (*SMALLEST["bench_gateway"][:-1], "none,ours", "--load", "python"), tmp_path)
    assert "the load came from Python" in shown


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed: apt-get install golang-go lifts this")
def test_the_gateway_is_measured_by_what_is_fast(tmp_path: Path) -> None:
    """Where there is Go the load does not come from Python; the figures have a request's processor and a piece's."""
    shown = run("bench_gateway", (*SMALLEST["bench_gateway"][:-1], "ours"), tmp_path)
    assert "Python" not in shown
    ours = json.loads((tmp_path / "figures.json").read_text("utf-8"))["results"]["ollama-modal"]
    assert ours["requests"]["requests"] >= 64
    assert ours["bodies"]["cpu_us_each"] > 0
    assert ours["streams_100"]["pieces"] == 200
    assert ours["streams_100"]["cut"] == 0


def cold_part(name: str, tmp_path: Path) -> Any:
    """The figures of a part of `bench_cold`; where it cannot be measured, that it said why in one line."""
    before, file = set(ROOT.iterdir()), tmp_path / "figures.json"
    environ = {key: os.environ[key] for key in os.environ if key in {"PATH", "HOME", "TMPDIR", "LANG"}}
    done = subprocess.run(
        [ROOT / "scripts/bench_cold", *COLD[name], "--json", file],
        env=environ, capture_output=True, text=True, timeout=WHOLE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(ROOT.iterdir()) == before
    found = json.loads(file.read_text("utf-8")).get(name)
    if found is None:
        [line] = done.stdout.splitlines()
        assert line.startswith(f"{name}: not measured here: ")
        pytest.skip(line)
    return found


def test_readers_ahead_bring_the_bytes(tmp_path: Path) -> None:
    """On a slow volume, where it can be mounted, a real llama.cpp starts by itself and with readers ahead. Then these
    are who brought the bytes by the first token: counted, by no clock."""
    [found] = cold_part("ways", tmp_path)
    alone, helped = found["medians"]["mmap"], found["medians"]["mmap, 16 readers ahead"]

    assert len(found["medians"]) == 2
    assert alone["read_ahead"] == 0
    assert helped["read_ahead"] > 0.5 * found["bytes"]


def test_our_share_of_a_wake_is_measured(tmp_path: Path) -> None:
    """A sleeping tier is woken on the control plane, where one runs: what was waited is the platform's part, what the
    script says, and our own share, each part of which is told."""
    found = cold_part("wakes", tmp_path)
    parts = sum(each["p50"] for each in found["parts"].values())

    assert found["wakes"] == 1
    assert parts == pytest.approx(found["own_share"]["p50"], abs=0.01)
    assert min(each["p50"] for each in found["parts"].values()) >= 0
    assert found["waited"]["p50"] > found["own_share"]["p50"] + found["platform"]["p50"]
    steps = {"ledger, before", "asked", "started", "prepared", "serves", "notice", "answered"}
    assert set(found["parts"]) == steps
    assert all(0 <= each["p50"] < 60 for each in found["processor"].values())
    assert found["processor"]["until it is ready"]["p50"] > 0
    assert found["interpreter_processor_seconds"] > 0


def test_another_model_than_the_warmed_one_is_measured(tmp_path: Path) -> None:
    """Before, a caller of a model that is not kept warm waited for two loads; now the wake names his, and he waits for
    that one. Both are told, with how many times faster it is."""
    found = cold_part("other", tmp_path)

    assert found["loads"] == {"what is warmed first": 2, "the wake names its model": 1}
    assert found["times"] > 1


def test_lines_beside_a_plain_client_are_measured(tmp_path: Path) -> None:
    """The lines a second of a batch stand beside those of a plain client of the same server."""
    file = tmp_path / "figures.json"
    environ = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LANG") if key in os.environ}
    done = subprocess.run(
        [ROOT / "scripts/bench_batch", "--parallel", "2", "--lines", "10", "--turns", "1", "--json", file],
        env=environ, capture_output=True, text=True, timeout=WHOLE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    [found] = json.loads(file.read_text("utf-8"))
    assert (found["parallel"], found["lines"]) == (2, 10)
    assert found["ratio"] == pytest.approx(found["batch_per_second"] / found["plain_per_second"])
    assert "ratio" in done.stdout


def test_people_beside_a_batch_are_measured(tmp_path: Path) -> None:
    """What people wait for beside a full batch stands beside what they wait for without one, and what became of the
    lines: a few were answered or gave way, and none failed."""
    file = tmp_path / "figures.json"
    environ = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LANG") if key in os.environ}
    done = subprocess.run(
        [ROOT / "scripts/bench_batch_latency", "--parallel", "1", "--people", "3", "--rounds", "1", "--json", file],
        env=environ, capture_output=True, text=True, timeout=WHOLE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    [found] = json.loads(file.read_text("utf-8"))
    assert found["requests"] == 3
    assert all(found[name]["alone"] > 0 < found[name]["beside"] for name in ("p50_seconds", "p95_seconds"))
    assert found["lines"]
    assert set(found["lines"]) <= {"answered", "not-now"}
    assert "ratio" in done.stdout


def test_a_load_at_its_limit_is_told() -> None:
    """A contestant in front of which the load used nearly all of its own processor is named, with how much it used."""
    sent = {"requests_per_second": 1.0, "cpu_us_each": 1.0, "load_share": 0.5}
    ours = {"requests": sent, "bodies": sent, "memory_peak_mb": 1.0}
    outcome = {"callers": 64, "body_bytes": 65536, "streams": [], "requests": 10, "pieces": 1, "pace_ms": 50,
               "is_load_fast": True, "results": {"ollama-modal": ours}}  # fmt: skip
    table = script_module("bench_gateway").table

    assert "limit" not in "\n".join(table(outcome))
    outcome["results"] = {"ollama-modal": ours, "nginx": {**ours, "requests": {**sent, "load_share": 0.93}}}
    assert "near its limit" in "\n".join(table(outcome))
    assert "nginx (requests 93%)" in "\n".join(table(outcome))


def run(name: str, options: tuple[str, ...], tmp_path: Path) -> str:
    before = set(ROOT.iterdir())
    where: list[str] = []
    if name != "bench_import":
        where = ["--json", str(tmp_path / "figures.json")]
    if name == "bench_gateway":
        where += ["--svg", str(tmp_path / "picture.svg")]
    environ = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LANG") if key in os.environ}
    done = subprocess.run(
        [ROOT / "scripts" / name, *options, *where],
        env=environ,
        capture_output=True,
        text=True,
        timeout=WHOLE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if name == "bench_import":
        assert "times import modal  import app.jobs" in done.stdout
        assert "times python -c pass  ollama-modal jobs" in done.stdout
    else:
        figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text("utf-8"))
        assert "ollama-modal" in (figures.get("results") or figures["medians"])
        assert ("beside llama.cpp alone" if name == "bench_engine" else "beside ollama-modal") in done.stdout
    if any("nginx" in each for each in options) and shutil.which("nginx", path=f"{environ['PATH']}:/usr/sbin"):
        assert "nginx" in done.stdout
    assert set(ROOT.iterdir()) == before
    return done.stdout
