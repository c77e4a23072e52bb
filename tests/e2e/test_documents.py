"""README and jobs/README, typed: each command does what it is shown for, in the order in which a reader meets it; and
what all documents have in common: contents that are theirs, links that lead somewhere, few things that nobody runs.
"""

import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.fleet.file import read
from app.fleet.schema import parse
from jobs.testing.models import LIBRARY, arbitrary
from jobs.testing.registry.server import RegistryDouble
from tests.support.checkout import ROOT
from tests.support.document_commands import DOCUMENTS, NOT_RUN, Command, Typist, blocks, commands, write_prompts
from tests.support.local_stack import Shell, simulator_as_ollama, up

UP = "ollama-modal up"

PULL = "ollama-modal pull llama3.2"

SAYS: dict[str, dict[str, str]] = {
    "README.md": {
        "scripts/setup": r"^$",  # there is nothing to do: the suite has been set up
        'export PATH="$PWD/.venv/bin:$PATH"': r"^$",
        UP: r"^ready http://127\.0\.0\.1:\d+$",
        PULL: r"pull done: llama3\.2:latest, 20 MB, digest \w{12}: 20 MB straight from",
        "curl http://127.0.0.1:11500/v1/chat/completions"
        """ -d '{"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}'""": r'"finish_reason":',
    },
    "jobs/README.md": {
        PULL: r"pull done: llama3\.2:latest, 20 MB, digest \w{12}: ",
        "ollama-modal jobs": r"(?m)^\S+  pull  llama3\.2:latest  succeeded  100 %",
        "ollama-modal job ID": r"pull of llama3\.2:latest: succeeded[\s\S]* attempts 1 of 8 allowed",
        "ollama-modal jobs --dead": r"no job has failed for good",
        "ollama-modal retry --all --class network": r"no such job has failed; there is nothing to retry",
        "ollama-modal dismiss ID": r"is dismissed: the pull of no-such-model:latest is nobody's trouble any more",
        "ollama-modal models": r"(?m)^llama3\.2:latest +20 MB  \w{12} .* llama ",
        "ollama-modal run llama3.2 hello": r"You said: hello$",
        "ollama-modal ps": r"(?m)^llama3\.2:latest +\w{12} +20 MB +100% GPU +4096 +local +in ",
        "ollama-modal show llama3.2": r"(?m)^    architecture +llama$",
        "ollama-modal verify": r"verify done: 1 model, 5 blobs, 20 MB .*: every byte is what it should be",
        "ollama-modal warm llama3.2": r"warm done: llama3\.2:latest is loaded on tier local",
        "ollama-modal route llama3.2": r"llama3\.2:latest is answered on tier local",
        "ollama-modal prune --dry-run": r"nothing to prune",
        "ollama-modal rollback llama3.2": r"rollback done: llama3\.2:latest",
        "ollama-modal night": r"no night has come yet: it comes by its schedule",
        "ollama-modal plan --fleet app/fleet.toml": r"pull +deepseek-r1:32b",
        "ollama-modal windows": r"the fleet declares no windows",
        "ollama-modal cost --since 7d": r"nothing here is paid by the second: this machine is yours",
        "ollama-modal cold --since 7d": r"nobody has waited for a server or a load since then|KIND +MODEL +TOOK",
        "ollama-modal batch prompts.jsonl": r"batch batch_\w+ is done: 2 of 2 lines, ",
        "ollama-modal batches": r"(?m)^batch_\w+ +completed +2 +100 %",
        "ollama-modal audit --since 7d": r"WHEN +WHO +ACT +WHAT +OUTCOME",
        "ollama-modal keys new alice --line --scope chat --rpm 60": r"(?m)^alice sha256:\w{64} chat rpm=60$",
        "ollama-modal keys list": r"there are no keys",
        "ollama-modal jobs --url https://gateway.example": r"JOB +KIND +MODEL +STATE|no jobs",
        "ollama-modal cost --url https://gateway.example": r"nothing there is paid by the second",
        "ollama-modal plan --url https://gateway.example": r"as it should be|pull +deepseek-r1:32b",
    },
}
"""What each must print; of what they print, the part that its comment promises."""


def typed(document: str) -> list[Command]:
    return [command for command in commands(document) if command.text not in NOT_RUN]


@pytest.mark.parametrize("document", SAYS)
def test_each_command_of_a_document_is_typed_here(document: str) -> None:
    """No command is without what it must print, and nothing is expected of one that is not there."""
    assert [command.text for command in typed(document)] == list(SAYS[document])


