"""`ollama-modal batch` on a simulated stack whose own worker answers: as a person at a terminal meets it."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_stack import Shell, Up, up
from tests.support.person import terminal
from tests.support.waiting import until

DEMO = "hf.co/acme/demo:Q4_K_M"
"""The simulator's registry has it."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A simulated stack that has llama3.2."""
    shell = Shell(tmp_path_factory.mktemp("home"))
    with up(shell, "--simulate") as running:
        assert shell.run("pull", "llama3.2").returncode == 0
        yield running


@pytest.fixture(params=["here", "there"])
def shell(request: pytest.FixtureRequest, stack: Up) -> Shell:
    """Through the home, or through the gateway's address."""
    return stack.shell if request.param == "here" else Shell(stack.shell.home, {"OLLAMA_MODAL_URL": stack.url})


def prompts(folder: Path, model: str = "llama3.2", lines: int = 40) -> str:
    path = folder / "prompts.jsonl"
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    with path.open("w") as file:
        for number in range(lines):
            line = {"custom_id": f"a{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(f"{json.dumps(line)}\n")
    return str(path)


def test_rows_are_answered(shell: Shell, tmp_path: Path) -> None:
    """From a CSV file to another, by the worker of `up`."""
    (tmp_path / "in.csv").write_text("id,text\n1,one\n2,two\n")
    out = tmp_path / "out.csv"
    asking = ("--model", "llama3.2", "--prompt", "Say {text}", "--out", str(out))

    done = shell.run("batch", str(tmp_path / "in.csv"), *asking)

    assert done.returncode == 0, done.stderr
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["error"]) for row in rows] == [("1", ""), ("2", "")]
    assert rows[0]["answer"].endswith("You said: Say one")
    (newest, *_) = shell.ask("batches")
    assert newest["status"] == "completed"
    assert newest["estimate"] is not None


def test_a_terminal_gets_a_bar(stack: Up, tmp_path: Path) -> None:
    """With lines, tokens and the state; what it takes was told before."""
    with terminal(stack.shell, "batch", prompts(tmp_path), columns=120) as seen:
        assert seen.ended() == 0
    assert re.search(r"takes    \d+ tokens read, [\d,]+ made", seen.seen)
    assert "\u2501" in seen.seen
    assert "40 of 40 lines" in seen.seen
    assert "completed" in seen.seen
    assert "is done: 40 of 40 lines" in seen.seen


def test_a_model_that_is_not_here_is_asked_about(stack: Up, tmp_path: Path) -> None:
    """At a terminal: no posts nothing, yes pulls it first; never without asking."""
    file = prompts(tmp_path, "tiny", 2)
    before = stack.shell.ask("batches", "--limit", "0")
    with terminal(stack.shell, "batch", file) as person:
        until(lambda: "pull first? [y/N]" in person.seen, "the question")
        person.type("n\n")
        assert person.ended() == 1
    assert "nothing was posted" in person.seen
    assert stack.shell.ask("batches", "--limit", "0") == before
    assert not [each for each in stack.shell.ask("models") if each["name"] == "tiny:latest"]

    with terminal(stack.shell, "batch", file) as person:
        until(lambda: "pull first? [y/N]" in person.seen, "the question")
        person.type("y\n")
        assert person.ended() == 0
    assert "is done: 2 of 2 lines" in person.seen


def test_without_a_terminal_nothing_is_pulled_unasked(shell: Shell, tmp_path: Path) -> None:
    """It is refused, with the name that comes near; --pull is the yes."""
    done = shell.run("batch", prompts(tmp_path, "lama3.2", 2))
    assert done.returncode == 2
    assert "lama3.2 is not here" in done.stderr
    assert "--pull" in done.stderr
    told = shell.ask("batch", prompts(tmp_path, "lama3.2", 2), "--dry-run")
    assert told["models"] == [{"model": "lama3.2", "lines": 2, "missing": True}]


def test_a_pull_that_was_asked_for_comes_first(shell: Shell, tmp_path: Path) -> None:
    """On stdout there is the batch alone."""
    shell.run("delete", DEMO)
    told = shell.ask("batch", prompts(tmp_path, DEMO, 2), "--pull")
    assert (told["status"], told["lines"]["completed"]) == ("completed", 2)
