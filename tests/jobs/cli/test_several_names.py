"""Several models in one command: all of them or none are posted, and each is told of on its own."""

import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.local_stack import COMMAND, Shell, Up, up
from tests.support.waiting import PATIENCE, until

SLOW = ("--rate-limit", "1MB")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A simulated stack with two models."""
    with up(Shell(tmp_path_factory.mktemp("home")), "--simulate") as running:
        assert running.shell.run("pull", "tiny", "nomic-embed-text").returncode == 0
        yield running


@pytest.fixture(params=["here", "with a URL"])
def shell(request: pytest.FixtureRequest, stack: Up, tmp_path: Path) -> Shell:
    """A person at the machine of the stack, or one elsewhere who has its address."""
    return stack.shell if request.param == "here" else Shell(tmp_path, {"OLLAMA_MODAL_URL": stack.url})


def ids(shell: Shell) -> set[str]:
    return {job["id"] for job in shell.ask("jobs", "--limit", "0")}


def names(shell: Shell) -> set[str]:
    return {model["name"] for model in shell.ask("models")}


def test_each_is_followed_to_its_end(shell: Shell) -> None:
    """In a pipe each has lines of its own; how each ended is told in the order of the names. One that is named twice is
    one."""
    done = shell.run("pull", "tiny", "nomic-embed-text", "Tiny:latest")
    assert done.returncode == 0, done.stderr
    told = [line.split(",")[0] for line in done.stdout.splitlines()]
    assert told == ["pull done: tiny:latest", "pull done: nomic-embed-text:latest"]
    for name in ("tiny:latest", "nomic-embed-text:latest"):
        assert f": pull {name}\n" in done.stderr
        assert f"pull {name}  succeeded" in done.stderr
    assert {"tiny:latest", "nomic-embed-text:latest"} <= names(shell)
    assert shell.run("verify", "tiny", "nomic-embed-text").returncode == 0


def test_without_waiting_there_is_an_id_a_line(shell: Shell) -> None:
    """`--no-wait` prints an id a line; `--json`, waiting or not, a list of jobs in the order of the names."""
    posted = shell.run("verify", "--no-wait", "tiny", "nomic-embed-text").stdout.split()
    assert len(posted) == len(set(posted)) == 2
    assert set(posted) <= ids(shell)
    subjects = ["nomic-embed-text:latest", "tiny:latest"]
    assert [job["subject"] for job in shell.ask("verify", "--no-wait", "nomic-embed-text", "tiny")] == subjects
    ended = shell.ask("verify", "nomic-embed-text", "tiny")
    assert [(job["subject"], job["state"]) for job in ended] == [(each, "succeeded") for each in subjects]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["delete", "tiny", "nomic-embed-text", "nomic-embed-txt"], "did you mean nomic-embed-text"),
        (["warm", "nope", "tiny"], "there is no model 'nope:latest' here"),
        (["pull", "nomic-embed-text", "a model"], "a model"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_one_typo_refuses_all(shell: Shell, words: list[str], said: str) -> None:
    """Exit 2, with near names, before anything is posted about any of them."""
    before = ids(shell)
    done = shell.run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert ids(shell) == before
    assert {"tiny:latest", "nomic-embed-text:latest"} <= names(shell)


def test_an_alias_is_no_model(stack: Up, shell: Shell) -> None:
    """A job about another name is refused with the model behind it, here as at a gateway; to pull it is no remedy."""
    answer = httpx.post(f"{stack.url}/api/copy", json={"source": "tiny", "destination": "other-name"}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    before = ids(shell)
    for kind in ("delete", "warm", "verify", "rollback"):
        done = shell.run(kind, "other-name")
        assert done.returncode == 2, done.stderr
        assert "'other-name:latest' is no model, but an alias of 'tiny:latest'" in done.stderr
        assert f"`ollama-modal {kind} tiny:latest`" in done.stderr
        assert "pull" not in done.stderr
        assert ("ollama rm other-name" in done.stderr) == (kind == "delete")
    assert ids(shell) == before


def test_names_are_completed(shell: Shell) -> None:
    """The shell offers the models that are here, or at that gateway, but for those that are typed already."""

    def offered(typed: str) -> list[str]:
        words = f"ollama-modal {typed}"
        asked = {"_OLLAMA_MODAL_COMPLETE": "complete_bash", "COMP_WORDS": words}
        asking = Shell(shell.home, {**shell.extra, **asked, "COMP_CWORD": str(len(words.split(" ")) - 1)})
        return asking.run().stdout.split()

    assert offered("delete nom") == ["nomic-embed-text"]
    assert offered("verify tiny no") == ["nomic-embed-text"]
    assert offered("pull tiny ti") == []


def test_one_registry_that_is_not_listed_refuses_all(tmp_path: Path) -> None:
    """Also where only the gateway knows which registries may be asked."""
    shell = Shell(tmp_path, {"OLLAMA_MODAL_PULL_FROM": "registry.ollama.ai"})
    with up(shell, "--simulate") as running:
        for asking in (shell, Shell(tmp_path / "elsewhere", {"OLLAMA_MODAL_URL": running.url})):
            done = asking.run("pull", "tiny", "registry.example/user/model", "--no-wait")
            assert (done.returncode, done.stdout) == (2, "")
            assert "it is not listed" in done.stderr
        assert ids(shell) == set()


def test_one_failure_is_a_failure(shell: Shell) -> None:
    """Exit 1 when any of them failed; the others are done, and told of as such."""
    done = shell.run("pull", "nonesuch", "tiny")
    assert done.returncode == 1
    assert done.stdout.startswith("pull done: tiny:latest")
    assert "error: the pull of nonesuch:latest failed: not_found" in done.stderr
    assert done.stderr.count("error: ") == 1


def test_a_terminal_gets_a_bar_each_and_interrupting_leaves_all(stack: Up) -> None:
    """On a terminal several go on side by side, each with a bar; Ctrl-C ends none of them, and names each."""
    shell = stack.shell
    shell.run("delete", "llama3.2", "llama3.2:1b")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "pull", "llama3.2", "llama3.2:1b", *SLOW],
        env={**shell.environ, "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
    )
    os.close(theirs)
    seen = bytearray()

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                return
            if not piece:
                return
            seen.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: all(f"pull {name}" in last_bars(seen) for name in ("llama3.2:latest", "llama3.2:1b")))
    running = {job["id"]: job["state"] for job in shell.ask("jobs") if job["state"] in {"queued", "running"}}
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    reader.join(timeout=PATIENCE)
    os.close(ours)
    assert process.returncode == 130
    assert len(running) == 2
    for id in running:
        assert f"job {id} goes on without you" in seen.decode(errors="replace")
        assert shell.ask("job", id)["state"] in {"queued", "running"}
        assert shell.run("cancel", id).returncode == 0


def last_bars(seen: bytearray) -> str:
    """What was drawn last, the lines of one picture."""
    return bytes(seen[-4_000:]).decode(errors="replace")
