"""Cold starts of one machine: the start of a server of `up` is one, told wherever those of a deployment are."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.access.keys.proofs import hash_of
from tests.support.local_stack import Shell, family, up
from tests.support.waiting import PATIENCE, until

SECONDS = 1.5
"""Until a server answers: long enough that somebody sees it start."""

WHOLE = {"weights", "engine", "memory", "first_token"}

KEY = "omk_of_the_operator"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, {"OLLAMA_SIM_DISCOVERY_MILLISECONDS": str(int(1000 * SECONDS))})


def coming(url: str) -> tuple[str, str] | None:
    """What the page shows of a start or load that goes on."""
    [tier] = httpx.get(f"{url}/ops/v1/tiers", timeout=PATIENCE).json()["tiers"]
    return tier["coming"] and (tier["coming"]["kind"], tier["coming"]["phase"])


def starts(shell: Shell) -> list[dict[str, Any]]:
    return [each for each in shell.ask("cold") if each["kind"] == "start"]


def test_the_start_of_a_server_is_a_cold_start(shell: Shell) -> None:
    """That of `up` is recorded with its phases and counted; one that was killed is shown as it starts again, and its
    caller's wait is the start of that one, once."""
    with up(shell, "--simulate") as running:
        [first] = starts(shell)
        assert first["container"] == "local"
        assert set(first["seconds"]) == {"weights", "engine"}
        assert first["seconds"]["engine"] >= SECONDS
        metrics = httpx.get(f"{running.url}/metrics", timeout=PATIENCE).text
        assert 'ollama_modal_cold_seconds_count{phase="engine",tier="local"} 1.0' in metrics

        shell.ask("pull", "tiny")
        os.kill(server_of(running.process.pid), signal.SIGKILL)
        until(lambda: coming(running.url) == ("start", "engine"), "a server that starts")
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": True}
        assert httpx.post(f"{running.url}/api/chat", json=asked, timeout=PATIENCE).status_code == 200
        until(lambda: coming(running.url) is None, "an end of it")
        [second, again] = until(lambda: len(found := starts(shell)) == 2 and found, "its record")
        assert again == first
        until(lambda: set(starts(shell)[0]["seconds"]) >= WHOLE, "the caller's wait")
        assert second["seconds"]["engine"] >= SECONDS


def server_of(up: int) -> int:
    """The process of its one server."""
    [found] = [each for each in family(up) if "jobs.testing.ollama" in Path(f"/proc/{each}/cmdline").read_text("utf-8")]
    return found


@pytest.mark.parametrize("key", ["", KEY])
def test_one_table_wherever_it_is_asked_for(shell: Shell, key: str) -> None:
    """`cold`, `cold --url` and `bench_cold --url` show one table of what a gateway recorded, with the key where it has
    keys; without, they say what is missing."""
    if key:
        (shell.home / "om").mkdir()
        (shell.home / "om/keys").write_text(f"operator {hash_of(KEY)} chat admin\n", "utf-8")
    with up(shell, "--simulate", "--tier", "a10g") as running:
        at = ("--url", running.url)
        with_key = (*at, "--key", key) if key else at
        here, there = shell.run("cold"), shell.run("cold", *with_key)
        measured = shell.run_script("bench_cold", *with_key, "--json", str(shell.home / "figures.json"))
        if key:
            for refused in (shell.run("cold", *at), shell.run_script("bench_cold", *at)):
                assert refused.returncode != 0
                assert "hint: give the key by --key" in refused.stderr
            by_environment = replace(shell, extra={**shell.extra, "OLLAMA_MODAL_KEY": key})
            assert by_environment.run_script("bench_cold", *at).stdout == measured.stdout

    assert measured.returncode == 0, measured.stderr
    assert here.stdout == there.stdout == measured.stdout
    assert "READY" in there.stdout
    assert "a10g start -" in there.stdout
    figures = json.loads((shell.home / "figures.json").read_text("utf-8"))["deployment"]
    assert figures["a10g start -"]["ready"] >= SECONDS


def test_a_gateway_that_is_not_there_is_told(shell: Shell) -> None:
    """Neither is silent, and both say what to do."""
    for done in (
        shell.run("cold", "--url", "http://127.0.0.1:9"),
        shell.run_script("bench_cold", "--url", "http://127.0.0.1:9"),
    ):
        assert done.returncode != 0
        assert "error: " in done.stderr
        assert "127.0.0.1:9" in done.stderr
