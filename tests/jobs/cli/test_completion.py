"""The shell completes the command line, once its completion is installed."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.local_stack import COMMAND, Shell
from tests.support.waiting import PATIENCE


def ollama_modal(home: Path, *words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "HOME": str(home), "OLLAMA_MODAL_HOME": str(home / "stack"), **environ}
    return subprocess.run(
        [*COMMAND, *words], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("pu", ["pull"]), ("pull --ra", ["--rate-limit"]), ("pull m --way re", ["registry"]), ("keys ro", ["rotate"])],
)
def test_what_is_typed_is_completed(tmp_path: Path, typed: str, offered: list[str]) -> None:
    """Commands, options and the values of an option are offered as far as they fit."""
    words = f"ollama-modal {typed}"
    cursor = str(len(words.split(" ")) - 1)
    done = ollama_modal(tmp_path, _OLLAMA_MODAL_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=cursor)
    assert (done.returncode, done.stdout.split()) == (0, offered), done.stderr


def completed(home: Path, typed: str, at: int, folder: Path) -> list[str]:
    """What is offered for a word of a command that is typed in this folder."""
    words = f"ollama-modal {typed}"
    environ = {"_OLLAMA_MODAL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    environment = {**os.environ, "HOME": str(home), "OLLAMA_MODAL_HOME": str(home / "om"), **environ}
    done = subprocess.run(
        [*COMMAND], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_batch_is_completed_by_its_files_and_its_ids(tmp_path: Path) -> None:
    """Files that lines may come from, folders, and the newest batches; `cancel` is offered batches as well."""
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden.csv").touch()
    for name in ("in.csv", "in.txt", "in.jsonl", "sub/a.tsv"):
        (tmp_path / name).touch()
    line = '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}}'
    (tmp_path / "in.jsonl").write_text(line)
    posted = Shell(tmp_path).run("batch", str(tmp_path / "in.jsonl"), "--no-wait")
    assert posted.returncode == 0, posted.stderr
    id = posted.stdout.strip()

    assert completed(tmp_path, "batch in", 2, tmp_path) == ["in.csv", "in.jsonl"]
    assert completed(tmp_path, "batch sub/", 2, tmp_path) == ["sub/a.tsv"]
    assert set(completed(tmp_path, "batch ", 2, tmp_path)) == {"in.csv", "in.jsonl", "sub/", "om/", id}
    assert completed(tmp_path, "cancel batch_", 2, tmp_path) == [id]
    assert completed(tmp_path, "batch in.csv --start ch", 4, tmp_path) == ["cheapest"]


def test_completion_is_shown_and_installed(tmp_path: Path) -> None:
    """`--show-completion` prints what the shell needs; `--install-completion` puts it where the shell reads it."""
    shell = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the tests run in no shell of a person
    shown = ollama_modal(tmp_path, "--show-completion", "bash", **shell)
    assert "complete -o default -F _ollama_modal_completion ollama-modal" in shown.stdout
    installed = ollama_modal(tmp_path, "--install-completion", "bash", **shell)
    assert installed.returncode == 0, installed.stderr
    script = tmp_path / ".bash_completions" / "ollama-modal.sh"
    assert shown.stdout.strip() in script.read_text("utf-8")
    assert str(script) in (tmp_path / ".bashrc").read_text("utf-8")
