"""Who did what by commands: each that changes something leaves a line, and `audit` lists them, here and elsewhere."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import app.local.main  # noqa: F401 - brings the commands of one machine
from app.deployment.modal_cli import ENTRY_POINTS
from app.local.stack import note_settings
from jobs.access.acts import ACTS
from jobs.access.audit import Audit
from jobs.access.keys.key_records import KeySettings
from jobs.access.keys.key_store import KeyStore
from jobs.access.keys.proofs import hash_of
from jobs.cli.job_commands import who
from jobs.cli.main import app as command_line
from jobs.core.clock import SystemClock
from jobs.core.progress import Reading
from jobs.home.home import VARIABLE, Home
from jobs.ledger.job import Ending
from jobs.ledger.kinds import KINDS, with_commands
from tests.support.gateways import gateway
from tests.support.local_stack import COMMAND
from tests.support.stores import claimed
from tests.support.waiting import PATIENCE

CLOCK = SystemClock()

CHANGES_NOTHING = {
    **dict.fromkeys(("jobs", "job", "models", "show", "ps", "route", "status", "batches"), "reads"),
    **dict.fromkeys(("plan", "night", "windows", "cost", "cold", "audit", "help"), "reads"),
    "run": "asks a model, as any caller may",
    **dict.fromkeys(("keys list", "keys show"), "reads"),
}
"""Commands that leave no line, and why not."""


def typed(*words: str) -> str:
    done = CliRunner().invoke(command_line, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "home"))
    return Home(tmp_path / "home")


def failed(home: Home) -> str:
    ledger = home.ledger(CLOCK)
    id = ledger.post("pull", "gone:latest", {"model": "gone"}, by="test").job.id
    ledger.end(claimed(ledger, id), Ending("failed", "network", "cut"), Reading())
    return id


def queued(home: Home) -> str:
    return home.ledger(CLOCK).post("pull", "slow:latest", {"model": "slow"}, by="test").job.id


def lines(home: Home) -> str:
    """A file of one line, with a secret in it."""
    body = {"model": "m", "messages": [{"role": "user", "content": "canary"}]}
    line = {"custom_id": "canary", "method": "POST", "url": "/v1/chat/completions", "body": body}
    home.prepare()
    path = home.root / "lines.jsonl"
    path.write_text(json.dumps(line))
    return str(path)


TYPED: dict[str, tuple[Callable[[Home], tuple[str, ...]], str, str]] = {
    **{
        kind: (lambda _, kind=kind: (kind, *(() if kind == "prune" else ("m",)), "--no-wait"), "", "posted")  # type: ignore[misc]
        for kind in with_commands(KINDS)
    },
    "batch": (lambda home: ("batch", lines(home), "--no-wait"), "", "done"),
    "cancel": (lambda home: ("cancel", queued(home)), "pull slow:latest", "done"),
    "retry": (lambda home: ("retry", failed(home), "--no-wait"), "pull gone:latest", "posted"),
    "dismiss": (lambda home: ("dismiss", failed(home)), "pull gone:latest", "done"),
}
"""How each is typed, to what it is done, and with what outcome."""


OF_KEYS: dict[str, tuple[str, ...]] = {
    "keys new": (),
    "keys set": ("--rpm", "5"),
    "keys rotate": (),
    "keys revoke": (),
}
"""What follows the name of a key."""


def test_every_command_that_changes_something_has_its_act() -> None:
    """Each command is in the table of acts, or has its reason why not; so has each of `modal run`."""
    commands = {
        each.name or (each.callback and each.callback.__name__) or ""
        for each in command_line.registered_commands
        if not each.hidden
    }
    commands |= {
        f"{group.name} {each.name or (each.callback and each.callback.__name__)}"
        for group in command_line.registered_groups
        if group.typer_instance is not None
        for each in group.typer_instance.registered_commands
    }
    changing = {command for recorded in ACTS.values() for command in recorded.commands}
    assert commands == changing | CHANGES_NOTHING.keys()
    assert changing - {"up"} == TYPED.keys() | OF_KEYS.keys()
    assert TYPED.keys() <= ENTRY_POINTS
    assert ENTRY_POINTS - TYPED.keys() <= CHANGES_NOTHING.keys()
    assert with_commands(KINDS).keys() <= ACTS.keys()


@pytest.mark.parametrize("command", OF_KEYS)
def test_each_act_on_a_key_is_a_line(home: Home, command: str) -> None:
    """With the name of the key, and nothing that lets anybody in."""
    words = command.split()
    if command != "keys new":
        KeyStore(home.facts(), CLOCK).make("ann", hash_of("omk_ann"), KeySettings(), by="test")
    typed(*words, "ann", *OF_KEYS[command])
    (line,) = json.loads(typed("audit", "--json"))
    assert (line["who"], line["request"]) == (who(), f"ollama-modal {command}")
    assert (line["act"], line["subject"], line["outcome"]) == (f"key-{words[1]}", "ann", "done")
    assert not any(part in json.dumps(line) for part in ("omk_", "sha256"))


@pytest.mark.parametrize("command", TYPED)
def test_each_command_that_changes_something_is_a_line(home: Home, command: str) -> None:
    """The user of this machine, the command, what it was done to, and how it went; `audit` tells it."""
    words, subject, outcome = TYPED[command]
    typed(*words(home))
    (line,) = json.loads(typed("audit", "--json"))
    assert (line["who"], line["request"], line["act"]) == (who(), f"ollama-modal {command}", command)
    assert line["outcome"] == outcome
    assert not subject or line["subject"] == subject
    assert line["job"] or command == "batch"  # its own id is the subject
    assert "canary" not in json.dumps(line)


def test_a_group_that_is_tried_again_is_one_line(home: Home) -> None:
    """`retry --all` is one act, with how many jobs it was done to; with nothing to do it is none."""
    typed("retry", "--all")
    assert json.loads(typed("audit", "--json")) == []
    failed(home)
    typed("retry", "--all")
    assert [line["subject"] for line in json.loads(typed("audit", "--json"))] == ["all: any class, 1 job"]


def test_a_refusal_of_the_ledger_is_a_line(home: Home) -> None:
    """A command that the ledger refuses is told with the class of the refusal."""
    done = CliRunner().invoke(command_line, ["dismiss", queued(home)])
    assert done.exit_code != 0
    assert [(line["outcome"], line["class"]) for line in json.loads(typed("audit", "--json"))] == [
        ("refused", "Refused")
    ]


def test_the_list_is_chosen(home: Home) -> None:
    """By who, by act, since when, and how many; what is left out is said."""
    audit = Audit(home.facts(), CLOCK)
    for name in ("alice", "bob"):
        audit.record(who=name, request="r", act="pull", subject="llama3.2:latest")
    audit.record(who="bob", request="r", act="delete", subject="llama3.2:latest", outcome="refused", why="Refused")
    assert "alice" not in typed("audit", "--who", "bob")
    assert "refused: Refused" in typed("audit", "--act", "delete")
    assert len(json.loads(typed("audit", "--json", "--limit", "2"))) == 2
    shown = CliRunner().invoke(command_line, ["audit", "--limit", "2"])
    assert "--limit 0 lists all" in shown.output
    assert len(json.loads(typed("audit", "--json", "--limit", "0", "--since", "1h"))) == 3
    assert CliRunner().invoke(command_line, ["audit", "--act", "pulls"]).exit_code != 0


def test_the_kinds_of_acts_are_completed(tmp_path: Path) -> None:
    """The shell offers the acts that begin as what is typed."""
    words = "ollama-modal audit --act win"
    asking = {"_OLLAMA_MODAL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
    environ = {**os.environ, "HOME": str(tmp_path), **asking}
    done = subprocess.run(COMMAND, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout.split() == ["window-open", "window-close"], done.stderr


def test_nothing_is_made_by_a_look(home: Home) -> None:
    """A home that nobody ever wrote to has no acts, and stays as it is."""
    assert json.loads(typed("audit", "--json")) == []
    assert not home.root.exists()


def test_a_gateway_is_asked_page_by_page(tmp_path: Path) -> None:
    """With a URL the same list comes from there, whole, however many pages that are."""
    with gateway(tmp_path, {"a10g": "http://127.0.0.1:1"}) as running:
        audit = Audit(running.facts, CLOCK)
        for number in range(5):
            audit.record(who="alice", request="r", act="pull", subject=f"m{number}")
        there = json.loads(typed("audit", "--json", "--url", running.url))
        assert [line["subject"] for line in there] == [f"m{number}" for number in (4, 3, 2, 1, 0)]
        assert json.loads(typed("audit", "--json", "--who", "bob", "--url", running.url)) == []


def test_other_settings_are_a_line(home: Home, tmp_path: Path) -> None:
    """Who starts `up` with a fleet file that says something else than the last time is written down, nobody else."""
    home.prepare()
    note_settings(None, None, home, CLOCK)
    assert json.loads(typed("audit", "--json")) == []
    fleet = tmp_path / "fleet.toml"
    note_settings(fleet, "[schedule]", home, CLOCK)
    (line,) = json.loads(typed("audit", "--json", "--since", "1h"))
    assert (line["who"], line["act"], line["subject"]) == (who(), "settings", "fleet.toml")
