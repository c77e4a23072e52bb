"""README, typed: each command does what it is shown for, in the order in which a reader meets it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.testing.models import LIBRARY, arbitrary
from jobs.testing.registry.server import RegistryDouble
from tests.support.checkout import ROOT
from tests.support.document_commands import NOT_RUN, Command, Typist, commands
from tests.support.local_stack import Shell, simulator_as_ollama, up

UP = "ollama-modal up"

SAYS: dict[str, str] = {
    "scripts/setup": r"^$",  # there is nothing to do: the suite has been set up
    'export PATH="$PWD/.venv/bin:$PATH"': r"^$",
    UP: r"^ready http://127\.0\.0\.1:\d+$",
    "ollama-modal pull llama3.2": r"pull done: llama3\.2:latest, 20 MB, digest \w{12}: 20 MB straight from",
    "ollama-modal jobs": r"(?m)^\S+  pull  llama3\.2:latest  succeeded  100 %",
    "ollama-modal job ID": r"pull of llama3\.2:latest: succeeded[\s\S]* attempts 1 of 8 allowed",
    "ollama-modal jobs --dead": r"no job has failed for good",
    "ollama-modal retry --all --class network": r"no such job has failed; there is nothing to retry",
    "ollama-modal cost --since 7d": r"nothing here is paid by the second: this machine is yours",
    "ollama-modal windows": r"the fleet declares no windows",
    "ollama-modal models": r"(?m)^llama3\.2:latest +20 MB  \w{12} .* llama ",
    "ollama-modal verify": r"verify done: 1 model, 5 blobs, 20 MB .*: every byte is what it should be",
    "ollama-modal warm llama3.2": r"warm done: llama3\.2:latest is loaded on tier local",
    "ollama-modal prune --dry-run": r"nothing to prune",
    "ollama-modal rollback llama3.2": r"rollback done: llama3\.2:latest",
    "ollama-modal night": r"no night has come yet: it comes by its schedule",
    "ollama-modal plan --fleet app/fleet.toml": r"pull +deepseek-r1:32b",
    "curl http://127.0.0.1:11500/api/chat"
    """ -d '{"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}'""": r'"done":true',
    "ollama-modal route llama3.2": r"llama3\.2:latest is answered on tier local",
    "ollama-modal keys new alice --scope chat --rpm 60": r"(?m)^alice sha256:\w{64} chat rpm=60$",
    "ollama-modal jobs --url https://gateway.example": r"JOB +KIND +MODEL +STATE|no jobs",
    "ollama-modal cost --url https://gateway.example": r"nothing there is paid by the second",
    "ollama-modal plan --url https://gateway.example": r"as it should be|pull +deepseek-r1:32b",
}
"""What each must print; of what they print, the part that its comment promises."""


def typed() -> list[Command]:
    return [command for command in commands("README.md") if command.text not in NOT_RUN]


def test_each_command_of_readme_is_typed_here() -> None:
    """No command of README is without what it must print, and nothing is expected of one that is not there."""
    assert [command.text for command in typed()] == list(SAYS)


def test_what_is_not_run_is_counted_and_shown() -> None:
    """The commands of documents that no test runs are five, each is really in a document, and each has its reason."""
    documents = ("README.md", "app/README.md", "jobs/README.md")
    shown = {command.text for document in documents for command in commands(document)}
    assert set(NOT_RUN) <= shown
    assert len(NOT_RUN) == 5
    for reason in NOT_RUN.values():
        for name in re.findall(r"tests/\w+\.py", reason):
            assert (ROOT / name).exists()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[tuple[Shell, RegistryDouble]]:
    """Somebody with a checkout, an `ollama` on PATH, and a registry that has llama3.2."""
    with RegistryDouble(LIBRARY) as registry:
        programs = simulator_as_ollama(tmp_path / "bin", registry.url)
        path = f"{programs}:{os.environ['PATH']}"
        yield Shell(tmp_path, {"PATH": path, "OLLAMA_MODAL_REGISTRY": registry.url}), registry


def test_readme_does_what_it_says(reader: tuple[Shell, RegistryDouble], tmp_path: Path) -> None:
    """Typed in their order, README's commands succeed, and print what their comments promise."""
    shell, registry = reader
    elsewhere = Shell(tmp_path / "elsewhere", shell.extra)
    elsewhere.home.mkdir()
    with up(shell) as here, up(elsewhere, "--fleet", str(ROOT / "app" / "fleet.toml")) as there:

        def fill(text: str) -> str:
            text = text.replace("http://127.0.0.1:11500", here.url).replace("https://gateway.example", there.url)
            return text.replace(" ID", f" {shell.ask('jobs')[0]['id']}") if text.endswith(" ID") else text

        typist = Typist(shell.environ, ROOT, fill)
        for command in typed():
            if command.text == UP:
                said = f"ready {here.url}"
            else:
                if command.text == "ollama-modal rollback llama3.2":
                    registry.put(arbitrary("llama3.2", 61_000, layers=2))
                    assert shell.run("pull", "llama3.2").returncode == 0
                said = typist.type(command)
            assert re.search(SAYS[command.text], said.strip()), f"{command}\n{said}"