def test_what_is_not_run_is_counted_and_shown() -> None:
    """The commands of documents that no test runs are five, each is really in a document, and each has its reason."""
    shown = {command.text for document in DOCUMENTS for command in commands(document)}
    assert set(NOT_RUN) <= shown
    assert len(NOT_RUN) == 5
    for reason in NOT_RUN.values():
        for name in re.findall(r"tests/[\w/]+\.py", reason):
            assert (ROOT / name).exists()


def test_readme_is_short() -> None:
    """Whoever sees it for the first time scans it: it has less than 150 lines."""
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 150


def headings(document: str) -> list[str]:
    """Those below the title, by the anchors that a forge makes of them."""
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", (ROOT / document).read_text("utf-8"))
    return [re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in re.findall(r"(?m)^##+ (.+)$", text)]


@pytest.mark.parametrize("document", ["app/README.md", "app/clients.md", "jobs/README.md"])
def test_a_long_document_has_contents(document: str) -> None:
    """Its contents name every heading, in order, and lead there."""
    contents = re.findall(r"(?m)^ *- \[.+\]\(#(.+)\)$", (ROOT / document).read_text("utf-8"))
    assert contents == headings(document)


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_links_lead_somewhere(document: str) -> None:
    """Whatever a document refers to in this checkout is there: files, pictures, and headings of documents."""
    here = ROOT / document
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", here.read_text("utf-8")):
        path, _, anchor = "".join(target).partition("#")
        if path.startswith("https://"):
            continue
        there = (here.parent / path).resolve() if path else here
        assert there.exists(), target
        assert not anchor or anchor in headings(there.relative_to(ROOT).as_posix()), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_lead_somewhere(document: str) -> None:
    """A file of ours that a document names by its path is there."""
    named = re.findall(r"`((?:app|jobs|tests|scripts)/[\w./-]*)`", (ROOT / document).read_text("utf-8"))
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_fleet_file_that_readme_shows_is_one() -> None:
    """Laid over the shipped file, README's lines are a fleet: the real reader finds nothing wrong with them."""
    [shown] = blocks("README.md", "toml")
    fleet = parse({**read(), **tomllib.loads(shown)}, "README.md")
    assert [model.name for model in fleet.models] == ["llama3.2"]
    assert [window.hours for window in fleet.windows] == [10]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[tuple[Shell, RegistryDouble]]:
    """Somebody with a checkout, an `ollama` on PATH, and a registry that has llama3.2."""
    with RegistryDouble(LIBRARY) as registry:
        programs = simulator_as_ollama(tmp_path / "bin", registry.url)
        path = f"{programs}:{os.environ['PATH']}"
        yield Shell(tmp_path, {"PATH": path, "OLLAMA_MODAL_REGISTRY": registry.url}), registry


def test_documents_do_what_they_say(reader: tuple[Shell, RegistryDouble], tmp_path: Path) -> None:
    """Typed in their order, README's commands and then those about jobs succeed, and print what their comments promise;
    README's program gets an answer.
    """
    shell, registry = reader
    elsewhere = Shell(tmp_path / "elsewhere", shell.extra)
    elsewhere.home.mkdir()
    with up(shell) as here, up(elsewhere, "--fleet", str(ROOT / "app" / "fleet.toml")) as there:

        def fill(text: str) -> str:
            text = text.replace("http://127.0.0.1:11500", here.url).replace("https://gateway.example", there.url)
            text = text.replace("prompts.jsonl", shlex.quote(str(write_prompts(tmp_path))))
            return text.replace(" ID", f" {shell.ask('jobs')[0]['id']}") if text.endswith(" ID") else text

        typist = Typist(shell.environ, ROOT, fill)
        for command in [*typed("README.md"), *typed("jobs/README.md")]:
            if command.text == UP:
                said = f"ready {here.url}"
            else:
                if command.text == "ollama-modal rollback llama3.2":
                    registry.put(arbitrary("llama3.2", 61_000, layers=2))
                    assert shell.run("pull", "llama3.2").returncode == 0
                if command.text == "ollama-modal dismiss ID":
                    assert shell.run("pull", "no-such-model").returncode == 1
                said = typist.type(command)
            assert re.search(SAYS[command.document][command.text], said.strip()), f"{command}\n{said}"

        [program] = blocks("README.md", "python")
        assert "hello" in typist.type(Command("README.md", 0, shlex.join([sys.executable, "-c", fill(program)])))
