"""`scripts/clients` without its clients, which take minutes and environments of their own: its table and its words."""

import json
import subprocess
import threading
from types import ModuleType

import httpx
import pytest

from jobs.testing.ollama.server import OllamaDouble
from tests.support.checkout import ROOT, script_module
from tests.support.waiting import PATIENCE

SCRIPT = ROOT / "scripts" / "clients"


@pytest.fixture(scope="module")
def clients() -> ModuleType:
    return script_module("clients")


def told(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False, timeout=PATIENCE)


def test_each_client_has_a_program_that_tries_it(clients: ModuleType) -> None:
    """No client without a program, no program without a client, and each tries something."""
    programs = {client.program for client in clients.CLIENTS}

    assert programs | {"trials.py", "trials.mjs"} == {
        path.name for path in clients.PROGRAMS.iterdir() if path.is_file()
    }
    for name in programs:
        text = (clients.PROGRAMS / name).read_text("utf-8")
        assert "@trial" in text or "await trial(" in text


def test_the_clients_can_be_listed() -> None:
    """Names for `--only`, and the models that a service of one's own has to have."""
    done = told("--list")

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {"anthropic (Python)", "litellm", "Vercel AI SDK"} <= set(lines)
    assert lines[-1].startswith("models: llama3.2:1b")


def test_a_client_that_is_none_is_refused() -> None:
    """A typo starts nothing, and is told the names that there are."""
    done = told("--only", "open-ai")

    assert done.returncode == 2
    assert "no such client: open-ai; there are Open WebUI" in done.stderr


def test_the_table_tells_what_failed(clients: ModuleType) -> None:
    """A line a client, and under it what went wrong; one that could not be tried says why."""
    rows = [
        clients.Row("one", "1.0", {"chat": None, "tools": "BadRequestError: no"}),
        clients.Row("another", "-", {}, "no Node and npm here"),
    ]

    assert clients.table(rows).splitlines() == [
        "client   version  result                          tried",
        "one      1.0      1 of 2 failed                   chat, tools",
        "    tools: BadRequestError: no",
        "another  -        left out: no Node and npm here  -",
    ]


def test_what_clients_send_is_kept_once(clients: ModuleType) -> None:
    """The recorder passes everything on, streams included, and writes down each body under its client's name."""
    with OllamaDouble() as double:
        recorder = clients.Recorder(double.url)
        recorder.client = "one"
        serving = threading.Thread(target=recorder.serve_forever, daemon=True)
        serving.start()
        try:
            for _ in range(2):
                answer = httpx.post(f"{recorder.url}/api/chat", json={"model": "x"}, timeout=PATIENCE)
            assert answer.status_code == 404
            assert httpx.get(f"{recorder.url}/api/tags", timeout=PATIENCE).json() == {"models": []}
        finally:
            recorder.shutdown()
            serving.join()
            recorder.server_close()

    assert json.loads(json.dumps(recorder.kept)) == [
        {"client": "one", "method": "POST", "path": "/api/chat", "body": {"model": "x"}},
        {"client": "one", "method": "GET", "path": "/api/tags", "body": None},
    ]
