"""`scripts/ollama_tests` without Ollama's tests, which need a checkout of it and Go: what it makes of their words."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from tests.support.checkout import ROOT, script_module
from tests.support.waiting import PATIENCE

SCRIPT = ROOT / "scripts" / "ollama_tests"

SAID = """=== RUN   TestAPI
2026/11/28 INFO server connection host=127.0.0.1
=== RUN   TestAPI/generate
    api_test.go:152: none of [rayleigh] found
    api_test.go:152: none of [scatter] found
=== RUN   TestAPI/list
=== RUN   TestAPI/vision
    utils_test.go:90: skipped
=== NAME  TestAPI/generate
    api_test.go:170: list is empty
--- FAIL: TestAPI (0.28s)
    --- FAIL: TestAPI/generate (0.03s)
    --- PASS: TestAPI/list (0.03s)
    --- SKIP: TestAPI/vision (0.00s)
=== RUN   TestTools
panic: test timed out after 30m0s
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return script_module("ollama_tests")


def test_each_test_has_its_end(script: ModuleType) -> None:
    """Failures have the lines that told them; one without an end was cut off."""
    assert script.results_in(SAID) == {
        "TestAPI": "fail",
        "TestAPI/generate": "fail api_test.go:152 api_test.go:170",
        "TestAPI/list": "pass",
        "TestAPI/vision": "skip",
        "TestTools": "cut",
    }


def test_the_table_marks_what_differs(script: ModuleType) -> None:
    """Another end, another reason to fail, and a test that was run one way only."""
    directly = {"TestA": "pass", "TestB": "fail a_test.go:1", "TestC": "skip", "TestD": "fail a_test.go:2"}
    through = {"TestA": "pass", "TestB": "fail a_test.go:9", "TestD": "pass"}

    assert script.differences(directly, through) == ["TestB", "TestC", "TestD"]
    assert script.table(directly, through).splitlines() == [
        "  test   directly  gateway",
        "  TestA  pass      pass",
        "! TestB  fail      fail",
        "    fail a_test.go:1",
        "    fail a_test.go:9",
        "! TestC  skip      -",
        "! TestD  fail      pass",
        "4 tests: 1 passed both ways, 3 ended differently",
    ]


def test_the_sums_tell_how_they_ended_alike(script: ModuleType) -> None:
    """Who reads that none ended differently has to know how many of them passed."""
    both = {"TestA": "pass", "TestB": "fail a_test.go:1", "TestC": "skip", "TestD": "pass"}
    assert script.sums(both, both) == (
        "4 tests: 2 passed both ways, 1 failed both ways, 1 skipped both ways, 0 ended differently"
    )


@pytest.mark.parametrize(
    ("name", "is_left_out"),
    [
        ("TestAPI/api-list-models", True),
        ("TestAPI/api-generate/llama3.2:1b", True),
        ("TestChat/chat/gemma4:12b", True),
        ("TestAPI/api-show-model/llama3.2", False),
        ("TestChat/chat/gemma4", False),
    ],
)
def test_tests_of_models_that_are_not_there_are_left_out(script: ModuleType, name: str, *, is_left_out: bool) -> None:
    """They would pull gigabytes; a name without a tag and its `latest` are one."""
    here = ["gemma4:latest", "llama3.2:latest", "qwen3:8b"]
    missing = script.absent(here)
    assert {"llama3.2:1b", "gemma4:12b"} <= set(missing)
    assert not {"gemma4", "llama3.2"} & set(missing)
    # As `go test -skip` reads it: alternatives, of which each has a pattern for each part of a name.
    patterns = [each.split("/") for each in re.split(r"\|(?![^(]*\))", script.left_out(missing))]
    parts = name.split("/")
    fit = [len(each) <= len(parts) and all(map(re.search, each, parts)) for each in patterns]
    assert any(fit) is is_left_out


def test_where_all_models_are_there_nothing_is_left_out(script: ModuleType) -> None:
    """As with the simulator."""
    everything = [name for names in script.STAND_INS.values() for name in names]
    assert script.absent(everything) == []
    assert script.left_out([]) == ""


def test_a_server_of_ones_own_has_its_models_and_settings_and_may_say_much(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OLLAMA_BIN is started with the models of the one who asks, as the environment sets it up, and nothing is pruned;
    it goes on answering when it has said more than a pipe holds."""
    program, home, scratch = tmp_path / "ollama", tmp_path / "me", tmp_path / "scratch"
    scratch.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'printf "%s\\n" "$OLLAMA_MODELS" "$OLLAMA_NOPRUNE" "$OLLAMA_FLASH_ATTENTION" "$HOME" >"$HOME/told"\n'
        "head -c 300000 /dev/zero\n"
        f'exec {shlex.quote(sys.executable)} -m jobs.testing.ollama "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("OLLAMA_BIN", str(program))
    monkeypatch.setenv("OLLAMA_FLASH_ATTENTION", "1")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)

    with script.server(scratch) as url:
        assert httpx.get(f"{url}/api/tags", timeout=PATIENCE).json() == {"models": []}

    assert (scratch / "told").read_text().splitlines() == [str(home / ".ollama/models"), "1", "1", str(scratch)]


def test_a_binary_that_is_none_is_told(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, and without a traceback."""
    monkeypatch.setenv("OLLAMA_BIN", str(tmp_path / "ollama"))
    with pytest.raises(SystemExit, match="ollama' cannot be started: No such file"), script.server(tmp_path):
        pytest.fail("no server runs")


def test_the_simulator_and_the_gateway_have_what_the_tests_ask_for(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without OLLAMA_BIN the simulator is the server, and the service before it lists the same models."""
    monkeypatch.delenv("OLLAMA_BIN", raising=False)
    with script.server(tmp_path) as url, script.gateway(tmp_path, url) as through:
        listed = [
            {each["name"] for each in httpx.get(f"{at}/api/tags", timeout=PATIENCE).json()["models"]}
            for at in (url, through)
        ]
    assert listed[0] == listed[1]
    assert {"llama3.2:1b", "llama3.2:latest", "all-minilm:latest"} <= listed[0]


def test_without_a_checkout_it_says_what_it_needs(tmp_path: Path) -> None:
    """The call was wrong: exit 2, and nothing is started."""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert "OLLAMA_SOURCE has to name a checkout" in done.stderr
