"""`show`, `run` and `ps` about an alias, and about a model that the fleet sets something for."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.local_stack import Shell, Up, up
from tests.support.person import terminal
from tests.support.waiting import PATIENCE, until

FLEET = Path("app/fleet.toml").read_text("utf-8")
SET = """
[aliases]
"gpt-4o" = "llama3.2"
"claude-*" = "llama3.2"
"lost" = "mixtral"
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A simulated stack whose fleet names a model otherwise, and sets its context and a system prompt."""
    shell = Shell(tmp_path_factory.mktemp("aliases"))
    fleet = shell.home / "fleet.toml"
    set_for_it = 'name = "llama3.2"\ncontext = 2048\nsystem = "Be brief."\n'
    assert 'name = "llama3.2"\n' in FLEET
    fleet.write_text(FLEET.replace('name = "llama3.2"\n', set_for_it) + SET)
    with up(shell, "--simulate", "--fleet", str(fleet)) as running:
        shell.ask("pull", "llama3.2")
        made = httpx.post(
            f"{running.url}/api/copy", json={"source": "llama3.2", "destination": "mine"}, timeout=PATIENCE
        )
        assert made.status_code == 200, made.text
        until(lambda: shell.run("route", "mine").returncode == 0)
        yield running


@pytest.fixture
def shell(stack: Up) -> Shell:
    return stack.shell


@pytest.mark.parametrize("name", ["gpt-4o", "claude-sonnet-4", "mine"])
def test_an_alias_is_shown_as_what_it_stands_for(shell: Shell, name: str) -> None:
    """Declared, by a pattern, or made by `ollama cp`: which model it is, where, and with which context."""
    lines = [line.strip() for line in shell.run("show", name).stdout.splitlines()]
    served = lines[lines.index("Served") + 1 :]
    assert served[:3] == ["alias of      llama3.2:latest", "tier          a10g", "context       2048"]
    assert served[3] == "set for it    a context of 2,048 tokens, a system prompt"
    assert "num_ctx    2048" in lines
    assert "Be brief." in lines
    document = shell.ask("show", name)["served"]
    assert document == {"model": "llama3.2:latest", "alias": True, "tier": "a10g", "context": 2048}


def test_a_model_by_its_own_name_is_no_alias(shell: Shell) -> None:
    """Its settings are shown all the same."""
    told = shell.run("show", "llama3.2").stdout
    assert "alias of" not in told
    assert "set for it    a context of 2,048 tokens" in told
    assert shell.ask("show", "llama3.2")["served"]["alias"] is False


def test_a_prompt_to_an_alias_is_answered_by_its_model(shell: Shell) -> None:
    """The answer names both; `--verbose` tells it, too; the answer alone is on stdout."""
    answer = shell.ask("run", "gpt-4o", "hello")
    assert (answer["model"], answer["served_model"]) == ("gpt-4o:latest", "llama3.2:latest")
    assert shell.ask("run", "llama3.2", "hello")["served_model"] == "llama3.2:latest"
    done = shell.run("run", "gpt-4o", "hello", "--verbose")
    assert done.stderr.splitlines()[0] == "alias of:             llama3.2:latest"
    assert shell.run("run", "gpt-4o", "hello").stderr == ""


def test_a_chat_with_an_alias_says_whom_it_is_with(shell: Shell) -> None:
    """Before the first question."""
    with terminal(shell, "run", "claude-sonnet-4") as person:
        until(lambda: ">>> " in person.seen)
        greeting = " ".join(person.seen.split())
        assert "chatting with claude-sonnet-4:latest, an alias of llama3.2:latest; /?" in greeting
        person.type("/bye\n")
        assert person.ended() == 0


def test_what_an_alias_loaded_is_in_memory_as_its_model(stack: Up, shell: Shell, tmp_path: Path) -> None:
    """`ps` tells the model and the context that the fleet sets for it, from the servers and from the gateway alike."""
    assert shell.run("run", "mine", "hello").returncode == 0
    remote = Shell(tmp_path, {"OLLAMA_MODAL_URL": stack.url})
    until(lambda: remote.ask("ps") != [])
    for person in (shell, remote):
        (row,) = person.ask("ps")
        assert (row["name"], row["context_length"], row["tier"]) == ("llama3.2:latest", 2048, "a10g")


@pytest.mark.parametrize("words", [("show", "lost"), ("run", "lost", "hello")])
def test_an_alias_of_nothing_says_what_to_pull(shell: Shell, words: tuple[str, ...]) -> None:
    """What it stands for, and never to pull the alias."""
    done = shell.run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "lost is an alias of 'mixtral:latest', which is not here" in done.stderr
    assert "hint: pull that: `ollama-modal pull mixtral:latest`" in done.stderr
    assert "pull lost" not in done.stderr


def test_an_alias_that_is_mistyped_comes_near(shell: Shell) -> None:
    """Aliases are among the names that are offered."""
    assert "gpt-4o" in shell.run("show", "gpt-4p").stderr
    assert json.loads(shell.run("show", "gpt-4o", "--json").stdout)["served"]["alias"]
